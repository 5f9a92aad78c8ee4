//! Our own interface: what rpm-ostree's has no words for.

use std::sync::Arc;

use zbus::message::Header;
use zbus::zvariant::OwnedFd;
use zbus::{Connection, interface};

use crate::foreign;
use crate::job;
use crate::refusal::Refusal;
use crate::state::Daemon;

pub(crate) struct Manager(pub(crate) Arc<Daemon>);

#[interface(name = "org.debian.aptostree1.Manager")]
impl Manager {
    /// Any transaction, as the request that the worker reads (JSON; `core/src/operation.rs`: `Request`). Sysroot and the paths of
    /// package files in it are the service's to say: a file comes open, and the path is its name in messages.
    #[zbus(out_args("transaction_address"))]
    async fn execute(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        request: String,
        files: Vec<OwnedFd>,
    ) -> Result<String, Refusal> {
        let unknown = || Refusal::invalid("The files of the request did not come");
        let files: Vec<_> =
            files.iter().map(|file| foreign::behind(file)?.ok_or_else(unknown)).collect::<Result<_, _>>()?;
        let job = job::of_request(&request, files, &self.0.sysroot)?;
        drop(request);
        let entered = self.0.enter(connection, &header).await?;
        let path = self.0.booted_path();
        self.0.begin(job, entered, path).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    /// Title and initiator of the running transaction.
    #[zbus(property)]
    fn transaction(&self) -> (String, String) {
        self.0.transaction().map_or_else(Default::default, |t| (t.title.clone(), t.initiator.clone()))
    }

    /// How the last transaction ended, a JSON object; empty when there was none since the start of the machine.
    #[zbus(property(emits_changed_signal = "false"))]
    fn last_transaction(&self) -> String {
        self.0.last().and_then(|last| serde_json::to_string(&last).ok()).unwrap_or_default()
    }
}

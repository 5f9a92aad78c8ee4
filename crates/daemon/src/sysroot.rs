//! The interface `org.projectatomic.rpmostree1.Sysroot`.

use std::collections::BTreeSet;
use std::sync::Arc;

use apt_ostree_bus::{Action, Dict, errors, os_path};
use zbus::message::Header;
use zbus::zvariant::OwnedObjectPath;
use zbus::{Connection, interface};

use crate::job::Given;
use crate::refusal::Refusal;
use crate::state::Daemon;
use crate::{objects, wire};

pub(crate) struct Sysroot(pub(crate) Arc<Daemon>);

#[interface(name = "org.projectatomic.rpmostree1.Sysroot")]
impl Sysroot {
    /// Keeps the service from its idle exit until the caller unregisters or leaves the bus.
    async fn register_client(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: Dict,
    ) -> Result<(), Refusal> {
        let id = Given(options).text("id")?.unwrap_or_else(|| "unknown".into());
        let (caller, mut call) = self.0.enter(connection, &header).await?;
        caller.may_register(connection, call.gone(&caller.name)).await?;
        self.0.register(&caller.name, id).await;
        Ok(())
    }

    async fn unregister_client(&self, #[zbus(header)] header: Header<'_>, options: Dict) -> Result<(), Refusal> {
        // Nothing in it has a meaning.
        drop(options);
        let sender = header.sender().ok_or_else(|| Refusal::failed("The call has no sender"))?;
        self.0.unregister(sender);
        Ok(())
    }

    /// Reads the sysroot again: a barrier before properties are read.
    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Refusal> {
        let _entered = self.0.enter(connection, &header).await?;
        Ok(self.0.reload().await?)
    }

    /// Reads the settings again as well.
    async fn reload_config(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Refusal> {
        let (caller, mut call) = self.0.enter(connection, &header).await?;
        let actions = BTreeSet::from([Action::ReloadDaemon]);
        caller.authorize(connection, "ReloadConfig", &actions, call.gone(&caller.name)).await?;
        self.0.reload_settings().await?;
        objects::settings_changed(connection).await?;
        Ok(self.0.reload().await?)
    }

    #[zbus(name = "GetOS")]
    async fn get_os(&self, name: String) -> Result<OwnedObjectPath, Refusal> {
        self.0.touch();
        let snapshot = self.0.snapshot();
        let name = match name.as_str() {
            "" => snapshot.booted.clone().ok_or_else(|| Refusal::failed("No booted OS: name a stateroot"))?,
            _ if snapshot.stateroots.contains(&name) => name,
            _ => {
                return Err(Refusal::new(errors::FAILED, format!("OS name \"{}\" not found", name.escape_debug())));
            }
        };
        OwnedObjectPath::try_from(os_path(&name)).map_err(|e| Refusal::failed(e.to_string()))
    }

    #[zbus(property)]
    fn booted(&self) -> OwnedObjectPath {
        OwnedObjectPath::try_from(self.0.booted_path()).unwrap_or_default()
    }

    #[zbus(property)]
    fn path(&self) -> String {
        self.0.sysroot.display().to_string()
    }

    /// Method, sender and object of the running transaction.
    #[zbus(property)]
    fn active_transaction(&self) -> (String, String, String) {
        let none = Default::default;
        self.0.transaction().map_or_else(none, |t| (t.method.into(), t.caller.name.clone(), t.path.clone()))
    }

    /// Its address.
    #[zbus(property)]
    fn active_transaction_path(&self) -> String {
        self.0.transaction().map(|t| t.address.clone()).unwrap_or_default()
    }

    #[zbus(property)]
    fn automatic_update_policy(&self) -> String {
        self.0.settings().update_policy.to_string()
    }

    #[zbus(property)]
    fn deployments(&self) -> Vec<Dict> {
        self.0.snapshot().deployments.iter().map(wire::deployment).collect()
    }
}

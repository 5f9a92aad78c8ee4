//! Who calls, and whether polkit lets them.
//!
//! Root may do everything and needs no polkit. Others are asked for by polkit with interaction allowed, as rpm-ostree does:
//! its clients do not set the flag of the message. Where polkit is not running, only root may change anything.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use apt_ostree_bus::{Action, errors};
use apt_ostree_core::update_driver;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::BusName;
use zbus::zvariant::OwnedValue;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use crate::journal;
use crate::refusal::{Answer, Refusal};

/// A client on the bus.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Its unique name.
    pub(crate) name: String,
    pub(crate) uid: u32,
    /// The unit that it runs in; empty if it is not known.
    pub(crate) unit: String,
}

impl Caller {
    pub(crate) async fn of(connection: &zbus::Connection, header: &Header<'_>) -> Answer<Self> {
        let sender = header.sender().ok_or_else(|| Refusal::failed("The call has no sender"))?;
        let bus = DBusProxy::new(connection).await?;
        let credentials = bus.get_connection_credentials(BusName::from(sender.as_ref())).await?;
        let uid = credentials.unix_user_id().ok_or_else(|| Refusal::failed("The bus does not know who calls"))?;
        let unit = credentials.process_id().and_then(|pid| update_driver::unit_of_process(&pid.to_string()));
        Ok(Self { name: sender.to_string(), uid, unit: unit.unwrap_or_default() })
    }

    /// All actions must pass. `method` is for the text of the refusal; when the caller is `gone`, nobody is asked any more.
    pub(crate) async fn authorize(
        &self,
        connection: &zbus::Connection,
        method: &str,
        actions: &BTreeSet<Action>,
        gone: impl Future<Output = ()>,
    ) -> Answer<()> {
        if self.uid == 0 {
            return Ok(());
        }
        let refused =
            || Refusal::new(errors::ACCESS_DENIED, format!("rpmostreed OS operation {method} not allowed for user"));
        let name = OwnedValue::from(zbus::zvariant::Str::from(self.name.clone()));
        let details = HashMap::from([("name".to_owned(), name)]);
        let subject = Subject { subject_kind: "system-bus-name".into(), subject_details: details };
        tokio::pin!(gone);
        for action in actions {
            let allowed = check(connection, &subject, *action, &mut gone).await;
            if !allowed.map_err(|e| log_failure(&e, refused()))? {
                return Err(refused());
            }
        }
        Ok(())
    }

    /// Registering as a client takes no password: an active session is enough, as in rpm-ostree.
    pub(crate) async fn may_register(
        &self,
        connection: &zbus::Connection,
        gone: impl Future<Output = ()>,
    ) -> Answer<()> {
        if self.uid == 0 || has_active_session(self.uid) {
            return Ok(());
        }
        self.authorize(connection, "RegisterClient", &BTreeSet::from([Action::ClientManagement]), gone).await
    }
}

/// What is wrong with polkit is for the journal; the caller is not allowed.
fn log_failure(error: &zbus::Error, refusal: Refusal) -> Refusal {
    journal::warning(&format!("polkit did not answer: {error}"));
    refusal
}

/// Names a question to polkit that may be taken back.
static QUESTION: AtomicU64 = AtomicU64::new(0);

/// Asks polkit. When whoever wants to know is gone, the question is taken back: nobody shall be asked for a password for it, and questions
/// shall not pile up.
async fn check(
    connection: &zbus::Connection,
    subject: &Subject,
    action: Action,
    gone: impl Future<Output = ()>,
) -> zbus::Result<bool> {
    let authority = AuthorityProxy::new(connection).await?;
    let id = format!("question-{}", QUESTION.fetch_add(1, Ordering::Relaxed));
    let (details, flags) = (HashMap::new(), CheckAuthorizationFlags::AllowUserInteraction.into());
    tokio::select! {
        biased;
        () = gone => {
            if let Err(e) = authority.cancel_check_authorization(&id).await {
                journal::warning(&format!("polkit still asks: {e}"));
            }
            Ok(false)
        }
        answer = authority.check_authorization(subject, action.id(), &details, flags, &id) => {
            Ok(answer?.is_authorized)
        }
    }
}

/// Whether a process at the other end of a socket may cancel what another user began.
pub(crate) async fn peer_may_cancel(
    connection: &zbus::Connection,
    pid: u32,
    uid: u32,
    gone: impl Future<Output = ()>,
) -> bool {
    let Ok(subject) = Subject::new_for_owner(pid, None, Some(uid)) else { return false };
    check(connection, &subject, Action::Cancel, gone).await.unwrap_or_default()
}

/// logind's record of a user.
fn has_active_session(uid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/run/systemd/users/{uid}")).unwrap_or_default();
    text.lines().any(|line| matches!(line, "STATE=active" | "STATE=online"))
}

//! Proxies of what our own client calls; other clients have the introspection data.

use std::collections::HashMap;

use zbus::proxy;
use zbus::zvariant::{Fd, Value};

/// Our additions, on the object of the sysroot.
#[proxy(
    interface = "org.debian.aptostree1.Manager",
    default_service = "org.projectatomic.rpmostree1",
    default_path = "/org/projectatomic/rpmostree1/Sysroot",
    gen_blocking = false
)]
pub trait Manager {
    /// Asks for a transaction: the request as the worker reads it (JSON), with the local package files that it names as open
    /// files in the order of their paths. Returns the address of the transaction, which `Start` begins.
    #[zbus(allow_interactive_auth)]
    fn execute(&self, request: &str, files: Vec<Fd<'_>>) -> zbus::Result<String>;

    /// Version of the service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;

    /// Title and initiator of the running transaction, empty when idle.
    #[zbus(property)]
    fn transaction(&self) -> zbus::Result<(String, String)>;
}

/// What the client needs of rpm-ostree's own interface.
#[proxy(
    interface = "org.projectatomic.rpmostree1.Sysroot",
    default_service = "org.projectatomic.rpmostree1",
    default_path = "/org/projectatomic/rpmostree1/Sysroot",
    gen_blocking = false
)]
pub trait Sysroot {
    fn register_client(&self, options: HashMap<&str, Value<'_>>) -> zbus::Result<()>;

    #[zbus(allow_interactive_auth)]
    fn reload_config(&self) -> zbus::Result<()>;

    /// Method, sender and path of the running transaction.
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_transaction(&self) -> zbus::Result<(String, String, String)>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn active_transaction_path(&self) -> zbus::Result<String>;
}

//! The D-Bus contract as data: names, paths, action ids, wire types, and the proxies that a client calls through.
//!
//! The names of `org.projectatomic.rpmostree1` are rpm-ostree's, so that programs written for it find us; what it has no
//! word for is on interfaces of our own below `org.debian.aptostree1`, on the same name and objects. The service is in crate
//! `daemon`; nothing here does any work.

pub mod client;

use std::collections::HashMap;

use zbus::zvariant::OwnedValue;

/// The well-known name, on the system bus.
pub const NAME: &str = "org.projectatomic.rpmostree1";
/// Object manager, and the parent of all objects.
pub const BASE_PATH: &str = "/org/projectatomic/rpmostree1";
pub const SYSROOT_PATH: &str = "/org/projectatomic/rpmostree1/Sysroot";
/// Where a peer connection has its transaction.
pub const TRANSACTION_PATH: &str = "/";

pub const SYSROOT: &str = "org.projectatomic.rpmostree1.Sysroot";
pub const OS: &str = "org.projectatomic.rpmostree1.OS";
pub const OS_EXPERIMENTAL: &str = "org.projectatomic.rpmostree1.OSExperimental";
pub const TRANSACTION: &str = "org.projectatomic.rpmostree1.Transaction";

/// Ours, on the object of the sysroot.
pub const MANAGER: &str = "org.debian.aptostree1.Manager";
/// Ours, beside [`TRANSACTION`].
pub const TRANSACTION_LINES: &str = "org.debian.aptostree1.Transaction";

/// `a{sv}`, as options come and properties go.
pub type Dict = HashMap<String, OwnedValue>;

/// One entry of a package difference: name, kind (0 added, 1 removed, 2 upgraded, 3 downgraded), `PreviousPackage` and
/// `NewPackage` as `(name, evr, arch)`.
pub type DiffEntry = (String, u32, Dict);

/// Errors that clients tell apart.
pub mod errors {
    /// `G_IO_ERROR_BUSY` as GDBus puts it on the wire; GNOME Software waits and tries again on exactly this.
    pub const BUSY: &str = "org.gtk.GDBus.UnmappedGError.Quark._g_2dio_2derror_2dquark.Code26";
    pub const FAILED: &str = "org.projectatomic.rpmostreed.Error.Failed";
    pub const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
    pub const INVALID_ARGS: &str = "org.freedesktop.DBus.Error.InvalidArgs";
    pub const LIMITS_EXCEEDED: &str = "org.freedesktop.DBus.Error.LimitsExceeded";
    pub const NOT_SUPPORTED: &str = "org.freedesktop.DBus.Error.NotSupported";
}

/// The polkit actions. All but the last are rpm-ostree's, under its ids: rules of other packages name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    InstallUninstallPackages,
    InstallLocalPackages,
    Override,
    Deploy,
    Upgrade,
    Rebase,
    Rollback,
    Bootconfig,
    ReloadDaemon,
    Cancel,
    Cleanup,
    ClientManagement,
    RepoRefresh,
    RepoModify,
    FinalizeDeployment,
    /// The running system changes at once, not at the next boot.
    ApplyLive,
}

impl Action {
    pub const ALL: [Self; 16] = [
        Self::InstallUninstallPackages,
        Self::InstallLocalPackages,
        Self::Override,
        Self::Deploy,
        Self::Upgrade,
        Self::Rebase,
        Self::Rollback,
        Self::Bootconfig,
        Self::ReloadDaemon,
        Self::Cancel,
        Self::Cleanup,
        Self::ClientManagement,
        Self::RepoRefresh,
        Self::RepoModify,
        Self::FinalizeDeployment,
        Self::ApplyLive,
    ];

    pub fn id(self) -> &'static str {
        match self {
            Self::InstallUninstallPackages => "org.projectatomic.rpmostree1.install-uninstall-packages",
            Self::InstallLocalPackages => "org.projectatomic.rpmostree1.install-local-packages",
            Self::Override => "org.projectatomic.rpmostree1.override",
            Self::Deploy => "org.projectatomic.rpmostree1.deploy",
            Self::Upgrade => "org.projectatomic.rpmostree1.upgrade",
            Self::Rebase => "org.projectatomic.rpmostree1.rebase",
            Self::Rollback => "org.projectatomic.rpmostree1.rollback",
            Self::Bootconfig => "org.projectatomic.rpmostree1.bootconfig",
            Self::ReloadDaemon => "org.projectatomic.rpmostree1.reload-daemon",
            Self::Cancel => "org.projectatomic.rpmostree1.cancel",
            Self::Cleanup => "org.projectatomic.rpmostree1.cleanup",
            Self::ClientManagement => "org.projectatomic.rpmostree1.client-management",
            Self::RepoRefresh => "org.projectatomic.rpmostree1.repo-refresh",
            Self::RepoModify => "org.projectatomic.rpmostree1.repo-modify",
            Self::FinalizeDeployment => "org.projectatomic.rpmostree1.finalize-deployment",
            Self::ApplyLive => "org.debian.aptostree1.apply-live",
        }
    }
}

/// The object path of a stateroot. Letters, digits and `_` stay, `/` and `-` become `_`, other bytes `_XX`. Two names can
/// have one path: clients ask `GetOS`.
pub fn os_path(osname: &str) -> String {
    let mut path = format!("{BASE_PATH}/");
    for byte in osname.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => path.push(char::from(byte)),
            b'/' | b'-' => path.push('_'),
            other => path.push_str(&format!("_{other:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polkit_knows_every_action() {
        let policy =
            include_str!("../../../data/package/usr/share/polkit-1/actions/org.projectatomic.rpmostree1.policy");
        for action in Action::ALL {
            assert!(policy.contains(&format!("<action id=\"{}\">", action.id())), "{action:?}");
        }
        assert_eq!(policy.matches("<action ").count(), Action::ALL.len());
    }

    #[test]
    fn paths_of_stateroots() {
        for (name, path) in [
            ("debian", "debian"),
            ("fedora-coreos", "fedora_coreos"),
            ("a/b_c", "a_b_c"),
            ("x.y", "x_2Ey"),
            ("ü", "_C3_BC"),
        ] {
            assert_eq!(os_path(name), format!("/org/projectatomic/rpmostree1/{path}"));
        }
    }
}

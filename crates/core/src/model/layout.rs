//! Where things live in an image: the tables, and nothing but the tables.
//!
//! Owns: which state of `/var` describes `/usr` and `/etc` and therefore travels with the image ([`REGISTRIES`]), the
//! directories and links of a deployment's root ([`toplevel`]), what of `/var` is never shipped ([`VAR_RULES`]) and what
//! of `/etc` is never shipped ([`ETC_RULES`]). Every row says why it is there, because the report of a run shows it.
//!
//! Paths are relative to the root of the tree, without a leading slash; patterns are those of [`glob::matches`].

use super::glob;
use super::tmpfiles::Line;
use super::treefile::OptUsrLocal;

/// What a registry is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryKind {
    /// A directory; `/var` has a relative link to it.
    Directory,
    /// A file; `/var` has a relative link to it. Programs that replace it by rename turn the link into a file, which is
    /// moved back after the run.
    File,
    /// A file that a program is configured to find under `/usr`; `/var` has nothing.
    ConfiguredFile,
}

/// State under `/var` that describes `/usr` and `/etc`.
#[derive(Clone, Copy, Debug)]
pub struct Registry {
    pub var: &'static str,
    pub image: &'static str,
    pub kind: RegistryKind,
    pub what: &'static str,
}

/// Where the registries are in the image.
pub const SYSIMAGE: &str = "usr/lib/sysimage";
/// dpkg's administrative directory in the image.
pub const DPKG_ADMINDIR: &str = "usr/lib/sysimage/dpkg";
/// apt's auto marks: the value of `Dir::State::extended_states`.
pub const EXTENDED_STATES: &str = "usr/lib/sysimage/apt/extended_states";
/// The tmpfiles.d file with the links of [`REGISTRIES`]. For the same path the first file name wins, hence `00-`.
pub const REGISTRIES_CONF: &str = "usr/lib/tmpfiles.d/00-apt-ostree-registries.conf";
/// The tmpfiles.d file with the directories that the links of [`toplevel`] point to.
pub const LAYOUT_CONF: &str = "usr/lib/tmpfiles.d/00-apt-ostree-layout.conf";
/// First content of files under `/var`, in systemd's place for it (tmpfiles.d(5), type `C`).
pub const FACTORY: &str = "usr/share/factory";

const fn dir(var: &'static str, image: &'static str, what: &'static str) -> Registry {
    Registry { var, image, kind: RegistryKind::Directory, what }
}

/// All registries, sorted by `var`.
pub const REGISTRIES: &[Registry] = &[
    dir("var/cache/debconf", "usr/lib/sysimage/debconf", "answers given to packages, by debconf"),
    dir(
        "var/cache/dictionaries-common",
        "usr/lib/sysimage/dictionaries-common-cache",
        "spell checkers' tables of /usr",
    ),
    Registry {
        var: "var/lib/apt/extended_states",
        image: EXTENDED_STATES,
        kind: RegistryKind::ConfiguredFile,
        what: "apt's automatically-installed marks",
    },
    dir("var/lib/aspell", "usr/lib/sysimage/aspell", "hash files built from dictionaries in /usr"),
    dir("var/lib/dictionaries-common", "usr/lib/sysimage/dictionaries-common", "registered dictionaries"),
    dir("var/lib/dkms", "usr/lib/sysimage/dkms", "what was built for the kernels in /usr/lib/modules"),
    dir("var/lib/doc-base", "usr/lib/sysimage/doc-base", "registered documents"),
    dir("var/lib/dpkg", DPKG_ADMINDIR, "the package database"),
    dir("var/lib/emacsen-common", "usr/lib/sysimage/emacsen-common", "byte-compiled add-on packages"),
    dir("var/lib/ghostscript", "usr/lib/sysimage/ghostscript", "font and CMap tables"),
    dir("var/lib/ispell", "usr/lib/sysimage/ispell", "hash files built from dictionaries in /usr"),
    dir("var/lib/pam", "usr/lib/sysimage/pam", "what pam-auth-update made of /etc/pam.d"),
    dir("var/lib/python", "usr/lib/sysimage/python", "byte-compilation state"),
    dir("var/lib/sgml-base", "usr/lib/sysimage/sgml-base", "SGML catalogues"),
    Registry {
        var: "var/lib/shells.state",
        image: "usr/lib/sysimage/shells.state",
        kind: RegistryKind::File,
        what: "what update-shells put into /etc/shells",
    },
    dir(
        "var/lib/systemd/deb-systemd-helper-enabled",
        "usr/lib/sysimage/deb-systemd-helper/enabled",
        "units that packages enabled in /etc",
    ),
    dir(
        "var/lib/systemd/deb-systemd-helper-masked",
        "usr/lib/sysimage/deb-systemd-helper/masked",
        "units that packages masked in /etc",
    ),
    dir(
        "var/lib/systemd/deb-systemd-user-helper-enabled",
        "usr/lib/sysimage/deb-systemd-helper/user-enabled",
        "user units that packages enabled in /etc",
    ),
    dir(
        "var/lib/systemd/deb-systemd-user-helper-masked",
        "usr/lib/sysimage/deb-systemd-helper/user-masked",
        "user units that packages masked in /etc",
    ),
    dir("var/lib/texmf", "usr/lib/sysimage/texmf", "TeX formats and file name databases of /usr"),
    dir("var/lib/ucf", "usr/lib/sysimage/ucf", "configuration files in /etc that ucf looks after"),
    dir("var/lib/xml-core", "usr/lib/sysimage/xml-core", "XML catalogues"),
];

/// The registry that `path` (`var/…`) is, or is inside of.
pub fn registry_of(path: &str) -> Option<&'static Registry> {
    REGISTRIES.iter().find(|r| path.strip_prefix(r.var).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The relative target of the link at `link` (a path of the tree) to `target` (likewise).
pub fn relative_link(link: &str, target: &str) -> String {
    let up = link.matches('/').count();
    format!("{}{target}", "../".repeat(up))
}

/// The text of [`REGISTRIES_CONF`]: `L+`, so that a directory that got in the way before is replaced. systemd-tmpfiles makes
/// the parents (0755 root:root) by itself; `d` lines for them would only repeat systemd's own and be complained about.
pub fn registries_tmpfiles() -> String {
    let mut text = String::from(
        "# Written by apt-ostree. State of packages that describes /usr and /etc belongs to the image; /var only has\n\
         # links to it. The first file name wins, hence 00-.\n",
    );
    for registry in REGISTRIES.iter().filter(|r| r.kind != RegistryKind::ConfiguredFile) {
        let target = relative_link(registry.var, registry.image);
        text.push_str(&format!("{}\n", Line::link(&format!("/{}", registry.var), &target, true)));
    }
    text
}

/// One entry of a deployment's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopEntry {
    Directory { path: &'static str, mode: u32 },
    Link { path: &'static str, target: &'static str },
}

impl TopEntry {
    pub fn path(&self) -> &'static str {
        match self {
            Self::Directory { path, .. } | Self::Link { path, .. } => path,
        }
    }
}

/// Links of the merged /usr. Those whose target is not in the tree are left out.
pub const USR_MERGE: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib32", "usr/lib32"),
    ("lib64", "usr/lib64"),
    ("libo32", "usr/libo32"),
    ("libx32", "usr/libx32"),
    ("sbin", "usr/sbin"),
];

/// The root of a deployment, apart from [`USR_MERGE`] and the content of `usr`. `/tmp` is a real directory: a link to
/// `sysroot/tmp` dangles on sysroots made by `ostree admin init-fs --modern` and breaks every unit with PrivateTmp.
pub fn toplevel(mode: OptUsrLocal) -> Vec<TopEntry> {
    let directory = |path, mode| TopEntry::Directory { path, mode };
    let link = |path, target| TopEntry::Link { path, target };
    let mut entries = vec![
        directory("boot", 0o755),
        directory("dev", 0o755),
        directory("proc", 0o755),
        directory("run", 0o755),
        directory("sys", 0o755),
        directory("sysroot", 0o755),
        directory("tmp", 0o1777),
        directory("usr", 0o755),
        directory("var", 0o755),
        link("home", "var/home"),
        link("media", "run/media"),
        link("mnt", "var/mnt"),
        link("ostree", "sysroot/ostree"),
        link("root", "var/roothome"),
        link("srv", "var/srv"),
    ];
    entries.extend(match mode {
        OptUsrLocal::Root => [directory("opt", 0o755), directory("usr/local", 0o755)],
        OptUsrLocal::StateOverlay => [link("opt", "usr/lib/opt"), directory("usr/local", 0o755)],
        OptUsrLocal::Var => [link("opt", "var/opt"), link("usr/local", "../var/usrlocal")],
    });
    entries
}

/// What base-files makes in `/usr/local`.
const USRLOCAL_DIRS: &[&str] = &[
    "var/usrlocal/bin",
    "var/usrlocal/etc",
    "var/usrlocal/games",
    "var/usrlocal/include",
    "var/usrlocal/lib",
    "var/usrlocal/sbin",
    "var/usrlocal/share",
    "var/usrlocal/src",
];

/// The directories of `/var` that the links of [`toplevel`] point to, with their modes. They must exist while scripts run
/// (base-files' postinst makes `/mnt` unless it is a directory) and on every machine.
pub fn toplevel_targets(mode: OptUsrLocal) -> Vec<(&'static str, u32)> {
    let mut targets = vec![("var/home", 0o755), ("var/mnt", 0o755), ("var/roothome", 0o700), ("var/srv", 0o755)];
    if mode == OptUsrLocal::Var {
        targets.extend([("var/opt", 0o755), ("var/usrlocal", 0o755)]);
        targets.extend(USRLOCAL_DIRS.iter().map(|path| (*path, 0o755)));
    }
    targets
}

/// The text of [`LAYOUT_CONF`]. The links themselves are there as well, because systemd's home.conf and provision.conf ask
/// for directories in their place and would complain at every boot; the first line for a path counts.
pub fn layout_tmpfiles(mode: OptUsrLocal) -> String {
    let mut text = String::from("# Written by apt-ostree. What the links of the deployment's root point to.\n");
    text.push_str("d /run/media 0755 root root - -\n");
    for (path, mode) in toplevel_targets(mode) {
        text.push_str(&format!("{}\n", Line::directory(&format!("/{path}"), mode, "root", "root")));
    }
    for entry in toplevel(mode) {
        if let TopEntry::Link { path: path @ ("home" | "root" | "srv"), target } = entry {
            text.push_str(&format!("L /{path} - - - - {target}\n"));
        }
    }
    text
}

/// What becomes of a path that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Files and links are dropped, directories stay.
    DropFiles,
    /// Everything is dropped.
    Drop,
    /// A log: dropped, but for empty files and files that do not belong to root, which are made empty on the machine
    /// because their daemon could not make them itself.
    Log,
    /// Dropped with a warning: equal on every machine that has the image, and it must not be.
    Secret,
    /// Dropped with a warning: data a program made at installation that it will miss.
    Data,
    /// Known content that the image gives to every machine.
    Keep,
    /// The file stays, empty (`/etc` only).
    Empty,
    /// Dropped unless it is a symlink (`/etc` only).
    DropUnlessLink,
}

/// One rule. The first that matches a path decides.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub pattern: &'static str,
    pub action: RuleAction,
    pub reason: &'static str,
}

const fn rule(pattern: &'static str, action: RuleAction, reason: &'static str) -> Rule {
    Rule { pattern, action, reason }
}

use RuleAction::{Data, Drop, DropFiles, DropUnlessLink, Empty, Keep, Log, Secret};

/// Rules for `/var`.
pub const VAR_RULES: &[Rule] = &[
    rule("var/lib/systemd/random-seed", Secret, "random seed"),
    rule("var/lib/systemd/credential.secret", Secret, "the machine's credential key"),
    rule("var/lib/dbus/machine-id", Drop, "machine id; a link to /etc/machine-id is made at boot"),
    rule("var/lib/NetworkManager/secret_key", Secret, "the machine's key"),
    rule("var/lib/shim-signed/mok/**", Secret, "module signing key"),
    rule("var/roothome/.gnupg/**", Secret, "keys of root"),
    rule("var/roothome/.ssh/**", Secret, "keys of root"),
    rule("var/lib/postgresql/*/*/**", Data, "database made at installation; make one on the machine: pg_createcluster"),
    rule("var/lib/mysql/**", Data, "database made at installation; make one on the machine: mariadb-install-db"),
    rule("var/lib/ldap/**", Data, "directory made at installation; make one on the machine: dpkg-reconfigure slapd"),
    rule("var/roothome/.bashrc", Keep, "root's shell start-up files, from base-files"),
    rule("var/roothome/.profile", Keep, "root's shell start-up files, from base-files"),
    rule("var/roothome/.cache/**", Drop, "cache"),
    rule("var/.updated", Drop, "written again by systemd-update-done"),
    rule("var/cache/apt/**", DropFiles, "package cache"),
    rule("var/lib/apt/lists/**", DropFiles, "package lists; fetched again"),
    rule("var/lib/apt/periodic/**", DropFiles, "time stamps"),
    rule("var/lib/apt/mirrors/**", DropFiles, "mirror lists; fetched again"),
    rule("var/lib/command-not-found/**", DropFiles, "made again by apt update"),
    rule("var/cache/man/**", Drop, "manual page index; made again by man-db.timer"),
    rule("var/lib/man-db/auto-update", Drop, "flag of man-db's trigger"),
    rule("var/cache/ldconfig/**", DropFiles, "ldconfig's own cache"),
    rule("var/cache/fontconfig/**", Drop, "font cache; made again on use"),
    rule("var/cache/apparmor/**", Drop, "compiled profiles; made again at boot"),
    rule("var/cache/swcatalog/**", DropFiles, "software catalogue; made again"),
    rule("var/cache/app-info/**", DropFiles, "software catalogue; made again"),
    rule("var/lib/PackageKit/**", DropFiles, "transaction history"),
    rule("var/lib/plocate/**", DropFiles, "file index; made again by its timer"),
    rule("var/lib/mlocate/**", DropFiles, "file index; made again by its timer"),
    rule("var/lib/initramfs-tools/**", DropFiles, "checksums of initramfs images; the image has its own"),
    rule("var/lib/logrotate/status", Drop, "time stamps"),
    rule("var/lib/systemd/catalog/**", DropFiles, "made again by systemd-journal-catalog-update at boot"),
    rule("var/lib/systemd/timers/**", DropFiles, "time stamps"),
    rule("var/backups/**", DropFiles, "backups of the build"),
    rule("var/crash/**", DropFiles, "crash reports of the build"),
    rule("var/tmp/**", Drop, "temporary files"),
    rule("var/run/**", Drop, "run-time files"),
    rule("var/lock/**", Drop, "run-time files"),
    rule("var/log/apt/**", DropFiles, "log of the build"),
    rule("var/log/alternatives.log", Drop, "log of the build"),
    rule("var/log/bootstrap.log", Drop, "log of the build"),
    rule("var/log/dpkg.log", Drop, "log of the build"),
    rule("var/log/fontconfig.log", Drop, "log of the build"),
    rule("var/log/**", Log, "log of the build"),
    rule("var/**/*-old", DropFiles, "backup"),
    rule("var/**/*.old", DropFiles, "backup"),
    rule("var/**/*.dpkg-*", DropFiles, "left behind by dpkg"),
    rule("var/**/*~", DropFiles, "backup"),
];

/// Rules for the registries in the image: what changes from run to run and means nothing.
pub const REGISTRY_RULES: &[Rule] = &[
    rule("usr/lib/sysimage/dpkg/lock", Drop, "lock"),
    rule("usr/lib/sysimage/dpkg/lock-frontend", Drop, "lock"),
    rule("usr/lib/sysimage/dpkg/triggers/Lock", Drop, "lock"),
    rule("usr/lib/sysimage/dpkg/*-old", Drop, "backup"),
    rule("usr/lib/sysimage/debconf/*-old", Drop, "backup"),
    rule("usr/lib/sysimage/ucf/*.[0-9]", Drop, "backup"),
    rule("usr/lib/sysimage/sgml-base/*.old", Drop, "backup"),
    rule("usr/lib/sysimage/xml-core/*.old", Drop, "backup"),
    rule("usr/lib/sysimage/dkms/mok.*", Secret, "module signing key"),
];

/// Rules for `/etc`, as `etc/…`. What every machine must make for itself, and what the build left behind.
pub const ETC_RULES: &[Rule] = &[
    rule("etc/machine-id", Empty, "machine id; an empty file gets one at the first boot"),
    rule("etc/ssh/ssh_host_*", Secret, "host key; sshd-keygen.service (ssh-keygen -A) makes it at the first boot"),
    rule("etc/ssl/private/ssl-cert-snakeoil.key", Secret, "self-signed key; made by make-ssl-cert on the machine"),
    rule("etc/ssl/certs/ssl-cert-snakeoil.pem", Secret, "self-signed certificate of a key that is not shipped"),
    rule("etc/bind/rndc.key", Secret, "control key; made by rndc-confgen -a on the machine"),
    rule("etc/cups/ssl/**", Secret, "key of the print server"),
    rule("etc/iscsi/initiatorname.iscsi", Secret, "the machine's iSCSI name"),
    rule("etc/krb5.keytab", Secret, "the machine's Kerberos keys"),
    rule("etc/hostid", Secret, "the machine's id for ZFS"),
    rule("etc/lvm/devices/**", DropFiles, "devices of the build"),
    rule("etc/popularity-contest.conf", Secret, "the machine's id; dpkg-reconfigure popularity-contest makes one"),
    rule("etc/NetworkManager/system-connections/**", Secret, "network secrets"),
    rule("etc/resolv.conf", DropUnlessLink, "name servers of the build"),
    rule("etc/hostname", Drop, "host name of the build"),
    rule("etc/mailname", Drop, "host name of the build"),
    rule("etc/fstab", Drop, "file systems of the build"),
    rule("etc/adjtime", Drop, "clock of the build"),
    rule("etc/.updated", Drop, "written again by systemd-update-done"),
    rule("etc/.pwd.lock", Drop, "lock"),
    rule("etc/passwd-", Drop, "backup"),
    rule("etc/group-", Drop, "backup"),
    rule("etc/shadow-", Drop, "backup"),
    rule("etc/gshadow-", Drop, "backup"),
    rule("etc/subuid-", Drop, "backup"),
    rule("etc/subgid-", Drop, "backup"),
    rule("etc/udev/rules.d/70-persistent-*.rules", Drop, "devices of the build"),
    rule("etc/**/*.dpkg-dist", Drop, "new default of a configuration file that was kept"),
    rule("etc/**/*.dpkg-new", Drop, "left behind by dpkg"),
    rule("etc/**/*.dpkg-old", Drop, "left behind by dpkg"),
    rule("etc/**/*.dpkg-tmp", Drop, "left behind by dpkg"),
    rule("etc/**/*.ucf-dist", Drop, "new default of a configuration file that was kept"),
    rule("etc/**/*.ucf-old", Drop, "left behind by ucf"),
];

/// The first rule of `rules` that names `path`.
pub fn rule_for(rules: &'static [Rule], path: &str) -> Option<&'static Rule> {
    rules.iter().find(|r| glob::matches(r.pattern, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_sorted_disjoint_and_linked_relatively() {
        for pair in REGISTRIES.windows(2) {
            assert!(pair[0].var < pair[1].var, "{} {}", pair[0].var, pair[1].var);
        }
        for r in REGISTRIES {
            assert!(r.image.starts_with("usr/lib/sysimage/"));
            assert_eq!(
                REGISTRIES
                    .iter()
                    .filter(|o| o.image == r.image || r.image.starts_with(&format!("{}/", o.image)))
                    .count(),
                1
            );
        }
        assert_eq!(relative_link("var/lib/dpkg", DPKG_ADMINDIR), "../../usr/lib/sysimage/dpkg");
        assert_eq!(registry_of("var/lib/dpkg/info/x.list").map(|r| r.image), Some(DPKG_ADMINDIR));
        assert!(registry_of("var/lib/dpkgx").is_none());
        assert!(registries_tmpfiles().contains("L+ /var/lib/dpkg - - - - ../../usr/lib/sysimage/dpkg\n"));
    }

    #[test]
    fn every_top_entry_is_named_once() {
        for mode in [OptUsrLocal::Root, OptUsrLocal::StateOverlay, OptUsrLocal::Var] {
            let entries = toplevel(mode);
            let mut names: Vec<_> = entries.iter().map(TopEntry::path).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), entries.len());
            let targets = toplevel_targets(mode);
            for entry in &entries {
                if let TopEntry::Link { target, .. } = entry {
                    let target = target.trim_start_matches("../");
                    assert!(!target.starts_with("var/") || targets.iter().any(|(path, _)| *path == target), "{target}");
                }
            }
        }
    }
}

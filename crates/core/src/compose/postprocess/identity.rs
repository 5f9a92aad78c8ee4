//! What must not be the same on every machine, or come from the machine that composed: keys, seeds, names, caches of
//! the build. Everything found is removed and reported; what a machine needs is made again on its first boot.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::Report;
use super::tree::Tree;
use super::units;
use crate::error::{Context, Error, Result};

const HOST_KEYS_UNIT: &str = include_str!("../../../../../data/systemd/system/apt-ostree-ssh-host-keys.service");
const SNAKEOIL_UNIT: &str = include_str!("../../../../../data/systemd/system/apt-ostree-snakeoil.service");
const JOURNALD: &str = include_str!("../../../../../data/systemd/journald.conf.d/10-apt-ostree.conf");

/// Leftovers of the machine that composed and of the installation. Removed before the treefile's own files are
/// added, so that an author can ship them on purpose.
const RESIDUE: &[(&str, &str)] = &[
    ("/etc/hostname", "host name of the build"),
    ("/etc/mailname", "host name of the build"),
    ("/etc/adjtime", "clock of the build host"),
    ("/etc/.resolv.conf.systemd-resolved.bak", "name servers of the build"),
    ("/etc/apt/apt.conf.d/99mmdebstrap", "apt configuration of the build"),
    ("/var/lib/dbus/machine-id", "machine identity"),
];

/// Secrets and identities. Removed last, after every script, whoever made them.
const SECRETS: &[(&str, &str)] = &[
    ("/etc/ssh/ssh_host_*_key", "host key"),
    ("/etc/ssh/ssh_host_*_key.pub", "host key"),
    ("/etc/ssl/private/ssl-cert-snakeoil.key", "private key"),
    ("/etc/ssl/certs/ssl-cert-snakeoil.pem", "certificate of a private key"),
    ("/etc/hostid", "machine identity"),
    ("/etc/iscsi/initiatorname.iscsi", "machine identity"),
    ("/etc/nvme/hostid", "machine identity"),
    ("/etc/nvme/hostnqn", "machine identity"),
    ("/etc/machine-info", "machine identity"),
    ("/etc/popularity-contest.conf", "machine identity"),
    ("/etc/exim4/passwd.client", "password"),
    ("/var/lib/systemd/random-seed", "random seed"),
    ("/var/lib/systemd/credential.secret", "secret"),
    ("/var/lib/urandom/random-seed", "random seed"),
    ("/boot/random-seed", "random seed"),
    ("/etc/.pwd.lock", "lock file"),
    ("/etc/passwd-", "backup"),
    ("/etc/group-", "backup"),
    ("/etc/shadow-", "backup"),
    ("/etc/gshadow-", "backup"),
    ("/etc/subuid-", "backup"),
    ("/etc/subgid-", "backup"),
];

/// Suffixes of what dpkg and ucf leave beside a configuration file they did not replace. With `--force-confnew` on
/// an empty tree none is wanted.
const CONFFILE_LEFTOVERS: &[&str] =
    &[".dpkg-old", ".dpkg-dist", ".dpkg-new", ".dpkg-tmp", ".dpkg-bak", ".ucf-old", ".ucf-dist", ".ucf-new"];

fn remove_all(tree: &Tree, list: &[(&str, &str)], report: &mut Report) -> Result<()> {
    for (pattern, reason) in list {
        let (dir, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        if !name.contains('*') {
            if tree.remove(pattern)? {
                report.drop(*pattern, reason);
            }
            continue;
        }
        for entry in tree.entries(dir)?.into_iter().filter(|e| units::matches(name, e)) {
            let path = format!("{dir}/{entry}");
            tree.remove(&path)?;
            report.drop(path, reason);
        }
    }
    Ok(())
}

/// See [`RESIDUE`]; also the resolver and an fstab nobody filled in.
pub(crate) fn remove_residue(tree: &Tree, report: &mut Report) -> Result<()> {
    remove_all(tree, RESIDUE, report)?;
    let comment = |line: &str| line.trim().is_empty() || line.starts_with('#');
    if tree.read("/etc/fstab")?.is_some_and(|text| text.lines().all(comment)) {
        tree.remove("/etc/fstab")?;
        report.drop("/etc/fstab", "empty");
    }
    resolv_conf(tree, report)
}

/// `/etc/resolv.conf` is systemd-resolved's stub where that is installed, else absent for whatever manages it on the
/// machine; never the build host's.
fn resolv_conf(tree: &Tree, report: &mut Report) -> Result<()> {
    const PATH: &str = "/etc/resolv.conf";
    if tree.exists("/usr/lib/systemd/systemd-resolved") {
        return tree.symlink("../run/systemd/resolve/stub-resolv.conf", PATH);
    }
    if !tree.is_symlink(PATH) && tree.remove(PATH)? {
        report.drop(PATH, "name servers of the build");
    }
    Ok(())
}

/// See [`SECRETS`]. `machineid_compat` is the treefile key: an empty `/etc/machine-id`, or none so that the first
/// boot applies presets (machine-id(5), "First Boot Semantics").
pub(crate) fn remove_secrets(tree: &Tree, machineid_compat: bool, report: &mut Report) -> Result<()> {
    remove_all(tree, SECRETS, report)?;
    if machineid_compat {
        if tree.read("/etc/machine-id")?.is_some_and(|t| !t.is_empty()) {
            report.drop("/etc/machine-id", "machine identity (an empty file stays)");
        }
        tree.write("/etc/machine-id", "", 0o444)?;
    } else {
        tree.remove("/etc/machine-id")?;
    }
    conffile_leftovers(tree, "/etc", report)
}

fn conffile_leftovers(tree: &Tree, dir: &str, report: &mut Report) -> Result<()> {
    for name in tree.entries(dir)? {
        let path = format!("{dir}/{name}");
        let kind =
            tree.locate(&path)?.symlink_metadata().context(|| format!("Reading {path} of the tree"))?.file_type();
        if kind.is_dir() {
            conffile_leftovers(tree, &path, report)?;
        } else if CONFFILE_LEFTOVERS.iter().any(|s| name.ends_with(s)) {
            tree.remove(&path)?;
            report.drop(path, "leftover of a configuration file");
        }
    }
    Ok(())
}

/// Units that make on first boot what [`SECRETS`] took away, and the journal's place.
pub(crate) fn first_boot_units(tree: &Tree) -> Result<()> {
    for (program, unit, text) in [
        ("/usr/sbin/sshd", "apt-ostree-ssh-host-keys.service", HOST_KEYS_UNIT),
        ("/usr/sbin/make-ssl-cert", "apt-ostree-snakeoil.service", SNAKEOIL_UNIT),
    ] {
        if tree.exists(program) {
            tree.write(&format!("/usr/lib/systemd/system/{unit}"), text, 0o644)?;
            units::enable_in_usr(tree, unit, "multi-user.target")?;
        }
    }
    if tree.exists("/usr/lib/systemd/systemd-journald") {
        tree.write("/usr/lib/systemd/journald.conf.d/10-apt-ostree.conf", JOURNALD, 0o644)?;
    }
    Ok(())
}

/// Device nodes, pipes and sockets: OSTree has no object for them. Those of the directories that are mounted over at
/// run time are not looked at.
pub(crate) fn remove_special_files(tree: &Tree, report: &mut Report) -> Result<()> {
    for name in tree.entries("/")? {
        if !["dev", "proc", "sys", "run", "tmp"].contains(&name.as_str()) {
            special_files(tree.root(), &tree.root().join(&name), report)?;
        }
    }
    Ok(())
}

fn special_files(root: &Path, path: &Path, report: &mut Report) -> Result<()> {
    let meta = path.symlink_metadata().context(|| format!("Reading {}", path.display()))?;
    let kind = meta.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path).context(|| format!("Listing {}", path.display()))? {
            special_files(root, &entry?.path(), report)?;
        }
        return Ok(());
    }
    let what = if kind.is_char_device() || kind.is_block_device() {
        format!("device node {}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
    } else if kind.is_fifo() {
        "pipe".to_owned()
    } else if kind.is_socket() {
        "socket".to_owned()
    } else {
        return Ok(());
    };
    fs::remove_file(path).context(|| format!("Removing {}", path.display()))?;
    report.drop(format!("/{}", path.strip_prefix(root).unwrap_or(path).display()), &what);
    Ok(())
}

/// `mutate-os-release`: replaces `old` in `VERSION` and `PRETTY_NAME` by the commit's version and adds
/// `OSTREE_VERSION` (os-release(5)). Debian testing has no `VERSION`, then one is added.
pub(crate) fn mutate_os_release(tree: &Tree, old: &str, version: &str) -> Result<()> {
    const PATH: &str = "/usr/lib/os-release";
    let Some(text) = tree.read(PATH)? else {
        return Err(Error::usage("The treefile has 'mutate-os-release', but the tree has no /usr/lib/os-release")
            .hint("Add the package 'base-files' or leave the key out."));
    };
    let mut out = String::new();
    let mut has_version = false;
    for line in text.lines() {
        match line.split_once('=') {
            Some(("OSTREE_VERSION", _)) => continue,
            Some((key @ ("VERSION" | "PRETTY_NAME"), value)) => {
                has_version |= key == "VERSION";
                out.push_str(&format!("{key}={}\n", value.replacen(old, version, 1)));
            }
            _ => out.push_str(&format!("{line}\n")),
        }
    }
    if !has_version {
        out.push_str(&format!("VERSION={}\n", quote(version)));
    }
    out.push_str(&format!("OSTREE_VERSION={}\n", quote(version)));
    tree.write(PATH, out, 0o644)
}

/// As os-release(5) wants values: in double quotes, with what the shell would expand escaped.
fn quote(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '$' | '`' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        for (path, text) in files {
            tree.write(path, text, 0o600).unwrap();
        }
        (dir, tree)
    }

    #[test]
    fn secrets_go_and_are_reported() {
        let (_dir, tree) = tree(&[
            ("/etc/ssh/ssh_host_rsa_key", "k"),
            ("/etc/ssh/ssh_host_rsa_key.pub", "k"),
            ("/etc/ssh/sshd_config", "c"),
            ("/etc/machine-id", "0123\n"),
            ("/etc/x/y.conf.dpkg-dist", "d"),
            ("/var/lib/systemd/random-seed", "s"),
        ]);
        let mut report = Report::default();
        remove_secrets(&tree, true, &mut report).unwrap();
        assert_eq!(tree.entries("/etc/ssh").unwrap(), ["sshd_config"]);
        assert!(tree.entries("/etc/x").unwrap().is_empty());
        assert_eq!(tree.read("/etc/machine-id").unwrap().as_deref(), Some(""));
        assert_eq!(report.dropped.len(), 5);
        remove_secrets(&tree, false, &mut report).unwrap();
        assert!(!tree.exists("/etc/machine-id"));
    }

    #[test]
    fn residue_keeps_what_is_configured() {
        let (_dir, with) = tree(&[("/etc/fstab", "# x\nUUID=1 /boot ext4 defaults 0 2\n"), ("/etc/resolv.conf", "n")]);
        let mut report = Report::default();
        remove_residue(&with, &mut report).unwrap();
        assert!(with.exists("/etc/fstab") && !with.exists("/etc/resolv.conf"));
        with.write("/usr/lib/systemd/systemd-resolved", "", 0o755).unwrap();
        remove_residue(&with, &mut report).unwrap();
        assert!(with.is_symlink("/etc/resolv.conf"));
    }

    #[test]
    fn os_release_gets_the_version() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION=\"13 (trixie)\"\nID=debian\n";
        let (_dir, tree) = tree(&[("/usr/lib/os-release", debian)]);
        mutate_os_release(&tree, "13", "13.20260101.0").unwrap();
        let want = "PRETTY_NAME=\"Debian GNU/Linux 13.20260101.0 (trixie)\"\nVERSION=\"13.20260101.0 (trixie)\"\n\
                    ID=debian\nOSTREE_VERSION=\"13.20260101.0\"\n";
        assert_eq!(tree.read("/usr/lib/os-release").unwrap().as_deref(), Some(want));
    }
}

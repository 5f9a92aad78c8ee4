//! What must not be the same on every machine, or come from the machine that composed: keys, seeds, names, caches of
//! the build. Everything found is removed and reported; what a machine needs is made again on its first boot.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::Report;
use super::units;
use crate::assemble::state;
use crate::assemble::tree::Tree;
use crate::error::{Context, Error, Result};
use crate::model::treefile::AddFile;

const HOST_KEYS_UNIT: &str = include_str!("../../../../../data/systemd/system/apt-ostree-ssh-host-keys.service");
const SNAKEOIL_UNIT: &str = include_str!("../../../../../data/systemd/system/apt-ostree-snakeoil.service");
const JOURNALD: &str = include_str!("../../../../../data/systemd/journald.conf.d/10-apt-ostree.conf");

/// Leftovers that [`state::scrub_etc`] does not know, because only a compose meets them.
const RESIDUE: &[(&str, &str)] = &[
    ("/etc/.resolv.conf.systemd-resolved.bak", "name servers of the build"),
    ("/etc/apt/apt.conf.d/99mmdebstrap", "apt configuration of the build"),
    ("/etc/machine-info", "machine identity"),
    ("/etc/nvme/hostid", "machine identity"),
    ("/etc/nvme/hostnqn", "machine identity"),
    ("/etc/exim4/passwd.client", "password"),
    ("/boot/random-seed", "random seed"),
];

/// What an author may well set in an image although no package may: kept when it comes after [`remove_residue`].
const AUTHORS: &[&str] =
    &["etc/adjtime", "etc/fstab", "etc/hostname", "etc/machine-id", "etc/mailname", "etc/resolv.conf"];

/// What packages and the build host left in /etc. Before the treefile's own files are added, so that an author can ship
/// some of it on purpose.
pub(crate) fn remove_residue(tree: &Tree, report: &mut Report) -> Result<()> {
    for (path, reason) in RESIDUE {
        if tree.remove(path)? {
            report.drop(*path, reason);
        }
    }
    resolv_conf(tree)?;
    // The scrubber works on the shape of a commit.
    let (etc, usr_etc) = (tree.root().join("etc"), tree.root().join("usr/etc"));
    fs::rename(&etc, &usr_etc).context(|| "Moving /etc of the tree")?;
    let dropped = state::scrub_etc(tree.root(), None);
    fs::rename(&usr_etc, &etc).context(|| "Moving /etc of the tree")?;
    report.extend(dropped?);
    Ok(())
}

/// `/etc/resolv.conf` is systemd-resolved's stub where that is installed; never the build host's.
fn resolv_conf(tree: &Tree) -> Result<()> {
    if tree.exists("/usr/lib/systemd/systemd-resolved") {
        tree.symlink("../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")?;
    }
    Ok(())
}

/// `machineid-compat`: an empty `/etc/machine-id`, or none so that the first boot applies presets (machine-id(5),
/// "First Boot Semantics"). Never an id.
pub(crate) fn machine_id(tree: &Tree, compat: bool) -> Result<()> {
    if compat { tree.write("/etc/machine-id", "", 0o444) } else { tree.remove("/etc/machine-id").map(|_| ()) }
}

/// Secrets, identities and leftovers that the treefile's scripts made; not what `add-files` brought. Runs when `/etc`
/// is `/usr/etc` already, after everything else.
pub(crate) fn remove_secrets(tree: &Tree, added: &[AddFile], report: &mut Report) -> Result<()> {
    let mut candidates = BTreeSet::new();
    list_files(tree, "etc", &mut candidates)?;
    for path in AUTHORS {
        candidates.remove(*path);
    }
    for file in added {
        candidates.remove(file.dest.trim_start_matches('/'));
    }
    report.extend(state::scrub_etc(tree.root(), Some(&candidates))?);
    Ok(())
}

/// Everything below `usr/DIR` that is no directory, as `DIR/…`.
fn list_files(tree: &Tree, dir: &str, out: &mut BTreeSet<String>) -> Result<()> {
    for name in tree.entries(&format!("/usr/{dir}"))? {
        let rel = format!("{dir}/{name}");
        let path = format!("/usr/{rel}");
        if tree.is_dir(&path) && !tree.is_symlink(&path) {
            list_files(tree, &rel, out)?;
        } else {
            out.insert(rel);
        }
    }
    Ok(())
}

/// Units that make on first boot what the scrubbing took away, and the journal's place.
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
        // Made by systemd's postinst with access control lists that systemd's own tmpfiles.d sets again.
        if tree.entries("/var/log/journal")?.is_empty() {
            tree.remove("/var/log/journal")?;
        }
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
    fn secrets_of_scripts_go_but_not_the_authors_files() {
        let (_dir, tree) = tree(&[
            ("/usr/etc/ssh/ssh_host_rsa_key", "k"),
            ("/usr/etc/ssh/ssh_host_ed25519_key", "mine"),
            ("/usr/etc/ssh/sshd_config", "c"),
            ("/usr/etc/hostname", "kiosk\n"),
            ("/usr/etc/x/y.conf.dpkg-dist", "d"),
        ]);
        let mut report = Report::default();
        let added = AddFile { source: "/x".into(), dest: "/etc/ssh/ssh_host_ed25519_key".into() };
        remove_secrets(&tree, &[added], &mut report).unwrap();
        assert_eq!(tree.entries("/usr/etc/ssh").unwrap(), ["ssh_host_ed25519_key", "sshd_config"]);
        assert!(tree.entries("/usr/etc/x").unwrap().is_empty() && tree.exists("/usr/etc/hostname"));
        let paths: Vec<&str> = report.dropped.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["/etc/ssh/ssh_host_rsa_key", "/etc/x/y.conf.dpkg-dist"]);
    }

    #[test]
    fn residue_of_the_build_goes() {
        let (_dir, tree) = tree(&[
            ("/etc/fstab", "# x\n"),
            ("/etc/hostname", "builder\n"),
            ("/etc/resolv.conf", "nameserver x"),
            ("/etc/machine-id", "0123\n"),
            ("/usr/x", ""),
        ]);
        let mut report = Report::default();
        remove_residue(&tree, &mut report).unwrap();
        assert_eq!(tree.entries("/etc").unwrap(), ["machine-id"]);
        assert_eq!(tree.read("/etc/machine-id").unwrap().as_deref(), Some(""));
        tree.write("/usr/lib/systemd/systemd-resolved", "", 0o755).unwrap();
        remove_residue(&tree, &mut report).unwrap();
        assert!(tree.is_symlink("/etc/resolv.conf"));
        machine_id(&tree, false).unwrap();
        assert!(!tree.exists("/etc/machine-id"));
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

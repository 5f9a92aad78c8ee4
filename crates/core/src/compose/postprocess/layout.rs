//! The top level of a composed tree: what is a link into /var, what is a directory of the image, what is empty.
//!
//! Turns the root of an ordinary Debian system into the shape libostree deploys. What stood in a directory that
//! becomes a link moves to the link's target, so that the capture of /var finds it. docs/layout.md has the table.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use super::Report;
use super::units;
use crate::assemble::tree::Tree;
use crate::error::{Context, Error, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::layout::{self as model, TopEntry};
use crate::model::treefile::OptUsrLocal;

const OVERLAY_MODE: &str =
    include_str!("../../../../../data/systemd/system/ostree-state-overlay@.service.d/10-apt-ostree-mode.conf");
const OVERLAY_UNIT: &str = "/usr/lib/systemd/system/ostree-state-overlay@.service";

/// Mounted over at run time, so they come empty.
const MOUNT_POINTS: &[&str] = &["boot", "dev", "proc", "run", "sys", "sysroot", "tmp"];
/// What else is known at the top. Nothing but these and the entries of [`model::toplevel`] belongs there.
const KNOWN: &[&str] = &["etc", "tmp"];

/// An ordinary Debian root, so far untouched by this module.
pub(crate) fn check_ordinary(tree: &Tree) -> Result<()> {
    for dir in ["/usr", "/etc", "/var"] {
        if tree.is_symlink(dir) || !tree.is_dir(dir) {
            return Err(Error::failed(format!("{}{dir} is not a directory", tree.root().display()))
                .hint("Post-processing takes a root directory with packages installed in it."));
        }
    }
    if tree.exists("/usr/etc") {
        return Err(Error::failed(format!("{}/usr/etc exists already", tree.root().display())).hint(
            "Either this tree was post-processed before, or a package puts files into /usr/etc, which OSTree claims.",
        ));
    }
    for link in ["/bin", "/sbin", "/lib"] {
        if tree.exists(link) && !tree.is_symlink(link) {
            return Err(Error::failed(format!("{link} of the tree is a directory, not a link into /usr"))
                .hint("Only a merged /usr can be composed: Debian 12 and newer, Ubuntu 23.10 and newer."));
        }
    }
    Ok(())
}

/// What `opt-usrlocal` comes to for this tree: state overlays need a libostree that has them.
pub(crate) fn opt_usrlocal(tree: &Tree, wanted: OptUsrLocal, events: &dyn EventSink) -> OptUsrLocal {
    match wanted {
        OptUsrLocal::StateOverlay if !tree.exists(OVERLAY_UNIT) => {
            events.warning(
                "The libostree of the tree has no state overlays (package ostree-boot, version 2024.1 or newer): /opt and \
                 /usr/local are plain read-only directories, as with 'opt-usrlocal: root'",
            );
            OptUsrLocal::Root
        }
        mode => mode,
    }
}

/// Top-level links, /opt and /usr/local, /tmp and the mount points.
pub(crate) fn top_level(tree: &Tree, mode: OptUsrLocal, report: &mut Report) -> Result<()> {
    for entry in model::toplevel(mode) {
        let path = format!("/{}", entry.path());
        match entry {
            TopEntry::Link { target, .. } => {
                let inside = target.trim_start_matches("../");
                if inside.starts_with("run/") || inside.starts_with("sysroot/") {
                    drop_content(tree, &path, "content of a directory that is made at run time", report)?;
                    tree.remove(&path)?;
                    tree.symlink(target, &path)?;
                } else {
                    let mode =
                        model::toplevel_targets(mode).iter().find(|(t, _)| *t == inside).map_or(0o755, |(_, m)| *m);
                    to_link(tree, &path, inside, mode)?;
                }
            }
            TopEntry::Directory { mode, .. } => {
                if MOUNT_POINTS.contains(&entry.path()) {
                    drop_content(tree, &path, "content of a directory that is mounted over", report)?;
                    tree.remove(&path)?;
                }
                tree.mkdir(&path, mode)?;
            }
        }
    }
    if mode == OptUsrLocal::StateOverlay {
        tree.write(&format!("{OVERLAY_UNIT}.d/10-apt-ostree-mode.conf"), OVERLAY_MODE, 0o644)?;
        for instance in ["usr-lib-opt", "usr-local"] {
            units::enable_in_usr(tree, &format!("ostree-state-overlay@{instance}.service"), "local-fs.target")?;
        }
    }
    report_unknown(tree, mode, report)
}

/// Turns the directory `link` into a link to `target` (relative to the root), its content moved there.
fn to_link(tree: &Tree, link: &str, target: &str, mode: u32) -> Result<()> {
    let inside = format!("/{target}");
    let place = tree.locate(link)?;
    if place.is_symlink() {
        return if tree.is_dir(&inside) { Ok(()) } else { tree.mkdir(&inside, mode) };
    }
    if place.is_dir() {
        // The package's owner and mode, unless something is there already.
        if !tree.exists(&inside) {
            let (meta, goal) =
                (place.metadata().context(|| format!("Reading {link} of the tree"))?, tree.locate(&inside)?);
            tree.mkdir(&inside, meta.permissions().mode() & 0o7777)?;
            chown(&goal, Some(meta.uid()), Some(meta.gid())).context(|| format!("Giving {inside} of the tree"))?;
        }
        tree.merge_into(link, &inside)?;
        tree.remove(link)?;
    } else {
        tree.mkdir(&inside, mode)?;
    }
    tree.symlink(&model::relative_link(&link[1..], target), link)
}

/// Empties a directory. Empty directories in it go without a word, everything else is reported.
fn drop_content(tree: &Tree, dir: &str, reason: &str, report: &mut Report) -> Result<()> {
    if tree.is_symlink(dir) {
        return Ok(());
    }
    for name in tree.entries(dir)? {
        let path = format!("{dir}/{name}");
        report_content(tree, &path, reason, report)?;
        tree.remove(&path)?;
    }
    Ok(())
}

fn report_content(tree: &Tree, path: &str, reason: &str, report: &mut Report) -> Result<()> {
    if tree.is_symlink(path) || !tree.is_dir(path) {
        report.drop(path, reason);
        return Ok(());
    }
    for name in tree.entries(path)? {
        report_content(tree, &format!("{path}/{name}"), reason, report)?;
    }
    Ok(())
}

fn report_unknown(tree: &Tree, mode: OptUsrLocal, report: &mut Report) -> Result<()> {
    let entries = model::toplevel(mode);
    for name in tree.entries("/")? {
        let known = KNOWN.contains(&name.as_str())
            || entries.iter().any(|e| e.path() == name)
            || model::USR_MERGE.iter().any(|(link, _)| *link == name);
        if !known {
            report.unclassified.push(format!("/{name}"));
        }
    }
    Ok(())
}

/// `/etc` becomes `/usr/etc`, the last step: nothing can run in the tree as it is afterwards.
pub(crate) fn move_etc(tree: &Tree) -> Result<()> {
    let (from, to) = (tree.root().join("etc"), tree.root().join("usr/etc"));
    fs::rename(&from, &to).context(|| "Moving /etc of the tree to /usr/etc")?;
    // The root of a deployment and its first directories are searched by every user.
    for dir in ["", "usr", "usr/etc", "var"] {
        let place = tree.root().join(dir);
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))
            .context(|| format!("Setting the mode of /{dir}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NullSink;

    fn ordinary() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        for path in
            ["/usr/bin", "/etc", "/var/lib", "/home/admin", "/opt/vendor", "/usr/local/bin", "/dev", "/run/lock"]
        {
            tree.mkdir(path, 0o755).unwrap();
        }
        tree.mkdir("/root", 0o700).unwrap();
        tree.write("/root/.profile", "p", 0o644).unwrap();
        tree.write("/opt/vendor/app", "a", 0o755).unwrap();
        tree.write("/run/x.pid", "1", 0o644).unwrap();
        tree.write("/snap/README", "1", 0o644).unwrap();
        (dir, tree)
    }

    #[test]
    fn content_follows_the_links() {
        let (_dir, tree) = ordinary();
        tree.write(OVERLAY_UNIT, "", 0o644).unwrap();
        check_ordinary(&tree).unwrap();
        let mut report = Report::default();
        let mode = opt_usrlocal(&tree, OptUsrLocal::StateOverlay, &NullSink);
        top_level(&tree, mode, &mut report).unwrap();
        move_etc(&tree).unwrap();
        let link = |p: &str| fs::read_link(tree.root().join(p)).unwrap().to_str().unwrap().to_owned();
        assert_eq!(link("root"), "var/roothome");
        assert_eq!(link("opt"), "usr/lib/opt");
        assert_eq!(link("ostree"), "sysroot/ostree");
        let mode = |p: &str| tree.root().join(p).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("var/roothome"), 0o700);
        assert_eq!(mode("tmp"), 0o1777);
        assert!(tree.exists("/var/home/admin") && tree.exists("/usr/lib/opt/vendor/app"));
        assert_eq!(report.unclassified, ["/snap"]);
        assert_eq!(report.dropped.iter().map(|d| d.path.as_str()).collect::<Vec<_>>(), ["/run/x.pid"]);
        assert!(tree.entries("/run").unwrap().is_empty());
        assert!(check_ordinary(&tree).is_err());
        let wants = tree.entries("/usr/lib/systemd/system/local-fs.target.wants").unwrap();
        assert_eq!(wants, ["ostree-state-overlay@usr-lib-opt.service", "ostree-state-overlay@usr-local.service"]);
    }

    #[test]
    fn without_overlays_directories_stay() {
        let (_dir, tree) = ordinary();
        let mode = opt_usrlocal(&tree, OptUsrLocal::StateOverlay, &NullSink);
        top_level(&tree, mode, &mut Report::default()).unwrap();
        assert!(tree.root().join("opt/vendor/app").is_file());
        assert!(tree.is_dir("/tmp") && !tree.is_symlink("/tmp"));
    }

    #[test]
    fn var_keeps_usr_local_as_a_link() {
        let (_dir, tree) = ordinary();
        top_level(&tree, OptUsrLocal::Var, &mut Report::default()).unwrap();
        assert_eq!(fs::read_link(tree.root().join("usr/local")).unwrap().to_str(), Some("../var/usrlocal"));
        assert!(tree.root().join("usr/local/bin").is_dir());
        assert!(tree.exists("/var/opt/vendor/app"));
    }
}

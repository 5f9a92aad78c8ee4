//! What is wrong with a system although every command works: `status` tells it first.
//!
//! Reads the boot folder, the deployments and the link of the dpkg database; needs no root. What may not be read is not
//! warned of.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::model::layout;
use crate::sysroot::{Deployment, Sysroot};

/// Written by libostree when the finalization at shutdown failed, with the error as its text; removed at the next boot by
/// ostree-boot-complete.service, which fails for it (ostree-sysroot-deploy.c).
const FAILURE_STAMP: &str = "boot/ostree/finalize-failure.stamp";

/// Where systemd looks for units that are there without a running system.
const UNIT_DIRS: &[&str] = &["etc/systemd/system", "usr/lib/systemd/system", "usr/local/lib/systemd/system"];

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Warning {
    /// One sentence without its full stop.
    pub text: String,
    /// Cause, consequence, what to do; a line each.
    pub details: Vec<String>,
}

impl Warning {
    fn new(text: impl Into<String>, details: &[&str]) -> Self {
        Self { text: text.into(), details: details.iter().map(|d| (*d).to_owned()).collect() }
    }
}

/// All warnings, the most pressing first.
pub fn find(sysroot: &Sysroot) -> Vec<Warning> {
    let mut list: Vec<Warning> = finalization(sysroot).into_iter().collect();
    let deployments = sysroot.deployments();
    let named = |d: &Deployment| d.name().get(..12).map_or_else(|| d.name(), ToOwned::to_owned);
    for (index, deployment) in deployments.iter().enumerate() {
        if let Some(why) = will_not_boot(sysroot, deployment) {
            let name = named(deployment);
            list.push(Warning::new(
                format!("deployment {index} ({name}) would not boot"),
                &[why.as_str(), "drop it, or deploy its commit again, before you rely on it"],
            ));
        }
    }
    let mut stateroots: Vec<String> = deployments.iter().map(Deployment::stateroot).collect();
    stateroots.sort();
    stateroots.dedup();
    list.extend(stateroots.iter().filter_map(|s| package_database(sysroot, s)));
    for (index, deployment) in deployments.iter().enumerate() {
        let dangling = dangling_units(&sysroot.directory(deployment));
        if !dangling.is_empty() {
            let mut details = dangling;
            details.push("the units are gone from the image; remove these links".into());
            let name = named(deployment);
            list.push(Warning {
                text: format!("deployment {index} ({name}) has links to units that do not exist"),
                details,
            });
        }
    }
    list
}

/// A missing file, as opposed to one that cannot be looked at.
fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

fn finalization(sysroot: &Sysroot) -> Option<Warning> {
    let cause = match fs::read_to_string(sysroot.path().join(FAILURE_STAMP)) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(_) if sysroot.is_booted() && failed_last_time() => failure_in_journal(),
        Err(_) => return None,
    };
    let cause = cause.filter(|c| !c.is_empty()).map(|c| format!("error: {}", c.trim_start_matches("error: ")));
    let mut details: Vec<String> = cause.into_iter().collect();
    details.push("check `journalctl -b -1 -u ostree-finalize-staged.service`".into());
    Some(Warning { text: "failed to finalize previous deployment".into(), details })
}

/// The unit that takes the stamp away has failed for it.
fn failed_last_time() -> bool {
    let mut command = Command::new("systemctl");
    command.args(["is-failed", "--quiet", "ostree-boot-complete.service"]);
    command.output().is_ok_and(|output| output.status.success())
}

/// What that unit said; nothing for a user who may not read the journal.
fn failure_in_journal() -> Option<String> {
    let output = Command::new("journalctl")
        .args(["--boot", "--quiet", "--output=cat", "--unit=ostree-boot-complete.service", "--grep=^error: "])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rfind(|l| l.starts_with("error: "))?;
    // What libostree puts before the text of the stamp.
    let line = line.trim_start_matches("error: ");
    Some(line.split_once("failed on previous boot: ").map_or(line, |(_, cause)| cause).to_owned())
}

/// What of a deployment is missing for its boot; staged ones get theirs at shutdown.
fn will_not_boot(sysroot: &Sysroot, deployment: &Deployment) -> Option<String> {
    if deployment.is_staged() {
        return None;
    }
    let boot = sysroot.path().join("boot");
    for (key, what) in [("linux", "kernel"), ("initrd", "initramfs")] {
        for path in deployment.boot_entry(key).iter().flat_map(|v| v.split_whitespace()) {
            // With `bootprefix` paths start with /boot; libostree makes boot/boot -> . for that.
            let file = boot.join(path.trim_start_matches('/'));
            if is_missing(&file) {
                return Some(format!("its {what} {} does not exist", file.display()));
            }
        }
    }
    let tree = sysroot.directory(deployment);
    let modules = tree.join("usr/lib/modules");
    let Ok(kernels) = fs::read_dir(&modules) else { return None };
    let kernels: Vec<PathBuf> = kernels.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    let Some(kernel) = kernels.iter().find(|k| !is_missing(&k.join("vmlinuz"))) else {
        // Trees of others may have theirs in /usr/lib/ostree-boot.
        let elsewhere = !is_missing(&tree.join("usr/lib/ostree-boot"));
        return (!elsewhere).then(|| "its tree has no kernel in /usr/lib/modules".into());
    };
    let expects = deployment.boot_entry("initrd").is_some();
    let initramfs = kernel.join("initramfs.img");
    (expects && is_missing(&initramfs)).then(|| format!("its tree has no {}", initramfs.display()))
}

/// Without the link dpkg and apt see no packages, and say so without an error.
fn package_database(sysroot: &Sysroot, stateroot: &str) -> Option<Warning> {
    let first = sysroot.deployments_of(stateroot).into_iter().next()?;
    if is_missing(&sysroot.directory(&first).join(layout::DPKG_ADMINDIR)) {
        return None;
    }
    let link = sysroot.var(stateroot).join("lib/dpkg");
    let wanted = layout::relative_link("var/lib/dpkg", layout::DPKG_ADMINDIR);
    let advice = "systemd-tmpfiles --create puts it right; move away first what is in its place";
    match fs::read_link(&link) {
        Ok(target) if target == Path::new(&wanted) => None,
        Ok(target) => Some(Warning::new(
            format!("/var/lib/dpkg leads to {}, not to {wanted}", target.display()),
            &["dpkg and apt do not see the packages of the image", advice],
        )),
        // Before its first boot a system has no link yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => sysroot
            .is_booted()
            .then(|| Warning::new("/var/lib/dpkg is missing", &["dpkg and apt see no packages at all", advice])),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Some(Warning::new(
            format!("/var/lib/dpkg is not the link to {wanted}"),
            &["dpkg and apt see other packages than those of the image", advice],
        )),
        Err(_) => None,
    }
}

/// Links in `*.wants` and `*.requires` of the machine's /etc whose unit is nowhere. systemd fails what requires it.
fn dangling_units(tree: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let units = tree.join(UNIT_DIRS[0]);
    let Ok(folders) = fs::read_dir(&units) else { return found };
    for folder in folders.flatten() {
        let name = folder.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".wants") && !name.ends_with(".requires") {
            continue;
        }
        let Ok(links) = fs::read_dir(folder.path()) else { continue };
        for link in links.flatten() {
            let unit = link.file_name().to_string_lossy().into_owned();
            let Ok(target) = fs::read_link(link.path()) else { continue };
            if !unit_exists(tree, &unit) && is_dangling(tree, &folder.path(), &target) {
                found.push(format!("/{}/{name}/{unit} -> {}", UNIT_DIRS[0], target.display()));
            }
        }
    }
    found.sort();
    found
}

/// systemd goes by the name of the link, not by where it leads to: the unit, or the template of an instance.
fn unit_exists(tree: &Path, unit: &str) -> bool {
    let template = unit.split_once('@').and_then(|(stem, rest)| {
        let kind = rest.rsplit_once('.')?.1;
        Some(format!("{stem}@.{kind}"))
    });
    std::iter::once(unit.to_owned())
        .chain(template)
        .any(|name| UNIT_DIRS.iter().any(|dir| !is_missing(&tree.join(dir).join(&name))))
}

/// Whether a link leads nowhere within the tree. What is outside of the image (/var, /run, /opt, …) cannot be told here.
fn is_dangling(tree: &Path, folder: &Path, target: &Path) -> bool {
    let path = match target.strip_prefix("/") {
        Ok(inside) => tree.join(inside),
        Err(_) => folder.join(target),
    };
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    let Ok(inside) = plain.strip_prefix(tree) else { return false };
    let known = ["usr", "etc", "lib"].iter().any(|dir| inside.starts_with(dir)) && !inside.starts_with("usr/local");
    known && is_missing(&plain)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_to_units() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        let etc = tree.join("etc/systemd/system");
        for sub in ["multi-user.target.wants", "local-fs.target.requires", "plain.d"] {
            fs::create_dir_all(etc.join(sub)).unwrap();
        }
        let lib = tree.join("usr/lib/systemd/system");
        fs::create_dir_all(&lib).unwrap();
        symlink("usr/lib", tree.join("lib")).unwrap();
        for unit in ["here.service", "getty@.service"] {
            fs::write(lib.join(unit), "").unwrap();
        }
        fs::write(etc.join("own.service"), "").unwrap();
        let link = |folder: &str, name: &str, target: &str| symlink(target, etc.join(folder).join(name)).unwrap();
        let wants = "multi-user.target.wants";
        link(wants, "here.service", "/lib/systemd/system/here.service");
        link(wants, "getty@tty1.service", "/usr/lib/systemd/system/getty@.service");
        link(wants, "own.service", "../own.service");
        link(wants, "moved.service", "../../../../usr/lib/systemd/system/here.service");
        link(wants, "masked.service", "/dev/null");
        link(wants, "vendor.service", "/opt/vendor/vendor.service");
        assert_eq!(dangling_units(tree), Vec::<String>::new());
        link(wants, "gone.service", "/usr/lib/systemd/system/gone.service");
        link("local-fs.target.requires", "fsck@x.service", "/lib/systemd/system/fsck@.service");
        link("plain.d", "no.service", "/usr/lib/systemd/system/no.service");
        assert_eq!(
            dangling_units(tree),
            [
                "/etc/systemd/system/local-fs.target.requires/fsck@x.service -> /lib/systemd/system/fsck@.service",
                "/etc/systemd/system/multi-user.target.wants/gone.service -> /usr/lib/systemd/system/gone.service",
            ]
        );
    }
}

//! Room on / and /boot, checked before anything is downloaded.

use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::size::human_size;
use crate::plan::Plan;
use crate::sysroot::{Deployment, Sysroot};

/// What a transaction needs beyond packages: the directory tree of a checkout, metadata, dpkg's own copies. Bytes.
const RESERVE: u64 = 64 << 20;

/// Boot entries and the boot loader's configuration, written twice. Bytes.
const BOOT_RESERVE: u64 = 1 << 20;

/// Refuses a plan that cannot fit. `base_tree` tells how large kernel and initramfs are.
pub fn check(sysroot: &Sysroot, stateroot: &str, plan: &Plan, base_tree: &Path) -> Result<()> {
    require(sysroot.path(), plan.download_size + plan.installed_size + RESERVE, "the packages and the new deployment")?;
    // Another kernel takes about as much as the base's. Too little is an error only where nothing could make room.
    let boot = sysroot.path().join("boot");
    if plan.kernel_change && boot.is_dir() && expendable(&sysroot.deployments(), stateroot).is_none() {
        require(&boot, kernel_size(base_tree), "the new kernel and its initramfs")?;
    }
    Ok(())
}

/// Refuses a pull that cannot fit, where the commit says how large its objects are (`ostree commit --generate-sizes`); nothing
/// is known of others before they are here.
pub fn check_pull(sysroot: &Sysroot, commit: &str, events: &dyn EventSink) -> Result<()> {
    let repo = sysroot.repo();
    let Some(missing) = repo.missing_objects(commit)? else { return Ok(()) };
    require(repo.path(), missing.unpacked + RESERVE, "the new image")?;
    if missing.archived > 0 {
        events.message(format!("Will download: the image ({} at most)", human_size(missing.archived)));
    }
    Ok(())
}

/// Room in /boot for the kernel and initramfs of a commit, which libostree copies there unless a deployment has the same
/// ones. Where there is too little, deployments that are neither booted, nor the one to go back to, nor pinned are
/// dropped, the oldest first.
pub fn make_room_in_boot(sysroot: &Sysroot, stateroot: &str, commit: &str, events: &dyn EventSink) -> Result<()> {
    let repo = sysroot.repo();
    let files = repo.kernel_files(commit)?;
    let known = |d: &Deployment| repo.kernel_files(&d.checksum()).is_ok_and(|other| other == files);
    if files.is_empty() || sysroot.deployments().iter().any(|d| !d.is_staged() && known(d)) {
        return Ok(());
    }
    let boot = sysroot.path().join("boot");
    let needed = files.iter().map(|(_, size)| size).sum::<u64>() + BOOT_RESERVE;
    let what = "the new kernel and its initramfs";
    loop {
        let lacking = match require(&boot, needed, what) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let all = sysroot.deployments();
        let Some(oldest) = expendable(&all, stateroot) else { return Err(lacking) };
        events.message(format!("Dropping deployment {} to make room in {}", oldest.name(), boot.display()));
        let left: Vec<Deployment> = all.iter().filter(|d| !d.is_same(&oldest)).cloned().collect();
        sysroot.write_deployments(&left)?;
        sysroot.clean_up_deployments()?;
    }
}

/// The last deployment in boot order that may go for another one. The booted one stays (where none is, the first), and so
/// does the one after it: what is good for certain if the booted one turns out not to be.
fn expendable(all: &[Deployment], stateroot: &str) -> Option<Deployment> {
    let mine: Vec<&Deployment> = all.iter().filter(|d| d.stateroot() == stateroot).collect();
    let booted = mine.iter().position(|d| d.booted).unwrap_or(0);
    let may_go = |(index, d): &(usize, &&Deployment)| {
        *index != booted && *index != booted + 1 && !d.is_pinned() && !d.is_staged()
    };
    mine.iter().enumerate().filter(may_go).map(|(_, d)| (*d).clone()).next_back()
}

fn require(path: &Path, needed: u64, what: &str) -> Result<()> {
    let stat = rustix::fs::statvfs(path).context(|| format!("Asking for the free space of {}", path.display()))?;
    let free = stat.f_bavail * stat.f_frsize;
    if free < needed {
        return Err(Error::new(
            ErrorKind::Space,
            format!("Not enough space on {}: {} needed for {what}, {} free", path.display(), human_size(needed), human_size(free)),
        )
        .hint("Nothing was downloaded or changed. Free space, or drop old deployments: apt-ostree cleanup --rollback --pending"));
    }
    Ok(())
}

fn kernel_size(tree: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(tree.join("usr/lib/modules")) else { return 0 };
    entries
        .flatten()
        .flat_map(|e| [e.path().join("vmlinuz"), e.path().join("initramfs.img")])
        .filter_map(|p| std::fs::metadata(p).ok())
        .map(|m| m.len())
        .sum()
}

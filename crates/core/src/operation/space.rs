//! Room on / and /boot, checked before anything is downloaded.

use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::operation::transaction::human_size;
use crate::plan::Plan;

/// What a transaction needs beyond packages: the directory tree of a checkout, metadata, dpkg's own copies. Bytes.
const RESERVE: u64 = 64 << 20;

/// Refuses a plan that cannot fit. `base_tree` tells how large kernel and initramfs are.
pub fn check(sysroot: &Path, plan: &Plan, base_tree: &Path) -> Result<()> {
    require(sysroot, plan.download_size + plan.installed_size + RESERVE, "the packages and the new deployment")?;
    if plan.kernel_change || plan.initramfs {
        let boot = sysroot.join("boot");
        if boot.is_dir() {
            require(&boot, kernel_size(base_tree) * 2, "the new kernel and its initramfs")?;
        }
    }
    Ok(())
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

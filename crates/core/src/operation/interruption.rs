//! After a worker was killed: what it could not clean up itself. Its mounts ended with its mount namespace, and
//! libostree removes its own leftovers with the next deployment; what stays is scratch space.

use std::path::Path;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use crate::error::Result;
use crate::repo::Repo;
use crate::sysroot::Sysroot;

/// Empties the scratch space of a sysroot, unless somebody else is at work there by now. In a mount namespace of its own,
/// where libostree makes a read-only `/sysroot` writable, and so on a thread of its own.
pub fn clean_sysroot(path: &Path) -> Result<()> {
    let clean = || -> Result<()> {
        if rustix::process::geteuid().is_root() {
            #[expect(
                deprecated,
                reason = "neither flag has influence on memory or descriptors; its replacement is unsafe"
            )]
            rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS)?;
            rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        }
        let mut sysroot = Sysroot::open_for_change(path)?;
        sysroot.lock()?;
        crate::repo::remove_tree(&sysroot.repo().extension("tmp")?)
    };
    std::thread::scope(|scope| match scope.spawn(clean).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The same for the repository of a compose.
pub fn clean_repo(path: &Path) -> Result<()> {
    if !path.join("config").exists() {
        return Ok(());
    }
    super::compose_tree::empty_scratch(&Repo::open(path)?)
}

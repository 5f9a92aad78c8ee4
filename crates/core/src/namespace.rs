//! Work in another mount namespace than the process.
//!
//! The kernel keeps the namespace by thread, and lets only such a thread change it that shares root and working directory with no
//! other. So it is a thread of its own, which ends with the work.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{Context, Result};

/// Where the mounts are everybody's: in the mount namespace of process 1.
pub fn of_the_system<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        let enter = || -> Result<()> {
            let namespace = File::open("/proc/1/ns/mnt")?;
            unshare(UnshareFlags::FS)?;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
            Ok(())
        };
        enter().context(|| "Entering the mount namespace of the system")?;
        work()
    })
}

/// Where mounts are nobody else's, and end with the work. Without root, where the process is.
pub fn of_its_own<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        if rustix::process::geteuid().is_root() {
            unshare(UnshareFlags::FS | UnshareFlags::NEWNS)?;
            rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        }
        work()
    })
}

fn unshare(flags: UnshareFlags) -> Result<()> {
    #[expect(deprecated, reason = "these flags have no influence on memory or descriptors; its replacement is unsafe")]
    rustix::thread::unshare(flags)?;
    Ok(())
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_stays_where_it_is() {
        let here = || std::fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let before = here();
        let there = of_its_own(|| Ok(here())).unwrap();
        assert_eq!(there != before, rustix::process::geteuid().is_root());
        assert_eq!(here(), before);
    }
}

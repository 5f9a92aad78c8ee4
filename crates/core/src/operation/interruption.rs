//! After a worker was killed: what it could not clean up itself. Its mounts ended with its mount namespace, and
//! libostree removes its own leftovers with the next deployment; what stays is scratch space.

use std::path::Path;

use crate::error::Result;
use crate::namespace;
use crate::repo::Repo;
use crate::sysroot::Sysroot;

/// Empties the scratch space of a sysroot, unless somebody else is at work there by now. In a mount namespace of its own,
/// where libostree makes a read-only `/sysroot` writable.
pub fn clean_sysroot(path: &Path) -> Result<()> {
    namespace::of_its_own(|| {
        let mut sysroot = Sysroot::open_for_change(path)?;
        sysroot.lock()?;
        crate::repo::remove_tree(&sysroot.repo().extension("tmp")?)
    })
}

/// The same for the repository of a compose.
pub fn clean_repo(path: &Path) -> Result<()> {
    if !path.join("config").exists() {
        return Ok(());
    }
    super::compose_tree::empty_scratch(&Repo::open(path)?)
}

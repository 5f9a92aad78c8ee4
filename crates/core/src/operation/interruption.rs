//! After a worker was killed: what it could not clean up itself. Its mounts ended with its mount namespace, and
//! libostree removes its own leftovers with the next deployment; what stays is scratch space.

use std::path::Path;

use crate::error::Result;
use crate::repo::Repo;
use crate::sysroot::Sysroot;

/// Empties the scratch space of a sysroot, unless somebody else is at work there by now.
pub fn clean_sysroot(path: &Path) -> Result<()> {
    let mut sysroot = Sysroot::open(path)?;
    sysroot.lock()?;
    crate::repo::remove_tree(&sysroot.repo().extension("tmp")?)
}

/// The same for the repository of a compose.
pub fn clean_repo(path: &Path) -> Result<()> {
    if !path.join("config").exists() {
        return Ok(());
    }
    super::compose_tree::empty_scratch(&Repo::open(path)?)
}

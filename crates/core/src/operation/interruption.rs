//! After a worker was killed: what it could not clean up itself. Its mounts ended with its mount namespace, and
//! libostree removes its own leftovers with the next deployment; what stays is scratch space.

use std::path::Path;

use super::{Request, Verb};
use crate::error::Result;
use crate::repo::Repo;
use crate::sysroot::Sysroot;

/// Empties the scratch space that the request used, unless somebody else is at work there by now.
pub fn clean_up(request: &Request) -> Result<()> {
    if let Verb::ComposeTree(compose) = &request.verb {
        return match &compose.repo {
            Some(repo) if repo.join("config").exists() => super::compose_tree::empty_scratch(&Repo::open(repo)?),
            _ => Ok(()),
        };
    }
    clean_sysroot(&request.sysroot)
}

fn clean_sysroot(path: &Path) -> Result<()> {
    let mut sysroot = Sysroot::open(path)?;
    sysroot.lock()?;
    crate::repo::remove_tree(&sysroot.repo().extension("tmp")?)
}

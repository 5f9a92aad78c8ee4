//! After a worker was killed: what it could not clean up itself. Its mounts ended with its mount namespace, and
//! libostree removes its own leftovers with the next deployment; what stays is scratch space, and somebody to be told.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use crate::error::{Error, Result};
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

/// The error of a worker that ended without a report.
pub fn died(status: ExitStatus) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    };
    let error = Error::failed(format!("The worker process ended without a report ({how})"))
        .hint("Nothing was changed: a new deployment appears only once it is complete.");
    // 137: a program in between tells of signal 9 so.
    if status.signal() == Some(9) || status.code() == Some(137) {
        return error.hint("The kernel kills processes when memory runs out; `journalctl -k` would say so.");
    }
    error
}

/// The error of a worker that was ended because memory ran out.
pub fn out_of_memory() -> Error {
    Error::failed("The transaction needed more memory than there is, and was ended")
        .hint("Nothing was changed: a new deployment appears only once it is complete.")
        .hint("A transaction may use four fifths of the memory, and swap: add some, end other programs, or change fewer packages at once.")
        .hint("`journalctl -k` says which program took it.")
}

//! `finalize-deployment`: lets the next shutdown apply the staged deployment that `--lock-finalization` kept back.

use super::Report;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};

/// What is expected of the staged deployment.
#[derive(Clone, Copy, Debug)]
pub struct Finalize<'a> {
    /// Its base commit, as the caller staged it: another one came in between otherwise.
    pub checksum: Option<&'a str>,
    pub allow_missing_checksum: bool,
    /// No error when it was not locked.
    pub allow_unlocked: bool,
}

pub fn execute(transaction: &mut Transaction<'_>, finalize: Finalize<'_>) -> Result<Report> {
    if finalize.checksum.is_none() && !finalize.allow_missing_checksum {
        return Err(Error::usage("Missing expected checksum")
            .hint("Give the checksum of the base commit, or --allow-missing-checksum."));
    }
    let pending = transaction.pending()?;
    if !pending.is_staged() {
        return Err(Error::new(ErrorKind::NotFound, "No staged deployment")
            .hint("Only what was staged since the last boot can be finalized; see `apt-ostree status`."));
    }
    let found = transaction.base_of(&pending)?.checksum;
    if let Some(expected) = finalize.checksum.filter(|c| **c != found) {
        return Err(Error::usage(format!("Expected staged base checksum {expected}, but found {found}"))
            .hint("Another deployment was staged in between. Nothing was changed."));
    }
    if pending.is_finalization_locked() {
        transaction.sysroot.toggle_finalization(&pending)?;
    } else if !finalize.allow_unlocked {
        return Err(Error::usage("Staged deployment already unlocked")
            .hint("It is applied by the next shutdown. --allow-unlocked reboots all the same."));
    }
    let line = format!("Finalized deployment; rebooting into {found}");
    Ok(Report { changed: true, staged: true, lines: vec![line], ..Report::default() })
}

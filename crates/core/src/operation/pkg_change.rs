//! `install` and `uninstall`: change the requests, keep the base.

use super::transaction::Transaction;
use super::{PackageChanges, Report};
use crate::error::Result;

pub fn execute(transaction: &mut Transaction<'_>, changes: &PackageChanges) -> Result<Report> {
    let pending = transaction.pending()?;
    let mut origin = pending.origin()?;
    if !transaction.change_requests(&mut origin, changes)? {
        return Ok(Report { lines: vec!["No change.".into()], ..Report::default() });
    }
    let base = transaction.base_of(&pending)?;
    let mut report = transaction.make_deployment(&origin, &base.checksum, changes, false)?;
    if !report.changed && report.lines.is_empty() {
        report.lines.push("No change.".into());
    }
    Ok(report)
}

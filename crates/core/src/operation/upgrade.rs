//! `upgrade`: a newer base from the remote (or the local branch), and everything layered on it again from scratch.

use super::transaction::Transaction;
use super::{PackageChanges, Report, UpdateInfo};
use crate::error::Result;
use crate::model::origin::Origin;
use crate::repo::metadata::CommitInfo;

/// What `upgrade` was asked besides the package changes.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade<'a> {
    pub changes: &'a PackageChanges,
    pub allow_downgrade: bool,
    /// Deploy again what failed to boot.
    pub allow_failed: bool,
    /// Tell whether there is an update; change nothing. `--preview` tells what it brings as well: the plan is made
    /// either way, so both come from what the real run would do.
    pub preview: bool,
}

pub fn execute(transaction: &mut Transaction<'_>, upgrade: &Upgrade<'_>) -> Result<Report> {
    if !upgrade.allow_failed {
        transaction.refuse_failed_boots();
    }
    let pending = transaction.pending()?;
    let mut origin = pending.origin()?;
    let current = transaction.base_of(&pending)?;
    transaction.change_requests(&mut origin, upgrade.changes)?;
    if origin.is_checksum() {
        if upgrade.changes.is_empty() {
            let line = match &origin.custom {
                Some((_, description)) => format!("Pinned to commit by custom origin: {description}"),
                None => "Pinned to commit; no upgrade available".to_owned(),
            };
            return Ok(Report { lines: vec![line], ..Report::default() });
        }
        return transaction.make_deployment(&origin, &current.checksum, upgrade.changes, false);
    }
    // A commit chosen by `deploy` is not a lasting pin.
    origin.override_commit = None;
    let target = newest_base(transaction, &origin)?;
    if !upgrade.allow_downgrade {
        super::refuse_older(&current, &target, "use --allow-downgrade to permit")?;
    }
    if upgrade.preview {
        return preview(transaction, &origin, &current, &target, upgrade.changes);
    }
    let mut report = transaction.make_deployment(&origin, &target.checksum, upgrade.changes, true)?;
    if !report.changed && report.lines.is_empty() {
        report.lines.push("No upgrade available.".into());
    }
    Ok(report)
}

/// Pulls the branch of the origin and returns its head.
pub fn newest_base(transaction: &mut Transaction<'_>, origin: &Origin) -> Result<CommitInfo> {
    let (remote, branch) = origin.remote_and_branch().unwrap_or((None, &origin.refspec));
    let commit = match remote {
        Some(remote) if !transaction.options.cache_only => {
            transaction.repo.pull(remote, branch, None, transaction.ports.events)?
        }
        Some(remote) => transaction.repo.resolve(&format!("{remote}:{branch}"))?,
        None => transaction.repo.resolve(branch)?,
    };
    transaction.repo.info(&commit)
}

/// The plan of the upgrade without carrying it out.
fn preview(
    transaction: &mut Transaction<'_>,
    origin: &Origin,
    current: &CommitInfo,
    target: &CommitInfo,
    changes: &PackageChanges,
) -> Result<Report> {
    let options = super::Options { dry_run: true, ..transaction.options.clone() };
    let report = transaction.with_options(&options, |t| t.make_deployment(origin, &target.checksum, changes, true))?;
    let new_base = current.checksum != target.checksum;
    let changed = new_base || !report.diff.is_empty();
    if !changed {
        return Ok(Report { lines: vec!["No updates available.".into()], ..Report::default() });
    }
    let update = UpdateInfo {
        commit: target.checksum.clone(),
        version: target.version.clone(),
        timestamp: target.timestamp,
        new_base,
        diff: report.diff.clone(),
    };
    Ok(Report { update: Some(update), ..report })
}

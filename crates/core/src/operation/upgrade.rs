//! `upgrade`: a newer base from the remote (or the local branch), and everything layered on it again from scratch.
//!
//! What comes of it is remembered as the update that is known of ([`cached_update`]), whether it was only looked at, is
//! downloaded, or waits for the next boot.

use super::transaction::{PLANNING_FILES, Transaction};
use super::{PackageChanges, Report};
use crate::advisories;
use crate::cached_update::{self, CachedUpdate, Layer, RpmDiff};
use crate::error::{Error, Result};
use crate::event::EventSinkExt;
use crate::model::advisory;
use crate::model::diff::{ChangeKind, PackageDiff};
use crate::model::origin::Origin;
use crate::model::settings::UpdatePolicy;
use crate::plan::Plan;
use crate::repo::DPKG_STATUS;
use crate::repo::metadata::CommitInfo;
use crate::status::Trust;

/// rpm-ostree's words, of `upgrade` and of `--check` and `--preview`.
const NO_UPGRADE: &str = "No upgrade available.";
const NO_UPDATES: &str = "No updates available.";

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
            remember(transaction, None);
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
    let look_only = upgrade.preview || transaction.options.dry_run;
    let target = if look_only { look_at_newest(transaction, &origin)? } else { newest_base(transaction, &origin)? };
    if !upgrade.allow_downgrade {
        super::refuse_older(&current, &target, "use --allow-downgrade to permit")?;
    }
    if upgrade.preview {
        return preview(transaction, &origin, &target, upgrade.changes);
    }
    let outcome = transaction.make_deployment(&origin, &target.checksum, upgrade.changes, true);
    if matches!(&outcome, Err(error) if error.nothing_to_do) && !transaction.options.dry_run {
        remember(transaction, None);
    }
    let mut report = outcome?;
    if !transaction.options.dry_run {
        conclude(transaction, &origin, &target, &mut report)?;
    }
    if !report.changed && report.lines.is_empty() {
        report.lines.push(NO_UPGRADE.into());
    }
    Ok(report)
}

/// What there is to say and to remember of an upgrade that was done, or had nothing to do.
fn conclude(transaction: &Transaction<'_>, origin: &Origin, target: &CommitInfo, report: &mut Report) -> Result<()> {
    // Nothing was made, because the pending deployment is the newest one.
    if !report.changed && report.plan.is_none() {
        let pending = transaction.repo.info(&transaction.pending()?.checksum())?;
        if let Some(failed) = failed_update(transaction, &pending.checksum, pending.state_digest.as_deref())? {
            remember(transaction, None);
            report.lines = vec![failed, NO_UPGRADE.into()];
            return Ok(());
        }
    }
    let update = available(transaction, origin, target, report.plan.as_deref());
    let update = update.unwrap_or_else(|e| without_update(transaction, &e));
    remember(transaction, update.as_ref());
    report.reboot_due = !report.changed && update.is_some_and(|update| waits_for_reboot(transaction, &update));
    Ok(())
}

/// Why what an upgrade comes to is none: it failed to boot, and something else runs.
fn failed_update(transaction: &Transaction<'_>, commit: &str, digest: Option<&str>) -> Result<Option<String>> {
    let Some(failed) = transaction.failed_again(commit, digest) else { return Ok(None) };
    if let Some(current) = transaction.sysroot.current(&transaction.stateroot) {
        let running = transaction.repo.info(&current.checksum())?;
        if running.checksum == commit || (digest.is_some() && running.state_digest.as_deref() == digest) {
            return Ok(None);
        }
    }
    Ok(Some(format!("The update {failed}")))
}

/// The policy `apply` restarts a machine also where the update was staged by somebody else: nobody else would, and the next
/// run finds nothing to do again.
fn waits_for_reboot(transaction: &Transaction<'_>, update: &CachedUpdate) -> bool {
    let applies = || transaction.settings().is_ok_and(|settings| settings.update_policy == UpdatePolicy::Apply);
    let deployments = transaction.sysroot.deployments();
    let staged = deployments.first().filter(|first| first.is_staged() && !first.is_finalization_locked());
    transaction.options.reboot && staged.is_some_and(|first| update.deployment == Some(first.id())) && applies()
}

/// Pulls the branch of the origin and returns its head.
pub fn newest_base(transaction: &mut Transaction<'_>, origin: &Origin) -> Result<CommitInfo> {
    let (remote, branch) = origin.remote_and_branch().unwrap_or((None, &origin.refspec));
    let commit = match remote {
        Some(remote) if !transaction.options.cache_only => {
            let (repo, events) = (&transaction.repo, transaction.ports.events);
            let head = repo.pull_head(remote, branch, events)?;
            super::space::check_pull(&transaction.sysroot, &head.checksum, events)?;
            repo.pull(remote, branch, None, events)?
        }
        Some(remote) => transaction.repo.resolve(&format!("{remote}:{branch}"))?,
        None => transaction.repo.resolve(branch)?,
    };
    transaction.require_whole(&commit, &origin.refspec)?;
    transaction.repo.info(&commit)
}

/// The head of the origin's branch with no more of it than a plan needs: an image is not downloaded to say that there is one.
pub fn look_at_newest(transaction: &mut Transaction<'_>, origin: &Origin) -> Result<CommitInfo> {
    let Some((Some(remote), branch)) = origin.remote_and_branch().filter(|_| !transaction.options.cache_only) else {
        return newest_base(transaction, origin);
    };
    let head = transaction.repo.pull_head(remote, branch, transaction.ports.events)?;
    look_at(transaction, origin, remote, &head)?;
    Ok(head)
}

/// Fetches the files of a commit that a plan of the origin's requests needs, unless all of it is here.
pub fn look_at(transaction: &Transaction<'_>, origin: &Origin, remote: &str, commit: &CommitInfo) -> Result<()> {
    let planning = if origin.is_layered() { PLANNING_FILES } else { &[] };
    // A commit that does not list its packages has them in dpkg's status only.
    let status = if commit.packages().is_none() { DPKG_STATUS } else { &[] };
    let files: Vec<String> = planning.iter().chain(status).map(|path| format!("/{path}")).collect();
    let repo = &transaction.repo;
    repo.note_looked_at(&commit.checksum)?;
    if files.is_empty() || !repo.is_partial(&commit.checksum)? {
        return Ok(());
    }
    repo.pull_files(remote, &commit.checksum, &files, transaction.ports.events)
}

/// The plan of the upgrade without carrying it out.
fn preview(
    transaction: &mut Transaction<'_>,
    origin: &Origin,
    target: &CommitInfo,
    changes: &PackageChanges,
) -> Result<Report> {
    let options = super::Options { dry_run: true, ..transaction.options.clone() };
    let report = transaction.with_options(&options, |t| {
        t.accept_failed_boots();
        t.make_deployment(origin, &target.checksum, changes, true)
    })?;
    let digest = report.plan.as_deref().filter(|_| origin.is_layered()).map(|plan| plan.input_digest.as_str());
    let commit = if digest.is_none() { &target.checksum } else { "" };
    if let Some(failed) = failed_update(transaction, commit, digest)? {
        remember(transaction, None);
        return Ok(Report { lines: vec![failed, NO_UPDATES.into()], ..Report::default() });
    }
    let update = available(transaction, origin, target, report.plan.as_deref())?;
    remember(transaction, update.as_ref());
    if update.is_none() {
        return Ok(Report { lines: vec![NO_UPDATES.into()], ..Report::default() });
    }
    Ok(Report { update: update.map(Box::new), ..report })
}

/// The update as it is told against what runs now; `None` where nothing would be newer. `plan` is what an upgrade would do;
/// without one it is done, and the pending deployment has it.
fn available(
    transaction: &Transaction<'_>,
    origin: &Origin,
    target: &CommitInfo,
    plan: Option<&Plan>,
) -> Result<Option<CachedUpdate>> {
    let (sysroot, repo, stateroot) = (&transaction.sysroot, &transaction.repo, &transaction.stateroot);
    let Some(current) = sysroot.current(stateroot) else { return Ok(None) };
    let running = repo.info(&current.checksum())?;
    let pending = sysroot.pending(stateroot)?;
    let waiting = repo.packages(&pending.checksum()).unwrap_or_default();
    let (packages, advisories) = match plan {
        Some(plan) => {
            let packages = plan.resulting_packages(&repo.packages(&target.checksum)?);
            let advisories = advisories::of_layered(target, plan, &packages, None);
            (packages, advisories)
        }
        None => (waiting.clone(), repo.info(&pending.checksum())?.advisories()),
    };
    let new_base = running.base() != target.checksum;
    let diff = PackageDiff::between(&repo.packages(&running.checksum).unwrap_or_default(), &packages);
    // What an installation that waits for the next boot adds is no update.
    let newer = diff.changes.iter().any(|c| matches!(c.kind, ChangeKind::Upgraded | ChangeKind::Downgraded));
    if !new_base && !newer && PackageDiff::between(&waiting, &packages).is_empty() {
        return Ok(None);
    }
    let staged = pending.is_staged()
        && waiting == packages
        && repo.info(&pending.checksum()).is_ok_and(|info| info.base() == target.checksum);
    let layered = |name: &str| !staged && plan.is_some_and(|p| p.install.iter().any(|i| i.id.name == name));
    let in_base = repo.packages(running.base()).unwrap_or_default();
    let layer = |id: &crate::model::package::PackageId| {
        // A base package that layering makes newer is one of the base still.
        let of_base = in_base.iter().any(|p| p.name == id.name);
        if layered(&id.name) && !of_base { Layer::Layered } else { Layer::Base }
    };
    let trust = match origin.remote_and_branch() {
        Some((Some(remote), _)) => Trust::read(repo, remote, &target.checksum),
        _ => Trust::default(),
    };
    Ok(Some(CachedUpdate {
        osname: stateroot.clone(),
        checksum: target.checksum.clone(),
        version: target.version.clone(),
        timestamp: target.timestamp,
        origin: origin.refspec.clone(),
        gpg_enabled: trust.gpg_enabled,
        signatures: trust.signatures,
        remote_error: trust.remote_error,
        ref_has_new_commit: new_base,
        rpm_diff: RpmDiff::new(&diff, layer),
        advisories: advisory::new_ones(&running.advisories(), &advisories, &diff),
        deployment: staged.then(|| pending.id()),
        update_sha256: running.checksum,
    }))
}

/// The upgrade itself is done: it is no failure that nothing can be told of it.
fn without_update(transaction: &Transaction<'_>, error: &Error) -> Option<CachedUpdate> {
    transaction.ports.events.warning(format!("What the update brings is not known: {error}"));
    None
}

fn remember(transaction: &Transaction<'_>, update: Option<&CachedUpdate>) {
    if let Err(error) = cached_update::store(&transaction.sysroot, &transaction.stateroot, update) {
        transaction.ports.events.warning(format!("The update is not remembered: {error}"));
    }
}

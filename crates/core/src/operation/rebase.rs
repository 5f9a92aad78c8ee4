//! `rebase REFSPEC [REVISION]`: another branch, remote or commit under the same requests.

use std::path::Path;

use super::deploy::{self, Revision};
use super::transaction::Transaction;
use super::{Rebase, Report};
use crate::error::{Error, ErrorKind, Result};
use crate::model::origin::{self, Origin};

pub fn execute(transaction: &mut Transaction<'_>, rebase: &Rebase) -> Result<Report> {
    let pending = transaction.pending()?;
    let old_origin = pending.origin()?;
    let current = transaction.base_of(&pending)?;
    let mut origin = old_origin.clone();
    let local_repo;
    (origin.refspec, local_repo) = new_refspec(&old_origin, rebase)?;
    if origin.refspec == old_origin.refspec && rebase.revision.is_none() {
        return Err(Error::usage(format!("Old and new refs are equal: {}", origin.refspec)));
    }
    origin.override_commit = None;
    origin.custom = custom_origin(rebase, &origin)?;
    transaction.change_requests(&mut origin, &rebase.changes)?;
    let events = transaction.ports.events;
    let look_only = transaction.options.dry_run;
    let commit = if let Some(repo) = &local_repo {
        transaction.repo.pull_local(Path::new(repo), &origin.refspec, events)?
    } else if origin.is_checksum() {
        transaction.repo.resolve(&origin.refspec)?
    } else if let Some(revision) = &rebase.revision {
        let commit = deploy::resolve(transaction, &origin, &Revision::parse(revision)?, false, look_only)?;
        origin.override_commit = Some(commit.clone());
        commit
    } else {
        check_remote(transaction, &origin)?;
        let newest = if look_only { super::upgrade::look_at_newest } else { super::upgrade::newest_base };
        newest(transaction, &origin)?.checksum
    };
    let target = transaction.repo.info(&commit)?;
    if rebase.disallow_downgrade {
        super::refuse_older(&current, &target, "--disallow-downgrade was given")?;
    }
    let report = transaction.make_deployment(&origin, &commit, &rebase.changes, true)?;
    if report.changed && !transaction.options.dry_run && !rebase.skip_purge {
        purge(transaction, &old_origin)?;
    }
    Ok(report)
}

/// Without the prefix of old.
fn plain(refspec: &str) -> &str {
    refspec.strip_prefix("ostree://").unwrap_or(refspec)
}

/// Whether it names a repository by its path.
pub fn is_path(refspec: &str) -> bool {
    plain(refspec).starts_with('/')
}

/// The refspec meant by the argument and the options, and the local repository it names, if any.
fn new_refspec(old: &Origin, rebase: &Rebase) -> Result<(String, Option<String>)> {
    let (old_remote, old_branch) = old.remote_and_branch().map_or((None, None), |(r, b)| (r, Some(b)));
    let text = plain(&rebase.refspec);
    for prefix in [
        "ostree-unverified-registry:",
        "ostree-unverified-image:",
        "ostree-image-signed:",
        "ostree-remote-registry:",
        "ostree-remote-image:",
    ] {
        if text.starts_with(prefix) {
            return Err(Error::usage(format!("Container image origins are not supported: {text}"))
                .hint("Rebase to REMOTE:BRANCH or /path/to/repo:BRANCH."));
        }
    }
    if text.is_empty() {
        let remote = rebase.remote.as_deref().or(old_remote);
        let branch = rebase.branch.as_deref().or(old_branch);
        return match (remote, branch) {
            _ if rebase.remote.is_none() && rebase.branch.is_none() => {
                Err(Error::usage("Must specify a refspec, --branch or --remote"))
            }
            (Some(remote), Some(branch)) => Ok((format!("{remote}:{branch}"), None)),
            (None, Some(branch)) => Ok((branch.to_owned(), None)),
            (_, None) => Err(Error::usage("The current origin has no branch; name one with --branch")),
        };
    }
    if rebase.remote.is_some() || rebase.branch.is_some() {
        return Err(Error::usage("Give either a refspec or --branch/--remote, not both"));
    }
    if is_path(text) {
        let (repo, branch) = text
            .rsplit_once(':')
            .filter(|(_, b)| !b.is_empty())
            .ok_or_else(|| Error::usage(format!("Expected /path/to/repo:BRANCH, found '{text}'")))?;
        return Ok((branch.to_owned(), Some(repo.to_owned())));
    }
    let text = text.strip_prefix(':').map_or(text, |t| t);
    if origin::is_checksum(text) {
        return Ok((text.to_owned(), None));
    }
    Ok(match text.split_once(':') {
        Some((remote, "")) => {
            let branch =
                old_branch.ok_or_else(|| Error::usage("The current origin has no branch; write REMOTE:BRANCH"))?;
            (format!("{remote}:{branch}"), None)
        }
        Some(_) => (text.to_owned(), None),
        None if rebase.refspec.starts_with(':') => (text.to_owned(), None),
        None => match old_remote {
            Some(remote) => (format!("{remote}:{text}"), None),
            None => (text.to_owned(), None),
        },
    })
}

fn custom_origin(rebase: &Rebase, origin: &Origin) -> Result<Option<(String, String)>> {
    match (&rebase.custom_origin_url, &rebase.custom_origin_description) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::usage("--custom-origin-url requires --custom-origin-description")),
        _ if !origin.is_checksum() => Err(Error::usage("A custom origin requires a checksum refspec")),
        (url, Some(description)) => Ok(Some((url.clone().unwrap_or_default(), description.clone()))),
    }
}

fn check_remote(transaction: &Transaction<'_>, origin: &Origin) -> Result<()> {
    if let Some((Some(remote), branch)) = origin.remote_and_branch() {
        if !transaction.repo.has_remote(remote) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("No such remote '{remote}' (from the refspec {remote}:{branch})"),
            )
            .hint(format!("Add it: ostree remote add {remote} URL")));
        }
    }
    Ok(())
}

/// Drops the old branch's ref. A local branch stays while another deployment follows it: unlike a remote's, nothing could
/// bring it back after a rollback.
fn purge(transaction: &Transaction<'_>, old: &Origin) -> Result<()> {
    let Some((remote, branch)) = old.remote_and_branch() else { return Ok(()) };
    let deployments = transaction.sysroot.deployments();
    let used = || deployments.iter().filter_map(|d| d.origin().ok()).any(|o| o.refspec == old.refspec);
    if remote.is_none() && used() {
        return Ok(());
    }
    transaction.repo.drop_ref(remote, branch)
}

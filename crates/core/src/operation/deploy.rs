//! `deploy REVISION`: one commit of the origin's branch, by checksum or version.

use super::transaction::Transaction;
use super::{PackageChanges, Report};
use crate::error::{Error, ErrorKind, Result};
use crate::model::origin::{self, Origin};

/// What `deploy` was asked besides the package changes.
#[derive(Clone, Copy, Debug)]
pub struct Deploy<'a> {
    pub revision: &'a str,
    pub changes: &'a PackageChanges,
    pub preview: bool,
    pub skip_branch_check: bool,
    pub disallow_downgrade: bool,
}

/// How a revision is written: 64 hex digits, `revision=SHA`, `version=V`, or a bare version.
#[derive(Debug, PartialEq, Eq)]
pub enum Revision {
    Checksum(String),
    Version(String),
}

impl Revision {
    pub fn parse(text: &str) -> Result<Self> {
        let checksum = |sha: &str| {
            if origin::is_checksum(sha) {
                Ok(Self::Checksum(sha.to_owned()))
            } else {
                Err(Error::usage(format!("Invalid commit checksum '{sha}'"))
                    .hint("A checksum has 64 hexadecimal digits."))
            }
        };
        match text.split_once('=') {
            Some(("revision", sha)) => checksum(sha),
            Some(("version", "")) => Err(Error::usage("No version after 'version='")),
            Some(("version", version)) => Ok(Self::Version(version.to_owned())),
            _ if text.is_empty() => Err(Error::usage("The revision is empty")),
            _ if origin::is_checksum(text) => checksum(text),
            _ => Ok(Self::Version(text.to_owned())),
        }
    }
}

pub fn execute(transaction: &mut Transaction<'_>, deploy: &Deploy<'_>) -> Result<Report> {
    let pending = transaction.pending()?;
    let mut origin = pending.origin()?;
    let current = transaction.base_of(&pending)?;
    transaction.change_requests(&mut origin, deploy.changes)?;
    let look_only = deploy.preview || transaction.options.dry_run;
    let revision = Revision::parse(deploy.revision)?;
    let commit = resolve(transaction, &origin, &revision, deploy.skip_branch_check, look_only)?;
    let target = transaction.repo.info(&commit)?;
    if deploy.disallow_downgrade {
        super::refuse_older(&current, &target, "--disallow-downgrade was given")?;
    }
    if origin.is_checksum() {
        origin.refspec.clone_from(&commit);
    } else {
        origin.override_commit = Some(commit.clone());
    }
    let preview = super::Options { dry_run: true, ..transaction.options.clone() };
    let mut report = if deploy.preview {
        let report =
            transaction.with_options(&preview, |t| t.make_deployment(&origin, &commit, deploy.changes, false))?;
        // It shows trees: that the origin would name another commit is nothing to show.
        let digest = report.plan.as_deref().filter(|_| origin.is_layered()).map(|plan| &plan.input_digest);
        let same = match digest {
            Some(digest) => transaction.repo.info(&pending.checksum())?.state_digest.as_ref() == Some(digest),
            None => commit == pending.checksum(),
        };
        Report { changed: !same, ..report }
    } else {
        transaction.make_deployment(&origin, &commit, deploy.changes, false)?
    };
    if !report.changed && report.lines.is_empty() {
        report.lines.push("No change.".into());
    }
    Ok(report)
}

/// Finds the commit, fetching the branch's history for a version and the commit itself when it is not here; with `look_only`
/// no more of it than a plan needs.
pub fn resolve(
    transaction: &mut Transaction<'_>,
    origin: &Origin,
    revision: &Revision,
    skip_branch_check: bool,
    look_only: bool,
) -> Result<String> {
    let repo = &transaction.repo;
    let events = transaction.ports.events;
    let Some((remote, branch)) = origin.remote_and_branch() else {
        return match revision {
            Revision::Version(_) => Err(Error::usage("Cannot look up version while pinned to commit")),
            Revision::Checksum(commit) => repo.resolve(commit),
        };
    };
    let offline = transaction.options.cache_only;
    let head = match remote {
        Some(remote) if !offline => repo.pull_history(remote, branch)?,
        Some(remote) => repo.resolve(&format!("{remote}:{branch}"))?,
        None => repo.resolve(branch)?,
    };
    let commit = match revision {
        Revision::Version(version) => find_in_history(transaction, &head, |info_version, _| {
            info_version == Some(version)
        })?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("Version {version} not found in {}", origin.refspec)))?,
        Revision::Checksum(commit) => {
            let known = find_in_history(transaction, &head, |_, checksum| checksum == commit)?;
            if known.is_none() && !skip_branch_check {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("Checksum {commit} not found in {}", origin.refspec),
                )
                .hint("Use --skip-branch-check to deploy a commit that is not in the history of the branch."));
            }
            commit.clone()
        }
    };
    match remote {
        Some(remote) if !offline && look_only => {
            if !repo.has_commit(&commit)? {
                repo.pull_files(remote, &commit, &[], events)?;
            }
            super::upgrade::look_at(transaction, origin, remote, &repo.info(&commit)?)?;
            Ok(commit)
        }
        Some(remote) if !offline => {
            // A commit of another branch is not here at all yet.
            if repo.has_commit(&commit)? {
                super::space::check_pull(&transaction.sysroot, &commit, events)?;
            }
            repo.pull(remote, branch, Some(&commit), events)
        }
        _ => transaction.repo.resolve(&commit),
    }
}

/// Walks from `head` to its ancestors, as far as their commit objects are here.
fn find_in_history(
    transaction: &Transaction<'_>,
    head: &str,
    matches: impl Fn(Option<&String>, &str) -> bool,
) -> Result<Option<String>> {
    let mut next = Some(head.to_owned());
    while let Some(commit) = next {
        if !transaction.repo.has_commit(&commit)? {
            return Ok(None);
        }
        let info = transaction.repo.info(&commit)?;
        if matches(info.version.as_ref(), &commit) {
            return Ok(Some(commit));
        }
        next = info.parent;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_forms() {
        let sha = "0123456789abcdef".repeat(4);
        assert_eq!(Revision::parse(&sha).unwrap(), Revision::Checksum(sha.clone()));
        assert_eq!(Revision::parse(&format!("revision={sha}")).unwrap(), Revision::Checksum(sha));
        assert_eq!(Revision::parse("version=13.2").unwrap(), Revision::Version("13.2".into()));
        assert_eq!(Revision::parse("13.2").unwrap(), Revision::Version("13.2".into()));
        assert!(Revision::parse("revision=xyz").is_err());
        assert!(Revision::parse("").is_err());
    }
}

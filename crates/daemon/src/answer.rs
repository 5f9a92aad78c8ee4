//! The answers to the service's questions, read with libostree. Called in a process of its own (`internals answer`); takes no lock
//! and changes nothing but what [`Question::Clean`] removes.

use std::path::Path;

use apt_ostree_core::compose::input::NamedSource;
use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::operation::{interruption, modify_source};
use apt_ostree_core::repo::Repo;
use apt_ostree_core::status::SysrootStatus;
use apt_ostree_core::sysroot::{Deployment, Sysroot};
use apt_ostree_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use crate::question::{self, Difference, Question};

/// The answer as JSON.
pub fn answer(path: &Path, question: &Question) -> Result<Json> {
    if matches!(question, Question::Clean) {
        interruption::clean_sysroot(path)?;
        return Ok(Json::Null);
    }
    let sysroot = Sysroot::open(path)?;
    match question {
        Question::Sysroot => document(&read(&sysroot)?),
        Question::BootConfig { stateroot, id, pending } => boot_config(&sysroot, stateroot, id, *pending),
        Question::Sources { stateroot } => document(&sources(&sysroot, stateroot)?),
        Question::DeploymentsDiff { stateroot, from, to } => {
            let (from, to) = (find(&sysroot, stateroot, from, true)?, find(&sysroot, stateroot, to, false)?);
            let repo = sysroot.repo();
            document(&PackageDiff::between(&repo.packages(&from.checksum())?, &repo.packages(&to.checksum())?))
        }
        Question::RevisionDiff { stateroot, revision } => document(&revision_diff(&sysroot, stateroot, revision)?),
        Question::Clean => unreachable!("answered above: it opens the sysroot to change it"),
    }
}

fn document(value: &impl Serialize) -> Result<Json> {
    Ok(serde_json::to_value(value)?)
}

fn read(sysroot: &Sysroot) -> Result<question::Sysroot> {
    let status = SysrootStatus::read(sysroot)?;
    Ok(question::Sysroot {
        deployments: status.deployments.iter().map(serde_json::to_value).collect::<Result<_, _>>()?,
        cached_update: status.cached_update.map(serde_json::to_value).transpose()?,
    })
}

/// A deployment by its id; the booted one (or the one that boots next) for an empty id.
fn find(sysroot: &Sysroot, stateroot: &str, id: &str, default_booted: bool) -> Result<Deployment> {
    let list = sysroot.deployments_of(stateroot);
    let found = match id {
        "" if default_booted => list.iter().find(|d| d.booted).or(list.first()),
        "" => list.first(),
        _ => list.iter().find(|d| format!("{}-{}", d.stateroot(), d.name()) == id),
    };
    found
        .cloned()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("Deployment with id '{}' not found", id.escape_debug())))
}

fn boot_config(sysroot: &Sysroot, stateroot: &str, id: &str, pending: bool) -> Result<Json> {
    let deployment = find(sysroot, stateroot, id, !pending)?;
    let mut entry = Map::from_iter([("staged".to_owned(), json!(deployment.is_staged()))]);
    let keys: &[&str] =
        if deployment.is_staged() { &["options"] } else { &["title", "linux", "initrd", "options", "version"] };
    for key in keys {
        if let Some(value) = deployment.boot_entry(key) {
            entry.insert((*key).to_owned(), json!(value));
        }
    }
    Ok(Json::Object(entry))
}

fn sources(sysroot: &Sysroot, stateroot: &str) -> Result<Vec<Json>> {
    let mut list = Vec::new();
    for NamedSource { id, source, .. } in modify_source::sources(sysroot, stateroot)? {
        let description = format!(
            "{} {} {}",
            source.uris.iter().map(|uri| without_password(uri)).collect::<Vec<_>>().join(" "),
            source.suites.join(" "),
            source.components.join(" ")
        );
        let is_devel =
            ["sid", "unstable", "experimental", "testing"].iter().any(|s| source.suites.iter().any(|x| x == s));
        list.push(json!({
            "id": id,
            "description": description.trim_end(),
            "is-devel": is_devel,
            "is-source": source.types.iter().all(|t| t == "deb-src"),
            "is-enabled": source.enabled,
        }));
    }
    Ok(list)
}

/// Anybody may ask, and a source may have the password of its archive in its address.
fn without_password(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let host = rest.split('/').next().unwrap_or_default();
    match host.rsplit_once('@') {
        Some((secret, _)) => format!("{scheme}://{}", &rest[secret.len() + 1..]),
        None => uri.to_owned(),
    }
}

fn revision_diff(sysroot: &Sysroot, stateroot: &str, revision: &str) -> Result<Difference> {
    let deployment = find(sysroot, stateroot, "", true)?;
    let origin = deployment.origin()?;
    let repo = sysroot.repo();
    let (commit, refspec) = resolve(&repo, &origin.refspec, revision)?;
    let target = repo.info(&commit)?;
    let base = repo.info(&deployment.checksum())?.base().to_owned();
    let mut details = Map::from_iter([
        ("osname".to_owned(), json!(deployment.stateroot())),
        ("checksum".to_owned(), json!(target.checksum)),
        ("timestamp".to_owned(), json!(target.timestamp)),
        ("origin".to_owned(), json!(refspec)),
    ]);
    if let Some(version) = &target.version {
        details.insert("version".to_owned(), json!(version));
    }
    if let Some(Ok(enabled)) = refspec.split_once(':').map(|(remote, _)| repo.gpg_verify_enabled(remote)) {
        details.insert("gpg-enabled".to_owned(), json!(enabled));
    }
    let packages = PackageDiff::between(&repo.packages(&base)?, &repo.packages(&target.checksum)?);
    Ok(Difference { packages, target: details })
}

/// A checksum, `revision=`, a version of the origin's branch, a refspec, or a branch of the origin's remote: its commit, and what the
/// origin would be then.
fn resolve(repo: &Repo, origin: &str, revision: &str) -> Result<(String, String)> {
    let plain = revision.strip_prefix("revision=").unwrap_or(revision);
    let remote = origin.split_once(':').map(|(remote, _)| remote);
    let candidates = [Some(plain.to_owned()), remote.map(|remote| format!("{remote}:{plain}"))];
    for candidate in candidates.into_iter().flatten() {
        if let Ok(Some(commit)) = repo.try_resolve(&candidate) {
            // A commit by its name is one of the same branch.
            let refspec = if candidate == commit { origin.to_owned() } else { candidate };
            return Ok((commit, refspec));
        }
    }
    let version = plain.strip_prefix("version=").unwrap_or(plain);
    let mut next = repo.try_resolve(origin)?;
    while let Some(info) = next.map(|commit| repo.try_info(&commit)).transpose()?.flatten() {
        if info.version.as_deref() == Some(version) {
            return Ok((info.checksum, origin.to_owned()));
        }
        next = info.parent;
    }
    Err(Error::new(ErrorKind::NotFound, format!("'{}' is not in the repository", revision.escape_debug()))
        .hint("The Download… method of the same name fetches it."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay() {
        for (uri, shown) in [
            ("https://user:secret@host/debian", "https://host/debian"),
            ("http://host/a@b", "http://host/a@b"),
            ("file:/srv/x", "file:/srv/x"),
        ] {
            assert_eq!(without_password(uri), shown);
        }
    }
}

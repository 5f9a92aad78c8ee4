//! Questions about a sysroot: boot configuration, apt sources, package differences. Read with libostree on a thread of its own;
//! takes no lock and changes nothing.

use std::sync::Arc;

use apt_ostree_bus::{Dict, DiffEntry};
use apt_ostree_core::compose::input::NamedSource;
use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::operation::modify_source;
use apt_ostree_core::repo::Repo;
use apt_ostree_core::repo::metadata::CommitInfo;
use apt_ostree_core::sysroot::{Deployment, Sysroot};
use apt_ostree_core::{Error, ErrorKind, Result};
use zbus::zvariant::Value;

use crate::refusal::{Answer, Refusal};
use crate::state::Daemon;
use crate::wire;

/// Runs a question away from the thread that answers the bus.
async fn ask<T: Send + 'static>(
    daemon: &Arc<Daemon>,
    question: impl FnOnce(&Sysroot) -> Result<T> + Send + 'static,
) -> Answer<T> {
    let _turn = daemon.turn().await?;
    let sysroot = daemon.sysroot.clone();
    let answer = tokio::task::spawn_blocking(move || question(&Sysroot::open(&sysroot)?)).await;
    Ok(answer.map_err(|e| Refusal::failed(e.to_string()))??)
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

/// `title`, `linux`, `initrd`, `options`, `version` and `staged`; a staged deployment has no entry yet, only arguments.
pub(crate) async fn boot_config(daemon: &Arc<Daemon>, stateroot: &str, id: &str, pending: bool) -> Answer<Dict> {
    let (stateroot, id) = (stateroot.to_owned(), id.to_owned());
    ask(daemon, move |sysroot| {
        let deployment = find(sysroot, &stateroot, &id, !pending)?;
        let mut dict = wire::plain([("staged", Value::from(deployment.is_staged()))]);
        let keys: &[&str] =
            if deployment.is_staged() { &["options"] } else { &["title", "linux", "initrd", "options", "version"] };
        for key in keys {
            if let Some(value) = deployment.boot_entry(key) {
                dict.extend(wire::plain([(*key, Value::from(value))]));
            }
        }
        Ok(dict)
    })
    .await
}

/// The apt sources of the machine, with those that are switched off.
pub(crate) async fn sources(daemon: &Arc<Daemon>, stateroot: &str) -> Answer<Vec<Dict>> {
    let stateroot = stateroot.to_owned();
    ask(daemon, move |sysroot| {
        let mut list = Vec::new();
        for NamedSource { id, source, .. } in modify_source::sources(sysroot, &stateroot)? {
            let description = format!(
                "{} {} {}",
                source.uris.iter().map(|uri| without_password(uri)).collect::<Vec<_>>().join(" "),
                source.suites.join(" "),
                source.components.join(" ")
            );
            let is_devel =
                ["sid", "unstable", "experimental", "testing"].iter().any(|s| source.suites.iter().any(|x| x == s));
            list.push(wire::plain([
                ("id", Value::from(id)),
                ("description", Value::from(description.trim_end().to_owned())),
                ("is-devel", Value::from(is_devel)),
                ("is-source", Value::from(source.types.iter().all(|t| t == "deb-src"))),
                ("is-enabled", Value::from(source.enabled)),
            ]));
        }
        Ok(list)
    })
    .await
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

/// What is different between two deployments: the booted one and the next one for empty ids.
pub(crate) async fn deployments_diff(
    daemon: &Arc<Daemon>,
    stateroot: &str,
    from: &str,
    to: &str,
) -> Answer<Vec<DiffEntry>> {
    let (stateroot, from, to) = (stateroot.to_owned(), from.to_owned(), to.to_owned());
    ask(daemon, move |sysroot| {
        let (from, to) = (find(sysroot, &stateroot, &from, true)?, find(sysroot, &stateroot, &to, false)?);
        let repo = sysroot.repo();
        let diff = PackageDiff::between(&repo.packages(&from.checksum())?, &repo.packages(&to.checksum())?);
        Ok(wire::package_diff(&diff))
    })
    .await
}

/// From the booted deployment to a revision or ref of the repository.
pub(crate) async fn revision_diff(
    daemon: &Arc<Daemon>,
    stateroot: &str,
    revision: &str,
) -> Answer<(Vec<DiffEntry>, Dict)> {
    let (stateroot, revision) = (stateroot.to_owned(), revision.to_owned());
    ask(daemon, move |sysroot| {
        let deployment = find(sysroot, &stateroot, "", true)?;
        let origin = deployment.origin()?;
        let repo = sysroot.repo();
        let (commit, refspec) = resolve(&repo, &origin.refspec, &revision)?;
        difference(sysroot, &deployment, &repo.info(&commit)?, &refspec)
    })
    .await
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

/// Packages of the base against those of the target, and what is to say of the target.
fn difference(
    sysroot: &Sysroot,
    deployment: &Deployment,
    target: &CommitInfo,
    origin: &str,
) -> Result<(Vec<DiffEntry>, Dict)> {
    let repo = sysroot.repo();
    let base = repo.info(&deployment.checksum())?.base().to_owned();
    let diff = PackageDiff::between(&repo.packages(&base)?, &repo.packages(&target.checksum)?);
    let mut details = wire::plain([
        ("osname", Value::from(deployment.stateroot())),
        ("checksum", Value::from(target.checksum.clone())),
        ("timestamp", Value::from(target.timestamp)),
        ("origin", Value::from(origin.to_owned())),
    ]);
    if let Some(version) = &target.version {
        details.extend(wire::plain([("version", Value::from(version.clone()))]));
    }
    if let Some((remote, _)) = origin.split_once(':') {
        if let Ok(enabled) = repo.gpg_verify_enabled(remote) {
            details.extend(wire::plain([("gpg-enabled", Value::from(enabled))]));
        }
    }
    Ok((wire::package_diff(&diff), details))
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

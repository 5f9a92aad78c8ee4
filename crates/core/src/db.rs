//! The read side of package lists: what a commit contains, without checking it out.
//!
//! Source is the list in the commit's metadata (`rpmostree.rpmdb.pkglist`), else the dpkg database inside the commit.

use std::io::Read;

use ostree::gio;
use ostree::gio::prelude::*;
use ostree::glib;
use serde_json::{Value, json};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::diff::{PackageChange, PackageDiff};
use crate::model::package::{PackageId, installed_from_status};
use crate::model::version;
use crate::status::{full_version, load_commit};

/// An opened repository, for callers that only hand it on.
pub use ostree::Repo;

/// Where a dpkg database can lie in a commit; the first that exists counts.
const DPKG_STATUS: &[&str] = &["usr/lib/sysimage/dpkg/status", "var/lib/dpkg/status", "usr/share/dpkg/database/status"];

/// Opens a repository by its path.
pub fn open_repo(path: &std::path::Path) -> Result<ostree::Repo> {
    let repo = ostree::Repo::new_for_path(path);
    repo.open(gio::Cancellable::NONE).context(|| format!("Opening the repository {}", path.display()))?;
    Ok(repo)
}

/// The checksum of a ref, an (abbreviated) checksum, or `REV^`. `NotFound` if there is none.
pub fn resolve(repo: &ostree::Repo, rev: &str) -> Result<String> {
    let found = repo.resolve_rev(rev, false).context(|| format!("Resolving {rev}"))?;
    found.map(String::from).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("Refspec '{rev}' not found")))
}

/// The base of a layered commit, the commit itself otherwise.
pub fn base_of(repo: &ostree::Repo, checksum: &str) -> Result<String> {
    let info = load_commit(repo, checksum)?;
    Ok(info.filter(|i| i.is_layered()).and_then(|i| i.parent).unwrap_or_else(|| checksum.to_owned()))
}

/// The packages of a commit, sorted by name, architecture and version.
pub fn packages(repo: &ostree::Repo, checksum: &str) -> Result<Vec<PackageId>> {
    let info = load_commit(repo, checksum)?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("No commit {checksum} in the repository")))?;
    if let Some(list) = info.package_list() {
        let mut list: Vec<_> = list
            .into_iter()
            .map(|(name, epoch, version, release, arch)| PackageId {
                name,
                version: full_version(&epoch, &version, &release),
                arch,
            })
            .collect();
        list.sort();
        return Ok(list);
    }
    let (root, _) = repo.read_commit(checksum, gio::Cancellable::NONE).context(|| format!("Reading {checksum}"))?;
    for path in DPKG_STATUS {
        if let Some(text) = read_file(repo, &root, path).context(|| format!("Reading {path} of commit {checksum}"))? {
            return Ok(installed_from_status(&String::from_utf8_lossy(&text)));
        }
    }
    Err(Error::new(ErrorKind::NotFound, format!("Commit {checksum} has neither a package list nor a dpkg database"))
        .hint("It was not made from Debian packages, or it was pulled as metadata only."))
}

/// The content of a regular file of a commit; `None` if there is none (a metadata-only pull has no directories either).
fn read_file(repo: &Repo, root: &gio::File, path: &str) -> Result<Option<Vec<u8>>> {
    let Ok(file) = root.resolve_relative_path(path).downcast::<ostree::RepoFile>() else { return Ok(None) };
    match file.ensure_resolved() {
        Ok(()) => {}
        Err(e) if e.matches(gio::IOErrorEnum::NotFound) || e.matches(gio::IOErrorEnum::NotDirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    }
    let (stream, ..) = repo.load_file(&file.checksum(), gio::Cancellable::NONE)?;
    let Some(stream) = stream else { return Ok(None) };
    let mut content = Vec::new();
    stream.into_read().read_to_end(&mut content)?;
    Ok(Some(content))
}

/// The package database version of `db version`: the number of packages, a colon, and the SHA256 of their NEVRAs, one
/// a line in byte order (`apt-ostree db list REV | sed -n 's/^ //p' | LC_ALL=C sort | sha256sum`).
pub fn database_version(packages: &[PackageId]) -> String {
    let mut lines: Vec<_> = packages.iter().map(|p| p.nevra() + "\n").collect();
    lines.sort();
    let mut sum = glib::Checksum::new(glib::ChecksumType::Sha256).expect("glib has SHA256");
    lines.iter().for_each(|line| sum.update(line.as_bytes()));
    format!("{}:{}", lines.len(), sum.string().unwrap_or_default())
}

/// `a(sua{sv})` of `db diff --format=json`, sorted by kind, then name.
pub fn diff_json(diff: &PackageDiff) -> Value {
    let mut changes: Vec<&PackageChange> = diff.changes.iter().collect();
    changes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let package = |id: &PackageId| json!([id.name, id.version, id.arch]);
    changes
        .iter()
        .map(|c| {
            let mut details = serde_json::Map::new();
            if let Some(id) = &c.previous {
                details.insert("PreviousPackage".into(), package(id));
            }
            if let Some(id) = &c.new {
                details.insert("NewPackage".into(), package(id));
            }
            json!([c.name, c.kind as u32, details])
        })
        .collect()
}

/// `[name, epoch, version, release, arch]` of `db list --format=json`.
pub fn package_json(id: &PackageId) -> Value {
    let (epoch, upstream, revision) = version::split(&id.version);
    json!([id.name, epoch, upstream, revision, id.arch])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_a_diff() {
        let id = |n: &str, v: &str| PackageId::new(n, v, "amd64");
        let diff = PackageDiff::between(&[id("a", "1:1-1"), id("z", "1")], &[id("a", "1:1-2"), id("b", "3")]);
        assert_eq!(
            diff_json(&diff).to_string(),
            r#"[["b",0,{"NewPackage":["b","3","amd64"]}],["z",1,{"PreviousPackage":["z","1","amd64"]}],["a",2,{"PreviousPackage":["a","1:1-1","amd64"],"NewPackage":["a","1:1-2","amd64"]}]]"#
        );
        assert_eq!(package_json(&id("a", "1:1-1")).to_string(), r#"["a","1","1","1","amd64"]"#);
    }

    #[test]
    fn database_version_is_sha256_of_lines() {
        let list = [PackageId::new("b", "1", "all"), PackageId::new("a", "2", "all")];
        // printf 'a-2.all\nb-1.all\n' | sha256sum
        assert_eq!(database_version(&list), "2:d9954341a1104cd47b9517dfb83ce67ef153b9140fa4437dfddf39e2c47b730b");
    }
}

//! Debian's changelogs in trees: for `db diff --changelogs` what they say between two versions.
//!
//! Read from the commits, without a checkout: `/usr/share/doc/PKG/changelog.Debian.gz`, or `changelog.gz` of a native package
//! (policy 12.7), and `changelog.Debian.ARCH.gz` of a binary-only rebuild, of the newer version's tree. A tree that was composed
//! without documentation has no changelogs; whoever asks may have them fetched.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Context, Error, Result};
use crate::model::changelog::{self, Entry};
use crate::model::diff::{ChangeKind, PackageDiff};
use crate::model::package::PackageId;
use crate::repo::Repo;

/// In the order in which they are looked for.
const NAMES: &[&str] = &["changelog.Debian.gz", "changelog.Debian", "changelog.gz", "changelog"];

/// What is known of a package's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    Entries(Vec<Entry>),
    /// There is no changelog in the tree, and none was fetched.
    Missing,
    /// Why it could not be fetched.
    Failed(String),
}

/// Fetches the changelog of a version that the tree has none of; `None` where nobody offers it.
pub type Fetch<'a> = &'a mut dyn FnMut(&PackageId) -> Result<Option<String>>;

/// The changes between the versions of every package that was up- or downgraded, by its name.
pub fn of_diff(
    repo: &Repo,
    from: &str,
    to: &str,
    diff: &PackageDiff,
    mut fetch: Option<Fetch<'_>>,
) -> Result<BTreeMap<String, Changes>> {
    let mut found = BTreeMap::new();
    for change in &diff.changes {
        let (Some(previous), Some(new)) = (&change.previous, &change.new) else { continue };
        // The entries in between are those of the newer version.
        let (commit, old, new) = match change.kind {
            ChangeKind::Downgraded => (from, new, previous),
            _ => (to, previous, new),
        };
        // A rebuild without a change of the source has its entry in a file of its own.
        let rebuilds = read(repo, commit, &change.name, &[&format!("changelog.Debian.{}.gz", new.arch)])?;
        let main = read(repo, commit, &change.name, NAMES)?;
        let between = |texts: &[String]| {
            let all: Vec<Entry> = texts.iter().flat_map(|text| changelog::parse(text)).collect();
            Changes::Entries(changelog::between(&all, &old.version, &new.version))
        };
        let texts: Vec<String> = rebuilds.into_iter().chain(main).collect();
        let changes = match &mut fetch {
            _ if !texts.is_empty() => between(&texts),
            None => Changes::Missing,
            Some(fetch) => match fetch(new) {
                Ok(Some(text)) => between(&[text]),
                Ok(None) => Changes::Missing,
                Err(e) => Changes::Failed(e.to_string()),
            },
        };
        found.insert(change.name.clone(), changes);
    }
    Ok(found)
}

/// The first of these files of a package's documentation.
fn read(repo: &Repo, commit: &str, package: &str, names: &[&str]) -> Result<Option<String>> {
    for name in names {
        let path = format!("usr/share/doc/{package}/{name}");
        let Some(content) = repo.read_through_links(commit, &path)? else { continue };
        let content = if content.starts_with(&[0x1f, 0x8b]) {
            gunzip(&content).context(|| format!("Reading /{path} of commit {commit}"))?
        } else {
            content
        };
        return Ok(Some(String::from_utf8_lossy(&content).into_owned()));
    }
    Ok(None)
}

/// The changelog of a package in a tree that is a directory; empty where it has none. Links lead to the tree only.
pub fn in_tree(root: &Path, package: &str) -> Vec<Entry> {
    let read = |name: &str| -> Option<Vec<u8>> {
        let root = std::fs::File::open(root).ok()?;
        let path = format!("usr/share/doc/{package}/{name}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let mut content = Vec::new();
        std::fs::File::from(file).read_to_end(&mut content).ok()?;
        if content.starts_with(&[0x1f, 0x8b]) { gunzip(&content).ok() } else { Some(content) }
    };
    let content = NAMES.iter().find_map(|name| read(name)).unwrap_or_default();
    changelog::parse(&String::from_utf8_lossy(&content))
}

/// gzip(1) is essential in Debian.
fn gunzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .args(["--decompress", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(|| "Starting gzip")?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let content = content.to_vec();
    // It writes before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&content));
    let output = child.wait_with_output().context(|| "Running gzip")?;
    let _ = writer.join();
    if output.status.success() { Ok(output.stdout) } else { Err(Error::failed("gzip cannot read it")) }
}

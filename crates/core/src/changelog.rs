//! `db diff --changelogs`: what Debian's changelogs in the trees say between two versions.
//!
//! Read from the commits, without a checkout: `/usr/share/doc/PKG/changelog.Debian.gz`, or `changelog.gz` of a native package
//! (policy 12.7), of the newer version's tree. Nothing is downloaded: a tree that was composed without documentation has no
//! changelogs.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::model::changelog::{self, Entry};
use crate::model::diff::{ChangeKind, PackageDiff};
use crate::repo::Repo;

/// In the order in which they are looked for.
const NAMES: &[&str] = &["changelog.Debian.gz", "changelog.Debian", "changelog.gz", "changelog"];

/// `None`: there is no changelog in the tree.
pub type Changelogs = BTreeMap<String, Option<Vec<Entry>>>;

/// The entries between the versions of every package that was up- or downgraded, by its name.
pub fn of_diff(repo: &Repo, from: &str, to: &str, diff: &PackageDiff) -> Result<Changelogs> {
    let mut found = Changelogs::new();
    for change in &diff.changes {
        let (Some(previous), Some(new)) = (&change.previous, &change.new) else { continue };
        // The entries in between are those of the newer version.
        let (commit, old, new) = match change.kind {
            ChangeKind::Downgraded => (from, new, previous),
            _ => (to, previous, new),
        };
        let text = read(repo, commit, &change.name)?;
        let entries = text.map(|text| changelog::between(&changelog::parse(&text), &old.version, &new.version));
        found.insert(change.name.clone(), entries);
    }
    Ok(found)
}

fn read(repo: &Repo, commit: &str, package: &str) -> Result<Option<String>> {
    for name in NAMES {
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

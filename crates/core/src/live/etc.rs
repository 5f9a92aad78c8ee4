//! `/etc` follows the tree: a file that nobody changed becomes the new default, every other stays as it is.
//!
//! The next boot merges in the same way (libostree, `merge_configuration_from`), from the booted default to that of the
//! pending deployment, so what is done here is no change of the administrator's in its eyes, or the one it makes itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::repo::Repo;
use crate::repo::trees::{Change, Object, object_of};

/// Defaults in a commit.
const DEFAULTS: &str = "usr/etc";
/// New files are written here first, so that they come by rename. Below /etc, as that may be a mount of its own.
const ASIDE: &str = ".apt-ostree-live";

/// What became of `/etc`, paths relative to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcUpdate {
    pub changed: Vec<PathBuf>,
    /// Changed by the administrator, so kept, although the defaults differ.
    pub kept: Vec<PathBuf>,
}

/// A path whose defaults differ.
struct Default {
    /// What it may be without having been changed by anyone.
    known: Vec<Option<Object>>,
    new: Option<Object>,
}

/// Brings `etc` from the defaults of any of the commits `known` to those of `target`. Several, because a run that was
/// interrupted leaves some files at one and some at another.
pub fn merge(repo: &Repo, known: &[&str], target: &str, etc: &Path) -> Result<EtcUpdate> {
    let defaults = defaults(repo, known, target)?;
    let aside = etc.join(ASIDE);
    crate::repo::remove_tree(&aside)?;
    let mut update = EtcUpdate::default();
    let (mut writes, mut removals) = (Vec::new(), Vec::new());
    for (path, default) in &defaults {
        let current = object_of(&etc.join(path))?;
        let like = |one: &Option<Object>, other: &Option<Object>| match (one, other) {
            (Some(one), Some(other)) => one.is_like(other),
            (None, None) => true,
            _ => false,
        };
        if like(&current, &default.new) {
            continue;
        }
        if !default.known.iter().any(|known| like(known, &current)) || !real_parents(etc, path) {
            update.kept.push(path.clone());
            continue;
        }
        if default.new.is_some() { writes.push((path, default)) } else { removals.push((path, current)) }
    }
    // First: a directory may become a file. What is in a directory goes before it.
    for (path, current) in removals.into_iter().rev() {
        let full = etc.join(path);
        let removed = if current.is_some_and(|c| c.is_directory()) {
            // Files of the administrator's in it keep it.
            fs::remove_dir(&full).is_ok()
        } else {
            fs::remove_file(&full).context(|| format!("Removing {}", full.display()))?;
            true
        };
        if removed { &mut update.changed } else { &mut update.kept }.push(path.clone());
    }
    for (path, default) in writes {
        // The directory may be one that is kept away, or that could not be made.
        let parent = etc.join(path).parent().is_some_and(Path::is_dir);
        let done = parent && write(repo, target, etc, &aside, path, default.new.as_ref())?;
        if done { &mut update.changed } else { &mut update.kept }.push(path.clone());
    }
    crate::repo::remove_tree(&aside)?;
    Ok(update)
}

/// Paths below /etc that one of the known commits has not like the target, in order.
fn defaults(repo: &Repo, known: &[&str], target: &str) -> Result<BTreeMap<PathBuf, Default>> {
    let mut differences: Vec<BTreeMap<PathBuf, Change>> = Vec::new();
    for commit in known {
        let changes = repo.differences(commit, target, DEFAULTS)?.into_iter();
        let relative = changes.filter_map(|c| Some((c.path.strip_prefix(DEFAULTS).ok()?.to_owned(), c)));
        // /etc itself is not ours to change.
        differences.push(relative.filter(|(path, _)| !path.as_os_str().is_empty()).collect());
    }
    let mut defaults = BTreeMap::new();
    for (path, change) in differences.iter().flatten() {
        let new = &change.new;
        let old = |d: &BTreeMap<PathBuf, Change>| d.get(path).map_or_else(|| new.clone(), |c| c.old.clone());
        let known = differences.iter().map(old).collect();
        defaults.entry(path.clone()).or_insert_with(|| Default { known, new: new.clone() });
    }
    Ok(defaults)
}

/// Whether every directory above the path is one, or not there: a link of the administrator's may lead anywhere.
fn real_parents(etc: &Path, path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .filter(|p| !p.as_os_str().is_empty())
        .all(|parent| fs::symlink_metadata(etc.join(parent)).map_or(true, |m| m.is_dir()))
}

/// False when something of the administrator's is in the way.
fn write(repo: &Repo, target: &str, etc: &Path, aside: &Path, path: &Path, new: Option<&Object>) -> Result<bool> {
    let full = etc.join(path);
    let there = fs::symlink_metadata(&full).ok();
    if let Some(Object::Directory { metadata, .. }) = new {
        if there.is_some_and(|m| !m.is_dir()) {
            fs::remove_file(&full).context(|| format!("Removing {}", full.display()))?;
        }
        repo.make_directory(&full, metadata)?;
        return Ok(true);
    }
    if there.is_some_and(|m| m.is_dir()) && fs::remove_dir(&full).is_err() {
        return Ok(false);
    }
    let name = path.file_name().ok_or_else(|| Error::failed("/etc is no file"))?;
    fs::create_dir_all(aside).context(|| format!("Creating {}", aside.display()))?;
    repo.check_out(target, &Path::new(DEFAULTS).join(path), aside, true)?;
    fs::rename(aside.join(name), &full).context(|| format!("Replacing {}", full.display()))?;
    Ok(true)
}

//! What differs between the booted commit and another one, as the upper one of two lower layers of an overlay: changed
//! and new files are hard links to objects, removed ones are whiteouts.
//!
//! Layout: `REPO/extensions/apt-ostree/live/COMMIT/usr`, valid for one boot; see [`super::state::forget_earlier`].

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};

use super::KERNEL;
use crate::error::{Context, Error, Result};
use crate::repo::Repo;
use crate::repo::trees::{Change, Object};

/// The layer that makes `/usr` of `booted` that of `target`, but for the kernel; built unless it is there.
pub fn build(repo: &Repo, booted: &str, target: &str) -> Result<PathBuf> {
    let dir = repo.extension("live")?;
    let (partial, done) = (dir.join(format!("{target}.partial")), dir.join(target));
    if done.exists() {
        return Ok(done);
    }
    crate::repo::remove_tree(&partial)?;
    let changes = repo.differences(booted, target, "usr")?;
    let mut layer = Layer { repo, target, root: partial.clone(), made: BTreeSet::new() };
    fs::create_dir_all(&layer.root).context(|| format!("Creating {}", layer.root.display()))?;
    layer.directory(Path::new("usr"))?;
    let mut whole: Option<PathBuf> = None;
    for change in changes.iter().filter(|c| !c.path.starts_with(KERNEL)) {
        if whole.as_ref().is_some_and(|done| change.path.starts_with(done)) {
            continue;
        }
        if layer.apply(change).context(|| format!("Preparing /{}", change.path.display()))? {
            whole = Some(change.path.clone());
        }
    }
    fs::rename(&partial, &done).context(|| format!("Renaming {}", partial.display()))?;
    Ok(done)
}

pub fn remove_all(repo: &Repo) -> Result<()> {
    crate::repo::remove_tree(&repo.extension("live")?)
}

struct Layer<'a> {
    repo: &'a Repo,
    target: &'a str,
    root: PathBuf,
    made: BTreeSet<PathBuf>,
}

impl Layer<'_> {
    /// True when everything below the path is done with it.
    fn apply(&mut self, change: &Change) -> Result<bool> {
        let parent = change.path.parent().ok_or_else(|| Error::failed("The root of a commit is no change"))?;
        match (&change.old, &change.new) {
            (_, None) => {
                self.directory(parent)?;
                let path = self.root.join(&change.path);
                // overlayfs: a character device with device number 0:0.
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?;
                lchown(&path, Some(0), Some(0))?;
                Ok(true)
            }
            (Some(Object::Directory { .. }), Some(Object::Directory { .. })) => {
                self.directory(&change.path)?;
                Ok(false)
            }
            (_, Some(_)) => {
                self.directory(parent)?;
                self.repo.check_out(self.target, &change.path, &self.root.join(parent), false)?;
                Ok(true)
            }
        }
    }

    /// Makes a directory that both trees have, and those above it: an overlay shows the upper one's owner and mode.
    fn directory(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        match self.repo.object_at(self.target, path)? {
            Some(Object::Directory { metadata, .. }) => self.repo.make_directory(&self.root.join(path), &metadata)?,
            _ => return Err(Error::failed(format!("/{} is no directory in {}", path.display(), self.target))),
        }
        self.made.insert(path.to_owned());
        Ok(())
    }
}

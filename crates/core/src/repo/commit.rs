//! Writing commits: a whole tree (compose), or only what an overlay changed (layering).
//!
//! The second costs what the change costs: the base commit's directory tree is loaded lazily, the upper layer's
//! files are moved into the repository, its whiteouts and opaque directories become removals.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use ostree::gio;
use ostree::glib::Variant;
use ostree::prelude::*;
use ostree::{MutableTree, RepoCommitModifier, RepoCommitModifierFlags};

use super::Repo;
use crate::error::{Context, Error, Result};

/// How much a commit wrote.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitStats {
    pub metadata_total: usize,
    pub metadata_written: usize,
    pub content_total: usize,
    pub content_written: usize,
    pub content_bytes_written: u64,
    pub cache_hits: usize,
}

/// What a commit is called and says.
#[derive(Debug)]
pub struct CommitSpec<'a> {
    pub parent: Option<&'a str>,
    pub subject: &'a str,
    pub metadata: &'a Variant,
    /// Seconds since the epoch; the time of the commit.
    pub timestamp: u64,
}

/// Top-level directories whose overlay content never belongs to a commit: mount points of the sandbox.
const NEVER_COMMITTED: &[&str] = &["etc", "var", "run", "tmp", "proc", "sys", "dev", "boot", "sysroot"];

impl Repo {
    /// Commits `base` plus the upper layer of an overlay mount over its checkout. Consumes the upper layer.
    /// Flushed to disk when this returns; no ref points at it yet.
    pub fn commit_overlay(&self, base: &str, upper: &Path, spec: &CommitSpec<'_>) -> Result<(String, CommitStats)> {
        for name in NEVER_COMMITTED {
            super::remove_tree(&upper.join(name))?;
        }
        let mtree = MutableTree::from_commit(&self.inner, base).context(|| format!("Loading the tree of {base}"))?;
        // The upper root takes the mode of whoever made it; the deployment root keeps the base's.
        let root_metadata = mtree.metadata_checksum();
        apply_removals(&mtree, upper).context(|| "Applying removals")?;
        self.write_tree(&mtree, upper, Some(root_metadata.as_str()), spec)
    }

    /// Commits a directory as it is. Consumes it.
    pub fn commit_directory(&self, root: &Path, spec: &CommitSpec<'_>) -> Result<(String, CommitStats)> {
        self.write_tree(&MutableTree::new(), root, None, spec)
    }

    fn write_tree(
        &self,
        mtree: &MutableTree,
        dir: &Path,
        root_metadata: Option<&str>,
        spec: &CommitSpec<'_>,
    ) -> Result<(String, CommitStats)> {
        let repo = &self.inner;
        let was_disabled = repo.is_disable_fsync();
        repo.set_disable_fsync(true);
        let result = (|| -> Result<(String, CommitStats)> {
            let transaction = repo.auto_transaction(gio::Cancellable::NONE)?;
            let modifier = RepoCommitModifier::new(RepoCommitModifierFlags::CONSUME, None);
            let path = dir.to_str().ok_or_else(|| Error::failed(format!("{} is not UTF-8", dir.display())))?;
            repo.write_dfd_to_mtree(rustix::fs::CWD.as_raw_fd(), path, mtree, Some(&modifier), gio::Cancellable::NONE)
                .context(|| format!("Writing {path} to the repository"))?;
            if let Some(checksum) = root_metadata {
                mtree.set_metadata_checksum(checksum);
            }
            let root = repo.write_mtree(mtree, gio::Cancellable::NONE).context(|| "Writing directory metadata")?;
            let root = root
                .downcast::<ostree::RepoFile>()
                .map_err(|_| Error::failed("libostree returned no repository file"))?;
            let checksum = repo.write_commit_with_time(
                spec.parent,
                Some(spec.subject),
                None,
                Some(spec.metadata),
                &root,
                spec.timestamp,
                gio::Cancellable::NONE,
            )?;
            let stats = transaction.commit(gio::Cancellable::NONE)?;
            let stats = CommitStats {
                metadata_total: stats.get_metadata_objects_total(),
                metadata_written: stats.get_metadata_objects_written(),
                content_total: stats.get_content_objects_total(),
                content_written: stats.get_content_objects_written(),
                content_bytes_written: stats.get_content_bytes_written(),
                cache_hits: 0,
            };
            Ok((checksum.into(), stats))
        })();
        repo.set_disable_fsync(was_disabled);
        let done = result.context(|| "Writing the commit")?;
        self.sync()?;
        Ok(done)
    }
}

/// Turns the whiteouts and opaque directories of an overlay's upper layer into removals from `mtree`, and deletes
/// them and overlayfs' private attributes from the layer, so that what is left can be written as it is.
fn apply_removals(mtree: &MutableTree, dir: &Path) -> Result<()> {
    strip_overlay_attributes(dir)?;
    for entry in fs::read_dir(dir).context(|| format!("Reading {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        let name =
            name.to_str().ok_or_else(|| Error::failed(format!("The file name {} is not UTF-8", path.display())))?;
        let metadata = fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        // overlayfs: a whiteout is a character device with device number 0:0.
        if kind.is_char_device() && metadata.rdev() == 0 {
            mtree.remove(name, true).context(|| format!("Removing {}", path.display()))?;
            fs::remove_file(&path)?;
        } else if kind.is_dir() {
            let opaque = overlay_attribute(&path, "trusted.overlay.opaque").is_some_and(|v| v == b"y");
            let (_, existing) = lookup(mtree, name)?;
            if opaque || existing.is_none() {
                mtree.remove(name, true)?;
                drop_special_files(&path)?;
            } else if let Some(subtree) = existing {
                apply_removals(&subtree, &path)?;
            }
        } else if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
            fs::remove_file(&path)?;
        } else {
            strip_overlay_attributes(&path)?;
            // A file takes the place of a directory: libostree refuses that unless the directory goes first.
            if lookup(mtree, name)?.1.is_some() {
                mtree.remove(name, true)?;
            }
        }
    }
    Ok(())
}

/// A directory that is wholly the layer's: nothing to remove from the base, but special files cannot be committed
/// and overlayfs' attributes must not be.
fn drop_special_files(dir: &Path) -> Result<()> {
    strip_overlay_attributes(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            drop_special_files(&entry.path())?;
        } else if kind.is_file() || kind.is_symlink() {
            strip_overlay_attributes(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn lookup(mtree: &MutableTree, name: &str) -> Result<(bool, Option<MutableTree>)> {
    match mtree.lookup(name) {
        Ok((file, subtree)) => Ok((file.is_some(), subtree)),
        Err(e) if e.matches(gio::IOErrorEnum::NotFound) => Ok((false, None)),
        Err(e) => Err(e.into()),
    }
}

fn overlay_attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = [0u8; 16];
    let length = rustix::fs::lgetxattr(path, name, &mut buffer[..]).ok()?;
    Some(buffer[..length].to_vec())
}

/// Removes `trusted.overlay.*`. Everything else (`security.capability`, `user.*`) stays.
fn strip_overlay_attributes(path: &Path) -> Result<()> {
    let mut buffer = vec![0u8; 4096];
    let length = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e).context(|| format!("Listing the attributes of {}", path.display())),
    };
    for name in buffer[..length].split(|b| *b == 0).filter(|n| n.starts_with(b"trusted.overlay.")) {
        rustix::fs::lremovexattr(path, name).context(|| format!("Cleaning the attributes of {}", path.display()))?;
    }
    Ok(())
}

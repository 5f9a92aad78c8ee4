//! Writing commits: a whole tree (compose), or only what an overlay changed (layering).
//!
//! The second costs what the change costs: the base commit's directory tree is loaded lazily, the upper layer's
//! files are moved into the repository, its whiteouts and opaque directories become removals.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ostree::gio;
use ostree::glib::Variant;
use ostree::prelude::*;
use ostree::{MutableTree, RepoCommitFilterResult, RepoCommitModifier, RepoCommitModifierFlags};
use sha2::Digest;

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

/// Tells libostree what not to write.
type Filter = Box<dyn Fn(&ostree::Repo, &str, &gio::FileInfo) -> RepoCommitFilterResult>;

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
        self.write_tree(&mtree, upper, Some(root_metadata.as_str()), &Prepared::default(), spec)
    }

    /// Commits a directory as it is, and consumes it. What `prepared` holds and has not changed since is taken from
    /// there.
    pub fn commit_directory(
        &self,
        root: &Path,
        prepared: &Prepared,
        spec: &CommitSpec<'_>,
    ) -> Result<(String, CommitStats)> {
        self.write_tree(&MutableTree::new(), root, None, &prepared.unchanged(root)?, spec)
    }

    fn write_tree(
        &self,
        mtree: &MutableTree,
        dir: &Path,
        root_metadata: Option<&str>,
        prepared: &Prepared,
        spec: &CommitSpec<'_>,
    ) -> Result<(String, CommitStats)> {
        let repo = &self.inner;
        let was_disabled = repo.is_disable_fsync();
        repo.set_disable_fsync(true);
        let result = (|| -> Result<(String, CommitStats)> {
            let transaction = repo.auto_transaction(gio::Cancellable::NONE)?;
            let skip: BTreeSet<String> = prepared.0.keys().map(|path| format!("/{}", path.display())).collect();
            let filter = move |_: &ostree::Repo, path: &str, _: &gio::FileInfo| {
                if skip.contains(path) { RepoCommitFilterResult::Skip } else { RepoCommitFilterResult::Allow }
            };
            let filter: Option<Filter> = if prepared.0.is_empty() { None } else { Some(Box::new(filter)) };
            let modifier = RepoCommitModifier::new(RepoCommitModifierFlags::CONSUME, filter);
            let path = dir.to_str().ok_or_else(|| Error::failed(format!("{} is not UTF-8", dir.display())))?;
            repo.write_dfd_to_mtree(rustix::fs::CWD.as_raw_fd(), path, mtree, Some(&modifier), gio::Cancellable::NONE)
                .context(|| format!("Writing {path} to the repository"))?;
            prepared.attach(repo, mtree)?;
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

/// Directories whose content is in the repository already, by their path below the root.
#[derive(Debug, Default)]
pub struct Prepared(BTreeMap<PathBuf, PreparedDirectory>);

#[derive(Clone, Debug)]
struct PreparedDirectory {
    contents: String,
    metadata: String,
    stamp: String,
}

impl Prepared {
    /// Writes `directories` (below `root`) to the repository at `repo`, without consuming them. May run on a thread of
    /// its own, while something else reads the tree: it opens the repository for itself.
    pub fn write(repo: &Path, root: &Path, directories: &[PathBuf]) -> Result<Self> {
        let repo = Repo::open(repo)?.inner;
        repo.set_disable_fsync(true);
        let transaction = repo.auto_transaction(gio::Cancellable::NONE)?;
        let mut prepared = BTreeMap::new();
        for path in directories {
            let stamp = stamp(&root.join(path))?;
            let mtree = MutableTree::new();
            let modifier = RepoCommitModifier::new(RepoCommitModifierFlags::NONE, None);
            let full = root.join(path);
            let full = full.to_str().ok_or_else(|| Error::failed(format!("{} is not UTF-8", full.display())))?;
            repo.write_dfd_to_mtree(rustix::fs::CWD.as_raw_fd(), full, &mtree, Some(&modifier), gio::Cancellable::NONE)
                .context(|| format!("Writing {full} to the repository"))?;
            repo.write_mtree(&mtree, gio::Cancellable::NONE)?;
            let (contents, metadata) = (mtree.contents_checksum().into(), mtree.metadata_checksum().into());
            prepared.insert(path.clone(), PreparedDirectory { contents, metadata, stamp });
        }
        transaction.commit(gio::Cancellable::NONE)?;
        Ok(Self(prepared))
    }

    /// Those that are still what was written.
    fn unchanged(&self, root: &Path) -> Result<Self> {
        let mut same = BTreeMap::new();
        for (path, directory) in &self.0 {
            if root.join(path).is_dir() && stamp(&root.join(path))? == directory.stamp {
                same.insert(path.clone(), directory.clone());
            }
        }
        Ok(Self(same))
    }

    fn attach(&self, repo: &ostree::Repo, mtree: &MutableTree) -> Result<()> {
        for (path, directory) in &self.0 {
            let mut at = mtree.clone();
            for part in path.iter() {
                at = at.ensure_dir(&part.to_string_lossy())?;
            }
            at.set_metadata_checksum(&directory.metadata);
            if !at.fill_empty_from_dirtree(repo, &directory.contents, &directory.metadata) {
                return Err(Error::failed(format!("{} was written to the repository twice", path.display())));
            }
        }
        Ok(())
    }
}

/// Digest of what a change of anything below `dir` changes: the kernel sets a new ctime for content, owner, mode and
/// attributes alike.
fn stamp(dir: &Path) -> Result<String> {
    fn walk(path: &Path, hash: &mut sha2::Sha256) -> Result<()> {
        let m = fs::symlink_metadata(path)?;
        let line = format!("{} {} {} {} {}\n", path.display(), m.ino(), m.size(), m.ctime(), m.ctime_nsec());
        hash.update(line.as_bytes());
        if m.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(path)?.collect::<std::io::Result<_>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                walk(&entry.path(), hash)?;
            }
        }
        Ok(())
    }
    let mut hash = sha2::Sha256::new();
    walk(dir, &mut hash).context(|| format!("Reading {}", dir.display()))?;
    Ok(crate::digest::hex(&hash.finalize()))
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

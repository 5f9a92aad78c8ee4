//! The trees of commits, object by object: what differs between two, and putting single files of one into a directory.
//! Costs what the difference costs, as equal directories have equal checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use ostree::glib::Variant;
use ostree::prelude::*;
use ostree::{ObjectType, gio};

use super::Repo;
use crate::digest;
use crate::error::{Context, Error, Result};

/// What a path of a commit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A file or a symbolic link: content, owner, mode and attributes are in the checksum.
    File(String),
    Directory {
        /// Names and checksums of what is in it.
        contents: String,
        /// Owner, mode and attributes.
        metadata: String,
    },
}

impl Object {
    /// The same but for what a directory holds.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory { metadata, .. }, Self::Directory { metadata: other, .. }) => metadata == other,
            _ => self == other,
        }
    }

    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

/// One path that two commits do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Below the root of the commit: `usr/bin/htop`.
    pub path: PathBuf,
    pub old: Option<Object>,
    pub new: Option<Object>,
}

impl Repo {
    /// What a commit has at a path below its root.
    pub fn object_at(&self, commit: &str, path: &Path) -> Result<Option<Object>> {
        let mut object = self.root_of(commit)?;
        for part in path.iter() {
            let Object::Directory { contents, .. } = &object else { return Ok(None) };
            let name = part.to_str().ok_or_else(|| Error::failed(format!("{} is not UTF-8", path.display())))?;
            match self.entries(contents)?.remove(name) {
                Some(entry) => object = entry,
                None => return Ok(None),
            }
        }
        Ok(Some(object))
    }

    /// Every path at and below `path` that the two commits do not have alike, parents before what is in them. What
    /// is in a directory that only one of them has is listed too; a directory that both have only if owner, mode or
    /// attributes differ.
    pub fn differences(&self, old: &str, new: &str, path: &str) -> Result<Vec<Change>> {
        let path = Path::new(path);
        let mut changes = Vec::new();
        let (old, new) = (self.object_at(old, path)?, self.object_at(new, path)?);
        self.compare(path, old, new, &mut changes)
            .context(|| format!("Comparing /{} of two commits", path.display()))?;
        Ok(changes)
    }

    fn compare(&self, path: &Path, old: Option<Object>, new: Option<Object>, changes: &mut Vec<Change>) -> Result<()> {
        if old == new {
            return Ok(());
        }
        let entries = |object: &Option<Object>| match object {
            Some(Object::Directory { contents, .. }) => self.entries(contents),
            _ => Ok(BTreeMap::new()),
        };
        let (mut before, mut after) = (entries(&old)?, entries(&new)?);
        let alike = matches!((&old, &new), (Some(old), Some(new)) if old.is_like(new));
        if !alike {
            changes.push(Change { path: path.to_owned(), old, new });
        }
        let names: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
        for name in names {
            self.compare(&path.join(&name), before.remove(&name), after.remove(&name), changes)?;
        }
        Ok(())
    }

    /// From a commit object, `(a{sv}aya(say)sstayay)`: the last two are the root.
    fn root_of(&self, commit: &str) -> Result<Object> {
        let object = self.inner.load_variant(ObjectType::Commit, commit).context(|| format!("Reading {commit}"))?;
        Ok(Object::Directory { contents: checksum(&object, 6)?, metadata: checksum(&object, 7)? })
    }

    /// From a directory object, `(a(say)a(sayay))`: files, then directories.
    fn entries(&self, contents: &str) -> Result<BTreeMap<String, Object>> {
        let tree = self.inner.load_variant(ObjectType::DirTree, contents)?;
        let name = |entry: &Variant| {
            entry.child_value(0).get::<String>().ok_or_else(|| Error::failed("A directory object has no names"))
        };
        let mut entries = BTreeMap::new();
        for entry in tree.child_value(0).iter() {
            entries.insert(name(&entry)?, Object::File(checksum(&entry, 1)?));
        }
        for entry in tree.child_value(1).iter() {
            let directory = Object::Directory { contents: checksum(&entry, 1)?, metadata: checksum(&entry, 2)? };
            entries.insert(name(&entry)?, directory);
        }
        Ok(entries)
    }

    /// Puts a file, or a directory with everything in it, into the directory `parent` under its own name. Links to
    /// objects of the repository where that is possible and `copy` does not forbid it: never write to those.
    pub fn check_out(&self, commit: &str, path: &Path, parent: &Path, copy: bool) -> Result<()> {
        let directory = self.object_at(commit, path)?.is_some_and(|o| o.is_directory());
        let target = if directory { parent.join(path.file_name().unwrap_or_default()) } else { parent.to_owned() };
        let options = ostree::RepoCheckoutAtOptions {
            overwrite_mode: ostree::RepoCheckoutOverwriteMode::UnionFiles,
            force_copy: copy,
            // libostree wants it to start at the root.
            subpath: Some(Path::new("/").join(path)),
            ..Default::default()
        };
        self.inner
            .checkout_at(Some(&options), rustix::fs::CWD.as_raw_fd(), &target, commit, gio::Cancellable::NONE)
            .context(|| format!("Checking out /{}", path.display()))
    }

    /// Makes a directory if it is missing, and gives it the owner, mode and attributes of a directory object,
    /// `(uuua(ayay))`.
    pub fn make_directory(&self, path: &Path, metadata: &str) -> Result<()> {
        let object = self.inner.load_variant(ObjectType::DirMeta, metadata)?;
        let number = |index: usize| {
            let value = object.child_value(index).get::<u32>();
            value.map(u32::from_be).ok_or_else(|| Error::failed(format!("The directory object {metadata} is damaged")))
        };
        let (uid, gid, mode) = (number(0)?, number(1)?, number(2)?);
        let make = || -> Result<()> {
            match fs::create_dir(path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            lchown(path, Some(uid), Some(gid))?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))?;
            for attribute in object.child_value(3).iter() {
                let (name, value) = (attribute.child_value(0), attribute.child_value(1));
                let (name, value) = (bytes(&name)?, bytes(&value)?);
                let name = name.strip_suffix(&[0]).unwrap_or(&name);
                rustix::fs::lsetxattr(path, name, &value, rustix::fs::XattrFlags::empty())?;
            }
            Ok(())
        };
        make().context(|| format!("Making the directory {}", path.display()))
    }
}

/// What a path of a file system would be in a commit; `None` if it is not there. The contents of a directory are not
/// read: compare with [`Object::is_like`].
pub fn object_of(path: &Path) -> Result<Option<Object>> {
    let read = || -> Result<Option<Object>> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let kind = meta.file_type();
        if !kind.is_dir() && !kind.is_file() && !kind.is_symlink() {
            // Sockets and the like are in no commit: like nothing that is.
            return Ok(Some(Object::File(String::new())));
        }
        if kind.is_dir() {
            let metadata = directory_metadata(path)?;
            return Ok(Some(Object::Directory { contents: String::new(), metadata }));
        }
        let checksum = ostree::checksum_file(&gio::File::for_path(path), ObjectType::File, gio::Cancellable::NONE)
            .map_err(|e| Error::failed(e.to_string()))?;
        Ok(Some(Object::File(checksum.to_hex())))
    };
    read().context(|| format!("Reading {}", path.display()))
}

/// The checksum of the directory object that a directory would have.
fn directory_metadata(path: &Path) -> Result<String> {
    let mut names = vec![0u8; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut attributes: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        attributes.push(([name, &[0]].concat(), value));
    }
    attributes.sort();
    let wanted = "unix::uid,unix::gid,unix::mode";
    let info = gio::File::for_path(path).query_info(
        wanted,
        gio::FileQueryInfoFlags::NOFOLLOW_SYMLINKS,
        gio::Cancellable::NONE,
    )?;
    let object = ostree::create_directory_metadata(&info, Some(&attributes.to_variant()));
    Ok(digest::of_bytes(object.data()))
}

fn checksum(tuple: &Variant, index: usize) -> Result<String> {
    Ok(digest::hex(&bytes(&tuple.child_value(index))?))
}

fn bytes(value: &Variant) -> Result<Vec<u8>> {
    let bytes = value.fixed_array::<u8>().map_err(|_| Error::failed("An object of the repository is damaged"))?;
    Ok(bytes.to_vec())
}

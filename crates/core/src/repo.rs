//! The only place that touches an [`ostree::Repo`]: reading commits, checking bases out, committing differences,
//! pulling.
//!
//! On-disk layout that is ours, all below `REPO/extensions/apt-ostree/` (libostree leaves `extensions/` alone), so
//! that objects can be hardlinked into it and renamed out of it:
//!
//! | path | content |
//! |---|---|
//! | `base/CHECKSUM/` | hardlink checkout of a base commit that no deployment holds; dropped with the base |
//! | `local/SHA256.deb` | local packages that an origin asks for |
//! | `apt/{lists,cache,archives,etc}` | libapt's state, see [`crate::source::SourceConfig::state`] |
//! | `apt/keyrings/` | copies of keyrings that apt sources name, see [`crate::operation::sources`] |
//! | `looked-at` | the commit that was last looked at without being pulled, see [`Repo::note_looked_at`] |
//! | `log/` | logs of the last transactions, see [`crate::operation::log`] |
//! | `compose.lock` | held by a compose that uses `tmp/` |
//! | `tmp/` | scratch of the running transaction, emptied by the next one |
//!
//! Refs that are ours: `rpmostree/base/N`, one for each base commit that a layered deployment stands on. The name is
//! rpm-ostree's because the garbage collections of others spare it.
//!
//! Locking: writers hold libostree's sysroot lock ([`crate::sysroot::Sysroot::lock`]); readers need none.

pub mod commit;
pub mod metadata;
pub mod pull;
pub mod trees;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use ostree::gio;
use ostree::prelude::*;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::image_kargs::{self, ImageKarg};
use crate::model::package::{self, PackageId};

const EXTENSION: &str = "extensions/apt-ostree";
/// Where a dpkg database can lie in a commit; the first that exists counts.
pub const DPKG_STATUS: &[&str] =
    &["usr/lib/sysimage/dpkg/status", "var/lib/dpkg/status", "usr/share/dpkg/database/status"];
const BASE_REF_PREFIX: &str = "rpmostree/base";

/// A repository.
#[derive(Debug, Clone)]
pub struct Repo {
    pub(crate) inner: ostree::Repo,
    path: PathBuf,
}

impl Repo {
    /// Opens an existing repository.
    pub fn open(path: &Path) -> Result<Self> {
        let inner = ostree::Repo::new_for_path(path);
        inner.open(gio::Cancellable::NONE).context(|| format!("Opening the repository {}", path.display()))?;
        Ok(Self { inner, path: path.to_owned() })
    }

    /// The repository of a sysroot, sharing its object (and so its lock state).
    pub(crate) fn of_sysroot(inner: ostree::Repo, sysroot: &Path) -> Self {
        Self { inner, path: sysroot.join("ostree/repo") }
    }

    /// Makes an `archive` repository where there is none, opens it otherwise.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        if path.join("config").exists() {
            return Self::open(path);
        }
        std::fs::create_dir_all(path).context(|| format!("Creating {}", path.display()))?;
        let inner = ostree::Repo::new_for_path(path);
        inner
            .create(ostree::RepoMode::Archive, gio::Cancellable::NONE)
            .context(|| format!("Creating the repository {}", path.display()))?;
        Ok(Self { inner, path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where our private folder is (see the module header), for readers: it may be missing.
    pub fn extension_path(&self, name: &str) -> PathBuf {
        self.path.join(EXTENSION).join(name)
    }

    /// Our private folder (see the module header), made when missing.
    pub fn extension(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(EXTENSION).join(name);
        std::fs::create_dir_all(&path).context(|| format!("Creating {}", path.display()))?;
        Ok(path)
    }

    /// Resolves a ref or checksum; `NotFound` names it.
    pub fn resolve(&self, rev: &str) -> Result<String> {
        self.try_resolve(rev)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("Refspec '{rev}' not found in {}", self.path.display()))
        })
    }

    pub fn try_resolve(&self, rev: &str) -> Result<Option<String>> {
        let found = self.inner.resolve_rev(rev, true).context(|| format!("Resolving '{rev}'"))?;
        match found {
            Some(checksum) if self.has_commit(&checksum)? => Ok(Some(checksum.into())),
            _ => Ok(None),
        }
    }

    pub fn has_commit(&self, checksum: &str) -> Result<bool> {
        Ok(self.inner.has_object(ostree::ObjectType::Commit, checksum, gio::Cancellable::NONE)?)
    }

    /// Only a part of the commit is here: it was looked at, or its pull was cut short.
    pub fn is_partial(&self, checksum: &str) -> Result<bool> {
        let (_, state) = self.inner.load_commit(checksum).context(|| format!("Reading commit {checksum}"))?;
        Ok(state.contains(ostree::RepoCommitState::PARTIAL))
    }

    /// Writes these files of a commit below a directory, those that it has.
    pub fn write_files(&self, commit: &str, files: &[&str], directory: &Path) -> Result<()> {
        for file in files {
            let Some(content) = self.read_file(commit, file)? else { continue };
            let path = directory.join(file);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).context(|| format!("Creating {}", parent.display()))?;
            }
            std::fs::write(&path, content).context(|| format!("Writing {}", path.display()))?;
        }
        Ok(())
    }

    /// The installed packages of a commit, sorted: from its metadata, else from the dpkg status inside it; no checkout.
    pub fn packages(&self, commit: &str) -> Result<Vec<PackageId>> {
        if let Some(list) = self.info(commit)?.packages() {
            return Ok(list);
        }
        for path in DPKG_STATUS {
            if let Some(text) = self.read_text(commit, path)? {
                return Ok(package::installed_from_status(&text));
            }
        }
        Err(Error::new(ErrorKind::NotFound, format!("Commit {commit} has neither a package list nor a dpkg database"))
            .hint("It was not made from Debian packages, or it was pulled as metadata only."))
    }

    /// A text file of a commit, without a checkout; `None` when it is not there (a commit that was pulled as metadata
    /// only has no directories either). Bytes that are not UTF-8 are replaced.
    pub fn read_text(&self, commit: &str, path: &str) -> Result<Option<String>> {
        self.read_file(commit, path)
            .map(|content| content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
            .context(|| format!("Reading /{path} of commit {commit}"))
    }

    /// The kernel arguments that the image brings, in the order of its files. A commit that is not there brings none.
    pub fn image_kargs(&self, commit: &str) -> Result<Vec<ImageKarg>> {
        if !self.has_commit(commit)? {
            return Ok(Vec::new());
        }
        let names = self.names(commit, image_kargs::DIRECTORY)?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let arch = self.packages(commit)?.into_iter().find(|p| p.name == "dpkg").map(|p| p.arch).unwrap_or_default();
        let mut list = Vec::new();
        for name in names.iter().filter(|n| n.ends_with(".toml")) {
            let text = self.read_text(commit, &format!("{}/{name}", image_kargs::DIRECTORY))?.unwrap_or_default();
            list.extend(image_kargs::parse(name, &text, &arch)?);
        }
        Ok(list)
    }

    /// The names in a directory of a commit, sorted; none where there is no such directory.
    fn names(&self, commit: &str, path: &str) -> Result<Vec<String>> {
        let (root, _) = self.inner.read_commit(commit, gio::Cancellable::NONE)?;
        let flags = gio::FileQueryInfoFlags::NOFOLLOW_SYMLINKS;
        let Ok(directory) = root.resolve_relative_path(path).downcast::<ostree::RepoFile>() else {
            return Ok(Vec::new());
        };
        if !resolves(&directory)? {
            return Ok(Vec::new());
        }
        let children = directory
            .enumerate_children("standard::name", flags, gio::Cancellable::NONE)
            .context(|| format!("Listing /{path} of commit {commit}"))?;
        let mut names = Vec::new();
        while let Some(info) = children.next_file(gio::Cancellable::NONE)? {
            names.push(info.name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// A file of a commit by a path of which any part may be a link within the tree; `None` when it is not there.
    pub fn read_through_links(&self, commit: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let (root, _) = self.inner.read_commit(commit, gio::Cancellable::NONE)?;
        let mut left: Vec<String> = path.split('/').rev().map(ToOwned::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            let file = root.resolve_relative_path(done.join("/"));
            let info = file.query_info(
                "standard::type,standard::symlink-target",
                gio::FileQueryInfoFlags::NOFOLLOW_SYMLINKS,
                gio::Cancellable::NONE,
            );
            let Ok(info) = info else { return Ok(None) };
            let Some(target) = info.symlink_target().filter(|_| info.file_type() == gio::FileType::SymbolicLink) else {
                continue;
            };
            links += 1;
            // As the kernel: a loop has no end.
            if links > 40 {
                return Ok(None);
            }
            done.pop();
            let target = target.to_string_lossy().into_owned();
            if target.starts_with('/') {
                done.clear();
            }
            left.extend(target.split('/').rev().map(ToOwned::to_owned));
        }
        self.read_file(commit, &done.join("/"))
    }

    /// By the object: reading through [`ostree::RepoFile`] makes GIO complain on stderr for `archive` repositories.
    fn read_file(&self, commit: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let (root, _) = self.inner.read_commit(commit, gio::Cancellable::NONE)?;
        let Ok(file) = root.resolve_relative_path(path).downcast::<ostree::RepoFile>() else { return Ok(None) };
        if !resolves(&file)? {
            return Ok(None);
        }
        let (stream, ..) = self.inner.load_file(&file.checksum(), gio::Cancellable::NONE)?;
        let Some(stream) = stream else { return Ok(None) };
        let mut content = Vec::new();
        stream.into_read().read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Kernel and initramfs of a commit (`/usr/lib/modules/*/{vmlinuz,initramfs.img}`): object and bytes of each, sorted. Equal
    /// lists are the same files in /boot. Empty for a tree without a kernel, or a commit without its directories.
    pub fn kernel_files(&self, commit: &str) -> Result<Vec<(String, u64)>> {
        let (root, _) = self.inner.read_commit(commit, gio::Cancellable::NONE)?;
        let modules = root.resolve_relative_path("usr/lib/modules");
        let names = modules.enumerate_children(
            "standard::name",
            gio::FileQueryInfoFlags::NOFOLLOW_SYMLINKS,
            gio::Cancellable::NONE,
        );
        let Ok(names) = names else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        for info in names {
            let kernel = modules.child(info?.name());
            for name in ["vmlinuz", "initramfs.img"] {
                let Ok(file) = kernel.child(name).downcast::<ostree::RepoFile>() else { continue };
                if file.ensure_resolved().is_err() {
                    continue;
                }
                let checksum = file.checksum().to_string();
                let (_, info, _) = self.inner.load_file(&checksum, gio::Cancellable::NONE)?;
                files.push((checksum, u64::try_from(info.size()).unwrap_or(0)));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Whether the configuration of a remote asks for OpenPGP signatures.
    pub fn gpg_verify_enabled(&self, remote: &str) -> Result<bool> {
        Ok(self.inner.remote_get_gpg_verify(remote)?)
    }

    /// Signs a commit with an OpenPGP key, a fingerprint or key id. `home` is GnuPG's home directory; `None`: that of the
    /// user. `Verification` when there is no such secret key or it cannot sign.
    pub fn sign(&self, commit: &str, key: &str, home: Option<&Path>) -> Result<()> {
        let home = home.map(|path| path.to_string_lossy());
        self.inner
            .sign_commit(commit, key, home.as_deref(), gio::Cancellable::NONE)
            .context(|| format!("Signing the commit with the key {key}"))
            .map_err(|e| {
                e.with_kind(ErrorKind::Verification).hint(format!(
                    "The secret key must be in the GnuPG home of this user: gpg --list-secret-keys {key}"
                ))
            })
    }

    /// libostree's result tuple of each signature of a commit, as JSON; none for an unsigned one.
    pub fn signatures(&self, commit: &str, remote: &str) -> Vec<serde_json::Value> {
        // Most unsigned commits have no detached metadata at all: no need to start a GPG context for them.
        let detached = self.inner.read_commit_detached_metadata(commit, gio::Cancellable::NONE);
        let signed = detached.ok().flatten().is_some_and(|d| metadata::lookup(&d, "ostree.gpgsigs").is_some());
        if !signed {
            return Vec::new();
        }
        match self.inner.verify_commit_for_remote(commit, remote, gio::Cancellable::NONE) {
            Ok(result) => (0..result.count_all()).map(|i| metadata::to_json(&result.all(i))).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// What [`Repo::base_checkout`] made earlier.
    pub fn existing_checkout(&self, commit: &str) -> Result<Option<PathBuf>> {
        Ok(Some(self.extension("base")?.join(commit)).filter(|path| path.exists()))
    }

    /// A read-only directory with the content of a commit: hardlinks into the repository. Made once per base.
    pub fn base_checkout(&self, commit: &str) -> Result<PathBuf> {
        if let Some(there) = self.existing_checkout(commit)? {
            return Ok(there);
        }
        let bases = self.extension("base")?;
        let target = bases.join(commit);
        let partial = bases.join(format!("{commit}.partial"));
        remove_tree(&partial)?;
        let options = ostree::RepoCheckoutAtOptions {
            overwrite_mode: ostree::RepoCheckoutOverwriteMode::None,
            no_copy_fallback: self.inner.mode() == ostree::RepoMode::Bare,
            ..Default::default()
        };
        self.inner
            .checkout_at(Some(&options), rustix::fs::CWD.as_raw_fd(), &partial, commit, gio::Cancellable::NONE)
            .context(|| format!("Checking out {commit}"))?;
        std::fs::rename(&partial, &target).context(|| format!("Renaming {}", partial.display()))?;
        Ok(target)
    }

    /// Drops checkouts of bases not in `keep`, local packages not in `keep_local` (SHA256; `None` keeps all), and what an interrupted
    /// transaction left in `tmp/`.
    pub fn clean_extension(&self, keep: &[String], keep_local: Option<&[String]>) -> Result<()> {
        if let Some(keep_local) = keep_local {
            for entry in std::fs::read_dir(self.extension("local")?)? {
                let path = entry?.path();
                let kept = path.extension().is_some_and(|e| e == "deb")
                    && path.file_stem().is_some_and(|name| keep_local.iter().any(|k| name == k.as_str()));
                if !kept {
                    std::fs::remove_file(&path).context(|| format!("Removing {}", path.display()))?;
                }
            }
        }
        for entry in std::fs::read_dir(self.extension("base")?)? {
            let entry = entry?;
            if !keep.iter().any(|k| entry.file_name() == k.as_str()) {
                remove_tree(&entry.path())?;
            }
        }
        remove_tree(&self.extension("tmp")?)
    }

    /// All refs, sorted, those of remotes as `REMOTE:BRANCH`.
    pub fn refs(&self) -> Result<Vec<String>> {
        let found = self.inner.list_refs(None, gio::Cancellable::NONE)?;
        let mut names: Vec<String> = found.into_keys().collect();
        names.sort();
        Ok(names)
    }

    /// Names of the remotes.
    pub fn remotes(&self) -> Vec<String> {
        self.inner.remote_list().into_iter().map(Into::into).collect()
    }

    /// Points `rpmostree/base/N` at exactly these commits, so that a prune keeps them.
    pub fn set_base_refs(&self, bases: &[String]) -> Result<()> {
        let mut wanted: Vec<&String> = bases.iter().collect();
        wanted.sort();
        wanted.dedup();
        let old = self.inner.list_refs_ext(
            Some(BASE_REF_PREFIX),
            ostree::RepoListRefsExtFlags::EXCLUDE_REMOTES,
            gio::Cancellable::NONE,
        )?;
        for (index, commit) in wanted.iter().enumerate() {
            self.set_ref(&format!("{BASE_REF_PREFIX}/{index}"), Some(commit))?;
        }
        for name in old.keys() {
            let index = name.rsplit('/').next().and_then(|n| n.parse::<usize>().ok());
            if index.is_none_or(|i| i >= wanted.len()) {
                self.set_ref(name, None)?;
            }
        }
        Ok(())
    }

    pub fn set_ref(&self, name: &str, commit: Option<&str>) -> Result<()> {
        self.inner
            .set_ref_immediate(None, name, commit, gio::Cancellable::NONE)
            .context(|| format!("Writing the ref {name}"))
    }

    /// Drops `remote:branch` or the local `branch`.
    pub fn drop_ref(&self, remote: Option<&str>, branch: &str) -> Result<()> {
        self.inner
            .set_ref_immediate(remote, branch, None, gio::Cancellable::NONE)
            .context(|| format!("Dropping the ref {branch}"))
    }

    /// Makes a local branch that of a remote.
    pub fn move_ref_to_remote(&self, remote: &str, branch: &str, commit: &str) -> Result<()> {
        self.inner
            .set_ref_immediate(Some(remote), branch, Some(commit), gio::Cancellable::NONE)
            .context(|| format!("Writing the ref {remote}:{branch}"))?;
        self.drop_ref(None, branch)
    }

    /// Sets a key of the repository's configuration.
    pub fn set_option(&self, group: &str, key: &str, value: &str) -> Result<()> {
        let config = self.inner.copy_config();
        config.set_string(group, key, value);
        self.inner.write_config(&config).context(|| format!("Setting {group}.{key} in the repository's configuration"))
    }

    /// Flushes the file system of the repository. The one flush of a transaction: commits are written without fsync.
    pub fn sync(&self) -> Result<()> {
        let directory = std::fs::File::open(&self.path)?;
        rustix::fs::syncfs(&directory).context(|| format!("Flushing {}", self.path.display()))
    }
}

/// Whether a path of a commit is there.
fn resolves(file: &ostree::RepoFile) -> Result<bool> {
    match file.ensure_resolved() {
        Ok(()) => Ok(true),
        Err(e) if e.matches(gio::IOErrorEnum::NotFound) || e.matches(gio::IOErrorEnum::NotDirectory) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Deletes a directory tree if it is there. Never leaves its file system and never follows a link.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::from(e)).context(|| format!("Removing {}", path.display())),
    }
}

//! A tree on disk that is being made, with paths as its own programs would see them.
//!
//! Symbolic links of the tree are resolved inside it, absolute ones included, as after a chroot: writing
//! `/etc/resolv.conf` of a tree can never reach the file of the machine that composes. Files are replaced by rename.
//! Not safe against somebody else changing the tree at the same time; an assembly has the directory for itself.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, Result};

/// As many links as Linux follows in one path (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// The root directory of a tree.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A directory with these files, each with its own path as content.
    #[cfg(test)]
    pub(crate) fn with(files: &[&str]) -> (tempfile::TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Self::new(dir.path());
        for path in files {
            tree.write(path, *path, 0o644).unwrap();
        }
        (dir, tree)
    }

    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` lies on this machine: every link in its directories resolved, the last component not followed.
    pub fn locate(&self, path: &str) -> Result<PathBuf> {
        self.resolve(path, false)
    }

    /// The same with the last component followed too. A dangling link gives the path it points to.
    pub fn follow(&self, path: &str) -> Result<PathBuf> {
        self.resolve(path, true)
    }

    fn resolve(&self, path: &str, last: bool) -> Result<PathBuf> {
        let mut todo: VecDeque<OsString> = VecDeque::new();
        push_components(&mut todo, Path::new(path));
        let mut inside = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                inside.pop();
                continue;
            }
            let candidate = self.root.join(&inside).join(&name);
            let follow = last || !todo.is_empty();
            match fs::read_link(&candidate) {
                Ok(target) if follow => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::failed(format!("Too many symbolic links in {path} of the tree")));
                    }
                    if target.is_absolute() {
                        inside = PathBuf::new();
                    }
                    push_components(&mut todo, &target);
                }
                _ => inside.push(&name),
            }
        }
        Ok(self.root.join(inside))
    }

    /// Whether there is anything at `path`, a dangling link included.
    pub fn exists(&self, path: &str) -> bool {
        self.locate(path).is_ok_and(|p| p.symlink_metadata().is_ok())
    }

    /// Whether `path` leads to a directory.
    pub fn is_dir(&self, path: &str) -> bool {
        self.follow(path).is_ok_and(|p| p.is_dir())
    }

    pub fn is_symlink(&self, path: &str) -> bool {
        self.locate(path).is_ok_and(|p| p.is_symlink())
    }

    /// The content of a file; `None` when there is none. Bytes that are not UTF-8 are replaced.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        match fs::read(self.follow(path)?) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context(|| format!("Reading {path} of the tree")),
        }
    }

    /// Writes a file of root's with exactly this mode; missing directories are made 0755. What was at `path` is
    /// replaced, a link included, never written through.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let write = || -> Result<()> {
            let target = self.locate(path)?;
            let dir = self.parent(&target)?;
            let mut file = tempfile::Builder::new().prefix(".apt-ostree.").tempfile_in(dir)?;
            file.write_all(content.as_ref())?;
            file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
            file.persist(&target).map_err(|e| e.error)?;
            Ok(())
        };
        write().context(|| format!("Writing {path} of the tree"))
    }

    /// Makes a link, replacing a file or link that was there.
    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        let link = || -> Result<()> {
            let place = self.locate(path)?;
            self.parent(&place)?;
            match fs::remove_file(&place) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => symlink(target, &place)?,
            }
            Ok(())
        };
        link().context(|| format!("Making the link {path} of the tree"))
    }

    /// Makes a directory with exactly this mode; one that exists keeps its own.
    pub fn mkdir(&self, path: &str, mode: u32) -> Result<()> {
        let make = || -> Result<()> {
            let place = self.follow(path)?;
            if place.is_dir() {
                return Ok(());
            }
            self.parent(&place)?;
            fs::create_dir(&place)?;
            fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
            Ok(())
        };
        make().context(|| format!("Making the directory {path} of the tree"))
    }

    /// Deletes a file, link or whole directory. Whether there was one.
    pub fn remove(&self, path: &str) -> Result<bool> {
        let remove = || -> Result<bool> {
            let place = self.locate(path)?;
            match place.symlink_metadata() {
                Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                    return Ok(false);
                }
                Err(e) => return Err(e.into()),
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&place)?,
                Ok(_) => fs::remove_file(&place)?,
            }
            Ok(true)
        };
        remove().context(|| format!("Removing {path} of the tree"))
    }

    /// Names in a directory, sorted; none when it is not there. Names that are not UTF-8 are an error: no path of a
    /// Debian package may be one (policy 10.10).
    pub fn entries(&self, dir: &str) -> Result<Vec<String>> {
        let list = || -> Result<Vec<String>> {
            let entries = match fs::read_dir(self.follow(dir)?) {
                Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                    return Ok(Vec::new());
                }
                other => other?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let name = entry?.file_name();
                names.push(name.into_string().map_err(|n| Error::failed(format!("The file name {n:?} is not UTF-8")))?);
            }
            names.sort();
            Ok(names)
        };
        list().context(|| format!("Listing {dir} of the tree"))
    }

    /// Moves everything below the directory `from` into the directory `to` (both exist), merging directories; a
    /// file that is in both places keeps the moved content.
    pub fn merge_into(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.follow(from)?, self.follow(to)?);
        merge(&from, &to).context(|| format!("Moving {} into {}", from.display(), to.display()))
    }

    /// The directory above a resolved path, made when it is missing.
    fn parent<'a>(&self, place: &'a Path) -> Result<&'a Path> {
        let dir = place.parent().filter(|d| d.starts_with(&self.root)).unwrap_or(place);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        Ok(dir)
    }
}

fn push_components(todo: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => todo.push_front(name.to_owned()),
            Component::ParentDir => todo.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn merge(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() && target.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            merge(&entry.path(), &target)?;
            fs::remove_dir(entry.path())?;
        } else {
            match target.symlink_metadata() {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&target)?,
                Ok(_) => fs::remove_file(&target)?,
                Err(_) => {}
            }
            fs::rename(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        tree.mkdir("/usr/bin", 0o755).unwrap();
        tree.symlink("/usr/bin", "/bin").unwrap();
        tree.symlink("../../../../etc/passwd", "/usr/bin/up").unwrap();
        assert_eq!(tree.locate("/bin/up").unwrap(), dir.path().join("usr/bin/up"));
        assert_eq!(tree.follow("/bin/up").unwrap(), dir.path().join("etc/passwd"));
        tree.symlink("/etc/shadow", "/usr/bin/x").unwrap();
        tree.write("/bin/x", "y", 0o600).unwrap();
        assert!(!tree.is_symlink("/usr/bin/x"));
        assert_eq!(tree.read("/usr/bin/x").unwrap().as_deref(), Some("y"));
        tree.symlink("loop", "/usr/loop").unwrap();
        assert!(tree.follow("/usr/loop").is_err());
        assert!(tree.remove("/usr/loop").unwrap());
        assert!(!tree.remove("/usr/loop/below").unwrap());
    }

    #[test]
    fn merges_directories() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        tree.write("/home/a/x", "1", 0o644).unwrap();
        tree.write("/home/b", "2", 0o644).unwrap();
        tree.write("/var/home/a/y", "3", 0o644).unwrap();
        tree.merge_into("/home", "/var/home").unwrap();
        assert_eq!(tree.entries("/var/home/a").unwrap(), ["x", "y"]);
        assert!(tree.entries("/home").unwrap().is_empty());
        assert!(tree.entries("/nowhere").unwrap().is_empty());
    }
}

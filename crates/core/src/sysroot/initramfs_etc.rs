//! Tracked files of /etc as an initramfs: a cpio archive that libostree puts beside the initramfs of a deployment.
//!
//! On disk: `/run/ostree/staged-initrds/SHA256.img` until the deployment is written, then
//! `boot/ostree/initramfs-overlays/SHA256.img` and a second `initrd` line in the boot entry; all of it libostree's. The
//! kernel unpacks one archive after the other into the same root.
//!
//! The format is `newc` (Documentation/driver-api/early-userspace/buffer-format.rst of Linux), not compressed, without times
//! and inode numbers: the same files give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};

/// A path without the slashes that a shell's completion leaves at the end of a directory.
pub fn plain(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// That a path is below /etc and written in the one way that everybody compares.
pub fn check(path: &str) -> Result<()> {
    let Some(rest) = path.strip_prefix("/etc/").filter(|rest| !rest.is_empty()) else {
        return Err(Error::usage(format!("Path outside /etc forbidden: {path}")));
    };
    let canonical: PathBuf = Path::new(rest).components().filter(|c| matches!(c, Component::Normal(_))).collect();
    if canonical.as_os_str() != rest {
        return Err(Error::usage(format!("Path outside /etc forbidden: {path}"))
            .hint("The path must be canonical, without '.', '..' and double slashes."));
    }
    Ok(())
}

/// The archive of `files` (absolute paths below /etc; directories with all that is in them) as they are in `etc`.
pub fn archive(etc: &Path, files: &[String]) -> Result<Vec<u8>> {
    let mut entries = BTreeMap::new();
    for file in files {
        check(file)?;
        let relative = Path::new(&file["/etc/".len()..]);
        // The kernel makes no missing directories.
        let parents = relative.ancestors().skip(1);
        for parent in parents {
            add(etc, parent, &mut entries)?;
        }
        add_all(etc, relative, &mut entries).map_err(|error| {
            error.hint(format!("Without it the initramfs is not what was asked for; to do without: apt-ostree initramfs-etc --untrack {file}"))
        })?;
    }
    let mut archive = Vec::new();
    for (number, (path, entry)) in (1..).zip(&entries) {
        // Joining nothing would leave a slash at the end.
        let name = if path.as_os_str().is_empty() { "etc".into() } else { Path::new("etc").join(path) };
        entry.write(number, &name.to_string_lossy(), &mut archive)?;
    }
    let end = Entry { mode: 0, uid: 0, gid: 0, data: Vec::new() };
    end.write(0, "TRAILER!!!", &mut archive)?;
    archive.resize(archive.len().next_multiple_of(512), 0);
    Ok(archive)
}

/// A file, link or directory of the archive.
struct Entry {
    /// With the type, as in stat(2).
    mode: u32,
    uid: u32,
    gid: u32,
    /// Content of a file, target of a link.
    data: Vec<u8>,
}

fn add_all(etc: &Path, relative: &Path, entries: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    add(etc, relative, entries)?;
    let path = etc.join(relative);
    if fs::symlink_metadata(&path)?.is_dir() {
        for entry in fs::read_dir(&path).context(|| format!("Listing {}", path.display()))? {
            add_all(etc, &relative.join(entry?.file_name()), entries)?;
        }
    }
    Ok(())
}

fn add(etc: &Path, relative: &Path, entries: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    let path = etc.join(relative);
    let shown = || format!("/etc/{}", relative.display());
    let metadata = fs::symlink_metadata(&path).context(|| format!("Adding {} to the initramfs", shown()))?;
    let data = if metadata.is_symlink() {
        fs::read_link(&path)?.into_os_string().into_encoded_bytes()
    } else if metadata.is_file() {
        fs::read(&path).context(|| format!("Adding {} to the initramfs", shown()))?
    } else if metadata.is_dir() {
        Vec::new()
    } else {
        return Err(Error::new(ErrorKind::Usage, format!("{} is neither a file nor a link nor a directory", shown())));
    };
    let entry = Entry { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid(), data };
    entries.insert(relative.to_owned(), entry);
    Ok(())
}

impl Entry {
    fn write(&self, inode: u32, name: &str, archive: &mut Vec<u8>) -> Result<()> {
        let size = u32::try_from(self.data.len())
            .map_err(|_| Error::usage(format!("/{name} is too large for an initramfs: 4 GB and more")))?;
        let links = if self.mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        archive.extend_from_slice(b"070701");
        // inode, mode, owner, group, links, time, size, device (2), device of a node (2), length of the name, checksum
        for field in [inode, self.mode, self.uid, self.gid, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(&self.data);
        archive.resize(archive.len().next_multiple_of(4), 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_below_etc() {
        check("/etc/crypttab").unwrap();
        check("/etc/cmdline.d/own.conf").unwrap();
        for bad in ["/usr/lib/x", "etc/x", "/etc", "/etc/", "/etcx", "/etc/../usr/x", "/etc/./x", "/etc//x", ""] {
            let error = check(bad).unwrap_err().to_string();
            assert_eq!(error, format!("Path outside /etc forbidden: {bad}"));
        }
        assert_eq!(plain("/etc/cmdline.d/"), "/etc/cmdline.d");
    }

    /// cpio(1) is the oracle.
    #[test]
    fn cpio_unpacks_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        fs::create_dir_all(etc.join("a.d/deep")).unwrap();
        fs::write(etc.join("a.d/one"), "1\n").unwrap();
        fs::write(etc.join("a.d/deep/two"), "22\n").unwrap();
        fs::write(etc.join("alone"), "").unwrap();
        fs::write(etc.join("not tracked"), "x").unwrap();
        symlink("a.d/one", etc.join("link")).unwrap();
        fs::set_permissions(etc.join("a.d/one"), fs::Permissions::from_mode(0o640)).unwrap();
        let files = ["/etc/a.d", "/etc/link", "/etc/alone", "/etc/a.d/one"].map(str::to_owned);
        let bytes = archive(&etc, &files).unwrap();
        assert_eq!(bytes, archive(&etc, &files).unwrap());
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(&bytes[110..114], b"etc\0", "the kernel takes names as they are");

        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--extract", "--quiet", "--preserve-modification-time", "--no-absolute-filenames"])
            .current_dir(&out)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(cpio.wait().unwrap().success());
        assert_eq!(fs::read_to_string(out.join("etc/a.d/one")).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(out.join("etc/a.d/deep/two")).unwrap(), "22\n");
        assert_eq!(fs::metadata(out.join("etc/alone")).unwrap().len(), 0);
        assert_eq!(fs::read_link(out.join("etc/link")).unwrap(), Path::new("a.d/one"));
        let one = fs::metadata(out.join("etc/a.d/one")).unwrap();
        assert_eq!((one.mode() & 0o7777, one.mtime()), (0o640, 0));
        assert!(!out.join("etc/not tracked").exists());
        assert!(archive(&etc, &["/etc/gone".to_owned()]).unwrap_err().to_string().contains("/etc/gone"));
    }
}

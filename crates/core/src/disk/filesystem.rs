//! File systems in files, filled from directories.
//!
//! ext4 is filled by mke2fs itself, without a mount. btrfs and xfs are mounted through a loop device in the mount namespace of
//! this process, and filled with cp(1). FAT is filled with mtools.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::IFlags;
use serde::{Deserialize, Serialize};

use super::{program, tool};
use crate::error::{Context, Error, Result};

/// Of the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filesystem {
    #[default]
    Ext4,
    Btrfs,
    Xfs,
}

impl Filesystem {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
        }
    }

    /// Programs that make it, with their packages.
    pub(crate) fn tools(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ext4 => &[("mkfs.ext4", "e2fsprogs"), ("debugfs", "e2fsprogs")],
            Self::Btrfs => &[("mkfs.btrfs", "btrfs-progs")],
            Self::Xfs => &[("mkfs.xfs", "xfsprogs")],
        }
    }
}

/// A file system to be made.
#[derive(Debug)]
pub(crate) struct New<'a> {
    pub(crate) kind: Filesystem,
    /// The file that will hold it.
    pub(crate) image: &'a Path,
    pub(crate) size: u64,
    pub(crate) uuid: &'a str,
    pub(crate) label: &'a str,
    /// What goes into it.
    pub(crate) content: &'a Path,
    /// Seconds since the epoch, for the file system's own times.
    pub(crate) timestamp: u64,
}

impl New<'_> {
    /// Makes and fills it. Owners, modes, extended attributes, hard links and the immutable bit of deployments are those of
    /// the content.
    pub(crate) fn make(&self) -> Result<()> {
        let file = File::create(self.image).context(|| format!("Creating {}", self.image.display()))?;
        file.set_len(self.size).context(|| format!("Creating {}", self.image.display()))?;
        drop(file);
        let what = || format!("Making the {} file system '{}'", self.kind.name(), self.label);
        match self.kind {
            Filesystem::Ext4 => self.ext4().context(what),
            Filesystem::Btrfs => {
                let mut command = program("mkfs.btrfs");
                command.args(["--quiet", "--uuid", self.uuid, "--label", self.label]).arg(self.image);
                tool(&mut command, "btrfs-progs").context(what)?;
                self.copy().context(what)
            }
            Filesystem::Xfs => {
                let mut command = program("mkfs.xfs");
                command.args(["-q", "-m", &format!("uuid={}", self.uuid), "-L", self.label]).arg(self.image);
                tool(&mut command, "xfsprogs").context(what)?;
                self.copy().context(what)
            }
        }
    }

    fn ext4(&self) -> Result<()> {
        let mut command = program("mkfs.ext4");
        // Twice as many inodes as usual: a deployment is many small files, and there are two and a repository.
        command.args(["-q", "-F", "-i", "8192", "-U", self.uuid, "-L", self.label, "-E"]);
        command.arg(format!("hash_seed={},lazy_itable_init=1,lazy_journal_init=1", self.uuid));
        command.arg("-d").arg(self.content).arg(self.image);
        command.env("SOURCE_DATE_EPOCH", self.timestamp.to_string());
        tool(&mut command, "e2fsprogs")?;
        // The one thing that it does not copy.
        let mut script = String::new();
        for path in immutable(self.content)? {
            let inside = path.strip_prefix(self.content).unwrap_or(&path).display().to_string();
            // EXT4_EXTENTS_FL and EXT4_IMMUTABLE_FL: a new directory has the first.
            script.push_str(&format!("set_inode_field \"/{inside}\" flags 0x80010\n"));
        }
        if script.is_empty() {
            return Ok(());
        }
        let run = || -> Result<std::process::Output> {
            let mut child = program("debugfs")
                .args(["-w", "-f", "-"])
                .arg(self.image)
                .env("SOURCE_DATE_EPOCH", self.timestamp.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            let _ = child.stdin.take().expect("stdin is piped").write_all(script.as_bytes());
            Ok(child.wait_with_output()?)
        };
        let output = run().context(|| "Running debugfs")?;
        // It exits with 0 whatever happens; on stderr is its version in one line, and then what went wrong.
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() && said.lines().count() <= 1 {
            return Ok(());
        }
        Err(Error::failed(format!("debugfs failed: {}", said.trim())))
    }

    /// Fills the new file system through a mount.
    fn copy(&self) -> Result<()> {
        let point = self.image.with_extension("mount");
        std::fs::create_dir_all(&point)?;
        let mut command = program("mount");
        command.args(["-o", "loop", "-t", self.kind.name()]).arg(self.image).arg(&point);
        tool(&mut command, "mount").map_err(|e| {
            e.hint(format!(
                "This machine cannot mount {} from a file: a kernel module or a loop device is missing. --filesystem=ext4 needs no mount.",
                self.kind.name()
            ))
        })?;
        let fill = || -> Result<()> {
            let mut command = program("cp");
            command.args(["--archive", "--no-target-directory"]).arg(self.content).arg(&point);
            tool(&mut command, "coreutils")?;
            for path in immutable(self.content)? {
                let inside = path.strip_prefix(self.content).unwrap_or(&path);
                set_immutable(&point.join(inside), true)?;
            }
            Ok(())
        };
        let filled = fill();
        // Also after an error: nothing can be removed below a mount.
        let unmounted = tool(program("umount").arg(&point), "mount");
        filled?;
        unmounted?;
        Ok(std::fs::remove_dir(&point)?)
    }
}

/// The roots of the deployments of a sysroot that carry the immutable bit, which libostree gives them.
pub(crate) fn immutable(sysroot: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let deploy = sysroot.join("ostree/deploy");
    if !deploy.is_dir() {
        return Ok(found);
    }
    for stateroot in std::fs::read_dir(deploy)? {
        let list = stateroot?.path().join("deploy");
        if !list.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(list)? {
            let path = entry?.path();
            if path.is_dir() && is_immutable(&path)? {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_immutable(path: &Path) -> Result<bool> {
    // A file system that has no flags has no immutable files.
    Ok(rustix::fs::ioctl_getflags(File::open(path)?).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE)))
}

pub(crate) fn set_immutable(path: &Path, on: bool) -> Result<()> {
    let file = File::open(path)?;
    let mut flags = rustix::fs::ioctl_getflags(&file)?;
    flags.set(IFlags::IMMUTABLE, on);
    rustix::fs::ioctl_setflags(&file, flags).context(|| format!("Setting the immutable bit of {}", path.display()))
}

/// Makes a FAT file system and copies a directory into it. `serial` is 8 hexadecimal digits.
pub(crate) fn make_fat(image: &Path, size: u64, serial: &str, content: &Path, timestamp: u64) -> Result<()> {
    let file = File::create(image).context(|| format!("Creating {}", image.display()))?;
    file.set_len(size).context(|| format!("Creating {}", image.display()))?;
    drop(file);
    let what = || "Making the EFI system partition".to_owned();
    let epoch = timestamp.to_string();
    let mut command = program("mkfs.vfat");
    // Without a choice of FAT size: firmware must take what a disk of this size has.
    command.args(["--invariant", "-n", "ESP", "-i", serial]).arg(image).env("SOURCE_DATE_EPOCH", &epoch);
    tool(&mut command, "dosfstools").context(what)?;
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(content)? {
        names.push(entry?.path());
    }
    names.sort();
    let mut command = program("mcopy");
    command.args(["-s", "-i"]).arg(image).args(names).arg("::/").env("SOURCE_DATE_EPOCH", &epoch);
    tool(&mut command, "mtools").context(what)?;
    Ok(())
}

/// The bytes that a directory's content takes, each file in whole blocks, hard links once; and how many files there are.
pub(crate) fn usage(dir: &Path) -> Result<(u64, u64)> {
    fn walk(dir: &Path, seen: &mut std::collections::HashSet<u64>, sum: &mut (u64, u64)) -> Result<()> {
        for entry in std::fs::read_dir(dir).context(|| format!("Listing {}", dir.display()))? {
            let entry = entry?;
            let meta = entry.path().symlink_metadata()?;
            if meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino()) {
                continue;
            }
            sum.0 += meta.len().div_ceil(4096) * 4096;
            sum.1 += 1;
            if meta.is_dir() {
                walk(&entry.path(), seen, sum)?;
            }
        }
        Ok(())
    }
    let mut sum = (0, 0);
    walk(dir, &mut std::collections::HashSet::new(), &mut sum)?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn mke2fs_fills_what_debugfs_reads() {
        let dir = tempfile::tempdir().unwrap();
        let content = dir.path().join("content");
        std::fs::create_dir_all(content.join("a")).unwrap();
        std::fs::write(content.join("a/file"), "text").unwrap();
        std::fs::hard_link(content.join("a/file"), content.join("a/link")).unwrap();
        let image = dir.path().join("image");
        let uuid = "0b9c3ea8-4a24-8a37-9d3b-5d6e5a0f1c11";
        let new = New {
            kind: Filesystem::Ext4,
            image: &image,
            size: 32 << 20,
            uuid,
            label: "boot",
            content: &content,
            timestamp: 1,
        };
        new.make().unwrap();
        let output = Command::new("debugfs").args(["-R", "cat /a/link"]).arg(&image).output().unwrap();
        assert_eq!(output.stdout, b"text");
        let output = Command::new("blkid").args(["-p", "-o", "value", "-s", "UUID"]).arg(&image).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), uuid);
        // One file in two names, a directory.
        assert_eq!(usage(&content).unwrap(), (8192, 2));
        let full = New { size: 1 << 20, content: Path::new("/usr/bin"), ..new };
        assert!(full.make().is_err());
    }

    #[test]
    fn mtools_fill_what_mtools_read() {
        let dir = tempfile::tempdir().unwrap();
        let content = dir.path().join("content");
        std::fs::create_dir_all(content.join("EFI/BOOT")).unwrap();
        std::fs::write(content.join("EFI/BOOT/BOOTX64.EFI"), "loader").unwrap();
        let image = dir.path().join("esp");
        make_fat(&image, 64 << 20, "12345678", &content, 1).unwrap();
        let output = Command::new("mtype").arg("-i").arg(&image).arg("::/EFI/BOOT/BOOTX64.EFI").output().unwrap();
        assert_eq!(output.stdout, b"loader");
        let again = dir.path().join("esp2");
        make_fat(&again, 64 << 20, "12345678", &content, 1).unwrap();
        assert!(std::fs::read(&image).unwrap() == std::fs::read(&again).unwrap(), "two images of the same differ");
    }
}

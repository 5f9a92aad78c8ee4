//! `compose disk-image`: a commit as a disk that a machine starts from. Our addition; rpm-ostree leaves it to other tools.
//!
//! Beside OUT, while it is made: `OUT.work/` (the sysroot, then one file for each file system; locked by whoever works there) and
//! `OUT.partial`, the disk, renamed to OUT at the end. Both go in the end, whatever the end is; after a kill with the next run.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{InitSysroot, Report, init_sysroot};
use crate::disk::filesystem::{self, Filesystem, New};
use crate::disk::layout::{self, Layout, MIB};
use crate::disk::loader::{self, Loaders, Uefi};
use crate::disk::settings::{Settings, User, valid_hostname, valid_user_name};
use crate::disk::{program, require_tools, tool, uuid};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::size::human_size;
use crate::repo::Repo;
use crate::sandbox::Sandbox;
use crate::sysroot::Sysroot;

/// The disk's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    #[default]
    Raw,
    Qcow2,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskImage {
    pub repo: PathBuf,
    /// A branch of the repository.
    pub reference: String,
    pub output: PathBuf,
    pub format: Format,
    pub filesystem: Filesystem,
    /// Bytes; `None`: [`DEFAULT_SIZE`], or more where the tree needs it.
    pub size: Option<u64>,
    /// Beside `root=UUID=…` and `rw`.
    pub kargs: Vec<String>,
    pub hostname: Option<String>,
    pub user: Option<User>,
    /// The remote that the machine follows, and its URL.
    pub remote: Option<(String, String)>,
    pub gpg_keys: Vec<PathBuf>,
    pub no_gpg_verify: bool,
    /// Replace an OUT that is there.
    pub force: bool,
}

/// Twice what a minimal tree takes, three times over; sparse, so that only a machine that fills it pays.
pub const DEFAULT_SIZE: u64 = 8 << 30;
/// Of /boot at least: three kernels with their initramfs, which is what two deployments and a third that is being made need.
const BOOT_LEAST: u64 = 512 * MIB;

pub fn execute(image: &DiskImage, stateroot: &str, sandbox: &dyn Sandbox, events: &dyn EventSink) -> Result<Report> {
    check(image)?;
    let commit = Repo::open(&image.repo)?.resolve(&image.reference)?;
    let work = beside(&image.output, "work");
    let partial = beside(&image.output, "partial");
    let _lock = lock(&work)?;
    let making = Making { image, stateroot, commit: &commit, work: &work, partial: &partial, sandbox, events };
    let outcome = making.run();
    let cleaned = remove(&work).and_then(|()| match std::fs::remove_file(&partial) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    });
    let report = outcome?;
    cleaned?;
    Ok(report)
}

/// What a worker that was killed left of this image, unless somebody else is at work on it.
pub fn clean(output: &Path) -> Result<()> {
    let work = beside(output, "work");
    if !work.exists() {
        return Ok(());
    }
    let _lock = lock(&work)?;
    let _ = std::fs::remove_file(beside(output, "partial"));
    remove(&work)
}

/// What can be refused before anything is made.
fn check(image: &DiskImage) -> Result<()> {
    let output = image.output.display();
    if image.output.is_dir() {
        return Err(Error::usage(format!("{output} is a directory: name the file to write")));
    }
    if std::fs::symlink_metadata(&image.output).is_ok() {
        if !image.force {
            return Err(Error::usage(format!("{output} exists already"))
                .hint("Choose another name, or replace it with --force. Nothing was written."));
        }
        if !image.output.is_file() {
            return Err(Error::usage(format!("{output} is not a file: only files are written and replaced")));
        }
    }
    let parent = image.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("The directory {} does not exist", parent.display())));
    }
    if let Some(name) = image.hostname.as_deref().filter(|name| !valid_hostname(name)) {
        return Err(Error::usage(format!("'{name}' is not a host name: letters, digits and hyphens, parted by dots")));
    }
    if let Some(user) = image.user.as_ref().filter(|user| !valid_user_name(&user.name)) {
        return Err(Error::usage(format!("'{}' is not a user name: lower case letters, digits, - and _", user.name)));
    }
    if let Some(karg) = image.kargs.iter().find(|k| k.starts_with("root=") || k.starts_with("ostree=")) {
        return Err(Error::usage(format!("The kernel argument {karg} is the image's to set")));
    }
    let mut tools = vec![("sfdisk", "fdisk"), ("mkfs.vfat", "dosfstools"), ("mcopy", "mtools")];
    tools.extend(Filesystem::Ext4.tools());
    tools.extend(image.filesystem.tools());
    if image.format == Format::Qcow2 {
        tools.push(("qemu-img", "qemu-utils"));
    }
    tools.dedup();
    require_tools(&tools)
}

/// `OUT.SUFFIX`.
fn beside(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Makes the work directory and locks it; empties it of what an earlier run left.
fn lock(work: &Path) -> Result<File> {
    std::fs::create_dir_all(work).context(|| format!("Creating {}", work.display()))?;
    let directory = File::open(work)?;
    let how = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&directory, how).is_err() {
        return Err(Error::new(ErrorKind::Busy, format!("Another process is at work in {}", work.display()))
            .hint("Wait for it to end, then try again. Nothing was changed."));
    }
    let ours = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ["root", "boot", "disk.qcow2"].contains(&name.as_ref())
            || name.starts_with("esp")
            || [".img", ".mount"].iter().any(|end| name.ends_with(end))
    };
    let paths = std::fs::read_dir(work)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?;
    if let Some(foreign) = paths.iter().find(|path| !ours(path)) {
        return Err(Error::usage(format!(
            "{} is in the way: {} is not from an earlier run",
            work.display(),
            foreign.display()
        ))
        .hint("Choose another OUT, or move it away. Nothing was changed."));
    }
    std::fs::set_permissions(work, std::fs::Permissions::from_mode(0o700))?;
    for path in paths {
        if path.is_dir() { remove(&path)? } else { std::fs::remove_file(&path)? }
    }
    Ok(directory)
}

/// Removes a directory with a sysroot in it, or below it.
fn remove(dir: &Path) -> Result<()> {
    for sysroot in [dir.to_owned(), dir.join("root")] {
        if sysroot.is_dir() {
            for path in filesystem::immutable(&sysroot)? {
                filesystem::set_immutable(&path, false)?;
            }
        }
    }
    crate::repo::remove_tree(dir)
}

struct Making<'a> {
    image: &'a DiskImage,
    stateroot: &'a str,
    commit: &'a str,
    work: &'a Path,
    partial: &'a Path,
    sandbox: &'a dyn Sandbox,
    events: &'a dyn EventSink,
}

impl Making<'_> {
    fn run(&self) -> Result<Report> {
        let root = self.work.join("root");
        let boot_uuid = uuid(self.commit, "boot");
        self.deploy(&root)?;
        let sysroot = Sysroot::open(&root)?;
        let deployment = sysroot.pending(self.stateroot)?;
        let tree = sysroot.directory(&deployment);
        let timestamp = sysroot.repo().info(self.commit)?.timestamp;
        drop(sysroot);

        let settings = Settings {
            tree: &tree,
            var: &root.join("ostree/deploy").join(self.stateroot).join("var"),
            boot_uuid: &boot_uuid,
            hostname: self.image.hostname.as_deref(),
            user: self.image.user.as_ref(),
        };
        let esp = self.work.join("esp");
        let loaders = self.events.task("Making the boot loader", || {
            settings.write(self.sandbox, self.events)?;
            loader::make(&tree, &esp, &boot_uuid, self.sandbox, self.events)
        })?;
        // A file system of its own.
        let boot = self.work.join("boot");
        std::fs::rename(root.join("boot"), &boot)?;
        std::fs::create_dir(root.join("boot"))?;

        let layout = self.layout(&boot, &root)?;
        self.file_systems(&layout, &boot, &root, &boot_uuid, &esp, timestamp)?;
        self.events.task("Writing the disk", || self.disk(&layout, &loaders))?;
        self.finish()?;
        Ok(Report { changed: true, lines: vec![self.summary(&layout, &loaders)?], ..Report::default() })
    }

    /// A sysroot with the commit as its first deployment, that follows the remote if there is one.
    fn deploy(&self, root: &Path) -> Result<()> {
        let image = self.image;
        let mut kargs = vec![format!("root=UUID={}", uuid(self.commit, "root")), "rw".to_owned()];
        kargs.extend(image.kargs.iter().cloned());
        let init = InitSysroot {
            refspec: match &image.remote {
                Some((remote, _)) => format!("{remote}:{}", image.reference),
                None => image.reference.clone(),
            },
            remote: image.remote.clone(),
            gpg_keys: image.gpg_keys.clone(),
            no_gpg_verify: image.no_gpg_verify,
            pull_local: Some(image.repo.clone()),
            kargs,
            grub: true,
        };
        init_sysroot::execute(root, self.stateroot, &init, self.events)?;
        Ok(())
    }

    fn layout(&self, boot: &Path, root: &Path) -> Result<Layout> {
        // A third kernel beside two, and what ext4 keeps for itself.
        let boot = BOOT_LEAST.max(filesystem::usage(boot)?.0 * 4);
        let (bytes, files) = filesystem::usage(root)?;
        // Inodes, journal, reserved blocks, and room to start in.
        let root = bytes + bytes / 8 + files * 512 + 320 * MIB;
        let size = self.image.size.unwrap_or_else(|| DEFAULT_SIZE.max(2 * Layout::least(boot, root)));
        Layout::new(size, boot, root)
    }

    fn file_systems(
        &self,
        layout: &Layout,
        boot: &Path,
        root: &Path,
        boot_uuid: &str,
        esp: &Path,
        timestamp: u64,
    ) -> Result<()> {
        let (root_image, boot_image) = (self.work.join("root.img"), self.work.join("boot.img"));
        self.events.task(format!("Making the {} file system", self.image.filesystem.name()), || {
            let root_uuid = uuid(self.commit, "root");
            let new = New {
                kind: self.image.filesystem,
                image: &root_image,
                size: layout.root.size,
                uuid: &root_uuid,
                label: "root",
                content: root,
                timestamp,
            };
            new.make()?;
            // Room for the rest: the sysroot itself is not needed any more.
            remove(root)
        })?;
        self.events.task("Making /boot and the EFI system partition", || {
            let new = New {
                kind: Filesystem::Ext4,
                image: &boot_image,
                size: layout.boot.size,
                uuid: boot_uuid,
                label: "boot",
                content: boot,
                timestamp,
            };
            new.make()?;
            let serial = uuid(self.commit, "esp")[..8].to_uppercase();
            filesystem::make_fat(&self.work.join("esp.img"), layout.esp.size, &serial, esp, timestamp)
        })
    }

    fn disk(&self, layout: &Layout, loaders: &Loaders) -> Result<()> {
        layout.write(self.partial, self.commit, loaders.root_type)?;
        let file = File::options().read(true).write(true).open(self.partial)?;
        let parts = [("esp.img", layout.esp), ("boot.img", layout.boot), ("root.img", layout.root)];
        for (name, part) in parts {
            layout::copy_into(&file, part.start, &self.work.join(name))?;
            std::fs::remove_file(self.work.join(name))?;
        }
        if let Some((boot, core)) = &loaders.bios {
            layout::write_bios(&file, layout.bios, boot, core)?;
        }
        Ok(())
    }

    /// Converts, flushes, and gives the disk its name.
    fn finish(&self) -> Result<()> {
        let mut done = self.partial.to_owned();
        if self.image.format == Format::Qcow2 {
            let converted = self.work.join("disk.qcow2");
            self.events.task("Converting to qcow2", || {
                let mut command = program("qemu-img");
                command.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(self.partial).arg(&converted);
                tool(&mut command, "qemu-utils").map(drop)
            })?;
            done = converted;
        }
        File::open(&done)?.sync_all().context(|| format!("Flushing {}", done.display()))?;
        std::fs::set_permissions(&done, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&done, &self.image.output)
            .context(|| format!("Renaming {} to {}", done.display(), self.image.output.display()))
    }

    fn summary(&self, layout: &Layout, loaders: &Loaders) -> Result<String> {
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&self.image.output)?);
        let mut starts = Vec::new();
        match loaders.uefi {
            Some(Uefi::Signed) => starts.push("UEFI with Secure Boot"),
            Some(Uefi::Unsigned) => starts.push("UEFI without Secure Boot"),
            None => {}
        }
        if loaders.bios.is_some() {
            starts.push("BIOS");
        }
        Ok(format!(
            "{}: {} disk, {} used; starts by {}",
            self.image.output.display(),
            human_size(layout.disk),
            human_size(blocks * 512),
            starts.join(" and by ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(dir: &Path) -> DiskImage {
        DiskImage { output: dir.join("out"), ..DiskImage::default() }
    }

    #[test]
    fn what_is_there_stays_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = image(dir.path());
        std::fs::write(&image.output, "precious").unwrap();
        let e = check(&image).unwrap_err();
        assert!(e.to_string().contains("exists already") && e.hints[0].contains("--force"), "{e:?}");
        image.force = true;
        check(&image).unwrap();
        image.output = dir.path().into();
        assert!(check(&image).unwrap_err().to_string().contains("is a directory"));
        image.output = "/dev/null".into();
        assert!(check(&image).unwrap_err().to_string().contains("not a file"));
        image.output = dir.path().join("no/such");
        assert_eq!(check(&image).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn bad_names_and_arguments_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let good = image(dir.path());
        let user = User { name: "Me".into(), keys: Vec::new(), password_hash: None };
        for bad in [
            DiskImage { hostname: Some("a b".into()), ..good.clone() },
            DiskImage { user: Some(user), ..good.clone() },
            DiskImage { kargs: vec!["root=/dev/sda".into()], ..good },
        ] {
            assert_eq!(check(&bad).unwrap_err().kind, ErrorKind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn one_at_a_time_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("out.work");
        std::fs::create_dir_all(work.join("root/ostree/deploy/debian/deploy/x.0")).unwrap();
        std::fs::write(work.join("esp.img"), "old").unwrap();
        let held = lock(&work).unwrap();
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
        assert_eq!(lock(&work).unwrap_err().kind, ErrorKind::Busy);
        drop(held);
        clean(&dir.path().join("out")).unwrap();
        assert!(!work.exists());
    }
}

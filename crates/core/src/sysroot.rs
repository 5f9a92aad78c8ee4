//! The only place that touches an [`ostree::Sysroot`]: deployments, their origins and kernel arguments, and writing
//! new ones.
//!
//! A sysroot is the physical root with `ostree/` and `boot/`; `/` on a booted system, any directory otherwise.
//! Locking: every change holds libostree's own lock (`ostree/lock`), which other tools watch; reads hold none.

pub mod bootloader;
pub mod deploy;
pub mod initramfs_etc;

use std::path::{Path, PathBuf};

use ostree::gio;
use ostree::glib;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::origin::Origin;
use crate::repo::Repo;

/// An open sysroot.
#[derive(Debug)]
pub struct Sysroot {
    pub(crate) inner: ostree::Sysroot,
    path: PathBuf,
    locked: bool,
}

impl Sysroot {
    /// Opens and loads, to read. `NotFound` when the directory is no sysroot.
    pub fn open(path: &Path) -> Result<Self> {
        Self::load(path, false)
    }

    /// Opens for a change, in a process with a mount namespace of its own: on a booted system, where `/sysroot` is read-only,
    /// libostree mounts it writable in there as soon as it takes the lock.
    pub fn open_for_change(path: &Path) -> Result<Self> {
        Self::load(path, true)
    }

    fn load(path: &Path, private_mounts: bool) -> Result<Self> {
        if !path.join("ostree/repo").is_dir() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} is not an OSTree sysroot: it has no ostree/repo", path.display()),
            )
            .hint(format!("Make one: apt-ostree --sysroot={} init-sysroot …", path.display())));
        }
        let inner = ostree::Sysroot::new(Some(&gio::File::for_path(path)));
        if private_mounts {
            inner.set_mount_namespace_in_use();
        }
        inner.load(gio::Cancellable::NONE).context(|| format!("Loading the sysroot {}", path.display()))?;
        Ok(Self { inner, path: path.to_owned(), locked: false })
    }

    /// Makes a sysroot with one stateroot out of a directory, as `ostree admin init-fs` and `stateroot-init` do, for a machine
    /// that GRUB starts or for none in particular, and opens it locked.
    pub fn create(path: &Path, stateroot: &str, grub: bool) -> Result<Self> {
        let inner = ostree::Sysroot::new(Some(&gio::File::for_path(path)));
        inner.ensure_initialized(gio::Cancellable::NONE).context(|| format!("Initialising {}", path.display()))?;
        if grub {
            // libostree reads some of it only when it opens the repository.
            bootloader::use_grub(path)?;
        }
        let mut sysroot = Self::open(path)?;
        sysroot.lock()?;
        sysroot
            .inner
            .init_osname(stateroot, gio::Cancellable::NONE)
            .context(|| format!("Creating the stateroot {stateroot}"))?;
        Ok(sysroot)
    }

    /// Takes libostree's lock without waiting; `Busy` when another transaction has it.
    pub fn lock(&mut self) -> Result<()> {
        if !self.inner.try_lock().context(|| "Locking the sysroot")? {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("Another transaction is at work on {}", self.path.display()),
            )
            .hint("Wait for it to end, then try again. Nothing was changed."));
        }
        self.locked = true;
        // What is written must be based on what is there now, not on what was there before the lock.
        self.inner.load(gio::Cancellable::NONE)?;
        Ok(())
    }

    /// Makes the sysroot writable for this process, see [`Sysroot::open_for_change`]. Somebody else's lock is left to
    /// [`Sysroot::lock`] to complain of.
    pub fn make_writable(&self) -> Result<()> {
        if self.inner.try_lock().context(|| "Locking the sysroot")? {
            self.inner.unlock();
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn repo(&self) -> Repo {
        Repo::of_sysroot(self.inner.repo(), &self.path)
    }

    /// Whether this process runs from a deployment of this sysroot.
    pub fn is_booted(&self) -> bool {
        self.inner.booted_deployment().is_some()
    }

    /// All deployments, first = next boot.
    pub fn deployments(&self) -> Vec<Deployment> {
        let booted = self.inner.booted_deployment();
        self.inner
            .deployments()
            .into_iter()
            .map(|inner| Deployment { booted: booted.as_ref().is_some_and(|b| b.equal(&inner)), inner })
            .collect()
    }

    /// The stateroot to work on: the given one, the booted one, or the only one.
    pub fn stateroot(&self, wanted: Option<&str>) -> Result<String> {
        let mut names: Vec<String> = self.deployments().iter().map(Deployment::stateroot).collect();
        names.dedup();
        if let Some(name) = wanted {
            return if names.iter().any(|n| n == name) {
                Ok(name.to_owned())
            } else {
                Err(Error::new(ErrorKind::NotFound, format!("No deployments for stateroot {name}"))
                    .hint(format!("Stateroots here: {}", names.join(", "))))
            };
        }
        if let Some(booted) = self.deployments().iter().find(|d| d.booted) {
            return Ok(booted.stateroot());
        }
        names.sort();
        names.dedup();
        match names.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Error::new(ErrorKind::NotFound, format!("No deployments in {}", self.path.display()))
                .hint("Make the first one: apt-ostree --sysroot=DIR init-sysroot …")),
            many => {
                Err(Error::usage(format!("Several stateroots: {}", many.join(", ")))
                    .hint("Choose one with --stateroot."))
            }
        }
    }

    /// The deployments of one stateroot, in boot order.
    pub fn deployments_of(&self, stateroot: &str) -> Vec<Deployment> {
        self.deployments().into_iter().filter(|d| d.stateroot() == stateroot).collect()
    }

    /// The deployment whose origin a change starts from: the first one of the stateroot, so that `install a` and then
    /// `install b` gives both.
    pub fn pending(&self, stateroot: &str) -> Result<Deployment> {
        self.deployments_of(stateroot)
            .into_iter()
            .next()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("No deployments for stateroot {stateroot}")))
    }

    /// The deployment that runs; in a directory, where none does, the one that would boot.
    pub fn current(&self, stateroot: &str) -> Option<Deployment> {
        let all = self.deployments_of(stateroot);
        all.iter().find(|d| d.booted).or(all.first()).cloned()
    }

    /// The deployment whose /etc and kernel arguments are carried over: the booted one, else the pending one.
    pub fn merge_deployment(&self, stateroot: &str) -> Option<Deployment> {
        let inner = self.inner.merge_deployment(Some(stateroot))?;
        let booted = self.inner.booted_deployment().is_some_and(|b| b.equal(&inner));
        Some(Deployment { inner, booted })
    }

    /// The /var of a stateroot: that of the running system where it is booted, as it may be a file system of its own.
    pub fn var(&self, stateroot: &str) -> PathBuf {
        let booted = self.deployments().iter().any(|d| d.booted && d.stateroot() == stateroot);
        if booted && self.path == Path::new("/") {
            return "/var".into();
        }
        self.path.join("ostree/deploy").join(stateroot).join("var")
    }

    /// The directory of a deployment.
    pub fn directory(&self, deployment: &Deployment) -> PathBuf {
        self.path.join(self.inner.deployment_dirpath(&deployment.inner).as_str())
    }
}

/// One deployment.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub(crate) inner: ostree::Deployment,
    pub booted: bool,
}

impl Deployment {
    pub fn checksum(&self) -> String {
        self.inner.csum().into()
    }

    pub fn stateroot(&self) -> String {
        self.inner.osname().into()
    }

    pub fn serial(&self) -> i32 {
        self.inner.deployserial()
    }

    /// `STATEROOT-CHECKSUM.SERIAL`, by which clients name it.
    pub fn id(&self) -> String {
        format!("{}-{}", self.stateroot(), self.name())
    }

    /// `CHECKSUM.SERIAL`, the name of its directory.
    pub fn name(&self) -> String {
        format!("{}.{}", self.checksum(), self.serial())
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.inner.equal(&other.inner)
    }

    pub fn is_staged(&self) -> bool {
        self.inner.is_staged()
    }

    /// Staged, and not to be finalized by the next shutdown unless `finalize-deployment` says so.
    pub fn is_finalization_locked(&self) -> bool {
        self.inner.is_staged() && self.inner.is_finalization_locked()
    }

    pub fn is_pinned(&self) -> bool {
        self.inner.is_pinned()
    }

    /// `none`, `development`, `hotfix` or `transient`.
    pub fn unlocked(&self) -> String {
        ostree::Deployment::unlocked_state_to_string(self.inner.unlocked()).into()
    }

    /// A key of the `[origin]` group that is not ours to interpret.
    pub fn origin_value(&self, key: &str) -> Option<String> {
        self.inner.origin()?.string("origin", key).ok().map(Into::into)
    }

    /// `/usr` is as deployed: not `usroverlay`ed and not hotfixed.
    pub fn is_unmodified(&self) -> bool {
        self.inner.unlocked() == ostree::DeploymentUnlockedState::None
    }

    pub fn origin(&self) -> Result<Origin> {
        let keyfile = self
            .inner
            .origin()
            .ok_or_else(|| Error::failed(format!("The deployment {} has no origin file", self.name())))?;
        Origin::parse(&keyfile.to_data()).context(|| format!("Reading the origin of deployment {}", self.name()))
    }

    /// A key of its boot entry (Boot Loader Specification): `linux`, `initrd`, `options`.
    pub fn boot_entry(&self, key: &str) -> Option<String> {
        self.inner.bootconfig()?.get(key).map(Into::into)
    }

    fn options(&self) -> String {
        self.inner.bootconfig().and_then(|b| b.get("options")).map(Into::into).unwrap_or_default()
    }

    /// The kernel arguments as one line, without `ostree=`.
    pub fn kernel_command_line(&self) -> String {
        without_ostree_karg(&self.options())
    }

    /// The kernel arguments, in order, without `ostree=`.
    pub fn kernel_arguments(&self) -> Vec<String> {
        let options = self.options();
        ostree::KernelArgs::from_string(&options)
            .to_strv()
            .into_iter()
            .map(Into::into)
            .filter(|a: &String| !a.is_empty() && !a.starts_with("ostree="))
            .collect()
    }
}

/// The line without any `ostree=` word, which is libostree's own.
pub fn without_ostree_karg(line: &str) -> String {
    line.split_ascii_whitespace().filter(|w| !w.starts_with("ostree=")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn keyfile(origin: &Origin) -> Result<glib::KeyFile> {
    let file = glib::KeyFile::new();
    file.load_from_data(&origin.to_string(), glib::KeyFileFlags::NONE).context(|| "Writing the origin")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ostree_argument_is_not_shown() {
        assert_eq!(without_ostree_karg("quiet ostree=/ostree/boot.1/x/0  rw"), "quiet rw");
    }
}

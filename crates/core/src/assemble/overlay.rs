//! One overlay mount: a read-only lower tree, a scratch upper layer on the repository's file system.
//!
//! The mount lives in the mount namespace of the worker process, so it is gone when the worker is, however it ends.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::{Context, Error, Result};
use crate::sandbox::bubblewrap::shell_join;

/// Scratch layout, below a directory of its own: `upper/`, `work/`, `root/` (the mount point), and what callers add.
#[derive(Debug)]
pub struct Overlay {
    scratch: PathBuf,
    options: String,
    mounted: bool,
}

impl Overlay {
    /// Mounts `lower` with a fresh upper layer in `scratch`, which must be empty or missing.
    pub fn mount(lower: &Path, scratch: &Path) -> Result<Self> {
        for name in ["upper", "work", "root"] {
            std::fs::create_dir_all(scratch.join(name))
                .context(|| format!("Creating scratch space in {}", scratch.display()))?;
        }
        let quote = |p: &Path| p.display().to_string().replace('\\', r"\\").replace(',', r"\,").replace(':', r"\:");
        // The features that leave attributes or redirects in the upper layer are off: the commit reads that layer.
        let data = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=off,index=off,metacopy=off,xino=off",
            quote(lower),
            quote(&scratch.join("upper")),
            quote(&scratch.join("work"))
        );
        let options = data.clone();
        let data = std::ffi::CString::new(data).map_err(|_| Error::failed("A path has a NUL byte"))?;
        let root = scratch.join("root");
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), data.as_c_str())
            .context(|| format!("Mounting an overlay over {}", lower.display()))?;
        Ok(Self { scratch: scratch.to_owned(), options, mounted: true })
    }

    /// The merged view.
    pub fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// Only what changed; valid for reading once unmounted.
    pub fn upper(&self) -> PathBuf {
        self.scratch.join("upper")
    }

    /// A shell script that mounts the same layers again, in a namespace of its own, and runs `command` there.
    pub fn script(&self, command: &str) -> String {
        let mount =
            shell_join(&["mount", "-t", "overlay", "overlay", "-o", &self.options, &self.root().to_string_lossy()]);
        let inner = format!("{mount}\nexec {command}");
        format!("#!/bin/sh\n{}\n", shell_join(&["unshare", "--mount", "--propagation", "private", "sh", "-ec", &inner]))
    }

    pub fn unmount(&mut self) -> Result<()> {
        if self.mounted {
            self.mounted = false;
            rustix::mount::unmount(self.root(), UnmountFlags::empty()).context(|| "Unmounting the overlay")?;
        }
        Ok(())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a process that is still dying may hold it, and the namespace ends with us anyway.
            let _ = rustix::mount::unmount(self.root(), UnmountFlags::DETACH);
        }
    }
}

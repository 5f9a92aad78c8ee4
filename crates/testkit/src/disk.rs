//! A file system of its own for a sysroot: ext4 in a sparse file, mounted by a loop device.
//!
//! Finalization freezes the file system that has /boot. On one of its own nothing else stands still meanwhile, and what
//! dies in the freeze leaves only this one frozen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::run;

/// Long enough for everything that is waited for. Nothing is asserted on how long it took.
const PATIENCE: Duration = Duration::from_secs(180);

/// A mounted file system; unmounted when dropped. Needs root.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    dir: PathBuf,
    mounted: bool,
}

impl Disk {
    /// An empty one of `megabytes`, mounted on `dir`. The image takes the space of what is written only.
    ///
    /// # Panics
    /// When the file system cannot be made or mounted.
    pub fn new(image: &Path, dir: &Path, megabytes: u64) -> Self {
        let file = fs::File::create(image).unwrap_or_else(|e| panic!("cannot make {}: {e}", image.display()));
        file.set_len(megabytes << 20).expect("a sparse file");
        // Without reserved blocks: root is who fills it.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1"]).arg(image));
        Self::mount(image, dir)
    }

    /// A copy of the image of another one, which must not be mounted meanwhile.
    ///
    /// # Panics
    /// When it cannot be copied or mounted.
    pub fn copy(from: &Path, image: &Path, dir: &Path) -> Self {
        run(Command::new("cp").args(["--reflink=auto", "--sparse=always"]).arg(from).arg(image));
        Self::mount(image, dir)
    }

    fn mount(image: &Path, dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image).arg(dir));
        Self { image: image.to_owned(), dir: dir.to_owned(), mounted: true }
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends a freeze, as a restart of the machine would.
    pub fn thaw(&self) {
        // Not frozen is the rule, and an error of fsfreeze.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.dir).output();
    }

    /// Unmounts it and checks the file system.
    ///
    /// # Panics
    /// When something still uses it, or e2fsck finds damage.
    pub fn close(mut self) -> PathBuf {
        run(Command::new("umount").arg(&self.dir));
        self.mounted = false;
        // Somebody who took a copy of the mount namespace meanwhile, such as another machine, still has it mounted.
        let end = Instant::now() + PATIENCE;
        while !run(Command::new("losetup").arg("--associated").arg(&self.image)).stdout.is_empty() {
            assert!(Instant::now() < end, "{} stays in use", self.image.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&self.image));
        self.image.clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            self.thaw();
            // A test that failed may have left something in there.
            let _ = Command::new("umount").arg("--lazy").arg(&self.dir).output();
        }
    }
}

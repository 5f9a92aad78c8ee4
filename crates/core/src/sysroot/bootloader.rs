//! GRUB beside libostree: the generator of its menu, what a sysroot needs so that libostree calls it, and the menu again
//! where libostree sees no need for one.
//!
//! On disk, below the sysroot: `boot/grub/grub.cfg`, a link to `../loader/grub.cfg`, so that the one rename that
//! libostree switches `boot/loader` with switches the menu as well; `boot/grub/grubenv`, the environment block
//! (1024 bytes, of which GRUB writes the blocks in place). docs/boot.md has the whole.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::repo::Repo;

/// A shell script; its head says how it is called.
pub const GENERATOR: &str = include_str!("../../../../data/grub/grub-config");
/// Where every composed tree has it.
pub const GENERATOR_PATH: &str = "/usr/libexec/apt-ostree/grub-config";

/// An environment block without variables, as `grub-editenv FILE create` makes it.
fn empty_environment() -> Vec<u8> {
    const HEADER: &[u8] = b"# GRUB Environment Block\n";
    let mut block = HEADER.to_vec();
    block.resize(1024, b'#');
    block
}

/// Makes GRUB the boot loader of a sysroot without deployments. Explicitly, because libostree finds out by itself only when there is
/// a menu already; with paths that begin with `/boot`, which hold whether or not that is a file system of its own (libostree
/// makes a link `boot/boot -> .`).
pub(super) fn use_grub(sysroot: &Path) -> Result<()> {
    let repo = Repo::open(&sysroot.join("ostree/repo"))?;
    repo.set_option("sysroot", "bootloader", "grub2")?;
    repo.set_option("sysroot", "bootprefix", "true")?;
    let grub = sysroot.join("boot/grub");
    let write = || -> Result<()> {
        std::fs::create_dir_all(&grub)?;
        std::os::unix::fs::symlink("../loader/grub.cfg", grub.join("grub.cfg"))?;
        Ok(std::fs::write(grub.join("grubenv"), empty_environment())?)
    };
    write().context(|| format!("Writing {}", grub.display()))
}

/// Writes the menu of a sysroot again if it is one of ours. libostree writes none when the kernel, the arguments and the
/// version of every deployment stay where they are; the names and ids in the menu would then be those of other deployments.
pub(super) fn refresh_menu(sysroot: &Path) -> Result<()> {
    if std::fs::symlink_metadata(sysroot.join("boot/grub/grub.cfg")).is_err() {
        return Ok(());
    }
    let run = || -> Result<std::process::Output> {
        let mut child = Command::new("sh")
            .args(["-s", "--", "--refresh"])
            .arg(sysroot)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // A shell that is gone already says why by its exit status.
        let _ = child.stdin.take().expect("stdin is piped").write_all(GENERATOR.as_bytes());
        Ok(child.wait_with_output()?)
    };
    let output = run().context(|| "Running the generator of GRUB's menu")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "Writing GRUB's menu of {} failed: {}",
        sysroot.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
    .hint("The deployments were changed and the menu starts the first of them, under the name of another.")
    .hint(format!("Try again with: {GENERATOR_PATH} --refresh {}", sysroot.display())))
}

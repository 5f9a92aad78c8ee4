//! Disk images: partitions, file systems in files, and the boot loader's own files. `operation::disk_image` puts them
//! together.
//!
//! Everything is made in ordinary files by the tools of this machine, and the boot loader by those of the tree: no
//! partition is mapped, no FAT file system is mounted, and GRUB need not be installed here.

pub mod filesystem;
pub mod layout;
pub mod loader;
pub mod settings;

use std::process::{Command, Output, Stdio};

use crate::digest;
use crate::error::{Context, Error, ErrorKind, Result};

/// Where programs of this machine are looked for, also when whoever became root kept the PATH of a user.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of this machine.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", PATH);
    command
}

/// Runs a [`program`] that belongs to `package`. The error has what it wrote.
pub(crate) fn tool(command: &mut Command, package: &str) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().context(|| format!("Running {name}")).map_err(|e| missing(e, package))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let kind = if text.contains("No space left") { ErrorKind::Space } else { ErrorKind::Failed };
    Err(Error::new(kind, format!("{name} failed ({}): {}", output.status, text.trim())))
}

fn missing(error: Error, package: &str) -> Error {
    if error.kind == ErrorKind::NotFound { error.hint(format!("Install the package {package}.")) } else { error }
}

/// Refuses where a program of this machine is not there, before anything is made. By name and package.
pub(crate) fn require_tools(tools: &[(&str, &str)]) -> Result<()> {
    let there = |name: &str| PATH.split(':').any(|dir| std::path::Path::new(dir).join(name).exists());
    let absent: Vec<&(&str, &str)> = tools.iter().filter(|(name, _)| !there(name)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = absent.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<&str> = absent.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Err(Error::new(ErrorKind::NotFound, format!("This machine does not have {}", names.join(", ")))
        .hint(format!("Install: {}. Nothing was written.", packages.join(" "))))
}

/// A UUID that is the same for the same commit and purpose (RFC 9562, version 8): images made twice are alike.
pub(crate) fn uuid(commit: &str, purpose: &str) -> String {
    let digest = digest::of_bytes(format!("apt-ostree disk image {commit} {purpose}").as_bytes());
    let variant = ["8", "9", "a", "b"][usize::from(digest.as_bytes()[16] % 4)];
    format!("{}-{}-8{}-{variant}{}-{}", &digest[..8], &digest[8..12], &digest[13..16], &digest[17..20], &digest[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_the_form_and_depend_on_commit_and_purpose() {
        let (a, b, c) = (uuid("1", "root"), uuid("1", "boot"), uuid("2", "root"));
        assert!(a != b && a != c && a == uuid("1", "root"));
        for id in [a, b, c] {
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert!(id.as_bytes()[14] == b'8' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
        }
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let e = require_tools(&[("sh", "dash"), ("no-such-tool", "no-package")]).unwrap_err();
        assert!(e.to_string().contains("no-such-tool") && !e.to_string().contains("sh,"), "{e}");
        assert!(e.hints[0].contains("no-package"), "{e:?}");
        let e = tool(&mut Command::new("no-such-tool"), "no-package").unwrap_err();
        assert_eq!(e.hints, ["Install the package no-package."]);
        let e = tool(Command::new("sh").args(["-c", "echo No space left >&2; exit 3"]), "dash").unwrap_err();
        assert!(e.kind == ErrorKind::Space && e.to_string().contains("status: 3"), "{e:?}");
    }
}

//! A disk image of the base, for machines of several tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::{Outcome, Server};
use apt_ostree_testkit::vm::{Firmware, INSIDE, Vm};

use crate::bases::{BRANCH, PROGRAM, base, directory, lock_runs};
use crate::world::World;

/// A machine's account; nobody has the private half of its key.
pub(crate) const OWNER: &str = "owner";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1mGJ0yq0z6mTz1dC0pZ2mC0o1cQ0bWl1e8o2b9k3Xy owner";

/// `compose disk-image` of a branch.
pub(crate) fn disk_image(repo: &Path, options: &[&str], out: &Path) -> Outcome {
    let mut command = Command::new(PROGRAM);
    command.args(["compose", "disk-image"]).arg(format!("--repo={}", repo.display())).args(options);
    command.arg(BRANCH).arg(out).env("LC_ALL", "C.UTF-8").env("NO_COLOR", "1");
    let output = command.output().expect("the program starts");
    Outcome::new(&command, &output)
}

/// The image of version 1, made by the first test that asks.
pub(crate) fn image() -> PathBuf {
    static MADE: Mutex<Option<PathBuf>> = Mutex::new(None);
    lock_runs();
    let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = made.as_ref() {
        return path.clone();
    }
    let dir = directory().join("image");
    apt_ostree_testkit::sysroot::wipe(&dir);
    fs::create_dir_all(&dir).expect("a writable cache");
    let server = Server::new(&base().repo(), &dir.join("repo"));
    server.set(BRANCH, &base().v1);
    let key = dir.join("key.pub");
    fs::write(&key, KEY).expect("a writable cache");
    let (out, key) = (dir.join("disk.raw"), format!("--ssh-key={}", key.display()));
    let user = format!("--user={OWNER}");
    let remote = format!("--remote=kit=file://{}", server.dir().display());
    let options =
        [&user, &key, "--hostname=kit-machine", "--karg=console=ttyS0", &remote, "--no-gpg-verify", "--force"];
    disk_image(server.dir(), &options, &out).exits(0).says(&["UEFI with Secure Boot", "and by BIOS"]);
    assert!(!dir.join("disk.raw.work").exists() && !dir.join("disk.raw.partial").exists());
    // It is never written to: every machine has an overlay.
    let mut read_only = Command::new("chmod");
    run(read_only.arg("444").arg(&out));
    *made = Some(out.clone());
    out
}

/// A machine of the image, with the program under test, the archive of the world and some packages inside.
pub(crate) fn machine(world: &World, firmware: Firmware, packages: &[&Path]) -> Vm {
    let mut tools = vec![Path::new(PROGRAM), world.archive.dir()];
    tools.extend(packages);
    Vm::new(&image(), &world.dir.join("machine"), firmware, &tools)
}

/// Where a file given to [`machine`] is inside.
pub(crate) fn inside(file: &Path) -> String {
    format!("{INSIDE}/{}", file.file_name().expect("a file").to_string_lossy())
}

/// For a script inside: `ids` are CHECKSUM.SERIAL of the deployments in libostree's order, `booted` the one that runs, `menu` those of
/// GRUB's menu; after `offline` packages come from the archive of the world alone.
pub(crate) fn helpers(world: &World) -> String {
    let archive = inside(world.archive.dir());
    // A keyring is looked for in the deployment.
    let sources = format!(
        "Types: deb\nURIs: file://{archive}\nSuites: stable\nComponents: main\nSigned-By: /etc/apt/keyrings/kit.asc"
    );
    format!(
        "
ids() {{ ostree admin status | sed -n 's/^[* ] [^ ]* \\([0-9a-f]*\\.[0-9]*\\).*/\\1/p'; }}
booted() {{ ostree admin status | sed -n 's/^\\* [^ ]* \\([0-9a-f]*\\.[0-9]*\\).*/\\1/p'; }}
menu() {{ sed -n \"s/^menuentry .* --id '\\(.*\\)' {{/\\1/p\" /boot/grub/grub.cfg; }}
offline() {{
  rm -f /etc/apt/sources.list.d/* /etc/apt/sources.list
  mkdir -p /etc/apt/keyrings; cp {archive}/key.asc /etc/apt/keyrings/kit.asc
  echo '{sources}' > /etc/apt/sources.list.d/kit.sources
}}
fail() {{ echo \"FAIL $*\"; exit 1; }}
"
    )
}

//! The composed tree with a layer, started: as a machine in QEMU, and in a container.
//!
//! `tests/boot/checks.sh` says what has to hold inside. systemd, libostree, dpkg and sshd answer there.

use std::fs;
use std::process::Command;

use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::Outcome;

use crate::bases::{BRANCH, PROGRAM, TREE, base, daemon};
use crate::world::{World, small};

/// Of the root file system; the script gives it to the disk that it makes.
const ROOT: &str = "root=UUID=5e2b6f0e-3a51-4d3c-9a40-0d8c1f1f7a6b";

/// A base whose administrator has made an account, and then layered a program of Debian and a daemon with its user.
fn machine() -> World {
    let mut world = World::empty();
    let server = world.server("local");
    server.set(BRANCH, &base().v1);
    let pull = format!("--pull-local={}", server.dir().display());
    let karg = format!("--karg={ROOT}");
    world.sysroot.ok(&[
        "init-sysroot",
        "--stateroot=debian",
        &pull,
        &karg,
        "--karg=rw",
        "--karg=console=ttyS0",
        BRANCH,
    ]);
    world.publish(&[daemon("kit-own-user", "1.0")]);
    let debian =
        apt_ostree_core::compose::input::host_sources("/".as_ref(), "trixie").expect("sources of this machine");
    let debian: Vec<String> = debian.iter().map(ToString::to_string).collect();
    world.sysroot.set_sources(&format!("{}\n\n{}", debian.join("\n"), world.archive.sources("stable")));

    let deployment = world.sysroot.deployment(0);
    run(Command::new("useradd").arg("--root").arg(&deployment).args(["--no-create-home", "--uid=1500", "owner"]));
    world.sysroot.ok(&["install", "htop", "kit-own-user"]);
    // libostree merges whole files: the administrator's has no line for the daemon. sysusers adds it at boot.
    let passwd = world.read(0, "etc/passwd");
    assert!(passwd.contains("owner:") && !passwd.contains("kit-own-user:"), "{passwd}");
    assert_eq!(world.read(0, "etc/machine-id"), "");
    assert_eq!(host_keys(&world), Vec::<String>::new());
    world
}

/// Private host keys of the deployment.
fn host_keys(world: &World) -> Vec<String> {
    let list = fs::read_dir(world.sysroot.deployment(0).join("etc/ssh")).expect("openssh-server is in the base");
    let names = list.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with("ssh_host_") && n.ends_with("_key")).collect()
}

/// Starts the system with a script of `tests/boot`; what a command inside said.
pub(crate) fn inside(world: &World, script: &str, what: &str) -> Outcome {
    let mut command = Command::new(format!("{TREE}/tests/boot/{script}"));
    command.arg(world.sysroot.dir()).arg(what).env("APT_OSTREE", PROGRAM);
    let output = command.output().expect("the script starts");
    Outcome::new(&command, &output)
}

/// Starts the system and lets it check itself.
fn start(world: &World, script: &str) -> Outcome {
    let checks = fs::read_to_string(format!("{TREE}/tests/boot/checks.sh")).expect("the checks");
    let what = format!("LAYERED=htop USERS='sshd messagebus kit-daemon kit-own-user owner'\n{checks}");
    inside(world, script, &what).exits(0).never_says(&["FAIL"]).says(&[
        "ok multi-user",
        "ok no-failed-unit",
        "ok ostree-admin-status",
        "ok apt-ostree-status",
        "ok apt-ostree-status-booted",
        "ok apt-ostree-db-list",
        "ok layered-program",
        "ok dpkg-l",
        "ok usr-read-only",
        "ok writable",
        "ok var-dpkg",
        "ok var-journal",
        "ok machine-id",
        "ok ssh-host-keys",
        "ok user-kit-own-user",
        "ok user-owner",
        "ok owners-resolve",
        "all held\n",
    ])
}

#[test]
fn a_layered_system_starts_as_a_machine() {
    let world = machine();
    start(&world, "qemu.sh").says(&["ok booted-the-entry", "ok root-immutable", "ok sysroot-read-only"]);
    assert_eq!(host_keys(&world), Vec::<String>::new(), "the machine had a copy of the sysroot");
    world.done();
}

#[test]
fn a_layered_system_starts_in_a_container_and_into_what_was_staged_there() {
    let world = machine();
    start(&world, "nspawn.sh");
    let keys = host_keys(&world);
    assert_eq!(keys.len(), 3, "{keys:?}");
    let key = world.read(0, "etc/ssh/ssh_host_ed25519_key.pub");
    // What is layered from inside is staged, finalized on the way down, and there when the system comes up again.
    let deb = world.local(&small("kit-inside", "1.0"));
    let var = world.sysroot.dir().join("ostree/deploy/debian/var");
    fs::copy(&deb, var.join("kit-inside.deb")).expect("a package");
    let install = "test -z \"$(command -v kit-inside)\" && apt-ostree install --cache-only /var/kit-inside.deb";
    inside(&world, "nspawn.sh", install).exits(0).says(&["Added:\n  kit-inside-1.0", "systemctl reboot"]);
    inside(&world, "nspawn.sh", "kit-inside").exits(0).says(&["kit-inside 1.0\n"]);
    start(&world, "nspawn.sh");
    assert_eq!(world.read(0, "etc/ssh/ssh_host_ed25519_key.pub"), key);
    world.done();
}

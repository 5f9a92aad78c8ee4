//! The Debian package of this source, layered on a base: it works there by itself, and judges the boots of deployments.
//!
//! systemd runs its units in booted containers, `grub-editenv` reads what they tell the boot loader.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::Outcome;

use crate::bases::{BRANCH, TREE, base};
use crate::service::RESTARTED;
use crate::world::{World, small};

/// The package, of cargo's debug profile.
pub(crate) fn package(world: &World) -> PathBuf {
    let dir = world.dir.join("deb");
    let output = run(Command::new(format!("{TREE}/scripts/deb")).arg("--noopt").arg(&dir));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// The one with the names of rpm-ostree, which is made along with it.
pub(crate) fn compat(deb: &Path) -> PathBuf {
    let dir = deb.parent().expect("a directory");
    let files = fs::read_dir(dir).expect("own directory").flatten().map(|e| e.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("apt-ostree-rpm-ostree-compat_") && name.ends_with(".deb")
    };
    files.into_iter().find(is_it).expect("the package with the names")
}

/// Paths of everything in a package that is no directory, without the leading `/`.
fn content(deb: &Path) -> Vec<String> {
    let output = run(Command::new("dpkg-deb").arg("--contents").arg(deb));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let files = text.lines().filter(|l| !l.starts_with('d'));
    files.filter_map(|l| Some(l.split_whitespace().nth(5)?.trim_start_matches("./").to_owned())).collect()
}

/// `CHECKSUM.SERIAL` of a deployment.
fn name(world: &World, index: usize) -> String {
    world.sysroot.deployment(index).file_name().expect("a name").to_string_lossy().into_owned()
}

fn grubenv(world: &World, words: &[&str]) -> String {
    let path = world.sysroot.dir().join("boot/grub/grubenv");
    let output = run(Command::new("grub-editenv").arg(path).args(words));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts the first deployment, with the program that is in it.
fn start(world: &World, what: &str) -> Outcome {
    let mut command = Command::new(format!("{TREE}/tests/boot/nspawn.sh"));
    command.arg(world.sysroot.dir()).arg(what).env_remove("APT_OSTREE");
    let output = command.output().expect("the script starts");
    Outcome::new(&command, &output)
}

/// Gives the first deployment a health check.
fn add_check(world: &World, text: &str) -> PathBuf {
    let path = world.sysroot.deployment(0).join("etc/apt-ostree/health.d/50-test");
    fs::create_dir_all(path.parent().expect("a directory")).expect("a writable /etc");
    set_check(&path, text);
    path
}

fn set_check(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a writable /etc");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("an own file");
}

#[test]
fn the_package_judges_boots() {
    let (world, server) = World::following();
    let deb = package(&world);
    for path in content(&deb) {
        assert!(!world.has(0, &path), "{path} is in the base and in the package");
    }
    world.sysroot.ok(&["install", &deb.to_string_lossy()]);
    fs::create_dir_all(world.sysroot.dir().join("boot/grub")).expect("a writable /boot");
    grubenv(&world, &["create"]);

    // A start without failures makes a deployment good.
    let healthy = "apt-ostree health && systemctl is-active apt-ostree-health apt-ostree-boot-good boot-complete.target \
                   && systemctl is-system-running && dpkg --verify apt-ostree && apt-ostree status --booted";
    start(&world, healthy).exits(0).says(&["There are no health checks", "\nrunning\n", "apt-ostree-0.1.0"]);
    let first = name(&world, 0);
    assert_eq!(grubenv(&world, &["list"]), format!("apt_ostree_good={first}\n"));

    // A new one, which the loader counts the tries of, is restarted when a check fails; then it passes.
    server.set(BRANCH, &base().v2);
    world.sysroot.ok(&["upgrade"]);
    let second = name(&world, 0);
    assert_ne!(first, second);
    let trial = format!("apt_ostree_trial={second}");
    grubenv(&world, &["set", &trial, "apt_ostree_left=2"]);
    // First it hangs. The timer is set to seconds.
    let check = add_check(&world, "sleep 300");
    let drop_in = world.sysroot.deployment(0).join("etc/systemd/system/apt-ostree-boot-timeout.timer.d");
    fs::create_dir_all(&drop_in).expect("a writable /etc");
    let soon = "[Timer]\nOnActiveSec=\nOnActiveSec=4s\nAccuracySec=100ms\n";
    fs::write(drop_in.join("soon.conf"), soon).expect("a writable /etc");
    start(&world, "true").exits(RESTARTED).says(&["Rebooting."]);
    let status = world.sysroot.ok(&["status"]);
    status.says(&["BootFailed: the start did not come to an end in time ("]);
    fs::remove_dir_all(&drop_in).expect("a writable /etc");
    // Then a check fails, and then it passes.
    set_check(&check, "echo start >> /var/starts; test \"$(wc -l < /var/starts)\" -gt 1");
    // The container ends when its system restarts, before the command had its turn.
    start(&world, "true").exits(RESTARTED).says(&["Reached target", "Rebooting."]);
    let left = format!("apt_ostree_good={first}\n{trial}\napt_ostree_left=2\n");
    assert_eq!(grubenv(&world, &["list"]), left, "counting is the loader's");
    let status = world.sysroot.ok(&["status"]);
    status.says(&["BootFailed: check 50-test: exit status 1 ("]);
    let healthy = "cat /var/starts; apt-ostree health --json";
    start(&world, healthy).exits(0).says(&["start\nstart\n", "\"healthy\": true"]);
    world.sysroot.ok(&["status"]).never_says(&["BootFailed"]);
    assert_eq!(grubenv(&world, &["list"]), format!("apt_ostree_good={second}\n"));

    // One that the loader does not count stays up, and says what is wrong.
    set_check(&check, "echo the answer is 41; exit 3");
    grubenv(&world, &["set", &format!("apt_ostree_good={first}")]);
    let broken = "systemctl is-active boot-complete.target; systemctl is-failed apt-ostree-health; apt-ostree health; \
                  journalctl -q -b -u apt-ostree-health; apt-ostree status";
    start(&world, broken).exits(0).says(&[
        "inactive\nfailed\n",
        "FAILED   50-test  exit status 3\n         the answer is 41\n",
        "It is not restarted: the boot loader does not count this deployment's tries.",
        "BootFailed: check 50-test: exit status 3 (the answer is 41) (",
    ]);
    assert_eq!(grubenv(&world, &["list"]), format!("apt_ostree_good={first}\n"));
    let status = world.sysroot.ok(&["status", "--json"]).json();
    let failed = &status["deployments"][0]["boot-failed"];
    assert_eq!(failed["deployment"], second.as_str());
    assert_eq!(failed["checks"][0]["output"], serde_json::json!(["the answer is 41"]));
    assert!(status["deployments"][1].get("boot-failed").is_none());

    // Gone, it does not come back by itself; something else does.
    world.sysroot.ok(&["rollback"]);
    assert_eq!(name(&world, 0), first);
    world.sysroot.ok(&["cleanup", "-r"]);
    world.sysroot.refuses(&["upgrade"]).says(&[
        &format!("The new deployment would be the same as {second}, which failed to boot at "),
        "check 50-test: exit status 3 (the answer is 41)",
        "--allow-failed",
    ]);
    world.sysroot.unchanged(77, &["upgrade", "--preview"]).says(&[
        &format!("The update would be the same as {second}, which failed to boot at "),
        "No updates available.",
    ]);
    let other = world.local(&small("kit-other", "1.0"));
    world.sysroot.ok(&["upgrade", "--install", &other.to_string_lossy()]).says(&["kit-new"]);
    world.sysroot.ok(&["rollback"]);
    world.sysroot.ok(&["cleanup", "-r"]);
    world.sysroot.ok(&["upgrade", "--allow-failed"]).says(&["kit-new"]);
    assert_eq!(name(&world, 0).split('.').next(), second.split('.').next());

    // What the loader gave up without a word from the system is told by the one it fell back to.
    let given_up = name(&world, 0);
    let reports = world.sysroot.dir().join("ostree/deploy/debian/var/lib/apt-ostree/health");
    fs::remove_dir_all(&reports).expect("the reports");
    world.sysroot.ok(&["rollback"]);
    grubenv(&world, &["set", &format!("apt_ostree_failed={given_up}")]);
    start(&world, "apt-ostree status").exits(0).says(&["BootFailed: the boot loader gave it up"]);

    // Turned off, it leaves the loader nothing to count by.
    let etc = world.sysroot.deployment(0).join("etc");
    fs::write(etc.join("apt-ostreed.conf"), "[Boot]\nVerify=no\n").expect("a writable /etc");
    start(&world, "systemctl is-active apt-ostree-boot-good").exits(0);
    assert_eq!(grubenv(&world, &["list"]), "");
    world.done();
}

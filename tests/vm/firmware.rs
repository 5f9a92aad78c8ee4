//! Starts by BIOS and with Secure Boot, from other file systems, and what the boot loader does without a person.

use apt_ostree_testkit::sysroot::wipe;
use apt_ostree_testkit::vm::{Firmware, Vm};

use crate::bases::{BRANCH, PROGRAM, base};
use crate::image::{disk_image, helpers, inside, machine};
use crate::world::{World, small};

/// A package that is installed in the first boot, by its path inside.
fn package(world: &World) -> (std::path::PathBuf, String) {
    let deb = world.local(&small("kit-inside", "1.0"));
    let inside = inside(&deb);
    (deb, inside)
}

fn changes_and_starts_it(firmware: Firmware, proof: &str) {
    let world = World::empty();
    let (deb, inside) = package(&world);
    let mut vm = machine(&world, firmware, &[&deb]);
    let helpers = helpers(&world);
    let script = format!("{helpers}\n{proof}\noffline; apt-ostree install {inside} || fail install");
    vm.boot(&script).exits(0).never_says(&["FAIL"]);
    let script = format!("{helpers}\n{proof}\n[ \"$(menu)\" = \"$(ids)\" ] || fail menu; kit-inside");
    vm.boot(&script).exits(0).never_says(&["FAIL"]).says(&["kit-inside 1.0\n"]);
    wipe(&world.dir);
}

#[test]
fn a_machine_starts_by_bios() {
    changes_and_starts_it(Firmware::Bios, "test ! -e /sys/firmware/efi || fail uefi");
}

#[test]
fn a_machine_starts_with_secure_boot() {
    changes_and_starts_it(
        Firmware::SecureBoot,
        "journalctl -k -b --no-pager | grep -iF 'secure boot enabled' || fail 'secure boot'",
    );
}

#[test]
fn a_machine_has_its_root_on_btrfs_or_xfs() {
    for kind in ["btrfs", "xfs"] {
        let world = World::empty();
        let server = world.server("server");
        server.set(BRANCH, &base().v1);
        let out = world.dir.join("disk.raw");
        disk_image(server.dir(), &[&format!("--filesystem={kind}"), "--karg=console=ttyS0"], &out).exits(0);
        let mut vm = Vm::new(&out, &world.dir.join("machine"), Firmware::Uefi, &[PROGRAM.as_ref()]);
        let helpers = helpers(&world);
        let script = format!(
            "{helpers}
            [ \"$(findmnt -no FSTYPE /sysroot)\" = {kind} ] || fail {kind}
            ! touch /boot-test || fail immutable
            apt-ostree status && systemctl is-system-running"
        );
        vm.boot(&script).exits(0).never_says(&["FAIL"]);
        wipe(&world.dir);
    }
}

/// Nobody tells the loader that the new deployment is good: after its tries the old one comes back, and stays.
#[test]
fn a_deployment_that_never_gets_good_is_given_up() {
    let world = World::empty();
    let (deb, inside) = package(&world);
    let mut vm = machine(&world, Firmware::Uefi, &[&deb]);
    let helpers = helpers(&world);
    let list = "grub-editenv /boot/grub/grubenv list";
    let script = format!(
        "{helpers}
        offline; booted > /var/first
        grub-editenv /boot/grub/grubenv set apt_ostree_good=$(booted) apt_ostree_tries=2
        apt-ostree install {inside} || fail install"
    );
    vm.boot(&script).exits(0).never_says(&["FAIL"]);
    // Two tries; a machine that never gets past the kernel is the same to the boot loader.
    for _ in 0..2 {
        let title = vm.choice();
        assert!(!title.ends_with("(rollback)"), "{title}");
    }
    for _ in 0..2 {
        let title = vm.choice();
        assert!(title.ends_with("(rollback)"), "{title}");
    }
    // Then somebody says that the new one is good.
    let script = format!(
        "{helpers}
        [ \"$(booted)\" = \"$(cat /var/first)\" ] || fail 'the old one'
        {list}
        {list} | grep -x apt_ostree_failed=$(menu | head -n 1) || fail failed
        {list} | grep -x apt_ostree_trial=$(menu | head -n 1) || fail trial
        {list} | grep -x apt_ostree_left=0 || fail left
        {list} | grep -x apt_ostree_good=$(booted) || fail good
        grub-editenv /boot/grub/grubenv set apt_ostree_good=$(menu | head -n 1)"
    );
    vm.boot(&script).exits(0).never_says(&["FAIL"]);
    for _ in 0..3 {
        let title = vm.choice();
        assert!(!title.ends_with("(rollback)"), "{title}");
    }
    wipe(&world.dir);
}

//! A disk image as a machine: firmware, boot loader, a change, a reboot into it, and back.

use apt_ostree_testkit::sysroot::wipe;
use apt_ostree_testkit::vm::Firmware;

use crate::bases::TREE;
use crate::image::{OWNER, disk_image, helpers, inside, machine};
use crate::packaging::package;
use crate::service::with_debian;
use crate::world::{World, small};

#[test]
fn a_machine_starts_by_its_boot_loader_changes_and_goes_back() {
    let mut world = World::new();
    let deb = world.local(&small("kit-inside", "1.0"));
    let package = package(&world);
    with_debian(&mut world, |sysroot| {
        sysroot.ok(&["install", "--download-only", &package.to_string_lossy(), "polkitd"]);
    });
    let mut vm = machine(&world, Firmware::Uefi, &[&deb, &package]);
    let helpers = helpers(&world);
    let checks = std::fs::read_to_string(format!("{TREE}/tests/boot/checks.sh")).expect("the checks");

    // The image as it is made: everything holds, and a package is asked for.
    let script = format!(
        "{helpers}
        ( LAYERED= USERS='sshd messagebus kit-daemon {OWNER}'; {checks} ) || exit 1
        [ \"$(findmnt -no FSTYPE /boot)\" = ext4 ] || fail boot
        [ \"$(hostname)\" = kit-machine ] || fail hostname
        [ \"$(stat -c '%U %a' /var/home/{OWNER}/.ssh/authorized_keys)\" = '{OWNER} 600' ] || fail keys
        su - {OWNER} -c 'sudo -n true' || fail sudo
        [ \"$(menu)\" = \"$(ids)\" ] || fail menu
        grub-script-check /boot/grub/grub.cfg || fail syntax
        [ \"$(ostree config --repo=/ostree/repo get sysroot.bootloader)\" = grub2 ] || fail bootloader
        apt-ostree status | grep -F 'kit:' || fail remote
        offline; booted > /var/first
        apt-ostree install {} {} polkitd || fail install
        apt-ostree status
        test -e /run/ostree/staged-deployment || fail staged",
        inside(&deb),
        inside(&package)
    );
    vm.boot(&script).exits(0).never_says(&["FAIL"]).says(&["all held\n", "\n  kit-inside-1.0.amd64\n"]);
    assert!(vm.console().contains("Debian GNU/Linux"), "{}", vm.console());

    // Finalized on the way down: a new menu, written by the generator of the tree.
    let script = format!(
        "{helpers}
        kit-inside || fail program
        [ \"$(booted)\" != \"$(cat /var/first)\" ] || fail booted
        [ \"$(menu)\" = \"$(ids)\" ] && [ \"$(ids | wc -l)\" = 2 ] || fail menu
        journalctl -b -1 -u ostree-finalize-staged --no-pager | grep -F 'Transaction complete' || fail finalize
        ! journalctl -b -1 -u ostree-finalize-staged --no-pager | grep -F grub-config || fail generator
        # The service of the package that was layered: started by the bus, for root alone; each change in a unit of its own.
        ! systemctl -q is-active apt-ostreed || fail 'service before'
        said=$(runuser -u {OWNER} -- /usr/bin/apt-ostree rollback 2>&1) && fail allowed
        echo \"$said\" | grep -F 'rpmostreed OS operation Rollback not allowed for user' || fail \"$said\"
        systemctl -q is-active apt-ostreed polkit || fail 'service after'
        busctl --no-pager status org.projectatomic.rpmostree1 | grep -x 'Unit=apt-ostreed.service' || fail name
        [ \"$(menu | head -n 1)\" = \"$(booted)\" ] || fail 'menu after refusal'
        /usr/bin/apt-ostree rollback || fail rollback
        journalctl -b -q -o cat MESSAGE_ID=d5bea37a8fc84ff59dbcfd79177b7df8 | grep -F 'Initiated txn Rollback for client(id:cli' || fail journal
        journalctl -b -q -o cat -u 'apt-ostree-worker-*' | grep -F 'apt-ostree transaction: apt-ostree rollback' || fail worker
        [ \"$(menu | head -n 1)\" = \"$(cat /var/first)\" ] || fail 'menu after rollback'"
    );
    vm.boot(&script).exits(0).never_says(&["FAIL"]).says(&["kit-inside 1.0\n"]);
    let console = vm.console();
    assert!(console.contains("(rollback)"), "the menu says which one is the rollback: {console}");

    let script = format!(
        "{helpers}
        ! command -v kit-inside || fail program
        [ \"$(booted)\" = \"$(cat /var/first)\" ] || fail booted
        [ \"$(menu)\" = \"$(ids)\" ] || fail menu
        systemctl is-system-running || fail state
        ostree fsck --repo=/ostree/repo || fail fsck"
    );
    vm.boot(&script).exits(0).never_says(&["FAIL"]);
    wipe(&world.dir);
}

#[test]
fn an_image_that_cannot_be_made_leaves_nothing() {
    let world = World::new();
    let server = world.server("server");
    server.set(crate::bases::BRANCH, &crate::bases::base().v1);
    let out = world.dir.join("disk.raw");
    let left = || -> Vec<String> {
        let entries = std::fs::read_dir(&world.dir).unwrap().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.starts_with("disk")).collect()
    };
    disk_image(server.dir(), &["--size=300M"], &out).exits(1).says(&["is too small", "--size="]);
    assert_eq!(left(), Vec::<String>::new());
    disk_image(&world.dir.join("nowhere"), &[], &out).exits(1).says(&["nowhere"]);
    let empty = world.server("empty");
    disk_image(empty.dir(), &[], &out).exits(1).says(&["kit/debian", "not found"]);
    disk_image(server.dir(), &["--hostname=a b"], &out).exits(1).says(&["not a host name"]);
    assert_eq!(left(), Vec::<String>::new());
    std::fs::write(&out, "precious").unwrap();
    disk_image(server.dir(), &[], &out).exits(1).says(&["exists already", "--force"]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "precious");
    std::fs::remove_file(&out).unwrap();
    world.done();
}

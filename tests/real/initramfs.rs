//! `initramfs`, `initramfs-etc` and another kernel: cpio, lsinitrd and a start of the machine tell what came of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use apt_ostree_testkit::run;

use crate::bases::{BRANCH, base};
use crate::boot::{ROOT, inside};
use crate::world::{World, small};

/// Files of the initrd lines of the default boot entry, in order.
fn initrds(world: &World) -> Vec<PathBuf> {
    let entries = world.sysroot.dir().join("boot/loader/entries");
    let mut names: Vec<PathBuf> = fs::read_dir(entries).expect("boot entries").flatten().map(|e| e.path()).collect();
    names.sort();
    let text = fs::read_to_string(names.last().expect("a boot entry")).expect("a boot entry");
    let file = |line: &str| {
        let path = line.trim().trim_start_matches('/');
        let boot = world.sysroot.dir().join("boot").join(path);
        if boot.exists() { boot } else { world.sysroot.dir().join(path) }
    };
    text.lines().filter_map(|l| l.strip_prefix("initrd")).map(file).collect()
}

/// What cpio lists of an archive.
fn cpio_list(archive: &Path) -> Vec<String> {
    let file = fs::File::open(archive).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    let output = run(Command::new("cpio").args(["--list", "--quiet"]).stdin(Stdio::from(file)));
    String::from_utf8_lossy(&output.stdout).lines().map(ToOwned::to_owned).collect()
}

fn cpio_read(archive: &Path, name: &str) -> String {
    let file = fs::File::open(archive).expect("an archive");
    let output = run(Command::new("cpio").args(["--extract", "--to-stdout", "--quiet", name]).stdin(Stdio::from(file)));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// lsinitrd of the tree itself, on the initramfs of a deployment.
fn lsinitrd(world: &World, index: usize) -> String {
    let root = world.sysroot.deployment(index);
    let output = run(Command::new("bwrap")
        .arg("--ro-bind")
        .arg(&root)
        .args(["/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/var"])
        .args(["--dir", "/var/tmp", "sh", "-c", "lsinitrd /usr/lib/modules/*/initramfs.img"]));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Directories below usr/lib/modules of a deployment, those with a kernel first.
fn kernels(world: &World, index: usize) -> Vec<String> {
    let modules = fs::read_dir(world.sysroot.deployment(index).join("usr/lib/modules")).expect("modules");
    modules.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn tracked_files_are_an_initramfs_of_their_own() {
    let (mut world, server) = World::following();
    world.publish(&[small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    let etc = || sysroot.deployment(0).join("etc");
    sysroot.ok(&["initramfs-etc"]).says(&["No tracked files.\n"]);
    fs::create_dir_all(etc().join("kit.d/deep")).expect("own deployment");
    fs::write(etc().join("kit.d/deep/file"), "one\n").expect("own deployment");
    fs::write(etc().join("kit.conf"), "conf\n").expect("own deployment");
    assert_eq!(initrds(&world).len(), 1);
    sysroot
        .ok(&["initramfs-etc", "--track", "/etc/kit.d/", "--track=/etc/kit.conf"])
        .says(&["Writing deployment... done\n", "Changes queued for next boot"]);
    sysroot.ok(&["initramfs-etc"]).says(&["Tracked files:\n  /etc/kit.conf\n  /etc/kit.d\n"]);
    sysroot.ok(&["status"]).says(&["InitramfsEtc: /etc/kit.conf /etc/kit.d\n"]);
    assert_eq!(sysroot.list(0, "initramfs-etc"), ["/etc/kit.conf", "/etc/kit.d"]);
    // Nothing is layered: it is the base's commit, with a second initrd beside its own.
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    let (own, tracked) = (initrds(&world)[0].clone(), initrds(&world)[1].clone());
    assert!(own.ends_with("initramfs.img") || own.to_string_lossy().contains("initramfs"), "{own:?}");
    let all = ["etc", "etc/kit.conf", "etc/kit.d", "etc/kit.d/deep", "etc/kit.d/deep/file"];
    assert_eq!(cpio_list(&tracked), all);
    assert_eq!(cpio_read(&tracked, "etc/kit.d/deep/file"), "one\n");

    // A change is taken along by whatever makes the next deployment.
    fs::write(etc().join("kit.d/deep/file"), "two\n").expect("own deployment");
    sysroot.unchanged(77, &["initramfs-etc", "--track=/etc/kit.d", "--unchanged-exit-77"]).says(&["No changes."]);
    sysroot.ok(&["kargs", "--append=kit"]);
    assert_eq!(cpio_read(&initrds(&world)[1], "etc/kit.d/deep/file"), "two\n");
    fs::write(etc().join("kit.d/deep/file"), "three\n").expect("own deployment");
    sysroot.ok(&["install", "kit-a"]);
    assert_eq!(cpio_read(&initrds(&world)[1], "etc/kit.d/deep/file"), "three\n");
    server.set(BRANCH, &base().v2);
    fs::write(etc().join("kit.d/deep/file"), "four\n").expect("own deployment");
    sysroot.ok(&["upgrade"]);
    assert_eq!(cpio_read(&initrds(&world)[1], "etc/kit.d/deep/file"), "four\n");
    fs::write(etc().join("kit.d/deep/file"), "five\n").expect("own deployment");
    sysroot.ok(&["initramfs-etc", "--force-sync"]);
    assert_eq!(cpio_read(&initrds(&world)[1], "etc/kit.d/deep/file"), "five\n");
    assert_eq!(sysroot.list(0, "packages"), ["kit-a"]);

    // A tracked file that is gone is not left out in silence.
    fs::remove_file(etc().join("kit.conf")).expect("own deployment");
    sysroot.refuses(&["uninstall", "kit-a"]).says(&["/etc/kit.conf", "initramfs-etc --untrack /etc/kit.conf"]);
    sysroot.ok(&["initramfs-etc", "--untrack=/etc/kit.conf"]);
    assert_eq!(cpio_list(&initrds(&world)[1]), ["etc", "etc/kit.d", "etc/kit.d/deep", "etc/kit.d/deep/file"]);
    sysroot.ok(&["uninstall", "kit-a"]);
    sysroot.ok(&["initramfs-etc", "--untrack-all"]);
    assert_eq!(initrds(&world).len(), 1);
    let origin = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    assert!(!origin.contains("[rpmostree]") && origin.contains("\nrefspec="), "{origin}");
    world.done();
}

#[test]
fn bad_requests_of_an_initramfs() {
    let world = World::new();
    let sysroot = &world.sysroot;
    fs::write(sysroot.deployment(0).join("etc/kit.conf"), "conf\n").expect("own deployment");
    sysroot.ok(&["initramfs"]).says(&["Initramfs regeneration: disabled\n"]);
    for (args, says) in [
        (&["initramfs", "--arg=-v"][..], "--arg must be used with --enable"),
        (&["initramfs", "--enable", "--disable"], "Cannot simultaneously specify --enable and --disable"),
        (&["initramfs", "--disable", "--arg=-v"], "Cannot simultaneously specify --disable and --arg"),
        (&["initramfs", "--disable"], "initramfs regeneration state is already disabled"),
        (&["initramfs", "extra"], "Unexpected argument 'extra'"),
        (&["initramfs", "--enable", "--arg=--no-such-option"], "dracut"),
        (&["initramfs-etc", "--track=/usr/lib/os-release"], "Path outside /etc forbidden: /usr/lib/os-release"),
        (&["initramfs-etc", "--track=/etc/../usr/lib"], "Path outside /etc forbidden: /etc/../usr/lib"),
        (&["initramfs-etc", "--track=kit.conf"], "Path outside /etc forbidden: kit.conf"),
        (&["initramfs-etc", "--track=/etc/nosuch"], "There is no /etc/nosuch to track"),
    ] {
        sysroot.refuses(args).says(&[says]);
    }
    sysroot.unchanged(0, &["initramfs-etc", "--untrack=/etc/kit.conf"]).says(&["No changes."]);
    world.done();
}

/// Another kernel, an initramfs of the machine's own and a tracked file in it: the machine starts with all of them.
#[test]
fn a_machine_starts_with_another_kernel_and_its_own_initramfs() {
    let world = World::empty();
    let server = world.server("local");
    server.set(BRANCH, &base().v1);
    let (pull, karg) = (format!("--pull-local={}", server.dir().display()), format!("--karg={ROOT}"));
    let sysroot = &world.sysroot;
    sysroot.ok(&["init-sysroot", "--stateroot=debian", &pull, &karg, "--karg=rw", "--karg=console=ttyS0", BRANCH]);
    let debian =
        apt_ostree_core::compose::input::host_sources("/".as_ref(), "trixie").expect("sources of this machine");
    let debian: Vec<String> = debian.iter().map(ToString::to_string).collect();
    sysroot.set_sources(&debian.join("\n"));
    let old = kernels(&world, 0);
    let [old] = old.as_slice() else { panic!("the base has the kernels {old:?}") };
    let cloud = old.replace("-amd64", "-cloud-amd64");
    let version = world.installed(0, &format!("linux-image-{old}")).expect("dpkg knows the kernel");
    let (package, other) = (format!("linux-image-{cloud}"), format!("linux-image-{old}"));

    // A second kernel is refused, and so is none.
    sysroot.refuses(&["install", &package]).says(&["is a kernel", &format!("override replace {package}={version}")]);
    sysroot.refuses(&["override", "remove", &other, "linux-image-amd64"]).says(&["Nothing would be left to boot"]);
    sysroot.unchanged(0, &["override", "replace", "-n", &format!("{package}={version}")]).says(&[
        &format!(
            "Replacing base packages by override:\n  {package} {other} {version} -> {version} (version={version})"
        ),
        "The kernel changes: a new initramfs is made\n",
    ]);
    sysroot.ok(&["override", "replace", &format!("{package}={version}")]).says(&["Making the initramfs", &package]);
    assert_eq!(kernels(&world, 0), [cloud.as_str()], "nothing of the base's kernel is left");
    assert_eq!(world.installed(0, &other), None);
    assert_eq!(world.installed(0, "linux-image-amd64"), None);
    let root = sysroot.deployment(0);
    for name in ["vmlinuz", "initramfs.img", "modules.dep"] {
        assert!(root.join("usr/lib/modules").join(&cloud).join(name).is_file(), "{name}");
    }
    assert_eq!(fs::read_dir(root.join("boot")).expect("a directory").count(), 0);
    assert!(lsinitrd(&world, 0).contains("usr/lib/ostree/ostree-prepare-root"));
    let show = sysroot.ostree(&["show", "--raw", &sysroot.field(0, "checksum")]);
    assert!(show.contains(&format!("'ostree.linux': <'{cloud}'>")), "{show}");

    // What dracut reads of the machine's /etc counts.
    let etc = root.join("etc");
    fs::create_dir_all(etc.join("dracut.conf.d")).expect("own deployment");
    fs::write(etc.join("dracut.conf.d/kit.conf"), "install_items+=\" /usr/bin/kit-base \"\n").expect("own deployment");
    sysroot
        .ok(&["initramfs", "--enable", "--arg=--include", "--arg=/usr/lib/os-release", "--arg=/kit-included"])
        .says(&["Initramfs regeneration is now: enabled\n"])
        .never_says(&["Changes queued"]);
    sysroot
        .ok(&["initramfs"])
        .says(&["Initramfs regeneration: enabled\n", "Initramfs args: --include /usr/lib/os-release /kit-included\n"]);
    sysroot.ok(&["status"]).says(&["Initramfs: --include /usr/lib/os-release /kit-included\n"]);
    let list = lsinitrd(&world, 0);
    assert!(list.contains("usr/bin/kit-base\n") && list.contains("kit-included"), "{list}");
    sysroot.unchanged(0, &["upgrade"]).says(&["No upgrade available."]);
    let own = sysroot.deployment(0).join("etc/dracut.conf.d/kit.conf");
    let digest = || sysroot.unchanged(0, &["upgrade", "-n", "--json"]).json()["plan"]["input-digest"].clone();
    let first = digest();
    fs::write(&own, "install_items+=\" /usr/bin/kit-daemon \"\n").expect("own deployment");
    assert_ne!(digest(), first, "the next transaction would assemble anew");

    // dracut prints the arguments that it found in there.
    let cmdline = sysroot.deployment(0).join("etc/cmdline.d");
    fs::create_dir_all(&cmdline).expect("own deployment");
    fs::write(cmdline.join("kit.conf"), "kit.tracked=1\n").expect("own deployment");
    sysroot.ok(&["initramfs-etc", "--track=/etc/cmdline.d/kit.conf"]);
    let check = "uname -r; journalctl --boot --no-pager --grep 'kernel command line parameters'; \
                 systemctl is-system-running; apt-ostree status --booted";
    inside(&world, "qemu.sh", check).exits(0).says(&[
        &format!("{cloud}\n"),
        "kit.tracked=1",
        "running\n",
        "InitramfsEtc: /etc/cmdline.d/kit.conf",
    ]);

    sysroot
        .ok(&["initramfs", "--disable"])
        .says(&["Initramfs regeneration is now: disabled\nInitramfs will be reset to default on next reboot.\n"]);
    assert!(!lsinitrd(&world, 0).contains("kit-included"), "that of the kernel alone");
    assert_eq!((kernels(&world, 0), initrds(&world).len()), (vec![cloud], 2));
    sysroot.ok(&["reset"]);
    assert_eq!(initrds(&world).len(), 1);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    let origin = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    assert!(!["[packages]", "[overrides]", "[rpmostree]"].iter().any(|g| origin.contains(g)), "{origin}");
    world.done();
}

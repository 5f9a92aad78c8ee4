//! Accounts of layered packages: which numbers they get, that they keep them, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use apt_ostree_testkit::deb::Deb;

use crate::bases::{BRANCH, base, daemon};
use crate::world::{World, small};

/// Where new numbers of layered packages come from (docs/layout.md).
const RANGE: std::ops::RangeInclusive<u32> = 400..=499;

/// Names and numbers of `passwd` or `group` in an `etc`.
fn numbers(etc: &Path, file: &str) -> BTreeMap<String, u32> {
    let path = etc.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
        })
        .collect()
}

/// User and group of a name in a deployment's image, and the group of its set-gid program.
fn account(world: &World, index: usize, name: &str) -> (u32, u32) {
    let root = world.sysroot.deployment(index);
    let etc = root.join("usr/etc");
    let of = |file: &str| {
        let all = numbers(&etc, file);
        *all.get(name).unwrap_or_else(|| panic!("{name} is not in {file}: {all:?}"))
    };
    let (user, group) = (of("passwd"), of("group"));
    let program = fs::metadata(root.join("usr/bin").join(name)).expect("the program");
    assert_eq!((program.gid(), program.mode() & 0o7777), (group, 0o2755), "{name}");
    (user, group)
}

/// A package whose user comes from sysusers.d, made by its postinst as debhelper's does.
fn sysusers(name: &str) -> Deb {
    Deb::new(name, "1.0")
        .file(&format!("/usr/lib/sysusers.d/{name}.conf"), 0o644, format!("u {name} - \"Kit\" /nonexistent\n"))
        .file(&format!("/usr/bin/{name}"), 0o755, "#!/bin/sh\n")
        .script(
            "postinst",
            &format!("#!/bin/sh\nset -e\nsystemd-sysusers {name}.conf\nchgrp {name} /usr/bin/{name}\nchmod 2755 /usr/bin/{name}\n"),
        )
}

/// Adds an account to the /etc of the next deployment's machine.
fn add_to_machine(world: &World, name: &str, id: u32) {
    let etc = world.sysroot.deployment(0).join("etc");
    for (file, row) in [
        ("passwd", format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n")),
        ("group", format!("{name}:x:{id}:\n")),
    ] {
        let path = etc.join(file);
        let text = fs::read_to_string(&path).expect("account files");
        fs::write(&path, text + &row).expect("own deployment");
    }
}

/// Takes an account out of the /etc of the next deployment's machine.
fn remove_from_machine(world: &World, name: &str) {
    let etc = world.sysroot.deployment(0).join("etc");
    for file in ["passwd", "group", "shadow", "gshadow"] {
        let path = etc.join(file);
        let text = fs::read_to_string(&path).expect("account files");
        let kept: String = text.split_inclusive('\n').filter(|l| !l.starts_with(&format!("{name}:"))).collect();
        fs::write(&path, kept).expect("own deployment");
    }
}

#[test]
fn a_number_of_the_layer_stays_through_everything() {
    let (mut world, server) = World::following();
    world.publish(&[daemon("kit-z", "1.0"), daemon("kit-a", "1.0"), sysusers("kit-sys"), small("kit-other", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "kit-z"]);
    let first = account(&world, 0, "kit-z");
    sysroot.ok(&["install", "kit-a", "kit-sys"]);
    let numbers_of = |world: &World| ["kit-a", "kit-sys"].map(|name| account(world, 0, name));
    let before = numbers_of(&world);
    assert_eq!(account(&world, 0, "kit-z"), first);
    for (user, group) in before.iter().chain([&first]) {
        assert!(RANGE.contains(user) && RANGE.contains(group), "{user} {group}");
    }
    assert!(world.read(0, "usr/lib/apt-ostree/ids.lock").contains(&format!("user:kit-a:{}:", before[0].0)));
    // The first in the order leaves: from nothing, the others would move up.
    sysroot.ok(&["uninstall", "kit-z"]);
    assert_eq!(numbers_of(&world), before);
    let daemon = numbers(&sysroot.deployment(0).join("usr/etc"), "passwd")["kit-daemon"];
    server.set(BRANCH, &base().v2);
    sysroot.ok(&["upgrade"]);
    assert_eq!(sysroot.field(0, "base-checksum"), base().v2);
    assert_eq!(numbers_of(&world), before);
    assert_eq!(numbers(&sysroot.deployment(0).join("usr/etc"), "passwd")["kit-daemon"], daemon);
    sysroot.ok(&["install", "kit-other"]);
    assert_eq!(numbers_of(&world), before);
    // What the image says is what the machine gets.
    for file in ["passwd", "group"] {
        let root = sysroot.deployment(0);
        assert_eq!(numbers(&root.join("etc"), file), numbers(&root.join("usr/etc"), file), "{file}");
    }
    world.done();
}

#[test]
fn a_number_of_the_machine_is_taken_over() {
    let mut world = World::new();
    world.publish(&[daemon("kit-a", "1.0"), sysusers("kit-sys")]);
    add_to_machine(&world, "kit-a", 777);
    add_to_machine(&world, "kit-sys", 778);
    world.sysroot.ok(&["install", "kit-a", "kit-sys"]);
    assert_eq!(account(&world, 0, "kit-a"), (777, 777));
    assert_eq!(account(&world, 0, "kit-sys"), (778, 778));
    assert_eq!(numbers(&world.sysroot.deployment(0).join("etc"), "passwd")["kit-a"], 777);
    world.done();
}

#[test]
fn a_set_gid_file_of_nobody_is_refused() {
    let mut world = World::new();
    world.publish(&[
        Deb::new("kit-nobody", "1.0").file_owned("/usr/bin/kit-nobody", 0o2755, 0, 54321, "#!/bin/sh\n"),
        // A number of people, with a name on this machine: on another one it is somebody else's.
        Deb::new("kit-person", "1.0").file_owned("/usr/bin/kit-person", 0o4755, 1000, 0, "#!/bin/sh\n"),
    ]);
    let sysroot = &world.sysroot;
    sysroot.refuses(&["install", "kit-nobody"]).says(&["/usr/bin/kit-nobody", "setgid", "group 54321 has no name"]);
    add_to_machine(&world, "kit-somebody", 1000);
    sysroot.refuses(&["install", "kit-person"]).says(&["/usr/bin/kit-person", "setuid", "user 1000"]);
    world.done();
}

#[test]
fn a_machine_that_contradicts_the_base_is_told_how() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    let root = sysroot.deployment(0);
    let number = numbers(&root.join("usr/etc"), "passwd")["kit-daemon"];
    assert!(world.read(0, "usr/lib/apt-ostree/ids.lock").contains(&format!("user:kit-daemon:{number}:")));
    remove_from_machine(&world, "kit-daemon");
    add_to_machine(&world, "kit-daemon", 555);
    sysroot.refuses(&["install", "kit-a"]).says(&[
        &format!("user kit-daemon has the number 555 on this machine and {number} in the base image"),
        "usermod -u",
    ]);
    // The number under another name.
    remove_from_machine(&world, "kit-daemon");
    add_to_machine(&world, "kit-stranger", number);
    sysroot.refuses(&["install", "kit-a"]).says(&[&format!(
        "the number {number} is that of user kit-stranger on this machine and of user kit-daemon in the base image"
    )]);
    remove_from_machine(&world, "kit-stranger");
    sysroot.ok(&["install", "kit-a"]);
    world.done();
}

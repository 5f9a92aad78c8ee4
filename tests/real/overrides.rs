//! `override remove|replace|reset`: base packages that go or are replaced; dpkg and ostree tell what became of them.

use std::fs;

use apt_ostree_testkit::deb::Deb;

use crate::bases::{BRANCH, base};
use crate::boot::inside;
use crate::world::{World, small};

#[test]
fn a_removed_package_leaves_nothing() {
    let world = World::new();
    let sysroot = &world.sysroot;
    sysroot
        .unchanged(0, &["override", "remove", "--dry-run", "kit-dropped"])
        .says(&["Removing 1 package:\n  kit-dropped-1.0.amd64 (asked for by an override)"]);
    sysroot.ok(&["override", "remove", "kit-daemon"]).says(&[
        "Removed:\n  kit-daemon-1.0.amd64\nUse \"apt-ostree override reset\" to undo overrides\nChanges queued",
    ]);
    assert_eq!(world.installed(0, "kit-daemon"), None);
    for path in ["usr/bin/kit-daemon", "usr/etc/kit-daemon.conf", "etc/kit-daemon.conf"] {
        assert!(!world.has(0, path) && world.has(1, path), "{path}");
    }
    // Purged: dpkg has forgotten it, a mere removal would be a `config-files` entry.
    let status = world.read(0, "usr/lib/sysimage/dpkg/status");
    assert!(!status.contains("Package: kit-daemon\n"), "dpkg still knows it");
    assert_eq!(sysroot.list(0, "requested-base-removals"), ["kit-daemon"]);
    assert_eq!(sysroot.deployments()[0]["base-removals"][0][0], "kit-daemon-1.0.amd64");
    sysroot.ok(&["status"]).says(&["RemovedBasePackages: kit-daemon-1.0.amd64"]);
    let origin = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    assert!(origin.contains("[overrides]\nremove=kit-daemon;\n"), "{origin}");
    // The account and its number stay: files of the machine may belong to it.
    assert!(world.read(0, "usr/etc/passwd").contains("\nkit-daemon:"), "the account is gone");
    sysroot.refuses(&["override", "remove", "kit-daemon"]).says(&["Override already exists for package 'kit-daemon'"]);
    sysroot
        .ok(&["override", "reset", "kit-daemon"])
        .says(&["Added:\n  kit-daemon-1.0.amd64\nChanges queued"])
        .never_says(&["to undo overrides"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    let origin = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    assert!(!origin.contains("[overrides]"), "{origin}");
    world.done();
}

#[test]
fn a_replacement_may_be_older() {
    let mut world = World::new();
    world.archive.add("older", &small("kit-base", "0.5"));
    world.publish(&[small("kit-base", "0.9"), small("kit-base", "1.5")]);
    let sysroot = &world.sysroot;
    sysroot.set_sources(&world.archive.sources("stable").replace("Suites: stable", "Suites: stable older"));
    // A request must not do that.
    sysroot.refuses(&["install", "kit-base=0.9"]).says(&["would replace the newer 1.0 of the base", "override"]);

    let deb = world.local(&small("kit-base", "0.8"));
    sysroot
        .unchanged(0, &["override", "replace", "-n", &deb.to_string_lossy()])
        .says(&["Replacing base packages by override:\n  kit-base 1.0 -> 0.8 (local package)"]);
    sysroot
        .ok(&["override", "replace", &deb.to_string_lossy()])
        .says(&["Downgraded:\n  kit-base 1.0 -> 0.8\nUse \"apt-ostree override reset\""]);
    fs::remove_file(&deb).expect("own file");
    assert_eq!(world.installed(0, "kit-base").as_deref(), Some("0.8"));
    assert_eq!(world.read(0, "usr/bin/kit-base"), "#!/bin/sh\necho kit-base 0.8\n");
    assert_eq!(sysroot.list(0, "requested-base-local-replacements"), ["kit-base-0.8.amd64"]);
    let pair = &sysroot.deployments()[0]["base-local-replacements"][0];
    assert_eq!((&pair[0][0], &pair[1][0]), (&"kit-base-0.8.amd64".into(), &"kit-base-1.0.amd64".into()));
    sysroot.ok(&["status"]).says(&["LocalOverrides: kit-base 1.0 -> 0.8"]);
    let show = sysroot.ostree(&["show", "--raw", &sysroot.field(0, "checksum")]);
    assert!(show.contains("rpmostree.replaced-base-packages': <[(<"), "{show}");

    // A version of an archive takes its place, then whatever a suite has.
    sysroot.ok(&["override", "replace", "kit-base=0.9"]).says(&["Upgraded:\n  kit-base 0.8 -> 0.9"]);
    assert_eq!(sysroot.list(0, "requested-base-local-replacements"), Vec::<String>::new());
    sysroot.ok(&["status"]).says(&["RemoteOverrides: version=0.9\n", "└ kit-base 1.0 -> 0.9"]);
    sysroot.ok(&["override", "replace", "--from", "suite=older", "kit-base"]);
    assert_eq!(world.installed(0, "kit-base").as_deref(), Some("0.5"));
    let deployment = &sysroot.deployments()[0];
    assert_eq!(deployment["requested-base-remote-replacements"], serde_json::json!([["suite=older", ["kit-base"]]]));
    assert_eq!(deployment["base-remote-replacements"]["suite=older"][0][0][0], "kit-base-0.5.amd64");
    // An index by the name that status -v gives it.
    let id = sysroot.ok(&["status", "-v"]).stdout;
    let id = id.lines().filter(|l| l.contains("/older")).find_map(|l| l.split("─ ").nth(1)?.split(' ').next());
    let id = id.and_then(|l| l.strip_suffix("/main")).expect("an index");
    let repo = format!("repo={}", id.replace("/older", "/stable"));
    sysroot.ok(&["override", "replace", "--from", &repo, "kit-base"]);
    assert_eq!(world.installed(0, "kit-base").as_deref(), Some("1.5"));

    // Other changes keep it; the way there leaves no trace.
    sysroot.ok(&["override", "reset", "--all"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    world.done();
}

#[test]
fn mixed_in_one_transaction() {
    let mut world = World::new();
    let first = small("kit-a", "1.0").conflicts("kit-dropped");
    world.publish(&[first, small("kit-b", "1.0"), small("kit-base", "1.5")]);
    let sysroot = &world.sysroot;
    sysroot.refuses(&["install", "kit-a"]).says(&["kit-dropped"]);
    sysroot.ok(&["override", "remove", "kit-dropped", "--install", "kit-a", "--replace", "kit-base=1.5"]).says(&[
        "Upgraded:\n  kit-base 1.0 -> 1.5",
        "Removed:\n  kit-dropped-1.0.amd64",
        "Added:\n  kit-a-1.0.amd64",
    ]);
    let mixed = sysroot.field(0, "checksum");
    assert_eq!(sysroot.list(0, "packages"), ["kit-a"]);
    let upgrades = &sysroot.deployments()[0]["base-upgrades"];
    assert!(upgrades.is_null(), "an override is no upgrade that a request made: {upgrades}");
    sysroot.refuses(&["override", "reset", "kit-dropped"]).says(&["kit-a : Conflicts: kit-dropped"]);
    sysroot.ok(&["override", "reset", "kit-base", "--install", "kit-b", "--uninstall", "kit-a"]);
    assert_eq!(sysroot.list(0, "requested-base-removals"), ["kit-dropped"]);
    sysroot.ok(&["override", "replace", "kit-base=1.5", "--install", "kit-a", "--uninstall", "kit-b"]);
    assert_eq!(sysroot.field(0, "checksum"), mixed);
    world.done();
}

#[test]
fn what_others_need_stays() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0").depends("kit-base")]);
    let sysroot = &world.sysroot;
    // adduser is a dependency of kit-daemon and more; the suggestion is what apt-get would take away as well.
    let refused = sysroot.refuses(&["override", "remove", "adduser"]);
    let line =
        refused.stderr.lines().find(|l| l.contains("would have to go as well")).expect("a suggestion").to_owned();
    assert!(line.contains("kit-daemon"), "{line}");
    assert!(refused.stderr.contains("kit-daemon : Depends: adduser"), "{}", refused.stderr);
    sysroot.refuses(&["override", "remove", "dpkg"]).says(&["dpkg is essential"]);
    sysroot.refuses(&["override", "remove", "kit-base", "--install", "kit-a"]).says(&["kit-a", "Depends: kit-base"]);
    world.done();
}

#[test]
fn bad_overrides_change_nothing() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-base", "1.5")]);
    let broken = world.dir.join("broken.deb");
    fs::write(&broken, "no package").expect("own directory");
    let stranger = world.local(&small("kit-stranger", "1.0"));
    let same = world.local(&small("kit-base", "1.0"));
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "kit-a"]);
    let [broken, stranger, same] = [broken, stranger, same].map(|p| p.to_string_lossy().into_owned());
    let (broken, stranger, same) = (broken.as_str(), stranger.as_str(), same.as_str());
    for (args, says) in [
        (&["remove", "kit-nothing"][..], "Package \"kit-nothing\" not found"),
        (&["remove", "kit-a"], "It is layered, not part of the base: apt-ostree uninstall kit-a"),
        (&["remove", "kit-base", "kit-base"], "Override already exists for package 'kit-base'"),
        (&["replace", "/nonexistent/x.deb"], "Opening the package file"),
        (&["replace", broken], "is not a Debian package"),
        (&["replace", stranger], "Package \"kit-stranger\" not found"),
        (&["replace", same], "The base has kit-base-1.0.amd64 in this version already"),
        (&["replace", "kit-base"], "Which version of kit-base is to replace the base's?"),
        (&["replace", "kit-base=9"], "Available versions of kit-base: 1.5 (stable/main)"),
        (&["replace", "kit-base/nosuch"], "No kit-base in suite 'nosuch'"),
        (&["replace", "kit-base=1.5", "--from", "suite=stable"], "both say where"),
        (&["replace", "kit-base", "--from", "stable"], "'stable' is no source of packages"),
        (&["replace", "kit-a=1.0"], "Package \"kit-a\" not found"),
        (&["replace", "Kit=1"], "Invalid package request 'Kit=1'"),
        (&["replace", "--freeze", "kit-base"], "--freeze is not available"),
        (&["reset", "kit-base"], "No overrides for package 'kit-base'"),
        (&["reset"], "At least one PACKAGE must be specified"),
        (&["reset", "--all", "kit-base"], "Cannot specify both --all and PACKAGE"),
        (&["remove"], "At least one PACKAGE must be specified"),
    ] {
        let all: Vec<&str> = std::iter::once("override").chain(args.iter().copied()).collect();
        sysroot.refuses(&all).says(&[says]);
    }
    sysroot.unchanged(0, &["override", "reset", "--all"]).says(&["No change."]);
    world.done();
}

/// An upgrade keeps overrides; on a base that has no use for them they sleep.
#[test]
fn overrides_and_a_newer_base() {
    let (mut world, server) = World::following();
    world.publish(&[small("kit-a", "1.0")]);
    let daemon = world.local(&Deb::new("kit-daemon", "2.0").file("/usr/bin/kit-daemon", 0o755, "mine\n"));
    let older = world.local(&small("kit-base", "0.5"));
    let sysroot = &world.sysroot;
    let (daemon, older) = (daemon.to_string_lossy(), older.to_string_lossy());
    sysroot.ok(&["override", "remove", "kit-dropped"]);
    sysroot.ok(&["override", "replace", &daemon, &older, "--install", "kit-a"]);
    sysroot.ok(&["status"]).says(&["LocalOverrides: kit-base 1.0 -> 0.5\n", "kit-daemon 1.0 -> 2.0"]);
    server.set(BRANCH, &base().v2);
    // v2 has kit-daemon 2.0 itself, and no kit-dropped.
    sysroot.ok(&["upgrade"]).says(&[
        "Inactive overrides:\n",
        "  removal of kit-dropped (not in the base)\n",
        "  kit-daemon-2.0.amd64 (the base has this version)\n",
    ]);
    assert_eq!(sysroot.field(0, "base-checksum"), base().v2);
    assert_eq!(world.installed(0, "kit-base").as_deref(), Some("0.5"), "the override holds");
    assert_eq!(world.read(0, "usr/bin/kit-daemon"), "#!/bin/sh\necho daemon\n", "the base's own");
    sysroot.ok(&["status", "-v"]).says(&[
        "InactiveBaseRemovals: kit-dropped\n",
        "LocalOverrides: kit-base 2.0 -> 0.5\n",
        "InactiveLocalOverrides: kit-daemon-2.0.amd64\n",
    ]);
    sysroot.unchanged(0, &["upgrade"]).says(&["No upgrade available."]);
    // Back on the old base they are in force again.
    sysroot.ok(&["deploy", "13"]);
    assert_eq!(world.installed(0, "kit-dropped"), None);
    assert_eq!(world.read(0, "usr/bin/kit-daemon"), "mine\n");
    sysroot.ok(&["upgrade"]);
    sysroot.ok(&["override", "reset", "kit-dropped", "kit-daemon-2.0.amd64", "kit-base", "--uninstall", "kit-a"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    world.done();
}

/// On a system that runs: staged, finalized on the way down, there when it comes up again.
#[test]
fn overrides_from_inside_a_system_that_runs() {
    let world = World::new();
    let deb = world.local(&small("kit-base", "0.5"));
    fs::copy(&deb, world.sysroot.dir().join("ostree/deploy/debian/var/kit-base.deb")).expect("a package");
    let change = "kit-base && apt-ostree override replace -C /var/kit-base.deb --remove kit-dropped";
    inside(&world, "nspawn.sh", change).exits(0).says(&[
        "1.0\n",
        "Downgraded:\n  kit-base 1.0 -> 0.5",
        "Removed:\n  kit-dropped",
        "Use \"apt-ostree override reset\" to undo overrides\n",
        "Run \"systemctl reboot\" to start a reboot\n",
    ]);
    let check = "kit-base; test -e /usr/share/kit/dropped || echo gone; apt-ostree status; apt-ostree reset";
    inside(&world, "nspawn.sh", check).exits(0).says(&[
        "kit-base 0.5\ngone\n",
        "RemovedBasePackages: kit-dropped-1.0.amd64",
        "LocalOverrides: kit-base 1.0 -> 0.5",
        "Upgraded:\n  kit-base 0.5 -> 1.0",
    ]);
    inside(&world, "nspawn.sh", "kit-base; apt-ostree status --booted").exits(0).says(&["1.0\n"]);
    assert_eq!(world.sysroot.field(0, "checksum"), base().v1);
    world.done();
}

#[test]
fn reset_drops_a_part_or_everything() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    let http = apt_ostree_testkit::http::HttpServer::start(world.archive.dir());
    world.sysroot.set_sources(&world.archive.sources_at(&http.url(), "stable"));
    let sysroot = &world.sysroot;
    let plain = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    sysroot.unchanged(0, &["reset"]).says(&["No change."]);
    sysroot.ok(&["override", "remove", "kit-dropped", "--install", "kit-a"]);
    http.clear();
    sysroot.unchanged(0, &["reset", "-n", "-l"]).says(&["Exiting because of '--dry-run' option"]);
    sysroot.ok(&["reset", "--overlays"]).says(&["Removed:\n  kit-a"]);
    assert_eq!(sysroot.list(0, "requested-base-removals"), ["kit-dropped"]);
    sysroot.ok(&["reset", "-o"]).says(&["Added:\n  kit-dropped"]);
    assert_eq!(http.requests(), Vec::<String>::new(), "without a network");
    sysroot.ok(&["override", "remove", "kit-dropped", "--install", "kit-a"]);
    sysroot.ok(&["reset", "--install", "kit-b"]);
    assert_eq!(sysroot.list(0, "packages"), ["kit-b"]);
    sysroot.ok(&["reset", "--uninstall", "kit-b", "-i"]);
    sysroot.unchanged(0, &["reset"]).says(&["No change."]);
    assert_eq!(fs::read_to_string(sysroot.origin(0)).expect("an origin"), plain, "no group is left behind");
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    sysroot.refuses(&["reset", "extra"]).says(&["Unexpected argument 'extra'"]);
    world.done();
}

/// The machine's policy: whether a request may make the base newer.
#[test]
fn a_policy_for_upgrades_of_the_base() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0").depends("kit-base (>= 1.5)"), small("kit-base", "1.5")]);
    let sysroot = &world.sysroot;
    let policy = |index: usize, text: &str| {
        fs::write(sysroot.deployment(index).join("etc/apt-ostreed.conf"), text).expect("own deployment");
    };
    policy(0, "[Layering]\nBaseUpgrades=never\n");
    sysroot.refuses(&["install", "kit-a"]).says(&["kit-a : Depends: kit-base (>= 1.5)"]);
    policy(0, "[Layering]\nBaseUpgrades=perhaps\n");
    sysroot.refuses(&["install", "kit-a"]).says(&["apt-ostreed.conf", "'perhaps'", "when-needed or never"]);
    policy(0, "[Layering]\nBaseUpgrades=when-needed\n");
    sysroot.ok(&["install", "kit-a"]).says(&["Upgrading base packages:\n  kit-base 1.0 -> 1.5 (needed by kit-a)"]);
    sysroot.ok(&["status", "-v"]).says(&["BaseUpgrades: kit-base-1.0.amd64 -> kit-base-1.5.amd64 (needed by kit-a)"]);
    // An override is the user's own word.
    sysroot.ok(&["uninstall", "kit-a"]);
    policy(0, "[Layering]\nBaseUpgrades=never\n");
    sysroot.ok(&["override", "replace", "kit-base=1.5", "--install", "kit-a"]);
    assert_eq!(world.installed(0, "kit-base").as_deref(), Some("1.5"));
    world.done();
}

/// The settings that rpm-ostree has as well, from its own file too: nothing assembled on a machine, nothing recommended.
#[test]
fn a_machine_that_takes_images_as_they_are() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0").recommends("kit-b"), small("kit-b", "1.0")]);
    let sysroot = &world.sysroot;
    let settings = |name: &str, text: &str| {
        fs::write(sysroot.deployment(0).join("etc").join(name), text).expect("own deployment");
    };
    settings("rpm-ostreed.conf", "[Daemon]\nRecommends=false\nLockLayering=false\n[Other]\nx=1\n");
    sysroot.ok(&["install", "kit-a"]);
    assert_eq!(world.installed(0, "kit-b"), None, "it is only recommended");
    settings("apt-ostreed.conf", "[Daemon]\nLockLayering=true\nRecommends=true\n");
    for change in [&["install", "kit-b"][..], &["override", "remove", "kit-dropped"], &["initramfs", "--enable"]] {
        sysroot.refuses(change).says(&["Layering is locked", "LockLayering", "apt-ostree reset"]);
    }
    sysroot.refuses(&["upgrade"]).says(&["Layering is locked"]);
    sysroot.refuses(&["upgrade", "--check"]).says(&["Layering is locked"]);
    sysroot.ok(&["kargs", "--append=x=1"]);
    sysroot.ok(&["reset"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    sysroot.unchanged(0, &["upgrade"]).says(&["No upgrade available."]);
    settings("apt-ostreed.conf", "[Daemon]\nLockLayering=false\n");
    settings("rpm-ostreed.conf", "[Daemon]\nLockLayering=true\n");
    sysroot.ok(&["install", "kit-a"]);
    world.done();
}

//! `install` and `uninstall`, requests in all their forms.

use std::fs;
use std::process::Command;

use apt_ostree_testkit::archive::Archive;
use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::run;

use crate::bases::{FOREIGN, base};
use crate::world::{World, small};

#[test]
fn install_and_uninstall() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0").depends("kit-lib"), small("kit-lib", "1.0")]);
    let sysroot = &world.sysroot;
    let plain = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    sysroot
        .ok(&["install", "kit-a"])
        .says(&["Added:\n  kit-a-1.0.amd64\n  kit-lib-1.0.amd64\n", "Changes queued for next boot"]);
    assert_eq!(world.installed(0, "kit-a").as_deref(), Some("1.0"));
    assert_eq!(world.read(0, "usr/bin/kit-lib"), "#!/bin/sh\necho kit-lib 1.0\n");
    assert_eq!(sysroot.field(0, "base-checksum"), base().v1);
    assert_eq!(sysroot.list(0, "requested-packages"), ["kit-a"]);
    assert_eq!(sysroot.list(0, "packages"), ["kit-a"]);
    // The base itself is as it was, and is the rollback.
    assert_eq!(sysroot.field(1, "checksum"), base().v1);
    assert!(!world.has(1, "usr/bin/kit-a"));
    let origin = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    assert!(origin.contains("[packages]\nrequested=kit-a;\n") && origin.contains("baserefspec=kit/debian"), "{origin}");
    // What came as a dependency is marked as apt-get would mark it.
    let states = world.read(0, "usr/lib/sysimage/apt/extended_states");
    assert!(states.contains("Package: kit-lib\nArchitecture: amd64\nAuto-Installed: 1\n"), "{states}");
    assert!(!states.contains("Package: kit-a\n"), "{states}");
    sysroot.ok(&["uninstall", "kit-a"]).says(&["Removed:\n  kit-a-1.0.amd64\n  kit-lib-1.0.amd64\n"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    assert_eq!(fs::read_to_string(sysroot.origin(0)).expect("an origin"), plain, "no empty group is left behind");
    world.done();
}

#[test]
fn requests_are_added_up_and_taken_back() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0"), small("kit-c", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "kit-a"]);
    sysroot.refuses(&["install", "kit-a"]).says(&["Package/capability 'kit-a' is already requested", "--idempotent"]);
    sysroot.unchanged(0, &["install", "--idempotent", "kit-a"]).says(&["No change."]);
    sysroot.unchanged(77, &["install", "--idempotent", "--unchanged-exit-77", "kit-a"]);
    sysroot.refuses(&["uninstall", "kit-b"]).says(&["'kit-b' is not currently requested"]);
    sysroot.unchanged(77, &["uninstall", "--idempotent", "--unchanged-exit-77", "kit-b"]);
    // The second request starts from the first one.
    sysroot.ok(&["install", "kit-b"]);
    assert_eq!(sysroot.list(0, "requested-packages"), ["kit-a", "kit-b"]);
    let both = sysroot.field(0, "checksum");
    sysroot.ok(&["install", "--uninstall", "kit-a", "kit-c"]).says(&["Removed:\n  kit-a", "Added:\n  kit-c"]);
    assert_eq!(sysroot.list(0, "requested-packages"), ["kit-b", "kit-c"]);
    sysroot.ok(&["uninstall", "--install", "kit-a", "kit-c"]);
    // From scratch: the order of requests leaves no trace.
    assert_eq!(sysroot.field(0, "checksum"), both);
    sysroot.ok(&["uninstall", "--all"]).says(&["Removed:\n  kit-a-1.0.amd64\n  kit-b-1.0.amd64\n"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    world.done();
}

#[test]
fn a_dry_run_shows_and_changes_nothing() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0").depends("kit-base (>= 1.5)"), small("kit-base", "1.5")]);
    let sysroot = &world.sysroot;
    sysroot.unchanged(0, &["install", "--dry-run", "kit-a"]).says(&[
        "Installing 1 package:\n  kit-a-1.0.amd64",
        "Upgrading base packages:\n  kit-base 1.0 -> 1.5 (needed by kit-a)",
        "Exiting because of '--dry-run' option",
    ]);
    let plan = sysroot.unchanged(0, &["install", "--dry-run", "--json", "kit-a"]).json();
    assert_eq!(plan["plan"]["install"][0]["name"], "kit-a");
    assert_eq!(plan["plan"]["base-changes"][0]["previous"][1], "1.0");
    // What was shown is what is done.
    let done = sysroot.ok(&["install", "--json", "kit-a"]).json();
    assert_eq!(done["pkgdiff"], plan["plan"]["pkgdiff"]);
    assert_eq!(world.installed(0, "kit-base").as_deref(), Some("1.5"));
    assert_eq!(sysroot.deployments()[0]["base-upgrades"][0][1].as_str().map(|s| s.contains("1.5")), Some(true));
    // The base catches up by itself when nobody needs the newer package any more.
    sysroot.ok(&["uninstall", "kit-a"]).says(&["Downgraded:\n  kit-base 1.5 -> 1.0"]);
    world.done();
}

#[test]
fn download_first_and_install_without_a_network() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    let http = apt_ostree_testkit::http::HttpServer::start(world.archive.dir());
    world.sysroot.set_sources(&world.archive.sources_at(&http.url(), "stable"));
    let sysroot = &world.sysroot;
    sysroot.unchanged(0, &["install", "--download-only", "kit-a"]).says(&["Update downloaded."]);
    assert_eq!(http.count("kit-a_1.0_amd64.deb"), 1);
    http.clear();
    sysroot.ok(&["install", "--cache-only", "kit-a"]);
    assert_eq!(http.requests(), Vec::<String>::new());
    assert_eq!(world.installed(0, "kit-a").as_deref(), Some("1.0"));
    // What was not downloaded cannot be had.
    sysroot.refuses(&["install", "--cache-only", "kit-b"]).says(&["kit-b"]);
    assert_eq!(http.requests(), Vec::<String>::new());
    world.done();
}

#[test]
fn forms_of_requests() {
    let mut world = World::new();
    world.archive.add("newer", &small("kit-a", "3.0"));
    world.publish(&[
        small("kit-a", "1.0"),
        small("kit-a", "2.0"),
        Deb::new("kit-foreign", "1.0").arch(FOREIGN).multi_arch("same").file("/usr/lib/kit-foreign", 0o644, "x"),
        small("kit-real", "1.0").provides("kit-virtual"),
    ]);
    let sysroot = &world.sysroot;
    sysroot.set_sources(&world.archive.sources("stable").replace("Suites: stable", "Suites: stable newer"));
    for (request, version) in [("kit-a=1.0", "1.0"), ("kit-a/stable", "2.0"), ("kit-a/newer", "3.0"), ("kit-a", "3.0")]
    {
        let all = if request == "kit-a=1.0" {
            vec!["install", request]
        } else {
            vec!["uninstall", "kit-a", "--install", request]
        };
        sysroot.ok(&all);
        assert_eq!(sysroot.list(0, "requested-packages"), [request]);
        assert_eq!(world.installed(0, "kit-a").as_deref(), Some(version), "{request}");
    }
    let foreign = format!("kit-foreign:{FOREIGN}");
    sysroot.ok(&["install", &foreign, "kit-virtual"]);
    assert_eq!(world.installed(0, &foreign).as_deref(), Some("1.0"));
    assert_eq!(world.installed(0, "kit-real").as_deref(), Some("1.0"));
    sysroot.refuses(&["install", "kit-a=9"]).says(&["kit-a", "9", "1.0"]);
    sysroot.refuses(&["install", "kit-b/nosuch"]).says(&["kit-b"]);
    world.done();
}

#[test]
fn what_the_base_has_is_inactive() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot
        .refuses(&["install", "kit-base"])
        .says(&["\"kit-base\" is already provided by: kit-base-1.0.amd64", "--allow-inactive"]);
    sysroot.ok(&["install", "--allow-inactive", "kit-base", "kit-a"]);
    assert_eq!(sysroot.list(0, "requested-packages"), ["kit-a", "kit-base"]);
    assert_eq!(sysroot.list(0, "packages"), ["kit-a"]);
    sysroot.ok(&["status", "-v"]).says(&["InactiveRequests: kit-base", "LayeredPackages: kit-a"]);
    // An inactive request alone needs no other tree than the base.
    sysroot.ok(&["uninstall", "kit-a"]);
    assert_eq!(sysroot.list(0, "requested-packages"), ["kit-base"]);
    sysroot.ok(&["uninstall", "kit-base"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    world.done();
}

#[test]
fn local_packages_are_kept() {
    let mut world = World::new();
    world.publish(&[small("kit-lib", "1.0"), small("kit-a", "1.0")]);
    let deb = world.local(&small("kit-local", "1.0").depends("kit-lib"));
    let path = deb.to_string_lossy().into_owned();
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", &path]).says(&["kit-local-1.0.amd64", "kit-lib-1.0.amd64"]);
    assert_eq!(sysroot.list(0, "requested-local-packages"), ["kit-local-1.0.amd64"]);
    sysroot.refuses(&["install", &path]).says(&["already"]);
    sysroot.unchanged(77, &["install", "--idempotent", "--unchanged-exit-77", &path]);
    // The file is not needed any more.
    fs::remove_file(&deb).expect("own file");
    sysroot.ok(&["install", "kit-a"]);
    assert_eq!(world.installed(0, "kit-local").as_deref(), Some("1.0"));
    // Another file of the same package takes its place.
    let newer = world.local(&small("kit-local", "2.0"));
    sysroot
        .ok(&["install", &newer.to_string_lossy()])
        .says(&["Upgraded:\n  kit-local 1.0 -> 2.0", "Removed:\n  kit-lib"]);
    assert_eq!(sysroot.list(0, "requested-local-packages"), ["kit-local-2.0.amd64"]);
    sysroot.ok(&["status"]).says(&["LocalPackages: kit-local-2.0.amd64"]);
    sysroot.ok(&["uninstall", "kit-local", "kit-a"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    sysroot.refuses(&["install", &path]).says(&["Opening the package file"]);
    let broken = world.dir.join("broken.deb");
    fs::write(&broken, "no package").expect("own directory");
    sysroot.refuses(&["install", &broken.to_string_lossy()]).says(&["is not a Debian package"]);
    world.done();
}

/// The base's own package, newer, from a file: it replaces the base's.
#[test]
fn a_local_package_may_upgrade_the_base() {
    let world = World::new();
    let newer = world.local(&small("kit-base", "1.7"));
    world.sysroot.ok(&["install", &newer.to_string_lossy()]).says(&["kit-base 1.0 -> 1.7"]);
    assert_eq!(world.installed(0, "kit-base").as_deref(), Some("1.7"));
    world.sysroot.ok(&["uninstall", "kit-base"]);
    assert_eq!(world.sysroot.field(0, "checksum"), base().v1);
    world.done();
}

/// Diversions, alternatives, triggers, conffiles, links, hard links, set-id bits: what dpkg does with each.
#[test]
fn what_packages_do() {
    let mut world = World::new();
    world.publish(&[
        Deb::new("kit-many", "1.0")
            .file("/usr/bin/kit-many", 0o4755, "suid\n")
            .hardlink("/usr/bin/kit-many-too", "/usr/bin/kit-many")
            .symlink("/usr/bin/kit-link", "kit-many")
            .conffile("/etc/kit-many.conf", "a=1\n")
            .file("/opt/kit/bin/tool", 0o755, "opt\n")
            .file("/usr/share/kit/has space", 0o600, "space\n")
            .file_owned("/usr/share/kit/games", 0o2755, 0, 60, "games\n")
            .file("/var/lib/kit-many/seed", 0o640, "seed\n")
            .dir("/var/spool/kit-many", 0o1777)
            .dir("/var/cache/kit-many", 0o755)
            .script(
                "postinst",
                "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/kit-alt kit-alt /usr/bin/kit-many 10\n",
            ),
        Deb::new("kit-trigger", "1.0").file("/usr/share/kit-watched/x", 0o644, "x\n").depends("kit-many"),
        Deb::new("kit-divert", "1.0")
            .file("/usr/bin/less", 0o755, "diverted\n")
            .script("preinst", "#!/bin/sh\nset -e\n[ \"$1\" != install ] || dpkg-divert --package kit-divert --add --rename --divert /usr/bin/less.real /usr/bin/less\n"),
    ]);
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "kit-trigger", "kit-divert"]);
    let root = sysroot.deployment(0);
    use std::os::unix::fs::MetadataExt;
    let meta = |path: &str| fs::symlink_metadata(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(meta("usr/bin/kit-many").mode() & 0o7777, 0o4755);
    assert_eq!(world.read(0, "usr/bin/kit-many-too"), "suid\n");
    assert_eq!(meta("usr/bin/kit-many-too").ino(), meta("usr/bin/kit-many").ino());
    assert_eq!((meta("usr/share/kit/games").mode() & 0o7777, meta("usr/share/kit/games").gid()), (0o2755, 60));
    assert_eq!(meta("usr/share/kit/has space").mode() & 0o7777, 0o600);
    assert_eq!(world.read(0, "etc/kit-many.conf"), "a=1\n");
    assert_eq!(world.read(0, "usr/etc/kit-many.conf"), "a=1\n");
    assert_eq!(
        fs::read_link(root.join("usr/bin/kit-alt")).expect("a link"),
        std::path::Path::new("/etc/alternatives/kit-alt")
    );
    assert_eq!(
        fs::read_link(root.join("etc/alternatives/kit-alt")).expect("a link"),
        std::path::Path::new("/usr/bin/kit-many")
    );
    assert!(world.read(0, "usr/share/kit-triggered").contains("/usr/share/kit-watched"));
    assert_eq!(world.read(0, "usr/bin/less"), "diverted\n");
    assert_eq!(
        fs::read(root.join("usr/bin/less.real")).expect("the diverted file"),
        fs::read(sysroot.deployment(1).join("usr/bin/less")).expect("less is in the base")
    );
    assert!(root.join("opt/kit/bin/tool").exists() || root.join("usr/lib/opt/kit/bin/tool").exists());
    // /var is made at boot, from what the image says.
    let out = world.dir.join("booted");
    boot_var(&root, &out);
    let var = |path: &str| fs::symlink_metadata(out.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(fs::read_to_string(out.join("var/lib/kit-many/seed")).expect("the factory file"), "seed\n");
    assert_eq!(var("var/lib/kit-many/seed").mode() & 0o7777, 0o640);
    assert_eq!(var("var/spool/kit-many").mode() & 0o7777, 0o1777);
    assert!(var("var/cache/kit-many").is_dir());
    assert!(out.join("var/lib/dpkg/status").exists());
    world.done();
}

/// dpkg forgets a package that has lost every file to others; so does everything that is told of the tree.
#[test]
fn a_package_may_disappear() {
    let mut world = World::new();
    world.publish(&[small("kit-base-next", "1.0").file("/usr/bin/kit-base", 0o755, "next\n").replaces("kit-base")]);
    world.sysroot.ok(&["install", "kit-base-next"]).says(&["Removed:\n  kit-base-1.0.amd64"]);
    assert_eq!(world.installed(0, "kit-base"), None);
    world.sysroot.ok(&["db", "list", &world.sysroot.field(0, "checksum")]).never_says(&[" kit-base-1.0"]);
    world.sysroot.unchanged(0, &["upgrade"]).says(&["No upgrade available."]);
    world.done();
}

/// A copy of a deployment with a /var that systemd-tmpfiles made, as the first boot does.
pub(crate) fn boot_var(deployment: &std::path::Path, out: &std::path::Path) {
    use apt_ostree_testkit::run;
    use std::process::Command;
    run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(deployment).arg(out));
    run(Command::new("chattr").arg("-i").arg(out));
    // Its lines name users of the tree, so it runs in it.
    let output = Command::new("bwrap")
        .args(["--cap-add", "ALL", "--bind"])
        .arg(out)
        .args(["/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run"])
        .args(["systemd-tmpfiles", "--create", "--boot", "--prefix=/var"])
        .output()
        .expect("bwrap starts");
    assert!(out.join("var/lib").is_dir(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn preferences_of_the_machine_choose_the_version() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-a", "2.0")]);
    let parts = world.sysroot.deployment(0).join("etc/apt/preferences.d");
    fs::create_dir_all(&parts).expect("own directory");
    let pin = parts.join("kit");
    fs::write(&pin, "Package: kit-a\nPin: version 1.*\nPin-Priority: 900\n").expect("own directory");
    world.sysroot.ok(&["install", "kit-a"]);
    assert_eq!(world.installed(0, "kit-a").as_deref(), Some("1.0"));
    // The file was carried over with /etc; without it the newest is the candidate again.
    fs::remove_file(world.sysroot.deployment(0).join("etc/apt/preferences.d/kit")).expect("the file");
    world.sysroot.ok(&["upgrade"]);
    assert_eq!(world.installed(0, "kit-a").as_deref(), Some("2.0"));
    world.done();
}

#[test]
fn architectures_of_the_machine_s_settings() {
    let world = World::new();
    let dir = world.dir.join("foreign");
    let mut archive = Archive::new(&dir);
    archive.add("stable", &small("kit-foreign", "1.0").arch("i386"));
    archive.publish();
    world.sysroot.set_sources(&archive.sources("stable"));
    world.sysroot.refuses(&["install", "kit-foreign:i386"]).says(&["Packages not found: kit-foreign:i386"]);
    let settings = world.sysroot.deployment(0).join("etc/apt-ostreed.conf");
    fs::write(&settings, "[Layering]\nForeignArchitectures=I386\n").expect("own directory");
    world.sysroot.refuses(&["install", "kit-foreign:i386"]).says(&["'I386' is not a dpkg architecture"]);
    fs::write(&settings, "[Layering]\nForeignArchitectures=i386;\n").expect("own directory");
    world.sysroot.ok(&["install", "kit-foreign:i386"]);
    assert_eq!(world.sysroot.dpkg(0).get("kit-foreign:i386").map(String::as_str), Some("1.0"));
    // dpkg knows the architecture now, besides those of the base.
    let admindir = world.sysroot.deployment(0).join("usr/lib/sysimage/dpkg");
    let output = run(Command::new("dpkg").arg("--admindir").arg(admindir).arg("--print-foreign-architectures"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{FOREIGN}\ni386\n"));
    world.done();
}

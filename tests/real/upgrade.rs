//! `upgrade`: from remotes of both kinds, with and without layers, and what it refuses.

use std::fs;

use apt_ostree_testkit::http::HttpServer;
use apt_ostree_testkit::sysroot::Server;

use crate::bases::{BRANCH, archive_repo, base};
use crate::booted::Story;
use crate::world::{World, small};

#[test]
fn a_plain_base_from_a_file_remote() {
    let (world, server) = World::following();
    let sysroot = &world.sysroot;
    sysroot.unchanged(0, &["upgrade"]).says(&["No upgrade available."]);
    sysroot.unchanged(77, &["upgrade", "--unchanged-exit-77"]);
    sysroot.unchanged(77, &["upgrade", "--check"]).says(&["No updates available."]);
    server.set(BRANCH, &base().v2);
    sysroot.unchanged(0, &["upgrade", "--check"]).says(&[
        "AvailableUpdate:",
        "Version: 13.1",
        "2 upgraded, 1 removed, 1 added",
    ]);
    sysroot
        .unchanged(0, &["upgrade", "--preview"])
        .says(&["Upgraded: kit-base 1.0 -> 2.0", "Removed: kit-dropped-1.0.amd64"]);
    sysroot
        .unchanged(0, &["upgrade", "--dry-run"])
        .says(&["kit-base 1.0 -> 2.0", "Exiting because of '--dry-run' option"]);
    sysroot.unchanged(0, &["upgrade", "--download-only"]).says(&["Update downloaded."]);
    sysroot
        .ok(&["upgrade", "--cache-only"])
        .says(&["Upgraded:\n  kit-base 1.0 -> 2.0\n  kit-daemon 1.0 -> 2.0", "Added:\n  kit-new"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    assert_eq!(sysroot.field(0, "version"), "13.1");
    assert_eq!(sysroot.field(1, "checksum"), base().v1);
    sysroot.ok(&["status"]).says(&[&format!("  kit:{BRANCH}\n"), "GPGSignature: Valid signature by"]);
    assert_eq!(sysroot.deployments()[0]["gpg-enabled"], true);
    world.done();
}

#[test]
fn layers_are_made_again_on_the_new_base() {
    let (mut world, server) = World::following();
    world.publish(&[small("kit-a", "1.0").depends("kit-base"), small("kit-dropped", "1.5")]);
    let local = world.local(&small("kit-local", "1.0"));
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "--allow-inactive", "kit-a", "kit-dropped", &local.to_string_lossy()]);
    assert_eq!(sysroot.list(0, "packages"), ["kit-a"], "the base has kit-dropped");
    assert_eq!(world.installed(0, "kit-dropped").as_deref(), Some("1.0"));
    // The administrator's changes of /etc come along.
    fs::write(sysroot.deployment(0).join("etc/kit-daemon.conf"), "mine\n").expect("own file");
    fs::write(sysroot.deployment(0).join("etc/kit-own"), "mine\n").expect("own file");
    fs::remove_file(&local).expect("own file");
    server.set(BRANCH, &base().v2);
    sysroot.ok(&["upgrade"]).says(&["kit-base 1.0 -> 2.0"]);
    assert_eq!(sysroot.field(0, "base-checksum"), base().v2);
    assert_eq!(sysroot.list(0, "requested-packages"), ["kit-a", "kit-dropped"]);
    assert_eq!(sysroot.list(0, "requested-local-packages"), ["kit-local-1.0.amd64"]);
    for (name, version) in [("kit-a", "1.0"), ("kit-local", "1.0"), ("kit-base", "2.0"), ("kit-dropped", "1.5")] {
        assert_eq!(world.installed(0, name).as_deref(), Some(version), "{name}");
    }
    assert_eq!(sysroot.list(0, "packages"), ["kit-a", "kit-dropped"], "the request is active again");
    assert_eq!(world.read(0, "etc/kit-daemon.conf"), "mine\n");
    assert_eq!(world.read(0, "etc/kit-own"), "mine\n");
    assert_eq!(world.read(0, "usr/etc/kit-daemon.conf"), "version=2.0\n");
    sysroot.unchanged(0, &["upgrade"]).says(&["No upgrade available."]);
    world.done();
}

#[test]
fn a_newer_layered_package_is_an_upgrade() {
    let (mut world, _server) = World::following();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    world.sysroot.ok(&["install", "kit-a", "kit-b=1.0"]);
    world.publish(&[small("kit-a", "2.0"), small("kit-b", "2.0")]);
    let sysroot = &world.sysroot;
    // Not by the way: installing something else does not fetch indexes.
    sysroot.unchanged(0, &["upgrade", "--check"]).says(&["1 upgraded"]);
    let old = sysroot.field(0, "checksum");
    sysroot.ok(&["upgrade"]).says(&["Upgraded:\n  kit-a 1.0 -> 2.0\nChanges queued"]);
    assert_eq!(sysroot.field(0, "base-checksum"), base().v1);
    assert_eq!(world.installed(0, "kit-b").as_deref(), Some("1.0"), "the version that was asked for");
    assert_eq!(sysroot.field(1, "checksum"), old);
    sysroot.ok(&["upgrade", "--uninstall", "kit-b", "--install", "kit-b"]).says(&["kit-b 1.0 -> 2.0"]);
    world.done();
}

#[test]
fn from_an_http_server() {
    let world = World::new();
    let server = Server::new(&archive_repo(), &world.dir.join("http"));
    server.set(BRANCH, &base().v1);
    let http = HttpServer::start(server.dir());
    world.add_remote("kit", &http.url());
    let sysroot = &world.sysroot;
    sysroot.ok(&["rebase", &format!("kit:{BRANCH}")]);
    server.set(BRANCH, &base().v2);
    sysroot.ok(&["upgrade"]).says(&["kit-base 1.0 -> 2.0"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    assert_eq!(world.read(0, "usr/bin/kit-base"), "#!/bin/sh\necho 2.0\n");
    // The server dies in the middle of a pull.
    sysroot.ok(&["deploy", "version=13"]);
    sysroot.ok(&["cleanup", "-r"]);
    assert_eq!(sysroot.checksums(), [base().v1.as_str()]);
    http.die_after(4);
    sysroot.refuses(&["upgrade"]).says(&["note: no deployment was made"]);
    sysroot.refuses(&["upgrade"]).says(&["Pulling from kit", "hint: Check the network"]);
    sysroot.fsck();
    let http = HttpServer::start(server.dir());
    sysroot.ostree(&["remote", "delete", "kit"]);
    world.add_remote("kit", &http.url());
    sysroot.ok(&["upgrade"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    world.done();
}

/// Looking for updates downloads no image: the commit, and what a plan of the layered packages is made with.
#[test]
fn an_update_is_planned_without_its_image() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0").depends("kit-base")]);
    let server = Server::new(&archive_repo(), &world.dir.join("http"));
    server.set(BRANCH, &base().v1);
    let http = HttpServer::start(server.dir());
    world.add_remote("kit", &http.url());
    let refspec = format!("kit:{BRANCH}");
    world.sysroot.ok(&["rebase", &refspec, "--install", "kit-a"]);
    world.publish(&[small("kit-a", "2.0").depends("kit-base (>= 2.0)")]);
    server.set(BRANCH, &base().v2);
    let sysroot = &world.sysroot;
    http.clear();
    sysroot.unchanged(0, &["upgrade", "--preview"]).says(&[
        "Looking at kit:",
        "Upgraded: kit-a 1.0 -> 2.0",
        "kit-base 1.0 -> 2.0",
        "Added: kit-new-1.0.amd64",
    ]);
    let files = http.count(".filez");
    assert!((1..=3).contains(&files), "{files} files: {:?}", http.requests());
    assert_eq!(sysroot.scratch(), Vec::<String>::new());
    sysroot.fsck();
    let cached = sysroot.status()["cached-update"].clone();
    assert_eq!((&cached["checksum"], &cached["ref-has-new-commit"]), (&base().v2.as_str().into(), &true.into()));
    assert_eq!(cached["update-sha256"], sysroot.field(0, "checksum"));
    let upgraded = cached["rpm-diff"]["upgraded"].as_array().expect("a list");
    let layers: Vec<String> = upgraded.iter().map(|row| format!("{} {}", row[0], row[1])).collect();
    assert_eq!(layers, ["1 \"kit-a\"", "0 \"kit-base\"", "0 \"kit-daemon\""]);
    assert_eq!(cached["signatures"][0][0], true, "the signature was looked at");
    // What was looked at is not taken for a tree: without the network there is the old base, which is too old for kit-a.
    assert_eq!(sysroot.ostree(&["rev-parse", &refspec]).trim(), base().v1);
    sysroot
        .refuses(&["upgrade", "--check", "--cache-only"])
        .says(&["kit-a : Depends: kit-base (>= 2.0) but 1.0 is to be installed"]);
    assert_eq!(sysroot.status()["cached-update"], cached, "what was found stays found");
    // The server goes away while it is looked at.
    sysroot.ostree(&["prune", "--refs-only"]);
    http.die_after(2);
    sysroot.refuses(&["upgrade", "--check"]).says(&["hint: Check the network"]);
    assert_eq!(sysroot.ostree(&["rev-parse", &refspec]).trim(), base().v1);
    sysroot.fsck();
    let http = HttpServer::start(server.dir());
    sysroot.ostree(&["remote", "delete", "kit"]);
    world.add_remote("kit", &http.url());
    sysroot.unchanged(0, &["upgrade", "--check"]).says(&["3 upgraded, 1 removed, 1 added"]);
    sysroot.ok(&["upgrade"]).says(&["kit-a 1.0 -> 2.0", "kit-base 1.0 -> 2.0"]);
    assert_eq!(sysroot.field(0, "base-checksum"), base().v2);
    assert_eq!(world.read(0, "usr/bin/kit-base"), "#!/bin/sh\necho 2.0\n");
    sysroot.unchanged(77, &["upgrade", "--check"]).says(&["No updates available."]);
    assert!(sysroot.status()["cached-update"].is_null());
    world.done();
}

/// What an archive for security updates offers is told by name, with what the changelog says of it once that is there.
#[test]
fn security_updates_are_named() {
    let (mut world, _server) = World::following();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    world.archive.add("stable-security", &small("kit-unrelated", "1.0"));
    world.archive.publish();
    let sysroot = &world.sysroot;
    sysroot.set_sources(&world.archive.sources("stable").replace("Suites: stable", "Suites: stable stable-security"));
    sysroot.ok(&["install", "kit-a", "kit-b"]);
    let before = sysroot.field(0, "checksum");
    let entry = "kit-source (1.1) fixes; urgency=high\n\n  * Fix CVE-2025-1234 and CVE-2025-1235\n\n \
                 -- A <a@example.org>  Sat, 09 Aug 2025 09:10:53 +0000\n";
    let fixed = small("kit-a", "1.1-1").field("Source", "kit-source (1.1)").file(
        "/usr/share/doc/kit-a/changelog.Debian",
        0o644,
        entry,
    );
    world.archive.add("stable-security", &fixed);
    world.publish(&[small("kit-b", "1.1")]);
    let sysroot = &world.sysroot;
    sysroot
        .unchanged(0, &["upgrade", "--check"])
        .says(&["SecAdvisories: 1 unknown severity\n", "Diff: 2 upgraded\n"])
        .never_says(&["Commit:"]);
    let one = serde_json::json!([["kit-source 1.1", 1, 0, ["kit-a-1.1-1.amd64"], {"cve_references": []}]]);
    assert_eq!(sysroot.status()["cached-update"]["advisories"], one);
    sysroot.ok(&["status"]).says(&["\n\nAvailableUpdate:\n", "  SecAdvisories: 1 unknown severity\n"]);
    sysroot.ok(&["status", "-a"]).says(&["  SecAdvisories: kit-source 1.1  Unknown  kit-a-1.1-1.amd64\n"]);
    sysroot.ok(&["upgrade"]);
    let after = sysroot.field(0, "checksum");
    let cve = "https://security-tracker.debian.org/tracker/CVE-2025-1234";
    sysroot.ok(&["db", "diff", "-a", &before, &after]).says(&[
        "SecAdvisories:\n  kit-source 1.1  Unknown  kit-a-1.1-1.amd64\n    CVE-2025-1234\n    https://",
        cve,
        "CVE-2025-1235",
    ]);
    let list = sysroot.ok(&["db", "list", "--format=json", &after]).json();
    let known = list["advisories"].as_array().expect("a list");
    let ours = known.iter().find(|a| a[0] == "kit-source 1.1").expect("the layered one");
    assert_eq!(ours[4]["cve_references"][0], serde_json::json!([cve, "CVE-2025-1234"]));
    sysroot.unchanged(77, &["upgrade", "--check"]);
    world.done();
}

/// A sysroot made from a remote alone, over HTTP, as a first user would.
#[test]
fn the_first_deployment_from_an_http_server() {
    let world = World::empty();
    let server = Server::new(&archive_repo(), &world.dir.join("http"));
    server.set(BRANCH, &base().unsigned);
    let http = HttpServer::start(server.dir());
    let sysroot = &world.sysroot;
    let (remote, key) = (format!("--remote=kit={}", http.url()), format!("--gpg-import={}", base().key().display()));
    let refspec = format!("kit:{BRANCH}");
    let init = ["init-sysroot", "--stateroot=debian", &remote, &key, &refspec];
    // The server lacks the commit, then has one without the right signature; no half sysroot stays behind.
    sysroot.run(&init).exits(1);
    assert!(!sysroot.dir().exists());
    server.set(BRANCH, &base().v2);
    sysroot.run(&["init-sysroot", "--stateroot=debian", &remote, &refspec]).exits(1).says(&["signature", "gpg-import"]);
    assert!(!sysroot.dir().exists());
    sysroot.ok(&init);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    sysroot.run(&init).exits(1).says(&["is an OSTree sysroot already"]);
    sysroot.fsck();
}

#[test]
fn signatures_are_asked_for() {
    let (world, server) = World::following();
    let sysroot = &world.sysroot;
    server.set(BRANCH, &base().unsigned);
    sysroot
        .refuses(&["upgrade"])
        .says(&["GPG verification enabled, but no signatures found", "ostree remote gpg-import kit"]);
    server.set(BRANCH, &base().stranger);
    sysroot.refuses(&["upgrade"]).says(&["Can't check signature", "note: no deployment was made"]);
    sysroot.fsck();
    // The administrator's own decision.
    sysroot.ostree(&["config", "set", "remote \"kit\".gpg-verify", "false"]);
    sysroot.ok(&["upgrade"]);
    assert_eq!(sysroot.field(0, "checksum"), base().stranger);
    world.done();
}

#[test]
fn an_older_commit_is_refused() {
    let (world, server) = World::following();
    let sysroot = &world.sysroot;
    server.set(BRANCH, &base().v2);
    sysroot.ok(&["upgrade"]);
    server.set(BRANCH, &base().v1);
    sysroot
        .refuses(&["upgrade"])
        .says(&["is chronologically older than current revision", "use --allow-downgrade to permit"]);
    sysroot.refuses(&["upgrade", "--check"]).says(&["chronologically older"]);
    sysroot.ok(&["upgrade", "--allow-downgrade"]).says(&["Downgraded:\n  kit-base 2.0 -> 1.0"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    world.done();
}

#[test]
fn a_commit_as_the_origin_stays() {
    let (mut world, server) = World::following();
    world.publish(&[small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    server.set(BRANCH, &base().v2);
    // A commit as the origin has to be here: nothing says where to get it from.
    sysroot.refuses(&["rebase", &base().v2]).says(&[&base().v2, "not found"]);
    sysroot.ok(&["rebase", &base().v1]);
    assert_eq!(sysroot.field(0, "origin"), base().v1);
    sysroot.unchanged(0, &["upgrade"]).says(&["Pinned to commit; no upgrade available"]);
    sysroot.ok(&["install", "kit-a"]);
    assert_eq!(sysroot.field(0, "base-checksum"), base().v1);
    sysroot.ok(&["rebase", &format!("kit:{BRANCH}")]);
    sysroot.ok(&[
        "rebase",
        &base().v1,
        "--custom-origin-url=https://example.org",
        "--custom-origin-description=An image",
    ]);
    sysroot.unchanged(0, &["upgrade"]).says(&["Pinned to commit by custom origin: An image"]);
    world.done();
}

/// `deploy` holds a commit until the next upgrade only.
#[test]
fn an_upgrade_drops_what_deploy_chose() {
    let (world, server) = World::following();
    let sysroot = &world.sysroot;
    server.set(BRANCH, &base().v2);
    sysroot.ok(&["upgrade"]);
    sysroot.ok(&["deploy", "13"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    sysroot.ok(&["upgrade"]).says(&["kit-base 1.0 -> 2.0"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    let text = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    assert!(!text.contains("override-commit"), "{text}");
    world.done();
}

/// What a run of the policy `apply` finds staged, what takes its place, and what becomes of it once it has failed to boot.
#[test]
fn an_update_that_waits_for_the_next_boot() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0")]);
    story.server.set(BRANCH, &base().v2);
    let script = r#"
        conf=/etc/apt-ostreed.conf; cached=/var/cache/apt-ostree/cached-update.json
        # As the timer's run would: the report alone, nothing is restarted here.
        due() {
            request='{"sysroot":"/","verb":"upgrade","changes":{},"allow_downgrade":false,"check":false,"preview":false,"options":{"reboot":true}}'
            printf '%s' "$request" | unshare --mount --propagation private apt-ostree worker | sed -n 's/.*"reboot_due":\([a-z]*\).*/\1/p'
        }
        # The program is here without its service.
        apt-ostree upgrade -v 2> /run/said || { cat /run/said; exit 1; }
        grep '^Not using the service: no s' /run/said
        first() { ostree admin status | sed -n '1s/^  [^ ]* \([0-9a-f]*\.[0-9]*\).*/\1/p'; }
        staged=$(first)
        same "$(due)" false
        printf '[Daemon]\nAutomaticUpdatePolicy=apply\n' > $conf
        same "$(due)" true
        grep -q "\"deployment\": \"debian-$staged\"" $cached
        ostree admin lock-finalization
        same "$(due)" false
        ostree admin lock-finalization --unlock
        same "$(due)" true
        apt-ostree status | grep AvailableUpdate && exit 1
        # Another one takes its place, which has the update as well.
        apt-ostree install kit-a
        apt-ostree status | grep AvailableUpdate && exit 1
        apt-ostree status --json | grep '"deployment": "debian-' && exit 1
        apt-ostree uninstall kit-a
        # It failed, and this is what the loader fell back to.
        failed=$(first)
        mkdir -p /var/lib/apt-ostree/health
        printf '{"deployment":"%s","time":1700000000,"good":false,"reason":"it hung"}' "$failed" > "/var/lib/apt-ostree/health/$failed.json"
        why="The update would be the same as $failed, which failed to boot at 2023-11-14T22:13:20Z: it hung"
        said=$(apt-ostree upgrade --check) && exit 1 || same $? 77
        case $said in *"$why"*'No updates available.') ;; *) echo "$said"; exit 1 ;; esac
        test ! -e $cached
        said=$(apt-ostree upgrade)
        case $said in *"$why"*'No upgrade available.') ;; *) echo "$said"; exit 1 ;; esac
        test ! -e $cached
        same "$(due)" false
        apt-ostree upgrade --check --allow-failed | grep AvailableUpdate
    "#;
    story.boot(script);
    story.done();
}

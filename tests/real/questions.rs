//! `search`, `info`, `list`, `history`, `db diff --changelogs` on a composed system; apt, dpkg and gzip answer as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::Outcome;

use crate::world::{World, small};

fn described(name: &str, version: &str, text: &str) -> Deb {
    small(name, version).field("Description", text)
}

/// The program as a user who owns nothing.
fn as_nobody(world: &World, args: &[&str]) -> Outcome {
    let plain = world.sysroot.command(args);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(plain.get_program()).args(plain.get_args()).env("LC_ALL", "C.UTF-8").env("TMPDIR", "/tmp");
    let output = command.output().expect("setpriv starts");
    Outcome::new(&command, &output)
}

#[test]
fn packages_are_found_and_told_apart() {
    let mut world = World::new();
    world.publish(&[
        described("kit-a", "1.0", "edits Pictures\n And more."),
        described("kit-b", "1.0", "pictures of kit-a"),
        described("kit-base", "1.5", "newer than the base"),
    ]);
    // Nothing was fetched yet: what is installed can be told, what is offered cannot.
    for args in [&["search", "kit"][..], &["list", "--all"], &["list", "--upgradable"], &["info", "kit-a"]] {
        let refused = world.sysroot.refuses(args);
        refused
            .says(&[&format!("hint: Fetch them: apt-ostree --sysroot={} refresh-md", world.sysroot.dir().display())]);
    }
    let installed = |outcome: &Outcome| -> BTreeSet<String> {
        let lines = outcome.stdout.lines();
        lines.map(|l| l.split('/').next().unwrap_or_default().to_owned()).collect()
    };
    let names: BTreeSet<String> =
        world.sysroot.dpkg(0).keys().map(|n| n.split(':').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(installed(&world.sysroot.unchanged(0, &["list"])), names);
    world.sysroot.ok(&["info", "kit-base"]).says(&["Version: 1.0\n", "Status: in the base image\n"]);

    world.sysroot.ok(&["install", "kit-a"]);
    let names: BTreeSet<String> =
        world.sysroot.dpkg(0).keys().map(|n| n.split(':').next().unwrap_or_default().to_owned()).collect();
    let before = world.sysroot.state();
    let list = as_nobody(&world, &["list"]).exits(0).says(&["kit-a/stable,now 1.0 amd64 [layered,requested]\n"]);
    assert_eq!(installed(&list), names);
    assert_eq!(as_nobody(&world, &["list", "--layered"]).exits(0).stdout.lines().count(), 1);
    let base = as_nobody(&world, &["list", "--base"]).exits(0);
    assert_eq!(base.stdout.lines().count() + 1, names.len());
    let upgradable = as_nobody(&world, &["list", "--upgradable"]).exits(0);
    assert_eq!(upgradable.stdout, "kit-base/stable 1.5 amd64 [upgradable from: 1.0]\n");
    let all = as_nobody(&world, &["list", "--all", "kit-?"]).exits(0);
    assert_eq!(all.stdout, "kit-a/stable,now 1.0 amd64 [layered,requested]\nkit-b/stable 1.0 amd64\n");
    let items = as_nobody(&world, &["list", "--json", "kit-base"]).exits(0).json();
    assert_eq!(items[0]["state"], "base");
    assert_eq!(items[0]["candidate"], "1.5");

    let found = as_nobody(&world, &["search", "KIT-A"]).exits(0);
    assert_eq!(
        found.stdout,
        "===== Name Matched =====\nkit-a : edits Pictures\n\n===== Summary Matched =====\nkit-b : pictures of kit-a\n"
    );
    as_nobody(&world, &["search", "no-such-thing"]).exits(0).says(&["No matches found.\n"]);
    let document = as_nobody(&world, &["search", "--json", "pictures"]).exits(0).json();
    assert_eq!(document["summary"][1]["name"], "kit-b");
    as_nobody(&world, &["info", "kit-a", "kit-b"]).exits(0).says(&[
        "Package: kit-a\nVersion: 1.0\nArchitecture: amd64\nStatus: layered, requested\n",
        "Package: kit-b\nVersion: 1.0\nArchitecture: amd64\nStatus: not installed\n",
        "Available: 1.0 (stable/main, priority 500, candidate)\n",
        "Description: edits Pictures\n And more.\n",
    ]);
    world.sysroot.refuses(&["info", "kit-c", "nothing"]).says(&["error: Packages not found: kit-c, nothing"]);
    world.sysroot.assert_unchanged(&before, "questions change nothing");
    world.done();
}

#[test]
fn history_tells_the_commands() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot.ok(&["history"]).says(&["CreateCommand: apt-ostree", "init-sysroot"]);
    // A system that was there before the history was kept. What makes nothing leaves no record.
    fs::remove_dir_all(sysroot.dir().join("ostree/deploy/debian/var/lib/apt-ostree/history")).expect("the history");
    sysroot.ok(&["install", "--dry-run", "kit-b"]);
    sysroot.ok(&["history"]).says(&["<< No entries found >>"]);
    sysroot.ok(&["install", "kit-a"]);
    sysroot.ok(&["kargs", "--append=x=1"]);
    sysroot.ok(&["rollback"]);
    sysroot.refuses(&["install", "kit-nonsense"]);
    let text = sysroot.ok(&["history", "--all"]).stdout;
    let commands: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("CreateCommand: ")).collect();
    let words: Vec<&str> = commands
        .iter()
        .filter_map(|c| c.split_whitespace().find(|w| !w.starts_with('-') && *w != "apt-ostree"))
        .collect();
    assert_eq!(words, ["kargs", "install"], "{text}");
    assert!(text.contains("LayeredPackages: kit-a"), "{text}");
    assert_eq!(sysroot.ok(&["history", "-n", "1"]).stdout.matches("CreateTimestamp: ").count(), 1);
    // One document after the other, as rpm-ostree prints them.
    let documents = sysroot.ok(&["ex", "history", "--json"]).stdout;
    let list: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(&documents).into_iter().map(|d| d.expect("a document")).collect();
    assert_eq!(list.len(), 2);
    // The second deployment made is the first one now.
    assert_eq!(list[1]["deployment"]["checksum"], sysroot.field(0, "checksum").as_str());
    assert_eq!(list[1]["deployment"]["requested-packages"], serde_json::json!(["kit-a"]));
    assert!(list[0]["deployment-create-timestamp"].as_u64() >= list[1]["deployment-create-timestamp"].as_u64());
    world.done();
}

/// gzip's own bytes of a text.
fn gzip(dir: &Path, text: &str) -> Vec<u8> {
    let file = dir.join("text");
    fs::write(&file, text).expect("own directory");
    run(Command::new("gzip").args(["-9n", "--stdout"]).arg(&file)).stdout
}

#[test]
fn changelogs_between_two_deployments() {
    let mut world = World::new();
    let entry = |version: &str, what: &str| {
        format!(
            "kit-log ({version}) stable; urgency=medium\n\n  * {what}\n\n -- A Person <a@example.org>  Sat, 09 Aug 2025 09:10:53 +0000\n\n"
        )
    };
    let old = entry("1.0-1", "The first");
    let new = entry("2.0-1", "The third") + &entry("1.5-1", "The second;\n    goes on") + &old;
    let packed = |text: &str| gzip(&world.dir, text);
    // The documentation of one package in that of another, as Debian's source packages with several binaries have it.
    let debs = [
        small("kit-log", "1.0-1").file("/usr/share/doc/kit-log/changelog.Debian.gz", 0o644, packed(&old)),
        small("kit-log", "2.0-1").file("/usr/share/doc/kit-log/changelog.Debian.gz", 0o644, packed(&new)),
        small("kit-link", "1.0-1").symlink("/usr/share/doc/kit-link", "kit-log"),
        small("kit-link", "2.0-1").symlink("/usr/share/doc/kit-link", "kit-log"),
        small("kit-mute", "1.0"),
        small("kit-mute", "2.0"),
    ];
    world.publish(&debs);
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "kit-log=1.0-1", "kit-link=1.0-1", "kit-mute=1.0"]);
    sysroot.ok(&[
        "uninstall",
        "kit-log",
        "kit-link",
        "kit-mute",
        "--install=kit-log",
        "--install=kit-link",
        "--install=kit-mute",
    ]);
    let entries = "    * Sat, 09 Aug 2025 09:10:53 +0000 A Person <a@example.org> - 2.0-1\n    - The third\n\n    * Sat, 09 Aug 2025 09:10:53 \
                   +0000 A Person <a@example.org> - 1.5-1\n    - The second;\n      goes on\n\n";
    let said = sysroot.ok(&["db", "diff", "--changelogs"]);
    let want = format!(
        "Upgraded:\n  kit-link 1.0-1 -> 2.0-1\n{entries}  kit-log 1.0-1 -> 2.0-1\n{entries}  kit-mute 1.0 -> 2.0\n    (no changelog in the tree)\n\n"
    );
    assert!(said.stdout.ends_with(&want), "{}\nis not\n{want}", said.stdout);
    let (new, old) = (sysroot.field(0, "checksum"), sysroot.field(1, "checksum"));
    sysroot.ok(&["db", "diff", "-c", &new, &old]).says(&["Downgraded:\n  kit-link 2.0-1 -> 1.0-1\n    * Sat"]);
    sysroot.refuses(&["db", "diff", "-c", "--format=json"]).says(&["not supported together"]);
    world.done();
}

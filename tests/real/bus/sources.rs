//! `ModifyYumRepo` and `ListRepos`, against what apt itself reads from the same /etc/apt.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use apt_ostree_testkit::sysroot::Outcome;

use super::{Bus, NAME, OS, SYSROOT};
use crate::world::World;

const MODIFY: &str = "(sa{ss})";

/// The suites of file:///kit that apt would fetch.
fn of_apt(etc: &Path, scratch: &Path) -> Vec<String> {
    let mut command = Command::new("apt-get");
    command.args(["update", "--print-uris"]);
    for (key, path) in
        [("Dir::Etc", etc.to_owned()), ("Dir::State", scratch.join("state")), ("Dir::Cache", scratch.join("cache"))]
    {
        fs::create_dir_all(&path).expect("own directory");
        command.arg(format!("-o{key}={}", path.display()));
    }
    let output = command.output().expect("apt-get starts");
    let outcome = Outcome::new(&command, &output).exits(0);
    let suite = |line: &str| Some(line.strip_prefix("'file:/kit/dists/")?.split_once("/main/")?.0.to_owned());
    let mut list: Vec<String> = outcome.stdout.lines().filter_map(suite).collect();
    list.sort();
    list.dedup();
    list
}

/// Id and state of every source that the service lists.
fn listed(bus: &Bus) -> BTreeMap<String, bool> {
    let list = bus.call(OS, "OS", "ListRepos", &[]).exits(0).json()["data"][0].clone();
    let one = |source: &serde_json::Value| {
        (source["id"]["data"].as_str().expect("text").to_owned(), source["is-enabled"]["data"] == true)
    };
    list.as_array().expect("a list").iter().map(one).collect()
}

#[test]
fn a_source_is_switched_off_and_on() {
    let world = World::new();
    let etc = world.sysroot.deployment(0).join("etc/apt");
    let parts = etc.join("sources.list.d");
    for entry in fs::read_dir(&parts).expect("a directory").flatten() {
        fs::remove_file(entry.path()).expect("a file");
    }
    let sources = "# Two of them.\nTypes: deb\nURIs: file:///kit\n# the first\nSuites: one\nComponents: main\n\n\
                   Types: deb\nURIs: file:///kit\nSuites: two\nComponents: main\nEnabled: no\n";
    let lines = "# by hand\ndeb [trusted=yes] file:///kit three main # why\n# deb file:///kit four main\n";
    fs::write(parts.join("kit.sources"), sources).expect("own file");
    fs::write(parts.join("lines.list"), lines).expect("own file");
    fs::set_permissions(parts.join("kit.sources"), fs::Permissions::from_mode(0o640)).expect("own file");
    std::os::unix::fs::chown(parts.join("kit.sources"), Some(1), Some(2)).expect("root");
    fs::write(etc.join("sources.list"), "deb file:///kit five main\n").expect("own file");
    fs::write(parts.join("sources.list"), "deb file:///kit six main\n").expect("own file");
    let bus = Bus::new(world, &[]);
    let apt = || of_apt(&etc, &bus.dir);
    assert_eq!(apt(), ["five", "one", "six", "three"]);
    let states: Vec<(String, bool)> = listed(&bus).into_iter().collect();
    let wanted = [
        ("kit:1", true),
        ("kit:2", false),
        ("lines:1", true),
        ("lines:2", false),
        // Two files of one name.
        ("sources.list", true),
        ("sources.list.d/sources.list", true),
    ];
    assert_eq!(states, wanted.map(|(id, on)| (id.to_owned(), on)));

    let set =
        |id: &str, on: &str| bus.transaction("ModifyYumRepo", MODIFY, &format!("('{id}', {{'enabled': '{on}'}})"));
    set("kit:1", "0").exits(0).says(&["Switched off the apt source kit:1 in /etc/apt/sources.list.d/kit.sources"]);
    assert_eq!(apt(), ["five", "six", "three"]);
    assert!(!listed(&bus)["kit:1"]);
    set("lines:1", "0").exits(0);
    set("kit:2", "1").exits(0);
    set("sources.list.d/sources.list", "0").exits(0);
    assert_eq!(apt(), ["five", "two"]);
    assert_eq!(listed(&bus).len(), wanted.len(), "what is off stays in the list");
    // Nothing else in them was touched, and it is the same again in the end.
    let text = |path: &Path| fs::read_to_string(path).expect("a file");
    let changed = sources.replace("Enabled: no", "Enabled: yes").replacen("Types", "Enabled: no\nTypes", 1);
    assert_eq!(text(&parts.join("kit.sources")), changed);
    assert_eq!(text(&parts.join("lines.list")), lines.replacen("deb [", "# deb [", 1));
    let metadata = fs::metadata(parts.join("kit.sources")).expect("a file");
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 1, 2));
    set("lines:1", "1").exits(0);
    set("kit:1", "1").exits(0);
    assert_eq!(text(&parts.join("lines.list")), lines);
    assert_eq!(apt(), ["five", "one", "three", "two"]);
    set("kit:1", "1").exits(0).says(&["is on already"]);

    refused(&bus, &set, &parts);
    bus.done();
}

fn refused(bus: &Bus, set: &dyn Fn(&str, &str) -> Outcome, parts: &Path) {
    set("nothing", "0").exits(1).says(&["There is no apt source 'nothing'", "kit:1, kit:2"]);
    let target = bus.dir.join("usr/image.list");
    fs::create_dir_all(target.parent().expect("a directory")).expect("own directory");
    fs::write(&target, "deb file:///kit seven main\n").expect("own file");
    std::os::unix::fs::symlink(&target, parts.join("link.list")).expect("own file");
    set("link", "0").exits(1).says(&["/etc/apt/sources.list.d/link.list is a link to", "a part of the image"]);
    assert_eq!(fs::read_to_string(&target).expect("a file"), "deb file:///kit seven main\n");
    for (settings, said) in [
        (&["1", "enabled", "2"][..], "'enabled' is 0 or 1, not '2'"),
        (&["1", "gpgcheck", "0"], "only 'enabled' can be set, not 'gpgcheck'"),
        (&["2", "enabled", "0", "gpgcheck", "0"], "not 'gpgcheck'"),
        (&["0"], "'enabled' is missing"),
    ] {
        let words = [&["sa{ss}", "kit:1"], settings].concat();
        let mut command = bus.command("busctl");
        // By its name: a client takes this one for its own mistake.
        command.arg(format!("--address={}", bus.address)).args([
            "call",
            NAME,
            OS,
            &format!("{NAME}.OS"),
            "ModifyYumRepo",
        ]);
        let output = command.args(&words).output().expect("busctl starts");
        Outcome::new(&command, &output).exits(1).says(&[said]);
    }
    assert_eq!(bus.property(SYSROOT, "Sysroot", "ActiveTransactionPath"), "");
}

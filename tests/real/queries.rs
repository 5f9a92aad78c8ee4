//! `status`, `db`, `refresh-md`: what is told is what `ostree` and `dpkg-query` say.

use std::process::Command;

use apt_ostree_testkit::http::HttpServer;
use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::dpkg_list;
use serde_json::Value;

use crate::bases::{BRANCH, base};
use crate::world::{World, small};

#[test]
fn status_agrees_with_ostree() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    let document = sysroot.status();
    assert_eq!(document["transaction"], Value::Null);
    sysroot.ok(&["install", "kit-a"]);
    sysroot.ok(&["kargs", "--append=x=1"]);
    sysroot.admin(&["pin", "1"]);
    // `* STATEROOT CHECKSUM.SERIAL (rollback)`, and indented lines of what is special.
    let text = sysroot.admin(&["status"]);
    let mut theirs: Vec<(String, bool)> = Vec::new();
    for line in text.lines() {
        match line.split_whitespace().find(|w| w.len() > 65 && w[..64].chars().all(|c| c.is_ascii_hexdigit())) {
            Some(name) => theirs.push((name.to_owned(), false)),
            None if line.trim() == "Pinned: yes" => theirs.last_mut().expect("a deployment").1 = true,
            None => {}
        }
    }
    let ours = sysroot.deployments();
    let told: Vec<(String, bool)> = ours
        .iter()
        .map(|d| {
            let name = format!("{}.{}", d["checksum"].as_str().expect("a checksum"), d["serial"]);
            assert_eq!(d["id"], format!("debian-{name}").as_str());
            (name, d["pinned"].as_bool().expect("a truth"))
        })
        .collect();
    assert_eq!(told, theirs, "{text}");
    assert_eq!(ours[0]["base-checksum"], base().v1.as_str());
    assert_eq!(ours[0]["base-version"], "13");
    assert_eq!(ours[0]["requested-packages"], serde_json::json!(["kit-a"]));
    let text = sysroot.ok(&["status"]).says(&[
        "State: idle\nDeployments:\n",
        "BaseCommit: ",
        "LayeredPackages: kit-a",
        "Pinned: yes",
    ]);
    assert_eq!(text.stdout.matches(BRANCH).count(), ours.len());
    sysroot.ok(&["status", "-v"]).says(&["(index: 1)", "StateRoot: debian", "Staged: no"]);
    let filtered = sysroot.ok(&["status", "-J", "$.deployments[0].requested-packages"]).json();
    assert_eq!(filtered, serde_json::json!([["kit-a"]]));
    let deep = sysroot.ok(&["status", "-J", "$..base-checksum"]).json();
    assert_eq!(deep[0], base().v1.as_str());
    assert_eq!(sysroot.ok(&["status", "-J", "$.deployments[0]['base-version']"]).json(), serde_json::json!(["13"]));
    // Nothing is booted from a directory: the first deployment waits for a boot.
    sysroot.run(&["status", "--pending-exit-77"]).exits(77);
    sysroot.refuses(&["status", "--json", "--jsonpath", "$"]);
    world.done();
}

#[test]
fn db_agrees_with_dpkg() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-base", "1.5")]);
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "kit-a", "kit-base=1.5"]);
    let (new, old) = (sysroot.field(0, "checksum"), base().v1.clone());
    for (index, commit) in [(0, &new), (1, &old)] {
        let listed = sysroot.ok(&["db", "list", commit]).stdout;
        let (header, rest) = listed.split_once('\n').expect("a header");
        assert_eq!(header, format!("ostree commit: {commit}"));
        let mut want: Vec<String> = sysroot
            .dpkg(index)
            .iter()
            .map(|(name, version)| {
                let (name, arch) = name.split_once(':').expect("name:arch");
                format!(" {name}-{version}.{arch}")
            })
            .collect();
        let mut have: Vec<String> = rest.lines().map(str::to_owned).collect();
        want.sort();
        have.sort();
        assert_eq!(have, want);
    }
    sysroot.ok(&["db", "list", &new, "kit-*"]).says(&[" kit-a-1.0.amd64\n kit-base-1.5.amd64\n kit-daemon"]);
    sysroot.ok(&["db", "diff", &old, &new]).says(&[
        &format!("ostree diff commit from: {old}"),
        "Upgraded:\n  kit-base 1.0 -> 1.5\nAdded:\n  kit-a-1.0.amd64\n",
    ]);
    sysroot
        .ok(&["db", "diff", "--format=diff", &new, &old])
        .says(&["-kit-a-1.0.amd64", "!kit-base-1.5.amd64\n=kit-base-1.0.amd64"]);
    let document = sysroot.ok(&["db", "diff", "--format=json", &old, &new]).json();
    assert!(document.to_string().contains(r#"["kit-a",0,{"NewPackage":["kit-a","1.0","amd64"]}]"#), "{document}");
    sysroot.ok(&["db", "diff"]).says(&["kit-a-1.0.amd64"]);
    sysroot.ok(&["db", "diff", "--base", &old, &new]).never_says(&["kit-a"]);
    let versions = sysroot.ok(&["db", "version", &old, &new]).stdout;
    let count = dpkg_list(&sysroot.deployment(0).join("usr/lib/sysimage/dpkg")).len();
    assert!(versions.contains(&format!(" {count}:")), "{count}\n{versions}");
    // Of any repository, without a sysroot.
    let output = run(Command::new(crate::bases::PROGRAM)
        .args(["db", "diff", "--repo"])
        .arg(base().repo())
        .args([&base().v1, &base().v2]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("kit-base 1.0 -> 2.0"));
    sysroot.refuses(&["db", "list", "nosuch"]).says(&["nosuch"]);
    sysroot.refuses(&["db", "diff", "--format=xml"]).says(&["Format argument is invalid"]);
    world.done();
}

#[test]
fn indexes_are_fetched_when_asked_for() {
    let mut world = World::new();
    let http = HttpServer::start(world.archive.dir());
    world.publish(&[small("kit-a", "1.0")]);
    world.sysroot.set_sources(&world.archive.sources_at(&http.url(), "stable"));
    world.sysroot.unchanged(0, &["refresh-md"]);
    assert!(http.count("InRelease") == 1 && http.count("Packages") > 0, "{:?}", http.requests());
    http.clear();
    world.sysroot.unchanged(0, &["install", "--dry-run", "kit-a"]).says(&["kit-a-1.0"]);
    assert_eq!(http.requests(), Vec::<String>::new(), "indexes that are here are used");
    world.publish(&[small("kit-a", "2.0")]);
    world.sysroot.unchanged(0, &["install", "--dry-run", "kit-a"]).says(&["kit-a-1.0"]);
    world.sysroot.unchanged(0, &["refresh-md"]);
    world.sysroot.unchanged(0, &["install", "--dry-run", "kit-a"]).says(&["kit-a-2.0"]);
    http.clear();
    world.sysroot.unchanged(0, &["refresh-md", "--force"]);
    assert!(http.count("Packages") > 0, "{:?}", http.requests());
    world.done();
}

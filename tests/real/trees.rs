//! `deploy`, `rebase`, `rollback`, `cleanup`, `kargs`.

use std::fs;

use crate::bases::{BRANCH, base};
use crate::world::{World, small};

#[test]
fn deploy_takes_revisions_in_every_form() {
    let (mut world, server) = World::following();
    world.publish(&[small("kit-a", "1.0")]);
    server.set(BRANCH, &base().v2);
    let sysroot = &world.sysroot;
    sysroot.unchanged(0, &["deploy", "--preview", "13.1"]).says(&["=kit-base", "+kit-new"]);
    sysroot.ok(&["deploy", "13.1"]).says(&["kit-base 1.0 -> 2.0"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    sysroot.ok(&["deploy", "version=13"]).says(&["kit-base 2.0 -> 1.0"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    sysroot.unchanged(77, &["deploy", "--unchanged-exit-77", "version=13"]);
    sysroot.ok(&["deploy", &base().v2]);
    sysroot.ok(&["deploy", &format!("revision={}", base().v1), "--install", "kit-a"]);
    assert_eq!(sysroot.field(0, "base-checksum"), base().v1);
    assert_eq!(world.installed(0, "kit-a").as_deref(), Some("1.0"));
    let origin = fs::read_to_string(sysroot.origin(0)).expect("an origin");
    assert!(origin.contains(&format!("override-commit={}", base().v1)), "{origin}");
    sysroot.ok(&["deploy", "13.1", "--uninstall", "kit-a"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    sysroot.refuses(&["deploy", "--disallow-downgrade", "13"]).says(&["chronologically older"]);
    sysroot.refuses(&["deploy", "12.7"]).says(&["Version 12.7 not found in kit:kit/debian"]);
    let unknown = "0123456789abcdef".repeat(4);
    sysroot.refuses(&["deploy", &unknown]).says(&["not found in kit:kit/debian"]);
    sysroot.refuses(&["deploy", "revision=12"]).says(&["Invalid commit checksum '12'"]);
    sysroot.refuses(&["deploy"]).says(&["REVISION must be specified"]);
    world.done();
}

#[test]
fn a_commit_of_another_branch_needs_a_word() {
    let (world, server) = World::following();
    // The branch is at v1 and does not know v2, which is on another one.
    server.set("kit/other", &base().v2);
    let sysroot = &world.sysroot;
    sysroot.refuses(&["deploy", &base().v2]).says(&["--skip-branch-check"]);
    sysroot.ok(&["deploy", "--skip-branch-check", &base().v2]);
    assert_eq!(sysroot.field(0, "checksum"), base().v2);
    world.done();
}

#[test]
fn rebase_to_branches_remotes_repositories_and_commits() {
    let (mut world, server) = World::following();
    world.publish(&[small("kit-a", "1.0")]);
    server.set("kit/other", &base().v2);
    let second = world.server("second");
    second.set(BRANCH, &base().v2);
    world.add_remote("second", &second.url());
    let sysroot = &world.sysroot;
    let origin = || sysroot.field(0, "origin");
    sysroot.ok(&["install", "kit-a"]);
    sysroot.refuses(&["rebase", &format!("kit:{BRANCH}")]).says(&["Old and new refs are equal: kit:kit/debian"]);
    // A branch of the same remote; the request comes along.
    sysroot.ok(&["rebase", "kit/other"]);
    assert_eq!((origin().as_str(), sysroot.field(0, "base-checksum")), ("kit:kit/other", base().v2.clone()));
    assert_eq!(world.installed(0, "kit-a").as_deref(), Some("1.0"));
    sysroot.ok(&["rebase", "--branch", BRANCH]);
    assert_eq!(origin(), "kit:kit/debian");
    sysroot.ok(&["rebase", "--remote", "second"]);
    assert_eq!((origin().as_str(), sysroot.field(0, "base-checksum")), ("second:kit/debian", base().v2.clone()));
    sysroot.ok(&["rebase", "kit:"]);
    assert_eq!(origin(), "kit:kit/debian");
    sysroot.ok(&["rebase", "second:kit/debian", "version=13", "--uninstall", "kit-a"]);
    assert_eq!((origin().as_str(), sysroot.field(0, "checksum")), ("second:kit/debian", base().v1.clone()));
    // A repository on this machine: its branch becomes a local one.
    sysroot.ok(&["rebase", &format!("{}:kit/other", server.dir().display())]);
    assert_eq!((origin().as_str(), sysroot.field(0, "checksum")), ("kit/other", base().v2.clone()));
    sysroot.ok(&["rebase", &base().v1]);
    assert_eq!((origin(), sysroot.field(0, "checksum")), (base().v1.clone(), base().v1.clone()));
    // The refs that nothing follows any more are gone.
    let refs = sysroot.ostree(&["refs"]);
    assert!(!refs.lines().any(|r| r == "second:kit/debian"), "{refs}");
    for bad in ["nosuch:kit/debian", "kit:kit/nosuch", "kit/nosuch", "/nonexistent:kit/debian", &"0".repeat(64)] {
        sysroot.refuses(&["rebase", bad]);
    }
    sysroot.refuses(&["rebase", "nosuch:kit/debian"]).says(&["No such remote 'nosuch'", "ostree remote add nosuch"]);
    sysroot.refuses(&["rebase", "ostree-unverified-registry:quay.io/x"]).says(&["Container images are not available"]);
    world.done();
}

#[test]
fn rollback_twice_is_back() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot.refuses(&["rollback"]).says(&["No rollback deployment found"]);
    sysroot.ok(&["install", "kit-a"]);
    let order = sysroot.checksums();
    sysroot.ok(&["rollback"]).says(&["Moving '", "to be first deployment", "Removed:\n  kit-a-1.0.amd64"]);
    assert_eq!(sysroot.checksums(), [order[1].as_str(), order[0].as_str()]);
    // The boot loader's entry with the highest number is what boots.
    assert!(default_entry(&world).contains("ostree=/ostree/boot."));
    sysroot.ok(&["rollback"]).says(&["Added:\n  kit-a-1.0.amd64"]);
    assert_eq!(sysroot.checksums(), order);
    world.done();
}

fn default_entry(world: &World) -> String {
    let entries = world.sysroot.dir().join("boot/loader/entries");
    let mut names: Vec<_> = fs::read_dir(entries).expect("boot entries").flatten().map(|e| e.path()).collect();
    names.sort();
    fs::read_to_string(names.last().expect("an entry")).expect("a readable entry")
}

#[test]
fn cleanup_drops_what_is_named_and_nothing_pinned() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot.ok(&["install", "kit-a"]);
    sysroot.ok(&["install", "kit-b"]);
    let order = sysroot.checksums();
    sysroot.unchanged(1, &["cleanup"]).says(&["At least one cleanup option must be specified"]);
    sysroot.unchanged(0, &["cleanup", "-b"]);
    sysroot.unchanged(0, &["cleanup", "-p"]).says(&["Deployments unchanged."]);
    assert!(sysroot.repo().join("extensions/apt-ostree/apt/lists").is_dir());
    sysroot.unchanged(0, &["cleanup", "-m"]);
    let apt = sysroot.repo().join("extensions/apt-ostree/apt");
    for name in ["lists", "cache", "archives"] {
        assert!(!apt.join(name).exists(), "{name}");
    }
    // A package list is fetched again when there is none.
    sysroot.ok(&["install", "--dry-run", "--uninstall", "kit-a", "kit-a=1.0"]);
    let index = order.len() - 1;
    sysroot.admin(&["pin", &index.to_string()]);
    sysroot.ok(&["cleanup", "-r"]);
    let left = sysroot.checksums();
    assert_eq!(left.first(), order.first());
    assert_eq!(left.get(1), order.last(), "the pinned one stays");
    assert_eq!(left.len(), 2);
    sysroot.ok(&["status"]).says(&["Pinned: yes"]);
    sysroot.unchanged(0, &["cleanup", "-r"]).says(&["Deployments unchanged."]);
    sysroot.admin(&["pin", "--unpin", "1"]);
    sysroot.ok(&["cleanup", "-r"]).says(&["Freed: "]);
    assert_eq!(sysroot.checksums(), [order[0].as_str()]);
    // The base of what is left is still here: uninstalling needs it.
    sysroot.ok(&["uninstall", "--all"]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    world.done();
}

#[test]
fn kernel_arguments() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    let line = || sysroot.ok(&["kargs"]).stdout.trim().to_owned();
    assert_eq!(line(), "quiet root=UUID=1");
    let commit = sysroot.field(0, "checksum");
    sysroot.ok(&["kargs", "--append=console=tty0", "--append=console=ttyS0"]);
    assert_eq!(line(), "quiet root=UUID=1 console=tty0 console=ttyS0");
    assert_eq!(sysroot.field(0, "checksum"), commit, "the tree is the same");
    assert!(default_entry(&world).contains("quiet root=UUID=1 console=tty0 console=ttyS0 ostree="));
    sysroot.unchanged(77, &["kargs", "--unchanged-exit-77", "--append-if-missing=console=tty0"]).says(&["No changes."]);
    sysroot.ok(&["kargs", "--append-if-missing=console=tty1", "--delete-if-present=nothing", "--delete=console=ttyS0"]);
    assert_eq!(line(), "quiet root=UUID=1 console=tty0 console=tty1");
    sysroot.ok(&["kargs", "--replace=root=UUID=2", "--replace=console=tty1=tty2"]);
    assert_eq!(line(), "quiet root=UUID=2 console=tty0 console=tty2");
    sysroot.ok(&["kargs", "--delete-if-present=quiet"]);
    sysroot.refuses(&["kargs", "--delete=quiet"]);
    sysroot.refuses(&["kargs", "--replace=console=tty9"]);
    sysroot.refuses(&["kargs", "--append=ostree=/x"]).says(&["managed by OSTree"]);
    sysroot.refuses(&["kargs", "--deploy-index=7"]).says(&["Out of range deployment index 7"]);
    // They stay through changes of the tree.
    sysroot.ok(&["install", "kit-a"]);
    assert_eq!(line(), "root=UUID=2 console=tty0 console=tty2");
    let mut edit = sysroot.command(&["kargs", "--editor"]);
    edit.env("EDITOR", "sed -i s/tty0/tty5/").env_remove("VISUAL");
    assert!(edit.output().expect("the program starts").status.success());
    assert_eq!(line(), "root=UUID=2 console=tty5 console=tty2");
    world.done();
}

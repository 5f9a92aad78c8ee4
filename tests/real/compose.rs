//! `compose tree`: what the bases of all tests are, and what the command says of bad treefiles.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::{Outcome, dpkg_list};

use crate::bases::{BRANCH, FOREIGN, PROGRAM, base, compose};
use crate::world::World;

fn ostree(args: &[&str]) -> String {
    let repo = format!("--repo={}", base().repo().display());
    let output = run(Command::new("ostree").arg(args[0]).arg(repo).args(&args[1..]));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_commits_have_what_they_say() {
    let base = base();
    base.again
        .lines()
        .find(|l| l.starts_with("No apparent changes since previous commit"))
        .expect("nothing had changed");
    assert_eq!(ostree(&["rev-parse", &format!("{}^", base.v2)]).trim(), base.v1, "the history of the branch");
    assert_eq!(ostree(&["rev-parse", BRANCH]).trim(), base.v2);
    for (commit, version) in [(&base.v1, "13"), (&base.v2, "13.1")] {
        assert!(ostree(&["show", "--print-metadata-key=version", commit]).contains(&format!("'{version}'")));
        assert!(ostree(&["cat", commit, "/usr/lib/os-release"]).contains(version));
        // libostree deploys /usr/etc, an empty /var and the one kernel in /usr/lib/modules.
        for (path, lines) in [("/boot", 1), ("/var", 1)] {
            let listed = ostree(&["ls", commit, path]);
            assert_eq!(listed.lines().count(), lines, "{listed}");
        }
        let kernels = ostree(&["ls", "-R", commit, "/usr/lib/modules"]);
        assert_eq!(kernels.lines().filter(|l| l.ends_with("/vmlinuz")).count(), 1);
        assert_eq!(kernels.lines().filter(|l| l.ends_with("/initramfs.img")).count(), 1);
        let listed = ostree(&["ls", commit, "/"]);
        assert!(!listed.lines().any(|l| l.ends_with(" /etc")), "{listed}");
    }
    // An account keeps its number from one version to the next, whatever happens around it.
    let lock = |commit: &str| ostree(&["cat", commit, "/usr/lib/apt-ostree/ids.lock"]);
    let number = |text: &str| text.lines().find(|l| l.starts_with("user:kit-daemon:")).map(str::to_owned);
    assert!(number(&lock(&base.v1)).is_some());
    assert_eq!(number(&lock(&base.v1)), number(&lock(&base.v2)));
}

/// dpkg finds nothing to complain about, and the package list of the commit is the one dpkg has.
#[test]
fn dpkg_agrees_with_the_commit() {
    let world = World::at(&base().v2);
    let root = world.sysroot.deployment(0);
    assert!(!root.join("usr/sbin/policy-rc.d").exists(), "a mount point of the sandbox is left in the tree");
    let admindir = root.join("usr/lib/sysimage/dpkg");
    let audit = run(Command::new("dpkg").arg(format!("--admindir={}", admindir.display())).arg("--audit"));
    assert_eq!(String::from_utf8_lossy(&audit.stdout), "");
    let mut ours: Vec<String> =
        world.sysroot.ok(&["db", "list", &base().v2]).stdout.lines().skip(1).map(|l| l.trim().to_owned()).collect();
    let mut theirs: Vec<String> = dpkg_list(&admindir)
        .iter()
        .map(|(name, version)| {
            let (name, arch) = name.split_once(':').expect("name:arch");
            format!("{name}-{version}.{arch}")
        })
        .collect();
    theirs.sort();
    ours.sort();
    assert_eq!(ours, theirs);
    assert_eq!(world.read(0, "usr/lib/sysimage/dpkg/arch").lines().collect::<Vec<_>>(), ["amd64", FOREIGN]);
    // Files of packages have the digest that the package says (changed conffiles apart).
    let verify = Command::new("dpkg")
        .arg(format!("--root={}", root.display()))
        .arg(format!("--admindir={}", admindir.display()))
        .args(["--verify", "kit-base", "kit-daemon", "coreutils", "libc6:amd64", "systemd", "apt"])
        .output()
        .expect("dpkg starts");
    let wrong: Vec<String> = String::from_utf8_lossy(&verify.stdout)
        .lines()
        .filter(|l| !l.contains(" c /etc/") && !l.contains("missing     /var/") && !l.contains("missing     /boot"))
        .map(str::to_owned)
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    world.done();
}

/// Writes treefiles and composes them into a repository of their own, without the network.
struct Bench<'a>(&'a Path);

impl Bench<'_> {
    fn tree(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("own directory");
        path
    }

    fn compose(&self, treefile: &Path, options: &[&str]) -> Outcome {
        let outcome = compose(&self.0.join("repo"), treefile, options);
        assert!(!self.0.join("repo/refs/heads/kit").exists(), "{}", outcome.text());
        outcome
    }
}

#[test]
fn bad_treefiles() {
    let world = World::empty();
    let bench = Bench(&world.dir);
    let refuses = |name: &str, text: &str, says: &[&str]| {
        let outcome = bench.compose(&bench.tree(name, text), &["--cache-only"]).exits(1).says(says);
        assert!(outcome.stderr.contains("error: "), "{}", outcome.text());
    };
    refuses("key.yaml", "ref: kit/x\npackges: [apt]\n", &["key.yaml", "packges", "packages", "2"]);
    refuses("type.yaml", "ref: kit/x\npackages: apt\n", &["type.yaml", "packages", "list"]);
    refuses("syntax.yaml", "ref: [kit\n", &["syntax.yaml"]);
    refuses("binary.yaml", "\u{0}\u{1}garbage: \u{7f}", &["binary.yaml"]);
    refuses("empty.yaml", "", &["empty.yaml"]);
    refuses("include.yaml", "ref: kit/x\ninclude: nosuch.yaml\n", &["nosuch.yaml", "include.yaml"]);
    bench.tree("other.yaml", "include: cycle.yaml\n");
    refuses("cycle.yaml", "ref: kit/x\ninclude: other.yaml\n", &["cycle.yaml", "other.yaml"]);
    refuses("noref.yaml", "releasever: trixie\npackages: [apt]\n", &["ref"]);
    refuses("nosource.yaml", "ref: kit/x\npackages: [apt]\n", &["repos", "releasever"]);
    bench.compose(&bench.0.join("absent.yaml"), &[]).exits(1).says(&["Opening the treefile", "absent.yaml"]);
    let outcome = Command::new(PROGRAM).args(["compose", "tree", "x.yaml"]).output().expect("the program starts");
    assert_eq!(outcome.status.code(), Some(1));
}

#[test]
fn what_cannot_be_composed() {
    let world = World::empty();
    let bench = Bench(&world.dir);
    let with = |name: &str, more: &str| {
        let include = base().treefile(2);
        bench.tree(name, &format!("include: {}\n{more}", include.display()))
    };
    let options = ["--cache-only"];
    // The indexes in the cache may be those of other sources: this one fetches them.
    bench
        .compose(&with("unknown.yaml", "packages: [openssh-servr]\n"), &[])
        .exits(1)
        .says(&["Packages not found: openssh-servr", "openssh-server"]);
    bench.compose(&with("conflict.yaml", "packages: [kit-base=1.0]\n"), &options).exits(1).says(&["kit-base"]);
    bench
        .compose(&with("excluded.yaml", "exclude-packages: [openssh-sftp-server]\n"), &options)
        .exits(1)
        .says(&["openssh-server : Depends: openssh-sftp-server"]);
    // The list and the size, and nothing else.
    let shown = bench.compose(&with("dry.yaml", ""), &["--cache-only", "--dry-run"]).exits(0);
    shown.says(&["  kit-new-1.0.amd64", "  systemd-", "Exiting because of '--dry-run' option"]);
    // The flattened treefile is a treefile that says the same.
    let printed = bench.compose(&with("print.yaml", "packages: [less]\n"), &["--print-only"]).exits(0).stdout;
    let again = bench.compose(&bench.tree("again.yaml", &printed), &["--print-only"]).exits(0).stdout;
    assert_eq!(again, printed);
}

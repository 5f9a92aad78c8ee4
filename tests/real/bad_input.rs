//! What cannot be done is refused with its reason, and leaves the system as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::http::HttpServer;
use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::{Outcome, Sysroot, wipe};

use crate::bases::{BRANCH, PROGRAM, base, compose};
use crate::world::{World, small};

#[test]
fn names_that_nothing_has() {
    let mut world = World::new();
    world.publish(&[small("kit-alpha", "1.0"), small("kit-good", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot
        .refuses(&["install", "kit-alhpa"])
        .says(&["Packages not found: kit-alhpa", "Instead of kit-alhpa, did you mean kit-alpha?"]);
    sysroot
        .refuses(&["install", "xyzzy-plugh", "kit-alpha"])
        .says(&["Packages not found: xyzzy-plugh", "hint: Check the spelling"])
        .never_says(&["did you mean"]);
    sysroot.refuses(&["install", "xyzzy", "plugh"]).says(&["xyzzy", "plugh"]);
    sysroot.refuses(&["install", "kit-alpha:riscv64"]).says(&["kit-alpha:riscv64"]);
    for bad in ["Kit_Alpha", "a", "kit alpha", "kit-alpha=", "-", "kit-alpha:", ""] {
        sysroot.refuses(&["install", "--", bad]);
    }
    sysroot.refuses(&["install", "Kit_Alpha"]).says(&["Kit_Alpha"]);
    sysroot.refuses(&["uninstall", "kit-base"]).says(&["'kit-base' is not currently requested"]);
    sysroot.refuses(&["deploy", "99.9"]).says(&["99.9"]);
    sysroot.refuses(&["deploy", "revision=xyz"]).says(&["Invalid commit checksum 'xyz'"]);
    sysroot.refuses(&["rebase", "nosuch:kit/debian"]).says(&["No such remote 'nosuch'"]);
    sysroot.refuses(&["rebase", "kit/nosuch"]).says(&["kit/nosuch"]);
    sysroot.refuses(&["rebase", "kit/../nosuch"]);
    sysroot.ok(&["install", "kit-good"]);
    world.done();
}

#[test]
fn a_sysroot_that_cannot_be_made_is_not_half_made() {
    let world = World::empty();
    let server = world.server("local");
    server.set(BRANCH, &base().v1);
    let pull = format!("--pull-local={}", server.dir().display());
    let remote = format!("--remote=kit={}", server.url());
    let sysroot = &world.sysroot;
    let refused = |args: &[&str]| {
        let outcome = sysroot.run(&[&["init-sysroot", "--stateroot=debian"], args].concat()).exits(1);
        assert!(outcome.stderr.starts_with("error: ") || outcome.stderr.contains("\nerror: "), "{}", outcome.text());
        assert!(!sysroot.dir().join("ostree").exists(), "{}", outcome.text());
        outcome
    };
    refused(&[&pull, "kit/nosuch"]).says(&["kit/nosuch"]);
    refused(&["--pull-local=/nonexistent", BRANCH]).says(&["/nonexistent"]);
    for nothing in [BRANCH, "nosuch:kit/debian"] {
        refused(&[nothing]).says(&["One of --remote and --pull-local must be specified"]);
    }
    refused(&[&remote, BRANCH]).says(&["names no remote"]);
    refused(&[&remote, "nosuch:kit/debian"]).says(&["nosuch"]);
    refused(&[&remote, "--no-gpg-verify", "kit:kit/nosuch"]).says(&["kit/nosuch"]);
    refused(&[&remote, "--gpg-import=/nonexistent.gpg", "kit:kit/debian"]).says(&["/nonexistent.gpg"]);
    sysroot.ok(&["init-sysroot", "--stateroot=debian", &pull, BRANCH]);
    assert_eq!(sysroot.field(0, "checksum"), base().v1);
    world.done();
}

#[test]
fn requests_that_cannot_be_met() {
    let mut world = World::new();
    world.publish(&[
        small("kit-needs", "1.0").depends("kit-lib (>= 2)"),
        small("kit-lib", "1.0"),
        small("kit-orphan", "1.0").depends("kit-absent"),
        small("kit-deep", "1.0").depends("kit-orphan"),
        small("kit-x", "1.0").conflicts("kit-y"),
        small("kit-y", "1.0"),
        small("kit-hates-base", "1.0").conflicts("kit-base"),
        small("kit-old", "1.0").depends("kit-base (<< 0.5)"),
    ]);
    let sysroot = &world.sysroot;
    let all: [(&[&str], &[&str]); 6] = [
        (&["kit-needs"], &["kit-needs", "kit-lib", ">= 2"]),
        (&["kit-orphan"], &["kit-orphan", "kit-absent"]),
        (&["kit-deep"], &["kit-deep", "kit-orphan", "kit-absent"]),
        (&["kit-x", "kit-y"], &["kit-x", "kit-y", "onflicts"]),
        (&["kit-hates-base"], &["kit-hates-base", "kit-base"]),
        (&["kit-old"], &["kit-old", "kit-base", "0.5"]),
    ];
    for (requests, words) in all {
        sysroot.refuses(&[&["install"], requests].concat()).says(words);
    }
    sysroot.ok(&["install", "kit-x"]);
    sysroot.refuses(&["install", "kit-y"]).says(&["kit-x", "kit-y"]);
    world.done();
}

/// The command below `To run it again:`, run by a shell.
fn run_again(outcome: &Outcome) -> Outcome {
    let mut lines = outcome.stderr.lines();
    lines.find(|l| l.trim() == "To run it again:").unwrap_or_else(|| panic!("no command: {}", outcome.text()));
    let line = lines.next().expect("the command").trim();
    assert!(line.starts_with("sh ") && line.ends_with("/reproduce.sh"), "{line}");
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    let output = command.output().expect("sh starts");
    Outcome::new(&command, &output)
}

#[test]
fn scripts_that_fail() {
    let fails = |status: u32| format!("#!/bin/sh\necho I am the reason {status}\nexit {status}\n");
    let mut world = World::new();
    world.publish(&[
        small("kit-good", "1.0"),
        small("kit-post", "1.0").script("postinst", &fails(7)),
        small("kit-pre", "1.0").script("preinst", &fails(8)),
        // The trigger of kit-base writes to this path.
        Deb::new("kit-trig", "1.0").dir("/usr/share/kit-triggered", 0o755).file(
            "/usr/share/kit-watched/x",
            0o644,
            "x\n",
        ),
    ]);
    let sysroot = &world.sysroot;
    let all: [(&str, &str, &[&str]); 3] = [
        ("kit-post", "I am the reason 7", &["postinst", "kit-post", "exit status 7"]),
        ("kit-pre", "I am the reason 8", &["preinst", "kit-pre", "exit status 8"]),
        ("kit-trig", "/usr/share/kit-triggered", &["trigger", "kit-base", "exit status 2"]),
    ];
    for (package, reason, words) in all {
        let outcome = sysroot.refuses(&["install", "kit-good", package]).says(words);
        let outcome =
            outcome.says(&[reason, "Last lines of output:", "note: no deployment was made", "The full log is"]);
        assert!(!sysroot.scratch().is_empty(), "{package}: nothing to run it again with");
        assert_eq!(sysroot.mounts(), Vec::<String>::new());
        // A mistyped command in between does not take it away.
        sysroot.refuses(&["install", "kit-nosuch"]);
        for _ in 0..2 {
            let again = run_again(&outcome);
            assert!(again.code != Some(0), "{package}: {}", again.text());
            again.says(&[reason]);
        }
        sysroot.fsck();
    }
    sysroot.ok(&["install", "kit-good"]);
    assert_eq!(sysroot.scratch(), Vec::<String>::new());
    world.done();
}

#[test]
fn packages_that_dpkg_refuses() {
    let mut world = World::new();
    world.publish(&[
        small("kit-a", "1.0"),
        Deb::new("kit-thief", "1.0").file("/usr/bin/kit-a", 0o755, "mine\n"),
        Deb::new("kit-base-thief", "1.0").file("/usr/bin/kit-base", 0o755, "mine\n"),
        Deb::new("linux-image-9.9.9-amd64", "9.9.9-1").file("/boot/vmlinuz-9.9.9-amd64", 0o644, "kernel\n"),
    ]);
    let sysroot = &world.sysroot;
    sysroot.refuses(&["install", "kit-a", "kit-thief"]).says(&["trying to overwrite", "/usr/bin/kit-a", "kit-thief"]);
    sysroot.refuses(&["install", "kit-base-thief"]).says(&["trying to overwrite", "/usr/bin/kit-base", "kit-base"]);
    sysroot.refuses(&["install", "linux-image-9.9.9-amd64"]).says(&[
        "linux-image-9.9.9-amd64",
        "is a kernel",
        "upgrade or rebase",
    ]);
    let file = |name: &str, content: &[u8]| {
        let path = world.dir.join(name);
        fs::write(&path, content).expect("own directory");
        path.to_string_lossy().into_owned()
    };
    let whole = fs::read(world.archive.debs("stable", "kit-a").first().expect("a package")).expect("own archive");
    sysroot.refuses(&["install", &file("empty.deb", b"")]).says(&["empty.deb is not a Debian package"]);
    sysroot.refuses(&["install", &file("text.deb", b"!<arch>\nno")]).says(&["text.deb is not a Debian package"]);
    sysroot.refuses(&["install", &file("cut.deb", &whole[..whole.len() - 40])]).says(&["cut.deb is damaged"]);
    sysroot.refuses(&["install", &world.dir.join("missing.deb").to_string_lossy()]).says(&["missing.deb"]);
    let folder = world.dir.join("folder.deb");
    fs::create_dir(&folder).expect("own directory");
    sysroot.refuses(&["install", &folder.to_string_lossy()]).says(&["folder.deb"]);
    sysroot.ok(&["install", "kit-a"]);
    world.done();
}

#[test]
fn archives_that_nobody_vouches_for() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    let sysroot = &world.sysroot;
    world.archive.break_signature("stable");
    sysroot.refuses(&["install", "kit-a"]).says(&["stable", "ignature", "Signed-By"]);
    world.archive.publish();
    world.archive.sign_with_stranger("stable");
    sysroot.refuses(&["install", "kit-a"]).says(&["stable", "ignature", "Signed-By"]);
    world.archive.publish();
    sysroot.ok(&["install", "kit-a"]);
    // What was verified before stays in use.
    world.archive.sign_with_stranger("stable");
    sysroot.refuses(&["upgrade"]).says(&["ignature"]);
    world.archive.tamper("stable", "kit-b");
    sysroot.refuses(&["install", "kit-b"]).says(&["kit-b", "The archive delivers a wrong"]);
    world.publish(&[small("kit-b", "1.0")]);
    world.sysroot.ok(&["install", "kit-b"]);
    world.done();
}

#[test]
fn servers_that_are_gone() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    let sysroot = &world.sysroot;
    sysroot.refuses(&["install", "--cache-only", "kit-a"]).says(&["kit-a"]);
    let http = HttpServer::start(world.archive.dir());
    http.die();
    sysroot.set_sources(&world.archive.sources_at(&http.url(), "stable"));
    sysroot.refuses(&["install", "kit-a"]).says(&[&http.url(), "stable", "network"]);
    sysroot.refuses(&["refresh-md"]).says(&["network"]);
    // It dies between indexes and packages.
    let http = HttpServer::start(world.archive.dir());
    sysroot.set_sources(&world.archive.sources_at(&http.url(), "stable"));
    sysroot.ok(&["refresh-md"]);
    http.die_after(0);
    sysroot.refuses(&["install", "kit-a"]).says(&["kit-a", "hint: Check the network"]);
    // A package is away although the index has it.
    let http = HttpServer::start(world.archive.dir());
    sysroot.set_sources(&world.archive.sources_at(&http.url(), "stable"));
    sysroot.ok(&["refresh-md"]);
    let deb = world.archive.debs("stable", "kit-b").remove(0);
    let aside = world.dir.join("aside.deb");
    fs::rename(&deb, &aside).expect("own archive");
    sysroot.refuses(&["install", "kit-b"]).says(&["kit-b", "404"]);
    fs::rename(&aside, &deb).expect("own archive");
    sysroot.ok(&["install", "kit-a", "kit-b"]);
    world.done();
}

/// An ext4 file system in a file, mounted for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(dir: &Path, size: &str) -> Self {
        let image = dir.join("disk.img");
        let mount = dir.join("disk");
        fs::create_dir(&mount).expect("own directory");
        run(Command::new("truncate").args(["-s", size]).arg(&image));
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount));
        Self(mount)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A panic is on its way, perhaps; the wipe of the next run says what is wrong.
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_disk_that_is_full() {
    let mut world = World::empty();
    world.publish(&[
        small("kit-a", "1.0"),
        small("kit-large", "1.0").field("Installed-Size", "5000000"),
        // Says nothing of what it will write.
        small("kit-liar", "1.0")
            .script("postinst", "#!/bin/sh\nset -e\ndd if=/dev/zero of=/usr/share/kit-zero bs=1M count=4000\n"),
    ]);
    let http = HttpServer::start(world.archive.dir());
    let disk = Disk::mount(&world.dir, "1200M");
    let sysroot = Sysroot::new(Path::new(PROGRAM), &disk.0.join("sysroot"));
    let server = world.server("local");
    server.set(BRANCH, &base().v1);
    let pull = format!("--pull-local={}", server.dir().display());
    sysroot.ok(&["init-sysroot", "--stateroot=debian", &pull, BRANCH]);
    sysroot.set_sources(&world.archive.sources_at(&http.url(), "stable"));
    let outcome = sysroot.refuses(&["install", "kit-large"]);
    outcome.says(&["Not enough space on ", "5.2 GB needed", " MB free", "Nothing was downloaded or changed"]);
    assert_eq!(http.count(".deb"), 0, "{:?}", http.requests());
    let before = sysroot.state();
    sysroot.refuses(&["install", "kit-liar"]).says(&["kit-liar", "No space left on device"]);
    sysroot.assert_unchanged(&before, "after a disk that filled up");
    sysroot.ok(&["install", "kit-a"]);
    assert_eq!(sysroot.scratch(), Vec::<String>::new());
    sysroot.fsck();
    drop(sysroot);
    drop(disk);
    let dir = world.dir.clone();
    drop(world);
    wipe(&dir);
}

#[test]
fn sysroots_that_are_none() {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0")]);
    let empty = world.dir.join("empty");
    let file = world.dir.join("file");
    fs::create_dir(&empty).expect("own directory");
    fs::write(&file, "x").expect("own directory");
    for path in [&empty, &file, &world.dir.join("missing")] {
        let other = Sysroot::new(Path::new(PROGRAM), path);
        for args in [&["status"][..], &["install", "kit-a"], &["upgrade"], &["kargs"], &["rollback"]] {
            let outcome = other.run(args).exits(1);
            outcome.says(&["error: ", &path.to_string_lossy()]);
        }
        std::mem::forget(other);
    }
    assert_eq!(fs::read_dir(&empty).expect("own directory").count(), 0);
    // Origins that nobody wrote like that.
    let sysroot = &world.sysroot;
    let origin = sysroot.origin(0);
    let good = fs::read_to_string(&origin).expect("an origin");
    for (text, words) in [
        ("garbage\u{1}\n[[[\n".to_owned(), &[][..]),
        ("[origin]\n".to_owned(), &[][..]),
        (format!("{good}\n[packages]\nrequested=Bad Name!;\n"), &["Bad Name!"][..]),
        (format!("{good}\n[packages]\nrequested-local=nonsense;\n"), &["nonsense"][..]),
    ] {
        fs::write(&origin, &text).expect("own sysroot");
        let outcome = sysroot.run(&["install", "kit-a"]).exits(1).says(words);
        assert!(outcome.stderr.contains("error: "), "{}", outcome.text());
        assert!(!outcome.text().contains("Internal error"), "{}", outcome.text());
        let status = sysroot.run(&["status"]);
        assert!(!status.text().contains("panicked"), "{}", status.text());
        assert_eq!(fs::read_to_string(&origin).expect("an origin"), text);
    }
    fs::write(&origin, good).expect("own sysroot");
    sysroot.ok(&["install", "kit-a"]);
    world.done();
}

#[test]
fn treefiles_that_make_no_tree() {
    let world = World::empty();
    let repo = world.dir.join("repo");
    run(Command::new("ostree").args(["init", "--mode=bare"]).arg(format!("--repo={}", repo.display())));
    let file = |name: &str, text: &str| {
        let path = world.dir.join(name);
        fs::write(&path, text).expect("own directory");
        path
    };
    file("a.yaml", "ref: a\ninclude: b.yaml\n");
    file("b.yaml", "include: a.yaml\n");
    for (text, words) in [
        ("ref: a\npacakges: [b]\n", &["t.yaml:2", "unknown key 'pacakges'", "Did you mean 'packages'?"][..]),
        ("ref: a\nunits: 3\n", &["t.yaml:2", "units", "expected a list", "the number 3"][..]),
        ("ref: a\nrecommends: yes please\n", &["t.yaml:2", "recommends", "true or false"][..]),
        ("ref: a\ninclude: a.yaml\n", &["include cycle", "a.yaml", "b.yaml"][..]),
        ("ref: a\ninclude: nosuch.yaml\n", &["t.yaml:2", "include", "nosuch.yaml"][..]),
        ("ref: [\n", &["t.yaml"][..]),
        ("\u{0}\u{1}", &["t.yaml"][..]),
        ("", &["t.yaml"][..]),
        ("- a\n", &["t.yaml:1", "a map of keys"][..]),
        ("ref: a\npackages: ['Bad_Name']\n", &["t.yaml", "Bad_Name"][..]),
        ("packages: [bash]\n", &["ref"][..]),
    ] {
        let outcome = compose(&repo, &file("t.yaml", text), &[]).exits(1).says(words);
        assert!(outcome.stderr.contains("error: "), "{text}: {}", outcome.text());
        assert!(!outcome.text().contains("Internal error"), "{text}: {}", outcome.text());
    }
    compose(&repo, &world.dir.join("nosuch.yaml"), &[]).exits(1).says(&["nosuch.yaml"]);
    let refs = run(Command::new("ostree").arg("refs").arg(format!("--repo={}", repo.display())));
    assert!(refs.stdout.is_empty());
    let dir = world.dir.clone();
    drop(world);
    wipe(&dir);
}

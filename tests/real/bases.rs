//! The composed commits that every test starts from.
//!
//! In `$APT_OSTREE_CACHE/test/`: `cache/` (packages and indexes that composing fetched) and `clients/`, kept for ever; in `runs/TREE/` per
//! source tree: `base/` (the composed commits; made anew when the program, an example or this file is another one, unless
//! `APT_OSTREE_KEEP_BASES` is set while working on something that composes nothing), `work/` (one directory per test,
//! emptied by the next run), `lock`.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use apt_ostree_testkit::archive::Archive;
use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::{Outcome, wipe};
use serde_json::json;

/// The binary under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_apt-ostree");
/// The branch that machines follow.
pub(crate) const BRANCH: &str = "kit/debian";
/// The second architecture of the bases. Not i386: it is on its way out of Debian, and mirrors leave it out.
pub(crate) const FOREIGN: &str = "arm64";
pub(crate) const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The composed commits.
#[derive(Debug)]
pub(crate) struct Base {
    dir: PathBuf,
    /// Version 13: kit-base 1.0 and kit-dropped.
    pub(crate) v1: String,
    /// Version 13.1, child of v1: kit-base 2.0, kit-new, no kit-dropped.
    pub(crate) v2: String,
    /// A child of v2 that nobody signed.
    pub(crate) unsigned: String,
    /// A child of v2 that a stranger signed.
    pub(crate) stranger: String,
    /// What composing again without a change said.
    pub(crate) again: String,
}

impl Base {
    /// The `bare` repository with every commit.
    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.join("repo")
    }

    /// The key that v1 and v2 are signed with.
    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join("ostree.gpg")
    }

    pub(crate) fn treefile(&self, version: u32) -> PathBuf {
        self.dir.join(format!("v{version}.json"))
    }
}

/// What runs of every source tree share: `cache/`, and one directory per source tree.
fn shared() -> PathBuf {
    let cache =
        std::env::var_os("APT_OSTREE_CACHE").expect("run with scripts/devroot run, which sets APT_OSTREE_CACHE");
    PathBuf::from(cache).join("test")
}

/// The directory of this source tree's runs.
pub(crate) fn directory() -> PathBuf {
    let tree = fs::canonicalize(TREE).expect("the source tree");
    let name = tree.to_string_lossy().trim_start_matches('/').replace('/', "-");
    shared().join("runs").join(name)
}

/// Programs that are not Debian's, fetched once by `tests/clients/fetch`.
pub(crate) fn clients() -> PathBuf {
    shared().join("clients")
}

/// An exclusive lock on a file, until it is closed.
fn lock(path: &Path) -> fs::File {
    fs::create_dir_all(path.parent().expect("a directory")).expect("a writable cache");
    let file = fs::File::create(path).expect("a writable cache");
    rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    file
}

/// One run of a source tree at a time; the lock goes with the process.
pub(crate) fn lock_runs() {
    static LOCK: OnceLock<fs::File> = OnceLock::new();
    LOCK.get_or_init(|| {
        let file = lock(&directory().join("lock"));
        wipe(&directory().join("work"));
        file
    });
}

/// The bases, composed when this is the first test that asks.
pub(crate) fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    static ONE: Mutex<()> = Mutex::new(());
    lock_runs();
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    BASE.get_or_init(|| {
        let dir = directory().join("base");
        let key = key();
        let stamp = dir.join("stamp");
        let kept = std::env::var_os("APT_OSTREE_KEEP_BASES").is_some() && stamp.exists();
        if !kept && fs::read_to_string(&stamp).ok().as_deref() != Some(key.as_str()) {
            wipe(&dir);
            let _one = lock(&shared().join("cache.lock"));
            compose_bases(&dir);
            fs::write(&stamp, key).expect("a writable cache");
        }
        let read = |name: &str| fs::read_to_string(dir.join(name)).expect("a whole fixture").trim().to_owned();
        Base {
            v1: read("v1"),
            v2: read("v2"),
            unsigned: read("unsigned"),
            stranger: read("stranger"),
            again: read("again"),
            dir: dir.clone(),
        }
    })
}

/// What the bases are made by and of.
fn key() -> String {
    let mut command = Command::new("sha256sum");
    command.arg(PROGRAM).arg(format!("{TREE}/tests/real/bases.rs"));
    let examples = format!("{TREE}/examples");
    let mut rest = vec![PathBuf::from(examples)];
    let mut files = Vec::new();
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).expect("the examples").flatten() {
            if entry.path().is_dir() { rest.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    String::from_utf8_lossy(&run(command.args(files)).stdout).into_owned()
}

/// A daemon with a user of its own, a state directory and a set-gid program, as a base has them.
pub(crate) fn daemon(name: &str, version: &str) -> Deb {
    Deb::new(name, version)
        .depends("adduser")
        .file(&format!("/usr/bin/{name}"), 0o755, "#!/bin/sh\necho daemon\n")
        .conffile(&format!("/etc/{name}.conf"), format!("version={version}\n"))
        .dir(&format!("/var/lib/{name}"), 0o755)
        .script(
            "postinst",
            &format!(
                "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then\n  adduser --system --group --quiet --no-create-home --home /var/lib/{name} {name}\n  \
                 chown {name}:{name} /var/lib/{name}\n  chgrp {name} /usr/bin/{name}\n  chmod 2755 /usr/bin/{name}\nfi\n"
            ),
        )
}

fn compose_bases(dir: &Path) {
    fs::create_dir_all(dir).expect("a writable cache");
    let mut archive = Archive::new(&dir.join("archive")).arches(&["amd64", FOREIGN]);
    for (suite, version) in [("v1", "1.0"), ("v2", "2.0")] {
        let base = Deb::new("kit-base", version)
            .file("/usr/bin/kit-base", 0o755, format!("#!/bin/sh\necho {version}\n"))
            .script("triggers", "interest-noawait /usr/share/kit-watched\n")
            .script("postinst", "#!/bin/sh\n[ \"$1\" != triggered ] || echo \"$2\" >> /usr/share/kit-triggered\n");
        archive.add(suite, &base);
        archive.add(suite, &daemon("kit-daemon", version));
    }
    archive.add("v1", &Deb::new("kit-dropped", "1.0").file("/usr/share/kit/dropped", 0o644, "x\n"));
    archive.add("v2", &Deb::new("kit-new", "1.0").file("/usr/share/kit/new", 0o644, "x\n"));
    archive.publish();
    let repo = dir.join("repo");
    run(Command::new("ostree").args(["init", "--mode=bare"]).arg(format!("--repo={}", repo.display())));
    let only = [("v1", "kit-dropped"), ("v2", "kit-new")];
    for (suite, package) in only {
        let treefile = dir.join(format!("{suite}.json"));
        write_treefile(&treefile, &archive, suite, &["kit-base", "kit-daemon", package]);
        compose(&repo, &treefile, &[]).exits(0).says(&[&format!("{BRANCH} => ")]);
        fs::write(dir.join(suite), head(&repo, BRANCH)).expect("a writable cache");
    }
    let again = compose(&repo, &dir.join("v2.json"), &["--cache-only"]).exits(0);
    fs::write(dir.join("again"), again.text()).expect("a writable cache");
    let (v1, v2) = (head(&repo, &format!("{BRANCH}^")), head(&repo, BRANCH));

    let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").expect("a temporary directory");
    let good = new_key(home.path(), "good");
    let stranger = new_key(home.path(), "stranger");
    run(gpg(home.path()).args(["--export", "--output"]).arg(dir.join("ostree.gpg")).arg("good"));
    sign(&repo, home.path(), &v1, &good);
    sign(&repo, home.path(), &v2, &good);
    for name in ["unsigned", "stranger"] {
        let commit = child_commit(&repo, &v2, name);
        if name == "stranger" {
            sign(&repo, home.path(), &commit, &stranger);
        }
        fs::write(dir.join(name), commit).expect("a writable cache");
    }
    let _ = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", home.path()).output();
}

/// A treefile that adds packages of a suite to the minimal example.
fn write_treefile(path: &Path, archive: &Archive, suite: &str, packages: &[&str]) {
    let example = format!("{TREE}/examples/debian-13-minimal.yaml");
    let debian =
        apt_ostree_core::compose::input::host_sources(Path::new("/"), "trixie").expect("sources of this machine");
    let mut repos: Vec<String> = debian.iter().map(ToString::to_string).collect();
    repos.push(archive.sources(suite));
    let treefile = json!({
        "include": fs::canonicalize(example).expect("the example"),
        "ref": BRANCH,
        "repos": repos,
        "foreign-architectures": [FOREIGN],
        "packages": packages,
    });
    fs::write(path, treefile.to_string()).expect("a writable cache");
}

/// `compose tree` with the cache that every run shares.
pub(crate) fn compose(repo: &Path, treefile: &Path, options: &[&str]) -> Outcome {
    let mut command = Command::new(PROGRAM);
    command.args(["compose", "tree"]).arg(format!("--repo={}", repo.display()));
    command.arg(format!("--cachedir={}", shared().join("cache").display())).args(options).arg(treefile);
    command.env("LC_ALL", "C.UTF-8").env("NO_COLOR", "1");
    let output = command.output().expect("the program starts");
    Outcome::new(&command, &output)
}

fn head(repo: &Path, rev: &str) -> String {
    let output = run(Command::new("ostree").arg("rev-parse").arg(format!("--repo={}", repo.display())).arg(rev));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The tree of a commit again, one day newer, with its metadata.
fn child_commit(repo: &Path, parent: &str, name: &str) -> String {
    let output = run(Command::new("ostree")
        .arg("commit")
        .arg(format!("--repo={}", repo.display()))
        .arg(format!("--tree=ref={parent}"))
        .arg(format!("--parent={parent}"))
        .arg(format!("--branch=kit/{name}"))
        .arg(format!("--add-metadata-string=version={name}"))
        .arg("--no-bindings"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn gpg(home: &Path) -> Command {
    let mut command = Command::new("gpg");
    command.args(["--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]);
    command.env("GNUPGHOME", home);
    command
}

/// Makes a key and returns its fingerprint.
fn new_key(home: &Path, name: &str) -> String {
    run(gpg(home).args(["--quick-generate-key", name, "ed25519", "sign", "never"]));
    let output = run(gpg(home).args(["--with-colons", "--list-keys", name]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|l| l.starts_with("fpr:")).expect("a fingerprint");
    line.split(':').nth(9).expect("ten fields").to_owned()
}

fn sign(repo: &Path, home: &Path, commit: &str, key: &str) {
    run(Command::new("ostree")
        .arg("gpg-sign")
        .arg(format!("--repo={}", repo.display()))
        .arg(format!("--gpg-homedir={}", home.display()))
        .args([commit, key]));
}

/// The `archive` repository with v1 and v2, which HTTP clients need. Made by the first test that asks.
pub(crate) fn archive_repo() -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let base = base();
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = base.dir.join("archive-repo");
    if !target.exists() {
        let partial = base.dir.join("archive-repo.partial");
        wipe(&partial);
        let repo = format!("--repo={}", partial.display());
        run(Command::new("ostree").args(["init", "--mode=archive"]).arg(&repo));
        run(Command::new("ostree").args(["config", "set", "archive.zlib-level", "1"]).arg(&repo));
        run(Command::new("ostree").arg("pull-local").arg(&repo).arg(base.repo()).args([&base.v1, &base.v2]));
        fs::rename(&partial, &target).expect("a writable cache");
    }
    target
}

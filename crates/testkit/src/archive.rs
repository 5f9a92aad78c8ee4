//! A signed APT archive in a directory: several suites of small packages, and ways to break it.
//!
//! Layout: `dists/SUITE/{Release,Release.gpg,InRelease}`, `dists/SUITE/main/binary-ARCH/Packages`, `pool/SUITE/*.deb`,
//! `key.asc` and `key.gpg` (public key). Indexes are written by `apt-ftparchive`, signatures by `gpg` with a key that
//! is made for this archive in a private home directory and forgotten with it.
//!
//! ```no_run
//! use apt_ostree_testkit::{archive::Archive, deb::Deb};
//! let dir = tempfile::tempdir().unwrap();
//! let mut archive = Archive::new(dir.path());
//! archive.add("stable", &Deb::new("hello", "1.0"));
//! archive.publish();
//! let stanza = archive.sources("stable"); // a deb822 .sources stanza with Signed-By
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::deb::Deb;
use crate::run;

#[derive(Clone, Debug, Default)]
struct Suite {
    codename: Option<String>,
    /// Further fields of the Release file, e.g. `NotAutomatic: yes`.
    fields: Vec<(String, String)>,
}

/// An archive and its signing key.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    home: TempDir,
    arches: Vec<String>,
    origin: String,
    suites: BTreeMap<String, Suite>,
    /// Modification time of what was published last. HTTP and apt compare whole seconds: a later state must have a later one.
    clock: Cell<SystemTime>,
}

impl Archive {
    /// An archive for amd64 and i386 in `dir`, which is made world-readable: apt's methods run as user `_apt`.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("the archive's mode can be set");
        // In /tmp: the agent's socket lives in it, and its path must stay below 108 bytes.
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").expect("a temporary directory");
        let archive = Self {
            dir: dir.to_owned(),
            home,
            arches: vec!["amd64".into(), "i386".into()],
            origin: "Testkit".into(),
            suites: BTreeMap::new(),
            clock: Cell::new(SystemTime::now() - Duration::from_secs(3600)),
        };
        run(archive.gpg().args([
            "--quick-generate-key",
            "Test Archive <archive@example.org>",
            "ed25519",
            "sign",
            "never",
        ]));
        run(archive.gpg().args(["--export", "--output"]).arg(archive.key()));
        run(archive.gpg().args(["--armor", "--export", "--output"]).arg(archive.key_armored()));
        archive
    }

    /// `Architectures:` of the Release files; default amd64 and i386.
    #[must_use]
    pub fn arches(mut self, arches: &[&str]) -> Self {
        self.arches = arches.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// `Origin:` and `Label:` of the Release files; default `Testkit`.
    #[must_use]
    pub fn origin(mut self, origin: &str) -> Self {
        self.origin = origin.into();
        self
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The public key, binary.
    pub fn key(&self) -> PathBuf {
        self.dir.join("key.gpg")
    }

    /// The public key, ASCII-armored.
    pub fn key_armored(&self) -> PathBuf {
        self.dir.join("key.asc")
    }

    /// Sets the codename of a suite (default: the suite's own name).
    pub fn codename(&mut self, suite: &str, codename: &str) {
        self.suites.entry(suite.into()).or_default().codename = Some(codename.into());
    }

    /// Adds a field to the Release file of a suite, e.g. `NotAutomatic: yes`, `Valid-Until: …`.
    pub fn release_field(&mut self, suite: &str, key: &str, value: &str) {
        self.suites.entry(suite.into()).or_default().fields.push((key.into(), value.into()));
    }

    /// Builds a package into a suite. Visible to clients after the next [`Archive::publish`].
    pub fn add(&mut self, suite: &str, deb: &Deb) -> PathBuf {
        self.suites.entry(suite.into()).or_default();
        deb.build(&self.dir.join("pool").join(suite))
    }

    /// Takes packages out of a suite by name. Visible after the next [`Archive::publish`].
    pub fn remove(&mut self, suite: &str, name: &str) {
        for path in self.debs(suite, name) {
            fs::remove_file(&path).unwrap_or_else(|e| panic!("cannot delete {}: {e}", path.display()));
        }
    }

    /// Writes and signs the indexes of every suite again.
    pub fn publish(&self) {
        for (name, suite) in &self.suites {
            self.publish_suite(name, suite);
        }
    }

    fn publish_suite(&self, name: &str, suite: &Suite) {
        let dist = self.dir.join("dists").join(name);
        for arch in &self.arches {
            let dir = dist.join("main").join(format!("binary-{arch}"));
            let pool = Path::new("pool").join(name);
            fs::create_dir_all(&dir)
                .and_then(|()| fs::create_dir_all(self.dir.join(&pool)))
                .expect("a writable archive");
            let packages = run(Command::new("apt-ftparchive")
                .args(["-q", "--arch", arch, "packages"])
                .arg(&pool)
                .current_dir(&self.dir));
            fs::write(dir.join("Packages"), packages.stdout).expect("a writable archive");
        }
        // apt-ftparchive hashes whatever lies in the directory, old signatures included.
        for old in ["Release", "Release.gpg", "InRelease"] {
            let _ = fs::remove_file(dist.join(old));
        }
        let label = suite.fields.iter().find(|(key, _)| key == "Label").map_or(&self.origin, |(_, label)| label);
        let option = |key: &str, value: &str| format!("APT::FTPArchive::Release::{key}={value}");
        let release = run(Command::new("apt-ftparchive")
            .args(["-q", "release"])
            .args(["-o", &option("Origin", &self.origin), "-o", &option("Label", label)])
            .args(["-o", &option("Suite", name), "-o", &option("Codename", suite.codename.as_deref().unwrap_or(name))])
            .args(["-o", &option("Architectures", &self.arches.join(" ")), "-o", &option("Components", "main")])
            .arg(&dist));
        let mut text = String::new();
        for (key, value) in suite.fields.iter().filter(|(key, _)| key != "Label") {
            text.push_str(&format!("{key}: {value}\n"));
        }
        text.push_str(&String::from_utf8(release.stdout).expect("a Release file is text"));
        fs::write(dist.join("Release"), text).expect("a writable archive");
        self.sign(&dist);
    }

    fn sign(&self, dist: &Path) {
        let release = dist.join("Release");
        run(self.gpg().args(["--armor", "--detach-sign", "--output"]).arg(dist.join("Release.gpg")).arg(&release));
        run(self.gpg().args(["--clear-sign", "--output"]).arg(dist.join("InRelease")).arg(&release));
        self.advance(dist);
    }

    /// Gives everything below a directory a later modification time than anything published before.
    fn advance(&self, dist: &Path) {
        self.clock.set(self.clock.get() + Duration::from_secs(1));
        let mut rest = vec![dist.to_owned()];
        while let Some(dir) = rest.pop() {
            for entry in fs::read_dir(&dir).expect("a readable archive").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    rest.push(path);
                } else {
                    let file = fs::File::options().write(true).open(&path).expect("a writable archive");
                    file.set_modified(self.clock.get()).expect("an own file");
                }
            }
        }
    }

    fn gpg(&self) -> Command {
        let mut command = Command::new("gpg");
        command
            .args(["--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""])
            .env("GNUPGHOME", self.home.path());
        command
    }

    /// A deb822 stanza for a suite over `file:`, with `Signed-By`.
    pub fn sources(&self, suite: &str) -> String {
        self.sources_at(&format!("file://{}", self.dir.display()), suite)
    }

    /// The same for another base URI, e.g. that of an [`HttpServer`](crate::http::HttpServer) over [`Archive::dir`].
    pub fn sources_at(&self, uri: &str, suite: &str) -> String {
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {}\n",
            self.key_armored().display()
        )
    }

    /// The packages of that name in a suite, as files.
    pub fn debs(&self, suite: &str, name: &str) -> Vec<PathBuf> {
        let prefix = format!("{name}_");
        let pool = self.dir.join("pool").join(suite);
        let mut list: Vec<PathBuf> = fs::read_dir(&pool)
            .unwrap_or_else(|e| panic!("cannot read {}: {e}", pool.display()))
            .map(|entry| entry.expect("a readable pool").path())
            .filter(|p| p.file_name().is_some_and(|f| f.to_string_lossy().starts_with(&prefix)))
            .collect();
        list.sort();
        list
    }

    /// Breaks it: changes the signed text of a suite without signing it again. A later [`Archive::publish`] repairs it.
    pub fn break_signature(&self, suite: &str) {
        let dist = self.dir.join("dists").join(suite);
        for name in ["Release", "InRelease"] {
            let path = dist.join(name);
            let text = fs::read_to_string(&path).expect("a published suite");
            let broken = text.replacen("Components: main", "Components: main evil", 1);
            assert_ne!(text, broken, "{}: nothing to break", path.display());
            fs::write(path, broken).expect("a writable archive");
        }
        self.advance(&dist);
    }

    /// Breaks it: signs a suite with a key that nobody knows.
    pub fn sign_with_stranger(&self, suite: &str) {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let stranger = Self::new(scratch.path());
        stranger.sign(&self.dir.join("dists").join(suite));
        self.advance(&self.dir.join("dists").join(suite));
    }

    /// Breaks it: flips bytes in the middle of the published .debs of that name, size unchanged.
    pub fn tamper(&self, suite: &str, name: &str) {
        let debs = self.debs(suite, name);
        assert!(!debs.is_empty(), "no {name} in {suite}");
        for path in debs {
            flip_bytes(&path);
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // The agent would notice the missing home and end by itself, but only after a while.
        let _ = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", self.home.path()).output();
    }
}

/// Flips some bytes in the middle of a file; size and name stay.
pub fn flip_bytes(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let middle = bytes.len() / 2;
    for byte in bytes.iter_mut().skip(middle).take(8) {
        *byte = !*byte;
    }
    fs::write(path, bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}

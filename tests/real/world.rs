//! The world of one test: a directory, a sysroot in it, archives, servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use apt_ostree_testkit::archive::Archive;
use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::sysroot::{Server, Sysroot, wipe};

use crate::bases::{BRANCH, FOREIGN, PROGRAM, base, directory, lock_runs};

/// The world of one test: a directory, a sysroot in it, and archives as the test needs them.
#[derive(Debug)]
pub(crate) struct World {
    // The sysroot is wiped before the directory goes.
    pub(crate) sysroot: Sysroot,
    pub(crate) archive: Archive,
    pub(crate) dir: PathBuf,
}

impl World {
    /// A deployment of v1 that follows the local branch, with an empty archive (suite `stable`) as its only source.
    pub(crate) fn new() -> Self {
        Self::at(&base().v1)
    }

    pub(crate) fn at(commit: &str) -> Self {
        let world = Self::empty();
        let server = world.server("local");
        server.set(BRANCH, commit);
        let pull = format!("--pull-local={}", server.dir().display());
        let init = world.sysroot.ok(&[
            "init-sysroot",
            "--stateroot=debian",
            &pull,
            "--karg=quiet",
            "--karg=root=UUID=1",
            BRANCH,
        ]);
        init.says(&["Copying kit/debian"]);
        world.sysroot.set_sources(&world.archive.sources("stable"));
        world
    }

    /// A directory and an archive; no sysroot yet.
    pub(crate) fn empty() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        lock_runs();
        base();
        let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let dir = directory().join("work").join(format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&dir).expect("a writable cache");
        let mut archive = Archive::new(&dir.join("archive")).arches(&["amd64", FOREIGN]);
        archive.add("stable", &Deb::new("kit-nothing", "1.0"));
        archive.publish();
        let sysroot = Sysroot::new(Path::new(PROGRAM), &dir.join("sysroot"));
        Self { sysroot, archive, dir }
    }

    /// The same, following a remote `kit` (signed, file://) instead of the local branch. Its server is at v1.
    pub(crate) fn following() -> (Self, Server) {
        let world = Self::new();
        let server = world.server("server");
        server.set(BRANCH, &base().v1);
        world.add_remote("kit", &server.url());
        world.sysroot.ok(&["rebase", &format!("kit:{BRANCH}")]);
        world.sysroot.ok(&["cleanup", "-r"]);
        (world, server)
    }

    /// A repository for clients in this world, without branches.
    pub(crate) fn server(&self, name: &str) -> Server {
        Server::new(&base().repo(), &self.dir.join(name))
    }

    /// Adds a remote that trusts the key of the bases.
    pub(crate) fn add_remote(&self, name: &str, url: &str) {
        self.sysroot.ostree(&["remote", "add", name, url]);
        self.sysroot.ostree(&["remote", "gpg-import", name, "-k", &base().key().to_string_lossy()]);
    }

    /// Puts packages into the archive.
    pub(crate) fn publish(&mut self, debs: &[Deb]) {
        for deb in debs {
            self.archive.add("stable", deb);
        }
        self.archive.publish();
    }

    /// Builds a package outside of the archive.
    pub(crate) fn local(&self, deb: &Deb) -> PathBuf {
        deb.build(&self.dir.join("local-debs"))
    }

    /// A file of a deployment, as text.
    pub(crate) fn read(&self, index: usize, path: &str) -> String {
        let path = self.sysroot.deployment(index).join(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
    }

    /// Whether a deployment has a path; links count.
    pub(crate) fn has(&self, index: usize, path: &str) -> bool {
        fs::symlink_metadata(self.sysroot.deployment(index).join(path)).is_ok()
    }

    /// Installed version of a package in a deployment, by dpkg-query.
    pub(crate) fn installed(&self, index: usize, name: &str) -> Option<String> {
        let list: BTreeMap<String, String> = self.sysroot.dpkg(index);
        list.iter().find(|(n, _)| n.split(':').next() == Some(name) || *n == name).map(|(_, v)| v.clone())
    }

    /// The end of a story: no object is damaged, nothing is mounted, nothing is left in the scratch space.
    pub(crate) fn done(self) {
        self.sysroot.fsck();
        assert_eq!(self.sysroot.mounts(), Vec::<String>::new());
        assert_eq!(self.sysroot.scratch(), Vec::<String>::new());
        drop(self.sysroot);
        wipe(&self.dir);
    }
}

/// A small package with one file that says its version.
pub(crate) fn small(name: &str, version: &str) -> Deb {
    Deb::new(name, version).file(&format!("/usr/bin/{name}"), 0o755, format!("#!/bin/sh\necho {name} {version}\n"))
}

/// Numbers that look random and are the same in every run (Knuth's MMIX generator).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Thousandths, below 1000.
    pub(crate) fn roll(&mut self) -> u32 {
        u32::try_from(self.next() % 1000).expect("below 1000")
    }

    pub(crate) fn byte(&mut self) -> u8 {
        u8::try_from(self.next() % 256).expect("below 256")
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

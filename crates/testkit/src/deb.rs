//! Tiny .deb packages, made by the real `dpkg-deb`.
//!
//! ```no_run
//! use apt_ostree_testkit::deb::Deb;
//! let deb = Deb::new("hello", "1.0-1")
//!     .depends("libc6")
//!     .file("/usr/bin/hello", 0o755, "#!/bin/sh\necho hello\n")
//!     .conffile("/etc/hello.conf", "greeting=hello\n")
//!     .script("postinst", "#!/bin/sh\nset -e\necho configured\n")
//!     .build(std::path::Path::new("/tmp"));
//! ```

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run;

#[derive(Clone, Debug)]
enum Content {
    File(Vec<u8>),
    Directory,
    Link(String),
    /// A hard link to another path of the same package.
    HardLink(String),
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    mode: u32,
    owner: Option<(u32, u32)>,
    content: Content,
}

/// A package in the making. Every setter takes and returns it by value.
#[derive(Clone, Debug)]
pub struct Deb {
    name: String,
    version: String,
    arch: String,
    fields: Vec<(String, String)>,
    entries: Vec<Entry>,
    conffiles: Vec<String>,
    scripts: Vec<(String, String)>,
}

impl Deb {
    /// A package without files, `Architecture: amd64`.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            arch: "amd64".into(),
            fields: Vec::new(),
            entries: Vec::new(),
            conffiles: Vec::new(),
            scripts: Vec::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// `all`, `i386`, …
    #[must_use]
    pub fn arch(mut self, arch: &str) -> Self {
        self.arch = arch.into();
        self
    }

    /// Any control field; the same field again replaces it.
    #[must_use]
    pub fn field(mut self, key: &str, value: &str) -> Self {
        self.fields.retain(|(k, _)| !k.eq_ignore_ascii_case(key));
        self.fields.push((key.into(), value.into()));
        self
    }

    #[must_use]
    pub fn depends(self, value: &str) -> Self {
        self.field("Depends", value)
    }

    #[must_use]
    pub fn pre_depends(self, value: &str) -> Self {
        self.field("Pre-Depends", value)
    }

    #[must_use]
    pub fn recommends(self, value: &str) -> Self {
        self.field("Recommends", value)
    }

    #[must_use]
    pub fn provides(self, value: &str) -> Self {
        self.field("Provides", value)
    }

    #[must_use]
    pub fn conflicts(self, value: &str) -> Self {
        self.field("Conflicts", value)
    }

    #[must_use]
    pub fn breaks(self, value: &str) -> Self {
        self.field("Breaks", value)
    }

    #[must_use]
    pub fn replaces(self, value: &str) -> Self {
        self.field("Replaces", value)
    }

    /// `same`, `foreign` or `allowed`.
    #[must_use]
    pub fn multi_arch(self, value: &str) -> Self {
        self.field("Multi-Arch", value)
    }

    #[must_use]
    pub fn essential(self) -> Self {
        self.field("Essential", "yes")
    }

    /// A file owned by root:root. Missing parent directories are made with mode 0755.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, mode, None, Content::File(content.as_ref().to_vec()))
    }

    /// A file of another owner, by number. Building such a package needs root.
    #[must_use]
    pub fn file_owned(self, path: &str, mode: u32, uid: u32, gid: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, mode, Some((uid, gid)), Content::File(content.as_ref().to_vec()))
    }

    /// An empty directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, mode, None, Content::Directory)
    }

    /// A directory of another owner, by number. Building such a package needs root.
    #[must_use]
    pub fn dir_owned(self, path: &str, mode: u32, uid: u32, gid: u32) -> Self {
        self.entry(path, mode, Some((uid, gid)), Content::Directory)
    }

    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, None, Content::Link(target.into()))
    }

    /// A hard link to a file of this package that was added before.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o644, None, Content::HardLink(target.into()))
    }

    /// A file with mode 0644 that dpkg treats as configuration.
    #[must_use]
    pub fn conffile(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.conffiles.push(path.into());
        self.file(path, 0o644, content)
    }

    /// A file of the control archive: `preinst`, `postinst`, `prerm`, `postrm` (all made executable), `triggers`, `shlibs`, …
    #[must_use]
    pub fn script(mut self, name: &str, body: &str) -> Self {
        self.scripts.push((name.into(), body.into()));
        self
    }

    fn entry(mut self, path: &str, mode: u32, owner: Option<(u32, u32)>, content: Content) -> Self {
        assert!(path.starts_with('/'), "{path}: paths of a package are absolute");
        self.entries.push(Entry { path: path.into(), mode, owner, content });
        self
    }

    /// apt's file name: `name_version_arch.deb`, the epoch's colon as `%3a`.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.arch)
    }

    /// The control file as it is packed.
    pub fn control(&self) -> String {
        let mut text = format!("Package: {}\nVersion: {}\nArchitecture: {}\n", self.name, self.version, self.arch);
        let defaults = [
            ("Maintainer", "Test Kit <testkit@example.org>"),
            ("Section", "misc"),
            ("Priority", "optional"),
            ("Installed-Size", "10"),
            ("Description", "test package"),
        ];
        for (key, value) in defaults {
            if !self.fields.iter().any(|(k, _)| k.eq_ignore_ascii_case(key)) {
                text.push_str(&format!("{key}: {value}\n"));
            }
        }
        for (key, value) in &self.fields {
            text.push_str(&format!("{key}: {value}\n"));
        }
        text
    }

    /// A stanza of dpkg's `status` file that says this package is installed. Enough for a solver, which reads no files.
    pub fn status_stanza(&self) -> String {
        let control = self.control();
        let (first, rest) = control.split_once('\n').expect("a control file has lines");
        format!("{first}\nStatus: install ok installed\n{rest}\n")
    }

    /// Builds the package into `dir` and returns the path of the .deb.
    ///
    /// # Panics
    /// When a file cannot be written or `dpkg-deb` refuses the package.
    pub fn build(&self, dir: &Path) -> PathBuf {
        fs::create_dir_all(dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        let work = tempfile::tempdir().expect("a temporary directory");
        let tree = work.path();
        // dpkg-deb refuses a tempdir's 0700 on DEBIAN's parent only with a warning, but it would become the mode of `./`.
        set_mode(tree, 0o755);
        let control = tree.join("DEBIAN");
        make_dirs(tree, &control);
        write(&control.join("control"), self.control().as_bytes(), 0o644);
        if !self.conffiles.is_empty() {
            write(&control.join("conffiles"), format!("{}\n", self.conffiles.join("\n")).as_bytes(), 0o644);
        }
        for (name, body) in &self.scripts {
            let mode = if matches!(name.as_str(), "preinst" | "postinst" | "prerm" | "postrm" | "config") {
                0o755
            } else {
                0o644
            };
            write(&control.join(name), body.as_bytes(), mode);
        }
        for entry in &self.entries {
            entry.write(tree);
        }
        let deb = dir.join(self.file_name());
        let mut command = Command::new("dpkg-deb");
        // One member format and no parallel compression: the same input gives the same bytes.
        command.args(["--build", "-Zgzip", "-z1"]).env("SOURCE_DATE_EPOCH", "1700000000");
        if !self.entries.iter().any(|e| e.owner.is_some()) {
            command.arg("--root-owner-group");
        }
        run(command.arg(tree).arg(&deb));
        deb
    }
}

impl Entry {
    fn write(&self, tree: &Path) {
        let path = tree.join(self.path.trim_start_matches('/'));
        make_dirs(tree, path.parent().expect("an absolute path has a parent"));
        match &self.content {
            Content::File(bytes) => write(&path, bytes, self.mode),
            Content::Directory => {
                make_dirs(tree, &path);
                set_mode(&path, self.mode);
            }
            Content::Link(target) => {
                symlink(target, &path).unwrap_or_else(|e| panic!("cannot link {}: {e}", path.display()));
            }
            Content::HardLink(target) => {
                let target = tree.join(target.trim_start_matches('/'));
                fs::hard_link(&target, &path).unwrap_or_else(|e| panic!("cannot link {}: {e}", path.display()));
            }
        }
        if let Some((uid, gid)) = self.owner {
            lchown(&path, Some(uid), Some(gid)).unwrap_or_else(|e| panic!("cannot chown {}: {e}", path.display()));
            // chown clears the set-id bits.
            if !matches!(self.content, Content::Link(_)) {
                set_mode(&path, self.mode);
            }
        }
    }
}

fn make_dirs(tree: &Path, dir: &Path) {
    if dir == tree || dir.is_dir() {
        return;
    }
    make_dirs(tree, dir.parent().unwrap_or(tree));
    fs::create_dir(dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
    set_mode(dir, 0o755);
    // A group inherited from a set-gid parent would end up in the package.
    if is_root() {
        chown(dir, Some(0), Some(0)).unwrap_or_else(|e| panic!("cannot chown {}: {e}", dir.display()));
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("cannot set the mode of {}: {e}", path.display()));
}

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    set_mode(path, mode);
}

//! A sysroot in a directory and the program at work on it: runs commands, keeps what they said, looks at what they left.
//!
//! What a test believes of a sysroot comes from here and from `ostree`, never from the engine's own types.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::run;

/// What a run of the program came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub command: String,
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn new(command: &Command, output: &Output) -> Self {
        Self {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Both streams, for messages of whichever.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Panics with everything unless the exit code is this one.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.command, self.text());
        self
    }

    /// Panics unless one of the streams has every one of the texts.
    pub fn says(self, texts: &[&str]) -> Self {
        let all = self.text();
        for text in texts {
            assert!(all.contains(text), "'{text}' is missing in the output of {}:\n{all}", self.command);
        }
        self
    }

    /// Panics if one of the streams has one of the texts.
    pub fn never_says(self, texts: &[&str]) -> Self {
        let all = self.text();
        for text in texts {
            assert!(!all.contains(text), "'{text}' is in the output of {}:\n{all}", self.command);
        }
        self
    }

    /// stdout as a document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{} printed no JSON: {e}\n{}", self.command, self.text()))
    }
}

/// A sysroot; deleted when dropped.
#[derive(Debug)]
pub struct Sysroot {
    dir: PathBuf,
    program: PathBuf,
}

impl Sysroot {
    /// `dir` is where the sysroot is or will be made, `program` the binary under test.
    pub fn new(program: &Path, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), program: program.to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.join("ostree/repo")
    }

    /// The program with `--sysroot` and these arguments, in an environment that does not depend on who tests.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        let mut sysroot = std::ffi::OsString::from("--sysroot=");
        sysroot.push(&self.dir);
        command.arg(sysroot).args(args).env("LC_ALL", "C.UTF-8").env("NO_COLOR", "1");
        command.env_remove("APTOSTREE_SCRIPT_DEBUG").env_remove("RPMOSTREE_SCRIPT_DEBUG");
        command
    }

    /// Runs the program, however it ends.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Outcome {
        let mut command = self.command(args);
        let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Outcome::new(&command, &output)
    }

    /// Runs the program; panics unless it exits with 0.
    pub fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Outcome {
        self.run(args).exits(0)
    }

    /// Runs the program; panics unless it exits with 1, says `error:`, and leaves the deployments as they were.
    pub fn refuses<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Outcome {
        let before = self.state();
        let outcome = self.run(args).exits(1);
        assert!(outcome.stderr.lines().any(|l| l.starts_with("error: ")), "no error line: {}", outcome.text());
        self.assert_unchanged(&before, &outcome.text());
        outcome
    }

    /// Runs the program; panics unless it exits with this code and leaves the deployments as they were.
    pub fn unchanged<S: AsRef<std::ffi::OsStr>>(&self, code: i32, args: &[S]) -> Outcome {
        let before = self.state();
        let outcome = self.run(args).exits(code);
        self.assert_unchanged(&before, &outcome.text());
        outcome
    }

    /// Panics when deployments, origins or boot entries are not those of `before`.
    pub fn assert_unchanged(&self, before: &State, context: &str) {
        let after = self.state();
        assert_eq!(before, &after, "the deployments changed\n{context}");
    }

    pub fn status(&self) -> Value {
        self.ok(&["status", "--json"]).json()
    }

    /// The deployments as `status --json` has them.
    pub fn deployments(&self) -> Vec<Value> {
        self.status()["deployments"].as_array().expect("a list of deployments").clone()
    }

    /// A field of a deployment as text; empty when it is not there.
    pub fn field(&self, index: usize, key: &str) -> String {
        self.deployments()[index][key].as_str().unwrap_or_default().to_owned()
    }

    /// A field of a deployment that is a list of strings.
    pub fn list(&self, index: usize, key: &str) -> Vec<String> {
        strings(&self.deployments()[index][key])
    }

    /// The checksums of all deployments, in boot order.
    pub fn checksums(&self) -> Vec<String> {
        self.deployments().iter().map(|d| d["checksum"].as_str().expect("a checksum").to_owned()).collect()
    }

    /// The directory of a deployment, in boot order.
    pub fn deployment(&self, index: usize) -> PathBuf {
        let all = self.deployments();
        let d = all.get(index).unwrap_or_else(|| panic!("no deployment {index}: there are {}", all.len()));
        self.dir.join("ostree/deploy").join(d["osname"].as_str().expect("a stateroot")).join("deploy").join(format!(
            "{}.{}",
            d["checksum"].as_str().expect("a checksum"),
            d["serial"]
        ))
    }

    /// The file of an origin, in boot order.
    pub fn origin(&self, index: usize) -> PathBuf {
        let mut path = self.deployment(index).into_os_string();
        path.push(".origin");
        path.into()
    }

    /// Makes this the only apt sources of the next deployment's machine. Keyrings that `Signed-By` names are copied there.
    pub fn set_sources(&self, text: &str) {
        let apt = self.deployment(0).join("etc/apt");
        let _ = fs::remove_file(apt.join("sources.list"));
        let parts = apt.join("sources.list.d");
        if parts.exists() {
            fs::remove_dir_all(&parts).expect("own directory");
        }
        fs::create_dir_all(&parts).expect("own directory");
        let keyrings = apt.join("keyrings");
        fs::create_dir_all(&keyrings).expect("own directory");
        let mut own = String::new();
        for line in text.lines() {
            match line.strip_prefix("Signed-By: ").map(Path::new) {
                Some(key) if key.is_file() => {
                    let name = format!("kit-{}", key.file_name().expect("a file").to_string_lossy());
                    fs::copy(key, keyrings.join(&name)).expect("own directory");
                    own.push_str(&format!("Signed-By: /etc/apt/keyrings/{name}\n"));
                }
                _ => own.push_str(&format!("{line}\n")),
            }
        }
        fs::write(parts.join("kit.sources"), own).expect("own directory");
    }

    /// What dpkg-query says of a deployment: `name:arch` to version of everything installed.
    pub fn dpkg(&self, index: usize) -> BTreeMap<String, String> {
        dpkg_list(&self.deployment(index).join("usr/lib/sysimage/dpkg"))
    }

    /// `ostree` on the sysroot's repository.
    pub fn ostree(&self, args: &[&str]) -> String {
        let output =
            run(Command::new("ostree").arg(args[0]).arg(format!("--repo={}", self.repo().display())).args(&args[1..]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `ostree admin` on the sysroot.
    pub fn admin(&self, args: &[&str]) -> String {
        let output = run(Command::new("ostree")
            .args(["admin", args[0]])
            .arg(format!("--sysroot={}", self.dir.display()))
            .args(&args[1..])
            .env("OSTREE_SYSROOT_DEBUG", "mutable-deployments"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Every object of the repository has the content that its name says.
    pub fn fsck(&self) {
        self.ostree(&["fsck", "--quiet"]);
    }

    /// The scratch space of the engine, relative names; empty after a run that ended well.
    pub fn scratch(&self) -> Vec<String> {
        let dir = self.repo().join("extensions/apt-ostree/tmp");
        let Ok(list) = fs::read_dir(dir) else { return Vec::new() };
        list.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Mount points below the sysroot, in this mount namespace.
    pub fn mounts(&self) -> Vec<String> {
        let dir = self.dir.to_string_lossy().into_owned();
        let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
        text.lines()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|p| p.starts_with(&format!("{dir}/")))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Everything that must not change when nothing is to be changed.
    pub fn state(&self) -> State {
        let mut state = BTreeMap::new();
        let entries = self.dir.join("boot/loader/entries");
        for entry in fs::read_dir(&entries).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            state.insert(format!("boot entry {}", entry.file_name().to_string_lossy()), text);
        }
        for stateroot in fs::read_dir(self.dir.join("ostree/deploy")).into_iter().flatten().flatten() {
            for file in fs::read_dir(stateroot.path().join("deploy")).into_iter().flatten().flatten() {
                let path = file.path();
                let text = if path.is_dir() { String::new() } else { fs::read_to_string(&path).unwrap_or_default() };
                state.insert(format!("deployment {}", file.file_name().to_string_lossy()), text);
            }
        }
        let output = self.command(&["status", "--json"]).output().expect("the program starts");
        state.insert("status".into(), String::from_utf8_lossy(&output.stdout).into_owned());
        // Refs of remotes may move: a pull is no change of the system, but what the status tells of it may differ.
        if let Ok(Value::Object(mut document)) = serde_json::from_slice::<Value>(&output.stdout) {
            document.remove("cached-update");
            document.remove("last-transaction");
            for deployment in document.get_mut("deployments").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(deployment) = deployment.as_object_mut() {
                    deployment.retain(|key, _| !key.starts_with("pending-"));
                }
            }
            state.insert("status".into(), Value::Object(document).to_string());
        }
        state
    }
}

impl Drop for Sysroot {
    fn drop(&mut self) {
        wipe(&self.dir);
    }
}

/// Named texts; see [`Sysroot::state`].
pub type State = BTreeMap<String, String>;

/// A JSON list of strings.
pub fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

/// Deletes a directory that may hold deployments, which carry the immutable bit.
pub fn wipe(dir: &Path) {
    if !dir.exists() {
        return;
    }
    let mut rest = vec![(dir.to_owned(), 0)];
    while let Some((path, depth)) = rest.pop() {
        if path.join("ostree/deploy").is_dir() {
            for stateroot in fs::read_dir(path.join("ostree/deploy")).into_iter().flatten().flatten() {
                for deployment in fs::read_dir(stateroot.path().join("deploy")).into_iter().flatten().flatten() {
                    let _ = Command::new("chattr").arg("-i").arg(deployment.path()).output();
                }
            }
        } else if depth < 2 {
            let dirs =
                fs::read_dir(&path).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            rest.extend(dirs.map(|e| (e.path(), depth + 1)));
        }
    }
    fs::remove_dir_all(dir).unwrap_or_else(|e| panic!("cannot delete {}: {e}", dir.display()));
}

/// What is installed according to dpkg-query, `name:arch` to version.
pub fn dpkg_list(admindir: &Path) -> BTreeMap<String, String> {
    let output = run(Command::new("dpkg-query").arg(format!("--admindir={}", admindir.display())).args([
        "-W",
        "-f",
        "${db:Status-Abbrev}\t${Package}:${Architecture}\t${Version}\n",
    ]));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|l| {
            let mut parts = l.split('\t');
            (parts.next()?.trim_end() == "ii").then(|| Some((parts.next()?.to_owned(), parts.next()?.to_owned())))?
        })
        .collect()
}

/// One node of a directory tree, as far as a user could tell two of them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `file`, `dir`, `link`, or what else there is.
    pub kind: &'static str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Content of a file, target of a link.
    pub content: Vec<u8>,
    /// File capabilities as getcap prints them; empty for none.
    pub capabilities: String,
}

impl Node {
    /// What differs, in words.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let mut list = Vec::new();
        if self.kind != other.kind {
            return vec![format!("kind {} / {}", self.kind, other.kind)];
        }
        if self.mode != other.mode {
            list.push(format!("mode {:o} / {:o}", self.mode, other.mode));
        }
        if (self.uid, self.gid) != (other.uid, other.gid) {
            list.push(format!("owner {}:{} / {}:{}", self.uid, self.gid, other.uid, other.gid));
        }
        if self.capabilities != other.capabilities {
            list.push(format!("capabilities '{}' / '{}'", self.capabilities, other.capabilities));
        }
        if self.content != other.content {
            list.push("content".into());
        }
        list
    }
}

/// Reads a directory, `skip` decides by the path relative to it (without a leading slash).
pub fn read_tree(root: &Path, skip: &dyn Fn(&str) -> bool) -> BTreeMap<String, Node> {
    let capabilities = capabilities(root);
    let mut tree = BTreeMap::new();
    let mut rest = vec![String::new()];
    while let Some(dir) = rest.pop() {
        let path = root.join(&dir);
        for entry in fs::read_dir(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display())) {
            let entry = entry.expect("a readable directory");
            let name = entry.file_name().to_string_lossy().into_owned();
            let relative = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if skip(&relative) {
                continue;
            }
            let meta = fs::symlink_metadata(entry.path()).expect("an entry of a directory");
            let kind = meta.file_type();
            let (kind, content) = if kind.is_dir() {
                rest.push(relative.clone());
                ("dir", Vec::new())
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).expect("a link");
                ("link", target.to_string_lossy().into_owned().into_bytes())
            } else if kind.is_file() {
                ("file", fs::read(entry.path()).expect("a readable file"))
            } else if kind.is_char_device() || kind.is_block_device() {
                ("device", Vec::new())
            } else {
                ("special", Vec::new())
            };
            let capabilities = capabilities.get(&relative).cloned().unwrap_or_default();
            let mode = if kind == "link" { 0o777 } else { meta.mode() & 0o7777 };
            tree.insert(relative, Node { kind, mode, uid: meta.uid(), gid: meta.gid(), content, capabilities });
        }
    }
    tree
}

/// Paths with file capabilities, by getcap.
fn capabilities(root: &Path) -> BTreeMap<String, String> {
    let output = Command::new("getcap").arg("-r").arg(root).output().expect("getcap starts");
    let prefix = format!("{}/", root.display());
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|l| l.strip_prefix(&prefix)?.split_once(' '))
        .map(|(path, caps)| (path.to_owned(), caps.to_owned()))
        .collect()
}

/// A repository for clients: the objects of another one, and refs of its own. Several states of one server cost nothing.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
}

impl Server {
    /// `objects` is a repository whose mode and objects are used; it must outlive this.
    pub fn new(objects: &Path, dir: &Path) -> Self {
        fs::create_dir_all(dir.join("refs/heads")).expect("own directory");
        for name in ["refs/remotes", "refs/mirrors", "state", "tmp", "extensions"] {
            fs::create_dir_all(dir.join(name)).expect("own directory");
        }
        fs::copy(objects.join("config"), dir.join("config")).expect("a repository");
        symlink(objects.join("objects"), dir.join("objects")).expect("own directory");
        Self { dir: dir.to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// Points a branch at a commit.
    pub fn set(&self, branch: &str, commit: &str) {
        let path = self.dir.join("refs/heads").join(branch);
        fs::create_dir_all(path.parent().expect("a branch has a name")).expect("own directory");
        fs::write(path, format!("{commit}\n")).expect("own directory");
    }
}

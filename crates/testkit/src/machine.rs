//! A sysroot that is started: its default deployment comes up in systemd-nspawn, runs a script, and goes down.
//!
//! `tests/boot/nspawn.sh` does the starting; this keeps what it is given, and ends it in the middle. Each start is one
//! boot: what a script stages is finalized on the way down, and the next start takes the boot entry that is then first.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sysroot::{Outcome, wipe};

/// Long enough for everything that is waited for. Nothing is asserted on how long it took.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a machine is made of.
#[derive(Debug)]
pub struct Machine {
    script: PathBuf,
    program: PathBuf,
    sysroot: PathBuf,
    work: PathBuf,
    shared: Vec<PathBuf>,
    boots: Cell<u32>,
}

impl Machine {
    /// `script` is `nspawn.sh`, `program` the apt-ostree that is first in the PATH inside. `work` has the files of each
    /// boot; it must not be in the sysroot.
    pub fn new(script: &Path, program: &Path, sysroot: &Path, work: &Path) -> Self {
        Self {
            script: script.to_owned(),
            program: program.to_owned(),
            sysroot: sysroot.to_owned(),
            work: work.to_owned(),
            shared: Vec::new(),
            boots: Cell::new(0),
        }
    }

    /// Lets the machine see a directory at the same path, read-only.
    #[must_use]
    pub fn sharing(mut self, dir: &Path) -> Self {
        self.shared.push(dir.to_owned());
        self
    }

    /// Starts the default deployment, runs a shell script once it is up, and powers off.
    ///
    /// # Panics
    /// When the system did not come up, or the script did not end: with console and journal.
    pub fn boot(&self, script: &str) -> Outcome {
        let outcome = self.start(script).end();
        assert_ne!(outcome.code, Some(124), "{}\n{}", outcome.command, outcome.text());
        outcome
    }

    /// Starts it, and returns at once.
    ///
    /// # Panics
    /// When nspawn.sh cannot be started.
    pub fn start(&self, script: &str) -> Boot {
        let number = self.boots.get();
        self.boots.set(number + 1);
        let work = self.work.join(format!("boot-{number}"));
        wipe(&work);
        fs::create_dir_all(&work).unwrap_or_else(|e| panic!("cannot make {}: {e}", work.display()));
        let (stdout, stderr) = (work.join("stdout"), work.join("stderr"));
        let create = |path: &Path| fs::File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let shared: Vec<_> = self.shared.iter().map(|d| d.to_string_lossy().into_owned()).collect();
        let mut command = Command::new(&self.script);
        command.arg(&self.sysroot).arg(script).env("APT_OSTREE", &self.program).env("BIND", shared.join(":"));
        command.env("WORK", work.join("run")).env("TIMEOUT", "600").env_remove("APT_OSTREE_NSPAWN");
        fs::create_dir_all(work.join("run")).expect("own directory");
        command.stdin(Stdio::null()).stdout(create(&stdout)).stderr(create(&stderr));
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Boot { child, work, script: script.to_owned() }
    }
}

/// A machine that is up, or on its way up or down.
#[derive(Debug)]
pub struct Boot {
    child: Child,
    work: PathBuf,
    script: String,
}

impl Boot {
    /// What the script has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.work.join("run/out/output")).unwrap_or_default()
    }

    /// Waits until the script has printed a line; false when it ended without.
    ///
    /// # Panics
    /// When neither happens for a long time.
    pub fn wait_for(&mut self, line: &str) -> bool {
        self.wait_until(line, |boot| boot.output().lines().any(|l| l == line))
    }

    /// Whether the script has ended: then the machine is on its way down.
    pub fn is_going_down(&self) -> bool {
        fs::read_to_string(self.work.join("run/out/status")).is_ok_and(|s| s.ends_with('\n'))
    }

    fn wait_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            if self.child.try_wait().expect("a child").is_some() {
                return condition(self);
            }
            assert!(Instant::now() < end, "waited in vain for {what}: {}", self.output());
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Ends every process of the machine at once. Its mounts end with them; nothing is written or tidied up any more.
    pub fn kill(mut self) {
        let own = i32::try_from(self.child.id()).expect("a pid");
        let mut pids = descendants(own);
        // The deepest first: the container's init takes all of its processes along, and whoever watches it is next.
        pids.reverse();
        pids.push(own);
        let list: Vec<_> = pids.iter().map(ToString::to_string).collect();
        let _ = Command::new("kill").arg("-KILL").args(&list).output();
        let _ = self.child.wait();
        // Until the kernel is done with them, their mounts and open files are there.
        let end = Instant::now() + PATIENCE;
        while pids.iter().any(|pid| alive(*pid)) {
            assert!(Instant::now() < end, "processes outlive SIGKILL: {pids:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it is down.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn end(mut self) -> Outcome {
        let status = self.child.wait().expect("a child");
        let read = |name: &str| fs::read(self.work.join(name)).unwrap_or_default();
        Outcome {
            command: format!("a boot with: {}", self.script),
            code: status.code(),
            stdout: String::from_utf8_lossy(&read("stdout")).into_owned(),
            stderr: String::from_utf8_lossy(&read("stderr")).into_owned(),
        }
    }
}

/// Every process below one, parents before their children.
fn descendants(pid: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // proc_pid_stat(5): the name is in parentheses and may have any byte in it; then state and parent.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
        parents.extend(parent.map(|parent| (parent, child)));
    }
    let mut found = Vec::new();
    let mut rest = vec![pid];
    while let Some(parent) = rest.pop() {
        let children: Vec<i32> = parents.iter().filter(|(p, _)| *p == parent).map(|(_, c)| *c).collect();
        found.extend(&children);
        rest.extend(children);
    }
    found
}

/// Whether it is there; a zombie is not.
fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
}

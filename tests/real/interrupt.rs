//! Ended in the middle: by the user, by the kernel, by a power cut. The system is always the old one or the new one.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::sysroot::{Outcome, Sysroot};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::bases::base;
use crate::world::{Dice, World, small};

/// Long enough for everything that is waited for. Nothing is asserted on how long it took.
const PATIENCE: Duration = Duration::from_secs(120);

/// A package whose postinst sleeps until somebody ends the sleep. The number of seconds tells it from other tests' sleeps.
fn slow(name: &str, seconds: u32) -> Deb {
    small(name, "1.0").script("postinst", &format!("#!/bin/sh\necho waiting\nsleep {seconds} || true\n"))
}

/// Processes, other than this one, whose command line has the text (its words divided by blanks).
fn processes(text: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).expect("a pid");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
        })
        .collect()
}

/// Processes whose parent is `parent`.
fn children(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
    // proc_pid_stat(5): the name is in parentheses and may have any byte in it; then state and parent.
    let parent_of = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    pids.filter(|pid| parent_of(pid) == Some(parent)).collect()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(pid: i32, signal: Signal) {
    // One that is gone already needs no signal.
    let _ = kill_process(Pid::from_raw(pid).expect("a pid"), signal);
}

/// A run of the program that goes on while the test does something else.
struct Running {
    child: Child,
    command: String,
}

impl Running {
    fn start(sysroot: &Sysroot, args: &[&str]) -> Self {
        let mut command = sysroot.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().expect("the program starts"), command: format!("{command:?}") }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Until the postinst sleeps.
    fn wait_for_sleep(&self, seconds: u32) {
        wait_until("the postinst", || !processes(&format!("sleep {seconds}")).is_empty());
    }

    fn end(mut self) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut errors = self.child.stderr.take().expect("a pipe");
        let reader = std::thread::spawn(move || {
            let _ = errors.read_to_end(&mut stderr);
            stderr
        });
        let _ = self.child.stdout.take().expect("a pipe").read_to_end(&mut stdout);
        let status = self.child.wait().expect("a child");
        Outcome {
            command: self.command,
            code: status.code(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&reader.join().expect("a reader")).into_owned(),
        }
    }
}

fn end_sleep(seconds: u32) {
    for pid in processes(&format!("sleep {seconds}")) {
        send(pid, Signal::TERM);
    }
}

/// Nothing of the transaction is alive or mounted.
fn assert_gone(sysroot: &Sysroot, seconds: u32) {
    wait_until("the end of the postinst", || processes(&format!("sleep {seconds}")).is_empty());
    let dir = sysroot.dir().to_string_lossy().into_owned();
    wait_until("the end of every process of the transaction", || processes(&dir).is_empty());
    assert_eq!(sysroot.mounts(), Vec::<String>::new());
}

/// The same request again, to its end.
fn install_slow(sysroot: &Sysroot, seconds: u32) {
    let again = Running::start(sysroot, &["install", "kit-slow"]);
    again.wait_for_sleep(seconds);
    end_sleep(seconds);
    again.end().exits(0).says(&["Added:\n  kit-slow"]);
    assert_eq!(sysroot.list(0, "packages"), ["kit-slow"]);
    assert_eq!(sysroot.checksums().last(), Some(&base().v1));
}

#[test]
fn interrupted_by_the_user() {
    for (signal, name, seconds) in [(Signal::INT, "SIGINT", 43_001), (Signal::TERM, "SIGTERM", 43_002)] {
        let mut world = World::new();
        world.publish(&[slow("kit-slow", seconds)]);
        let sysroot = &world.sysroot;
        let before = sysroot.state();
        let running = Running::start(sysroot, &["install", "kit-slow"]);
        running.wait_for_sleep(seconds);
        send(running.pid(), signal);
        let outcome = running.end().exits(1);
        assert_gone(sysroot, seconds);
        let caught = format!("Caught {name}, cancelling transaction");
        let outcome = outcome.says(&[&caught, "error: Transaction cancelled", "note: no deployment was made"]);
        sysroot.assert_unchanged(&before, &outcome.text());
        assert_eq!(sysroot.scratch(), Vec::<String>::new());
        install_slow(sysroot, seconds);
        world.done();
    }
}

#[test]
fn the_worker_is_killed() {
    const SECONDS: u32 = 43_003;
    let mut world = World::new();
    world.publish(&[slow("kit-slow", SECONDS)]);
    let sysroot = &world.sysroot;
    let before = sysroot.state();
    // As the kernel does when memory runs out: the worker alone, then with all of its group.
    for group in [false, true] {
        let running = Running::start(sysroot, &["install", "kit-slow"]);
        running.wait_for_sleep(SECONDS);
        let workers = children(running.pid());
        let [worker] = workers.as_slice() else { panic!("not one worker: {workers:?}") };
        let pid = Pid::from_raw(*worker).expect("a pid");
        if group {
            kill_process_group(pid, Signal::KILL).expect("a process group");
        } else {
            kill_process(pid, Signal::KILL).expect("a process");
        }
        let outcome = running.end().exits(1).says(&["ended without a report (signal 9)", "Nothing was changed"]);
        assert_gone(sysroot, SECONDS);
        sysroot.assert_unchanged(&before, &outcome.text());
        assert_eq!(sysroot.mounts(), Vec::<String>::new());
    }
    install_slow(sysroot, SECONDS);
    world.done();
}

#[test]
fn two_at_once() {
    const SECONDS: u32 = 43_005;
    let mut world = World::new();
    world.publish(&[slow("kit-slow", SECONDS), small("kit-a", "1.0")]);
    let sysroot = &world.sysroot;
    let running = Running::start(sysroot, &["install", "kit-slow"]);
    running.wait_for_sleep(SECONDS);
    for args in [&["install", "kit-a"][..], &["upgrade"], &["cleanup", "-pr"], &["kargs", "--append=x=1"]] {
        sysroot.refuses(args).says(&["Another transaction is at work", "Wait for it to end"]);
    }
    // Looking is always possible.
    sysroot.ok(&["status"]);
    assert!(!processes(&format!("sleep {SECONDS}")).is_empty(), "the first one goes on");
    end_sleep(SECONDS);
    running.end().exits(0);
    assert_eq!(sysroot.list(0, "packages"), ["kit-slow"]);
    world.done();
}

/// Everything dies at once, at moments spread over the whole transaction.
#[test]
fn a_power_cut_at_any_moment() {
    const ROUNDS: u32 = 6;
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0").file("/usr/share/kit-large", 0o644, vec![7; 8 << 20])]);
    let sysroot = &world.sysroot;
    let old = sysroot.checksums();
    let start = Instant::now();
    sysroot.ok(&["install", "kit-a"]);
    let whole = start.elapsed();
    let new = sysroot.checksums();
    let back = || {
        sysroot.ok(&["uninstall", "kit-a"]);
        sysroot.ok(&["cleanup", "-r"]);
    };
    back();
    assert_eq!(sysroot.checksums(), old);
    let mut dice = Dice(20_261_123);
    let mut met = [0, 0];
    for round in 0..ROUNDS {
        // Growing, the last ones about when the deployment is written.
        let delay = whole * (round * 1000 + dice.roll()) / (ROUNDS * 1000);
        let running = Running::start(sysroot, &["install", "kit-a"]);
        std::thread::sleep(delay);
        let workers = children(running.pid());
        send(running.pid(), Signal::KILL);
        for worker in workers {
            let _ = kill_process_group(Pid::from_raw(worker).expect("a pid"), Signal::KILL);
        }
        running.end();
        let dir = sysroot.dir().to_string_lossy().into_owned();
        wait_until("the end of every process of the transaction", || processes(&dir).is_empty());
        let context = format!("round {round}, after {delay:?} of {whole:?}");
        let now = sysroot.checksums();
        assert!(now == old || now == new, "{context}: neither old nor new: {now:?}");
        met[usize::from(now == new)] += 1;
        sysroot.fsck();
        let entries = fs::read_dir(sysroot.dir().join("boot/loader/entries")).expect("boot entries").count();
        assert_eq!(entries, now.len(), "{context}");
        sysroot.ok(&["install", "--idempotent", "kit-a"]);
        assert_eq!(sysroot.checksums(), new, "{context}");
        assert_eq!(world.installed(0, "kit-a").as_deref(), Some("1.0"), "{context}");
        assert_eq!(sysroot.scratch(), Vec::<String>::new(), "{context}");
        back();
        assert_eq!(sysroot.checksums(), old, "{context}");
    }
    assert!(met[0] > 0, "every kill came too late");
    world.done();
}

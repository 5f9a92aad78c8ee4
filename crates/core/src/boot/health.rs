//! Health checks: programs that tell whether the system that is running works.
//!
//! `etc/apt-ostree/health.d` (the administrator's) and `usr/lib/apt-ostree/health.d` (the image's and its packages') hold
//! programs. All must end with status 0; those in the subdirectory `wanted` only warn. They run one after the other, sorted
//! by name. A name in /etc hides the same one in /usr, so a link to /dev/null, or a file that is not executable, turns a
//! check off.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};

/// How long one check may take.
pub const TIMEOUT: Duration = Duration::from_secs(120);

const DIRECTORIES: [&str; 2] = ["usr/lib/apt-ostree/health.d", "etc/apt-ostree/health.d"];
const WANTED: &str = "wanted";
/// Of a check's output, this much is kept.
const OUTPUT_LINES: usize = 10;
const OUTPUT_BYTES: u64 = 8 << 10;
/// Checks see this and no more of the environment.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `NAME`, or `wanted/NAME`.
    pub name: String,
    pub path: PathBuf,
    pub required: bool,
}

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckResult {
    pub name: String,
    pub required: bool,
    pub passed: bool,
    /// `exit status 3`, `signal: 11 (SIGSEGV)`, `no end after 120 seconds`.
    pub status: String,
    /// The last lines of both streams.
    pub output: Vec<String>,
}

/// The checks of the system below `root`, in the order they run: the required ones first.
pub fn find(root: &Path) -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for required in [true, false] {
        let mut found = BTreeMap::new();
        for directory in DIRECTORIES {
            let directory = root.join(directory);
            let directory = if required { directory } else { directory.join(WANTED) };
            let entries = match fs::read_dir(&directory) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.context(|| format!("Listing {}", directory.display()))?,
            };
            for entry in entries {
                let entry = entry.context(|| format!("Listing {}", directory.display()))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_leftover(&name) || (required && name == WANTED) {
                    continue;
                }
                found.insert(name, entry.path());
            }
        }
        let runnable = found.into_iter().filter(|(_, path)| is_program(path));
        all.extend(runnable.map(|(name, path)| {
            let name = if required { name } else { format!("{WANTED}/{name}") };
            Check { name, path, required }
        }));
    }
    Ok(all)
}

/// What editors and dpkg leave beside a file.
fn is_leftover(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~') || name.contains(".dpkg-")
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs a check in a process group of its own, which is killed when the time is over. That it cannot be started is a
/// failure of the check.
pub fn run(check: &Check, timeout: Duration) -> CheckResult {
    let mut result = CheckResult {
        name: check.name.clone(),
        required: check.required,
        passed: false,
        status: String::new(),
        output: Vec::new(),
    };
    match start(check) {
        Err(e) => result.status = format!("cannot be started: {e}"),
        Ok((child, mut output)) => {
            match wait(child, timeout) {
                Ok(Some(status)) => {
                    result.passed = status.success();
                    result.status = describe(status);
                }
                Ok(None) => result.status = format!("no end after {} seconds", timeout.as_secs()),
                Err(e) => result.status = format!("cannot be waited for: {e}"),
            }
            result.output = last_lines(&mut output);
        }
    }
    result
}

fn describe(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

fn start(check: &Check) -> std::io::Result<(Child, fs::File)> {
    let output = tempfile::tempfile()?;
    let child = Command::new(&check.path)
        .env_clear()
        .envs([("PATH", SEARCH_PATH), ("LC_ALL", "C.UTF-8"), ("HOME", "/root")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()?;
    Ok((child, output))
}

/// `None`: it had to be killed.
fn wait(mut child: Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            break;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    child.wait()?;
    Ok(None)
}

fn last_lines(output: &mut fs::File) -> Vec<String> {
    let mut bytes = Vec::new();
    let length = output.metadata().map_or(0, |m| m.len());
    let start = length.saturating_sub(OUTPUT_BYTES);
    // Output that cannot be read is worth less than the result.
    if output.seek(SeekFrom::Start(start)).is_err() || output.take(OUTPUT_BYTES).read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let printable = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    let lines: Vec<String> =
        text.lines().filter(|l| !l.trim().is_empty()).map(|l| l.chars().map(printable).collect()).collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Written by another process: a file that this one has open for writing, be it for a moment in a child that another
    /// thread just forked, cannot be executed (ETXTBSY).
    fn script(root: &Path, path: &str, mode: u32, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let write = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod \"$3\" \"$1\"", "sh"])
            .arg(&path)
            .args([text, &format!("{mode:o}")])
            .status();
        assert!(write.unwrap().success());
    }

    #[test]
    fn etc_hides_usr_and_names_give_the_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(find(root).unwrap(), []);
        for name in ["30-c", "10-a", "20-masked", "25-not-executable", "40-own"] {
            script(root, &format!("usr/lib/apt-ostree/health.d/{name}"), 0o755, "");
        }
        let etc = "etc/apt-ostree/health.d";
        script(root, &format!("{etc}/15-b"), 0o755, "");
        script(root, &format!("{etc}/40-own"), 0o755, "");
        script(root, &format!("{etc}/25-not-executable"), 0o644, "");
        script(root, &format!("{etc}/10-a.dpkg-old"), 0o755, "");
        script(root, &format!("{etc}/wanted/05-w"), 0o755, "");
        symlink("/dev/null", root.join(etc).join("20-masked")).unwrap();
        let found = find(root).unwrap();
        let names: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.required)).collect();
        assert_eq!(names, [("10-a", true), ("15-b", true), ("30-c", true), ("40-own", true), ("wanted/05-w", false)]);
        assert_eq!(found[3].path, root.join(etc).join("40-own"));
    }

    #[test]
    fn results_say_how_a_check_ended() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let run = |text: &str, timeout: u64| {
            script(root, "check", 0o755, text);
            let check = Check { name: "check".into(), path: root.join("check"), required: true };
            run(&check, Duration::from_secs(timeout))
        };
        let good = run("echo fine; echo \"$PATH $APT_OSTREE_CACHE\"", 60);
        assert!(good.passed, "{good:?}");
        assert_eq!(good.output, ["fine", &format!("{SEARCH_PATH} ")]);
        let bad = run("for i in $(seq 20); do echo line $i; done; printf 'last\\033[0m\\n' >&2; exit 3", 60);
        assert_eq!((bad.passed, bad.status.as_str(), bad.output.len()), (false, "exit status 3", 10));
        assert_eq!(bad.output[9], "last\u{fffd}[0m");
        assert!(run("kill -SEGV $$", 60).status.contains("signal: 11"));
        // Its children go with it.
        let slow = run("sleep 300 & echo $!; wait", 1);
        assert_eq!((slow.passed, slow.status.as_str()), (false, "no end after 1 seconds"));
        let stat = format!("/proc/{}/stat", slow.output[0]);
        let runs = || fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z"));
        for _ in 0..100 {
            if runs() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        assert!(!runs(), "{stat}");
        let missing = Check { name: "gone".into(), path: root.join("gone"), required: true };
        assert!(super::run(&missing, TIMEOUT).status.starts_with("cannot be started: "));
    }
}

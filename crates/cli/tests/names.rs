//! The program under the name `rpm-ostree`, and in environments that clients of rpm-ostree start it with.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_apt-ostree");

/// A link with the other name, as the package has it.
fn link(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("rpm-ostree");
    std::os::unix::fs::symlink(PROGRAM, &path).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Starts a program with exactly these entries as its environment. The standard library, `env` and Python's own exec only
/// pass entries with `=`; execve(2) itself takes any.
fn with_raw_environment(program: &Path, args: &[&str], entries: &[&str]) -> Output {
    const SCRIPT: &str = "import ctypes, json, os, sys\n\
        argv, env = json.loads(sys.argv[1])\n\
        array = lambda words: (ctypes.c_char_p * (len(words) + 1))(*[w.encode() for w in words], None)\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        libc.execve(argv[0].encode(), array(argv), array(env))\n\
        sys.exit(os.strerror(ctypes.get_errno()))\n";
    let argv: Vec<&str> = std::iter::once(program.to_str().unwrap()).chain(args.iter().copied()).collect();
    let call = serde_json::to_string(&(argv, entries)).unwrap();
    Command::new("python3").args(["-c", SCRIPT, &call]).output().unwrap()
}

#[test]
fn the_version_is_that_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(link(&dir)).arg("--version").output().unwrap();
    let text = text(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "rpm-ostree:");
    let version = lines[1].strip_prefix(" Version: '").and_then(|v| v.strip_suffix('\'')).expect("a quoted string");
    // As osbuild does: exactly two numbers.
    let numbers: Vec<u32> = version.split('.').map(|n| n.parse().unwrap()).collect();
    assert!(numbers.len() == 2 && numbers[0] >= 2024, "{version}");
    assert_eq!(lines[2], format!(" Implementation: 'apt-ostree {}'", env!("CARGO_PKG_VERSION")));
    assert!(lines[3].starts_with(" Git: "), "{text}");
    assert_eq!(lines[4..], [" Features:", "  - rust", "  - compose"]);
}

#[test]
fn texts_say_the_called_name() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| Command::new(link_once(&dir)).args(args).env_remove("container").output().unwrap();
    assert!(text(&run(&["--help"]).stdout).starts_with("Usage:\n  rpm-ostree [OPTION…] COMMAND\n"));
    assert!(text(&run(&["override", "remove", "-h"]).stdout).contains("\nUsage: rpm-ostree override remove [OPTIONS]"));
    let said = text(&run(&["status"]).stderr);
    assert!(said.contains("Currently, most rpm-ostree commands only work on ostree-based host systems."), "{said}");
}

fn link_once(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("rpm-ostree");
    if path.exists() { path } else { link(dir) }
}

/// rpmostree-client-go passes these two, and nothing else.
const GO_CLIENT: &[&str] = &["RPMOSTREE_CLIENT_ID", "machine-config-daemon"];

#[test]
fn no_environment_and_a_malformed_one() {
    let dir = tempfile::tempdir().unwrap();
    let link = link(&dir);
    for entries in [&[][..], GO_CLIENT, &["PATH"], &["=", "", "PATH="], &["PATH=", "RPMOSTREE_CLIENT_ID"]] {
        let output = with_raw_environment(&link, &["--version"], entries);
        assert!(output.status.success(), "{entries:?}: {output:?}");
        assert!(text(&output.stdout).starts_with("rpm-ostree:\n"), "{entries:?}: {output:?}");
        let output = with_raw_environment(&link, &["status", "--sysroot=/nonexistent"], entries);
        assert_eq!(output.status.code(), Some(1), "{entries:?}: {output:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{entries:?}: {output:?}");
    }
    let output = Command::new("env").args(["-i", link.to_str().unwrap(), "--version"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What is started is found as well: dpkg(1), and unshare(1) for the worker.
#[test]
fn a_worker_without_an_environment() {
    let dir = tempfile::tempdir().unwrap();
    let (link, treefile) = (link(&dir), dir.path().join("t.yaml"));
    std::fs::write(&treefile, "ref: debian/13/amd64/x\npackages: [bash]\n").unwrap();
    for entries in [&[][..], GO_CLIENT] {
        let args = ["compose", "tree", "--print-only", treefile.to_str().unwrap()];
        let output = with_raw_environment(&link, &args, entries);
        assert!(output.status.success(), "{entries:?}: {output:?}");
        assert_eq!(text(&output.stderr), "", "{entries:?}");
        assert!(text(&output.stdout).contains("\"bash\""), "{entries:?}: {output:?}");
    }
}

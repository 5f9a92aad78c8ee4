//! The jail that maintainer scripts and the tree's own tools run in: bubblewrap, as root of the tree.
//!
//! Inside: the tree as `/`, fresh tmpfs `/run` and `/tmp`, minimal `/dev`, `/proc`, read-only `/sys`, no network,
//! a clean environment, closed stdin, all capabilities that dpkg needs over the tree's files. The host's files,
//! processes, network and environment are not visible.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::{RunOutput, Sandbox, SandboxSpec};
use crate::error::{Context, Error, Result};

/// What the variable `container` says in the jail.
pub const CONTAINER: &str = "apt-ostree";

/// The environment of every run. Why each: debconf(7), systemd (`SYSTEMD_OFFLINE` makes systemctl work on files),
/// kernel packages (`INITRD=No` in their hooks), Debian's py3compile (a set `SOURCE_DATE_EPOCH` makes
/// hash-based .pyc files, which survive libostree's mtime 0).
pub const BASE_ENVIRONMENT: &[(&str, &str)] = &[
    // The first directory is there when the caller binds shims (assemble::quirks).
    ("PATH", "/run/apt-ostree/shims:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("SYSTEMD_OFFLINE", "1"),
    ("INITRD", "No"),
    ("SOURCE_DATE_EPOCH", "0"),
    ("container", CONTAINER),
];

/// How many lines of output an error carries.
const TAIL_LINES: usize = 40;

/// The real jail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bubblewrap;

impl Bubblewrap {
    fn words(spec: &SandboxSpec, argv: &[&str]) -> Vec<String> {
        let mut line: Vec<String> = Vec::new();
        let mut push = |items: &[&str]| line.extend(items.iter().map(ToString::to_string));
        push(&["bwrap", "--cap-add", "ALL", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]);
        push(&["--hostname", "localhost", "--die-with-parent", "--new-session", "--clearenv"]);
        push(&["--bind", &spec.root.to_string_lossy(), "/"]);
        push(&["--dev", "/dev", "--proc", "/proc", "--ro-bind", "/sys", "/sys", "--tmpfs", "/run", "--perms", "1777"]);
        push(&["--tmpfs", "/tmp", "--dir", "/run/lock"]);
        for bind in &spec.binds {
            let flag = if bind.read_only { "--ro-bind" } else { "--bind" };
            push(&[flag, &bind.source.to_string_lossy(), &bind.target]);
        }
        for (key, value) in BASE_ENVIRONMENT {
            push(&["--setenv", key, value]);
        }
        for (key, value) in &spec.env {
            push(&["--setenv", key, value]);
        }
        push(&["--chdir", "/", "--"]);
        push(argv);
        line
    }
}

impl Sandbox for Bubblewrap {
    fn command_line(&self, spec: &SandboxSpec, argv: &[&str]) -> String {
        shell_join(&Self::words(spec, argv))
    }

    fn run(&self, spec: &SandboxSpec, argv: &[&str], line: &mut dyn FnMut(&str)) -> Result<RunOutput> {
        let command = Self::words(spec, argv);
        let mut output = RunOutput { reproduce: shell_join(&command), ..RunOutput::default() };
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .context(|| "Starting bubblewrap")
            .map_err(|e: Error| e.hint("Install the package bubblewrap."))?;
        for bytes in BufReader::new(File::from(reader)).split(b'\n') {
            let bytes = bytes?;
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end_matches('\r');
            line(text);
            if output.tail.len() == TAIL_LINES {
                output.tail.remove(0);
            }
            output.tail.push(text.to_owned());
        }
        let status = child.wait()?;
        output.code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        // One line and nothing of the command: bubblewrap could not make the sandbox.
        match output.tail.as_slice() {
            [only] if output.code != 0 && only.starts_with("bwrap: ") => {
                Err(Error::failed(format!("Making the sandbox for {}: {only}", argv.first().unwrap_or(&"a command")))
                    .hint("bubblewrap needs mount and user namespaces; in a container it has to be a privileged one."))
            }
            _ => Ok(output),
        }
    }
}

/// A command line that a POSIX shell splits back into exactly these words.
pub fn shell_join<S: AsRef<str>>(words: &[S]) -> String {
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&c));
    let quote = |s: &str| if plain(s) { s.to_owned() } else { format!("'{}'", s.replace('\'', r"'\''")) };
    words.iter().map(|w| quote(w.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_cannot_be_made_is_told_from_a_command_that_fails() {
        let spec = SandboxSpec { root: "/nonexistent".into(), binds: Vec::new(), env: Vec::new() };
        let e = Bubblewrap.run(&spec, &["true"], &mut |_| ()).unwrap_err();
        assert!(e.to_string().contains("Making the sandbox for true: bwrap: "), "{e}");
        let spec = SandboxSpec { root: "/".into(), ..spec };
        assert_eq!(Bubblewrap.run(&spec, &["sh", "-c", "echo x; exit 3"], &mut |_| ()).unwrap().code, 3);
    }
}

//! Port: running programs of a tree in a jail. The one implementation is [`bubblewrap`].

pub mod bubblewrap;

use std::path::PathBuf;

use crate::error::Result;

/// What a run may see and change. Named, so that no call site assembles flags of its own.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// The tree that becomes `/`, writable as it is mounted.
    pub root: PathBuf,
    /// Binds, applied in order after the root: the `/etc` and `/var` of the tree, archives, shims.
    pub binds: Vec<Bind>,
    /// Extra environment on top of the clean one (see [`bubblewrap::BASE_ENVIRONMENT`]).
    pub env: Vec<(String, String)>,
}

/// One bind mount of the sandbox.
#[derive(Clone, Debug)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    pub read_only: bool,
}

/// What came of a command.
#[derive(Clone, Debug, Default)]
pub struct RunOutput {
    /// Exit code; `128 + signal` when killed by one.
    pub code: i32,
    /// The last lines of stdout and stderr together, oldest first.
    pub tail: Vec<String>,
    /// The command line that does the same again, ready to paste into a root shell.
    pub reproduce: String,
}

/// Port: a jail.
pub trait Sandbox {
    /// Runs `argv` to its end and hands every output line to `line`. A non-zero exit is not an error here:
    /// callers know what it means. Errors are those of the jail itself.
    fn run(&self, spec: &SandboxSpec, argv: &[&str], line: &mut dyn FnMut(&str)) -> Result<RunOutput>;

    /// The command line of such a run, for a POSIX shell.
    fn command_line(&self, spec: &SandboxSpec, argv: &[&str]) -> String;
}

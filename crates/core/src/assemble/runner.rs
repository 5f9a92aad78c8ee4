//! Running a tree's own programs: every line of output is an event, a failure an error that can be acted on.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::event::{Event, EventSink};
use crate::sandbox::{Bind, RunOutput, Sandbox, SandboxSpec};

/// A sandbox over one tree.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    pub sandbox: &'a dyn Sandbox,
    pub root: &'a Path,
    /// Shims and the like, for every command.
    pub binds: &'a [Bind],
    pub events: &'a dyn EventSink,
}

impl std::fmt::Debug for Runner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("root", &self.root).field("binds", &self.binds).finish_non_exhaustive()
    }
}

impl Runner<'_> {
    /// Runs a command and hands its lines to `line` as well. A non-zero exit is no error here.
    pub fn run(&self, argv: &[&str], binds: &[Bind], line: &mut dyn FnMut(&str)) -> Result<RunOutput> {
        let spec = SandboxSpec {
            root: self.root.to_owned(),
            binds: self.binds.iter().chain(binds).cloned().collect(),
            env: Vec::new(),
        };
        self.sandbox.run(&spec, argv, &mut |text| {
            self.events.emit(Event::Output { line: text.to_owned() });
            line(text);
        })
    }

    /// Runs a command that must succeed. `what` starts the error: "The treefile's postprocess script 2".
    pub fn check(&self, what: &str, argv: &[&str], binds: &[Bind]) -> Result<RunOutput> {
        let output = self.run(argv, binds, &mut |_| {})?;
        if output.code == 0 { Ok(output) } else { Err(failure(what, &output)) }
    }

    /// Runs a command and gives its standard output and error as lines.
    pub fn lines(&self, what: &str, argv: &[&str], binds: &[Bind]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let spec = SandboxSpec {
            root: self.root.to_owned(),
            binds: self.binds.iter().chain(binds).cloned().collect(),
            env: Vec::new(),
        };
        let output = self.sandbox.run(&spec, argv, &mut |text| lines.push(text.to_owned()))?;
        if output.code == 0 { Ok(lines) } else { Err(failure(what, &output)) }
    }
}

/// A read-only bind of a file or directory of this machine.
pub(crate) fn bind_in(source: impl Into<PathBuf>, target: &str) -> Bind {
    Bind { source: source.into(), target: target.to_owned(), read_only: true }
}

/// The error of a command that exited with other than 0.
pub(crate) fn failure(what: &str, output: &RunOutput) -> Error {
    const LINES: usize = 12;
    let mut message = format!("{what} failed with exit status {}", output.code);
    let tail = &output.tail[output.tail.len().saturating_sub(LINES)..];
    if !tail.is_empty() {
        message.push_str("; its last output:\n  ");
        message.push_str(&tail.join("\n  "));
    }
    let error = Error::failed(message);
    if output.reproduce.is_empty() { error } else { error.hint(format!("Run it again with: {}", output.reproduce)) }
}

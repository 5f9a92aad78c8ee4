//! Dev only: what the tests of every crate build their little worlds from.
//!
//! Helpers panic with the full output of the tool that failed: in a test that is the best error there is, and a
//! missing tool must fail the test, never skip it.

pub mod archive;
pub mod deb;
pub mod disk;
pub mod fuzz;
pub mod http;
pub mod machine;
pub mod sysroot;
pub mod vm;

use std::process::{Command, Output};

/// Runs a command to its end and returns its output.
///
/// # Panics
/// When it cannot be started or does not exit with 0, with everything it wrote.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

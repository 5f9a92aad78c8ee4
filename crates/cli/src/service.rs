//! The binary `apt-ostreed`: the service (crate `daemon`) and nothing else.
//!
//! A program of its own because it stays: the engine's libraries, which are loaded with `apt-ostree`, would be most of its memory.
//! Nothing that it calls reaches them, so the linker leaves them out (link-time optimisation, see debian/rules).
//!
//! `apt-ostreed [PROGRAM [SYSROOT [IDLE_EXIT]]]`, not for people. PROGRAM is the `apt-ostree` that works for it, if left out the
//! one that it is installed with; SYSROOT is `/`; IDLE_EXIT is a number of seconds in place of the setting.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::Context;
use apt_ostree_daemon::{Options, serve};

/// From `libexec/apt-ostree/`.
const PROGRAM: &str = "../../bin/apt-ostree";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().map_or_else(installed, |word| Ok(word.into()));
    let sysroot = words.next().map_or_else(|| "/".into(), PathBuf::from);
    let idle_exit = words.next().and_then(|word| word.to_str()?.parse().ok());
    let served =
        program.context(|| "Finding apt-ostree").and_then(|program| serve(&Options { program, sysroot, idle_exit }));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when this fails.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn installed() -> std::io::Result<PathBuf> {
    std::env::current_exe()?.with_file_name(PROGRAM).canonicalize()
}

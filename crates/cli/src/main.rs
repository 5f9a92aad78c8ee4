//! The binary `apt-ostree`: parses the command line, shows what the engine does, and is the worker process itself.
//!
//! One file per verb in `commands/`. Nothing of a transaction is done in the process a user starts: it is sent to a
//! worker process (`worker`), which is this same binary (`worker_main`).

mod args;
mod commands;
mod render;
mod terminal;
mod units;
mod worker;
mod worker_main;

use std::process::ExitCode;

fn main() -> ExitCode {
    args::run(std::env::args_os().collect())
}

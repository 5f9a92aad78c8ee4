//! The binary `apt-ostree`: parses the command line, shows what the engine does, and is the worker process itself.
//!
//! One file per verb in `commands/`. Nothing of a transaction is done in the process a user starts: it is sent to a
//! worker process, which is this same binary (`worker_main`), through the service (`client`) or directly (`worker`).

mod args;
mod client;
mod commands;
mod container;
#[cfg(test)]
mod contract;
mod render;
mod start;
mod terminal;
mod units;
mod worker;
mod worker_main;

use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    start::ensure_search_path(&argv);
    start::take_name(&argv);
    args::run(argv)
}

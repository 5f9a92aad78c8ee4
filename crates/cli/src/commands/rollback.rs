//! `rollback`: the previous deployment first.

use std::process::ExitCode;

use apt_ostree_core::operation::{Options, Verb};
use clap::Args;

use super::{App, StaterootArg, Transaction};
use crate::args::Failure;

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Initiate a reboot after operation is complete
    #[arg(short, long)]
    reboot: bool,
}

pub(crate) fn run(app: &App, args: RollbackArgs) -> Result<ExitCode, Failure> {
    app.transaction(
        Verb::Rollback,
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: Options { reboot: args.reboot, ..Options::default() },
            ..Transaction::default()
        },
    )
}

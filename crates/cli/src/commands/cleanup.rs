//! `cleanup`: drops deployments and caches.

use std::process::ExitCode;

use apt_ostree_core::operation::Verb;
use clap::Args;

use super::{App, StaterootArg, Transaction};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Clear temporary files; will leave deployments unchanged
    #[arg(short, long)]
    base: bool,
    /// Remove pending deployment
    #[arg(short, long)]
    pending: bool,
    /// Remove rollback deployment
    #[arg(short, long)]
    rollback: bool,
    /// Delete cached package lists and packages
    #[arg(short = 'm', long)]
    repomd: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(app: &App, args: CleanupArgs) -> Result<ExitCode, Failure> {
    if !(args.base || args.pending || args.rollback || args.repomd) {
        return usage("At least one cleanup option must be specified");
    }
    let verb = Verb::Cleanup { base: args.base, pending: args.pending, rollback: args.rollback, repomd: args.repomd };
    app.transaction(
        verb,
        Transaction {
            stateroot: args.stateroot.stateroot,
            json: args.json,
            no_deployment: true,
            ..Transaction::default()
        },
    )
}

//! `refresh-md`: fetches the package lists.

use std::process::ExitCode;

use apt_ostree_core::operation::Verb;
use clap::Args;

use super::{App, StaterootArg, Transaction};
use crate::args::Failure;

#[derive(Debug, Args)]
pub(crate) struct RefreshMdArgs {
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Expire current cache
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(app: &App, args: RefreshMdArgs) -> Result<ExitCode, Failure> {
    app.transaction(
        Verb::RefreshMd { force: args.force },
        Transaction { stateroot: args.stateroot.stateroot, no_deployment: true, ..Transaction::default() },
    )
}

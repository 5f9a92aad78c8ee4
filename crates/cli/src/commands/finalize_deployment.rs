//! `finalize-deployment CHECKSUM`: unlocks the staged deployment and reboots into it.

use std::process::ExitCode;

use apt_ostree_core::operation::{Options, Verb};
use clap::Args;

use super::{App, StaterootArg, Transaction};
use crate::args::Failure;

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree finalize-deployment [OPTIONS] CHECKSUM")]
pub(crate) struct FinalizeDeploymentArgs {
    /// Base commit that the staged deployment must have
    #[arg(value_name = "CHECKSUM")]
    checksum: Option<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Don't error out if no expected checksum is provided
    #[arg(long)]
    allow_missing_checksum: bool,
    /// Don't error out if staged deployment wasn't locked
    #[arg(long)]
    allow_unlocked: bool,
}

pub(crate) fn run(app: &App, args: FinalizeDeploymentArgs) -> Result<ExitCode, Failure> {
    let verb = Verb::FinalizeDeployment {
        checksum: args.checksum,
        allow_missing_checksum: args.allow_missing_checksum,
        allow_unlocked: args.allow_unlocked,
    };
    // In a directory nothing is staged; the engine says so.
    let booted = app.sysroot()? == std::path::Path::new("/");
    app.transaction(
        verb,
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: Options { reboot: booted, ..Options::default() },
            no_deployment: true,
            ..Transaction::default()
        },
    )
}

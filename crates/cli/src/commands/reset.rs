//! `reset`: drops requests, overrides and initramfs changes, all of them or a part.

use std::process::ExitCode;

use apt_ostree_core::operation::{Reset, Verb};
use clap::Args;

use super::{App, FetchArgs, FinishArgs, PackageArgs, StaterootArg, Transaction, package_changes, transaction_options};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree reset [OPTIONS]")]
pub(crate) struct ResetArgs {
    #[arg(hide = true)]
    extra: Vec<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    #[command(flatten)]
    finish: FinishArgs,
    /// Remove all overlayed packages
    #[arg(short = 'l', long)]
    overlays: bool,
    /// Remove all overrides
    #[arg(short = 'o', long)]
    overrides: bool,
    /// Stop regenerating initramfs or tracking files
    #[arg(short = 'i', long)]
    initramfs: bool,
    #[command(flatten)]
    packages: PackageArgs,
    /// Exit after printing the transaction
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(app: &App, args: ResetArgs) -> Result<ExitCode, Failure> {
    if let Some(extra) = args.extra.first() {
        return usage(format!("Unexpected argument '{extra}'"));
    }
    let packages = package_changes(args.packages)?;
    // What stays was fetched when it was asked for; only something new needs the network.
    let cache_only = packages.install.is_empty() && packages.install_local.is_empty();
    let fetch = FetchArgs { cache_only, download_only: false };
    app.transaction(
        Verb::Reset(Reset { overlays: args.overlays, overrides: args.overrides, initramfs: args.initramfs, packages }),
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: transaction_options(args.dry_run, &fetch, &args.finish),
            json: args.json,
            ..Transaction::default()
        },
    )
}

//! `initramfs`: shows or changes whether the initramfs is made on this machine.

use std::process::ExitCode;

use apt_ostree_core::operation::{InitramfsChange, Options, Verb};
use apt_ostree_core::{Error, Result};
use clap::Args;

use super::{App, StaterootArg, Transaction, pending_origin};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree initramfs [OPTIONS]")]
pub(crate) struct InitramfsArgs {
    #[arg(hide = true)]
    extra: Vec<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Enable regenerating initramfs locally using dracut
    #[arg(long)]
    enable: bool,
    /// Append ARG to the dracut arguments
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// Disable regenerating initramfs locally
    #[arg(long)]
    disable: bool,
    /// Initiate a reboot after operation is complete
    #[arg(short, long)]
    reboot: bool,
    /// Prevent automatic deployment finalization on shutdown
    #[arg(long)]
    lock_finalization: bool,
}

pub(crate) fn run(app: &App, args: InitramfsArgs) -> Result<ExitCode, Failure> {
    if let Some(extra) = args.extra.first() {
        return usage(format!("Unexpected argument '{extra}'"));
    }
    if args.enable && args.disable {
        return Err(Error::usage("Cannot simultaneously specify --enable and --disable").into());
    }
    if args.disable && !args.arg.is_empty() {
        return Err(Error::usage("Cannot simultaneously specify --disable and --arg").into());
    }
    if !args.enable && !args.disable {
        if args.reboot {
            return Err(Error::usage("--reboot must be used with --enable or --disable").into());
        }
        if !args.arg.is_empty() {
            return Err(Error::usage("--arg must be used with --enable").into());
        }
        let origin = pending_origin(app, args.stateroot.stateroot.as_deref())?;
        let state = if origin.regenerate_initramfs { "enabled" } else { "disabled" };
        app.terminal.line(&format!("Initramfs regeneration: {state}"));
        if !origin.initramfs_args.is_empty() {
            app.terminal.line(&format!("Initramfs args: {}", origin.initramfs_args.join(" ")));
        }
        return Ok(ExitCode::SUCCESS);
    }
    app.transaction(
        Verb::Initramfs(InitramfsChange { enable: args.enable, args: args.arg }),
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: Options { reboot: args.reboot, lock_finalization: args.lock_finalization, ..Options::default() },
            // The contract has no difference and no word of a reboot here.
            no_deployment: true,
            ..Transaction::default()
        },
    )
}

//! `initramfs-etc`: shows or changes which files of /etc the initramfs has.

use std::process::ExitCode;

use apt_ostree_core::operation::{InitramfsEtcChange, Options, Verb};
use apt_ostree_core::{Error, Result};
use clap::Args;

use super::{App, StaterootArg, Transaction, pending_origin};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree initramfs-etc [OPTIONS]")]
pub(crate) struct InitramfsEtcArgs {
    #[arg(hide = true)]
    extra: Vec<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Deploy a new tree with the latest tracked /etc files
    #[arg(long)]
    force_sync: bool,
    /// Track root /etc file
    #[arg(long, value_name = "FILE")]
    track: Vec<String>,
    /// Untrack root /etc file
    #[arg(long, value_name = "FILE")]
    untrack: Vec<String>,
    /// Untrack all root /etc files
    #[arg(long)]
    untrack_all: bool,
    /// Initiate a reboot after operation is complete
    #[arg(short, long)]
    reboot: bool,
    /// Prevent automatic deployment finalization on shutdown
    #[arg(long)]
    lock_finalization: bool,
    /// If no new deployment made, exit 77
    #[arg(long)]
    unchanged_exit_77: bool,
}

pub(crate) fn run(app: &App, args: InitramfsEtcArgs) -> Result<ExitCode, Failure> {
    if let Some(extra) = args.extra.first() {
        return usage(format!("Unexpected argument '{extra}'"));
    }
    let changes = args.force_sync || args.untrack_all || !args.track.is_empty() || !args.untrack.is_empty();
    if !changes {
        if args.reboot {
            let text = "Cannot use --reboot without --track, --untrack, --untrack-all, or --force-sync";
            return Err(Error::usage(text).into());
        }
        let origin = pending_origin(app, args.stateroot.stateroot.as_deref())?;
        app.terminal.line(if origin.initramfs_etc.is_empty() { "No tracked files." } else { "Tracked files:" });
        for file in &origin.initramfs_etc {
            app.terminal.line(&format!("  {file}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    app.transaction(
        Verb::InitramfsEtc(InitramfsEtcChange {
            track: args.track,
            untrack: args.untrack,
            untrack_all: args.untrack_all,
            force_sync: args.force_sync,
        }),
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: Options { reboot: args.reboot, lock_finalization: args.lock_finalization, ..Options::default() },
            unchanged_exit_77: args.unchanged_exit_77,
            ..Transaction::default()
        },
    )
}

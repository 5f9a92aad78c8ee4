//! `start-daemon`: the service. Started by the bus, not by people.

use std::process::ExitCode;

use apt_ostree_daemon as daemon;
use clap::Args;

use super::App;
use crate::args::Failure;

#[derive(Debug, Args)]
pub(crate) struct StartDaemonArgs {
    /// Accepted for compatibility: what the service does is in the journal
    #[arg(short, long)]
    debug: bool,
    /// Exit after SECONDS without a client; 0: never
    #[arg(long, value_name = "SECONDS", hide = true)]
    idle_exit: Option<u64>,
}

pub(crate) fn run(app: &App, args: &StartDaemonArgs) -> Result<ExitCode, Failure> {
    let sysroot = app.sysroot()?;
    app.require_root()?;
    daemon::serve(&daemon::Options { sysroot, idle_exit: args.idle_exit })?;
    Ok(ExitCode::SUCCESS)
}

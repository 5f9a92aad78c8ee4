//! `apply-live`: the pending deployment's tree on the running system.

use std::path::Path;
use std::process::ExitCode;

use apt_ostree_core::operation::{ApplyLive, Verb};
use apt_ostree_core::{Error, ErrorKind};
use clap::Args;

use super::{App, Transaction};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
pub(crate) struct ApplyLiveArgs {
    /// Target provided commit instead of pending deployment
    #[arg(long, value_name = "COMMIT")]
    target: Option<String>,
    /// Reset back to booted commit
    #[arg(long)]
    reset: bool,
    /// Allow replacement of packages/files (default is pure additive)
    #[arg(long)]
    allow_replacement: bool,
    /// Allow replacing what every process stands on, such as the C library or systemd
    #[arg(long)]
    allow_core: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(app: &App, args: ApplyLiveArgs) -> Result<ExitCode, Failure> {
    if args.target.is_some() && args.reset {
        return usage("Cannot specify both --target and --reset");
    }
    let how = ApplyLive {
        target: args.target,
        reset: args.reset,
        allow_replacement: args.allow_replacement,
        allow_core: args.allow_core,
    };
    apply(app, how, args.json)
}

fn apply(app: &App, how: ApplyLive, json: bool) -> Result<ExitCode, Failure> {
    let transaction = Transaction { json, no_deployment: true, ..Transaction::default() };
    app.transaction(Verb::ApplyLive(how), transaction).map_err(|failure| match failure {
        Failure::Error(mut error) if may_have_begun(&error) => {
            // That is said of transactions that make deployments.
            error.hints.retain(|hint| !hint.starts_with("Nothing was changed"));
            let hint = "If it had begun, `apt-ostree status` shows it. Run it again to bring it to its end, or with --reset to undo it.";
            Failure::Error(error.with_kind(ErrorKind::Failed).hint(hint))
        }
        failure => failure,
    })
}

fn may_have_begun(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Cancelled | ErrorKind::Space | ErrorKind::Failed)
}

/// For `install --apply-live` and `uninstall --apply-live`, once the new deployment is there.
pub(crate) fn after_change(app: &App, removals: bool) -> Result<ExitCode, Failure> {
    let how = ApplyLive { allow_replacement: removals, ..ApplyLive::default() };
    apply(app, how, false)
}

/// What `--apply-live` cannot go together with.
pub(crate) fn check(app: &App, given: bool, transaction: &Transaction) -> Result<(), Failure> {
    if !given {
        return Ok(());
    }
    let options = &transaction.options;
    if options.reboot {
        return usage("Cannot specify both --apply-live and --reboot");
    }
    if transaction.json {
        return usage("Cannot specify both --apply-live and --json");
    }
    if app.sysroot()? != Path::new("/") {
        return Err(Error::usage("--apply-live changes the running system, not one in a directory").into());
    }
    Ok(())
}

//! `upgrade`: moves to the newest base and the newest layered packages.

use std::path::Path;
use std::process::ExitCode;

use apt_ostree_core::model::settings::UpdatePolicy;
use apt_ostree_core::operation::{Verb, automatic};
use apt_ostree_core::sysroot::Sysroot;
use apt_ostree_core::{Result, settings};
use clap::Args;

use super::{App, FetchArgs, FinishArgs, PackageArgs, StaterootArg, Transaction, package_changes, transaction_options};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    stateroot: StaterootArg,
    #[command(flatten)]
    finish: FinishArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    #[command(flatten)]
    packages: PackageArgs,
    /// Permit deployment of chronologically older trees
    #[arg(long)]
    allow_downgrade: bool,
    /// Permit deployment of a tree that failed to boot before
    #[arg(long)]
    allow_failed: bool,
    /// Just preview package differences
    #[arg(long, alias = "check-diff")]
    preview: bool,
    /// Just check if an upgrade is available
    #[arg(long)]
    check: bool,
    /// Exit after printing the transaction
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// If no new deployment made, exit 77
    #[arg(long, alias = "upgrade-unchanged-exit-77")]
    unchanged_exit_77: bool,
    /// For automated use only; triggered by automatic timer
    #[arg(long, hide = true)]
    trigger_automatic_update_policy: bool,
    /// Force an upgrade even if an updates driver is registered
    #[arg(long)]
    bypass_driver: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

fn policy(app: &App, stateroot: &StaterootArg) -> Result<UpdatePolicy> {
    let sysroot = Sysroot::open(&app.sysroot()?)?;
    Ok(settings::of_sysroot(&sysroot, stateroot.stateroot.as_deref())?.update_policy)
}

/// What the timer starts. That there is no update, or none but one that failed to boot, is no failure of its service.
fn run_automatic(app: &App, args: UpgradeArgs) -> Result<ExitCode, Failure> {
    let policy = policy(app, &args.stateroot)?;
    let Some((verb, mut options)) = automatic::transaction(policy) else {
        app.terminal.line("Automatic updates are not enabled; exiting...");
        return Ok(ExitCode::SUCCESS);
    };
    app.refuse_driven(args.bypass_driver)?;
    // A system in a directory has nothing that could be restarted.
    options.reboot &= app.sysroot()? == Path::new("/");
    let how = Transaction {
        stateroot: args.stateroot.stateroot,
        options,
        json: args.json,
        check: policy == UpdatePolicy::Check,
        ..Transaction::default()
    };
    match app.transaction(verb, how) {
        Err(Failure::Error(error)) if error.nothing_to_do => app.terminal.notice(&error.to_string()),
        outcome => drop(outcome?),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(app: &App, args: UpgradeArgs) -> Result<ExitCode, Failure> {
    if args.finish.reboot && (args.preview || args.check) {
        return usage(format!("cannot specify both --reboot and --{}", if args.preview { "preview" } else { "check" }));
    }
    let package_args = !args.packages.install.is_empty() || !args.packages.uninstall.is_empty();
    if (args.preview || args.check) && package_args {
        return usage("Cannot specify both --preview and --install/--uninstall");
    }
    if args.trigger_automatic_update_policy {
        return run_automatic(app, args);
    }
    let look_only = args.preview || args.check || args.dry_run;
    if !look_only {
        app.refuse_driven(args.bypass_driver)?;
    } else if !args.json && policy(app, &args.stateroot)? == UpdatePolicy::Stage {
        app.terminal.notice("note: automatic updates (stage) are enabled");
    }
    let (preview, check) = (args.preview, args.check && !args.preview);
    let changes = package_changes(args.packages)?;
    let (allow_downgrade, allow_failed) = (args.allow_downgrade, args.allow_failed);
    let verb = Verb::Upgrade { changes, allow_downgrade, allow_failed, check, preview };
    app.transaction(
        verb,
        Transaction {
            stateroot: args.stateroot.stateroot,
            options: transaction_options(args.dry_run, &args.fetch, &args.finish),
            unchanged_exit_77: args.unchanged_exit_77,
            json: args.json,
            check,
            preview,
            ..Transaction::default()
        },
    )
}

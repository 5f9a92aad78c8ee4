//! `deploy REVISION`: a chosen commit of the branch.

use std::process::ExitCode;

use apt_ostree_core::operation::Verb;
use clap::Args;

use super::{App, FetchArgs, FinishArgs, PackageArgs, StaterootArg, Transaction, package_changes, transaction_options};
use crate::args::{Failure, not_available, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree deploy [OPTIONS] REVISION")]
pub(crate) struct DeployArgs {
    /// A checksum, revision=CHECKSUM, version=VERSION, or a version
    #[arg(value_name = "REVISION")]
    revision: Option<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    #[command(flatten)]
    finish: FinishArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    #[command(flatten)]
    packages: PackageArgs,
    /// Just preview package differences
    #[arg(long)]
    preview: bool,
    /// Do not check if commit belongs on the same branch
    #[arg(long)]
    skip_branch_check: bool,
    /// Forbid deployment of chronologically older trees
    #[arg(long)]
    disallow_downgrade: bool,
    /// Exit after printing the transaction
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// If no new deployment made, exit 77
    #[arg(long)]
    unchanged_exit_77: bool,
    #[arg(long, value_name = "DRIVERNAME", hide = true)]
    register_driver: Option<String>,
    /// Force a deploy even if an updates driver is registered
    #[arg(long)]
    bypass_driver: bool,
    #[arg(long, value_name = "BOOL", hide = true)]
    ex_cliwrap: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(app: &App, args: DeployArgs) -> Result<ExitCode, Failure> {
    let why = "update drivers are not registered";
    not_available(args.register_driver.is_some(), "--register-driver", why)?;
    not_available(args.ex_cliwrap.is_some(), "--ex-cliwrap", "no host programs are wrapped")?;
    let Some(revision) = args.revision.filter(|r| !r.is_empty()) else {
        return usage("REVISION must be specified");
    };
    if args.preview && args.finish.reboot {
        return usage("Cannot specify both --preview and --reboot");
    }
    if args.preview && !(args.packages.install.is_empty() && args.packages.uninstall.is_empty()) {
        return usage("Cannot specify both --preview and --install/--uninstall");
    }
    let changes = package_changes(args.packages)?;
    let verb = Verb::Deploy {
        revision,
        changes,
        preview: args.preview,
        skip_branch_check: args.skip_branch_check,
        disallow_downgrade: args.disallow_downgrade,
    };
    let how = Transaction {
        stateroot: args.stateroot.stateroot,
        options: transaction_options(args.dry_run, &args.fetch, &args.finish),
        unchanged_exit_77: args.unchanged_exit_77,
        json: args.json,
        diff_preview: args.preview,
        ..Transaction::default()
    };
    app.transaction(verb, how)
}

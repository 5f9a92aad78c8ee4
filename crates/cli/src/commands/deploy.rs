//! `deploy REVISION`: a chosen commit of the branch.

use std::path::Path;
use std::process::ExitCode;

use apt_ostree_core::Error;
use apt_ostree_core::operation::Verb;
use apt_ostree_core::update_driver::{self, UpdateDriver};
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
    /// Register the calling service as the updates driver; with an empty REVISION nothing else
    #[arg(long, value_name = "DRIVERNAME")]
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

/// The unit that this runs in, as what drives updates. The service takes its own word for the unit.
fn driver(app: &App, name: String) -> Result<UpdateDriver, Failure> {
    if app.sysroot()? != Path::new("/") {
        return usage("--register-driver is for the booted system, not for one in a directory");
    }
    let unit = update_driver::unit_of_process("self").ok_or_else(|| {
        Error::usage(format!("The update driver {name} does not run in a systemd unit"))
            .hint("A driver is a service: the unit tells whether it is at work.")
    })?;
    Ok(UpdateDriver { name, unit })
}

pub(crate) fn run(app: &App, args: DeployArgs) -> Result<ExitCode, Failure> {
    not_available(args.ex_cliwrap.is_some(), "--ex-cliwrap", "no host programs are wrapped")?;
    let revision = args.revision.unwrap_or_default();
    if revision.is_empty() && args.register_driver.is_none() {
        return usage("REVISION must be specified");
    }
    if args.preview && args.finish.reboot {
        return usage("Cannot specify both --preview and --reboot");
    }
    if args.preview && !(args.packages.install.is_empty() && args.packages.uninstall.is_empty()) {
        return usage("Cannot specify both --preview and --install/--uninstall");
    }
    let driver = args.register_driver.map(|name| driver(app, name)).transpose()?;
    let only_registers = revision.is_empty();
    if !(args.preview || args.dry_run || driver.is_some()) {
        app.refuse_driven(args.bypass_driver)?;
    }
    let changes = package_changes(args.packages)?;
    let verb = Verb::Deploy {
        revision,
        changes,
        preview: args.preview,
        skip_branch_check: args.skip_branch_check,
        disallow_downgrade: args.disallow_downgrade,
        driver,
    };
    let how = Transaction {
        stateroot: args.stateroot.stateroot,
        options: transaction_options(args.dry_run, &args.fetch, &args.finish),
        unchanged_exit_77: args.unchanged_exit_77,
        json: args.json,
        diff_preview: args.preview,
        no_deployment: only_registers,
        ..Transaction::default()
    };
    app.transaction(verb, how)
}

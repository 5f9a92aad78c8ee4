//! `install PKG…`: adds requests to the origin.

use std::process::ExitCode;

use apt_ostree_core::operation::{PackageChanges, Verb};
use clap::Args;

use super::{App, FetchArgs, FinishArgs, RepoArgs, StaterootArg, Transaction, sort_packages, transaction_options};
use crate::args::{Failure, not_available, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree install [OPTIONS] PACKAGE…")]
pub(crate) struct InstallArgs {
    /// NAME, NAME:ARCH, NAME=VERSION, NAME/SUITE, or the path of a .deb
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Remove overlayed additional package
    #[arg(long, value_name = "PKG")]
    uninstall: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    /// Apply changes to both pending deployment and running filesystem tree
    #[arg(short = 'A', long, hide = true)]
    apply_live: bool,
    #[arg(long, hide = true)]
    force_replacefiles: bool,
}

/// Options that `install` and `uninstall` share.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    pub(crate) stateroot: StaterootArg,
    #[command(flatten)]
    pub(crate) finish: FinishArgs,
    /// Exit after printing the transaction
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Auto-confirm interactive prompts for non-security questions
    #[arg(short = 'y', long)]
    assumeyes: bool,
    /// Allow inactive package requests
    #[arg(long)]
    pub(crate) allow_inactive: bool,
    /// Do nothing if package already (un)installed
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// If no overlays were changed, exit 77
    #[arg(long)]
    pub(crate) unchanged_exit_77: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) repos: RepoArgs,
}

impl ChangeArgs {
    pub(crate) fn transaction(self, fetch: &FetchArgs) -> Transaction {
        Transaction {
            stateroot: self.stateroot.stateroot,
            options: transaction_options(self.dry_run, fetch, &self.finish),
            unchanged_exit_77: self.unchanged_exit_77,
            json: self.json,
            ..Transaction::default()
        }
    }
}

pub(crate) fn run(app: &App, args: InstallArgs) -> Result<ExitCode, Failure> {
    if args.packages.is_empty() {
        return usage("At least one PACKAGE must be specified");
    }
    not_available(
        args.apply_live,
        "--apply-live",
        "changes reach the running system with the next boot only; leave the option out",
    )?;
    not_available(args.force_replacefiles, "--force-replacefiles", "files of other packages are never replaced")?;
    args.change.repos.check()?;
    let mut changes = PackageChanges {
        uninstall: args.uninstall,
        idempotent: args.change.idempotent,
        allow_inactive: args.change.allow_inactive,
        ..PackageChanges::default()
    };
    sort_packages(&mut changes, args.packages)?;
    app.transaction(Verb::PkgChange { changes }, args.change.transaction(&args.fetch))
}

//! `install PKG…`: adds requests to the origin.

use std::io::IsTerminal;
use std::process::ExitCode;

use apt_ostree_core::Error;
use apt_ostree_core::operation::{Options, PackageChanges, Verb};
use clap::Args;

use super::{
    App, FetchArgs, FinishArgs, RepoArgs, StaterootArg, Transaction, apply_live, sort_packages, transaction_options,
};
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
    /// Apply changes to both pending deployment and running filesystem tree
    #[arg(short = 'A', long)]
    apply_live: bool,
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

pub(crate) fn run(app: &App, mut args: InstallArgs) -> Result<ExitCode, Failure> {
    if args.packages.is_empty() {
        return usage("At least one PACKAGE must be specified");
    }
    not_available(args.force_replacefiles, "--force-replacefiles", "files of other packages are never replaced")?;
    args.change.repos.apply(&mut args.packages)?;
    let mut changes = PackageChanges {
        uninstall: args.uninstall,
        idempotent: args.change.idempotent,
        allow_inactive: args.change.allow_inactive,
        ..PackageChanges::default()
    };
    sort_packages(&mut changes, args.packages)?;
    let removals = !changes.uninstall.is_empty();
    run_change(app, changes, args.change, &args.fetch, removals)
}

/// Makes the deployment, and with `--apply-live` brings it to the running system. `removals`: packages were asked to go.
pub(crate) fn run_change(
    app: &App,
    changes: PackageChanges,
    change: ChangeArgs,
    fetch: &FetchArgs,
    removals: bool,
) -> Result<ExitCode, Failure> {
    let (live, confirmed) = (change.apply_live, change.assumeyes);
    let mut transaction = change.transaction(fetch);
    let verb = Verb::PkgChange { changes };
    // There every change is live.
    let live = live && !app.in_container();
    apply_live::check(app, live, &transaction)?;
    let only_looks = transaction.options.dry_run || transaction.options.download_only;
    if !live || only_looks {
        return app.transaction(verb, transaction);
    }
    if !confirmed && !confirm(app, &verb, &transaction)? {
        return Err(Error::usage("Operation aborted").into());
    }
    transaction.apply_live = true;
    let code = app.transaction(verb, transaction)?;
    // 77: nothing new, so nothing to bring.
    if code != ExitCode::SUCCESS { Ok(code) } else { apply_live::after_change(app, removals) }
}

/// Shows what would be done, and asks. Nobody is asked where nobody can answer.
fn confirm(app: &App, verb: &Verb, transaction: &Transaction) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        app.terminal.notice("notice: auto-inferring -y/--assumeyes (stdin is not a terminal)");
        return Ok(true);
    }
    let options = Options { dry_run: true, ..transaction.options.clone() };
    let look = Transaction { stateroot: transaction.stateroot.clone(), options, ..Transaction::default() };
    app.transaction(verb.clone(), look)?;
    app.terminal.print("Continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

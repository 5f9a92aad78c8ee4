//! `override remove|replace|reset`: base packages that go, or that another version takes the place of.

use std::process::ExitCode;

use apt_ostree_core::Result;
use apt_ostree_core::operation::{OverrideChange, PackageChanges, Verb};
use clap::{Args, Subcommand};

use super::{
    App, FetchArgs, FinishArgs, PackageArgs, StaterootArg, Transaction, package_changes, sort_packages,
    transaction_options,
};
use crate::args::{Failure, not_available, usage};
use crate::start;

#[derive(Debug, Args)]
pub(crate) struct OverrideArgs {
    #[command(subcommand)]
    command: Override,
}

#[derive(Debug, Subcommand)]
enum Override {
    /// Remove packages from the base layer
    Remove(RemoveArgs),
    /// Replace packages in the base layer
    Replace(ReplaceArgs),
    /// Reset currently active package overrides
    Reset(ResetArgs),
}

/// What the three have in common.
#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    stateroot: StaterootArg,
    #[command(flatten)]
    finish: FinishArgs,
    /// Exit after printing the transaction
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not download latest ostree and package data
    #[arg(short = 'C', long)]
    cache_only: bool,
    #[command(flatten)]
    packages: PackageArgs,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree override remove [OPTIONS] PACKAGE…")]
struct RemoveArgs {
    /// NAME or NAME:ARCH of a package of the base
    #[arg(value_name = "PACKAGE")]
    names: Vec<String>,
    /// Replace a package
    #[arg(long, value_name = "PACKAGE")]
    replace: Vec<String>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree override replace [OPTIONS] PACKAGE…")]
struct ReplaceArgs {
    /// The path of a .deb, NAME=VERSION, NAME/SUITE, or NAME with --from
    #[arg(value_name = "PACKAGE")]
    names: Vec<String>,
    /// Remove a package
    #[arg(long, value_name = "PACKAGE")]
    remove: Vec<String>,
    /// Take the packages that are named without a version from suite=SUITE or repo=ID
    #[arg(long, value_name = "KIND=NAME")]
    from: Option<String>,
    #[arg(long, hide = true)]
    experimental: bool,
    #[arg(long, hide = true)]
    freeze: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree override reset [OPTIONS] PACKAGE…")]
struct ResetArgs {
    /// NAME, NAME:ARCH, or NAME-VERSION.ARCH of a local package
    #[arg(value_name = "PACKAGE")]
    names: Vec<String>,
    /// Reset all active overrides
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn run(app: &App, args: OverrideArgs) -> Result<ExitCode, Failure> {
    let mut change = OverrideChange::default();
    let (common, hint) = match args.command {
        Override::Remove(args) => {
            if args.names.is_empty() {
                return usage("At least one PACKAGE must be specified");
            }
            change.remove = args.names;
            sort_replacements(&mut change, args.replace)?;
            (args.common, true)
        }
        Override::Replace(args) => {
            if args.names.is_empty() {
                return usage("At least one PACKAGE must be specified");
            }
            not_available(args.freeze, "--freeze", "name the version instead: NAME=VERSION")?;
            change.remove = args.remove;
            change.from = args.from;
            sort_replacements(&mut change, args.names)?;
            (args.common, true)
        }
        Override::Reset(args) => {
            if args.names.is_empty() && !args.all {
                return usage("At least one PACKAGE must be specified");
            }
            if !args.names.is_empty() && args.all {
                return usage("Cannot specify both --all and PACKAGE");
            }
            change.reset = args.names;
            change.reset_all = args.all;
            (args.common, false)
        }
    };
    change.packages = package_changes(common.packages)?;
    let fetch = FetchArgs { cache_only: common.cache_only, download_only: false };
    app.transaction(
        Verb::Override(change),
        Transaction {
            stateroot: common.stateroot.stateroot,
            options: transaction_options(common.dry_run, &fetch, &common.finish),
            json: common.json,
            after_diff: hint.then(|| format!("Use \"{} override reset\" to undo overrides", start::name())),
            ..Transaction::default()
        },
    )
}

/// Local .deb files and names.
fn sort_replacements(change: &mut OverrideChange, names: Vec<String>) -> Result<()> {
    let mut sorted = PackageChanges::default();
    sort_packages(&mut sorted, names)?;
    change.replace = sorted.install;
    change.replace_local = sorted.install_local;
    Ok(())
}

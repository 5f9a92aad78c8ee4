//! `uninstall PKG…`: drops requests from the origin.

use std::process::ExitCode;

use apt_ostree_core::operation::PackageChanges;
use clap::Args;

use super::install::{ChangeArgs, run_change};
use super::{App, FetchArgs, sort_packages};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree uninstall [OPTIONS] PACKAGE…")]
pub(crate) struct UninstallArgs {
    /// A request as it was made, or the NAME-VERSION.ARCH of a local package
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Overlay additional package
    #[arg(long, value_name = "PKG")]
    install: Vec<String>,
    /// Remove all overlayed additional packages
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    change: ChangeArgs,
    /// Do not download anything
    #[arg(short = 'C', long)]
    cache_only: bool,
}

pub(crate) fn run(app: &App, mut args: UninstallArgs) -> Result<ExitCode, Failure> {
    if args.packages.is_empty() && !args.all {
        return usage("At least one PACKAGE must be specified");
    }
    if !args.packages.is_empty() && args.all {
        return usage("Cannot specify both --all and PACKAGE");
    }
    args.change.repos.apply(&mut args.install)?;
    let mut changes = PackageChanges {
        uninstall: args.packages,
        uninstall_all: args.all,
        idempotent: args.change.idempotent,
        allow_inactive: args.change.allow_inactive,
        ..PackageChanges::default()
    };
    sort_packages(&mut changes, args.install)?;
    let fetch = FetchArgs { cache_only: args.cache_only, download_only: false };
    run_change(app, changes, args.change, &fetch, true)
}

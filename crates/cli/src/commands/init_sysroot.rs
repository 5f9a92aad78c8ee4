//! `init-sysroot REFSPEC`: from an empty directory to a first deployment, what `ostree admin init-fs`,
//! `ostree admin stateroot-init`, a pull and a first deploy do.

use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::operation::{InitSysroot, Verb};
use clap::Args;

use super::{App, StaterootArg, Transaction};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree --sysroot=DIR init-sysroot [OPTIONS] REFSPEC")]
pub(crate) struct InitSysrootArgs {
    /// REMOTE:BRANCH, or BRANCH of --pull-local
    #[arg(value_name = "REFSPEC")]
    refspec: Option<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Add this remote
    #[arg(long, value_name = "NAME=URL")]
    remote: Option<String>,
    /// Trust the OpenPGP keys of FILE for the remote
    #[arg(long, value_name = "FILE")]
    gpg_import: Vec<PathBuf>,
    /// Do not verify signatures of the remote
    #[arg(long)]
    no_gpg_verify: bool,
    /// Take the commit from a local repository
    #[arg(long, value_name = "REPO")]
    pull_local: Option<PathBuf>,
    /// Kernel argument of the first deployment
    #[arg(long, value_name = "KEY=VALUE")]
    karg: Vec<String>,
}

pub(crate) fn run(app: &App, args: InitSysrootArgs) -> Result<ExitCode, Failure> {
    if app.given_sysroot()?.is_none() {
        return usage("--sysroot=DIR must be specified");
    }
    let Some(refspec) = args.refspec.filter(|r| !r.is_empty()) else {
        return usage("REFSPEC must be specified");
    };
    let remote = match args.remote.as_deref().map(|r| r.split_once('=')) {
        None => None,
        Some(Some((name, url))) if !name.is_empty() && !url.is_empty() => Some((name.to_owned(), url.to_owned())),
        Some(_) => return usage("--remote expects NAME=URL"),
    };
    if remote.is_none() && args.pull_local.is_none() {
        return usage("One of --remote and --pull-local must be specified: there is nothing to deploy yet");
    }
    if args.no_gpg_verify && !args.gpg_import.is_empty() {
        return usage("Cannot specify both --gpg-import and --no-gpg-verify");
    }
    let absolute = |path: &PathBuf| std::path::absolute(path);
    let verb = Verb::InitSysroot(InitSysroot {
        refspec,
        remote,
        gpg_keys: args.gpg_import.iter().map(absolute).collect::<Result<_, _>>()?,
        no_gpg_verify: args.no_gpg_verify,
        pull_local: args.pull_local.as_ref().map(absolute).transpose()?,
        kargs: args.karg,
        grub: false,
    });
    app.transaction(
        verb,
        Transaction { stateroot: args.stateroot.stateroot, no_deployment: true, ..Transaction::default() },
    )
}

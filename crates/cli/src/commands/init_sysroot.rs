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
    #[command(flatten)]
    remote: RemoteArgs,
    /// Take the commit from a local repository
    #[arg(long, value_name = "REPO")]
    pull_local: Option<PathBuf>,
    /// Kernel argument of the first deployment
    #[arg(long, value_name = "KEY=VALUE")]
    karg: Vec<String>,
}

/// The remote of a machine that is being made, and whom to trust about it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RemoteArgs {
    /// Remote that the machine takes commits from
    #[arg(long, value_name = "NAME=URL")]
    remote: Option<String>,
    /// Trust the OpenPGP keys of FILE for the remote
    #[arg(long, value_name = "FILE")]
    gpg_import: Vec<PathBuf>,
    /// Do not verify signatures of the remote
    #[arg(long)]
    pub(crate) no_gpg_verify: bool,
}

impl RemoteArgs {
    /// `NAME=URL`, taken apart; what cannot be meant is a usage error.
    pub(crate) fn name_and_url(&self) -> Result<Option<(String, String)>, Failure> {
        let remote = match self.remote.as_deref().map(|r| r.split_once('=')) {
            None => None,
            Some(Some((name, url))) if !name.is_empty() && !url.is_empty() => Some((name.to_owned(), url.to_owned())),
            Some(_) => return usage("--remote expects NAME=URL"),
        };
        if self.no_gpg_verify && !self.gpg_import.is_empty() {
            return usage("Cannot specify both --gpg-import and --no-gpg-verify");
        }
        Ok(remote)
    }

    /// The key files, absolute.
    pub(crate) fn keys(&self) -> std::io::Result<Vec<PathBuf>> {
        self.gpg_import.iter().map(std::path::absolute).collect()
    }

    /// Options that mean nothing without a remote.
    pub(crate) fn says_whom_to_trust(&self) -> bool {
        self.no_gpg_verify || !self.gpg_import.is_empty()
    }
}

pub(crate) fn run(app: &App, args: InitSysrootArgs) -> Result<ExitCode, Failure> {
    if app.given_sysroot()?.is_none() {
        return usage("--sysroot=DIR must be specified");
    }
    let Some(refspec) = args.refspec.filter(|r| !r.is_empty()) else {
        return usage("REFSPEC must be specified");
    };
    let remote = args.remote.name_and_url()?;
    if remote.is_none() && args.pull_local.is_none() {
        return usage("One of --remote and --pull-local must be specified: there is nothing to deploy yet");
    }
    let verb = Verb::InitSysroot(InitSysroot {
        refspec,
        remote,
        gpg_keys: args.remote.keys()?,
        no_gpg_verify: args.remote.no_gpg_verify,
        pull_local: args.pull_local.map(std::path::absolute).transpose()?,
        kargs: args.karg,
        grub: false,
    });
    app.transaction(
        verb,
        Transaction { stateroot: args.stateroot.stateroot, no_deployment: true, ..Transaction::default() },
    )
}

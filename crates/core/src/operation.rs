//! The verbs: what a transaction is asked ([`Request`]), what it answers ([`Report`]); one file per verb, each
//! `plan` first and then `execute`. A request is plain data, because it crosses a pipe to the worker process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::diff::PackageDiff;
use crate::plan::Plan;

/// One transaction: on which sysroot, how, and what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The physical root that has `ostree/` and `boot/`. `/` on a booted system.
    pub sysroot: PathBuf,
    /// `--stateroot`; absent means the booted or the only one.
    pub stateroot: Option<String>,
    #[serde(flatten)]
    pub verb: Verb,
    #[serde(default)]
    pub options: Options,
}

/// Options that several verbs share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Print the plan and stop.
    pub dry_run: bool,
    pub download_only: bool,
    /// `-C`: no network.
    pub cache_only: bool,
    pub reboot: bool,
    pub lock_finalization: bool,
    /// Further `APT::…`-independent quirk directories, e.g. `/etc/apt-ostree/quirks.d`.
    pub quirk_dirs: Vec<PathBuf>,
    /// The command line, for the commit and the history.
    pub command_line: String,
}

/// Changes to the requests of the origin; any of the package-aware verbs can carry them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PackageChanges {
    /// Requests to add, in the user's words.
    pub install: Vec<String>,
    /// Requests to drop.
    pub uninstall: Vec<String>,
    /// Local .deb files to add, absolute paths.
    pub install_local: Vec<PathBuf>,
    /// Drop every request.
    pub uninstall_all: bool,
    /// No error when already requested or already absent.
    pub idempotent: bool,
    /// Accept a request the base already satisfies.
    pub allow_inactive: bool,
}

impl PackageChanges {
    pub fn is_empty(&self) -> bool {
        self.install.is_empty() && self.uninstall.is_empty() && self.install_local.is_empty() && !self.uninstall_all
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// `install` and `uninstall`.
    PkgChange {
        changes: PackageChanges,
    },
    Upgrade {
        changes: PackageChanges,
        allow_downgrade: bool,
        check: bool,
        preview: bool,
    },
    Deploy {
        revision: String,
        changes: PackageChanges,
        preview: bool,
        skip_branch_check: bool,
        disallow_downgrade: bool,
    },
    Rebase(Rebase),
    Rollback,
    Cleanup {
        base: bool,
        pending: bool,
        rollback: bool,
        repomd: bool,
    },
    Kargs(KargsChange),
    RefreshMd {
        force: bool,
    },
    /// From an empty directory to a first deployment.
    InitSysroot(InitSysroot),
}

/// `rebase REFSPEC [REVISION]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rebase {
    /// As typed; empty when only `--branch`/`--remote` are given.
    pub refspec: String,
    pub revision: Option<String>,
    pub branch: Option<String>,
    pub remote: Option<String>,
    pub skip_purge: bool,
    pub disallow_downgrade: bool,
    pub custom_origin_url: Option<String>,
    pub custom_origin_description: Option<String>,
    pub changes: PackageChanges,
}

/// `kargs`, in order of application: delete, replace, append, append-if-missing, delete-if-present.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KargsChange {
    pub deploy_index: Option<usize>,
    pub import_proc_cmdline: bool,
    pub append: Vec<String>,
    pub replace: Vec<String>,
    pub delete: Vec<String>,
    pub append_if_missing: Vec<String>,
    pub delete_if_present: Vec<String>,
    /// The whole new line, from `--editor`.
    pub set: Option<String>,
    /// The line the change was made on; another one by now is an error.
    pub expected: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InitSysroot {
    /// What to deploy: `REMOTE:BRANCH`, or `BRANCH` of `pull_local`.
    pub refspec: String,
    /// `NAME=URL` of a remote to add.
    pub remote: Option<(String, String)>,
    /// Files with OpenPGP keys to trust for the remote.
    pub gpg_keys: Vec<PathBuf>,
    pub no_gpg_verify: bool,
    /// A local repository to pull from instead of a remote.
    pub pull_local: Option<PathBuf>,
    pub kargs: Vec<String>,
}

/// What became of a transaction. The client renders it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// A new deployment was written (or the order of deployments changed). False → `--unchanged-exit-77` applies.
    pub changed: bool,
    /// The deployment was staged for the next shutdown, not written directly.
    pub staged: bool,
    /// Lines to print, in order, on stdout: `No upgrade available.`, `Freed: …`.
    pub lines: Vec<String>,
    /// Printed in block form after a change.
    pub diff: PackageDiff,
    /// For `--dry-run`, `--preview` and `--check`.
    pub plan: Option<Box<Plan>>,
    /// For `upgrade --check|--preview`: the base commit, version and timestamp that would be deployed.
    pub update: Option<UpdateInfo>,
    /// For `kargs` without changes: the line.
    pub kargs: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UpdateInfo {
    pub commit: String,
    pub version: Option<String>,
    /// Seconds since the epoch.
    pub timestamp: u64,
    /// The base is another commit than the one deployed now.
    pub new_base: bool,
    pub diff: PackageDiff,
}

//! The verbs: what a transaction is asked ([`Request`]), what it answers ([`Report`]); one file per verb, each
//! `plan` first and then `execute`. A request is plain data, because it crosses a pipe to the worker process.

pub mod apply_live;
pub mod automatic;
pub mod cleanup;
pub mod compose_tree;
pub mod deploy;
pub mod disk_image;
pub mod finalize_deployment;
pub mod history;
pub mod init_sysroot;
pub mod initramfs;
pub mod initramfs_etc;
pub mod interruption;
pub mod kargs;
pub mod log;
pub mod modify_source;
pub mod overrides;
pub mod pkg_change;
pub mod rebase;
pub mod refresh_md;
pub mod reset;
pub mod rollback;
pub mod sources;
pub mod space;
pub mod transaction;
pub mod upgrade;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cached_update::CachedUpdate;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventSink, EventSinkExt};
use crate::model::diff::PackageDiff;
use crate::plan::Plan;
use crate::repo::metadata::CommitInfo;
use crate::sysroot::Sysroot;
use crate::update_driver::UpdateDriver;
use log::LogSink;
use transaction::{Ports, Transaction};

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
        #[serde(default)]
        allow_failed: bool,
        check: bool,
        preview: bool,
    },
    Deploy {
        revision: String,
        changes: PackageChanges,
        preview: bool,
        skip_branch_check: bool,
        disallow_downgrade: bool,
        /// To be registered as what drives updates; with an empty revision nothing else is done.
        #[serde(default)]
        driver: Option<UpdateDriver>,
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
    /// Lets the next shutdown apply the staged deployment.
    FinalizeDeployment {
        checksum: Option<String>,
        allow_missing_checksum: bool,
        allow_unlocked: bool,
    },
    Initramfs(InitramfsChange),
    InitramfsEtc(InitramfsEtcChange),
    Override(OverrideChange),
    Reset(Reset),
    ApplyLive(ApplyLive),
    RefreshMd {
        force: bool,
    },
    /// Switches an apt source of the machine on or off.
    ModifySource {
        /// As `ListRepos` names it.
        id: String,
        enabled: bool,
    },
    /// From an empty directory to a first deployment.
    InitSysroot(InitSysroot),
    /// `compose tree`; the sysroot of the request is not used.
    ComposeTree(compose_tree::ComposeTree),
    /// `compose disk-image`; the same.
    DiskImage(disk_image::DiskImage),
}

impl Verb {
    /// Whether it changes a deployed system, so that the service can do it for others.
    pub fn is_for_service(&self) -> bool {
        match self {
            Self::InitSysroot(_) | Self::ComposeTree(_) | Self::DiskImage(_) => false,
            // Somebody's directory is not pulled from with the service's rights.
            Self::Rebase(rebase) => !rebase::is_path(&rebase.refspec),
            _ => true,
        }
    }

    /// Whether a restart of the system can follow it.
    pub fn takes_reboot(&self) -> bool {
        match self {
            Self::Cleanup { rollback, .. } => *rollback,
            Self::ApplyLive(_) | Self::RefreshMd { .. } | Self::ModifySource { .. } => false,
            other => other.is_for_service(),
        }
    }

    /// The paths of local package files that it names, in a fixed order.
    pub fn local_files(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::PkgChange { changes } | Self::Upgrade { changes, .. } | Self::Deploy { changes, .. } => {
                changes.install_local.iter_mut().collect()
            }
            Self::Rebase(rebase) => rebase.changes.install_local.iter_mut().collect(),
            Self::Reset(reset) => reset.packages.install_local.iter_mut().collect(),
            Self::Override(change) => {
                change.packages.install_local.iter_mut().chain(&mut change.replace_local).collect()
            }
            _ => Vec::new(),
        }
    }
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

/// `initramfs --enable|--disable`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InitramfsChange {
    pub enable: bool,
    /// Further arguments for dracut.
    pub args: Vec<String>,
}

/// `initramfs-etc`; paths are absolute.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InitramfsEtcChange {
    pub track: Vec<String>,
    pub untrack: Vec<String>,
    pub untrack_all: bool,
    /// Make a new deployment even if the list is the same.
    pub force_sync: bool,
}

/// `override remove|replace|reset`, mixed as the options of each allow.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OverrideChange {
    /// Packages of the base to remove: `name`, `name:arch` or NEVRA.
    pub remove: Vec<String>,
    /// Packages of the base to replace: `name=version`, `name/suite`, or a name with `from`.
    pub replace: Vec<String>,
    /// Where the versions of `replace` come from: `suite=SUITE` or `repo=ID`.
    pub from: Option<String>,
    /// Local .deb files to replace packages of the base with, absolute paths.
    pub replace_local: Vec<PathBuf>,
    /// Packages whose overrides are dropped.
    pub reset: Vec<String>,
    pub reset_all: bool,
    pub packages: PackageChanges,
}

/// `reset`; none of the parts means all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reset {
    /// Layered packages.
    pub overlays: bool,
    pub overrides: bool,
    /// Regeneration and tracked files.
    pub initramfs: bool,
    pub packages: PackageChanges,
}

/// `apply-live`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApplyLive {
    /// A commit or ref; absent: the pending deployment.
    pub target: Option<String>,
    /// Back to the booted commit.
    pub reset: bool,
    /// Packages may be changed and removed, not only added.
    pub allow_replacement: bool,
    /// Also those that every process stands on.
    pub allow_core: bool,
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
    /// GRUB reads its menu from this sysroot's /boot.
    pub grub: bool,
}

/// What became of a transaction. The client renders it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// A new deployment was written (or the order of deployments changed). False → `--unchanged-exit-77` applies.
    pub changed: bool,
    /// The deployment was staged for the next shutdown, not written directly.
    pub staged: bool,
    /// Nothing was made, as the update is staged already; a reboot was asked for, and the policy `apply` takes it for due.
    #[serde(default)]
    pub reboot_due: bool,
    /// Lines to print, in order, on stdout: `No upgrade available.`, `Freed: …`.
    pub lines: Vec<String>,
    /// Printed in block form after a change.
    pub diff: PackageDiff,
    /// For `--dry-run`, `--preview` and `--check`.
    pub plan: Option<Box<Plan>>,
    /// For `upgrade --check|--preview`: what there is.
    pub update: Option<Box<CachedUpdate>>,
    /// For `kargs` without changes: the line.
    pub kargs: Option<String>,
}

/// One line of a worker's stdout: any number of events, at last one of the others. As JSON it is `{"event":…}`,
/// `{"report":…}` or `{"error":…}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Event(Event),
    Report { report: Box<Report> },
    Error { error: Error },
}

/// Carries a request out. Called in the worker process: one transaction, one process.
pub fn run<'a>(request: &'a Request, ports: Ports<'a>) -> Result<Report> {
    let stateroot = request.stateroot.as_deref();
    if let Verb::InitSysroot(init) = &request.verb {
        let stateroot = stateroot.unwrap_or("debian");
        let report = init_sysroot::execute(&request.sysroot, stateroot, init, ports.events)?;
        remember(request, Some(stateroot), ports.events);
        return Ok(report);
    }
    if let Verb::ComposeTree(compose) = &request.verb {
        return compose_tree::execute(compose, &request.options, &mut { ports });
    }
    if let Verb::DiskImage(image) = &request.verb {
        return disk_image::execute(image, stateroot.unwrap_or("debian"), ports.sandbox, ports.events);
    }
    let sysroot = Sysroot::open_for_change(&request.sysroot)?;
    // The log is written there before the transaction has its lock.
    sysroot.make_writable()?;
    let log = LogSink::create(&sysroot.repo(), verb_name(&request.verb), &request.options.command_line, ports.events);
    let ports = Ports { packages: ports.packages, sandbox: ports.sandbox, events: &log };
    let outcome = run_logged(request, stateroot, ports);
    if outcome.as_ref().is_ok_and(made_something) && makes_deployments(&request.verb) {
        remember(request, stateroot, &log);
    }
    match &outcome {
        Ok(report) => report.lines.iter().for_each(|line| log.note(line)),
        Err(error) => log.note(&format!("error: {error}")),
    }
    // A request that was refused says all there is to say.
    match (outcome, log.path()) {
        (Err(error), Some(path)) if matches!(error.kind, ErrorKind::Script | ErrorKind::Failed) => {
            Err(error.hint(format!("The full log is {}", path.display())))
        }
        (outcome, _) => outcome,
    }
}

fn run_logged<'a>(request: &'a Request, stateroot: Option<&str>, ports: Ports<'a>) -> Result<Report> {
    let mut transaction = Transaction::begin(&request.sysroot, stateroot, &request.options, ports)?;
    let transaction = &mut transaction;
    match &request.verb {
        Verb::PkgChange { changes } => pkg_change::execute(transaction, changes),
        Verb::Upgrade { changes, allow_downgrade, allow_failed, check, preview } => {
            let upgrade = upgrade::Upgrade {
                changes,
                allow_downgrade: *allow_downgrade,
                allow_failed: *allow_failed,
                preview: *check || *preview,
            };
            upgrade::execute(transaction, &upgrade)
        }
        Verb::Deploy { revision, changes, preview, skip_branch_check, disallow_downgrade, driver } => {
            if let Some(driver) = driver {
                driver.register(&request.sysroot)?;
                if revision.is_empty() {
                    return Ok(Report::default());
                }
            }
            let deploy = deploy::Deploy {
                revision,
                changes,
                preview: *preview,
                skip_branch_check: *skip_branch_check,
                disallow_downgrade: *disallow_downgrade,
            };
            deploy::execute(transaction, &deploy)
        }
        Verb::Rebase(rebase) => rebase::execute(transaction, rebase),
        Verb::Rollback => rollback::execute(transaction),
        Verb::Cleanup { base, pending, rollback, repomd } => {
            let what = cleanup::Cleanup { base: *base, pending: *pending, rollback: *rollback, repomd: *repomd };
            cleanup::execute(transaction, what)
        }
        Verb::Kargs(change) => kargs::execute(transaction, change),
        Verb::FinalizeDeployment { checksum, allow_missing_checksum, allow_unlocked } => {
            let finalize = finalize_deployment::Finalize {
                checksum: checksum.as_deref(),
                allow_missing_checksum: *allow_missing_checksum,
                allow_unlocked: *allow_unlocked,
            };
            finalize_deployment::execute(transaction, finalize)
        }
        Verb::Initramfs(change) => initramfs::execute(transaction, change),
        Verb::InitramfsEtc(change) => initramfs_etc::execute(transaction, change),
        Verb::Override(change) => overrides::execute(transaction, change),
        Verb::Reset(reset) => reset::execute(transaction, reset),
        Verb::ApplyLive(how) => apply_live::execute(transaction, how),
        Verb::RefreshMd { force } => refresh_md::execute(transaction, *force),
        Verb::ModifySource { id, enabled } => modify_source::execute(transaction, id, *enabled),
        Verb::InitSysroot(_) | Verb::ComposeTree(_) | Verb::DiskImage(_) => {
            unreachable!("handled above: these need no sysroot to lock")
        }
    }
}

/// What was done is done: a history that cannot be written is no reason to call it failed.
fn remember(request: &Request, stateroot: Option<&str>, events: &dyn EventSink) {
    if let Err(error) = history::record(&request.sysroot, stateroot, &request.options.command_line) {
        events.warning(format!("The history has no record of this deployment: {error}"));
    }
}

/// A dry run and a preview say what would change, and come with the plan of it.
fn made_something(report: &Report) -> bool {
    report.changed && report.plan.is_none() && report.update.is_none()
}

/// Whether a change may have made the deployment that is first now.
fn makes_deployments(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::PkgChange { .. }
            | Verb::Upgrade { .. }
            | Verb::Deploy { .. }
            | Verb::Rebase(_)
            | Verb::Kargs(_)
            | Verb::Initramfs(_)
            | Verb::InitramfsEtc(_)
            | Verb::Override(_)
            | Verb::Reset(_)
    )
}

fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::PkgChange { .. } => "pkg-change",
        Verb::Upgrade { .. } => "upgrade",
        Verb::Deploy { .. } => "deploy",
        Verb::Rebase(_) => "rebase",
        Verb::Rollback => "rollback",
        Verb::Cleanup { .. } => "cleanup",
        Verb::Kargs(_) => "kargs",
        Verb::FinalizeDeployment { .. } => "finalize-deployment",
        Verb::Initramfs(_) => "initramfs",
        Verb::InitramfsEtc(_) => "initramfs-etc",
        Verb::Override(_) => "override",
        Verb::Reset(_) => "reset",
        Verb::ApplyLive(_) => "apply-live",
        Verb::RefreshMd { .. } => "refresh-md",
        Verb::ModifySource { .. } => "modify-source",
        Verb::InitSysroot(_) => "init-sysroot",
        Verb::ComposeTree(_) => "compose",
        Verb::DiskImage(_) => "disk-image",
    }
}

/// An older base than the deployed one is refused where the caller did not ask for it: a replayed old branch head
/// would silently bring old security bugs back.
fn refuse_older(current: &CommitInfo, target: &CommitInfo, how: &str) -> Result<()> {
    if target.timestamp >= current.timestamp {
        return Ok(());
    }
    Err(Error::usage(format!(
        "Upgrade target revision '{}' with timestamp {} is chronologically older than current revision '{}' with timestamp {}; {how}",
        target.checksum, target.timestamp, current.checksum, current.timestamp
    )))
}

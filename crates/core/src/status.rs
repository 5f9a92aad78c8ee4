//! The read side of a sysroot: its deployments as typed values that serialise to rpm-ostree's `status --json`
//! (`rpm-ostree-json.md` sections 1.1 and 1.2), and their kernel arguments.
//!
//! Reads `ostree/deploy`, `boot/loader` and the repository through libostree; takes no lock, writes nothing, needs no
//! root. A commit that is missing from the repository does not make the report fail: then its keys are absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::boot::verification::{self, BootReport};
use crate::cached_update::{self, CachedUpdate};
use crate::error::Result;
use crate::last_transaction::LastTransaction;
use crate::live::state::LiveState;
use crate::model::origin::Origin;
use crate::repo::Repo;
use crate::repo::metadata::{ArchiveMeta, BasePackage, CommitInfo};
use crate::sysroot::{Deployment, Sysroot};
use crate::update_driver::UpdateDriver;
use crate::warnings::{self, Warning};

/// The whole `status --json` document.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SysrootStatus {
    /// In boot order: the first one is booted next.
    pub deployments: Vec<DeploymentStatus>,
    /// Method, sender and object path of the running transaction.
    pub transaction: Option<(String, String, String)>,
    /// Of the stateroot that runs.
    pub cached_update: Option<CachedUpdate>,
    pub update_driver: Option<UpdateDriver>,
    /// Our addition: how the last one of the service ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transaction: Option<LastTransaction>,
    /// Our addition: what is wrong with the system.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// One deployment. Field order is the order of the keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DeploymentStatus {
    /// `OSNAME-CHECKSUM.SERIAL`.
    pub id: String,
    pub osname: String,
    /// The commit of the deployment: the layered one if it is layered.
    pub checksum: String,
    pub serial: i32,
    pub booted: bool,
    pub staged: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub finalization_locked: bool,
    pub pinned: bool,
    /// `none`, `development`, `hotfix` or `transient`.
    pub unlocked: String,
    /// The commit that an interrupted `apply-live` was about to switch to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_inprogress: Option<String>,
    /// The commit that `/usr` shows instead of the booted one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_replaced: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_image_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_image_reference_digest: Option<String>,
    /// URL and description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_origin: Option<(String, String)>,
    #[serde(flatten)]
    pub requests: Requests,
    /// Requests that are active in this tree.
    pub packages: Vec<String>,
    pub base_removals: Vec<BasePackage>,
    /// `(new, old)`, each in a variant of its own.
    pub base_local_replacements: Vec<(BasePackage, BasePackage)>,
    /// The same by source.
    pub base_remote_replacements: BTreeMap<String, Vec<(BasePackage, BasePackage)>>,
    /// Our addition: base packages that a request made newer, `[old, new, reason]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub base_upgrades: Vec<(String, String, String)>,
    /// Our addition: its last boot failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_failed: Option<BootReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_checksum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since the epoch.
    pub timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endoflife: Option<String>,
    pub base_commit_meta: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layered_commit_meta: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_base_checksum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_base_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_base_timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpg_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_error: Option<String>,
    /// Archive indexes of the base, for the text form.
    #[serde(skip)]
    pub base_archives: Vec<ArchiveMeta>,
    #[serde(skip)]
    pub layered_archives: Vec<ArchiveMeta>,
}

/// What the origin file asks for on top of the base.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Requests {
    pub requested_packages: Vec<String>,
    pub requested_local_packages: Vec<String>,
    pub requested_local_fileoverride_packages: Vec<String>,
    pub requested_base_removals: Vec<String>,
    pub requested_base_local_replacements: Vec<String>,
    /// Source and packages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requested_base_remote_replacements: Vec<(String, Vec<String>)>,
    pub regenerate_initramfs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs_args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs_etc: Option<Vec<String>>,
}

impl Requests {
    fn new(origin: &Origin) -> Self {
        let initramfs =
            origin.regenerate_initramfs || !origin.initramfs_args.is_empty() || !origin.initramfs_etc.is_empty();
        Self {
            requested_packages: origin.requested.clone(),
            requested_local_packages: origin.requested_local.iter().map(|l| l.id.nevra()).collect(),
            requested_local_fileoverride_packages: Vec::new(),
            requested_base_removals: origin.override_remove.clone(),
            requested_base_local_replacements: origin.override_replace_local.iter().map(|l| l.id.nevra()).collect(),
            requested_base_remote_replacements: origin
                .override_replace
                .iter()
                .map(|r| (r.source.clone(), r.packages.clone()))
                .collect(),
            regenerate_initramfs: origin.regenerate_initramfs,
            initramfs_args: initramfs.then(|| origin.initramfs_args.clone()),
            initramfs_etc: initramfs.then(|| origin.initramfs_etc.clone()),
        }
    }
}

impl DeploymentStatus {
    /// The base commit, layered or not.
    pub fn base(&self) -> &str {
        self.base_checksum.as_deref().unwrap_or(&self.checksum)
    }

    pub fn is_layered(&self) -> bool {
        self.base_checksum.is_some()
    }
}

impl DeploymentStatus {
    /// What there is to say of one deployment.
    pub fn read(repo: &Repo, deployment: &Deployment) -> Result<Self> {
        deployment_status(repo, deployment)
    }
}

impl SysrootStatus {
    /// Everything there is to say of the sysroot. Needs no lock.
    pub fn read(sysroot: &Sysroot) -> Result<Self> {
        let repo = sysroot.repo();
        let mut deployments = Vec::new();
        for deployment in sysroot.deployments() {
            let mut status = deployment_status(&repo, &deployment)?;
            let live = LiveState::read(sysroot, &deployment)?;
            (status.live_replaced, status.live_inprogress) = (live.commit, live.in_progress);
            let failed = verification::failed_boots(sysroot, &status.osname);
            status.boot_failed = failed.into_iter().find(|report| report.deployment == deployment.name());
            deployments.push(status);
        }
        let cached_update = sysroot.stateroot(None).ok().and_then(|name| cached_update::read(sysroot, &name));
        // Only what runs can be driven.
        let update_driver = if sysroot.is_booted() { UpdateDriver::read(sysroot.path()) } else { None };
        Ok(Self {
            deployments,
            transaction: None,
            cached_update,
            update_driver,
            last_transaction: LastTransaction::read(sysroot.path()),
            warnings: warnings::find(sysroot),
        })
    }
}

fn deployment_status(repo: &Repo, d: &Deployment) -> Result<DeploymentStatus> {
    let mut status = DeploymentStatus {
        id: d.id(),
        osname: d.stateroot(),
        serial: d.serial(),
        booted: d.booted,
        staged: d.is_staged(),
        finalization_locked: d.is_finalization_locked(),
        pinned: d.is_pinned(),
        unlocked: d.unlocked(),
        container_image_reference: d.origin_value("container-image-reference"),
        checksum: d.checksum(),
        ..Default::default()
    };
    if let Some(commit) = repo.try_info(&status.checksum)? {
        add_commit(repo, &mut status, &commit)?;
    }
    // An origin that cannot be parsed still leaves a deployment to show.
    if let Ok(origin) = d.origin() {
        status.requests = Requests::new(&origin);
        status.custom_origin.clone_from(&origin.custom);
        if status.container_image_reference.is_none() {
            status.origin = Some(origin.refspec.clone());
            add_remote(repo, &mut status, &origin)?;
        }
    }
    Ok(status)
}

fn add_commit(repo: &Repo, status: &mut DeploymentStatus, commit: &CommitInfo) -> Result<()> {
    status.timestamp = commit.timestamp;
    status.version.clone_from(&commit.version);
    status.endoflife = commit.string("ostree.endoflife");
    if !commit.layered {
        add_base(status, commit);
        return Ok(());
    }
    status.packages = commit.active_requests();
    status.base_removals = commit.removed_base_packages();
    status.base_local_replacements = commit.replaced_base_packages();
    status.base_remote_replacements = commit.replaced_base_remote_packages();
    status.base_upgrades = commit.base_upgrades();
    status.layered_commit_meta = Some(commit.json());
    status.layered_archives = commit.archives();
    status.base_checksum.clone_from(&commit.parent);
    if let Some(base) = commit.parent.as_deref().map(|p| repo.try_info(p)).transpose()?.flatten() {
        status.base_version.clone_from(&base.version);
        status.base_timestamp = Some(base.timestamp);
        add_base(status, &base);
    }
    Ok(())
}

fn add_base(status: &mut DeploymentStatus, base: &CommitInfo) {
    status.base_commit_meta = base.json();
    status.base_archives = base.archives();
    if status.container_image_reference.is_some() {
        status.container_image_reference_digest = base.string("ostree.manifest-digest");
    }
}

/// What the repository knows of the origin's ref and remote: a newer commit, the signatures.
fn add_remote(repo: &Repo, status: &mut DeploymentStatus, origin: &Origin) -> Result<()> {
    let Some((remote, branch)) = origin.remote_and_branch() else { return Ok(()) };
    let refspec = remote.map_or_else(|| branch.to_owned(), |r| format!("{r}:{branch}"));
    // A refspec that libostree does not accept resolves to nothing.
    let pending = repo.try_resolve(&refspec).ok().flatten();
    if let Some(pending) = pending.filter(|p| p != status.base()) {
        if let Some(commit) = repo.try_info(&pending)? {
            status.pending_base_version = commit.version;
            status.pending_base_timestamp = Some(commit.timestamp);
        }
        status.pending_base_checksum = Some(pending);
    }
    if let Some(remote) = remote {
        let trust = Trust::read(repo, remote, status.base());
        (status.gpg_enabled, status.signatures, status.remote_error) =
            (trust.gpg_enabled, trust.signatures, trust.remote_error);
    }
    Ok(())
}

/// Whether the signatures of a commit from a remote are looked at, and what they are.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub gpg_enabled: Option<bool>,
    pub signatures: Option<Vec<Value>>,
    /// The remote is not configured.
    pub remote_error: Option<String>,
}

impl Trust {
    pub fn read(repo: &Repo, remote: &str, commit: &str) -> Self {
        match repo.gpg_verify_enabled(remote) {
            Ok(enabled) => Self {
                gpg_enabled: Some(enabled),
                signatures: enabled.then(|| repo.signatures(commit, remote)),
                remote_error: None,
            },
            Err(e) => Self { remote_error: Some(e.to_string()), ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_keys_are_there() {
        let value = serde_json::to_value(DeploymentStatus::default()).unwrap();
        for key in ["requested-packages", "requested-local-packages", "packages", "base-removals"] {
            assert_eq!(value[key], serde_json::json!([]), "{key}");
        }
        assert_eq!(value["base-commit-meta"], serde_json::json!({}));
        assert!(value.get("base-checksum").is_none());
        let top = serde_json::to_value(SysrootStatus::default()).unwrap();
        assert_eq!(
            top.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["deployments", "transaction", "cached-update", "update-driver"]
        );
    }
}

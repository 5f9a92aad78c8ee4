//! The read side of a sysroot: its deployments as typed values that serialise to rpm-ostree's `status --json`
//! (`rpm-ostree-json.md` sections 1.1 and 1.2), and their kernel arguments.
//!
//! Reads `ostree/deploy`, `boot/loader` and the repository through libostree; takes no lock, writes nothing, needs no
//! root. A commit that is missing from the repository does not make the report fail: then its keys are absent.

mod metadata;

use std::path::Path;

use ostree::gio;
use ostree::glib;
use serde::Serialize;
use serde_json::{Map, Value};

pub use metadata::{ArchiveMeta, BasePackage, CommitInfo, ListEntry, to_json};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::origin::Origin;

/// The whole `status --json` document.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SysrootStatus {
    /// In boot order: the first one is booted next.
    pub deployments: Vec<DeploymentStatus>,
    /// Method, sender and object path of the running transaction.
    pub transaction: Option<(String, String, String)>,
    pub cached_update: Option<Map<String, Value>>,
    pub update_driver: Option<Map<String, Value>>,
}

/// One deployment. Field order is the order of the keys.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
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
    pub base_remote_replacements: Map<String, Value>,
    /// Our addition: base packages that a request made newer, `[old, new, reason]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub base_upgrades: Vec<(String, String, String)>,
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
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Requests {
    pub requested_packages: Vec<String>,
    pub requested_local_packages: Vec<String>,
    pub requested_local_fileoverride_packages: Vec<String>,
    pub requested_base_removals: Vec<String>,
    pub requested_base_local_replacements: Vec<String>,
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

/// A sysroot opened for reading.
#[derive(Debug)]
pub struct SysrootReader {
    sysroot: ostree::Sysroot,
    repo: ostree::Repo,
}

impl SysrootReader {
    /// Opens the physical root that has `ostree/` and `boot/`. `NotFound` if there is no sysroot.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join("ostree/repo").is_dir() {
            return Err(Error::new(ErrorKind::NotFound, format!("{} has no ostree/repo", path.display()))
                .hint("`apt-ostree --sysroot=DIR init-sysroot REFSPEC` makes a sysroot out of an empty directory."));
        }
        let sysroot = ostree::Sysroot::new(Some(&gio::File::for_path(path)));
        sysroot.load(gio::Cancellable::NONE).context(|| format!("Loading the sysroot {}", path.display()))?;
        let repo = sysroot.repo();
        Ok(Self { sysroot, repo })
    }

    pub fn repo(&self) -> &ostree::Repo {
        &self.repo
    }

    /// Whether the running system is one of these deployments.
    pub fn is_booted(&self) -> bool {
        self.sysroot.booted_deployment().is_some()
    }

    /// Everything there is to say of the sysroot.
    pub fn status(&self) -> Result<SysrootStatus> {
        let booted = self.sysroot.booted_deployment();
        let deployments = self.sysroot.deployments();
        let read = |d: &ostree::Deployment| self.deployment(d, booted.as_ref().is_some_and(|b| b.equal(d)));
        Ok(SysrootStatus { deployments: deployments.iter().map(read).collect::<Result<_>>()?, ..Default::default() })
    }

    /// The kernel options line of a deployment (the first one of the stateroot when no index is given), without the
    /// `ostree=` argument, which is libostree's own.
    pub fn kernel_arguments(&self, stateroot: Option<&str>, index: Option<usize>) -> Result<String> {
        let deployments = self.sysroot.deployments();
        let of_stateroot = |d: &&ostree::Deployment| stateroot.is_none_or(|s| d.osname() == s);
        let found = match index {
            Some(index) => deployments.get(index).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("Out of range deployment index {index}, expected < {}", deployments.len()),
                )
            }),
            None => deployments.iter().find(of_stateroot).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    "No deployments found for os ".to_owned() + stateroot.unwrap_or_default(),
                )
            }),
        }?;
        let line = found.bootconfig().and_then(|b| b.get("options")).map(String::from).unwrap_or_default();
        Ok(without_ostree_karg(&line))
    }

    fn deployment(&self, d: &ostree::Deployment, booted: bool) -> Result<DeploymentStatus> {
        let checksum = d.csum().to_string();
        let commit = self.commit(&checksum)?;
        let mut status = DeploymentStatus {
            id: format!("{}-{}.{}", d.osname(), checksum, d.deployserial()),
            osname: d.osname().into(),
            serial: d.deployserial(),
            booted,
            staged: d.is_staged(),
            finalization_locked: d.is_staged() && d.is_finalization_locked(),
            pinned: d.is_pinned(),
            unlocked: ostree::Deployment::unlocked_state_to_string(d.unlocked()).into(),
            checksum,
            ..Default::default()
        };
        let keyfile = d.origin();
        // An origin that cannot be parsed still leaves a deployment to show.
        let origin = keyfile.as_ref().and_then(|k| Origin::parse(&k.to_data()).ok());
        status.container_image_reference =
            keyfile.as_ref().and_then(|k| k.string("origin", "container-image-reference").ok()).map(String::from);
        if let Some(commit) = &commit {
            self.add_commit(&mut status, commit)?;
        }
        if let Some(origin) = &origin {
            status.requests = Requests::new(origin);
            status.custom_origin = origin.custom.clone();
            if status.container_image_reference.is_none() {
                status.origin = Some(origin.refspec.clone());
                self.add_remote(&mut status, origin)?;
            }
        }
        Ok(status)
    }

    fn add_commit(&self, status: &mut DeploymentStatus, commit: &CommitInfo) -> Result<()> {
        status.timestamp = commit.timestamp;
        status.version = commit.version();
        status.endoflife = commit.string("ostree.endoflife");
        if !commit.is_layered() {
            status.base_commit_meta = commit.json();
            status.base_archives = commit.archives();
            if status.container_image_reference.is_some() {
                status.container_image_reference_digest = commit.string("ostree.manifest-digest");
            }
            return Ok(());
        }
        status.packages = commit.packages();
        status.base_removals = commit.removed_base_packages();
        status.base_local_replacements = commit.replaced_base_packages();
        status.base_upgrades = commit.base_upgrades();
        status.layered_commit_meta = Some(commit.json());
        status.layered_archives = commit.archives();
        status.base_checksum.clone_from(&commit.parent);
        if let Some(base) = commit.parent.as_deref().map(|p| self.commit(p)).transpose()?.flatten() {
            status.base_version = base.version();
            status.base_timestamp = Some(base.timestamp);
            status.base_commit_meta = base.json();
            status.base_archives = base.archives();
            if status.container_image_reference.is_some() {
                status.container_image_reference_digest = base.string("ostree.manifest-digest");
            }
        }
        Ok(())
    }

    /// What the repository knows of the origin's ref and remote: a newer commit, the signatures.
    fn add_remote(&self, status: &mut DeploymentStatus, origin: &Origin) -> Result<()> {
        let Some((remote, branch)) = origin.remote_and_branch() else { return Ok(()) };
        let refspec = remote.map_or_else(|| branch.to_owned(), |r| format!("{r}:{branch}"));
        // A refspec that libostree does not accept resolves to nothing.
        let pending = self.repo.resolve_rev(&refspec, true).ok().flatten().map(String::from);
        if let Some(pending) = pending.filter(|p| p != status.base()) {
            if let Some(commit) = self.commit(&pending)? {
                status.pending_base_version = commit.version();
                status.pending_base_timestamp = Some(commit.timestamp);
            }
            status.pending_base_checksum = Some(pending);
        }
        let Some(remote) = remote else { return Ok(()) };
        match self.repo.remote_get_gpg_verify(remote) {
            Ok(enabled) => {
                status.gpg_enabled = Some(enabled);
                if enabled {
                    status.signatures = Some(self.signatures(status.base(), remote));
                }
            }
            Err(e) => status.remote_error = Some(e.message().to_owned()),
        }
        Ok(())
    }

    /// libostree's result tuple of each signature; none for an unsigned commit.
    fn signatures(&self, checksum: &str, remote: &str) -> Vec<Value> {
        // Most unsigned commits have no detached metadata at all: no need to start a GPG context for them.
        let detached = self.repo.read_commit_detached_metadata(checksum, gio::Cancellable::NONE);
        let signed = detached.ok().flatten().is_some_and(|d| metadata::lookup(&d, "ostree.gpgsigs").is_some());
        if !signed {
            return Vec::new();
        }
        match self.repo.verify_commit_for_remote(checksum, remote, gio::Cancellable::NONE) {
            Ok(result) => (0..result.count_all()).map(|i| to_json(&result.all(i))).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn commit(&self, checksum: &str) -> Result<Option<CommitInfo>> {
        load_commit(&self.repo, checksum)
    }
}

/// A commit's timestamp and metadata; `None` if the repository does not have it.
pub fn load_commit(repo: &ostree::Repo, checksum: &str) -> Result<Option<CommitInfo>> {
    let commit = repo
        .load_variant_if_exists(ostree::ObjectType::Commit, checksum)
        .context(|| format!("Reading commit {checksum}"))?;
    Ok(commit.as_ref().map(CommitInfo::new))
}

/// `[epoch:]upstream[-revision]`, epoch 0 left out.
pub fn full_version(epoch: &str, version: &str, release: &str) -> String {
    let mut text = String::new();
    if !matches!(epoch, "" | "0") {
        text += epoch;
        text += ":";
    }
    text += version;
    if !release.is_empty() {
        text += "-";
        text += release;
    }
    text
}

/// The line without any `ostree=` word.
pub fn without_ostree_karg(line: &str) -> String {
    line.split_ascii_whitespace().filter(|w| !w.starts_with("ostree=")).collect::<Vec<_>>().join(" ")
}

/// UTC, `YYYY-MM-DDTHH:MM:SSZ`.
pub fn iso8601(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| glib::DateTime::from_unix_utc(s).ok())
        .and_then(|d| d.format("%Y-%m-%dT%H:%M:%SZ").ok())
        .map_or_else(|| format!("@{seconds}"), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_texts() {
        assert_eq!(iso8601(0), "1970-01-01T00:00:00Z");
        assert_eq!(iso8601(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(iso8601(u64::MAX), "@18446744073709551615");
        assert_eq!(full_version("0", "1.2", ""), "1.2");
        assert_eq!(full_version("1", "1.2", "3"), "1:1.2-3");
        assert_eq!(without_ostree_karg("quiet ostree=/ostree/boot.1/x/0  rw"), "quiet rw");
    }

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

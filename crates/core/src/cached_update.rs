//! The update that is known of and not deployed yet: what the last check found, kept so that `status` and clients can tell of
//! it without asking the network.
//!
//! `<var of the stateroot>/cache/apt-ostree/cached-update.json`, written whole or not at all by the transaction that finds
//! out, read by anybody. The keys and types are those of rpm-ostree's `cached-update` (`rpm-ostree-json.md` section 1.4).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Context, Result};
use crate::model::advisory::Advisory;
use crate::model::diff::{ChangeKind, PackageChange, PackageDiff};
use crate::model::package::PackageId;
use crate::model::version;
use crate::record;
use crate::repo::Repo;
use crate::status::DeploymentStatus;
use crate::sysroot::Sysroot;

/// Below /var.
const FILE: &str = "cache/apt-ostree/cached-update.json";

/// Field order is the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CachedUpdate {
    pub osname: String,
    /// The base commit; that of today where only layered packages are newer.
    pub checksum: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since the epoch.
    pub timestamp: u64,
    /// The refspec.
    pub origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpg_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_error: Option<String>,
    /// The base is another one than the one that runs.
    pub ref_has_new_commit: bool,
    /// Absent when no package differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm_diff: Option<RpmDiff>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advisories: Vec<Advisory>,
    /// The id of the staged deployment that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The commit that all this is told against: the running one.
    #[serde(rename = "update-sha256")]
    pub update_sha256: String,
}

/// Where a package of a difference belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Base = 0,
    Layered = 1,
}

/// `(us(ss)(ss))`: layer, name, version and architecture before and after.
pub type ModifiedRow = (u32, String, (String, String), (String, String));
/// `(usss)`: layer, name, version, architecture.
pub type SingleRow = (u32, String, String, String);

/// The packages that differ, by what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RpmDiff {
    pub upgraded: Vec<ModifiedRow>,
    pub downgraded: Vec<ModifiedRow>,
    pub removed: Vec<SingleRow>,
    pub added: Vec<SingleRow>,
}

impl RpmDiff {
    /// `None` when nothing differs. `layer` tells where a package of that name is.
    pub fn new(diff: &PackageDiff, layer: impl Fn(&PackageId) -> Layer) -> Option<Self> {
        let mut rows = Self::default();
        for change in &diff.changes {
            let version = |id: &PackageId| (version::evr(&id.version).to_owned(), id.arch.clone());
            match (&change.previous, &change.new) {
                (Some(old), Some(new)) => {
                    let row = (layer(new) as u32, change.name.clone(), version(old), version(new));
                    match change.kind {
                        ChangeKind::Downgraded => rows.downgraded.push(row),
                        _ => rows.upgraded.push(row),
                    }
                }
                (Some(id), None) | (None, Some(id)) => {
                    let (evr, arch) = version(id);
                    let list = if change.new.is_some() { &mut rows.added } else { &mut rows.removed };
                    list.push((layer(id) as u32, change.name.clone(), evr, arch));
                }
                (None, None) => {}
            }
        }
        (rows != Self::default()).then_some(rows)
    }

    /// The difference that the rows tell of.
    pub fn diff(&self) -> PackageDiff {
        let id = |name: &String, evr: &String, arch: &String| Some(PackageId::new(name, evr, arch));
        let mut changes = Vec::new();
        for (kind, rows) in [(ChangeKind::Upgraded, &self.upgraded), (ChangeKind::Downgraded, &self.downgraded)] {
            changes.extend(rows.iter().map(|(_, name, old, new)| PackageChange {
                name: name.clone(),
                kind,
                previous: id(name, &old.0, &old.1),
                new: id(name, &new.0, &new.1),
            }));
        }
        changes.extend(self.removed.iter().map(|(_, name, evr, arch)| PackageChange {
            name: name.clone(),
            kind: ChangeKind::Removed,
            previous: id(name, evr, arch),
            new: None,
        }));
        changes.extend(self.added.iter().map(|(_, name, evr, arch)| PackageChange {
            name: name.clone(),
            kind: ChangeKind::Added,
            previous: None,
            new: id(name, evr, arch),
        }));
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        PackageDiff { changes }
    }
}

impl CachedUpdate {
    /// What differs from the running system.
    pub fn diff(&self) -> PackageDiff {
        self.rpm_diff.as_ref().map(RpmDiff::diff).unwrap_or_default()
    }

    /// Whether the next boot brings this update, by whichever deployment: one that was staged may have made room for another
    /// one that has the same and more.
    pub fn is_deployed(&self, repo: &Repo, deployments: &[DeploymentStatus]) -> bool {
        let Some(first) = deployments.iter().find(|d| d.osname == self.osname) else { return false };
        (!self.ref_has_new_commit || first.base() == self.checksum)
            && repo.packages(&first.checksum).is_ok_and(|packages| self.is_in(&packages))
    }

    /// Whether a tree with these packages has what the update makes newer or adds.
    fn is_in(&self, packages: &[PackageId]) -> bool {
        let has = |new: &PackageId| {
            packages.iter().any(|p| p.name == new.name && p.arch == new.arch && version::evr(&p.version) == new.version)
        };
        self.diff().changes.iter().filter_map(|change| change.new.as_ref()).all(has)
    }
}

/// The update that is known of, if it is still one: told against what runs now, of the branch that is followed now.
pub fn read(sysroot: &Sysroot, stateroot: &str) -> Option<CachedUpdate> {
    let text = std::fs::read_to_string(path(sysroot, stateroot)).ok()?;
    let mut update: CachedUpdate = serde_json::from_str(&text).ok()?;
    update.deployment.take_if(|id| sysroot.deployments().iter().all(|d| d.id() != *id));
    let current = sysroot.current(stateroot)?;
    let followed = sysroot.pending(stateroot).and_then(|d| d.origin()).is_ok_and(|o| o.refspec == update.origin);
    (update.osname == stateroot && update.update_sha256 == current.checksum() && followed).then_some(update)
}

/// Remembers an update, or that there is none.
pub fn store(sysroot: &Sysroot, stateroot: &str, update: Option<&CachedUpdate>) -> Result<()> {
    let path = path(sysroot, stateroot);
    let Some(update) = update else {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context(|| format!("Removing {}", path.display()))
            }
            _ => Ok(()),
        };
    };
    let write = || record::write(&path, &serde_json::to_vec_pretty(update)?, false);
    write().context(|| format!("Writing {}", path.display()))
}

fn path(sysroot: &Sysroot, stateroot: &str) -> PathBuf {
    sysroot.var(stateroot).join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_there_and_back() {
        let id = |n: &str, v: &str| PackageId::new(n, v, "amd64");
        let old = [id("a", "1:1-1"), id("b", "2"), id("c", "1")];
        let new = [id("a", "1:1-2"), id("b", "1"), id("d", "1")];
        let diff = PackageDiff::between(&old, &new);
        let layer = |id: &PackageId| if id.name == "d" { Layer::Layered } else { Layer::Base };
        let rows = RpmDiff::new(&diff, layer).unwrap();
        assert_eq!(
            serde_json::to_value(&rows).unwrap(),
            serde_json::json!({
                "upgraded": [[0, "a", ["1:1-1", "amd64"], ["1:1-2", "amd64"]]],
                "downgraded": [[0, "b", ["2", "amd64"], ["1", "amd64"]]],
                "removed": [[0, "c", "1", "amd64"]],
                "added": [[1, "d", "1", "amd64"]],
            })
        );
        assert_eq!(rows.diff(), diff);
        assert_eq!(RpmDiff::new(&PackageDiff::default(), layer), None);
    }

    #[test]
    fn a_tree_has_it_by_its_packages() {
        let id = |n: &str, v: &str| PackageId::new(n, v, "amd64");
        let (old, new) = ([id("a", "1:1-1"), id("c", "1")], [id("a", "1:1-2"), id("d", "0:1")]);
        let diff = PackageDiff::between(&old, &new);
        let update = CachedUpdate { rpm_diff: RpmDiff::new(&diff, |_| Layer::Base), ..CachedUpdate::default() };
        assert!(update.is_in(&new) && !update.is_in(&old));
        assert!(update.is_in(&[id("a", "1:1-2"), id("d", "0:1"), id("installed-later", "1")]));
        assert!(!update.is_in(&[id("a", "1:1-3"), id("d", "0:1")]), "another version");
        assert!(CachedUpdate::default().is_in(&[]));
    }

    #[test]
    fn keys() {
        let text = serde_json::to_string(&CachedUpdate::default()).unwrap();
        assert_eq!(
            text,
            r#"{"osname":"","checksum":"","timestamp":0,"origin":"","ref-has-new-commit":false,"update-sha256":""}"#
        );
        assert_eq!(serde_json::from_str::<CachedUpdate>(&text).unwrap(), CachedUpdate::default());
    }
}

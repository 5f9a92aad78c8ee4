//! What a commit says of itself, typed both ways: the keys of `rpm-ostree-json.md` section 1.3 and our own.

use ostree::glib::prelude::ToVariant;
use ostree::glib::{Variant, VariantDict};

use super::Repo;
use crate::error::{Context, Error, Result};
use crate::model::package::PackageId;
use crate::model::version;
use crate::plan::Plan;
use crate::source::ArchiveInfo;

/// Version of the layered commit's metadata, as rpm-ostree counts it.
const CLIENTLAYER_VERSION: u32 = 6;

/// The parts of a commit the engine asks for.
#[derive(Clone, Debug, Default)]
pub struct CommitInfo {
    pub checksum: String,
    pub parent: Option<String>,
    /// Seconds since the epoch.
    pub timestamp: u64,
    pub version: Option<String>,
    /// `rpmostree.rpmdb.pkglist`.
    pub packages: Option<Vec<PackageId>>,
    /// `rpmostree.inputhash` of a composed base.
    pub input_hash: Option<String>,
    /// `rpmostree.state-sha512` of a layered commit: our input digest.
    pub state_digest: Option<String>,
    /// Made by layering on [`CommitInfo::parent`].
    pub layered: bool,
}

impl CommitInfo {
    /// The base commit: the parent of a layered commit, the commit itself otherwise.
    pub fn base(&self) -> &str {
        match &self.parent {
            Some(parent) if self.layered => parent,
            _ => &self.checksum,
        }
    }
}

impl Repo {
    pub fn info(&self, commit: &str) -> Result<CommitInfo> {
        let (variant, _) = self.inner.load_commit(commit).context(|| format!("Reading commit {commit}"))?;
        let meta = VariantDict::new(Some(&variant.child_value(0)));
        let text = |key: &str| meta.lookup::<String>(key).ok().flatten();
        Ok(CommitInfo {
            checksum: commit.to_owned(),
            parent: ostree::commit_get_parent(&variant).map(Into::into),
            timestamp: ostree::commit_get_timestamp(&variant),
            version: text("version"),
            packages: meta.lookup_value("rpmostree.rpmdb.pkglist", None).map(|v| packages_from_variant(&v)),
            input_hash: text("rpmostree.inputhash"),
            state_digest: text("rpmostree.state-sha512"),
            layered: meta.lookup::<bool>("rpmostree.clientlayer").ok().flatten().unwrap_or(false),
        })
    }

    /// Checksum over the content alone, without the commit's own metadata.
    pub fn content_checksum(&self, commit: &str) -> Result<Option<String>> {
        let (variant, _) = self.inner.load_commit(commit).context(|| format!("Reading commit {commit}"))?;
        Ok(ostree::commit_get_content_checksum(&variant).map(Into::into))
    }

    /// One metadata value of a commit.
    pub fn metadata_value(&self, commit: &str, key: &str) -> Result<Option<Variant>> {
        let (variant, _) = self.inner.load_commit(commit).context(|| format!("Reading commit {commit}"))?;
        Ok(VariantDict::new(Some(&variant.child_value(0))).lookup_value(key, None))
    }
}

/// `a(sssss)`: name, epoch (`0` if none), upstream version, revision (empty if native), architecture.
pub fn packages_to_variant(packages: &[PackageId]) -> Variant {
    let rows: Vec<(String, String, String, String, String)> = packages
        .iter()
        .map(|p| {
            let (epoch, upstream, revision) = version::split(&p.version);
            (p.name.clone(), epoch.into(), upstream.into(), revision.into(), p.arch.clone())
        })
        .collect();
    rows.into()
}

/// The reverse; rows of another shape are left out.
pub fn packages_from_variant(list: &Variant) -> Vec<PackageId> {
    list.iter()
        .filter_map(|row| row.get::<(String, String, String, String, String)>())
        .map(|(name, epoch, upstream, revision, arch)| {
            let mut version = if epoch == "0" || epoch.is_empty() { upstream } else { format!("{epoch}:{upstream}") };
            if !revision.is_empty() {
                version = format!("{version}-{revision}");
            }
            PackageId::new(name, version, arch)
        })
        .collect()
}

/// `aa{sv}` of the indexes that were used.
pub fn archives_to_variant(archives: &[ArchiveInfo]) -> Variant {
    let rows = archives.iter().map(|archive| {
        let row = VariantDict::new(None);
        row.insert("id", archive.id.as_str());
        row.insert("timestamp", archive.date);
        row.insert("suite", archive.suite.as_str());
        row.insert("codename", archive.codename.as_str());
        row.insert("component", archive.component.as_str());
        row.end()
    });
    Variant::array_from_iter_with_type(ostree::glib::VariantTy::VARDICT, rows)
}

/// A JSON value as libostree metadata: strings, booleans, integers, lists of strings, and objects as `a{sv}`.
pub fn json_to_variant(value: &serde_json::Value) -> Result<Variant> {
    use serde_json::Value;
    Ok(match value {
        Value::String(s) => s.to_variant(),
        Value::Bool(b) => b.to_variant(),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => n.to_variant(),
            (_, Some(n)) => n.to_variant(),
            _ => return Err(Error::usage(format!("The number {n} has no GVariant type"))),
        },
        Value::Array(list) => {
            let strings: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(ToOwned::to_owned)).collect();
            match strings {
                Some(strings) => strings.to_variant(),
                None => {
                    let items: Result<Vec<Variant>> =
                        list.iter().map(|v| Ok(Variant::from_variant(&json_to_variant(v)?))).collect();
                    Variant::array_from_iter_with_type(ostree::glib::VariantTy::VARIANT, items?)
                }
            }
        }
        Value::Object(map) => {
            let dict = VariantDict::new(None);
            for (key, value) in map {
                dict.insert_value(key, &json_to_variant(value)?);
            }
            dict.end()
        }
        Value::Null => return Err(Error::usage("null has no GVariant type")),
    })
}

/// The metadata of a layered commit. `kernel` is the kernel version of the tree.
pub fn layered_metadata(
    plan: &Plan,
    packages: &[PackageId],
    active: &[String],
    version: Option<&str>,
    kernel: Option<&str>,
) -> Variant {
    let meta = VariantDict::new(None);
    if let Some(version) = version {
        meta.insert("version", version);
    }
    meta.insert("rpmostree.clientlayer", true);
    meta.insert("rpmostree.clientlayer_version", CLIENTLAYER_VERSION);
    meta.insert("rpmostree.state-sha512", plan.input_digest.as_str());
    meta.insert_value("rpmostree.rpmdb.pkglist", &packages_to_variant(packages));
    meta.insert_value("rpmostree.rpmmd-repos", &archives_to_variant(&plan.archives));
    meta.insert("rpmostree.packages", active.to_vec());
    let upgrades: Vec<(String, String, String)> = plan
        .base_changes
        .iter()
        .filter_map(|c| Some((c.previous.nevra(), c.new.as_ref()?.nevra(), c.reason.clone())))
        .collect();
    if !upgrades.is_empty() {
        meta.insert_value("apt-ostree.base-upgrades", &upgrades.into());
    }
    let removed: Vec<Variant> = plan.remove.iter().map(package_to_variant).collect();
    meta.insert_value(
        "rpmostree.removed-base-packages",
        &Variant::array_from_iter_with_type(ostree::glib::VariantTy::VARIANT, removed),
    );
    if let Some(kernel) = kernel {
        meta.insert("ostree.bootable", true);
        meta.insert("ostree.linux", kernel);
    }
    meta.end()
}

/// A boxed `(sstsss)`: NEVRA, name, epoch, version, release, architecture.
fn package_to_variant(id: &PackageId) -> Variant {
    let (epoch, upstream, revision) = version::split(&id.version);
    let row = (
        id.nevra(),
        id.name.clone(),
        epoch.parse::<u64>().unwrap_or(0),
        upstream.to_owned(),
        revision.to_owned(),
        id.arch.clone(),
    );
    Variant::from_variant(&row.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lists_round_trip() {
        let list = vec![
            PackageId::new("a", "1:2.3-4+b1", "amd64"),
            PackageId::new("b", "2024.1", "all"),
            PackageId::new("c", "1-2-3", "i386"),
        ];
        assert_eq!(packages_from_variant(&packages_to_variant(&list)), list);
    }
}

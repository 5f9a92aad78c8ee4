//! What a commit says of itself, typed both ways: the keys of `rpm-ostree-json.md` section 1.3 and our own.

use std::collections::BTreeMap;

use ostree::glib::prelude::ToVariant;
use ostree::glib::{Variant, VariantClass, VariantDict};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Repo;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::advisory::Advisory;
use crate::model::package::PackageId;
use crate::model::version;
use crate::plan::{Plan, Replacement};
use crate::source::ArchiveInfo;

/// Version of the layered commit's metadata, as rpm-ostree counts it.
const CLIENTLAYER_VERSION: u32 = 6;

/// A base package as a layered commit recorded it: `(nevra, name, epoch, version, release, arch)`, printed as an array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasePackage(pub String, pub String, pub u64, pub String, pub String, pub String);

impl BasePackage {
    pub fn nevra(&self) -> &str {
        &self.0
    }

    pub fn name(&self) -> &str {
        &self.1
    }

    /// `[epoch:]version[-release]`, epoch 0 left out.
    pub fn evr(&self) -> String {
        version::join(&self.2.to_string(), &self.3, &self.4)
    }

    /// From `(sstsss)`; the epoch of some writers is a string or 32 bits wide.
    fn from_variant(v: &Variant) -> Option<Self> {
        let v = unboxed(v);
        if let Some((a, b, c, d, e, f)) = v.get::<(String, String, u64, String, String, String)>() {
            return Some(Self(a, b, c, d, e, f));
        }
        let (a, b, c, d, e, f) = v.get::<(String, String, String, String, String, String)>()?;
        Some(Self(a, b, c.parse().unwrap_or(0), d, e, f))
    }
}

/// One archive index the tree was made from (`rpmostree.rpmmd-repos`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveMeta {
    pub id: String,
    pub suite: String,
    pub component: String,
    /// `Date:` of the Release file, seconds since the epoch.
    pub timestamp: u64,
}

/// Kept out of [`CommitInfo::json`]: internal, or promoted to a key of its own (`rpm-ostree-json.md` section 1.3).
const DENY: &[&str] = &[
    "rpmostree.rpmdb.pkglist",
    "rpmostree.advisories",
    "rpmostree.packages",
    "rpmostree.modules",
    "rpmostree.spec",
    "rpmostree.removed-base-packages",
    "rpmostree.replaced-base-packages",
    "rpmostree.replaced-base-remote-packages",
    // Ours: the whole treefile text, and what `base-upgrades` shows.
    "apt-ostree.treefile",
    "apt-ostree.base-upgrades",
];

/// A commit without its tree. What another program wrote is read with care: a key of an unexpected type counts as
/// absent. Long lists are decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct CommitInfo {
    pub checksum: String,
    pub parent: Option<String>,
    /// Seconds since the epoch.
    pub timestamp: u64,
    pub version: Option<String>,
    /// `rpmostree.inputhash` of a composed base.
    pub input_hash: Option<String>,
    /// `rpmostree.state-sha512` of a layered commit: our input digest.
    pub state_digest: Option<String>,
    /// Made by layering on [`CommitInfo::parent`].
    pub layered: bool,
    metadata: Variant,
}

impl CommitInfo {
    /// From a commit object, `(a{sv}aya(say)sstayay)`.
    fn new(checksum: &str, commit: &Variant) -> Self {
        let metadata = commit.child_value(0);
        let text = |key: &str| lookup(&metadata, key).and_then(|v| v.get::<String>());
        Self {
            checksum: checksum.to_owned(),
            parent: ostree::commit_get_parent(commit).map(Into::into),
            timestamp: ostree::commit_get_timestamp(commit),
            version: text("version"),
            input_hash: text("rpmostree.inputhash"),
            state_digest: text("rpmostree.state-sha512"),
            layered: lookup(&metadata, "rpmostree.clientlayer").and_then(|v| v.get()) == Some(true),
            metadata,
        }
    }

    /// The base commit: the parent of a layered commit, the commit itself otherwise.
    pub fn base(&self) -> &str {
        match &self.parent {
            Some(parent) if self.layered => parent,
            _ => &self.checksum,
        }
    }

    /// The value of a key of the metadata.
    pub fn value(&self, key: &str) -> Option<Variant> {
        lookup(&self.metadata, key)
    }

    pub fn string(&self, key: &str) -> Option<String> {
        self.value(key)?.get()
    }

    /// The recorded package list, sorted. `None` if the commit has none.
    pub fn packages(&self) -> Option<Vec<PackageId>> {
        packages_from_variant(&self.value("rpmostree.rpmdb.pkglist")?)
    }

    /// Requests that are active in a layered tree.
    pub fn active_requests(&self) -> Vec<String> {
        self.value("rpmostree.packages").and_then(|v| v.get()).unwrap_or_default()
    }

    pub fn removed_base_packages(&self) -> Vec<BasePackage> {
        self.children("rpmostree.removed-base-packages").iter().filter_map(BasePackage::from_variant).collect()
    }

    /// `(new, old)` pairs.
    pub fn replaced_base_packages(&self) -> Vec<(BasePackage, BasePackage)> {
        self.children("rpmostree.replaced-base-packages").iter().filter_map(pair).collect()
    }

    /// The same for replacements from archives, by their source in the origin (`suite=NAME`).
    pub fn replaced_base_remote_packages(&self) -> BTreeMap<String, Vec<(BasePackage, BasePackage)>> {
        let entry = |v: &Variant| {
            let list = unboxed(&v.child_value(1));
            let pairs = if list.is_container() { list.iter().filter_map(|v| pair(&v)).collect() } else { Vec::new() };
            Some((v.child_value(0).str()?.to_owned(), pairs))
        };
        match self.value("rpmostree.replaced-base-remote-packages") {
            Some(v) if v.type_().as_str() == "a{sv}" => v.iter().filter_map(|v| entry(&v)).collect(),
            _ => BTreeMap::new(),
        }
    }

    /// Base packages upgraded because a request needs it: old NEVRA, new NEVRA, reason.
    pub fn base_upgrades(&self) -> Vec<(String, String, String)> {
        self.value("apt-ostree.base-upgrades").and_then(|v| v.get()).unwrap_or_default()
    }

    /// The security updates that the tree has.
    pub fn advisories(&self) -> Vec<Advisory> {
        self.children("rpmostree.advisories").iter().filter_map(|v| serde_json::from_value(to_json(v)).ok()).collect()
    }

    /// Arguments for dracut that the initramfs was made with.
    pub fn initramfs_args(&self) -> Vec<String> {
        self.value("rpmostree.initramfs-args").and_then(|v| v.get()).unwrap_or_default()
    }

    pub fn archives(&self) -> Vec<ArchiveMeta> {
        let archive = |v: &Variant| {
            let v = unboxed(v);
            let text = |key: &str| lookup(&v, key).and_then(|v| v.get::<String>());
            Some(ArchiveMeta {
                id: text("id")?,
                suite: text("suite").unwrap_or_default(),
                component: text("component").unwrap_or_default(),
                timestamp: lookup(&v, "timestamp").and_then(|v| v.get::<u64>()).unwrap_or_default(),
            })
        };
        self.children("rpmostree.rpmmd-repos").iter().filter_map(archive).collect()
    }

    /// The metadata as JSON, without the keys that are internal or shown elsewhere.
    pub fn json(&self) -> Map<String, Value> {
        let mut map = match to_json(&self.metadata) {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        map.retain(|key, _| !DENY.contains(&key.as_str()));
        map
    }

    fn children(&self, key: &str) -> Vec<Variant> {
        match lookup(&self.metadata, key) {
            Some(v) if v.is_container() => v.iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl Repo {
    /// What a commit says of itself.
    pub fn info(&self, commit: &str) -> Result<CommitInfo> {
        self.try_info(commit)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("No commit {commit} in {}", self.path.display())))
    }

    /// The same; `None` if the repository does not have it.
    pub fn try_info(&self, commit: &str) -> Result<Option<CommitInfo>> {
        let variant = self
            .inner
            .load_variant_if_exists(ostree::ObjectType::Commit, commit)
            .context(|| format!("Reading commit {commit}"))?;
        Ok(variant.map(|variant| CommitInfo::new(commit, &variant)))
    }

    /// Checksum over the content alone, without the commit's own metadata.
    pub fn content_checksum(&self, commit: &str) -> Result<Option<String>> {
        let (variant, _) = self.inner.load_commit(commit).context(|| format!("Reading commit {commit}"))?;
        Ok(ostree::commit_get_content_checksum(&variant).map(Into::into))
    }
}

/// The value of a key of an `a{sv}`; `None` for any other type as well.
pub(super) fn lookup(v: &Variant, key: &str) -> Option<Variant> {
    if v.type_().as_str() != "a{sv}" {
        return None;
    }
    v.iter().find(|e| e.child_value(0).str() == Some(key))?.child_value(1).as_variant()
}

/// A `(vv)` of new and old package.
fn pair(v: &Variant) -> Option<(BasePackage, BasePackage)> {
    let v = unboxed(v);
    if !v.is_container() || v.n_children() != 2 {
        return None;
    }
    Some((BasePackage::from_variant(&v.child_value(0))?, BasePackage::from_variant(&v.child_value(1))?))
}

fn unboxed(v: &Variant) -> Variant {
    // as_variant() on anything else makes GLib complain on stderr.
    let inner = if v.classify() == VariantClass::Variant { v.as_variant() } else { None };
    inner.map_or_else(|| v.clone(), |inner| unboxed(&inner))
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

/// The reverse, sorted; `None` for a value of another type.
pub fn packages_from_variant(list: &Variant) -> Option<Vec<PackageId>> {
    let rows: Vec<(String, String, String, String, String)> = list.get()?;
    let mut list: Vec<PackageId> = rows
        .into_iter()
        .map(|(name, epoch, upstream, revision, arch)| {
            PackageId::new(name, version::join(&epoch, &upstream, &revision), arch)
        })
        .collect();
    list.sort();
    Some(list)
}

/// `a(suuasa{sv})`, as rpm-ostree has it.
pub fn advisories_to_variant(advisories: &[Advisory]) -> Variant {
    let rows = advisories.iter().map(|a| {
        let details = VariantDict::new(None);
        details.insert_value("cve_references", &a.cves.to_variant());
        Variant::tuple_from_iter([
            a.id.to_variant(),
            a.kind.to_variant(),
            a.severity.to_variant(),
            a.packages.to_variant(),
            details.end(),
        ])
    });
    match ostree::glib::VariantTy::new("(suuasa{sv})") {
        Ok(row) => Variant::array_from_iter_with_type(row, rows),
        Err(_) => unreachable!("a valid type"),
    }
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
pub fn json_to_variant(value: &Value) -> Result<Variant> {
    let text = |text: &str| match text.contains('\0') {
        true => Err(Error::usage(format!("{text:?} has a NUL character, which no GVariant string can have"))),
        false => Ok(()),
    };
    match value {
        Value::String(s) => text(s)?,
        Value::Array(list) => list.iter().filter_map(Value::as_str).try_for_each(text)?,
        Value::Object(map) => map.keys().try_for_each(|key| text(key))?,
        _ => {}
    }
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

/// Any GVariant as JSON, the way json-glib does it: variants unboxed, tuples as arrays, dictionaries as objects,
/// an absent maybe as null. A double JSON cannot express becomes null.
pub fn to_json(v: &Variant) -> Value {
    match v.classify() {
        VariantClass::Boolean => v.get::<bool>().into(),
        VariantClass::Byte => v.get::<u8>().into(),
        VariantClass::Int16 => v.get::<i16>().into(),
        VariantClass::Uint16 => v.get::<u16>().into(),
        VariantClass::Int32 => v.get::<i32>().into(),
        VariantClass::Uint32 => v.get::<u32>().into(),
        VariantClass::Int64 => v.get::<i64>().into(),
        VariantClass::Uint64 => v.get::<u64>().into(),
        VariantClass::Double => v.get::<f64>().into(),
        VariantClass::String | VariantClass::ObjectPath | VariantClass::Signature => v.str().into(),
        VariantClass::Variant => v.as_variant().map_or(Value::Null, |v| to_json(&v)),
        VariantClass::Maybe => v.as_maybe().map_or(Value::Null, |v| to_json(&v)),
        VariantClass::Array if v.type_().as_str().starts_with("a{") => {
            let entry = |e: Variant| {
                let key = e.child_value(0);
                (key.str().map_or_else(|| key.print(false).to_string(), str::to_owned), to_json(&e.child_value(1)))
            };
            Value::Object(v.iter().map(entry).collect())
        }
        VariantClass::Array | VariantClass::Tuple | VariantClass::DictEntry => {
            Value::Array(v.iter().map(|c| to_json(&c)).collect())
        }
        // A file descriptor index has no meaning outside its message.
        _ => Value::Null,
    }
}

/// What the metadata of a layered commit says of its tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct TreeFacts<'a> {
    pub packages: &'a [PackageId],
    /// Active requests.
    pub active: &'a [String],
    pub version: Option<&'a str>,
    /// The version of the kernel.
    pub kernel: Option<&'a str>,
    /// Security updates in it.
    pub advisories: &'a [Advisory],
}

/// The metadata of a layered commit. `initramfs` has the arguments of one that was made again.
pub fn layered_metadata(plan: &Plan, facts: &TreeFacts<'_>, initramfs: Option<&[String]>) -> Variant {
    let TreeFacts { packages, active, version, kernel, advisories } = *facts;
    let meta = VariantDict::new(None);
    if let Some(args) = initramfs {
        meta.insert("rpmostree.initramfs-args", args.to_vec());
    }
    if let Some(version) = version {
        meta.insert("version", version);
    }
    meta.insert("rpmostree.clientlayer", true);
    meta.insert("rpmostree.clientlayer_version", CLIENTLAYER_VERSION);
    meta.insert("rpmostree.state-sha512", plan.input_digest.as_str());
    meta.insert_value("rpmostree.rpmdb.pkglist", &packages_to_variant(packages));
    meta.insert_value("rpmostree.rpmmd-repos", &archives_to_variant(&plan.archives));
    meta.insert("rpmostree.packages", active.to_vec());
    if !advisories.is_empty() {
        meta.insert_value("rpmostree.advisories", &advisories_to_variant(advisories));
    }
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
    insert_replaced(&meta, &plan.replaced);
    if let Some(kernel) = kernel {
        meta.insert("ostree.bootable", true);
        meta.insert("ostree.linux", kernel);
    }
    meta.end()
}

/// `a(vv)` for local packages, `a{sv}` of such lists for those from archives; neither key where there are none.
fn insert_replaced(meta: &VariantDict, replaced: &[Replacement]) {
    let list = |source: Option<&str>| {
        let of = replaced.iter().filter(|r| r.source.as_deref() == source);
        let pairs: Vec<Variant> = of
            .map(|r| Variant::tuple_from_iter([package_to_variant(&r.new), package_to_variant(&r.previous)]))
            .collect();
        pairs.first().map(|v| v.type_().to_owned()).map(|of| Variant::array_from_iter_with_type(&of, pairs))
    };
    if let Some(local) = list(None) {
        meta.insert_value("rpmostree.replaced-base-packages", &local);
    }
    let remote = VariantDict::new(None);
    let mut sources: Vec<&str> = replaced.iter().filter_map(|r| r.source.as_deref()).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in &sources {
        if let Some(pairs) = list(Some(source)) {
            remote.insert_value(source, &pairs);
        }
    }
    if !sources.is_empty() {
        meta.insert_value("rpmostree.replaced-base-remote-packages", &remote.end());
    }
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
        assert_eq!(packages_from_variant(&packages_to_variant(&list)), Some(list));
    }

    fn parsed(text: &str) -> Variant {
        Variant::parse(None, text).unwrap()
    }

    #[test]
    fn every_type_has_a_json_form() {
        let text = "{'b': <true>, 's': <'x'>, 'n': <uint64 18446744073709551615>, 'i': <-3>, 'd': <1.5>, \
                    'ay': <[byte 1, 2]>, 't': <('a', 1)>, 'v': <<'in'>>, 'm': <@ms nothing>, 'j': <@ms 'y'>, \
                    'as': <@as []>, 'dict': <{uint32 1: 'one'}>}";
        let value = to_json(&parsed(text));
        assert_eq!(
            value.to_string(),
            r#"{"b":true,"s":"x","n":18446744073709551615,"i":-3,"d":1.5,"ay":[1,2],"t":["a",1],"v":"in","m":null,"j":"y","as":[],"dict":{"1":"one"}}"#
        );
    }

    #[test]
    fn foreign_types_count_as_absent() {
        let meta = |text: &str| {
            let commit = parsed(&format!("({text}, @ay [], @a(say) [], '', '', uint64 0, @ay [], @ay [])"));
            CommitInfo::new("", &commit)
        };
        let odd = meta(
            "{'version': <1>, 'rpmostree.clientlayer': <'yes'>, 'rpmostree.packages': <'a'>, \
             'rpmostree.removed-base-packages': <'a'>, 'rpmostree.replaced-base-packages': <[1, 2]>, \
             'rpmostree.rpmmd-repos': <['x']>, 'rpmostree.rpmdb.pkglist': <[('a', 'b')]>}",
        );
        assert_eq!(odd.version, None);
        assert!(!odd.layered);
        assert!(odd.active_requests().is_empty() && odd.removed_base_packages().is_empty());
        assert!(odd.replaced_base_packages().is_empty() && odd.archives().is_empty());
        assert!(odd.packages().is_none());
        let good = meta(
            "{'rpmostree.removed-base-packages': <[<('vim-2:9-1.amd64', 'vim', uint64 2, '9', '1', 'amd64')>]>, \
              'rpmostree.replaced-base-packages': <[(<('a-2.all', 'a', uint64 0, '2', '', 'all')>, \
               <('a-1.all', 'a', uint64 0, '1', '', 'all')>)]>}",
        );
        assert_eq!(good.removed_base_packages()[0].evr(), "2:9-1");
        let (new, old) = &good.replaced_base_packages()[0];
        assert_eq!((new.evr().as_str(), old.nevra()), ("2", "a-1.all"));
    }

    #[test]
    fn replacements_round_trip() {
        let replaced = |name: &str, source: Option<&str>| Replacement {
            source: source.map(Into::into),
            previous: PackageId::new(name, "1:1-1", "all"),
            new: PackageId::new(name, "2", "all"),
        };
        let list = vec![replaced("a", None), replaced("b", Some("suite=x")), replaced("c", Some("suite=x"))];
        let plan = Plan { replaced: list, ..Plan::default() };
        let meta = layered_metadata(&plan, &TreeFacts::default(), None);
        let key = |key: &str| lookup(&meta, key).map(|v| v.type_().as_str().to_owned());
        // rpm-ostree's types.
        assert_eq!(key("rpmostree.replaced-base-packages").as_deref(), Some("a(vv)"));
        assert_eq!(key("rpmostree.replaced-base-remote-packages").as_deref(), Some("a{sv}"));
        let commit = parsed(&format!("({}, @ay [], @a(say) [], '', '', uint64 0, @ay [], @ay [])", meta.print(true)));
        let info = CommitInfo::new("", &commit);
        let local = info.replaced_base_packages();
        assert_eq!((local[0].0.nevra(), local[0].1.nevra()), ("a-2.all", "a-1:1-1.all"));
        let remote = info.replaced_base_remote_packages();
        assert_eq!(remote["suite=x"].iter().map(|(new, _)| new.name()).collect::<Vec<_>>(), ["b", "c"]);
    }
}

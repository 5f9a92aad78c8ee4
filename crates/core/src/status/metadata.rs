//! Commit metadata as plain data: the GVariant dictionary of a commit as JSON, and the keys we read out of it.
//!
//! Every accessor takes what another program wrote, so a key of an unexpected type counts as absent.

use ostree::glib;
use ostree::glib::{Variant, VariantClass};
use serde::Serialize;
use serde_json::{Map, Value};

/// Kept out of the JSON: internal, or promoted to a key of its own (`rpm-ostree-json.md` section 1.3).
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

/// A base package as a layered commit recorded it: `(nevra, name, epoch, version, release, arch)`, printed as an array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
        super::full_version(&self.2.to_string(), &self.3, &self.4)
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

/// Name, epoch, version, release, architecture: one entry of `rpmostree.rpmdb.pkglist`.
pub type ListEntry = (String, String, String, String, String);

/// A commit's timestamp and metadata dictionary.
#[derive(Clone, Debug)]
pub struct CommitInfo {
    /// Seconds since the epoch.
    pub timestamp: u64,
    pub parent: Option<String>,
    metadata: Variant,
}

impl CommitInfo {
    /// From a commit object, `(a{sv}aya(say)sstayay)`.
    pub fn new(commit: &Variant) -> Self {
        let shaped = commit.type_().as_str() == "(a{sv}aya(say)sstayay)";
        Self {
            timestamp: if shaped { ostree::commit_get_timestamp(commit) } else { 0 },
            parent: if shaped { ostree::commit_get_parent(commit).map(Into::into) } else { None },
            metadata: if shaped { commit.child_value(0) } else { glib::VariantDict::new(None).end() },
        }
    }

    pub fn lookup<T: glib::variant::FromVariant>(&self, key: &str) -> Option<T> {
        lookup(&self.metadata, key)?.get()
    }

    pub fn string(&self, key: &str) -> Option<String> {
        self.lookup(key)
    }

    pub fn version(&self) -> Option<String> {
        self.string("version")
    }

    /// Whether a client assembled it on top of a base, which is then its parent.
    pub fn is_layered(&self) -> bool {
        self.lookup("rpmostree.clientlayer") == Some(true)
    }

    /// Requests that are active in a layered tree.
    pub fn packages(&self) -> Vec<String> {
        self.lookup("rpmostree.packages").unwrap_or_default()
    }

    pub fn removed_base_packages(&self) -> Vec<BasePackage> {
        self.children("rpmostree.removed-base-packages").iter().filter_map(BasePackage::from_variant).collect()
    }

    /// `(new, old)` pairs.
    pub fn replaced_base_packages(&self) -> Vec<(BasePackage, BasePackage)> {
        let pair = |v: &Variant| {
            let v = unboxed(v);
            (v.is_container() && v.n_children() == 2)
                .then(|| {
                    Some((BasePackage::from_variant(&v.child_value(0))?, BasePackage::from_variant(&v.child_value(1))?))
                })
                .flatten()
        };
        self.children("rpmostree.replaced-base-packages").iter().filter_map(pair).collect()
    }

    /// Base packages upgraded because a request needs it: old NEVRA, new NEVRA, reason.
    pub fn base_upgrades(&self) -> Vec<(String, String, String)> {
        self.lookup("apt-ostree.base-upgrades").unwrap_or_default()
    }

    /// The recorded package list: name, epoch, version, release, arch. `None` if the commit has none.
    pub fn package_list(&self) -> Option<Vec<ListEntry>> {
        self.lookup("rpmostree.rpmdb.pkglist")
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

/// The value of a key of an `a{sv}`; `None` for any other type as well.
pub(super) fn lookup(v: &Variant, key: &str) -> Option<Variant> {
    if v.type_().as_str() != "a{sv}" {
        return None;
    }
    v.iter().find(|e| e.child_value(0).str() == Some(key))?.child_value(1).as_variant()
}

fn unboxed(v: &Variant) -> Variant {
    // as_variant() on anything else makes GLib complain on stderr.
    let inner = if v.classify() == VariantClass::Variant { v.as_variant() } else { None };
    inner.map_or_else(|| v.clone(), |inner| unboxed(&inner))
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let meta = |text: &str| CommitInfo { timestamp: 0, parent: None, metadata: parsed(text) };
        let odd = meta(
            "{'version': <1>, 'rpmostree.clientlayer': <'yes'>, 'rpmostree.packages': <'a'>, \
             'rpmostree.removed-base-packages': <'a'>, 'rpmostree.replaced-base-packages': <[1, 2]>, \
             'rpmostree.rpmmd-repos': <['x']>, 'rpmostree.rpmdb.pkglist': <[('a', 'b')]>}",
        );
        assert_eq!(odd.version(), None);
        assert!(!odd.is_layered());
        assert!(odd.packages().is_empty() && odd.removed_base_packages().is_empty());
        assert!(odd.replaced_base_packages().is_empty() && odd.archives().is_empty());
        assert!(odd.package_list().is_none());
        let good = meta(
            "{'rpmostree.removed-base-packages': <[<('vim-2:9-1.amd64', 'vim', uint64 2, '9', '1', 'amd64')>]>, \
              'rpmostree.replaced-base-packages': <[(<('a-2.all', 'a', uint64 0, '2', '', 'all')>, \
               <('a-1.all', 'a', uint64 0, '1', '', 'all')>)]>}",
        );
        assert_eq!(good.removed_base_packages()[0].evr(), "2:9-1");
        let (new, old) = &good.replaced_base_packages()[0];
        assert_eq!((new.evr().as_str(), old.nevra()), ("2", "a-1.all"));
    }
}

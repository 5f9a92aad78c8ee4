//! From the engine's documents to D-Bus values with the types of the contract (`rpm-ostree-json.md` sections 1.2 to 1.5).
//!
//! The documents are serialised to JSON, whose keys are the dictionaries'; [`DEPLOYMENT`] and [`UPDATE`] give the types that JSON
//! cannot tell. A key that is not in the table gets the nearest type.

use std::str::FromStr;

use apt_ostree_bus::{Dict, DiffEntry};
use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::model::version;
use serde_json::Value as Json;
use zbus::zvariant::{Array, Dict as VariantDict, OwnedValue, Signature, StructureBuilder, Value};

/// Keys of a deployment.
const DEPLOYMENT: &[(&str, &str)] = &[
    ("serial", "i"),
    ("timestamp", "t"),
    ("base-timestamp", "t"),
    ("pending-base-timestamp", "t"),
    ("custom-origin", "(ss)"),
    ("requested-packages", "as"),
    ("requested-local-packages", "as"),
    ("requested-local-fileoverride-packages", "as"),
    ("requested-base-removals", "as"),
    ("requested-base-local-replacements", "as"),
    ("requested-base-remote-replacements", "a(sas)"),
    ("packages", "as"),
    ("initramfs-args", "as"),
    ("initramfs-etc", "as"),
    ("base-upgrades", "a(sss)"),
    ("base-commit-meta", "a{sv}"),
    ("layered-commit-meta", "a{sv}"),
];

/// Keys of the cached update and of what is inside of its `rpm-diff`.
const UPDATE: &[(&str, &str)] = &[
    ("timestamp", "t"),
    ("advisories", "a(suuasa{sv})"),
    ("upgraded", "a(us(ss)(ss))"),
    ("downgraded", "a(us(ss)(ss))"),
    ("removed", "a(usss)"),
    ("added", "a(usss)"),
];

/// Keys inside of commit metadata.
const METADATA: &[(&str, &str)] = &[
    ("rpmostree.clientlayer_version", "u"),
    ("rpmostree.initramfs-args", "as"),
    ("ostree.container-cmd", "as"),
    ("rpmostree.rpmmd-repos", "aa{sv}"),
];

/// `(nevra, name, epoch, version, release, arch)`.
const BASE_PACKAGE: &str = "(sstsss)";

/// The dictionary of a deployment.
pub(crate) fn deployment(document: &Json) -> Dict {
    dict(document, |key, value| match key {
        "base-removals" => Some(array("v", items(value).map(|p| boxed(typed(p, &signature(BASE_PACKAGE)))))),
        "base-local-replacements" => Some(replacements(value)),
        "base-remote-replacements" => {
            let mut sources = VariantDict::new(&Signature::Str, &Signature::Variant);
            for (source, list) in value.as_object().into_iter().flatten() {
                // Both types are those of the dictionary.
                let _ = sources.append(Value::from(source.clone()), boxed(replacements(list)));
            }
            Some(Value::Dict(sources))
        }
        "signatures" => Some(array("v", items(value).map(|s| boxed(untyped(s))))),
        "base-commit-meta" | "layered-commit-meta" => Some(metadata(value)),
        _ => lookup(DEPLOYMENT, key).map(|s| typed(value, &s)),
    })
}

/// The dictionary of the cached update.
pub(crate) fn update(document: &Json) -> Dict {
    dict(document, |key, value| match key {
        "rpm-diff" => {
            let mut groups = VariantDict::new(&Signature::Str, &Signature::Variant);
            for (group, list) in value.as_object().into_iter().flatten() {
                let list = lookup(UPDATE, group).map_or_else(|| untyped(list), |s| typed(list, &s));
                let _ = groups.append(Value::from(group.clone()), boxed(list));
            }
            Some(Value::Dict(groups))
        }
        "signatures" => Some(array("v", items(value).map(|s| boxed(untyped(s))))),
        _ => lookup(UPDATE, key).map(|s| typed(value, &s)),
    })
}

/// `a(sua{sv})`, sorted by kind, then name.
pub(crate) fn package_diff(diff: &PackageDiff) -> Vec<DiffEntry> {
    let mut changes: Vec<_> = diff.changes.iter().collect();
    changes.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.name.cmp(&b.name)));
    let entry = |change: &apt_ostree_core::model::diff::PackageChange| {
        let sides = [("PreviousPackage", &change.previous), ("NewPackage", &change.new)];
        let details = sides.into_iter().filter_map(|(key, id)| {
            let id = id.as_ref()?;
            Some((
                key.to_owned(),
                owned(Value::from((id.name.clone(), version::evr(&id.version).to_owned(), id.arch.clone())))?,
            ))
        });
        (change.name.clone(), change.kind as u32, details.collect())
    };
    changes.into_iter().map(entry).collect()
}

/// The rows of the cached update as `a(sua{sv})`, sorted by kind, then name.
pub(crate) fn update_diff(document: &Json) -> Vec<DiffEntry> {
    let mut entries = Vec::new();
    // Added, removed, upgraded, downgraded: the numbers of the kinds.
    for (kind, group) in (0u32..).zip(["added", "removed", "upgraded", "downgraded"]) {
        for row in items(&document["rpm-diff"][group]) {
            let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
            let name = text(&row[1]);
            let side = |evr: &Json, arch: &Json| owned(Value::from((name.clone(), text(evr), text(arch))));
            let sides = match group {
                "added" => [None, side(&row[2], &row[3])],
                "removed" => [side(&row[2], &row[3]), None],
                _ => [side(&row[2][0], &row[2][1]), side(&row[3][0], &row[3][1])],
            };
            let keys = ["PreviousPackage", "NewPackage"];
            let details = keys.into_iter().zip(sides).filter_map(|(key, side)| Some((key.to_owned(), side?)));
            entries.push((name.clone(), kind, details.collect()));
        }
    }
    entries.sort_by(|(a, x, _): &DiffEntry, (b, y, _)| x.cmp(y).then_with(|| a.cmp(b)));
    entries
}

/// What the cached update says of itself besides its packages.
pub(crate) fn update_details(document: &Json) -> Dict {
    let mut dict = update(document);
    dict.retain(|key, _| {
        ["osname", "checksum", "version", "timestamp", "origin", "signatures", "gpg-enabled"].contains(&key.as_str())
    });
    dict
}

/// The dictionary of a document whose values have the types that JSON tells.
pub(crate) fn nearest(document: &Json) -> Dict {
    dict(document, |_, _| None)
}

/// A dictionary of plain values.
pub(crate) fn plain<const N: usize>(entries: [(&str, Value<'static>); N]) -> Dict {
    entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), owned(value)?))).collect()
}

/// None of our values has a file descriptor, which is what can fail.
fn owned(value: Value<'static>) -> Option<OwnedValue> {
    OwnedValue::try_from(value).ok()
}

fn dict(document: &Json, typed: impl Fn(&str, &Json) -> Option<Value<'static>>) -> Dict {
    let entries = document.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    entries
        .filter_map(|(key, value)| {
            let value = typed(key, value).unwrap_or_else(|| untyped(value));
            Some((key.clone(), owned(value)?))
        })
        .collect()
}

fn replacements(list: &Json) -> Value<'static> {
    let package = |json: Option<&Json>| boxed(typed(json.unwrap_or(&Json::Null), &signature(BASE_PACKAGE)));
    let pair = |pair: &Json| {
        let fields = StructureBuilder::new().append_field(package(pair.get(0))).append_field(package(pair.get(1)));
        structure(fields)
    };
    array("(vv)", items(list).map(pair))
}

fn metadata(document: &Json) -> Value<'static> {
    let mut map = VariantDict::new(&Signature::Str, &Signature::Variant);
    for (key, value) in document.as_object().into_iter().flatten() {
        let value = lookup(METADATA, key).map_or_else(|| untyped(value), |s| typed(value, &s));
        let _ = map.append(Value::from(key.clone()), boxed(value));
    }
    Value::Dict(map)
}

fn lookup(table: &[(&str, &str)], key: &str) -> Option<Signature> {
    table.iter().find(|(k, _)| *k == key).map(|(_, s)| signature(s))
}

fn signature(text: &str) -> Signature {
    Signature::from_str(text).expect("signatures are constants of this module")
}

fn items(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}

fn boxed(value: Value<'static>) -> Value<'static> {
    Value::Value(Box::new(value))
}

fn structure(builder: StructureBuilder<'static>) -> Value<'static> {
    builder.build().map_or_else(|_| Value::from(String::new()), Value::Structure)
}

fn array(element: &str, values: impl Iterator<Item = Value<'static>>) -> Value<'static> {
    let mut array = Array::new(&signature(element));
    for value in values {
        // Made for this element type.
        let _ = array.append(value);
    }
    Value::Array(array)
}

/// The value with the given type; what does not fit becomes the type's zero.
fn typed(json: &Json, wanted: &Signature) -> Value<'static> {
    match wanted {
        Signature::Bool => Value::from(json.as_bool().unwrap_or_default()),
        Signature::I32 => Value::from(json.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or_default()),
        Signature::U32 => Value::from(json.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default()),
        Signature::I64 => Value::from(json.as_i64().unwrap_or_default()),
        Signature::U64 => Value::from(json.as_u64().unwrap_or_default()),
        Signature::Array(child) => {
            array(&child.signature().to_string(), items(json).map(|i| typed(i, child.signature())))
        }
        Signature::Dict { key, value } => {
            let mut map = VariantDict::new(key.signature(), value.signature());
            for (k, v) in json.as_object().into_iter().flatten() {
                let _ = map.append(Value::from(k.clone()), typed(v, value.signature()));
            }
            Value::Dict(map)
        }
        Signature::Structure(fields) => {
            let mut builder = StructureBuilder::new();
            for (index, field) in fields.iter().enumerate() {
                builder = builder.append_field(typed(json.get(index).unwrap_or(&Json::Null), field));
            }
            structure(builder)
        }
        Signature::Variant => boxed(untyped(json)),
        _ => Value::from(json.as_str().unwrap_or_default().to_owned()),
    }
}

/// The nearest type: `s`, `b`, `t` or `x`, `as`, `aa{sv}`, a structure of what differs, `a{sv}`.
fn untyped(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::from(String::new()),
        Json::Bool(truth) => Value::from(*truth),
        Json::String(text) => Value::from(text.clone()),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::Object(map) => {
            let mut dict = VariantDict::new(&Signature::Str, &Signature::Variant);
            for (key, value) in map {
                let _ = dict.append(Value::from(key.clone()), boxed(untyped(value)));
            }
            Value::Dict(dict)
        }
        Json::Array(list) if list.iter().all(Json::is_string) => typed(json, &signature("as")),
        Json::Array(list) if list.iter().all(Json::is_object) => typed(json, &signature("aa{sv}")),
        Json::Array(list) => {
            // libostree's signatures: booleans, texts and times, and times are signed there.
            let field = |item: &Json| match item.as_i64() {
                Some(n) => Value::from(n),
                None => untyped(item),
            };
            structure(list.iter().fold(StructureBuilder::new(), |builder, item| builder.append_field(field(item))))
        }
    }
}

#[cfg(test)]
mod tests {
    use apt_ostree_core::repo::metadata::BasePackage;
    use apt_ostree_core::status::DeploymentStatus;

    use super::*;

    fn kind(dict: &Dict, key: &str) -> String {
        dict.get(key).unwrap_or_else(|| panic!("{key} is missing")).value_signature().to_string()
    }

    #[test]
    fn a_deployment_has_the_types_of_the_contract() {
        let package = |name: &str| {
            BasePackage(format!("{name}-1.amd64"), name.into(), 0, "1".into(), String::new(), "amd64".into())
        };
        let status = DeploymentStatus {
            base_removals: vec![package("a")],
            base_local_replacements: vec![(package("b"), package("b"))],
            base_remote_replacements: [("repo=x".to_owned(), vec![(package("c"), package("c"))])].into(),
            custom_origin: Some(("u".into(), "d".into())),
            layered_commit_meta: serde_json::json!({
                "rpmostree.clientlayer_version": 6, "rpmostree.clientlayer": true, "version": "1",
                "rpmostree.rpmmd-repos": [{"id": "x", "timestamp": 5}],
            })
            .as_object()
            .cloned(),
            signatures: Some(vec![serde_json::json!([true, false, "ABC", 5, -1])]),
            base_timestamp: Some(3),
            ..DeploymentStatus::default()
        };
        let dict = deployment(&serde_json::to_value(&status).unwrap());
        for (key, signature) in [
            ("id", "s"),
            ("serial", "i"),
            ("booted", "b"),
            ("timestamp", "t"),
            ("base-timestamp", "t"),
            ("packages", "as"),
            ("requested-packages", "as"),
            ("custom-origin", "(ss)"),
            ("base-removals", "av"),
            ("base-local-replacements", "a(vv)"),
            ("base-remote-replacements", "a{sv}"),
            ("base-commit-meta", "a{sv}"),
            ("layered-commit-meta", "a{sv}"),
            ("signatures", "av"),
        ] {
            assert_eq!(kind(&dict, key), signature, "{key}");
        }
        assert!(!dict.contains_key("base-checksum"), "absent keys stay absent");
        let Value::Dict(meta) = &*dict["layered-commit-meta"] else { panic!("a dictionary") };
        let inside = |key: &str| meta.get::<_, Value<'_>>(&key).unwrap().unwrap().value_signature().to_string();
        assert_eq!(inside("rpmostree.clientlayer_version"), "u");
        assert_eq!(inside("rpmostree.rpmmd-repos"), "aa{sv}");
    }

    #[test]
    fn an_update_has_the_types_of_the_contract() {
        let document = serde_json::json!({
            "osname": "debian", "timestamp": 5, "ref-has-new-commit": true,
            "rpm-diff": {"upgraded": [[0, "a", ["1", "amd64"], ["2", "amd64"]]], "removed": [], "added": [[1, "b", "1", "all"]]},
            "advisories": [["x", 1, 0, ["a-2.amd64"], {"cve_references": []}]],
        });
        let dict = update(&document);
        assert_eq!(kind(&dict, "advisories"), "a(suuasa{sv})");
        assert_eq!(kind(&dict, "rpm-diff"), "a{sv}");
        let Value::Dict(groups) = &*dict["rpm-diff"] else { panic!("a dictionary") };
        let inside = |key: &str| groups.get::<_, Value<'_>>(&key).unwrap().unwrap().value_signature().to_string();
        assert_eq!((inside("upgraded").as_str(), inside("removed").as_str()), ("a(us(ss)(ss))", "a(usss)"));
        let diff = update_diff(&document);
        let names: Vec<(&str, u32, bool, bool)> = diff
            .iter()
            .map(|(name, kind, d)| {
                (name.as_str(), *kind, d.contains_key("PreviousPackage"), d.contains_key("NewPackage"))
            })
            .collect();
        assert_eq!(names, [("b", 0, false, true), ("a", 2, true, true)]);
        assert!(!update_details(&document).contains_key("rpm-diff"));
    }
}

//! What changed between two package lists, and the texts rpm-ostree prints for it (`rpm-ostree-cli.md` section 4).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::package::PackageId;
use super::version;

/// The numbers are those of `db diff --format=json` and of the D-Bus interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    Added = 0,
    Removed = 1,
    Upgraded = 2,
    Downgraded = 3,
}

/// One package that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageChange {
    pub name: String,
    pub kind: ChangeKind,
    pub previous: Option<PackageId>,
    pub new: Option<PackageId>,
}

/// All differences, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageDiff {
    pub changes: Vec<PackageChange>,
}

impl PackageDiff {
    /// Compares two lists. A name that is there once on each side is a modification whatever its architecture;
    /// with several architectures of a name each is compared on its own (rpm-ostree's multilib rule).
    pub fn between(old: &[PackageId], new: &[PackageId]) -> Self {
        let by_name = |list: &[PackageId]| {
            let mut map: BTreeMap<String, Vec<PackageId>> = BTreeMap::new();
            for id in list {
                map.entry(id.name.clone()).or_default().push(id.clone());
            }
            map
        };
        let (mut old, mut new) = (by_name(old), by_name(new));
        let names: Vec<String> = {
            let mut names: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
            names.sort();
            names.dedup();
            names
        };
        let mut changes = Vec::new();
        for name in names {
            let (a, b) = (old.remove(&name).unwrap_or_default(), new.remove(&name).unwrap_or_default());
            let mut push = |previous: Option<PackageId>, new: Option<PackageId>| {
                let kind = match (&previous, &new) {
                    (Some(p), Some(n)) => match version::compare(&p.version, &n.version) {
                        Ordering::Less => ChangeKind::Upgraded,
                        Ordering::Greater => ChangeKind::Downgraded,
                        Ordering::Equal => return,
                    },
                    (None, _) => ChangeKind::Added,
                    (_, None) => ChangeKind::Removed,
                };
                changes.push(PackageChange { name: name.clone(), kind, previous, new });
            };
            if let ([p], [n]) = (a.as_slice(), b.as_slice()) {
                push(Some(p.clone()), Some(n.clone()));
                continue;
            }
            for p in &a {
                push(Some(p.clone()), b.iter().find(|n| n.arch == p.arch).cloned());
            }
            for n in b.iter().filter(|n| a.iter().all(|p| p.arch != n.arch)) {
                push(None, Some(n.clone()));
            }
        }
        Self { changes }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn of(&self, kind: ChangeKind) -> impl Iterator<Item = &PackageChange> {
        self.changes.iter().filter(move |c| c.kind == kind)
    }

    /// The groups in the order every text form uses, with their titles.
    pub fn groups(&self) -> impl Iterator<Item = (&'static str, Vec<&PackageChange>)> {
        [
            ("Upgraded", ChangeKind::Upgraded),
            ("Downgraded", ChangeKind::Downgraded),
            ("Removed", ChangeKind::Removed),
            ("Added", ChangeKind::Added),
        ]
        .into_iter()
        .map(|(title, kind)| (title, self.of(kind).collect::<Vec<_>>()))
        .filter(|(_, list)| !list.is_empty())
    }

    /// The multi-line form (`Upgraded:` and indented `name old -> new`), empty when nothing differs.
    pub fn block(&self) -> String {
        let mut text = String::new();
        for (title, list) in self.groups() {
            let _ = writeln!(text, "{title}:");
            for change in list {
                let _ = writeln!(text, "  {}", change.describe());
            }
        }
        text
    }

    /// `a(sua{sv})` as `db diff --format=json`, the compose JSON and D-Bus have it: sorted by type, then name.
    pub fn to_json(&self) -> serde_json::Value {
        let tuple = |id: &PackageId| serde_json::json!([id.name, version::evr(&id.version), id.arch]);
        let mut changes: Vec<&PackageChange> = self.changes.iter().collect();
        changes.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.name.cmp(&b.name)));
        let rows = changes.into_iter().map(|change| {
            let mut details = serde_json::Map::new();
            if let Some(previous) = &change.previous {
                details.insert("PreviousPackage".into(), tuple(previous));
            }
            if let Some(new) = &change.new {
                details.insert("NewPackage".into(), tuple(new));
            }
            serde_json::json!([change.name, change.kind as u8, details])
        });
        rows.collect()
    }

    /// `1 upgraded, 2 added`; zero groups are left out.
    pub fn summary(&self) -> String {
        self.groups()
            .map(|(title, list)| format!("{} {}", list.len(), title.to_lowercase()))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The `diff` form: `!OLD`, `=NEW`, `-REMOVED`, `+ADDED`, sorted by name.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let both = change.previous.is_some() && change.new.is_some();
            if let Some(p) = &change.previous {
                let _ = writeln!(text, "{}{}", if both { '!' } else { '-' }, p.nevra());
            }
            if let Some(n) = &change.new {
                let _ = writeln!(text, "{}{}", if both { '=' } else { '+' }, n.nevra());
            }
        }
        text
    }
}

impl PackageChange {
    /// `name old -> new` for a modification, the NEVRA otherwise.
    pub fn describe(&self) -> String {
        match (&self.previous, &self.new) {
            (Some(p), Some(n)) => format!("{} {} -> {}", self.name, p.version, n.version),
            (Some(id), None) | (None, Some(id)) => id.nevra(),
            (None, None) => self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_kinds_and_multiarch() {
        let id = |n: &str, v: &str, a: &str| PackageId::new(n, v, a);
        let old = [
            id("a", "1", "amd64"),
            id("b", "2", "amd64"),
            id("c", "1", "amd64"),
            id("l", "1", "amd64"),
            id("l", "1", "i386"),
        ];
        let new = [id("a", "2", "amd64"), id("b", "1", "all"), id("d", "1", "amd64"), id("l", "2", "amd64")];
        let diff = PackageDiff::between(&old, &new);
        assert_eq!(
            diff.block(),
            "Upgraded:\n  a 1 -> 2\n  l 1 -> 2\nDowngraded:\n  b 2 -> 1\nRemoved:\n  c-1.amd64\n  l-1.i386\nAdded:\n  d-1.amd64\n"
        );
        assert_eq!(diff.summary(), "2 upgraded, 1 downgraded, 2 removed, 1 added");
        assert!(diff.lines().starts_with("!a-1.amd64\n=a-2.amd64\n"));
        assert!(PackageDiff::between(&old, &old).is_empty());
    }

    #[test]
    fn json() {
        let id = |n: &str, v: &str| PackageId::new(n, v, "amd64");
        let diff = PackageDiff::between(&[id("a", "1:1-1"), id("z", "1")], &[id("a", "1:1-2"), id("b", "3")]);
        assert_eq!(
            diff.to_json().to_string(),
            r#"[["b",0,{"NewPackage":["b","3","amd64"]}],["z",1,{"PreviousPackage":["z","1","amd64"]}],["a",2,{"PreviousPackage":["a","1:1-1","amd64"],"NewPackage":["a","1:1-2","amd64"]}]]"#
        );
    }
}

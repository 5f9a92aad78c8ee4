//! Security updates by name: rpm-ostree's advisories, as far as Debian's archives tell of them.
//!
//! Debian's indexes have no advisories in them, but an archive of its own for security updates. So there is one advisory
//! for each source package in a version that such an archive offers, and it is called by both: `openssl 3.5.1-1+deb13u1`.
//! What the source's changelog says of that version tells which CVEs it is about. How severe they are nobody says, so
//! neither does this.

use serde::{Deserialize, Serialize};

use super::changelog::Entry;
use super::diff::{ChangeKind, PackageDiff};
use super::package::PackageId;

/// What makes an archive one for security updates: a field of its Release file, and the value or the end of it.
const SECURITY_ARCHIVES: &[(Field, Match)] = &[
    (Field::Label, Match::Is("Debian-Security")),
    (Field::Suite, Match::EndsIn("-security")),
    (Field::Codename, Match::EndsIn("-security")),
];

/// Where a CVE can be read about, by its number.
const TRACKER: &str = "https://security-tracker.debian.org/tracker/";

/// [`Advisory::kind`] of a security update.
pub const SECURITY: u32 = 1;

/// [`Advisory::severity`] in words; 0 is "nobody says".
pub const SEVERITIES: &[&str] = &["unknown severity", "low", "moderate", "important", "critical"];

#[derive(Clone, Copy, Debug)]
enum Field {
    Label,
    Suite,
    Codename,
}

#[derive(Clone, Copy, Debug)]
enum Match {
    Is(&'static str),
    EndsIn(&'static str),
}

/// The fields of a Release file that tell what an archive is for; empty where it has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReleaseNames<'a> {
    pub label: &'a str,
    pub suite: &'a str,
    pub codename: &'a str,
}

impl ReleaseNames<'_> {
    /// Whether security updates come from there.
    pub fn is_security(&self) -> bool {
        SECURITY_ARCHIVES.iter().any(|(field, wanted)| {
            let value = match field {
                Field::Label => self.label,
                Field::Suite => self.suite,
                Field::Codename => self.codename,
            };
            match wanted {
                Match::Is(text) => value == *text,
                Match::EndsIn(text) => value.ends_with(text),
            }
        })
    }
}

/// `(suuasa{sv})` of rpm-ostree: one source package with a security update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Advisory {
    /// Source package and version, a blank between them.
    pub id: String,
    /// 1: security.
    pub kind: u32,
    /// 0: nobody says.
    pub severity: u32,
    /// NEVRAs.
    pub packages: Vec<String>,
    /// Address and name.
    pub cves: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct Row(String, u32, u32, Vec<String>, Details);

#[derive(Serialize, Deserialize)]
struct Details {
    #[serde(default)]
    cve_references: Vec<(String, String)>,
}

impl From<Row> for Advisory {
    fn from(Row(id, kind, severity, packages, details): Row) -> Self {
        Self { id, kind, severity, packages, cves: details.cve_references }
    }
}

impl From<Advisory> for Row {
    fn from(a: Advisory) -> Self {
        Self(a.id, a.kind, a.severity, a.packages, Details { cve_references: a.cves })
    }
}

impl Advisory {
    /// Of a security update, with the CVEs that the changelog's entry of that version names.
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), kind: SECURITY, ..Self::default() }
    }

    /// The name of an advisory about that version of a source package.
    pub fn id_of(source: &str, version: &str) -> String {
        format!("{source} {version}")
    }

    /// The version of the source package.
    pub fn version(&self) -> &str {
        self.id.split_once(' ').map_or("", |(_, version)| version)
    }

    /// Takes the CVEs from the changelog of its source.
    pub fn add_cves(&mut self, changelog: &[Entry]) {
        let Some(entry) = changelog.iter().find(|e| e.version == self.version()) else { return };
        for line in &entry.changes {
            for name in cves(line) {
                if self.cves.iter().all(|(_, known)| *known != name) {
                    self.cves.push((format!("{TRACKER}{name}"), name));
                }
            }
        }
    }

    /// The severity in a word, capitalised.
    pub fn severity_word(&self) -> &'static str {
        match self.severity {
            1 => "Low",
            2 => "Moderate",
            3 => "Important",
            4 => "Critical",
            _ => "Unknown",
        }
    }
}

/// One advisory for each name, sorted, with all packages of that name.
pub fn group<'a>(packages: impl Iterator<Item = (&'a str, &'a PackageId)>) -> Vec<Advisory> {
    let mut list: Vec<Advisory> = Vec::new();
    for (id, package) in packages {
        let nevra = package.nevra();
        match list.iter_mut().find(|a| a.id == id) {
            Some(advisory) => advisory.packages.push(nevra),
            None => list.push(Advisory { packages: vec![nevra], ..Advisory::new(id) }),
        }
    }
    list.sort_by(|a, b| a.id.cmp(&b.id));
    list.iter_mut().for_each(|a| a.packages.sort());
    list
}

/// What `to` has and `from` has not, by name, of packages that are new or newer in the difference between the two: a tree
/// that records none may well have the packages of the other one.
pub fn new_ones(from: &[Advisory], to: &[Advisory], diff: &PackageDiff) -> Vec<Advisory> {
    let newer: Vec<String> = [ChangeKind::Added, ChangeKind::Upgraded]
        .into_iter()
        .flat_map(|kind| diff.of(kind))
        .filter_map(|change| Some(change.new.as_ref()?.nevra()))
        .collect();
    let is_new = |a: &&Advisory| from.iter().all(|old| old.id != a.id) && a.packages.iter().any(|p| newer.contains(p));
    to.iter().filter(is_new).cloned().collect()
}

/// `1 unknown severity, 2 important`, from the least severe on; empty for none.
pub fn summary(list: &[Advisory]) -> String {
    let count = |severity: usize| {
        list.iter()
            .filter(|a| usize::try_from(a.severity).is_ok_and(|s| s.min(SEVERITIES.len() - 1) == severity))
            .count()
    };
    let counts = SEVERITIES.iter().enumerate().map(|(severity, word)| (count(severity), word));
    counts.filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect::<Vec<_>>().join(", ")
}

/// The CVE numbers in a text: `CVE-`, the year, and four digits or more.
fn cves(text: &str) -> Vec<String> {
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let mut found = Vec::new();
    for (start, _) in text.match_indices("CVE-") {
        let rest = &text[start + 4..];
        let Some(number) = rest.get(5..).filter(|_| digits(rest) == 4 && rest.as_bytes().get(4) == Some(&b'-')) else {
            continue;
        };
        let length = digits(number);
        if length >= 4 {
            found.push(format!("CVE-{}", &rest[..5 + length]));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::changelog;

    #[test]
    fn archives_for_security_updates() {
        let is = |label, suite, codename| ReleaseNames { label, suite, codename }.is_security();
        assert!(is("Debian-Security", "stable", "buster"), "buster/updates");
        assert!(is("Debian-Security", "stable-security", "trixie-security"));
        assert!(is("Ubuntu", "noble-security", "noble"));
        assert!(!is("Debian", "stable", "trixie") && !is("Debian", "stable-updates", "trixie-updates"));
        assert!(!is("", "", "") && !is("Debian Backports", "stable-backports", "trixie-backports"));
    }

    #[test]
    fn one_for_each_source_with_its_cves() {
        let id = |name: &str| PackageId::new(name, "3.5.1-1+deb13u1", "amd64");
        let (libssl, openssl) = (id("libssl3t64"), id("openssl"));
        let name = Advisory::id_of("openssl", "3.5.1-1+deb13u1");
        let mut list = group([(name.as_str(), &openssl), ("a 1", &libssl), (&name, &libssl)].into_iter());
        assert_eq!(list.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["a 1", "openssl 3.5.1-1+deb13u1"]);
        list[1].add_cves(&changelog::parse(
            "openssl (3.5.1-1+deb13u1) trixie-security; urgency=medium\n\n  * CVE-2025-9230 (out of bounds), fixes\n    \
             CVE-2025-12345678, CVE-2025-9230, CVE-25-1 and CVE-2025-\n\n -- A <a@b>  Sat, 09 Aug 2025 09:10:53 +0000\n\n\
             openssl (3.5.1-1) unstable; urgency=medium\n\n  * CVE-2024-1111\n\n -- A <a@b>  Sat, 09 Aug 2025 09:10:53 +0000\n",
        ));
        let tracker = "https://security-tracker.debian.org/tracker/CVE-2025";
        assert_eq!(
            serde_json::to_value(&list[1]).unwrap(),
            serde_json::json!(["openssl 3.5.1-1+deb13u1", 1, 0,
            ["libssl3t64-3.5.1-1+deb13u1.amd64", "openssl-3.5.1-1+deb13u1.amd64"],
            {"cve_references": [
                [format!("{tracker}-9230"), "CVE-2025-9230"],
                [format!("{tracker}-12345678"), "CVE-2025-12345678"],
            ]}])
        );
        let back: Vec<Advisory> = serde_json::from_value(serde_json::to_value(&list).unwrap()).unwrap();
        assert_eq!(back, list);
        let diff = PackageDiff::between(&[PackageId::new("openssl", "3.5.1-1", "amd64")], &[openssl, libssl]);
        assert_eq!(new_ones(&list[..1], &list, &diff), list[1..]);
        assert_eq!(new_ones(&[], &list, &PackageDiff::default()), [], "the packages were there already");
        assert_eq!(summary(&list), "2 unknown severity");
        list[0].severity = 3;
        assert_eq!(summary(&list), "1 unknown severity, 1 important");
        assert_eq!(summary(&[]), "");
    }
}

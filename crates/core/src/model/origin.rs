//! The origin file of a deployment: where its base comes from and everything the user asked for on top.
//!
//! Groups and keys are rpm-ostree's, so that bootc and others read them: `[origin] refspec` (plain) or
//! `baserefspec` (with requests), `override-commit`; `[packages] requested`, `requested-local`;
//! `[overrides] remove`, `replace-local`, `replace` (`KIND=NAME,PACKAGE,PACKAGE;…`, see [`RemoteOverride`]); `[rpmostree]
//! regenerate-initramfs`, `initramfs-args`, `initramfs-etc`.
//! A deployment without requests has none of the last three groups, not even an empty one: bootc refuses otherwise.
//! Keys and groups that are not ours are kept as they are.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::package::PackageId;
use super::request::{PackageRequest, Selector};
use crate::error::{Context, Error, Result};

/// A local .deb that was asked for: kept in the sysroot under its digest, so that it can be installed again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocalPackage {
    /// Lower case hex SHA256 of the .deb.
    pub sha256: String,
    pub id: PackageId,
}

impl LocalPackage {
    /// `SHA256:name_version_arch`. No Debian name, version or architecture has an underscore.
    fn parse(text: &str) -> Option<Self> {
        let (sha256, rest) = text.split_once(':')?;
        let mut parts = rest.split('_');
        let id = PackageId::new(parts.next()?, parts.next()?, parts.next()?);
        Some(Self { sha256: sha256.to_owned(), id })
    }
}

impl fmt::Display for LocalPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}_{}_{}", self.sha256, self.id.name, self.id.version, self.id.arch)
    }
}

/// Base packages replaced from an archive: where the versions come from, and which packages.
///
/// The text is rpm-ostree's, `KIND=NAME,PACKAGE,PACKAGE`. `repo` is rpm-ostree's kind, an index as `status -v` names it
/// (`Debian/trixie-backports`); `suite` (a suite or codename) and `version` (that version, from wherever) are ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RemoteOverride {
    /// `KIND=NAME`.
    pub source: String,
    /// `name` or `name:arch`, sorted.
    pub packages: Vec<String>,
}

impl RemoteOverride {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',').map(|part| part.trim().to_owned());
        let parsed = Self { source: parts.next()?, packages: parts.collect() };
        (!parsed.packages.is_empty() && parsed.requests().is_ok()).then_some(parsed)
    }

    /// What the solver is asked for. `Usage` for an unknown kind or a name that cannot be one.
    pub fn requests(&self) -> Result<Vec<PackageRequest>> {
        let (kind, name) = self.source.split_once('=').unwrap_or((&self.source, ""));
        let selector = match kind {
            _ if name.is_empty() || name.contains([',', ';']) => None,
            "version" => Some(Selector::Version(name.to_owned())),
            "suite" | "repo" => Some(Selector::Suite(name.to_owned())),
            _ => None,
        };
        let selector = selector.ok_or_else(|| {
            Error::usage(format!("'{}' is no source of packages", self.source))
                .hint("A source is suite=SUITE, or repo=ID with an ID that `status -v` shows.")
        })?;
        self.packages
            .iter()
            .map(|name| Ok(PackageRequest { selector: selector.clone(), ..PackageRequest::parse(name)? }))
            .collect()
    }
}

impl fmt::Display for RemoteOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.source, self.packages.join(","))
    }
}

/// Group and its `key=value` lines, in file order.
type Group = (String, Vec<(String, String)>);

/// A parsed origin file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `REMOTE:BRANCH`, a local `BRANCH`, or a bare checksum (a lasting pin).
    pub refspec: String,
    /// A commit chosen by `deploy`; the next `upgrade` drops it.
    pub override_commit: Option<String>,
    /// `--custom-origin-url` and `--custom-origin-description`.
    pub custom: Option<(String, String)>,
    /// Requests in the user's words (`htop`, `vim=2:9.1`, `libc6:i386`), sorted, without duplicates.
    pub requested: Vec<String>,
    pub requested_local: Vec<LocalPackage>,
    /// Base packages that go: `name` or `name:arch`, sorted.
    pub override_remove: Vec<String>,
    /// Base packages replaced by local .debs.
    pub override_replace_local: Vec<LocalPackage>,
    /// Base packages replaced from an archive.
    pub override_replace: Vec<RemoteOverride>,
    /// `[rpmostree] regenerate-initramfs`.
    pub regenerate_initramfs: bool,
    pub initramfs_args: Vec<String>,
    pub initramfs_etc: Vec<String>,
    /// `[libostree-transient] pinned`.
    pub pinned: bool,
    rest: Vec<Group>,
}

/// The keys this type owns, by group.
const OWN: &[(&str, &[&str])] = &[
    ("origin", &["refspec", "baserefspec", "override-commit", "custom-url", "custom-description"]),
    ("packages", &["requested", "requested-local"]),
    ("overrides", &["remove", "replace-local", "replace"]),
    ("rpmostree", &["regenerate-initramfs", "initramfs-args", "initramfs-etc"]),
    ("libostree-transient", &["pinned"]),
];

impl Origin {
    pub fn for_refspec(refspec: impl Into<String>) -> Self {
        Self { refspec: refspec.into(), ..Self::default() }
    }

    /// Parses a GKeyFile text.
    pub fn parse(text: &str) -> Result<Self> {
        let groups = parse_keyfile(text).context(|| "Parsing the origin file")?;
        let get = |group: &str, key: &str| {
            groups.iter().find(|(g, _)| g == group)?.1.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
        };
        let list = |group: &str, key: &str| -> Vec<String> {
            let items = split_list(get(group, key).unwrap_or_default());
            items.iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
        };
        let local = |group: &str, key: &str| -> Result<Vec<LocalPackage>> {
            list(group, key)
                .iter()
                .map(|s| {
                    LocalPackage::parse(s).ok_or_else(|| {
                        Error::failed(format!("Invalid entry '{s}' in [{group}] {key} of the origin file"))
                    })
                })
                .collect()
        };
        let truth = |group: &str, key: &str| get(group, key).is_some_and(|v| v == "true" || v == "1");
        let refspec = get("origin", "refspec").or_else(|| get("origin", "baserefspec"));
        let mut origin = Self {
            refspec: unescape(
                refspec
                    .ok_or_else(|| Error::failed("The origin file has neither refspec nor baserefspec in [origin]"))?,
            ),
            override_commit: get("origin", "override-commit").map(unescape),
            custom: get("origin", "custom-url")
                .map(|url| (unescape(url), get("origin", "custom-description").map(unescape).unwrap_or_default())),
            requested: list("packages", "requested"),
            requested_local: local("packages", "requested-local")?,
            override_remove: list("overrides", "remove"),
            override_replace_local: local("overrides", "replace-local")?,
            override_replace: list("overrides", "replace")
                .iter()
                .map(|s| {
                    RemoteOverride::parse(s).ok_or_else(|| {
                        Error::failed(format!("Invalid entry '{s}' in [overrides] replace of the origin file"))
                    })
                })
                .collect::<Result<_>>()?,
            regenerate_initramfs: truth("rpmostree", "regenerate-initramfs"),
            initramfs_args: list("rpmostree", "initramfs-args"),
            initramfs_etc: list("rpmostree", "initramfs-etc"),
            pinned: truth("libostree-transient", "pinned"),
            rest: Vec::new(),
        };
        for (group, lines) in groups {
            let own = OWN.iter().find(|(g, _)| *g == group).map_or(&[][..], |(_, keys)| keys);
            let lines: Vec<_> = lines.into_iter().filter(|(k, _)| !own.contains(&k.as_str())).collect();
            if lines.is_empty() {
                continue;
            }
            match origin.rest.iter_mut().find(|(known, _)| *known == group) {
                Some((_, known)) => known.extend(lines),
                None => origin.rest.push((group, lines)),
            }
        }
        // As they are written: those that have keys of ours as well come first.
        origin.rest.sort_by_key(|(group, _)| OWN.iter().position(|(own, _)| own == group).unwrap_or(OWN.len()));
        origin.normalise();
        Ok(origin)
    }

    /// Sorts every list and drops what is there twice, so that the way to an origin leaves no trace in it.
    pub fn normalise(&mut self) {
        for list in [&mut self.requested, &mut self.override_remove, &mut self.initramfs_etc] {
            list.sort();
            list.dedup();
        }
        for list in [&mut self.requested_local, &mut self.override_replace_local] {
            list.sort();
            list.dedup();
        }
        let mut merged: Vec<RemoteOverride> = Vec::new();
        self.override_replace.sort();
        for mut entry in self.override_replace.drain(..) {
            match merged.last_mut().filter(|last| last.source == entry.source) {
                Some(last) => last.packages.append(&mut entry.packages),
                None => merged.push(entry),
            }
        }
        for entry in &mut merged {
            entry.packages.sort();
            entry.packages.dedup();
        }
        merged.retain(|entry| !entry.packages.is_empty());
        self.override_replace = merged;
    }

    /// Whether assembling is needed at all: anything but a plain base. Files tracked for the initramfs are no part of
    /// the tree: they lie beside its initramfs in /boot.
    pub fn is_layered(&self) -> bool {
        !self.requested.is_empty()
            || !self.requested_local.is_empty()
            || self.has_overrides()
            || self.regenerate_initramfs
    }

    /// Whether base packages are removed or replaced on request.
    pub fn has_overrides(&self) -> bool {
        !self.override_remove.is_empty() || !self.override_replace_local.is_empty() || !self.override_replace.is_empty()
    }

    /// `remote` and `branch` of the refspec; no remote for a local branch, `None` for a checksum.
    pub fn remote_and_branch(&self) -> Option<(Option<&str>, &str)> {
        if self.is_checksum() {
            return None;
        }
        Some(match self.refspec.split_once(':') {
            Some(("", branch)) => (None, branch),
            Some((remote, branch)) => (Some(remote), branch),
            None => (None, &self.refspec),
        })
    }

    /// A bare checksum: a lasting pin, `upgrade` never moves it.
    pub fn is_checksum(&self) -> bool {
        is_checksum(&self.refspec)
    }
}

/// 64 lower case hex digits.
pub fn is_checksum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

impl fmt::Display for Origin {
    /// The file text. Sorted groups: ours first, then what was there besides.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<Group> = Vec::new();
        let mut put = |group: &str, key: &str, value: String| {
            match groups.iter_mut().find(|(g, _)| g == group) {
                Some((_, lines)) => lines.push((key.to_owned(), value)),
                None => groups.push((group.to_owned(), vec![(key.to_owned(), value)])),
            };
        };
        let join = |items: &[String]| terminated(items.iter());
        let join_local = |items: &[LocalPackage]| terminated(items.iter());
        put("origin", if self.is_layered() { "baserefspec" } else { "refspec" }, escape(&self.refspec));
        if let Some(commit) = &self.override_commit {
            put("origin", "override-commit", escape(commit));
        }
        if let Some((url, description)) = &self.custom {
            put("origin", "custom-url", escape(url));
            put("origin", "custom-description", escape(description));
        }
        for (group, key, items) in [
            ("packages", "requested", join(&self.requested)),
            ("packages", "requested-local", join_local(&self.requested_local)),
            ("overrides", "remove", join(&self.override_remove)),
            ("overrides", "replace-local", join_local(&self.override_replace_local)),
            ("overrides", "replace", terminated(self.override_replace.iter())),
            ("rpmostree", "regenerate-initramfs", String::from(if self.regenerate_initramfs { "true" } else { "" })),
            ("rpmostree", "initramfs-args", join(&self.initramfs_args)),
            ("rpmostree", "initramfs-etc", join(&self.initramfs_etc)),
            ("libostree-transient", "pinned", String::from(if self.pinned { "true" } else { "" })),
        ] {
            if !items.is_empty() {
                put(group, key, items);
            }
        }
        for (group, lines) in &self.rest {
            for (key, value) in lines {
                put(group, key, value.clone());
            }
        }
        for (index, (group, lines)) in groups.iter().enumerate() {
            writeln!(f, "{}[{group}]", if index == 0 { "" } else { "\n" })?;
            for (key, value) in lines {
                writeln!(f, "{key}={value}")?;
            }
        }
        Ok(())
    }
}

/// Groups of a GKeyFile text, in file order.
pub(super) fn parse_keyfile(text: &str) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            groups.push((name.to_owned(), Vec::new()));
        } else if let (Some((key, value)), Some(group)) = (line.split_once('='), groups.last_mut()) {
            group.1.push((key.trim().to_owned(), value.trim().to_owned()));
        } else {
            return Err(Error::failed(format!("Line {} is neither a group nor key=value", index + 1)));
        }
    }
    Ok(groups)
}

/// A GKeyFile list: every item ends in `;`.
fn terminated(items: impl Iterator<Item = impl fmt::Display>) -> String {
    items.fold(String::new(), |list, item| list + &escape(&item.to_string()).replace(';', r"\;") + ";")
}

/// GKeyFile's escapes; blanks are kept within a value anyway.
fn escape(text: &str) -> String {
    let inner = text.trim_matches(' ');
    let before = text.len() - text.trim_start_matches(' ').len();
    let after = text.len() - before - inner.len();
    let inner = inner.replace('\\', r"\\").replace('\n', r"\n").replace('\t', r"\t").replace('\r', r"\r");
    format!("{}{inner}{}", r"\s".repeat(before), r"\s".repeat(after))
}

/// The items of a list; the inverse of [`terminated`].
fn split_list(text: &str) -> Vec<String> {
    let (mut items, mut item, mut chars) = (Vec::new(), String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('s') => item.push(' '),
                Some('n') => item.push('\n'),
                Some('t') => item.push('\t'),
                Some('r') => item.push('\r'),
                Some(other) => item.push(other),
                None => item.push('\\'),
            },
            ';' => items.push(std::mem::take(&mut item)),
            other => item.push(other),
        }
    }
    items.push(item);
    items
}

/// A value that is no list: a `;` in it is one of its own. The inverse of [`escape`].
fn unescape(text: &str) -> String {
    split_list(text).join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_layered_round_trip() {
        let plain = "[origin]\nrefspec=debian:debian/13/amd64/minimal\n";
        assert_eq!(Origin::parse(plain).unwrap().to_string(), plain);
        let mut origin = Origin::parse(plain).unwrap();
        origin.requested = vec!["htop".into(), "podman (>= 4.1)".into()];
        origin.requested_local =
            vec![LocalPackage { sha256: "ab".repeat(32), id: PackageId::new("hello", "1:2-3", "amd64") }];
        let text = origin.to_string();
        assert!(text.contains("baserefspec=debian:debian/13/amd64/minimal\n"), "{text}");
        assert!(text.contains("requested=htop;podman (>= 4.1);\n"), "{text}");
        assert_eq!(Origin::parse(&text).unwrap(), origin);
    }

    #[test]
    fn overrides_round_trip() {
        let text = "[origin]\nbaserefspec=a:b\n\n[overrides]\nremove=nano;\nreplace=repo=Debian/sid,vim;version=1:2-3,less,libc6:i386;\n";
        let mut origin = Origin::parse(text).unwrap();
        assert_eq!(origin.to_string(), text);
        let requests = origin.override_replace[1].requests().unwrap();
        assert_eq!(requests.iter().map(ToString::to_string).collect::<Vec<_>>(), ["less=1:2-3", "libc6:i386=1:2-3"]);
        assert_eq!(origin.override_replace[0].requests().unwrap()[0].to_string(), "vim/Debian/sid");
        // Two ways to the same requests are one origin.
        let more = RemoteOverride { source: "repo=Debian/sid".into(), packages: vec!["abc".into(), "vim".into()] };
        origin.override_replace.push(more);
        origin.normalise();
        assert_eq!(origin.override_replace[0].packages, ["abc", "vim"]);
        assert_eq!(origin.override_replace.len(), 2);
        for bad in ["vim", "kind=x,vim", "repo=x", "repo=,vim", "repo=x,Vim"] {
            let text = format!("[origin]\nbaserefspec=a:b\n\n[overrides]\nreplace={bad};\n");
            assert!(Origin::parse(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn tracked_files_alone_are_no_layer() {
        let text = "[origin]\nrefspec=a:b\n\n[rpmostree]\ninitramfs-etc=/etc/crypttab;\n";
        let origin = Origin::parse(text).unwrap();
        assert!(!origin.is_layered());
        assert_eq!(origin.to_string(), text);
    }

    #[test]
    fn no_request_leaves_no_group_behind() {
        let mut origin = Origin::parse("[origin]\nbaserefspec=a:b\n\n[packages]\nrequested=htop;\n").unwrap();
        origin.requested.clear();
        assert_eq!(origin.to_string(), "[origin]\nrefspec=a:b\n");
    }

    #[test]
    fn items_are_what_they_were() {
        let mut origin = Origin::for_refspec("a:b");
        origin.regenerate_initramfs = true;
        origin.initramfs_args = vec!["--add=a;b".into(), r"back\slash\n".into(), "two\nlines".into()];
        origin.initramfs_etc = vec!["/etc/x;y".into()];
        origin.custom = Some(("https://example.org/;x".into(), r"a\;b".into()));
        assert_eq!(Origin::parse(&origin.to_string()).unwrap(), origin);
    }

    #[test]
    fn foreign_keys_stay() {
        let text = "[origin]\nrefspec=a:b\nx=1\n\n[other]\nkey=v;w;\n";
        assert_eq!(Origin::parse(text).unwrap().to_string(), text);
        assert!(Origin::parse("nonsense").is_err());
        assert!(Origin::parse("[packages]\nrequested=a;\n").is_err());
    }
}

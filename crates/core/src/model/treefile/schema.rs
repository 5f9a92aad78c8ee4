//! The table of treefile keys: type, merging, and what is not supported and why.
//!
//! One row per key; reading, merging, the nearest-key hints and the check of the documentation all go by it.

use super::node::{At, Node, Value};
use crate::error::{Error, Result};

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A string or a number, taken as it is written.
    TextOrNumber,
    Bool,
    /// A list of strings.
    Texts,
    /// A list of strings, or one text with a line for each.
    Lines,
    /// A map of anything.
    Map,
    /// A map of strings, numbers and booleans.
    Scalars,
    /// A list of `[source, destination]`.
    Pairs,
    /// A list of lists of strings.
    Rows,
    /// A list of names and maps.
    Repos,
    /// A string or a list of strings.
    Include,
    /// A map from architecture to `Include`.
    ArchInclude,
    /// A list of `{if, include}`.
    Conditional,
    /// Not looked at.
    Any,
}

/// How the value of an included file joins the including one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    /// The including file wins; among several includes the first that has the key.
    Outer,
    /// Lists: the included entries go in front.
    Front,
    /// Lists: the included entries go behind (where the first match wins).
    Behind,
    /// Maps: union, the including file wins per key.
    Union,
    /// Used up while its file is read.
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Yes,
    /// A warning, for the reason given.
    Ignored(&'static str),
    /// An error, for the reason given.
    Refused(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) merge: Merge,
    pub(super) support: Support,
}

const fn key(name: &'static str, kind: Kind, merge: Merge) -> Key {
    Key { name, kind, merge, support: Support::Yes }
}

const fn ignored(name: &'static str, why: &'static str) -> Key {
    Key { name, kind: Kind::Any, merge: Merge::Local, support: Support::Ignored(why) }
}

const fn refused(name: &'static str, why: &'static str) -> Key {
    Key { name, kind: Kind::Any, merge: Merge::Local, support: Support::Refused(why) }
}

const ORIGIN: &str = "it belongs to the origin of a client system, not to a base compose";
const RPM: &str = "it is about RPM and means nothing on Debian";
const LATER: &str = "it is not supported yet";

/// Every key, in the order of the documentation.
pub(super) static KEYS: &[Key] = &[
    key("ref", Kind::Text, Merge::Outer),
    key("edition", Kind::TextOrNumber, Merge::Outer),
    key("releasever", Kind::TextOrNumber, Merge::Outer),
    key("basearch", Kind::Text, Merge::Outer),
    key("repos", Kind::Repos, Merge::Front),
    key("compose-repos", Kind::Repos, Merge::Front),
    key("include", Kind::Include, Merge::Local),
    key("arch-include", Kind::ArchInclude, Merge::Local),
    key("conditional-include", Kind::Conditional, Merge::Local),
    key("variables", Kind::Scalars, Merge::Union),
    key("metadata", Kind::Map, Merge::Union),
    key("add-commit-metadata", Kind::Map, Merge::Union),
    key("gpg-key", Kind::Text, Merge::Outer),
    key("version", Kind::TextOrNumber, Merge::Outer),
    key("automatic-version-prefix", Kind::TextOrNumber, Merge::Outer),
    key("automatic-version-suffix", Kind::Text, Merge::Outer),
    key("mutate-os-release", Kind::TextOrNumber, Merge::Outer),
    key("packages", Kind::Texts, Merge::Front),
    key("exclude-packages", Kind::Texts, Merge::Front),
    key("foreign-architectures", Kind::Texts, Merge::Front),
    key("recommends", Kind::Bool, Merge::Outer),
    key("documentation", Kind::Bool, Merge::Outer),
    key("install-langs", Kind::Texts, Merge::Front),
    key("locales", Kind::Texts, Merge::Front),
    key("debconf", Kind::Lines, Merge::Front),
    key("units", Kind::Texts, Merge::Front),
    key("presets", Kind::Lines, Merge::Behind),
    key("default-target", Kind::Text, Merge::Outer),
    key("add-files", Kind::Pairs, Merge::Front),
    key("remove-files", Kind::Texts, Merge::Front),
    key("remove-from-packages", Kind::Rows, Merge::Front),
    key("postprocess", Kind::Texts, Merge::Front),
    key("postprocess-script", Kind::Text, Merge::Outer),
    key("machineid-compat", Kind::Bool, Merge::Outer),
    key("opt-usrlocal", Kind::Text, Merge::Outer),
    key("tmp-is-dir", Kind::Bool, Merge::Outer),
    key("readonly-executables", Kind::Bool, Merge::Outer),
    key("boot-location", Kind::Text, Merge::Outer),
    key("initramfs-args", Kind::Texts, Merge::Front),
    key("no-initramfs", Kind::Bool, Merge::Outer),
    key("container", Kind::Bool, Merge::Outer),
    key("selinux", Kind::Bool, Merge::Outer),
    key("preserve-passwd", Kind::Bool, Merge::Outer),
    key("check-passwd", Kind::Map, Merge::Outer),
    key("check-groups", Kind::Map, Merge::Outer),
    key("ignore-removed-users", Kind::Texts, Merge::Front),
    key("ignore-removed-groups", Kind::Texts, Merge::Front),
    ignored("advisories-metadata", "security updates are always recorded"),
    ignored("cliwrap", "apt itself refuses changes on a booted system and names the command to use"),
    ignored("cliwrap-binaries", "apt itself refuses changes on a booted system and names the command to use"),
    ignored("etc-group-members", "every group stands in /etc/group, so members can be added to any"),
    ignored("ignore-devices", "device nodes never get into a commit"),
    ignored("ima", "Debian packages carry no IMA signatures"),
    ignored("lockfile-repos", "there are no lock files yet"),
    ignored("repo-metadata", "suite and date of every archive are always recorded in the commit"),
    ignored("rpmdb-normalize", "the dpkg database is always written the same way"),
    ignored("selinux-label-version", "the tree is not labelled"),
    ignored("sysusers", "accounts always become sysusers.d entries, with fixed numbers"),
    refused("container-cmd", LATER),
    refused("ostree-layers", LATER),
    refused("ostree-override-layers", LATER),
    refused(
        "repo-packages",
        "it is not supported yet; write 'name/suite' in 'packages' to take a package from one suite",
    ),
    refused("repovars", "deb822 sources have no variables but $(ARCH)"),
    refused("platform-module", RPM),
    refused("rojig", RPM),
    refused("rpmdb", RPM),
    refused("base-refspec", ORIGIN),
    refused("container-image-reference", ORIGIN),
    refused("custom", ORIGIN),
    refused("ex-override-replace", ORIGIN),
    refused("initramfs", "it belongs to the origin of a client system; a base compose has 'initramfs-args'"),
    refused("override-commit", ORIGIN),
    refused("override-remove", ORIGIN),
    refused("override-replace-local", ORIGIN),
    refused("packages-local", ORIGIN),
    refused("packages-local-fileoverride", ORIGIN),
    refused("unconfigured-state", ORIGIN),
];

/// Older spellings that upstream still takes, and `bootstrap-packages`, which it merges into `packages`.
pub(super) fn modern_name(name: &str) -> &str {
    match name {
        "gpg_key" => "gpg-key",
        "boot_location" => "boot-location",
        "default_target" => "default-target",
        "automatic_version_prefix" => "automatic-version-prefix",
        "bootstrap_packages" => "bootstrap-packages",
        _ => name,
    }
}

/// dpkg architectures, those of debian-ports included (`dpkg-architecture -L` without other kernels' userlands).
static ARCHITECTURES: &[&str] = &[
    "alpha",
    "amd64",
    "arc",
    "arm64",
    "armel",
    "armhf",
    "hppa",
    "hurd-amd64",
    "hurd-i386",
    "i386",
    "ia64",
    "loong64",
    "m68k",
    "mips64el",
    "mipsel",
    "powerpc",
    "ppc64",
    "ppc64el",
    "riscv64",
    "s390x",
    "sh4",
    "sparc64",
    "x32",
];

/// The dpkg name of an architecture; RPM's names are taken too. `None`: no such architecture.
pub(super) fn architecture(name: &str) -> Option<&'static str> {
    let name = match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "ppc64le" => "ppc64el",
        "armv7hl" => "armhf",
        "i586" | "i686" => "i386",
        "loongarch64" => "loong64",
        _ => name,
    };
    ARCHITECTURES.iter().find(|a| **a == name).copied()
}

/// [`architecture`] or an error at `at`.
pub(super) fn require_architecture(name: &str, at: &At) -> Result<&'static str> {
    architecture(name).ok_or_else(|| {
        let error = at.error(format!("unknown architecture '{name}'"));
        match nearest(name, ARCHITECTURES.iter().copied()) {
            Some(near) => error.hint(format!("Did you mean '{near}'?")),
            None => error.hint("Architectures have dpkg's names, for example amd64 or arm64."),
        }
    })
}

/// The row of a key, or an error with the nearest known key.
pub(super) fn lookup(name: &str, at: &At) -> Result<&'static Key> {
    if let Some(key) = KEYS.iter().find(|k| k.name == name) {
        return Ok(key);
    }
    let error = at.error(format!("unknown key '{name}'"));
    let supported = KEYS.iter().filter(|k| k.support == Support::Yes).map(|k| k.name);
    // A compose key nobody knows is more often misspelt than invented, so the hint comes for near misses only.
    Err(match nearest(&name.replace('_', "-").to_lowercase(), supported) {
        Some(near) => error.hint(format!("Did you mean '{near}'?")),
        None => error.hint("All keys are listed in docs/treefile.md."),
    })
}

/// The candidate with the fewest typing errors, if those are few for the length of `name`.
pub(in crate::model) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 4);
    candidates.map(|c| (distance(name, c), c)).filter(|(d, _)| *d <= limit).min().map(|(_, c)| c)
}

/// Optimal string alignment distance: insertions, deletions, replacements and swapped neighbours count one each.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(100).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for j in 0..=b.len() {
        rows[0][j] = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// Checks the type of a value. `name` is the key as the user wrote it.
pub(super) fn check(name: &str, kind: Kind, node: &Node) -> Result<()> {
    let what = format!("'{name}'");
    let item = format!("an entry of '{name}'");
    let texts =
        |node: &Node| -> Result<()> { node.list(&what, "strings")?.iter().try_for_each(|n| n.text(&item).map(drop)) };
    match kind {
        Kind::Any => Ok(()),
        Kind::Text => node.text(&what).map(drop),
        Kind::TextOrNumber => node.text_or_number(&what).map(drop),
        Kind::Bool => node.bool(&what).map(drop),
        Kind::Map => node.map(&what).map(drop),
        Kind::Texts => texts(node),
        Kind::Lines => match &node.value {
            Value::Text(_) | Value::List(_) => {
                if matches!(node.value, Value::List(_)) {
                    texts(node)
                } else {
                    Ok(())
                }
            }
            _ => Err(node.wrong(&what, "a list of strings or one text")),
        },
        Kind::Include => match &node.value {
            Value::Text(_) => Ok(()),
            Value::List(_) => texts(node),
            _ => Err(node.wrong(&what, "a file name or a list of file names")),
        },
        Kind::Scalars => node.map(&what)?.iter().try_for_each(|e| match &e.node.value {
            Value::Bool(_) | Value::Number(..) | Value::Text(_) => Ok(()),
            _ => Err(e.node.wrong(&format!("'{}' of '{name}'", e.key), "a string, a number or a boolean")),
        }),
        Kind::Pairs => node.list(&what, "[source, destination]")?.iter().try_for_each(|n| {
            match n.list(&item, "two strings [source, destination]")? {
                pair @ [_, _] => pair.iter().try_for_each(|n| n.text(&item).map(drop)),
                list => {
                    Err(n.at.error(format!("{item}: expected [source, destination], found {} entries", list.len())))
                }
            }
        }),
        Kind::Rows => node.list(&what, "[package, pattern, ...]")?.iter().try_for_each(|n| {
            let list = n.list(&item, "strings [package, pattern, ...]")?;
            if list.len() < 2 {
                return Err(n.at.error(format!("{item}: expected a package and at least one pattern")));
            }
            list.iter().try_for_each(|n| n.text(&item).map(drop))
        }),
        Kind::Repos => node.list(&what, "names or deb822 stanzas")?.iter().try_for_each(|n| match &n.value {
            Value::Text(_) | Value::Map(_) => Ok(()),
            _ => Err(n.wrong(&item, "a name, a deb822 text or a map of deb822 fields")),
        }),
        Kind::ArchInclude => node.map(&what)?.iter().try_for_each(|e| {
            require_architecture(&e.key, &e.at)?;
            check(name, Kind::Include, &e.node)
        }),
        Kind::Conditional => node.list(&what, "maps with 'if' and 'include'")?.iter().try_for_each(|n| {
            let map = n.map(&item)?;
            for wanted in ["if", "include"] {
                if !map.iter().any(|e| e.key == wanted) {
                    return Err(n.at.error(format!("{item}: it has no '{wanted}'")));
                }
            }
            map.iter().find(|e| e.key != "if" && e.key != "include").map_or(Ok(()), |e| {
                Err(e.at.error(format!("{item}: unknown key '{}', expected 'if' and 'include'", e.key)))
            })
        }),
    }
}

/// The error of a key that is not supported.
pub(super) fn refusal(name: &str, why: &str, at: &At) -> Error {
    at.error(format!("'{name}' cannot be used: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_counted() {
        for (a, b, n) in [
            ("", "abc", 3),
            ("pacakges", "packages", 1),
            ("unit", "units", 1),
            ("ref", "ref", 0),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), n, "{a} {b}");
            assert_eq!(distance(b, a), n, "{b} {a}");
        }
        assert_eq!(nearest("zzz", KEYS.iter().map(|k| k.name)), None);
    }

    #[test]
    fn rows_are_unique_and_kebab_case() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(key.name.bytes().all(|c| c.is_ascii_lowercase() || c == b'-'), "{}", key.name);
            assert!(KEYS[i + 1..].iter().all(|k| k.name != key.name), "{}", key.name);
        }
    }

    /// The documentation lists every key in the section that it belongs to.
    #[test]
    fn documentation_names_every_key() {
        let text = include_str!("../../../../../docs/treefile.md");
        let (supported, rest) = text.split_once("\n## Ignored\n").unwrap();
        let (ignored, refused) = rest.split_once("\n## Refused\n").unwrap();
        for key in KEYS {
            let (section, row) = match key.support {
                Support::Yes => (supported, format!("\n| `{}` |", key.name)),
                Support::Ignored(_) => (ignored, format!("\n| `{}` |", key.name)),
                Support::Refused(_) => (refused, format!("`{}`", key.name)),
            };
            assert!(section.contains(&row), "docs/treefile.md does not list {}", key.name);
        }
        // And nothing that does not exist.
        for row in text.lines().filter_map(|l| l.strip_prefix("| `")) {
            let first = row.split(" |").next().unwrap();
            for name in first.split(", ").map(|n| n.trim_matches('`')) {
                assert!(KEYS.iter().any(|k| k.name == name), "docs/treefile.md lists {name}, which is no key");
            }
        }
    }
}

//! What a user asks for on the command line or in a treefile, and how the origin file keeps it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One package request: `name`, `name:arch`, `name=version`, `name/suite`, or `name (>= version)` in a treefile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageRequest {
    pub name: String,
    pub arch: Option<String>,
    pub selector: Selector,
}

/// Which version of the named package will do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selector {
    /// The candidate, as apt's pins choose it.
    Any,
    /// Exactly this version.
    Version(String),
    /// The version of this suite, codename or archive.
    Suite(String),
    /// A relation as in a Depends field: operator and version.
    Relation(String, String),
}

impl PackageRequest {
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Err(Error::usage(format!("Invalid package request '{text}': {why}")));
        let text_trimmed = text.trim();
        let (head, selector) = if let Some((head, rest)) = text_trimmed.split_once('(') {
            let Some(rest) = rest.strip_suffix(')') else { return bad("a '(' without its ')'") };
            let rest = rest.trim();
            let split = rest.find(|c: char| !"<>=".contains(c)).unwrap_or(rest.len());
            let (op, version) = rest.split_at(split);
            if !matches!(op, "<<" | "<=" | "=" | ">=" | ">>") || version.trim().is_empty() {
                return bad("expected a relation such as (>= 1.2)");
            }
            (head.trim(), Selector::Relation(op.to_owned(), version.trim().to_owned()))
        } else if let Some((head, version)) = text_trimmed.split_once('=') {
            if version.is_empty() {
                return bad("no version after '='");
            }
            (head, Selector::Version(version.to_owned()))
        } else if let Some((head, suite)) = text_trimmed.split_once('/') {
            if suite.is_empty() || head.is_empty() {
                return bad("expected name/suite");
            }
            (head, Selector::Suite(suite.to_owned()))
        } else {
            (text_trimmed, Selector::Any)
        };
        // Versions (deb-version(7)), patterns of them, and suites have neither blanks nor quotes.
        let word = |text: &str| text.chars().all(|c| c.is_ascii_graphic() && !"'\"`;,()=".contains(c));
        match &selector {
            Selector::Version(version) | Selector::Relation(_, version) if !word(version) => {
                return bad(&format!("'{version}' is not a version"));
            }
            Selector::Suite(suite) if !word(suite) => return bad(&format!("'{suite}' is not a suite")),
            _ => {}
        }
        let (name, arch) = match head.split_once(':') {
            Some((_, "")) => return bad("no architecture after ':'"),
            Some((name, arch)) => (name, Some(arch.to_owned())),
            None => (head, None),
        };
        if let Some(arch) = arch.as_deref().filter(|a| !a.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')) {
            return bad(&format!("'{arch}' is not an architecture"));
        }
        // Policy section 5.6.1: lower case letters, digits, plus, minus, full stop.
        let valid = |name: &str| {
            name.len() >= 2
                && name.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c))
        };
        if !valid(name) {
            let refusal = bad(
                "a package name has at least two characters out of a-z 0-9 + - . and starts with a letter or digit",
            );
            // Names of other distributions have capitals (NetworkManager), which are the beginnings of words here, or nothing.
            let (lower, words) = (name.to_ascii_lowercase(), in_words(name));
            if !valid(&lower) {
                return refusal;
            }
            let meant = if words == lower { lower } else { format!("{words} or {lower}") };
            return refusal.map_err(|e| e.hint(format!("Did you mean {meant}?")));
        }
        Ok(Self { name: name.to_owned(), arch, selector })
    }

    /// `name` or `name:arch`: the part that says which package, whatever version.
    pub fn target(&self) -> String {
        match &self.arch {
            Some(arch) => format!("{}:{arch}", self.name),
            None => self.name.clone(),
        }
    }
}

/// `NetworkManager` as `network-manager`.
fn in_words(name: &str) -> String {
    let (mut words, mut small) = (String::new(), false);
    for c in name.chars() {
        if small && c.is_ascii_uppercase() {
            words.push('-');
        }
        words.push(c.to_ascii_lowercase());
        small = c.is_ascii_lowercase();
    }
    words
}

impl fmt::Display for PackageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target())?;
        match &self.selector {
            Selector::Any => Ok(()),
            Selector::Version(v) => write!(f, "={v}"),
            Selector::Suite(s) => write!(f, "/{s}"),
            Selector::Relation(op, v) => write!(f, " ({op} {v})"),
        }
    }
}

impl Serialize for PackageRequest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PackageRequest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for text in
            ["htop", "libc6:i386", "htop=3.4.1-5", "vim/trixie-backports", "podman (>= 4.1)", "libfoo2.0:arm64=1:2-3"]
        {
            assert_eq!(PackageRequest::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_dpkg_would_not_take() {
        for text in [
            "", "a", "Htop", "htop=", "htop/", "/trixie", "htop:", "x (1)", "../etc", "foo bar", "a1:b c", "a1=1 2",
            "a1/x y", "a1=1;2",
        ] {
            assert!(PackageRequest::parse(text).is_err(), "{text}");
        }
        let hints = |text: &str| PackageRequest::parse(text).unwrap_err().hints;
        assert_eq!(hints("NetworkManager=1"), ["Did you mean network-manager or networkmanager?"]);
        assert_eq!(hints("PyYAML"), ["Did you mean py-yaml or pyyaml?"]);
        assert_eq!(hints("GTK"), ["Did you mean gtk?"]);
        assert_eq!(hints("_X"), [""; 0]);
    }
}

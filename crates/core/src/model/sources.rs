//! APT sources (sources.list(5)) as values: both formats in, deb822 out.
//!
//! Owns the typed [`Source`], the two parsers, rendering, and the choice of a host's sources for another suite.
//! Opens no file; [`crate::compose::input`] reads /etc/apt of a root.

use std::fmt;
use std::path::PathBuf;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::deb822::Stanza;

/// One stanza of a `.sources` file, or one line of a `sources.list`. Displays as a deb822 stanza; in JSON a map of
/// the same fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `Enabled: no` keeps a stanza in the file but out of use.
    pub enabled: bool,
    /// `deb`, `deb-src`.
    pub types: Vec<String>,
    pub uris: Vec<String>,
    /// Suites or codenames, or exact paths ending in `/` (then without components).
    pub suites: Vec<String>,
    pub components: Vec<String>,
    pub signed_by: Option<SignedBy>,
    /// All other fields under their deb822 names (`Architectures`, `Check-Valid-Until`, …), in order.
    pub options: Vec<(String, String)>,
}

/// The value of `Signed-By`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedBy {
    /// Keyring files.
    Files(Vec<PathBuf>),
    /// Fingerprints of keys in the trusted keyrings, as written.
    Fingerprints(Vec<String>),
    /// The ASCII-armoured key itself, without the indentation of deb822.
    Key(String),
}

impl Source {
    /// The fields in the order they are written.
    fn fields(&self) -> Vec<(&str, String)> {
        let mut fields = Vec::new();
        if !self.enabled {
            fields.push(("Enabled", "no".to_owned()));
        }
        fields.push(("Types", self.types.join(" ")));
        fields.push(("URIs", self.uris.join(" ")));
        fields.push(("Suites", self.suites.join(" ")));
        if !self.components.is_empty() {
            fields.push(("Components", self.components.join(" ")));
        }
        if let Some(signed_by) = &self.signed_by {
            fields.push(("Signed-By", signed_by.to_string()));
        }
        fields.extend(self.options.iter().map(|(k, v)| (k.as_str(), v.clone())));
        fields
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stanza = Stanza::default();
        for (key, value) in self.fields() {
            stanza.set(key, value);
        }
        stanza.fmt(f)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        let fields = self.fields();
        let mut map = s.serialize_map(Some(fields.len()))?;
        for (key, value) in &fields {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl fmt::Display for SignedBy {
    /// A key starts with a line break, as it stands below `Signed-By:` in deb822.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(files) => {
                f.write_str(&files.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" "))
            }
            Self::Fingerprints(list) => f.write_str(&list.join(" ")),
            Self::Key(key) => write!(f, "\n{}", key.trim_end()),
        }
    }
}

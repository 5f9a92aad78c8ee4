//! APT sources (sources.list(5)) as values: both formats in, deb822 out.
//!
//! Owns the typed [`Source`], the two parsers, rendering, and the choice of a host's sources for another suite.
//! Opens no file; [`crate::compose::input`] reads /etc/apt of a root.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::deb822::{self, Stanza};
use crate::error::{Context, Error, Result};

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

/// The other fields of a source (sources.list(5)), which may also end in `-Add` or `-Remove`.
const OPTIONS: &[&str] = &[
    "Allow-Downgrade-To-Insecure",
    "Allow-Insecure",
    "Allow-Weak",
    "Architectures",
    "By-Hash",
    "Check-Date",
    "Check-Valid-Until",
    "Date-Max-Future",
    "Exclude",
    "Include",
    "InRelease-Path",
    "Languages",
    "PDiffs",
    "Snapshot",
    "Targets",
    "Trusted",
    "Valid-Until-Max",
    "Valid-Until-Min",
];

/// The fields that have a place of their own in [`Source`].
const FIELDS: &[&str] = &["Enabled", "Types", "URIs", "Suites", "Components", "Signed-By"];

/// Whether a stanza may have the field, and if not, the nearest one.
pub fn check_field(name: &str) -> std::result::Result<(), Option<&'static str>> {
    let base = name.strip_suffix("-Add").or_else(|| name.strip_suffix("-Remove")).unwrap_or(name);
    let all = || FIELDS.iter().chain(OPTIONS).copied();
    let known = all().any(|f| f.eq_ignore_ascii_case(base));
    let private = name.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("x-"));
    if known || private { Ok(()) } else { Err(super::treefile::nearest(name, all())) }
}

impl Source {
    /// Reads the fields of a stanza. `Types` may be missing and is `deb` then; `URIs` and `Suites` may not.
    pub fn from_stanza(stanza: &Stanza) -> Result<Self> {
        let words = |name: &str| -> Vec<String> {
            stanza.get(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        let mut source = Self {
            // apt's StringToBool: anything else than a no is a yes.
            enabled: !stanza.get("Enabled").is_some_and(|v| {
                ["no", "false", "without", "off", "disable", "0"].iter().any(|n| v.eq_ignore_ascii_case(n))
            }),
            types: words("Types"),
            uris: words("URIs"),
            suites: words("Suites"),
            components: words("Components"),
            signed_by: stanza.get("Signed-By").map(SignedBy::parse).transpose()?,
            options: stanza
                .fields()
                .filter(|(k, _)| FIELDS.iter().all(|f| !f.eq_ignore_ascii_case(k)))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        };
        if source.types.is_empty() {
            source.types.push("deb".to_owned());
        }
        source.check()?;
        Ok(source)
    }

    /// What apt refuses as well: no URI, no suite, components where an exact path has none, or the other way round.
    fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::usage(why));
        if let Some(other) = self.types.iter().find(|t| !matches!(t.as_str(), "deb" | "deb-src")) {
            return bad(format!("the type '{other}' is neither deb nor deb-src"));
        }
        if self.uris.is_empty() {
            return bad("it has no URIs".into());
        }
        if let Some(uri) = self.uris.iter().find(|u| !u.contains(':')) {
            return bad(format!("'{uri}' is not a URI (it has no 'scheme:')"));
        }
        if self.suites.is_empty() {
            return bad("it has no Suites".into());
        }
        for suite in &self.suites {
            if suite.ends_with('/') != self.components.is_empty() {
                return bad(if self.components.is_empty() {
                    format!("the suite '{suite}' needs Components (or must end in '/' to be an exact path)")
                } else {
                    format!("the suite '{suite}' is an exact path and takes no Components")
                });
            }
        }
        Ok(())
    }

    /// Whether .debs come from here: enabled, and not sources only.
    pub fn provides_debs(&self) -> bool {
        self.enabled && self.types.iter().any(|t| t == "deb")
    }

    /// Replaces `$(ARCH)` in URIs and suites, as apt does.
    pub fn expand_arch(&mut self, arch: &str) {
        for text in self.uris.iter_mut().chain(&mut self.suites) {
            *text = text.replace("$(ARCH)", arch);
        }
    }

    /// Gives every keyring file of `Signed-By` another path.
    pub fn map_keyrings(&mut self, map: impl Fn(&Path) -> PathBuf) {
        if let Some(SignedBy::Files(files)) = &mut self.signed_by {
            for file in files {
                *file = map(file);
            }
        }
    }

    /// The keyring files of `Signed-By`.
    pub fn keyrings(&self) -> &[PathBuf] {
        match &self.signed_by {
            Some(SignedBy::Files(files)) => files,
            _ => &[],
        }
    }

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

impl SignedBy {
    /// Reads the value of the field: keyring paths, fingerprints, or the key itself below the field.
    pub fn parse(value: &str) -> Result<Self> {
        if value.contains("-----BEGIN PGP") {
            return Ok(Self::Key(value.trim().to_owned()));
        }
        let words: Vec<&str> = value.split([' ', '\t', '\n', ',']).filter(|w| !w.is_empty()).collect();
        let fingerprint = |word: &str| {
            let word = word.strip_suffix('!').unwrap_or(word);
            word.len() >= 16 && word.bytes().all(|c| c.is_ascii_hexdigit())
        };
        match words.iter().filter(|w| fingerprint(w)).count() {
            _ if words.is_empty() => Err(Error::usage("Signed-By is empty")),
            0 => Ok(Self::Files(words.into_iter().map(PathBuf::from).collect())),
            n if n == words.len() => Ok(Self::Fingerprints(words.into_iter().map(str::to_owned).collect())),
            _ => Err(Error::usage("Signed-By mixes keyring files and fingerprints")),
        }
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

/// Reads a `.sources` file. Errors say which stanza.
pub fn parse_deb822(text: &str) -> Result<Vec<Source>> {
    deb822::stanzas(text)
        .enumerate()
        .map(|(i, stanza)| Source::from_stanza(&stanza).context(|| format!("stanza {}", i + 1)))
        .collect()
}

/// Reads a `sources.list` in the one-line format. Errors say which line.
pub fn parse_list(text: &str) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            sources.push(parse_line(line).context(|| format!("line {}", i + 1))?);
        }
    }
    Ok(sources)
}

/// `deb [ option=value ] uri suite component...`
fn parse_line(line: &str) -> Result<Source> {
    let (kind, mut rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    rest = rest.trim_start();
    let mut stanza = Stanza::default();
    stanza.set("Types", kind);
    if let Some(tail) = rest.strip_prefix('[') {
        let Some((options, tail)) = tail.split_once(']') else { return Err(Error::usage("a '[' without its ']'")) };
        for option in options.split_whitespace() {
            let Some((name, value)) = option.split_once('=') else {
                return Err(Error::usage(format!("the option '{option}' has no '='")));
            };
            stanza.set(&field_of_option(name), value.replace(',', " "));
        }
        rest = tail.trim_start();
    }
    // A cdrom: URI holds blanks between brackets.
    let mut words = words_outside_brackets(rest).into_iter();
    stanza.set("URIs", words.next().unwrap_or_default().replace(char::is_whitespace, "%20"));
    stanza.set("Suites", words.next().unwrap_or_default());
    stanza.set("Components", words.collect::<Vec<_>>().join(" "));
    Source::from_stanza(&stanza)
}

/// The deb822 name of a one-line option; `arch+=` and `arch-=` are `Architectures-Add` and `-Remove`.
fn field_of_option(name: &str) -> String {
    let (base, ending) = match name.as_bytes().last() {
        Some(b'+') => (&name[..name.len() - 1], "-Add"),
        Some(b'-') => (&name[..name.len() - 1], "-Remove"),
        _ => (name, ""),
    };
    let field = match base {
        "arch" => "Architectures",
        "lang" => "Languages",
        "target" => "Targets",
        _ => FIELDS.iter().chain(OPTIONS).copied().find(|f| f.eq_ignore_ascii_case(base)).unwrap_or(base),
    };
    format!("{field}{ending}")
}

fn words_outside_brackets(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut inside, mut open) = (false, false);
    for c in text.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        if c.is_whitespace() && !inside {
            open = false;
        } else {
            match words.last_mut().filter(|_| open) {
                Some(word) => word.push(c),
                None => words.push(c.to_string()),
            }
            open = true;
        }
    }
    words
}

/// A distribution whose archive can be told from others: what its components are called and where its key lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// `ID` in os-release.
    pub id: &'static str,
    components: &'static [&'static str],
    /// Part of the file name of every keyring of the archive.
    keyring_name: &'static str,
    /// The keyring of the archive on a system that has its package.
    pub keyring: &'static str,
    /// Suites that stand for whatever release they point to.
    aliases: &'static [&'static str],
    /// Suites without `-updates` and `-security`.
    rolling: &'static [&'static str],
}

/// The vendors that are known. A new one is a row here.
pub const VENDORS: &[Vendor] = &[
    Vendor {
        id: "debian",
        components: &["main", "contrib", "non-free", "non-free-firmware"],
        keyring_name: "debian-archive",
        keyring: "/usr/share/keyrings/debian-archive-keyring.gpg",
        aliases: &["stable", "oldstable", "testing", "unstable", "sid"],
        rolling: &["unstable", "sid", "experimental", "rc-buggy"],
    },
    Vendor {
        id: "ubuntu",
        components: &["main", "restricted", "universe", "multiverse"],
        keyring_name: "ubuntu-archive",
        keyring: "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        aliases: &["devel"],
        rolling: &[],
    },
];

/// A host's sources turned to another suite of the same distribution.
///
/// Of the host's enabled `deb` sources those stay that are its distribution's own: the suites CODENAME,
/// CODENAME-updates and CODENAME-security (or `CODENAME/updates`), components of the distribution only, and no
/// `Signed-By` but the distribution's. They become the same of `wanted`; everything else (backports, other suites,
/// other people's archives) is left out. `keyring` is the distribution's keyring where the host has it: it
/// replaces `Signed-By`, since the host's own entry may name one that does not know the wanted suite.
///
/// A host without any source for its codename may have named the release by an alias (`stable`).
/// Errors when nothing is left.
pub fn for_suite(
    vendor: &Vendor,
    codename: &str,
    host: &[Source],
    wanted: &str,
    keyring: Option<&Path>,
) -> Result<Vec<Source>> {
    if wanted.is_empty() || wanted.ends_with('/') || wanted.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
        return Err(Error::usage(format!("'{wanted}' is not a suite of an archive"))
            .hint("Give the codename as 'releasever', for example trixie."));
    }
    let own: Vec<&Source> = host.iter().filter(|s| s.provides_debs() && vendor.publishes(s)).collect();
    let mut bases = vec![codename];
    bases.extend(vendor.aliases);
    for base in bases {
        let mut found: Vec<Source> = Vec::new();
        for source in &own {
            let mut source = (*source).clone();
            source.types = vec!["deb".to_owned()];
            source.suites = source.suites.iter().filter_map(|s| vendor.map_suite(s, base, wanted)).collect();
            source.suites.dedup();
            if let Some(keyring) = keyring {
                source.signed_by = Some(SignedBy::Files(vec![keyring.to_owned()]));
            }
            if !source.suites.is_empty() && !found.contains(&source) {
                found.push(source);
            }
        }
        // Only -updates or -security is no system to compose from.
        if found.iter().any(|s| s.suites.iter().any(|s| s == wanted)) {
            return Ok(found);
        }
    }
    Err(Error::usage(format!(
        "This machine's apt sources have no {} archive of {codename} to take {wanted} from",
        vendor.id
    ))
    .hint("Give 'repos' in the treefile."))
}

impl Vendor {
    /// Whether a source is the distribution's own archive or a mirror of it.
    fn publishes(&self, source: &Source) -> bool {
        let signed = match &source.signed_by {
            None | Some(SignedBy::Key(_) | SignedBy::Fingerprints(_)) => true,
            Some(SignedBy::Files(files)) => {
                files.iter().any(|f| f.file_name().is_some_and(|n| n.to_string_lossy().contains(self.keyring_name)))
            }
        };
        signed
            && source.components.iter().any(|c| c == "main")
            && source.components.iter().all(|c| self.components.contains(&c.as_str()))
    }

    fn map_suite(&self, suite: &str, base: &str, wanted: &str) -> Option<String> {
        let rest = suite.strip_prefix(base)?;
        let pocket = match rest {
            "" => "",
            "-updates" => "-updates",
            // Debian's name for it up to buster.
            "-security" | "/updates" => "-security",
            _ => return None,
        };
        (pocket.is_empty() || !self.rolling.contains(&wanted)).then(|| format!("{wanted}{pocket}"))
    }
}

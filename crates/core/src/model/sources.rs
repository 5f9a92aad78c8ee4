//! APT sources (sources.list(5)) as values: both formats in, deb822 out.
//!
//! Owns the typed [`Source`], the two parsers, rendering, and the choice of a host's sources for another suite.
//! Opens no file; [`crate::compose::input`] reads /etc/apt of a root.

pub mod switch;

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
        // Of a field that is there twice the first counts, as in all lookups.
        let mut options: Vec<(String, String)> = Vec::new();
        for (key, value) in stanza.fields().filter(|(k, _)| FIELDS.iter().all(|f| !f.eq_ignore_ascii_case(k))) {
            if options.iter().all(|(known, _)| !known.eq_ignore_ascii_case(key)) {
                options.push((key.to_owned(), value.trim().to_owned()));
            }
        }
        let mut source = Self {
            // apt's StringToBool: anything else than a no is a yes.
            enabled: !stanza.get("Enabled").is_some_and(|v| {
                ["no", "false", "without", "off", "disable", "0"].iter().any(|n| v.eq_ignore_ascii_case(n))
            }),
            types: words("Types"),
            uris: words_outside_brackets(stanza.get("URIs").unwrap_or_default()),
            suites: words("Suites"),
            components: words("Components"),
            // `apt modernize-sources` writes the field empty where it knows no key.
            signed_by: match stanza.get("Signed-By").map(str::trim) {
                None | Some("") => None,
                Some(value) => Some(SignedBy::parse(value)?),
            },
            options,
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

    /// Whether .debs come from here: enabled, not sources only, and not a disc, which nobody changes for us (apt does
    /// not even read a `cdrom:` URI with a label in deb822).
    pub fn provides_debs(&self) -> bool {
        self.enabled && self.types.iter().any(|t| t == "deb") && !self.uris.iter().any(|u| u.starts_with("cdrom:"))
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
        if value.trim().starts_with("-----BEGIN PGP") {
            return Ok(Self::Key(value.trim().to_owned()));
        }
        let words: Vec<&str> = value.split([' ', '\t', '\n', ',']).filter(|w| !w.is_empty()).collect();
        if words.iter().any(|word| word.contains("-----")) {
            return Err(Error::usage("Signed-By has a key that is not whole"));
        }
        let fingerprint = |word: &str| {
            let word = word.strip_suffix('!').unwrap_or(word);
            word.len() >= 16 && word.bytes().all(|c| c.is_ascii_hexdigit())
        };
        match words.iter().filter(|w| fingerprint(w)).count() {
            _ if words.is_empty() => Err(Error::usage("Signed-By names no key")),
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
            // It becomes the name of a field (deb822(5)).
            if name.is_empty() || name.starts_with('#') || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
                return Err(Error::usage(format!("'{name}' cannot be the name of an option")));
            }
            stanza.set(&field_of_option(name), value.replace(',', " "));
        }
        rest = tail.trim_start();
    }
    // A cdrom: URI holds blanks between brackets.
    let mut words = words_outside_brackets(rest).into_iter();
    stanza.set("URIs", words.next().unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Source> {
        parse_list(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn both_formats_give_the_same() {
        let lines = "# deb http://no.invalid/ a b\n\
            deb [arch=amd64,i386 signed-by=/k/a.gpg,/k/b.gpg check-valid-until=no] http://a.invalid/debian trixie main contrib # c\n\
            deb-src\thttp://a.invalid/debian trixie main\n\
            deb [ lang-=de trusted=yes ] file:///srv/x ./\n\
            deb cdrom:[Debian GNU/Linux 13 _x_]/ trixie main\n";
        let stanzas = "# c\nTypes: deb\nURIs: http://a.invalid/debian\nSuites: trixie\nComponents: main contrib\n\
            Signed-By: /k/a.gpg /k/b.gpg\nArchitectures: amd64 i386\nCheck-Valid-Until: no\n\n\
            types: deb-src\nuris: http://a.invalid/debian\nsuites: trixie\ncomponents: main\n\n\
            Types: deb\nURIs: file:///srv/x\nSuites: ./\nSigned-By:\nLanguages-Remove: de\nTrusted: yes\n\n\
            Types: deb\nURIs: cdrom:[Debian GNU/Linux 13 _x_]/\nSuites: trixie\nComponents: main\n";
        let (one, two) = (list(lines), parse_deb822(stanzas).unwrap());
        assert_eq!(one, two);
        for source in one {
            assert_eq!(parse_deb822(&source.to_string()).unwrap(), [source]);
        }
    }

    #[test]
    fn signed_by_has_three_forms() {
        let key = "Types: deb\nURIs: http://a.invalid\nSuites: a/\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let source = &parse_deb822(key).unwrap()[0];
        let armour = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc=\n-----END PGP PUBLIC KEY BLOCK-----";
        assert_eq!(source.signed_by, Some(SignedBy::Key(armour.into())));
        assert_eq!(parse_deb822(&source.to_string()).unwrap()[0], *source);
        let print = "4D64FEC119C2029067D6E791F8D2585B8783D481!";
        assert_eq!(SignedBy::parse(print).unwrap(), SignedBy::Fingerprints(vec![print.into()]));
        assert_eq!(SignedBy::parse("a.gpg,\n b.asc").unwrap(), SignedBy::Files(vec!["a.gpg".into(), "b.asc".into()]));
        assert!(SignedBy::parse(&format!("a.gpg {print}")).is_err());
    }

    #[test]
    fn says_which_line_or_stanza_is_wrong() {
        for (text, expected) in [
            ("deb\n", "line 1: it has no URIs"),
            ("# c\ndeb http://a.invalid trixie\n", "line 2: the suite 'trixie' needs Components"),
            ("deb http://a.invalid ./ main\n", "takes no Components"),
            ("deb [arch=amd64 http://a.invalid a b\n", "a '[' without its ']'"),
            ("deb [arch] http://a.invalid a b\n", "the option 'arch' has no '='"),
            ("rpm http://a.invalid a b\n", "the type 'rpm' is neither"),
            ("deb /srv/x ./\n", "'/srv/x' is not a URI"),
        ] {
            let error = parse_list(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = parse_deb822("Types: deb\nURIs: http://a\nSuites: a/\n\nTypes: deb\n").unwrap_err().to_string();
        assert_eq!(error, "stanza 2: it has no URIs");
    }

    #[test]
    fn fields_are_known_or_near() {
        for name in ["URIs", "uris", "Architectures-Add", "X-Repolib-Name", "By-Hash", "Snapshot"] {
            assert_eq!(check_field(name), Ok(()), "{name}");
        }
        assert_eq!(check_field("Suite"), Err(Some("Suites")));
        assert_eq!(check_field("Colour"), Err(None));
    }

    fn chosen(vendor: &str, codename: &str, host: &str, wanted: &str) -> Result<Vec<String>> {
        let vendor = VENDORS.iter().find(|v| v.id == vendor).unwrap();
        let found = for_suite(vendor, codename, &list(host), wanted, Some(Path::new("/k.gpg")))?;
        Ok(found
            .iter()
            .map(|s| format!("{} {} {}", s.uris.join(","), s.suites.join(","), s.components.join(",")))
            .collect())
    }

    #[test]
    fn a_hosts_sources_turn_to_another_suite() {
        let host = "deb http://a.invalid/debian bookworm main non-free-firmware\n\
            deb-src http://a.invalid/debian bookworm main\n\
            deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.invalid/debian bookworm-updates main\n\
            deb http://s.invalid/debian-security bookworm-security main\n\
            deb http://a.invalid/debian bookworm-backports main\n\
            deb http://a.invalid/debian testing main\n\
            deb cdrom:[Debian 12]/ bookworm main\n\
            deb [signed-by=/etc/apt/keyrings/docker.asc] http://d.invalid/linux/debian bookworm stable\n\
            deb [signed-by=/usr/share/keyrings/other.gpg] http://o.invalid bookworm main\n\
            deb http://p.invalid bookworm-pgdg main\n";
        assert_eq!(
            chosen("debian", "bookworm", host, "trixie").unwrap(),
            [
                "http://a.invalid/debian trixie main,non-free-firmware",
                "http://a.invalid/debian trixie-updates main",
                "http://s.invalid/debian-security trixie-security main",
            ]
        );
        assert_eq!(
            chosen("debian", "bookworm", host, "sid").unwrap(),
            ["http://a.invalid/debian sid main,non-free-firmware"]
        );
        assert_eq!(chosen("debian", "bookworm", host, "bookworm").unwrap().len(), 3);
        assert_eq!(
            chosen("debian", "bullseye", host, "trixie").unwrap(),
            ["http://a.invalid/debian trixie main"],
            "by its alias"
        );

        let old = "deb http://a.invalid/debian stable main\ndeb http://s.invalid stable/updates main\n";
        assert_eq!(
            chosen("debian", "buster", old, "trixie").unwrap().last().unwrap(),
            "http://s.invalid trixie-security main"
        );
        let ubuntu =
            "deb http://u.invalid/ubuntu noble main universe\ndeb http://u.invalid/ubuntu noble-backports main\n";
        assert_eq!(
            chosen("ubuntu", "noble", ubuntu, "resolute").unwrap(),
            ["http://u.invalid/ubuntu resolute main,universe"]
        );

        for (host, wanted, expected) in [
            ("", "trixie", "have no debian archive of bookworm to take trixie from"),
            ("deb http://s.invalid bookworm-security main\n", "trixie", "have no debian archive"),
            ("deb http://a.invalid bookworm main\n", "13", "'13' is not a suite"),
            ("deb http://a.invalid bookworm main\n", "", "'' is not a suite"),
        ] {
            let error = chosen("debian", "bookworm", host, wanted).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.hints.is_empty());
        }
    }

    #[test]
    fn the_distributions_keyring_replaces_the_hosts() {
        let vendor = &VENDORS[0];
        let host = list("deb [signed-by=/x/debian-archive-bookworm.gpg] http://a.invalid bookworm main\n");
        let with = for_suite(vendor, "bookworm", &host, "trixie", Some(Path::new("/k.gpg"))).unwrap();
        assert_eq!(with[0].keyrings(), [PathBuf::from("/k.gpg")]);
        let without = for_suite(vendor, "bookworm", &host, "trixie", None).unwrap();
        assert_eq!(without[0].keyrings(), [PathBuf::from("/x/debian-archive-bookworm.gpg")]);
    }
}

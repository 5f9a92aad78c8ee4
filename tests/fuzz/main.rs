//! Parsers on inputs that nobody wrote: none panics or hangs, and what is written is read as the same value again.
//!
//! `corpus/KIND/` has what the inputs are made of; files called `ok-…` must be accepted. Inputs that once broke something stand
//! there too, named after what was wrong. See `apt_ostree_testkit::fuzz` for the variables that make a run longer.

use std::path::{Path, PathBuf};

use apt_ostree_core::boot::grubenv::GrubEnv;
use apt_ostree_core::event::Event;
use apt_ostree_core::model::accounts::{Group, IdLock, Passwd, Shadow, Table};
use apt_ostree_core::model::origin::Origin;
use apt_ostree_core::model::package::{PackageId, installed_from_status};
use apt_ostree_core::model::request::PackageRequest;
use apt_ostree_core::model::settings::Settings;
use apt_ostree_core::model::sources::switch::{self, Format};
use apt_ostree_core::model::sources::{SignedBy, Source, parse_deb822, parse_list};
use apt_ostree_core::model::treefile::{self, DeriveTreefile, FileText, Loaded, Reader};
use apt_ostree_core::model::{changelog, deb822, glob, image_kargs, tmpfiles, version};
use apt_ostree_core::operation::{Report, Request};
use apt_ostree_core::{Error, ErrorKind, Result};
use apt_ostree_testkit::fuzz::Fuzzer;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn corpus(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(kind)
}

/// Runs a check on the corpus and on inputs made of it. The check says whether the input was accepted.
fn fuzz(kind: &str, dictionary: &[&str], check: impl Fn(&[u8]) -> bool) {
    for file in std::fs::read_dir(corpus(kind)).expect("a corpus") {
        let path = file.expect("a corpus").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read(&path).expect("a file");
        assert!(check(&text) || !name.starts_with("ok-"), "{} is not accepted", path.display());
    }
    Fuzzer::new(kind, &corpus(kind), dictionary).run(|input| {
        check(input);
    });
}

/// Files come as text, bytes that are none replaced, as the program reads them.
fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

#[test]
fn origin() {
    let words =
        ["[origin]", "baserefspec=", "refspec=", "requested=", "requested-local=", "replace=", "suite=", "pinned=true"];
    fuzz("origin", &words, |input| {
        let Ok(origin) = Origin::parse(&text(input)) else { return false };
        let written = origin.to_string();
        let again = Origin::parse(&written).unwrap_or_else(|e| panic!("{e}: {written}"));
        assert_eq!(again, origin, "{written}");
        assert_eq!(again.to_string(), written);
        origin.remote_and_branch();
        origin.is_layered();
        true
    });
}

/// The treefile that is fuzzed, one beside it to include, and any file that is only named.
struct Files<'a>(&'a str);

impl Reader for Files<'_> {
    fn read(&mut self, path: &Path) -> Result<FileText> {
        match path.file_name().and_then(|n| n.to_str()) {
            Some("t.yaml" | "t.json") => Ok(FileText { text: self.0.to_owned(), identity: (1, 1) }),
            Some("other.yaml") => {
                Ok(FileText { text: "packages: [zsh]\nvariables: {b: x}\n".into(), identity: (1, 2) })
            }
            Some("main.sources") => Ok(FileText {
                text: "Types: deb\nURIs: http://a.invalid/\nSuites: trixie\nComponents: main\nSigned-By: k.gpg\n"
                    .into(),
                identity: (1, 3),
            }),
            _ => Err(Error::new(ErrorKind::NotFound, "No such file or directory")),
        }
    }

    fn probe(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }
}

fn load(name: &str, text: &str) -> Result<Loaded> {
    treefile::load(Path::new(name), Path::new("/base"), "amd64", &mut Files(text))
}

fn check_treefile(name: &str, input: &[u8]) -> bool {
    let loaded = match load(name, &text(input)) {
        Ok(loaded) => loaded,
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Usage, "{error}");
            return false;
        }
    };
    // What --print-only shows is a treefile of the same value.
    let written = loaded.treefile.to_json().expect("it can be written");
    let again = load("t.json", &written).unwrap_or_else(|e| panic!("{e}: {written}"));
    assert_eq!(again.treefile, loaded.treefile, "{written}");
    true
}

const TREEFILE_WORDS: &[&str] = &[
    "include: other.yaml\n",
    "conditional-include:\n  - if: arch == \"amd64\"\n    include: other.yaml\n",
    "variables:",
    "${arch}",
    "${b}",
    "&a ",
    "*a",
    "<<: *a",
    "- ",
    "  ",
    ": ",
    "|\n",
    ">-\n",
    "!!str ",
    "---\n",
    "packages:",
    "packages-amd64:",
    "repos:",
    "{",
    "[[",
    "\"edition\": \"2024\",",
    "<date:%Y%m%d>",
    "%",
];

#[test]
fn treefile_yaml() {
    fuzz("treefile-yaml", TREEFILE_WORDS, |input| check_treefile("t.yaml", input));
}

#[test]
fn treefile_json() {
    fuzz("treefile-json", TREEFILE_WORDS, |input| check_treefile("t.json", input));
}

/// A value that is read is written and read as the same again.
fn document<T: DeserializeOwned + Serialize>(input: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(input) else { return false };
    let written = serde_json::to_string(&value).expect("it can be written");
    let again: T = serde_json::from_str(&written).unwrap_or_else(|e| panic!("{e}: {written}"));
    assert_eq!(serde_json::to_string(&again).expect("it can be written"), written);
    true
}

#[test]
fn requests_of_the_worker() {
    let words = [
        "\"verb\":\"upgrade\"",
        "\"verb\":\"kargs\"",
        "\"changes\":{",
        "\"options\":{",
        "\"sysroot\":\"/\"",
        "[\"",
        "{\"",
        "\\ud800",
    ];
    fuzz("request", &words, document::<Request>);
}

#[test]
fn answers_of_the_worker() {
    let words = [
        "{\"event\":\"message\",\"text\":",
        "{\"report\":",
        "{\"error\":",
        "\"kind\":\"failed\"",
        "[\"",
        "{\"",
        "\\ud800",
    ];
    fuzz("answer", &words, |input| {
        let event = document::<Event>(input);
        let inner = |key: &str| {
            let mut value: serde_json::Value = serde_json::from_slice(input).ok()?;
            value.get_mut(key).map(serde_json::Value::take)
        };
        let report = inner("report").is_some_and(|v| document::<Report>(v.to_string().as_bytes()));
        let error = inner("error").is_some_and(|v| document::<Error>(v.to_string().as_bytes()));
        event || report || error
    });
}

#[test]
fn dpkg_status() {
    let words = [
        "Package: ",
        "Status: install ok installed\n",
        "Version: ",
        "Architecture: ",
        "Conffiles:\n /etc/x 0\n",
        " .\n",
        "1:",
        "~",
    ];
    fuzz("status", &words, |input| {
        let text = text(input);
        let list = installed_from_status(&text);
        assert!(list.is_sorted());
        for package in &list {
            package.nevra();
            package.dpkg_name("amd64");
        }
        for stanza in deb822::stanzas(&text) {
            let written = stanza.to_string();
            let again: Vec<_> = deb822::stanzas(&written).collect();
            assert_eq!(again, [stanza], "{written}");
        }
        !list.is_empty()
    });
}

/// A source is the same after it was written as a file.
fn rewritten(sources: &[Source]) {
    for source in sources {
        let written = source.to_string();
        let again = parse_deb822(&written).unwrap_or_else(|e| panic!("{e}: {written}"));
        assert_eq!(again, std::slice::from_ref(source), "{written}");
        source.keyrings();
        source.provides_debs();
    }
}

/// Every source of a file can be found in its text, and one that is switched leaves all other lines as they are.
fn switched(text: &str, format: Format, on: &[Source]) {
    let sources = switch::entries(text, format).expect("it was read before");
    let found: Vec<&Source> = sources.iter().filter(|s| format == Format::Deb822 || s.enabled).collect();
    assert_eq!(found, on.iter().collect::<Vec<_>>(), "{text}");
    for (index, source) in sources.iter().enumerate() {
        let Ok(other) = switch::switch(text, format, index, !source.enabled) else { continue };
        let lost = text.lines().filter(|line| !other.lines().any(|l| l == *line));
        match format {
            Format::Deb822 => lost.for_each(|line| {
                let own = line.starts_with([' ', '\t']) || line.to_ascii_lowercase().starts_with("enabled:");
                assert!(own, "{line:?} is gone: {text}\nbecame\n{other}");
            }),
            Format::Lines => assert!(lost.count() <= 1, "{text}\nbecame\n{other}"),
        }
    }
}

const SOURCE_WORDS: &[&str] = &[
    "Types: deb\n",
    "URIs: ",
    "Suites: ",
    "Components: ",
    "Signed-By: ",
    "Enabled: no\n",
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    "$(ARCH)",
    "./",
    "Trusted: yes\n",
    "deb [arch=amd64] ",
    "cdrom:[a b]/",
    "[",
    "]",
    "Architectures-Add: ",
];

#[test]
fn sources_deb822() {
    fuzz("sources", SOURCE_WORDS, |input| {
        let Ok(mut sources) = parse_deb822(&text(input)) else { return false };
        rewritten(&sources);
        switched(&text(input), Format::Deb822, &sources);
        sources.iter_mut().for_each(|s| s.expand_arch("amd64"));
        true
    });
}

#[test]
fn sources_list() {
    fuzz("sources-list", SOURCE_WORDS, |input| {
        let Ok(sources) = parse_list(&text(input)) else { return false };
        rewritten(&sources);
        switched(&text(input), Format::Lines, &sources);
        let _ = SignedBy::parse(&text(input));
        true
    });
}

#[test]
fn tmpfiles_lines() {
    let words = [
        "d ", "L+ ", "C! ", "f^ ", "\\x41", "\\101", "\"", "'", "%%", "%b", " - - - -", "~0755", ":1000", "/var//x/",
        "A+ ",
    ];
    fuzz("tmpfiles", &words, |input| {
        let text = text(input);
        let lines = tmpfiles::parse(&text);
        for line in &lines {
            let written = line.to_string();
            let again = tmpfiles::Line::parse(&written).unwrap_or_else(|| panic!("not read again: {written}"));
            assert_eq!(again, *line, "{written}");
        }
        let mut existing = tmpfiles::Existing::default();
        existing.add("a.conf", &text);
        for line in &lines {
            existing.creator(&line.path);
            existing.sets_acl(&line.path);
            existing.copied_from_above(&line.path);
        }
        !lines.is_empty()
    });
}

#[test]
fn settings() {
    let words =
        ["[Layering]\n", "[Boot]\n", "BaseUpgrades=never\n", "ForeignArchitectures=", "Verify=", "Tries=", "i386;"];
    fuzz("settings", &words, |input| Settings::parse(&text(input)).is_ok());
}

#[test]
fn changelogs() {
    let words = [
        " (1.0-1) unstable; urgency=low\n",
        " -- A <a@b>  Mon, 01 Jan 2024 00:00:00 +0000\n",
        "  * ",
        " -- ",
        "  ",
        ";",
    ];
    fuzz("changelog", &words, |input| {
        let entries = changelog::parse(&text(input));
        for entry in &entries {
            assert!(entry.changes.last().is_none_or(|l| !l.is_empty()));
        }
        changelog::between(&entries, "1.0-1", "2.0-1");
        !entries.is_empty()
    });
}

#[test]
fn grub_environment() {
    let words = ["# GRUB Environment Block\n", "apt_ostree_good=", "\\\n", "\\\\", "####", "=\n", "#\n"];
    fuzz("grubenv", &words, |input| {
        let Ok(mut block) = GrubEnv::parse(input) else { return false };
        if let Ok(bytes) = block.to_bytes() {
            assert_eq!(bytes.len(), input.len());
            assert_eq!(GrubEnv::parse(&bytes).expect("it was written here"), block);
        }
        block.set("apt_ostree_left", "3");
        assert_eq!(block.get("apt_ostree_left"), Some("3"));
        if let Ok(bytes) = block.to_bytes() {
            assert_eq!(GrubEnv::parse(&bytes).expect("it was written here").get("apt_ostree_left"), Some("3"));
        }
        block.unset("apt_ostree_left");
        assert_eq!(block.get("apt_ostree_left"), None);
        true
    });
}

#[test]
fn versions() {
    let words = ["1:", "0:", "-1", "~", "+b1", "~~", "~rc1", "+deb13u1", "00", "1.0"];
    fuzz("versions", &words, |input| {
        let text = text(input);
        let words = text.split(char::is_whitespace);
        // dpkg takes no version with an empty revision.
        let list: Vec<&str> = words.filter(|w| !w.is_empty() && !w.ends_with('-')).take(6).collect();
        for a in &list {
            let (epoch, upstream, revision) = version::split(a);
            let joined = version::join(epoch, upstream, revision);
            // Others dpkg does not take.
            if !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit()) {
                assert!(version::compare(&joined, a).is_eq(), "{a} and {joined}");
            }
            assert!(version::compare(version::evr(a), a).is_eq(), "{a}");
            for b in &list {
                let order = version::compare(a, b);
                assert_eq!(order, version::compare(b, a).reverse(), "{a} and {b}");
                assert_eq!(order.is_eq(), order == version::compare(b, a), "{a} and {b}");
                for c in &list {
                    if order.is_le() && version::compare(b, c).is_le() {
                        assert!(version::compare(a, c).is_le(), "{a}, {b} and {c}");
                    }
                }
            }
        }
        !list.is_empty()
    });
}

#[test]
fn package_requests() {
    let words = [":amd64", "=1.0", "/trixie", " (>= 1)", "(", ")", "<<", ">>", "name-1.0.amd64"];
    fuzz("requests", &words, |input| {
        let mut accepted = false;
        for line in text(input).lines() {
            let Ok(request) = PackageRequest::parse(line) else { continue };
            accepted = true;
            let written = request.to_string();
            let again = PackageRequest::parse(&written).unwrap_or_else(|e| panic!("{e}: {written}"));
            assert_eq!(again, request, "{written}");
            PackageId::new(&request.name, "1:2~3-4", "amd64").nevra();
        }
        accepted
    });
}

#[test]
fn accounts() {
    let words = [
        "root:x:0:0:",
        "user\t",
        "group\t",
        "# apt-ostree id lock, format 1\n",
        ":4294967295:",
        "+::::::",
        "!*",
        "400",
    ];
    fuzz("accounts", &words, |input| {
        let text = text(input);
        macro_rules! table {
            ($kind:ty) => {{
                let table = Table::<$kind>::parse(&text);
                let written = table.to_string();
                assert_eq!(Table::<$kind>::parse(&written), table, "{written}");
            }};
        }
        table!(Passwd);
        table!(Group);
        table!(Shadow);
        let Ok(lock) = IdLock::parse("ids.lock", &text) else { return false };
        let written = lock.to_string();
        assert_eq!(IdLock::parse("ids.lock", &written).unwrap_or_else(|e| panic!("{e}: {written}")), lock, "{written}");
        true
    });
}

#[test]
fn kernel_arguments_of_images() {
    let words = ["kargs = [", "match-architectures = [", "\"x86_64\"", "\"\"\"", "[[", "a.b.c = ", "\\u0000"];
    fuzz("image-kargs", &words, |input| image_kargs::parse("10-x.toml", &text(input), "amd64").is_ok());
}

/// The first line is the pattern, the second the text.
#[test]
fn patterns() {
    let words = ["*", "**", "**/", "/**/", "?", "[a-z]", "[!a]", "[]]", "a*a*a*a*", "aaaaaaaaaaaaaaaaaaaaaaaa"];
    fuzz("glob", &words, |input| {
        let text = text(input);
        let mut lines = text.lines();
        let (Some(pattern), Some(name)) = (lines.next(), lines.next()) else { return false };
        glob::matches(pattern, name)
    });
}

/// A file of `origin.d`: errors are usage errors, and the same text asks for the same twice.
#[test]
fn origin_d() {
    let words =
        ["packages:", "override-remove:", "ex-override-replace:", "from:", "suite:", "- ", "[", "{", "'", "&a ", "*a"];
    fuzz("origin-d", &words, |input| {
        let mut once = DeriveTreefile::default();
        if let Err(error) = once.add(Path::new("a.yaml"), &text(input)) {
            assert_eq!(error.kind, ErrorKind::Usage, "{error}");
            return false;
        }
        let mut twice = once.clone();
        twice.add(Path::new("a.yaml"), &text(input)).expect("it was accepted");
        assert_eq!(twice.packages, [&once.packages[..], &once.packages].concat());
        assert!(once.override_replace.iter().all(|name| name.contains(['/', '='])), "{once:?}");
        true
    });
}

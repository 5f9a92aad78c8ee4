//! Treefiles as users write them, loaded from memory.

use std::collections::BTreeMap;

use super::*;
use crate::ErrorKind;

/// Files by path. Every other path exists for `probe` unless it has `missing` in it.
struct Memory(BTreeMap<PathBuf, String>);

impl Reader for Memory {
    fn read(&mut self, path: &Path) -> Result<FileText> {
        let mut normal = PathBuf::new();
        for part in path.components() {
            match part {
                std::path::Component::ParentDir => drop(normal.pop()),
                std::path::Component::CurDir => {}
                other => normal.push(other),
            }
        }
        let index = self.0.keys().position(|k| *k == normal);
        let index = index.ok_or_else(|| Error::new(ErrorKind::NotFound, "No such file or directory"))?;
        Ok(FileText { text: self.0[&normal].clone(), identity: (1, index as u64) })
    }

    fn probe(&mut self, path: &Path) -> Result<()> {
        if path.to_string_lossy().contains("missing") {
            return Err(Error::new(ErrorKind::NotFound, "No such file or directory"));
        }
        Ok(())
    }
}

fn load_files(files: &[(&str, &str)]) -> Result<Loaded> {
    let mut memory = Memory(files.iter().map(|(p, t)| (PathBuf::from(p), (*t).to_owned())).collect());
    load(Path::new(files[0].0), Path::new("/base"), "amd64", &mut memory)
}

fn one(text: &str) -> Treefile {
    load_files(&[("t.yaml", text)]).unwrap_or_else(|e| panic!("{text}: {e}")).treefile
}

fn error(text: &str) -> String {
    let Err(error) = load_files(&[("t.yaml", text)]) else { panic!("{text}: loads") };
    assert_eq!(error.kind, ErrorKind::Usage, "{error}");
    std::iter::once(error.to_string()).chain(error.hints).collect::<Vec<_>>().join(" | ")
}

fn names(treefile: &Treefile) -> Vec<String> {
    treefile.packages.iter().map(ToString::to_string).collect()
}

/// Every supported key, none at its default.
const FULL: &str = r##"
ref: debian/${v}/${basearch}/${suite}
edition: "2024"
releasever: trixie
basearch: x86_64
variables: {v: 13, flag: true, name: x}
metadata: {who: "me ${v}", deep: {a: ["${v}", 1.5, null]}}
add-commit-metadata: {ostree.note: "v${v}", n: 3}
repos:
  - main
  - |
    Types: deb
    URIs: file:///srv/$(ARCH)
    Suites: ./
  - {URIs: [http://a.invalid/x, http://b.invalid/x], Suites: trixie, Components: main contrib, Signed-By: key.asc, Trusted: true}
compose-repos:
  - {URIs: file:///srv/own, Suites: ./, Signed-By: own.gpg}
packages: [bb aa, "'podman >= 4.1'", vim/trixie-backports, libc6:i386]
packages-amd64: [linux-image-amd64]
packages-aarch64: [linux-image-arm64]
exclude-packages: [nano ed]
foreign-architectures: [i386]
recommends: false
documentation: false
install-langs: [en, de]
locales: [en_US.UTF-8, "de_DE ISO-8859-1"]
debconf: |
  # time
  tzdata tzdata/Areas select Europe
  tzdata tzdata/Zones/Europe select Berlin
units: [ssh.service, systemd-networkd.service]
presets:
  - enable ssh.service
  - disable *
default-target: multi-user.target
add-files: [[files/issue, /etc/issue], [/abs/motd, usr/share/motd]]
remove-files: [/etc/foo, usr/share/bar]
remove-from-packages: [[bash, "/usr/share/doc/.*", ^/x]]
postprocess: ["#!/bin/sh\ntrue\n", "echo b"]
postprocess-script: post.sh
machineid-compat: true
opt-usrlocal: root
tmp-is-dir: true
readonly-executables: true
boot-location: modules
initramfs-args: [--add, ostree]
no-initramfs: true
container: false
selinux: false
preserve-passwd: false
check-passwd: {type: data, entries: {root: 0, sync: [4, 65534]}}
check-groups: {type: file, filename: group}
ignore-removed-users: ["*"]
ignore-removed-groups: [games]
version: 13.10
automatic-version-prefix: 13.<date:%Y%m%d>
automatic-version-suffix: "-"
mutate-os-release: "${releasever}"
gpg-key: ABCD
"##;

fn full() -> Treefile {
    let repo = "Types: deb deb-src\nURIs: http://c.invalid/debian\nSuites: trixie\nComponents: main\nSigned-By: keys/main.gpg\n";
    load_files(&[("sub/t.yaml", FULL), ("sub/main.sources", repo)]).unwrap().treefile
}

#[test]
fn every_key_reaches_the_treefile() {
    let t = full();
    assert_eq!(t.require_ref().unwrap(), "debian/13/amd64/trixie");
    assert_eq!(t.metadata["who"], "me 13");
    assert_eq!(t.metadata["deep"]["a"], serde_json::json!(["${v}", 1.5, null]));
    assert_eq!(t.add_commit_metadata["ostree.note"], "v13");
    assert_eq!(t.add_commit_metadata["n"], 3);
    assert_eq!(names(&t), ["aa", "bb", "libc6:i386", "linux-image-amd64", "podman (>= 4.1)", "vim/trixie-backports"]);
    assert_eq!(t.exclude_packages, ["ed", "nano"]);
    assert_eq!(t.locales, ["en_US.UTF-8 UTF-8", "de_DE ISO-8859-1"]);
    assert_eq!(t.debconf[1].to_string(), "tzdata tzdata/Zones/Europe select Berlin");
    assert_eq!(t.add_files[0], AddFile { source: "/base/sub/files/issue".into(), dest: "/etc/issue".into() });
    assert_eq!(t.add_files[1], AddFile { source: "/abs/motd".into(), dest: "/usr/share/motd".into() });
    assert_eq!(t.remove_files, ["/etc/foo", "/usr/share/bar"]);
    assert_eq!(t.postprocess_script.as_deref(), Some(Path::new("/base/sub/post.sh")));
    assert_eq!(t.version.as_deref(), Some("13.10"));
    assert_eq!(t.mutate_os_release.as_deref(), Some("trixie"));
    assert_eq!(t.repos.len(), 3);
    assert_eq!(t.repos[0].keyrings(), [PathBuf::from("/base/sub/keys/main.gpg")]);
    assert_eq!(t.repos[1].uris, ["file:///srv/amd64"]);
    assert_eq!(t.repos[2].options, [("Trusted".to_owned(), "yes".to_owned())]);
    assert_eq!(t.compose_repos[0].keyrings(), [PathBuf::from("/base/sub/own.gpg")]);
    assert_eq!(t.check_groups, CheckAccounts::File { filename: "/base/sub/group".into() });
}

/// The flattened form is a treefile: loading it gives the same value and the same text. It also shows that no
/// supported key is forgotten in FULL, and none in the output.
#[test]
fn flattened_json_loads_to_itself() {
    let first = full();
    let json = first.to_json().unwrap();
    let second = load_files(&[("flat.json", &json)]).unwrap_or_else(|e| panic!("{e}\n{json}")).treefile;
    assert_eq!(first, second);
    assert_eq!(json, second.to_json().unwrap());

    for key in schema::KEYS.iter().filter(|k| k.support == schema::Support::Yes) {
        if key.merge == schema::Merge::Local {
            continue;
        }
        assert!(FULL.contains(&format!("\n{}:", key.name)), "FULL has no {}", key.name);
        let fixed = ["boot-location", "container", "selinux", "tmp-is-dir"].contains(&key.name);
        assert_eq!(json.contains(&format!("\n  \"{}\":", key.name)), !fixed, "{}", key.name);
    }
}

#[test]
fn defaults() {
    let t = one("ref: a/b\n");
    assert!(t.recommends && t.documentation && t.machineid_compat && t.preserve_passwd);
    assert!(!t.no_initramfs && !t.readonly_executables);
    assert_eq!(t.opt_usrlocal, OptUsrLocal::StateOverlay);
    assert_eq!((t.check_passwd, t.check_groups), (CheckAccounts::Previous, CheckAccounts::Previous));
    assert_eq!((t.automatic_version_suffix, t.basearch.as_str(), t.install_langs), ('.', "amd64", None));
    assert!(t.repos.is_empty() && t.releasever.is_none());
    assert!(one("packages:\nunits:\n").packages.is_empty(), "a key without a value is a key left out");
    assert!(one("packages: [aa]").require_ref().is_err());
}

#[test]
fn unknown_and_refused_keys() {
    for (text, expected) in [
        ("ref: a\npacakges: [b]\n", "t.yaml:2: unknown key 'pacakges' | Did you mean 'packages'?"),
        ("unit: []\n", "unknown key 'unit' | Did you mean 'units'?"),
        ("exclude_packages: []\n", "Did you mean 'exclude-packages'?"),
        ("{\"ref\": \"a\",\n \"comment\": \"x\"}", "t.yaml:2: unknown key 'comment' | All keys are listed"),
        ("packages-amd46: [a]\n", "t.yaml:1: unknown architecture 'amd46' | Did you mean 'amd64'?"),
        ("rojig: {}\n", "t.yaml:1: 'rojig' cannot be used: it is about RPM"),
        ("packages-local: {}\n", "'packages-local' cannot be used: it belongs to the origin"),
        ("ostree-layers: [x]\n", "not supported yet"),
        ("gpg_key: a\ngpg-key: b\n", "t.yaml:2: 'gpg-key' is there twice"),
        ("ref: a\nref: b\n", "t.yaml:2: duplicate key 'ref', first on line 1"),
        ("include: x.ks\n", "t.yaml:1: x.ks: kickstart files are not supported"),
    ] {
        assert!(error(text).contains(expected), "{text}: {}", error(text));
    }
}

#[test]
fn wrong_types_and_values() {
    for (text, expected) in [
        ("- a\n", "t.yaml:1: a treefile: expected a map of keys, found a list"),
        ("ref: [a]\n", "t.yaml:1: 'ref': expected a string, found a list"),
        ("ref: 13\n", "'ref': expected a string, found the number 13 | Put it in quotes"),
        ("ref: 'a b'\n", "t.yaml:1: 'ref': 'a b' is not a valid branch name"),
        ("ref: remote:a\n", "is not a valid branch name"),
        ("ref: a/${x}\n", "t.yaml:1: 'ref': there is no variable 'x'"),
        ("ref: a/${x\n", "a '${' without its '}'"),
        ("recommends: yes\n", "'recommends': expected true or false, found the string 'yes' | YAML 1.2"),
        ("packages: vim\n", "'packages': expected a list of strings, found the string 'vim'"),
        ("packages:\n  - vim\n  - 7\n", "t.yaml:3: an entry of 'packages': expected a string, found the number 7"),
        ("packages:\n  - vim\n  - Vim\n", "t.yaml:3: 'packages': Invalid package request 'Vim'"),
        ("packages: [\"'a\"]\n", "a ' without its partner"),
        ("packages: [a (>= 1]\n", "a '(' without its ')'"),
        (
            "packages: [aa]\nexclude-packages:\n- cc aa\n",
            "t.yaml:1: the package 'aa' is included here and excluded at t.yaml:3",
        ),
        ("packages: [aa=1]\npackages-amd64: [aa=2]\n", "'aa=2' is asked for here and 'aa=1' at t.yaml:1"),
        ("exclude-packages: [aa=1]\n", "expected a name, without version"),
        ("packages-s390x: no\n", "'packages-s390x': expected a list of strings, found the string 'no'"),
        ("edition: '2014'\n", "'edition': expected 2024, found 2014"),
        ("boot-location: new\n", "expected modules, found new"),
        ("container: true\n", "'container': expected false, found true"),
        ("opt-usrlocal: links\n", "expected var, root or stateoverlay, found the string 'links'"),
        ("basearch: arm64\n", "'basearch' is arm64, but this compose is for amd64"),
        ("basearch: amd46\n", "unknown architecture 'amd46'"),
        (
            "units: [ssh]\n",
            "'units': 'ssh' is not the full name of a unit | A unit's name ends in its type, for example ssh.service.",
        ),
        ("units: [../x.service]\n", "is not the full name of a unit"),
        (
            "machineid-compat: false\nunits: [a.service]\n",
            "t.yaml:2: 'units' cannot be used with 'machineid-compat: false'",
        ),
        ("default-target: ssh.service\n", "expected a name that ends in .target"),
        ("presets: [start x]\n", "t.yaml:1: 'presets': 'start x' is not a line"),
        ("presets: |\n\n  enable a.service\n  enable\n", "t.yaml:4: 'presets': 'enable' is not a line"),
        ("debconf: [a b]\n", "expected PACKAGE QUESTION TYPE VALUE"),
        ("debconf: |\n  # c\n  a a/b strng x\n", "t.yaml:3: 'debconf': 'a a/b strng x'"),
        ("locales: [en_US]\n", "is not a locale with its character set"),
        ("locales: ['en_US.UTF-8 UTF-8 x']\n", "is not a locale"),
        ("add-files: [[a]]\n", "expected [source, destination], found 1 entries"),
        ("add-files: [[a, /var/x]]\n", "'/var/x' is not a file of the image"),
        ("add-files: [[a, /usr/../x]]\n", "must not contain '..'"),
        ("add-files: [[a, /usr/etc/x]]\n", "write /etc"),
        ("add-files: [[a, /etc/]]\n", "is not a file of the image"),
        ("opt-usrlocal: var\nadd-files: [[a, /opt/x]]\n", "'/opt/x' is not a file of the image"),
        ("ref: a\nadd-files:\n  - [missing, /etc/x]\n", "t.yaml:3: 'add-files': /base/missing: No such file"),
        ("postprocess-script: missing\n", "t.yaml:1: 'postprocess-script': /base/missing: No such file"),
        ("remove-files: [/]\n", "is not a path of a file"),
        ("remove-from-packages: [[aa]]\n", "expected a package and at least one pattern"),
        ("remove-from-packages: [[aa, '(']]\n", "t.yaml:1: 'remove-from-packages': '(' is no regular expression"),
        ("automatic-version-suffix: '..'\n", "one ASCII character"),
        ("foreign-architectures: [amd64]\n", "is the tree's own architecture"),
        ("variables: {a: [1]}\n", "'a' of 'variables': expected a string, a number or a boolean, found a list"),
        ("variables:\n  basearch: x\n", "t.yaml:2: the variable 'basearch' is set by itself"),
        ("check-passwd: {type: x}\n", "expected none, previous, file or data, found the string 'x'"),
        ("check-passwd: {type: file}\n", "this type needs 'filename'"),
        ("check-groups: {type: data, entries: {a: [1, 2]}}\n", "expected a number or [uid, gid], found a list"),
        ("tmp-is-dir: false\n", "t.yaml:1: 'tmp-is-dir': expected true, found false: with /tmp a link"),
        ("repos: [x/y]\n", "'x/y' is not the name of a .sources file"),
        ("compose-repos: [x/y]\n", "'compose-repos': 'x/y' is not the name of a .sources file"),
        ("ref: a\nrepos: [nowhere]\n", "t.yaml:2: 'repos': source 'nowhere': No such file"),
        ("repos: ['Types: deb']\n", "t.yaml:1: 'repos': stanza 1: it has no URIs"),
        ("repos: [{URI: 'http://x', Suites: a}]\n", "unknown field 'URI' of a source | Did you mean 'URIs'?"),
        ("repos: [{URIs: 'http://x', Suites: a, Components: b, Enabled: no}]\n", "no enabled source"),
        ("repos: [{URIs: 'http://x', Suites: a}]\n", "the suite 'a' needs Components"),
        (
            "repos: [{URIs: 'http://x', Suites: a/, Signed-By: missing.gpg}]\n",
            "Signed-By /base/missing.gpg: No such file",
        ),
    ] {
        assert!(error(text).contains(expected), "{text}: {}", error(text));
    }
}

#[test]
fn ignored_keys_warn() {
    let loaded = load_files(&[("t.yaml", "ref: a\ncliwrap: true\nbootstrap-packages: [base-files]\n")]).unwrap();
    assert_eq!(names(&loaded.treefile), ["base-files"]);
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].starts_with("t.yaml:2: 'cliwrap' is ignored: apt itself"), "{:?}", loaded.warnings);
}

#[test]
fn package_lists_split_at_blanks_but_not_in_quotes() {
    for (text, expected) in [
        ("a b\n c", vec!["a", "b", "c"]),
        ("  ", vec![]),
        ("'podman >= 4.1'", vec!["podman (>= 4.1)"]),
        ("a 'b  <  2' c", vec!["a", "b (<< 2)", "c"]),
        ("podman (>= 4.1) b", vec!["podman (>= 4.1)", "b"]),
        ("podman(>= 4.1)", vec!["podman (>= 4.1)"]),
        ("'x=1'y", vec!["x=1", "y"]),
    ] {
        assert_eq!(flatten::split_packages(text).unwrap(), expected, "{text}");
    }
    assert_eq!(names(&one("packages: [aa aa=1, aa]\n")), ["aa=1"], "a plain name asks for nothing more");
}

#[test]
fn includes_merge_as_upstream() {
    let loaded = load_files(&[
        (
            "top.yaml",
            "include: [sub/a.yaml, sub/b.yaml]\narch-include: {x86_64: c.yaml, arm64: none.yaml}\nconditional-include:\n\
             - {if: 'v == 1', include: d.yaml}\n- {if: ['v == 1', 'v > 1'], include: none.yaml}\n\
             - if: \"v != 2\"\n  include: {packages: [inline], units: [inline.service]}\n\
             packages: [top]\npostprocess: [top]\nunits: [top.service]\npresets: [enable top]\nvariables: {v: 1}\n\
             metadata: {k: top}\nrecommends: false\nadd-files: [[x, /etc/x]]\n",
        ),
        (
            "sub/a.yaml",
            "include: ../e.yaml\nref: ${v}/${w}\npackages: [aa]\npostprocess: [a]\nunits: [a.service]\npresets: [enable a]\n\
             variables: {v: 9, w: 2}\nmetadata: {k: a, l: a}\nrecommends: true\nadd-files: [[x, /etc/x]]\n\
             conditional-include: [{if: v == 1, include: f.yaml}, {if: v == 9, include: none.yaml}]\n",
        ),
        ("sub/b.yaml", "ref: b\npackages: [bb]\npostprocess: [b]\nunits: [b.service]\npresets: [enable b]\nmetadata: {l: b, m: b}\n"),
        ("c.yaml", "packages: [cc]\npackages-arm64: [none]\npackages-x86_64: [c2]\nunits: [c.service]\n"),
        ("d.yaml", "packages: [dd]\nunits: [d.service]\ndocumentation: false\n"),
        ("e.yaml", "packages: [ee]\nunits: [e.service]\ndocumentation: true\ngpg-key: e\n"),
        ("sub/f.yaml", "packages: [ff]\nunits: [f.service]\n"),
    ])
    .unwrap();
    let t = &loaded.treefile;
    assert_eq!(t.reference.as_deref(), Some("1/2"), "first include that sets it; the outer variable wins");
    assert_eq!(names(t), ["aa", "bb", "c2", "cc", "dd", "ee", "ff", "inline", "top"]);
    assert_eq!(t.postprocess, ["b", "a", "top"]);
    let units = ["inline", "d", "c", "b", "f", "e", "a", "top"].map(|n| format!("{n}.service"));
    assert_eq!(t.units, units, "included in front, a later include before an earlier one");
    assert_eq!(t.presets, ["enable top", "enable a", "enable b"], "the including file's line is found first");
    assert_eq!(t.metadata["k"], "top");
    assert_eq!((&t.metadata["l"], &t.metadata["m"]), (&"a".into(), &"b".into()));
    assert!(!t.recommends && t.documentation, "the including file wins, then the first include");
    let sources: Vec<_> = t.add_files.iter().map(|f| f.source.to_str().unwrap()).collect();
    assert_eq!(sources, ["/base/sub/x", "/base/x"], "paths are seen from the file that has them");
    let files: Vec<_> = loaded.files.iter().map(|f| f.to_str().unwrap()).collect();
    assert_eq!(files, ["top.yaml", "sub/a.yaml", "sub/../e.yaml", "sub/f.yaml", "sub/b.yaml", "c.yaml", "d.yaml"]);
}

#[test]
fn broken_includes_say_where() {
    let chain: Vec<(String, String)> =
        (0..60).map(|i| (format!("{i}.yaml"), format!("include: {}.yaml\n", i + 1))).collect();
    let chain: Vec<(&str, &str)> = chain.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    for (files, expected) in [
        (vec![("t.yaml", "ref: a\ninclude:\n  - gone.yaml\n")], "t.yaml:3: include 'gone.yaml': No such file"),
        (vec![("gone/x.yaml", "include: y.yaml\n")], "gone/x.yaml:1: include 'gone/y.yaml': No such file"),
        (vec![("t.yaml", "include: t.yaml\n")], "t.yaml:1: include cycle: t.yaml -> t.yaml"),
        (
            vec![("t.yaml", "include: a.yaml\n"), ("a.yaml", "\ninclude: b.yaml\n"), ("b.yaml", "include: ./a.yaml\n")],
            "b.yaml:1: include cycle: a.yaml -> b.yaml -> ./a.yaml",
        ),
        (
            vec![
                ("t.yaml", "include: [a.yaml, b.yaml]\n"),
                ("a.yaml", "include: c.yaml\n"),
                ("b.yaml", "include: c.yaml\n"),
                ("c.yaml", "ref: x\n"),
            ],
            "b.yaml:1: 'c.yaml' is included a second time",
        ),
        (vec![("t.yaml", "include: a.yaml\n"), ("a.yaml", "ref: a\nrfe: b\n")], "a.yaml:2: unknown key 'rfe'"),
        (vec![("t.yaml", "include: a.yaml\n"), ("a.yaml", "packages: [x\n")], "a.yaml:2: not valid YAML"),
        (
            vec![("t.yaml", "conditional-include: [{if: 'x == 1'}]\n")],
            "t.yaml:1: an entry of 'conditional-include': it has no 'include'",
        ),
        (
            vec![("t.yaml", "conditional-include:\n- if: x == 1\n  include: a\n")],
            "t.yaml:2: condition 'x == 1': there is no variable 'x'",
        ),
        (vec![("t.yaml", "arch-include: {amd46: a}\n")], "unknown architecture 'amd46'"),
        (chain, "more than 50 nested includes"),
    ] {
        let error = load_files(&files).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(error.kind, ErrorKind::Usage);
    }
}

/// Whatever byte of a treefile is damaged, loading gives a value or an error that names the file.
#[test]
fn damage_never_panics() {
    let text = FULL.replace("  - main\n", "");
    for i in (0..text.len()).step_by(3) {
        for damage in ["\n", "[", "'", "${", ": ", "\u{e9}"] {
            let mut damaged = text.clone();
            damaged.replace_range(i..=i, damage);
            if let Err(error) = load_files(&[("t.yaml", &damaged)]) {
                assert!(error.to_string().starts_with("t.yaml:"), "{error}");
            }
        }
    }
}

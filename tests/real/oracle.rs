//! The oracle: what `apt-get install` makes of the same packages in an ordinary chroot of the same base.
//!
//! Both sides get the same index files and the same .debs. Compared are the package sets, dpkg's status field by field,
//! apt's automatic marks, debconf's answers, accounts, and every path of `/usr`, `/etc`, `/var` and the rest: kind, content, mode, owners by
//! name, link targets, file capabilities. What may differ is in [`DIFFERENCES`] and nowhere else; `docs/differences.md` has
//! the same table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::{Node, read_tree};

use crate::bases::{FOREIGN, base};
use crate::layering::boot_var;
use crate::world::World;

/// What may differ: a pattern over the lines of [`compare`] (`*` is any text) and why. An entry that matches nothing
/// fails the test like a difference without an entry.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "etc/passwd *: number of the layer's range",
        "a package's new account gets a number from 400 to 499, where a later base image never puts one; apt-get's adduser counts from 100",
    ),
    ("etc/group *: number of the layer's range", "likewise for groups"),
    (
        "usr/lib/apt-ostree/ids.lock: content",
        "the number of every account, those of layered packages included, so that it never changes",
    ),
    (
        "usr/lib/sysusers.d/50-apt-ostree-ids.conf: content",
        "makes these accounts on a machine whose /etc/passwd is no longer merged",
    ),
    (
        "usr/lib/tmpfiles.d/apt-ostree-layer-var.conf: only with apt-ostree (file)",
        "makes at boot what the packages left in /var",
    ),
    (
        "usr/share/factory/var/*: only with apt-ostree (*)",
        "first content of files in /var; the machine's own is a copy of it",
    ),
    ("etc/.pwd.lock: only with apt-get (file)", "lock of the account tools"),
    ("etc/passwd-: only with apt-get (file)", "backup of the account tools"),
    ("etc/group-: only with apt-get (file)", "backup of the account tools"),
    ("etc/shadow-: only with apt-get (file)", "backup of the account tools"),
    ("etc/gshadow-: only with apt-get (file)", "backup of the account tools"),
    ("usr/lib/sysimage/*-old: only with apt-get (file)", "backups of dpkg and debconf; they differ from run to run"),
    ("usr/lib/sysimage/dpkg/lock*: only with apt-get (file)", "locks of dpkg and apt"),
    ("usr/lib/sysimage/dpkg/triggers/Lock: only with apt-get (file)", "lock of dpkg"),
    (
        "usr/lib/sysimage/debconf/tmp.ci: only with apt-get (dir)",
        "scratch directory of apt-extracttemplates, which apt-get calls before dpkg",
    ),
    ("var/cache/apt/*: only with apt-get (file)", "apt's own cache; apt-ostree keeps one beside the repository"),
    ("var/cache/fontconfig/*: only with apt-get (file)", "font cache; made again on use"),
    ("var/cache/ldconfig/aux-cache: only with apt-get (file)", "ldconfig's own cache"),
    (
        "var/lib/plocate/CACHEDIR.TAG: only with apt-get (file)",
        "the file index is made again by its timer; the tag only tells backup programs to pass it over",
    ),
    ("var/log/*: only with apt-get (file)", "logs of the run; apt-ostree keeps its own"),
];

/// One of each kind: a web server, a daemon with a user of its own, a set-gid program with its group, alternatives, a
/// Python module (byte-compiled), fonts and their cache, file capabilities.
const PACKAGES: &[&str] =
    &["nginx-light", "tcpdump", "plocate", "vim", "python3-yaml", "fontconfig", "fonts-dejavu-core", "mtr-tiny"];

#[test]
fn apt_get_makes_the_same_of_the_same_packages() {
    let world = World::new();
    let sources = debian_sources();
    world.sysroot.set_sources(&sources);
    let foreign = format!("libyaml-0-2:{FOREIGN}");
    let mut packages = PACKAGES.to_vec();
    packages.push(&foreign);
    let mut install = vec!["install"];
    install.extend(&packages);
    let kit_etc = world.dir.join("etc-apt");
    run(Command::new("cp").arg("-a").arg(world.sysroot.deployment(0).join("etc/apt")).arg(&kit_etc));
    world.sysroot.ok(&install);

    let chroot = chroot(&world, &kit_etc);
    apt_get(&world, &chroot, &kit_etc, &packages);
    let ours = world.dir.join("booted");
    boot_var(&world.sysroot.deployment(0), &ours);

    let found = compare(&ours, &chroot);
    let mut unlisted = Vec::new();
    let mut used = BTreeSet::new();
    for line in &found {
        match DIFFERENCES.iter().position(|(pattern, _)| matches(pattern.as_bytes(), line.as_bytes())) {
            Some(index) => {
                used.insert(index);
            }
            None => unlisted.push(line.as_str()),
        }
    }
    let unused: Vec<_> =
        DIFFERENCES.iter().enumerate().filter(|(i, _)| !used.contains(i)).map(|(_, (pattern, _))| *pattern).collect();
    assert!(
        unlisted.is_empty() && unused.is_empty(),
        "{} differences (apt-ostree / apt-get) without an entry:\n{}\nentries without a difference:\n{}",
        unlisted.len(),
        unlisted.join("\n"),
        unused.join("\n")
    );
    world.done();
}

#[test]
fn oracle_differences_are_documented() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/differences.md");
    let text = fs::read_to_string(page).expect("the page");
    let documented: Vec<(&str, &str)> =
        text.lines().filter_map(|l| l.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | ")).collect();
    assert_eq!(documented, DIFFERENCES, "docs/differences.md and the table of this test are one list");
}

/// The archive that this machine uses, as the sources of a deployment.
fn debian_sources() -> String {
    let sources =
        apt_ostree_core::compose::input::host_sources(Path::new("/"), "trixie").expect("sources of this machine");
    sources.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The base as an ordinary system: `/etc` in its place, `/var` made by its own systemd-tmpfiles.
fn chroot(world: &World, etc_apt: &Path) -> PathBuf {
    let root = world.dir.join("chroot");
    run(Command::new("ostree")
        .arg("checkout")
        .arg(format!("--repo={}", base().repo().display()))
        .arg(&base().v1)
        .arg(&root));
    run(Command::new("cp").arg("-a").arg("-T").arg(root.join("usr/etc")).arg(root.join("etc")));
    let output = in_chroot(&root, etc_apt, &[])
        .args(["systemd-tmpfiles", "--create", "--boot", "--prefix=/var"])
        .output()
        .expect("bwrap starts");
    assert!(root.join("var/lib/dpkg/status").exists(), "{}", String::from_utf8_lossy(&output.stderr));
    root
}

/// The environment is the engine's, as scripts read it.
fn in_chroot(root: &Path, etc_apt: &Path, binds: &[(&Path, &str)]) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--cap-add", "ALL", "--unshare-net", "--hostname", "localhost", "--unshare-uts", "--clearenv"]);
    command.arg("--bind").arg(root).args(["/", "--dev", "/dev", "--proc", "/proc", "--ro-bind", "/sys", "/sys"]);
    command.args(["--tmpfs", "/run", "--dir", "/run/lock", "--perms", "1777", "--tmpfs", "/tmp"]);
    command.arg("--ro-bind").arg(etc_apt).arg("/etc/apt");
    for (source, target) in binds {
        command.arg("--bind").arg(source).arg(target);
    }
    for (key, value) in [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("SOURCE_DATE_EPOCH", "0"),
    ] {
        command.args(["--setenv", key, value]);
    }
    command
}

fn apt_get(world: &World, root: &Path, etc_apt: &Path, packages: &[&str]) {
    let state = world.sysroot.repo().join("extensions/apt-ostree/apt");
    let archives = world.dir.join("archives");
    fs::create_dir_all(archives.join("partial")).expect("own directory");
    for deb in debs(&state.join("archives")) {
        let output = run(Command::new("dpkg-deb")
            .args(["-W", "--showformat=${Package}_${Version}_${Architecture}.deb"])
            .arg(&deb));
        let name = String::from_utf8_lossy(&output.stdout).replace(':', "%3a");
        fs::copy(&deb, archives.join(name)).expect("own directory");
    }
    // Not of the tree: the indexes, the packages, the policy.
    let lists = world.dir.join("lists");
    run(Command::new("cp").arg("-a").arg(state.join("lists")).arg(&lists));
    let policy = world.dir.join("policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n").expect("own directory");
    run(Command::new("chmod").arg("755").arg(&policy));
    let mount_point = root.join("usr/sbin/policy-rc.d");
    let had_policy = mount_point.exists();
    let binds: [(&Path, &str); 3] =
        [(&lists, "/var/lib/apt/lists"), (&archives, "/var/cache/apt/archives"), (&policy, "/usr/sbin/policy-rc.d")];
    let mut command = in_chroot(root, etc_apt, &binds);
    command.args(["apt-get", "install", "-y", "--no-download", "-o", "APT::Sandbox::User=root"]).args(packages);
    let output = command.output().expect("bwrap starts");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !had_policy {
        fs::remove_file(mount_point).expect("bubblewrap's mount point");
    }
}

fn debs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).expect("the engine's packages").flatten() {
            let path = entry.path();
            if path.is_dir() {
                rest.push(path);
            } else if path.extension().is_some_and(|e| e == "deb") {
                found.push(path);
            }
        }
    }
    found
}

const STATUS: &str = "usr/lib/sysimage/dpkg/status";
const ANSWERS: &str = "usr/lib/sysimage/debconf/config.dat";
const MARKS: &str = "usr/lib/sysimage/apt/extended_states";

/// Every difference, one line each: `PATH: what ours / theirs`.
fn compare(ours: &Path, theirs: &Path) -> Vec<String> {
    let mut lines = compare_accounts(ours, theirs);
    lines.extend(compare_stanzas("dpkg status", &ours.join(STATUS), &theirs.join(STATUS)));
    lines.extend(compare_stanzas("apt mark", &ours.join(MARKS), &theirs.join(MARKS)));
    lines.extend(compare_stanzas("debconf answer", &ours.join(ANSWERS), &theirs.join(ANSWERS)));
    // The deployment's own /etc is that of the test; the image's is what the packages made.
    let mut left: BTreeMap<String, Node> = read_tree(ours, &|p| p == "etc" || skipped(p));
    left = left
        .into_iter()
        .map(|(path, node)| match path.strip_prefix("usr/etc") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => (format!("etc{rest}"), node),
            _ => (path, node),
        })
        .collect();
    left.retain(|path, _| !skipped(path));
    let right = read_tree(theirs, &|p| p == "usr/etc" || skipped(p));
    let names = (Names::read(&ours.join("usr/etc")), Names::read(&theirs.join("etc")));
    for path in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
        match (left.get(path), right.get(path)) {
            (Some(a), Some(b)) => {
                let owners = (names.0.owner(a), names.1.owner(b));
                let same_numbers = Node { uid: a.uid, gid: a.gid, ..b.clone() };
                let mut list = a.difference(&same_numbers);
                if a.kind == "link" && a.content != b.content {
                    let text = |n: &Node| String::from_utf8_lossy(&n.content).into_owned();
                    list = vec![format!("target {} / {}", text(a), text(b))];
                }
                if owners.0 != owners.1 {
                    list.push(format!("owner {} / {}", owners.0, owners.1));
                }
                lines.extend(list.into_iter().map(|what| format!("{path}: {what}")));
            }
            (Some(node), None) => lines.push(format!("{path}: only with apt-ostree ({})", node.kind)),
            (None, Some(node)) => lines.push(format!("{path}: only with apt-get ({})", node.kind)),
            (None, None) => {}
        }
    }
    lines
}

/// Compared in another way, or the test's own doing.
fn skipped(path: &str) -> bool {
    path.starts_with("etc/apt/")
        || matches!(
            path,
            STATUS
                | MARKS
                | ANSWERS
                | "etc/apt"
                | "etc/passwd"
                | "etc/group"
                | "etc/shadow"
                | "etc/gshadow"
                | "var/lib/apt/lists"
                | "var/cache/apt/archives"
        )
}

/// Names of numbers, from an `etc`.
struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    fn read(etc: &Path) -> Self {
        let table = |file: &str| {
            let text = fs::read_to_string(etc.join(file)).expect("account files");
            text.lines()
                .filter_map(|l| {
                    let mut fields = l.split(':');
                    let name = fields.next()?.to_owned();
                    Some((fields.nth(1)?.parse().ok()?, name))
                })
                .collect()
        };
        Self { users: table("passwd"), groups: table("group") }
    }

    fn owner(&self, node: &Node) -> String {
        let name = |table: &BTreeMap<u32, String>, id: u32| table.get(&id).cloned().unwrap_or_else(|| id.to_string());
        format!("{}:{}", name(&self.users, node.uid), name(&self.groups, node.gid))
    }
}

/// Rows of the four files by name, numbers apart; a user's group by name.
fn compare_accounts(ours: &Path, theirs: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let etcs = (ours.join("usr/etc"), theirs.join("etc"));
    for file in ["passwd", "group", "shadow", "gshadow"] {
        let rows = |etc: &Path| -> BTreeMap<String, Vec<String>> {
            let groups = Names::read(etc).groups;
            let text = fs::read_to_string(etc.join(file)).expect("account files");
            let row = |line: &str| {
                let mut fields: Vec<String> = line.split(':').map(ToOwned::to_owned).collect();
                if file == "passwd" {
                    fields[3] = fields[3].parse().ok().and_then(|g: u32| groups.get(&g).cloned()).unwrap_or_default();
                }
                (fields[0].clone(), fields)
            };
            text.lines().map(row).collect()
        };
        let (left, right) = (rows(&etcs.0), rows(&etcs.1));
        for name in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
            let (Some(a), Some(b)) = (left.get(name), right.get(name)) else {
                lines.push(format!("etc/{file} {name}: {:?} / {:?}", left.get(name), right.get(name)));
                continue;
            };
            for (index, (a, b)) in a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b) {
                let number = |text: &str| text.parse().is_ok_and(|n: u32| (400..=499).contains(&n));
                let what = match (file, index) {
                    ("passwd" | "group", 2) if number(a) => "number of the layer's range".to_owned(),
                    _ => format!("field {} '{a}' / '{b}'", index + 1),
                };
                lines.push(format!("etc/{file} {name}: {what}"));
            }
            if a.len() != b.len() {
                lines.push(format!("etc/{file} {name}: {} / {} fields", a.len(), b.len()));
            }
        }
    }
    lines
}

/// Two files of stanzas, by package and architecture or by question, field by field.
fn compare_stanzas(what: &str, ours: &Path, theirs: &Path) -> Vec<String> {
    let read = |path: &Path| -> BTreeMap<String, BTreeMap<String, String>> {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let stanza = |stanza: &str| {
            let mut fields: BTreeMap<String, String> = BTreeMap::new();
            let mut last = String::new();
            for line in stanza.lines() {
                if line.starts_with([' ', '\t']) {
                    let value = fields.get_mut(&last).expect("a field before its continuation");
                    value.push('\n');
                    value.push_str(line);
                } else if let Some((key, value)) = line.split_once(':') {
                    last = key.to_owned();
                    fields.insert(last.clone(), value.trim().to_owned());
                }
            }
            let key = match fields.get("Name") {
                Some(question) => question.clone(),
                None => format!("{}:{}", fields["Package"], fields["Architecture"]),
            };
            (key, fields)
        };
        text.split("\n\n").filter(|s| !s.trim().is_empty()).map(stanza).collect()
    };
    let (left, right) = (read(ours), read(theirs));
    let mut lines = Vec::new();
    for package in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
        match (left.get(package), right.get(package)) {
            (Some(a), Some(b)) => {
                for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                    if a.get(key) != b.get(key) {
                        lines.push(format!("{what} {package}: {key} {:?} / {:?}", a.get(key), b.get(key)));
                    }
                }
            }
            (Some(_), None) => lines.push(format!("{what} {package}: only with apt-ostree")),
            _ => lines.push(format!("{what} {package}: only with apt-get")),
        }
    }
    lines
}

/// A shell-like pattern in which `*` is any text and everything else itself.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| matches(rest, &text[skip..])),
        Some((c, rest)) => text.first() == Some(c) && matches(rest, &text[1..]),
    }
}

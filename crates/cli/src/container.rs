//! Changes of a container that was made from a composed image, as in a container build: there is no deployment to make, so apt-get
//! changes the packages where they are. What apt prints goes through; what it is told and what it may not do is here.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Output, Stdio};

use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::model::layout::DPKG_ADMINDIR;
use apt_ostree_core::model::package::{PackageId, installed_from_status};
use apt_ostree_core::model::request::{PackageRequest, Selector};
use apt_ostree_core::operation::sources::APT_STATE;
use apt_ostree_core::operation::{Options, PackageChanges, Report, Verb};
use apt_ostree_core::sandbox::bubblewrap;
use apt_ostree_core::{Context, Error, ErrorKind, Result, query, settings};

use crate::args::{Failure, usage};
use crate::commands::{App, Transaction, UNCHANGED};
use crate::render;

/// Every composed tree has them, and nothing else has both.
const MARKS: [&str; 2] = ["ostree", "usr/share/apt-ostree/treefile.json"];

/// What container managers leave for the programs inside; besides the variable `container`.
const MANAGERS: [&str; 3] = ["run/.containerenv", ".dockerenv", "run/systemd/container"];

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;

/// The whole of what one command asks for.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Requests by name.
    pub(crate) install: Vec<String>,
    pub(crate) install_local: Vec<PathBuf>,
    /// Packages of the image that get another version, also an older one.
    pub(crate) replace: Vec<String>,
    pub(crate) replace_local: Vec<PathBuf>,
    /// What was asked for and is to go. What is not there is an error without `idempotent`.
    pub(crate) uninstall: Vec<String>,
    /// Packages of the image that go.
    pub(crate) remove: Vec<String>,
    pub(crate) idempotent: bool,
}

/// Whether this is a container, and its root a composed tree.
pub(crate) fn is_one(root: &Path) -> bool {
    is_one_of(root, std::env::var_os("container").as_deref())
}

/// Not in the engine's own jail: there a transaction is at work on the packages. Not where `/ostree` leads to deployments: that
/// is the tree of a machine, into which somebody looks from a container.
fn is_one_of(root: &Path, variable: Option<&OsStr>) -> bool {
    let named = variable.is_some_and(|name| !name.is_empty());
    (named || MANAGERS.iter().any(|file| root.join(file).exists()))
        && variable != Some(OsStr::new(bubblewrap::CONTAINER))
        && is_composed(root)
}

fn is_composed(root: &Path) -> bool {
    !root.join("run/ostree-booted").exists()
        && !root.join("ostree/deploy").exists()
        && MARKS.iter().all(|path| root.join(path).symlink_metadata().is_ok())
}

/// What to say to somebody whose container looks like none: `docker build` leaves no trace of itself.
pub(crate) fn hint(root: &Path) -> Option<&'static str> {
    let said = std::env::var_os("container").is_some_and(|name| !name.is_empty());
    (!said && !is_one(root) && is_composed(root))
        .then_some("If this is a container build, say so in the image: ENV container=oci")
}

/// dpkg would write into files that somebody else has as well: those of an OSTree repository, where the tree was checked out
/// without copies. On an overlayfs it writes into another layer.
fn refuse_links(root: &Path) -> Result<()> {
    let overlay = |path: &Path| rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == OVERLAYFS);
    match linked(root).filter(|path| !overlay(path)) {
        None => Ok(()),
        Some(path) => Err(Error::failed(format!(
            "{} has other names: its files are shared with an OSTree repository",
            path.display()
        ))
        .hint("Nothing was changed. Make the container of a copy, as `ostree checkout --force-copy` has it.")),
    }
}

/// The first of two files, which every tree has and nothing else in it is the same as, that has more than one name.
fn linked(root: &Path) -> Option<PathBuf> {
    let files = ["usr/bin/dpkg".into(), Path::new(DPKG_ADMINDIR).join("status")].map(|file| root.join(file));
    files.into_iter().find(|path| path.metadata().is_ok_and(|m| m.nlink() > 1))
}

/// Refuses options of deployments by name.
fn refuse(options: &[(bool, &str)]) -> Result<(), Failure> {
    match options.iter().find(|(given, _)| *given) {
        Some((_, option)) => usage(format!("{option} is for deployments; in a container packages are changed at once")),
        None => Ok(()),
    }
}

/// What a verb comes to in a container. `None`: it is for deployments only.
pub(crate) fn transaction(app: &App, verb: &Verb, how: &Transaction) -> Result<Option<ExitCode>, Failure> {
    let change = match verb {
        Verb::PkgChange { changes } => Change::of(changes)?,
        Verb::Override(change) if change.reset.is_empty() && !change.reset_all => Change {
            replace: replacements(&change.replace, change.from.as_deref())?,
            replace_local: change.replace_local.clone(),
            remove: change.remove.clone(),
            ..Change::of(&change.packages)?
        },
        Verb::Cleanup { base, pending, rollback, repomd: true } => {
            refuse(&[(*base, "--base"), (*pending, "--pending"), (*rollback, "--rollback")])?;
            refuse(&[(how.stateroot.is_some(), "--stateroot")])?;
            return clean(app, how.json).map(Some);
        }
        // apt-get leaves no index that it did not check, so there is nothing to force.
        Verb::RefreshMd { .. } => {
            refuse(&[(how.stateroot.is_some(), "--stateroot")])?;
            app.require_root()?;
            refuse_links(Path::new("/"))?;
            fill_var()?;
            Apt { app, document: how.json }.call(&["update"])?;
            return Ok(Some(ExitCode::SUCCESS));
        }
        _ => return Ok(None),
    };
    apply(app, &change, how).map(Some)
}

/// With the suite of `--from` where they have no version.
fn replacements(names: &[String], from: Option<&str>) -> Result<Vec<String>, Failure> {
    let suite = match from.map(|from| from.split_once('=').unwrap_or((from, ""))) {
        None => None,
        Some(("suite", suite)) => Some(suite),
        Some(_) => return usage("In a container --from takes suite=SUITE: apt-get chooses no single index"),
    };
    names
        .iter()
        .map(|name| match suite {
            _ if name.contains(['=', '/']) => Ok(name.clone()),
            Some(suite) => Ok(format!("{name}/{suite}")),
            None => usage(format!("'{name}' has no version: NAME=VERSION, NAME/SUITE, a .deb, or --from")),
        })
        .collect()
}

/// Makes the change, shows what became of it, and turns it into the exit code.
pub(crate) fn apply(app: &App, change: &Change, how: &Transaction) -> Result<ExitCode, Failure> {
    let Options { reboot, lock_finalization, dry_run, .. } = how.options;
    let stateroot = how.stateroot.is_some();
    refuse(&[(reboot, "--reboot"), (lock_finalization, "--lock-finalization"), (stateroot, "--stateroot")])?;
    if dry_run && how.json {
        return usage("--json tells what was done; in a container --dry-run has apt-get's own words");
    }
    app.require_root()?;
    refuse_links(Path::new("/"))?;
    fill_var()?;
    let before = installed()?;
    let apt = Apt { app, document: how.json };
    let words = change.words(&before)?;
    if !words.is_empty() {
        apt.run(&words, &how.options)?;
    }
    if dry_run {
        app.terminal.line("Exiting because of '--dry-run' option");
        return Ok(ExitCode::SUCCESS);
    }
    let diff = PackageDiff::between(&before, &installed()?);
    let report = Report { changed: !diff.is_empty(), diff, ..Report::default() };
    if how.json {
        app.print_json(&render::report_json(&report));
    } else {
        app.say(&report.diff.block());
    }
    let unchanged = how.unchanged_exit_77 && !report.changed;
    Ok(if unchanged { ExitCode::from(UNCHANGED) } else { ExitCode::SUCCESS })
}

/// `cleanup -m`: no package and no index is left in the layer of the container that is being made.
fn clean(app: &App, json: bool) -> Result<ExitCode, Failure> {
    app.require_root()?;
    refuse_links(Path::new("/"))?;
    fill_var()?;
    let apt = Apt { app, document: json };
    apt.call(&["clean"])?;
    for dir in [lists().join("partial"), lists()] {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| !t.is_dir()) && e.file_name() != "lock") {
            std::fs::remove_file(entry.path()).context(|| format!("Removing {}", entry.path().display()))?;
        }
    }
    if json {
        // No package is another one.
        app.print_json(&render::report_json(&Report::default()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The words of apt-get's command line: what is to come, and with a `-` behind it what is to go.
struct Words {
    install: Vec<String>,
    remove: Vec<String>,
    /// Packages of the image that get another version, as apt-get names them; also an older one, and held ones.
    replaced: Vec<String>,
    /// Not all of it is a file that is there.
    by_name: bool,
}

impl Words {
    fn is_empty(&self) -> bool {
        self.install.is_empty() && self.remove.is_empty()
    }
}

impl Change {
    fn of(changes: &PackageChanges) -> Result<Self, Failure> {
        refuse(&[(changes.uninstall_all, "--all")])?;
        Ok(Self {
            install: changes.install.clone(),
            install_local: changes.install_local.clone(),
            uninstall: changes.uninstall.clone(),
            idempotent: changes.idempotent,
            ..Self::default()
        })
    }

    /// Checks every name, so that apt-get takes none for a pattern or an option.
    fn words(&self, installed: &[PackageId]) -> Result<Words> {
        let native = installed.iter().find(|id| id.name == "dpkg").map_or("", |id| id.arch.as_str());
        let mut words = Words {
            install: Vec::new(),
            remove: Vec::new(),
            replaced: Vec::new(),
            by_name: !self.install.is_empty() || !self.replace.is_empty(),
        };
        for name in self.install.iter().chain(&self.replace) {
            let request = PackageRequest::parse(name)?;
            if let Selector::Relation(..) = request.selector {
                return Err(Error::usage(format!("'{name}' is a relation; in a container a version is NAME=VERSION")));
            }
            words.install.push(word(&request));
        }
        for name in &self.replace {
            let id = find(installed, native, &PackageRequest::parse(name)?.target()).ok_or_else(|| not_found(name))?;
            words.replaced.push(id.dpkg_name(native));
        }
        for path in &self.replace_local {
            let name = name_of(path)?;
            words.replaced.push(find(installed, native, &name).ok_or_else(|| not_found(&name))?.dpkg_name(native));
        }
        for path in self.install_local.iter().chain(&self.replace_local) {
            words.install.push(path.display().to_string());
        }
        for name in &self.uninstall {
            match find(installed, native, name) {
                Some(id) => words.remove.push(id.dpkg_name(native)),
                None if self.idempotent => {}
                None => {
                    return Err(Error::new(ErrorKind::NotFound, format!("Package '{name}' is not installed")));
                }
            }
        }
        for name in &self.remove {
            words.remove.push(find(installed, native, name).ok_or_else(|| not_found(name))?.dpkg_name(native));
        }
        Ok(words)
    }
}

/// A request as apt-get takes it for nothing else. A `-` or `+` at the end of a name would say what to do with a package of the name
/// before it, where there is none of the whole name; it reads one such sign, so this is it. Without an architecture `g+` would find
/// `g++`. Behind a version or a suite apt-get takes no sign.
fn word(request: &PackageRequest) -> String {
    if request.selector != Selector::Any {
        return request.to_string();
    }
    let native = request.arch.is_none() && request.name.ends_with(['+', '-']);
    format!("{}{}+", request.target(), if native { NATIVE } else { "" })
}

/// The word of a command line as it was asked for.
fn asked(word: &str) -> &str {
    match word.strip_suffix('+') {
        Some(name) if !name.contains(['=', '/']) => name.strip_suffix(NATIVE).unwrap_or(name),
        _ => word,
    }
}

/// apt's own name of the architecture of the system.
const NATIVE: &str = ":native";

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("Package \"{name}\" not found"))
}

/// By `NAME`, `NAME:ARCH` or `NAME-VERSION.ARCH`. A name alone is the native package, where there are several.
fn find<'a>(installed: &'a [PackageId], native: &str, name: &str) -> Option<&'a PackageId> {
    let is_meant =
        |id: &&PackageId| id.name == name || format!("{}:{}", id.name, id.arch) == name || id.nevra() == name;
    installed.iter().filter(is_meant).min_by_key(|id| id.arch != native)
}

struct Apt<'a> {
    app: &'a App,
    /// stdout is for a document.
    document: bool,
}

impl Apt<'_> {
    fn run(&self, words: &Words, options: &Options) -> Result<()> {
        let mut line = match words.install.is_empty() {
            true => vec!["remove"],
            false => vec!["install"],
        };
        if !settings::read(Path::new("/etc"))?.recommends {
            line.push("--no-install-recommends");
        }
        if !words.replaced.is_empty() {
            line.extend(["--allow-downgrades", "--allow-change-held-packages"]);
        }
        if options.cache_only {
            line.push("--no-download");
        }
        match (options.dry_run, options.download_only) {
            (true, _) => line.push("--simulate"),
            (_, true) => line.push("--download-only"),
            _ => {}
        }
        line.push("--");
        line.extend(words.install.iter().map(String::as_str));
        let leaving: Vec<String> = words.remove.iter().map(|name| format!("{name}-")).collect();
        line.extend(leaving.iter().map(String::as_str));
        // A file that needs nothing else needs no index either.
        let without = options.cache_only || words.install.is_empty() || query::has_indexes(&lists());
        if !without && (words.by_name || !simulate(&line)?.status.success()) {
            self.call(&["update"])?;
        }
        refuse_more(self.app, &line, words)?;
        // The same once more, in apt's own words: what it has found by now counts.
        if words.remove.is_empty() {
            line.insert(1, "--no-remove");
        }
        self.call(&line)
    }

    /// Runs apt-get to its end; its output is ours.
    fn call(&self, line: &[&str]) -> Result<()> {
        let mut command = command(line);
        if self.document {
            let stderr =
                std::io::stderr().as_fd().try_clone_to_owned().context(|| "Keeping stdout for the document")?;
            command.stdout(stderr);
        } else if self.app.terminal.is_quiet() {
            command.stdout(Stdio::null());
        }
        let status = command.status().context(|| "Starting apt-get")?;
        if status.success() {
            return Ok(());
        }
        Err(failed(line, status))
    }
}

fn failed(line: &[&str], status: ExitStatus) -> Error {
    let words = line.iter().filter(|word| !["--", "--no-remove"].contains(word)).map(|word| asked(word));
    Error::failed(format!("apt-get {} failed ({status})", words.collect::<Vec<_>>().join(" ")))
}

/// Nothing but what was named ever goes, as on a deployment. apt-get would take along what needs it.
fn refuse_more(app: &App, line: &[&str], words: &Words) -> Result<()> {
    let output = simulate(line)?;
    let text = String::from_utf8_lossy(&output.stdout);
    // It does not say what would go.
    if !output.status.success() {
        app.terminal.print_error(&format!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        return Err(failed(line, output.status));
    }
    if !words.replaced.is_empty() {
        let held = told("apt-mark", &[OsStr::new("showhold")])?;
        let mut changed = starting(&text, &["Inst "]);
        changed.retain(|name| held.lines().any(|h| h == *name) && !words.replaced.iter().any(|named| named == name));
        if !changed.is_empty() {
            return Err(Error::failed(format!("Held packages would have to change as well: {}", changed.join(", ")))
                .hint("Nothing was changed. Name them as well, if they may."));
        }
    }
    let mut more = starting(&text, &["Remv ", "Purg "]);
    more.retain(|name| !words.remove.iter().any(|named| named == name));
    if more.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("Other packages would have to go as well: {}", more.join(", ")))
        .hint("Nothing was changed. Name them as well, if they may go."))
}

/// The packages in the lines of a simulation that begin with one of these words.
fn starting<'a>(simulation: &'a str, words: &[&str]) -> Vec<&'a str> {
    let lines = simulation.lines().filter(|line| words.iter().any(|word| line.starts_with(word)));
    lines.filter_map(|line| line.split_whitespace().nth(1)).collect()
}

/// `NAME:ARCH` of a package file.
fn name_of(file: &Path) -> Result<String> {
    let format = "--showformat=${Package}:${Architecture}";
    told("dpkg-deb", &[OsStr::new("--show"), OsStr::new(format), file.as_os_str()])
}

/// What a program says that only looks.
fn told(program: &str, arguments: &[&OsStr]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.context(|| format!("Starting {program}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::failed(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn simulate(line: &[&str]) -> Result<Output> {
    command(&[&["--simulate"], line].concat()).output().context(|| "Starting apt-get")
}

/// Where apt has its indexes.
fn lists() -> PathBuf {
    Path::new("/").join(APT_STATE).join("lists")
}

/// Nobody is asked anything. Files in /etc stay as they are where they were changed, whatever the image's apt.conf says.
fn command(line: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "--assume-yes"]);
    for option in [
        "APT::Cmd::Pattern-Only=true",
        "APT::Get::AutomaticRemove=false",
        "APT::Get::Purge=false",
        "Dpkg::Options::=--force-confdef",
        "Dpkg::Options::=--force-confold",
        "Dpkg::Use-Pty=false",
    ] {
        command.args(["-o", option]);
    }
    command.args(line).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// A commit's /var is empty; the tree's own tmpfiles.d makes what dpkg and apt need of it, as at the start of a machine.
fn fill_var() -> Result<()> {
    if Path::new("/var/lib/dpkg/status").exists() {
        return Ok(());
    }
    let output = Command::new("systemd-tmpfiles").args(["--create", "--prefix=/var"]).stdin(Stdio::null()).output();
    let output = output.context(|| "Starting systemd-tmpfiles")?;
    if Path::new("/var/lib/dpkg/status").exists() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed(format!("systemd-tmpfiles made no /var/lib/dpkg: {}", said.lines().last().unwrap_or_default())))
}

fn installed() -> Result<Vec<PackageId>> {
    let status = Path::new("/").join(DPKG_ADMINDIR).join("status");
    let text = std::fs::read_to_string(&status).context(|| format!("Reading {}", status.display()))?;
    Ok(installed_from_status(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_words_of_apt_get() {
        let packages =
            [("adduser", "3.152", "all"), ("dpkg", "1", "arm64"), ("libc6", "2", "amd64"), ("libc6", "2", "arm64")];
        let installed = packages.map(|(name, version, arch)| PackageId::new(name, version, arch));
        let change = |text: &[&str]| text.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let words = Change {
            install: change(&["htop", "git:amd64=1", "less/sid"]),
            replace: change(&["adduser=3.150"]),
            install_local: vec!["/srv/a.deb".into()],
            remove: change(&["libc6", "libc6:amd64", "adduser-3.152.all"]),
            ..Change::default()
        };
        let words = words.words(&installed).unwrap();
        assert_eq!(words.install, ["htop+", "git:amd64=1", "less/sid", "adduser=3.150", "/srv/a.deb"]);
        // As apt-get names them: foreign ones alone with their architecture.
        assert_eq!(words.remove, ["libc6", "libc6:amd64", "adduser"]);
        assert_eq!(words.replaced, ["adduser"]);
        assert!(words.by_name);
        // Names that end as apt-get's signs do.
        for (name, want) in
            [("g++", "g++:native+"), ("sl-", "sl-:native+"), ("g++:amd64", "g++:amd64+"), ("g++=1+", "g++=1+")]
        {
            let word = word(&PackageRequest::parse(name).unwrap());
            assert_eq!(word, want);
            assert_eq!(asked(&word), name);
        }
        assert_eq!(["/srv/a.deb", "nano-", "--simulate"].map(asked), ["/srv/a.deb", "nano-", "--simulate"]);
        for (bad, want) in [
            (Change { install: change(&["--purge"]), ..Change::default() }, "Invalid package request"),
            (Change { install: change(&["lib*"]), ..Change::default() }, "Invalid package request"),
            (Change { install: change(&["a0 (>= 1)"]), ..Change::default() }, "is a relation"),
            (Change { replace: change(&["htop=1"]), ..Change::default() }, "Package \"htop=1\" not found"),
            (Change { remove: change(&["htop"]), ..Change::default() }, "Package \"htop\" not found"),
            (Change { uninstall: change(&["htop"]), ..Change::default() }, "Package 'htop' is not installed"),
        ] {
            let error = bad.words(&installed).err().expect("it is refused").to_string();
            assert!(error.contains(want), "{error}");
        }
        let nothing = Change { uninstall: change(&["htop"]), idempotent: true, ..Change::default() };
        assert!(nothing.words(&installed).unwrap().is_empty());
    }

    #[test]
    fn what_a_simulation_takes_away() {
        let said = "Reading package lists...\nRemv a [1]\nPurg b:arm64 [2]\nInst c (1 x [all])\nConf c (1 x [all])\n";
        assert_eq!(starting(said, &["Remv ", "Purg "]), ["a", "b:arm64"]);
    }

    #[test]
    fn which_roots_are_containers_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let make = |path: &str| {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), "").unwrap();
        };
        let is_one = |variable: &str| is_one_of(root, Some(OsStr::new(variable)));
        make("usr/share/apt-ostree/treefile.json");
        assert!(!is_one("oci"));
        std::os::unix::fs::symlink("sysroot/ostree", root.join("ostree")).unwrap();
        assert!(is_one("oci") && !is_one("") && !is_one_of(root, None));
        make("run/.containerenv");
        assert!(is_one("") && is_one_of(root, None));
        // A script of a package in a transaction, whatever else looks like a container.
        assert!(!is_one(bubblewrap::CONTAINER));
        // The tree of a machine, seen from a container.
        make("sysroot/ostree/deploy/debian");
        assert!(!is_one("oci"));
        std::fs::remove_dir_all(root.join("sysroot")).unwrap();
        assert!(is_one("oci"));
        make("run/ostree-booted");
        assert!(!is_one("oci"));
    }

    #[test]
    fn files_of_a_repository_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(linked(root), None);
        for file in ["usr/lib/sysimage/dpkg/status", "usr/bin/dpkg"] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            assert_eq!(linked(root), None);
            let object = root.join("object");
            std::fs::hard_link(&path, &object).unwrap();
            assert_eq!(linked(root), Some(path));
            std::fs::remove_file(object).unwrap();
        }
    }
}

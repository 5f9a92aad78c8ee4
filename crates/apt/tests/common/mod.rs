//! A small world for the adapter: an archive, a base system as dpkg's status tells it, and apt-get as the oracle.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_apt::AptSource;
use apt_ostree_core::event::{Event, EventSink, NullSink};
use apt_ostree_core::model::request::PackageRequest;
use apt_ostree_core::source::{PackageSource, Solution, SolveTask, SourceConfig};
use apt_ostree_core::{Error, Result};
use apt_ostree_testkit::archive::Archive;
use apt_ostree_testkit::deb::Deb;

/// Runs the body of a test in a process of its own, because libapt keeps its configuration in globals: the test binary
/// starts itself again with only this test.
pub(crate) fn isolated(body: impl FnOnce()) {
    const MARK: &str = "APT_OSTREE_ISOLATED";
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let name = std::thread::current().name().expect("a test has a name").to_owned();
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", &name, "--nocapture", "--test-threads", "1"])
        .env(MARK, "1")
        .output()
        .expect("this binary starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{name} in its own process:\n{text}");
}

#[derive(Debug, Default)]
pub(crate) struct Recorder(pub(crate) RefCell<Vec<Event>>);

impl EventSink for Recorder {
    fn emit(&self, event: Event) {
        self.0.borrow_mut().push(event);
    }
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) archive: Archive,
    pub(crate) config: SourceConfig,
    pub(crate) source: AptSource,
}

impl World {
    /// An archive with what `fill` puts into it, published and refreshed, and a base with `base` installed.
    pub(crate) fn new(base: &[Deb], fill: impl FnOnce(&mut Archive)) -> Self {
        let mut world = Self::unrefreshed(base, fill);
        world.refresh().expect("a good archive");
        world
    }

    pub(crate) fn unrefreshed(base: &[Deb], fill: impl FnOnce(&mut Archive)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // apt's methods run as _apt.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
        let mut archive = Archive::new(&dir.path().join("archive"));
        fill(&mut archive);
        archive.publish();
        let status = dir.path().join("status");
        fs::write(&status, base.iter().map(Deb::status_stanza).collect::<String>()).expect("own directory");
        let config = SourceConfig {
            state: dir.path().join("state"),
            status,
            sources: vec![archive.sources("stable")],
            arch: "amd64".into(),
            foreign_arches: vec!["i386".into()],
            recommends: true,
            ..SourceConfig::default()
        };
        Self { dir, archive, config, source: AptSource::new() }
    }

    pub(crate) fn refresh(&mut self) -> Result<()> {
        self.source.refresh(&self.config, &NullSink)
    }

    pub(crate) fn solve(&mut self, task: &SolveTask) -> Result<Solution> {
        self.source.solve(&self.config, task, &NullSink)
    }

    pub(crate) fn fetch(&mut self, solution: &mut Solution) -> Result<()> {
        self.source.fetch(&self.config, solution, &NullSink)
    }

    pub(crate) fn solve_error(&mut self, task: &SolveTask) -> Error {
        match self.solve(task) {
            Ok(solution) => panic!("expected an error, got {:?}", installs(&solution)),
            Err(error) => error,
        }
    }

    /// What `apt-get -s install ARGS` would do with the same files: `name:arch=version` in, `-name:arch` out.
    pub(crate) fn oracle(&self, args: &[&str], exclude: &[&str]) -> Option<BTreeSet<String>> {
        let mut command = self.apt("apt-get", exclude);
        let output = command.args(["-q", "-s", "install"]).args(args).output().expect("apt-get starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return None;
        }
        Some(text.lines().filter_map(parse_simulation).collect())
    }

    /// What a program of apt prints about the same files.
    pub(crate) fn apt_says(&self, program: &str, args: &[&str]) -> String {
        let output = self.apt(program, &[]).args(args).output().expect("apt's program starts");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A program of apt that works with the files of this world.
    fn apt(&self, program: &str, exclude: &[&str]) -> Command {
        let parts = self.dir.path().join("oracle");
        fs::create_dir_all(&parts).expect("own directory");
        let mut pins = String::new();
        for name in exclude {
            pins.push_str(&format!("Package: {name}\nPin: release *\nPin-Priority: -1\n\n"));
        }
        for path in &self.config.preferences {
            pins.push_str(&fs::read_to_string(path).expect("a preferences file"));
        }
        fs::write(parts.join("preferences"), pins).expect("own directory");
        fs::write(parts.join("a.sources"), self.config.sources.join("\n")).expect("own directory");
        fs::write(parts.join("main.conf"), "").expect("own directory");
        let show = |p: &Path| p.display().to_string();
        let options = [
            ("Dir::State::status", show(&self.config.status)),
            ("Dir::State::lists", show(&self.config.state.join("lists"))),
            ("Dir::State::extended_states", show(&parts.join("extended"))),
            ("Dir::Cache", show(&parts)),
            ("Dir::Etc::sourcelist", "/dev/null".into()),
            ("Dir::Etc::sourceparts", show(&parts)),
            ("Dir::Etc::preferences", show(&parts.join("preferences"))),
            ("Dir::Etc::preferencesparts", "/dev/null".into()),
            ("Dir::Etc::parts", "/dev/null".into()),
            ("APT::Architecture", "amd64".into()),
            ("APT::Install-Recommends", self.config.recommends.to_string()),
            ("Acquire::Languages", "none".into()),
            ("Debug::NoLocking", "true".into()),
        ];
        // Lists cannot be given on the command line without adding to the host's.
        let arches = "APT::Architectures { \"amd64\"; \"i386\"; };\n";
        fs::write(parts.join("arches.conf"), arches).expect("own directory");
        let mut command = Command::new(program);
        command.env("APT_CONFIG", parts.join("arches.conf")).env("LC_ALL", "C");
        for (key, value) in options {
            command.args(["-o", &format!("{key}={value}")]);
        }
        command
    }
}

/// `Inst foo [1.0] (2.0 Testkit:stable [amd64])` as `foo=2.0 amd64`, `Remv foo [1.0]` as `-foo`.
fn parse_simulation(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("Remv ") {
        return Some(format!("-{}", rest.split_whitespace().next()?));
    }
    let rest = line.strip_prefix("Inst ")?;
    let name = rest.split_whitespace().next()?.split(':').next()?;
    let inside = rest.split_once('(')?.1.split_once(')')?.0;
    let version = inside.split_whitespace().next()?;
    let arch = inside.rsplit_once('[')?.1.trim_end_matches(']');
    Some(format!("{name}={version} {arch}"))
}

/// The same notation as the oracle's.
pub(crate) fn installs(solution: &Solution) -> BTreeSet<String> {
    let install = solution.install.iter().map(|p| format!("{}={} {}", p.id.name, p.id.version, p.id.arch));
    install.chain(solution.remove.iter().map(|p| format!("-{}", p.name))).collect()
}

pub(crate) fn task(install: &[&str]) -> SolveTask {
    SolveTask {
        install: install.iter().map(|r| PackageRequest::parse(r).expect("a request")).collect(),
        ..SolveTask::default()
    }
}

pub(crate) fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

pub(crate) fn write(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).expect("own directory");
    path.to_owned()
}

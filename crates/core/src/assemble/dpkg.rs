//! The one dpkg run of an assembly: removals, unpack, configure, triggers, in the sandbox.
//!
//! dpkg is the only thing that interprets packages. Its `--status-fd` lines are the progress; when a maintainer
//! script fails, they also say which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::order;
use crate::error::{Error, ErrorKind, Result, ScriptFailure};
use crate::event::{Event, EventSink, EventSinkExt};
use crate::sandbox::{Bind, Sandbox, SandboxSpec};
use crate::source::SolvedPackage;

/// Where the .debs lie inside the sandbox.
const ARCHIVES: &str = "/run/apt-ostree/archives";

/// What dpkg does about a conffile that differs from the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conffiles {
    /// Compose: nothing to keep (`--force-confnew`).
    TakeNew,
    /// Layering: a conffile that differs from its recorded hash is the image author's change and stays
    /// (`--force-confdef --force-confold`); the administrator's own is safe in libostree's merge of /etc anyway.
    KeepOld,
}

/// One dpkg run.
#[derive(Clone, Debug)]
pub struct DpkgRun<'a> {
    pub spec: SandboxSpec,
    pub native_arch: &'a str,
    pub conffiles: Conffiles,
    /// Lines for debconf-set-selections(1), set before anything is unpacked; may be empty.
    pub preseed: String,
    /// Further options, e.g. `--path-exclude=…`.
    pub options: Vec<String>,
}

impl DpkgRun<'_> {
    /// Removes, unpacks and configures. `packages` must have their `path` set.
    pub fn execute(
        &self,
        packages: &[SolvedPackage],
        remove: &[String],
        sandbox: &dyn Sandbox,
        events: &dyn EventSink,
    ) -> Result<()> {
        let waves = order::waves(packages, self.native_arch);
        let mut spec = self.spec.clone();
        // dpkg closes its status descriptor in the scripts it runs: it must not be their stdout.
        let mut script = String::from("set -e\nexec 9>&1\n");
        let dpkg = self.command();
        if !self.preseed.is_empty() {
            script.push_str(&format!(
                "if [ -x /usr/bin/debconf-set-selections ]; then debconf-set-selections <<'ANSWERS'\n{}\nANSWERS\nfi\n",
                self.preseed.trim_end()
            ));
        }
        // A foreign architecture may be the machine's wish, unknown to the base's dpkg until now.
        for arch in foreign_architectures(packages, self.native_arch) {
            script.push_str(&format!(
                "dpkg --print-foreign-architectures | grep -qx {arch} || dpkg --add-architecture {arch}\n"
            ));
        }
        if !remove.is_empty() {
            // Purged, so that the tree is the one without the package: no conffile, no entry in the database. What is to
            // come may depend on it no longer, or replace it: the solver has seen to that.
            script.push_str(&format!("{dpkg} --force-depends --purge {}\n", remove.join(" ")));
        }
        for (number, wave) in waves.iter().enumerate() {
            let mut files = String::new();
            for index in wave {
                let package = &packages[*index];
                files.push(' ');
                files.push_str(&crate::sandbox::bubblewrap::shell_join(&[bind_archive(&mut spec, &package.path)?]));
            }
            let last = number + 1 == waves.len();
            // Triggers run once, in the last configure.
            let defer = if last { "" } else { " --no-triggers" };
            script.push_str(&format!("{dpkg}{defer} --unpack{files}\n"));
            if last {
                script.push_str(&format!("{dpkg} --configure --pending\n"));
            } else {
                let names: Vec<String> = wave.iter().map(|i| packages[*i].id.dpkg_name(self.native_arch)).collect();
                script.push_str(&format!("{dpkg}{defer} --configure {}\n", names.join(" ")));
            }
        }
        let total = packages.len() as u64 * 2 + remove.len() as u64;
        let archives = packages
            .iter()
            .filter_map(|p| {
                Some((p.path.file_name()?.to_string_lossy().into_owned(), p.id.dpkg_name(self.native_arch)))
            })
            .collect();
        let mut watcher = Watcher { total, archives, ..Watcher::default() };
        let output = sandbox.run(&spec, &["/bin/sh", "-c", &script], &mut |line| watcher.line(line, events))?;
        if output.code == 0 {
            return Ok(());
        }
        let mut error = watcher.failure(output.code, &output.reproduce);
        if let Some(failure) = &mut error.script {
            // A package that is unpacked already: its configuration alone shows the failure again.
            if failure.script == "postinst" {
                let argv = ["dpkg", "--force-unsafe-io", "--configure", &failure.package];
                failure.reproduce = sandbox.command_line(&spec, &argv);
            } else if failure.script == "trigger" {
                let argv = ["sh", "-c", TRIGGER_AGAIN, "sh", &failure.package];
                failure.reproduce = sandbox.command_line(&spec, &argv);
            }
        }
        Err(error)
    }

    fn command(&self) -> String {
        let conffiles = match self.conffiles {
            Conffiles::TakeNew => "--force-confnew",
            Conffiles::KeepOld => "--force-confdef --force-confold",
        };
        let mut line = format!("dpkg --status-fd 9 --force-unsafe-io --no-debsig {conffiles}");
        for option in &self.options {
            line.push(' ');
            line.push_str(&crate::sandbox::bubblewrap::shell_join(&[option]));
        }
        line
    }
}

fn foreign_architectures<'a>(packages: &'a [SolvedPackage], native: &str) -> BTreeSet<&'a str> {
    packages.iter().map(|p| p.id.arch.as_str()).filter(|a| *a != native && *a != "all").collect()
}

/// Runs the triggers of package `$1`. dpkg has forgotten which were pending when their script fails (`trigproc` in its
/// src/main/trigproc.c), and configuring the package is another call of the script: it is told of all it waits for.
const TRIGGER_AGAIN: &str = r#"export DPKG_MAINTSCRIPT_PACKAGE="$1" DPKG_MAINTSCRIPT_NAME=postinst
names=$(sed -n 's/^interest[^ ]* *//p' "$(dpkg-query --control-path "$1" triggers)" | tr '\n' ' ')
exec "$(dpkg-query --control-path "$1" postinst)" triggered "${names% }""#;

/// Makes the directory of a .deb visible inside, once per directory, and gives the path there.
fn bind_archive(spec: &mut SandboxSpec, path: &Path) -> Result<String> {
    let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(Error::failed(format!("{} is not the path of a .deb", path.display())));
    };
    let known = spec.binds.iter().find(|b| b.source == dir && b.target.starts_with(ARCHIVES)).map(|b| b.target.clone());
    let target = known.unwrap_or_else(|| {
        let number = spec.binds.iter().filter(|b| b.target.starts_with(ARCHIVES)).count();
        let target = format!("{ARCHIVES}/{number}");
        spec.binds.push(Bind { source: dir.to_owned(), target: target.clone(), read_only: true });
        target
    });
    Ok(format!("{target}/{}", file.to_string_lossy()))
}

/// Reads dpkg's output: status lines become progress, the rest is kept for the error.
#[derive(Debug, Default)]
struct Watcher {
    done: u64,
    total: u64,
    /// The package of each archive, by file name: dpkg names the archive until it is unpacked.
    archives: BTreeMap<String, String>,
    /// Lines since the last package started, so that an error shows that package's own.
    recent: Vec<String>,
    /// What comes now are triggers, not a configuration.
    triggers: bool,
    /// The first error came from triggers.
    trigger_failed: bool,
    /// `(package, message)` of `status: PACKAGE : error : MESSAGE`.
    errors: Vec<(String, String, Vec<String>)>,
}

/// How many lines of a package's output an error carries.
const KEEP_LINES: usize = 20;

impl Watcher {
    fn line(&mut self, line: &str, events: &dyn EventSink) {
        if let Some(rest) = line.strip_prefix("processing: ") {
            // `STAGE: PACKAGE`, dpkg(1) --status-fd. Some lines stand twice: the total is for the bar only.
            let (stage, package) = rest.split_once(": ").unwrap_or(("", rest));
            let verb = match stage {
                "install" | "upgrade" => "Unpacking",
                "configure" => "Configuring",
                "trigproc" => "Processing triggers for",
                "remove" | "purge" | "disappear" => "Removing",
                _ => return,
            };
            if verb != "Processing triggers for" {
                self.done = (self.done + 1).min(self.total);
            }
            self.triggers = stage == "trigproc";
            self.recent.clear();
            events.progress(self.done, self.total, format!("{verb} {package}"));
        } else if let Some(rest) = line.strip_prefix("status: ") {
            let known = self.errors.len();
            let mut parts = rest.splitn(3, " : ");
            if let (Some(package), Some("error"), Some(message)) = (parts.next(), parts.next(), parts.next()) {
                self.errors.push((package.to_owned(), message.to_owned(), self.recent.clone()));
            } else if let Some((package, message)) =
                rest.split_once(": error: ").or_else(|| rest.split_once(": error : "))
            {
                self.errors.push((package.to_owned(), message.to_owned(), self.recent.clone()));
            }
            self.trigger_failed |= known == 0 && !self.errors.is_empty() && self.triggers;
        } else {
            events.emit(Event::Output { line: line.to_owned() });
            if self.recent.len() == KEEP_LINES {
                self.recent.remove(0);
            }
            self.recent.push(line.to_owned());
        }
    }

    fn failure(self, code: i32, reproduce: &str) -> Error {
        let trigger_failed = self.trigger_failed;
        let (package, message, output) = match self.errors.into_iter().next() {
            Some((package, message, output)) => {
                (package, message, if output.is_empty() { self.recent } else { output })
            }
            None => (String::new(), format!("dpkg ended with status {code}"), self.recent),
        };
        // A path in the place of the package name: the archive could not be opened, or its preinst failed.
        let file = package.rsplit('/').next().unwrap_or_default();
        let name = self.archives.get(file).map_or(file, String::as_str).to_owned();
        let script = script_of(&message).map(|script| if trigger_failed { "trigger" } else { script });
        let status = message.rsplit("exit status ").next().and_then(|s| s.trim().parse().ok());
        let what = match script {
            Some(script) => format!("The {script} script of {name} failed: {message}"),
            None if name.is_empty() => message.clone(),
            None => format!("dpkg could not process {name}: {message}"),
        };
        Error::new(ErrorKind::Script, what).with_script(ScriptFailure {
            package: name,
            script: script.unwrap_or("dpkg").to_owned(),
            status: status.or(Some(code)),
            output,
            reproduce: reproduce.to_owned(),
        })
    }
}

/// dpkg's words for its maintainer scripts (lib/dpkg, `maintscript_*`).
fn script_of(message: &str) -> Option<&'static str> {
    [
        ("post-installation", "postinst"),
        ("pre-installation", "preinst"),
        ("post-removal", "postrm"),
        ("pre-removal", "prerm"),
        ("trigger", "trigger"),
    ]
    .into_iter()
    .find(|(words, _)| message.contains(words))
    .map(|(_, script)| script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NullSink;

    #[test]
    fn names_the_script_that_failed() {
        let mut watcher = Watcher::default();
        for line in [
            "processing: configure: broken (1)",
            "Setting up broken (1) ...",
            "I am the reason",
            "status: broken : error : installed broken package post-installation script subprocess returned error exit status 7",
            "Errors were encountered while processing:",
            " broken",
        ] {
            watcher.line(line, &NullSink);
        }
        let error = watcher.failure(1, "bwrap …");
        let script = error.script.clone().unwrap();
        assert_eq!((script.package.as_str(), script.script.as_str(), script.status), ("broken", "postinst", Some(7)));
        assert!(script.output.contains(&"I am the reason".to_owned()), "{script:?}");
        assert_eq!(error.kind, ErrorKind::Script);
    }

    #[test]
    fn tells_triggers_from_a_configuration() {
        let mut watcher = Watcher::default();
        for line in [
            "processing: trigproc: broken",
            "I am the reason",
            "status: broken : error : installed broken package post-installation script subprocess returned error exit status 2",
        ] {
            watcher.line(line, &NullSink);
        }
        let script = watcher.failure(1, "bwrap …").script.unwrap();
        assert_eq!((script.package.as_str(), script.script.as_str(), script.status), ("broken", "trigger", Some(2)));
    }

    #[test]
    fn names_the_package_of_an_archive() {
        let archives = [("ab12.deb".to_owned(), "broken".to_owned())].into();
        let mut watcher = Watcher { archives, ..Watcher::default() };
        let line = "status: /run/apt-ostree/archives/0/ab12.deb : error : new broken package pre-installation script \
                    subprocess returned error exit status 4";
        watcher.line(line, &NullSink);
        let script = watcher.failure(1, "bwrap …").script.unwrap();
        assert_eq!((script.package.as_str(), script.script.as_str(), script.status), ("broken", "preinst", Some(4)));
    }
}

//! Quirks: what single packages need while an image is assembled, as data with reasons.
//!
//! A quirk file is a YAML list of rules; the comment at the top of `data/quirks.d/10-programs.yaml` names the keys. The
//! built-in files are part of the program; a directory of the caller (`/etc/apt-ostree/quirks.d`) adds files, and one with
//! the name of a built-in file replaces it. Files apply in the order of their names, and for one program the first rule
//! whose package and script match.
//!
//! Shims are programs in a directory that comes first in `PATH`, not files of the tree and not mounts over it: a mount
//! point cannot be renamed, so dpkg could not upgrade the package it covers, and in a compose the program is not there yet
//! when the mounts are made. Only shims marked `bind` are mounted, for programs that are called by full path and belong
//! to no package. [`Active::write_runtime`] lays out the directory that the caller binds at [`RUNTIME_DIR`]:
//!
//! ```text
//! /run/apt-ostree/shims/NAME      first in PATH
//! /run/apt-ostree/quirks.log      one line per use: PACKAGE SCRIPT PROGRAM ARGS
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode, MarkedYaml};

use super::state::{DropKind, Dropped};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::glob;
use crate::model::package::PackageId;

/// Where the caller binds the directory of [`Active::write_runtime`] in the sandbox.
pub const RUNTIME_DIR: &str = "/run/apt-ostree";
/// The log of uses, in that directory.
pub const LOG_NAME: &str = "quirks.log";

/// The built-in files, by name.
const BUILT_IN: &[(&str, &str)] = &[
    ("10-programs.yaml", include_str!("../../../../data/quirks.d/10-programs.yaml")),
    ("20-answers.yaml", include_str!("../../../../data/quirks.d/20-answers.yaml")),
    ("30-files.yaml", include_str!("../../../../data/quirks.d/30-files.yaml")),
    ("40-refused.yaml", include_str!("../../../../data/quirks.d/40-refused.yaml")),
];

/// The scripts a rule may name. `trigger` is a postinst run for triggers.
const SCRIPTS: &[&str] = &["any", "preinst", "postinst", "prerm", "postrm", "trigger"];

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A shell text runs instead of the programs at these absolute paths.
    Shim { paths: Vec<String>, with: Option<String>, bind: bool },
    /// The script is not run at all.
    SkipScript,
    /// The package is refused.
    Refuse { message: String },
    /// Patterns of files to delete after the run, relative to the root, `etc/` and `var/` as scripts see them.
    DropFiles { files: Vec<String> },
    /// Lines for debconf-set-selections(1) before the run.
    Preseed { lines: Vec<String> },
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quirk {
    /// `FILE:LINE`.
    pub origin: String,
    /// Pattern of package names.
    pub package: String,
    /// Pattern of versions.
    pub version: Option<String>,
    /// One of the five scripts, or `any`.
    pub script: String,
    pub action: Action,
    pub reason: String,
    pub bug: Option<String>,
}

impl Quirk {
    fn concerns(&self, package: &PackageId) -> bool {
        glob::matches(&self.package, &package.name)
            && self.version.as_ref().is_none_or(|pattern| glob::matches(pattern, &package.version))
    }
}

/// All rules, in order.
#[derive(Clone, Debug, Default)]
pub struct Quirks {
    rules: Vec<Quirk>,
}

impl Quirks {
    /// The built-in rules and those of `directory`, if it is given and there. Errors name file and line.
    pub fn load(directory: Option<&Path>) -> Result<Self> {
        let mut files: BTreeMap<String, (String, String)> = BUILT_IN
            .iter()
            .map(|(name, text)| ((*name).to_owned(), ((*name).to_owned(), (*text).to_owned())))
            .collect();
        for path in directory.map(yaml_files).transpose()?.unwrap_or_default() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).context(|| format!("Reading {}", path.display()))?;
            files.insert(name, (path.display().to_string(), text));
        }
        let mut rules = Vec::new();
        for (shown, text) in files.values() {
            rules.extend(parse(shown, text)?);
        }
        Ok(Self { rules })
    }

    pub fn rules(&self) -> &[Quirk] {
        &self.rules
    }

    /// What the rules do, in words for an input digest: neither where a rule stands nor why it is there.
    pub fn meaning(&self) -> String {
        let line = |q: &Quirk| format!("{} {:?} {} {:?}", q.package, q.version, q.script, q.action);
        self.rules.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The rules that concern the packages of a run: those it unpacks, configures or removes, and for triggers those that
    /// are installed already. Errors with kind `Unsatisfiable` if one of them is refused.
    pub fn for_packages<'a>(&self, packages: impl IntoIterator<Item = &'a PackageId>) -> Result<Active> {
        let packages: Vec<&PackageId> = packages.into_iter().collect();
        let mut rules = Vec::new();
        for rule in &self.rules {
            // A shim for everyone is also for programs that run outside any package's script.
            let everyone = rule.package == "*" && rule.version.is_none();
            let first = packages.iter().find(|p| rule.concerns(p));
            if let (Action::Refuse { message }, Some(package)) = (&rule.action, first) {
                return Err(Error::new(
                    ErrorKind::Unsatisfiable,
                    format!("{package} cannot be part of an image: {message}"),
                )
                .hint(format!("The rule is {} ({}).", rule.origin, rule.reason)));
            }
            if everyone || first.is_some() {
                rules.push(rule.clone());
            }
        }
        Ok(Active { rules, packages: packages.into_iter().cloned().collect() })
    }
}

/// The rules in force for one run.
#[derive(Clone, Debug, Default)]
pub struct Active {
    rules: Vec<Quirk>,
    packages: Vec<PackageId>,
}

/// A program that runs instead of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shim {
    /// Absolute path of the program it stands for.
    pub target: String,
    /// A complete /bin/sh script.
    pub script: String,
    /// Mount it over the target as well. No package ships such a target.
    pub bind: bool,
}

impl Shim {
    /// File name in the shim directory.
    pub fn name(&self) -> &str {
        self.target.rsplit('/').next().unwrap_or(&self.target)
    }
}

/// What a run needs of [`Active::write_runtime`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// To be bound, writable, at [`RUNTIME_DIR`].
    pub directory: PathBuf,
    /// To be bound read-only: file, absolute target. Where the target is missing in the tree bubblewrap makes an empty
    /// file for it, which must be deleted after the run.
    pub binds: Vec<(PathBuf, String)>,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// Package and script, `-` outside of one.
    pub package: String,
    pub script: String,
    /// Program and arguments.
    pub command: String,
}

impl Active {
    pub fn rules(&self) -> &[Quirk] {
        &self.rules
    }

    /// What the rules do, in words for an input digest: neither where a rule stands nor why it is there.
    pub fn meaning(&self) -> String {
        let line = |q: &Quirk| format!("{} {:?} {} {:?}", q.package, q.version, q.script, q.action);
        self.rules.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// One shim per program, sorted by target.
    pub fn shims(&self) -> Vec<Shim> {
        let mut programs: BTreeMap<&str, Vec<ShimRule<'_>>> = BTreeMap::new();
        for rule in &self.rules {
            if let Action::Shim { paths, with, bind } = &rule.action {
                for path in paths {
                    programs.entry(path).or_default().push(ShimRule { rule, with: with.as_deref(), bind: *bind });
                }
            }
        }
        let shim = |(target, rules): (&str, Vec<_>)| {
            let bind = rules.iter().any(|r: &ShimRule<'_>| r.bind);
            Shim { target: target.to_owned(), script: shim_script(target, &rules, bind), bind }
        };
        programs.into_iter().map(shim).collect()
    }

    /// Package pattern, script and reason of the scripts not to run.
    pub fn skipped_scripts(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let skipped = self.rules.iter().filter(|r| r.action == Action::SkipScript);
        skipped.map(|r| (r.package.as_str(), r.script.as_str(), r.reason.as_str()))
    }

    /// The text for debconf-set-selections(1); empty if there is none. Only of rules for packages that come or go in this
    /// run: those that stay have asked their questions.
    pub fn preseed<'a>(&self, changing: impl IntoIterator<Item = &'a PackageId>) -> String {
        let changing: Vec<&PackageId> = changing.into_iter().collect();
        let mut text = String::new();
        for rule in &self.rules {
            if let Action::Preseed { lines } = &rule.action {
                if changing.iter().any(|p| rule.concerns(p)) {
                    lines.iter().for_each(|line| text.extend([line, "\n"]));
                }
            }
        }
        text
    }

    /// Fills `directory` for [`RUNTIME_DIR`]: the shims and an empty log.
    pub fn write_runtime(&self, directory: &Path) -> Result<Runtime> {
        let shims = directory.join("shims");
        fs::create_dir_all(&shims).context(|| format!("Making the directory {}", shims.display()))?;
        let mut binds = Vec::new();
        for shim in self.shims() {
            let file = shims.join(shim.name());
            fs::write(&file, &shim.script).context(|| format!("Writing {}", file.display()))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
            if shim.bind {
                binds.push((file, shim.target));
            }
        }
        let log = directory.join(LOG_NAME);
        fs::write(&log, "").context(|| format!("Writing {}", log.display()))?;
        // Scripts that change to another user may call a shim as well.
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666))?;
        Ok(Runtime { directory: directory.to_owned(), binds })
    }

    /// Deletes what the `drop-files` rules name: `etc/` in `tree/usr/etc`, `var/` in `var`, the rest in `tree`.
    /// `keep` says of a path (as the rule writes it) that it was there before the run and stays.
    pub fn drop_files(&self, tree: &Path, var: &Path, keep: &dyn Fn(&str) -> bool) -> Result<Vec<Dropped>> {
        let mut dropped = Vec::new();
        for rule in &self.rules {
            let Action::DropFiles { files } = &rule.action else { continue };
            for pattern in files {
                let (base, prefix) = match pattern.split_once('/') {
                    Some(("etc", _)) => (tree.join("usr"), ""),
                    Some(("var", _)) => (var.to_owned(), "var/"),
                    _ => (tree.to_owned(), ""),
                };
                for found in matching(&base, prefix, pattern)? {
                    if keep(&found) {
                        continue;
                    }
                    let path = base.join(found.strip_prefix(prefix).unwrap_or(&found));
                    let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
                    if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                        .context(|| format!("Removing /{found}"))?;
                    let reason = format!("{} ({})", rule.reason, rule.origin);
                    dropped.push(Dropped { path: found, kind: DropKind::Rule, reason });
                }
            }
        }
        dropped.sort();
        Ok(dropped)
    }

    /// The packages this was made for.
    pub fn packages(&self) -> &[PackageId] {
        &self.packages
    }
}

/// The uses a log tells of, each once, sorted.
pub fn uses(log: &str) -> Vec<Use> {
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (package, script, command) = (words.next()?, words.next()?, words.next()?);
        Some(Use { package: package.into(), script: script.into(), command: command.into() })
    };
    log.lines().filter_map(line).collect::<BTreeSet<_>>().into_iter().collect()
}

/// One rule that shims a program.
struct ShimRule<'a> {
    rule: &'a Quirk,
    with: Option<&'a str>,
    bind: bool,
}

/// The script of a shim. dpkg tells scripts who they are (`DPKG_MAINTSCRIPT_PACKAGE`, `DPKG_MAINTSCRIPT_NAME`); rules for
/// one package or script let everyone else through to the program.
fn shim_script(target: &str, rules: &[ShimRule<'_>], bind: bool) -> String {
    let name = target.rsplit('/').next().unwrap_or(target);
    let mut text = format!(
        "#!/bin/sh\n# Stands for {target} while an image is assembled.\nreal={target}\n\
         note() {{\n    {{\n        printf '%s' \"${{DPKG_MAINTSCRIPT_PACKAGE:--}} ${{DPKG_MAINTSCRIPT_NAME:--}} {name} $arguments\" | tr '\\n' ' '\n        \
         echo\n    }} >> {RUNTIME_DIR}/{LOG_NAME} 2> /dev/null || :\n}}\narguments=\"$*\"\n\
         case ${{0##*/}}/${{DPKG_MAINTSCRIPT_PACKAGE:-}}/${{DPKG_MAINTSCRIPT_NAME:-}} in\n"
    );
    let mut through = true;
    for ShimRule { rule, with, .. } in rules {
        let script = match rule.script.as_str() {
            "any" => "*",
            "trigger" => "postinst",
            script => script,
        };
        let body = with.unwrap_or("note\nexit 0\n");
        text.push_str(&format!(
            "*/{}/{script})\n# {} ({})\n{}\n;;\n",
            rule.package,
            rule.reason,
            rule.origin,
            body.trim_end()
        ));
        through &= !(rule.package == "*" && script == "*");
    }
    text.push_str("esac\n");
    // A shim that is mounted over its program would only find itself.
    text.push_str(if through && !bind { "exec \"$real\" \"$@\"\n" } else { "exit 0\n" });
    text
}

/// What `pattern` matches below `base`; `prefix` is what the pattern says for `base`. Only directories that can hold a
/// match are read; of a matching directory nothing below is given.
fn matching(base: &Path, prefix: &str, pattern: &str) -> Result<Vec<String>> {
    let literal: &str = pattern.split(['*', '?', '[']).next().unwrap_or_default();
    let start = literal.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut found = Vec::new();
    let mut pending = vec![start.to_owned()];
    while let Some(directory) = pending.pop() {
        let path = base.join(format!("{directory}/").strip_prefix(prefix).unwrap_or_default().trim_end_matches('/'));
        let list = match fs::read_dir(&path) {
            Ok(list) => list,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(e).context(|| format!("Reading {}", path.display())),
        };
        for entry in list {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let rel = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if glob::matches(pattern, &rel) {
                found.push(rel);
            } else if entry.file_type()?.is_dir() && literal != pattern {
                pending.push(rel);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The `*.yaml` files of a directory, sorted by name; none if it is missing.
fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let list = match fs::read_dir(directory) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context(|| format!("Reading {}", directory.display())),
    };
    let mut files = Vec::new();
    for entry in list {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// One rule as it is being read: its keys, and where it stands.
struct RuleReader<'a, 'input> {
    file: &'a str,
    line: usize,
    keys: BTreeMap<&'a str, &'a MarkedYaml<'input>>,
}

/// Every key there is.
const KEYS: &[&str] =
    &["package", "version", "script", "action", "reason", "bug", "paths", "with", "bind", "message", "files", "lines"];

fn parse(file: &str, text: &str) -> Result<Vec<Quirk>> {
    let documents = MarkedYaml::load_from_str(text).map_err(|e| Error::usage(format!("{file}: {e}")))?;
    let mut rules = Vec::new();
    for document in &documents {
        if document.data.is_null() {
            continue;
        }
        let line = document.span.start.line();
        let list = document.data.as_sequence();
        let list = list.ok_or_else(|| Error::usage(format!("{file}:{line}: a quirk file is a list of rules")))?;
        for node in list {
            rules.push(RuleReader::new(file, node)?.read()?);
        }
    }
    Ok(rules)
}

impl<'a, 'input> RuleReader<'a, 'input> {
    fn new(file: &'a str, node: &'a MarkedYaml<'input>) -> Result<Self> {
        let line = node.span.start.line();
        let mapping = node.data.as_mapping();
        let mapping = mapping.ok_or_else(|| Error::usage(format!("{file}:{line}: a rule is a mapping of keys")))?;
        let mut keys = BTreeMap::new();
        for (key, value) in mapping {
            let line = key.span.start.line();
            let name = key.data.as_str().filter(|name| KEYS.contains(name));
            let name = name.ok_or_else(|| {
                let shown = key.data.as_str().unwrap_or("(not a string)");
                Error::usage(format!("{file}:{line}: unknown key {shown}; keys are {}", KEYS.join(", ")))
            })?;
            keys.insert(name, value);
        }
        Ok(Self { file, line, keys })
    }

    fn error(&self, line: usize, message: impl std::fmt::Display) -> Error {
        Error::usage(format!("{}:{line}: {message}", self.file))
    }

    fn optional(&self, key: &str) -> Result<Option<String>> {
        let Some(node) = self.keys.get(key) else { return Ok(None) };
        match node.data.as_str() {
            Some(text) if !text.trim().is_empty() => Ok(Some(text.to_owned())),
            _ => Err(self.error(node.span.start.line(), format!("{key} must be a string"))),
        }
    }

    fn string(&self, key: &str) -> Result<String> {
        self.optional(key)?.ok_or_else(|| self.error(self.line, format!("the rule has no {key}")))
    }

    fn strings(&self, key: &str) -> Result<Vec<String>> {
        let node = self.keys.get(key).ok_or_else(|| self.error(self.line, format!("the rule has no {key}")))?;
        let wrong = |line| self.error(line, format!("{key} must be a list of strings"));
        let list = node.data.as_sequence().ok_or_else(|| wrong(node.span.start.line()))?;
        list.iter().map(|n| n.data.as_str().map(str::to_owned).ok_or_else(|| wrong(n.span.start.line()))).collect()
    }

    fn read(&self) -> Result<Quirk> {
        let script = self.optional("script")?.unwrap_or_else(|| "any".to_owned());
        if !SCRIPTS.contains(&script.as_str()) {
            return Err(self.error(self.line, format!("unknown script {script}; scripts are {}", SCRIPTS.join(", "))));
        }
        let package = self.string("package")?;
        let pattern = |c: char| c.is_ascii_alphanumeric() || "+-.*?[]".contains(c);
        if !package.chars().all(pattern) {
            return Err(self.error(self.line, format!("{package} is not a pattern of package names")));
        }
        let action = self.string("action")?;
        let (action, own): (Action, &[&str]) = match action.as_str() {
            "shim" => (self.shim()?, &["paths", "with", "bind"]),
            "skip-script" if script == "any" => {
                return Err(self.error(self.line, "skip-script needs a script to skip"));
            }
            "skip-script" => (Action::SkipScript, &[]),
            "refuse" => (Action::Refuse { message: self.string("message")? }, &["message"]),
            "drop-files" => (Action::DropFiles { files: self.relative_paths()? }, &["files"]),
            "preseed" => (Action::Preseed { lines: self.strings("lines")? }, &["lines"]),
            other => {
                let known = "shim, skip-script, refuse, drop-files, preseed";
                return Err(self.error(self.line, format!("unknown action {other}; actions are {known}")));
            }
        };
        let common = &KEYS[..6];
        if let Some((key, node)) = self.keys.iter().find(|(k, _)| !common.contains(k) && !own.contains(k)) {
            return Err(self.error(node.span.start.line(), format!("{key} does not belong to this action")));
        }
        Ok(Quirk {
            origin: format!("{}:{}", self.file, self.line),
            package,
            version: self.optional("version")?,
            script,
            action,
            reason: self.string("reason")?.split_whitespace().collect::<Vec<_>>().join(" "),
            bug: self.optional("bug")?,
        })
    }

    fn shim(&self) -> Result<Action> {
        let paths = self.strings("paths")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.+".contains(c);
        if let Some(bad) = paths.iter().find(|p| !p.starts_with('/') || p.ends_with('/') || !p.chars().all(plain)) {
            return Err(self.error(self.line, format!("{bad} is not the absolute path of a program")));
        }
        let bind = match self.keys.get("bind") {
            None => false,
            Some(node) => {
                node.data.as_bool().ok_or_else(|| self.error(node.span.start.line(), "bind must be true or false"))?
            }
        };
        Ok(Action::Shim { paths, with: self.optional("with")?, bind })
    }

    /// Patterns may not name the root, nor leave it.
    fn relative_paths(&self) -> Result<Vec<String>> {
        let files = self.strings("files")?;
        let bad = |p: &&String| p.is_empty() || p.starts_with(['/', '*']) || p.split('/').any(|part| part == "..");
        match files.iter().find(bad) {
            Some(bad) => Err(self.error(self.line, format!("{bad} is not a path relative to the root"))),
            None => Ok(files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(names: &[(&str, &str)]) -> Result<Active> {
        let packages: Vec<_> = names.iter().map(|(n, v)| PackageId::new(*n, *v, "amd64")).collect();
        Quirks::load(None).unwrap().for_packages(&packages)
    }

    #[test]
    fn built_in_files_load_and_say_why() {
        let quirks = Quirks::load(None).unwrap();
        assert!(quirks.rules().len() > 15);
        assert!(quirks.rules().iter().all(|r| r.reason.len() > 10));
        let shims = active(&[]).unwrap().shims();
        for program in ["update-initramfs", "systemctl", "udevadm", "ischroot", "policy-rc.d"] {
            assert!(shims.iter().any(|s| s.name() == program), "{program}");
        }
        assert_eq!(
            shims.iter().filter(|s| s.bind).map(|s| s.target.as_str()).collect::<Vec<_>>(),
            ["/usr/sbin/policy-rc.d"]
        );
        assert!(shims.iter().all(|s| s.target.starts_with("/usr/")), "paths are those of the merged /usr");
    }

    #[test]
    fn rules_follow_the_packages() {
        let [man_db, htop] = ["man-db", "htop"].map(|name| PackageId::new(name, "1", "amd64"));
        let both = active(&[("man-db", "1"), ("htop", "1")]).unwrap();
        assert!(both.preseed([&man_db]).contains("man-db/auto-update boolean false\n"));
        assert_eq!(both.preseed([&htop]), "", "what is installed already is asked nothing");
        let refused = active(&[("firefox", "1:1snap1-0ubuntu5")]).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsatisfiable);
        assert!(refused.to_string().contains("firefox:amd64=1:1snap1-0ubuntu5"), "{refused}");
        assert!(active(&[("firefox-esr", "128.0-1")]).is_ok());
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, wanted) in [
            ("- package: a\n  reasons: x\n", "q.yaml:2: unknown key reasons"),
            ("- package: a\n  action: shim\n  reason: r\n", "q.yaml:1: the rule has no paths"),
            ("- package: a\n  action: dance\n  reason: r\n", "q.yaml:1: unknown action dance"),
            ("- package: a\n  action: refuse\n  message: [x]\n  reason: r\n", "q.yaml:3: message must be a string"),
            (
                "- package: a\n  action: preseed\n  lines: [a]\n  paths: [/x]\n  reason: r\n",
                "q.yaml:4: paths does not belong",
            ),
            ("- package: a\n  action: drop-files\n  files: [../x]\n  reason: r\n", "../x is not a path"),
            ("- package: 'a;b'\n  action: preseed\n  lines: []\n  reason: r\n", "not a pattern of package names"),
            ("package: a\n", "q.yaml:1: a quirk file is a list"),
            ("- a\n", "q.yaml:1: a rule is a mapping"),
            ("- [\n", "q.yaml"),
        ] {
            let error = parse("q.yaml", text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(parse("q.yaml", "# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn own_files_add_and_replace() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("20-answers.yaml"), "[]\n").unwrap();
        fs::write(
            directory.path().join("90-site.yaml"),
            "- package: x\n  script: postinst\n  action: skip-script\n  reason: it phones home\n",
        )
        .unwrap();
        let quirks = Quirks::load(Some(directory.path())).unwrap();
        let packages = [PackageId::new("x", "1", "all"), PackageId::new("man-db", "1", "all")];
        let active = quirks.for_packages(&packages).unwrap();
        assert_eq!(active.preseed(&packages), "");
        assert_eq!(active.skipped_scripts().collect::<Vec<_>>(), [("x", "postinst", "it phones home")]);
        assert!(Quirks::load(Some(Path::new("/nonexistent"))).is_ok());
    }

    #[test]
    fn uses_are_counted_once() {
        let log = "a postinst systemctl start a\na postinst systemctl start a\n- - udevadm \n";
        assert_eq!(uses(log).len(), 2);
    }
}

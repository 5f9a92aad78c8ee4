//! Layering: a base commit plus the packages of a plan, assembled from scratch and committed as the difference.
//!
//! Scratch layout (all on the repository's file system, removed afterwards): `overlay/{upper,work,root}`, `var/` (the
//! sandbox's /var), `runtime/` (shims, their configuration and their log, bound at /run/apt-ostree).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::accounts::{self, Scope};
use super::dpkg::{Conffiles, DpkgRun};
use super::layer_kernel::{self, Layered, Regenerate};
use super::overlay::Overlay;
use super::quirks::{self, Active, Quirks};
use super::state::{self, CaptureOptions, VarSnapshot};
use crate::advisories;
use crate::error::{Context, Error, Result};
use crate::event::{Event, EventSink, EventSinkExt};
use crate::model::accounts::IdLock;
use crate::model::layout;
use crate::model::package::{self, PackageId};
use crate::plan::Plan;
use crate::repo::Repo;
use crate::repo::commit::CommitSpec;
use crate::repo::metadata::{self, CommitInfo};
use crate::sandbox::{Bind, Sandbox, SandboxSpec};

/// Everything the assembly reads. The same input gives the same tree.
#[derive(Debug)]
pub struct LayerInput<'a> {
    /// A directory with the base commit's content; only read.
    pub base_tree: &'a Path,
    pub base: &'a CommitInfo,
    pub base_packages: &'a [PackageId],
    /// The machine's /etc: its system accounts keep their numbers.
    pub machine_etc: Option<PathBuf>,
    pub plan: &'a Plan,
    /// Requests as the origin has them; the active ones are recorded in the commit.
    pub requested: &'a [String],
    pub native_arch: &'a str,
    /// The rules that the plan was made with.
    pub quirks: &'a Quirks,
    /// The initramfs is made again for this machine.
    pub regenerate: Option<Regenerate>,
}

/// Assembles the tree and commits it. Returns the checksum; no ref and no deployment points at it yet.
pub fn assemble(
    input: &LayerInput<'_>,
    scratch: &Path,
    repo: &Repo,
    sandbox: &dyn Sandbox,
    events: &dyn EventSink,
) -> Result<String> {
    let quirks = active_quirks(input)?;
    let mut overlay = Overlay::mount(input.base_tree, &scratch.join("overlay"))?;
    let tree = Tree::prepare(input, &overlay, scratch, quirks, sandbox)?;
    tree.install(input, sandbox, events).map_err(|error| reproducible(error, &overlay, scratch))?;
    events.task("Classifying changes", || tree.classify(input, &overlay, events))?;
    layer_kernel::apply(Layered {
        base: input.base_tree,
        root: &tree.root,
        var: &tree.var,
        scratch,
        plan: input.plan,
        base_args: &input.base.initramfs_args(),
        regenerate: input.regenerate.as_ref(),
        sandbox,
        events,
    })?;
    let kernel = single_kernel(&tree.root)?;
    let packages = installed(&tree.root)?;
    let advisories = advisories::of_layered(input.base, input.plan, &packages, Some(&tree.root));
    overlay.unmount()?;
    let active = active_requests(input);
    let version = input.base.version.as_deref();
    let facts = metadata::TreeFacts {
        packages: &packages,
        active: &active,
        version,
        kernel: Some(&kernel),
        advisories: &advisories,
    };
    let meta = metadata::layered_metadata(input.plan, &facts, input.regenerate.as_ref().map(|r| r.args.as_slice()));
    events.task("Writing OSTree commit", || {
        let spec = CommitSpec {
            parent: Some(&input.base.checksum),
            subject: "",
            metadata: &meta,
            // Not the wall clock: the same inputs give the same commit.
            timestamp: input.base.timestamp,
        };
        Ok(repo.commit_overlay(&input.base.checksum, &overlay.upper(), &spec)?.0)
    })
}

/// Leaves a script in the scratch space that runs the failed maintainer script again, on the tree as it was then. The
/// scratch space of such a failure stays until the next transaction.
fn reproducible(mut error: Error, overlay: &Overlay, scratch: &Path) -> Error {
    if let Some(failure) = &mut error.script {
        let path = scratch.join("reproduce.sh");
        if fs::write(&path, overlay.script(&failure.reproduce)).is_ok() {
            failure.reproduce = format!("sh {}", path.display());
        }
    }
    error
}

/// The mounted tree and the scratch directories that are bound into the sandbox with it.
struct Tree {
    root: PathBuf,
    var: PathBuf,
    /// What the sandbox's /var held before the packages came.
    before: VarSnapshot,
    binds: Vec<Bind>,
    quirks: Active,
    runtime: PathBuf,
    lock: IdLock,
    /// Mount points that bubblewrap had to make, relative to the root: removed after the run.
    mount_points: Vec<PathBuf>,
}

impl Tree {
    fn prepare(
        input: &LayerInput<'_>,
        overlay: &Overlay,
        scratch: &Path,
        quirks: Active,
        sandbox: &dyn Sandbox,
    ) -> Result<Self> {
        let root = overlay.root();
        let var = scratch.join("var");
        fs::create_dir_all(&var)?;
        let lock = accounts::read_lock(&root)?;
        accounts::seed(&root.join("usr/etc"), input.machine_etc.as_deref(), &lock)?;
        let mut binds = vec![
            Bind { source: root.join("usr/etc"), target: "/etc".into(), read_only: false },
            Bind { source: var.clone(), target: "/var".into(), read_only: false },
        ];
        fill_var(&root, &var, &binds, sandbox)?;
        let runtime = quirks.write_runtime(&scratch.join("runtime"))?;
        binds.push(Bind { source: runtime.directory.clone(), target: quirks::RUNTIME_DIR.into(), read_only: false });
        let mut mount_points = Vec::new();
        for (source, target) in &runtime.binds {
            binds.push(Bind { source: source.clone(), target: target.clone(), read_only: true });
            let relative = target.trim_start_matches('/');
            if fs::symlink_metadata(root.join(relative)).is_err() {
                mount_points.push(PathBuf::from(relative));
            }
        }
        accounts::write_layer_ids(&root.join("usr/etc"), &runtime.directory)?;
        let before = VarSnapshot::take(&var)?;
        Ok(Self { root, var, before, binds, quirks, runtime: runtime.directory, lock, mount_points })
    }

    fn spec(&self) -> SandboxSpec {
        SandboxSpec { root: self.root.clone(), binds: self.binds.clone(), env: Vec::new() }
    }

    fn install(&self, input: &LayerInput<'_>, sandbox: &dyn Sandbox, events: &dyn EventSink) -> Result<()> {
        let run = DpkgRun {
            spec: self.spec(),
            native_arch: input.native_arch,
            conffiles: Conffiles::KeepOld,
            preseed: self.quirks.preseed(input.plan.install.iter().map(|p| &p.id).chain(&input.plan.remove)),
            options: Vec::new(),
        };
        let remove: Vec<String> = input.plan.remove.iter().map(|id| id.dpkg_name(input.native_arch)).collect();
        let result = events.task("Installing packages", || run.execute(&input.plan.install, &remove, sandbox, events));
        let log = fs::read_to_string(self.runtime.join(quirks::LOG_NAME)).unwrap_or_default();
        for used in quirks::uses(&log) {
            events.emit(Event::Output {
                line: format!("quirk: {} {} called {}", used.package, used.script, used.command),
            });
        }
        result
    }

    /// Turns what the scripts left into what a commit holds: /var into tmpfiles.d and factory files, accounts into the
    /// id lock and sysusers.d; secrets and leftovers go. Nothing is dropped without a line.
    fn classify(&self, input: &LayerInput<'_>, overlay: &Overlay, events: &dyn EventSink) -> Result<()> {
        for path in &self.mount_points {
            let path = self.root.join(path);
            if fs::symlink_metadata(&path).is_ok_and(|m| m.len() == 0) {
                fs::remove_file(&path).context(|| format!("Removing the mount point {}", path.display()))?;
            }
        }
        mark_automatic(&self.root, input.plan)?;
        let mut dropped = self.quirks.drop_files(&self.root, &self.var, &|path| {
            let path =
                path.strip_prefix("etc/").map_or_else(|| PathBuf::from(path), |rest| Path::new("usr/etc").join(rest));
            fs::symlink_metadata(input.base_tree.join(path)).is_ok()
        })?;
        let changed = changed_paths(&overlay.upper())?;
        drop_conffile_leftovers(&self.root, &changed, events)?;
        let etc: BTreeSet<String> = changed
            .iter()
            .filter_map(|p| p.strip_prefix("usr/").ok())
            .filter(|p| p.starts_with("etc"))
            .map(|p| p.to_string_lossy().into_owned())
            .collect();
        dropped.extend(state::scrub_etc(&self.root, Some(&etc))?);
        let names = accounts::tree_names(&self.root)?;
        let options = CaptureOptions { conf_name: state::LAYER_VAR_CONF };
        let report = state::capture_var(&self.var, Some(&self.before), &self.root, &names, options)?;
        for warning in report.warnings() {
            events.warning(warning);
        }
        dropped.extend(report.dropped.iter().cloned());
        for item in &dropped {
            events.emit(Event::Output { line: format!("dropped /{}: {}", item.path, item.reason) });
        }
        let lock = accounts::capture(&self.root, &self.lock)?;
        for account in accounts::outside_layer_range(&self.lock, &lock) {
            events.emit(Event::Output {
                line: format!("account {} has the number {} of the base's range", account.name, account.id),
            });
        }
        let paths: Vec<PathBuf> = changed.into_iter().collect();
        accounts::check_owners(&self.root, Scope::Paths(&paths))?;
        state::clean_registries(&self.root)?;
        Ok(())
    }
}

/// Fills the sandbox's /var with what the base makes of it on an empty machine: its own tmpfiles.d, run by the base's
/// own systemd-tmpfiles.
fn fill_var(root: &Path, var: &Path, binds: &[Bind], sandbox: &dyn Sandbox) -> Result<()> {
    let spec = SandboxSpec { root: root.to_owned(), binds: binds.to_vec(), env: Vec::new() };
    let output = sandbox.run(&spec, &["systemd-tmpfiles", "--create", "--prefix=/var"], &mut |_| ())?;
    if fs::symlink_metadata(var.join("lib/dpkg")).is_err() {
        return Err(Error::failed(format!(
            "The tmpfiles.d of the base make no /var/lib/dpkg: {}",
            output.tail.join("; ")
        ))
        .hint("Bases for layering are made by `apt-ostree compose tree`."));
    }
    Ok(())
}

fn active_quirks(input: &LayerInput<'_>) -> Result<Active> {
    input.quirks.for_packages(input.plan.install.iter().map(|p| &p.id).chain(input.base_packages))
}

/// What dpkg says is installed now. Not what was planned: a package that lost all its files to others disappears.
fn installed(root: &Path) -> Result<Vec<PackageId>> {
    let status = root.join(layout::DPKG_ADMINDIR).join("status");
    let text = fs::read_to_string(&status).context(|| format!("Reading {}", status.display()))?;
    Ok(package::installed_from_status(&text))
}

/// apt's mark of what only came as a dependency (`Auto-Installed: 1`, as apt-get install writes it).
fn mark_automatic(root: &Path, plan: &Plan) -> Result<()> {
    let path = root.join(layout::EXTENDED_STATES);
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    if !plan.remove.is_empty() {
        text = without_marks(&text, &plan.remove);
    }
    for package in plan.install.iter().filter(|p| !p.requested && p.previous.is_none()) {
        let arch = if package.id.arch == "all" { "" } else { package.id.arch.as_str() };
        let arch = if arch.is_empty() { input_arch(plan) } else { arch };
        text.push_str(&format!("Package: {}\nArchitecture: {arch}\nAuto-Installed: 1\n\n", package.id.name));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, text).context(|| format!("Writing {}", path.display()))
}

/// The marks but those of packages that are gone, as apt drops them.
fn without_marks(text: &str, gone: &[PackageId]) -> String {
    let is_gone = |stanza: &&str| {
        let field = |key: &str| stanza.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        let (name, arch) = (field("Package:"), field("Architecture:"));
        gone.iter().any(|id| name == Some(&id.name) && (id.arch == "all" || arch == Some(&id.arch)))
    };
    let kept = text.split("\n\n").filter(|s| !s.trim().is_empty()).filter(|s| !is_gone(s));
    kept.fold(String::new(), |text, stanza| text + stanza.trim_end() + "\n\n")
}

/// apt writes `Architecture: all` packages under the native architecture.
fn input_arch(plan: &Plan) -> &str {
    plan.install.iter().map(|p| p.id.arch.as_str()).find(|a| *a != "all").unwrap_or("all")
}

/// Everything in the upper layer, relative to the root, directories included; whiteouts too.
fn changed_paths(upper: &Path) -> Result<BTreeSet<PathBuf>> {
    fn walk(dir: &Path, relative: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(dir).context(|| format!("Reading {}", dir.display()))? {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &path, found)?;
            }
            found.insert(path);
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    walk(upper, Path::new(""), &mut found)?;
    Ok(found)
}

/// dpkg's versions of a conffile that was kept (`.dpkg-dist`) or replaced (`.dpkg-old`): nobody would look at them.
fn drop_conffile_leftovers(root: &Path, changed: &BTreeSet<PathBuf>, events: &dyn EventSink) -> Result<()> {
    for path in changed {
        let name = path.to_string_lossy();
        if path.starts_with("usr/etc")
            && [".dpkg-dist", ".dpkg-old", ".dpkg-new", ".dpkg-tmp"].iter().any(|e| name.ends_with(e))
        {
            fs::remove_file(root.join(path)).context(|| format!("Removing {name}"))?;
            events.emit(Event::Output {
                line: format!("dropped /{name}: the image's own version of this conffile stays"),
            });
        }
    }
    Ok(())
}

/// The kernel version of a tree; libostree boots whichever it finds first, so there must be exactly one.
fn single_kernel(tree: &Path) -> Result<String> {
    let modules = tree.join("usr/lib/modules");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&modules).context(|| format!("Reading {}", modules.display()))? {
        let entry = entry?;
        if entry.path().join("vmlinuz").exists() {
            found.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let list: Vec<String> = found.into_iter().collect();
    match list.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::failed("The tree has no kernel in /usr/lib/modules")),
        many => Err(Error::failed(format!("The tree has more than one kernel: {}", many.join(", ")))
            .hint("A deployment boots exactly one kernel; drop one of the requests.")),
    }
}

/// Requests that the plan really installed something for, local packages included.
fn active_requests(input: &LayerInput<'_>) -> Vec<String> {
    let inactive = |r: &String| input.plan.inactive.iter().any(|(i, _)| i == r);
    input.requested.iter().filter(|r| !inactive(r)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_removed_packages_go() {
        let mark = |name: &str, arch: &str| format!("Package: {name}\nArchitecture: {arch}\nAuto-Installed: 1\n\n");
        let text = mark("a", "amd64") + &mark("a", "i386") + &mark("b", "amd64");
        let gone = [PackageId::new("a", "1", "amd64")];
        assert_eq!(without_marks(&text, &gone), mark("a", "i386") + &mark("b", "amd64"));
        assert_eq!(without_marks(&text, &[]), text);
    }
}

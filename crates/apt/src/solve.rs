//! The solver: a task in, exact packages out.
//!
//! First apt's classic resolver, which is what `apt-get install` runs, so that the answer is the one an administrator
//! knows. It may answer by removing packages, or find nothing where there is a solution; then apt's solver 3.0 is asked,
//! with removals forbidden. What neither finds without touching what must stay is an error with the reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use apt_ostree_core::digest;
use apt_ostree_core::event::{EventSink, EventSinkExt};
use apt_ostree_core::model::advisory::Advisory;
use apt_ostree_core::model::package::{self, PackageId};
use apt_ostree_core::model::version;
use apt_ostree_core::source::{BaseUpgrades, Solution, SolveTask, SolvedPackage, SourceConfig, archive_path};
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use rust_apt::config::Config;
use rust_apt::error::AptErrors;
use rust_apt::progress::OperationProgress;
use rust_apt::raw::create_problem_resolver;
use rust_apt::{BaseDep, Cache, DepFlags, DepType, Dependency, Package, PackageFile, PkgSelectedState, Version};

use crate::explain;
use crate::release::{self, IndexKind};
use crate::requests::{self, Goal, Goals, LocalDeb, full_name, id_of};
use crate::session::Session;

pub(crate) fn solve(config: &SourceConfig, task: &SolveTask, events: &dyn EventSink) -> Result<Solution> {
    events.task("Resolving dependencies", || solve_quietly(config, task))
}

fn solve_quietly(config: &SourceConfig, task: &SolveTask) -> Result<Solution> {
    let installed = installed_names(config)?;
    // A pin below zero on a package that is there would take away the candidate it has: nothing to exclude there.
    let exclude: Vec<String> =
        task.exclude.iter().filter(|e| !installed.iter().any(|i| i.name == **e)).cloned().collect();
    let session = Session::configure(config, &exclude)?;
    let local = task.local.iter().map(|p| LocalDeb::read(p)).collect::<Result<Vec<_>>>()?;
    let replace = task.replace_local.iter().map(|p| LocalDeb::read(p)).collect::<Result<Vec<_>>>()?;
    let paths: Vec<String> = local.iter().chain(&replace).map(|l| l.path.clone()).collect();
    let cache = session.open(&paths)?;
    let goals = requests::find(&cache, config, task, &local, &replace)?;
    let solver = Solver { cache: &cache, config, task, goals: &goals, installed: &installed };
    let changes = solver.run()?;
    solver.result(&changes)
}

fn installed_names(config: &SourceConfig) -> Result<Vec<PackageId>> {
    match std::fs::read_to_string(&config.status) {
        Ok(text) => Ok(package::installed_from_status(&text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).context(|| format!("Reading {}", config.status.display())),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Engine {
    Classic,
    Three,
}

struct Solver<'a, 'b> {
    cache: &'a Cache,
    config: &'b SourceConfig,
    task: &'b SolveTask,
    goals: &'b Goals<'a>,
    installed: &'b [PackageId],
}

impl<'a> Solver<'a, '_> {
    /// The packages that change, marked in the cache.
    fn run(&self) -> Result<Vec<Package<'a>>> {
        if self.goals.install.is_empty() && self.goals.remove.is_empty() {
            return Ok(Vec::new());
        }
        self.attempt(Engine::Classic)?;
        let first = match self.verdict() {
            Ok(changes) => return Ok(changes),
            Err(violation) => violation,
        };
        let also = self.would_go();
        // Making the marks anew takes as long as everything else together: only where it must be.
        self.clear()?;
        let messages = self.attempt(Engine::Three)?;
        if messages.is_empty() {
            if let Ok(changes) = self.verdict() {
                return Ok(changes);
            }
        }
        let error = self.explanation(&first, &messages);
        if self.goals.remove.is_empty() || also.is_empty() {
            return Err(error);
        }
        let named = self.goals.remove.iter().map(|p| p.fullname(true)).collect::<Vec<_>>().join(" ");
        let also = also.join(" ");
        Err(error
            .hint(format!("What needs it would have to go as well: {also}"))
            .hint(format!("To remove all of that: apt-ostree override remove {named} {also}")))
    }

    /// Packages that the present marks remove and nobody asked to: for a removal, what depends on it.
    fn would_go(&self) -> Vec<String> {
        let leaving: BTreeSet<String> = self.goals.remove.iter().map(full_name).collect();
        let mut names: Vec<String> = self
            .cache
            .get_changes(true)
            .filter(|p| p.marked_delete() && !leaving.contains(&full_name(p)))
            .map(|p| p.fullname(true))
            .collect();
        names.sort();
        names
    }

    fn clear(&self) -> Result<()> {
        let fail = |e| crate::session::convert(&e, ErrorKind::Failed);
        self.cache.depcache().clear_marked().map_err(fail).context(|| "Preparing the solver")
    }

    /// Marks the goals and lets the engine find the rest. Returns what it has to say if it gave up.
    fn attempt(&self, engine: Engine) -> Result<Vec<String>> {
        let depcache = self.cache.depcache();
        let apt = Config {};
        apt.set("APT::Solver", if engine == Engine::Three { "3.0" } else { "internal" });
        apt.set("APT::Solver::Remove", "false");
        // SAFETY: the resolver and the action group end in this function, before the cache that they point into.
        let resolver = unsafe { create_problem_resolver(depcache) };
        {
            // SAFETY: as above.
            let _group = unsafe { depcache.action_group() };
            self.hold_back();
            for package in &self.goals.remove {
                depcache.mark_delete(package, false);
                resolver.protect(package);
            }
            for goal in &self.goals.install {
                depcache.set_candidate_version(&goal.version);
                if let Some(suite) = &goal.suite {
                    self.follow_suite(&goal.version, suite, &mut BTreeSet::new());
                }
            }
            for goal in &self.goals.install {
                let package = goal.version.parent();
                depcache.mark_install(&package, false, true);
                resolver.protect(&package);
            }
            if engine == Engine::Classic {
                for goal in &self.goals.install {
                    depcache.mark_install(&goal.version.parent(), true, true);
                }
            }
        }
        let mut messages = Vec::new();
        if engine == Engine::Three || depcache.broken_count() > 0 {
            if let Err(error) = resolver.resolve(true, OperationProgress::quiet().pin().as_mut()) {
                messages = AptErrors::from(error).iter().filter(|m| m.is_error).map(|m| m.msg.clone()).collect();
            }
            drop(AptErrors::new());
        }
        Ok(messages)
    }

    /// Keeps base packages at their version: always against older ones, and against newer ones where the policy says so, or a
    /// hold of dpkg. A goal is marked after this, with the version that was asked for.
    fn hold_back(&self) {
        let depcache = self.cache.depcache();
        for id in self.installed {
            let arch = if id.arch == "all" { &self.config.arch } else { &id.arch };
            let Some(package) = self.cache.get(&format!("{}:{arch}", id.name)) else { continue };
            let Some(current) = package.installed() else { continue };
            let keep = self.task.base_upgrades == BaseUpgrades::Never
                || self.task.exclude.contains(&id.name)
                || is_held(&package)
                || package.candidate().is_none_or(|c| version::compare(c.version(), current.version()).is_lt());
            if keep && !self.goals.replace.contains(&full_name(&package)) {
                depcache.set_candidate_version(&current);
            }
        }
    }

    /// `name/suite`: where a dependency of that version is not met by the candidates, the version of the same suite becomes
    /// the candidate (what apt does in pkgDepCache::SetCandidateRelease).
    fn follow_suite(&self, version: &Version<'a>, suite: &str, seen: &mut BTreeSet<String>) {
        if !seen.insert(id_of(version).to_string()) {
            return;
        }
        let mut kinds = vec![DepType::PreDepends, DepType::Depends];
        if self.config.recommends {
            kinds.push(DepType::Recommends);
        }
        for group in kinds.iter().filter_map(|k| version.get_depends(k)).flatten() {
            if group.last().is_some_and(|d| self.cache.depcache().dep_state(d) & DepFlags::DepGVer != 0) {
                continue;
            }
            let mut offers = group.iter().flat_map(BaseDep::all_targets).filter(|v| release::offered_by(v, suite));
            let Some(offer) = offers.next() else { continue };
            let Some(package) = self.cache.get(&full_name(&offer.parent())) else { continue };
            let Some(offer) = package.versions().find(|v| id_of(v) == id_of(&offer)) else { continue };
            let older = package.installed().is_some_and(|i| version::compare(offer.version(), i.version()).is_lt());
            let fixed = self.goals.install.iter().any(|g| full_name(&g.version.parent()) == full_name(&package));
            let frozen = package.is_installed() && self.task.base_upgrades == BaseUpgrades::Never;
            if !older && !fixed && !frozen {
                self.cache.depcache().set_candidate_version(&offer);
                self.follow_suite(&offer, suite, seen);
            }
        }
    }

    /// What changes with the present marks, or what is wrong with them: broken, or something touched that must stay.
    fn verdict(&self) -> std::result::Result<Vec<Package<'a>>, String> {
        if self.cache.depcache().broken_count() > 0 {
            return Err("the dependencies are not met".into());
        }
        let changes: Vec<Package<'a>> = self.cache.get_changes(true).collect();
        let leaving: BTreeSet<String> = self.goals.remove.iter().map(full_name).collect();
        for package in &changes {
            let name = full_name(package);
            if package.marked_delete() {
                if !leaving.contains(&name) {
                    return Err(format!("{} of the base would be removed", package.fullname(true)));
                }
                continue;
            }
            let (Some(old), Some(new)) = (package.installed(), package.install_version()) else { continue };
            if self.goals.replace.contains(&name) {
                continue;
            }
            match version::compare(new.version(), old.version()) {
                std::cmp::Ordering::Less => {
                    return Err(format!("{} of the base would go back to {}", package.fullname(true), new.version()));
                }
                std::cmp::Ordering::Greater if self.task.base_upgrades == BaseUpgrades::Never => {
                    return Err(format!("{} of the base would be upgraded", package.fullname(true)));
                }
                _ => {}
            }
        }
        let unmet = |g: &&Goal<'_>| g.version.parent().install_version().is_none_or(|v| id_of(&v) != id_of(&g.version));
        match self.goals.install.iter().find(unmet) {
            Some(goal) => Err(format!("{} cannot be installed", id_of(&goal.version))),
            None => Ok(changes),
        }
    }

    /// The error with the reasons: the goals marked again, nothing resolved, everything installed kept.
    fn explanation(&self, violation: &str, messages: &[String]) -> Error {
        let depcache = self.cache.depcache();
        let mut lines = Vec::new();
        // Where even this fails there is still the solver's own text.
        if self.clear().is_ok() {
            // SAFETY: the action group ends in this block, before the cache.
            let group = unsafe { depcache.action_group() };
            self.hold_back();
            for package in &self.goals.remove {
                depcache.mark_delete(package, false);
            }
            for goal in &self.goals.install {
                depcache.set_candidate_version(&goal.version);
                depcache.mark_install(&goal.version.parent(), false, true);
            }
            for goal in &self.goals.install {
                depcache.mark_install(&goal.version.parent(), true, true);
            }
            let leaving: BTreeSet<String> = self.goals.remove.iter().map(full_name).collect();
            for package in self.cache.get_changes(false) {
                if package.marked_delete() && !leaving.contains(&full_name(&package)) {
                    depcache.mark_keep(&package);
                }
            }
            let first = self.goals.install.iter().map(|g| full_name(&g.version.parent())).collect();
            lines = explain::broken(self.cache, &self.config.arch, &first);
            drop(group);
            drop(AptErrors::new());
        }
        let names: Vec<String> = self
            .goals
            .install
            .iter()
            .filter(|g| g.requested)
            .map(|g| g.version.parent().fullname(true))
            .chain(self.goals.remove.iter().map(|p| format!("-{}", p.fullname(true))))
            .collect();
        let what = if names.is_empty() { "the essential packages".to_owned() } else { names.join(", ") };
        let mut error =
            Error::new(ErrorKind::Unsatisfiable, format!("No set of packages meets the request {what}: {violation}"));
        for line in &lines {
            error = error.hint(line.clone());
        }
        let said = |name: &str| lines.iter().any(|l| l.split([' ', ':']).any(|word| word == name));
        let held = self.installed.iter().filter(|id| said(&id.name)).filter(|id| {
            let arch = if id.arch == "all" { &self.config.arch } else { &id.arch };
            self.cache.get(&format!("{}:{arch}", id.name)).is_some_and(|p| is_held(&p))
        });
        for id in held {
            error = error.hint(format!("{} is held at {} in the base; name it to change it.", id.name, id.version));
        }
        for name in self.task.exclude.iter().filter(|e| lines.iter().any(|l| l.contains(e.as_str()))) {
            error = error.hint(format!("{name} is excluded."));
        }
        if lines.is_empty() {
            for message in messages {
                error = error.hint(message.trim().to_owned());
            }
        }
        error
    }

    fn result(&self, changes: &[Package<'a>]) -> Result<Solution> {
        let goals: BTreeMap<String, &Goal<'_>> =
            self.goals.install.iter().map(|g| (full_name(&g.version.parent()), g)).collect();
        let mut coming: Vec<Version<'a>> = Vec::new();
        let mut remove: Vec<PackageId> = Vec::new();
        for package in changes {
            if package.marked_delete() {
                remove.extend(package.installed().as_ref().map(id_of));
            } else if let Some(version) = package.install_version() {
                coming.push(version);
            }
        }
        coming.sort_by_key(id_of);
        let names: BTreeMap<PackageId, String> =
            coming.iter().map(|v| (id_of(v), id_of(v).dpkg_name(&self.config.arch))).collect();
        let mut install = Vec::new();
        for version in &coming {
            let goal = goals.get(&full_name(&version.parent())).copied();
            install.push(self.solved(version, goal, &names)?);
        }
        remove.sort();
        Ok(Solution {
            install,
            remove,
            satisfied: self.goals.satisfied.clone(),
            idle: self.goals.idle.clone(),
            archives: release::archives(self.cache, self.config),
        })
    }

    fn solved(
        &self,
        version: &Version<'a>,
        goal: Option<&Goal<'_>>,
        names: &BTreeMap<PackageId, String>,
    ) -> Result<SolvedPackage> {
        let id = id_of(version);
        let mut size = version.size();
        let mut advisory = None;
        let (origin, sha256, download, path) = match goal.and_then(|g| g.local.as_ref()) {
            Some(path) => {
                let path = PathBuf::from(path);
                let sha256 = digest::of_file(&path)?;
                size = path.metadata().map_or(size, |m| m.len());
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (name, sha256, 0, path)
            }
            None => {
                let index = version.package_files().find(PackageFile::is_downloadable_index);
                if index.is_none_or(|f| !f.index_file().is_trusted()) {
                    return Err(Error::new(ErrorKind::Verification, format!("{id} cannot be authenticated"))
                        .hint("Sign the archive, or mark its source as `Trusted: yes` if you accept that."));
                }
                let sha256 = version.sha256().ok_or_else(|| {
                    Error::new(ErrorKind::Verification, format!("The archive gives no SHA256 for {id}"))
                })?;
                advisory = release::is_security(version)
                    .then(|| Advisory::id_of(version.source_name(), version.source_version()));
                let there = archive_path(&self.config.state, &id).metadata().is_ok_and(|m| m.len() == size);
                let download = if there || is_nearby(version) { 0 } else { size };
                (release::origin_of(version).unwrap_or_default(), sha256, download, PathBuf::new())
            }
        };
        Ok(SolvedPackage {
            previous: version.parent().installed().map(|v| v.version().to_owned()),
            requested: goal.is_some_and(|g| g.requested),
            essential: requests::is_essential(version),
            origin,
            advisory,
            sha256: sha256.to_ascii_lowercase(),
            size,
            download,
            installed_size: version.installed_size(),
            pre_depends: edges(version, &DepType::PreDepends, &id, names),
            depends: edges(version, &DepType::Depends, &id, names),
            path,
            id,
        })
    }
}

/// `hold` in dpkg's status.
fn is_held(package: &Package<'_>) -> bool {
    package.selected_state() == PkgSelectedState::Hold
}

/// Whether the .deb is on this machine already, in an archive that is a directory.
pub(crate) fn is_nearby(version: &Version<'_>) -> bool {
    version.uris().next().is_some_and(|u| u.starts_with("copy:"))
}

/// The packages of the same solution that can meet a dependency of that kind.
fn edges(version: &Version<'_>, kind: &DepType, own: &PackageId, names: &BTreeMap<PackageId, String>) -> Vec<String> {
    let groups: &[Dependency<'_>] = version.get_depends(kind).map_or(&[], Vec::as_slice);
    let mut found = BTreeSet::new();
    for dep in groups.iter().flat_map(|g| g.iter()) {
        for target in dep.all_targets() {
            let id = id_of(&target);
            if let Some(name) = names.get(&id).filter(|_| id != *own) {
                found.insert(name.clone());
            }
        }
    }
    found.into_iter().collect()
}

/// The version of the open cache that a solution means; the hash decides between archives that reuse a version.
pub(crate) fn locate<'a>(cache: &'a Cache, native: &str, solved: &SolvedPackage) -> Option<(Package<'a>, Version<'a>)> {
    let arch = if solved.id.arch == "all" { native } else { &solved.id.arch };
    let package = cache.get(&format!("{}:{arch}", solved.id.name))?;
    let same: Vec<Version<'a>> = package.versions().filter(|v| v.version() == solved.id.version).collect();
    let exact = same.iter().position(|v| v.sha256().is_some_and(|h| h.eq_ignore_ascii_case(&solved.sha256)));
    let version = same.into_iter().nth(exact.unwrap_or(0))?;
    Some((package, version))
}

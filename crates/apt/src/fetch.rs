//! Downloads of .debs into `archives/`, and the proof that each is the one the signed index promised.
//!
//! libapt trusts a file of the right name and size in `archives/`. Here every file is hashed, each time: a .deb that does not
//! match is deleted and downloaded again, and is an error only when the archive itself delivers a wrong one.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use apt_ostree_core::digest;
use apt_ostree_core::event::{Event, EventSink};
use apt_ostree_core::source::{Solution, SolvedPackage, SourceConfig, archive_path};
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use rust_apt::Cache;
use rust_apt::error::AptErrors;
use rust_apt::progress::AcquireProgress;

use crate::refresh::{Failure, Progress};
use crate::session::{Session, convert};
use crate::solve::{is_nearby, locate};

pub(crate) fn fetch(config: &SourceConfig, solution: &mut Solution, events: &dyn EventSink) -> Result<()> {
    let missing = verify_present(config, solution)?;
    if missing.is_empty() {
        return Ok(());
    }
    let total: u64 = missing.iter().filter_map(|n| solution.install.get(*n)).map(|p| p.size).sum();
    let text = match missing.len() {
        1 => "Downloading 1 package".to_owned(),
        n => format!("Downloading {n} packages"),
    };
    let session = Session::configure(config, &[])?;
    events.emit(Event::TaskBegin { text });
    let local: Vec<String> =
        solution.install.iter().filter(|p| is_local(p)).map(|p| p.path.display().to_string()).collect();
    let cache = session.open(&local)?;
    let failures = download(config, &cache, solution, &missing, total, events)?;
    drop(cache);
    // Hashes again: libapt's own verdict is in the failures, but the files are what will be installed.
    for index in missing {
        let Some(package) = solution.install.get_mut(index) else { continue };
        let path = archive_path(&config.state, &package.id);
        if !path.is_file() {
            return Err(failure(package, &failures));
        }
        if !matches(&path, package)? {
            fs::remove_file(&path).context(|| format!("Deleting {}", path.display()))?;
            return Err(tampered(package, "its SHA256 is not the one of the index"));
        }
        package.path = path;
        package.download = 0;
    }
    events.emit(Event::TaskEnd { suffix: "done".into() });
    Ok(())
}

fn is_local(package: &SolvedPackage) -> bool {
    !package.path.as_os_str().is_empty()
}

fn matches(path: &Path, package: &SolvedPackage) -> Result<bool> {
    Ok(digest::of_file(path)? == package.sha256)
}

fn tampered(package: &SolvedPackage, why: &str) -> Error {
    Error::new(ErrorKind::Verification, format!("The archive delivers a wrong {}: {why}", package.id)).hint(format!(
        "It comes from {}. Nothing was installed; try again later or from another mirror.",
        package.origin
    ))
}

/// Sets the path of every .deb that is there and right, deletes those that are wrong, and returns who is missing.
fn verify_present(config: &SourceConfig, solution: &mut Solution) -> Result<Vec<usize>> {
    let archives = config.state.join("archives");
    let checked = check_all(&config.state, &solution.install)?;
    let mut missing = Vec::new();
    for (index, (package, right)) in solution.install.iter_mut().zip(checked).enumerate() {
        let path = archive_path(&config.state, &package.id);
        if is_local(package) && !package.path.starts_with(&archives) {
            if !right {
                return Err(Error::new(
                    ErrorKind::Verification,
                    format!("{} is not the file that was planned with ({})", package.path.display(), package.id),
                )
                .hint("It was changed or deleted after the plan was made; run the command again."));
            }
        } else if right {
            package.path = path;
            package.download = 0;
        } else {
            if path.exists() {
                fs::remove_file(&path).context(|| format!("Deleting {}", path.display()))?;
            }
            package.path = PathBuf::new();
            missing.push(index);
        }
    }
    Ok(missing)
}

/// Whether each file is there and has the right hash; on two threads, as this reads everything that will be installed.
fn check_all(state: &Path, packages: &[SolvedPackage]) -> Result<Vec<bool>> {
    let check = |package: &SolvedPackage| -> Result<bool> {
        let path = if is_local(package) { package.path.clone() } else { archive_path(state, &package.id) };
        if path.metadata().is_ok_and(|m| m.len() == package.size) { matches(&path, package) } else { Ok(false) }
    };
    let half = packages.len() / 2;
    let (first, second) = packages.split_at(half);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().map(check).collect::<Result<Vec<bool>>>());
        let mut list = first.iter().map(check).collect::<Result<Vec<bool>>>()?;
        list.extend(other.join().map_err(|_| Error::failed("The thread that verifies packages died"))??);
        Ok(list)
    })
}

fn download(
    config: &SourceConfig,
    cache: &Cache,
    solution: &Solution,
    missing: &[usize],
    total: u64,
    events: &dyn EventSink,
) -> Result<Vec<Failure>> {
    let mut remote: Vec<String> = Vec::new();
    for package in missing.iter().filter_map(|n| solution.install.get(*n)) {
        let (_, version) = locate(cache, &config.arch, package).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} is not in the archive any more", package.id))
                .hint("Update the package indexes and run the command again.")
        })?;
        if !is_nearby(&version) {
            remote.push(package.id.to_string());
        }
    }
    if config.offline && !remote.is_empty() {
        return Err(Error::new(ErrorKind::Network, format!("Not downloaded yet: {}", remote.join(", ")))
            .hint("Run the command again without the option that forbids the network."));
    }
    // The marks of the whole solution, so that libapt's ordering sees what apt-get would see.
    // SAFETY: the action group ends before the cache.
    let group = unsafe { cache.depcache().action_group() };
    for package in &solution.install {
        let Some((found, version)) = locate(cache, &config.arch, package) else { continue };
        cache.depcache().set_candidate_version(&version);
        cache.depcache().mark_install(&found, false, true);
    }
    for id in &solution.remove {
        let arch = if id.arch == "all" { &config.arch } else { &id.arch };
        if let Some(found) = cache.get(&format!("{}:{arch}", id.name)) {
            cache.depcache().mark_delete(&found, false);
        }
    }
    drop(group);
    let failures = Rc::new(RefCell::new(Vec::new()));
    let all: u64 = solution.install.iter().map(|p| p.size).sum();
    let mut progress = AcquireProgress::new(Progress {
        events,
        failures: Rc::clone(&failures),
        present: all.saturating_sub(total),
        total: Some(total),
    });
    let result = cache.get_archives(&mut progress);
    drop(progress);
    if let Err(error) = result {
        // Single files that failed are told by name; this is about the download as a whole.
        if failures.borrow().is_empty() {
            return Err(convert(&AptErrors::from(error), ErrorKind::Network)).context(|| "Downloading packages");
        }
    }
    drop(AptErrors::new());
    Ok(failures.take())
}

/// Why a package did not arrive.
fn failure(package: &SolvedPackage, failures: &[Failure]) -> Error {
    // The short description of a .deb is the name of its package, with the architecture where that is foreign.
    let own =
        failures.iter().find(|f| f.name == package.id.name || f.name.starts_with(&format!("{}:", package.id.name)));
    let Some(own) = own else {
        return Error::new(ErrorKind::Network, format!("{} did not arrive", package.id));
    };
    let reason = own.reason.replace('\n', " ");
    match own.kind {
        ErrorKind::Verification => tampered(package, &reason),
        // What libapt says when the copy of a file from a directory has another hash or size than the index.
        ErrorKind::Failed if reason == "Undetermined Error" => tampered(package, "it is not the file of the index"),
        kind => Error::new(kind, format!("Downloading {}: {reason}", package.id))
            .hint("Check the network; if the archive has moved on, update the package indexes."),
    }
}

//! Why a request cannot be met, in apt's own words (ShowBrokenPackage in apt's private-output.cc), and one step further:
//! where apt stops at "is not going to be installed", the reasons of that package follow.

use std::collections::BTreeSet;

use rust_apt::{BaseDep, Cache, DepFlags, DepType, Dependency, Package, Version};

use crate::requests::full_name;

/// Enough to see the cause; one missing package can break hundreds.
const MAX_LINES: usize = 12;

/// The broken packages of the present marks, one line a dependency that is not met. `first` are shown first.
pub(crate) fn broken(cache: &Cache, native: &str, first: &BTreeSet<String>) -> Vec<String> {
    let mut list: Vec<Package<'_>> =
        cache.raw_pkgs().filter(|p| cache.depcache().is_inst_broken(p)).map(|p| Package::new(cache, p)).collect();
    list.sort_by_key(|p| (!first.contains(&full_name(p)), full_name(p)));
    let mut seen: BTreeSet<String> = list.iter().map(full_name).collect();
    let mut lines = Vec::new();
    let mut next: Vec<Package<'_>> = Vec::new();
    for package in &list {
        if let Some(version) = package.install_version() {
            let unmet = |dep: &BaseDep<'_>| cache.depcache().dep_state(dep) & DepFlags::DepGInstall == 0;
            describe(cache, native, &version, &unmet, &mut lines, &mut next);
        }
    }
    // Packages that nothing wants to keep out, yet are "not going to be installed": their own dependencies tell why.
    while let Some(package) = next.pop() {
        if !seen.insert(full_name(&package)) || lines.len() >= MAX_LINES {
            continue;
        }
        let version = package.candidate().or_else(|| package.versions().filter(|v| v.priority() >= 0).max());
        if let Some(version) = version {
            let unmet = |dep: &BaseDep<'_>| {
                let wanted = if is_negative(dep) { DepFlags::DepGInstall } else { DepFlags::DepGVer };
                cache.depcache().dep_state(dep) & wanted == 0
            };
            describe(cache, native, &version, &unmet, &mut lines, &mut next);
        }
    }
    // Where everything is new, as in a compose, everything is broken with the one package that cannot be had: that one
    // is the reason.
    lines.sort_by_key(|line| !line.contains("is not installable"));
    lines.truncate(MAX_LINES);
    lines
}

/// The name as apt shows it: the architecture only where it is foreign.
fn pretty(package: &Package<'_>) -> String {
    package.fullname(true)
}

fn is_negative(dep: &BaseDep<'_>) -> bool {
    matches!(dep.dep_type(), DepType::Conflicts | DepType::DpkgBreaks | DepType::Obsoletes)
}

fn describe<'a>(
    cache: &'a Cache,
    native: &str,
    version: &Version<'a>,
    unmet: &dyn Fn(&BaseDep<'_>) -> bool,
    lines: &mut Vec<String>,
    next: &mut Vec<Package<'a>>,
) {
    let parent = version.parent();
    let hard = [DepType::PreDepends, DepType::Depends, DepType::Conflicts, DepType::DpkgBreaks];
    for kind in hard {
        let label = if kind == DepType::PreDepends { "Pre-Depends" } else { kind.to_str() };
        let groups: &[Dependency<'_>] = version.get_depends(&kind).map_or(&[], Vec::as_slice);
        // The state of a whole or-group stands with its last member.
        for group in groups.iter().filter(|g| g.last().is_some_and(unmet)) {
            let parts: Vec<String> = group.iter().map(|dep| alternative(cache, native, dep, next)).collect();
            let line = format!("{} : {label}: {}", pretty(&parent), parts.join(" or "));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
}

/// One member of an or-group: what is wanted, and what stands against it.
fn alternative<'a>(cache: &'a Cache, native: &str, dep: &BaseDep<'_>, next: &mut Vec<Package<'a>>) -> String {
    // SAFETY: the package is used only as long as the cache that it points into lives ('a).
    let target = Package::new(cache, unsafe { dep.target_pkg() });
    let mut text = pretty(&target);
    if target.arch() != native && !text.contains(':') {
        text = full_name(&target);
    }
    if let (Some(comparison), Some(version)) = (dep.comp_type(), dep.version()) {
        text.push_str(&format!(" ({comparison} {version})"));
    }
    if let Some(coming) = target.install_version() {
        text.push_str(&format!(" but {} is to be installed", coming.version()));
    } else if is_negative(dep) {
        // apt says nothing more; but it is somebody's name that stands in the way.
        // SAFETY: as above.
        let own = Package::new(cache, unsafe { dep.parent_pkg() }).name().to_owned();
        let mut names: Vec<String> = target
            .provides()
            .filter(|p| p.package().name() != own)
            .filter(|p| p.package().install_version().is_some_and(|v| v.provides().any(|o| o.name() == p.name())))
            .map(|p| pretty(&p.package()))
            .collect();
        names.sort();
        names.dedup();
        if !names.is_empty() {
            text.push_str(&format!(" provided by {}", names.join(", ")));
        }
    } else if target.has_provides() && !(target.has_versions() && target.candidate().is_none()) {
        // As apt: of a virtual package nothing can be said here. One that exists and is pinned away is another matter.
        next.extend(target.provides().map(|p| p.package()).take(2));
    } else if target.candidate().is_none() {
        text.push_str(" but it is not installable");
        if target.has_versions() {
            next.push(target);
        }
    } else {
        text.push_str(" but it is not going to be installed");
        next.push(target);
    }
    text
}

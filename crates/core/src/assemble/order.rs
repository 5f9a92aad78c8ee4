//! In which order dpkg gets the packages of one run.
//!
//! dpkg orders configuration by Depends itself, but it unpacks in the order given and refuses a package whose
//! Pre-Depends are not configured (policy section 7.2). So the set is cut into waves: everything a Pre-Depends of a
//! later wave needs is unpacked and configured before it. Most sets are one wave.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::SolvedPackage;

/// Indexes into `packages`, wave by wave. A cycle of Pre-Depends, which policy forbids, ends in one wave.
pub fn waves(packages: &[SolvedPackage], native: &str) -> Vec<Vec<usize>> {
    let index: BTreeMap<String, usize> =
        packages.iter().enumerate().map(|(i, p)| (p.id.dpkg_name(native), i)).collect();
    let edges = |names: &[String]| -> Vec<usize> { names.iter().filter_map(|n| index.get(n).copied()).collect() };
    let pre: Vec<Vec<usize>> = packages.iter().map(|p| edges(&p.pre_depends)).collect();
    let deps: Vec<Vec<usize>> = packages.iter().map(|p| edges(&p.depends)).collect();

    let closure = |start: &[usize]| -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut todo = start.to_vec();
        while let Some(next) = todo.pop() {
            if seen.insert(next) {
                todo.extend(pre[next].iter().chain(&deps[next]));
            }
        }
        seen
    };
    // Everything that must be configured before a package is unpacked, and what its own configuration needs.
    let before: Vec<BTreeSet<usize>> = pre.iter().map(|p| closure(p)).collect();
    let group: Vec<BTreeSet<usize>> = (0..packages.len()).map(|p| closure(&[p])).collect();

    let mut left: BTreeSet<usize> = (0..packages.len()).collect();
    let mut done: BTreeSet<usize> = BTreeSet::new();
    let mut waves = Vec::new();
    while !left.is_empty() {
        // Only what something pre-depends on needs an early wave, and only together with all that its own
        // configuration needs; the rest waits and goes in the last run.
        let wanted: BTreeSet<usize> =
            left.iter().flat_map(|p| before[*p].iter().copied()).filter(|p| left.contains(p)).collect();
        let unpackable = |p: &usize| done.contains(p) || before[*p].is_subset(&done);
        let early: BTreeSet<usize> = wanted
            .into_iter()
            .filter(|p| group[*p].iter().all(unpackable))
            .flat_map(|p| group[p].iter().copied())
            .filter(|p| left.contains(p))
            .collect();
        let wave: Vec<usize> =
            if early.is_empty() { left.iter().copied().collect() } else { early.into_iter().collect() };
        for package in &wave {
            left.remove(package);
            done.insert(*package);
        }
        waves.push(wave);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::package::PackageId;

    fn package(name: &str, pre: &[&str], deps: &[&str]) -> SolvedPackage {
        SolvedPackage {
            id: PackageId::new(name, "1", "amd64"),
            previous: None,
            requested: false,
            essential: false,
            origin: String::new(),
            advisory: None,
            sha256: String::new(),
            size: 0,
            download: 0,
            installed_size: 0,
            pre_depends: pre.iter().map(ToString::to_string).collect(),
            depends: deps.iter().map(ToString::to_string).collect(),
            path: Default::default(),
        }
    }

    #[test]
    fn one_wave_without_pre_depends() {
        let set = [package("a", &[], &["b"]), package("b", &[], &[])];
        assert_eq!(waves(&set, "amd64"), vec![vec![0, 1]]);
    }

    #[test]
    fn the_closure_of_a_pre_depends_goes_first() {
        let set = [
            package("a", &["b"], &[]),
            package("b", &[], &["c"]),
            package("c", &["d"], &[]),
            package("d", &[], &[]),
            package("e", &[], &[]),
        ];
        assert_eq!(waves(&set, "amd64"), vec![vec![3], vec![1, 2], vec![0, 4]]);
    }

    #[test]
    fn a_cycle_ends() {
        let set = [package("a", &["b"], &[]), package("b", &["a"], &[])];
        assert_eq!(waves(&set, "amd64").concat().len(), 2);
    }
}

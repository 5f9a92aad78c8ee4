//! The Plan: exactly what a transaction will do, as plain data. `--dry-run`, `--preview` and the real run
//! all show and use the same one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Error, Result};
use crate::model::diff::PackageDiff;
use crate::model::package::PackageId;
use crate::source::{ArchiveInfo, Solution, SolvedPackage};

/// A base package that the layering touches, and the request that made it necessary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseChange {
    pub previous: PackageId,
    /// `None`: removed.
    pub new: Option<PackageId>,
    /// In words: which package needs it.
    pub reason: String,
}

/// A base package that an override replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// `KIND=NAME` of the origin; `None` for a local .deb.
    pub source: Option<String>,
    /// For a kernel it may have another name: Debian's kernel packages have their version in it.
    pub previous: PackageId,
    pub new: PackageId,
}

/// An override of the origin that bears on this base, as the plan has to tell it from other requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveOverride {
    /// As in [`Replacement::source`].
    pub source: Option<String>,
    pub name: String,
    pub arch: Option<String>,
}

/// What the origin overrides of a base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub replace: Vec<ActiveOverride>,
    /// Those without effect here and why, in words.
    pub inactive: Vec<String>,
}

/// What will be done to make the new deployment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Base commit the tree starts from.
    pub base: String,
    pub base_version: Option<String>,
    /// Everything that goes in, with hashes; sorted.
    pub install: Vec<SolvedPackage>,
    /// Base packages that go (overrides only).
    pub remove: Vec<PackageId>,
    /// Upgraded or removed base packages and why; part of `install` and `remove`.
    pub base_changes: Vec<BaseChange>,
    /// Base packages replaced on request; part of `install`.
    pub replaced: Vec<Replacement>,
    /// Overrides without effect on this base, in words.
    pub inactive_overrides: Vec<String>,
    /// Requests the base meets by itself: `(request, package)`.
    pub inactive: Vec<(String, PackageId)>,
    /// Packages of the tree that the sysroot's next deployment has now, against the ones it will have.
    pub diff: PackageDiff,
    pub archives: Vec<ArchiveInfo>,
    /// Bytes to fetch.
    pub download_size: u64,
    /// Bytes the new packages take unpacked.
    pub installed_size: u64,
    /// The kernel changes: a new initramfs and new files in /boot.
    pub kernel_change: bool,
    /// The initramfs of the base is made again, whatever the kernel: new files in /boot as well.
    pub initramfs: bool,
    /// Hash over everything that feeds the assembly (base, packages with hashes, policy, tool layer version).
    pub input_digest: String,
}

/// Version of the way trees are assembled. Part of every input digest: raise it when the same inputs give another tree.
pub const LAYER_VERSION: u32 = 7;

impl Plan {
    /// Derives everything that follows from base and solution; pure.
    pub fn new(base: &BaseTree, solution: Solution, overrides: Overrides, policy: &[String]) -> Self {
        let installed: BTreeMap<(&str, &str), &PackageId> =
            base.packages.iter().map(|p| ((p.name.as_str(), p.arch.as_str()), p)).collect();
        let mut base_changes = Vec::new();
        let replaced = replacements(&solution, &overrides, &base.packages);
        for package in &solution.install {
            if package.previous.is_none() || replaced.iter().any(|r| r.new == package.id) {
                continue;
            }
            let previous = installed.get(&(package.id.name.as_str(), package.id.arch.as_str())).copied().cloned();
            let previous = previous.or_else(|| base.packages.iter().find(|p| p.name == package.id.name).cloned());
            if let Some(previous) = previous {
                base_changes.push(BaseChange {
                    reason: upgrade_reason(package, &solution),
                    previous,
                    new: Some(package.id.clone()),
                });
            }
        }
        for id in &solution.remove {
            base_changes.push(BaseChange {
                previous: id.clone(),
                new: None,
                reason: "asked for by an override".into(),
            });
        }
        let kernel_change = solution.install.iter().any(|p| is_kernel(&p.id.name))
            || solution.remove.iter().any(|p| is_kernel(&p.name));
        let mut plan = Self {
            base: base.commit.clone(),
            base_version: base.version.clone(),
            inactive: solution.satisfied.iter().map(|(r, id)| (r.to_string(), id.clone())).collect(),
            download_size: solution.install.iter().map(|p| p.download).sum(),
            installed_size: solution.install.iter().map(|p| p.installed_size).sum(),
            install: solution.install,
            remove: solution.remove,
            archives: solution.archives,
            base_changes,
            replaced,
            inactive_overrides: overrides.inactive,
            kernel_change,
            ..Self::default()
        };
        plan.input_digest = plan.digest(policy);
        plan
    }

    /// Nothing to put in and nothing to take out: the base is the answer.
    pub fn is_empty(&self) -> bool {
        self.install.is_empty() && self.remove.is_empty()
    }

    /// A deployment boots one kernel: a second one is refused, and the removal of the only one.
    pub fn check_kernels(&self, base: &[PackageId]) -> Result<()> {
        if !self.kernel_change {
            return Ok(());
        }
        let all = self.resulting_packages(base);
        let kernels: Vec<&PackageId> = all.iter().filter(|p| is_kernel(&p.name)).collect();
        match kernels.as_slice() {
            [_] => Ok(()),
            [] => Err(Error::usage("Nothing would be left to boot: the kernel of the base goes and no other comes").hint(
                "Bring another one in its place: apt-ostree override replace linux-image-…=VERSION, or a local .deb",
            )),
            [first, ..] => {
                let new = self.install.iter().map(|p| &p.id).find(|id| is_kernel(&id.name)).unwrap_or(first);
                Err(Error::usage(format!("{new} is a kernel; the base image has the one kernel a deployment boots"))
                    .hint("Kernels come with the base image: upgrade or rebase it.")
                    .hint(format!("To boot this one instead: apt-ostree override replace {}={}", new.name, new.version)))
            }
        }
    }

    /// The package list of the finished tree.
    pub fn resulting_packages(&self, base: &[PackageId]) -> Vec<PackageId> {
        let gone = |id: &PackageId| {
            self.remove.iter().any(|r| r.name == id.name && r.arch == id.arch)
                || self.install.iter().any(|p| {
                    p.id.name == id.name
                        && (p.id.arch == id.arch || p.previous.is_some() && (p.id.arch == "all" || id.arch == "all"))
                })
        };
        let mut list: Vec<_> = base.iter().filter(|id| !gone(id)).cloned().collect();
        list.extend(self.install.iter().map(|p| p.id.clone()));
        list.sort();
        list
    }

    fn digest(&self, policy: &[String]) -> String {
        let mut text = String::new();
        let mut line = |words: String| text.extend([words.as_str(), "\n"]);
        line(format!("layer {LAYER_VERSION}"));
        line(format!("base {}", self.base));
        for package in &self.install {
            line(format!("install {} {} {}", package.id, package.sha256, package.requested));
        }
        for id in &self.remove {
            line(format!("remove {id}"));
        }
        for Replacement { source, previous, new } in &self.replaced {
            line(format!("replace {previous} {new} {}", source.as_deref().unwrap_or_default()));
        }
        for item in policy {
            line(format!("policy {item}"));
        }
        digest::of_bytes(text.as_bytes())
    }
}

/// What the plan needs to know of the base commit.
#[derive(Clone, Debug, Default)]
pub struct BaseTree {
    pub commit: String,
    pub version: Option<String>,
    pub packages: Vec<PackageId>,
}

/// Debian's kernel image packages (`linux-image-VERSION`), which carry the vmlinuz.
pub fn is_kernel(name: &str) -> bool {
    is_kernel_or_meta(name)
        && name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Debian's packages that only depend on the newest kernel image (`linux-image-amd64`), and the images themselves.
pub fn is_kernel_or_meta(name: &str) -> bool {
    name.starts_with("linux-image-") && !name.ends_with("-dbg")
}

fn replacements(solution: &Solution, overrides: &Overrides, base: &[PackageId]) -> Vec<Replacement> {
    let mut list = Vec::new();
    for package in &solution.install {
        let id = &package.id;
        let named = |o: &&ActiveOverride| {
            o.name == id.name && (o.arch.is_none() || o.arch.as_ref() == Some(&id.arch) || id.arch == "all")
        };
        let Some(active) = overrides.replace.iter().find(named) else { continue };
        let same =
            base.iter().find(|p| p.name == id.name && (p.arch == id.arch || p.arch == "all" || id.arch == "all"));
        let kernel = || solution.remove.iter().find(|p| is_kernel(&p.name) && is_kernel(&id.name));
        if let Some(previous) = same.or_else(kernel) {
            list.push(Replacement { source: active.source.clone(), previous: previous.clone(), new: id.clone() });
        }
    }
    list
}

fn upgrade_reason(package: &SolvedPackage, solution: &Solution) -> String {
    let needs = |p: &&SolvedPackage| p.depends.iter().chain(&p.pre_depends).any(|d| *d == package.id.name);
    match solution.install.iter().find(needs) {
        _ if package.requested => "requested in this version".into(),
        Some(p) => format!("needed by {}", p.id.name),
        None => "needed by the requested packages".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> PackageId {
        PackageId::new(name, version, "amd64")
    }

    fn solved(name: &str, version: &str, previous: Option<&str>) -> SolvedPackage {
        SolvedPackage {
            id: id(name, version),
            previous: previous.map(Into::into),
            requested: true,
            essential: false,
            origin: String::new(),
            advisory: None,
            sha256: String::new(),
            size: 0,
            download: 0,
            installed_size: 0,
            pre_depends: Vec::new(),
            depends: Vec::new(),
            path: Default::default(),
        }
    }

    #[test]
    fn an_override_is_no_upgrade() {
        let base = BaseTree { packages: vec![id("a", "2"), id("b", "1")], ..BaseTree::default() };
        let solution = || Solution {
            install: vec![solved("a", "1", Some("2")), solved("b", "2", Some("1")), solved("c", "1", None)],
            ..Solution::default()
        };
        let active = ActiveOverride { source: None, name: "a".into(), arch: None };
        let overrides = Overrides { replace: vec![active.clone()], inactive: vec!["x".into()] };
        let plan = Plan::new(&base, solution(), overrides, &[]);
        let replaced = Replacement { source: None, previous: id("a", "2"), new: id("a", "1") };
        assert_eq!(plan.replaced, [replaced]);
        assert_eq!(plan.base_changes.iter().map(|c| c.previous.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(plan.resulting_packages(&base.packages), [id("a", "1"), id("b", "2"), id("c", "1")]);
        // Where a replacement comes from is told by the commit, so it counts.
        let from = |source: Option<&str>| {
            let active = ActiveOverride { source: source.map(Into::into), ..active.clone() };
            let overrides = Overrides { replace: vec![active], inactive: Vec::new() };
            Plan::new(&base, solution(), overrides, &[]).input_digest
        };
        assert_eq!(from(None), plan.input_digest, "an inactive override changes nothing");
        assert_ne!(from(Some("suite=x")), plan.input_digest);
    }

    #[test]
    fn a_kernel_replaces_one_of_another_name() {
        let old = id("linux-image-6.1-amd64", "6.1-1");
        let base = BaseTree { packages: vec![old.clone()], ..BaseTree::default() };
        let solution = Solution {
            install: vec![solved("linux-image-6.2-amd64", "6.2-1", None)],
            remove: vec![old.clone()],
            ..Solution::default()
        };
        let active = ActiveOverride { source: None, name: "linux-image-6.2-amd64".into(), arch: None };
        let plan = Plan::new(&base, solution, Overrides { replace: vec![active], inactive: Vec::new() }, &[]);
        assert!(plan.kernel_change);
        assert_eq!(plan.replaced[0].previous, old);
    }
}

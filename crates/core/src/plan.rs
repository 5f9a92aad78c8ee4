//! The Plan: exactly what a transaction will do, as plain data. `--dry-run`, `--preview` and the real run
//! all show and use the same one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest;
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
    /// Hash over everything that feeds the assembly (base, packages with hashes, policy, tool layer version).
    pub input_digest: String,
}

/// Version of the way trees are assembled. Part of every input digest: raise it when the same inputs give another tree.
pub const LAYER_VERSION: u32 = 6;

impl Plan {
    /// Derives everything that follows from base and solution; pure.
    pub fn new(base: &BaseTree, solution: Solution, policy: &[String]) -> Self {
        let installed: BTreeMap<(&str, &str), &PackageId> =
            base.packages.iter().map(|p| ((p.name.as_str(), p.arch.as_str()), p)).collect();
        let mut base_changes = Vec::new();
        for package in &solution.install {
            if package.previous.is_none() {
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
    name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn upgrade_reason(package: &SolvedPackage, solution: &Solution) -> String {
    let needs = |p: &&SolvedPackage| p.depends.iter().chain(&p.pre_depends).any(|d| *d == package.id.name);
    match solution.install.iter().find(needs) {
        _ if package.requested => "requested in this version".into(),
        Some(p) => format!("needed by {}", p.id.name),
        None => "needed by the requested packages".into(),
    }
}

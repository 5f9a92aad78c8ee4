//! What a package is called, and the lists and differences of packages.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::deb822;
use super::version;

/// One version of one package: `name:arch=version`, which apt accepts back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackageId {
    pub name: String,
    /// The full Debian version, epoch included when there is one.
    pub version: String,
    /// dpkg architecture, or `all`.
    pub arch: String,
}

impl PackageId {
    pub fn new(name: impl Into<String>, version: impl Into<String>, arch: impl Into<String>) -> Self {
        Self { name: name.into(), version: version.into(), arch: arch.into() }
    }

    /// rpm-ostree's shape, `name-version.arch`, as `status`, `db list` and the diffs print it.
    pub fn nevra(&self) -> String {
        format!("{}-{}.{}", self.name, self.version, self.arch)
    }

    /// `name`, or `name:arch` where `arch` is foreign to `native`. How dpkg names a package on its command line.
    pub fn dpkg_name(&self, native: &str) -> String {
        if self.arch == native || self.arch == "all" {
            self.name.clone()
        } else {
            format!("{}:{}", self.name, self.arch)
        }
    }
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}={}", self.name, self.arch, self.version)
    }
}

impl Ord for PackageId {
    /// By name, then architecture, then Debian version order.
    fn cmp(&self, other: &Self) -> Ordering {
        self.name
            .cmp(&other.name)
            .then_with(|| self.arch.cmp(&other.arch))
            .then_with(|| version::compare(&self.version, &other.version))
            .then_with(|| self.version.cmp(&other.version))
    }
}

impl PartialOrd for PackageId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The installed packages of a dpkg `status` file, sorted. Only `install ok installed` and the
/// trigger states count; half-installed and config-files entries do not (deb822 field `Status`, dpkg(1)).
pub fn installed_from_status(status: &str) -> Vec<PackageId> {
    let mut list: Vec<PackageId> = deb822::stanzas(status)
        .filter(|s| {
            s.get("Status").is_some_and(|v| {
                matches!(v.split_whitespace().last(), Some("installed" | "triggers-pending" | "triggers-awaited"))
            })
        })
        .filter_map(|s| Some(PackageId::new(s.get("Package")?, s.get("Version")?, s.get("Architecture")?)))
        .collect();
    list.sort();
    list
}

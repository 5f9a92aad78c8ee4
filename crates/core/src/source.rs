//! Port: where packages come from. The one implementation is the libapt adapter (crate `apt-ostree-apt`);
//! it is a port because libapt keeps its configuration, error stack and locks in globals of the process.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::event::EventSink;
use crate::model::package::PackageId;
use crate::model::request::PackageRequest;

/// Everything libapt is told about the world; nothing is taken from the host's `/` but how the network is reached
/// (`Acquire::*` of the host's apt configuration).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourceConfig {
    /// Kept between runs. Layout: `lists/` (indexes, as in /var/lib/apt/lists), `cache/` (pkgcache.bin),
    /// `archives/` (downloaded .debs, `partial/` below it), `etc/` (the effective sources written by the adapter).
    pub state: PathBuf,
    /// dpkg `status` file the solver starts from; missing or empty means "nothing installed".
    pub status: PathBuf,
    /// `extended_states` (apt's auto marks) that goes with `status`.
    pub extended_states: Option<PathBuf>,
    /// deb822 stanzas (`Types:`, `URIs:`, …) as they stand in a `.sources` file, `Signed-By` already resolved to
    /// absolute paths that exist on this machine.
    pub sources: Vec<String>,
    /// Directories with trusted keys (`trusted.gpg.d`), used for stanzas without `Signed-By`.
    pub trusted_parts: Option<PathBuf>,
    /// `preferences` file and `preferences.d` directory.
    pub preferences: Vec<PathBuf>,
    /// dpkg architecture, e.g. `amd64`.
    pub arch: String,
    pub foreign_arches: Vec<String>,
    /// `APT::Install-Recommends`.
    pub recommends: bool,
    /// No network: indexes and .debs that are not there already are an error.
    pub offline: bool,
    /// For questions: `state` is a private folder whose `lists` and `cache` may be links to somebody else's. Nothing is
    /// written there but what libapt replaces by rename, if it may.
    #[serde(default)]
    pub reading: bool,
}

/// Whether a base package may be upgraded to meet a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseUpgrades {
    /// Only where a request cannot be met without it (e.g. `-dev` packages with `=` dependencies).
    #[default]
    WhenNeeded,
    /// Never: the request is unsatisfiable then. rpm-ostree's behaviour.
    Never,
}

/// What to solve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SolveTask {
    pub install: Vec<PackageRequest>,
    /// Local .deb files to install as well.
    pub local: Vec<PathBuf>,
    /// Installed packages to remove (`name` or `name:arch`). Nothing else is ever removed.
    pub remove: Vec<String>,
    /// Installed packages to put another version in the place of, older ones too; the selector says which.
    pub replace: Vec<PackageRequest>,
    /// The same by local .deb files.
    pub replace_local: Vec<PathBuf>,
    /// Never install these: a hard dependency on one is an error, a Recommends is dropped.
    pub exclude: Vec<String>,
    pub base_upgrades: BaseUpgrades,
    /// Also take every `Essential: yes` package of the native architecture and apt (compose of an empty base).
    pub essential: bool,
}

/// One package to put into the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SolvedPackage {
    pub id: PackageId,
    /// The installed version that this one replaces.
    pub previous: Option<String>,
    /// Named by a request (apt's "manual"), not only pulled in by a dependency.
    pub requested: bool,
    pub essential: bool,
    /// Where it comes from: `suite/component`, or the file name of a local .deb.
    pub origin: String,
    /// The name of the security update that this version is, [`crate::model::advisory::Advisory::id_of`] its source: an archive
    /// for security updates offers it.
    #[serde(default)]
    pub advisory: Option<String>,
    /// Lower case hex SHA256 of the .deb.
    pub sha256: String,
    /// Bytes of the .deb.
    pub size: u64,
    /// Bytes still to download (0 when the .deb is in `archives/` already or local).
    pub download: u64,
    /// Bytes unpacked, from `Installed-Size`.
    pub installed_size: u64,
    /// `dpkg_name`s of packages of the same solution that Pre-Depends need configured first.
    pub pre_depends: Vec<String>,
    /// The same for Depends.
    pub depends: Vec<String>,
    /// Absolute path of the .deb once fetched (set at once for local files).
    pub path: PathBuf,
}

/// One index that was used, for `status -v` and the commit metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveInfo {
    /// `Origin/suite`, e.g. `Debian/trixie-security`.
    pub id: String,
    pub suite: String,
    pub codename: String,
    pub component: String,
    /// `Date:` of the Release file, seconds since the epoch.
    pub date: u64,
}

/// The exact answer to a [`SolveTask`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Solution {
    /// New and upgraded packages, sorted by id.
    pub install: Vec<SolvedPackage>,
    /// Installed packages that go.
    pub remove: Vec<PackageId>,
    /// Requests that the installed set meets already, and by which package.
    pub satisfied: Vec<(PackageRequest, PackageId)>,
    /// Of [`SolveTask::replace`], those whose version is the installed one already.
    pub idle: Vec<(PackageRequest, PackageId)>,
    pub archives: Vec<ArchiveInfo>,
}

/// Port: a package archive with a solver.
///
/// Errors: `NotFound` with near names as hints for unknown packages (one error naming all of them),
/// `Unsatisfiable` with the solver's reasons as hints, `Network`, `Verification` (bad signature, hash mismatch).
pub trait PackageSource {
    /// Updates the indexes (`apt-get update`). One bad source is an error that names it.
    fn refresh(&mut self, config: &SourceConfig, events: &dyn EventSink) -> Result<()>;

    /// Whether indexes were ever fetched for this configuration.
    fn has_indexes(&mut self, config: &SourceConfig) -> Result<bool>;

    /// Finds the exact packages that meet the task. Touches neither network nor tree.
    fn solve(&mut self, config: &SourceConfig, task: &SolveTask, events: &dyn EventSink) -> Result<Solution>;

    /// Downloads what is not there yet into `archives/`, verifies every hash, and sets `path` of each package.
    fn fetch(&mut self, config: &SourceConfig, solution: &mut Solution, events: &dyn EventSink) -> Result<()>;
}

/// Where a .deb lies in `archives/` under apt's naming: `name_version_arch.deb`, `:` of the epoch as `%3a`.
pub fn archive_path(state: &Path, id: &PackageId) -> PathBuf {
    let quote = |s: &str| s.replace(':', "%3a");
    state.join("archives").join(format!("{}_{}_{}.deb", id.name, quote(&id.version), id.arch))
}

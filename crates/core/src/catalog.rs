//! Port: questions about packages. The read-only side of libapt, apart from [`crate::source::PackageSource`], because it
//! needs neither root nor a lock nor a plan, and writes nowhere but into a private folder (see
//! [`crate::source::SourceConfig::reading`]).

use crate::error::Result;
use crate::model::package::PackageId;
use crate::source::SourceConfig;

/// One package: what dpkg's status and the indexes tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPackage {
    pub name: String,
    /// dpkg architecture of the package; that of a version may be `all`.
    pub arch: String,
    /// Newest first.
    pub versions: Vec<KnownVersion>,
    /// What apt would install, by version, priorities and pins.
    pub candidate: Option<String>,
    /// `dpkg --set-selections` says `hold`.
    pub held: bool,
    /// Installed only because something needed it (apt's auto mark).
    pub automatic: bool,
    /// Short description; empty when not asked for.
    pub summary: String,
}

/// One version of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownVersion {
    pub version: String,
    /// dpkg architecture, or `all`.
    pub arch: String,
    pub installed: bool,
    /// `suite/component` of every index that offers it; empty for one that is only installed.
    pub origins: Vec<String>,
    /// apt's priority (apt_preferences(5)).
    pub priority: i32,
}

/// The control fields of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageRecord {
    pub package: KnownPackage,
    /// The version that the fields are of.
    pub version: String,
    pub arch: String,
    /// In the order of `apt show`; without `Package`, `Version`, `Architecture` and `Description`.
    pub fields: Vec<(String, String)>,
    /// Bytes of the .deb, 0 when it is offered nowhere.
    pub download_size: u64,
    /// Bytes unpacked.
    pub installed_size: u64,
    /// The first line is the short description. The long one is there for installed packages only, where the archive keeps
    /// its long descriptions apart from the index, as Debian does: those files are not fetched.
    pub description: String,
}

impl KnownPackage {
    pub fn installed(&self) -> Option<&KnownVersion> {
        self.versions.iter().find(|v| v.installed)
    }

    /// The candidate, where there is one.
    pub fn candidate(&self) -> Option<&KnownVersion> {
        let wanted = self.candidate.as_ref()?;
        self.versions.iter().find(|v| v.version == *wanted)
    }
}

/// Port: what an archive and an installed system have.
pub trait PackageCatalog {
    /// All packages whose name is wanted, sorted by name, then architecture. Short descriptions cost most of the time.
    fn packages(
        &mut self,
        config: &SourceConfig,
        wanted: &dyn Fn(&str) -> bool,
        summaries: bool,
    ) -> Result<Vec<KnownPackage>>;

    /// The records of packages by name (`name` or `name:arch`), each of the installed version, else of the candidate. Names
    /// that are unknown or virtual are `NotFound`, all of them in one error with near names as hints.
    fn records(&mut self, config: &SourceConfig, names: &[String]) -> Result<Vec<PackageRecord>>;

    /// Names of the packages with a version that provides a name (Policy 7.5), sorted.
    fn providers(&mut self, config: &SourceConfig, name: &str) -> Result<Vec<String>>;

    /// The changelog of a package's source, fetched from where the archive says it has them. `None`: it does not say.
    /// `Network` when it cannot be had.
    fn changelog(&mut self, config: &SourceConfig, package: &PackageId) -> Result<Option<String>>;
}

//! `search`, `info` and `list`: questions about one deployment and the archives of its machine.
//!
//! Needs neither root nor a lock. Nothing of the sysroot is written; libapt gets a temporary folder with links to the
//! indexes that the last refresh fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use tempfile::TempDir;

use crate::catalog::{KnownPackage, KnownVersion, PackageCatalog, PackageRecord};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::glob;
use crate::model::origin::Origin;
use crate::model::package::{self, PackageId};
use crate::model::request::PackageRequest;
use crate::operation::sources;
use crate::source::SourceConfig;
use crate::sysroot::Sysroot;

/// At most this many lines a group of `search`, as in rpm-ostree.
const MAX_HITS: usize = 50;

/// A deployment and what its apt sources offer.
#[derive(Debug)]
pub struct View {
    config: SourceConfig,
    /// Version of the base by name and architecture.
    base: BTreeMap<(String, String), String>,
    origin: Origin,
    has_indexes: bool,
    /// How to fetch the indexes, for the hint.
    refresh: String,
    _scratch: TempDir,
}

/// Where a package of the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Installed, as the base image has it.
    Base,
    /// Installed on top of the base, or in another version than that of the base.
    Layered,
    /// Not installed.
    Available,
}

/// One package, installed or not. Serialises to an entry of `list --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Item {
    pub name: String,
    pub arch: String,
    /// The installed version; of one that is not installed the candidate.
    pub version: String,
    pub state: Place,
    /// Named by a request of the origin.
    pub requested: bool,
    pub automatic: bool,
    pub held: bool,
    /// Installed in a version that no archive offers, as far as the indexes tell.
    pub local: bool,
    /// What the base has, where that is another version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_version: Option<String>,
    /// `suite/component` of the indexes that offer the version.
    pub origins: Vec<String>,
    /// What apt would install now; absent when nothing is offered.
    pub candidate: Option<String>,
    #[serde(skip)]
    pub candidate_origins: Vec<String>,
    pub upgradable: bool,
}

/// Which packages `list` tells. All of them false: the installed ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    pub base: bool,
    pub layered: bool,
    /// Installed ones of which the archives have a newer version.
    pub upgradable: bool,
    /// Those that are not installed as well.
    pub all: bool,
}

/// What `search` found, each group sorted by name: `(name, short description)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hits {
    pub name_and_summary: Vec<(String, String)>,
    pub name: Vec<(String, String)>,
    pub summary: Vec<(String, String)>,
}

impl View {
    /// The booted deployment; in a directory, where none is, the one that would boot. `temporary` is where a private folder
    /// can be made.
    pub fn open(sysroot: &Sysroot, stateroot: Option<&str>, temporary: &Path) -> Result<Self> {
        let stateroot = sysroot.stateroot(stateroot)?;
        let booted = sysroot.deployments_of(&stateroot).into_iter().find(|d| d.booted);
        let deployment = match booted {
            Some(booted) => booted,
            None => sysroot.pending(&stateroot)?,
        };
        let repo = sysroot.repo();
        let base = repo.info(&deployment.checksum())?.base().to_owned();
        let base = repo.packages(&base)?.into_iter().map(|p| ((p.name, p.arch), p.version)).collect();
        let tree = sysroot.directory(&deployment);
        let etc = sysroot.merge_deployment(&stateroot).map(|d| sysroot.directory(&d).join("etc"));
        let state = repo.extension_path("apt");
        let scratch = scratch(temporary)?;
        let config = sources::reading(&tree, etc.as_deref(), &state, scratch.path())?;
        let root = sysroot.path();
        let option = if root == Path::new("/") { String::new() } else { format!("--sysroot={} ", root.display()) };
        Ok(Self {
            config,
            base,
            origin: deployment.origin().unwrap_or_default(),
            has_indexes: has_lists(&state.join("lists")),
            refresh: format!("apt-ostree {option}refresh-md"),
            _scratch: scratch,
        })
    }

    /// A container made from a composed tree: its packages are the base, the indexes apt's own.
    pub fn of_container(root: &Path, temporary: &Path) -> Result<Self> {
        let scratch = scratch(temporary)?;
        let config = sources::of_container(root, scratch.path())?;
        let installed = installed(&config)?;
        Ok(Self {
            config,
            base: installed.into_iter().map(|p| ((p.name, p.arch), p.version)).collect(),
            origin: Origin::default(),
            has_indexes: has_indexes(&root.join(sources::APT_STATE).join("lists")),
            refresh: "apt-get update".into(),
            _scratch: scratch,
        })
    }

    /// Groups of packages that have every term in name or short description.
    pub fn search(&self, catalog: &mut dyn PackageCatalog, terms: &[String]) -> Result<Hits> {
        self.require_indexes()?;
        let packages = catalog.packages(&self.config, &|_| true, true)?;
        Ok(search(&packages, &self.config.arch, terms))
    }

    /// The packages that match one of the patterns (all without patterns), sorted.
    pub fn list(
        &self,
        catalog: &mut dyn PackageCatalog,
        patterns: &[String],
        selection: Selection,
    ) -> Result<Vec<Item>> {
        if selection.all || selection.upgradable {
            self.require_indexes()?;
        }
        let patterns: Vec<(&str, Option<&str>)> =
            patterns.iter().map(|p| p.split_once(':').map_or((p.as_str(), None), |(n, a)| (n, Some(a)))).collect();
        let installed = if selection.all { None } else { Some(self.installed()?) };
        let wanted = |name: &str| {
            installed.as_ref().is_none_or(|names| names.contains(name))
                && (patterns.is_empty() || patterns.iter().any(|(p, _)| glob::matches(p, name)))
        };
        let packages = catalog.packages(&self.config, &wanted, false)?;
        let with_arch = |p: &KnownPackage| {
            patterns.is_empty()
                || patterns
                    .iter()
                    .any(|(n, a)| glob::matches(n, &p.name) && a.is_none_or(|a| glob::matches(a, &p.arch)))
        };
        let items = packages.iter().filter(|p| with_arch(p)).filter_map(|p| self.item(p));
        Ok(items.filter(|item| chosen(item, selection)).collect())
    }

    /// Everything there is to say of these packages, and where each is.
    pub fn info(&self, catalog: &mut dyn PackageCatalog, names: &[String]) -> Result<Vec<(PackageRecord, Item)>> {
        let records = match catalog.records(&self.config, names) {
            // Without indexes only what is installed is known.
            Err(e) if e.kind == ErrorKind::NotFound && !self.has_indexes => {
                return Err(e.hint("There are no package indexes yet.").hint(format!("Fetch them: {}", self.refresh)));
            }
            other => other?,
        };
        Ok(records.into_iter().filter_map(|r| self.item(&r.package).map(|item| (r, item))).collect())
    }

    /// The packages that provide a name.
    pub fn providers(&self, catalog: &mut dyn PackageCatalog, name: &str) -> Result<Vec<String>> {
        catalog.providers(&self.config, name)
    }

    /// The changelog of a package's version, from the archive that offers it.
    pub fn changelog(&self, catalog: &mut dyn PackageCatalog, package: &PackageId) -> Result<Option<String>> {
        self.require_indexes()?;
        catalog.changelog(&self.config, package)
    }

    /// Names of what is installed: few among the tens of thousands that the indexes have.
    fn installed(&self) -> Result<BTreeSet<String>> {
        Ok(installed(&self.config)?.into_iter().map(|id| id.name).collect())
    }

    fn require_indexes(&self) -> Result<()> {
        if self.has_indexes {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "There are no package indexes yet")
            .hint(format!("Fetch them: {}", self.refresh)))
    }

    /// `None`: known by name only, neither installed nor to be had.
    fn item(&self, package: &KnownPackage) -> Option<Item> {
        let installed = package.installed();
        let shown: &KnownVersion = installed
            .or_else(|| package.candidate())
            .or_else(|| package.versions.iter().find(|v| !v.origins.is_empty()))?;
        let of_base = self.base.get(&(package.name.clone(), shown.arch.clone()));
        let state = match (installed, of_base) {
            (None, _) => Place::Available,
            (Some(version), Some(base)) if version.version == *base => Place::Base,
            _ => Place::Layered,
        };
        let candidate = package.candidate().filter(|c| !c.origins.is_empty() || c.installed);
        Some(Item {
            name: package.name.clone(),
            arch: shown.arch.clone(),
            version: shown.version.clone(),
            state,
            requested: state == Place::Layered && self.is_requested(&package.name, &package.arch),
            automatic: package.automatic,
            held: package.held,
            local: installed.is_some() && shown.origins.is_empty() && self.has_indexes,
            base_version: of_base.filter(|_| state == Place::Layered).cloned(),
            origins: shown.origins.clone(),
            upgradable: installed.is_some() && candidate.is_some_and(|c| !c.installed),
            candidate: candidate.map(|c| c.version.clone()),
            candidate_origins: candidate.map(|c| c.origins.clone()).unwrap_or_default(),
        })
    }

    fn is_requested(&self, name: &str, arch: &str) -> bool {
        let meant = |request: &String| {
            PackageRequest::parse(request)
                .is_ok_and(|r| r.name == name && r.arch.is_none_or(|a| a == arch || a == "all"))
        };
        self.origin.requested.iter().any(meant) || self.origin.requested_local.iter().any(|l| l.id.name == name)
    }
}

fn installed(config: &SourceConfig) -> Result<Vec<PackageId>> {
    let path = &config.status;
    let text = std::fs::read_to_string(path).context(|| format!("Reading {}", path.display()))?;
    Ok(package::installed_from_status(&text))
}

/// A private folder for libapt.
fn scratch(temporary: &Path) -> Result<TempDir> {
    let builder = tempfile::Builder::new().prefix("apt-ostree-").tempdir_in(temporary);
    builder.context(|| format!("Making a folder in {}", temporary.display()))
}

fn has_lists(lists: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(lists) else { return false };
    entries.flatten().any(|e| e.file_name() != "lock" && e.file_type().is_ok_and(|t| t.is_file()))
}

/// Whether apt's own folder has an index. Signatures alone are none: `apt-get distclean` leaves them.
pub fn has_indexes(lists: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(lists) else { return false };
    entries.flatten().any(|e| e.file_name().to_string_lossy().contains("_Packages"))
}

fn chosen(item: &Item, selection: Selection) -> bool {
    let Selection { base, layered, upgradable, all } = selection;
    if upgradable && !item.upgradable {
        return false;
    }
    match item.state {
        Place::Available => all && !upgradable,
        Place::Base => base || !layered,
        Place::Layered => layered || !base,
    }
}

/// A term matches a name or a short description that has it inside, without regard to case; one with `*`, `?` or `[` is a
/// shell pattern for the whole name, or for a part of the description.
fn search(packages: &[KnownPackage], native: &str, terms: &[String]) -> Hits {
    let terms: Vec<String> = terms.iter().map(|t| t.to_lowercase()).collect();
    let is_pattern = |term: &str| term.contains(['*', '?', '[']);
    let in_name = |name: &str, term: &str| {
        if is_pattern(term) { glob::matches(term, name) } else { name.contains(term) }
    };
    let in_summary = |summary: &str, term: &str| {
        if is_pattern(term) {
            glob::matches(&format!("*{term}*"), &summary.replace('/', " "))
        } else {
            summary.contains(term)
        }
    };
    let mut hits = Hits::default();
    let mut last: Option<&str> = None;
    // The native one first, so that a foreign one does not say the same again.
    let mut order: Vec<&KnownPackage> = packages.iter().collect();
    order.sort_by_key(|p| (&p.name, p.arch != native, &p.arch));
    for package in order {
        if last == Some(&package.name) {
            continue;
        }
        let summary = package.summary.to_lowercase();
        let found: Vec<(bool, bool)> =
            terms.iter().map(|t| (in_name(&package.name, t), in_summary(&summary, t))).collect();
        if !found.iter().all(|(name, summary)| *name || *summary) {
            continue;
        }
        last = Some(&package.name);
        let group = match (found.iter().all(|f| f.0), found.iter().all(|f| f.1)) {
            (true, true) => &mut hits.name_and_summary,
            (true, false) => &mut hits.name,
            (false, _) => &mut hits.summary,
        };
        if group.len() < MAX_HITS {
            let name = match package.arch == native {
                true => package.name.clone(),
                false => format!("{}:{}", package.name, package.arch),
            };
            group.push((name, package.summary.clone()));
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, arch: &str, summary: &str) -> KnownPackage {
        KnownPackage { name: name.into(), arch: arch.into(), summary: summary.into(), ..KnownPackage::default() }
    }

    fn names(list: &[(String, String)]) -> String {
        list.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn groups_of_a_search() {
        let list = [
            package("htop", "amd64", "interactive processes viewer like top"),
            package("htop", "i386", "interactive processes viewer like top"),
            package("atop", "amd64", "Monitor for system resources"),
            package("procps", "amd64", "/proc utilities: ps, TOP, free"),
            package("wine32", "i386", "Windows API, top of i386"),
            package("zsh", "amd64", "shell"),
        ];
        let find = |terms: &[&str]| {
            let terms: Vec<String> = terms.iter().map(|t| (*t).to_owned()).collect();
            let hits = search(&list, "amd64", &terms);
            [names(&hits.name_and_summary), names(&hits.name), names(&hits.summary)]
        };
        assert_eq!(find(&["top"]), ["htop", "atop", "procps wine32:i386"]);
        assert_eq!(find(&["TOP", "viewer"]), ["", "", "htop"]);
        assert_eq!(find(&["[ah]top"]), ["", "atop htop", ""]);
        assert_eq!(find(&["*top"]), ["htop", "atop", "procps wine32:i386"]);
        assert_eq!(find(&["nothing"]), ["", "", ""]);
    }

    #[test]
    fn which_are_listed() {
        let item = |state, upgradable| Item {
            name: "a".into(),
            arch: "amd64".into(),
            version: "1".into(),
            state,
            requested: false,
            automatic: false,
            held: false,
            local: false,
            base_version: None,
            origins: Vec::new(),
            candidate: None,
            candidate_origins: Vec::new(),
            upgradable,
        };
        let all = [(Place::Base, false), (Place::Base, true), (Place::Layered, true), (Place::Available, false)];
        let which = |selection| {
            all.iter()
                .enumerate()
                .filter(|(_, (state, upgradable))| chosen(&item(*state, *upgradable), selection))
                .map(|(i, _)| i)
                .collect::<Vec<_>>()
        };
        assert_eq!(which(Selection::default()), [0, 1, 2]);
        assert_eq!(which(Selection { base: true, ..Selection::default() }), [0, 1]);
        assert_eq!(which(Selection { layered: true, ..Selection::default() }), [2]);
        assert_eq!(which(Selection { upgradable: true, ..Selection::default() }), [1, 2]);
        assert_eq!(which(Selection { upgradable: true, layered: true, ..Selection::default() }), [2]);
        assert_eq!(which(Selection { all: true, ..Selection::default() }), [0, 1, 2, 3]);
    }
}

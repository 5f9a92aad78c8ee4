//! From requests to exact versions: names, virtual packages, versions, suites, local files.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use apt_ostree_core::model::deb822;
use apt_ostree_core::model::package::PackageId;
use apt_ostree_core::model::request::{PackageRequest, Selector};
use apt_ostree_core::model::version;
use apt_ostree_core::source::{SolveTask, SourceConfig};
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use rust_apt::{Cache, Package, Version};

use crate::release;

/// One package that must be in the result in exactly this version.
#[derive(Clone)]
pub(crate) struct Goal<'a> {
    pub(crate) version: Version<'a>,
    /// The suite that was asked for: what it needs may come from there as well.
    pub(crate) suite: Option<String>,
    /// The file, for a local .deb.
    pub(crate) local: Option<String>,
    /// Named by the user; the essential set is not.
    pub(crate) requested: bool,
}

/// What a task means in this cache.
#[derive(Default)]
pub(crate) struct Goals<'a> {
    pub(crate) install: Vec<Goal<'a>>,
    pub(crate) satisfied: Vec<(PackageRequest, PackageId)>,
    /// Replacements that are installed already.
    pub(crate) idle: Vec<(PackageRequest, PackageId)>,
    /// Installed packages that go for good.
    pub(crate) remove: Vec<Package<'a>>,
    /// Full names of installed packages that may be replaced by any version: named both as to remove and as to install, or
    /// to be replaced.
    pub(crate) replace: BTreeSet<String>,
}

/// The identity of a version as dpkg writes it.
pub(crate) fn id_of(version: &Version<'_>) -> PackageId {
    PackageId::new(version.parent().name(), version.version(), version.arch())
}

/// `name:arch` of the package that a version belongs to; unique in a cache.
pub(crate) fn full_name(package: &Package<'_>) -> String {
    package.fullname(false)
}

/// A .deb file that was named by its path.
pub(crate) struct LocalDeb {
    /// Absolute: libapt tells a file from a package by the slash.
    pub(crate) path: String,
    /// Its control fields, as dpkg reads them.
    control: deb822::Stanza,
}

impl LocalDeb {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let full = path.canonicalize().context(|| format!("Opening {}", path.display()))?;
        let path = full.display().to_string();
        if full.extension().is_none_or(|e| e != "deb") {
            return Err(Error::usage(format!("{path}: the name of a local package must end in .deb")));
        }
        let output = Command::new("dpkg-deb").arg("--field").arg(&full).output().context(|| "Starting dpkg-deb")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::usage(format!("{path} is not a Debian package: {text}")));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let control =
            deb822::stanzas(&text).next().ok_or_else(|| Error::usage(format!("{path} has no control fields")))?;
        Ok(Self { path, control })
    }

    fn field(&self, key: &str) -> Result<String> {
        let missing = || Error::usage(format!("{} has no field {key}", self.path));
        self.control.get(key).map(str::to_owned).ok_or_else(missing)
    }
}

/// Finds what the task asks for, or says everything that does not exist in one error.
pub(crate) fn find<'a>(
    cache: &'a Cache,
    config: &SourceConfig,
    task: &SolveTask,
    local: &[LocalDeb],
    replace: &[LocalDeb],
) -> Result<Goals<'a>> {
    let finder = Finder { cache, config, task };
    let mut goals = Goals::default();
    finder.find_removals(&mut goals)?;
    for deb in replace {
        let name = deb.field("Package")?;
        let arch = deb.field("Architecture")?;
        if let Some(package) = finder.lookup(&name, Some(&arch)) {
            goals.replace.insert(full_name(&package));
        }
        finder.find_local(deb, &mut goals)?;
    }
    for request in &task.replace {
        finder.find_replacement(request, &mut goals)?;
    }
    for deb in local {
        finder.find_local(deb, &mut goals)?;
    }
    finder.refuse_unknown()?;
    // Names of real packages first: a virtual one may be provided by another request.
    let (real, virtual_): (Vec<_>, Vec<_>) =
        task.install.iter().partition(|r| finder.package(r).is_some_and(|p| p.has_versions()));
    // The most exact first, so that a plain name is content with what another request made of it.
    let mut real = real;
    real.sort_by_key(|r| match r.selector {
        Selector::Version(_) => 0,
        Selector::Suite(_) => 1,
        Selector::Relation(..) => 2,
        Selector::Any => 3,
    });
    for request in real {
        finder.find_real(request, &mut goals)?;
    }
    for request in virtual_ {
        finder.find_virtual(request, &mut goals)?;
    }
    if task.essential {
        finder.find_essential(&mut goals);
    }
    // What is both to go and to come is replaced.
    let coming: BTreeSet<String> = goals.install.iter().map(|g| full_name(&g.version.parent())).collect();
    goals.replace.extend(goals.remove.iter().map(full_name).filter(|n| coming.contains(n)));
    goals.remove.retain(|p| !coming.contains(&full_name(p)));
    Ok(goals)
}

struct Finder<'a, 'b> {
    cache: &'a Cache,
    config: &'b SourceConfig,
    task: &'b SolveTask,
}

impl<'a> Finder<'a, '_> {
    /// The package that a name means: of the architecture asked for, else native, else the first foreign one that has it.
    fn lookup(&self, name: &str, arch: Option<&str>) -> Option<Package<'a>> {
        let get = |arch: &str| self.cache.get(&format!("{name}:{arch}"));
        if let Some(arch) = arch {
            // `Architecture: all` lives with the native packages (libapt, MultiArch in pkgcachegen.cc).
            return get(if arch == "all" { &self.config.arch } else { arch });
        }
        let arches = || std::iter::once(&self.config.arch).chain(&self.config.foreign_arches);
        let known: Vec<Package<'a>> = arches().filter_map(|a| get(a)).collect();
        known
            .iter()
            .find(|p| p.has_versions())
            .or_else(|| known.iter().find(|p| p.has_provides()))
            .or_else(|| known.first())
            .cloned()
    }

    fn package(&self, request: &PackageRequest) -> Option<Package<'a>> {
        self.lookup(&request.name, request.arch.as_deref())
    }

    fn refuse_unknown(&self) -> Result<()> {
        let unknown: Vec<&PackageRequest> = self
            .task
            .install
            .iter()
            .filter(|r| self.package(r).is_none_or(|p| !p.has_versions() && !p.has_provides()))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = unknown.iter().map(|r| r.target()).collect();
        let mut error = Error::new(ErrorKind::NotFound, format!("Packages not found: {}", names.join(", ")));
        let all = all_names(self.cache);
        if all.is_empty() {
            return Err(error.hint("There are no package indexes yet; fetch them first: apt-ostree refresh-md"));
        }
        for request in unknown {
            let elsewhere: Vec<String> = self
                .config
                .foreign_arches
                .iter()
                .chain(std::iter::once(&self.config.arch))
                .filter(|a| self.lookup(&request.name, Some(a)).is_some_and(|p| p.has_versions()))
                .map(|a| format!("{}:{a}", request.name))
                .collect();
            if !elsewhere.is_empty() {
                error = error.hint(format!("{} is not available, but {} is.", request.target(), elsewhere.join(", ")));
                continue;
            }
            let near = near_names(&request.name, &all);
            if !near.is_empty() {
                error = error.hint(format!("Instead of {}, did you mean {}?", request.name, near.join(", ")));
            }
        }
        // Who composes looks into the treefile.
        if !self.task.essential {
            error = error.hint(search_hint());
        } else if error.hints.is_empty() {
            error = error.hint("Check the spelling, the sources, and whether the package indexes are up to date.");
        }
        Err(error)
    }

    fn find_removals(&self, goals: &mut Goals<'a>) -> Result<()> {
        let mut unknown = Vec::new();
        for name in &self.task.remove {
            let (plain, arch) = name.split_once(':').map_or((name.as_str(), None), |(n, a)| (n, Some(a)));
            let installed = match arch {
                Some(_) => self.lookup(plain, arch).filter(Package::is_installed),
                None => std::iter::once(&self.config.arch)
                    .chain(&self.config.foreign_arches)
                    .filter_map(|a| self.lookup(plain, Some(a)))
                    .find(Package::is_installed),
            };
            match installed {
                Some(package) if package.installed().is_some_and(|v| is_essential(&v)) => {
                    return Err(Error::new(
                        ErrorKind::Unsatisfiable,
                        format!("{name} is essential: nothing works without it"),
                    )
                    .hint("Replace it by another version, or compose a base without it."));
                }
                Some(package) => goals.remove.push(package),
                None => unknown.push(name.as_str()),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("Packages not installed: {}", unknown.join(", "))))
    }

    /// Another version of an installed package, newer or older.
    fn find_replacement(&self, request: &PackageRequest, goals: &mut Goals<'a>) -> Result<()> {
        let package = self.package(request).filter(Package::is_installed).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("Package \"{}\" not found", request.target()))
                .hint("Only packages of the base can be replaced; others are installed.")
        })?;
        let version = self.select(request, &package)?;
        if version.is_installed() {
            goals.idle.push((request.clone(), id_of(&version)));
            return Ok(());
        }
        goals.replace.insert(full_name(&package));
        let suite = match &request.selector {
            Selector::Suite(suite) => Some(suite.clone()),
            _ => None,
        };
        self.add(Some(request), version, suite, None, goals)
    }

    /// The version that a request by version or suite names.
    fn select(&self, request: &PackageRequest, package: &Package<'a>) -> Result<Version<'a>> {
        match &request.selector {
            Selector::Suite(suite) => package
                .versions()
                .filter(|v| release::offered_by(v, suite))
                .max()
                .ok_or_else(|| not_offered(package, format!("No {} in suite '{suite}'", request.target()))),
            Selector::Version(wanted) => package
                .versions()
                .find(|v| match wanted.strip_suffix('*') {
                    Some(prefix) => v.version().starts_with(prefix),
                    None => v.version() == wanted,
                })
                .ok_or_else(|| not_offered(package, format!("Version '{wanted}' of {} not found", request.target()))),
            Selector::Any | Selector::Relation(..) => {
                Err(Error::usage(format!("'{request}' does not say which version to take"))
                    .hint("Name a version (NAME=VERSION) or a suite."))
            }
        }
    }

    fn find_local(&self, deb: &LocalDeb, goals: &mut Goals<'a>) -> Result<()> {
        let (name, wanted, arch) = (deb.field("Package")?, deb.field("Version")?, deb.field("Architecture")?);
        let path = deb.path.as_str();
        let known = arch == "all" || arch == self.config.arch || self.config.foreign_arches.contains(&arch);
        let package = self.lookup(&name, Some(&arch)).filter(|p| known && p.has_versions()).ok_or_else(|| {
            Error::usage(format!("{path} is for architecture {arch}, which this system does not have"))
        })?;
        let mut version = None;
        for candidate in package.versions().filter(|v| v.version() == wanted) {
            if candidate.package_files().any(|f| f.filename() == Some(path)) {
                version = Some(candidate);
                break;
            }
        }
        let version = version
            .ok_or_else(|| Error::failed(format!("libapt did not take {path} ({name}={wanted}) into its cache")))?;
        let request =
            PackageRequest { name, arch: (arch != "all").then_some(arch), selector: Selector::Version(wanted) };
        self.add(Some(&request), version, None, Some(path.to_owned()), goals)
    }

    fn find_real(&self, request: &PackageRequest, goals: &mut Goals<'a>) -> Result<()> {
        let Some(package) = self.package(request) else { return Ok(()) };
        // A request that says more about the version was here before, or a local file; it may meet this one as well.
        let coming = goals.install.iter().find(|g| full_name(&g.version.parent()) == full_name(&package));
        let met = |v: &Version<'_>| match &request.selector {
            Selector::Any => true,
            Selector::Relation(op, wanted) => relation_holds(v.version(), op, wanted),
            Selector::Version(_) | Selector::Suite(_) => false,
        };
        if coming.is_some_and(|g| met(&g.version)) {
            return Ok(());
        }
        let leaving = goals.remove.iter().any(|p| full_name(p) == full_name(&package));
        let installed = package.installed().filter(|_| !leaving);
        match &request.selector {
            Selector::Any => {
                let version = match installed {
                    Some(version) => version,
                    None => package.candidate().ok_or_else(|| self.no_candidate(request, &package))?,
                };
                self.add(Some(request), version, None, None, goals)
            }
            Selector::Version(_) => self.add(Some(request), self.select(request, &package)?, None, None, goals),
            Selector::Suite(suite) => {
                self.add(Some(request), self.select(request, &package)?, Some(suite.clone()), None, goals)
            }
            Selector::Relation(op, wanted) => {
                let meets = |v: &Version<'_>| relation_holds(v.version(), op, wanted);
                let version = installed
                    .filter(|v| meets(v))
                    .or_else(|| package.candidate().filter(|v| meets(v)))
                    .or_else(|| package.versions().filter(|v| meets(v) && v.priority() >= 0).max());
                let version = version.ok_or_else(|| {
                    not_offered(&package, format!("No version of {} is {op} {wanted}", request.target()))
                })?;
                self.add(Some(request), version, None, None, goals)
            }
        }
    }

    /// A name that only others provide: taken when one of them is there or coming, or when there is only one.
    fn find_virtual(&self, request: &PackageRequest, goals: &mut Goals<'a>) -> Result<()> {
        let Some(package) = self.package(request) else { return Ok(()) };
        if matches!(request.selector, Selector::Version(_) | Selector::Suite(_)) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} is a virtual package and has no versions of its own", request.target()),
            )
            .hint(format!("Name one of its providers: {}.", provider_names(&package).join(", "))));
        }
        let mut providers: Vec<Version<'a>> = Vec::new();
        for provider in package.provides() {
            if let Selector::Relation(op, wanted) = &request.selector {
                let provided = provider.version_str().unwrap_or_default();
                if !relation_holds(provided, op, wanted) {
                    continue;
                }
            }
            // SAFETY: the version is used only as long as the cache that it points into lives ('a).
            providers.push(Version::new(unsafe { provider.target_ver() }, self.cache));
        }
        let coming = |v: &Version<'_>| goals.install.iter().any(|g| id_of(&g.version) == id_of(v));
        if let Some(version) = providers.iter().find(|v| v.is_installed() || coming(v)) {
            if version.is_installed() {
                goals.satisfied.push((request.clone(), id_of(version)));
            }
            return Ok(());
        }
        let is_candidate = |v: &Version<'_>| v.parent().candidate().is_some_and(|c| id_of(&c) == id_of(v));
        let mut candidates: Vec<Version<'a>> = providers.into_iter().filter(is_candidate).collect();
        candidates.sort_by_key(id_of);
        candidates.dedup_by_key(|v| id_of(v));
        // The same package of a foreign architecture is no choice that one would have to make.
        let native = |v: &Version<'_>| v.arch() == self.config.arch || v.arch() == "all";
        if request.arch.is_none() && candidates.iter().any(native) {
            candidates.retain(native);
        }
        match candidates.as_slice() {
            [only] => self.add(Some(request), only.clone(), None, None, goals),
            [] => Err(self.no_candidate(request, &package)),
            several => {
                let names: Vec<String> = several.iter().map(|v| v.parent().name().to_owned()).collect();
                Err(Error::usage(format!("{} is a virtual package with several providers", request.target()))
                    .hint(format!("Choose one of: {}.", names.join(", "))))
            }
        }
    }

    /// Every `Essential: yes` package of the native architecture, and apt.
    fn find_essential(&self, goals: &mut Goals<'a>) {
        let mut found: Vec<Version<'a>> = self
            .cache
            .raw_pkgs()
            .filter(|p| p.arch() == self.config.arch && (p.is_essential() || p.name() == "apt"))
            .map(|p| Package::new(self.cache, p))
            .filter(|p| !p.is_installed())
            .filter_map(|p| p.candidate())
            .filter(|v| v.parent().name() == "apt" || is_essential(v))
            .collect();
        found.sort_by_key(id_of);
        for version in found {
            if !goals.install.iter().any(|g| full_name(&g.version.parent()) == full_name(&version.parent())) {
                goals.install.push(Goal { version, suite: None, local: None, requested: false });
            }
        }
    }

    fn add(
        &self,
        request: Option<&PackageRequest>,
        version: Version<'a>,
        suite: Option<String>,
        local: Option<String>,
        goals: &mut Goals<'a>,
    ) -> Result<()> {
        let name = full_name(&version.parent());
        if version.is_installed() {
            if goals.remove.iter().any(|p| full_name(p) == name) {
                return Err(Error::new(
                    ErrorKind::Unsatisfiable,
                    format!("{name} is requested, and removed by an override"),
                )
                .hint(format!("Undo one of the two: apt-ostree override reset {}", version.parent().name())));
            }
            if let Some(request) = request {
                goals.satisfied.push((request.clone(), id_of(&version)));
            }
            return Ok(());
        }
        if local.is_none() && self.is_excluded(&version.parent()) {
            return Err(Error::new(
                ErrorKind::Unsatisfiable,
                format!("{name} is requested and excluded at the same time"),
            )
            .hint("Take it out of one of the two lists."));
        }
        let leaving = goals.replace.contains(&name) || goals.remove.iter().any(|p| full_name(p) == name);
        if let Some(installed) = version.parent().installed().filter(|_| !leaving) {
            if version::compare(version.version(), installed.version()).is_lt() {
                return Err(Error::new(
                    ErrorKind::Unsatisfiable,
                    format!("{name} {} would replace the newer {} of the base", version.version(), installed.version()),
                )
                .hint("Packages of the base are only replaced by older ones where an override says so."));
            }
        }
        let goal = Goal { version, suite, local, requested: true };
        match goals.install.iter().position(|g| full_name(&g.version.parent()) == name) {
            Some(n) if goals.install.get(n).is_some_and(|g| id_of(&g.version) != id_of(&goal.version)) => {
                let other = goals.install.get(n).map(|g| g.version.version().to_owned()).unwrap_or_default();
                Err(Error::new(
                    ErrorKind::Unsatisfiable,
                    format!("{name} is requested as {other} and as {}", goal.version.version()),
                )
                .hint("Keep only one of the two requests."))
            }
            Some(_) => Ok(()),
            None => {
                goals.install.push(goal);
                Ok(())
            }
        }
    }

    fn is_excluded(&self, package: &Package<'_>) -> bool {
        self.task.exclude.iter().any(|e| e == package.name() || *e == full_name(package))
    }

    fn no_candidate(&self, request: &PackageRequest, package: &Package<'_>) -> Error {
        let error = Error::new(
            ErrorKind::Unsatisfiable,
            format!("Package '{}' has no installation candidate", request.target()),
        );
        if self.is_excluded(package) {
            return error.hint(format!("{} is excluded.", package.name()));
        }
        let versions = versions_of(package);
        if versions.is_empty() {
            return error;
        }
        error
            .hint(format!("Available but not allowed by the pins: {}.", versions.join(", ")))
            .hint("Ask for one of them as name=version, or change apt's preferences.")
    }
}

/// `Essential: yes` in the record of this very version; the flag of the package may come from another one.
pub(crate) fn is_essential(version: &Version<'_>) -> bool {
    version.parent().is_essential() && version.get_record("Essential").is_some_and(|v| v.eq_ignore_ascii_case("yes"))
}

fn relation_holds(have: &str, op: &str, wanted: &str) -> bool {
    let order = version::compare(have, wanted);
    match op {
        "<<" => order.is_lt(),
        "<=" => order.is_le(),
        "=" => order.is_eq(),
        ">=" => order.is_ge(),
        ">>" => order.is_gt(),
        _ => false,
    }
}

fn not_offered(package: &Package<'_>, message: String) -> Error {
    Error::new(ErrorKind::NotFound, message).hint(format!(
        "Available versions of {}: {}.",
        package.name(),
        versions_of(package).join(", ")
    ))
}

/// `version (suite/component)`, newest first.
fn versions_of(package: &Package<'_>) -> Vec<String> {
    let mut versions: Vec<Version<'_>> = package.versions().collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions
        .iter()
        .map(|v| match release::origin_of(v) {
            Some(origin) => format!("{} ({origin})", v.version()),
            None if v.is_installed() => format!("{} (installed)", v.version()),
            None => v.version().to_owned(),
        })
        .collect()
}

fn provider_names(package: &Package<'_>) -> Vec<String> {
    let names: BTreeSet<String> = package.provides().map(|p| p.package().name().to_owned()).collect();
    names.into_iter().collect()
}

/// Every name that can be asked for: packages with a version, and names that others provide.
pub(crate) fn all_names(cache: &Cache) -> BTreeSet<String> {
    cache
        .raw_pkgs()
        .map(|p| Package::new(cache, p))
        .filter(|p| p.has_versions() || p.has_provides())
        .map(|p| p.name().to_owned())
        .collect()
}

/// What to do about names that no index has.
pub(crate) fn search_hint() -> &'static str {
    "Check the spelling; to find it by a word: apt-ostree search WORD. Sources are in /etc/apt/sources.list.d; to fetch their lists anew: \
     apt-ostree refresh-md"
}

/// What a name means that is written as other distributions do, or as this program shows a package: requests that exist.
fn translated(name: &str, all: &BTreeSet<String>) -> Vec<String> {
    let mut list = Vec::new();
    if let Some(stem) = name.strip_suffix("-devel") {
        list.extend([format!("{stem}-dev"), format!("lib{stem}-dev")]);
    }
    // NAME-VERSION[.ARCH]
    if let Some((known, version)) = beginning(name, all) {
        let plain = version.rsplit_once('.').filter(|(_, arch)| ARCHES.contains(arch)).map_or(version, |(v, _)| v);
        if version.starts_with(|c: char| c.is_ascii_digit()) {
            list.push(format!("{known}={plain}"));
        }
    }
    list.retain(|request| all.contains(request.split('=').next().unwrap_or_default()));
    list
}

/// The longest beginning of words that is a name, and the rest.
fn beginning<'a>(name: &'a str, all: &BTreeSet<String>) -> Option<(&'a str, &'a str)> {
    let beginnings = name.rmatch_indices('-').map(|(at, _)| name.split_at(at));
    let (known, rest) = beginnings.into_iter().find(|(beginning, _)| all.contains(*beginning))?;
    Some((known, rest.trim_start_matches('-')))
}

/// dpkg's architectures, as far as they are the end of a package's name in this program's texts.
const ARCHES: &[&str] = &["all", "amd64", "arm64", "armhf", "i386", "ppc64el", "riscv64", "s390x"];

/// Up to three requests: what the name means elsewhere, then names within an edit distance of a third of the name, at most 3,
/// the nearest first. Between those that are a slip or two away and the others stands the name of which the one asked for is a part
/// (`git-core`).
pub(crate) fn near_names(name: &str, all: &BTreeSet<String>) -> Vec<String> {
    let limit = (name.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &String)> = all
        .iter()
        .filter(|other| other.len().abs_diff(name.len()) <= limit)
        .filter_map(|other| Some((distance(name, other)?, other)).filter(|(d, _)| *d <= limit))
        .collect();
    near.sort();
    // A name that continues the one asked for is a good guess, too (`python` for `python3`).
    let longer = all.iter().filter(|other| other.len() > name.len() && other.starts_with(name));
    let (slips, far): (Vec<_>, Vec<_>) = near.into_iter().partition(|(distance, _)| *distance <= 2);
    let name_of = |(_, name): (usize, &'_ String)| name.clone();
    let whole = beginning(name, all).map(|(known, _)| known.to_owned());
    let rest = slips.into_iter().map(name_of).chain(whole).chain(far.into_iter().map(name_of)).chain(longer.cloned());
    let mut list = translated(name, all);
    for other in rest {
        if !list.contains(&other) {
            list.push(other);
        }
    }
    list.truncate(3);
    list
}

/// Edit distance in which two neighbours that changed places count once.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let above = rows.last()?;
            let mut best = (above.get(j)? + usize::from(x != y)).min(above.get(j + 1)? + 1).min(row.get(j)? + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(rows.get(i - 1)?.get(j - 1)? + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last()?.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("htop", "htop"), Some(0));
        assert_eq!(distance("htpo", "htop"), Some(1));
        assert_eq!(distance("vin", "vim"), Some(1));
        assert_eq!(distance("kitten", "sitting"), Some(3));
        assert_eq!(distance("", "abc"), Some(3));
    }

    #[test]
    fn near_names_are_near() {
        let all: BTreeSet<String> =
            ["htop", "atop", "vim", "vim-tiny", "python3", "zsh"].iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(near_names("htpo", &all), ["htop"]);
        assert_eq!(near_names("python", &all), ["python3"]);
        assert!(near_names("postgresql", &all).is_empty());
        let all: BTreeSet<String> =
            ["python3", "python3-requests", "python3-request-id"].iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(near_names("python3-requestz", &all), ["python3-requests", "python3", "python3-request-id"]);
    }

    #[test]
    fn names_of_other_distributions() {
        let all: BTreeSet<String> = ["git", "vim", "python3-dev", "libssl-dev", "gtk-4", "python3", "git-svn"]
            .iter()
            .map(|s| (*s).to_owned())
            .collect();
        let near = |name: &str| near_names(name, &all);
        assert_eq!(near("git-core").first().unwrap(), "git");
        assert_eq!(near("vim-enhanced"), ["vim"]);
        assert_eq!(near("python3-devel").first().unwrap(), "python3-dev");
        assert_eq!(near("ssl-devel"), ["libssl-dev"]);
        assert_eq!(near("git-svn-1:2.47.3-0+deb13u1.all"), ["git-svn=1:2.47.3-0+deb13u1", "git-svn"]);
        assert_eq!(near("gtk-4-5.1").first().unwrap(), "gtk-4=5.1");
    }
}

//! Questions about packages: the indexes and dpkg's status, read.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use apt_ostree_core::catalog::{KnownPackage, KnownVersion, PackageRecord};
use apt_ostree_core::model::package::PackageId;
use apt_ostree_core::source::SourceConfig;
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use rust_apt::records::RecordField;
use rust_apt::{Cache, Package, PackageFile, PkgSelectedState, Version};

use crate::release::{self, IndexKind};
use crate::requests::{all_names, near_names, search_hint};
use crate::session::Session;

/// The fields of `apt show`, in its order (private-show.cc), without those that are told in another form.
const FIELDS: &[&str] = &[
    RecordField::Priority,
    RecordField::Essential,
    "Protected",
    RecordField::Section,
    RecordField::Source,
    RecordField::Maintainer,
    RecordField::OriginalMaintainer,
    RecordField::MultiArch,
    RecordField::Provides,
    RecordField::PreDepends,
    RecordField::Depends,
    RecordField::Recommends,
    RecordField::Suggests,
    "Enhances",
    RecordField::Conflicts,
    RecordField::Breaks,
    RecordField::Replaces,
    RecordField::Homepage,
];

pub(crate) fn packages(
    config: &SourceConfig,
    wanted: &dyn Fn(&str) -> bool,
    summaries: bool,
) -> Result<Vec<KnownPackage>> {
    let session = Session::configure(config, &[])?;
    let cache = session.open(&[])?;
    // Named by number of the index: the same few names stand at tens of thousands of versions.
    let mut origins = Origins::default();
    let mut list: Vec<Package<'_>> =
        cache.iter().filter(|p| p.has_versions() && wanted(p.name())).filter(|p| known_arch(config, p)).collect();
    // The order of the indexes, so that the records are read from front to back.
    list.sort_by(|a, b| (a.name(), a.arch()).cmp(&(b.name(), b.arch())));
    Ok(list.iter().map(|p| known(p, &mut origins, summaries)).collect())
}

pub(crate) fn records(config: &SourceConfig, names: &[String]) -> Result<Vec<PackageRecord>> {
    let session = Session::configure(config, &[])?;
    let cache = session.open(&[])?;
    let mut origins = Origins::default();
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for name in names {
        match lookup(&cache, config, name) {
            Some(package) => found.extend(record(&package, &mut origins)),
            None => unknown.push(name.as_str()),
        }
    }
    if unknown.is_empty() {
        return Ok(found);
    }
    Err(not_found(&cache, config, &unknown))
}

pub(crate) fn providers(config: &SourceConfig, name: &str) -> Result<Vec<String>> {
    let session = Session::configure(config, &[])?;
    let cache = session.open(&[])?;
    let Some(package) = cache.get(name) else { return Ok(Vec::new()) };
    let mut names: Vec<String> = package.provides().map(|provider| provider.package().name().to_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// apt's own downloader, for one file by its address.
const HELPER: &str = "/usr/lib/apt/apt-helper";

pub(crate) fn changelog(config: &SourceConfig, id: &PackageId) -> Result<Option<String>> {
    let Some(uri) = changelog_uri(config, id)? else { return Ok(None) };
    let file = config.state.join("changelog");
    let _ = fs::remove_file(&file);
    let output = Command::new(HELPER)
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download-file", &uri])
        .arg(&file)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .context(|| format!("Starting {HELPER}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().map(|l| l.trim_start_matches("E: ").trim()).rfind(|l| !l.is_empty());
        return Err(Error::new(ErrorKind::Network, format!("{uri}: {}", reason.unwrap_or("apt-helper failed"))));
    }
    let content = fs::read(&file).context(|| format!("Reading {}", file.display()))?;
    Ok(Some(String::from_utf8_lossy(&content).into_owned()))
}

/// As apt makes it (pkgAcqChangelog::URI in acquire-item.cc): `COMPONENT/PREFIX/SOURCE/SOURCE_VERSION`, without the epoch.
fn changelog_uri(config: &SourceConfig, id: &PackageId) -> Result<Option<String>> {
    let session = Session::configure(config, &[])?;
    let cache = session.open(&[])?;
    let Some(package) = lookup(&cache, config, &format!("{}:{}", id.name, id.arch)) else { return Ok(None) };
    let version = package.versions().find(|v| v.version() == id.version);
    // An installed version that no index has any more is of the same archive as those that they have.
    let index = version.as_ref().and_then(index_of).or_else(|| package.versions().find_map(|v| index_of(&v)));
    let (Some(version), Some(index)) = (version, index) else { return Ok(None) };
    let Some(template) = release::changelogs(&index) else { return Ok(None) };
    let source = version.source_name();
    let prefix = source.get(..if source.starts_with("lib") { 4 } else { 1 }).unwrap_or(source);
    let number = version.source_version();
    let number = number.split_once(':').map_or(number, |(_, rest)| rest);
    let component = index.component().filter(|c| !c.is_empty()).map_or_else(String::new, |c| format!("{c}/"));
    Ok(Some(template.replace("@CHANGEPATH@", &format!("{component}{prefix}/{source}/{source}_{number}"))))
}

fn index_of<'a>(version: &Version<'a>) -> Option<PackageFile<'a>> {
    version.package_files().find(PackageFile::is_downloadable_index)
}

/// dpkg's status may have packages of architectures that the machine no longer takes.
fn known_arch(config: &SourceConfig, package: &Package<'_>) -> bool {
    package.arch() == config.arch || package.is_installed() || config.foreign_arches.iter().any(|a| a == package.arch())
}

/// The package of a name with a version: of the architecture that is named, else the native one, else a foreign one.
fn lookup<'a>(cache: &'a Cache, config: &SourceConfig, name: &str) -> Option<Package<'a>> {
    let (name, arch) = name.split_once(':').map_or((name, None), |(n, a)| (n, Some(a)));
    let get = |arch: &str| {
        let arch = if arch == "all" { &config.arch } else { arch };
        cache.get(&format!("{name}:{arch}")).filter(Package::has_versions)
    };
    match arch {
        Some(arch) => get(arch),
        None => std::iter::once(&config.arch).chain(&config.foreign_arches).find_map(|a| get(a)),
    }
}

fn not_found(cache: &Cache, config: &SourceConfig, unknown: &[&str]) -> Error {
    let mut error = Error::new(ErrorKind::NotFound, format!("Packages not found: {}", unknown.join(", ")));
    let all = all_names(cache);
    for name in unknown {
        let plain = name.split(':').next().unwrap_or(name);
        let mut providers: Vec<String> = std::iter::once(&config.arch)
            .filter_map(|a| cache.get(&format!("{plain}:{a}")))
            .flat_map(|p| p.provides().map(|provider| provider.package().name().to_owned()).collect::<Vec<_>>())
            .collect();
        providers.sort();
        providers.dedup();
        if !providers.is_empty() {
            error = error.hint(format!("{name} is a virtual package, provided by {}.", providers.join(", ")));
            continue;
        }
        let near = near_names(plain, &all);
        if !near.is_empty() {
            error = error.hint(format!("Instead of {name}, did you mean {}?", near.join(", ")));
        }
    }
    error.hint(search_hint())
}

/// `suite/component` of indexes, by the path of their list.
#[derive(Default)]
struct Origins(BTreeMap<String, String>);

impl Origins {
    fn of(&mut self, version: &Version<'_>) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        for file in version.package_files().filter(PackageFile::is_downloadable_index) {
            let path = file.filename().unwrap_or_default();
            let name = match self.0.get(path) {
                Some(name) => name.clone(),
                None => {
                    let name = format!("{}/{}", release::suite_of(&file), file.component().unwrap_or("main"));
                    self.0.insert(path.to_owned(), name.clone());
                    name
                }
            };
            if !list.contains(&name) {
                list.push(name);
            }
        }
        list
    }
}

fn known(package: &Package<'_>, origins: &mut Origins, summaries: bool) -> KnownPackage {
    let versions: Vec<Version<'_>> = package.versions().collect();
    let summary = if summaries { shown(package).and_then(|v| v.summary()).unwrap_or_default() } else { String::new() };
    KnownPackage {
        name: package.name().to_owned(),
        arch: package.arch().to_owned(),
        candidate: package.candidate().map(|v| v.version().to_owned()),
        held: package.selected_state() == PkgSelectedState::Hold,
        automatic: package.is_installed() && package.is_auto_installed(),
        summary,
        versions: versions
            .iter()
            .map(|v| KnownVersion {
                version: v.version().to_owned(),
                arch: v.arch().to_owned(),
                installed: v.is_installed(),
                origins: origins.of(v),
                priority: v.priority(),
            })
            .collect(),
    }
}

/// The version that stands for a package: the installed one, else the candidate, else the newest.
fn shown<'a>(package: &Package<'a>) -> Option<Version<'a>> {
    package.installed().or_else(|| package.candidate()).or_else(|| package.versions().next())
}

fn record(package: &Package<'_>, origins: &mut Origins) -> Option<PackageRecord> {
    let version = shown(package)?;
    // The index, if any has it: only there is the size of the .deb. The long description is where the package is installed.
    let field = |name: &str| version.version_files().find_map(|file| file.lookup().get_field(name.to_owned()));
    let long = version
        .version_files()
        .filter_map(|file| file.lookup().get_field(RecordField::Description.to_owned()))
        .max_by_key(String::len);
    Some(PackageRecord {
        package: known(package, origins, true),
        version: version.version().to_owned(),
        arch: version.arch().to_owned(),
        fields: FIELDS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), field(name)?.trim().to_owned())))
            .filter(|(_, value)| !value.is_empty())
            .collect(),
        download_size: version.size(),
        installed_size: version.installed_size(),
        description: long.or_else(|| version.summary()).unwrap_or_default().trim().to_owned(),
    })
}

//! What the indexes say of themselves: origin, suite, component, date.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use apt_ostree_core::model::advisory::ReleaseNames;
use apt_ostree_core::source::{ArchiveInfo, SourceConfig};
use rust_apt::{Cache, PackageFile, Version};

/// Suite as the sources name it (`trixie-security`), taken from the name of the index file, where apt keeps it; the
/// codename or the archive of the Release file otherwise (flat archives).
pub(crate) fn suite_of(file: &PackageFile<'_>) -> String {
    let name = file.filename().unwrap_or_default();
    let component = file.component().unwrap_or_default();
    let dist = name
        .split_once("_dists_")
        .and_then(|(_, rest)| rest.split_once(&format!("_{component}_binary-")))
        .map(|(dist, _)| dist.replace('_', "/"));
    dist.or_else(|| file.codename().map(str::to_owned))
        .or_else(|| file.archive().map(str::to_owned))
        .unwrap_or_else(|| file.site().unwrap_or("unknown").to_owned())
}

/// `suite/component` of the first index that offers a version, or `None` for one that is only installed or local.
pub(crate) fn origin_of(version: &Version<'_>) -> Option<String> {
    let file = version.package_files().find(PackageFile::is_downloadable_index)?;
    Some(format!("{}/{}", suite_of(&file), file.component().unwrap_or("main")))
}

/// Whether a version is offered by a suite: by its name in the sources, its `Suite`, its `Codename`, or the
/// [`ArchiveInfo::id`] of one of its indexes.
pub(crate) fn offered_by(version: &Version<'_>, suite: &str) -> bool {
    version.package_files().filter(PackageFile::is_downloadable_index).any(|file| {
        file.archive() == Some(suite)
            || file.codename() == Some(suite)
            || suite_of(&file) == suite
            || id_of(&file) == suite
    })
}

/// Whether an archive for security updates offers a version.
pub(crate) fn is_security(version: &Version<'_>) -> bool {
    version.package_files().filter(PackageFile::is_downloadable_index).any(|file| {
        let suite = suite_of(&file);
        let names = ReleaseNames {
            label: file.label().unwrap_or_default(),
            suite: file.archive().unwrap_or(&suite),
            codename: file.codename().unwrap_or_default(),
        };
        names.is_security()
    })
}

fn id_of(file: &PackageFile<'_>) -> String {
    let suite = suite_of(file);
    match file.origin() {
        Some(origin) => format!("{origin}/{suite}"),
        None => suite,
    }
}

/// A question that rust-apt does not ask by itself.
pub(crate) trait IndexKind {
    /// An index of an archive; neither dpkg's status nor a local .deb.
    fn is_downloadable_index(&self) -> bool;
}

impl IndexKind for PackageFile<'_> {
    fn is_downloadable_index(&self) -> bool {
        self.is_downloadable() && self.index_type() == Some("Debian Package Index")
    }
}

/// Every archive that the cache was built from, one entry a component.
pub(crate) fn archives(cache: &Cache, config: &SourceConfig) -> Vec<ArchiveInfo> {
    let lists = config.state.join("lists");
    let releases = release_dates(&lists);
    let mut found: BTreeMap<(String, String), ArchiveInfo> = BTreeMap::new();
    for file in cache.package_files().filter(PackageFile::is_downloadable_index) {
        let suite = suite_of(&file);
        let id = id_of(&file);
        let component = file.component().unwrap_or_default().to_owned();
        let stem = Path::new(file.filename().unwrap_or_default()).file_name().unwrap_or_default().to_string_lossy();
        let date = releases.iter().filter(|(prefix, _)| stem.starts_with(prefix.as_str())).map(|(_, date)| *date).max();
        found.entry((id.clone(), component.clone())).or_insert_with(|| ArchiveInfo {
            id,
            suite: file.archive().unwrap_or(&suite).to_owned(),
            codename: file.codename().unwrap_or_default().to_owned(),
            component,
            date: date.unwrap_or(0),
        });
    }
    found.into_values().collect()
}

/// `Changelogs:` of the Release file that an index belongs to: an address with `@CHANGEPATH@` in it. `no` says there are none.
pub(crate) fn changelogs(index: &PackageFile<'_>) -> Option<String> {
    let path = Path::new(index.filename()?);
    let (lists, name) = (path.parent()?, path.file_name()?.to_string_lossy().into_owned());
    let templates = release_fields(lists, "Changelogs:");
    let longest = templates.into_iter().filter(|(prefix, _)| name.starts_with(prefix.as_str()));
    let (_, template) = longest.max_by_key(|(prefix, _)| prefix.len())?;
    template.contains("@CHANGEPATH@").then_some(template)
}

/// `Date:` of every Release file, by the part of the file name that its indexes share.
fn release_dates(lists: &Path) -> Vec<(String, u64)> {
    release_fields(lists, "Date:").into_iter().filter_map(|(prefix, date)| Some((prefix, parse_date(&date)?))).collect()
}

/// A field of every Release file that has it, by the part of the file name that its indexes share.
fn release_fields(lists: &Path, field: &str) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(lists) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let prefix = name.strip_suffix("InRelease").or_else(|| name.strip_suffix("Release"))?.to_owned();
            let text = fs::read_to_string(entry.path()).ok()?;
            let value = text.lines().find_map(|l| l.strip_prefix(field))?;
            Some((prefix, value.trim().to_owned()))
        })
        .collect()
}

/// Seconds since the epoch of `Sat, 09 Aug 2025 09:10:53 UTC` (Release files are in UTC; Debian wiki RepositoryFormat).
fn parse_date(text: &str) -> Option<u64> {
    let rest = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = rest.split_whitespace();
    let day: u64 = words.next()?.parse().ok()?;
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let word = words.next()?;
    let month = u64::try_from(names.iter().position(|n| *n == word)?).ok()? + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    // Days of a civil date, counted in years that start in March.
    let shifted_year = if month <= 2 { year.checked_sub(1)? } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted_year * 365 + shifted_year / 4 - shifted_year / 100 + shifted_year / 400 + day_of_year;
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::parse_date;

    #[test]
    fn dates_of_release_files() {
        // Oracle: date -u -d '…' +%s
        assert_eq!(parse_date("Sat, 09 Aug 2025 09:10:53 UTC"), Some(1_754_730_653));
        assert_eq!(parse_date("Tue, 29 Feb 2000 00:00:00 UTC"), Some(951_782_400));
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:01 +0000"), Some(1));
        assert_eq!(parse_date("yesterday"), None);
    }
}

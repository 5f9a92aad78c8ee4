//! What a user can name at some place of a command line: packages, revisions, branches, kernel arguments.
//!
//! For shells that complete words: it has to be there before the user notices, so indexes are read as text, without libapt, and it
//! has to be quiet: what cannot be read gives no words. Needs neither root nor a lock.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::repo::Repo;
use crate::sysroot::{Deployment, Sysroot, without_ostree_karg};

/// More names than anybody reads.
const MAX_NAMES: usize = 2000;

/// A word, and what it means; empty where the word says it.
pub type Word = (String, String);

/// One sysroot and the stateroot that is asked about.
#[derive(Debug)]
pub struct Words {
    sysroot: Sysroot,
    repo: Repo,
    deployments: Vec<Deployment>,
}

impl Words {
    /// Nothing where there is no sysroot.
    pub fn open(sysroot: &Path) -> Option<Self> {
        let sysroot = Sysroot::open(sysroot).ok()?;
        Some(Self { repo: sysroot.repo(), deployments: sysroot.deployments(), sysroot })
    }

    /// Names of packages that the apt archives of the machine have, as of the last refresh.
    pub fn available(&self, prefix: &str) -> Vec<Word> {
        let mut names = BTreeSet::new();
        let lists = self.repo.extension_path("apt").join("lists");
        for entry in std::fs::read_dir(lists).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with("_Packages") {
                read_names(&entry.path(), prefix, &mut names);
            }
        }
        plain(names.into_iter().take(MAX_NAMES))
    }

    /// Names of packages in the base of the deployment that boots next.
    pub fn base(&self, prefix: &str) -> Vec<Word> {
        let base = self.deployments.first().and_then(|d| Some(self.repo.info(&d.checksum()).ok()?.base().to_owned()));
        let packages = base.and_then(|base| self.repo.packages(&base).ok()).unwrap_or_default();
        let names: BTreeSet<String> = packages.into_iter().map(|p| p.name).filter(|n| n.starts_with(prefix)).collect();
        plain(names.into_iter())
    }

    /// Requests of the deployment that boots next, in the words that `uninstall` takes.
    pub fn requested(&self) -> Vec<Word> {
        let Some(origin) = self.deployments.first().and_then(|d| d.origin().ok()) else { return Vec::new() };
        plain(origin.requested.into_iter().chain(origin.requested_local.into_iter().map(|local| local.id.nevra())))
    }

    /// Packages that have an override.
    pub fn overridden(&self) -> Vec<Word> {
        let Some(origin) = self.deployments.first().and_then(|d| d.origin().ok()) else { return Vec::new() };
        let local = origin.override_replace_local.into_iter().map(|local| local.id.name);
        let remote = origin.override_replace.into_iter().flat_map(|entry| entry.packages);
        plain(origin.override_remove.into_iter().chain(local).chain(remote))
    }

    /// Base commits of the deployments, and their versions as `deploy` takes them.
    pub fn revisions(&self) -> Vec<Word> {
        let mut words = Vec::new();
        for (index, deployment) in self.deployments.iter().enumerate() {
            let Ok(info) = self.repo.info(&deployment.checksum()) else { continue };
            let version = info.version.clone().unwrap_or_default();
            let about = format!("deployment {index}{}{version}", if version.is_empty() { "" } else { ": " });
            words.push((info.base().to_owned(), about.clone()));
            if deployment.checksum() != info.base() {
                words.push((deployment.checksum(), format!("{about}, layered")));
            }
        }
        words
    }

    /// `version=…` of the deployments.
    pub fn versions(&self) -> Vec<Word> {
        let info = |d: &Deployment| self.repo.info(&d.checksum()).ok();
        let versions =
            self.deployments.iter().filter_map(info).filter_map(|info| Some(format!("version={}", info.version?)));
        plain(versions)
    }

    /// Branches in the repository, `REMOTE:BRANCH`, without those that libostree and this program keep for themselves.
    pub fn refs(&self) -> Vec<Word> {
        let refs = self.repo.refs().unwrap_or_default().into_iter();
        plain(refs.filter(|name| !["ostree/", "rpmostree/"].iter().any(|own| name.starts_with(own))))
    }

    pub fn branches(&self) -> Vec<Word> {
        let branch = |(name, _): Word| name.split_once(':').map_or(name.clone(), |(_, branch)| branch.to_owned());
        plain(self.refs().into_iter().map(branch))
    }

    pub fn remotes(&self) -> Vec<Word> {
        plain(self.repo.remotes().into_iter())
    }

    pub fn stateroots(&self) -> Vec<Word> {
        plain(self.deployments.iter().map(Deployment::stateroot))
    }

    /// Numbers of the deployments, as `kargs --deploy-index` takes them.
    pub fn indexes(&self) -> Vec<Word> {
        let about = |d: &Deployment| self.repo.info(&d.checksum()).ok().and_then(|i| i.version).unwrap_or_default();
        self.deployments.iter().enumerate().map(|(index, d)| (index.to_string(), about(d))).collect()
    }

    /// Kernel arguments of the deployment that boots next.
    pub fn kernel_arguments(&self) -> Vec<Word> {
        let line = self.deployments.first().map(|d| without_ostree_karg(&d.kernel_command_line())).unwrap_or_default();
        plain(line.split_whitespace().map(str::to_owned))
    }

    /// The base commit of the staged deployment.
    pub fn staged(&self) -> Vec<Word> {
        let staged = self.deployments.iter().find(|d| d.is_staged());
        let base = staged.and_then(|d| Some(self.repo.info(&d.checksum()).ok()?.base().to_owned()));
        plain(base.into_iter())
    }

    pub fn sysroot(&self) -> &Path {
        self.sysroot.path()
    }
}

fn plain(words: impl Iterator<Item = String>) -> Vec<Word> {
    let words: BTreeSet<String> = words.collect();
    words.into_iter().map(|word| (word, String::new())).collect()
}

/// The `Package` fields of an index.
fn read_names(index: &Path, prefix: &str, names: &mut BTreeSet<String>) {
    let Ok(file) = File::open(index) else { return };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
        let name = line.strip_prefix(b"Package: ").and_then(|name| std::str::from_utf8(name).ok()).map(str::trim_end);
        if let Some(name) = name.filter(|name| name.starts_with(prefix)) {
            names.insert(name.to_owned());
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("x_Packages");
        let text = b"Package: htop\nVersion: 1\nDescription: Package: no\n\nPackage: hello\nX: \xff\n\nPackage: vim\n\nPackage: htop\n";
        std::fs::write(&index, text).unwrap();
        let mut names = BTreeSet::new();
        read_names(&index, "h", &mut names);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["hello", "htop"]);
        read_names(&dir.path().join("missing"), "", &mut BTreeSet::new());
    }
}

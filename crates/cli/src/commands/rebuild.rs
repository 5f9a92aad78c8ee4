//! `rebuild`: what the treefiles of `origin.d` ask for, done to the container that is being built. They are consumed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use apt_ostree_core::model::treefile::DeriveTreefile;
use apt_ostree_core::operation::PackageChanges;
use apt_ostree_core::{Context, Error, Result};

use super::{App, Transaction, sort_packages_from};
use crate::args::Failure;
use crate::container::{self, Change};

/// Ours, and rpm-ostree's.
const DIRECTORIES: [&str; 2] = ["/etc/apt-ostree/origin.d", "/etc/rpm-ostree/origin.d"];

pub(crate) fn run(app: &App) -> Result<ExitCode, Failure> {
    if !app.in_container() {
        let error =
            Error::usage("rebuild is for container builds, and this is no container made from a composed image")
                .hint("On a system, `install` and `override` take what origin.d would hold.");
        return Err(container::hint(Path::new("/")).into_iter().fold(error, Error::hint).into());
    }
    let files = all_treefiles(&DIRECTORIES.map(Path::new))?;
    let mut change = Change::default();
    let mut empty = true;
    for file in &files {
        let text = std::fs::read_to_string(file).context(|| format!("Reading {}", file.display()))?;
        let mut asked = DeriveTreefile::default();
        asked.add(file, &text)?;
        empty = empty && asked.is_empty();
        add(&mut change, file, asked).context(|| file.display().to_string())?;
    }
    let code = if empty {
        app.terminal.line("No changes to apply.");
        ExitCode::SUCCESS
    } else {
        container::apply(app, &change, &Transaction::default())?
    };
    for file in files {
        std::fs::remove_file(&file).context(|| format!("Removing {}", file.display()))?;
    }
    Ok(code)
}

/// As if its names were words of a command line; paths are meant from where the file is.
fn add(change: &mut Change, file: &Path, asked: DeriveTreefile) -> Result<()> {
    let dir = file.parent().unwrap_or(file);
    let sorted = |names| {
        let mut sorted = PackageChanges::default();
        sort_packages_from(dir, &mut sorted, names).map(|()| (sorted.install, sorted.install_local))
    };
    let (names, files) = sorted(asked.packages)?;
    change.install.extend(names);
    change.install_local.extend(files);
    let (names, files) = sorted(asked.override_replace)?;
    change.replace.extend(names);
    change.replace_local.extend(files);
    change.remove.extend(asked.override_remove);
    Ok(())
}

/// Those of every directory once, also where one is a link to another.
fn all_treefiles(dirs: &[&Path]) -> Result<Vec<PathBuf>> {
    let (mut seen, mut files) = (Vec::new(), Vec::new());
    for dir in dirs {
        let real = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        if !seen.contains(&real) {
            files.extend(treefiles(dir)?);
            seen.push(real);
        }
    }
    Ok(files)
}

/// By name, as everything in a `.d`.
fn treefiles(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("Reading {}", dir.display()))?,
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_treefile = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    let mut files: Vec<PathBuf> = paths.into_iter().filter(is_treefile).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_treefile_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("apt-ostree/origin.d"), dir.path().join("rpm-ostree/origin.d"));
        std::fs::create_dir_all(&ours).unwrap();
        std::fs::write(ours.join("a.yaml"), "").unwrap();
        std::fs::write(ours.join("b.json"), "").unwrap();
        std::fs::write(ours.join("README"), "").unwrap();
        let names = [ours.join("a.yaml"), ours.join("b.json")];
        assert_eq!(all_treefiles(&[&ours, &theirs]).unwrap(), names);
        std::os::unix::fs::symlink("apt-ostree", dir.path().join("rpm-ostree")).unwrap();
        assert_eq!(all_treefiles(&[&ours, &theirs]).unwrap(), names);
    }

    #[test]
    fn paths_are_meant_from_where_the_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let deb = dir.join("a.deb");
        std::fs::write(&deb, "").unwrap();
        let asked = |packages: &[&str], replace: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
            DeriveTreefile { packages: list(packages), override_replace: list(replace), ..DeriveTreefile::default() }
        };
        let mut change = Change::default();
        let file = dir.join("x.yaml");
        add(&mut change, &file, asked(&["htop", "./a.deb"], &["less=1", "a.deb"])).unwrap();
        assert_eq!((change.install, change.install_local), (vec!["htop".to_owned()], vec![deb.clone()]));
        assert_eq!((change.replace, change.replace_local), (vec!["less=1".to_owned()], vec![deb]));
        for bad in ["~nless|~nx.deb", "https://x/a.deb", "b.deb", "a.rpm", "lib*"] {
            for asked in [asked(&[bad], &[]), asked(&[], &[bad])] {
                assert!(add(&mut Change::default(), &file, asked).is_err(), "{bad}");
            }
        }
    }
}

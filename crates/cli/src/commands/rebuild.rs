//! `rebuild`: what the treefiles of `origin.d` ask for, done to the container that is being built. They are consumed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use apt_ostree_core::model::treefile::DeriveTreefile;
use apt_ostree_core::{Context, Error, Result};

use super::{App, Transaction};
use crate::args::Failure;
use crate::container::{self, Change};

/// Ours, and rpm-ostree's.
const DIRECTORIES: [&str; 2] = ["/etc/apt-ostree/origin.d", "/etc/rpm-ostree/origin.d"];

pub(crate) fn run(app: &App) -> Result<ExitCode, Failure> {
    if !app.in_container() {
        return Err(Error::usage(
            "rebuild is for container builds, and this is no container made from a composed image",
        )
        .hint("On a system, `install` and `override` take what origin.d would hold.")
        .into());
    }
    let mut files = Vec::new();
    for dir in DIRECTORIES {
        files.extend(treefiles(Path::new(dir))?);
    }
    let mut all = DeriveTreefile::default();
    for file in &files {
        let text = std::fs::read_to_string(file).context(|| format!("Reading {}", file.display()))?;
        all.add(file, &text)?;
    }
    let code = if all.is_empty() {
        app.terminal.line("No changes to apply.");
        ExitCode::SUCCESS
    } else {
        let mut change = Change { remove: all.override_remove, replace: all.override_replace, ..Change::default() };
        for name in all.packages {
            if name.ends_with(".deb") { change.install_local.push(name.into()) } else { change.install.push(name) }
        }
        container::apply(app, &change, &Transaction::default())?
    };
    for file in files {
        std::fs::remove_file(&file).context(|| format!("Removing {}", file.display()))?;
    }
    Ok(code)
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

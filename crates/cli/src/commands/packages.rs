//! `internals packages KIND NAME…`: what the service answers `GetPackages`, `WhatProvides` and `Search` with, as JSON.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;

use apt_ostree_apt::AptSource;
use apt_ostree_core::catalog::PackageRecord;
use apt_ostree_core::query::{Item, Selection, View};
use apt_ostree_core::{Error, Result};
use apt_ostree_daemon::packages::Found;
use clap::{Args, ValueEnum};

use super::{App, StaterootArg};
use crate::args::Failure;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Names,
    Provides,
    Search,
}

#[derive(Debug, Args)]
pub(crate) struct PackagesArgs {
    kind: Kind,
    #[command(flatten)]
    stateroot: StaterootArg,
    names: Vec<String>,
}

pub(crate) fn run(app: &App, args: &PackagesArgs) -> Result<ExitCode, Failure> {
    let view = app.view(&args.stateroot)?;
    let found = match args.kind {
        Kind::Names => names(&view, &args.names)?,
        Kind::Provides => providers(&view, &args.names)?,
        Kind::Search => search(&view, &args.names)?,
    };
    app.terminal.line(&serde_json::to_string(&found).map_err(Error::from)?);
    Ok(ExitCode::SUCCESS)
}

fn names(view: &View, names: &[String]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    // One unknown name does not hide the others: only known ones are asked for, all at once.
    let known = view.list(&mut AptSource::new(), names, Selection { all: true, ..Selection::default() })?;
    let known: HashSet<&str> = known.iter().map(|item| item.name.as_str()).collect();
    let asked: Vec<String> =
        names.iter().filter(|n| known.contains(n.split(':').next().unwrap_or(n))).cloned().collect();
    if asked.is_empty() {
        return Ok(found);
    }
    for (record, item) in view.info(&mut AptSource::new(), &asked)? {
        let name = &record.package.name;
        let key = asked.iter().find(|n| *n == name || n.split(':').next() == Some(name.as_str())).unwrap_or(name);
        found.push(entry(key, &record, &item));
    }
    Ok(found)
}

/// Packages of that name, and those whose `Provides` has it.
fn providers(view: &View, names: &[String]) -> Result<Vec<Found>> {
    let mut found = self::names(view, names)?;
    for name in names {
        let provided = view.providers(&mut AptSource::new(), name)?;
        let known = |package: &str| found.iter().any(|f: &Found| f.key == *name && f.name == package);
        let new: Vec<String> = provided.into_iter().filter(|package| !known(package)).collect();
        for package in new {
            let records = view.info(&mut AptSource::new(), &[package]).unwrap_or_default();
            found.extend(records.iter().map(|(record, item)| entry(name, record, item)));
        }
    }
    Ok(found)
}

fn search(view: &View, terms: &[String]) -> Result<Vec<Found>> {
    let hits = view.search(&mut AptSource::new(), terms)?;
    let groups =
        [("match_group_a", hits.name_and_summary), ("match_group_b", hits.name), ("match_group_c", hits.summary)];
    let items = view.list(&mut AptSource::new(), &[], Selection { all: true, ..Selection::default() })?;
    let items: HashMap<&str, &Item> = items.iter().map(|item| (item.name.as_str(), item)).collect();
    let mut found = Vec::new();
    for (key, list) in groups {
        for (name, summary) in list {
            let Some(item) = items.get(name.as_str()) else { continue };
            found.push(Found {
                key: key.into(),
                name,
                version: item.version.clone(),
                arch: item.arch.clone(),
                summary,
                source: item.origins.first().cloned().unwrap_or_default(),
            });
        }
    }
    Ok(found)
}

fn entry(key: &str, record: &PackageRecord, item: &Item) -> Found {
    Found {
        key: key.to_owned(),
        name: record.package.name.clone(),
        version: record.version.clone(),
        arch: record.arch.clone(),
        summary: record.description.lines().next().unwrap_or_default().to_owned(),
        source: item.origins.first().cloned().unwrap_or_default(),
    }
}

//! `info PKG…`: what `apt show` tells, and where the package is. Needs neither root nor a worker.

use std::process::ExitCode;

use apt_ostree_apt::AptSource;
use apt_ostree_core::catalog::PackageRecord;
use apt_ostree_core::query::{Item, Place};
use clap::Args;
use serde_json::{Map, Value, json};

use super::{App, StaterootArg};
use crate::args::{Failure, usage};
use crate::render::size;

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree info [OPTIONS] PACKAGE…")]
pub(crate) struct InfoArgs {
    /// NAME or NAME:ARCH
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Output JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(app: &App, args: &InfoArgs) -> Result<ExitCode, Failure> {
    if args.packages.is_empty() {
        return usage("At least one PACKAGE must be specified");
    }
    let found = app.view(&args.stateroot)?.info(&mut AptSource::new(), &args.packages)?;
    if args.json {
        app.print_json(&found.iter().map(|(record, item)| document(record, item)).collect::<Vec<_>>());
    } else {
        let stanzas: Vec<String> = found.iter().map(|(record, item)| stanza(record, item)).collect();
        app.terminal.print(&stanzas.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// `in the base image`, …
fn place(item: &Item) -> String {
    match (item.state, &item.base_version) {
        (Place::Available, _) => "not installed".into(),
        (Place::Base, _) => "in the base image".into(),
        (Place::Layered, Some(base)) => format!("layered in place of {base} of the base image"),
        (Place::Layered, None) if item.requested => "layered, requested".into(),
        (Place::Layered, None) => "layered, needed by another package".into(),
    }
}

fn stanza(record: &PackageRecord, item: &Item) -> String {
    let mut text = String::new();
    let mut one = |key: &str, value: &str| text += &format!("{key}: {value}\n");
    one("Package", &record.package.name);
    one("Version", &record.version);
    one("Architecture", &record.arch);
    one("Status", &place(item));
    if item.held {
        one("Held", "yes");
    }
    for (key, value) in &record.fields {
        one(key, value);
    }
    one("Installed-Size", &size(record.installed_size));
    // Known where an archive has the package.
    if !item.origins.is_empty() {
        one("Download-Size", &size(record.download_size));
    }
    for version in record.package.versions.iter().filter(|v| !v.origins.is_empty()) {
        let mark = if record.package.candidate.as_ref() == Some(&version.version) { ", candidate" } else { "" };
        one(
            "Available",
            &format!("{} ({}, priority {}{mark})", version.version, version.origins.join(" "), version.priority),
        );
    }
    one("Description", &record.description);
    text
}

fn document(record: &PackageRecord, item: &Item) -> Value {
    let fields: Map<String, Value> = record.fields.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
    let versions: Vec<Value> = record
        .package
        .versions
        .iter()
        .map(|v| {
            json!({
                "version": v.version, "arch": v.arch, "installed": v.installed, "origins": v.origins,
                "priority": v.priority,
            })
        })
        .collect();
    json!({
        "name": record.package.name,
        "arch": record.arch,
        "version": record.version,
        "state": item.state,
        "requested": item.requested,
        "automatic": item.automatic,
        "held": item.held,
        "base-version": item.base_version,
        "candidate": item.candidate,
        "versions": versions,
        "installed-size": record.installed_size,
        "download-size": record.download_size,
        "fields": fields,
        "description": record.description,
    })
}

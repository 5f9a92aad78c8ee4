//! `list [PATTERN…]`: packages of the deployment, and those of the archives. Needs neither root nor a worker.

use std::process::ExitCode;

use apt_ostree_apt::AptSource;
use apt_ostree_core::query::{Item, Place, Selection};
use clap::Args;

use super::{App, StaterootArg};
use crate::args::Failure;

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree list [OPTIONS] [PATTERN…]")]
pub(crate) struct ListArgs {
    /// Shell patterns that names match; NAME:ARCH for one architecture
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Packages of the base image only
    #[arg(short, long)]
    base: bool,
    /// Packages on top of the base image only
    #[arg(short, long)]
    layered: bool,
    /// Packages of which the archives have a newer version
    #[arg(short, long)]
    upgradable: bool,
    /// Packages that are not installed as well
    #[arg(short, long, conflicts_with = "upgradable")]
    all: bool,
    /// Accepted as in apt: installed packages are what is listed
    #[arg(long, hide = true)]
    installed: bool,
    /// Output JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(app: &App, args: &ListArgs) -> Result<ExitCode, Failure> {
    let selection = Selection { base: args.base, layered: args.layered, upgradable: args.upgradable, all: args.all };
    let items = app.view(&args.stateroot)?.list(&mut AptSource::new(), &args.patterns, selection)?;
    if args.json {
        app.print_json(&items);
        return Ok(ExitCode::SUCCESS);
    }
    let text: String = items.iter().map(|item| line(item, args.upgradable) + "\n").collect();
    app.terminal.print(&text);
    Ok(ExitCode::SUCCESS)
}

/// A line of `apt list`: `name/suite,now version arch [what]`, with where the package is instead of `installed`.
fn line(item: &Item, upgradable: bool) -> String {
    if let Some(candidate) = item.candidate.as_ref().filter(|_| upgradable) {
        let suites = suites(&item.candidate_origins, false);
        return format!("{}/{suites} {candidate} {} [upgradable from: {}]", item.name, item.arch, item.version);
    }
    let installed = item.state != Place::Available;
    let mut what = Vec::new();
    match item.state {
        Place::Base => what.push("base".to_owned()),
        Place::Layered => what.push("layered".to_owned()),
        Place::Available => {}
    }
    if item.requested {
        what.push("requested".into());
    }
    if let Some(base) = &item.base_version {
        what.push(format!("base has: {base}"));
    }
    if item.held {
        what.push("held".into());
    }
    if item.local {
        what.push("local".into());
    }
    if let Some(candidate) = item.candidate.as_ref().filter(|_| item.upgradable) {
        what.push(format!("upgradable to: {candidate}"));
    }
    let what = if what.is_empty() { String::new() } else { format!(" [{}]", what.join(",")) };
    format!("{}/{} {} {}{what}", item.name, suites(&item.origins, installed), item.version, item.arch)
}

/// `suite,suite,now` out of `suite/component`.
fn suites(origins: &[String], now: bool) -> String {
    let mut list: Vec<&str> = origins.iter().filter_map(|o| o.rsplit_once('/')).map(|(suite, _)| suite).collect();
    list.dedup();
    if now {
        list.push("now");
    }
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut item = Item {
            name: "htop".into(),
            arch: "amd64".into(),
            version: "3.4".into(),
            state: Place::Layered,
            requested: true,
            automatic: false,
            held: false,
            local: false,
            base_version: None,
            origins: vec!["trixie/main".into()],
            candidate: Some("3.5".into()),
            candidate_origins: vec!["trixie-backports/main".into()],
            upgradable: true,
        };
        assert_eq!(line(&item, false), "htop/trixie,now 3.4 amd64 [layered,requested,upgradable to: 3.5]");
        assert_eq!(line(&item, true), "htop/trixie-backports 3.5 amd64 [upgradable from: 3.4]");
        item.origins.clear();
        item.local = true;
        item.upgradable = false;
        assert_eq!(line(&item, false), "htop/now 3.4 amd64 [layered,requested,local]");
        item.state = Place::Available;
        item.local = false;
        item.requested = false;
        item.origins = vec!["trixie/main".into(), "trixie/contrib".into()];
        assert_eq!(line(&item, false), "htop/trixie 3.4 amd64");
    }
}

//! `db list|diff|version`: the packages of commits and what differs between them. Needs neither root nor a worker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_apt::AptSource;
use apt_ostree_core::changelog::{self, Changes, Fetch};
use apt_ostree_core::model::advisory::{self, Advisory};
use apt_ostree_core::model::changelog as changelog_model;
use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::model::glob;
use apt_ostree_core::model::package::PackageId;
use apt_ostree_core::repo::Repo;
use apt_ostree_core::status::{DeploymentStatus, SysrootStatus};
use apt_ostree_core::sysroot::Sysroot;
use apt_ostree_core::{Error, ErrorKind, Result, db};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{App, StaterootArg};
use crate::args::{Failure, usage};
use crate::render::advisory_lines;

#[derive(Debug, Args)]
pub(crate) struct DbArgs {
    /// Path to OSTree repository (defaults to /sysroot/ostree/repo)
    #[arg(short, long, value_name = "PATH", global = true)]
    repo: Option<PathBuf>,
    #[command(subcommand)]
    command: Db,
}

#[derive(Debug, Subcommand)]
enum Db {
    /// List packages within commits
    List(ListArgs),
    /// Show package changes between two commits
    Diff(DiffArgs),
    /// Show the package database version of commits
    Version(VersionArgs),
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree db list [OPTIONS] REV… [PATTERN…]")]
struct ListArgs {
    /// Revisions, then glob patterns that package names or NEVRAs match
    #[arg(value_name = "REV")]
    words: Vec<String>,
    /// Also list the security updates in them
    #[arg(short, long)]
    advisories: bool,
    /// Output format: block or json
    #[arg(short = 'F', long, value_name = "FORMAT", default_value = "block")]
    format: String,
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree db diff [OPTIONS] [FROM] [TO]")]
struct DiffArgs {
    /// None: the booted and the pending deployment; one: the booted deployment and REV
    #[arg(value_name = "REV")]
    revs: Vec<String>,
    /// Output format: block, diff or json
    #[arg(short = 'F', long, value_name = "FORMAT", default_value = "block")]
    format: String,
    /// Also output changelogs
    #[arg(short, long)]
    changelogs: bool,
    /// Fetch the changelogs that the trees do not have from their archives
    #[arg(long, requires = "changelogs")]
    download: bool,
    /// Also list the security updates that only the second one has
    #[arg(short, long)]
    advisories: bool,
    /// Diff against deployments' base
    #[arg(long)]
    base: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree db version [OPTIONS] COMMIT…")]
struct VersionArgs {
    #[arg(value_name = "COMMIT")]
    revs: Vec<String>,
    /// Output format: block or json
    #[arg(short = 'F', long, value_name = "FORMAT", default_value = "block")]
    format: String,
}

pub(crate) fn run(app: &App, args: &DbArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        Db::List(list) => run_list(app, args, list)?,
        Db::Diff(diff) => run_diff(app, args, diff)?,
        Db::Version(version) => run_version(app, args, version)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl DbArgs {
    fn open_repo(&self, app: &App) -> Result<Repo> {
        let path = match (&self.repo, app.given_sysroot()?) {
            (Some(repo), _) => repo.clone(),
            (None, Some(sysroot)) => sysroot.join("ostree/repo"),
            (None, None) => "/sysroot/ostree/repo".into(),
        };
        Repo::open(&path)
    }
}

/// `ostree commit: REV (CHECKSUM)`.
fn header(rev: &str, checksum: &str) -> String {
    if rev == checksum {
        format!("ostree commit: {checksum}\n")
    } else {
        format!("ostree commit: {rev} ({checksum})\n")
    }
}

fn is_json(format: &str) -> Result<bool, Failure> {
    match format {
        "block" => Ok(false),
        "json" => Ok(true),
        _ => Err(Error::usage("Format argument is invalid, pick one of: block, json").into()),
    }
}

fn run_list(app: &App, args: &DbArgs, list: &ListArgs) -> Result<(), Failure> {
    let as_json = is_json(&list.format)?;
    if list.words.is_empty() {
        return usage("At least one REV must be specified");
    }
    let repo = args.open_repo(app)?;
    let mut revs = vec![(list.words[0].as_str(), repo.resolve(&list.words[0])?)];
    for word in &list.words[1..] {
        // The first word that is no revision starts the patterns.
        match repo.resolve(word) {
            Ok(checksum) => revs.push((word, checksum)),
            Err(_) => break,
        }
    }
    let patterns = &list.words[revs.len()..];
    let wanted = |id: &PackageId| {
        patterns.is_empty() || patterns.iter().any(|p| glob::matches(p, &id.name) || glob::matches(p, &id.nevra()))
    };
    for (rev, checksum) in revs {
        let packages = repo.packages(&checksum)?;
        let packages = packages.iter().filter(|id| wanted(id));
        let advisories = repo.info(&checksum)?.advisories();
        if as_json {
            app.print_json(&json!({
                "ostree-commit": checksum,
                "packages": packages.map(db::package_json).collect::<Vec<_>>(),
                "advisories": advisories,
            }));
        } else {
            let lines: String =
                packages.map(|id| format!(" {}\n", id.nevra())).fold(header(rev, &checksum), |a, l| a + &l);
            app.terminal.print(&lines);
            if list.advisories {
                app.terminal.print(&advisory_block(&advisories));
            }
        }
    }
    Ok(())
}

fn run_version(app: &App, args: &DbArgs, version: &VersionArgs) -> Result<(), Failure> {
    let as_json = is_json(&version.format)?;
    if version.revs.is_empty() {
        return usage("At least one COMMIT must be specified");
    }
    let repo = args.open_repo(app)?;
    for rev in &version.revs {
        let checksum = repo.resolve(rev)?;
        let database = db::database_version(&repo.packages(&checksum)?);
        if as_json {
            app.print_json(&json!({ "ostree-commit": checksum, "rpmdb-version": database }));
        } else {
            app.terminal.print(&format!("{}  rpmdbv is: {database:>66}\n", header(rev, &checksum)));
        }
    }
    Ok(())
}

/// One side of a comparison.
struct Side {
    /// `booted deployment`, or the revision as it was given.
    description: String,
    checksum: String,
}

impl Side {
    fn text(&self) -> String {
        if self.description == self.checksum {
            self.checksum.clone()
        } else {
            format!("{} ({})", self.description, self.checksum)
        }
    }
}

fn run_diff(app: &App, args: &DbArgs, diff: &DiffArgs) -> Result<(), Failure> {
    if !matches!(diff.format.as_str(), "block" | "diff" | "json") {
        return Err(Error::usage("Format argument is invalid, pick one of: diff, block, json").into());
    }
    if diff.changelogs && diff.format == "json" {
        return Err(Error::usage("json format and --changelogs not supported together").into());
    }
    if diff.advisories && diff.format == "diff" {
        return Err(Error::usage("diff format and --advisories not supported together").into());
    }
    if diff.revs.len() > 2 {
        return usage("At most two revisions can be compared");
    }
    let (repo, mut from, mut to) = sides(app, args, &diff.revs)?;
    if diff.base {
        from.checksum = repo.info(&from.checksum)?.base().to_owned();
        to.checksum = repo.info(&to.checksum)?.base().to_owned();
    }
    let packages = PackageDiff::between(&repo.packages(&from.checksum)?, &repo.packages(&to.checksum)?);
    let recorded = |side: &Side| repo.info(&side.checksum).map(|info| info.advisories());
    let advisories = advisory::new_ones(&recorded(&from)?, &recorded(&to)?, &packages);
    if diff.format == "json" {
        app.print_json(&json!({
            "ostree-commit-from": from.checksum,
            "ostree-commit-to": to.checksum,
            "pkgdiff": packages.to_json(),
            "advisories": advisories,
        }));
        return Ok(());
    }
    let list = match diff.format.as_str() {
        "diff" => packages.lines(),
        _ if diff.changelogs => {
            let view = if diff.download { Some(app.view(&StaterootArg::default())?) } else { None };
            let mut ask = |id: &PackageId| match &view {
                Some(view) => view.changelog(&mut AptSource::new(), id),
                None => Ok(None),
            };
            let fetch: Option<Fetch<'_>> = if diff.download { Some(&mut ask) } else { None };
            let changelogs = changelog::of_diff(&repo, &from.checksum, &to.checksum, &packages, fetch)?;
            with_changelogs(&packages, &changelogs)
        }
        _ => packages.block(),
    };
    app.terminal.print(&format!(
        "ostree diff commit from: {}\nostree diff commit to:   {}\n{list}",
        from.text(),
        to.text(),
    ));
    if diff.advisories {
        app.terminal.print(&advisory_block(&advisories));
    }
    Ok(())
}

/// The security updates below a title; nothing for none.
fn advisory_block(advisories: &[Advisory]) -> String {
    if advisories.is_empty() {
        return String::new();
    }
    advisory_lines(advisories).iter().fold("SecAdvisories:\n".into(), |text, line| text + "  " + line + "\n")
}

/// The block form with the entries below each package, in the shape of rpm-ostree: `* DATE AUTHOR - VERSION`, then the changes.
fn with_changelogs(packages: &PackageDiff, changelogs: &BTreeMap<String, Changes>) -> String {
    let mut text = String::new();
    for (title, list) in packages.groups() {
        text += &format!("{title}:\n");
        for change in list {
            text += &format!("  {}\n", change.describe());
            match changelogs.get(&change.name) {
                Some(Changes::Entries(entries)) => entries.iter().for_each(|entry| text += &entry_text(entry)),
                Some(Changes::Missing) => text += "    (no changelog in the tree)\n\n",
                Some(Changes::Failed(why)) => text += &format!("    (no changelog: {why})\n\n"),
                None => {}
            }
        }
    }
    text
}

fn entry_text(entry: &changelog_model::Entry) -> String {
    let mut text = format!("    * {} {} - {}\n", entry.date, entry.author, entry.version);
    for line in &entry.changes {
        let line = line.strip_prefix("* ").map_or_else(|| line.clone(), |rest| format!("- {rest}"));
        text += format!("    {line}").trim_end();
        text.push('\n');
    }
    text.push('\n');
    text
}

fn sides(app: &App, args: &DbArgs, revs: &[String]) -> Result<(Repo, Side, Side), Failure> {
    let resolve = |repo: &Repo, rev: &str| -> Result<Side> {
        Ok(Side { description: rev.to_owned(), checksum: repo.resolve(rev)? })
    };
    if let [from, to] = revs {
        let repo = args.open_repo(app)?;
        let (from, to) = (resolve(&repo, from)?, resolve(&repo, to)?);
        return Ok((repo, from, to));
    }
    let sysroot = Sysroot::open(&app.given_sysroot()?.unwrap_or_else(|| "/".into()))?;
    let repo = sysroot.repo();
    let deployments = SysrootStatus::read(&sysroot)?.deployments;
    let (from, to) = match revs {
        [rev] => (current(&deployments)?, resolve(&repo, rev)?),
        _ => default_sides(&deployments)?,
    };
    Ok((repo, from, to))
}

fn side(what: &str, deployment: &DeploymentStatus) -> Side {
    Side { description: format!("{what} deployment"), checksum: deployment.checksum.clone() }
}

/// The booted deployment; in a directory, where none is, the one that would boot.
fn current(deployments: &[DeploymentStatus]) -> Result<Side> {
    match deployments.iter().find(|d| d.booted) {
        Some(booted) => Ok(side("booted", booted)),
        None => deployments.first().map(|d| side("pending", d)).ok_or_else(no_deployments),
    }
}

/// Booted to pending, else rollback to booted. In a directory: rollback to the one that would boot.
fn default_sides(deployments: &[DeploymentStatus]) -> Result<(Side, Side)> {
    let Some(booted) = deployments.iter().position(|d| d.booted) else {
        return match deployments {
            [first, second, ..] => Ok((side("rollback", second), side("pending", first))),
            [_] => Err(Error::new(ErrorKind::NotFound, "There is one deployment only, nothing to compare it with")),
            [] => Err(no_deployments()),
        };
    };
    if booted > 0 {
        return Ok((side("booted", &deployments[booted]), side("pending", &deployments[0])));
    }
    match deployments.get(1) {
        Some(rollback) => Ok((side("rollback", rollback), side("booted", &deployments[booted]))),
        None => Err(Error::new(ErrorKind::NotFound, "No pending or rollback deployment to diff against")),
    }
}

fn no_deployments() -> Error {
    Error::new(ErrorKind::NotFound, "The sysroot has no deployments")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_deployments_are_compared() {
        let list = |booted: &[bool]| -> Vec<DeploymentStatus> {
            let one = |(i, b): (usize, &bool)| DeploymentStatus {
                checksum: i.to_string(),
                booted: *b,
                ..DeploymentStatus::default()
            };
            booted.iter().enumerate().map(one).collect()
        };
        let text = |booted: &[bool]| {
            default_sides(&list(booted)).map(|(a, b)| format!("{} > {}", a.text(), b.text())).unwrap_or_default()
        };
        assert_eq!(text(&[false, true, false]), "booted deployment (1) > pending deployment (0)");
        assert_eq!(text(&[true, false]), "rollback deployment (1) > booted deployment (0)");
        assert_eq!(text(&[false, false]), "rollback deployment (1) > pending deployment (0)");
        assert_eq!((text(&[true]), text(&[false]), text(&[])), Default::default());
    }
}

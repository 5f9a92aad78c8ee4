//! `status`: the deployments, as text or JSON. Needs neither root nor a worker.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use apt_ostree_core::model::advisory::{self, Advisory};
use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::model::settings::UpdatePolicy;
use apt_ostree_core::model::time::iso8601;
use apt_ostree_core::repo::Repo;
use apt_ostree_core::repo::metadata::{ArchiveMeta, BasePackage};
use apt_ostree_core::status::{DeploymentStatus, SysrootStatus};
use apt_ostree_core::sysroot::Sysroot;
use apt_ostree_core::{Error, settings};
use clap::Args;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::{App, UNCHANGED};
use crate::args::{Failure, usage};
use crate::client::{self, Running};
use crate::render::{aligned_diff, available_update, key_value, security, signatures, version_line};
use crate::terminal::Terminal;
use crate::units;

/// Columns of the keys: the longest one is `InactiveRemoteOverrides`.
const WIDTH: usize = 23;

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree status [OPTIONS]")]
pub(crate) struct StatusArgs {
    #[arg(hide = true)]
    extra: Vec<String>,
    #[arg(short, long, hide = true)]
    pretty: bool,
    /// Print additional fields (e.g. StateRoot)
    #[arg(short, long)]
    verbose: bool,
    /// Expand the list of security updates
    #[arg(short, long)]
    advisories: bool,
    /// Output JSON
    #[arg(long)]
    json: bool,
    /// Filter JSONPath expression
    #[arg(short = 'J', long, value_name = "EXPRESSION")]
    jsonpath: Option<String>,
    /// Only print the booted deployment
    #[arg(short, long)]
    booted: bool,
    /// If pending deployment available, exit 77
    #[arg(long)]
    pending_exit_77: bool,
}

pub(crate) fn run(app: &App, args: &StatusArgs) -> Result<ExitCode, Failure> {
    if let Some(extra) = args.extra.first() {
        return usage(format!("Unexpected argument '{extra}'"));
    }
    if args.json && args.jsonpath.is_some() {
        return usage("Cannot specify both --json and --jsonpath");
    }
    let path = match &args.jsonpath {
        Some(text) => Some(
            JsonPath::parse(&quote_names(text)).map_err(|e| Error::usage(format!("Invalid JSONPath '{text}': {e}")))?,
        ),
        None => None,
    };
    let root = app.sysroot()?;
    let sysroot = Sysroot::open(&root)?;
    let mut status = SysrootStatus::read(&sysroot)?;
    // The service is asked only where it runs: nobody waits for its start.
    let running = if root == Path::new("/") { client::running() } else { None };
    status.transaction = running.as_ref().map(|r| r.transaction.clone());
    let pending = status.deployments.first().is_some_and(|d| !d.booted);
    let diff = pending_diff(&sysroot.repo(), &status);
    let live_diff = live_diff(&sysroot.repo(), &status);
    let update_is_deployed =
        status.cached_update.as_ref().is_some_and(|u| u.is_deployed(&sysroot.repo(), &status.deployments));
    if args.booted {
        status.deployments.retain(|d| d.booted);
    }
    if let Some(path) = path {
        let document = serde_json::to_value(&status).map_err(Error::from)?;
        app.print_json(&path.query(&document).all());
    } else if args.json {
        app.print_json(&status);
    } else {
        let automatic = automatic_updates(&sysroot, &status, args.verbose);
        let text = Text {
            terminal: &app.terminal,
            verbose: args.verbose,
            advisories: args.advisories || args.verbose,
            automatic,
            security: pending_advisories(&sysroot.repo(), &status, &diff),
            update_is_deployed,
            diff,
            live_diff,
            running,
        };
        app.terminal.print(&text.status(&status, args.booted));
    }
    Ok(if args.pending_exit_77 && pending { ExitCode::from(UNCHANGED) } else { ExitCode::SUCCESS })
}

/// `.requested-packages` as `['requested-packages']`: RFC 9535 has no dashes in the short form, but the keys of this document
/// do, and the parser of rpm-ostree takes them.
fn quote_names(path: &str) -> String {
    let (mut text, mut rest) = (String::new(), path);
    let mut quote = None;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        }
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        if c == '.' && quote.is_none() && name.contains('-') {
            text += &format!("{}['{name}']", if text.ends_with('.') { "." } else { "" });
            rest = after;
        } else {
            text.push(c);
        }
    }
    text
}

/// What the next boot changes; empty when nothing is booted or pending, or a package list is missing.
fn pending_diff(repo: &Repo, status: &SysrootStatus) -> PackageDiff {
    let booted = status.deployments.iter().find(|d| d.booted);
    let (Some(first), Some(booted)) = (status.deployments.first().filter(|d| !d.booted), booted) else {
        return PackageDiff::default();
    };
    let list = |d: &DeploymentStatus| repo.packages(&d.checksum);
    match (list(booted), list(first)) {
        (Ok(old), Ok(new)) => PackageDiff::between(&old, &new),
        _ => PackageDiff::default(),
    }
}

/// Security updates that the next boot brings; `diff` are the packages that it changes.
fn pending_advisories(repo: &Repo, status: &SysrootStatus, diff: &PackageDiff) -> Vec<Advisory> {
    let booted = status.deployments.iter().find(|d| d.booted);
    let (Some(first), Some(booted)) = (status.deployments.first().filter(|d| !d.booted), booted) else {
        return Vec::new();
    };
    let list = |d: &DeploymentStatus| repo.info(&d.checksum).map(|info| info.advisories()).unwrap_or_default();
    advisory::new_ones(&list(booted), &list(first), diff)
}

/// What is said of updates that come by themselves. Mistakes in the settings are for those to tell who use them.
fn automatic_updates(sysroot: &Sysroot, status: &SysrootStatus, verbose: bool) -> String {
    if let Some(driver) = &status.update_driver {
        return units::driver(driver);
    }
    match settings::of_sysroot(sysroot, None).unwrap_or_default().update_policy {
        UpdatePolicy::None if verbose => "AutomaticUpdates: disabled\n".into(),
        UpdatePolicy::None => String::new(),
        policy if sysroot.path() == Path::new("/") => units::automatic_updates(policy) + "\n",
        policy => format!("AutomaticUpdates: {policy}\n"),
    }
}

/// One deployment as text, by itself.
pub(crate) fn deployment(terminal: &Terminal, d: &DeploymentStatus, verbose: bool) -> String {
    let shown = DeploymentStatus { booted: false, ..d.clone() };
    let text = Text {
        terminal,
        verbose,
        advisories: verbose,
        automatic: String::new(),
        security: Vec::new(),
        update_is_deployed: false,
        diff: PackageDiff::default(),
        live_diff: PackageDiff::default(),
        running: None,
    };
    text.deployment(&shown, 0, false)
}

/// What `apply-live` has changed.
fn live_diff(repo: &Repo, status: &SysrootStatus) -> PackageDiff {
    let live = |d: &DeploymentStatus| {
        let live = d.live_replaced.as_deref()?;
        Some(PackageDiff::between(&repo.packages(&d.checksum).ok()?, &repo.packages(live).ok()?))
    };
    status.deployments.iter().find_map(live).unwrap_or_default()
}

struct Text<'a> {
    terminal: &'a Terminal,
    verbose: bool,
    /// Security updates by name.
    advisories: bool,
    /// The lines about automatic updates.
    automatic: String,
    /// Security updates of the first deployment against the booted one.
    security: Vec<Advisory>,
    /// The next boot brings the update that is known of.
    update_is_deployed: bool,
    /// Of the first deployment against the booted one.
    diff: PackageDiff,
    /// Of the running tree against the booted deployment.
    live_diff: PackageDiff,
    running: Option<Running>,
}

impl Text<'_> {
    fn status(&self, status: &SysrootStatus, booted_only: bool) -> String {
        let mut text = String::from(if status.transaction.is_some() { "State: busy\n" } else { "State: idle\n" });
        for warning in &status.warnings {
            text += &format!("{} {}\n", self.terminal.red("Warning:"), warning.text);
            warning.details.iter().for_each(|line| text += &format!("         {line}\n"));
        }
        text += &self.automatic;
        if let Some(running) = &self.running {
            text += &format!("Transaction: {}\n  Initiator: {}\n", running.title, running.initiator);
        }
        text += &self.last_transaction(status);
        text += if booted_only { "BootedDeployment:\n" } else { "Deployments:\n" };
        let stateroots: BTreeSet<_> = status.deployments.iter().map(|d| &d.osname).collect();
        for (index, deployment) in status.deployments.iter().enumerate() {
            if index > 0 {
                text += "\n";
            }
            text += &self.deployment(deployment, index, stateroots.len() > 1);
        }
        let update = status.cached_update.as_ref().filter(|_| !booted_only && !self.update_is_deployed);
        if let Some(update) = update {
            text += &format!("\n{}", available_update(update, self.verbose, self.advisories));
        }
        text
    }

    /// One that failed, until a later one did not. With `--verbose` any.
    fn last_transaction(&self, status: &SysrootStatus) -> String {
        let last = status.last_transaction.as_ref().filter(|last| self.verbose || last.has_failed());
        let Some(last) = last else { return String::new() };
        let outcome = last.outcome();
        let outcome = if last.has_failed() { self.terminal.red(&outcome) } else { outcome };
        let mut text = format!("LastTransaction: {} {outcome} ({})\n", last.title, iso8601(last.timestamp));
        if self.verbose {
            text += &format!("  Initiator: {}\n", last.initiator);
        }
        text
    }

    fn deployment(&self, d: &DeploymentStatus, index: usize, several: bool) -> String {
        let mut text = format!("{} {}", if d.booted { "●" } else { " " }, self.terminal.bold(&title(d)));
        if self.verbose {
            text += &format!(" (index: {index})");
        }
        text += "\n";
        let mut one = |key: &str, value: &str| text += &key_value(WIDTH, key, &[value.to_owned()]);
        if let Some(digest) = &d.container_image_reference_digest {
            one("Digest", digest);
        }
        if let Some((_, description)) = d.custom_origin.as_ref().filter(|(_, d)| !d.is_empty()) {
            one("CustomOrigin", description);
        }
        if let Some(error) = &d.remote_error {
            one("OstreeRemoteStatus", &self.terminal.red(error));
        }
        if let Some(title) = d.base_commit_meta.get("ostree.source-title").and_then(Value::as_str) {
            text += &format!("  {:>WIDTH$}  └ {title}\n", "");
        }
        text += &version_line(WIDTH, d.version.as_deref(), d.timestamp);
        text += &self.commits(d);
        text += &self.state(d, several);
        text += &self.signatures(d);
        if index == 0 && !d.booted {
            text += &security(WIDTH, &self.security, self.advisories);
        }
        if index == 0 && !d.booted && !self.diff.is_empty() {
            text += &if self.verbose {
                aligned_diff(WIDTH, &self.diff)
            } else {
                key_value(WIDTH, "Diff", &[self.diff.summary()])
            };
        }
        text += &self.packages(d);
        let mut one = |key: &str, value: &str| text += &key_value(WIDTH, key, &[value.to_owned()]);
        if d.requests.regenerate_initramfs {
            let args = d.requests.initramfs_args.as_deref().unwrap_or_default();
            let args = args.iter().map(|a| quote(a)).collect::<Vec<_>>().join(" ");
            one("Initramfs", if args.is_empty() { "regenerate" } else { &args });
        }
        if let Some(files) = d.requests.initramfs_etc.as_ref().filter(|f| !f.is_empty()) {
            one("InitramfsEtc", &files.iter().map(|f| quote(f)).collect::<Vec<_>>().join(" "));
        }
        if let Some(report) = &d.boot_failed {
            one("BootFailed", &self.terminal.red(&format!("{} ({})", report.cause(), iso8601(report.time))));
        }
        if d.pinned {
            one("Pinned", "yes");
        }
        if d.unlocked != "none" {
            one("Unlocked", &self.terminal.red(&d.unlocked));
        }
        if let Some(end) = &d.endoflife {
            one("EndOfLife", &self.terminal.red(end));
        }
        text
    }

    fn commits(&self, d: &DeploymentStatus) -> String {
        let ostree_or_verbose = d.container_image_reference.is_none() || self.verbose;
        let commit = |key: &str, checksum: &str, archives: &[ArchiveMeta]| {
            let mut lines = vec![checksum.to_owned()];
            if self.verbose {
                lines.extend(archive_tree(archives));
            }
            key_value(WIDTH, key, &lines)
        };
        let live = d.live_replaced.is_some();
        let (base_key, key) = if live { ("BootedBaseCommit", "BootedCommit") } else { ("BaseCommit", "Commit") };
        let mut text = String::new();
        if let Some(base) = &d.base_checksum {
            if ostree_or_verbose {
                text += &commit(base_key, base, &d.base_archives);
            }
            if self.verbose {
                text += &commit(key, &d.checksum, &d.layered_archives);
            }
        } else if ostree_or_verbose {
            text += &commit(key, &d.checksum, &d.base_archives);
        }
        text + &self.live(d)
    }

    fn live(&self, d: &DeploymentStatus) -> String {
        let mut text = String::new();
        if let Some(commit) = &d.live_inprogress {
            text += &key_value(WIDTH, "InterruptedLiveCommit", std::slice::from_ref(commit));
        }
        if let Some(commit) = &d.live_replaced {
            text += &key_value(WIDTH, "LiveCommit", std::slice::from_ref(commit));
            if !self.live_diff.is_empty() {
                text += &key_value(WIDTH, "LiveDiff", &[self.live_diff.summary()]);
            }
        }
        text
    }

    fn state(&self, d: &DeploymentStatus, several_stateroots: bool) -> String {
        let mut text = String::new();
        if self.verbose {
            text += &key_value(WIDTH, "Staged", &[if d.staged { "yes" } else { "no" }.to_owned()]);
        }
        if self.verbose || several_stateroots {
            text += &key_value(WIDTH, "StateRoot", std::slice::from_ref(&d.osname));
        }
        text
    }

    fn signatures(&self, d: &DeploymentStatus) -> String {
        if d.gpg_enabled != Some(true) {
            return String::new();
        }
        let all = d.signatures.as_deref().unwrap_or_default();
        let mut lines = signatures(all);
        if self.verbose && !all.is_empty() {
            let s = if all.len() == 1 { "" } else { "s" };
            lines.insert(0, format!("{} signature{s}", all.len()));
            let made = |s: &Value| {
                Some(format!(
                    "  made {} by {} <{}>",
                    iso8601(s.get(6)?.as_u64()?),
                    s.get(10)?.as_str()?,
                    s.get(11)?.as_str()?
                ))
            };
            lines.extend(all.iter().filter_map(made));
        }
        key_value(WIDTH, "GPGSignature", &lines)
    }

    fn packages(&self, d: &DeploymentStatus) -> String {
        let mut text = String::new();
        let r = &d.requests;
        let removed: Vec<_> = d.base_removals.iter().map(|p| p.nevra().to_owned()).collect();
        text += &self.list("RemovedBasePackages", removed);
        if self.verbose {
            let gone = |name: &String| {
                let name = name.split(':').next().unwrap_or_default();
                d.base_removals.iter().any(|p| p.name() == name)
            };
            text += &self.list("InactiveBaseRemovals", without(&r.requested_base_removals, gone));
        }
        text += &key_value(WIDTH, "LocalOverrides", &overrides(&d.base_local_replacements));
        if self.verbose {
            let active = |nevra: &String| d.base_local_replacements.iter().any(|(new, _)| new.nevra() == nevra);
            let inactive = without(&r.requested_base_local_replacements, active);
            text += &self.list("InactiveLocalOverrides", inactive);
        }
        text += &key_value(WIDTH, "RemoteOverrides", &remote_overrides(d));
        if self.verbose {
            text += &key_value(WIDTH, "InactiveRemoteOverrides", &inactive_remote_overrides(d));
        }
        let upgrades: Vec<_> =
            d.base_upgrades.iter().map(|(old, new, why)| format!("{old} -> {new} ({why})")).collect();
        text += &key_value(WIDTH, "BaseUpgrades", &upgrades);
        if self.verbose {
            let inactive = without(&r.requested_packages, |name| d.packages.contains(name));
            text += &self.list("InactiveRequests", inactive);
        }
        text += &self.list("LayeredPackages", d.packages.clone());
        text += &self.list("LocalPackages", r.requested_local_packages.clone());
        text += &self.list("LocalForcedPackages", r.requested_local_fileoverride_packages.clone());
        text
    }

    /// Sorted without regard to case, quoted for a shell, wrapped to the terminal.
    fn list(&self, key: &str, mut items: Vec<String>) -> String {
        items.sort_by_key(|s| s.to_lowercase());
        let items: Vec<_> = items.iter().map(|s| quote(s)).collect();
        key_value(WIDTH, key, &wrap(&items, self.terminal.width().saturating_sub(WIDTH + 4)))
    }
}

/// What the deployment comes from.
fn title(d: &DeploymentStatus) -> String {
    let custom = d.custom_origin.as_ref().map(|(url, _)| url).filter(|u| !u.is_empty());
    custom.or(d.container_image_reference.as_ref()).or(d.origin.as_ref()).unwrap_or(&d.checksum).clone()
}

fn without(items: &[String], drop: impl Fn(&String) -> bool) -> Vec<String> {
    items.iter().filter(|s| !drop(s)).cloned().collect()
}

/// `name… OLD -> NEW`: packages replaced from one version to the same other one share a line.
fn overrides(replaced: &[(BasePackage, BasePackage)]) -> Vec<String> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (new, old) in replaced {
        let change = format!("{} -> {}", old.evr(), new.evr());
        match groups.iter_mut().find(|(c, _)| *c == change) {
            Some((_, names)) => names.push(new.name()),
            None => groups.push((change, vec![new.name()])),
        }
    }
    groups.into_iter().map(|(change, names)| format!("{} {change}", names.join(" "))).collect()
}

/// The source, and below it what comes from there.
fn remote_overrides(d: &DeploymentStatus) -> Vec<String> {
    let mut lines = Vec::new();
    for (source, replaced) in &d.base_remote_replacements {
        lines.push(source.clone());
        lines.extend(overrides(replaced).into_iter().map(|line| format!("  └ {line}")));
    }
    lines
}

fn inactive_remote_overrides(d: &DeploymentStatus) -> Vec<String> {
    let mut lines = Vec::new();
    for (source, packages) in &d.requests.requested_base_remote_replacements {
        let active = d.base_remote_replacements.get(source).map_or(&[][..], Vec::as_slice);
        // An architecture is part of a request only where there are several.
        let is_active = |package: &String| {
            let name = package.split(':').next().unwrap_or_default();
            active.iter().any(|(new, _)| new.name() == name)
        };
        let inactive = without(packages, is_active);
        if !inactive.is_empty() {
            lines.push(source.clone());
            lines.push(format!("  └ {}", inactive.join(" ")));
        }
    }
    lines
}

/// `├─ suite/component (time)`; the last one closes the tree.
fn archive_tree(archives: &[ArchiveMeta]) -> Vec<String> {
    let last = archives.len().saturating_sub(1);
    let line = |(index, a): (usize, &ArchiveMeta)| {
        let branch = if index == last { "└─" } else { "├─" };
        let component = if a.component.is_empty() || a.id.ends_with(&a.component) {
            String::new()
        } else {
            format!("/{}", a.component)
        };
        format!("{branch} {}{component} ({})", a.id, iso8601(a.timestamp))
    };
    archives.iter().enumerate().map(line).collect()
}

/// As a shell takes it back.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/=:@%+,~".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Fills lines of `width` characters; a longer word has a line of its own.
fn wrap(words: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

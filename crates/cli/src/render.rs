//! The texts of results: plans, reports, available updates, errors. Pure: values in, text out.

use std::fmt::Write;

use apt_ostree_core::cached_update::CachedUpdate;
use apt_ostree_core::model::advisory::{self, Advisory};
use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::model::package::PackageId;
pub(crate) use apt_ostree_core::model::size::human_size as size;
use apt_ostree_core::model::time::iso8601;
use apt_ostree_core::operation::Report;
use apt_ostree_core::plan::{Plan, Replacement};
use apt_ostree_core::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::start;

/// `1 package`, `2 packages`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The transaction as `--dry-run` shows it.
pub(crate) fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    if !plan.inactive.is_empty() {
        text += "Inactive requests:\n";
        for (request, id) in &plan.inactive {
            let _ = writeln!(text, "  {request} (already provided by {})", id.nevra());
        }
    }
    if !plan.inactive_overrides.is_empty() {
        text += "Inactive overrides:\n";
        for inactive in &plan.inactive_overrides {
            let _ = writeln!(text, "  {inactive}");
        }
    }
    let upgraded: Vec<_> = plan.base_changes.iter().filter_map(|c| Some((c, c.new.as_ref()?))).collect();
    let is_new =
        |id: &PackageId| upgraded.iter().all(|(_, new)| *new != id) && plan.replaced.iter().all(|r| r.new != *id);
    let new: Vec<_> = plan.install.iter().filter(|p| is_new(&p.id)).collect();
    if !new.is_empty() {
        let _ = writeln!(text, "Installing {}:", count(new.len(), "package"));
        for package in new {
            let _ = writeln!(text, "  {} ({}, {})", package.id.nevra(), package.origin, size(package.size));
        }
    }
    if !upgraded.is_empty() {
        text += "Upgrading base packages:\n";
        for (change, id) in upgraded {
            let old = &change.previous;
            let _ = writeln!(text, "  {} {} -> {} ({})", id.name, old.version, id.version, change.reason);
        }
    }
    if !plan.replaced.is_empty() {
        text += "Replacing base packages by override:\n";
        for Replacement { source, previous, new } in &plan.replaced {
            let renamed = if new.name == previous.name { String::new() } else { format!("{} ", previous.name) };
            let source = source.as_deref().unwrap_or("local package");
            let _ = writeln!(text, "  {} {renamed}{} -> {} ({source})", new.name, previous.version, new.version);
        }
    }
    if !plan.remove.is_empty() {
        let _ = writeln!(text, "Removing {}:", count(plan.remove.len(), "package"));
        for id in &plan.remove {
            let reason = plan.base_changes.iter().find(|c| c.new.is_none() && c.previous == *id);
            let reason = reason.map_or_else(String::new, |c| format!(" ({})", c.reason));
            let _ = writeln!(text, "  {}{reason}", id.nevra());
        }
    }
    if plan.is_empty() && !plan.initramfs {
        if plan.diff.is_empty() {
            return text + "Empty transaction\n";
        }
        // Nothing goes on top of the base any more: what goes away is in the difference only.
        return text + &plan.diff.block();
    }
    let fetched = plan.install.iter().filter(|p| p.download > 0).count();
    if fetched > 0 {
        let _ = writeln!(text, "Will download: {} ({})", count(fetched, "package"), size(plan.download_size));
    }
    let _ = writeln!(text, "Disk space needed: {}", size(plan.installed_size));
    if plan.kernel_change {
        text += "The kernel changes: a new initramfs is made\n";
    } else if plan.initramfs {
        text += "The initramfs is made again\n";
    }
    text
}

/// `  KEY: value` with the key right-aligned in `width` columns; further lines under the value.
pub(crate) fn key_value(width: usize, key: &str, lines: &[String]) -> String {
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            let _ = writeln!(text, "  {key:>width$}: {line}");
        } else {
            let _ = writeln!(text, "  {:>width$}  {line}", "");
        }
    }
    text
}

/// The aligned form of a difference: the titles in the key column.
pub(crate) fn aligned_diff(width: usize, diff: &PackageDiff) -> String {
    diff.groups()
        .map(|(title, list)| key_value(width, title, &list.iter().map(|c| c.describe()).collect::<Vec<_>>()))
        .collect()
}

/// `Version: V (time)`, or the bare time under another key.
pub(crate) fn version_line(width: usize, version: Option<&str>, timestamp: u64) -> String {
    match version {
        Some(version) => key_value(width, "Version", &[format!("{version} ({})", iso8601(timestamp))]),
        None => key_value(width, "Timestamp", &[iso8601(timestamp)]),
    }
}

/// `5 days ago`: the largest unit that fits.
pub(crate) fn ago(seconds: u64) -> String {
    let units = [
        (31_536_000, "year"),
        (2_592_000, "month"),
        (604_800, "week"),
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
    ];
    match units.iter().find(|(length, _)| seconds >= *length) {
        Some((length, unit)) => {
            let count = seconds / length;
            format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
        }
        None => "just now".into(),
    }
}

/// Columns of the keys of an available update.
const UPDATE_WIDTH: usize = 13;

/// The update that is known of: with `full` all packages and security updates by name, otherwise how many.
pub(crate) fn available_update(update: &CachedUpdate, full: bool, advisories: bool) -> String {
    const WIDTH: usize = UPDATE_WIDTH;
    let mut text = String::from("AvailableUpdate:\n");
    text += &version_line(WIDTH, update.version.as_deref(), update.timestamp);
    if update.ref_has_new_commit {
        text += &key_value(WIDTH, "Commit", std::slice::from_ref(&update.checksum));
    }
    if update.gpg_enabled == Some(true) {
        text += &key_value(WIDTH, "GPGSignature", &signatures(update.signatures.as_deref().unwrap_or_default()));
    }
    text += &security(WIDTH, &update.advisories, full || advisories);
    let diff = update.diff();
    if full {
        text += &aligned_diff(WIDTH, &diff);
    } else if !diff.is_empty() {
        text += &key_value(WIDTH, "Diff", &[diff.summary()]);
    }
    text
}

/// `SecAdvisories`: how many of which severity, or each with its packages and CVEs. Nothing for none.
pub(crate) fn security(width: usize, advisories: &[Advisory], by_name: bool) -> String {
    if advisories.is_empty() {
        return String::new();
    }
    let lines = if by_name { advisory_lines(advisories) } else { vec![advisory::summary(advisories)] };
    key_value(width, "SecAdvisories", &lines)
}

/// `ID  SEVERITY  NEVRA`, further packages below the first, then the CVEs and where to read of them.
pub(crate) fn advisory_lines(advisories: &[Advisory]) -> Vec<String> {
    let id_width = advisories.iter().map(|a| a.id.chars().count()).max().unwrap_or(0);
    let severity_width = advisories.iter().map(|a| a.severity_word().len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for advisory in advisories {
        let mut first = (advisory.id.as_str(), advisory.severity_word());
        for nevra in &advisory.packages {
            let (id, severity) = std::mem::take(&mut first);
            lines.push(format!("{id:<id_width$}  {severity:<severity_width$}  {nevra}"));
        }
        for (address, name) in &advisory.cves {
            lines.push(format!("  {name}"));
            lines.push(format!("  {address}"));
        }
    }
    lines
}

/// A line about each of libostree's result tuples.
pub(crate) fn signatures(all: &[Value]) -> Vec<String> {
    if all.is_empty() { vec!["(unsigned)".into()] } else { all.iter().map(signature).collect() }
}

/// One line about libostree's result tuple.
fn signature(tuple: &Value) -> String {
    let truth = |i: usize| tuple.get(i).and_then(Value::as_bool).unwrap_or_default();
    let fingerprint = tuple.get(5).and_then(Value::as_str).unwrap_or_default();
    let (valid, expired, key_expired, key_revoked, key_missing) = (truth(0), truth(1), truth(2), truth(3), truth(4));
    if valid {
        format!("Valid signature by {fingerprint}")
    } else if key_missing {
        "Can't check signature: public key not found".into()
    } else if expired {
        format!("Expired signature by {fingerprint}")
    } else if key_expired {
        format!("Signature by expired key {fingerprint}")
    } else if key_revoked {
        format!("Signature by revoked key {fingerprint}")
    } else {
        format!("BAD signature by {fingerprint}")
    }
}
/// What `deploy --preview` prints: the `diff` form, with `-` before the architecture.
pub(crate) fn deploy_preview(report: &Report) -> String {
    let diff = report.plan.as_ref().map_or(&report.diff, |plan| &plan.diff);
    let dashed =
        |line: &str| line.rsplit_once('.').map_or_else(|| line.to_owned(), |(id, arch)| format!("{id}-{arch}"));
    diff.lines().lines().fold(String::new(), |text, line| text + &dashed(line) + "\n")
}

/// A report as one JSON document; package differences as `db diff --format=json` writes them.
pub(crate) fn report_json(report: &Report) -> Value {
    let plan = report.plan.as_ref().map(|plan| {
        let package = |p: &apt_ostree_core::source::SolvedPackage| {
            json!({
                "name": p.id.name, "version": p.id.version, "arch": p.id.arch, "previous-version": p.previous,
                "requested": p.requested, "origin": p.origin, "sha256": p.sha256, "size": p.size,
                "download-size": p.download, "installed-size": p.installed_size,
            })
        };
        let id = |id: &apt_ostree_core::model::package::PackageId| json!([id.name, id.version, id.arch]);
        json!({
            "base": plan.base,
            "base-version": plan.base_version,
            "install": plan.install.iter().map(package).collect::<Vec<_>>(),
            "remove": plan.remove.iter().map(id).collect::<Vec<_>>(),
            "base-changes": plan.base_changes.iter().map(|c| json!({
                "previous": id(&c.previous), "new": c.new.as_ref().map(id), "reason": c.reason,
            })).collect::<Vec<_>>(),
            "replaced": plan.replaced.iter().map(|r| json!({
                "previous": id(&r.previous), "new": id(&r.new), "source": r.source,
            })).collect::<Vec<_>>(),
            "inactive-overrides": plan.inactive_overrides,
            "inactive": plan.inactive.iter().map(|(r, p)| json!([r, id(p)])).collect::<Vec<_>>(),
            "pkgdiff": plan.diff.to_json(),
            "download-size": plan.download_size,
            "installed-size": plan.installed_size,
            "kernel-change": plan.kernel_change,
            "initramfs": plan.initramfs,
            "input-digest": plan.input_digest,
        })
    });
    let update = report.update.as_ref().map(|u| {
        json!({
            "checksum": u.checksum, "version": u.version, "timestamp": u.timestamp,
            "ref-has-new-commit": u.ref_has_new_commit, "pkgdiff": u.diff().to_json(), "advisories": u.advisories,
        })
    });
    json!({
        "changed": report.changed,
        "staged": report.staged,
        "messages": report.lines,
        "pkgdiff": report.diff.to_json(),
        "plan": plan,
        "update": update,
        "kargs": report.kargs,
    })
}

/// `error: a: b: c`, for a script what it said and how to run it again, then the hints and what became of the system.
pub(crate) fn error(e: &Error) -> String {
    let mut text = format!("error: {}\n", start::as_called(&e.to_string()));
    if let Some(script) = &e.script {
        if let Some(status) = script.status.filter(|_| !script.script.is_empty()) {
            let _ = writeln!(text, "  {} of {} ended with exit status {status}", script.script, script.package);
        }
        if !script.output.is_empty() {
            text += "  Last lines of output:\n";
            for line in &script.output {
                let _ = writeln!(text, "    {line}");
            }
        }
        if !script.reproduce.is_empty() {
            let _ = writeln!(text, "  To run it again:\n    {}", script.reproduce);
        }
    }
    for hint in &e.hints {
        let _ = writeln!(text, "hint: {}", start::as_called(hint));
    }
    if matches!(
        e.kind,
        ErrorKind::Script | ErrorKind::Space | ErrorKind::Network | ErrorKind::Verification | ErrorKind::Cancelled
    ) {
        text += "note: no deployment was made; the system is as it was before\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use apt_ostree_core::ScriptFailure;
    use apt_ostree_core::cached_update::{Layer, RpmDiff};
    use apt_ostree_core::model::package::PackageId;
    use apt_ostree_core::plan::BaseChange;
    use apt_ostree_core::source::SolvedPackage;

    use super::*;

    fn id(name: &str, version: &str) -> PackageId {
        PackageId::new(name, version, "amd64")
    }

    fn solved(name: &str, version: &str, previous: Option<&str>) -> SolvedPackage {
        SolvedPackage {
            id: id(name, version),
            previous: previous.map(Into::into),
            requested: false,
            essential: false,
            origin: "trixie/main".into(),
            advisory: None,
            sha256: String::new(),
            size: 151_000,
            download: 151_000,
            installed_size: 400_000,
            pre_depends: Vec::new(),
            depends: Vec::new(),
            path: "x".into(),
        }
    }

    #[test]
    fn a_plan_in_full() {
        let text = plan(&Plan {
            inactive: vec![("vim".into(), id("vim", "2:9.1-1"))],
            install: vec![
                solved("htop", "3.4.1-5", None),
                solved("libc6", "2.41-13", Some("2.41-12")),
                solved("vim-tiny", "2:9.0-1", Some("2:9.1-1")),
            ],
            remove: vec![id("nano", "8.0-1")],
            base_changes: vec![
                BaseChange {
                    previous: id("libc6", "2.41-12"),
                    new: Some(id("libc6", "2.41-13")),
                    reason: "needed by libc6-dev".into(),
                },
                BaseChange { previous: id("nano", "8.0-1"), new: None, reason: "asked for by an override".into() },
            ],
            replaced: vec![Replacement {
                source: Some("suite=sid".into()),
                previous: id("vim-tiny", "2:9.1-1"),
                new: id("vim-tiny", "2:9.0-1"),
            }],
            inactive_overrides: vec!["removal of ed (the base does not have it)".into()],
            download_size: 302_000,
            installed_size: 800_000,
            kernel_change: true,
            ..Plan::default()
        });
        assert_eq!(
            text,
            "Inactive requests:
  vim (already provided by vim-2:9.1-1.amd64)
Inactive overrides:
  removal of ed (the base does not have it)
Installing 1 package:
  htop-3.4.1-5.amd64 (trixie/main, 151.0 kB)
Upgrading base packages:
  libc6 2.41-12 -> 2.41-13 (needed by libc6-dev)
Replacing base packages by override:
  vim-tiny 2:9.1-1 -> 2:9.0-1 (suite=sid)
Removing 1 package:
  nano-8.0-1.amd64 (asked for by an override)
Will download: 3 packages (302.0 kB)
Disk space needed: 800.0 kB
The kernel changes: a new initramfs is made
"
        );
        assert_eq!(plan(&Plan::default()), "Empty transaction\n");
    }

    #[test]
    fn an_available_update() {
        let diff = PackageDiff::between(&[id("a", "1"), id("b", "1")], &[id("a", "2"), id("b", "2"), id("c", "1")]);
        let advisory = |source: &str, packages: &[&str]| Advisory {
            id: format!("{source} 2"),
            kind: 1,
            packages: packages.iter().map(|name| id(name, "2").nevra()).collect(),
            ..Advisory::default()
        };
        let mut update = CachedUpdate {
            checksum: "c".repeat(64),
            version: Some("13.2".into()),
            timestamp: 1_700_000_000,
            ref_has_new_commit: true,
            rpm_diff: RpmDiff::new(&diff, |_| Layer::Base),
            ..CachedUpdate::default()
        };
        let commit = "c".repeat(64);
        assert_eq!(
            available_update(&update, false, false),
            format!(
                "AvailableUpdate:\n        Version: 13.2 (2023-11-14T22:13:20Z)\n         Commit: {commit}\n           Diff: 2 upgraded, 1 added\n"
            )
        );
        let preview = available_update(&update, true, true);
        assert!(
            preview.ends_with("       Upgraded: a 1 -> 2\n                 b 1 -> 2\n          Added: c-1.amd64\n"),
            "{preview}"
        );
        update.ref_has_new_commit = false;
        update.gpg_enabled = Some(true);
        update.advisories = vec![advisory("openssl", &["a", "b"]), advisory("z", &["z"])];
        update.advisories[0].cves = vec![("https://x/CVE-1-1".into(), "CVE-1-1".into())];
        let text = available_update(&update, false, false);
        assert!(
            text.contains("   GPGSignature: (unsigned)\n  SecAdvisories: 2 unknown severity\n           Diff:"),
            "{text}"
        );
        let text = available_update(&update, false, true);
        let lines = "  SecAdvisories: openssl 2  Unknown  a-2.amd64\n                                     b-2.amd64\n                   CVE-1-1\n                   https://x/CVE-1-1\n                 z 2        Unknown  z-2.amd64\n";
        assert!(text.contains(lines), "{text}");
    }

    #[test]
    fn a_script_that_failed() {
        let e = Error {
            kind: ErrorKind::Script,
            chain: vec!["Assembling the tree".into(), "Configuring bad:amd64".into()],
            hints: vec!["Report it to the maintainer.".into()],
            script: Some(Box::new(ScriptFailure {
                package: "bad:amd64".into(),
                script: "postinst".into(),
                status: Some(3),
                output: vec!["one".into(), "two".into()],
                reproduce: "bwrap --bind x / dpkg --configure bad".into(),
            })),
            nothing_to_do: false,
        };
        assert_eq!(
            error(&e),
            "error: Assembling the tree: Configuring bad:amd64
  postinst of bad:amd64 ended with exit status 3
  Last lines of output:
    one
    two
  To run it again:
    bwrap --bind x / dpkg --configure bad
hint: Report it to the maintainer.
note: no deployment was made; the system is as it was before
"
        );
    }

    #[test]
    fn the_json_of_a_report() {
        let value = report_json(&Report { changed: true, lines: vec!["x".into()], ..Report::default() });
        assert_eq!(
            value.to_string(),
            r#"{"changed":true,"staged":false,"messages":["x"],"pkgdiff":[],"plan":null,"update":null,"kargs":null}"#
        );
    }

    #[test]
    fn ages() {
        for (seconds, want) in [
            (5, "just now"),
            (60, "1 minute ago"),
            (7_300, "2 hours ago"),
            (172_800, "2 days ago"),
            (40_000_000, "1 year ago"),
        ] {
            assert_eq!(ago(seconds), want);
        }
    }
}

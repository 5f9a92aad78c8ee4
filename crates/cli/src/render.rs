//! The texts of results: plans, reports, available updates, errors. Pure: values in, text out.

use std::fmt::Write;

use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::model::package::PackageId;
pub(crate) use apt_ostree_core::model::size::human_size as size;
use apt_ostree_core::model::time::iso8601;
use apt_ostree_core::operation::{Report, UpdateInfo};
use apt_ostree_core::plan::{Plan, Replacement};
use apt_ostree_core::{Error, ErrorKind};
use serde_json::{Value, json};

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

/// What `upgrade --check` and `--preview` found.
pub(crate) fn available_update(update: &UpdateInfo, preview: bool) -> String {
    const WIDTH: usize = 13;
    let mut text = String::from("AvailableUpdate:\n");
    text += &version_line(WIDTH, update.version.as_deref(), update.timestamp);
    if update.new_base {
        text += &key_value(WIDTH, "Commit", std::slice::from_ref(&update.commit));
    }
    if preview {
        text += &aligned_diff(WIDTH, &update.diff);
    } else if !update.diff.is_empty() {
        text += &key_value(WIDTH, "Diff", &[update.diff.summary()]);
    }
    text
}

/// What `deploy --preview` prints: the `diff` form, with `-` before the architecture.
pub(crate) fn deploy_preview(report: &Report) -> String {
    let diff = match (&report.plan, &report.update) {
        (Some(plan), _) => &plan.diff,
        (None, Some(update)) => &update.diff,
        (None, None) => &report.diff,
    };
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
            "checksum": u.commit, "version": u.version, "timestamp": u.timestamp,
            "ref-has-new-commit": u.new_base, "pkgdiff": u.diff.to_json(),
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
    let mut text = format!("error: {e}\n");
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
        let _ = writeln!(text, "hint: {hint}");
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
        let update = UpdateInfo {
            commit: "c".repeat(64),
            version: Some("13.2".into()),
            timestamp: 1_700_000_000,
            new_base: true,
            diff: PackageDiff::between(&[id("a", "1"), id("b", "1")], &[id("a", "2"), id("b", "2"), id("c", "1")]),
        };
        let commit = "c".repeat(64);
        assert_eq!(
            available_update(&update, false),
            format!(
                "AvailableUpdate:\n        Version: 13.2 (2023-11-14T22:13:20Z)\n         Commit: {commit}\n           Diff: 2 upgraded, 1 added\n"
            )
        );
        let preview = available_update(&update, true);
        assert!(
            preview.ends_with("       Upgraded: a 1 -> 2\n                 b 1 -> 2\n          Added: c-1.amd64\n"),
            "{preview}"
        );
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
}

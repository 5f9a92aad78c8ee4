//! `apply-live`: the running system shows the tree of the pending deployment, until the next boot.
//!
//! Each step can be repeated, and what an interrupted run has begun is recorded before it: running again ends it,
//! `--reset` undoes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::transaction::Transaction;
use super::{ApplyLive, Report};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::live::mounts::{self, Target};
use crate::live::state::{self, LiveState};
use crate::live::{KERNEL, etc, layer};
use crate::model::diff::PackageDiff;
use crate::namespace;
use crate::repo::trees::Change;
use crate::sysroot::Deployment;

/// What every process stands on: with these replaced below it, what runs is neither the old system nor the new one.
const CORE: &[&str] = &[
    "dbus",
    "dbus-broker",
    "dbus-daemon",
    "init",
    "libc-bin",
    "libc6",
    "libsystemd-shared",
    "libsystemd0",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// The trees between which the system moves.
struct Move {
    booted: Deployment,
    /// What `/usr` shows now.
    from: String,
    to: String,
    /// Everything that `/etc` may have the defaults of.
    known: BTreeSet<String>,
}

pub fn execute(transaction: &mut Transaction<'_>, how: &ApplyLive) -> Result<Report> {
    let events = transaction.ports.events;
    let plan = plan(transaction, how)?;
    let repo = transaction.repo.clone();
    let packages = |commit: &str| repo.packages(commit).unwrap_or_default();
    let diff = PackageDiff::between(&packages(&plan.from), &packages(&plan.to));
    if !how.reset {
        refuse(&diff, how)?;
    }
    let changes = repo.differences(&plan.from, &plan.to, "usr")?;
    if changes.iter().any(|c| c.path.starts_with(KERNEL)) {
        events.message("The kernel and its modules are not switched; another kernel starts with the next boot.");
    }

    state::forget_earlier(&transaction.sysroot)?;
    let booted_commit = plan.booted.checksum();
    let now = Some(plan.from.clone()).filter(|from| *from != booted_commit);
    let mut known = plan.known.clone();
    known.insert(plan.to.clone());
    let begun = LiveState { commit: now, in_progress: Some(plan.to.clone()), known };
    begun.write(&transaction.sysroot, &plan.booted)?;
    switch(transaction, &plan)?;
    let update = events.task("Updating /etc", || {
        let known: Vec<&str> = plan.known.iter().map(String::as_str).collect();
        etc::merge(&repo, &known, &plan.to, &transaction.sysroot.path().join("etc"))
    })?;
    for path in &update.kept {
        events.message(format!("Kept /etc/{} as it is on this machine", path.display()));
    }
    follow(&changes, events)?;
    let live = Some(plan.to.clone()).filter(|to| *to != booted_commit);
    let known = BTreeSet::from_iter(live.clone());
    LiveState { commit: live, in_progress: None, known }.write(&transaction.sysroot, &plan.booted)?;

    let lines = closing_lines(&diff, &changes, transaction.sysroot.path());
    Ok(Report { changed: plan.from != plan.to, lines, diff, ..Report::default() })
}

/// Finds out where from and where to, and refuses what cannot work.
fn plan(transaction: &Transaction<'_>, how: &ApplyLive) -> Result<Move> {
    let sysroot = &transaction.sysroot;
    let Some(booted) = sysroot.deployments().into_iter().find(|d| d.booted) else {
        return Err(Error::usage("Not booted into an OSTree system")
            .hint("apply-live changes the running system; a system in a directory has none."));
    };
    if !booted.is_unmodified() {
        return Err(Error::usage(format!("apply-live is incompatible with unlock state: {}", booted.unlocked()))
            .hint("What was written to the unlocked /usr would be out of sight. Reboot first."));
    }
    if let Some(source) = mounts::foreign_overlay(&mounts::of_the_system()?) {
        return Err(Error::usage(format!("Something else is mounted over /usr: {source}"))
            .hint("What it adds would be out of sight. Undo it first, for example with systemd-sysext unmerge."));
    }
    let live = LiveState::read(sysroot, &booted)?;
    let commit = booted.checksum();
    let to = match &how.target {
        _ if how.reset => commit.clone(),
        Some(target) => transaction.repo.resolve(target)?,
        None => {
            let pending = transaction.pending()?;
            if pending.booted {
                return Err(Error::new(ErrorKind::NotFound, "No target commit specified and no pending deployment")
                    .hint("Make one with `install` or `upgrade`, or go back to the booted tree with --reset."));
            }
            pending.checksum()
        }
    };
    let from = live.commit.clone().unwrap_or_else(|| commit.clone());
    let mut known = live.known;
    known.extend([Some(commit), live.commit, live.in_progress].into_iter().flatten());
    Ok(Move { booted, from, to, known })
}

/// Removals and changes want to be allowed: what runs may have the old files open, or open them later.
fn refuse(diff: &PackageDiff, how: &ApplyLive) -> Result<()> {
    let count = |new: bool| diff.changes.iter().filter(|c| c.previous.is_some() && c.new.is_some() == new).count();
    let hint = "Or reboot: the pending deployment has them.";
    if !how.allow_replacement {
        for (what, number) in [("removed", count(false)), ("changed", count(true))] {
            if number > 0 {
                return Err(Error::usage(format!("packages would be {what}: {number}, allow replacement to override"))
                    .hint("Programs that run may need the old files; --allow-replacement takes the risk.")
                    .hint(hint));
            }
        }
    }
    let core: Vec<String> = diff
        .changes
        .iter()
        .filter(|c| c.previous.is_some() && CORE.contains(&c.name.as_str()))
        .map(|c| c.describe())
        .collect();
    if !core.is_empty() && !how.allow_core {
        return Err(Error::usage(format!(
            "packages that every process stands on would be replaced: {}",
            core.join(", ")
        ))
        .hint("What runs would be half old and half new, and might not even shut down; --allow-core takes the risk.")
        .hint(hint));
    }
    Ok(())
}

/// Makes `/usr` show the target.
fn switch(transaction: &Transaction<'_>, plan: &Move) -> Result<()> {
    if plan.from == plan.to {
        return Ok(());
    }
    let events = transaction.ports.events;
    let booted_commit = plan.booted.checksum();
    let live = if plan.to == booted_commit {
        None
    } else {
        let layer =
            events.task("Computing what changes", || layer::build(&transaction.repo, &booted_commit, &plan.to))?;
        Some((plan.to.clone(), layer))
    };
    let booted = transaction.sysroot.directory(&plan.booted).join("usr");
    let target = Target { booted, live };
    events.task("Updating /usr", || namespace::of_the_system(|| mounts::switch(&target)))
}

/// What the new tree wants done: accounts, files in /run and /var, and that daemons read their configuration again.
fn follow(changes: &[Change], events: &dyn EventSink) -> Result<()> {
    let touches = |dirs: &[&str]| changes.iter().any(|c| dirs.iter().any(|dir| c.path.starts_with(dir)));
    let mut commands: Vec<&[&str]> = Vec::new();
    commands.push(&["systemd-sysusers"]);
    commands.push(&["systemd-tmpfiles", "--create", "--prefix=/run", "--prefix=/var", "--prefix=/etc"]);
    // Always: which units there are is not a matter of changed packages only.
    commands.push(&["systemctl", "daemon-reload"]);
    if touches(&["usr/lib/udev", "usr/etc/udev"]) {
        commands.push(&["udevadm", "control", "--reload"]);
    }
    if touches(&["usr/share/dbus-1", "usr/etc/dbus-1"]) {
        const BUS: &str = "org.freedesktop.DBus";
        commands.push(&["busctl", "call", BUS, "/org/freedesktop/DBus", BUS, "ReloadConfig"]);
    }
    events
        .task("Running systemd-tmpfiles for /run and /var", || {
            namespace::of_the_system(|| commands.iter().map(|c| run(c)).collect::<Result<Vec<_>>>())
        })?
        .into_iter()
        .flatten()
        .for_each(|warning| events.warning(warning));
    Ok(())
}

/// Runs a program. One that fails is worth a warning: the tree is switched, and a file of somebody else's that it does not
/// like must not make that an error for ever.
fn run(command: &[&str]) -> Result<Option<String>> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .env("LC_ALL", "C.UTF-8")
        .output()
        .context(|| format!("Running {}", command[0]))?;
    let error = String::from_utf8_lossy(&output.stderr);
    Ok((!output.status.success()).then(|| format!("{} failed: {}", command.join(" "), error.trim())))
}

/// What the user reads at the end, as rpm-ostree says it.
fn closing_lines(diff: &PackageDiff, changes: &[Change], root: &Path) -> Vec<String> {
    let mut lines: Vec<String> = diff.block().lines().map(ToOwned::to_owned).collect();
    let done = "Successfully updated running filesystem tree";
    let restart = worth_a_restart(changes, root);
    if restart.is_empty() {
        lines.push(format!("{done}."));
    } else {
        lines.push(format!("{done}; Following services may need to be restarted:"));
        lines.extend(restart.iter().map(|unit| format!("  {}", unit.display())));
    }
    let started = to_start(changes);
    if !started.is_empty() {
        lines.push("Services that start with the next boot, or now with systemctl start:".into());
        lines.extend(started.iter().map(|unit| format!("  {unit}")));
    }
    lines
}

/// Units that were there before, and whose file or program is another one now.
fn worth_a_restart(changes: &[Change], root: &Path) -> BTreeSet<PathBuf> {
    let replaced: BTreeSet<&Path> =
        changes.iter().filter(|c| c.old.is_some() && c.new.is_some()).map(|c| c.path.as_path()).collect();
    let added: BTreeSet<&Path> = changes.iter().filter(|c| c.old.is_none()).map(|c| c.path.as_path()).collect();
    let mut units = BTreeSet::new();
    for dir in ["usr/lib/systemd/system", "usr/etc/systemd/system"] {
        for entry in std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten() {
            let path = Path::new(dir).join(entry.file_name());
            let is_service = path.extension().is_some_and(|e| e == "service");
            if !is_service || added.contains(path.as_path()) {
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if replaced.contains(path.as_path()) || programs(&text).any(|p| replaced.contains(p.as_path())) {
                units.insert(Path::new("/").join(path));
            }
        }
    }
    units
}

/// The programs of a unit, below the root of a commit.
fn programs(unit: &str) -> impl Iterator<Item = PathBuf> {
    // systemd.service(5): `Exec…=`, and special characters before the path.
    unit.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        let program = value.trim_start_matches(['@', '-', ':', '+', '!', '|', ' ']).split_whitespace().next()?;
        let program = program.strip_prefix('/').filter(|_| key.trim_start().starts_with("Exec"))?;
        let merged = ["bin/", "sbin/", "lib/"].iter().any(|dir| program.starts_with(dir));
        Some(if merged { Path::new("usr").join(program) } else { PathBuf::from(program) })
    })
}

/// Services that a target wants now and did not before.
fn to_start(changes: &[Change]) -> BTreeSet<String> {
    let added = changes.iter().filter(|c| c.old.is_none() && c.new.is_some());
    added
        .filter_map(|c| {
            let wanted = c.path.parent()?.extension()? == "wants";
            let units = ["usr/etc/systemd/system", "usr/lib/systemd/system"].iter().any(|d| c.path.starts_with(d));
            let name = c.path.file_name()?.to_str()?;
            (wanted && units && name.ends_with(".service")).then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::package::PackageId;
    use crate::repo::trees::Object;

    fn diff(old: &[(&str, &str)], new: &[(&str, &str)]) -> PackageDiff {
        let list = |l: &[(&str, &str)]| l.iter().map(|(n, v)| PackageId::new(*n, *v, "amd64")).collect::<Vec<_>>();
        PackageDiff::between(&list(old), &list(new))
    }

    #[test]
    fn what_needs_to_be_allowed() {
        let none = ApplyLive::default();
        let all = ApplyLive { allow_replacement: true, ..ApplyLive::default() };
        let core = ApplyLive { allow_core: true, ..all.clone() };
        assert!(refuse(&diff(&[], &[("a", "1")]), &none).is_ok());
        let removed = refuse(&diff(&[("a", "1"), ("b", "1")], &[]), &none).unwrap_err();
        assert_eq!(removed.to_string(), "packages would be removed: 2, allow replacement to override");
        let changed = diff(&[("a", "1")], &[("a", "2")]);
        let error = refuse(&changed, &none).unwrap_err();
        assert_eq!(error.to_string(), "packages would be changed: 1, allow replacement to override");
        assert!(refuse(&changed, &all).is_ok());
        let libc = diff(&[("libc6", "2.41-12")], &[("libc6", "2.41-13")]);
        let error = refuse(&libc, &all).unwrap_err();
        assert!(error.to_string().contains("libc6 2.41-12 -> 2.41-13"), "{error}");
        assert!(error.hints[0].contains("--allow-core"), "{error:?}");
        assert!(refuse(&libc, &core).is_ok());
        // A new one replaces nothing that runs.
        assert!(refuse(&diff(&[], &[("dbus-broker", "1")]), &none).is_ok());
    }

    #[test]
    fn programs_of_units() {
        let unit =
            "[Service]\nExecStartPre=-/bin/true\nExecStart=@/usr/sbin/sshd sshd -D\nExecReload=kill\nUser=/usr/x\n";
        let found: Vec<_> = programs(unit).collect();
        assert_eq!(found, [Path::new("usr/bin/true"), Path::new("usr/sbin/sshd")]);
    }

    #[test]
    fn services_to_restart_and_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let units = dir.path().join("usr/lib/systemd/system");
        std::fs::create_dir_all(&units).unwrap();
        std::fs::write(units.join("old.service"), "[Service]\nExecStart=/usr/bin/old\n").unwrap();
        std::fs::write(units.join("new.service"), "[Service]\nExecStart=/usr/bin/old\n").unwrap();
        std::fs::write(units.join("same.service"), "[Service]\nExecStart=/usr/bin/same\n").unwrap();
        let file = |name: &str| Some(Object::File(name.into()));
        let change =
            |path: &str, old: bool| Change { path: path.into(), old: file("1").filter(|_| old), new: file("2") };
        let changes = [
            change("usr/bin/old", true),
            change("usr/lib/systemd/system/new.service", false),
            change("usr/etc/systemd/system/multi-user.target.wants/new.service", false),
        ];
        let restart = worth_a_restart(&changes, dir.path());
        assert_eq!(restart.into_iter().collect::<Vec<_>>(), [Path::new("/usr/lib/systemd/system/old.service")]);
        assert_eq!(to_start(&changes).into_iter().collect::<Vec<_>>(), ["new.service"]);
    }
}

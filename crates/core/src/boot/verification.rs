//! Whether a deployment is good: its checks at boot, the reports about them, and what the boot loader is told.
//!
//! `var/lib/apt-ostree/health/CHECKSUM.SERIAL.json` is the report of the last boot of that deployment. /var is the same
//! for all deployments of a stateroot, so the one that the loader fell back to can tell why.
//!
//! A deployment is restarted for failed checks only where that leads somewhere: the loader counts its tries, and knows
//! another one that is good and still there ([`on_trial`]). On all other machines a failed check is reported and nothing
//! more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::grubenv::{self, GrubEnv};
use super::health::{self, CheckResult};
use super::variables;
use crate::error::{Context, Result};
use crate::model::settings::Settings;
use crate::record;
use crate::settings;
use crate::sysroot::{Deployment, Sysroot};

/// Below `/var`.
const REPORTS: &str = "lib/apt-ostree/health";
/// Reports of failed deployments that are gone are kept, so that they are not deployed again; this many.
const KEPT: usize = 20;

/// How a boot of a deployment went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootReport {
    /// `CHECKSUM.SERIAL`.
    pub deployment: String,
    /// Seconds since the epoch.
    pub time: u64,
    pub good: bool,
    /// Why it is not good, if no check tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The input digest of a layered commit: the same inputs would give the same tree again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_digest: Option<String>,
    #[serde(default)]
    pub checks: Vec<CheckResult>,
}

impl BootReport {
    pub fn checksum(&self) -> &str {
        self.deployment.split('.').next().unwrap_or_default()
    }

    /// One line: which check, how it ended, the last thing it said.
    pub fn cause(&self) -> String {
        let failed: Vec<&CheckResult> = self.checks.iter().filter(|c| c.required && !c.passed).collect();
        let Some(first) = failed.first() else {
            return self.reason.clone().unwrap_or_else(|| "for an unknown reason".into());
        };
        let mut text = format!("check {}: {}", first.name, first.status);
        if let Some(line) = first.output.last() {
            text += &format!(" ({})", line.trim());
        }
        if failed.len() > 1 {
            text += &format!(", and {} more", failed.len() - 1);
        }
        text
    }
}

/// What has to happen after a boot was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is good.
    Go,
    /// It is not; a restart uses up one of its tries.
    Restart,
    /// It is not, and a restart would not help, because of this.
    Stay(String),
}

/// Runs the checks of the system that runs from `sysroot`, and reports. `None`: turned off, or nothing of this sysroot runs.
pub fn judge(root: &Path, sysroot: &Sysroot) -> Result<Option<(BootReport, Next)>> {
    // A mistake in the settings says nothing about the deployment: the defaults hold, and `mark_good` tells of it.
    if !settings::read(&root.join("etc")).unwrap_or_default().verify_boots {
        return Ok(None);
    }
    let Some(booted) = booted(sysroot) else { return Ok(None) };
    let checks: Vec<CheckResult> = health::find(root)?.iter().map(|c| health::run(c, health::TIMEOUT)).collect();
    let mut report = new_report(sysroot, &booted);
    report.good = checks.iter().all(|c| c.passed || !c.required);
    report.checks = checks;
    let next = if report.good { Next::Go } else { after_failure(sysroot, &booted)? };
    // The verdict counts, not its record: a /var that is full or read-only may be what is wrong.
    let _ = write_report(&root.join("var"), &report);
    Ok(Some((report, next)))
}

/// The boot has taken too long: the same as a failed check, unless it was found good by now or a check has told already.
pub fn overdue(root: &Path, sysroot: &Sysroot) -> Result<Option<(BootReport, Next)>> {
    if !settings::read(&root.join("etc")).unwrap_or_default().verify_boots {
        return Ok(None);
    }
    let Some(booted) = booted(sysroot) else { return Ok(None) };
    // Found good, and the loader could not be told: no reason to restart.
    if judged_good_since_boot(root, &booted.name()) {
        return Ok(None);
    }
    let next = after_failure(sysroot, &booted)?;
    if next != Next::Restart {
        return Ok(None);
    }
    let mut report = new_report(sysroot, &booted);
    report.reason = Some("the start did not come to an end in time".into());
    let _ = write_report(&root.join("var"), &report);
    Ok(Some((report, next)))
}

/// The start is complete: tells the loader, and notes which deployment it has given up. Lines for the log.
pub fn mark_good(root: &Path, sysroot: &Sysroot) -> Result<Vec<String>> {
    let Some(booted) = booted(sysroot) else { return Ok(Vec::new()) };
    let mut lines = Vec::new();
    let settings = settings::read(&root.join("etc")).unwrap_or_else(|error| {
        lines.push(format!("{error}; the defaults hold"));
        Settings::default()
    });
    let Some(env) = grubenv::read(sysroot.path())? else {
        return Ok(vec!["There is no GRUB environment block: the boot loader does not count tries".into()]);
    };
    if !settings.verify_boots {
        let changed = grubenv::update(sysroot.path(), |env| {
            for name in [variables::GOOD, variables::TRIAL, variables::LEFT, variables::FAILED] {
                env.unset(name);
            }
        })?;
        if changed {
            lines.push("Boot verification is turned off: the boot loader no longer counts tries".into());
        }
        return Ok(lines);
    }
    let name = booted.name();
    let var = root.join("var");
    if let Some(failed) = env.get(variables::FAILED).filter(|id| *id != name && is_id(id)) {
        let known = read_reports(&var).iter().any(|r| r.deployment == failed && !r.good);
        if !known {
            let mut report = empty_report(failed);
            report.state_digest = state_digest(sysroot, report.checksum());
            report.reason = Some("the boot loader gave it up: no start of it came as far as its health checks".into());
            write_report(&var, &report)?;
        }
        lines.push(format!("The boot loader gave up the deployment {failed}"));
    }
    let changed = grubenv::update(sysroot.path(), |env| {
        env.set(variables::GOOD, &name);
        // Another round of trials starts with all its tries.
        if env.get(variables::TRIAL) == Some(name.as_str()) {
            env.unset(variables::TRIAL);
            env.unset(variables::LEFT);
        }
        if env.get(variables::FAILED) == Some(name.as_str()) {
            env.unset(variables::FAILED);
        }
        match settings.boot_tries {
            Some(tries) => env.set(variables::TRIES, &tries.to_string()),
            None => env.unset(variables::TRIES),
        }
    })?;
    if changed {
        lines.push(format!("The deployment {name} is good"));
    }
    prune_reports(&var, &sysroot.deployments())?;
    Ok(lines)
}

/// Whether this boot of the deployment was judged, and found good.
fn judged_good_since_boot(root: &Path, name: &str) -> bool {
    let uptime = fs::read_to_string(root.join("proc/uptime")).ok();
    let seconds = uptime.and_then(|text| text.split('.').next()?.parse::<u64>().ok());
    let Some(booted_at) = seconds.and_then(|seconds| now().checked_sub(seconds)) else { return false };
    read_reports(&root.join("var")).iter().any(|r| r.deployment == name && r.good && r.time >= booted_at)
}

/// The good deployment that the next one would push out: staging drops all but the running one, and while that is on trial
/// the good one is what it falls back to. A pinned one stays.
pub fn would_lose_good(sysroot: &Sysroot) -> Result<Option<String>> {
    let (Some(booted), Some(env)) = (booted(sysroot), grubenv::read(sysroot.path())?) else { return Ok(None) };
    let all = sysroot.deployments();
    let names: Vec<String> = all.iter().map(Deployment::name).collect();
    let good = env.get(variables::GOOD).filter(|_| on_trial(&env, &booted.name(), &names).is_ok());
    let lost = |name: &&str| all.iter().any(|d| d.name() == *name && !d.is_pinned());
    Ok(good.filter(lost).map(ToOwned::to_owned))
}

fn booted(sysroot: &Sysroot) -> Option<Deployment> {
    sysroot.deployments().into_iter().find(|d| d.booted)
}

fn after_failure(sysroot: &Sysroot, booted: &Deployment) -> Result<Next> {
    let Some(env) = grubenv::read(sysroot.path())? else {
        return Ok(Next::Stay("the boot loader does not count tries".into()));
    };
    let names: Vec<String> = sysroot.deployments().iter().map(Deployment::name).collect();
    Ok(match on_trial(&env, &booted.name(), &names) {
        Ok(()) => Next::Restart,
        Err(why) => Next::Stay(why.into()),
    })
}

/// Whether restarting leads to a good deployment in the end; why not otherwise.
fn on_trial(env: &GrubEnv, booted: &str, deployments: &[String]) -> std::result::Result<(), &'static str> {
    let good = env.get(variables::GOOD);
    match good {
        None => return Err("no deployment was found good before"),
        Some(good) if good == booted => return Err("this deployment was found good before"),
        Some(good) if !deployments.iter().any(|d| d == good) => {
            return Err("the deployment that was found good before is no longer there");
        }
        Some(_) => {}
    }
    if env.get(variables::TRIAL) == Some(booted) {
        return Ok(());
    }
    Err("the boot loader does not count this deployment's tries")
}

/// A name that may be used for a file.
fn is_id(text: &str) -> bool {
    text.split_once('.').is_some_and(|(checksum, serial)| {
        checksum.len() == 64
            && checksum.bytes().all(|b| b.is_ascii_hexdigit())
            && (1..=9).contains(&serial.len())
            && serial.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn empty_report(deployment: &str) -> BootReport {
    BootReport {
        deployment: deployment.to_owned(),
        time: now(),
        good: false,
        reason: None,
        state_digest: None,
        checks: Vec::new(),
    }
}

fn new_report(sysroot: &Sysroot, booted: &Deployment) -> BootReport {
    BootReport { state_digest: state_digest(sysroot, &booted.checksum()), ..empty_report(&booted.name()) }
}

fn state_digest(sysroot: &Sysroot, checksum: &str) -> Option<String> {
    sysroot.repo().try_info(checksum).ok().flatten()?.state_digest
}

fn directory(var: &Path) -> PathBuf {
    var.join(REPORTS)
}

fn write_report(var: &Path, report: &BootReport) -> Result<()> {
    let directory = directory(var);
    let path = directory.join(format!("{}.json", report.deployment));
    let write = || record::write(&path, &serde_json::to_vec_pretty(report)?, true);
    write().context(|| format!("Writing the report of this boot into {}", directory.display()))
}

/// The reports below a `/var`. One that cannot be read says nothing.
fn read_reports(var: &Path) -> Vec<BootReport> {
    let Ok(entries) = fs::read_dir(directory(var)) else { return Vec::new() };
    let paths = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
    let mut reports: Vec<BootReport> =
        paths.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect();
    reports.retain(|r| is_id(&r.deployment));
    reports.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.deployment.cmp(&b.deployment)));
    reports
}

/// Drops what nobody will ask for.
fn prune_reports(var: &Path, deployments: &[Deployment]) -> Result<()> {
    let names: Vec<String> = deployments.iter().map(Deployment::name).collect();
    let mut failed = 0;
    for report in read_reports(var) {
        if names.contains(&report.deployment) {
            continue;
        }
        failed += usize::from(!report.good);
        if report.good || failed > KEPT {
            let path = directory(var).join(format!("{}.json", report.deployment));
            fs::remove_file(&path).context(|| format!("Removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The deployments of a stateroot whose last boot failed, the newest report first. Some may be gone.
pub fn failed_boots(sysroot: &Sysroot, stateroot: &str) -> Vec<BootReport> {
    let mut reports = read_reports(&sysroot.var(stateroot));
    reports.retain(|r| !r.good);
    reports
}

/// The report of a failed boot of this commit, or of one with the same inputs.
pub fn failed_before<'a>(failed: &'a [BootReport], checksum: &str, digest: Option<&str>) -> Option<&'a BootReport> {
    failed.iter().find(|r| r.checksum() == checksum || (digest.is_some() && r.state_digest.as_deref() == digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &str) -> GrubEnv {
        let mut block = format!("# GRUB Environment Block\n{text}").into_bytes();
        block.resize(1024, b'#');
        GrubEnv::parse(&block).unwrap()
    }

    #[test]
    fn restarts_only_where_the_loader_comes_back() {
        let deployments = ["new.0".to_owned(), "old.0".to_owned()];
        let trial = |text: &str| on_trial(&env(text), "new.0", &deployments);
        assert_eq!(trial("apt_ostree_good=old.0\napt_ostree_trial=new.0\napt_ostree_left=2\n"), Ok(()));
        for text in [
            "",
            "apt_ostree_good=\n",
            "apt_ostree_good=new.0\napt_ostree_trial=new.0\n",
            "apt_ostree_good=gone.0\napt_ostree_trial=new.0\n",
            "apt_ostree_good=old.0\n",
            "apt_ostree_good=old.0\napt_ostree_trial=other.0\n",
        ] {
            assert!(trial(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reports_are_kept_while_somebody_may_ask() {
        let dir = tempfile::tempdir().unwrap();
        let id = |n: usize| format!("{n:064x}.0");
        for n in 0..30 {
            let mut report = BootReport { time: n as u64, good: n % 10 == 0, ..empty_report(&id(n)) };
            report.reason = Some(format!("reason {n}"));
            write_report(dir.path(), &report).unwrap();
        }
        fs::write(directory(dir.path()).join("x.json"), "{").unwrap();
        let reports = read_reports(dir.path());
        assert_eq!((reports.len(), reports[0].cause().as_str()), (30, "reason 29"));
        prune_reports(dir.path(), &[]).unwrap();
        let reports = read_reports(dir.path());
        assert!(reports.len() == KEPT && reports.iter().all(|r| !r.good), "{}", reports.len());
        assert!(failed_before(&reports, &id(29)[..64], None).is_some());
        assert!(failed_before(&reports, &id(0)[..64], Some("x")).is_none());
        assert!(read_reports(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn the_cause_is_the_first_required_check() {
        let check = |name: &str, required, passed, output: &[&str]| CheckResult {
            name: name.into(),
            required,
            passed,
            status: "exit status 1".into(),
            output: output.iter().map(|l| (*l).to_owned()).collect(),
        };
        let mut report = empty_report(&format!("{:064x}.1", 1));
        report.checks = vec![check("a", true, true, &[]), check("wanted/b", false, false, &["x"])];
        report.reason = Some("why".into());
        assert_eq!(report.cause(), "why");
        report.checks.push(check("c", true, false, &["one", "no answer "]));
        assert_eq!(report.cause(), "check c: exit status 1 (no answer)");
        report.checks.push(check("d", true, false, &[]));
        assert_eq!(report.cause(), "check c: exit status 1 (no answer), and 1 more");
        assert!(is_id(&report.deployment) && !is_id("../../etc/passwd") && !is_id("abc.0"));
    }
}

//! What systemd says of the units that have to do with updates: the timer of automatic updates, and the unit of a registered
//! update driver. Asked with systemctl, of the running system only, and never a reason for a command to fail: where systemd
//! does not answer, there is less to tell.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use apt_ostree_core::Result;
use apt_ostree_core::model::settings::UpdatePolicy;
use apt_ostree_core::update_driver::{self, UpdateDriver};

use crate::render::ago;

/// Timer and service of automatic updates: our own, and those of the package that stands in for rpm-ostree.
const AUTOMATIC: [(&str, &str); 2] = [
    ("apt-ostreed-automatic.timer", "apt-ostreed-automatic.service"),
    ("rpm-ostreed-automatic.timer", "rpm-ostreed-automatic.service"),
];

type Properties = BTreeMap<String, String>;

/// These properties of each unit, in the order of the units.
fn show(units: &[&str], properties: &[&str]) -> Vec<Properties> {
    let output = Command::new("systemctl")
        .args(["show", "--timestamp=unix", &format!("--property={}", properties.join(","))])
        .args(units)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => parse(&String::from_utf8_lossy(&output.stdout)),
        _ => Vec::new(),
    }
}

/// `systemctl show`: lines `Key=value`, a blank line between units.
fn parse(text: &str) -> Vec<Properties> {
    let unit = |text: &str| text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    text.trim().split("\n\n").filter(|t| !t.is_empty()).map(unit).collect()
}

fn property<'a>(unit: &'a Properties, key: &str) -> &'a str {
    unit.get(key).map_or("", String::as_str)
}

/// The line of `status` about automatic updates that are on.
pub(crate) fn automatic_updates(policy: UpdatePolicy) -> String {
    let names: Vec<&str> = AUTOMATIC.iter().flat_map(|(timer, service)| [*timer, *service]).collect();
    let units = show(&names, &["Id", "LoadState", "ActiveState", "LastTriggerUSec"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    describe(policy, &units, now)
}

fn describe(policy: UpdatePolicy, units: &[Properties], now: u64) -> String {
    let text = format!("AutomaticUpdates: {policy}");
    let unit = |name: &str| units.iter().find(|u| property(u, "Id") == name);
    let known = AUTOMATIC.iter().filter_map(|(timer, service)| Some((unit(timer)?, unit(service)?)));
    // Ours comes last, so that it is the one where nothing tells them apart.
    let Some((timer, service)) = known.rev().max_by_key(|(timer, service)| importance(timer, service)) else {
        return text;
    };
    let (timer_name, service_name) = (property(timer, "Id"), property(service, "Id"));
    let state = match (property(timer, "ActiveState"), property(service, "ActiveState"), last_run(timer)) {
        (_, "active" | "activating", _) => format!("{service_name}: running"),
        (_, "failed", _) => format!("{service_name}: last run failed"),
        ("inactive", ..) => format!("{timer_name}: inactive"),
        (.., Some(time)) => format!("{timer_name}: last run {}", ago(now.saturating_sub(time))),
        _ => format!("{timer_name}: no runs since boot"),
    };
    format!("{text}; {state}")
}

/// When a timer last started its service, in seconds since the epoch; `None`: not since the boot.
fn last_run(timer: &Properties) -> Option<u64> {
    let time = property(timer, "LastTriggerUSec").strip_prefix('@')?.parse().ok()?;
    (time > 0).then_some(time)
}

/// Which of several timers to tell of: one that is at work, the one that ran last, one that is installed.
fn importance(timer: &Properties, service: &Properties) -> (bool, Option<u64>, bool) {
    let at_work = |unit: &Properties| matches!(property(unit, "ActiveState"), "active" | "activating");
    let exists = !matches!(property(timer, "LoadState"), "" | "not-found");
    (at_work(timer) || at_work(service), last_run(timer), exists)
}

/// The lines of `status` about a registered driver.
pub(crate) fn driver(driver: &UpdateDriver) -> String {
    let state = show(&[&driver.unit], &["ActiveState", "StatusText"]).pop().unwrap_or_default();
    let unit = if driver.unit.is_empty() { String::new() } else { format!(" ({})", driver.unit) };
    let mut text = format!("AutomaticUpdatesDriver: {}{unit}\n", driver.name);
    match (property(&state, "ActiveState"), property(&state, "StatusText")) {
        ("", _) => {}
        (active, "") => text += &format!("  DriverState: {active}\n"),
        (active, status) => text += &format!("  DriverState: {active}; {status}\n"),
    }
    text
}

/// An error while a program that is at work drives the updates of the system below `root`, unless it is the one that asks.
pub(crate) fn refuse_driven(root: &Path) -> Result<()> {
    let Some(driver) = UpdateDriver::read(root) else { return Ok(()) };
    let state = show(&[&driver.unit], &["ActiveState"]).pop().unwrap_or_default();
    driver.refuse(property(&state, "ActiveState"), update_driver::unit_of_process("self").as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_the_timer() {
        let line = |timer: &str, last: &str, service: &str| {
            let text = format!(
                "Id=apt-ostreed-automatic.timer\nActiveState={timer}\nLastTriggerUSec={last}\n\n\
                 Id=apt-ostreed-automatic.service\nActiveState={service}\n"
            );
            describe(UpdatePolicy::Stage, &parse(&text), 10_000)
        };
        let timer = "AutomaticUpdates: stage; apt-ostreed-automatic.timer";
        assert_eq!(line("inactive", "", "inactive"), format!("{timer}: inactive"));
        assert_eq!(line("active", "", "inactive"), format!("{timer}: no runs since boot"));
        assert_eq!(line("active", "@2800", "inactive"), format!("{timer}: last run 2 hours ago"));
        let service = "AutomaticUpdates: stage; apt-ostreed-automatic.service";
        assert_eq!(line("active", "@2800", "activating"), format!("{service}: running"));
        assert_eq!(line("active", "@2800", "failed"), format!("{service}: last run failed"));
        assert_eq!(describe(UpdatePolicy::Check, &parse(""), 0), "AutomaticUpdates: check");
    }

    #[test]
    fn the_timer_that_is_in_use() {
        // Load state, state and last run of the timer, and state of the service; of both names.
        let line = |ours: [&str; 4], theirs: [&str; 4]| {
            let units = |name: &str, [load, timer, last, service]: [&str; 4]| {
                format!(
                    "Id={name}.timer\nLoadState={load}\nActiveState={timer}\nLastTriggerUSec={last}\n\n\
                     Id={name}.service\nLoadState={load}\nActiveState={service}\n\n"
                )
            };
            let text = units("apt-ostreed-automatic", ours) + &units("rpm-ostreed-automatic", theirs);
            let line = describe(UpdatePolicy::Stage, &parse(&text), 10_000);
            line.strip_prefix("AutomaticUpdates: stage; ").unwrap().to_owned()
        };
        let (there, missing) = (["loaded", "inactive", "", "inactive"], ["not-found", "inactive", "", "inactive"]);
        let active = ["loaded", "active", "", "inactive"];
        let ran = |time| ["loaded", "inactive", time, "inactive"];
        assert_eq!(line(there, missing), "apt-ostreed-automatic.timer: inactive");
        assert_eq!(line(missing, there), "rpm-ostreed-automatic.timer: inactive");
        assert_eq!(line(there, there), "apt-ostreed-automatic.timer: inactive");
        assert_eq!(line(there, active), "rpm-ostreed-automatic.timer: no runs since boot");
        assert_eq!(line(ran("@9000"), active), "rpm-ostreed-automatic.timer: no runs since boot");
        assert_eq!(line(ran("@9000"), ran("@9001")), "rpm-ostreed-automatic.timer: inactive");
        assert_eq!(line(ran("@9001"), ran("@9000")), "apt-ostreed-automatic.timer: inactive");
        assert_eq!(line(active, ["loaded", "active", "@2800", "activating"]), "rpm-ostreed-automatic.service: running");
    }
}

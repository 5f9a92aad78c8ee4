//! `health`: the health checks of the running system, by hand; and, hidden, what its units do at boot
//! (`data/package/usr/lib/systemd/system/apt-ostree-*.service`). Runs in this process: nothing of the sysroot changes.

use std::path::Path;
use std::process::ExitCode;

use apt_ostree_core::boot::health::{self, CheckResult};
use apt_ostree_core::boot::verification::{self, BootReport, Next};
use apt_ostree_core::sysroot::Sysroot;
use apt_ostree_core::{Error, Result};
use clap::Args;
use serde_json::json;

use super::App;
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Output JSON
    #[arg(long)]
    json: bool,
    /// As apt-ostree-health.service does: report, and restart where that helps
    #[arg(long, hide = true, conflicts_with_all = ["json", "good", "overdue"])]
    boot: bool,
    /// As apt-ostree-boot-good.service does: tell the boot loader
    #[arg(long, hide = true, conflicts_with_all = ["json", "overdue"])]
    good: bool,
    /// As apt-ostree-boot-timeout.service does: restart where that helps
    #[arg(long, hide = true, conflicts_with = "json")]
    overdue: bool,
}

pub(crate) fn run(app: &App, args: &HealthArgs) -> Result<ExitCode, Failure> {
    let path = app.sysroot()?;
    let root = Path::new("/");
    if path != root {
        return usage("health is about the running system, not about one in a directory");
    }
    app.require_root()?;
    if args.boot {
        let verdict = verification::judge(root, &Sysroot::open(&path)?)?;
        return verdict.map_or(Ok(ExitCode::SUCCESS), |(report, next)| act(app, &report, &next));
    }
    if args.overdue {
        let verdict = verification::overdue(root, &Sysroot::open(&path)?)?;
        return verdict.map_or(Ok(ExitCode::SUCCESS), |(report, next)| act(app, &report, &next));
    }
    if args.good {
        for line in verification::mark_good(root, &Sysroot::open(&path)?)? {
            app.terminal.line(&line);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let results: Vec<CheckResult> =
        health::find(root)?.iter().map(|check| health::run(check, health::TIMEOUT)).collect();
    let healthy = results.iter().all(|r| r.passed || !r.required);
    if args.json {
        app.print_json(&json!({ "healthy": healthy, "checks": results }));
    } else if results.is_empty() {
        app.terminal.line("There are no health checks in /etc/apt-ostree/health.d and /usr/lib/apt-ostree/health.d");
    } else {
        app.terminal.print(&table(&results));
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line for each check, and what the ones that did not pass have said.
fn table(results: &[CheckResult]) -> String {
    let width = results.iter().map(|r| r.name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for result in results {
        let word = match (result.passed, result.required) {
            (true, _) => "passed",
            (false, true) => "FAILED",
            (false, false) => "warning",
        };
        if result.passed {
            text += &format!("{word:<8} {}\n", result.name);
            continue;
        }
        text += &format!("{word:<8} {:<width$}  {}\n", result.name, result.status);
        for line in &result.output {
            text += &format!("         {line}\n");
        }
    }
    text
}

/// After a boot was judged: says it for the journal, and restarts.
fn act(app: &App, report: &BootReport, next: &Next) -> Result<ExitCode, Failure> {
    app.terminal.print(&table(&report.checks));
    match next {
        Next::Go => return Ok(ExitCode::SUCCESS),
        Next::Stay(why) => {
            let error = Error::failed(format!("This deployment is not good: {}", report.cause()));
            return Err(error.hint(format!("It is not restarted: {why}.")).into());
        }
        Next::Restart => {}
    }
    app.terminal.line(&format!("This deployment is not good: {}", report.cause()));
    app.terminal.line("Restarting, so that the boot loader goes back to the good one when the tries are used up");
    let status = std::process::Command::new("systemctl").args(["--no-block", "reboot"]).status()?;
    if !status.success() {
        return Err(Error::failed("systemctl reboot failed").into());
    }
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_failed() {
        let result = |name: &str, required, passed| CheckResult {
            name: name.into(),
            required,
            passed,
            status: "exit status 2".into(),
            output: vec!["said".into()],
        };
        let list = [result("10-a", true, true), result("20-long", true, false), result("wanted/x", false, false)];
        let want = "passed   10-a\n\
                    FAILED   20-long   exit status 2\n         said\n\
                    warning  wanted/x  exit status 2\n         said\n";
        assert_eq!(table(&list), want);
    }
}

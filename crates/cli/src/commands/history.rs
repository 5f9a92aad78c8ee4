//! `history` (`ex history` in rpm-ostree): which command made which deployment, and its boots. Needs neither root nor a worker.

use std::process::ExitCode;

use apt_ostree_core::model::time::iso8601;
use apt_ostree_core::operation::history::{self, Entry};
use apt_ostree_core::sysroot::Sysroot;
use clap::Args;

use super::{App, StaterootArg, status};
use crate::args::Failure;
use crate::render::ago;

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Print additional fields (e.g. StateRoot)
    #[arg(short, long)]
    verbose: bool,
    /// Output JSON
    #[arg(long)]
    json: bool,
    /// Limit number of entries to output
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3)]
    limit: usize,
    /// Output all entries
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(app: &App, args: &HistoryArgs) -> Result<ExitCode, Failure> {
    let sysroot = Sysroot::open(&app.sysroot()?)?;
    let stateroot = sysroot.stateroot(args.stateroot.stateroot.as_deref())?;
    let mut entries = history::read(&sysroot, &stateroot);
    if !args.all {
        entries.truncate(args.limit);
    }
    // A stream of documents, as rpm-ostree prints it.
    if args.json {
        entries.iter().for_each(|entry| app.print_json(entry));
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        app.terminal.line("<< No entries found >>");
        return Ok(ExitCode::SUCCESS);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let texts: Vec<String> = entries.iter().map(|e| entry(app, e, args.verbose, now)).collect();
    app.terminal.print(&texts.join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn entry(app: &App, entry: &Entry, verbose: bool, now: u64) -> String {
    let time = |seconds: u64| format!("{} ({})", iso8601(seconds), ago(now.saturating_sub(seconds)));
    let mut text = String::new();
    if let Some(last) = entry.last_boot_timestamp {
        text += &format!("BootTimestamp: {}\n", time(last));
    }
    if let (Some(count), Some(first)) = (entry.boot_count.filter(|c| *c > 1), entry.first_boot_timestamp) {
        text += &format!("└ BootCount: {count}; first booted on {}\n", time(first));
    }
    text += &format!("CreateTimestamp: {}\n", time(entry.deployment_create_timestamp));
    if let Some(command) = &entry.deployment_create_command_line {
        text += &format!("CreateCommand: {}\n", app.terminal.bold(command));
    }
    match &entry.deployment {
        Some(deployment) => text += &status::deployment(&app.terminal, deployment, verbose),
        None => text += "  << Missing history information >>\n",
    }
    text
}

//! `search TERM…`: packages by name and short description. Needs neither root nor a worker.

use std::process::ExitCode;

use apt_ostree_apt::AptSource;
use clap::Args;

use super::{App, StaterootArg};
use crate::args::{Failure, usage};

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree search [OPTIONS] TERM…")]
pub(crate) struct SearchArgs {
    /// Words that name or short description must have, all of them; shell patterns
    #[arg(value_name = "TERM")]
    terms: Vec<String>,
    #[command(flatten)]
    stateroot: StaterootArg,
    /// Output JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(app: &App, args: &SearchArgs) -> Result<ExitCode, Failure> {
    if args.terms.is_empty() {
        return usage("At least one TERM must be specified");
    }
    let hits = app.view(&args.stateroot)?.search(&mut AptSource::new(), &args.terms)?;
    if args.json {
        let group = |list: &[(String, String)]| -> Vec<serde_json::Value> {
            list.iter().map(|(name, summary)| serde_json::json!({ "name": name, "summary": summary })).collect()
        };
        app.print_json(&serde_json::json!({
            "name-and-summary": group(&hits.name_and_summary),
            "name": group(&hits.name),
            "summary": group(&hits.summary),
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let groups = [
        ("Summary & Name Matched", &hits.name_and_summary),
        ("Name Matched", &hits.name),
        ("Summary Matched", &hits.summary),
    ];
    let mut text = String::new();
    for (title, list) in groups.into_iter().filter(|(_, list)| !list.is_empty()) {
        if !text.is_empty() {
            text += "\n";
        }
        text += &format!("===== {title} =====\n");
        list.iter().for_each(|(name, summary)| text += &format!("{name} : {summary}\n"));
    }
    app.terminal.print(if text.is_empty() { "No matches found.\n" } else { &text });
    Ok(ExitCode::SUCCESS)
}

//! `cancel`: ends the running transaction of the service, whoever began it.

use std::process::ExitCode;

use super::App;
use crate::args::Failure;
use crate::client;

pub(crate) fn run(app: &App) -> Result<ExitCode, Failure> {
    let cancelled = client::cancel(|title| app.terminal.line(&format!("Cancelling transaction: {title}")))?;
    app.terminal.line(if cancelled.is_some() { "Cancelled." } else { "No active transaction." });
    Ok(ExitCode::SUCCESS)
}

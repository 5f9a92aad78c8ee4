//! `reload`: makes the service read its settings again. Without a service there is nothing to do: every command reads them.

use std::process::ExitCode;

use super::App;
use crate::args::Failure;
use crate::client;

pub(crate) fn run(app: &App) -> Result<ExitCode, Failure> {
    app.sysroot()?;
    client::reload()?;
    Ok(ExitCode::SUCCESS)
}

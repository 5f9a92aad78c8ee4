//! `start-daemon`: becomes the service, `apt-ostreed`. Started by the bus, not by people.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use apt_ostree_core::{Context, Error, ErrorKind};
use clap::Args;

use super::App;
use crate::args::Failure;
use crate::start;

/// Beside this program in a build, and where it is installed.
const SERVICE: [&str; 2] = ["apt-ostreed", "../libexec/apt-ostree/apt-ostreed"];

#[derive(Debug, Args)]
pub(crate) struct StartDaemonArgs {
    /// Accepted for compatibility: what the service does is in the journal
    #[arg(short, long)]
    debug: bool,
    /// Exit after SECONDS without a client; 0: never
    #[arg(long, value_name = "SECONDS", hide = true)]
    idle_exit: Option<u64>,
}

pub(crate) fn run(app: &App, args: &StartDaemonArgs) -> Result<ExitCode, Failure> {
    let sysroot = app.sysroot()?;
    app.require_root()?;
    let program = start::program()?;
    let service = SERVICE.iter().map(|path| program.with_file_name(path)).find(|path| path.exists());
    let service = service.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "The service's program is missing: /usr/libexec/apt-ostree/apt-ostreed")
            .hint("It is part of the package apt-ostree; `dpkg --verify apt-ostree` tells what else is missing.")
    })?;
    let mut command = Command::new(&service);
    command.arg(program).arg(sysroot).args(args.idle_exit.map(|seconds| seconds.to_string()));
    let never: Result<ExitCode, _> = Err(command.exec());
    Ok(never.context(|| format!("Starting {}", service.display()))?)
}

//! `usroverlay`: a writable `/usr` until the next boot; it is `ostree admin unlock`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use apt_ostree_core::live::state::LiveState;
use apt_ostree_core::sysroot::Sysroot;
use apt_ostree_core::{Context, Error};
use clap::Args;

use super::App;
use crate::args::Failure;

#[derive(Debug, Args)]
#[command(override_usage = "apt-ostree usroverlay [OPTIONS]")]
pub(crate) struct UsroverlayArgs {
    /// Options of `ostree admin unlock`, such as --hotfix and --transient
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

pub(crate) fn run(app: &App, args: &UsroverlayArgs) -> Result<ExitCode, Failure> {
    let path = app.sysroot()?;
    app.require_root()?;
    let sysroot = Sysroot::open(&path)?;
    for deployment in sysroot.deployments() {
        if LiveState::read(&sysroot, &deployment)?.commit.is_some() {
            return Err(Error::usage("The running system has live changes, which an unlocked /usr would hide")
                .hint("Undo them first: apt-ostree apply-live --reset")
                .into());
        }
    }
    let mut command = Command::new("ostree");
    command.args(["admin", "unlock"]);
    if path != std::path::Path::new("/") {
        command.arg(format!("--sysroot={}", path.display()));
    }
    // Becomes that program, with its output and its exit status.
    let error = command.args(&args.options).exec();
    Err(error).context(|| "Running ostree admin unlock")?
}

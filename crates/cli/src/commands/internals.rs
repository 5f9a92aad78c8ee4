//! `internals`: what packaging generates from the command line definitions. Hidden.

use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::Context;
use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::{App, packages};
use crate::args::{Cli, Failure};
use crate::start;

#[derive(Debug, Args)]
pub(crate) struct InternalsArgs {
    #[command(subcommand)]
    command: Internal,
}

#[derive(Debug, Subcommand)]
enum Internal {
    /// Write the man pages into a directory
    Man { dir: PathBuf },
    /// Answer the service's questions about packages
    Packages(packages::PackagesArgs),
    /// Print the completions for a shell
    Completions { shell: Shell },
}

pub(crate) fn run(app: &App, args: &InternalsArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        Internal::Man { dir } => {
            std::fs::create_dir_all(dir).context(|| format!("Creating {}", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), dir)
                .context(|| format!("Writing man pages to {}", dir.display()))?;
        }
        Internal::Packages(args) => return packages::run(app, args),
        Internal::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), start::name(), &mut text);
            app.terminal.print(&String::from_utf8_lossy(&text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

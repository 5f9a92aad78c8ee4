//! `internals`: what packaging generates from the command line definitions. Hidden.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{App, complete, man, packages};
use crate::args::Failure;
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
    Completions {
        #[arg(value_parser = ["bash", "zsh", "fish"])]
        shell: String,
    },
    /// Print what the last of the words can become
    Complete {
        #[arg(last = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

pub(crate) fn run(app: &App, args: &InternalsArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        Internal::Man { dir } => {
            man::write(dir)?;
        }
        Internal::Packages(args) => return packages::run(app, args),
        Internal::Completions { shell } => {
            let script = match shell.as_str() {
                "bash" => include_str!("../completions/bash"),
                "zsh" => include_str!("../completions/zsh"),
                _ => include_str!("../completions/fish"),
            };
            let function = start::name().replace('-', "_");
            app.terminal.print(&script.replace("NAME", start::name()).replace("FUNCTION", &function));
        }
        Internal::Complete { words } => return complete::run(app, words),
    }
    Ok(ExitCode::SUCCESS)
}

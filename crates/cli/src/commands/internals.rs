//! `internals`: what packaging generates from the command line definitions. Hidden.

use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::Error;
use apt_ostree_daemon::question::Reply;
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
    /// Answer the service's question about the sysroot, which is on standard input
    Answer,
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
        Internal::Answer => answer(app)?,
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

fn answer(app: &App) -> Result<(), Failure> {
    let question = serde_json::from_reader(std::io::stdin().lock()).map_err(Error::from)?;
    let reply = match apt_ostree_daemon::answer::answer(&app.sysroot()?, &question) {
        Ok(answer) => Reply::Answer(answer),
        Err(error) => Reply::Error(error),
    };
    app.terminal.line(&serde_json::to_string(&reply).map_err(Error::from)?);
    Ok(())
}

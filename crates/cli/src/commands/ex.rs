//! `ex`: rpm-ostree's group of experimental commands; here they are commands like the others, under both names.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::App;
use super::apply_live::{self, ApplyLiveArgs};
use super::history::{self, HistoryArgs};
use super::initramfs_etc::{self, InitramfsEtcArgs};
use super::rebuild;
use super::refused::RefusedEx;
use crate::args::Failure;

#[derive(Debug, Args)]
pub(crate) struct ExArgs {
    #[command(subcommand)]
    command: Ex,
}

#[derive(Debug, Subcommand)]
enum Ex {
    /// Inspect history of the system
    History(HistoryArgs),
    /// Apply pending deployment changes to booted deployment
    #[command(alias = "livefs")]
    ApplyLive(ApplyLiveArgs),
    /// Add files to the initramfs
    InitramfsEtc(InitramfsEtcArgs),
    /// Apply the treefiles of origin.d to the container that is being built
    Rebuild,
    #[command(flatten)]
    Refused(RefusedEx),
}

pub(crate) fn run(app: &App, args: ExArgs) -> Result<ExitCode, Failure> {
    match args.command {
        Ex::History(history) => history::run(app, &history),
        Ex::ApplyLive(live) => apply_live::run(app, live),
        Ex::InitramfsEtc(files) => initramfs_etc::run(app, files),
        Ex::Rebuild => rebuild::run(app),
        Ex::Refused(command) => command.refuse(),
    }
}

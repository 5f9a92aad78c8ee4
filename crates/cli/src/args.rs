//! From argv to a command: rpm-ostree's rules of parsing, help and usage errors (`error: usage error: …`, exit code 1).
//!
//! clap does the parsing; what it does not do as rpm-ostree does is done here: the first argument that is not an option
//! is the command wherever it stands, help of a wrong command goes to stderr before the error, and the layout of the
//! list of commands.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::{Error, ErrorKind, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use clap::{Args, CommandFactory, Parser};

use crate::commands::{App, Command};
use crate::start::{self, NAME};
use crate::terminal::Terminal;

const GLOBAL: &str = "Global Options";

#[derive(Debug, Parser)]
#[command(
    name = NAME,
    bin_name = NAME,
    about = "Hybrid image and package system for Debian",
    disable_help_subcommand = true,
    args_override_self = true,
    max_term_width = 120
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that every command takes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// Print version information and exit
    #[arg(long, global = true, help_heading = GLOBAL)]
    version: bool,
    /// Avoid printing most informational messages
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) quiet: bool,
    /// Say more: where the service is not used, why; with some commands, further fields
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) verbose: bool,
    /// Work on this system root instead of the booted one
    #[arg(long, global = true, value_name = "SYSROOT", help_heading = GLOBAL)]
    pub(crate) sysroot: Option<PathBuf>,
    /// Accepted for compatibility
    #[arg(long, global = true, hide = true)]
    peer: bool,
}

/// Runs the program with this command line, and returns its exit code.
pub(crate) fn run(argv: Vec<OsString>) -> ExitCode {
    let terminal = Terminal::from_environment();
    let mut words = Vec::new();
    for word in argv.into_iter().skip(1) {
        match word.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                terminal.error(&Error::usage(format!("Argument is invalid UTF-8: {}", word.to_string_lossy())));
                return ExitCode::FAILURE;
            }
        }
    }
    let command_line =
        std::iter::once(start::name()).chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
    let words = command_first(words);
    let named = words.first().is_some_and(|w| !w.starts_with('-'));
    if !named && words.iter().any(|w| w == "-h" || w == "--help") {
        terminal.print(&top_help());
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse_from(std::iter::once(NAME.to_owned()).chain(words.iter().cloned())) {
        Ok(cli) => cli,
        Err(e) => return refuse(&terminal, &words, &e),
    };
    if cli.global.version {
        terminal.print(&version());
        return ExitCode::SUCCESS;
    }
    let Some(command) = cli.command else {
        terminal.print_error(&top_help());
        terminal.error(&Error::usage("No command specified"));
        return ExitCode::FAILURE;
    };
    let app = App::new(cli.global, terminal, command_line);
    match command.run(&app) {
        Ok(code) => code,
        Err(Failure::Usage(text)) => {
            app.terminal.print_error(&help_of(&words));
            app.terminal.error(&Error::usage(format!("usage error: {text}")));
            ExitCode::FAILURE
        }
        Err(Failure::Error(e)) => {
            app.terminal.error(&e);
            ExitCode::from(e.kind.exit_code())
        }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong arguments: the command's help goes with it.
    Usage(String),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Error(e.into())
    }
}

/// Wrong arguments.
pub(crate) fn usage<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Usage(text.into()))
}

/// An option of the contract whose feature is not there: never ignored in silence.
pub(crate) fn not_available(given: bool, option: &str, why: &str) -> Result<()> {
    if given {
        return Err(Error::usage(format!("{option} is not available in this version: {why}")));
    }
    Ok(())
}

/// Moves the first argument that is not an option to the front. The value of `--sysroot` is not a command.
fn command_first(mut words: Vec<String>) -> Vec<String> {
    let is_value = |i: usize| i > 0 && words[i - 1] == "--sysroot";
    let found = (0..words.len()).find(|i| !words[*i].starts_with('-') && !is_value(*i));
    if let Some(index) = found {
        let command = words.remove(index);
        words.insert(0, command);
    }
    words
}

fn refuse(terminal: &Terminal, words: &[String], e: &clap::Error) -> ExitCode {
    match e.kind() {
        ClapKind::DisplayHelp => {
            terminal.print(&help_of(words));
            return ExitCode::SUCCESS;
        }
        // A group such as `db` without its subcommand.
        ClapKind::DisplayHelpOnMissingArgumentOrSubcommand | ClapKind::MissingSubcommand => {
            terminal.print_error(&help_of(words));
            let group = words.first().map(String::as_str).unwrap_or_default();
            terminal.error(&Error::usage(format!("No \"{group}\" subcommand specified")));
        }
        ClapKind::InvalidSubcommand => {
            terminal.print_error(&help_of(words));
            let name = e.get(ContextKind::InvalidSubcommand).map(ToString::to_string).unwrap_or_default();
            let error = match words.first() {
                Some(first) if *first != name => {
                    Error::new(ErrorKind::Usage, format!("Unknown \"{first}\" subcommand \"{name}\""))
                }
                _ => Error::usage(format!("Unknown command '{name}'")),
            };
            terminal.error(
                &match (elsewhere(words.first().filter(|first| **first != name), &name), near_commands(e)) {
                    (Some(hint), _) => error.hint(hint),
                    (None, near) if near.is_empty() => error,
                    (None, near) => error.hint(format!("Did you mean {}?", near.join(", "))),
                },
            );
        }
        _ => {
            terminal.print_error(&help_of(words));
            terminal.error(&Error::usage(format!("usage error: {}", describe(e))));
        }
    }
    ExitCode::FAILURE
}

/// Whether it is the name of a command, or another name of one.
pub(crate) fn is_command(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some()
}

/// What does the work of a command that other tools of this kind have, or that is not in the group that was named.
fn elsewhere(group: Option<&String>, name: &str) -> Option<String> {
    let command = Cli::command();
    if group.is_some() {
        let known = command.find_subcommand(name).filter(|sub| !sub.is_hide_set());
        return known.map(|sub| format!("It is a command of its own: {NAME} {}", sub.get_name()));
    }
    let found = ELSEWHERE.iter().find(|(names, _)| names.contains(&name));
    found.map(|(_, text)| (*text).to_owned())
}

/// Commands of other tools, and of other times.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (&["pin", "unpin"], "OSTree does that: ostree admin pin [--unpin] INDEX; `apt-ostree status -v` has the index."),
    (&["undeploy"], "apt-ostree cleanup --pending or --rollback; any other one: ostree admin undeploy INDEX"),
    (&["livefs"], "apt-ostree apply-live"),
    (
        &["repolist", "repo", "repos"],
        "Package sources are apt's, in /etc/apt/sources.list.d; remotes of images: ostree remote list --show-urls",
    ),
    (&["check-update", "check"], "apt-ostree upgrade --check, or --preview to see the packages"),
    (&["full-upgrade", "dist-upgrade", "distro-sync"], "apt-ostree upgrade"),
    (
        &["downgrade"],
        "An older image: apt-ostree deploy VERSION; one older package: apt-ostree override replace NAME=VERSION",
    ),
    (
        &["erase", "purge", "autoremove"],
        "apt-ostree uninstall for what was layered, apt-ostree override remove for packages of the image",
    ),
    (&["reinstall"], "There is nothing to repair: every deployment is made anew; `ostree fsck` checks what is stored."),
    (&["switch"], "apt-ostree rebase REMOTE:BRANCH"),
    (&["diff"], "apt-ostree db diff"),
    (&["clean"], "apt-ostree cleanup --repomd for package lists, --base for temporary files"),
    (&["shell", "edit"], "apt-ostree usroverlay, for a writable /usr until the next boot"),
];

/// What clap found similar, the nearest first, without the commands that are hidden.
fn near_commands(e: &clap::Error) -> Vec<String> {
    let mut near: Vec<String> = match e.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(many)) => many.clone(),
        _ => Vec::new(),
    };
    let command = Cli::command();
    near.retain(|name| command.find_subcommand(name).is_none_or(|sub| !sub.is_hide_set()));
    near.reverse();
    near
}

/// clap's message in one line, with GOption's words for the most frequent case.
fn describe(e: &clap::Error) -> String {
    let argument = e.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    if e.kind() == ClapKind::UnknownArgument {
        return if argument.starts_with('-') {
            format!("Unknown option {argument}")
        } else {
            format!("Unexpected argument '{argument}'")
        };
    }
    let text = e.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or_default();
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The help of the (sub)command that the words name, else the list of commands.
fn help_of(words: &[String]) -> String {
    let mut command = Cli::command();
    command.build();
    let mut found = &command;
    for word in words.iter().filter(|w| !w.starts_with('-')) {
        match found.find_subcommand(word) {
            Some(sub) => found = sub,
            None => break,
        }
    }
    if found.get_name() == NAME {
        return top_help();
    }
    as_called(&found.clone().render_help().to_string())
}

/// The definitions say `apt-ostree`; help says what was called.
fn as_called(help: &str) -> String {
    help.replace(&format!("Usage: {NAME} "), &format!("Usage: {} ", start::name()))
}

fn top_help() -> String {
    let mut command = Cli::command();
    command.build();
    let mut text = format!("Usage:\n  {} [OPTION…] COMMAND\n\nBuiltin Commands:\n", start::name());
    let mut commands: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    commands.sort_by_key(|c| c.get_name());
    for sub in commands {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "  {:<23}{about}", sub.get_name());
    }
    text += "\nGlobal Options:\n";
    for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
        let mut name = arg.get_short().map_or_else(String::new, |s| format!("-{s}, "));
        name += &format!("--{}", arg.get_long().unwrap_or_default());
        if arg.get_action().takes_values() {
            name += &format!("={}", arg.get_value_names().and_then(|n| n.first()).map_or("VALUE", |n| n.as_str()));
        }
        let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "  {name:<23}{about}");
    }
    text
}

/// YAML, in the shape of `rpm-ostree --version`: tools read the number and the list of features. Called as `rpm-ostree` the
/// number is that of the release whose contract is kept, and what really runs stands in a key of its own.
fn version() -> String {
    let own = env!("CARGO_PKG_VERSION");
    let mut text = if start::compatible() {
        format!("{}:\n Version: '{}'\n Implementation: '{NAME} {own}'\n", start::name(), start::COMPATIBLE_VERSION)
    } else {
        format!("{NAME}:\n Version: '{own}'\n")
    };
    match option_env!("APT_OSTREE_GIT_COMMIT") {
        Some(commit) => {
            let _ = writeln!(text, " Git: {commit}");
        }
        // rpm-ostree always has the key.
        None if start::compatible() => text += " Git: ''\n",
        None => {}
    }
    text += " Features:\n  - rust\n  - compose\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn clap_agrees_with_the_definitions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_stands_anywhere() {
        for (given, want) in [
            ("-q status", "status -q"),
            ("status -q", "status -q"),
            ("--sysroot /x --json status -v", "status --sysroot /x --json -v"),
            ("--sysroot=/x install htop", "install --sysroot=/x htop"),
            ("--version", "--version"),
            ("", ""),
        ] {
            assert_eq!(command_first(words(given)), words(want), "{given}");
        }
    }

    #[test]
    fn commands_of_other_tools() {
        let group = "ex".to_owned();
        assert_eq!(elsewhere(Some(&group), "kargs").as_deref(), Some("It is a command of its own: apt-ostree kargs"));
        assert_eq!(elsewhere(Some(&group), "worker"), None);
        assert_eq!(elsewhere(None, "instal"), None);
        let mut command = Cli::command();
        command.build();
        for (name, hint) in ELSEWHERE.iter().flat_map(|(names, hint)| names.iter().map(move |name| (*name, *hint))) {
            assert!(command.find_subcommand(name).is_none(), "{name} is a command");
            assert_eq!(elsewhere(None, name).as_deref(), Some(hint), "{name} is twice in the list");
            // Each command that a hint names is there.
            for said in hint.split("apt-ostree ").skip(1) {
                let verb = said.split([' ', ',', ';', '`']).next().unwrap();
                assert!(command.find_subcommand(verb).is_some(), "{hint}");
            }
        }
    }

    #[test]
    fn the_list_of_commands() {
        let help = top_help();
        assert!(
            help.starts_with("Usage:\n  apt-ostree [OPTION…] COMMAND\n\nBuiltin Commands:\n  apply-live"),
            "{help}"
        );
        assert!(help.contains("\n  status                 Get the version of the booted system\n"), "{help}");
        assert!(!help.contains("worker") && !help.contains("internals"), "{help}");
        let mut names: Vec<_> = help.lines().skip(4).take_while(|l| !l.is_empty()).collect();
        let sorted = names.clone();
        names.sort_unstable();
        assert_eq!(names, sorted);
    }
}

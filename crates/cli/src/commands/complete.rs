//! `internals complete -- WORD…`: what the last word can become. Hidden; the shells' completions call it at every press of Tab.
//!
//! Commands and options come from the definitions of the command line, everything else from the system
//! (`apt_ostree_core::completion`). One candidate a line, a tab and its meaning behind it; `:files` where the shell completes
//! paths. Quiet, without root: where nothing is known nothing is printed.

use std::path::PathBuf;
use std::process::ExitCode;

use apt_ostree_core::completion::{Word, Words};
use clap::{Arg, ArgAction, Command, CommandFactory, ValueHint};

use super::App;
use crate::args::{Cli, Failure};

/// A place in a command line: what comes there.
#[derive(Debug, PartialEq)]
enum Place {
    /// One of these, finished.
    Words(Vec<Word>),
    Known(Known),
    Files,
    Nothing,
}

/// What only the system knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Available,
    Base,
    Requested,
    Overridden,
    Revision,
    RevisionOrVersion,
    RevisionOrRef,
    Ref,
    Branch,
    Remote,
    Stateroot,
    Index,
    KernelArgument,
    Staged,
}

/// Which values of which command are what, by the names of the definitions; a command of `*` is every one.
const VALUES: &[(&str, &str, Known)] = &[
    ("install", "packages", Known::Available),
    ("uninstall", "packages", Known::Requested),
    ("search", "terms", Known::Available),
    ("info", "packages", Known::Available),
    ("list", "patterns", Known::Available),
    ("override remove", "names", Known::Base),
    ("override remove", "replace", Known::Base),
    ("override replace", "names", Known::Base),
    ("override replace", "remove", Known::Base),
    ("override reset", "names", Known::Overridden),
    ("deploy", "revision", Known::RevisionOrVersion),
    ("rebase", "refspec", Known::Ref),
    ("rebase", "revision", Known::RevisionOrVersion),
    ("rebase", "branch", Known::Branch),
    ("rebase", "remote", Known::Remote),
    ("db list", "words", Known::RevisionOrRef),
    ("db diff", "revs", Known::RevisionOrRef),
    ("db version", "revs", Known::RevisionOrRef),
    ("apply-live", "target", Known::Revision),
    ("ex apply-live", "target", Known::Revision),
    ("finalize-deployment", "checksum", Known::Staged),
    ("kargs", "delete", Known::KernelArgument),
    ("kargs", "delete_if_present", Known::KernelArgument),
    ("kargs", "replace", Known::KernelArgument),
    ("*", "install", Known::Available),
    ("*", "uninstall", Known::Requested),
    ("*", "stateroot", Known::Stateroot),
    ("*", "deploy_index", Known::Index),
];

/// Takes the words of the command line without the program's name; the last one is to be completed.
pub(crate) fn run(app: &App, words: &[String]) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    command.build();
    let (current, before) = words.split_last().map_or(("", &[][..]), |(last, rest)| (last.as_str(), rest));
    let (place, fixed) = find(&command, before, current);
    let typed = &current[fixed.len()..];
    let list = match place {
        Place::Files => {
            app.terminal.line(":files");
            return Ok(ExitCode::SUCCESS);
        }
        // A local .deb.
        Place::Known(Known::Available | Known::Base) if typed.starts_with(['.', '/', '~']) => {
            app.terminal.line(":files");
            return Ok(ExitCode::SUCCESS);
        }
        Place::Words(words) => words,
        Place::Known(known) => from_system(app, before, known, typed),
        Place::Nothing => Vec::new(),
    };
    let lines = list.iter().filter(|(word, _)| word.starts_with(typed)).map(|(word, about)| {
        if about.is_empty() { format!("{fixed}{word}\n") } else { format!("{fixed}{word}\t{about}\n") }
    });
    app.terminal.print(&lines.collect::<String>());
    Ok(ExitCode::SUCCESS)
}

/// What the last word is, and which part of it stays as it is (`--option=`).
fn find<'w>(root: &Command, before: &[String], current: &'w str) -> (Place, &'w str) {
    let (mut command, mut path) = (root, String::new());
    let (mut positionals, mut options_ended) = (0, false);
    let mut waiting: Option<&Arg> = None;
    for word in before {
        if waiting.take().is_some() {
            continue;
        }
        if !options_ended && word == "--" {
            options_ended = true;
        } else if !options_ended && word.starts_with('-') && word.len() > 1 {
            waiting = option_without_value(command, word);
        } else if let Some(sub) = command.find_subcommand(word).filter(|_| positionals == 0) {
            path = if path.is_empty() { sub.get_name().to_owned() } else { format!("{path} {}", sub.get_name()) };
            command = sub;
        } else {
            positionals += 1;
        }
    }
    if let Some(option) = waiting {
        return (value(option, &path), "");
    }
    if let (false, Some((name, _))) = (options_ended || !current.starts_with("--"), current.split_once('=')) {
        let place = long(command, &name[2..]).map_or(Place::Nothing, |option| value(option, &path));
        return (place, &current[..=name.len()]);
    }
    if current.starts_with('-') && !options_ended {
        return (Place::Words(options(command, before)), "");
    }
    if command.has_subcommands() && positionals == 0 {
        let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let word =
            |sub: &Command| (sub.get_name().to_owned(), sub.get_about().map(ToString::to_string).unwrap_or_default());
        return (Place::Words(visible.map(word).collect()), "");
    }
    let all: Vec<&Arg> = command.get_positionals().filter(|arg| !arg.is_hide_set()).collect();
    let repeats = |arg: &&&Arg| {
        arg.get_num_args().is_some_and(|n| n.max_values() > 1) || matches!(arg.get_action(), ArgAction::Append)
    };
    let positional = all.get(positionals).or_else(|| all.last().filter(repeats));
    (positional.map_or(Place::Nothing, |arg| value(arg, &path)), "")
}

fn long<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long() == Some(name) || aliases.contains(&name)
    })
}

/// The option that a word ends with, if its value is the next word.
fn option_without_value<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let takes_value = |arg: &&Arg| arg.get_action().takes_values();
    if let Some(name) = word.strip_prefix("--") {
        return long(command, name).filter(takes_value);
    }
    let mut letters = word[1..].chars();
    while let Some(letter) = letters.next() {
        let option = command.get_arguments().find(|arg| arg.get_short() == Some(letter))?;
        if option.get_action().takes_values() {
            return letters.as_str().is_empty().then_some(option);
        }
    }
    None
}

/// Options that are for people and can (still) be given.
fn options(command: &Command, before: &[String]) -> Vec<Word> {
    let given = |name: &str| before.iter().any(|word| word == name || word.starts_with(&format!("{name}=")));
    let mut words = Vec::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional()) {
        let Some(name) = arg.get_long().map(|name| format!("--{name}")) else { continue };
        if matches!(arg.get_action(), ArgAction::Append) || !given(&name) {
            words.push((name, arg.get_help().map(ToString::to_string).unwrap_or_default()));
        }
    }
    words
}

/// What the value of an option or a positional argument can be.
fn value(arg: &Arg, path: &str) -> Place {
    let id = arg.get_id().as_str();
    let found = VALUES.iter().find(|(command, name, _)| *name == id && (*command == path || *command == "*"));
    if let Some((_, _, known)) = found {
        return Place::Known(*known);
    }
    let possible: Vec<Word> = arg
        .get_possible_values()
        .iter()
        .map(|v| (v.get_name().to_owned(), v.get_help().map(ToString::to_string).unwrap_or_default()))
        .collect();
    if !possible.is_empty() {
        return Place::Words(possible);
    }
    match arg.get_value_hint() {
        ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath => Place::Files,
        _ => Place::Nothing,
    }
}

/// The sysroot that the command line names, else the running system.
fn sysroot(app: &App, before: &[String]) -> Option<PathBuf> {
    let named = before.iter().enumerate().find_map(|(index, word)| match word.strip_prefix("--sysroot") {
        Some("") => before.get(index + 1).map(String::as_str),
        Some(value) => value.strip_prefix('='),
        None => None,
    });
    named.map(PathBuf::from).or_else(|| app.sysroot().ok())
}

fn from_system(app: &App, before: &[String], known: Known, typed: &str) -> Vec<Word> {
    let Some(words) = sysroot(app, before).and_then(|path| Words::open(&path)) else { return Vec::new() };
    match known {
        Known::Available => words.available(typed),
        Known::Base => words.base(typed),
        Known::Requested => words.requested(),
        Known::Overridden => words.overridden(),
        Known::Revision => words.revisions(),
        Known::RevisionOrVersion => [words.versions(), words.revisions()].concat(),
        Known::RevisionOrRef => [words.refs(), words.revisions()].concat(),
        Known::Ref => words.refs(),
        Known::Branch => words.branches(),
        Known::Remote => words.remotes(),
        Known::Stateroot => words.stateroots(),
        Known::Index => words.indexes(),
        Known::KernelArgument => words.kernel_arguments(),
        Known::Staged => words.staged(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: &str) -> (Place, String) {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let current = words.pop().unwrap();
        let mut command = Cli::command();
        command.build();
        let (place, fixed) = find(&command, &words, &current);
        (place, fixed.to_owned())
    }

    fn names(line: &str) -> Vec<String> {
        match at(line).0 {
            Place::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn commands_and_options() {
        let commands = names("");
        assert!(commands.contains(&"install".into()) && !commands.contains(&"worker".into()), "{commands:?}");
        assert_eq!(names("-q override "), ["remove", "replace", "reset"]);
        assert!(!names("compose ").contains(&"extensions".into()));
        let options = names("install htop --");
        for option in ["--apply-live", "--dry-run", "--quiet", "--sysroot", "--help"] {
            assert!(options.contains(&option.into()), "{option} in {options:?}");
        }
        assert!(!options.contains(&"--enablerepo".into()) && !options.contains(&"--peer".into()));
        // What can be given once only is not offered again; lists are.
        assert!(!names("install --dry-run -").contains(&"--dry-run".into()));
        assert!(names("kargs --append=a --").contains(&"--append".into()));
    }

    #[test]
    fn values() {
        for (line, want) in [
            ("install ", Known::Available),
            ("install --cache-only a b", Known::Available),
            ("pkg-add ht", Known::Available),
            ("install --uninstall ", Known::Requested),
            ("remove ", Known::Requested),
            ("upgrade --install ", Known::Available),
            ("override reset ", Known::Overridden),
            ("override remove --replace ", Known::Base),
            ("deploy ", Known::RevisionOrVersion),
            ("rebase ", Known::Ref),
            ("rebase a:b ", Known::RevisionOrVersion),
            ("rebase -r -m ", Known::Remote),
            ("rebase -rb ", Known::Branch),
            ("db diff a ", Known::RevisionOrRef),
            ("kargs --deploy-index ", Known::Index),
            ("kargs --delete ", Known::KernelArgument),
            ("--sysroot /x history --stateroot ", Known::Stateroot),
            ("rollback --os ", Known::Stateroot),
            ("ex livefs --target ", Known::Revision),
            ("finalize-deployment ", Known::Staged),
            ("install -- ", Known::Available),
        ] {
            assert_eq!(at(line), (Place::Known(want), String::new()), "{line}");
        }
        assert_eq!(at("kargs --delete=qu"), (Place::Known(Known::KernelArgument), "--delete=".into()));
        for files in
            ["--sysroot ", "compose tree ", "compose tree --repo ", "compose disk-image --ssh-key ", "db list --repo "]
        {
            assert_eq!(at(files).0, Place::Files, "{files}");
        }
        for nothing in ["status ", "rollback x ", "deploy a ", "kargs --append ", "frobnicate x"] {
            assert_eq!(at(nothing).0, Place::Nothing, "{nothing}");
        }
    }

    /// The table names arguments that there are.
    #[test]
    fn the_table_is_about_real_arguments() {
        let mut root = Cli::command();
        root.build();
        for (path, id, _) in VALUES.iter().filter(|(path, ..)| *path != "*") {
            let command = path.split(' ').try_fold(&root, |command, name| command.find_subcommand(name));
            let arguments = command.unwrap_or_else(|| panic!("no command {path}")).get_arguments();
            assert!(arguments.into_iter().any(|arg| arg.get_id() == id), "{path} has no {id}");
        }
    }
}

//! What is settled before arguments are read: the name the program was called by, and that it can find other programs.
//!
//! Called as `rpm-ostree` it stands in for that program: texts that clients compare say so, see [`compatible`].

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use apt_ostree_core::{Context, Result};

use crate::args;

/// The name of the program.
pub(crate) const NAME: &str = "apt-ostree";

/// The name of the program that it is compatible with.
const COMPATIBLE: &str = "rpm-ostree";

/// The release of rpm-ostree whose commands, options, texts and documents are kept (docs/commands.md). Clients split it into
/// two numbers and compare them.
pub(crate) const COMPATIBLE_VERSION: &str = "2026.2";

/// Debian's own (`ENV_SUPATH` of login.defs).
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static CALLED: OnceLock<&str> = OnceLock::new();

/// Takes the name from `argv[0]`. Any other link to the program is another way to say `apt-ostree`.
pub(crate) fn take_name(argv: &[OsString]) {
    let name = argv.first().and_then(|path| Path::new(path).file_name());
    let _ = CALLED.set(if name == Some(OsStr::new(COMPATIBLE)) { COMPATIBLE } else { NAME });
}

/// The name in texts.
pub(crate) fn name() -> &'static str {
    CALLED.get().copied().unwrap_or(NAME)
}

/// Whether the program was called as `rpm-ostree`.
pub(crate) fn compatible() -> bool {
    name() == COMPATIBLE
}

/// The path of this program, for a process of its own.
pub(crate) fn program() -> Result<PathBuf> {
    std::env::current_exe().context(|| "Finding the path of this program")
}

/// A text of the engine, with commands as they are called here: it says `apt-ostree VERB` whatever the program's name is.
pub(crate) fn as_called(text: &str) -> String {
    if compatible() { with_name(text, COMPATIBLE) } else { text.to_owned() }
}

/// Only where it is a word with a command after it, as people are told to type it: not in paths and units, and not where the package
/// `apt-ostree` is meant.
fn with_name(text: &str, name: &str) -> String {
    let mut parts = text.split(NAME);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let begins = result.chars().next_back().is_none_or(|c| c.is_whitespace() || "`'\"(".contains(c));
        result += if begins && part.strip_prefix(' ').is_some_and(begins_with_command) { name } else { NAME };
        result += part;
    }
    result
}

/// Options, also with values behind a `=`, may come first.
fn begins_with_command(text: &str) -> bool {
    let word = text.split(' ').find(|word| !word.starts_with('-')).unwrap_or_default();
    let end = word.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(word.len());
    let (command, rest) = word.split_at(end);
    args::is_command(command) && !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || "_/".contains(c))
}

/// Programs are found by `PATH`, in this process, in its children and in libraries, so it must be there. Some clients clear the
/// environment, or pass entries without `=`; then the program starts itself again with a search path and without those.
pub(crate) fn ensure_search_path(argv: &[OsString]) {
    if std::env::var_os("PATH").is_some_and(|path| !path.is_empty()) {
        return;
    }
    // Without /proc it cannot be done; reading commands work all the same.
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    if let Some(called) = argv.first() {
        command.arg0(called);
    }
    let _ = command.args(argv.iter().skip(1)).env("PATH", SEARCH_PATH).exec();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_by_the_name_that_was_called() {
        for (text, want) in [
            ("Undo it first: apt-ostree override reset vim", "Undo it first: rpm-ostree override reset vim"),
            ("`apt-ostree status` and `apt-ostree list`", "`rpm-ostree status` and `rpm-ostree list`"),
            ("apt-ostree rollback", "rpm-ostree rollback"),
            (
                "see /usr/lib/apt-ostree and apt-ostree-boot-good.service",
                "see /usr/lib/apt-ostree and apt-ostree-boot-good.service",
            ),
            (
                "to fetch their lists anew: apt-ostree --sysroot=/x refresh-md",
                "to fetch their lists anew: rpm-ostree --sysroot=/x refresh-md",
            ),
            ("run apt-ostree -q --sysroot=/x upgrade, then", "run rpm-ostree -q --sysroot=/x upgrade, then"),
            ("(apt-ostree upgrade)", "(rpm-ostree upgrade)"),
            // The package of that name.
            ("apt-get install apt-ostree failed", "apt-get install apt-ostree failed"),
            ("apt-get install apt-ostree htop failed", "apt-get install apt-ostree htop failed"),
            ("The postinst script of apt-ostree failed", "The postinst script of apt-ostree failed"),
            ("apt-ostree is requested, and excluded", "apt-ostree is requested, and excluded"),
            ("apt-ostree 1.0 would replace the newer 2.0", "apt-ostree 1.0 would replace the newer 2.0"),
            ("journalctl -u apt-ostreed", "journalctl -u apt-ostreed"),
            ("the log of apt-ostree: /x/apt-ostree /y", "the log of apt-ostree: /x/apt-ostree /y"),
        ] {
            assert_eq!(with_name(text, COMPATIBLE), want);
        }
    }
}

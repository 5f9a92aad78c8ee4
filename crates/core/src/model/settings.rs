//! The settings of a machine: `/etc/apt-ostreed.conf`, a key file as rpm-ostree's `/etc/rpm-ostreed.conf`.
//!
//! | group | key | values |
//! |---|---|---|
//! | `[Layering]` | `BaseUpgrades` | `when-needed` (default): a base package is made newer where a request cannot be met without; `never` |
//! | | `ForeignArchitectures` | dpkg architectures besides the native one whose packages can be layered, in addition to those of the base: `i386;arm64;` |
//! | `[Boot]` | `Verify` | `yes` (default) or `no`: judge boots and tell the boot loader, which decides whether anything comes of it |
//! | | `Tries` | starts that a new deployment gets, 1 to 9; the loader's own number (3) if it is not set |
//!
//! Groups and keys that are not known here belong to other parts of the program, or to a later version, and are no error.

use super::origin::parse_keyfile;
use crate::error::{Error, Result};
use crate::source::BaseUpgrades;

/// The loader's menu can count down from no more.
const MAX_TRIES: u32 = 9;

/// The file, below the machine's /etc.
pub const FILE: &str = "apt-ostreed.conf";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub base_upgrades: BaseUpgrades,
    pub foreign_architectures: Vec<String>,
    pub verify_boots: bool,
    pub boot_tries: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base_upgrades: BaseUpgrades::default(),
            foreign_architectures: Vec::new(),
            verify_boots: true,
            boot_tries: None,
        }
    }
}

impl Settings {
    pub fn parse(text: &str) -> Result<Self> {
        let groups = parse_keyfile(text)?;
        let mut settings = Self::default();
        let lines = groups.iter().flat_map(|(group, lines)| lines.iter().map(move |(key, value)| (group, key, value)));
        for (group, key, value) in lines {
            match (group.as_str(), key.as_str()) {
                ("Layering", "BaseUpgrades") => settings.base_upgrades = base_upgrades(value)?,
                ("Layering", "ForeignArchitectures") => settings.foreign_architectures = architectures(value)?,
                ("Boot", "Verify") => settings.verify_boots = truth(value)?,
                ("Boot", "Tries") => settings.boot_tries = Some(tries(value)?),
                _ => {}
            }
        }
        Ok(settings)
    }
}

fn truth(value: &str) -> Result<bool> {
    match value.to_lowercase().as_str() {
        "yes" | "true" | "1" | "on" => Ok(true),
        "no" | "false" | "0" | "off" => Ok(false),
        _ => Err(Error::usage(format!("[Boot] Verify is '{value}'")).hint("It may be yes or no.")),
    }
}

fn tries(value: &str) -> Result<u32> {
    match value.parse() {
        Ok(number) if (1..=MAX_TRIES).contains(&number) => Ok(number),
        _ => {
            Err(Error::usage(format!("[Boot] Tries is '{value}'"))
                .hint(format!("It is a number from 1 to {MAX_TRIES}.")))
        }
    }
}

fn base_upgrades(value: &str) -> Result<BaseUpgrades> {
    match value {
        "when-needed" => Ok(BaseUpgrades::WhenNeeded),
        "never" => Ok(BaseUpgrades::Never),
        other => {
            Err(Error::usage(format!("[Layering] BaseUpgrades is '{other}'")).hint("It may be when-needed or never."))
        }
    }
}

/// A list with `;` between its items, as GKeyFile writes it; blanks and commas are taken as well.
fn architectures(value: &str) -> Result<Vec<String>> {
    let mut list: Vec<String> = Vec::new();
    for word in value.split([';', ',', ' ', '\t']).filter(|w| !w.is_empty()) {
        // Policy 11.1: an architecture is a word like `i386` or `linux-any`; wildcards and `all` name none.
        let valid = word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !valid || matches!(word, "all" | "any" | "source") || word.ends_with("-any") || word.starts_with("any-") {
            return Err(Error::usage(format!("[Layering] ForeignArchitectures: '{word}' is not a dpkg architecture")));
        }
        if !list.iter().any(|a| a == word) {
            list.push(word.to_owned());
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_defaults() {
        let policy = |text: &str| Settings::parse(text).map(|s| s.base_upgrades);
        assert_eq!(policy("").unwrap(), BaseUpgrades::WhenNeeded);
        assert_eq!(policy("[Layering]\n#BaseUpgrades=never\n").unwrap(), BaseUpgrades::WhenNeeded);
        assert_eq!(policy("[Daemon]\nx=1\n[Layering]\nBaseUpgrades = never\n").unwrap(), BaseUpgrades::Never);
        assert_eq!(policy("[Other]\nBaseUpgrades=x\n").unwrap(), BaseUpgrades::WhenNeeded);
        assert!(policy("[Layering]\nBaseUpgrades=sometimes\n").is_err());
        assert!(policy("BaseUpgrades=never\n").is_err(), "outside of a group");
    }

    #[test]
    fn foreign_architectures() {
        let read = |text: &str| Settings::parse(text).map(|c| c.foreign_architectures.join(" "));
        assert_eq!(read("").unwrap(), "");
        assert_eq!(read("[Layering]\nForeignArchitectures=i386;arm64;\n").unwrap(), "i386 arm64");
        assert_eq!(read("[Layering]\n# x\nForeignArchitectures = i386, i386\n").unwrap(), "i386");
        assert_eq!(read("[Daemon]\nForeignArchitectures=i386\n[Layering]\nOther=1\n").unwrap(), "");
        for bad in ["I386", "any", "linux-any", "../x", "all"] {
            assert!(read(&format!("[Layering]\nForeignArchitectures={bad}\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn boots() {
        let read = |text: &str| Settings::parse(text).map(|s| (s.verify_boots, s.boot_tries));
        assert_eq!(read("[Daemon]\nX=1\n").unwrap(), (true, None));
        assert_eq!(read("[Boot]\nVerify=no\nTries=5\n").unwrap(), (false, Some(5)));
        for (text, error) in [
            ("[Boot]\nVerify=maybe\n", "[Boot] Verify is 'maybe'"),
            ("[Boot]\nTries=0\n", "[Boot] Tries is '0'"),
            ("[Boot]\nTries=many\n", "[Boot] Tries is 'many'"),
            ("nonsense", "Line 1"),
        ] {
            assert!(read(text).unwrap_err().to_string().contains(error), "{text}");
        }
    }
}

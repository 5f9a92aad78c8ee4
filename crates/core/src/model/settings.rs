//! The settings of a machine: `/etc/apt-ostreed.conf`, a key file as rpm-ostree's `/etc/rpm-ostreed.conf`.
//!
//! | group | key | values |
//! |---|---|---|
//! | `[Daemon]` | `AutomaticUpdatePolicy` | [`UpdatePolicy`]: `none` (default, also `off`), `check`, `stage` (also `ex-stage`), `apply`, in any case |
//! | | `IdleExitTimeout` | seconds without a client after which the daemon ends, 60 by default; 0 for never |
//! | | `LockLayering` | `false` (default) or `true`: nothing may be layered on the image, nor its initramfs be made again |
//! | | `Recommends` | `true` (default) or `false`: whether layered packages bring those that they recommend |
//! | `[Layering]` | `BaseUpgrades` | `when-needed` (default): a base package is made newer where a request cannot be met without; `never` |
//! | | `ForeignArchitectures` | dpkg architectures besides the native one whose packages can be layered, in addition to those of the base: `i386;arm64;` |
//! | `[Boot]` | `Verify` | `yes` (default) or `no`: judge boots and tell the boot loader, which decides whether anything comes of it |
//! | | `Tries` | starts that a new deployment gets, 1 to 9; the loader's own number (3) if it is not set |
//!
//! `[Daemon]` has rpm-ostree's keys, and is taken from `rpm-ostreed.conf` as well where this file does not say otherwise.
//! Groups and keys that are not known here belong to other parts of the program, or to a later version, and are no error.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::origin::parse_keyfile;
use crate::error::{Error, Result};
use crate::source::BaseUpgrades;

/// The loader's menu can count down from no more.
const MAX_TRIES: u32 = 9;

/// Seconds, rpm-ostree's default.
const IDLE_EXIT: u64 = 60;

/// The file, below the machine's /etc.
pub const FILE: &str = "apt-ostreed.conf";
/// That of rpm-ostree, read before it: only its group [`DAEMON`] counts.
pub const RPM_OSTREE_FILE: &str = "rpm-ostreed.conf";
const DAEMON: &str = "Daemon";

/// What is done about updates without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdatePolicy {
    #[default]
    None,
    /// Find out and remember: `status` tells of the update.
    Check,
    /// Have the new deployment ready for the next boot, whenever that is.
    Stage,
    /// And boot it.
    Apply,
}

impl UpdatePolicy {
    /// As rpm-ostree reads it: in any case, and by the names that it had once.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "none" | "off" => Some(Self::None),
            "check" => Some(Self::Check),
            "stage" | "ex-stage" => Some(Self::Stage),
            "apply" => Some(Self::Apply),
            _ => None,
        }
    }
}

impl fmt::Display for UpdatePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Check => "check",
            Self::Stage => "stage",
            Self::Apply => "apply",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub update_policy: UpdatePolicy,
    /// Seconds; 0: the daemon stays.
    pub idle_exit_timeout: u64,
    pub lock_layering: bool,
    pub recommends: bool,
    pub base_upgrades: BaseUpgrades,
    pub foreign_architectures: Vec<String>,
    pub verify_boots: bool,
    pub boot_tries: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            update_policy: UpdatePolicy::default(),
            idle_exit_timeout: IDLE_EXIT,
            lock_layering: false,
            recommends: true,
            base_upgrades: BaseUpgrades::default(),
            foreign_architectures: Vec::new(),
            verify_boots: true,
            boot_tries: None,
        }
    }
}

impl Settings {
    pub fn parse(text: &str) -> Result<Self> {
        let mut settings = Self::default();
        settings.add(text)?;
        Ok(settings)
    }

    /// What the text says takes the place of what was said before.
    pub fn add(&mut self, text: &str) -> Result<()> {
        self.add_groups(text, |_| true)
    }

    /// The same for a file of rpm-ostree.
    pub fn add_rpm_ostree(&mut self, text: &str) -> Result<()> {
        self.add_groups(text, |group| group == DAEMON)
    }

    fn add_groups(&mut self, text: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let groups = parse_keyfile(text)?;
        let groups = groups.iter().filter(|(group, _)| wanted(group));
        for (group, key, value) in groups.flat_map(|(group, lines)| lines.iter().map(move |(k, v)| (group, k, v))) {
            let name = || format!("[{group}] {key}");
            match (group.as_str(), key.as_str()) {
                (DAEMON, "AutomaticUpdatePolicy") => self.update_policy = update_policy(value)?,
                (DAEMON, "IdleExitTimeout") => self.idle_exit_timeout = seconds(&name(), value)?,
                (DAEMON, "LockLayering") => self.lock_layering = truth(&name(), value)?,
                (DAEMON, "Recommends") => self.recommends = truth(&name(), value)?,
                ("Layering", "BaseUpgrades") => self.base_upgrades = base_upgrades(value)?,
                ("Layering", "ForeignArchitectures") => self.foreign_architectures = architectures(value)?,
                ("Boot", "Verify") => self.verify_boots = truth(&name(), value)?,
                ("Boot", "Tries") => self.boot_tries = Some(tries(value)?),
                _ => {}
            }
        }
        Ok(())
    }
}

fn update_policy(value: &str) -> Result<UpdatePolicy> {
    UpdatePolicy::parse(value).ok_or_else(|| {
        Error::usage(format!("[{DAEMON}] AutomaticUpdatePolicy is '{value}'"))
            .hint("It may be none, check, stage or apply.")
    })
}

fn seconds(name: &str, value: &str) -> Result<u64> {
    value
        .parse()
        .map_err(|_| Error::usage(format!("{name} is '{value}'")).hint("It is a number of seconds; 0 means never."))
}

fn truth(name: &str, value: &str) -> Result<bool> {
    match value.to_lowercase().as_str() {
        "yes" | "true" | "1" | "on" => Ok(true),
        "no" | "false" | "0" | "off" => Ok(false),
        _ => Err(Error::usage(format!("{name} is '{value}'")).hint("It may be yes or no.")),
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
    fn daemon() {
        let settings = Settings::parse("").unwrap();
        assert_eq!((settings.update_policy, settings.idle_exit_timeout), (UpdatePolicy::None, 60));
        assert_eq!((settings.lock_layering, settings.recommends), (false, true));
        let settings = Settings::parse(
            "[Daemon]\nAutomaticUpdatePolicy=Stage\nIdleExitTimeout=0\nLockLayering=true\nRecommends=false\n",
        )
        .unwrap();
        assert_eq!((settings.update_policy, settings.idle_exit_timeout), (UpdatePolicy::Stage, 0));
        assert_eq!((settings.lock_layering, settings.recommends), (true, false));
        for (text, policy) in [("OFF", "none"), ("ex-stage", "stage"), ("apply", "apply"), ("Check", "check")] {
            assert_eq!(UpdatePolicy::parse(text).unwrap().to_string(), policy);
        }
        for (text, error) in [
            ("AutomaticUpdatePolicy=always", "[Daemon] AutomaticUpdatePolicy is 'always'"),
            ("IdleExitTimeout=1min", "[Daemon] IdleExitTimeout is '1min'"),
            ("LockLayering=maybe", "[Daemon] LockLayering is 'maybe'"),
        ] {
            assert_eq!(Settings::parse(&format!("[Daemon]\n{text}\n")).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn of_rpm_ostree_only_its_group() {
        let mut settings = Settings::default();
        settings
            .add_rpm_ostree("[Daemon]\nAutomaticUpdatePolicy=check\nIdleExitTimeout=5\n[Boot]\nVerify=no\nTries=x\n")
            .unwrap();
        settings.add("[Daemon]\nAutomaticUpdatePolicy=none\n").unwrap();
        let expected = Settings { idle_exit_timeout: 5, ..Settings::default() };
        assert_eq!(settings, expected);
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

//! The settings of a machine: `/etc/apt-ostreed.conf`, a key file as rpm-ostree's `/etc/rpm-ostreed.conf`.
//!
//! | group | key | values |
//! |---|---|---|
//! | `[Layering]` | `BaseUpgrades` | `when-needed` (default): a base package is made newer where a request cannot be met without; `never` |
//!
//! Groups and keys that are not known here belong to other parts of the program, or to a later version, and are no error.

use super::origin::parse_keyfile;
use crate::error::{Error, Result};
use crate::source::BaseUpgrades;

/// The file, below the machine's /etc.
pub const FILE: &str = "apt-ostreed.conf";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub base_upgrades: BaseUpgrades,
}

impl Settings {
    pub fn parse(text: &str) -> Result<Self> {
        let groups = parse_keyfile(text)?;
        let mut settings = Self::default();
        let lines = groups.iter().filter(|(group, _)| group == "Layering").flat_map(|(_, lines)| lines);
        for (_, value) in lines.filter(|(key, _)| key == "BaseUpgrades") {
            settings.base_upgrades = match value.as_str() {
                "when-needed" => BaseUpgrades::WhenNeeded,
                "never" => BaseUpgrades::Never,
                other => {
                    return Err(Error::usage(format!("[Layering] BaseUpgrades is '{other}'"))
                        .hint("It may be when-needed or never."));
                }
            };
        }
        Ok(settings)
    }
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
}

//! The program that drives updates instead of the user (Zincati, say), as rpm-ostree's clients know it: a file in /run,
//! so that it is forgotten with the next start, where the program has to register again.
//!
//! `run/rpm-ostree/update-driver.gv` is an `a{sv}` in GVariant's own format, with the strings `driver-name` and
//! `driver-sd-unit`.

use std::path::Path;

use ostree::glib::{Variant, VariantDict};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::record;

const FILE: &str = "run/rpm-ostree/update-driver.gv";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateDriver {
    #[serde(rename = "driver-name")]
    pub name: String,
    /// The systemd unit that it runs in.
    #[serde(rename = "driver-sd-unit")]
    pub unit: String,
}

impl UpdateDriver {
    /// The one that is registered in the system below `root`.
    pub fn read(root: &Path) -> Option<Self> {
        let bytes = std::fs::read(root.join(FILE)).ok()?;
        let dict = VariantDict::new(Some(&Variant::from_data::<std::collections::HashMap<String, Variant>, _>(bytes)));
        let text = |key: &str| dict.lookup::<String>(key).ok().flatten();
        Some(Self { name: text("driver-name")?, unit: text("driver-sd-unit")? })
    }

    /// Registers it in place of whichever was registered.
    pub fn register(&self, root: &Path) -> Result<()> {
        if self.name.is_empty() {
            return Err(Error::usage("The name of an update driver is empty"));
        }
        let dict = VariantDict::new(None);
        dict.insert("driver-name", self.name.as_str());
        dict.insert("driver-sd-unit", self.unit.as_str());
        record::write(&root.join(FILE), dict.end().data(), false)
            .context(|| format!("Registering the update driver {}", self.name))
    }

    /// The error for everybody else's updates, as long as its unit is at work. `state` is the ActiveState of the unit,
    /// `own_unit` the unit that asks.
    pub fn refuse(&self, state: &str, own_unit: Option<&str>) -> Result<()> {
        let at_work = matches!(state, "active" | "activating" | "reloading" | "failed");
        if !at_work || own_unit == Some(self.unit.as_str()) {
            return Ok(());
        }
        let Self { name, unit } = self;
        Err(Error::usage(format!("Updates and deployments are driven by {name} ({unit})"))
            .hint(format!("See {name}'s documentation: systemctl status {unit}"))
            .hint(format!("Use --bypass-driver to bypass {name} and perform the operation anyways.")))
    }
}

/// The systemd unit of a process, from its `/proc/PID/cgroup`: the service of the system, or the scope of a session.
pub fn unit_of(cgroup: &str) -> Option<String> {
    // cgroup v2 has one line, `0::/system.slice/x.service`; v1 tells it by the hierarchy of systemd, and a mixture has both lines,
    // of which either may lead nowhere.
    let unified = cgroup.lines().filter_map(|l| l.strip_prefix("0::"));
    let named = cgroup.lines().filter_map(|l| l.split_once(":name=systemd:").map(|(_, path)| path));
    let unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    unified.chain(named).find_map(|path| path.split('/').find(unit)).map(ToOwned::to_owned)
}

/// The same for a process that runs: its number, or `self`. `None` also where nobody may look.
pub fn unit_of_process(process: &str) -> Option<String> {
    unit_of(&std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_a_dictionary() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(UpdateDriver::read(root.path()), None);
        let driver = UpdateDriver { name: "Zincati".into(), unit: "zincati.service".into() };
        driver.register(root.path()).unwrap();
        assert_eq!(UpdateDriver::read(root.path()), Some(driver.clone()));
        let bytes = std::fs::read(root.path().join(FILE)).unwrap();
        let variant = Variant::from_data::<std::collections::HashMap<String, Variant>, _>(bytes);
        assert!(variant.is_normal_form());
        assert_eq!(variant.print(true), "{'driver-name': <'Zincati'>, 'driver-sd-unit': <'zincati.service'>}");
        std::fs::write(root.path().join(FILE), "nonsense").unwrap();
        assert_eq!(UpdateDriver::read(root.path()), None);
        assert!(UpdateDriver::default().register(root.path()).is_err());
        assert_eq!(
            serde_json::to_string(&driver).unwrap(),
            r#"{"driver-name":"Zincati","driver-sd-unit":"zincati.service"}"#
        );
    }

    #[test]
    fn who_may_update() {
        let driver = UpdateDriver { name: "Zincati".into(), unit: "zincati.service".into() };
        for state in ["active", "activating", "reloading", "failed"] {
            let error = driver.refuse(state, Some("session-1.scope")).unwrap_err();
            assert_eq!(error.to_string(), "Updates and deployments are driven by Zincati (zincati.service)");
            assert!(driver.refuse(state, Some("zincati.service")).is_ok());
            assert!(driver.refuse(state, None).is_err());
        }
        assert!(driver.refuse("inactive", None).is_ok());
    }

    #[test]
    fn units_of_processes() {
        let unit = |text: &str| unit_of(text).unwrap_or_default();
        assert_eq!(unit("0::/system.slice/zincati.service\n"), "zincati.service");
        assert_eq!(unit("0::/user.slice/user-0.slice/session-3.scope\n"), "session-3.scope");
        assert_eq!(unit("0::/system.slice/a.service/b.scope\n"), "a.service");
        // The manager of a user is the unit that the system's knows.
        let app = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n";
        assert_eq!(unit(app), "user@1000.service");
        assert_eq!(unit("0::/system.slice/ssh.service\n"), "ssh.service");
        assert_eq!(unit(""), "");
        assert_eq!(unit("12:cpu:/x\n1:name=systemd:/system.slice/ssh.service\n"), "ssh.service");
        assert_eq!(unit("0::/\n"), "");
        assert_eq!(unit("9:name=systemd:/\n1:cpu:/\n0::/system.slice/x.service\n"), "x.service");
    }
}

//! Where the settings of a machine are read from: files of its /etc. What they mean is in [`crate::model::settings`].

use std::path::Path;

use crate::error::{Context, Result};
use crate::model::settings::{self, Settings};
use crate::sysroot::Sysroot;

/// The settings below `etc`; defaults where there is no file. What `rpm-ostreed.conf` says of the daemon counts where
/// `apt-ostreed.conf` says nothing, so that a machine keeps its policy whatever name it was given under.
pub fn read(etc: &Path) -> Result<Settings> {
    let mut settings = Settings::default();
    read_file(&etc.join(settings::RPM_OSTREE_FILE), |text| settings.add_rpm_ostree(text))?;
    read_file(&etc.join(settings::FILE), |text| settings.add(text))?;
    Ok(settings)
}

/// Those of the machine that a sysroot is or will be: of the /etc that its next deployment starts from.
pub fn of_sysroot(sysroot: &Sysroot, stateroot: Option<&str>) -> Result<Settings> {
    match sysroot.merge_deployment(&sysroot.stateroot(stateroot)?) {
        Some(deployment) => read(&sysroot.directory(&deployment).join("etc")),
        None => Ok(Settings::default()),
    }
}

fn read_file(path: &Path, add: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(text) => add(&text)
            .context(|| format!("Reading {}", path.display()))
            .map_err(|e| e.hint("Correct the file; nothing was changed.")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).context(|| format!("Reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::settings::UpdatePolicy;

    #[test]
    fn two_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Settings::default());
        write("rpm-ostreed.conf", "[Daemon]\nAutomaticUpdatePolicy=stage\nRecommends=false\n");
        assert_eq!(read(dir.path()).unwrap().update_policy, UpdatePolicy::Stage);
        write("apt-ostreed.conf", "[Daemon]\nAutomaticUpdatePolicy=check\n");
        let settings = read(dir.path()).unwrap();
        assert_eq!((settings.update_policy, settings.recommends), (UpdatePolicy::Check, false));
        write("rpm-ostreed.conf", "[Daemon]\nAutomaticUpdatePolicy=sometimes\n");
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("/rpm-ostreed.conf: [Daemon] AutomaticUpdatePolicy is 'sometimes'"), "{error}");
    }
}

//! Where libapt looks for a given base: the dpkg status of the base, the apt sources of the machine.

use std::path::Path;

use crate::compose::input;
use crate::error::{Context, Error, Result};
use crate::model::package;
use crate::source::SourceConfig;

/// `state` is the folder of libapt's own files (see [`SourceConfig::state`]).
pub fn config(tree: &Path, machine_etc: Option<&Path>, state: &Path, offline: bool) -> Result<SourceConfig> {
    let sysimage = tree.join("usr/lib/sysimage");
    let status = sysimage.join("dpkg/status");
    let text = std::fs::read_to_string(&status).context(|| format!("Reading {}", status.display()))?;
    let arch = package::installed_from_status(&text)
        .into_iter()
        .find(|p| p.name == "dpkg")
        .map(|p| p.arch)
        .ok_or_else(|| Error::failed("The base has no dpkg: its architecture is unknown"))?;
    let foreign = std::fs::read_to_string(sysimage.join("dpkg/arch")).unwrap_or_default();
    let etc = machine_etc.map_or_else(|| tree.join("usr/etc"), Path::to_owned);
    // The deployment of that /etc is the tree whose keyrings its `Signed-By` fields mean.
    let system = machine_etc.and_then(Path::parent).unwrap_or(tree);
    let sources: Vec<String> = input::tree_sources(system, &arch)?.iter().map(ToString::to_string).collect();
    if sources.is_empty() {
        return Err(Error::usage("The system has no apt sources to take packages from")
            .hint(format!("Add them in {}", etc.join("apt/sources.list.d").display())));
    }
    Ok(SourceConfig {
        state: state.to_owned(),
        extended_states: Some(sysimage.join("apt/extended_states")),
        status,
        sources,
        trusted_parts: Some(etc.join("apt/trusted.gpg.d")),
        preferences: vec![etc.join("apt/preferences"), etc.join("apt/preferences.d")],
        foreign_arches: foreign
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && *l != arch)
            .map(ToOwned::to_owned)
            .collect(),
        arch,
        recommends: true,
        offline,
    })
}

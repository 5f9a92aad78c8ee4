//! Where libapt looks for a given base: the dpkg status of the base, the apt sources of the machine.

use std::collections::BTreeMap;
use std::path::Path;

use crate::compose::input;
use crate::digest;
use crate::error::{Context, Error, Result};
use crate::model::package;
use crate::model::sources::Source;
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
    let mut sources = input::tree_sources(system, &arch)?;
    keep_keyrings(&mut sources, &state.join("keyrings"))?;
    let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
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

/// Copies the keyrings to names made of their content. The deployment they come from is another one after every
/// transaction, and libapt takes a source with another `Signed-By` for one whose index was never fetched.
fn keep_keyrings(sources: &mut [Source], kept: &Path) -> Result<()> {
    std::fs::create_dir_all(kept).context(|| format!("Creating {}", kept.display()))?;
    for source in sources {
        let mut copies = BTreeMap::new();
        for keyring in source.keyrings() {
            let extension = keyring.extension().unwrap_or_default().to_string_lossy().into_owned();
            let copy = kept.join(format!("{}.{extension}", digest::of_file(keyring)?));
            if !copy.exists() {
                std::fs::copy(keyring, &copy).context(|| format!("Keeping the keyring {}", keyring.display()))?;
            }
            copies.insert(keyring.clone(), copy);
        }
        source.map_keyrings(|keyring| copies.get(keyring).cloned().unwrap_or_else(|| keyring.to_owned()));
    }
    Ok(())
}

//! Where libapt looks for a given base: the dpkg status of the base, the apt sources of the machine.

use std::collections::BTreeMap;
use std::path::Path;

use crate::compose::input;
use crate::digest;
use crate::error::{Context, Error, Result};
use crate::model::package;
use crate::model::sources::Source;
use crate::settings;
use crate::source::SourceConfig;

/// Where apt itself keeps indexes, below the root.
pub const APT_STATE: &str = "var/lib/apt";

/// `state` is the folder of libapt's own files (see [`SourceConfig::state`]).
pub fn config(tree: &Path, machine_etc: Option<&Path>, state: &Path, offline: bool) -> Result<SourceConfig> {
    let config = describe(tree, machine_etc, Some((&state.join("keyrings"), true)))?;
    Ok(SourceConfig { state: state.to_owned(), offline, ..config })
}

/// For questions to a container made from a composed tree, whose indexes are apt's own. Only `scratch` is written to.
pub fn of_container(root: &Path, scratch: &Path) -> Result<SourceConfig> {
    let config = describe(root, Some(&root.join("etc")), None)?;
    link(&root.join(APT_STATE).join("lists"), &scratch.join("lists"))?;
    Ok(SourceConfig { state: scratch.to_owned(), offline: true, reading: true, ..config })
}

fn link(real: &Path, link: &Path) -> Result<()> {
    if real.is_dir() {
        std::os::unix::fs::symlink(real, link).context(|| format!("Linking {}", link.display()))?;
    }
    Ok(())
}

/// The same for questions: the indexes and libapt's cache of `state` through links in `scratch`, which is the only folder
/// that is written to. A machine without sources has packages to tell about, too.
pub fn reading(tree: &Path, machine_etc: Option<&Path>, state: &Path, scratch: &Path) -> Result<SourceConfig> {
    let config = describe(tree, machine_etc, Some((&state.join("keyrings"), false)))?;
    for name in ["lists", "cache"] {
        link(&state.join(name), &scratch.join(name))?;
    }
    Ok(SourceConfig { state: scratch.to_owned(), offline: true, reading: true, ..config })
}

/// All but `state`. `keyrings` is where the copies of keyrings are, or are to be made with `true`; without it they are read
/// where they stand.
fn describe(tree: &Path, machine_etc: Option<&Path>, keyrings: Option<(&Path, bool)>) -> Result<SourceConfig> {
    let sysimage = tree.join("usr/lib/sysimage");
    let status = sysimage.join("dpkg/status");
    let text = std::fs::read_to_string(&status).context(|| format!("Reading {}", status.display()))?;
    let arch = package::installed_from_status(&text)
        .into_iter()
        .find(|p| p.name == "dpkg")
        .map(|p| p.arch)
        .ok_or_else(|| Error::failed("The base has no dpkg: its architecture is unknown"))?;
    let etc = machine_etc.map_or_else(|| tree.join("usr/etc"), Path::to_owned);
    // The deployment of that /etc is the tree whose keyrings its `Signed-By` fields mean.
    let system = machine_etc.and_then(Path::parent).unwrap_or(tree);
    let settings = settings::read(&etc)?;
    let mut sources = input::tree_sources(system, &arch)?;
    if let Some((keyrings, copy)) = keyrings {
        keep_keyrings(&mut sources, keyrings, copy)?;
    }
    Ok(SourceConfig {
        extended_states: Some(sysimage.join("apt/extended_states")),
        status,
        sources: sources.iter().map(ToString::to_string).collect(),
        trusted_parts: Some(etc.join("apt/trusted.gpg.d")),
        preferences: vec![etc.join("apt/preferences"), etc.join("apt/preferences.d")],
        foreign_arches: foreign_architectures(&sysimage, settings.foreign_architectures, &arch),
        arch,
        recommends: settings.recommends,
        ..SourceConfig::default()
    })
}

/// Those that the base's dpkg knows (`dpkg --add-architecture` in the image), then those of the machine's settings.
fn foreign_architectures(sysimage: &Path, of_settings: Vec<String>, native: &str) -> Vec<String> {
    let of_base = std::fs::read_to_string(sysimage.join("dpkg/arch")).unwrap_or_default();
    let mut list: Vec<String> = of_base.lines().map(str::trim).map(ToOwned::to_owned).collect();
    list.extend(of_settings);
    let mut kept: Vec<String> = Vec::new();
    for arch in list {
        if !arch.is_empty() && arch != native && !kept.contains(&arch) {
            kept.push(arch);
        }
    }
    kept
}

/// Copies the keyrings to names made of their content. The deployment they come from is another one after every
/// transaction, and libapt takes a source with another `Signed-By` for one whose index was never fetched.
fn keep_keyrings(sources: &mut [Source], kept: &Path, copy: bool) -> Result<()> {
    if copy {
        std::fs::create_dir_all(kept).context(|| format!("Creating {}", kept.display()))?;
    }
    for source in sources {
        let mut copies = BTreeMap::new();
        for keyring in source.keyrings() {
            let extension = keyring.extension().unwrap_or_default().to_string_lossy().into_owned();
            let kept = kept.join(format!("{}.{extension}", digest::of_file(keyring)?));
            if copy && !kept.exists() {
                std::fs::copy(keyring, &kept).context(|| format!("Keeping the keyring {}", keyring.display()))?;
            }
            copies.insert(keyring.clone(), kept);
        }
        source.map_keyrings(|keyring| copies.get(keyring).cloned().unwrap_or_else(|| keyring.to_owned()));
    }
    Ok(())
}

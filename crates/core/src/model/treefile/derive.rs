//! Treefiles of a container build (`origin.d`): what is to be changed in the image that they are in. Keys are rpm-ostree's
//! "derive" keys, with its meaning; those that an image in a container has no place for are refused by name.

use std::path::Path;

use super::flatten::split_packages;
use super::node::{self, Entry, Node};
use super::schema::nearest;
use crate::error::{Error, Result};

/// Keys with an effect.
const KEYS: [&str; 3] = ["ex-override-replace", "override-remove", "packages"];

/// Accepted, without effect: nothing of an image is wrapped.
const IGNORED: [&str; 2] = ["cliwrap", "cliwrap-binaries"];

/// Keys of the same family that a container build cannot follow, and why.
const REFUSED: [(&str, &str); 9] = [
    ("base-refspec", OF_A_DEPLOYMENT),
    ("container-image-reference", OF_A_DEPLOYMENT),
    ("custom", OF_A_DEPLOYMENT),
    ("initramfs", "the initramfs is made when the image is composed"),
    ("override-commit", OF_A_DEPLOYMENT),
    ("override-replace-local", NO_STORE),
    ("packages-local", NO_STORE),
    ("packages-local-fileoverride", NO_STORE),
    ("unconfigured-state", OF_A_DEPLOYMENT),
];
const OF_A_DEPLOYMENT: &str = "it is said of a deployment, and a container is none";
const NO_STORE: &str = "a container has no store of local packages; name the path of the .deb in 'packages'";

/// What one or more files ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeriveTreefile {
    /// Requests by name, and paths of .deb files.
    pub packages: Vec<String>,
    /// Packages of the image that go.
    pub override_remove: Vec<String>,
    /// Packages of the image that get another version: `NAME=VERSION` or `NAME/SUITE`.
    pub override_replace: Vec<String>,
}

impl DeriveTreefile {
    /// Reads a file, YAML or JSON, and adds what it asks for. Errors name file, line and key.
    pub fn add(&mut self, file: &Path, text: &str) -> Result<()> {
        for entry in node::parse(file, text)?.map("the treefile")? {
            let key = entry.key.as_str();
            match key {
                "packages" => self.packages.extend(names(&entry.node, key)?),
                "override-remove" => self.override_remove.extend(names(&entry.node, key)?),
                "ex-override-replace" => {
                    for node in entry.node.list(key, "maps")? {
                        self.override_replace.extend(replacement(node)?);
                    }
                }
                key if IGNORED.contains(&key) => {}
                _ => return Err(unknown(entry)),
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.override_remove.is_empty() && self.override_replace.is_empty()
    }
}

fn unknown(entry: &Entry) -> Error {
    let key = &entry.key;
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| name == key) {
        return entry.at.error(format!("the key '{key}' does not work in a container build: {why}"));
    }
    let error = entry.at.error(format!("the key '{key}' is not known in a container build"));
    match nearest(key, KEYS.into_iter()) {
        Some(near) => error.hint(format!("Did you mean '{near}'?")),
        None => error.hint(format!("There are {}.", KEYS.join(", "))),
    }
}

/// A list of texts, each with one or more names.
fn names(node: &Node, key: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for node in node.list(key, "strings")? {
        names.extend(split_packages(node.text(key)?).map_err(|why| node.at.error(format!("'{key}': {why}")))?);
    }
    Ok(names)
}

/// `{from: {suite: SUITE}, packages: [NAME…]}`; without `from` the names bring their version.
fn replacement(node: &Node) -> Result<Vec<String>> {
    let key = "ex-override-replace";
    let (mut packages, mut suite) = (Vec::new(), None);
    for entry in node.map(key)? {
        match entry.key.as_str() {
            "packages" => packages = names(&entry.node, key)?,
            "from" => match entry.node.map(key)? {
                [from] if from.key == "suite" => suite = Some(from.node.text(key)?),
                [from] if from.key == "repo" => {
                    let why = "apt-get takes versions from suites, not from single indexes: write 'suite'";
                    return Err(from.at.error(format!("'{key}': 'repo' does not work in a container build: {why}")));
                }
                _ => return Err(entry.node.wrong(key, "a map with the key 'suite'")),
            },
            other => return Err(entry.at.error(format!("'{key}': the key '{other}' is not known"))),
        }
    }
    for name in &mut packages {
        match suite {
            Some(suite) if !name.contains(['/', '=']) => *name += &format!("/{suite}"),
            None if !name.contains(['/', '=']) => {
                return Err(node.at.error(format!("'{key}': '{name}' has neither a version nor 'from'")));
            }
            _ => {}
        }
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DeriveTreefile> {
        let mut all = DeriveTreefile::default();
        all.add(Path::new("/etc/apt-ostree/origin.d/a.yaml"), text)?;
        Ok(all)
    }

    #[test]
    fn what_is_asked_for() {
        let text = "packages: [htop 'strace', /srv/a.deb]\ncliwrap: true\noverride-remove:\n- nano vim-tiny\n\
                    ex-override-replace:\n- from: {suite: trixie-backports}\n  packages: [less, file=1]\n- packages: [tar=2]\n";
        let mut all = read(text).unwrap();
        all.add(Path::new("b.json"), r#"{"packages": ["git"]}"#).unwrap();
        assert_eq!(all.packages, ["htop", "strace", "/srv/a.deb", "git"]);
        assert_eq!(all.override_remove, ["nano", "vim-tiny"]);
        assert_eq!(all.override_replace, ["less/trixie-backports", "file=1", "tar=2"]);
        assert!(read("cliwrap: true\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_refused_is_named() {
        for (text, want) in [
            ("packages: [a]\npackage: [b]\n", "/etc/apt-ostree/origin.d/a.yaml:2: the key 'package' is not known"),
            ("initramfs: {regenerate: true}\n", "the key 'initramfs' does not work in a container build: "),
            ("packages-local: {a-1.amd64: x}\n", "the key 'packages-local' does not work"),
            ("ref: x\n", "the key 'ref' is not known"),
            ("packages: htop\n", "packages: expected a list of strings"),
            ("ex-override-replace: [{from: {repo: x}, packages: [a]}]\n", "'repo' does not work"),
            ("ex-override-replace: [{packages: [less]}]\n", "'less' has neither a version nor 'from'"),
            ("ex-override-replace: [{from: {suite: a}, package: [less]}]\n", "the key 'package' is not known"),
            ("", "the file is empty"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}

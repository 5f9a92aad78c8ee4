//! The treefile: what a base system is composed of, as a value.
//!
//! Owns the flattened [`Treefile`] and, in its submodules, the way from text to it: `node` (YAML and JSON with
//! lines), `schema` (the table of keys), `layer` (one file), `merge` (includes), `flatten` (types, variables,
//! checks) and `version` (automatic versions); `derive` reads the treefiles of container builds. Opens no file: whoever loads a treefile passes a function that
//! reads one ([`crate::compose::input`] does, from disk).
//!
//! Key names and merging are rpm-ostree's; `docs/treefile.md` is the reference for users.

mod condition;
mod derive;
mod flatten;
mod layer;
mod merge;
mod node;
mod schema;
#[cfg(test)]
mod tests;
mod version;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::request::{PackageRequest, Selector};
use super::sources::Source;
use crate::error::{Context, Error, Result};

pub use derive::DeriveTreefile;
pub(in crate::model) use schema::nearest;
pub use version::next_version;

/// Variables that every treefile has and none can set: the dpkg architecture and the suite, each under two names.
pub const AUTOMATIC_VARIABLES: [&str; 4] = ["arch", "basearch", "releasever", "suite"];

/// A file as the caller's function reads it.
#[derive(Clone, Debug)]
pub struct FileText {
    pub text: String,
    /// Device and inode: the same file under two names is still the same file.
    pub identity: (u64, u64),
}

/// How loading gets at files; [`crate::compose::input`] has the one for real ones.
pub trait Reader {
    /// Reads a treefile or a `.sources` file.
    fn read(&mut self, path: &Path) -> Result<FileText>;

    /// Whether `path` is a file that can be opened: for files that are only named (`add-files`, keyrings, …).
    fn probe(&mut self, path: &Path) -> Result<()>;
}

/// What loading gives.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub treefile: Treefile,
    /// Keys that were ignored, and why; each a line for the user.
    pub warnings: Vec<String>,
    /// The treefile and everything it includes, in the order of reading.
    pub files: Vec<PathBuf>,
}

/// Loads a treefile with all its includes.
///
/// `arch` is the dpkg architecture of the tree; `base` the absolute directory that a relative `path` starts from.
/// Every error is [`crate::ErrorKind::Usage`] and names file, line and key.
pub fn load(path: &Path, base: &Path, arch: &str, reader: &mut dyn Reader) -> Result<Loaded> {
    let Some(arch) = schema::architecture(arch) else {
        return Err(Error::usage(format!("'{arch}' is not a dpkg architecture")));
    };
    let mut loader = merge::Loader::new(arch, reader);
    let merged = loader.file(path, None, &layer::Scope::default())?;
    let treefile = flatten::flatten(merged, base, &mut loader)?;
    let files = loader.files.into_iter().map(|(_, path)| path).collect();
    Ok(Loaded { treefile, warnings: loader.warnings, files })
}

/// A treefile with all includes merged, variables replaced and every value checked. Its JSON form (kebab-case
/// keys) is what `--print-only` shows and is itself a treefile that loads to the same value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Treefile {
    /// `ref`: the branch to write. Mandatory for `compose tree`, see [`Treefile::require_ref`].
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// dpkg architecture of the tree, e.g. `amd64`.
    pub basearch: String,
    /// The suite or codename to compose from, e.g. `trixie`. Mandatory unless `repos` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releasever: Option<String>,
    pub edition: Edition,
    /// Variables for `${name}` and `conditional-include`, without [`AUTOMATIC_VARIABLES`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Variable>,
    /// Free data for other tools; never interpreted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// The archives to use, `Signed-By` absolute. Empty: the host's own apt sources with `releasever` as suite.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repos: Vec<Source>,
    /// Archives besides those, for this compose alone: the tree is not told of them. `Signed-By` absolute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compose_repos: Vec<Source>,
    /// Packages to install, those of `packages-ARCH` merged in; sorted, each once.
    #[serde(serialize_with = "quoted_requests")]
    pub packages: Vec<PackageRequest>,
    /// Package names never to install: a hard dependency on one is an error, a Recommends is dropped. Sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_packages: Vec<String>,
    /// `APT::Install-Recommends`; default true.
    pub recommends: bool,
    /// Keep /usr/share/doc, man and info; default true. Copyright files stay either way.
    pub documentation: bool,
    /// Locales whose translations stay in /usr/share/locale (`de`, `en_GB`); `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_langs: Option<Vec<String>>,
    /// dpkg architectures to add besides `basearch`, e.g. `i386`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign_architectures: Vec<String>,
    /// debconf answers set before any package is configured, in this order (a later one wins).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub debconf: Vec<DebconfAnswer>,
    /// Lines of /etc/locale.gen, e.g. `en_US.UTF-8 UTF-8`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locales: Vec<String>,
    /// Units to enable, full names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// The boot target, e.g. `multi-user.target`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_target: Option<String>,
    /// systemd.preset(5) lines, written into the tree before packages are installed; the first match wins, so the
    /// including file's lines stand in front of the included ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub presets: Vec<String>,
    /// Files to copy into the tree, in order (a later one wins).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_files: Vec<AddFile>,
    /// Paths to delete from the tree, absolute, of /usr or /etc.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_files: Vec<String>,
    /// Files of packages to delete: package and path patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_from_packages: Vec<RemoveFromPackage>,
    /// Scripts run in the tree, in order. Each runs by itself: with its own `#!` line, else with /bin/sh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub postprocess: Vec<String>,
    /// One more script, an absolute path on the machine that composes; runs last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postprocess_script: Option<PathBuf>,
    /// true (default): an empty /usr/etc/machine-id; false: none, so that first boot applies presets.
    pub machineid_compat: bool,
    pub opt_usrlocal: OptUsrLocal,
    /// Remove the write bits of executables; default false.
    pub readonly_executables: bool,
    /// Arguments for dracut besides those apt-ostree needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub initramfs_args: Vec<String>,
    /// Make no initramfs; default false.
    pub no_initramfs: bool,
    /// Seed accounts from the previous commit so that numbers stay; default true.
    pub preserve_passwd: bool,
    pub check_passwd: CheckAccounts,
    pub check_groups: CheckAccounts,
    /// Users that may vanish against `check-passwd`; `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_removed_users: Vec<String>,
    /// Groups that may vanish against `check-groups`; `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_removed_groups: Vec<String>,
    /// The version, as it is. Wins over `automatic-version-prefix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Start of generated versions, see [`next_version`]; date tags are still in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automatic_version_prefix: Option<String>,
    /// What stands between the prefix and the number; default `.`.
    pub automatic_version_suffix: char,
    /// The string in os-release (normally `releasever`'s version) to replace by the commit's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutate_os_release: Option<String>,
    /// Typed commit metadata. `--add-metadata-from-json` and then `--add-metadata-string` win over it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add_commit_metadata: BTreeMap<String, serde_json::Value>,
    /// Key id to sign the commit with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpg_key: Option<String>,
}

/// The set of defaults. Only 2024 exists: boot files in /usr/lib/modules and a real /tmp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Edition {
    #[default]
    #[serde(rename = "2024")]
    Edition2024,
}

/// What becomes of /opt and /usr/local.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptUsrLocal {
    /// Links into /var: writable, but nothing of the image can be in there.
    Var,
    /// Real directories of the image, read-only.
    Root,
    /// Image content with a writable overlay of the machine on top (`ostree-state-overlay@.service`).
    #[default]
    StateOverlay,
}

/// The value of a variable.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Variable {
    Bool(bool),
    Number(serde_json::Number),
    String(String),
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => v.fmt(f),
            Self::Number(v) => v.fmt(f),
            Self::String(v) => f.write_str(v),
        }
    }
}

/// One entry of `add-files`; in JSON `[source, dest]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddFile {
    /// Absolute path on the machine that composes. A regular file; its permission bits are kept.
    pub source: PathBuf,
    /// Absolute path in the tree, of /usr or /etc (or a link into /usr such as /lib), without `.` and `..`.
    pub dest: String,
}

impl Serialize for AddFile {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        (&self.source, &self.dest).serialize(s)
    }
}

/// One entry of `remove-from-packages`; in JSON `[package, pattern…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveFromPackage {
    pub package: String,
    /// Regular expressions (PCRE, not anchored, known to compile); a file of the package goes when one matches its
    /// absolute path.
    pub patterns: Vec<String>,
}

impl Serialize for RemoveFromPackage {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_seq(std::iter::once(&self.package).chain(&self.patterns))
    }
}

/// One answer, as `debconf-set-selections` reads it: `package question type value`. Displays as that line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebconfAnswer {
    pub package: String,
    /// The name of the question, e.g. `tzdata/Areas`.
    pub question: String,
    /// debconf type: `select`, `string`, `boolean`, …, or `seen`.
    pub kind: String,
    /// May be empty.
    pub value: String,
}

impl fmt::Display for DebconfAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.package, self.question, self.kind, self.value)
    }
}

impl Serialize for DebconfAnswer {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What the accounts of the new tree are compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum CheckAccounts {
    /// Nothing.
    None,
    /// The previous commit of the ref.
    #[default]
    Previous,
    /// A file in passwd or group format; absolute path on the machine that composes.
    File { filename: PathBuf },
    /// Name to number; for users also `[uid, gid]`.
    Data { entries: BTreeMap<String, AccountIds> },
}

/// Expected numbers of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AccountIds {
    /// uid (gid unchecked), or gid of a group.
    One(u32),
    UidGid(u32, u32),
}

/// Relations contain blanks, so they go into single quotes as a treefile's `packages` wants them.
fn quoted_requests<S: Serializer>(list: &[PackageRequest], s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_seq(list.iter().map(|r| match r.selector {
        Selector::Relation(..) => format!("'{r}'"),
        _ => r.to_string(),
    }))
}

impl Treefile {
    /// The branch, or the error a compose gives without one.
    pub fn require_ref(&self) -> Result<&str> {
        self.reference.as_deref().ok_or_else(|| {
            Error::usage("The treefile names no 'ref' to write")
                .hint("Add a line such as 'ref: debian/13/amd64/minimal'.")
        })
    }

    /// The JSON of `--print-only`, with a line break at its end.
    pub fn to_json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).context(|| "Writing the treefile as JSON")?;
        text.push('\n');
        Ok(text)
    }
}

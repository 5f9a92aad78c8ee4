//! From merged keys to the typed [`Treefile`]: variables replaced, every value checked.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use ostree::glib;

use super::layer::{automatic_variables, variable};
use super::merge::{Loader, Merged};
use super::node::{At, Entry, Node, Value};
use super::schema::require_architecture;
use super::{
    AccountIds, AddFile, CheckAccounts, DebconfAnswer, Edition, OptUsrLocal, RemoveFromPackage, Treefile, Variable,
};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::deb822::Stanza;
use crate::model::request::{PackageRequest, Selector};
use crate::model::sources::{self, Source};

/// Unit types that can be enabled (systemd.unit(5)).
const UNIT_SUFFIXES: [&str; 9] =
    [".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".swap", ".slice"];

/// Question types of debconf-devel(7), and `seen`, which debconf-set-selections takes besides.
const DEBCONF_TYPES: [&str; 10] =
    ["string", "boolean", "select", "multiselect", "note", "text", "password", "title", "error", "seen"];

/// The merged keys, taken out one after the other.
struct Keys<'a> {
    merged: Merged,
    variables: BTreeMap<String, String>,
    /// Relative paths become absolute below it.
    base: &'a Path,
}

/// Makes the treefile. `base` is the absolute directory that relative file names start from; `loader` reads the
/// `.sources` files that `repos` names.
pub(super) fn flatten(merged: Merged, base: &Path, loader: &mut Loader<'_>) -> Result<Treefile> {
    let mut keys = Keys { merged, variables: BTreeMap::new(), base };
    let arch = loader.arch;
    let releasever = keys.text("releasever")?;
    let variables = keys.variables()?;
    let all = variables.clone().into_iter().chain(automatic_variables(arch, releasever.as_deref()));
    keys.variables = all.map(|(k, v)| (k, v.to_string())).collect();

    let machineid_compat = keys.bool("machineid-compat", true)?;
    let opt_usrlocal = keys.opt_usrlocal()?;
    keys.fixed_values()?;
    let (packages, exclude_packages) = keys.packages()?;
    Ok(Treefile {
        reference: keys.reference()?,
        basearch: arch.to_owned(),
        releasever,
        edition: Edition::Edition2024,
        variables,
        metadata: keys.json_map("metadata")?,
        repos: keys.repos("repos", loader)?,
        compose_repos: keys.repos("compose-repos", loader)?,
        packages,
        exclude_packages,
        recommends: keys.bool("recommends", true)?,
        documentation: keys.bool("documentation", true)?,
        install_langs: keys.merged.contains_key("install-langs").then(|| keys.set("install-langs")).transpose()?,
        foreign_architectures: keys.foreign_architectures(arch)?,
        debconf: keys.each("debconf", debconf)?,
        locales: unique(keys.each("locales", locale)?),
        units: keys.units(machineid_compat)?,
        default_target: keys.default_target()?,
        presets: keys.each("presets", preset)?,
        add_files: keys.add_files(opt_usrlocal, loader)?,
        remove_files: keys.each("remove-files", tree_path)?,
        remove_from_packages: keys.remove_from_packages()?,
        postprocess: keys.each("postprocess", |_, script| Ok(script.to_owned()))?,
        postprocess_script: keys.postprocess_script(loader)?,
        machineid_compat,
        opt_usrlocal,
        readonly_executables: keys.bool("readonly-executables", false)?,
        initramfs_args: keys.each("initramfs-args", |_, arg| Ok(arg.to_owned()))?,
        no_initramfs: keys.bool("no-initramfs", false)?,
        preserve_passwd: keys.bool("preserve-passwd", true)?,
        check_passwd: keys.check_accounts("check-passwd", loader)?,
        check_groups: keys.check_accounts("check-groups", loader)?,
        ignore_removed_users: keys.set("ignore-removed-users")?,
        ignore_removed_groups: keys.set("ignore-removed-groups")?,
        version: keys.substituted("version")?,
        automatic_version_prefix: keys.substituted("automatic-version-prefix")?,
        automatic_version_suffix: keys.version_suffix()?,
        mutate_os_release: keys.substituted("mutate-os-release")?,
        add_commit_metadata: keys.json_map("add-commit-metadata")?,
        gpg_key: keys.text("gpg-key")?,
    })
}

impl Keys<'_> {
    fn node(&self, name: &str) -> Option<&Node> {
        self.merged.get(name)
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        self.node(name).map(|n| n.text_or_number(name).map(str::to_owned)).transpose()
    }

    fn bool(&self, name: &str, default: bool) -> Result<bool> {
        self.node(name).map_or(Ok(default), |n| n.bool(name))
    }

    fn list(&self, name: &str) -> Result<&[Node]> {
        self.node(name).map_or(Ok(&[]), |n| n.list(name, "values"))
    }

    /// Every string of a list through `read`, which gets the place as well.
    fn each<T>(&self, name: &str, read: impl Fn(&At, &str) -> Result<T>) -> Result<Vec<T>> {
        self.list(name)?.iter().map(|n| read(&n.at, n.text(name)?)).collect()
    }

    /// A list whose order and repetitions mean nothing: sorted, each once.
    fn set(&self, name: &str) -> Result<Vec<String>> {
        let mut list = self.each(name, |_, v| Ok(v.to_owned()))?;
        list.sort();
        list.dedup();
        Ok(list)
    }

    fn variables(&self) -> Result<BTreeMap<String, Variable>> {
        let Some(node) = self.node("variables") else { return Ok(BTreeMap::new()) };
        node.map("variables")?.iter().map(|e| Ok((e.key.clone(), variable(&e.node)?))).collect()
    }

    /// Replaces every `${name}`.
    fn substitute(&self, what: &str, at: &At, text: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once("${") {
            let Some((name, after)) = tail.split_once('}') else {
                return Err(at.error(format!("'{what}': a '${{' without its '}}' in '{text}'")));
            };
            let Some(value) = self.variables.get(name) else {
                let known: Vec<&str> = self.variables.keys().map(String::as_str).collect();
                let error = at.error(format!("'{what}': there is no variable '{name}' for '{text}'"));
                return Err(
                    error.hint(format!("Known variables: {}. Others are set in 'variables'.", known.join(", ")))
                );
            };
            out.push_str(before);
            out.push_str(value);
            rest = after;
        }
        out.push_str(rest);
        // It would be replaced when what --print-only shows is loaded.
        if out.contains("${") {
            return Err(at.error(format!("'{what}': a variable in '{text}' has a '${{' itself")));
        }
        Ok(out)
    }

    fn substituted(&self, name: &str) -> Result<Option<String>> {
        self.node(name).map(|n| self.substitute(name, &n.at, n.text_or_number(name)?)).transpose()
    }

    /// A map as JSON, its top-level strings substituted.
    fn json_map(&self, name: &str) -> Result<BTreeMap<String, serde_json::Value>> {
        let Some(node) = self.node(name) else { return Ok(BTreeMap::new()) };
        node.map(name)?
            .iter()
            .map(|Entry { key, node, .. }| {
                let value = match &node.value {
                    Value::Text(text) => self.substitute(&format!("{name}.{key}"), &node.at, text)?.into(),
                    _ => node.to_json(),
                };
                Ok((key.clone(), value))
            })
            .collect()
    }

    fn reference(&self) -> Result<Option<String>> {
        let Some(text) = self.substituted("ref")? else { return Ok(None) };
        if text.contains(':') || ostree::validate_rev(&text).is_err() {
            let at = self.node("ref").map_or_else(String::new, |n| format!("{}: ", n.at));
            return Err(Error::usage(format!("{at}'ref': '{text}' is not a valid branch name")).hint(
                "Branches are made of letters, digits, '_', '-', '.' and '/', for example debian/13/amd64/minimal.",
            ));
        }
        Ok(Some(text))
    }

    /// Keys of which one value only is supported.
    fn fixed_values(&self) -> Result<()> {
        for (name, wanted, why) in [
            ("edition", "2024", "older defaults (kernel in /usr/lib/ostree-boot, /tmp a link) are not made"),
            ("boot-location", "modules", "the kernel is always in /usr/lib/modules"),
        ] {
            if let Some(node) = self.node(name) {
                let value = node.text_or_number(name)?;
                if value != wanted {
                    return Err(node.at.error(format!("'{name}': expected {wanted}, found {value}: {why}")));
                }
            }
        }
        for (name, wanted, why) in [
            ("container", false, "trees without a kernel are not supported yet"),
            ("selinux", false, "Debian trees are not labelled; security labels come from the running system"),
            ("tmp-is-dir", true, "with /tmp a link to sysroot/tmp every unit that has PrivateTmp fails to start"),
        ] {
            if let Some(node) = self.node(name) {
                let value = node.bool(name)?;
                if value != wanted {
                    return Err(node.at.error(format!("'{name}': expected {wanted}, found {value}: {why}")));
                }
            }
        }
        Ok(())
    }

    fn opt_usrlocal(&self) -> Result<OptUsrLocal> {
        let Some(node) = self.node("opt-usrlocal") else { return Ok(OptUsrLocal::default()) };
        match node.text("opt-usrlocal")? {
            "var" => Ok(OptUsrLocal::Var),
            "root" => Ok(OptUsrLocal::Root),
            "stateoverlay" | "state-overlay" => Ok(OptUsrLocal::StateOverlay),
            _ => Err(node.wrong("'opt-usrlocal'", "var, root or stateoverlay")),
        }
    }

    fn version_suffix(&self) -> Result<char> {
        let Some(node) = self.node("automatic-version-suffix") else { return Ok('.') };
        let mut chars = node.text("automatic-version-suffix")?.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) if c.is_ascii_graphic() && !c.is_ascii_digit() => Ok(c),
            _ => Err(node.wrong("'automatic-version-suffix'", "one ASCII character that is no digit")),
        }
    }

    /// `packages` and `exclude-packages`; a package in both is an error.
    fn packages(&self) -> Result<(Vec<PackageRequest>, Vec<String>)> {
        let requests = |name: &str| -> Result<Vec<(PackageRequest, At)>> {
            let mut all = Vec::new();
            for node in self.list(name)? {
                for text in split_packages(node.text(name)?).map_err(|why| node.at.error(format!("'{name}': {why}")))? {
                    let request = PackageRequest::parse(&text).context(|| format!("{}: '{name}'", node.at))?;
                    all.push((request, node.at.clone()));
                }
            }
            Ok(all)
        };
        let mut included = requests("packages")?;
        let excluded = requests("exclude-packages")?;
        if let Some((request, at)) = excluded.iter().find(|(r, _)| r.selector != Selector::Any) {
            return Err(at.error(format!("'exclude-packages': '{request}': expected a name, without version or suite")));
        }
        for (no, no_at) in &excluded {
            let clash =
                included.iter().find(|(yes, _)| yes.name == no.name && (no.arch.is_none() || no.arch == yes.arch));
            if let Some((yes, at)) = clash {
                return Err(at.error(format!("the package '{yes}' is included here and excluded at {no_at}")));
            }
        }
        included.sort_by(|a, b| a.0.cmp(&b.0));
        included.dedup_by(|a, b| a.0 == b.0);
        // Sorted, a plain name stands in front of the same name with a version or suite, and asks for nothing more.
        let next: Vec<Option<String>> = included.iter().skip(1).map(|(r, _)| Some(r.target())).chain([None]).collect();
        let mut next = next.into_iter();
        included.retain(|(r, _)| next.next().flatten() != Some(r.target()) || r.selector != Selector::Any);
        for pair in included.windows(2) {
            let ((a, a_at), (b, b_at)) = (&pair[0], &pair[1]);
            if a.target() == b.target() && !matches!(b.selector, Selector::Relation(..)) {
                return Err(b_at.error(format!("the package '{b}' is asked for here and '{a}' at {a_at}")));
            }
        }
        let mut excluded: Vec<String> = excluded.into_iter().map(|(r, _)| r.target()).collect();
        excluded.sort();
        excluded.dedup();
        Ok((included.into_iter().map(|(r, _)| r).collect(), excluded))
    }

    fn foreign_architectures(&self, arch: &str) -> Result<Vec<String>> {
        let list = self.each("foreign-architectures", |at, name| {
            let name = require_architecture(name, at)?;
            if name == arch {
                return Err(at.error(format!("'foreign-architectures': {arch} is the tree's own architecture")));
            }
            Ok(name.to_owned())
        })?;
        Ok(unique(list))
    }

    fn units(&self, machineid_compat: bool) -> Result<Vec<String>> {
        if let (false, Some(node)) = (machineid_compat, self.node("units")) {
            return Err(node
                .at
                .error("'units' cannot be used with 'machineid-compat: false': first boot applies presets instead")
                .hint("Write 'enable NAME' lines in 'presets'."));
        }
        Ok(unique(self.each("units", |at, name| unit(at, "units", name))?))
    }

    fn default_target(&self) -> Result<Option<String>> {
        let Some(node) = self.node("default-target") else { return Ok(None) };
        let name = unit(&node.at, "default-target", node.text("default-target")?)?;
        if !name.ends_with(".target") {
            return Err(node.wrong("'default-target'", "a name that ends in .target"));
        }
        Ok(Some(name))
    }

    fn absolute(&self, at: &At, path: &str) -> PathBuf {
        self.base.join(at.resolve(path))
    }

    /// The absolute path of a file that a key names; it must be there.
    fn external(&self, key: &str, at: &At, path: &str, loader: &mut Loader<'_>) -> Result<PathBuf> {
        let path = self.absolute(at, path);
        let probed = loader.reader.probe(&path);
        probed.context(|| format!("{at}: '{key}': {}", path.display())).map_err(|e| e.with_kind(ErrorKind::Usage))?;
        Ok(path)
    }

    fn postprocess_script(&self, loader: &mut Loader<'_>) -> Result<Option<PathBuf>> {
        let name = "postprocess-script";
        self.node(name).map(|n| self.external(name, &n.at, n.text(name)?, loader)).transpose()
    }

    fn add_files(&self, opt_usrlocal: OptUsrLocal, loader: &mut Loader<'_>) -> Result<Vec<AddFile>> {
        let mut files = Vec::new();
        for node in self.list("add-files")? {
            let [source, dest] = node.list("add-files", "pairs")? else { continue };
            let (source, given) = (source.text("add-files")?, dest.text("add-files")?);
            let path = tree_path(&dest.at, given)?;
            let top = path.split('/').nth(1).unwrap_or_default();
            let allowed = match top {
                "usr" if path.starts_with("/usr/etc/") => {
                    return Err(dest
                        .at
                        .error(format!("'add-files': '{given}': write /etc, which becomes /usr/etc in the commit")));
                }
                "usr" if path.starts_with("/usr/local/") => opt_usrlocal != OptUsrLocal::Var,
                "opt" => opt_usrlocal != OptUsrLocal::Var,
                "usr" | "etc" | "bin" | "sbin" | "lib" | "lib64" => true,
                _ => false,
            };
            if !allowed || given.ends_with('/') {
                return Err(dest.at.error(format!(
                    "'add-files': '{given}' is not a file of the image: expected a path below /usr or /etc"
                )));
            }
            let source = self.external("add-files", &node.at, source, loader)?;
            files.push(AddFile { source, dest: path });
        }
        Ok(files)
    }

    fn remove_from_packages(&self) -> Result<Vec<RemoveFromPackage>> {
        self.list("remove-from-packages")?
            .iter()
            .map(|row| {
                let texts = row.list("remove-from-packages", "strings")?;
                let texts: Vec<&str> = texts.iter().map(|n| n.text("remove-from-packages")).collect::<Result<_>>()?;
                let (package, patterns) = texts.split_first().ok_or_else(|| row.at.error("an empty list"))?;
                for pattern in patterns {
                    let flags = (glib::RegexCompileFlags::DEFAULT, glib::RegexMatchFlags::DEFAULT);
                    glib::Regex::new(pattern, flags.0, flags.1).map_err(|e| {
                        row.at.error(format!(
                            "'remove-from-packages': '{pattern}' is no regular expression: {}",
                            e.message()
                        ))
                    })?;
                }
                let package =
                    PackageRequest::parse(package).context(|| format!("{}: 'remove-from-packages'", row.at))?;
                let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
                Ok(RemoveFromPackage { package: package.target(), patterns })
            })
            .collect()
    }

    fn check_accounts(&self, name: &str, loader: &mut Loader<'_>) -> Result<CheckAccounts> {
        let Some(node) = self.node(name) else { return Ok(CheckAccounts::default()) };
        let map = node.map(name)?;
        let get = |key: &str| map.iter().find(|e| e.key == key).map(|e| &e.node);
        if let Some(other) = map.iter().find(|e| !matches!(e.key.as_str(), "type" | "filename" | "entries")) {
            return Err(other
                .at
                .error(format!("'{name}': unknown key '{}', expected type, filename, entries", other.key)));
        }
        let Some(kind) = get("type") else { return Err(node.at.error(format!("'{name}': it has no 'type'"))) };
        let missing = |what: &str| node.at.error(format!("'{name}': this type needs '{what}'"));
        match kind.text(name)? {
            "none" => Ok(CheckAccounts::None),
            "previous" => Ok(CheckAccounts::Previous),
            "file" => {
                let file = get("filename").ok_or_else(|| missing("filename"))?;
                let filename = self.external(name, &file.at, file.text(name)?, loader)?;
                Ok(CheckAccounts::File { filename })
            }
            "data" => {
                let entries = get("entries").ok_or_else(|| missing("entries"))?.map(name)?;
                let entries = entries.iter().map(|e| Ok((e.key.clone(), account_ids(name, &e.node)?)));
                Ok(CheckAccounts::Data { entries: entries.collect::<Result<_>>()? })
            }
            _ => Err(kind.wrong(&format!("'type' of '{name}'"), "none, previous, file or data")),
        }
    }

    /// `repos` and `compose-repos`: names of `.sources` files beside the treefile, texts and maps of deb822 fields.
    fn repos(&self, key: &str, loader: &mut Loader<'_>) -> Result<Vec<Source>> {
        let mut all: Vec<Source> = Vec::new();
        for node in self.list(key)? {
            let mut found = match &node.value {
                Value::Text(text) if text.contains(['\n', ':']) => {
                    let found = sources::parse_deb822(text).context(|| format!("{}: '{key}'", node.at))?;
                    for (field, _) in found.iter().flat_map(|source| &source.options) {
                        known_field(&node.at, key, field)?;
                    }
                    found
                }
                Value::Text(id) => self.repo_file(key, id, &node.at, loader)?,
                _ => vec![inline_source(key, node)?],
            };
            for source in &mut found {
                // apt ignores them in a file as well.
                source.options.retain(|(field, _)| sources::check_field(field).is_ok());
                source.expand_arch(loader.arch);
                source.map_keyrings(|path| self.base.join(node.at.resolve(path)));
                for keyring in source.keyrings() {
                    let probed = loader.reader.probe(keyring);
                    probed
                        .context(|| format!("{}: '{key}': Signed-By {}", node.at, keyring.display()))
                        .map_err(|e| e.with_kind(ErrorKind::Usage))?;
                }
            }
            all.extend(found);
        }
        let mut list: Vec<Source> = Vec::new();
        for source in all.into_iter().filter(Source::provides_debs) {
            if !list.contains(&source) {
                list.push(source);
            }
        }
        match self.node(key) {
            Some(node) if list.is_empty() => Err(node
                .at
                .error(format!("'{key}' has no enabled source of type deb"))
                .hint("Leave it out to use this machine's apt sources.")),
            _ => Ok(list),
        }
    }

    /// Reads `ID.sources`, or `ID.list`, beside the file that names it.
    fn repo_file(&self, key: &str, id: &str, at: &At, loader: &mut Loader<'_>) -> Result<Vec<Source>> {
        if id.is_empty() || id.contains('/') {
            return Err(at.error(format!("'{key}': '{id}' is not the name of a .sources file beside the treefile")));
        }
        let id = id.strip_suffix(".sources").unwrap_or(id);
        let path = at.resolve(format!("{id}.sources"));
        let list = at.resolve(format!("{id}.list"));
        let parsed = match loader.reader.read(&path) {
            Ok(file) => sources::parse_deb822(&file.text).context(|| path.display().to_string()),
            Err(error) => match loader.reader.read(&list) {
                Ok(file) => sources::parse_list(&file.text).context(|| list.display().to_string()),
                Err(_) => Err(error).context(|| format!("'{key}': source '{id}'")),
            },
        };
        parsed.context(|| at.to_string()).map_err(|e| e.with_kind(ErrorKind::Usage))
    }
}

fn known_field(at: &At, key: &str, field: &str) -> Result<()> {
    let Err(near) = sources::check_field(field) else { return Ok(()) };
    let error = at.error(format!("'{key}': unknown field '{field}' of a source"));
    Err(match near {
        Some(near) => error.hint(format!("Did you mean '{near}'?")),
        None => error.hint("Fields are those of sources.list(5)."),
    })
}

fn inline_source(name: &str, node: &Node) -> Result<Source> {
    let mut stanza = Stanza::default();
    for Entry { key, at, node } in node.map(name)? {
        known_field(at, name, key)?;
        let what = format!("'{key}' of '{name}'");
        let value = match &node.value {
            Value::Bool(v) => if *v { "yes" } else { "no" }.to_owned(),
            Value::List(list) => list.iter().map(|n| n.text_or_number(&what)).collect::<Result<Vec<_>>>()?.join(" "),
            _ => node.text_or_number(&what)?.to_owned(),
        };
        stanza.set(key, value);
    }
    Source::from_stanza(&stanza).context(|| format!("{}: '{name}'", node.at))
}

fn account_ids(name: &str, node: &Node) -> Result<AccountIds> {
    let wrong = || node.wrong(&format!("an entry of '{name}'"), "a number or [uid, gid]");
    let id = |node: &Node| match &node.value {
        Value::Number(v, _) => v.as_u64().and_then(|v| u32::try_from(v).ok()).ok_or_else(wrong),
        _ => Err(wrong()),
    };
    match &node.value {
        Value::List(list) if name == "check-passwd" => match list.as_slice() {
            [uid, gid] => Ok(AccountIds::UidGid(id(uid)?, id(gid)?)),
            _ => Err(wrong()),
        },
        _ => id(node).map(AccountIds::One),
    }
}

/// Splits at blanks, but not inside of single quotes or of the parentheses of a relation. `name >= version` in
/// quotes, RPM's way to write a relation, becomes `name (>= version)`.
pub(super) fn split_packages(text: &str) -> std::result::Result<Vec<String>, String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('\'') {
            let Some((inner, after)) = tail.split_once('\'') else {
                return Err(format!("a ' without its partner in \"{text}\""));
            };
            tokens.push(relation(inner.trim()));
            rest = after.trim_start();
            continue;
        }
        if rest.starts_with('(') {
            let Some(end) = rest.find(')') else { return Err(format!("a '(' without its ')' in \"{text}\"")) };
            let Some(last) = tokens.last_mut() else {
                return Err(format!("no package name in front of '(' in \"{text}\""));
            };
            last.push(' ');
            last.push_str(&rest[..=end]);
            rest = rest[end + 1..].trim_start();
            continue;
        }
        let end = rest.find(|c: char| c.is_whitespace() || c == '\'' || c == '(').unwrap_or(rest.len());
        tokens.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    Ok(tokens)
}

fn relation(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [name, operator @ ("<<" | "<=" | "=" | ">=" | ">>" | "<" | ">"), version] => {
            // dpkg reads a single < as <=, which nobody who writes it means.
            let operator = match operator {
                "<" => "<<",
                ">" => ">>",
                other => other,
            };
            format!("{name} ({operator} {version})")
        }
        _ => text.to_owned(),
    }
}

fn unit(at: &At, key: &str, name: &str) -> Result<String> {
    let valid = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b":-_.\\@".contains(&c));
    if valid && UNIT_SUFFIXES.iter().any(|s| name.len() > s.len() && name.ends_with(s)) {
        return Ok(name.to_owned());
    }
    Err(at
        .error(format!("'{key}': '{name}' is not the full name of a unit"))
        .hint(format!("A unit's name ends in its type, for example {name}.service.")))
}

/// A line of systemd.preset(5).
fn preset(at: &At, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["enable" | "disable" | "ignore", _] | ["enable", _, _, ..] => Ok(words.join(" ")),
        _ => Err(at
            .error(format!("'presets': '{line}' is not a line of a preset file"))
            .hint("Expected 'enable PATTERN', 'disable PATTERN' or 'ignore PATTERN', see systemd.preset(5).")),
    }
}

/// A line of /etc/locale.gen; a bare name takes its character set from itself.
fn locale(at: &At, text: &str) -> Result<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let valid = |w: &str| w.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.@-".contains(&c));
    if words.iter().all(|w| valid(w)) {
        match words[..] {
            [name, charset] => return Ok(format!("{name} {charset}")),
            [name] => {
                if let Some((_, charset)) = name.split_once('.') {
                    return Ok(format!("{name} {}", charset.split('@').next().unwrap_or(charset)));
                }
            }
            _ => {}
        }
    }
    Err(at
        .error(format!("'locales': '{text}' is not a locale with its character set"))
        .hint("For example: en_US.UTF-8 UTF-8."))
}

fn debconf(at: &At, line: &str) -> Result<DebconfAnswer> {
    fn word(text: &str) -> (&str, &str) {
        text.split_once(char::is_whitespace).map_or((text, ""), |(a, b)| (a, b.trim_start()))
    }
    let (package, rest) = word(line.trim());
    let (question, rest) = word(rest);
    // debconf-set-selections takes exactly one blank before the value, so that a value may start with blanks; no
    // answer that anyone gives does.
    let (kind, value) = word(rest);
    if question.is_empty() || !DEBCONF_TYPES.contains(&kind) {
        return Err(at
            .error(format!("'debconf': '{line}': expected PACKAGE QUESTION TYPE VALUE"))
            .hint(format!("TYPE is one of {}.", DEBCONF_TYPES.join(", "))));
    }
    Ok(DebconfAnswer { package: package.into(), question: question.into(), kind: kind.into(), value: value.into() })
}

/// A path in the tree, absolute and without `.` and empty parts. `..` and the root itself are refused.
fn tree_path(at: &At, path: &str) -> Result<String> {
    let mut out = String::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => {
                out.push('/');
                out.push_str(&name.to_string_lossy());
            }
            Component::RootDir | Component::CurDir => {}
            _ => return Err(at.error(format!("'{path}': a path in the tree must not contain '..'"))),
        }
    }
    if out.is_empty() {
        return Err(at.error(format!("'{path}' is not a path of a file in the tree")));
    }
    Ok(out)
}

/// Each value once, at its first place.
fn unique(list: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(list.len());
    for item in list {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

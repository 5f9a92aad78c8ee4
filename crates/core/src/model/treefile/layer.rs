//! One treefile by itself: its keys checked, its includes listed, nothing opened.

use std::collections::BTreeMap;

use super::condition::{self, number};
use super::node::{At, Entry, Node, Value};
use super::schema::{self, Kind, Support};
use super::{AUTOMATIC_VARIABLES, Variable};
use crate::error::Result;

/// What outer files tell the files they include.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) variables: BTreeMap<String, Variable>,
    pub(super) releasever: Option<String>,
}

/// One file, or one map that stands in place of a file.
#[derive(Debug)]
pub(super) struct Layer {
    /// Values under the names of [`schema::KEYS`], types checked.
    pub(super) keys: BTreeMap<&'static str, Node>,
    /// In the order in which they are merged.
    pub(super) includes: Vec<Include>,
    pub(super) warnings: Vec<String>,
    /// What the included files see.
    pub(super) scope: Scope,
}

#[derive(Debug)]
pub(super) struct Include {
    pub(super) at: At,
    pub(super) target: Target,
}

#[derive(Debug)]
pub(super) enum Target {
    /// A path as seen from the file of `at`.
    File(String),
    Inline(Vec<Entry>),
}

impl Layer {
    /// Reads the keys of a file for the architecture `arch` (dpkg's name).
    pub(super) fn read(entries: &[Entry], arch: &str, outer: &Scope) -> Result<Self> {
        let mut layer =
            Self { keys: BTreeMap::new(), includes: Vec::new(), warnings: Vec::new(), scope: outer.clone() };
        let mut packages = Vec::new();
        for entry in entries {
            layer.entry(entry, arch, &mut packages)?;
        }
        if let Some(first) = packages.first() {
            let at = first.at.clone();
            layer.keys.insert("packages", Node { at, value: Value::List(packages) });
        }
        layer.extend_scope(arch)?;
        layer.list_includes(entries, arch)?;
        Ok(layer)
    }

    fn entry(&mut self, entry: &Entry, arch: &str, packages: &mut Vec<Node>) -> Result<()> {
        let Entry { key, at, node } = entry;
        let name = schema::modern_name(key);
        let known = schema::KEYS.iter().any(|k| k.name == name);
        if let (false, Some(suffix)) = (known, name.strip_prefix("packages-")) {
            let wanted = schema::require_architecture(suffix, at)?;
            if node.value != Value::Null {
                schema::check(key, Kind::Texts, node)?;
                if wanted == arch {
                    packages.extend_from_slice(node.list(key, "strings")?);
                }
            }
            return Ok(());
        }
        if name == "bootstrap-packages" {
            schema::check(key, Kind::Texts, node)?;
            packages.extend_from_slice(node.list(key, "strings")?);
            self.warnings.push(format!("{at}: '{key}' is deprecated: its packages are added to 'packages'"));
            return Ok(());
        }
        let row = schema::lookup(name, at)?;
        match row.support {
            Support::Yes => {}
            Support::Ignored(why) => {
                self.warnings.push(format!("{at}: '{key}' is ignored: {why}"));
                return Ok(());
            }
            Support::Refused(why) => return Err(schema::refusal(key, why, at)),
        }
        // `units:` with nothing behind it means what leaving the key out means.
        if node.value == Value::Null {
            return Ok(());
        }
        schema::check(key, row.kind, node)?;
        if row.name == "packages" {
            packages.extend_from_slice(node.list(key, "strings")?);
            return Ok(());
        }
        if row.name == "basearch" {
            let value = node.text(key)?;
            if schema::require_architecture(value, &node.at)? != arch {
                return Err(node
                    .at
                    .error(format!("'basearch' is {value}, but this compose is for {arch}"))
                    .hint("A tree is composed on a machine of its own architecture; leave 'basearch' out."));
            }
        }
        let node = if row.kind == Kind::Lines { lines(node) } else { node.clone() };
        if self.keys.insert(row.name, node).is_some() {
            return Err(at.error(format!("'{key}' is there twice, under its old and its new name")));
        }
        Ok(())
    }

    /// Adds this file's variables to the scope: an outer file's win, the automatic ones cannot be set.
    fn extend_scope(&mut self, arch: &str) -> Result<()> {
        if let Some(node) = self.keys.get("variables") {
            for Entry { key, at, node } in node.map("variables")? {
                if AUTOMATIC_VARIABLES.contains(&key.as_str()) {
                    return Err(at.error(format!("the variable '{key}' is set by itself and cannot be given")));
                }
                self.scope.variables.entry(key.clone()).or_insert(variable(node)?);
            }
        }
        if self.scope.releasever.is_none() {
            if let Some(node) = self.keys.get("releasever") {
                self.scope.releasever = Some(node.text_or_number("releasever")?.to_owned());
            }
        }
        self.scope.variables.extend(automatic_variables(arch, self.scope.releasever.as_deref()));
        Ok(())
    }

    /// `include`, then `arch-include`, then `conditional-include`, as upstream orders them.
    fn list_includes(&mut self, entries: &[Entry], arch: &str) -> Result<()> {
        let find = |name: &str| entries.iter().find(|e| e.key == name && e.node.value != Value::Null).map(|e| &e.node);
        for name in ["include", "arch-include", "conditional-include"] {
            self.keys.remove(name);
        }
        if let Some(node) = find("include") {
            self.files(node)?;
        }
        if let Some(node) = find("arch-include") {
            for entry in node.map("arch-include")? {
                if schema::require_architecture(&entry.key, &entry.at)? == arch {
                    self.files(&entry.node)?;
                }
            }
        }
        let Some(node) = find("conditional-include") else { return Ok(()) };
        for item in node.list("conditional-include", "maps")? {
            let map = item.map("conditional-include")?;
            let get = |name: &str| map.iter().find(|e| e.key == name).map(|e| &e.node);
            let (Some(condition), Some(include)) = (get("if"), get("include")) else { continue };
            if !self.holds(condition)? {
                continue;
            }
            match &include.value {
                Value::Map(entries) => {
                    self.includes.push(Include { at: include.at.clone(), target: Target::Inline(entries.clone()) });
                }
                _ => self.files(include)?,
            }
        }
        Ok(())
    }

    /// Whether one condition, or every one of a list, is true.
    fn holds(&self, node: &Node) -> Result<bool> {
        let list = match &node.value {
            Value::List(list) => list.as_slice(),
            _ => std::slice::from_ref(node),
        };
        for node in list {
            if !condition::evaluate(node.text("'if'")?, &node.at, &self.scope.variables)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn files(&mut self, node: &Node) -> Result<()> {
        schema::check("include", Kind::Include, node)?;
        let list = match &node.value {
            Value::List(list) => list.as_slice(),
            _ => std::slice::from_ref(node),
        };
        for node in list {
            let target = Target::File(node.text("include")?.to_owned());
            self.includes.push(Include { at: node.at.clone(), target });
        }
        Ok(())
    }
}

/// The variables that every treefile has.
pub(super) fn automatic_variables(arch: &str, releasever: Option<&str>) -> BTreeMap<String, Variable> {
    let mut all = BTreeMap::from([
        ("basearch".to_owned(), Variable::String(arch.to_owned())),
        ("arch".to_owned(), Variable::String(arch.to_owned())),
    ]);
    if let Some(release) = releasever {
        let value = number(release).map_or_else(|| Variable::String(release.to_owned()), Variable::Number);
        all.insert("releasever".to_owned(), value.clone());
        all.insert("suite".to_owned(), value);
    }
    all
}

pub(super) fn variable(node: &Node) -> Result<Variable> {
    match &node.value {
        Value::Bool(v) => Ok(Variable::Bool(*v)),
        Value::Number(v, _) => Ok(Variable::Number(v.clone())),
        Value::Text(v) => Ok(Variable::String(v.clone())),
        _ => Err(node.wrong("a variable", "a string, a number or a boolean")),
    }
}

/// A text block as the list of its lines, each with its place; comments and blank lines go.
fn lines(node: &Node) -> Node {
    let single = [node.clone()];
    let list = match &node.value {
        Value::List(list) => list.as_slice(),
        _ => &single,
    };
    let mut out = Vec::new();
    for node in list {
        let Value::Text(text) = &node.value else { continue };
        // The parser puts a block where its first line with content is; blank ones above it are in the text.
        let first = node.at.line.saturating_sub(text.bytes().take_while(|c| *c == b'\n').count());
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with(['#', ';']) {
                let at = At { line: first + i, ..node.at.clone() };
                out.push(Node { at, value: Value::Text(line.to_owned()) });
            }
        }
    }
    Node { at: node.at.clone(), value: Value::List(out) }
}

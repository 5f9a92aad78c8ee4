//! Includes: which files are read in which order, and how their keys join.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Reader;
use super::layer::{Layer, Scope, Target};
use super::node::{self, At, Entry, Node, Value};
use super::schema::{KEYS, Merge};
use crate::error::{Context, Error, ErrorKind, Result};

/// As upstream.
const MAX_INCLUDE_DEPTH: usize = 50;

/// The keys of a treefile and all its includes.
pub(super) type Merged = BTreeMap<&'static str, Node>;

/// Walks the includes of one treefile.
pub(super) struct Loader<'a> {
    pub(super) arch: &'a str,
    pub(super) reader: &'a mut dyn Reader,
    /// Every file read so far, in that order, with its identity.
    pub(super) files: Vec<((u64, u64), PathBuf)>,
    /// Indexes into `files`: the chain of includes down to the file at hand.
    stack: Vec<usize>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(arch: &'a str, reader: &'a mut dyn Reader) -> Self {
        Self { arch, reader, files: Vec::new(), stack: Vec::new(), warnings: Vec::new() }
    }

    /// Reads a file with all it includes. `from` is the place that includes it.
    pub(super) fn file(&mut self, path: &Path, from: Option<&At>, scope: &Scope) -> Result<Merged> {
        let place = || from.map_or_else(String::new, |at| format!("{at}: "));
        if path.extension().is_some_and(|e| e == "ks") {
            return Err(Error::usage(format!("{}{}: kickstart files are not supported", place(), path.display()))
                .hint("Write the package list as a YAML treefile."));
        }
        if self.stack.len() >= MAX_INCLUDE_DEPTH {
            return Err(Error::usage(format!("{}more than {MAX_INCLUDE_DEPTH} nested includes", place())));
        }
        let file = self
            .reader
            .read(path)
            .context(|| {
                format!("{}{} '{}'", place(), if from.is_some() { "include" } else { "treefile" }, path.display())
            })
            .map_err(|e| if e.kind == ErrorKind::NotFound { e.with_kind(ErrorKind::Usage) } else { e })?;
        if let Some(index) = self.files.iter().position(|(id, _)| *id == file.identity) {
            let message = if let Some(start) = self.stack.iter().position(|i| *i == index) {
                let chain = self.stack[start..].iter().map(|i| self.files[*i].1.display().to_string());
                let chain: Vec<String> = chain.chain([path.display().to_string()]).collect();
                format!("include cycle: {}", chain.join(" -> "))
            } else {
                format!("'{}' is included a second time", path.display())
            };
            return Err(Error::usage(format!("{}{message}", place())));
        }
        self.stack.push(self.files.len());
        self.files.push((file.identity, path.to_owned()));
        let node = node::parse(path, &file.text)?;
        let Value::Map(entries) = &node.value else { return Err(node.wrong("a treefile", "a map of keys")) };
        let merged = self.layer(entries, scope)?;
        self.stack.pop();
        Ok(merged)
    }

    fn layer(&mut self, entries: &[Entry], scope: &Scope) -> Result<Merged> {
        let layer = Layer::read(entries, self.arch, scope)?;
        self.warnings.extend(layer.warnings);
        let mut merged = layer.keys;
        for include in &layer.includes {
            let included = match &include.target {
                Target::File(path) => self.file(&include.at.resolve(path), Some(&include.at), &layer.scope)?,
                Target::Inline(entries) => self.layer(entries, &layer.scope)?,
            };
            merge(&mut merged, included);
        }
        Ok(merged)
    }
}

/// Joins an included file into the including one, key by key as [`KEYS`] says.
fn merge(outer: &mut Merged, included: Merged) {
    for (name, node) in included {
        let Some(own) = outer.get_mut(name) else {
            outer.insert(name, node);
            continue;
        };
        let rule = KEYS.iter().find(|k| k.name == name).map_or(Merge::Outer, |k| k.merge);
        match (rule, &mut own.value, node.value) {
            (Merge::Front, Value::List(own), Value::List(mut front)) => {
                front.append(own);
                *own = front;
            }
            (Merge::Behind, Value::List(own), Value::List(mut behind)) => own.append(&mut behind),
            (Merge::Union, Value::Map(own), Value::Map(more)) => {
                for entry in more {
                    if own.iter().all(|e| e.key != entry.key) {
                        own.push(entry);
                    }
                }
            }
            _ => {}
        }
    }
}

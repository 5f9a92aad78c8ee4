//! YAML (and JSON, which it contains) as nodes that know their file and line.
//!
//! Owns the syntax: scalars after the YAML 1.2 core schema, their text kept (`13.10` is no number to a version),
//! duplicate keys and nesting checked while reading. Knows no treefile key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use saphyr::Scalar;
use saphyr_parser::{Event, Parser, Span};

use crate::error::{Error, ErrorKind, Result};

/// Nesting that no treefile needs; bounds the recursion of everything that walks nodes.
const MAX_DEPTH: usize = 64;
/// Nodes an anchor may be copied to by aliases, over the whole file.
const MAX_ALIASED: usize = 100_000;

/// A place in a treefile; displays as `FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) file: Arc<Path>,
    /// Counted from 1.
    pub(super) line: usize,
}

impl At {
    pub(super) fn error(&self, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Usage, format!("{self}: {message}"))
    }

    /// `path` as seen from the directory of this file.
    pub(super) fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// The number and its text.
    Number(serde_json::Number, String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands.
    pub(super) at: At,
    pub(super) node: Node,
}

impl Node {
    /// The value as an error message names it.
    pub(super) fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(v) => format!("the boolean {v}"),
            Value::Number(_, text) => format!("the number {text}"),
            Value::Text(v) if v.chars().count() > 40 || v.contains('\n') => "a text".into(),
            Value::Text(v) => format!("the string '{v}'"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }

    /// The error for a value of a wrong type.
    pub(super) fn wrong(&self, what: &str, expected: &str) -> Error {
        let error = self.at.error(format!("{what}: expected {expected}, found {}", self.found()));
        match &self.value {
            Value::Number(_, text) if expected.contains("string") => {
                error.hint(format!("Put it in quotes to make it a string: \"{text}\"."))
            }
            Value::Bool(v) if expected.contains("string") => {
                error.hint(format!("Put it in quotes to make it a string: \"{v}\"."))
            }
            Value::Text(v) if expected == "true or false" && matches!(v.as_str(), "yes" | "on" | "no" | "off") => {
                error.hint("YAML 1.2 knows only true and false as booleans.")
            }
            _ => error,
        }
    }

    pub(super) fn text(&self, what: &str) -> Result<&str> {
        match &self.value {
            Value::Text(v) => Ok(v),
            _ => Err(self.wrong(what, "a string")),
        }
    }

    /// A string, or a number as it is written.
    pub(super) fn text_or_number(&self, what: &str) -> Result<&str> {
        match &self.value {
            Value::Text(v) | Value::Number(_, v) => Ok(v),
            _ => Err(self.wrong(what, "a string or a number")),
        }
    }

    pub(super) fn bool(&self, what: &str) -> Result<bool> {
        match self.value {
            Value::Bool(v) => Ok(v),
            _ => Err(self.wrong(what, "true or false")),
        }
    }

    pub(super) fn list(&self, what: &str, of: &str) -> Result<&[Node]> {
        match &self.value {
            Value::List(v) => Ok(v),
            _ => Err(self.wrong(what, &format!("a list of {of}"))),
        }
    }

    pub(super) fn map(&self, what: &str) -> Result<&[Entry]> {
        match &self.value {
            Value::Map(v) => Ok(v),
            _ => Err(self.wrong(what, "a map")),
        }
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(v) => (*v).into(),
            Value::Number(v, _) => v.clone().into(),
            Value::Text(v) => v.as_str().into(),
            Value::List(v) => v.iter().map(Self::to_json).collect(),
            Value::Map(v) => v.iter().map(|e| (e.key.clone(), e.node.to_json())).collect(),
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(v) => v.iter().map(Self::size).sum(),
            Value::Map(v) => v.iter().map(|e| e.node.size()).sum::<usize>(),
            _ => 0,
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.value {
            Value::List(v) => v.iter().map(Self::depth).max().unwrap_or(0),
            Value::Map(v) => v.iter().map(|e| e.node.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

/// Reads the one document of a file. Errors name file and line: syntax, duplicate key, unknown alias, a second
/// document, nothing at all.
pub(super) fn parse(file: &Path, text: &str) -> Result<Node> {
    let mut builder =
        Builder { file: Arc::from(file), stack: Vec::new(), root: None, anchors: BTreeMap::new(), aliased: 0 };
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) =
            event.map_err(|e| builder.at(e.marker().line()).error(format!("not valid YAML: {}", e.info())))?;
        builder.event(event, span)?;
    }
    builder.root.ok_or_else(|| Error::usage(format!("{}: the file is empty", file.display())))
}

/// A list or map that is still open.
struct Frame {
    at: At,
    anchor: usize,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, At)> },
}

struct Builder {
    file: Arc<Path>,
    stack: Vec<Frame>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Node>,
    aliased: usize,
}

impl Builder {
    fn at(&self, line: usize) -> At {
        At { file: Arc::clone(&self.file), line: line.max(1) }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<()> {
        let at = self.at(span.start.line());
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(at.error("a second YAML document starts here; a treefile has one"))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::SequenceStart(anchor, _) => self.open(at, anchor, Open::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.open(at, anchor, Open::Map { entries: Vec::new(), key: None }),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.stack.pop() else { return Ok(()) };
                let value = match frame.open {
                    Open::List(items) => Value::List(items),
                    Open::Map { entries, .. } => Value::Map(entries),
                };
                self.push(Node { at: frame.at, value }, frame.anchor)
            }
            // What it would become (a file name, an argument, a pattern) ends at a NUL, or cannot have one.
            Event::Scalar(text, ..) if text.contains('\0') => Err(at.error("a text has a NUL character")),
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.key(text.into_owned(), at);
                }
                let raw = text.to_string();
                let value = match Scalar::parse_from_cow_and_metadata(text, style, tag.as_ref()) {
                    None => return Err(at.error(format!("'{raw}' does not fit the YAML tag in front of it"))),
                    Some(Scalar::Null) => Value::Null,
                    Some(Scalar::Boolean(v)) => Value::Bool(v),
                    Some(Scalar::Integer(v)) => Value::Number(v.into(), raw),
                    // Infinity and not-a-number have no JSON form: they stay text.
                    Some(Scalar::FloatingPoint(v)) => match serde_json::Number::from_f64(*v) {
                        Some(v) => Value::Number(v, raw),
                        None => Value::Text(raw),
                    },
                    Some(Scalar::String(v)) => Value::Text(v.into_owned()),
                };
                self.push(Node { at, value }, anchor)
            }
            Event::Alias(id) => {
                if self.wants_key() {
                    return Err(at.error("an alias cannot be a key"));
                }
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(at.error("an alias inside of its own anchor"));
                };
                self.aliased += node.size();
                if self.aliased > MAX_ALIASED || self.stack.len() + node.depth() > MAX_DEPTH {
                    return Err(at.error("the aliases make the file too large"));
                }
                self.push(node, 0)
            }
        }
    }

    fn open(&mut self, at: At, anchor: usize, open: Open) -> Result<()> {
        if self.wants_key() {
            return Err(at.error("a key must be a string"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(at.error(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.stack.push(Frame { at, anchor, open });
        Ok(())
    }

    /// Whether the next node is the key of the innermost map.
    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame { open: Open::Map { key: None, .. }, .. }))
    }

    fn key(&mut self, name: String, at: At) -> Result<()> {
        if let Some(Frame { open: Open::Map { entries, key }, .. }) = self.stack.last_mut() {
            if let Some(first) = entries.iter().find(|e| e.key == name) {
                return Err(at.error(format!("duplicate key '{name}', first on line {}", first.at.line)));
            }
            *key = Some((name, at));
        }
        Ok(())
    }

    fn push(&mut self, node: Node, anchor: usize) -> Result<()> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|f| &mut f.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key }) => {
                if let Some((key, at)) = key.take() {
                    entries.push(Entry { key, at, node });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node> {
        parse(Path::new("t.yaml"), text)
    }

    #[test]
    fn keeps_lines_and_the_text_of_numbers() {
        let node = read("a: 13.10\nb:\n  - x\n  - {c: true}\n").unwrap();
        let map = node.map("t").unwrap();
        assert_eq!(map[0].node.text_or_number("a").unwrap(), "13.10");
        let list = map[1].node.list("b", "x").unwrap();
        assert_eq!((list[1].at.line, list[0].at.line), (4, 3));
        assert_eq!(node.to_json(), serde_json::json!({"a": 13.1, "b": ["x", {"c": true}]}));
    }

    #[test]
    fn json_reads_alike() {
        let json = "{\n\t\"ref\": \"a/b\",\n  \"n\": -3, \"l\": [null, \"x\\ny\", 1e3]}";
        assert_eq!(read(json).unwrap().to_json(), serde_json::from_str::<serde_json::Value>(json).unwrap());
    }

    #[test]
    fn names_the_line_of_every_error() {
        let deep = format!("a: {}", "[".repeat(500));
        let dashes = "- ".repeat(100_000);
        let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (previous, next) in "abcdefg".chars().zip("bcdefgh".chars()) {
            laughs.push_str(&format!("{next}: &{next} [{}]\n", format!("*{previous},").repeat(10)));
        }
        for (text, expected) in [
            ("a: 1\na: 2\n", "t.yaml:2: duplicate key 'a', first on line 1"),
            ("a:\n  b: 1\n  \"b\": 2\n", "t.yaml:3: duplicate key 'b', first on line 2"),
            ("a: 1\n---\nb: 2\n", "t.yaml:2: a second YAML document"),
            ("a: [1\nb: 2", "t.yaml:2: not valid YAML"),
            ("x: 1\n\ty: 2\n", "t.yaml:1: not valid YAML"),
            ("? [a]\n: b\n", "t.yaml:1: a key must be a string"),
            ("a: &x [*x]\n", "t.yaml:1:"),
            ("a: \"x\\0y\"\n", "t.yaml:1: a text has a NUL"),
            ("a: 1\n\"x\\0\": 2\n", "t.yaml:2: a text has a NUL"),
            ("a: !!int b\n", "t.yaml:1: 'b' does not fit"),
            ("", "t.yaml: the file is empty"),
            ("# only\n", "t.yaml: the file is empty"),
            (&deep, "t.yaml:1:"),
            (&dashes, "t.yaml:1: nested more"),
            (&laughs, "the aliases make the file too large"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:.60}: {error}");
        }
    }

    /// Every prefix and every single-byte change of a file gives a value or an error, never a panic.
    #[test]
    fn survives_damage() {
        let text = "ref: a/${b}\npackages:\n  - [x, 'y z']\n  - {\"k\": &a |\n    t}\nz: *a\nq: !!str 1\n";
        for end in 0..text.len() {
            let _ = read(&text[..end]);
        }
        for i in 0..text.len() {
            for c in ['\t', '{', ']', ':', '"', '&', '*', '!', '\u{0}', '-', '\n'] {
                let mut damaged = text.to_owned();
                damaged.replace_range(i..=i, &c.to_string());
                let _ = read(&damaged);
            }
        }
    }
}

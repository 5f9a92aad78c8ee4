//! The lines of tmpfiles.d(5): parse, render, and which line of several for one path counts.
//!
//! Pure: files are read by the caller. Specifiers that do not depend on the machine are expanded; a path with another
//! one (`%m`, `%b`, …) stays as it is written and so is equal to no real path.

use std::collections::BTreeMap;
use std::fmt;

/// One line. Fields that are `-` or absent are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The type letter and its modifiers, such as `d`, `L+`, `f^`.
    pub kind: String,
    /// Absolute path, unescaped and with known specifiers expanded.
    pub path: String,
    /// As written: octal digits, with an optional `~` or `:` before them.
    pub mode: Option<String>,
    /// Name or number, with an optional `:` before it.
    pub user: Option<String>,
    pub group: Option<String>,
    pub age: Option<String>,
    /// The rest of the line, unescaped the way the path is not: only specifiers are expanded.
    pub argument: Option<String>,
}

impl Line {
    /// `d`: make the directory, or set its mode and owner.
    pub fn directory(path: &str, mode: u32, user: &str, group: &str) -> Self {
        Self::owned("d", path, &format!("{mode:04o}"), user, group)
    }

    /// `L`, or `L+` which replaces what is in the way.
    pub fn link(path: &str, target: &str, replace: bool) -> Self {
        let kind = if replace { "L+" } else { "L" };
        Self { kind: kind.into(), path: path.into(), argument: Some(target.into()), ..Self::default() }
    }

    /// `f`: make an empty file if there is none. Mode and owner are set only when it is made.
    pub fn empty_file(path: &str, mode: u32, user: &str, group: &str) -> Self {
        Self::owned("f", path, &format!(":{mode:04o}"), &format!(":{user}"), &format!(":{group}"))
    }

    /// `C`: copy `/usr/share/factory` + path if there is nothing. The `:` ask for mode and owner to be set only when it is
    /// made; systemd 257 heeds them for other types and sets them on every boot for this one.
    pub fn factory_copy(path: &str, mode: u32, user: &str, group: &str) -> Self {
        Self::owned("C", path, &format!(":{mode:04o}"), &format!(":{user}"), &format!(":{group}"))
    }

    /// `z`: set mode and owner of what is there. Unlike the others it may stand beside another line for the same path.
    pub fn adjust(path: &str, mode: u32, user: &str, group: &str) -> Self {
        Self::owned("z", path, &format!("{mode:04o}"), user, group)
    }

    fn owned(kind: &str, path: &str, mode: &str, user: &str, group: &str) -> Self {
        Self {
            kind: kind.into(),
            path: path.into(),
            mode: Some(mode.into()),
            user: Some(user.into()),
            group: Some(group.into()),
            ..Self::default()
        }
    }

    /// The type letter.
    pub fn letter(&self) -> char {
        self.kind.chars().next().unwrap_or('-')
    }

    /// Whether the line makes something at its path. Of such lines only the first for a path counts
    /// (`item_compatible` in systemd's tmpfiles.c); the other types add up.
    pub fn creates(&self) -> bool {
        matches!(self.letter(), 'd' | 'D' | 'v' | 'q' | 'Q' | 'f' | 'F' | 'L' | 'C' | 'p' | 'c' | 'b')
    }

    /// Reads one line. `None` for blank lines, comments and what systemd would not take either.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') || text.contains('\0') {
            return None;
        }
        let mut rest = text;
        let mut next = || next_word(&mut rest);
        let kind = next()??;
        let path = expand(&next()??);
        let mut field = || Some(next()?.and_then(|w| if w == "-" || w.is_empty() { None } else { Some(w) }));
        let (mode, user, group, age) = (field()?, field()?, field()?, field()?);
        let rest = rest.trim();
        let argument = (!rest.is_empty() && rest != "-").then(|| expand(rest));
        let modifiers = kind.get(1..).unwrap_or_default();
        let known =
            kind.starts_with(|c: char| c.is_ascii_alphabetic()) && modifiers.chars().all(|c| "!-+=~^$?".contains(c));
        if !path.starts_with('/') || !known {
            return None;
        }
        Some(Self { kind, path: normal(&path), mode, user, group, age, argument })
    }
}

impl fmt::Display for Line {
    /// The line without its newline; the argument is left out if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), escape);
        write!(f, "{} {}", self.kind, escape(&self.path.replace('%', "%%")))?;
        write!(f, " {} {} {} {}", field(&self.mode), field(&self.user), field(&self.group), field(&self.age))?;
        match &self.argument {
            Some(argument) => write!(f, " {}", argument.replace('%', "%%")),
            None => f.write_str(" -"),
        }
    }
}

/// All lines of a file, in order.
pub fn parse(text: &str) -> Vec<Line> {
    text.lines().filter_map(Line::parse).collect()
}

/// What the tmpfiles.d files of a tree already say, by path. Files are added in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Existing {
    creating: BTreeMap<String, (String, Line)>,
    files: BTreeMap<String, Vec<Line>>,
}

impl Existing {
    /// Takes one file. A name that is there already is ignored: callers give `/etc/tmpfiles.d` before
    /// `/usr/lib/tmpfiles.d`, and the first of a name counts (tmpfiles.d(5)).
    pub fn add(&mut self, file: &str, text: &str) {
        if self.files.contains_key(file) {
            return;
        }
        self.files.insert(file.to_owned(), parse(text));
        self.creating.clear();
        for (name, lines) in &self.files {
            for line in lines.iter().filter(|l| l.creates()) {
                self.creating.entry(line.path.clone()).or_insert_with(|| (name.clone(), line.clone()));
            }
        }
    }

    /// The line that makes `path`, with the name of its file.
    pub fn creator(&self, path: &str) -> Option<(&str, &Line)> {
        self.creating.get(path).map(|(file, line)| (file.as_str(), line))
    }

    /// Whether some line sets an access control list there.
    pub fn sets_acl(&self, path: &str) -> bool {
        self.files.values().flatten().any(|l| matches!(l.letter(), 'a' | 'A') && l.path == path)
    }

    /// The `C` line that makes `path` by copying a directory above it.
    pub fn copied_from_above(&self, path: &str) -> Option<&Line> {
        let mut parent = path;
        while let Some((above, _)) = parent.rsplit_once('/') {
            match self.creating.get(above) {
                Some((_, line)) if line.letter() == 'C' => return Some(line),
                _ => parent = above,
            }
        }
        None
    }
}

/// One word as systemd's `extract_first_word` with unquoting and C escapes takes it. `Some(None)` at the end of the
/// line, `None` for an unbalanced quote or a bad escape.
#[allow(clippy::option_option)]
fn next_word(rest: &mut &str) -> Option<Option<String>> {
    // systemd knows no other blanks than these.
    let text = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
    if text.is_empty() {
        *rest = text;
        return Some(None);
    }
    let mut word: Vec<u8> = Vec::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            ('\\', _) => {
                let used = unescape(&text[at + 1..], &mut word)?;
                for _ in 0..used {
                    chars.next();
                }
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            (c, None) if c.is_ascii_whitespace() => {
                *rest = &text[at..];
                return Some(Some(String::from_utf8(word).ok()?));
            }
            (c, _) => word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    *rest = "";
    if quote.is_some() { None } else { Some(Some(String::from_utf8(word).ok()?)) }
}

/// One escape after its backslash; gives the number of characters it took (`cunescape_one` in systemd).
fn unescape(text: &str, word: &mut Vec<u8>) -> Option<usize> {
    let first = text.chars().next()?;
    let byte = match first {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        's' => b' ',
        '\\' | '"' | '\'' => first as u8,
        'x' => {
            word.push(u8::from_str_radix(text.get(1..3)?, 16).ok().filter(|b| *b != 0)?);
            return Some(3);
        }
        '0'..='3' => {
            word.push(u8::from_str_radix(text.get(..3)?, 8).ok().filter(|b| *b != 0)?);
            return Some(3);
        }
        _ => return None,
    };
    word.push(byte);
    Some(1)
}

/// A word that [`next_word`] reads back as `text`.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            ' ' => out.push_str("\\x20"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '"' | '\'' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// Expands the specifiers that are the same on every machine.
fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some('S') => out.push_str("/var/lib"),
            Some('C') => out.push_str("/var/cache"),
            Some('L') => out.push_str("/var/log"),
            Some('t') => out.push_str("/run"),
            Some('T') => out.push_str("/tmp"),
            Some('V') => out.push_str("/var/tmp"),
            Some('h') => out.push_str("/root"),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// `path_simplify`: no double and no trailing slashes.
fn normal(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_odd_names() {
        for path in ["/var/a b", "/var/100%", "/var/q\"'\\", "/var/tab\tnl\n", "/var/ünï", "/var/%m"] {
            let line = Line::directory(path, 0o2775, "root", "mail");
            assert_eq!(Line::parse(&line.to_string()), Some(line), "{path}");
        }
        let link = Line::link("/var/spool/mail", "../my mail%", false);
        assert_eq!(Line::parse(&link.to_string()), Some(link));
    }

    #[test]
    fn reads_what_debian_ships() {
        let text = "# c\nq /var 0755 - - -\nd$ /run/systemd/netif        0755 systemd-network systemd-network -\n\
                    L$ /var/log/README - - - - ../../usr/share/doc/systemd/README.logs\nd /var/spool/cron/crontabs 1730 root crontab\n\
                    d %S/foo/\nbad\nd \"/var/x y\" -\nd \"/unbalanced\n";
        let lines = parse(text);
        let paths: Vec<_> = lines.iter().map(|l| (l.kind.as_str(), l.path.as_str())).collect();
        assert_eq!(
            paths,
            [
                ("q", "/var"),
                ("d$", "/run/systemd/netif"),
                ("L$", "/var/log/README"),
                ("d", "/var/spool/cron/crontabs"),
                ("d", "/var/lib/foo"),
                ("d", "/var/x y"),
            ]
        );
        assert_eq!(lines[3].group.as_deref(), Some("crontab"));
        assert_eq!(lines[2].argument.as_deref(), Some("../../usr/share/doc/systemd/README.logs"));
    }

    #[test]
    fn the_first_file_name_wins() {
        let mut existing = Existing::default();
        existing.add("b.conf", "d /var/x 0700\nz /var/y 0700\nC /var/tree\n");
        existing.add("a.conf", "d /var/x 0711\n");
        existing.add("a.conf", "d /var/x 0000\n");
        assert_eq!(existing.creator("/var/x").map(|(f, l)| (f, l.mode.as_deref())), Some(("a.conf", Some("0711"))));
        assert!(existing.creator("/var/y").is_none());
        assert!(existing.copied_from_above("/var/tree/a/b").is_some());
        assert!(existing.copied_from_above("/var/treex").is_none());
    }
}

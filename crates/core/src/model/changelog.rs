//! Debian changelogs (deb-changelog(5)) as values.

use super::version;

/// One entry: `name (version) suite; urgency=…`, changes, ` -- author  date`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub version: String,
    /// `Name <address>`.
    pub author: String,
    /// As it stands there.
    pub date: String,
    /// Lines without the two blanks that they are indented by; no blank ones at the ends.
    pub changes: Vec<String>,
}

/// The entries of a text, in its order: the newest first. What is not an entry (an old upstream part) ends it.
pub fn parse(text: &str) -> Vec<Entry> {
    let mut list: Vec<Entry> = Vec::new();
    let mut open: Option<Entry> = None;
    for line in text.lines() {
        if let Some(version) = header(line) {
            open = Some(Entry { version: version.to_owned(), ..Entry::default() });
        } else if let Some(rest) = line.strip_prefix(" -- ") {
            let Some(mut entry) = open.take() else { break };
            let (author, date) = rest.split_once("  ").unwrap_or((rest, ""));
            entry.author = author.trim().to_owned();
            entry.date = date.trim().to_owned();
            while entry.changes.last().is_some_and(String::is_empty) {
                entry.changes.pop();
            }
            list.push(entry);
        } else if let Some(entry) = &mut open {
            let change = line.strip_prefix("  ").unwrap_or(line).trim_end();
            if !change.is_empty() || !entry.changes.is_empty() {
                entry.changes.push(change.to_owned());
            }
        }
    }
    list
}

/// The version of a line `name (version) suite…; urgency=…`.
fn header(line: &str) -> Option<&str> {
    if line.starts_with([' ', '\t']) || !line.contains(';') {
        return None;
    }
    let (name, rest) = line.split_once(" (")?;
    let (version, _) = rest.split_once(')')?;
    (!name.contains(' ') && !version.contains(' ')).then_some(version)
}

/// The entries newer than `old`, up to `new`.
pub fn between(entries: &[Entry], old: &str, new: &str) -> Vec<Entry> {
    let newer = |e: &&Entry| version::compare(&e.version, old).is_gt() && version::compare(&e.version, new).is_le();
    entries.iter().filter(newer).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "htop (3.4.1-5) unstable; urgency=medium

  * Fix the meters;
    and their colours
  * Team upload

 -- A Person <a@example.org>  Sat, 09 Aug 2025 09:10:53 +0000

htop (3.4.1-4) unstable; urgency=medium

  [ Somebody ]
  * Second (see 1.0); third

 -- B Person <b@example.org>  Fri, 08 Aug 2025 09:10:53 +0000

htop (3.4.0~rc1-1) experimental; urgency=medium

  * First

 -- B Person <b@example.org>  Thu, 07 Aug 2025 09:10:53 +0000

Old news of upstream
";

    #[test]
    fn entries() {
        let list = parse(TEXT);
        assert_eq!(list.len(), 3);
        assert_eq!(
            list[0],
            Entry {
                version: "3.4.1-5".into(),
                author: "A Person <a@example.org>".into(),
                date: "Sat, 09 Aug 2025 09:10:53 +0000".into(),
                changes: vec!["* Fix the meters;".into(), "  and their colours".into(), "* Team upload".into()],
            }
        );
        assert_eq!(list[1].changes, ["[ Somebody ]", "* Second (see 1.0); third"]);
        assert!(parse("").is_empty() && parse("Version 1.0\n===\n- text\n").is_empty());
    }

    #[test]
    fn newer_ones() {
        let versions = |old: &str, new: &str| {
            between(&parse(TEXT), old, new).into_iter().map(|e| e.version).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(versions("3.4.0-1", "3.4.1-5"), "3.4.1-5 3.4.1-4");
        assert_eq!(versions("3.4.0~rc1-1", "3.4.1-4"), "3.4.1-4");
        assert_eq!(versions("3.4.1-5", "3.4.1-5+b1"), "");
        assert_eq!(versions("1", "9"), "3.4.1-5 3.4.1-4 3.4.0~rc1-1");
    }
}

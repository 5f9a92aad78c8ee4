//! Switching one source of a file on or off, in the text: everything else in it is the administrator's and stays as it is.
//!
//! A stanza of deb822 has the field `Enabled`. A line of the one-line format is a comment while it is off, as other tools do it
//! (python-apt, apt's own documentation), so a comment that reads as a source counts as one that is off.

use std::ops::Range;

use super::{Source, parse_line};
use crate::error::{Context, Error, Result};
use crate::model::deb822;

/// The two formats of sources.list(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.sources`
    Deb822,
    /// `.list`
    Lines,
}

/// All sources of a file, also those that are off.
pub fn entries(text: &str, format: Format) -> Result<Vec<Source>> {
    Ok(located(text, format)?.into_iter().map(|(source, _)| source).collect())
}

/// The text with the source of that index (of [`entries`]) on or off.
pub fn switch(text: &str, format: Format, index: usize, enabled: bool) -> Result<String> {
    let before = located(text, format)?;
    let (source, range) = before.get(index).ok_or_else(|| Error::failed("There is no such source any more"))?;
    if source.enabled == enabled {
        return Ok(text.to_owned());
    }
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let changed = match format {
        Format::Deb822 => stanza(&lines[range.clone()], enabled),
        Format::Lines if enabled => {
            let line = lines[range.start];
            let bare = line.trim_start().strip_prefix('#').unwrap_or(line);
            bare.strip_prefix(' ').unwrap_or(bare).to_owned()
        }
        Format::Lines => format!("# {}", lines[range.start]),
    };
    let text = lines[..range.start].concat() + &changed + &lines[range.end..].concat();
    // Whatever stands in the file: nothing but this one may mean something else now.
    let mut wanted: Vec<Source> = before.into_iter().map(|(source, _)| source).collect();
    wanted[index].enabled = enabled;
    if entries(&text, format).ok().as_ref() != Some(&wanted) {
        return Err(Error::failed("It is written in a way that cannot be changed safely"));
    }
    Ok(text)
}

/// Each source with its lines.
fn located(text: &str, format: Format) -> Result<Vec<(Source, Range<usize>)>> {
    match format {
        Format::Deb822 => stanzas(text)
            .into_iter()
            .enumerate()
            .map(|(i, (stanza, lines))| {
                Ok((Source::from_stanza(&stanza).context(|| format!("stanza {}", i + 1))?, lines))
            })
            .collect(),
        Format::Lines => {
            let mut sources = Vec::new();
            for (i, line) in text.lines().enumerate() {
                let code = line.split('#').next().unwrap_or_default().trim();
                if !code.is_empty() {
                    sources.push((parse_line(code).context(|| format!("line {}", i + 1))?, i..i + 1));
                } else if let Some(source) = commented(line) {
                    sources.push((source, i..i + 1));
                }
            }
            Ok(sources)
        }
    }
}

/// A comment that is a source. Prose that happens to begin with `deb` has no address.
fn commented(line: &str) -> Option<Source> {
    let code = line.trim_start().strip_prefix('#')?.split('#').next()?.trim();
    let source = parse_line(code).ok()?;
    let address = |uri: &String| uri.contains(":/") || uri.starts_with("cdrom:");
    source.uris.iter().all(address).then_some(Source { enabled: false, ..source })
}

/// The stanzas as [`deb822::stanzas`] tells them apart, and where they are.
fn stanzas(text: &str) -> Vec<(deb822::Stanza, Range<usize>)> {
    let mut found = Vec::new();
    let mut start = None;
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        if line.trim().is_empty() {
            found.extend(start.take().map(|start| start..i));
        } else if start.is_none() && is_field(line) {
            start = Some(i);
        }
    }
    found.extend(start.map(|start| start..lines.len()));
    let stanza = |range: Range<usize>| (deb822::stanzas(&lines[range.clone()].join("\n")).next(), range);
    found.into_iter().map(stanza).filter_map(|(stanza, range)| Some((stanza?, range))).collect()
}

fn is_field(line: &str) -> bool {
    !line.starts_with(['#', ' ', '\t']) && line.contains(':')
}

/// The lines of a stanza with another `Enabled`: in its place, or first.
fn stanza(lines: &[&str], enabled: bool) -> String {
    let word = if enabled { "yes" } else { "no" };
    let mut text = String::new();
    let (mut found, mut folded) = (false, false);
    for line in lines {
        match line.split_once(':').filter(|_| is_field(line)) {
            Some((name, _)) if name.eq_ignore_ascii_case("Enabled") => {
                text += &format!("{name}: {word}{}", ending(line));
                (found, folded) = (true, true);
            }
            // The rest of its value.
            None if folded && line.starts_with([' ', '\t']) => {}
            other => {
                folded &= other.is_none();
                text += line;
            }
        }
    }
    if found { text } else { format!("Enabled: {word}{}{text}", ending(lines[0])) }
}

/// As the line ends; the last one of a file may have no end.
fn ending(line: &str) -> &'static str {
    if line.ends_with("\r\n") { "\r\n" } else { "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "# of the installer\n\nTypes: deb\nURIs: http://a.invalid\n# why\nSuites: x x-updates\nComponents: main\n\
        \n#Types: deb\n\nTypes: deb deb-src\nenabled: no\nURIs: http://b.invalid\nSuites: y\nComponents: main\nSigned-By:\n \
        -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----";

    fn states(text: &str, format: Format) -> Vec<bool> {
        entries(text, format).unwrap().iter().map(|s| s.enabled).collect()
    }

    #[test]
    fn one_stanza_and_nothing_else() {
        assert_eq!(states(STANZAS, Format::Deb822), [true, false]);
        let off = switch(STANZAS, Format::Deb822, 0, false).unwrap();
        assert_eq!(off, STANZAS.replacen("Types: deb\nURIs", "Enabled: no\nTypes: deb\nURIs", 1));
        assert_eq!(states(&off, Format::Deb822), [false, false]);
        let on = switch(&off, Format::Deb822, 0, true).unwrap();
        assert_eq!(on, off.replacen("Enabled: no", "Enabled: yes", 1));
        let second = switch(STANZAS, Format::Deb822, 1, true).unwrap();
        assert_eq!(second, STANZAS.replacen("enabled: no", "enabled: yes", 1));
        assert_eq!(switch(STANZAS, Format::Deb822, 1, false).unwrap(), STANZAS);
        assert!(switch(STANZAS, Format::Deb822, 2, false).is_err());
    }

    #[test]
    fn odd_stanzas() {
        let tail = "Types: deb\r\nURIs: http://a.invalid\r\nSuites: x/";
        assert_eq!(switch(tail, Format::Deb822, 0, false).unwrap(), format!("Enabled: no\r\n{tail}"));
        // All of a field that is there twice, and all lines of it.
        let twice = "Enabled: no\n maybe\n# why\n more\nURIs: http://a.invalid\nEnabled: off\nSuites: x/\n";
        let on = switch(twice, Format::Deb822, 0, true);
        assert_eq!(states(twice, Format::Deb822), [true], "not the word of a no");
        assert_eq!(on.unwrap(), twice);
        assert_eq!(
            switch(twice, Format::Deb822, 0, false).unwrap(),
            "Enabled: no\n# why\nURIs: http://a.invalid\nEnabled: no\nSuites: x/\n"
        );
    }

    #[test]
    fn one_line_and_nothing_else() {
        let text = "# See sources.list(5).\n# deb lines: see there\n  deb [arch=amd64] http://a.invalid x main # mine\n\
            #deb-src http://a.invalid x main\n## deb http://b.invalid x main\ndeb http://c.invalid x/";
        assert_eq!(states(text, Format::Lines), [true, false, true]);
        let off = switch(text, Format::Lines, 0, false).unwrap();
        assert_eq!(off, text.replacen("  deb [", "#   deb [", 1));
        assert_eq!(switch(&off, Format::Lines, 0, true).unwrap(), text);
        assert_eq!(switch(text, Format::Lines, 1, true).unwrap(), text.replacen("#deb-src", "deb-src", 1));
        let last = switch(text, Format::Lines, 2, false).unwrap();
        assert_eq!(last, text.replacen("deb http://c", "# deb http://c", 1));
    }
}

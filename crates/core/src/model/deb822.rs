//! The control-file syntax of Debian (deb822(5)): stanzas of `Field: value`, continuation lines, comments.

/// One paragraph. Field names compare without case, as deb822(5) says; order is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stanza {
    fields: Vec<(String, String)>,
}

impl Stanza {
    /// The value of a field. Continuation lines are joined with `\n`, their first blank removed.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Sets a field, in place if it is there.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.fields.iter_mut().find(|(k, _)| k.eq_ignore_ascii_case(name)) {
            Some(field) => field.1 = value,
            None => self.fields.push((name.to_owned(), value)),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.fields.retain(|(k, _)| !k.eq_ignore_ascii_case(name));
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl std::fmt::Display for Stanza {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (key, value) in &self.fields {
            let mut lines = value.split('\n');
            writeln!(f, "{key}: {}", lines.next().unwrap_or_default())?;
            for line in lines {
                writeln!(f, " {}", if line.is_empty() { "." } else { line })?;
            }
        }
        Ok(())
    }
}

/// The stanzas of a text, one after the other. Lines that are neither a field nor a continuation are skipped,
/// as apt and dpkg read their own databases; callers that must be strict check the fields they need.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut stanza = Stanza::default();
        for line in lines.by_ref() {
            if line.trim().is_empty() {
                if stanza.is_empty() {
                    continue;
                }
                return Some(stanza);
            }
            if line.starts_with('#') {
                continue;
            }
            if let Some(rest) = line.strip_prefix([' ', '\t']).map(str::trim_end) {
                if let Some((_, value)) = stanza.fields.last_mut() {
                    value.push('\n');
                    value.push_str(if rest == "." { "" } else { rest });
                }
            } else if let Some((key, value)) = line.split_once(':') {
                stanza.fields.push((key.to_owned(), value.trim().to_owned()));
            }
        }
        (!stanza.is_empty()).then_some(stanza)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_continuations_and_ignores_case() {
        let text = "Package: a\nDescription: one\n two\n .\n three\n\n# c\nPackage: b\n";
        let all: Vec<_> = stanzas(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("description"), Some("one\ntwo\n\nthree"));
        assert_eq!(all[0].to_string(), "Package: a\nDescription: one\n two\n .\n three\n");
    }
}

//! `/etc/apt-ostreed.conf`, the settings of the machine: a GKeyFile, like rpm-ostree's `rpm-ostreed.conf`.

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonConfig {
    /// `[Layering] ForeignArchitectures=i386;arm64;`: dpkg architectures besides the native one whose packages can be
    /// layered, in addition to those of the base.
    pub foreign_architectures: Vec<String>,
}

impl DaemonConfig {
    /// Keys and groups that are not known are left alone. The `Err` says what is wrong with a value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let mut group = "";
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                group = name;
            } else if let Some((key, value)) = line.split_once('=') {
                if (group, key.trim()) == ("Layering", "ForeignArchitectures") {
                    config.foreign_architectures = architectures(value)?;
                }
            }
        }
        Ok(config)
    }
}

/// A list with `;` between its items, as GKeyFile writes it; blanks and commas are taken as well.
fn architectures(value: &str) -> Result<Vec<String>, String> {
    let mut list: Vec<String> = Vec::new();
    for word in value.split([';', ',', ' ', '\t']).filter(|w| !w.is_empty()) {
        // Policy 11.1: an architecture is a word like `i386` or `linux-any`; wildcards and `all` name none.
        let valid = word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !valid || matches!(word, "all" | "any" | "source") || word.ends_with("-any") || word.starts_with("any-") {
            return Err(format!("[Layering] ForeignArchitectures: '{word}' is not a dpkg architecture"));
        }
        if !list.iter().any(|a| a == word) {
            list.push(word.to_owned());
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_architectures() {
        let read = |text: &str| DaemonConfig::parse(text).map(|c| c.foreign_architectures.join(" "));
        assert_eq!(read("").as_deref(), Ok(""));
        assert_eq!(read("[Layering]\nForeignArchitectures=i386;arm64;\n").as_deref(), Ok("i386 arm64"));
        assert_eq!(read("[Layering]\n# x\nForeignArchitectures = i386, i386\n").as_deref(), Ok("i386"));
        assert_eq!(read("[Daemon]\nForeignArchitectures=i386\n[Layering]\nOther=1\n").as_deref(), Ok(""));
        for bad in ["I386", "any", "linux-any", "../x", "all"] {
            assert!(read(&format!("[Layering]\nForeignArchitectures={bad}\n")).is_err(), "{bad}");
        }
    }
}

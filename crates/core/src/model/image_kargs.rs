//! Kernel arguments that come with an image: bootc's `/usr/lib/bootc/kargs.d/*.toml`, so that one image serves both.
//!
//! Each file has `kargs = ["key=value", …]` and perhaps `match-architectures = ["x86_64", …]` (bootc's docs, "Kernel
//! arguments"). Files count in the order of their names. A new deployment loses what the image of the deployment
//! before it had and its own has not, and gains what is new; everything else is the machine's and stays, an argument of
//! the image that was deleted by hand included.

use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// Where the files lie in a commit.
pub const DIRECTORY: &str = "usr/lib/bootc/kargs.d";

/// One argument and the file that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageKarg {
    pub karg: String,
    /// File name below [`DIRECTORY`].
    pub file: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default)]
    kargs: Vec<String>,
    match_architectures: Option<Vec<String>>,
}

/// The arguments of one file for a machine whose dpkg architecture is `arch`.
pub fn parse(file: &str, text: &str, arch: &str) -> Result<Vec<ImageKarg>> {
    let shown = || format!("Reading the kernel arguments of /{DIRECTORY}/{file}");
    let parsed: File = toml::from_str(text).map_err(|e| Error::usage(e.message().to_owned())).context(shown)?;
    if parsed.match_architectures.is_some_and(|list| !list.iter().any(|a| a == kernel_name(arch))) {
        return Ok(Vec::new());
    }
    let valid = |karg: &String| !karg.is_empty() && !karg.starts_with("ostree=") && !karg.contains(char::is_whitespace);
    match parsed.kargs.iter().find(|karg| !valid(karg)) {
        Some(bad) => Err(Error::usage(format!("'{bad}' is no kernel argument that an image may set"))).context(shown),
        None => Ok(parsed.kargs.into_iter().map(|karg| ImageKarg { karg, file: file.to_owned() }).collect()),
    }
}

/// The kernel's and Rust's name of a dpkg architecture, as far as the two differ.
fn kernel_name(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "i386" => "x86",
        "ppc64el" => "powerpc64",
        other => other,
    }
}

/// The arguments of the next deployment: `current` without what the image no longer has, and with what it has anew.
pub fn merge(current: &[String], old: &[ImageKarg], new: &[ImageKarg]) -> Vec<String> {
    let has = |list: &[ImageKarg], karg: &str| list.iter().any(|i| i.karg == karg);
    let mut merged: Vec<String> = current.iter().filter(|karg| !has(old, karg) || has(new, karg)).cloned().collect();
    for ImageKarg { karg, .. } in new {
        if !has(old, karg) && !merged.contains(karg) {
            merged.push(karg.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(file: &str, words: &str) -> Vec<ImageKarg> {
        words.split_whitespace().map(|w| ImageKarg { karg: w.into(), file: file.into() }).collect()
    }

    #[test]
    fn files_name_arguments_and_architectures() {
        let text = "kargs = [\"console=ttyS0\", \"quiet\"]\nmatch-architectures = [\"x86_64\"]\n";
        assert_eq!(parse("10-a.toml", text, "amd64").unwrap(), list("10-a.toml", "console=ttyS0 quiet"));
        assert_eq!(parse("10-a.toml", text, "arm64").unwrap(), []);
        for bad in ["kargs = 1", "karg = []", "kargs = [\"a b\"]", "kargs = [\"ostree=/x\"]", "kargs = [\"\"]", "{"] {
            let e = parse("10-a.toml", bad, "amd64").unwrap_err().to_string();
            assert!(e.contains("/usr/lib/bootc/kargs.d/10-a.toml"), "{e}");
        }
    }

    #[test]
    fn the_image_changes_only_what_is_its_own() {
        let merged = |current: &str, old: &str, new: &str| {
            let current: Vec<String> = current.split_whitespace().map(str::to_owned).collect();
            merge(&current, &list("a", old), &list("b", new)).join(" ")
        };
        assert_eq!(merged("root=1", "", "quiet"), "root=1 quiet", "new ones come");
        assert_eq!(merged("root=1 quiet mine", "quiet", "loud"), "root=1 mine loud", "old ones go");
        assert_eq!(merged("root=1", "quiet", "quiet"), "root=1", "deleted by hand: stays away");
        assert_eq!(merged("quiet root=1", "", "quiet"), "quiet root=1", "the machine has it already");
        assert_eq!(merged("quiet root=1", "quiet", "quiet"), "quiet root=1", "order stays");
    }
}

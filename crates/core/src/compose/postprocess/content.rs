//! What the treefile itself puts into the tree, takes out of it, and runs in it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ostree::glib::{Regex, RegexCompileFlags, RegexMatchFlags};

use super::Report;
use crate::assemble::runner::{Runner, bind_in};
use crate::assemble::tree::Tree;
use crate::error::{Context, Error, Result};
use crate::event::EventSinkExt;
use crate::model::sources::{SignedBy, Source};
use crate::model::treefile::{AddFile, RemoveFromPackage};
use crate::sysroot::bootloader;

const APT_CONF: &str = include_str!("../../../../../data/apt.conf.d/50apt-ostree.conf");
const APT_HOOK: &str = include_str!("../../../../../data/apt-hook");
const DEFAULT_GRUB: &str = include_str!("../../../../../data/grub/default-grub");

/// libostree is told of the generator by this drop-in when it finalizes a staged deployment at shutdown.
const FINALIZE_DROPIN_PATH: &str = "/usr/lib/systemd/system/ostree-finalize-staged.service.d/10-apt-ostree-grub.conf";
const FINALIZE_DROPIN: &str =
    include_str!("../../../../../data/systemd/system/ostree-finalize-staged.service.d/10-apt-ostree-grub.conf");

/// Where scripts and lists of a run are bound in the sandbox; /run is a tmpfs there.
const INSIDE: &str = "/run/apt-ostree-compose";

/// Defaults of programs that every tree gets; an author's files come later and win.
pub(crate) fn write_defaults(tree: &Tree) -> Result<()> {
    if tree.is_dir("/etc/apt") {
        tree.write("/etc/apt/apt.conf.d/50apt-ostree.conf", APT_CONF, 0o644)?;
        tree.write("/usr/lib/apt-ostree/apt-hook", APT_HOOK, 0o755)?;
    }
    if !tree.exists("/etc/default/grub") {
        tree.write("/etc/default/grub", DEFAULT_GRUB, 0o644)?;
    }
    // A package may bring both.
    if !tree.exists(bootloader::GENERATOR_PATH) {
        tree.write(bootloader::GENERATOR_PATH, bootloader::GENERATOR, 0o755)?;
    }
    if !tree.exists(FINALIZE_DROPIN_PATH) {
        tree.write(FINALIZE_DROPIN_PATH, FINALIZE_DROPIN, 0o644)?;
    }
    // New users live where /home leads to: a path through the link is refused by programs that compare.
    set_default(tree, "/etc/adduser.conf", "DHOME", "/var/home")?;
    set_default(tree, "/etc/default/useradd", "HOME", "/var/home")
}

/// Sets `KEY=VALUE` in a file of such lines, in the place of the line that has it (a commented one too). A file that
/// is not there is left alone.
fn set_default(tree: &Tree, path: &str, key: &str, value: &str) -> Result<()> {
    let Some(text) = tree.read(path)? else { return Ok(()) };
    let is_ours = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key}="));
    let at = text.lines().position(|l| is_ours(l) && !l.starts_with('#')).or_else(|| text.lines().position(is_ours));
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    match at {
        Some(at) => lines[at] = format!("{key}={value}"),
        None => lines.push(format!("{key}={value}")),
    }
    tree.write(path, lines.join("\n") + "\n", 0o644)
}

/// Generates the treefile's `locales`, lines of locale.gen(5).
pub(crate) fn locales(tree: &Tree, runner: &Runner<'_>, locales: &[String]) -> Result<()> {
    if locales.is_empty() {
        return Ok(());
    }
    if !tree.exists("/usr/sbin/locale-gen") {
        return Err(Error::usage("The treefile has 'locales', but the tree has no locale-gen")
            .hint("Add the package 'locales' to 'packages'."));
    }
    let mut text =
        String::from("# Generated at compose time from the treefile's 'locales'; /usr is read-only later.\n");
    for line in locales {
        text.push_str(line);
        text.push('\n');
    }
    tree.write("/etc/locale.gen", text, 0o644)?;
    runner.check("Generating the treefile's locales (locale-gen)", &["locale-gen"], &[])?;
    Ok(())
}

/// `remove-files`. A path that is not there is worth a message, no error: the aim is met.
pub(crate) fn remove_files(tree: &Tree, runner: &Runner<'_>, paths: &[String], report: &mut Report) -> Result<()> {
    for path in paths {
        if tree.remove(path)? {
            report.drop(path.as_str(), "remove-files");
        } else {
            runner.events.message(format!("remove-files: {path} is not in the tree"));
        }
    }
    Ok(())
}

/// `remove-from-packages`: deletes files that a package owns. The patterns are Perl's regular expressions, matched anywhere
/// in the absolute path; directories stay.
pub(crate) fn remove_from_packages(tree: &Tree, rules: &[RemoveFromPackage], report: &mut Report) -> Result<()> {
    for rule in rules {
        for path in package_files(tree, &rule.package)? {
            // The treefile's reader has compiled each of them once.
            let hit = rule.patterns.iter().any(|pattern| {
                let flags = (RegexCompileFlags::DEFAULT, RegexMatchFlags::DEFAULT);
                Regex::match_simple(pattern.as_str(), path.as_str(), flags.0, flags.1)
            });
            if hit && (!tree.is_dir(&path) || tree.is_symlink(&path)) && tree.remove(&path)? {
                report.drop(path, "remove-from-packages");
            }
        }
    }
    Ok(())
}

/// Paths that dpkg's database lists for a package.
fn package_files(tree: &Tree, package: &str) -> Result<Vec<String>> {
    const INFO: &str = "/var/lib/dpkg/info";
    let names = tree.entries(INFO)?;
    let stem = |n: &String| n.strip_suffix(".list").map(ToOwned::to_owned);
    let found = names.iter().filter_map(stem).find(|s| s == package || s.split(':').next() == Some(package));
    let Some(found) = found else {
        return Err(Error::usage(format!("remove-from-packages: the package {package} is not in the tree")));
    };
    let list = tree.read(&format!("{INFO}/{found}.list"))?.unwrap_or_default();
    Ok(list.lines().filter(|l| *l != "/.").map(ToOwned::to_owned).collect())
}

/// `add-files`: permission bits are the source's, the owner is root.
pub(crate) fn add_files(tree: &Tree, files: &[AddFile]) -> Result<()> {
    for AddFile { source, dest } in files {
        let copy = || -> Result<()> {
            let mode = source.metadata()?.permissions().mode() & 0o7777;
            tree.write(dest, fs::read(source)?, mode)
        };
        copy().context(|| format!("Adding {} to the tree as {dest}", source.display()))?;
    }
    Ok(())
}

/// `postprocess` scripts and then `postprocess-script`, each by itself: with its own `#!` line, else with /bin/sh.
pub(crate) fn scripts(runner: &Runner<'_>, inline: &[String], file: Option<&Path>, work: &Path) -> Result<()> {
    for (index, text) in inline.iter().enumerate() {
        let what = format!("The treefile's postprocess script {} of {}", index + 1, inline.len());
        runner.events.message(format!("Running postprocess script {} of {}", index + 1, inline.len()));
        script(runner, &what, text.as_bytes(), work)?;
    }
    if let Some(path) = file {
        let text = fs::read(path).context(|| format!("Reading the postprocess-script {}", path.display()))?;
        runner.events.message(format!("Running {}", path.display()));
        script(runner, &format!("The treefile's postprocess-script {}", path.display()), &text, work)?;
    }
    Ok(())
}

fn script(runner: &Runner<'_>, what: &str, text: &[u8], work: &Path) -> Result<()> {
    let dir = tempfile::tempdir_in(work).context(|| "Making a work directory")?;
    let path = dir.path().join("script");
    fs::write(&path, text).context(|| "Writing a script")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context(|| "Writing a script")?;
    let inside = format!("{INSIDE}/script");
    let argv: &[&str] = if text.starts_with(b"#!") { &[&inside] } else { &["/bin/sh", &inside] };
    runner.check(what, argv, &[bind_in(dir.path(), INSIDE)])?;
    Ok(())
}

/// Gives the tree the sources it was composed from, unless it has some: a system without any could never be updated
/// or layered on.
pub(crate) fn default_sources(tree: &Tree, runner: &Runner<'_>, sources: &[Source]) -> Result<()> {
    if sources.is_empty() || !tree.is_dir("/etc/apt") || has_sources(tree)? {
        return Ok(());
    }
    let mut text = String::from("# The archives that this system was composed from.\n");
    for source in sources {
        text.push_str(&format!("\n{source}"));
        if let Some(SignedBy::Files(files)) = &source.signed_by {
            for file in files.iter().filter(|f| !tree.exists(&f.to_string_lossy())) {
                runner.events.warning(format!(
                    "The keyring {} of {} is not in the tree: apt will refuse this archive there; add the keyring package \
                     or use add-files",
                    file.display(),
                    source.uris.join(" ")
                ));
            }
        }
    }
    tree.write("/etc/apt/sources.list.d/apt-ostree.sources", text, 0o644)
}

fn has_sources(tree: &Tree) -> Result<bool> {
    let used = |path: &str| -> Result<bool> {
        let text = tree.read(path)?.unwrap_or_default();
        Ok(text.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')))
    };
    for name in tree.entries("/etc/apt/sources.list.d")? {
        if (name.ends_with(".list") || name.ends_with(".sources")) && used(&format!("/etc/apt/sources.list.d/{name}"))?
        {
            return Ok(true);
        }
    }
    used("/etc/apt/sources.list")
}

/// `readonly-executables`: takes the write bits from every executable file of /usr.
pub(crate) fn readonly_executables(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).context(|| format!("Listing {}", dir.display()))? {
        let path = entry?.path();
        let meta = path.symlink_metadata().context(|| format!("Reading {}", path.display()))?;
        let mode = meta.permissions().mode();
        if meta.is_dir() {
            readonly_executables(&path)?;
        } else if meta.is_file() && mode & 0o111 != 0 && mode & 0o222 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & !0o222))
                .context(|| format!("Setting the mode of {}", path.display()))?;
        }
    }
    Ok(())
}

/// Byte-compiled Python files that carry the time of their source instead of its hash (PEP 552, flag word 0). Times are 0
/// after checkout, so they are stale on every machine and compiled again at every start.
pub(crate) fn timed_pyc(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).context(|| format!("Listing {}", dir.display()))? {
        let path = entry?.path();
        let meta = path.symlink_metadata().context(|| format!("Reading {}", path.display()))?;
        if meta.is_dir() {
            found.extend(timed_pyc(&path)?);
        } else if meta.is_file() && path.extension().is_some_and(|e| e == "pyc") {
            let mut head = [0; 8];
            let mut file = fs::File::open(&path).context(|| format!("Reading {}", path.display()))?;
            if file.read_exact(&mut head).is_ok() && head[4..] == [0; 4] {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_replace_the_commented_line() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        tree.write("/etc/adduser.conf", "# Default: DHOME=/home\n# DHOME=/home\nX=1\n", 0o644).unwrap();
        tree.write("/etc/default/useradd", "SHELL=/bin/sh\n", 0o644).unwrap();
        tree.mkdir("/etc/apt", 0o755).unwrap();
        write_defaults(&tree).unwrap();
        assert_eq!(
            tree.read("/etc/adduser.conf").unwrap().as_deref(),
            Some("# Default: DHOME=/home\nDHOME=/var/home\nX=1\n")
        );
        assert_eq!(tree.read("/etc/default/useradd").unwrap().as_deref(), Some("SHELL=/bin/sh\nHOME=/var/home\n"));
        assert!(tree.exists("/etc/apt/apt.conf.d/50apt-ostree.conf") && tree.exists("/etc/default/grub"));
        let generator = tree.locate(bootloader::GENERATOR_PATH).unwrap();
        assert_eq!(fs::metadata(generator).unwrap().permissions().mode() & 0o777, 0o755);
        let dropin = tree.read(FINALIZE_DROPIN_PATH).unwrap().unwrap();
        assert!(dropin.contains(&format!("OSTREE_GRUB2_EXEC={}", bootloader::GENERATOR_PATH)), "{dropin}");
    }

    #[test]
    fn removes_files_of_one_package_by_unanchored_patterns() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let files = ["/usr/bin/aa", "/usr/bin/aab", "/usr/share/aa/x", "/usr/share/aa/y.txt", "/usr/bin/bb"];
        for path in files {
            tree.write(path, "", 0o644).unwrap();
        }
        let list =
            "/.\n/usr\n/usr/bin\n/usr/bin/aa\n/usr/bin/aab\n/usr/share/aa\n/usr/share/aa/x\n/usr/share/aa/y.txt\n";
        tree.write("/var/lib/dpkg/info/aa:amd64.list", list, 0o644).unwrap();
        let rule = |package: &str, patterns: &[&str]| RemoveFromPackage {
            package: package.to_owned(),
            patterns: patterns.iter().map(|p| (*p).to_owned()).collect(),
        };
        let mut report = Report::default();
        remove_from_packages(&tree, &[rule("aa", &["bin/aa$", "/share/aa", "bb"])], &mut report).unwrap();
        let gone: Vec<_> = report.dropped.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(gone, ["/usr/bin/aa", "/usr/share/aa/x", "/usr/share/aa/y.txt"]);
        assert!(tree.exists("/usr/bin/aab") && tree.exists("/usr/bin/bb") && tree.is_dir("/usr/share/aa"));
        assert!(remove_from_packages(&tree, &[rule("zz", &["x"])], &mut report).is_err());
    }

    #[test]
    fn finds_pyc_files_with_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        tree.write("/a/__pycache__/timed.pyc", b"\xf3\r\r\n\0\0\0\0timesize", 0o644).unwrap();
        tree.write("/a/__pycache__/hashed.pyc", b"\xf3\r\r\n\x03\0\0\0hashhash", 0o644).unwrap();
        tree.write("/a/short.pyc", b"x", 0o644).unwrap();
        let found = timed_pyc(dir.path()).unwrap();
        assert!(found.len() == 1 && found[0].ends_with("timed.pyc"), "{found:?}");
    }

    #[test]
    fn commented_sources_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        tree.write("/etc/apt/sources.list", "# deb x y z\n", 0o644).unwrap();
        assert!(!has_sources(&tree).unwrap());
        tree.write("/etc/apt/sources.list.d/a.sources", "Types: deb\n", 0o644).unwrap();
        assert!(has_sources(&tree).unwrap());
    }
}

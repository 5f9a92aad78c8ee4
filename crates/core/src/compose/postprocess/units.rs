//! What systemd starts in a composed tree: treefile units, the boot target, presets, and links that lead nowhere.
//!
//! Enablement lives in links below `/etc/systemd/{system,user}` (`/usr/etc` in the commit), as packages make them;
//! libostree's merge lets an administrator override each. Our own units are enabled in `/usr/lib/systemd/system`.

use super::Report;
use crate::assemble::tree::Tree;
use crate::error::{Error, Result};
use crate::model::glob;

/// Our preset file. Sorts after a treefile's (`10-`) and before systemd's (`90-`): the first match wins.
pub(crate) const PRESET_PATH: &str = "/usr/lib/systemd/system-preset/80-apt-ostree.preset";
pub(crate) const PRESET: &str = include_str!("../../../../../data/systemd/system-preset/80-apt-ostree.preset");
/// Where a treefile's `presets` go.
pub(crate) const TREEFILE_PRESET_PATH: &str = "/usr/lib/systemd/system-preset/10-apt-ostree-compose.preset";

const UNIT_DIRS: [&str; 2] = ["/usr/lib/systemd/system", "/etc/systemd/system"];

/// Writes the presets. Before the first package is installed, because Debian's `deb-systemd-helper` asks them on
/// first installation and never again; once more afterwards does no harm.
pub(crate) fn write_presets(tree: &Tree, treefile_presets: &[String]) -> Result<()> {
    tree.write(PRESET_PATH, PRESET, 0o644)?;
    if !treefile_presets.is_empty() {
        let mut text = treefile_presets.join("\n");
        text.push('\n');
        tree.write(TREEFILE_PRESET_PATH, text, 0o644)?;
    }
    Ok(())
}

/// Removes the links of units that our preset disables and that a package enabled nonetheless (an `enable` in its
/// script, or a tree that was installed without the presets).
pub(crate) fn disable_by_preset(tree: &Tree, report: &mut Report) -> Result<()> {
    let presets = Presets::read(tree)?;
    let ours = Presets::parse(PRESET);
    for (dir, name) in dependency_links(tree, "/etc/systemd/system")? {
        if ours.decide(&name) == Some(false) && presets.decide(&name) == Some(false) {
            let path = format!("{dir}/{name}");
            tree.remove(&path)?;
            report.drop(path, "disabled by preset");
        }
    }
    Ok(())
}

/// The rules of all preset files, in the order systemd reads them (systemd.preset(5)).
#[derive(Debug, Default)]
struct Presets {
    /// Enable or not, and the glob.
    rules: Vec<(bool, String)>,
}

impl Presets {
    fn read(tree: &Tree) -> Result<Self> {
        let dirs = ["/etc/systemd/system-preset", "/usr/lib/systemd/system-preset"];
        let mut files: Vec<(String, &str)> = Vec::new();
        for dir in dirs {
            for name in tree.entries(dir)? {
                // A file of the same name in /etc hides the one in /usr/lib.
                if name.ends_with(".preset") && !files.iter().any(|(n, _)| *n == name) {
                    files.push((name, dir));
                }
            }
        }
        files.sort();
        let mut all = Self::default();
        for (name, dir) in files {
            if let Some(text) = tree.read(&format!("{dir}/{name}"))? {
                all.rules.extend(Self::parse(&text).rules);
            }
        }
        Ok(all)
    }

    fn parse(text: &str) -> Self {
        let rule = |line: &str| {
            let mut words = line.split_whitespace();
            let enable = match words.next()? {
                "enable" => true,
                "disable" => false,
                _ => return None,
            };
            Some((enable, words.next()?.to_owned()))
        };
        Self { rules: text.lines().filter_map(rule).collect() }
    }

    /// What the first matching rule says.
    fn decide(&self, unit: &str) -> Option<bool> {
        self.rules.iter().find(|(_, pattern)| glob::matches(pattern, unit)).map(|(enable, _)| *enable)
    }
}

/// `(directory, name)` of every link in the `.wants`, `.requires` and `.upholds` directories below `base`.
fn dependency_links(tree: &Tree, base: &str) -> Result<Vec<(String, String)>> {
    let mut links = Vec::new();
    for name in tree.entries(base)? {
        if [".wants", ".requires", ".upholds"].iter().any(|s| name.ends_with(s)) {
            let dir = format!("{base}/{name}");
            for link in tree.entries(&dir)? {
                if tree.is_symlink(&format!("{dir}/{link}")) {
                    links.push((dir.clone(), link));
                }
            }
        }
    }
    Ok(links)
}

/// Drops enablement links whose unit is not in the tree. One below a `.requires` stops the boot, and no repair unit
/// can run before it does.
pub(crate) fn drop_dangling(tree: &Tree, report: &mut Report) -> Result<()> {
    for (base, dirs) in [
        ("/etc/systemd/system", UNIT_DIRS),
        ("/etc/systemd/user", ["/usr/lib/systemd/user", "/etc/systemd/user"]),
        ("/usr/lib/systemd/system", UNIT_DIRS),
    ] {
        for (dir, name) in dependency_links(tree, base)? {
            let path = format!("{dir}/{name}");
            let target = tree.follow(&path)?;
            // The unit is loaded by the link's name; /dev is empty in a tree, so /dev/null must be told apart.
            let there = target.symlink_metadata().is_ok() || target == tree.root().join("dev/null");
            if !there && !unit_exists(tree, &dirs, &name) {
                tree.remove(&path)?;
                report.drop(path, "enablement link of a unit that is not in the tree");
            }
        }
    }
    Ok(())
}

fn unit_exists(tree: &Tree, dirs: &[&str], name: &str) -> bool {
    let template = template_of(name);
    dirs.iter().any(|dir| {
        tree.exists(&format!("{dir}/{name}")) || template.as_ref().is_some_and(|t| tree.exists(&format!("{dir}/{t}")))
    })
}

/// `getty@tty1.service` is an instance of `getty@.service`.
fn template_of(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_once('@')?;
    let suffix = rest.rsplit_once('.')?.1;
    Some(format!("{prefix}@.{suffix}"))
}

/// Checks that every unit of the treefile is there, so that the error names all of those that are not.
pub(crate) fn check_units(tree: &Tree, units: &[String]) -> Result<()> {
    let missing: Vec<&str> = units.iter().map(String::as_str).filter(|u| !unit_exists(tree, &UNIT_DIRS, u)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "The treefile's 'units' names units that no package of the tree has: {}",
        missing.join(", ")
    ))
    .hint("Give full names such as 'ssh.service', and add the packages that have the units to 'packages'."))
}

/// Sets the target that is booted into.
pub(crate) fn set_default_target(tree: &Tree, target: &str) -> Result<()> {
    if !unit_exists(tree, &UNIT_DIRS, target) {
        return Err(Error::usage(format!("The treefile's 'default-target' {target} is not in the tree"))
            .hint("A tree that boots to a console uses 'multi-user.target'."));
    }
    tree.remove("/etc/systemd/system/default.target")?;
    tree.symlink(target, "/usr/lib/systemd/system/default.target")
}

/// Enables a unit of ours for every machine, where an administrator can mask it but not lose it.
pub(crate) fn enable_in_usr(tree: &Tree, unit: &str, wanted_by: &str) -> Result<()> {
    let target = match template_of(unit) {
        Some(template) => format!("../{template}"),
        None => format!("../{unit}"),
    };
    tree.symlink(&target, &format!("/usr/lib/systemd/system/{wanted_by}.wants/{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_only_what_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let wants = "/etc/systemd/system/multi-user.target.wants";
        tree.write("/usr/lib/systemd/system/a.service", "", 0o644).unwrap();
        tree.write("/usr/lib/systemd/system/t@.service", "", 0o644).unwrap();
        tree.symlink("/usr/lib/systemd/system/a.service", &format!("{wants}/a.service")).unwrap();
        tree.symlink("/lib/systemd/system/t@.service", &format!("{wants}/t@1.service")).unwrap();
        tree.symlink("/dev/null", &format!("{wants}/masked.service")).unwrap();
        tree.symlink("/usr/lib/systemd/system/gone.service", "/etc/systemd/system/x.target.requires/gone.service")
            .unwrap();
        let mut report = Report::default();
        drop_dangling(&tree, &mut report).unwrap();
        assert_eq!(tree.entries(wants).unwrap(), ["a.service", "masked.service", "t@1.service"]);
        let dropped: Vec<&str> = report.dropped.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(dropped, ["/etc/systemd/system/x.target.requires/gone.service"]);
    }

    #[test]
    fn our_preset_yields_to_the_treefile() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let wants = "/etc/systemd/system/timers.target.wants";
        for unit in ["apt-daily.timer", "man-db.timer", "fstrim.timer"] {
            tree.symlink(&format!("/usr/lib/systemd/system/{unit}"), &format!("{wants}/{unit}")).unwrap();
        }
        write_presets(&tree, &["enable man-db.timer".into()]).unwrap();
        disable_by_preset(&tree, &mut Report::default()).unwrap();
        assert_eq!(tree.entries(wants).unwrap(), ["fstrim.timer", "man-db.timer"]);
    }
}

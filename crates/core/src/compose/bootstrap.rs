//! From an empty directory and a list of fetched packages to an ordinary Debian root with all of them installed.
//!
//! The order is the one mmdebstrap has found to work for every Debian: the essential packages and what they need are
//! unpacked with tar, so that there is a dpkg, a shell and a libc; then dpkg installs those same packages properly, in
//! one run with `--force-depends` because their dependencies are circles; then it installs all the rest. dpkg alone
//! interprets packages; the tar step leaves nothing that its own unpacking does not write again.
//!
//! In the directory afterwards: `/etc` and `/var` as on any Debian, the registries in `/usr/lib/sysimage` with links from
//! `/var`. Nothing of the host is in it; shims are binds of the sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::accounts::Seed;
use super::postprocess::units;
use crate::assemble::dpkg::{Conffiles, DpkgRun};
use crate::assemble::runner::{Runner, bind_in};
use crate::assemble::state;
use crate::assemble::tree::Tree;
use crate::error::{Context, Error, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::accounts::IDS_LOCK;
use crate::model::layout::EXTENDED_STATES;
use crate::model::treefile::Treefile;
use crate::sandbox::{Bind, Sandbox, SandboxSpec};
use crate::source::SolvedPackage;

/// What the caller gives besides packages and treefile.
#[derive(Clone, Copy, Debug)]
pub struct BootstrapOptions<'a> {
    /// A directory for temporary files.
    pub workdir: &'a Path,
    /// Shims for every program that runs in the tree.
    pub binds: &'a [Bind],
    /// The accounts of the previous commit: they keep their numbers, because they are there before any package asks for one.
    pub accounts: &'a Seed,
}

/// Directories that the first packages expect. base-files sets the modes again.
const SKELETON: &[(&str, u32)] = &[
    ("/dev", 0o755),
    ("/etc/apt", 0o755),
    ("/etc/dpkg/dpkg.cfg.d", 0o755),
    ("/proc", 0o755),
    ("/run", 0o755),
    ("/sys", 0o755),
    ("/tmp", 0o1777),
    ("/usr/bin", 0o755),
    ("/usr/lib", 0o755),
    ("/usr/sbin", 0o755),
    ("/var/log/apt", 0o755),
    ("/var/tmp", 0o1777),
];
/// Debian architectures whose ABI has its program loader in /lib64.
const LIB64: &[&str] = &["amd64", "loong64", "mips64el", "ppc64", "ppc64el", "sparc64"];
/// The settings of dpkg that a treefile implies; they hold for layered packages too, so they stay in the tree.
const DPKG_CONF: &str = "/etc/dpkg/dpkg.cfg.d/50-apt-ostree-compose";
/// Answers before the treefile's own: the index of manual pages is made anew by every package and dropped at the end.
const DEBCONF_DEFAULTS: &str = "man-db man-db/auto-update boolean false\n";
/// Not needed from the essential packages before dpkg installs them properly, and then it may be excluded.
const TAR_EXCLUDES: &[&str] = &["./usr/share/doc/*", "./usr/share/man/*", "./usr/share/info/*", "./usr/share/locale/*"];

/// Installs `packages`, a whole solution with `path` set, into the empty directory `root`. Leaves the id lock in the tree
/// for post-processing, which continues it.
///
/// Errors: `Usage` when the directory is not empty or the set has no essential packages; `Script` with package, script and
/// output when one fails. The directory is useless after an error.
pub fn run(
    root: &Path,
    packages: &[SolvedPackage],
    treefile: &Treefile,
    sandbox: &dyn Sandbox,
    events: &dyn EventSink,
    options: BootstrapOptions<'_>,
) -> Result<()> {
    let tree = Tree::new(root);
    let (first, rest) = split_essential(packages, &treefile.basearch)?;
    skeleton(&tree, treefile)?;
    events.task(format!("Unpacking {} essential packages", first.len()), || {
        for (number, package) in first.iter().enumerate() {
            events.progress(number as u64, first.len() as u64, package.id.to_string());
            extract(root, package).context(|| format!("Unpacking {}", package.id))?;
        }
        Ok(())
    })?;
    let policy = fs::canonicalize(options.workdir).context(|| "Finding the work directory")?.join("policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n").context(|| "Writing policy-rc.d")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755)).context(|| "Writing policy-rc.d")?;
    let mut binds = options.binds.to_vec();
    if !binds.iter().any(|b| b.target == POLICY_RC_D) {
        binds.push(bind_in(policy, POLICY_RC_D));
    }
    let mut run = DpkgRun {
        spec: SandboxSpec { root: root.to_owned(), binds: binds.clone(), env: Vec::new() },
        native_arch: &treefile.basearch,
        conffiles: Conffiles::TakeNew,
        preseed: String::new(),
        options: Vec::new(),
    };
    events.task(format!("Installing {} essential packages", first.len()), || {
        // One wave: with --force-depends dpkg does not mind the circles, and everything is there as files already.
        let flat: Vec<SolvedPackage> = first
            .iter()
            .map(|p| SolvedPackage { pre_depends: Vec::new(), depends: Vec::new(), ..(*p).clone() })
            .collect();
        run.options = vec!["--force-depends".into()];
        run.execute(&flat, &[], sandbox, events)
    })?;
    options.accounts.plant(&root.join("etc"))?;
    tree.write(&format!("/{IDS_LOCK}"), options.accounts.ids.to_string(), 0o644)?;
    let runner = Runner { sandbox, root, binds: &binds, events };
    debconf(&runner, treefile, options.workdir)?;
    if !rest.is_empty() {
        events.task(format!("Installing {} packages", rest.len()), || {
            run.options = Vec::new();
            run.execute(&rest, &[], sandbox, events)
        })?;
    }
    tree.write(&format!("/{EXTENDED_STATES}"), extended_states(packages, &treefile.basearch), 0o644)?;
    clean_mount_points(&tree, &binds)
}

const POLICY_RC_D: &str = "/usr/sbin/policy-rc.d";

/// The essential packages with everything they depend on, and the others. Both keep the order of `packages`.
fn split_essential(packages: &[SolvedPackage], native: &str) -> Result<(Vec<SolvedPackage>, Vec<SolvedPackage>)> {
    let index: BTreeMap<String, usize> =
        packages.iter().enumerate().map(|(i, p)| (p.id.dpkg_name(native), i)).collect();
    let mut first = BTreeSet::new();
    let mut todo: Vec<usize> = (0..packages.len()).filter(|i| packages[*i].essential).collect();
    if todo.is_empty() {
        return Err(Error::usage(
            "None of the packages to install is essential: there is nothing to start a system from",
        )
        .hint("Check that the sources have the component 'main' for the architecture of the treefile."));
    }
    while let Some(next) = todo.pop() {
        if first.insert(next) {
            let package = &packages[next];
            todo.extend(package.pre_depends.iter().chain(&package.depends).filter_map(|n| index.get(n).copied()));
        }
    }
    let (first, rest): (Vec<_>, Vec<_>) = packages.iter().cloned().enumerate().partition(|(i, _)| first.contains(i));
    let strip = |list: Vec<(usize, SolvedPackage)>| list.into_iter().map(|(_, p)| p).collect();
    Ok((strip(first), strip(rest)))
}

/// What must be there before the first package: the merged /usr, the package database, presets.
fn skeleton(tree: &Tree, treefile: &Treefile) -> Result<()> {
    if !tree.entries("/")?.is_empty() {
        return Err(Error::usage(format!("{} is not empty", tree.root().display()))
            .hint("A system is composed from scratch; give an empty directory."));
    }
    fs::set_permissions(tree.root(), fs::Permissions::from_mode(0o755)).context(|| "Setting the mode of the tree")?;
    for (dir, mode) in SKELETON {
        tree.mkdir(dir, *mode)?;
    }
    for link in ["bin", "lib", "sbin"] {
        tree.symlink(&format!("usr/{link}"), &format!("/{link}"))?;
    }
    if LIB64.contains(&treefile.basearch.as_str()) {
        tree.mkdir("/usr/lib64", 0o755)?;
        tree.symlink("usr/lib64", "/lib64")?;
    }
    state::prepare_registries(tree.root(), &tree.root().join("var"), treefile.opt_usrlocal)?;
    let mut arches = format!("{}\n", treefile.basearch);
    for arch in &treefile.foreign_architectures {
        arches.push_str(&format!("{arch}\n"));
    }
    tree.write("/var/lib/dpkg/arch", arches, 0o644)?;
    tree.write("/var/lib/dpkg/status", "", 0o644)?;
    for dir in ["alternatives", "info", "parts", "triggers", "updates"] {
        tree.mkdir(&format!("/var/lib/dpkg/{dir}"), 0o755)?;
    }
    if let Some(text) = dpkg_conf(treefile) {
        tree.write(DPKG_CONF, text, 0o644)?;
    }
    // systemd's postinst gives a tree without one a fresh id; with an empty one there is nothing to leak.
    tree.write("/etc/machine-id", "", 0o444)?;
    units::write_presets(tree, &treefile.presets)
}

/// `documentation: false` and `install-langs` as dpkg.cfg(5) path filters. Copyright files stay: policy 12.5 wants
/// them with every package.
fn dpkg_conf(treefile: &Treefile) -> Option<String> {
    let mut lines = Vec::new();
    if !treefile.documentation {
        for dir in ["doc", "man", "info", "gtk-doc", "help", "groff/tmac/locale"] {
            lines.push(format!("path-exclude=/usr/share/{dir}/*"));
        }
        lines.push("path-include=/usr/share/doc/*/copyright".to_owned());
    }
    if let Some(langs) = &treefile.install_langs {
        lines.push("path-exclude=/usr/share/locale/*".to_owned());
        lines.push("path-include=/usr/share/locale/locale.alias".to_owned());
        for lang in langs {
            lines.push(format!("path-include=/usr/share/locale/{lang}/*"));
            // `pt_BR` needs what `pt` says, gettext(3) falls back to it.
            if let Some((short, _)) = lang.split_once(['_', '@', '.']) {
                lines.push(format!("path-include=/usr/share/locale/{short}/*"));
            }
        }
        if treefile.documentation {
            lines.push("path-exclude=/usr/share/man/*".to_owned());
            lines.push("path-include=/usr/share/man/man*/*".to_owned());
            lines.extend(langs.iter().map(|l| format!("path-include=/usr/share/man/{l}/*")));
        }
    }
    if lines.is_empty() {
        return None;
    }
    Some(format!("# From the treefile's 'documentation' and 'install-langs'.\n{}\n", lines.join("\n")))
}

/// Unpacks one package with tar. Links that stand for directories stay (merged /usr, the package database), owners are
/// the archive's numbers, never names looked up on this machine.
fn extract(root: &Path, package: &SolvedPackage) -> Result<()> {
    let mut unpack = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&package.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(|| "Starting dpkg-deb")?;
    let archive = unpack.stdout.take().ok_or_else(|| Error::failed("dpkg-deb has no output"))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--keep-directory-symlink", "--numeric-owner", "--preserve-permissions", "--wildcards"]);
    tar.args(TAR_EXCLUDES.iter().map(|e| format!("--exclude={e}")));
    let write = tar
        .args(["--file", "-", "--directory"])
        .arg(root)
        .stdin(archive)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(|| "Starting tar")?;
    finish("tar", write)?;
    finish("dpkg-deb", unpack)
}

fn finish(program: &str, child: Child) -> Result<()> {
    let output = child.wait_with_output().context(|| format!("Waiting for {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed(format!("{program} failed ({}): {}", output.status, text.trim())))
}

/// Answers to debconf questions, once there is a debconf and before the packages that ask are configured.
fn debconf(runner: &Runner<'_>, treefile: &Treefile, work: &Path) -> Result<()> {
    const INSIDE: &str = "/run/apt-ostree-compose";
    let tree = Tree::new(runner.root);
    if !tree.exists("/usr/bin/debconf-set-selections") {
        if treefile.debconf.is_empty() {
            return Ok(());
        }
        return Err(Error::usage("The treefile has 'debconf' answers, but no essential package brought debconf")
            .hint("This archive does not look like Debian's; leave 'debconf' out."));
    }
    let mut text = String::from(DEBCONF_DEFAULTS);
    for answer in &treefile.debconf {
        text.push_str(&format!("{answer}\n"));
    }
    let dir = tempfile::tempdir_in(work).context(|| "Making a work directory")?;
    fs::write(dir.path().join("answers"), text).context(|| "Writing debconf answers")?;
    let file = format!("{INSIDE}/answers");
    let argv = ["debconf-set-selections", file.as_str()];
    runner.check("Setting the treefile's debconf answers", &argv, &[bind_in(dir.path(), INSIDE)])?;
    Ok(())
}

/// apt's auto marks (`extended_states`): everything nobody asked for. Essential packages stay manual, as
/// mmdebstrap leaves them.
fn extended_states(packages: &[SolvedPackage], native: &str) -> String {
    let mut text = String::new();
    for package in packages.iter().filter(|p| !p.requested && !p.essential) {
        // apt files `all` under the native architecture (pkgDepCache::writeStateFile).
        let arch = if package.id.arch == "all" { native } else { &package.id.arch };
        text.push_str(&format!("Package: {}\nArchitecture: {arch}\nAuto-Installed: 1\n\n", package.id.name));
    }
    text
}

/// A bind over a path that is not there makes an empty file to mount on. Those must not stay.
fn clean_mount_points(tree: &Tree, binds: &[Bind]) -> Result<()> {
    for bind in binds {
        let place = tree.locate(&bind.target)?;
        match place.symlink_metadata() {
            Ok(meta) if meta.is_file() && meta.len() == 0 && !owned(tree, &bind.target)? => {
                tree.remove(&bind.target)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a package has this path, by dpkg's own lists.
fn owned(tree: &Tree, path: &str) -> Result<bool> {
    const INFO: &str = "/var/lib/dpkg/info";
    for name in tree.entries(INFO)?.iter().filter(|n| n.ends_with(".list")) {
        if tree.read(&format!("{INFO}/{name}"))?.is_some_and(|list| list.lines().any(|l| l == path)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::package::PackageId;

    fn package(name: &str, essential: bool, depends: &[&str]) -> SolvedPackage {
        SolvedPackage {
            id: PackageId::new(name, "1", if name.starts_with("all") { "all" } else { "amd64" }),
            previous: None,
            requested: name == "asked",
            essential,
            origin: String::new(),
            advisory: None,
            sha256: String::new(),
            size: 0,
            download: 0,
            installed_size: 0,
            pre_depends: Vec::new(),
            depends: depends.iter().map(ToString::to_string).collect(),
            path: Path::new("/x").to_owned(),
        }
    }

    #[test]
    fn essentials_take_their_dependencies_along() {
        let list =
            [package("asked", false, &["libc"]), package("bash", true, &["libc"]), package("libc", false, &["bash"])];
        let (first, rest) = split_essential(&list, "amd64").unwrap();
        let names = |l: &[SolvedPackage]| l.iter().map(|p| p.id.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&first), ["bash", "libc"]);
        assert_eq!(names(&rest), ["asked"]);
        assert!(split_essential(&rest, "amd64").is_err());
    }

    #[test]
    fn auto_marks_are_what_nobody_asked_for() {
        let list = [package("asked", false, &[]), package("bash", true, &[]), package("all-data", false, &[])];
        let want = "Package: all-data\nArchitecture: amd64\nAuto-Installed: 1\n\n";
        assert_eq!(extended_states(&list, "amd64"), want);
    }
}

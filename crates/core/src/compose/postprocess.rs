//! From an ordinary Debian root with packages installed to a tree that libostree commits and deploys.
//!
//! Owns the order of the steps; each is a function of a submodule. Never talks to a repository and never installs a
//! package. docs/layout.md says where things are afterwards.
//!
//! The order matters:
//! 1. defaults and units that every tree gets, so that the treefile's own files come later and win;
//! 2. leftovers of the build host go, for the same reason;
//! 3. the treefile: locales, os-release, units, removals, files, scripts;
//! 4. machine id, links that lead nowhere, special files;
//! 5. kernel and initramfs, of the final content of /usr and /etc;
//! 6. the top level, /etc to /usr/etc, secrets whoever made them, /var, accounts: no program of the tree runs after that.

pub(crate) mod content;
pub(crate) mod identity;
pub(crate) mod layout;
pub(crate) mod units;

use std::path::Path;

use serde::Serialize;

use crate::assemble::accounts::{self, Scope};
use crate::assemble::kernel::{self, Kernel, KernelOptions};
use crate::assemble::runner::Runner;
use crate::assemble::state::{self, CaptureOptions};
use crate::assemble::tree::Tree;
use crate::error::{Context, Error, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::sources::Source;
use crate::model::treefile::Treefile;
use crate::sandbox::{Bind, Sandbox};

/// The flattened treefile in the tree.
pub const TREEFILE_PATH: &str = "/usr/share/apt-ostree/treefile.json";

/// What the caller knows besides the treefile.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// A directory for temporary files, on a disk rather than in memory.
    pub workdir: &'a Path,
    /// Where initramfs images are kept between runs.
    pub cachedir: Option<&'a Path>,
    /// The version of the commit, for `mutate-os-release`.
    pub version: Option<&'a str>,
    /// The archives the tree was composed from.
    pub sources: &'a [Source],
    /// Shims for every program that runs in the tree.
    pub binds: &'a [Bind],
    /// Runs on a thread of its own while the initramfs is made, which keeps one processor busy. May only read the tree.
    pub beside_initramfs: Option<&'a (dyn Fn() + Sync)>,
    /// No kernel is required, as in a container.
    pub container: bool,
    /// Anything of /var that no rule knows is an error.
    pub strict_var: bool,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("workdir", &self.workdir)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A path that is not in the commit, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    pub path: String,
    pub reason: String,
}

/// What post-processing did that somebody may want to know: nothing is lost silently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub dropped: Vec<Dropped>,
    /// Paths that no rule knows: of the top level, which stay in the tree, and of /var with the reason, see
    /// [`state::Unclassified`].
    pub unclassified: Vec<String>,
    pub kernel: Option<Kernel>,
}

impl Report {
    pub(crate) fn drop(&mut self, path: impl Into<String>, reason: &str) {
        self.dropped.push(Dropped { path: path.into(), reason: reason.to_owned() });
    }

    fn extend(&mut self, dropped: Vec<state::Dropped>) {
        self.dropped.extend(dropped.into_iter().map(|d| Dropped { path: format!("/{}", d.path), reason: d.reason }));
    }
}

/// Post-processes the tree at `root`, an ordinary root directory with a merged /usr.
///
/// Errors: `Usage` for what the treefile asks and the tree cannot give (units, locales, a kernel too many or too few),
/// `Failed` for a script or program of the tree that failed, with the command that runs it again. After an error the
/// tree is neither one thing nor the other and must be composed again.
pub fn run(
    root: &Path,
    treefile: &Treefile,
    sandbox: &dyn Sandbox,
    events: &dyn EventSink,
    options: Options<'_>,
) -> Result<Report> {
    let tree = Tree::new(root);
    let mut report = Report::default();
    layout::check_ordinary(&tree)?;
    let runner = Runner { sandbox, root, binds: options.binds, events };

    content::write_defaults(&tree)?;
    units::write_presets(&tree, &treefile.presets)?;
    units::disable_by_preset(&tree, &mut report)?;
    identity::first_boot_units(&tree)?;
    identity::remove_residue(&tree, &mut report)?;

    apply_treefile(&tree, &runner, treefile, options, &mut report)?;

    identity::machine_id(&tree, treefile.machineid_compat)?;
    units::drop_dangling(&tree, &mut report)?;
    identity::remove_special_files(&tree, &mut report)?;
    if treefile.readonly_executables {
        content::readonly_executables(&root.join("usr"))?;
    }
    tree.write(TREEFILE_PATH, treefile.to_json()?, 0o644)?;

    let kernel_options = KernelOptions {
        required: !options.container,
        initramfs: !treefile.no_initramfs,
        dracut_args: &treefile.initramfs_args,
        cache: options.cachedir,
        private: false,
    };
    let timed = content::timed_pyc(&root.join("usr"))?;
    if let Some(first) = timed.first() {
        events.warning(format!(
            "{} byte-compiled Python files carry a time instead of a hash and are stale after checkout, the first is {first}; \
             compile them with SOURCE_DATE_EPOCH set",
            timed.len()
        ));
    }
    tree.mkdir("/var/tmp", 0o1777)?;
    // Without shims: dracut copies the programs it finds in PATH.
    let plain = Runner { binds: &[], ..runner };
    report.kernel = std::thread::scope(|scope| {
        let beside = options.beside_initramfs.map(|work| scope.spawn(work));
        let mut dropped = Vec::new();
        let kernel = kernel::install(&tree, &plain, kernel_options, &mut dropped).context(|| "Preparing the kernel");
        dropped.into_iter().for_each(|path| report.drop(path, "/boot is filled on the machine"));
        if let Some(beside) = beside {
            beside.join().map_err(|_| Error::failed("The work beside the initramfs stopped unexpectedly"))?;
        }
        kernel
    })?;

    finish(&tree, treefile, events, options.strict_var, &mut report)?;
    tell(&report, events);
    Ok(report)
}

/// Step 6: nothing runs in the tree any more.
fn finish(
    tree: &Tree,
    treefile: &Treefile,
    events: &dyn EventSink,
    strict_var: bool,
    report: &mut Report,
) -> Result<()> {
    let root = tree.root();
    let var = root.join("var");
    let mode = layout::opt_usrlocal(tree, treefile.opt_usrlocal, events);
    layout::top_level(tree, mode, report)?;
    // Also of a tree that came with its registries in /var.
    state::prepare_registries(root, &var, mode)?;
    layout::move_etc(tree)?;
    identity::remove_secrets(tree, &treefile.add_files, report)?;

    let names = accounts::tree_names(root)?;
    let captured = state::capture_var(&var, None, root, &names, CaptureOptions { conf_name: state::BASE_VAR_CONF })?;
    for warning in captured.warnings() {
        events.warning(warning);
    }
    if strict_var {
        captured.require_classified()?;
    }
    report.unclassified.extend(captured.unclassified.iter().map(|u| format!("/{} ({})", u.path, u.reason)));
    report.extend(captured.dropped);
    for name in tree.entries("/var")? {
        tree.remove(&format!("/var/{name}"))?;
    }

    accounts::sort(&root.join("usr/etc"))?;
    accounts::capture(root, &accounts::read_lock(root)?)?;
    accounts::check_owners(root, Scope::Tree)?;
    report.extend(state::clean_registries(root)?);
    Ok(())
}

/// Step 3: what the treefile says about content.
fn apply_treefile(
    tree: &Tree,
    runner: &Runner<'_>,
    treefile: &Treefile,
    options: Options<'_>,
    report: &mut Report,
) -> Result<()> {
    content::locales(tree, runner, &treefile.locales)?;
    if let (Some(old), Some(version)) = (&treefile.mutate_os_release, options.version) {
        identity::mutate_os_release(tree, old, version)?;
    }
    content::remove_from_packages(tree, &treefile.remove_from_packages, report)?;
    content::remove_files(tree, runner, &treefile.remove_files, report)?;
    content::add_files(tree, &treefile.add_files)?;
    // After add-files, which may bring units.
    units::check_units(tree, &treefile.units)?;
    if !treefile.units.is_empty() {
        let mut argv = vec!["systemctl", "enable"];
        argv.extend(treefile.units.iter().map(String::as_str));
        runner.check("Enabling the treefile's units (systemctl enable)", &argv, &[])?;
    }
    if let Some(target) = &treefile.default_target {
        units::set_default_target(tree, target)?;
    }
    content::scripts(runner, &treefile.postprocess, treefile.postprocess_script.as_deref(), options.workdir)?;
    content::default_sources(tree, runner, options.sources)
}

/// One line per group of losses; the full list is in the report.
fn tell(report: &Report, events: &dyn EventSink) {
    if !report.dropped.is_empty() {
        events.message(format!("Left out of the commit: {} paths", report.dropped.len()));
    }
}

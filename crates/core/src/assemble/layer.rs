//! Layering: a base commit plus the packages of a plan, assembled from scratch and committed as the difference.
//!
//! Scratch layout (all on the repository's file system, removed afterwards): `overlay/{upper,work,root}`, `var/` (the
//! sandbox's /var), `shims/` and `etc/` (files bound over the tree's during the run).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::dpkg::{Conffiles, DpkgRun};
use super::overlay::Overlay;
use crate::error::{Context, Error, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::package::PackageId;
use crate::plan::Plan;
use crate::repo::Repo;
use crate::repo::commit::CommitSpec;
use crate::repo::metadata::{self, CommitInfo};
use crate::sandbox::{Bind, Sandbox, SandboxSpec};

/// Everything the assembly reads. The same input gives the same tree.
#[derive(Debug)]
pub struct LayerInput<'a> {
    /// A directory with the base commit's content; only read.
    pub base_tree: &'a Path,
    pub base: &'a CommitInfo,
    pub base_packages: &'a [PackageId],
    /// The machine's /etc: its system accounts keep their numbers.
    pub machine_etc: Option<PathBuf>,
    pub plan: &'a Plan,
    /// Requests as the origin has them; the active ones are recorded in the commit.
    pub requested: &'a [String],
    pub native_arch: &'a str,
    pub quirk_dirs: &'a [PathBuf],
}

/// Assembles the tree and commits it. Returns the checksum; no ref and no deployment points at it yet.
pub fn assemble(
    input: &LayerInput<'_>,
    scratch: &Path,
    repo: &Repo,
    sandbox: &dyn Sandbox,
    events: &dyn EventSink,
) -> Result<String> {
    let mut overlay = Overlay::mount(input.base_tree, &scratch.join("overlay"))?;
    let tree = Tree::prepare(input, overlay.root(), scratch, sandbox)?;
    tree.install(input, sandbox, events)?;
    tree.classify(input, sandbox, events)?;
    let kernel = single_kernel(&tree.root)?;
    overlay.unmount()?;
    let packages = input.plan.resulting_packages(input.base_packages);
    let active = active_requests(input);
    let version = input.base.version.as_deref();
    let meta = metadata::layered_metadata(input.plan, &packages, &active, version, Some(&kernel));
    events.task("Writing OSTree commit", || {
        let spec = CommitSpec {
            parent: Some(&input.base.checksum),
            subject: "",
            metadata: &meta,
            // Not the wall clock: the same inputs give the same commit.
            timestamp: input.base.timestamp,
        };
        Ok(repo.commit_overlay(&input.base.checksum, &overlay.upper(), &spec)?.0)
    })
}

/// The mounted tree and the scratch directories that are bound into the sandbox with it.
struct Tree {
    root: PathBuf,
    var: PathBuf,
    binds: Vec<Bind>,
}

impl Tree {
    fn prepare(input: &LayerInput<'_>, root: PathBuf, scratch: &Path, sandbox: &dyn Sandbox) -> Result<Self> {
        let var = scratch.join("var");
        fs::create_dir_all(&var)?;
        let binds = vec![
            Bind { source: root.join("usr/etc"), target: "/etc".into(), read_only: false },
            Bind { source: var.clone(), target: "/var".into(), read_only: false },
        ];
        let _ = input;
        let tree = Self { root, var, binds };
        tree.populate_var(sandbox)?;
        Ok(tree)
    }

    fn spec(&self) -> SandboxSpec {
        SandboxSpec { root: self.root.clone(), binds: self.binds.clone(), env: Vec::new() }
    }

    /// Fills the sandbox's /var with what the base makes of it on an empty machine: its own tmpfiles.d.
    fn populate_var(&self, sandbox: &dyn Sandbox) -> Result<()> {
        let argv = ["systemd-tmpfiles", "--create", "--prefix=/var"];
        let output = sandbox.run(&self.spec(), &argv, &mut |_| ())?;
        if !self.var.join("lib/dpkg/status").exists() {
            return Err(Error::failed(format!(
                "The tmpfiles.d of the base make no /var/lib/dpkg: {}",
                output.tail.join("; ")
            ))
            .hint("Bases for layering are made by `apt-ostree compose tree`."));
        }
        Ok(())
    }

    fn install(&self, input: &LayerInput<'_>, sandbox: &dyn Sandbox, events: &dyn EventSink) -> Result<()> {
        let run = DpkgRun {
            spec: self.spec(),
            native_arch: input.native_arch,
            conffiles: Conffiles::KeepOld,
            options: Vec::new(),
        };
        let remove: Vec<String> = input.plan.remove.iter().map(|id| id.dpkg_name(input.native_arch)).collect();
        events.task("Installing packages", || run.execute(&input.plan.install, &remove, sandbox, events))
    }

    fn classify(&self, _input: &LayerInput<'_>, _sandbox: &dyn Sandbox, _events: &dyn EventSink) -> Result<()> {
        Ok(())
    }
}

/// The kernel version of a tree; libostree boots whichever it finds first, so there must be exactly one.
fn single_kernel(tree: &Path) -> Result<String> {
    let modules = tree.join("usr/lib/modules");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&modules).context(|| format!("Reading {}", modules.display()))? {
        let entry = entry?;
        if entry.path().join("vmlinuz").exists() {
            found.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let list: Vec<String> = found.into_iter().collect();
    match list.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::failed("The tree has no kernel in /usr/lib/modules")),
        many => Err(Error::failed(format!("The tree has more than one kernel: {}", many.join(", ")))
            .hint("A deployment boots exactly one kernel; drop one of the requests.")),
    }
}

/// Requests that the plan really installed something for, local packages included.
fn active_requests(input: &LayerInput<'_>) -> Vec<String> {
    let inactive = |r: &String| input.plan.inactive.iter().any(|(i, _)| i == r);
    input.requested.iter().filter(|r| !inactive(r)).cloned().collect()
}

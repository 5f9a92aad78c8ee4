//! The way every deployment is made: origin + base → plan → space check → fetch → assemble → commit → deploy → clean.
//!
//! A verb decides the origin and the base; everything after that is here, once.

use std::path::{Path, PathBuf};

use super::overrides::{self, Prepared};
use super::{Options, PackageChanges, Report};
use crate::assemble::layer::{self, LayerInput};
use crate::assemble::layer_kernel::Regenerate;
use crate::assemble::quirks::Quirks;
use crate::boot::verification::{self, BootReport};
use crate::digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::diff::PackageDiff;
use crate::model::origin::{LocalPackage, Origin};
use crate::model::package::PackageId;
use crate::model::request::PackageRequest;
use crate::model::settings::Settings;
use crate::model::size::human_size;
use crate::model::time::iso8601;
use crate::plan::{BaseTree, Plan};
use crate::repo::Repo;
use crate::repo::metadata::CommitInfo;
use crate::sandbox::Sandbox;
use crate::source::{PackageSource, SolveTask, SourceConfig};
use crate::sysroot::deploy::NewDeployment;
use crate::sysroot::{Deployment, Sysroot};

/// The machine's own quirks, below its /etc.
const QUIRKS: &str = "apt-ostree/quirks.d";

/// The files of a base that a plan is made with, see [`super::sources`].
pub(super) const PLANNING_FILES: &[&str] =
    &["usr/lib/sysimage/dpkg/status", "usr/lib/sysimage/dpkg/arch", "usr/lib/sysimage/apt/extended_states"];

/// Where they are written, in the scratch space.
const GLIMPSE: &str = "glimpse";

/// The parts of the outside world a transaction uses.
pub struct Ports<'a> {
    pub packages: &'a mut dyn PackageSource,
    pub sandbox: &'a dyn Sandbox,
    pub events: &'a dyn EventSink,
}

impl std::fmt::Debug for Ports<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ports")
    }
}

/// A locked sysroot and what the verbs ask of it.
#[derive(Debug)]
pub struct Transaction<'a> {
    pub sysroot: Sysroot,
    pub repo: Repo,
    pub stateroot: String,
    pub options: &'a Options,
    pub ports: Ports<'a>,
    /// Deployments that failed to boot and are not to be made again.
    failed_boots: Vec<BootReport>,
}

/// A tree directory to read the base from, and what is known of the commit.
struct Base {
    info: CommitInfo,
    tree: PathBuf,
    packages: Vec<PackageId>,
}

/// A plan and what it was made with.
struct Planned {
    config: SourceConfig,
    quirks: Quirks,
    plan: Plan,
}

impl<'a> Transaction<'a> {
    pub fn begin(sysroot: &Path, stateroot: Option<&str>, options: &'a Options, ports: Ports<'a>) -> Result<Self> {
        let mut sysroot = Sysroot::open_for_change(sysroot)?;
        sysroot.lock()?;
        let stateroot = sysroot.stateroot(stateroot)?;
        let repo = sysroot.repo();
        Ok(Self { repo, sysroot, stateroot, options, ports, failed_boots: Vec::new() })
    }

    /// From now on a deployment that failed to boot is an error, until something else comes out: an upgrade that nobody
    /// watches would bring it back again and again.
    pub fn refuse_failed_boots(&mut self) {
        self.failed_boots = verification::failed_boots(&self.sysroot, &self.stateroot);
    }

    /// From now on it is not: for a plan that is not carried out.
    pub fn accept_failed_boots(&mut self) {
        self.failed_boots.clear();
    }

    /// Which deployment that failed to boot and is refused this one would be the same as, and how that failed. By its commit, or by the
    /// digest of its inputs.
    pub fn failed_again(&self, commit: &str, digest: Option<&str>) -> Option<String> {
        let report = verification::failed_before(&self.failed_boots, commit, digest)?;
        let (deployment, time) = (&report.deployment, iso8601(report.time));
        Some(format!("would be the same as {deployment}, which failed to boot at {time}: {}", report.cause()))
    }

    fn check_failed_boots(&self, commit: &str, digest: Option<&str>) -> Result<()> {
        let Some(failed) = self.failed_again(commit, digest) else { return Ok(()) };
        Err(Error::usage(format!("The new deployment {failed}"))
            .nothing_to_do()
            .hint("A newer image or newer packages make another one. --allow-failed deploys this one once more."))
    }

    /// An error for a commit of which only a part is here, as it was looked at or its pull was cut short.
    pub fn require_whole(&self, commit: &str, refspec: &str) -> Result<()> {
        if !self.repo.is_partial(commit)? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("Commit {commit} of {refspec} is not here in full"))
            .hint("It was only looked at, or its pull was cut short: run the command again with the network.")
            .hint(format!("Without a branch to take it from: ostree pull REMOTE {commit}")))
    }

    /// The deployment that a change starts from.
    pub fn pending(&self) -> Result<Deployment> {
        self.sysroot.pending(&self.stateroot)
    }

    /// The base commit of a deployment, and what it says of itself.
    pub fn base_of(&self, deployment: &Deployment) -> Result<CommitInfo> {
        let info = self.repo.info(&deployment.checksum())?;
        if info.layered { self.repo.info(info.base()) } else { Ok(info) }
    }

    /// Applies package changes to an origin. True when something changed.
    pub fn change_requests(&mut self, origin: &mut Origin, changes: &PackageChanges) -> Result<bool> {
        let before = origin.clone();
        if changes.uninstall_all {
            origin.requested.clear();
            origin.requested_local.clear();
        }
        for name in &changes.uninstall {
            if !drop_request(origin, name)? && !changes.idempotent {
                let error =
                    Error::new(ErrorKind::NotFound, format!("Package/capability '{name}' is not currently requested"));
                let base = self.base_of(&self.pending()?)?;
                return Err(if self.repo.packages(&base.checksum)?.iter().any(|id| id.name == *name) {
                    error.hint(format!("It is part of the base: apt-ostree override remove {name}"))
                } else {
                    error.hint("Only layered requests can be uninstalled; see `apt-ostree status`.")
                });
            }
        }
        for text in &changes.install {
            let request = PackageRequest::parse(text)?.to_string();
            if origin.requested.contains(&request) {
                if changes.idempotent {
                    continue;
                }
                return Err(Error::usage(format!("Package/capability '{request}' is already requested"))
                    .hint("Use --idempotent to accept that."));
            }
            if origin.requested_local.iter().any(|l| l.id.name == request) {
                if changes.idempotent {
                    continue;
                }
                return Err(Error::usage(format!("Package '{request}' is already layered"))
                    .hint("It was installed from a local file."));
            }
            origin.requested.push(request);
        }
        origin.requested.sort();
        for path in &changes.install_local {
            self.add_local(origin, path, changes.idempotent)?;
        }
        Ok(*origin != before)
    }

    /// Keeps a local .deb in the sysroot under its digest and requests it.
    fn add_local(&mut self, origin: &mut Origin, path: &Path, idempotent: bool) -> Result<()> {
        let sha256 = digest::of_file(path)?;
        if origin.requested_local.iter().any(|l| l.sha256 == sha256) {
            return if idempotent {
                Ok(())
            } else {
                Err(Error::usage(format!("{} is already layered", path.display()))
                    .hint("Use --idempotent to accept that."))
            };
        }
        let local = self.keep_local(path)?;
        origin.requested_local.retain(|l| l.id.name != local.id.name || l.id.arch != local.id.arch);
        origin.requested_local.push(local);
        origin.requested_local.sort();
        Ok(())
    }

    /// Copies a .deb into the sysroot, under its digest. What no origin asks for in the end goes with the next clean-up.
    pub(super) fn keep_local(&self, path: &Path) -> Result<LocalPackage> {
        let sha256 = digest::of_file(path)?;
        let id = deb_id(path)?;
        check_deb(path)?;
        let kept = self.repo.extension("local")?.join(format!("{sha256}.deb"));
        if !kept.exists() {
            let partial = kept.with_extension("partial");
            std::fs::copy(path, &partial).context(|| format!("Keeping {} in the sysroot", path.display()))?;
            std::fs::rename(&partial, &kept)?;
        }
        Ok(LocalPackage { sha256, id })
    }

    /// Makes a deployment of `base_commit` with everything `origin` asks for. `fresh_indexes` refreshes the package
    /// indexes first (an upgrade does, an install only when there are none).
    pub fn make_deployment(
        &mut self,
        origin: &Origin,
        base_commit: &str,
        changes: &PackageChanges,
        fresh_indexes: bool,
    ) -> Result<Report> {
        if !self.options.dry_run {
            self.require_whole(base_commit, &origin.refspec)?;
        }
        let pending = self.pending()?;
        let pending_info = self.repo.info(&pending.checksum())?;
        let mut report = Report::default();
        let (commit, plan) = if origin.is_layered() {
            self.refuse_locked()?;
            let base = self.open_base(base_commit)?;
            let planned = self.plan(origin, &base, fresh_indexes);
            crate::repo::remove_tree(&self.repo.extension("tmp")?.join(GLIMPSE))?;
            let Planned { config, quirks, mut plan } = planned?;
            refuse_inactive(&plan, changes, &pending.origin()?)?;
            plan.check_kernels(&base.packages)?;
            let old = self.repo.packages(&pending.checksum()).unwrap_or_default();
            if pending_info.state_digest.as_deref() != Some(&plan.input_digest) {
                self.check_failed_boots("", Some(&plan.input_digest))?;
            }
            plan.diff = PackageDiff::between(&old, &plan.resulting_packages(&base.packages));
            // A dry run shows the plan, which has both.
            if !self.options.dry_run {
                report_inactive(&plan, self.ports.events);
                report_base_upgrades(&plan, self.ports.events);
            }
            let unchanged = pending_info.state_digest.as_deref() == Some(&plan.input_digest) && pending_info.layered;
            if self.options.dry_run {
                report.diff = plan.diff.clone();
                report.changed = !unchanged || pending.origin()? != *origin;
                report.plan = Some(Box::new(plan));
                return Ok(report);
            }
            if unchanged {
                (pending.checksum(), plan)
            } else {
                // With a kernel or an initramfs of its own, what goes to /boot is known only when the tree is there.
                if !self.options.download_only && !plan.kernel_change && !plan.initramfs {
                    super::space::make_room_in_boot(&self.sysroot, &self.stateroot, base_commit, self.ports.events)?;
                }
                match self.build(&config, &quirks, &mut plan, &base, origin)? {
                    Some(commit) => (commit, plan),
                    None => {
                        report.lines.push("Update downloaded.".into());
                        report.plan = Some(Box::new(plan));
                        return Ok(report);
                    }
                }
            }
        } else {
            let plan = Plan { base: base_commit.to_owned(), ..Plan::default() };
            (base_commit.to_owned(), plan)
        };
        self.finish(origin, &commit, &pending, plan, report)
    }

    /// Deploys `commit` unless nothing differs from the pending deployment.
    fn finish(
        &mut self,
        origin: &Origin,
        commit: &str,
        pending: &Deployment,
        plan: Plan,
        mut report: Report,
    ) -> Result<Report> {
        if commit != pending.checksum() {
            self.check_failed_boots(commit, None)?;
        }
        let same_origin = pending.origin()? == *origin;
        let old = self.repo.packages(&pending.checksum()).unwrap_or_default();
        let new = self.repo.packages(commit).unwrap_or_default();
        report.diff = PackageDiff::between(&old, &new);
        if self.options.dry_run || self.options.download_only {
            report.changed = self.options.dry_run && (commit != pending.checksum() || !same_origin);
            if !self.options.dry_run && commit != pending.checksum() {
                report.lines.push("Update downloaded.".into());
            }
            if self.options.dry_run || commit != pending.checksum() {
                report.plan = Some(Box::new(Plan { diff: report.diff.clone(), ..plan }));
            }
            return Ok(report);
        }
        if commit == pending.checksum() && same_origin {
            return Ok(report);
        }
        let new = NewDeployment {
            stateroot: &self.stateroot,
            commit,
            origin,
            kernel_arguments: None,
            locked: self.options.lock_finalization,
        };
        if let Some(good) = verification::would_lose_good(&self.sysroot)? {
            return Err(Error::usage(format!(
                "The running deployment is on trial, and another one would take the place of {good}, which it falls back to"
            ))
            .hint("Wait until apt-ostree-boot-good.service has found it good, or go back: apt-ostree rollback")
            .hint("Or keep that one: ostree admin pin INDEX"));
        }
        // A layered kernel or a regenerated initramfs is known only now.
        super::space::make_room_in_boot(&self.sysroot, &self.stateroot, commit, self.ports.events)?;
        report.staged = self.sysroot.deploy(&new, self.ports.events)?;
        report.changed = true;
        if report.staged && self.options.lock_finalization {
            let base = if plan.base.is_empty() { commit } else { &plan.base };
            report.lines.push(format!(
                "Finalization is locked: a shutdown does not apply it before: apt-ostree finalize-deployment {base}"
            ));
        }
        let freed = self.sysroot.clean_up()?;
        if freed > 0 {
            report.lines.push(format!("Freed: {}", human_size(freed)));
        }
        Ok(report)
    }

    /// Runs a part of the work under other options.
    pub fn with_options<T>(
        &mut self,
        options: &Options,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let ports = Ports { packages: self.ports.packages, sandbox: self.ports.sandbox, events: self.ports.events };
        let sysroot = Sysroot::open_for_change(self.sysroot.path())?;
        let mut inner = Transaction {
            sysroot,
            repo: self.repo.clone(),
            stateroot: self.stateroot.clone(),
            options,
            ports,
            failed_boots: self.failed_boots.clone(),
        };
        work(&mut inner)
    }

    /// Fetches the indexes of the pending deployment's base.
    pub fn refresh_indexes(&mut self) -> Result<()> {
        let base = self.base_of(&self.pending()?)?;
        let base = self.open_base(&base.checksum)?;
        let config = self.source_config(&base)?;
        self.require_sources(&config)?;
        let Ports { packages, events, .. } = &mut self.ports;
        packages.refresh(&config, *events).context(|| "Refreshing package indexes")
    }

    /// A tree of the base: the deployment that has it, so that nothing is checked out twice, or a checkout.
    fn open_base(&self, commit: &str) -> Result<Base> {
        let info = self.repo.info(commit)?;
        let deployed = self
            .sysroot
            .deployments()
            .into_iter()
            .find(|d| d.checksum() == commit && d.is_unmodified() && !d.is_staged());
        let tree = match deployed {
            Some(deployment) => self.sysroot.directory(&deployment),
            // Of a dry run: `make_deployment` refuses it otherwise.
            None if self.repo.is_partial(commit)? => self.glimpse(commit)?,
            None => match self.repo.existing_checkout(commit)? {
                Some(tree) => tree,
                None => self
                    .ports
                    .events
                    .task(format!("Checking out tree {}", &commit[..7]), || self.repo.base_checkout(commit))?,
            },
        };
        if !tree.join("usr/lib/sysimage/dpkg/status").exists() {
            return Err(Error::failed(format!(
                "The base commit {commit} has no dpkg database in /usr/lib/sysimage/dpkg"
            ))
            .hint("Packages can be layered on bases made by `apt-ostree compose tree`."));
        }
        Ok(Base { packages: self.repo.packages(commit)?, info, tree })
    }

    /// What a plan is made with, of a base that was only looked at.
    fn glimpse(&self, commit: &str) -> Result<PathBuf> {
        let directory = self.repo.extension("tmp")?.join(GLIMPSE);
        crate::repo::remove_tree(&directory)?;
        self.repo.write_files(commit, PLANNING_FILES, &directory)?;
        Ok(directory)
    }

    /// The deployment whose /etc tells the apt sources and the accounts of the machine.
    pub(super) fn machine_etc(&self) -> Option<PathBuf> {
        let merge = self.sysroot.merge_deployment(&self.stateroot)?;
        Some(self.sysroot.directory(&merge).join("etc"))
    }

    /// An initramfs of this machine's own, where the origin asks for one.
    fn regenerate(&self, origin: &Origin) -> Option<Regenerate> {
        origin
            .regenerate_initramfs
            .then(|| Regenerate { args: origin.initramfs_args.clone(), machine_etc: self.machine_etc() })
    }

    /// Those of the machine; defaults where there is none yet.
    pub(super) fn settings(&self) -> Result<Settings> {
        self.machine_etc().map_or_else(|| Ok(Settings::default()), |etc| crate::settings::read(&etc))
    }

    /// `LockLayering`: a machine that is to have images as they are, and nothing assembled on it.
    fn refuse_locked(&self) -> Result<()> {
        if !self.settings()?.lock_layering {
            return Ok(());
        }
        Err(Error::usage("Layering is locked on this machine: the new deployment would not be the image as it is")
            .hint("LockLayering in [Daemon] of /etc/apt-ostreed.conf or /etc/rpm-ostreed.conf says so.")
            .hint("Drop what is layered, overridden or made again: apt-ostree reset"))
    }

    /// libapt's view of a base: its dpkg status, the machine's sources.
    fn source_config(&self, base: &Base) -> Result<SourceConfig> {
        super::sources::config(
            &base.tree,
            self.machine_etc().as_deref(),
            &self.repo.extension("apt")?,
            self.options.cache_only,
        )
    }

    fn require_sources(&self, config: &SourceConfig) -> Result<()> {
        if !config.sources.is_empty() {
            return Ok(());
        }
        let etc = self.machine_etc().unwrap_or_else(|| "/etc".into());
        Err(Error::usage("The system has no apt sources to take packages from")
            .hint(format!("Add them in {}", etc.join("apt/sources.list.d").display())))
    }

    fn plan(&mut self, origin: &Origin, base: &Base, fresh_indexes: bool) -> Result<Planned> {
        let config = self.source_config(base)?;
        let settings = self.settings()?;
        // Removals and an initramfs need neither an archive nor the network.
        let from_archives = !origin.requested.is_empty()
            || !origin.requested_local.is_empty()
            || !origin.override_replace.is_empty()
            || !origin.override_replace_local.is_empty();
        if from_archives {
            self.require_sources(&config)?;
        }
        let Ports { packages, events, .. } = &mut self.ports;
        if from_archives && !config.offline && (fresh_indexes || !packages.has_indexes(&config)?) {
            packages.refresh(&config, *events).context(|| "Refreshing package indexes")?;
        }
        let mut task = SolveTask { base_upgrades: settings.base_upgrades, ..SolveTask::default() };
        for text in &origin.requested {
            task.install.push(PackageRequest::parse(text)?);
        }
        let kept = self.repo.extension("local")?;
        for local in &origin.requested_local {
            task.local.push(overrides::kept_path(&kept, local, "uninstall")?);
        }
        let prepared =
            Prepared::new(origin, &base.packages, &|local| overrides::kept_path(&kept, local, "override reset"))?;
        prepared.add_to(&mut task);
        let solution = packages.solve(&config, &task, *events)?;
        let tree = BaseTree {
            commit: base.info.checksum.clone(),
            version: base.info.version.clone(),
            packages: base.packages.clone(),
        };
        let quirks = Quirks::load(self.machine_etc().map(|etc| etc.join(QUIRKS)).as_deref())?;
        let regenerate = self.regenerate(origin);
        let mut policy = vec![
            format!("quirks {}", quirks.meaning()),
            format!("base-upgrades {:?}", task.base_upgrades),
            format!("recommends {}", config.recommends),
        ];
        if let Some(regenerate) = &regenerate {
            policy.extend(regenerate.policy()?);
        }
        // The commit names the requests that are active, so they are among its inputs.
        for request in &task.install {
            let text = request.to_string();
            if origin.requested.contains(&text) && !solution.satisfied.iter().any(|(met, _)| met == request) {
                policy.push(format!("request {text}"));
            }
        }
        let overrides = prepared.settle(&solution.idle);
        let mut plan = Plan::new(&tree, solution, overrides, &policy);
        plan.initramfs = regenerate.is_some();
        Ok(Planned { config, quirks, plan })
    }

    /// Fetches, assembles and commits. `None`: download only.
    fn build(
        &mut self,
        config: &SourceConfig,
        quirks: &Quirks,
        plan: &mut Plan,
        base: &Base,
        origin: &Origin,
    ) -> Result<Option<String>> {
        // What a transaction that was killed, or a failed script, left there. First, as it may be what fills the disk.
        crate::repo::remove_tree(&self.repo.extension("tmp")?)?;
        super::space::check(&self.sysroot, &self.stateroot, plan, &base.tree)?;
        let mut solution = crate::source::Solution { install: std::mem::take(&mut plan.install), ..Default::default() };
        let events = self.ports.events;
        if solution.install.iter().any(|p| p.download > 0) {
            let count = solution.install.iter().filter(|p| p.download > 0).count();
            let packages = if count == 1 { "package" } else { "packages" };
            events.message(format!("Will download: {count} {packages} ({})", human_size(plan.download_size)));
        }
        self.ports.packages.fetch(config, &mut solution, events).context(|| "Downloading packages")?;
        plan.install = solution.install;
        if self.options.download_only {
            return Ok(None);
        }
        let scratch = self.repo.extension("tmp")?.join("layer");
        let input = LayerInput {
            base_tree: &base.tree,
            base: &base.info,
            base_packages: &base.packages,
            machine_etc: self.machine_etc(),
            regenerate: self.regenerate(origin),
            plan,
            requested: &origin.requested,
            native_arch: &config.arch,
            quirks,
        };
        let result = layer::assemble(&input, &scratch, &self.repo, self.ports.sandbox, events);
        // A failed maintainer script can be run again there, until the next transaction.
        if !matches!(&result, Err(error) if error.script.is_some()) {
            crate::repo::remove_tree(&scratch)?;
        }
        result.map(Some)
    }
}

/// A request that the base meets already is an error unless `--allow-inactive` says otherwise.
fn refuse_inactive(plan: &Plan, changes: &PackageChanges, before: &Origin) -> Result<()> {
    if changes.allow_inactive {
        return Ok(());
    }
    for text in &changes.install {
        let request = PackageRequest::parse(text)?.to_string();
        // Asked for again, with --idempotent: it was accepted before.
        if before.requested.contains(&request) {
            continue;
        }
        if let Some((_, id)) = plan.inactive.iter().find(|(r, _)| *r == request) {
            return Err(Error::usage(format!(
                "\"{request}\" is already provided by: {}. Use --allow-inactive to explicitly require it.",
                id.nevra()
            )));
        }
    }
    Ok(())
}

fn report_inactive(plan: &Plan, events: &dyn EventSink) {
    if !plan.inactive.is_empty() {
        events.message("Inactive requests:");
        for (request, id) in &plan.inactive {
            events.message(format!("  {request} (already provided by {})", id.nevra()));
        }
    }
    if !plan.inactive_overrides.is_empty() {
        events.message("Inactive overrides:");
        for inactive in &plan.inactive_overrides {
            events.message(format!("  {inactive}"));
        }
    }
}

/// What of the base is made newer, and for whom: it is not what the user named.
fn report_base_upgrades(plan: &Plan, events: &dyn EventSink) {
    let upgrades: Vec<_> = plan.base_changes.iter().filter_map(|c| Some((c, c.new.as_ref()?))).collect();
    if !upgrades.is_empty() {
        events.message("Upgrading base packages:");
    }
    for (change, new) in upgrades {
        let old = &change.previous;
        events.message(format!("  {} {} -> {} ({})", new.name, old.version, new.version, change.reason));
    }
}

/// Drops the request that `name` means: the request itself, its package name, or a local package's name or NEVRA.
fn drop_request(origin: &mut Origin, name: &str) -> Result<bool> {
    let (requests, locals) = (origin.requested.len(), origin.requested_local.len());
    let exact = |r: &String| r == name;
    let by_name = |r: &String| PackageRequest::parse(r).is_ok_and(|p| p.name == name || p.target() == name);
    let by_local = |l: &LocalPackage| l.id.name == name || l.id.nevra() == name || l.id.to_string() == name;
    if origin.requested.iter().any(exact) {
        origin.requested.retain(|r| !exact(r));
    } else {
        let matches: Vec<&String> = origin.requested.iter().filter(|r| by_name(r)).collect();
        if matches.len() > 1 {
            let list = matches.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
            return Err(
                Error::usage(format!("Multiple requests match '{name}': {list}")).hint("Name one of them in full.")
            );
        }
        origin.requested.retain(|r| !by_name(r));
        if origin.requested.len() == requests {
            origin.requested_local.retain(|l| !by_local(l));
        }
    }
    Ok(origin.requested.len() != requests || origin.requested_local.len() != locals)
}

/// Name, version and architecture of a .deb, from dpkg-deb(1).
fn deb_id(path: &Path) -> Result<PackageId> {
    let output = std::process::Command::new("dpkg-deb")
        .arg("--field")
        .arg(path)
        .args(["Package", "Version", "Architecture"])
        .env("LC_ALL", "C.UTF-8")
        .output()
        .context(|| "Running dpkg-deb")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stanza = crate::model::deb822::stanzas(&text).next().unwrap_or_default();
    match (output.status.success(), stanza.get("Package"), stanza.get("Version"), stanza.get("Architecture")) {
        (true, Some(name), Some(version), Some(arch)) => Ok(PackageId::new(name, version, arch)),
        _ => Err(Error::usage(format!("{} is not a Debian package", path.display()))
            .hint(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Reads a .deb to its end, so that a damaged one is refused by the name the user gave, before anything is kept.
fn check_deb(path: &Path) -> Result<()> {
    let output = std::process::Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(path)
        .env("LC_ALL", "C.UTF-8")
        .stdout(std::process::Stdio::null())
        .output()
        .context(|| "Running dpkg-deb")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Verification, format!("{} is damaged: {text}", path.display()))
        .hint("Download it again. Nothing was changed."))
}

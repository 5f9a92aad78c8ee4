//! The way every deployment is made: origin + base → plan → space check → fetch → assemble → commit → deploy → clean.
//!
//! A verb decides the origin and the base; everything after that is here, once.

use std::path::{Path, PathBuf};

use super::{Options, PackageChanges, Report};
use crate::assemble::layer::{self, LayerInput};
use crate::assemble::quirks::Quirks;
use crate::digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::diff::PackageDiff;
use crate::model::origin::{LocalPackage, Origin};
use crate::model::package::PackageId;
use crate::model::request::PackageRequest;
use crate::plan::{BaseTree, Plan};
use crate::repo::Repo;
use crate::repo::metadata::CommitInfo;
use crate::sandbox::Sandbox;
use crate::source::{PackageSource, SolveTask, SourceConfig};
use crate::sysroot::deploy::NewDeployment;
use crate::sysroot::{Deployment, Sysroot};

/// The machine's own quirks, below its /etc.
const QUIRKS: &str = "apt-ostree/quirks.d";

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
}

/// A tree directory to read the base from, and what is known of the commit.
struct Base {
    info: CommitInfo,
    tree: PathBuf,
    packages: Vec<PackageId>,
}

impl<'a> Transaction<'a> {
    pub fn begin(sysroot: &Path, stateroot: Option<&str>, options: &'a Options, ports: Ports<'a>) -> Result<Self> {
        let mut sysroot = Sysroot::open_to_change(sysroot)?;
        sysroot.lock()?;
        let stateroot = sysroot.stateroot(stateroot)?;
        let repo = sysroot.repo();
        Ok(Self { repo, sysroot, stateroot, options, ports })
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
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("Package/capability '{name}' is not currently requested"),
                )
                .hint("Only layered requests can be uninstalled; see `apt-ostree status`."));
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
        let id = deb_id(path)?;
        let kept = self.local_path(&sha256)?;
        if !kept.exists() {
            let partial = kept.with_extension("partial");
            std::fs::copy(path, &partial).context(|| format!("Keeping {} in the sysroot", path.display()))?;
            std::fs::rename(&partial, &kept)?;
        }
        origin.requested_local.retain(|l| l.id.name != id.name || l.id.arch != id.arch);
        origin.requested_local.push(LocalPackage { sha256, id });
        origin.requested_local.sort();
        Ok(())
    }

    fn local_path(&self, sha256: &str) -> Result<PathBuf> {
        Ok(self.repo.extension("local")?.join(format!("{sha256}.deb")))
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
        let pending = self.pending()?;
        let pending_info = self.repo.info(&pending.checksum())?;
        let mut report = Report::default();
        let (commit, plan) = if origin.is_layered() {
            let base = self.open_base(base_commit)?;
            let (config, plan) = self.plan(origin, &base, fresh_indexes)?;
            refuse_inactive(&plan, changes)?;
            let old = self.repo.packages(&pending.checksum()).unwrap_or_default();
            let mut plan = plan;
            plan.diff = PackageDiff::between(&old, &plan.resulting_packages(&base.packages));
            report_inactive(&plan, self.ports.events);
            if self.options.dry_run {
                report.diff = plan.diff.clone();
                report.changed = true;
                report.plan = Some(Box::new(plan));
                return Ok(report);
            }
            let unchanged = pending_info.state_digest.as_deref() == Some(&plan.input_digest) && pending_info.layered;
            if unchanged {
                (pending.checksum(), plan)
            } else {
                match self.build(&config, &mut plan, &base, origin)? {
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
        let same_origin = pending.origin()? == *origin;
        let old = self.repo.packages(&pending.checksum()).unwrap_or_default();
        let new = self.repo.packages(commit).unwrap_or_default();
        report.diff = PackageDiff::between(&old, &new);
        if self.options.dry_run || (self.options.download_only && commit != pending.checksum()) {
            report.changed = self.options.dry_run && (commit != pending.checksum() || !same_origin);
            if self.options.download_only && !self.options.dry_run {
                report.lines.push("Update downloaded.".into());
            }
            report.plan = Some(Box::new(Plan { diff: report.diff.clone(), ..plan }));
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
        report.staged = self.sysroot.deploy(&new, self.ports.events)?;
        report.changed = true;
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
        let sysroot = Sysroot::open(self.sysroot.path())?;
        let mut inner =
            Transaction { sysroot, repo: self.repo.clone(), stateroot: self.stateroot.clone(), options, ports };
        work(&mut inner)
    }

    /// Fetches the indexes of the pending deployment's base.
    pub fn refresh_indexes(&mut self) -> Result<()> {
        let base = self.base_of(&self.pending()?)?;
        let base = self.open_base(&base.checksum)?;
        let config = self.source_config(&base)?;
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

    /// The deployment whose /etc tells the apt sources and the accounts of the machine.
    fn machine_etc(&self) -> Option<PathBuf> {
        let merge = self.sysroot.merge_deployment(&self.stateroot)?;
        Some(self.sysroot.directory(&merge).join("etc"))
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

    fn plan(&mut self, origin: &Origin, base: &Base, fresh_indexes: bool) -> Result<(SourceConfig, Plan)> {
        let config = self.source_config(base)?;
        let Ports { packages, events, .. } = &mut self.ports;
        if !config.offline && (fresh_indexes || !packages.has_indexes(&config)?) {
            packages.refresh(&config, *events).context(|| "Refreshing package indexes")?;
        }
        let mut task = SolveTask::default();
        for text in &origin.requested {
            task.install.push(PackageRequest::parse(text)?);
        }
        for local in &origin.requested_local {
            let path = self.repo.extension("local")?.join(format!("{}.deb", local.sha256));
            if !path.exists() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("The local package {} is no longer kept in the sysroot", local.id),
                )
                .hint(format!("Drop the request: apt-ostree uninstall {}", local.id.name)));
            }
            task.local.push(path);
        }
        task.remove.clone_from(&origin.override_remove);
        let solution = packages.solve(&config, &task, *events)?;
        let tree = BaseTree {
            commit: base.info.checksum.clone(),
            version: base.info.version.clone(),
            packages: base.packages.clone(),
        };
        let quirks = Quirks::load(self.machine_etc().map(|etc| etc.join(QUIRKS)).as_deref())?;
        let policy = vec![
            format!("quirks {:?}", quirks.rules()),
            format!("base-upgrades {:?}", task.base_upgrades),
            format!("recommends {}", config.recommends),
        ];
        Ok((config, Plan::new(&tree, solution, &policy)))
    }

    /// Fetches, assembles and commits. `None`: download only.
    fn build(
        &mut self,
        config: &SourceConfig,
        plan: &mut Plan,
        base: &Base,
        origin: &Origin,
    ) -> Result<Option<String>> {
        // What a transaction that was killed, or a failed script, left there. First, as it may be what fills the disk.
        crate::repo::remove_tree(&self.repo.extension("tmp")?)?;
        super::space::check(self.sysroot.path(), plan, &base.tree)?;
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
            plan,
            requested: &origin.requested,
            native_arch: &config.arch,
            quirk_dir: self.machine_etc().map(|etc| etc.join(QUIRKS)),
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
fn refuse_inactive(plan: &Plan, changes: &PackageChanges) -> Result<()> {
    if changes.allow_inactive {
        return Ok(());
    }
    for text in &changes.install {
        let request = PackageRequest::parse(text)?.to_string();
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
    if plan.inactive.is_empty() {
        return;
    }
    events.message("Inactive requests:");
    for (request, id) in &plan.inactive {
        events.message(format!("  {request} (already provided by {})", id.nevra()));
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

/// `1.5 MB`: decimal units, one place below ten, as apt and libostree print sizes.
pub fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if value < 1000.0 || unit == "GB" {
            return match unit {
                "bytes" => format!("{bytes} bytes"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit always returns")
}

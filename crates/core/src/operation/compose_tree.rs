//! `compose tree`: a treefile and an APT archive become a bootable OSTree commit.
//!
//! Layout of the work directory (`--workdir`, else a temporary one beside the repository): `root/` (the tree while it
//! is made, consumed by the commit), `tmp/`. Layout of the cache directory (`--cachedir`, else in the work
//! directory): `apt/` (libapt's state), `initramfs/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ostree::glib::{Variant, VariantDict};
use serde::{Deserialize, Serialize};

use super::Report;
use super::log::LogSink;
use super::transaction::Ports;
use crate::advisories;
use crate::assemble::quirks::{Quirks, RUNTIME_DIR};
use crate::compose::{accounts, bootstrap, input, postprocess};
use crate::digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::diff::PackageDiff;
use crate::model::package::{PackageId, installed_from_status};
use crate::model::size::human_size;
use crate::model::sources::Source;
use crate::model::time::iso8601;
use crate::model::treefile::{self, Treefile};
use crate::plan::LAYER_VERSION;
use crate::repo::Repo;
use crate::repo::commit::{CommitSpec, CommitStats, Prepared};
use crate::repo::metadata::{self, CommitInfo};
use crate::sandbox::Bind;
use crate::source::{Solution, SolveTask, SourceConfig};

/// What `compose tree` was asked. With [`super::Options`]: `dry_run`, `download_only`, `cache_only`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComposeTree {
    pub treefile: PathBuf,
    /// Repository to commit to; made as `archive` when it does not exist. Not needed for a dry run or a download.
    pub repo: Option<PathBuf>,
    pub cachedir: Option<PathBuf>,
    pub workdir: Option<PathBuf>,
    /// Print the flattened treefile and stop.
    pub print_only: bool,
    /// Commit even if the inputs are those of the previous commit.
    pub force_nocache: bool,
    /// Content of /var that nothing accounts for is an error.
    pub strict_var: bool,
    /// What counts as the previous commit: whether anything changed, the next version, the accounts. Else the ref's.
    pub previous_commit: Option<String>,
    /// Instead of the previous commit's input hash.
    pub previous_inputhash: Option<String>,
    /// Instead of the previous commit's version.
    pub previous_version: Option<String>,
    pub add_metadata_string: Vec<(String, String)>,
    pub add_metadata_from_json: Option<PathBuf>,
    /// The parent of the new commit; else the head of the ref.
    pub parent: Option<String>,
    pub no_parent: bool,
    /// Write the checksum here instead of moving the ref.
    pub write_commitid_to: Option<PathBuf>,
    pub write_composejson_to: Option<PathBuf>,
    pub touch_if_changed: Option<PathBuf>,
    /// dpkg architecture of the tree: the machine's own.
    pub arch: String,
    /// Root whose /etc/apt is used when the treefile has no `repos`; `/` on the command line.
    pub host_root: PathBuf,
    /// The time of the commit, seconds since the epoch: `SOURCE_DATE_EPOCH`, or now.
    pub timestamp: u64,
}

/// The directories of a run; the temporary one goes when this does.
struct Directories {
    work: PathBuf,
    cache: PathBuf,
    temporary: Option<tempfile::TempDir>,
    /// Held while the scratch space of the repository is in use.
    _lock: Option<std::fs::File>,
}

impl Directories {
    /// Leaves the temporary directory where it is; the next compose removes it.
    fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
    }
}

pub fn execute(compose: &ComposeTree, options: &super::Options, ports: &mut Ports<'_>) -> Result<Report> {
    let loaded = input::load(&compose.treefile, &compose.arch)?;
    for warning in &loaded.warnings {
        ports.events.warning(warning.clone());
    }
    if compose.print_only {
        return Ok(Report { lines: vec![loaded.treefile.to_json()?.trim_end().to_owned()], ..Report::default() });
    }
    let Some(repo) = open_repo(compose, options)? else {
        return compose_with(compose, options, &loaded, None, ports);
    };
    let log = LogSink::create(&repo, "compose", &options.command_line, ports.events);
    let mut ports = Ports { packages: ports.packages, sandbox: ports.sandbox, events: &log };
    compose_with(compose, options, &loaded, Some(&repo), &mut ports)
}

/// The repository; a run that commits nothing makes none.
fn open_repo(compose: &ComposeTree, options: &super::Options) -> Result<Option<Repo>> {
    match &compose.repo {
        Some(path) if options.dry_run && !path.join("config").exists() => Ok(None),
        Some(path) => Repo::open_or_create(path).map(Some),
        None if options.dry_run || options.download_only => Ok(None),
        None => Err(Error::usage("--repo must be specified")),
    }
}

fn compose_with(
    compose: &ComposeTree,
    options: &super::Options,
    loaded: &input::Input,
    repo: Option<&Repo>,
    ports: &mut Ports<'_>,
) -> Result<Report> {
    let events = ports.events;
    let treefile = &loaded.treefile;
    let reference = treefile.require_ref()?;
    let sources = input::archives(treefile, &compose.host_root)?;
    let previous = previous_commit(repo, compose, reference, events)?;
    let mut directories = directories(compose, repo)?;
    let config = source_config(compose, options, treefile, &sources, &directories);
    if !options.cache_only {
        ports.packages.refresh(&config, events).context(|| "Refreshing package indexes")?;
    }
    let task = SolveTask {
        install: treefile.packages.clone(),
        exclude: treefile.exclude_packages.clone(),
        essential: true,
        ..SolveTask::default()
    };
    let mut solution = ports.packages.solve(&config, &task, events)?;
    report_solution(&solution, options.dry_run, events);
    if options.dry_run {
        return Ok(Report { lines: vec!["Exiting because of '--dry-run' option".into()], ..Report::default() });
    }
    let hash = input_hash(&loaded.digest, &solution);
    events.message(format!("Input state hash: {hash}"));
    let before = compose.previous_inputhash.as_ref().or(previous.as_ref().and_then(|p| p.input_hash.as_ref()));
    if before == Some(&hash) && !compose.force_nocache {
        let line = "No apparent changes since previous commit; use --force-nocache to override";
        return Ok(Report { lines: vec![line.into()], ..Report::default() });
    }
    ports.packages.fetch(&config, &mut solution, events).context(|| "Downloading packages")?;
    let Some(repo) = repo.filter(|_| !options.download_only) else {
        return Ok(Report { lines: vec!["Packages downloaded.".into()], ..Report::default() });
    };

    let version = version_of(compose, treefile, previous.as_ref())?;
    let run =
        Run { compose, treefile, repo, previous: previous.as_ref(), version: version.as_deref(), sources: &sources };
    let tree = run.assemble(&solution, &mut directories, ports)?;
    let written = run.commit(&tree, &solution, &hash, reference, events)?;
    run.publish(reference, &written)
}

fn source_config(
    compose: &ComposeTree,
    options: &super::Options,
    treefile: &Treefile,
    sources: &[Source],
    directories: &Directories,
) -> SourceConfig {
    SourceConfig {
        state: directories.cache.join("apt"),
        status: directories.work.join("no-status"),
        sources: sources.iter().chain(&treefile.compose_repos).map(ToString::to_string).collect(),
        arch: compose.arch.clone(),
        foreign_arches: treefile.foreign_architectures.clone(),
        recommends: treefile.recommends,
        offline: options.cache_only,
        ..SourceConfig::default()
    }
}

/// A run that has decided to make a commit.
struct Run<'a> {
    compose: &'a ComposeTree,
    treefile: &'a Treefile,
    repo: &'a Repo,
    previous: Option<&'a CommitInfo>,
    version: Option<&'a str>,
    sources: &'a [Source],
}

/// A tree that is ready to be committed.
struct ComposedTree {
    root: PathBuf,
    /// What is in the repository already.
    prepared: Prepared,
    packages: Vec<PackageId>,
    /// The kernel's version.
    kernel: Option<String>,
}

/// A finished commit and what is told of it.
struct Written {
    checksum: String,
    parent: Option<String>,
    stats: CommitStats,
    packages: Vec<PackageId>,
}

impl Run<'_> {
    /// From fetched packages to a tree in the shape of a commit.
    fn assemble(
        &self,
        solution: &Solution,
        directories: &mut Directories,
        ports: &mut Ports<'_>,
    ) -> Result<ComposedTree> {
        let Self { treefile, repo, .. } = *self;
        let events = ports.events;
        let root = directories.work.join("root");
        crate::repo::remove_tree(&root)?;
        std::fs::create_dir(&root).context(|| format!("Creating {}", root.display()))?;
        let tmp = directories.work.join("tmp");
        let shims = shims(solution, &tmp.join("runtime"))?;
        let previous = self.previous.map(|p| p.checksum.as_str());
        let seed = accounts::seed(treefile, repo, previous)?;
        // Post-processing has not those that need a mount point: nothing removes it from the finished tree.
        let programs: Vec<Bind> = shims.iter().filter(|bind| bind.target == RUNTIME_DIR).cloned().collect();
        let bootstrap = bootstrap::BootstrapOptions { workdir: &tmp, binds: &shims, accounts: &seed };
        let installed = bootstrap::run(&root, &solution.install, treefile, ports.sandbox, events, bootstrap);
        if installed.as_ref().is_err_and(|error| error.script.is_some()) {
            // The tree in which the script failed is needed to run it again.
            directories.keep();
        }
        installed?;
        // Compressing most of the tree takes about as long as dracut does, and neither needs the other.
        let ahead = std::sync::Mutex::new(Ok(Prepared::default()));
        let path = repo.path();
        let write_ahead = || {
            let written = stable_directories(&root).and_then(|list| Prepared::write(path, &root, &list));
            *ahead.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = written;
        };
        let options = postprocess::Options {
            workdir: &tmp,
            cachedir: Some(&directories.cache),
            version: self.version,
            sources: self.sources,
            binds: &programs,
            beside_initramfs: Some(&write_ahead),
            container: false,
            strict_var: self.compose.strict_var,
        };
        let report = postprocess::run(&root, treefile, ports.sandbox, events, options)?;
        tell(&report, events);
        accounts::check(treefile, &root, repo, previous)?;
        let status = std::fs::read_to_string(root.join("usr/lib/sysimage/dpkg/status"))
            .context(|| "Reading the dpkg status of the tree")?;
        Ok(ComposedTree {
            prepared: ahead.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)?,
            packages: installed_from_status(&status),
            kernel: report.kernel.map(|k| k.version),
            root,
        })
    }

    /// Writes the commit, signed if the treefile says so. No ref points at it yet.
    fn commit(
        &self,
        tree: &ComposedTree,
        solution: &Solution,
        hash: &str,
        reference: &str,
        events: &dyn EventSink,
    ) -> Result<Written> {
        let metadata = self.commit_metadata(tree, solution, hash)?;
        let parent = match &self.compose.parent {
            _ if self.compose.no_parent => None,
            Some(parent) => Some(self.repo.resolve(parent)?),
            None => self.repo.try_resolve(reference)?,
        };
        let (checksum, stats) = events.task("Writing OSTree commit", || {
            let parent = parent.as_deref();
            let spec = CommitSpec { parent, subject: "", metadata: &metadata, timestamp: self.compose.timestamp };
            self.repo.commit_directory(&tree.root, &tree.prepared, &spec)
        })?;
        if let Some(key) = &self.treefile.gpg_key {
            self.repo.sign(&checksum, key, None)?;
        }
        Ok(Written { checksum, parent, stats, packages: tree.packages.clone() })
    }

    fn commit_metadata(&self, tree: &ComposedTree, solution: &Solution, hash: &str) -> Result<Variant> {
        let meta = VariantDict::new(None);
        if let Some(version) = self.version {
            meta.insert("version", version);
        }
        meta.insert("rpmostree.inputhash", hash);
        meta.insert_value("rpmostree.rpmdb.pkglist", &metadata::packages_to_variant(&tree.packages));
        meta.insert_value("rpmostree.rpmmd-repos", &metadata::archives_to_variant(&solution.archives));
        let advisories = advisories::of_packages(&solution.install, Some(&tree.root));
        if !advisories.is_empty() {
            meta.insert_value("rpmostree.advisories", &metadata::advisories_to_variant(&advisories));
        }
        if !self.treefile.initramfs_args.is_empty() {
            // For an initramfs that is made again on a machine.
            meta.insert("rpmostree.initramfs-args", self.treefile.initramfs_args.clone());
        }
        meta.insert("apt-ostree.treefile", self.treefile.to_json()?);
        if let Some(kernel) = &tree.kernel {
            meta.insert("ostree.bootable", true);
            meta.insert("ostree.linux", kernel.as_str());
        }
        // Precedence: treefile < --add-metadata-from-json < --add-metadata-string.
        let mut added: BTreeMap<String, serde_json::Value> = self.treefile.add_commit_metadata.clone();
        if let Some(path) = &self.compose.add_metadata_from_json {
            let text = std::fs::read_to_string(path).context(|| format!("Reading {}", path.display()))?;
            let map: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&text).context(|| format!("Parsing {}", path.display()))?;
            added.extend(map);
        }
        added.extend(self.compose.add_metadata_string.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        for (key, value) in &added {
            meta.insert_value(
                key,
                &metadata::json_to_variant(value).context(|| format!("Adding the commit metadata '{key}'"))?,
            );
        }
        Ok(meta.end())
    }

    /// Moves the ref (or writes the checksum to a file instead), and the files a pipeline asked for.
    fn publish(&self, reference: &str, written: &Written) -> Result<Report> {
        let write =
            |path: &Path, text: String| std::fs::write(path, text).context(|| format!("Writing {}", path.display()));
        let line = match &self.compose.write_commitid_to {
            Some(path) => {
                write(path, format!("{}\n", written.checksum))?;
                format!("Wrote commit: {}", written.checksum)
            }
            None => {
                self.repo.set_ref(reference, Some(&written.checksum))?;
                format!("{reference} => {}", written.checksum)
            }
        };
        if let Some(path) = &self.compose.write_composejson_to {
            write(path, serde_json::to_string_pretty(&self.compose_json(reference, written)?)? + "\n")?;
        }
        if let Some(path) = &self.compose.touch_if_changed {
            touch(path).context(|| format!("Touching {}", path.display()))?;
        }
        // A compose prints its result, not a diff of everything.
        Ok(Report { changed: true, lines: vec![line], ..Report::default() })
    }

    /// `rpm-ostree-json.md` section 4.1: keys that do not apply are absent.
    fn compose_json(&self, reference: &str, written: &Written) -> Result<serde_json::Value> {
        let Written { checksum, stats, .. } = written;
        let mut json = serde_json::json!({
            "ref": reference,
            "ostree-commit": checksum,
            "ostree-content-checksum": self.repo.content_checksum(checksum)?,
            "ostree-timestamp": iso8601(self.compose.timestamp),
            "ostree-n-metadata-total": stats.metadata_total,
            "ostree-n-metadata-written": stats.metadata_written,
            "ostree-n-content-total": stats.content_total,
            "ostree-n-content-written": stats.content_written,
            "ostree-n-cache-hits": stats.cache_hits,
            "ostree-content-bytes-written": stats.content_bytes_written,
            "rpm-ostree-inputhash": self.repo.info(checksum)?.input_hash,
        });
        if let Some(version) = self.version {
            json["ostree-version"] = version.into();
        }
        // A parent that is not in this repository, or has no package list, leaves nothing to compare with.
        if let Some(old) = written.parent.as_deref().and_then(|parent| self.repo.packages(parent).ok()) {
            json["pkgdiff"] = PackageDiff::between(&old, &written.packages).to_json();
        }
        Ok(json)
    }
}

/// touch(1).
fn touch(path: &Path) -> Result<()> {
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    Ok(file.set_modified(std::time::SystemTime::now())?)
}

/// Nothing that is left out or unknown goes without a word.
fn tell(report: &postprocess::Report, events: &dyn EventSink) {
    for dropped in &report.dropped {
        events.emit(crate::event::Event::Output { line: format!("dropped {}: {}", dropped.path, dropped.reason) });
    }
    if !report.unclassified.is_empty() {
        events.warning(format!(
            "{} paths no rule knows stay in the tree: {}",
            report.unclassified.len(),
            report.unclassified.join(" ")
        ));
    }
}

/// Directories that hardly anything touches once packages are installed, relative to the root. A guess: what has
/// changed by the time of the commit is written again.
fn stable_directories(root: &Path) -> Result<Vec<PathBuf>> {
    const CHANGING: &[&str] = &[
        "apt-ostree",
        "dracut",
        "factory",
        "modules",
        "ostree",
        "ostree-boot",
        "sysimage",
        "systemd",
        "sysusers.d",
        "tmpfiles.d",
    ];
    let mut list = Vec::new();
    for parent in ["usr", "usr/lib", "usr/share"] {
        for entry in std::fs::read_dir(root.join(parent))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let inner = parent == "usr" && ["lib", "share", "etc", "local"].contains(&name.as_ref());
            if entry.file_type()?.is_dir() && !inner && !CHANGING.contains(&name.as_ref()) {
                list.push(Path::new(parent).join(name.as_ref()));
            }
        }
    }
    for entry in std::fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten() {
        let drivers = Path::new("usr/lib/modules").join(entry?.file_name()).join("kernel");
        if root.join(&drivers).is_dir() {
            list.push(drivers);
        }
    }
    Ok(list)
}

fn previous_commit(
    repo: Option<&Repo>,
    compose: &ComposeTree,
    reference: &str,
    events: &dyn EventSink,
) -> Result<Option<CommitInfo>> {
    let found = match (repo, &compose.previous_commit) {
        (Some(repo), Some(commit)) => Some((repo, repo.resolve(commit)?)),
        (Some(repo), None) => repo.try_resolve(reference)?.map(|checksum| (repo, checksum)),
        (None, Some(_)) => return Err(Error::usage("--previous-commit needs --repo")),
        (None, None) => None,
    };
    match found {
        Some((repo, checksum)) => {
            events.message(format!("Previous commit: {checksum}"));
            Ok(Some(repo.info(&checksum)?))
        }
        None => {
            events.message(format!("No previous commit for {reference}"));
            Ok(None)
        }
    }
}

fn directories(compose: &ComposeTree, repo: Option<&Repo>) -> Result<Directories> {
    let mut lock = None;
    let (work, temporary) = match (&compose.workdir, repo) {
        (Some(path), _) => (path.clone(), None),
        (None, Some(repo)) => {
            // Beside the objects: files are renamed into a bare repository, and /tmp may be memory.
            lock = Some(lock_scratch(repo)?);
            crate::repo::remove_tree(&repo.extension("tmp")?)?;
            let directory = tempfile::Builder::new().prefix("compose-").tempdir_in(repo.extension("tmp")?)?;
            (directory.path().to_owned(), Some(directory))
        }
        (None, None) => return Err(Error::usage("--workdir must be specified where there is no repository")),
    };
    let cache = compose.cachedir.clone().unwrap_or_else(|| work.join("cache"));
    for path in [work.join("tmp"), cache.join("apt")] {
        std::fs::create_dir_all(&path).context(|| format!("Creating {}", path.display()))?;
    }
    Ok(Directories { work, cache, temporary, _lock: lock })
}

/// Empties the scratch space of a repository, unless a compose is at work there.
pub(super) fn empty_scratch(repo: &Repo) -> Result<()> {
    let _lock = lock_scratch(repo)?;
    crate::repo::remove_tree(&repo.extension("tmp")?)
}

/// One compose at a time may use (and first empties) the scratch space of a repository.
fn lock_scratch(repo: &Repo) -> Result<std::fs::File> {
    let path = repo.extension("")?.join("compose.lock");
    let file = std::fs::File::create(&path).context(|| format!("Opening {}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::new(ErrorKind::Busy, format!("Another compose is at work in {}", repo.path().display()))
                .hint("Wait for it, or give this one its own --workdir."))
        }
        Err(e) => Err(e.into()),
    }
}

fn report_solution(solution: &Solution, full: bool, events: &dyn EventSink) {
    let download: u64 = solution.install.iter().map(|p| p.download).sum();
    let installed: u64 = solution.install.iter().map(|p| p.installed_size).sum();
    events.message(format!("Installing {} packages:", solution.install.len()));
    for package in &solution.install {
        let line = format!("  {} ({})", package.id.nevra(), package.origin);
        if full { events.message(line) } else { events.emit(crate::event::Event::Output { line }) }
    }
    events.message(format!("Will download: {}; installed: {}", human_size(download), human_size(installed)));
}

/// The programs that do nothing while the tree is made, as binds for every sandbox of this run.
fn shims(solution: &Solution, runtime: &Path) -> Result<Vec<Bind>> {
    let packages: Vec<&PackageId> = solution.install.iter().map(|p| &p.id).collect();
    // The same treefile gives the same tree on every machine: only the built-in quirks.
    let quirks = Quirks::load(None)?.for_packages(packages)?;
    crate::repo::remove_tree(runtime)?;
    let runtime = quirks.write_runtime(runtime)?;
    let mut binds = vec![Bind { source: runtime.directory, target: RUNTIME_DIR.to_owned(), read_only: false }];
    binds.extend(runtime.binds.into_iter().map(|(source, target)| Bind { source, target, read_only: true }));
    Ok(binds)
}

/// Everything that decides what the tree will be.
fn input_hash(treefile_digest: &str, solution: &Solution) -> String {
    let mut text = format!("tool {} layer {LAYER_VERSION}\n{treefile_digest}", env!("CARGO_PKG_VERSION"));
    for package in &solution.install {
        text.push_str(&format!("{} {} {}\n", package.id, package.sha256, package.requested));
    }
    digest::of_bytes(text.as_bytes())
}

fn version_of(compose: &ComposeTree, treefile: &Treefile, previous: Option<&CommitInfo>) -> Result<Option<String>> {
    if let Some(version) = &treefile.version {
        return Ok(Some(version.clone()));
    }
    let Some(prefix) = &treefile.automatic_version_prefix else { return Ok(None) };
    let last = compose.previous_version.as_deref().or(previous.and_then(|p| p.version.as_deref()));
    let now = i64::try_from(compose.timestamp).unwrap_or(0);
    treefile::next_version(prefix, treefile.automatic_version_suffix, last, now).map(Some)
}

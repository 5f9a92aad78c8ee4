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
use super::transaction::{Ports, human_size};
use crate::assemble::quirks::{Quirks, RUNTIME_DIR};
use crate::compose::{bootstrap, input, postprocess};
use crate::digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::accounts::{IDS_LOCK, IdLock};
use crate::model::diff::PackageDiff;
use crate::model::package::PackageId;
use crate::model::time::iso8601;
use crate::model::treefile::{self, Treefile};
use crate::plan::LAYER_VERSION;
use crate::repo::Repo;
use crate::repo::commit::{CommitSpec, CommitStats, Prepared};
use crate::repo::metadata::{self, CommitInfo};
use crate::sandbox::Bind;
use crate::source::{Solution, SolveTask, SourceConfig};

/// What `compose tree` was asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ComposeTree {
    pub treefile: PathBuf,
    /// Repository to commit to; made as `archive` when it does not exist.
    pub repo: Option<PathBuf>,
    pub cachedir: Option<PathBuf>,
    pub workdir: Option<PathBuf>,
    /// Print the flattened treefile and stop.
    pub print_only: bool,
    pub force_nocache: bool,
    pub strict_var: bool,
    /// `KEY=VALUE` pairs.
    pub add_metadata_string: Vec<String>,
    pub add_metadata_from_json: Option<PathBuf>,
    pub parent: Option<String>,
    pub no_parent: bool,
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
    let log;
    let mut events = ports.events;
    let loaded = input::load(&compose.treefile, &compose.arch)?;
    for warning in &loaded.warnings {
        events.warning(warning.clone());
    }
    let treefile = &loaded.treefile;
    if compose.print_only {
        return Ok(Report { lines: vec![treefile.to_json()?.trim_end().to_owned()], ..Report::default() });
    }
    let reference = treefile.require_ref()?.to_owned();
    let sources = input::archives(treefile, &compose.host_root)?;
    let repo_path = compose.repo.as_deref().ok_or_else(|| Error::usage("--repo must be specified"))?;
    let repo = Repo::open_or_create(repo_path)?;
    let repo_path = repo.path().to_owned();
    log = LogSink::create(&repo, "compose", &options.command_line, events);
    events = &log;
    let previous = previous_commit(&repo, compose, &reference, events)?;
    let mut directories = directories(compose, &repo)?;

    let config = SourceConfig {
        state: directories.cache.join("apt"),
        status: directories.work.join("no-status"),
        sources: sources.iter().map(ToString::to_string).collect(),
        arch: compose.arch.clone(),
        foreign_arches: treefile.foreign_architectures.clone(),
        recommends: treefile.recommends,
        offline: options.cache_only,
        ..SourceConfig::default()
    };
    let task = SolveTask {
        install: treefile.packages.clone(),
        exclude: treefile.exclude_packages.clone(),
        essential: true,
        ..SolveTask::default()
    };
    if !options.cache_only {
        ports.packages.refresh(&config, events).context(|| "Refreshing package indexes")?;
    }
    let mut solution = ports.packages.solve(&config, &task, events)?;
    report_solution(&solution, options.dry_run, events);
    if options.dry_run {
        return Ok(Report { lines: vec!["Exiting because of '--dry-run' option".into()], ..Report::default() });
    }
    let hash = input_hash(&loaded.digest, &solution);
    events.message(format!("Input state hash: {hash}"));
    let unchanged = previous.as_ref().and_then(|p| p.input_hash.as_deref()) == Some(hash.as_str());
    if unchanged && !compose.force_nocache {
        let line = "No apparent changes since previous commit; use --force-nocache to override";
        return Ok(Report { lines: vec![line.into()], ..Report::default() });
    }
    ports.packages.fetch(&config, &mut solution, events).context(|| "Downloading packages")?;
    if options.download_only {
        return Ok(Report { lines: vec!["Packages downloaded.".into()], ..Report::default() });
    }

    let root = directories.work.join("root");
    crate::repo::remove_tree(&root)?;
    std::fs::create_dir(&root).context(|| format!("Creating {}", root.display()))?;
    let version = version_of(treefile, previous.as_ref(), compose.timestamp)?;
    let tmp = directories.work.join("tmp");
    let shims = shims(&solution, options, &tmp.join("runtime"))?;
    let ids = previous_ids(&repo, previous.as_ref())?;
    let bootstrap = bootstrap::BootstrapOptions { workdir: &tmp, binds: &shims, ids: &ids };
    let installed = bootstrap::run(&root, &solution.install, treefile, ports.sandbox, events, bootstrap);
    if installed.as_ref().is_err_and(|error| error.script.is_some()) {
        // The tree in which the script failed is needed to run it again.
        directories.keep();
    }
    installed?;
    // Compressing most of the tree takes about as long as dracut does, and neither needs the other.
    let ahead = std::sync::Mutex::new(Ok(Prepared::default()));
    let write_ahead = || {
        let written = stable_directories(&root).and_then(|list| Prepared::write(&repo_path, &root, &list));
        *ahead.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = written;
    };
    let report = postprocess::run(
        &root,
        treefile,
        ports.sandbox,
        events,
        postprocess::Options {
            workdir: &tmp,
            cachedir: Some(&directories.cache),
            version: version.as_deref(),
            sources: &sources,
            binds: &shims,
            beside_initramfs: Some(&write_ahead),
            container: false,
            strict_var: compose.strict_var,
        },
    )?;
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

    let packages: Vec<PackageId> = {
        let status = std::fs::read_to_string(root.join("usr/lib/sysimage/dpkg/status"))
            .context(|| "Reading the dpkg status of the tree")?;
        crate::model::package::installed_from_status(&status)
    };
    let kernel = report.kernel.as_ref().map(|k| k.version.as_str());
    let meta = commit_metadata(compose, treefile, &solution, &packages, version.as_deref(), kernel, &hash)?;
    let parent =
        if compose.no_parent { None } else { compose.parent.clone().or(previous.as_ref().map(|p| p.checksum.clone())) };
    let prepared = ahead.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)?;
    let (checksum, stats) = events.task("Writing OSTree commit", || {
        let spec = CommitSpec { parent: parent.as_deref(), subject: "", metadata: &meta, timestamp: compose.timestamp };
        repo.commit_directory(&root, &prepared, &spec)
    })?;
    let written = Written { checksum: &checksum, stats, version, packages: &packages, previous: previous.as_ref() };
    publish(compose, &repo, &reference, &written)
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

/// A finished commit and what is told of it.
struct Written<'a> {
    checksum: &'a str,
    stats: CommitStats,
    version: Option<String>,
    packages: &'a [PackageId],
    previous: Option<&'a CommitInfo>,
}

/// Moves the ref (or writes the checksum to a file instead), and the files a pipeline asked for.
fn publish(compose: &ComposeTree, repo: &Repo, reference: &str, written: &Written<'_>) -> Result<Report> {
    let write =
        |path: &Path, text: String| std::fs::write(path, text).context(|| format!("Writing {}", path.display()));
    let mut report = Report { changed: true, ..Report::default() };
    let old = written.previous.and_then(|p| p.packages()).unwrap_or_default();
    report.diff = PackageDiff::between(&old, written.packages);
    if let Some(path) = &compose.write_commitid_to {
        write(path, format!("{}\n", written.checksum))?;
        report.lines.push(format!("Wrote commit: {}", written.checksum));
    } else {
        repo.set_ref(reference, Some(written.checksum))?;
        report.lines.push(format!("{reference} => {}", written.checksum));
    }
    if let Some(path) = &compose.write_composejson_to {
        let json = serde_json::json!({
            "ref": reference,
            "ostree-commit": written.checksum,
            "ostree-content-checksum": repo.content_checksum(written.checksum)?,
            "ostree-version": written.version,
            "ostree-timestamp": iso8601(compose.timestamp),
            "ostree-n-metadata-total": written.stats.metadata_total,
            "ostree-n-metadata-written": written.stats.metadata_written,
            "ostree-n-content-total": written.stats.content_total,
            "ostree-n-content-written": written.stats.content_written,
            "ostree-n-cache-hits": written.stats.cache_hits,
            "ostree-content-bytes-written": written.stats.content_bytes_written,
            "rpm-ostree-inputhash": repo.info(written.checksum)?.input_hash,
            "pkgdiff": written.previous.map(|_| report.diff.to_json()),
        });
        write(path, serde_json::to_string_pretty(&json)? + "\n")?;
    }
    if let Some(path) = &compose.touch_if_changed {
        write(path, String::new())?;
    }
    // A compose prints its result, not a diff of everything.
    report.diff = PackageDiff::default();
    Ok(report)
}

/// The account numbers of the previous commit: a name keeps its number for ever.
fn previous_ids(repo: &Repo, previous: Option<&CommitInfo>) -> Result<IdLock> {
    let Some(previous) = previous else { return Ok(IdLock::default()) };
    match repo.read_text(&previous.checksum, IDS_LOCK)? {
        Some(text) => IdLock::parse(IDS_LOCK, &text),
        None => Ok(IdLock::default()),
    }
}

fn previous_commit(
    repo: &Repo,
    compose: &ComposeTree,
    reference: &str,
    events: &dyn EventSink,
) -> Result<Option<CommitInfo>> {
    let rev = compose.parent.as_deref().unwrap_or(reference);
    let found = if compose.parent.is_some() { Some(repo.resolve(rev)?) } else { repo.try_resolve(rev)? };
    match found {
        Some(checksum) => {
            events.message(format!("Previous commit: {checksum}"));
            Ok(Some(repo.info(&checksum)?))
        }
        None => {
            events.message(format!("No previous commit for {reference}"));
            Ok(None)
        }
    }
}

fn directories(compose: &ComposeTree, repo: &Repo) -> Result<Directories> {
    let mut lock = None;
    let (work, temporary) = match &compose.workdir {
        Some(path) => (path.clone(), None),
        None => {
            // Beside the objects: files are renamed into a bare repository, and /tmp may be memory.
            lock = Some(lock_scratch(repo)?);
            crate::repo::remove_tree(&repo.extension("tmp")?)?;
            let directory = tempfile::Builder::new().prefix("compose-").tempdir_in(repo.extension("tmp")?)?;
            (directory.path().to_owned(), Some(directory))
        }
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
fn shims(solution: &Solution, options: &super::Options, runtime: &Path) -> Result<Vec<Bind>> {
    let packages: Vec<&PackageId> = solution.install.iter().map(|p| &p.id).collect();
    let quirks = Quirks::load(options.quirk_dirs.first().map(PathBuf::as_path))?.for_packages(packages)?;
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

fn version_of(treefile: &Treefile, previous: Option<&CommitInfo>, now: u64) -> Result<Option<String>> {
    if let Some(version) = &treefile.version {
        return Ok(Some(version.clone()));
    }
    let Some(prefix) = &treefile.automatic_version_prefix else { return Ok(None) };
    let last = previous.and_then(|p| p.version.as_deref());
    treefile::next_version(prefix, treefile.automatic_version_suffix, last, i64::try_from(now).unwrap_or(0)).map(Some)
}

fn commit_metadata(
    compose: &ComposeTree,
    treefile: &Treefile,
    solution: &Solution,
    packages: &[PackageId],
    version: Option<&str>,
    kernel: Option<&str>,
    hash: &str,
) -> Result<Variant> {
    let meta = VariantDict::new(None);
    if let Some(version) = version {
        meta.insert("version", version);
    }
    meta.insert("rpmostree.inputhash", hash);
    meta.insert_value("rpmostree.rpmdb.pkglist", &metadata::packages_to_variant(packages));
    meta.insert_value("rpmostree.rpmmd-repos", &metadata::archives_to_variant(&solution.archives));
    meta.insert("apt-ostree.treefile", treefile.to_json()?);
    if let Some(kernel) = kernel {
        meta.insert("ostree.bootable", true);
        meta.insert("ostree.linux", kernel);
    }
    // Precedence: treefile < --add-metadata-from-json < --add-metadata-string.
    let mut added: BTreeMap<String, serde_json::Value> = treefile.add_commit_metadata.clone();
    if let Some(path) = &compose.add_metadata_from_json {
        let text = std::fs::read_to_string(path).context(|| format!("Reading {}", path.display()))?;
        let map: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&text).context(|| format!("Parsing {}", path.display()))?;
        added.extend(map);
    }
    for pair in &compose.add_metadata_string {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("--add-metadata-string wants KEY=VALUE, found '{pair}'")))?;
        added.insert(key.to_owned(), value.into());
    }
    for (key, value) in &added {
        meta.insert_value(
            key,
            &metadata::json_to_variant(value).context(|| format!("Adding the commit metadata '{key}'"))?,
        );
    }
    Ok(meta.end())
}

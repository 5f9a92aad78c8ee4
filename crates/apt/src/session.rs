//! The configuration of libapt for one operation, complete before anything of it is opened.
//!
//! On disk, all below [`SourceConfig::state`]:
//! - `lists/`, `lists/partial/`: indexes, as in /var/lib/apt/lists; `lists/lock` is held during a refresh
//! - `cache/{pkgcache,srcpkgcache}.bin`: libapt's own, made again when a list or the status file changes
//! - `archives/`, `archives/partial/`: downloaded .debs
//! - `etc/apt-ostree.sources`, `etc/preferences`: what this operation runs with
//! - `etc/status-DIGEST`: a copy of the dpkg status. libapt takes size and modification time as proof that its cache is
//!   still good, and in an OSTree checkout every file has the same time; a name made of the content cannot lie.
//!
//! The two `partial` folders belong to `_apt` where this runs as root, so that downloads run as that user
//! (`APT::Sandbox::User`). libapt itself falls back to root where `_apt` cannot reach them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use apt_ostree_core::digest;
use apt_ostree_core::model::deb822;
use apt_ostree_core::source::SourceConfig;
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use rust_apt::Cache;
use rust_apt::config::{Config, ConfigTree, init_config_system};
use rust_apt::error::AptErrors;

static LIBAPT: Mutex<()> = Mutex::new(());

/// libapt, configured, and nobody else in it as long as this lives.
pub(crate) struct Session {
    _lock: MutexGuard<'static, ()>,
}

impl Session {
    /// Configures libapt. `exclude` are packages that get no candidate.
    pub(crate) fn configure(config: &SourceConfig, exclude: &[String]) -> Result<Self> {
        let lock = LIBAPT.lock().unwrap_or_else(PoisonError::into_inner);
        make_dirs(config).context(|| format!("Preparing {}", config.state.display()))?;
        let etc = config.state.join("etc");
        let sources = etc.join("apt-ostree.sources");
        write_changed(&sources, &effective_sources(config))?;
        if config.reading {
            // libapt makes a cache anew that is older than the list of sources, which is always new here. Whether the cache
            // has these sources it sees from their indexes.
            let file = fs::File::options().write(true).open(&sources)?;
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1))?;
        }
        write_changed(&etc.join("preferences"), &preferences(config, exclude)?)?;
        let status = copy_status(config)?;
        set_all(config, &status)?;
        Ok(Self { _lock: lock })
    }

    /// Opens the package cache with some local .debs added.
    pub(crate) fn open(&self, local: &[String]) -> Result<Cache> {
        // Messages that an earlier operation left behind are not of this one.
        drop(AptErrors::new());
        Cache::new(local).map_err(|e| convert(&e, ErrorKind::Failed)).context(|| "Opening the package cache")
    }
}

/// What stands in the `.sources` file that libapt reads.
pub(crate) fn effective_sources(config: &SourceConfig) -> String {
    let mut text = String::from("# Written for every operation; changes in here are lost.\n");
    for stanza in &config.sources {
        text.push('\n');
        text.push_str(copied_in(stanza).trim());
        text.push('\n');
    }
    text
}

/// `file:` archives as `copy:` ones, which sources.list(5) calls identical but for what is kept: with `file:`, apt's lists are
/// links into the archive, whose content may change after its signature was checked, and .debs stay where they are.
fn copied_in(stanza: &str) -> String {
    if !stanza.contains("file:") {
        return stanza.to_owned();
    }
    let mut text = String::new();
    for mut part in deb822::stanzas(stanza) {
        let uris = part.get("URIs").unwrap_or_default().split_whitespace().map(|uri| match uri.strip_prefix("file:") {
            Some(path) => format!("copy:{path}"),
            None => uri.to_owned(),
        });
        let uris = uris.collect::<Vec<_>>().join(" ");
        part.set("URIs", uris);
        text.push_str(&format!("{part}\n"));
    }
    text
}

fn make_dirs(config: &SourceConfig) -> Result<()> {
    for dir in ["lists", "cache", "archives", "etc", "etc/empty"] {
        let path = config.state.join(dir);
        fs::create_dir_all(&path).context(|| format!("Making {}", path.display()))?;
    }
    for dir in ["lists/partial", "archives/partial"] {
        let path = config.state.join(dir);
        if path.is_dir() {
            continue;
        }
        fs::create_dir_all(&path).context(|| format!("Making {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        // Nothing is downloaded for a question, and the service, which asks some, is a root that may not do this.
        if !config.reading && rustix::process::geteuid().is_root() {
            if let Some(uid) = sandbox_user() {
                chown(&path, Some(uid), Some(0))?;
            }
        }
    }
    Ok(())
}

/// The number of the user that apt downloads as.
fn sandbox_user() -> Option<u32> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|l| l.strip_prefix("_apt:")?.split(':').nth(1)?.parse().ok())
}

fn write_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).context(|| format!("Writing {}", path.display()))
}

/// One preferences file out of all of them. Exclusions come first: the first record that matches decides (apt_preferences(5)).
fn preferences(config: &SourceConfig, exclude: &[String]) -> Result<String> {
    let mut text = String::new();
    for name in exclude {
        // Without an architecture apt means the native one only, and would take the package of another instead.
        let name = if name.contains(':') { name.clone() } else { format!("{name}:any") };
        text.push_str(&format!("Package: {name}\nPin: release *\nPin-Priority: -1\n\n"));
    }
    for path in &config.preferences {
        let mut files = vec![path.clone()];
        if path.is_dir() {
            let entries = fs::read_dir(path).context(|| format!("Reading {}", path.display()))?;
            files = entries.flatten().map(|e| e.path()).filter(|p| is_preferences_part(p)).collect();
            files.sort();
        }
        for file in files.iter().filter(|f| f.is_file()) {
            let part = fs::read_to_string(file).context(|| format!("Reading {}", file.display()))?;
            text.push_str(part.trim());
            text.push_str("\n\n");
        }
    }
    Ok(text)
}

/// apt_preferences(5): no extension or `pref`, only letters, digits, `-`, `_` and `.` in the name.
fn is_preferences_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| e.to_string_lossy());
    !name.starts_with('.')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        && extension.is_none_or(|e| e == "pref")
}

fn copy_status(config: &SourceConfig) -> Result<PathBuf> {
    let content = match fs::read(&config.status) {
        Ok(content) => content,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e).context(|| format!("Reading {}", config.status.display())),
    };
    let etc = config.state.join("etc");
    let name = format!("status-{}", digest::of_bytes(&content));
    let path = etc.join(&name);
    if path.is_file() {
        return Ok(path);
    }
    // Only the latest is kept: bases come and go.
    for entry in fs::read_dir(&etc).context(|| format!("Reading {}", etc.display()))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("status-") {
            fs::remove_file(entry.path()).context(|| format!("Deleting {}", entry.path().display()))?;
        }
    }
    let temporary = etc.join("new-status");
    fs::write(&temporary, content)
        .and_then(|()| fs::rename(&temporary, &path))
        .context(|| format!("Writing {name}"))?;
    Ok(path)
}

/// How the host reaches the network: the `Acquire` tree of its configuration, read once. Left out is what would fetch
/// more indexes than the solver needs, store them in another form, or accept an archive without a signature.
fn host_acquire() -> &'static [(String, String)] {
    static SETTINGS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        Config {}.clear_all();
        rust_apt::raw::config::init_config();
        drop(AptErrors::new());
        let mut list = Vec::new();
        if let Some(tree) = (Config {}).tree("Acquire") {
            collect(&tree, &mut list);
        }
        let dropped = [
            "IndexTargets",
            "Languages",
            "GzipIndexes",
            "Changelogs",
            "Snapshots",
            "Allow",
            "CompressionTypes",
            "By-Hash",
        ];
        list.retain(|(key, _)| {
            !dropped.iter().any(|d| {
                let rest = key.get("Acquire::".len()..).unwrap_or_default();
                rest.to_ascii_lowercase().starts_with(&d.to_ascii_lowercase())
            })
        });
        list
    })
}

fn collect(tree: &ConfigTree, list: &mut Vec<(String, String)>) {
    if let (Some(key), Some(value)) = (tree.full_tag(), tree.value()) {
        list.push((key, value));
    }
    let mut child = tree.child();
    while let Some(node) = child {
        collect(&node, list);
        child = node.sibling();
    }
}

fn set_all(config: &SourceConfig, status: &Path) -> Result<()> {
    let acquire = host_acquire();
    let apt = Config {};
    apt.clear_all();
    // pkgInitConfig sets its defaults only where nothing stands yet, so that these two keep it off the host's files.
    apt.set("Dir::Etc::main", "/dev/null");
    apt.set("Dir::Etc::parts", "/dev/null");
    rust_apt::raw::config::init_config();
    for (key, value) in acquire {
        apt.set(key, value);
    }
    let state = |path: &str| config.state.join(path).display().to_string();
    let empty = state("etc/empty");
    // The cache names its indexes by their paths: by those that the refresh had them under.
    let lists = match fs::read_link(config.state.join("lists")) {
        Ok(target) => target.display().to_string(),
        Err(_) => state("lists"),
    };
    let extended =
        config.extended_states.as_ref().map_or_else(|| state("etc/empty/extended_states"), |p| p.display().to_string());
    let trusted = config.trusted_parts.as_ref().map_or_else(|| empty.clone(), |p| p.display().to_string());
    let settings: &[(&str, &str)] = &[
        ("APT::System", "Debian dpkg interface"),
        ("APT::Architecture", &config.arch),
        ("Dir::State", &config.state.display().to_string()),
        ("Dir::State::lists", &lists),
        ("Dir::State::status", &status.display().to_string()),
        ("Dir::State::extended_states", &extended),
        ("Dir::State::cdroms", "/dev/null"),
        ("Dir::Cache", &state("cache")),
        ("Dir::Cache::archives", &state("archives")),
        // What is asked about is not the base that is solved for: its status must not take the place of the solver's.
        ("Dir::Cache::pkgcache", &if config.reading { String::new() } else { state("cache/pkgcache.bin") }),
        ("Dir::Cache::srcpkgcache", &state("cache/srcpkgcache.bin")),
        ("Dir::Etc::sourcelist", &state("etc/apt-ostree.sources")),
        ("Dir::Etc::sourceparts", "/dev/null"),
        ("Dir::Etc::preferences", &state("etc/preferences")),
        ("Dir::Etc::preferencesparts", "/dev/null"),
        ("Dir::Etc::trusted", "/dev/null"),
        ("Dir::Etc::trustedparts", &trusted),
        ("Dir::Log", &empty),
        ("APT::Install-Recommends", if config.recommends { "true" } else { "false" }),
        ("APT::Install-Suggests", "false"),
        // Phasing depends on the machine; the same request must give the same tree everywhere.
        ("APT::Get::Always-Include-Phased-Updates", "true"),
        ("APT::Update::Error-Mode", "any"),
        ("Acquire::Languages", "none"),
        ("APT::Sandbox::User", "_apt"),
    ];
    for (key, value) in settings {
        apt.set(key, value);
    }
    // Nothing of the host may run, neither before nor after; APT_CONFIG could have brought some back.
    for key in ["DPkg", "APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success"] {
        apt.clear(key);
    }
    for key in ["AptCli", "APT::Default-Release", "APT::Architectures", "Dir::Log::Planner", "Dir::Log::Solver"] {
        apt.clear(key);
    }
    let arches: Vec<&str> =
        std::iter::once(config.arch.as_str()).chain(config.foreign_arches.iter().map(String::as_str)).collect();
    apt.set_vector("APT::Architectures", &arches);
    init_config_system();
    if apt.get_architectures() != arches {
        return Err(Error::failed(format!(
            "libapt already works for the architectures {} in this process and cannot change to {}",
            apt.get_architectures().join(", "),
            arches.join(", ")
        ))
        .hint("Start a new process for another set of architectures."));
    }
    Ok(())
}

/// libapt's messages as one error: the first one is the cause, the others are hints.
pub(crate) fn convert(errors: &AptErrors, fallback: ErrorKind) -> Error {
    let mut messages = errors.iter().filter(|m| m.is_error).map(|m| m.msg.trim().to_owned());
    let first = messages.next().unwrap_or_else(|| "libapt failed without a message".to_owned());
    let mut error = Error::new(classify(&first).unwrap_or(fallback), first);
    for message in messages {
        error = error.hint(message);
    }
    error
}

/// What kind of failure a message of apt's download methods tells of. libapt has no codes for them; the texts are those of
/// acquire-item.cc, gpgv.cc, sqv.cc and connect.cc, in the C locale or any other that keeps them.
pub(crate) fn classify(message: &str) -> Option<ErrorKind> {
    let has = |list: &[&str]| list.iter().any(|part| message.contains(part));
    if has(&["No space left on device", "don't have enough free space"]) {
        Some(ErrorKind::Space)
    } else if has(&[
        "GPG error",
        "signature",
        "NO_PUBKEY",
        "Hash Sum mismatch",
        "is not signed",
        "Clearsigned file",
        "does not verify",
        "unexpected size",
        "is expired",
        "not valid yet",
        "Weak",
        "cannot be authenticated",
    ]) {
        Some(ErrorKind::Verification)
    } else if has(&[
        "Could not connect",
        "Could not resolve",
        "Temporary failure",
        "Failed to fetch",
        "Failed to stat",
        "Connection",
        "404",
    ]) {
        Some(ErrorKind::Network)
    } else {
        None
    }
}

//! Questions about packages, answered by this program in a process of its own: libapt belongs to no process that stays.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use apt_ostree_bus::Dict;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use zbus::zvariant::Value;

use crate::refusal::{Answer, Refusal};
use crate::state::Daemon;
use crate::wire;

/// Reading a cache that has to be built first takes seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

const MAX_NAMES: usize = 256;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Names,
    Provides,
    Search,
}

/// One line of the answer, as `apt-ostree internals packages` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// The part of the question, or the group of a search.
    pub key: String,
    pub name: String,
    /// dpkg's version, epoch and revision included.
    pub version: String,
    pub arch: String,
    pub summary: String,
    /// Suite and component, or empty for what no archive has.
    pub source: String,
}

pub(crate) async fn ask(daemon: &Arc<Daemon>, stateroot: &str, kind: Kind, names: &[String]) -> Answer<Vec<Dict>> {
    if names.len() > MAX_NAMES {
        return Err(Refusal::invalid(format!("More than {MAX_NAMES} names")));
    }
    // Each has libapt's cache in its memory.
    let _turn = daemon.turn().await?;
    let sysroot = &daemon.sysroot;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let kind = match kind {
        Kind::Names => "names",
        Kind::Provides => "provides",
        Kind::Search => "search",
    };
    let mut command = Command::new(&daemon.program);
    command.arg(format!("--sysroot={}", sysroot.display())).args(["internals", "packages", kind]);
    command.arg(format!("--stateroot={stateroot}")).arg("--").args(names);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(TIMEOUT, command.output())
        .await
        .map_err(|_| Refusal::failed("Reading the package indexes takes too long"))?
        .map_err(|e| Refusal::failed(format!("Starting a process to read the package indexes: {e}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Refusal::failed(text.trim().trim_start_matches("error: ").to_owned()));
    }
    let found: Vec<Found> = serde_json::from_slice(&output.stdout).map_err(|e| Refusal::failed(e.to_string()))?;
    Ok(found.into_iter().map(entry).collect())
}

fn entry(found: Found) -> Dict {
    let epoch = found.version.split_once(':').and_then(|(epoch, _)| epoch.parse::<u64>().ok()).unwrap_or_default();
    let evr = apt_ostree_core::model::version::evr(&found.version).to_owned();
    let nevra = format!("{}-{evr}.{}", found.name, found.arch);
    wire::plain([
        ("key", Value::from(found.key)),
        ("name", Value::from(found.name)),
        ("epoch", Value::from(epoch)),
        ("version", Value::from(found.version)),
        ("arch", Value::from(found.arch)),
        ("nevra", Value::from(nevra)),
        ("evr", Value::from(evr)),
        ("summary", Value::from(found.summary)),
        ("reponame", Value::from(found.source)),
    ])
}

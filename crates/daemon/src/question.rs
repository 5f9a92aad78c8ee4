//! Questions about a sysroot and about packages. Each is answered by a process of its own, `apt-ostree internals`: the service
//! links neither libostree nor libapt, so it is small, and what goes wrong in them is the end of an answer, never of the service.
//! Nothing is locked or changed but by [`Question::Clean`].

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use apt_ostree_bus::{Dict, DiffEntry};
use apt_ostree_core::model::diff::PackageDiff;
use apt_ostree_core::{Context, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::refusal::Answer;
use crate::state::Daemon;
use crate::wire;

/// Much more than any of them takes; a disk that hangs must not hold up the service for ever.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// What `apt-ostree internals answer` reads from its stdin. It writes the answer, or the error, as JSON (see [`Reply`]).
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "kebab-case")]
pub enum Question {
    /// Deployments and the cached update: a [`Sysroot`].
    Sysroot,
    /// The boot entry of a deployment: a dictionary.
    BootConfig { stateroot: String, id: String, pending: bool },
    /// The apt sources of the machine, with those that are switched off: a list of dictionaries.
    Sources { stateroot: String },
    /// Between two deployments: a [`PackageDiff`].
    DeploymentsDiff { stateroot: String, from: String, to: String },
    /// From the booted deployment to a revision or ref of the repository: a [`Difference`].
    RevisionDiff { stateroot: String, revision: String },
    /// Nothing is asked: what a worker left that was killed is removed.
    Clean,
}

/// The sysroot at one moment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sysroot {
    /// Deployments in boot order, as `status --json` has them.
    pub deployments: Vec<Json>,
    pub cached_update: Option<Json>,
}

/// Packages of the base against those of the target, and what is to say of the target.
#[derive(Debug, Serialize, Deserialize)]
pub struct Difference {
    pub packages: PackageDiff,
    pub target: Map<String, Json>,
}

/// The one line that the process writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    Answer(T),
    Error(Error),
}

/// Asks, whoever else is asking.
pub(crate) async fn ask<T: DeserializeOwned>(program: &Path, sysroot: &Path, question: &Question) -> Result<T> {
    ask_within(program, sysroot, question, TIMEOUT).await
}

pub(crate) async fn ask_within<T: DeserializeOwned>(
    program: &Path,
    sysroot: &Path,
    question: &Question,
    timeout: Duration,
) -> Result<T> {
    let document = serde_json::to_vec(question).context(|| "Writing a question")?;
    let mut command = Command::new(program);
    command.arg(format!("--sysroot={}", sysroot.display())).args(["internals", "answer"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context(|| format!("Starting {}", program.display()))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A process that is gone already says why by its exit status. Both at once, as it need not read before it writes.
    let both =
        async { tokio::join!(async move { drop(stdin.write_all(&document).await) }, child.wait_with_output()).1 };
    let output = tokio::time::timeout(timeout, both)
        .await
        .map_err(|_| Error::failed("Reading the system takes too long"))?
        .context(|| "Waiting for the process that reads the system")?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Reply::Answer(answer)) => Ok(answer),
        Ok(Reply::Error(error)) => Err(error),
        Err(_) => {
            Err(Error::failed(format!("The process that reads the system ended without an answer ({})", output.status)))
        }
    }
}

/// Asks for a caller, who waits for his turn.
async fn ask_in_turn<T: DeserializeOwned>(daemon: &Arc<Daemon>, question: &Question) -> Answer<T> {
    let _turn = daemon.turn().await?;
    Ok(ask(&daemon.program, &daemon.sysroot, question).await?)
}

/// `title`, `linux`, `initrd`, `options`, `version` and `staged`; a staged deployment has no entry yet, only arguments.
pub(crate) async fn boot_config(daemon: &Arc<Daemon>, stateroot: &str, id: &str, pending: bool) -> Answer<Dict> {
    let question = Question::BootConfig { stateroot: stateroot.to_owned(), id: id.to_owned(), pending };
    Ok(wire::nearest(&ask_in_turn(daemon, &question).await?))
}

/// The apt sources of the machine, with those that are switched off.
pub(crate) async fn sources(daemon: &Arc<Daemon>, stateroot: &str) -> Answer<Vec<Dict>> {
    let question = Question::Sources { stateroot: stateroot.to_owned() };
    let list: Vec<Json> = ask_in_turn(daemon, &question).await?;
    Ok(list.iter().map(wire::nearest).collect())
}

/// What is different between two deployments: the booted one and the next one for empty ids.
pub(crate) async fn deployments_diff(
    daemon: &Arc<Daemon>,
    stateroot: &str,
    from: &str,
    to: &str,
) -> Answer<Vec<DiffEntry>> {
    let (stateroot, from, to) = (stateroot.to_owned(), from.to_owned(), to.to_owned());
    let diff: PackageDiff = ask_in_turn(daemon, &Question::DeploymentsDiff { stateroot, from, to }).await?;
    Ok(wire::package_diff(&diff))
}

/// From the booted deployment to a revision or ref of the repository.
pub(crate) async fn revision_diff(
    daemon: &Arc<Daemon>,
    stateroot: &str,
    revision: &str,
) -> Answer<(Vec<DiffEntry>, Dict)> {
    let (stateroot, revision) = (stateroot.to_owned(), revision.to_owned());
    let difference: Difference = ask_in_turn(daemon, &Question::RevisionDiff { stateroot, revision }).await?;
    Ok((wire::package_diff(&difference.packages), wire::update(&Json::Object(difference.target))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_process_need_not_read_before_it_writes() {
        let dir = tempfile::tempdir().expect("a folder");
        let ask = |text: &str, timeout: Duration| {
            let program = dir.path().join("program");
            // Not written by this process, as another thread could start one meanwhile, which would have it open.
            let script = format!("#!/bin/sh\n{text}\n");
            let mut sh = std::process::Command::new("sh");
            let done = sh.args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &script]).arg(&program).status().expect("sh");
            assert!(done.success());
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("own file");
            let question = Question::Sources { stateroot: "x".repeat(1 << 20) };
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(ask_within::<u32>(&program, Path::new("/"), &question, timeout))
        };
        let spaces = "head -c 1000000 /dev/zero | tr '\\0' ' '";
        assert_eq!(ask(&format!("{spaces}; cat > /dev/null; echo '{{\"answer\":7}}'"), TIMEOUT).ok(), Some(7));
        // One that never reads ends with the time.
        let error = ask("exec sleep 3600", Duration::from_millis(100)).expect_err("no answer");
        assert!(error.to_string().contains("takes too long"), "{error}");
    }
}

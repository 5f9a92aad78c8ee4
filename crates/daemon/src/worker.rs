//! The service's side of a worker process: starts it, hands its lines on, ends it when the transaction is cancelled.
//!
//! Owns the process and its unit; knows nothing of the bus. Protocol: `cli/src/worker.rs`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use apt_ostree_core::operation::interruption;
use apt_ostree_core::operation::{Line, Report, Request};
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::launch::{self, Launch};
use crate::question::{self, Question};
use crate::transaction::raised;

/// How long a worker may clean up after SIGTERM; systemd has the same number in the unit.
const GRACE: Duration = Duration::from_secs(10);

/// Runs one request; `line` gets every line but the last. `cancelled` turns true to end it.
pub(crate) async fn run(
    program: &Path,
    request: &Request,
    unit: Option<&Unit>,
    cancelled: watch::Receiver<bool>,
    mut line: impl FnMut(Line),
) -> Result<Report> {
    if *cancelled.borrow() {
        return Err(Error::new(ErrorKind::Cancelled, "Transaction cancelled"));
    }
    let document = serde_json::to_vec(request).context(|| "Writing the request")?;
    let Launch { command, generator: _generator } = match unit {
        Some(unit) => launch::worker_unit(program, &unit.name, &unit.service, &unit.title)?,
        None => launch::worker(program)?,
    };
    let mut command = Command::from(command);
    if unit.is_none() {
        command.process_group(0);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(|| "Starting the worker process")?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    // A worker that is gone already says why by its exit status.
    let _ = stdin.write_all(&document).await;
    drop(stdin);
    let mut answer = None;
    let cancel = raised(cancelled.clone());
    tokio::pin!(cancel);
    let mut ended = false;
    loop {
        tokio::select! {
            next = lines.next_line() => match next {
                Ok(Some(text)) => match serde_json::from_str(&text) {
                    Ok(Line::Report { report }) => answer = Some(Ok(*report)),
                    Ok(Line::Error { error }) => answer = Some(Err(error)),
                    Ok(event) => line(event),
                    // Something in the worker wrote to its stdout: not for clients.
                    Err(_) => crate::journal::note(&text),
                },
                Ok(None) => break,
                // A line that is no text. Whatever wrote it, the worker's own lines go on.
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {}
                Err(_) => break,
            },
            // What it had written before stays to be read: a report that was made is the truth.
            () = &mut cancel, if !ended => {
                end(&mut child, group, unit).await;
                ended = true;
            }
        }
    }
    let cancelled = *cancelled.borrow();
    let status = child.wait().await.context(|| "Waiting for the worker process")?;
    if unit.is_none() {
        // Children that left the worker's control but not its group.
        group.signal(Signal::KILL);
    }
    match answer {
        Some(answer) => answer,
        None => {
            if unit.is_none() {
                // The outcome is the news, and the next transaction empties it as well.
                let _ = question::ask::<()>(program, &request.sysroot, &Question::Clean).await;
            }
            Err(if cancelled {
                Error::new(ErrorKind::Cancelled, "Transaction cancelled")
            } else {
                interruption::died(status)
            })
        }
    }
}

/// A worker's unit.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) name: String,
    /// The unit of the service.
    pub(crate) service: String,
    pub(crate) title: String,
}

/// Ends the worker and everything it started, also what ignores SIGTERM.
async fn end(child: &mut Child, group: Group, unit: Option<&Unit>) {
    if let Some(unit) = unit {
        // SIGTERM, and SIGKILL of the whole control group after the unit's TimeoutStopSec. A unit that is only about to be started
        // cannot be stopped yet: systemd-run, which waits for it, tells when it is gone.
        loop {
            let mut command = Command::new("systemctl");
            let stopped = command.args(["stop", &unit.name]).stdin(Stdio::null()).stderr(Stdio::null()).status().await;
            if stopped.is_ok_and(|status| status.success()) {
                return;
            }
            if tokio::time::timeout(Duration::from_millis(200), child.wait()).await.is_ok() {
                return;
            }
        }
    }
    group.signal(Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        group.signal(Signal::KILL);
    }
}

/// The process group that the worker leads.
#[derive(Clone, Copy)]
struct Group(Option<Pid>);

impl Group {
    /// To the whole group; an empty one is fine.
    fn signal(self, signal: Signal) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, signal);
        }
    }
}

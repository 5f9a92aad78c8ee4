//! The service's side of a worker process: starts it, hands its lines on, ends it when the transaction is cancelled.
//!
//! Owns the process and its unit; knows nothing of the bus. Protocol: `cli/src/worker.rs`.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
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
    line: impl FnMut(Line),
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
    let cancel = cancelled.clone();
    let ended = attend(command, &document, unit, cancel, line).await?;
    if ended.answer.is_none() && unit.is_none() {
        // The outcome is the news, and the next transaction empties it as well.
        let _ = question::ask::<()>(program, &request.sysroot, &Question::Clean).await;
    }
    let cancelled = *cancelled.borrow();
    ended.outcome(cancelled)
}

/// What there is of a worker when it is gone.
struct Ended {
    answer: Option<Result<Report>>,
    status: ExitStatus,
    /// How systemd says that its unit ended; empty without one.
    unit_result: String,
}

impl Ended {
    fn outcome(self, cancelled: bool) -> Result<Report> {
        match self.answer {
            Some(Ok(report)) => Ok(report),
            // Whatever was killed, the worker itself or a script that it waited for, and whatever it said of that.
            _ if self.unit_result == "oom-kill" => Err(interruption::out_of_memory()),
            Some(answer) => answer,
            None if cancelled => Err(Error::new(ErrorKind::Cancelled, "Transaction cancelled")),
            None if self.unit_result.is_empty() => Err(interruption::died(self.status)),
            None => {
                let says = format!("systemd says of its unit: {}", self.unit_result);
                Err(interruption::died(self.status).hint(says))
            }
        }
    }
}

/// Starts the worker and reads its lines to the end.
async fn attend(
    mut command: Command,
    document: &[u8],
    unit: Option<&Unit>,
    cancelled: watch::Receiver<bool>,
    mut line: impl FnMut(Line),
) -> Result<Ended> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(|| "Starting the worker process")?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    // A worker that is gone already says why by its exit status.
    let _ = stdin.write_all(document).await;
    drop(stdin);
    let (mut answer, mut unit_result) = (None, String::new());
    let cancel = raised(cancelled);
    tokio::pin!(cancel);
    let mut ended = false;
    loop {
        tokio::select! {
            next = lines.next_line() => match next {
                Ok(Some(text)) => match serde_json::from_str(&text) {
                    Ok(Line::Report { report }) => answer = Some(Ok(*report)),
                    Ok(Line::Error { error }) => answer = Some(Err(error)),
                    Ok(event) => line(event),
                    Err(_) => match text.rsplit_once(launch::RESULT) {
                        // It may follow half a line of a worker that was killed.
                        Some((_, result)) if unit.is_some() => result.clone_into(&mut unit_result),
                        // Something in the worker wrote to its stdout: not for clients.
                        _ => crate::journal::note(&text),
                    },
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
    let status = child.wait().await.context(|| "Waiting for the worker process")?;
    if unit.is_none() {
        // Children that left the worker's control but not its group.
        group.signal(Signal::KILL);
    }
    Ok(Ended { answer, status, unit_result })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script as what runs a unit.
    fn script(text: &str, in_unit: bool) -> Result<Report> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read -r request; {text}")]);
        let unit = Unit { name: "none.service".into(), service: String::new(), title: String::new() };
        let (_keep, cancelled) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let ended = runtime.block_on(attend(command, b"{}\n", in_unit.then_some(&unit), cancelled, |_| {}));
        ended.expect("it starts").outcome(false)
    }

    #[test]
    fn memory_that_ran_out_is_told_as_that() {
        let error = serde_json::to_string(&Line::Error { error: Error::new(ErrorKind::Script, "killed") }).unwrap();
        let report = serde_json::to_string(&Line::Report { report: Box::default() }).unwrap();
        let result = |result: &str| format!("echo {}{result}; exit 1", launch::RESULT);
        // Killed in the middle of a line; a script of its was killed, which it could still tell.
        for said in ["printf '{\"event\":'".to_owned(), format!("echo '{error}'"), "true".to_owned()] {
            let e = script(&format!("{said}; {}", result("oom-kill")), true).unwrap_err();
            assert!(e.to_string().starts_with("The transaction needed more memory than there is"), "{e:?}");
            assert!(e.hints[0].starts_with("Nothing was changed"), "{e:?}");
        }
        // What was done is done, and other ends are others.
        script(&format!("echo '{report}'; {}", result("oom-kill")), true).unwrap();
        assert_eq!(
            script(&format!("echo '{error}'; {}", result("exit-code")), true).unwrap_err().to_string(),
            "killed"
        );
        let e = script(&result("signal"), true).unwrap_err();
        assert_eq!(e.hints.last().unwrap(), "systemd says of its unit: signal");
        // Without a unit nobody else says such a thing.
        let e = script(&result("oom-kill"), false).unwrap_err();
        assert!(e.to_string().starts_with("The worker process ended without a report"), "{e:?}");
    }
}

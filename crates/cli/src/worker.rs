//! The parent's side of a transaction: starts the worker process, shows its events, hands back its report.
//!
//! Protocol: one JSON document, a [`Request`], on the worker's stdin, which is then closed; on its stdout one JSON object a
//! line, any number of events (`{"event":…}`), at last one of `{"report":…}` and `{"error":…}`. Its stderr is the user's.
//! The worker leads a process group and has a mount namespace of its own, so that nothing it mounts or starts outlives
//! it: cancelling is SIGTERM to the group, and SIGKILL after [`GRACE`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use apt_ostree_core::last_transaction::LastTransaction;
use apt_ostree_core::operation::interruption;
use apt_ostree_core::operation::{Line, Report, Request, Verb, disk_image};
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use apt_ostree_daemon::launch::{self, Launch};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::terminal::Terminal;

/// How long the worker may clean up after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

enum Message {
    Line(String),
    End,
    Signal(i32),
}

/// Runs the request to its end.
pub(crate) fn run(request: &Request, terminal: &Terminal) -> Result<Report> {
    let document = serde_json::to_vec(request).context(|| "Writing the request")?;
    let Launch { command, generator: _generator } = launch::worker(&crate::start::program()?)?;
    let (outcome, answered) = run_command(command, &document, terminal);
    // A worker that was killed leaves its scratch space. One that answered has cleaned up, but for the tree of a failed
    // script, where it can be run again: a mistyped command must not take that away.
    if !answered {
        // The outcome is the news, and the next transaction empties it as well.
        let _ = match &request.verb {
            Verb::ComposeTree(compose) => compose.repo.as_deref().map_or(Ok(()), interruption::clean_repo),
            Verb::DiskImage(image) => disk_image::clean(&image.output),
            _ => interruption::clean_sysroot(&request.sysroot),
        };
    }
    remember(request, &outcome);
    outcome
}

/// What `status` told of the last transaction of the service is true no more. A sysroot that no service told anything of is left as it is,
/// but for the running system.
fn remember(request: &Request, outcome: &Result<Report>) {
    let root = &request.sysroot;
    let Some((method, title)) = apt_ostree_daemon::names(request) else { return };
    let has_begun = outcome.as_ref().err().is_none_or(|e| e.kind != ErrorKind::Busy);
    if has_begun && (root == Path::new("/") || LastTransaction::read(root).is_some()) {
        let initiator = format!("client(id:cli uid:{})", rustix::process::getuid().as_raw());
        // The outcome is the news, and it is told at once.
        let _ = LastTransaction::new(method, &title, &initiator, outcome.as_ref().map(drop)).write(root);
    }
}

/// Runs a program that speaks the worker's protocol. Also says whether it answered: false when it was killed or died.
fn run_command(command: Command, document: &[u8], terminal: &Terminal) -> (Result<Report>, bool) {
    let (sender, messages) = channel();
    // Before the worker is there, so that no signal is missed.
    let mut signals = match Signals::new([SIGINT, SIGTERM]).context(|| "Catching signals") {
        Ok(signals) => signals,
        Err(e) => return (Err(e), true),
    };
    let handle = signals.handle();
    let from_signals = sender.clone();
    std::thread::spawn(move || signals.forever().all(|signal| from_signals.send(Message::Signal(signal)).is_ok()));
    let answer = spawn(command, document).map(|(child, stdout)| {
        read_lines(stdout, sender);
        Worker { child, cancelled_at: None }.wait(&messages, terminal)
    });
    handle.close();
    let (outcome, answered) = match answer {
        Ok(Ok(answer)) => (answer, true),
        Ok(Err(died)) => (Err(died), false),
        Err(e) => (Err(e), true),
    };
    if outcome.is_err() {
        terminal.drop_tasks();
    }
    (outcome, answered)
}

fn spawn(mut command: Command, document: &[u8]) -> Result<(Child, ChildStdout)> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context(|| "Starting the worker process")?;
    // A worker that is gone already says why by its exit status.
    let _ = child.stdin.take().expect("stdin is piped").write_all(document);
    let stdout = child.stdout.take().expect("stdout is piped");
    Ok((child, stdout))
}

fn read_lines(stdout: ChildStdout, sender: Sender<Message>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(Message::Line(String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
        }
        let _ = sender.send(Message::End);
    });
}

struct Worker {
    child: Child,
    /// When SIGTERM was sent.
    cancelled_at: Option<Instant>,
}

impl Worker {
    /// The worker's answer, or the error that it ended without one.
    fn wait(mut self, messages: &Receiver<Message>, terminal: &Terminal) -> Result<Result<Report>> {
        let mut answer = None;
        loop {
            let message = match self.cancelled_at {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => messages.recv_timeout(GRACE.saturating_sub(at.elapsed())),
            };
            match message {
                Ok(Message::Line(line)) => match serde_json::from_str(&line) {
                    Ok(Line::Event(event)) => terminal.event(&event),
                    Ok(Line::Report { report }) => answer = Some(Ok(*report)),
                    Ok(Line::Error { error }) => answer = Some(Err(error)),
                    // Something in the worker wrote to its stdout: not for us, but not lost either.
                    Err(_) => terminal.notice(&line),
                },
                Ok(Message::Signal(signal)) => self.cancel(signal, terminal),
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.signal(Signal::KILL);
                    break;
                }
            }
        }
        let status = self.child.wait().context(|| "Waiting for the worker process")?;
        if self.cancelled_at.is_some() {
            // Children that left the worker's control but not its group.
            self.signal(Signal::KILL);
        }
        match answer {
            Some(answer) => Ok(answer),
            None if self.cancelled_at.is_some() => Err(Error::new(ErrorKind::Cancelled, "Transaction cancelled")),
            None => Err(interruption::died(status)),
        }
    }

    fn cancel(&mut self, signal: i32, terminal: &Terminal) {
        if self.cancelled_at.is_some() {
            // Asked twice: do not wait any longer.
            return self.signal(Signal::KILL);
        }
        terminal.drop_tasks();
        let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
        terminal.notice(&format!("Caught {name}, cancelling transaction"));
        self.signal(Signal::TERM);
        self.cancelled_at = Some(Instant::now());
    }

    /// To the whole process group; an empty one is fine.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use apt_ostree_core::event::Event;

    use super::*;

    /// A shell script as the worker. One at a time: a signal reaches every run of the process.
    fn script(text: &str) -> Result<Report> {
        static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        run_command(command, b"{}", &Terminal::from_environment().without_progress()).0
    }

    #[test]
    fn a_report_and_an_error_come_back() {
        let report =
            serde_json::to_string(&Line::Report { report: Box::new(Report { changed: true, ..Report::default() }) });
        let text =
            format!("read x; echo '{{\"event\":\"message\",\"text\":\"m\"}}'; echo noise; echo '{}'", report.unwrap());
        assert!(script(&text).unwrap().changed);
        let error = serde_json::to_string(&Line::Error { error: Error::new(ErrorKind::Space, "full") }).unwrap();
        assert_eq!(script(&format!("echo '{error}'; exit 1")).unwrap_err().kind, ErrorKind::Space);
    }

    #[test]
    fn a_worker_that_dies_is_an_error() {
        let e = script("exit 3").unwrap_err();
        assert!(e.to_string().contains("exit status 3") && e.hints[0].starts_with("Nothing was changed"), "{e:?}");
        let e = script("kill -9 $$").unwrap_err();
        assert!(e.to_string().contains("signal 9"), "{e:?}");
    }

    #[test]
    fn a_signal_cancels_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        // The worker asks its parent, as Ctrl-C would, and its child outlives it unless the group is ended.
        let e = script(&format!("sleep 1000 >/dev/null & echo $! > {}; kill -INT $PPID; wait", pid_file.display()))
            .unwrap_err();
        assert_eq!(e.kind, ErrorKind::Cancelled);
        let pid = std::fs::read_to_string(pid_file).unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
            // Nobody may be there to reap it.
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let end = Instant::now() + Duration::from_secs(20);
        while !gone() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(), "process {pid} is still there");
    }

    #[test]
    fn lines_are_told_apart() {
        let parse = |text: &str| serde_json::from_str::<Line>(text).unwrap();
        assert!(matches!(parse(r#"{"event":"task-begin","text":"x"}"#), Line::Event(Event::TaskBegin { .. })));
        let report = serde_json::to_string(&Line::Report { report: Box::default() }).unwrap();
        assert!(matches!(parse(&report), Line::Report { .. }), "{report}");
        let error = serde_json::to_string(&Line::Error { error: Error::failed("x") }).unwrap();
        assert!(matches!(parse(&error), Line::Error { .. }), "{error}");
        assert!(serde_json::from_str::<Line>("Reading database ...").is_err());
    }
}

//! The worker process: reads one request, does it with the engine, writes events and the report. See `worker` for the
//! protocol.
//!
//! SIGTERM keeps its default action: death is what cancels. Everything that must not outlive the worker is bound to it
//! (mount namespace, process group, `--die-with-parent`).

use std::any::Any;
use std::fs::File;
use std::io::{Read, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Mutex;

use apt_ostree_apt::AptSource;
use apt_ostree_core::event::{Event, EventSink};
use apt_ostree_core::operation::transaction::Ports;
use apt_ostree_core::operation::{self, Line, Report, Request};
use apt_ostree_core::sandbox::bubblewrap::Bubblewrap;
use apt_ostree_core::{Context, Error, Result};

/// Writes events as lines on what was stdout when the process started.
struct PipeSink(Mutex<File>);

impl PipeSink {
    fn write(&self, line: &Line) {
        let mut text = serde_json::to_vec(line).expect("lines have string keys only");
        text.push(b'\n');
        let mut pipe = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if pipe.write_all(&text).is_err() {
            // Nobody is there to answer for what this process does.
            std::process::exit(1);
        }
    }
}

impl EventSink for PipeSink {
    fn emit(&self, event: Event) {
        self.write(&Line::Event(event));
    }
}

/// The whole life of the worker.
pub(crate) fn main() -> ExitCode {
    let sink = match take_stdout() {
        Ok(pipe) => PipeSink(Mutex::new(pipe)),
        Err(_) => return ExitCode::FAILURE,
    };
    let outcome = read_request().and_then(|request| {
        std::panic::catch_unwind(AssertUnwindSafe(|| run_request(&request, &sink)))
            .unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
    });
    let failed = outcome.is_err();
    sink.write(&match outcome {
        Ok(report) => Line::Report { report: Box::new(report) },
        Err(error) => Line::Error { error },
    });
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Keeps stdout for the protocol; what libraries and child processes write to theirs goes to stderr.
fn take_stdout() -> Result<File> {
    // A program that is killed takes its worker along: nobody would hear of the outcome. Not SIGTERM, which a library may
    // have taken for itself; what stays is scratch space, and the next transaction empties it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(pipe))
}

fn read_request() -> Result<Request> {
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).context(|| "Reading the request")?;
    serde_json::from_slice(&text).context(|| "Reading the request")
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    Error::failed(format!("Internal error: {}", text.unwrap_or_else(|| "a panic without a message".into())))
        .hint("This is a bug of apt-ostree; please report it with the command line and the lines above.")
        .hint("Nothing was changed: a new deployment appears only once it is complete.")
}

/// Hands the request to the engine with the real ports: libapt and bubblewrap.
fn run_request(request: &Request, events: &dyn EventSink) -> Result<Report> {
    let mut packages = AptSource::new();
    let ports = Ports { packages: &mut packages, sandbox: &Bubblewrap, events };
    operation::run(request, ports)
}

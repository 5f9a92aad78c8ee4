//! Progress as data. The engine emits events, a terminal (or the bus) renders them; the engine never prints.

use serde::{Deserialize, Serialize};

/// One step of progress. Sent as one JSON line each from the worker to its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A task started, e.g. `Resolving dependencies`. Ended by the next [`Event::TaskEnd`].
    TaskBegin { text: String },
    /// The running task ended; `suffix` is `done` or a count.
    TaskEnd { suffix: String },
    /// Progress inside the running task, in units of its own (packages, objects).
    Progress { done: u64, total: u64, item: String },
    /// Download progress: bytes of the whole, and bytes per second.
    Download { done: u64, total: u64, rate: u64 },
    /// One line for the user.
    Message { text: String },
    /// One line the user should see even with `--quiet`.
    Warning { text: String },
    /// Output of a command in the sandbox; shown with `--verbose`, kept for error reports.
    Output { line: String },
}

/// Port: where events go.
pub trait EventSink {
    fn emit(&self, event: Event);
}

/// Convenience on every sink, so that callers read like the transcript they produce.
pub trait EventSinkExt: EventSink {
    fn message(&self, text: impl Into<String>) {
        self.emit(Event::Message { text: text.into() });
    }
    fn warning(&self, text: impl Into<String>) {
        self.emit(Event::Warning { text: text.into() });
    }
    fn progress(&self, done: u64, total: u64, item: impl Into<String>) {
        self.emit(Event::Progress { done, total, item: item.into() });
    }
    /// Runs `work` as a named task; the suffix is `done`. On an error the task is left open for the error to close.
    fn task<T>(&self, text: impl Into<String>, work: impl FnOnce() -> crate::Result<T>) -> crate::Result<T> {
        self.emit(Event::TaskBegin { text: text.into() });
        let value = work()?;
        self.emit(Event::TaskEnd { suffix: "done".into() });
        Ok(value)
    }
}

impl<S: EventSink + ?Sized> EventSinkExt for S {}

/// A sink that drops everything.
#[derive(Debug, Default)]
pub struct NullSink;

impl EventSink for NullSink {
    fn emit(&self, _event: Event) {}
}

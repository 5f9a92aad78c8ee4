//! What a transaction tells, and the queue of one client.
//!
//! A client that does not read holds nothing up and is not given up either: of what it misses, the progress goes first. The
//! answer and `Finished` always have a place.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Signals that wait for a client.
const SIGNALS: usize = 4096;
/// The bytes of their texts.
const BYTES: usize = 4 << 20;

/// A signal of the transaction, in the words of the contract or as the worker's own line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// `passing`: progress, and what scripts say; the log has it all.
    Line {
        text: String,
        passing: bool,
    },
    /// The last line: the report, or the error.
    Answer(String),
    Message(String),
    TaskBegin(String),
    TaskEnd(String),
    Percent(String, u32),
    Download {
        done: u64,
        total: u64,
        rate: u64,
        seconds: u64,
    },
    ProgressEnd,
    Finished(bool, String),
}

impl Signal {
    fn is_passing(&self) -> bool {
        matches!(self, Self::Line { passing: true, .. } | Self::Percent(..) | Self::Download { .. })
    }

    fn is_last(&self) -> bool {
        matches!(self, Self::Answer(_) | Self::Finished(..))
    }

    fn size(&self) -> usize {
        match self {
            Self::Line { text, .. }
            | Self::Answer(text)
            | Self::Message(text)
            | Self::TaskBegin(text)
            | Self::TaskEnd(text)
            | Self::Percent(text, _)
            | Self::Finished(_, text) => text.len(),
            Self::Download { .. } | Self::ProgressEnd => 0,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    signals: VecDeque<Arc<Signal>>,
    bytes: usize,
    /// How many of them are passing.
    passing: usize,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, signal: &Arc<Signal>) {
        self.waiting().push(signal);
        self.news.notify_one();
    }

    pub(crate) async fn next(&self) -> Arc<Signal> {
        loop {
            if let Some(signal) = self.waiting().pop() {
                return signal;
            }
            self.news.notified().await;
        }
    }
}

impl Waiting {
    fn push(&mut self, signal: &Arc<Signal>) {
        if !signal.is_last() && self.is_full_for(signal) {
            if self.passing > 0 {
                self.signals.retain(|s| !s.is_passing());
                self.passing = 0;
                self.bytes = self.signals.iter().map(|s| s.size()).sum();
            }
            while self.is_full_for(signal) && !self.signals.is_empty() {
                if signal.is_passing() || self.signals.front().is_some_and(|s| s.is_last()) {
                    return;
                }
                self.pop();
            }
        }
        self.bytes += signal.size();
        self.passing += usize::from(signal.is_passing());
        self.signals.push_back(signal.clone());
    }

    fn is_full_for(&self, signal: &Signal) -> bool {
        self.signals.len() >= SIGNALS || self.bytes + signal.size() > BYTES
    }

    fn pop(&mut self) -> Option<Arc<Signal>> {
        let signal = self.signals.pop_front()?;
        self.bytes -= signal.size();
        self.passing -= usize::from(signal.is_passing());
        Some(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &Queue, count: usize, make: impl Fn(usize) -> Signal) {
        (0..count).for_each(|n| queue.push(&Arc::new(make(n))));
    }

    fn rest(queue: &Queue) -> Vec<Signal> {
        let mut waiting = queue.waiting();
        let mut all = Vec::new();
        while let Some(signal) = waiting.pop() {
            all.push((*signal).clone());
        }
        assert_eq!((waiting.bytes, waiting.passing), (0, 0));
        all
    }

    fn line(n: usize) -> Signal {
        Signal::Line { text: n.to_string(), passing: true }
    }

    #[test]
    fn progress_goes_first() {
        let queue = Queue::default();
        fill(&queue, 10, |n| Signal::Message(n.to_string()));
        fill(&queue, 3 * SIGNALS, line);
        fill(&queue, 1, |_| Signal::Answer("answer".into()));
        fill(&queue, 1, |_| Signal::Finished(true, String::new()));
        let rest = rest(&queue);
        assert!(rest.len() <= SIGNALS + 2, "{}", rest.len());
        assert_eq!(rest[9], Signal::Message("9".into()));
        assert_eq!(rest[rest.len() - 3], line(3 * SIGNALS - 1));
        assert_eq!(rest[rest.len() - 2..], [Signal::Answer("answer".into()), Signal::Finished(true, String::new())]);
    }

    #[test]
    fn the_answer_has_a_place() {
        let queue = Queue::default();
        fill(&queue, 2 * SIGNALS, |n| Signal::Message(n.to_string()));
        fill(&queue, 5, line);
        let long = "x".repeat(2 * BYTES);
        fill(&queue, 1, |_| Signal::Answer(long.clone()));
        fill(&queue, 1, |_| Signal::Finished(false, "text".into()));
        let rest = rest(&queue);
        // The oldest are gone; progress does not drive out what is more.
        assert_eq!(rest.len(), SIGNALS + 2);
        assert_eq!(rest[0], Signal::Message(SIGNALS.to_string()));
        assert_eq!(rest[SIGNALS..], [Signal::Answer(long), Signal::Finished(false, "text".into())]);
    }

    #[test]
    fn texts_are_counted_in_bytes() {
        let queue = Queue::default();
        let text = "x".repeat(BYTES / 4);
        fill(&queue, 20, |n| Signal::Message(format!("{n}{text}")));
        let count = rest(&queue).len();
        assert_eq!(count, 3);
        // One that is too large on its own is told all the same.
        fill(&queue, 1, |_| Signal::Message("x".repeat(BYTES + 1)));
        assert_eq!(rest(&queue).len(), 1);
    }
}

//! `apt-get update`, with every failure an error.
//!
//! libapt replaces the indexes of a source only when all of them arrived and verified, so that the old ones stay usable
//! after a failure. The sources and architectures of the last complete refresh are kept in `etc/refreshed`.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use apt_ostree_core::event::{Event, EventSink};
use apt_ostree_core::source::SourceConfig;
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use rust_apt::error::AptErrors;
use rust_apt::progress::{AcquireProgress, DynAcquireProgress};
use rust_apt::raw::{AcqTextStatus, ItemDesc, ItemState, PkgAcquire};

use crate::session::{Session, classify, effective_sources};

/// One item that libapt could not get.
#[derive(Debug)]
pub(crate) struct Failure {
    /// `http://host/debian trixie InRelease`, as `apt-get` prints it.
    pub(crate) description: String,
    /// The package, for .debs.
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) kind: ErrorKind,
}

/// Turns libapt's progress into events and remembers what failed.
pub(crate) struct Progress<'a> {
    pub(crate) events: &'a dyn EventSink,
    pub(crate) failures: Rc<RefCell<Vec<Failure>>>,
    /// Bytes that libapt counts although they were there before.
    pub(crate) present: u64,
    /// Bytes to get, where known beforehand.
    pub(crate) total: Option<u64>,
}

impl Progress<'_> {
    fn report(&self, status: &AcqTextStatus) {
        let done = status.current_bytes().saturating_sub(self.present);
        let total = self.total.unwrap_or_else(|| status.total_bytes()).max(done);
        self.events.emit(Event::Download { done, total, rate: status.current_cps() });
    }
}

impl DynAcquireProgress for Progress<'_> {
    /// Microseconds; four times a second is smooth enough for a bar.
    fn pulse_interval(&self) -> usize {
        250_000
    }

    fn hit(&mut self, _item: &ItemDesc) {}

    fn fetch(&mut self, _item: &ItemDesc) {}

    fn fail(&mut self, item: &ItemDesc) {
        let owner = item.owner();
        let state = owner.status();
        // libapt also "fails" optional indexes that an archive does not have; those stay idle or count as done.
        if state == ItemState::StatIdle || state == ItemState::StatDone {
            return;
        }
        let reason = owner.error_text().trim().to_owned();
        let kind = if state == ItemState::StatAuthError {
            ErrorKind::Verification
        } else {
            let fallback =
                if state == ItemState::StatTransientNetworkError { ErrorKind::Network } else { ErrorKind::Failed };
            classify(&reason).unwrap_or(fallback)
        };
        self.failures.borrow_mut().push(Failure {
            // As the user wrote it (see `copied_in`).
            description: item.description().replacen("copy:", "file:", 1),
            name: item.short_desc(),
            reason,
            kind,
        });
    }

    fn pulse(&mut self, status: &AcqTextStatus, _owner: &PkgAcquire) {
        self.report(status);
    }

    fn done(&mut self, _item: &ItemDesc) {}

    fn start(&mut self) {}

    fn stop(&mut self, status: &AcqTextStatus) {
        self.report(status);
    }
}

fn stamp(config: &SourceConfig) -> String {
    format!("{} {}\n{}", config.arch, config.foreign_arches.join(" "), effective_sources(config))
}

pub(crate) fn has_indexes(config: &SourceConfig) -> Result<bool> {
    let complete = fs::read_to_string(config.state.join("etc/refreshed")).is_ok_and(|old| old == stamp(config));
    Ok(complete && any_list(config))
}

/// Whether there is any list: somebody may have deleted them all.
fn any_list(config: &SourceConfig) -> bool {
    let Ok(entries) = fs::read_dir(config.state.join("lists")) else { return false };
    entries.flatten().any(|e| e.file_name() != "lock" && e.file_type().is_ok_and(|t| t.is_file()))
}

/// Removes all lists; false when there were none.
fn drop_lists(config: &SourceConfig) -> Result<bool> {
    let folder = config.state.join("lists");
    let mut dropped = false;
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        if entry.file_name() != "lock" && entry.file_type().is_ok_and(|t| t.is_file()) {
            fs::remove_file(entry.path()).context(|| format!("Removing {}", entry.path().display()))?;
            dropped = true;
        }
    }
    Ok(dropped)
}

pub(crate) fn refresh(config: &SourceConfig, events: &dyn EventSink) -> Result<()> {
    if config.offline {
        return Err(Error::new(ErrorKind::Network, "The package indexes cannot be updated without the network")
            .hint("Run the command again without the option that forbids the network."));
    }
    let path = config.state.join("etc/refreshed");
    let same_sources = has_indexes(config)?;
    if !same_sources && path.exists() {
        // libapt drops the lists of sources that it is not configured with, even when the new ones fail.
        fs::remove_file(&path).context(|| format!("Removing {}", path.display()))?;
    }
    let session = Session::configure(config, &[])?;
    events.emit(Event::TaskBegin { text: "Updating package indexes".into() });
    let cache = match session.open(&[]) {
        Ok(cache) => cache,
        // A list that cannot be read, as a power cut in the middle of a refresh leaves it, would stand in the way of the new one.
        Err(error) => {
            if !drop_lists(config)? {
                return Err(error);
            }
            session.open(&[])?
        }
    };
    let failures = Rc::new(RefCell::new(Vec::new()));
    let mut progress =
        AcquireProgress::new(Progress { events, failures: Rc::clone(&failures), present: 0, total: None });
    let result = cache.update(&mut progress);
    // Some failures are only warnings to libapt, because old indexes can stand in; they wait in its queue.
    let mut messages: Vec<(bool, String)> = Vec::new();
    let mut take = |errors: &AptErrors| messages.extend(errors.iter().map(|m| (m.is_error, m.msg.trim().to_owned())));
    if let Err(errors) = &result {
        take(errors);
    }
    take(&AptErrors::new());
    if let Some(mut error) = refresh_error(&failures.borrow(), &messages) {
        if same_sources {
            error = error.hint("The indexes of before stay in use.");
        }
        return Err(error).context(|| "Updating the package indexes");
    }
    // The stamp vouches for the lists: they reach the disk before it.
    let lists = config.state.join("lists");
    let folder = fs::File::open(&lists).context(|| format!("Opening {}", lists.display()))?;
    rustix::fs::syncfs(&folder).context(|| format!("Writing {} to disk", lists.display()))?;
    fs::write(&path, stamp(config)).context(|| format!("Writing {}", path.display()))?;
    for (_, warning) in messages {
        events.emit(Event::Warning { text: warning });
    }
    events.emit(Event::TaskEnd { suffix: "done".into() });
    Ok(())
}

/// One error for all sources that failed. The first failure is the cause; the messages of libapt explain it.
fn refresh_error(failures: &[Failure], messages: &[(bool, String)]) -> Option<Error> {
    let errors: Vec<&String> = messages.iter().filter(|(is_error, _)| *is_error).map(|(_, text)| text).collect();
    let Some(first) = failures.first() else {
        let first = errors.first()?;
        return Some(Error::new(classify(first).unwrap_or(ErrorKind::Failed), (*first).clone()));
    };
    // A failed signature weighs more than an archive that is away.
    let worst = failures.iter().find(|f| f.kind == ErrorKind::Verification).unwrap_or(first);
    // libapt tells the reason of a bad signature in its own message, not with the item.
    let reason = if worst.reason.is_empty() {
        messages
            .iter()
            .map(|(_, text)| text.as_str())
            .find(|t| classify(t) == Some(worst.kind))
            .unwrap_or("unknown reason")
    } else {
        &worst.reason
    };
    let mut error = Error::new(worst.kind, format!("{}: {}", worst.description, reason.replace('\n', " ")));
    for other in failures.iter().filter(|f| f.description != worst.description) {
        error = error.hint(format!("{} failed as well: {}", other.description, other.reason.replace('\n', " ")));
    }
    Some(match worst.kind {
        ErrorKind::Verification => error.hint("Check Signed-By of that source, and the clock of this machine."),
        ErrorKind::Network => {
            error.hint("Check the URI of that source, the network, and the proxy in /etc/apt/apt.conf.d.")
        }
        _ => error,
    })
}

//! The log of a transaction: everything that happened, dpkg's output, each use of a quirk and each file that was left out
//! included, whether or not a terminal showed it.
//!
//! Layout: `REPO/extensions/apt-ostree/log/SECONDS-VERB.log`, one line per event; the newest [`KEPT`] stay.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Context, Result};
use crate::event::{Event, EventSink};
use crate::repo::Repo;

/// How many logs stay.
const KEPT: usize = 10;

/// Hands events on and writes them down.
pub struct LogSink<'a> {
    inner: &'a dyn EventSink,
    /// `None` where the log cannot be written: a full disk must not hide the error that says so.
    file: Option<(Mutex<File>, PathBuf)>,
}

impl std::fmt::Debug for LogSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSink").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl<'a> LogSink<'a> {
    /// Starts a log in `repo` with the command line as its first line.
    pub fn create(repo: &Repo, verb: &str, command_line: &str, inner: &'a dyn EventSink) -> Self {
        Self { inner, file: start(repo, verb, command_line).ok() }
    }

    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(_, path)| path.as_path())
    }

    /// One more line, for the outcome.
    pub fn note(&self, line: &str) {
        if let Some((file, _)) = &self.file {
            let _ = writeln!(file.lock().unwrap_or_else(std::sync::PoisonError::into_inner), "{line}");
        }
    }
}

fn start(repo: &Repo, verb: &str, command_line: &str) -> Result<(Mutex<File>, PathBuf)> {
    let dir = repo.extension("log")?;
    drop_old(&dir)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let path = dir.join(format!("{now}-{verb}.log"));
    let mut file = File::create(&path).context(|| format!("Creating {}", path.display()))?;
    writeln!(file, "# {command_line}")?;
    Ok((Mutex::new(file), path))
}

impl EventSink for LogSink<'_> {
    fn emit(&self, event: Event) {
        match &event {
            Event::TaskBegin { text } => self.note(&format!("== {text}")),
            Event::Message { text } => self.note(text),
            Event::Warning { text } => self.note(&format!("warning: {text}")),
            Event::Output { line } => self.note(&format!("   {line}")),
            Event::TaskEnd { .. } | Event::Progress { .. } | Event::Download { .. } => {}
        }
        self.inner.emit(event);
    }
}

fn drop_old(dir: &Path) -> Result<()> {
    let mut logs: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path())).collect();
    // The names begin with the time.
    logs.sort();
    for old in logs.iter().rev().skip(KEPT - 1) {
        fs::remove_file(old).context(|| format!("Removing {}", old.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NullSink;

    #[test]
    fn keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::open_or_create(&dir.path().join("repo")).unwrap();
        let logs = repo.extension("log").unwrap();
        for n in 0..15 {
            fs::write(logs.join(format!("{n:010}-x.log")), "").unwrap();
        }
        let log = LogSink::create(&repo, "install", "apt-ostree install htop", &NullSink);
        log.emit(Event::Output { line: "Setting up htop".into() });
        assert_eq!(fs::read_to_string(log.path().unwrap()).unwrap(), "# apt-ostree install htop\n   Setting up htop\n");
        assert_eq!(fs::read_dir(&logs).unwrap().count(), KEPT);
    }
}

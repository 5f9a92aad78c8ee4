//! How the last transaction ended: for `status`, also when the service has long ended. Forgotten with the next start.
//!
//! `run/apt-ostree/last-transaction.json`, written whole or not at all by whoever started the worker, for everybody to read.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::record;

const FILE: &str = "run/apt-ostree/last-transaction.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastTransaction {
    /// Of the bus.
    pub method: String,
    /// The command line, or what stands for it.
    pub title: String,
    pub initiator: String,
    /// When it ended: seconds since the epoch.
    pub timestamp: u64,
    pub success: bool,
    /// Somebody ended it: no failure of the system.
    pub cancelled: bool,
    /// Why it failed.
    pub error: String,
}

impl LastTransaction {
    pub fn new(method: &str, title: &str, initiator: &str, outcome: std::result::Result<(), &Error>) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            method: method.to_owned(),
            title: title.to_owned(),
            initiator: initiator.to_owned(),
            timestamp: now.map_or(0, |d| d.as_secs()),
            success: outcome.is_ok(),
            cancelled: outcome.is_err_and(|e| e.kind == ErrorKind::Cancelled),
            error: outcome.err().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// Of the system below `root`; a file that cannot be read is none.
    pub fn read(root: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(root.join(FILE)).ok()?).ok()
    }

    pub fn write(&self, root: &Path) -> Result<()> {
        let path = root.join(FILE);
        let write = || record::write(&path, &serde_json::to_vec(self)?, false);
        write().context(|| format!("Writing {}", path.display()))
    }

    /// Worth a word where nobody asked: it failed, and not because somebody wanted it to end.
    pub fn has_failed(&self) -> bool {
        !self.success && !self.cancelled
    }

    /// How it ended, on one line. What comes from a network or a script is kept from talking to the terminal.
    pub fn outcome(&self) -> String {
        let line = self.error.lines().next().unwrap_or_default();
        let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        match (self.success, self.cancelled) {
            (true, _) => "succeeded".to_owned(),
            (false, true) => "was cancelled".to_owned(),
            (false, false) => format!("failed: {}", line.chars().map(printable).collect::<String>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(LastTransaction::read(root.path()), None);
        let error = Error::new(ErrorKind::Network, "no\u{1b}[2Jroute\nat all");
        let failed = LastTransaction::new("PkgChange", "install htop", "client(id:cli)", Err(&error));
        failed.write(root.path()).unwrap();
        assert_eq!(LastTransaction::read(root.path()), Some(failed.clone()));
        assert!(failed.has_failed());
        assert_eq!(failed.outcome(), "failed: no\u{fffd}[2Jroute");
        let mode = std::fs::metadata(root.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "for everybody");
        let cancelled = LastTransaction::new("x", "x", "x", Err(&Error::new(ErrorKind::Cancelled, "x")));
        assert_eq!((cancelled.has_failed(), cancelled.outcome().as_str()), (false, "was cancelled"));
        assert!(!LastTransaction::new("x", "x", "x", Ok(())).has_failed());
        std::fs::write(root.path().join(FILE), "nonsense").unwrap();
        assert_eq!(LastTransaction::read(root.path()), None);
    }
}

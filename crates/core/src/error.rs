//! The one error type at the edge of the engine: a kind to act on, a chain to read, hints to follow.
//!
//! The chain is written outermost first, each link a gerund and its object ("Importing htop:amd64=3.4.1-5").
//! A kind decides the exit code of the command line, and later the D-Bus error name; see [`ErrorKind`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as far as a caller would act on it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request itself cannot be carried out as asked (bad option, unknown package, bad treefile).
    Usage,
    /// No set of packages meets the request.
    Unsatisfiable,
    /// A package, revision, ref or deployment that was named does not exist.
    NotFound,
    /// Another transaction holds the sysroot.
    Busy,
    /// The archive or the remote cannot be reached.
    Network,
    /// A signature or a checksum does not match.
    Verification,
    /// Not enough room on a file system.
    Space,
    /// A maintainer script failed.
    Script,
    /// The user or a signal stopped the work.
    Cancelled,
    /// Root is needed.
    Permission,
    /// Anything else: an I/O error, a broken repository, a bug.
    Failed,
}

impl ErrorKind {
    /// The exit code of the command line. rpm-ostree's contract is 1 for every failure.
    pub fn exit_code(self) -> u8 {
        1
    }
}

/// What is known of a maintainer script that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptFailure {
    /// `name:arch` as dpkg names it; empty when dpkg itself failed.
    pub package: String,
    /// `preinst`, `postinst`, `prerm`, `postrm`, or `trigger`.
    pub script: String,
    /// Exit status, as dpkg reported it.
    pub status: Option<i32>,
    /// The last lines of output.
    pub output: Vec<String>,
    /// A command that runs the same thing again, in the same sandbox.
    pub reproduce: String,
}

/// An error of the engine. Serialisable, because the worker hands it to its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub kind: ErrorKind,
    /// Outermost context first, the root cause last.
    pub chain: Vec<String>,
    /// What to do next; each a full sentence.
    pub hints: Vec<String>,
    pub script: Option<Box<ScriptFailure>>,
    /// What was refused is refused to a person who asks for it; to a run that nobody watches there is nothing to do.
    #[serde(default)]
    pub nothing_to_do: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, chain: vec![message.into()], hints: Vec::new(), script: None, nothing_to_do: false }
    }

    /// An error of no special kind.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// A request that cannot be carried out as it was asked.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    #[must_use]
    pub fn nothing_to_do(mut self) -> Self {
        self.nothing_to_do = true;
        self
    }

    #[must_use]
    pub fn with_script(mut self, script: ScriptFailure) -> Self {
        self.kind = ErrorKind::Script;
        self.script = Some(Box::new(script));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            _ if e.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) => ErrorKind::Space,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Self {
        std::io::Error::from(e).into()
    }
}

impl From<ostree::glib::Error> for Error {
    fn from(e: ostree::glib::Error) -> Self {
        let kind = if e.matches(ostree::gio::IOErrorEnum::NotFound) {
            ErrorKind::NotFound
        } else if e.matches(ostree::gio::IOErrorEnum::NoSpace) {
            ErrorKind::Space
        } else if e.matches(ostree::gio::IOErrorEnum::Cancelled) {
            ErrorKind::Cancelled
        } else {
            ErrorKind::Failed
        };
        Self::new(kind, e.message())
    }
}

impl From<ostree::glib::BoolError> for Error {
    fn from(e: ostree::glib::BoolError) -> Self {
        Self::failed(e.message.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::failed(e.to_string())
    }
}

/// Adds a link to the chain: `read(path).context(|| format!("Reading {path}"))?`.
pub trait Context<T> {
    fn context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, text: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| {
            let mut e = e.into();
            e.chain.insert(0, text().into());
            e
        })
    }
}

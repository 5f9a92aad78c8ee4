//! What a method answers instead of a result: a D-Bus error name and a text.
//!
//! The one table from kinds of errors to names is [`name_of`]; docs/errors.md has it for readers.

use apt_ostree_bus::errors;
use apt_ostree_core::{Error, ErrorKind};
use zbus::message::Header;
use zbus::names::ErrorName;
use zbus::{DBusError, Message};

#[derive(Debug)]
pub(crate) struct Refusal {
    name: &'static str,
    text: String,
}

pub(crate) type Answer<T> = Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, text: text.into() }
    }

    #[cfg(test)]
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(errors::FAILED, text)
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(errors::INVALID_ARGS, text)
    }

    pub(crate) fn not_supported(text: impl Into<String>) -> Self {
        Self::new(errors::NOT_SUPPORTED, text)
    }
}

/// The error name of a kind. rpm-ostree answers with GLib's names for most failures, which no client tells apart but for
/// [`errors::BUSY`].
pub(crate) fn name_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Busy => errors::BUSY,
        ErrorKind::Permission => errors::ACCESS_DENIED,
        ErrorKind::Usage => errors::INVALID_ARGS,
        ErrorKind::Unsatisfiable
        | ErrorKind::NotFound
        | ErrorKind::Network
        | ErrorKind::Verification
        | ErrorKind::Space
        | ErrorKind::Script
        | ErrorKind::Cancelled
        | ErrorKind::Failed => errors::FAILED,
    }
}

/// Chain and hints as one text, as `Finished` and error replies carry it.
pub(crate) fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    for hint in &error.hints {
        text.push('\n');
        text.push_str(hint);
    }
    text
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Self::new(name_of(e.kind), text_of(&e))
    }
}

impl From<zbus::Error> for Refusal {
    fn from(e: zbus::Error) -> Self {
        Self::failed(e.to_string())
    }
}

impl From<zbus::fdo::Error> for Refusal {
    fn from(e: zbus::fdo::Error) -> Self {
        Self::failed(e.to_string())
    }
}

impl DBusError for Refusal {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name())?.build(&(&self.text,))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_name() {
        for kind in [ErrorKind::Busy, ErrorKind::Permission, ErrorKind::Usage, ErrorKind::Failed] {
            assert!(ErrorName::try_from(name_of(kind)).is_ok(), "{kind:?}");
        }
        let error = Error::failed("a").hint("Do b.");
        assert_eq!(Refusal::from(error).text, "a\nDo b.");
    }
}

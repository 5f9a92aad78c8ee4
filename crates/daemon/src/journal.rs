//! Messages to the journal, with the fields and ids that log readers of rpm-ostree look for.
//!
//! Protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. Without a journal the text goes to stderr.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A transaction was asked for.
pub(crate) const TRANSACTION_BEGIN: &str = "d5bea37a8fc84ff59dbcfd79177b7df8";
/// It has ended (ours; rpm-ostree gives that message no id).
pub(crate) const TRANSACTION_END: &str = "8f8e4c7d1d0b4c5f9d41a7f20b6c3e95";
/// The list of deployments is another one (ours; rpm-ostree has none).
pub(crate) const DEPLOYMENTS_CHANGED: &str = "3b0c1e3e8f5f4a0b8d3b5c0f6a1d2e47";

pub(crate) fn note(text: &str) {
    send(6, None, text, &[]);
}

pub(crate) fn warning(text: &str) {
    send(4, None, text, &[]);
}

pub(crate) fn event(id: &str, text: &str, fields: &[(&str, &str)]) {
    send(6, Some(id), text, fields);
}

fn send(priority: u8, id: Option<&str>, text: &str, fields: &[(&str, &str)]) {
    let mut datagram = Vec::new();
    let priority = priority.to_string();
    let all = [("MESSAGE", text), ("PRIORITY", priority.as_str()), ("SYSLOG_IDENTIFIER", "apt-ostreed")];
    for (key, value) in all.iter().chain(id.map(|id| ("MESSAGE_ID", id)).iter()).chain(fields) {
        field(&mut datagram, key, value);
    }
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(&datagram, SOCKET));
    if sent.is_err() {
        // There is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// The form with a length, which takes any value.
fn field(datagram: &mut Vec<u8>, key: &str, value: &str) {
    datagram.extend_from_slice(key.as_bytes());
    datagram.push(b'\n');
    datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

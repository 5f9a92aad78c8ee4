//! The way of a request over the bus: asks the service for a transaction, starts it, shows its lines, hands back its report.
//!
//! The lines are the worker's own (`worker`), so that the text is the same either way. Where there is no service to be had (no
//! bus, a container, a chroot, a rescue shell) the caller runs the worker itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use apt_ostree_bus::client::{ManagerProxy, SysrootProxy};
use apt_ostree_bus::{TRANSACTION, TRANSACTION_LINES, TRANSACTION_PATH, errors};
use apt_ostree_core::operation::{Line, Report, Request};
use apt_ostree_core::{Context, Error, ErrorKind, Result};
use futures_util::StreamExt;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use zbus::message::Flags;
use zbus::zvariant::{Fd, Value};
use zbus::{Connection, Message, MessageStream};

use crate::start;
use crate::terminal::Terminal;

/// How often a call is made again that met the idle exit of the service, and when.
const RETRIES: u32 = 10;
const RETRY_AFTER: Duration = Duration::from_millis(300);

const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";
const AGENT: &str = "/usr/bin/pkttyagent";

/// What `status` tells of a running transaction.
#[derive(Debug)]
pub(crate) struct Running {
    /// Method, sender, object.
    pub(crate) transaction: (String, String, String),
    pub(crate) title: String,
    pub(crate) initiator: String,
}

/// Whether there is a bus at all.
pub(crate) fn has_bus() -> bool {
    std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_some() || Path::new(BUS_SOCKET).exists()
}

/// What came of asking the service.
#[derive(Debug)]
pub(crate) enum Asked {
    Done(Box<Report>),
    /// There is none to be had, for this reason.
    NoService(String),
}

/// Runs the request to its end.
pub(crate) fn run(request: &Request, terminal: &Terminal) -> Result<Asked> {
    if !has_bus() {
        return Ok(Asked::NoService(format!("no system bus at {BUS_SOCKET}")));
    }
    runtime()?.block_on(work(request, terminal))
}

/// The running transaction, if the service runs; the question does not wait for a start of it.
pub(crate) fn running() -> Option<Running> {
    if !has_bus() {
        return None;
    }
    runtime().ok()?.block_on(async {
        let bus = Connection::system().await.ok()?;
        let names = zbus::fdo::DBusProxy::new(&bus).await.ok()?;
        if !names.name_has_owner(apt_ostree_bus::NAME.try_into().ok()?).await.ok()? {
            if start::compatible() {
                wake(&bus).await.ok()?;
            }
            return None;
        }
        let transaction = SysrootProxy::new(&bus).await.ok()?.active_transaction().await.ok()?;
        if transaction.0.is_empty() {
            return None;
        }
        let (title, initiator) = ManagerProxy::new(&bus).await.ok()?.transaction().await.ok()?;
        Some(Running { transaction, title, initiator })
    })
}

/// Has the bus start the service, and goes on: after any command of rpm-ostree there is one, and clients ask systemd for it.
async fn wake(bus: &Connection) -> zbus::Result<()> {
    let call = Message::method_call("/org/freedesktop/DBus", "StartServiceByName")?
        .destination("org.freedesktop.DBus")?
        .interface("org.freedesktop.DBus")?
        .with_flags(Flags::NoReplyExpected)?
        .build(&(apt_ostree_bus::NAME, 0_u32))?;
    bus.send(&call).await
}

/// Ends the running transaction. Its title, or `None` when there is none.
pub(crate) fn cancel(begun: impl FnOnce(&str)) -> Result<Option<String>> {
    if !has_bus() {
        return Ok(None);
    }
    runtime()?.block_on(async {
        let bus = Connection::system().await.map_err(|e| on_bus(&e))?;
        let names = zbus::fdo::DBusProxy::new(&bus).await.map_err(|e| on_bus(&e))?;
        let name = apt_ostree_bus::NAME.try_into().map_err(|e: zbus::names::Error| Error::failed(e.to_string()))?;
        if !names.name_has_owner(name).await.unwrap_or_default() {
            return Ok(None);
        }
        let sysroot = SysrootProxy::new(&bus).await.map_err(|e| on_bus(&e))?;
        let address = sysroot.active_transaction_path().await.map_err(|e| on_bus(&e))?;
        if address.is_empty() {
            return Ok(None);
        }
        let peer = connect(&address).await?;
        let title = peer_title(&peer).await;
        begun(&title);
        let mut messages = listen(&peer);
        let _agent = Agent::start();
        call(&peer, "Cancel").await?;
        // It may have come to its end before.
        while let Some(message) = messages.recv().await {
            if message.header().member().is_some_and(|m| m == "Finished") {
                let (done, _): (bool, String) = message.body().deserialize().unwrap_or_default();
                if done {
                    return Err(Error::failed(format!("It was too late to cancel the transaction: {title}"))
                        .hint("It has come to its end; `apt-ostree status` shows what is there now."));
                }
                return Ok(Some(title));
            }
        }
        Err(Error::failed("The service went away").hint("`apt-ostree status` tells what is there now."))
    })
}

/// All messages of a peer, taken from it as they come: the library reads no answer to a call while messages wait.
fn listen(peer: &Connection) -> UnboundedReceiver<Message> {
    let (sender, receiver) = unbounded_channel();
    let mut messages = MessageStream::from(peer);
    tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Makes the service read its settings again. False: there is no service.
pub(crate) fn reload() -> Result<bool> {
    if !has_bus() {
        return Ok(false);
    }
    runtime()?.block_on(async {
        let bus = Connection::system().await.map_err(|e| on_bus(&e))?;
        let sysroot = SysrootProxy::new(&bus).await.map_err(|e| on_bus(&e))?;
        let _agent = Agent::start();
        match sysroot.reload_config().await {
            Ok(()) => Ok(true),
            Err(e) if is_unknown(&e) || does_not_start(&e) => Ok(false),
            Err(e) => Err(on_bus(&e)),
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context(|| "Starting the client of the service")
}

async fn work(request: &Request, terminal: &Terminal) -> Result<Asked> {
    let files = open_files(request)?;
    // Before anything is begun, so that no signal is missed.
    let mut interrupt = signal(SignalKind::interrupt()).context(|| "Catching signals")?;
    let mut terminate = signal(SignalKind::terminate()).context(|| "Catching signals")?;
    let bus = match Connection::system().await {
        Ok(bus) => bus,
        Err(e) => return Ok(Asked::NoService(format!("the system bus does not answer: {e}"))),
    };
    if let Some(why) = register(&bus, terminal).await? {
        return Ok(Asked::NoService(why));
    }
    let agent = Agent::start();
    let mut tries = 0;
    let address = loop {
        match execute(&bus, request, &files).await {
            Ok(address) => break address,
            Err(e) if is_foreign(&e) => {
                let name = apt_ostree_bus::NAME;
                return Ok(Asked::NoService(format!("another program has the name {name} on the system bus")));
            }
            // It ends when it is idle, and is started again by the next call.
            Err(e) if tries < RETRIES && is_leaving(&e) => tries += 1,
            Err(e) => return Err(on_bus(&e)),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    };
    drop(agent);
    let peer = connect(&address).await?;
    let mut messages = listen(&peer);
    call(&peer, "Start").await?;
    let (mut answer, mut cancelled) = (None, false);
    loop {
        let name = tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    let header = message.header();
                    let member = header.member().map(ToString::to_string).unwrap_or_default();
                    let interface = header.interface().map(ToString::to_string).unwrap_or_default();
                    match (interface.as_str(), member.as_str()) {
                        (TRANSACTION_LINES, "Line") => {
                            let text: String = message.body().deserialize().unwrap_or_default();
                            match serde_json::from_str(&text) {
                                Ok(Line::Event(event)) => terminal.event(&event),
                                Ok(Line::Report { report }) => answer = Some(Ok(*report)),
                                Ok(Line::Error { error }) => answer = Some(Err(error)),
                                Err(_) => terminal.notice(&text),
                            }
                        }
                        (TRANSACTION, "Finished") => break,
                        _ => {}
                    }
                    continue;
                }
                None => break,
            },
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if std::mem::replace(&mut cancelled, true) {
            return Err(Error::new(ErrorKind::Cancelled, "Interrupted while the transaction was being cancelled")
                .hint("The service ends it; `apt-ostree status` tells when it has."));
        }
        terminal.drop_tasks();
        terminal.notice(&format!("Caught {name}, cancelling transaction"));
        call(&peer, "Cancel").await?;
    }
    if answer.as_ref().is_none_or(|answer: &Result<Report>| answer.is_err()) {
        terminal.drop_tasks();
    }
    answer
        .unwrap_or_else(|| {
            Err(Error::failed("The service went away during the transaction")
                .hint("`apt-ostree status` tells what is there now; a new deployment appears only once it is complete.")
                .hint("`journalctl -u apt-ostreed` may tell why."))
        })
        .map(|report| Asked::Done(Box::new(report)))
}

/// Starts the service, if need be, and tells who this is. Why there is no service, if there is none.
async fn register(bus: &Connection, terminal: &Terminal) -> Result<Option<String>> {
    let id = std::env::var("RPMOSTREE_CLIENT_ID").ok().filter(|id| !id.is_empty()).unwrap_or_else(|| "cli".into());
    let sysroot = SysrootProxy::new(bus).await.map_err(|e| on_bus(&e))?;
    for attempt in 0.. {
        match sysroot.register_client(HashMap::from([("id", Value::from(id.as_str()))])).await {
            Err(e) if is_unknown(&e) => {
                return Ok(Some(format!("no service {} on the system bus", apt_ostree_bus::NAME)));
            }
            Err(e) if attempt < RETRIES && is_leaving(&e) => tokio::time::sleep(RETRY_AFTER).await,
            Err(e) if does_not_start(&e) => {
                if !rustix::process::geteuid().is_root() {
                    return Err(on_bus(&e).hint("`journalctl -u apt-ostreed` may tell why."));
                }
                // It is installed and does not come up: that is worth a word.
                terminal.notice(&format!("notice: the service cannot be started: {e}"));
                return Ok(Some("it cannot be started".into()));
            }
            // Not being registered costs nothing: a transaction keeps the service as well.
            Ok(()) | Err(_) => break,
        }
    }
    Ok(None)
}

/// Asks for the transaction, with the package files that it names open.
async fn execute(bus: &Connection, request: &Request, files: &[File]) -> zbus::Result<String> {
    let document = serde_json::to_string(request).expect("requests have string keys only");
    let manager = ManagerProxy::new(bus).await?;
    manager.execute(&document, files.iter().map(|file| Fd::from(file.as_fd())).collect()).await
}

/// Read with the rights of whoever asks, not with the service's.
fn open_files(request: &Request) -> Result<Vec<File>> {
    let mut verb = request.verb.clone();
    let open = |path: &mut std::path::PathBuf| File::open(&*path).context(|| format!("Opening {}", path.display()));
    verb.local_files().into_iter().map(open).collect()
}

/// Connects to a transaction: one of the peers of a socket, without a bus between.
async fn connect(address: &str) -> Result<Connection> {
    let path = address.strip_prefix("unix:path=").unwrap_or(address);
    let path = path.split([',', ';']).next().unwrap_or(path);
    let stream = UnixStream::connect(path).await.context(|| format!("Connecting to the transaction at {path}"))?;
    zbus::connection::Builder::unix_stream(stream).p2p().build().await.map_err(|e| on_bus(&e))
}

async fn call(peer: &Connection, method: &str) -> Result<()> {
    let none = None::<zbus::names::BusName<'_>>;
    peer.call_method(none, TRANSACTION_PATH, Some(TRANSACTION), method, &()).await.map_err(|e| on_bus(&e))?;
    Ok(())
}

async fn peer_title(peer: &Connection) -> String {
    let none = None::<zbus::names::BusName<'_>>;
    let arguments = (TRANSACTION, "Title");
    let interface = Some("org.freedesktop.DBus.Properties");
    let Ok(reply) = peer.call_method(none, TRANSACTION_PATH, interface, "Get", &arguments).await else {
        return String::new();
    };
    reply.body().deserialize::<Value<'_>>().ok().and_then(|v| String::try_from(v).ok()).unwrap_or_default()
}

/// An error of the bus as one of ours.
fn on_bus(error: &zbus::Error) -> Error {
    let zbus::Error::MethodError(name, text, _) = error else {
        return Error::failed(format!("The service did not answer: {error}"));
    };
    let kind = match name.as_str() {
        errors::BUSY => ErrorKind::Busy,
        errors::ACCESS_DENIED => ErrorKind::Permission,
        errors::INVALID_ARGS => ErrorKind::Usage,
        _ => ErrorKind::Failed,
    };
    let text = text.as_deref().unwrap_or(name.as_str());
    let mut lines = text.lines();
    let mut error = Error::new(kind, lines.next().unwrap_or(text).to_owned());
    if kind == ErrorKind::Permission {
        error = error.hint("Run it as root (sudo), or as a user to whom polkit gives this right.");
    }
    lines.fold(error, |error, hint| error.hint(hint.trim().to_owned()))
}

/// The service is installed, and the bus could not start it.
fn does_not_start(error: &zbus::Error) -> bool {
    let zbus::Error::MethodError(name, ..) = error else { return false };
    name.starts_with("org.freedesktop.DBus.Error.Spawn") || name.starts_with("org.freedesktop.systemd1.")
}

/// The call met the service on its way out.
fn is_leaving(error: &zbus::Error) -> bool {
    let zbus::Error::MethodError(name, text, _) = error else { return false };
    name.as_str() == "org.freedesktop.DBus.Error.NoReply"
        || (name.as_str() == errors::BUSY && text.as_deref().is_some_and(|t| t.contains("about to end")))
}

/// No service of that name is installed.
fn is_unknown(error: &zbus::Error) -> bool {
    let zbus::Error::MethodError(name, ..) = error else { return false };
    matches!(name.as_str(), "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner")
}

/// Somebody else has the name: rpm-ostree's own service knows nothing of our interface.
fn is_foreign(error: &zbus::Error) -> bool {
    let zbus::Error::MethodError(name, ..) = error else { return false };
    matches!(name.as_str(), "org.freedesktop.DBus.Error.UnknownInterface" | "org.freedesktop.DBus.Error.UnknownMethod")
}

/// Asks for a password on this terminal, where polkit wants one and no desktop does it.
struct Agent(Child);

impl Agent {
    fn start() -> Option<Self> {
        if rustix::process::geteuid().is_root() || !std::io::stdin().is_terminal() || !Path::new(AGENT).exists() {
            return None;
        }
        let (ready, notify) = rustix::pipe::pipe().ok()?;
        let mut command = Command::new(AGENT);
        // Its stdout stands for the descriptor that it closes when it is ready.
        command.args(["--notify-fd", "1", "--fallback", "--process"]).arg(std::process::id().to_string());
        let child = command.stdin(Stdio::null()).stdout(notify).spawn().ok()?;
        drop(command);
        let _ = File::from(ready).read(&mut [0]);
        Some(Self(child))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! One transaction and its clients: a socket on which they connect peer to peer, `Start`, `Cancel`, and the signals.
//!
//! Layout: `/run/rpm-ostree-transaction.sock` for `/`, mode 0666 and made anew for each transaction (rpm-ostree's name, which
//! clients print); a private folder for a sysroot in a directory. Who connects is known by the socket's credentials.
//!
//! No client can hold anything up: each has a queue of its own, and one that does not read is dropped.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apt_ostree_bus::{TRANSACTION, TRANSACTION_LINES, TRANSACTION_PATH};
use apt_ostree_core::event::Event;
use apt_ostree_core::operation::{Line, Report};
use apt_ostree_core::{Error, Result};
use futures_util::StreamExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use zbus::{Connection, Guid, MessageStream, interface};

use crate::caller::{Caller, peer_may_cancel};
use crate::job::Job;
use crate::journal;
use crate::refusal::{Refusal, text_of};

/// Signals that wait for a client before it is given up.
const QUEUE: usize = 4096;
/// Lines that are kept for clients that join late.
const BACKLOG: usize = 1000;
/// Clients at a time; the socket is open to everybody.
const MAX_PEERS: usize = 64;
/// How long a client may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A signal of the transaction, in the words of the contract or as the worker's own line.
#[derive(Clone, Debug)]
enum Signal {
    Line(String),
    Message(String),
    TaskBegin(String),
    TaskEnd(String),
    Percent(String, u32),
    Download { done: u64, total: u64, rate: u64, seconds: u64 },
    ProgressEnd,
    Finished(bool, String),
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    outcome: Option<(bool, String)>,
    peers: Vec<Client>,
    next_peer: u64,
    backlog: Vec<Signal>,
    task: String,
    percent: Option<u32>,
}

/// A connection.
#[derive(Debug)]
struct Client {
    number: u64,
    signals: mpsc::Sender<Signal>,
    /// How much of the backlog was there when it came.
    missed: usize,
    /// It came after the end.
    late: bool,
}

/// A transaction from the call that asked for it until its clients have left.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) method: &'static str,
    pub(crate) title: String,
    /// As `status` tells it.
    pub(crate) initiator: String,
    pub(crate) caller: Caller,
    /// The object that was called.
    pub(crate) path: String,
    pub(crate) address: String,
    /// What was asked, to tell an equal call by.
    pub(crate) fingerprint: String,
    socket: PathBuf,
    quiet: bool,
    begun: Instant,
    state: Mutex<State>,
    /// `Start` was called.
    started: watch::Sender<bool>,
    cancelled: watch::Sender<bool>,
    /// How many clients are connected.
    peers: watch::Sender<usize>,
    /// To ask polkit.
    bus: Connection,
}

impl Transaction {
    pub(crate) fn new(job: &Job, caller: Caller, client: &str, path: String, socket: PathBuf, bus: Connection) -> Self {
        let unit = if caller.unit.is_empty() { String::new() } else { format!(" unit:{}", caller.unit) };
        Self {
            method: job.method,
            title: job.title.clone(),
            initiator: format!(
                "client(id:{client} dbus:{}{unit} uid:{})",
                caller.name.trim_start_matches(':'),
                caller.uid
            ),
            path,
            address: format!("unix:path={}", socket.display()),
            fingerprint: fingerprint(job),
            caller,
            socket,
            quiet: job.quiet,
            begun: Instant::now(),
            state: Mutex::default(),
            started: watch::Sender::new(false),
            cancelled: watch::Sender::new(false),
            peers: watch::Sender::new(0),
            bus,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state().outcome.is_some()
    }

    pub(crate) fn started(&self) -> watch::Receiver<bool> {
        self.started.subscribe()
    }

    pub(crate) fn cancelled(&self) -> watch::Receiver<bool> {
        self.cancelled.subscribe()
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Returns when no client is connected.
    pub(crate) async fn deserted(&self) {
        // An error: this transaction is gone.
        let _ = self.peers.subscribe().wait_for(|count| *count == 0).await;
    }

    /// One step of the worker, for everybody who listens.
    pub(crate) fn tell(&self, line: &Line) {
        let text = serde_json::to_string(line).expect("lines have string keys only");
        let mut state = self.state();
        let mut signals = vec![Signal::Line(text)];
        let mut kept = true;
        if let Line::Event(event) = line {
            match event {
                Event::TaskBegin { text } => {
                    state.task.clone_from(text);
                    state.percent = None;
                    signals.push(Signal::TaskBegin(text.clone()));
                }
                Event::TaskEnd { .. } => {
                    if state.percent.take().is_some() {
                        signals.push(Signal::ProgressEnd);
                    }
                    signals.push(Signal::TaskEnd(state.task.clone()));
                }
                Event::Progress { done, total, .. } => {
                    kept = false;
                    let percent =
                        u32::try_from(done.saturating_mul(100).checked_div(*total).unwrap_or_default().min(100));
                    let percent = percent.unwrap_or(100);
                    if state.percent.replace(percent) != Some(percent) {
                        signals.push(Signal::Percent(state.task.clone(), percent));
                    }
                }
                Event::Download { done, total, rate } => {
                    kept = false;
                    state.percent = Some(0);
                    let seconds = self.begun.elapsed().as_secs();
                    signals.push(Signal::Download { done: *done, total: *total, rate: *rate, seconds });
                }
                Event::Message { text } | Event::Warning { text } => signals.push(Signal::Message(text.clone())),
                Event::Output { .. } => kept = false,
            }
        }
        if self.quiet {
            if let Line::Event(Event::Message { text } | Event::Warning { text }) = line {
                journal::note(text);
            }
            signals.truncate(1);
        }
        if kept && state.backlog.len() < BACKLOG {
            state.backlog.extend(signals.iter().cloned());
        }
        signals.into_iter().for_each(|signal| state.send(&signal));
    }

    /// The end: told to everybody who is connected, and to everybody who still connects.
    pub(crate) fn finish(&self, outcome: &Result<Report>) {
        let line = match outcome {
            Ok(report) => {
                // For clients that do not know our own signal.
                let mut lines = report.lines.clone();
                if report.plan.is_some() {
                    lines.extend(report.diff.block().lines().map(ToOwned::to_owned));
                }
                for text in lines {
                    if !self.quiet {
                        self.state().send(&Signal::Message(text));
                    }
                }
                Line::Report { report: Box::new(report.clone()) }
            }
            Err(error) => Line::Error { error: error.clone() },
        };
        let result = match outcome {
            Ok(_) => (true, String::new()),
            Err(error) => (false, text_of(error)),
        };
        let mut state = self.state();
        let line = Signal::Line(serde_json::to_string(&line).expect("lines have string keys only"));
        state.backlog.push(line.clone());
        state.send(&line);
        state.send(&Signal::Finished(result.0, result.1.clone()));
        state.outcome = Some(result);
    }

    /// A new client: the number to take it off by, and its signals.
    fn join(&self) -> Option<(u64, mpsc::Receiver<Signal>)> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut state = self.state();
        if state.peers.len() >= MAX_PEERS {
            return None;
        }
        let number = state.next_peer;
        state.next_peer += 1;
        let (missed, late) = (state.backlog.len(), state.outcome.is_some());
        state.peers.push(Client { number, signals: sender, missed, late });
        self.peers.send_replace(state.peers.len());
        Some((number, receiver))
    }

    /// `Start` of one client. True when it began the transaction; otherwise the client is told what it missed, now that it
    /// listens.
    fn start(&self, number: u64) -> bool {
        let mut state = self.state();
        if !std::mem::replace(&mut state.started, true) {
            self.started.send_replace(true);
            return true;
        }
        let Some(client) = state.peers.iter().find(|client| client.number == number) else { return false };
        for signal in &state.backlog[..client.missed.min(state.backlog.len())] {
            let _ = client.signals.try_send(signal.clone());
        }
        if let (true, Some((success, text))) = (client.late, &state.outcome) {
            let _ = client.signals.try_send(Signal::Finished(*success, text.clone()));
        }
        false
    }

    fn leave(&self, number: u64) {
        let mut state = self.state();
        state.peers.retain(|client| client.number != number);
        self.peers.send_replace(state.peers.len());
    }

    /// Makes the socket. What listened on that name before no longer does.
    pub(crate) fn listen(&self) -> Result<UnixListener> {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket)?;
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(0o666))?;
        Ok(listener)
    }

    pub(crate) fn remove_socket(&self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl State {
    fn send(&mut self, signal: &Signal) {
        // A client that does not read its signals is none.
        self.peers.retain(|client| client.signals.try_send(signal.clone()).is_ok());
    }
}

/// What makes two calls equal.
pub(crate) fn fingerprint(job: &Job) -> String {
    let requests = serde_json::to_string(&job.requests).expect("requests have string keys only");
    // Files come without an identity: two calls with files are never equal.
    let files = if job.files.is_empty() { String::new() } else { format!("{:p}", job.files.as_ptr()) };
    format!("{} {files}{requests}", job.method)
}

/// Takes clients until it is aborted.
pub(crate) async fn accept(transaction: Arc<Transaction>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(transaction.clone(), stream));
            }
            Err(e) => {
                journal::warning(&format!("The socket of the transaction: {e}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One client, until it leaves.
async fn serve(transaction: Arc<Transaction>, stream: UnixStream) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
    let Some((number, mut signals)) = transaction.join() else { return };
    let peer = Peer { transaction: transaction.clone(), number, uid: credentials.uid(), pid };
    if let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE, connect(stream, peer)).await {
        journal::note(&format!("Process [pid: {pid} uid: {}] connected to transaction progress", credentials.uid()));
        let mut incoming = MessageStream::from(&connection);
        loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(signal) => if emit(&connection, &signal).await.is_err() { break },
                    // Dropped, because it did not read.
                    None => break,
                },
                // The object server answers calls; this only tells when the client is gone.
                message = incoming.next() => if message.is_none_or(|m| m.is_err()) { break },
            }
        }
    }
    transaction.leave(number);
}

async fn connect(stream: UnixStream, peer: Peer) -> zbus::Result<Connection> {
    zbus::connection::Builder::unix_stream(stream)
        .server(Guid::generate())?
        .p2p()
        .serve_at(TRANSACTION_PATH, peer)?
        .build()
        .await
}

async fn emit(connection: &Connection, signal: &Signal) -> zbus::Result<()> {
    let none = None::<zbus::names::BusName<'_>>;
    macro_rules! send {
        ($interface:expr, $name:literal, $body:expr) => {
            connection.emit_signal(none, TRANSACTION_PATH, $interface, $name, $body).await
        };
    }
    match signal {
        Signal::Line(text) => send!(TRANSACTION_LINES, "Line", &(text,)),
        Signal::Message(text) => send!(TRANSACTION, "Message", &(text,)),
        Signal::TaskBegin(text) => send!(TRANSACTION, "TaskBegin", &(text,)),
        Signal::TaskEnd(text) => send!(TRANSACTION, "TaskEnd", &(text,)),
        Signal::Percent(text, percent) => send!(TRANSACTION, "PercentProgress", &(text, percent)),
        Signal::Download { done, total, rate, seconds } => {
            let outstanding = u32::from(done < total);
            let body = (
                (0u64, *seconds),
                (outstanding, 0u32),
                (0u32, 0u32, 0u32),
                (0u32, 0u32, 0u32, 0u64),
                (0u32, outstanding),
                (*done, *rate),
            );
            send!(TRANSACTION, "DownloadProgress", &body)
        }
        Signal::ProgressEnd => send!(TRANSACTION, "ProgressEnd", &()),
        Signal::Finished(success, text) => send!(TRANSACTION, "Finished", &(success, text)),
    }
}

/// The transaction as one client sees it.
struct Peer {
    transaction: Arc<Transaction>,
    number: u64,
    uid: u32,
    pid: u32,
}

impl Peer {
    /// Whoever began it, and root.
    fn owns(&self) -> bool {
        self.uid == 0 || self.uid == self.transaction.caller.uid
    }
}

type Times = (u64, u64);
type Parts = (u32, u32, u32, u64);

#[interface(name = "org.projectatomic.rpmostree1.Transaction")]
impl Peer {
    /// True when this call began it.
    async fn start(&self) -> bool {
        if !self.owns() {
            return false;
        }
        self.transaction.start(self.number)
    }

    async fn cancel(&self) -> Result<(), Refusal> {
        if !self.owns() && !peer_may_cancel(&self.transaction.bus, self.pid, self.uid).await {
            return Err(Refusal::new(
                apt_ostree_bus::errors::ACCESS_DENIED,
                "rpmostreed OS operation Cancel not allowed for user",
            ));
        }
        self.transaction.cancel();
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn title(&self) -> String {
        self.transaction.title.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn initiating_client_description(&self) -> String {
        self.transaction.initiator.clone()
    }

    #[zbus(signal)]
    async fn finished(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        success: bool,
        error_message: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn message(emitter: &zbus::object_server::SignalEmitter<'_>, text: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn task_begin(emitter: &zbus::object_server::SignalEmitter<'_>, text: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn task_end(emitter: &zbus::object_server::SignalEmitter<'_>, text: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn percent_progress(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        text: &str,
        percentage: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn download_progress(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        time: Times,
        outstanding: (u32, u32),
        metadata: (u32, u32, u32),
        delta: Parts,
        content: (u32, u32),
        transfer: Times,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn signature_progress(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        signature: Vec<zbus::zvariant::Value<'_>>,
        commit: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_end(emitter: &zbus::object_server::SignalEmitter<'_>) -> zbus::Result<()>;
}

/// Returns when the flag is up; never, if nobody can raise it any more.
pub(crate) async fn raised(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|up| *up).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The error of a transaction that nobody started.
pub(crate) fn not_started(why: &str) -> Error {
    Error::new(apt_ostree_core::ErrorKind::Cancelled, why.to_owned())
}

//! One transaction and its clients: a socket on which they connect peer to peer, `Start`, `Cancel`, and the signals.
//!
//! Layout: `/run/rpm-ostree-transaction.sock` for `/`, mode 0666 and made anew for each transaction (rpm-ostree's name, which
//! clients print); a private folder for a sysroot in a directory. Who connects is known by the socket's credentials.
//!
//! Each client has a place and a queue of its own (`queue`), and what it sends is limited (`limit`): none can hold anything up, or
//! keep others out. It hears nothing before its `Start` but the end; then what it missed, then all.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apt_ostree_bus::{TRANSACTION, TRANSACTION_LINES, TRANSACTION_PATH};
use apt_ostree_core::Result;
use apt_ostree_core::event::Event;
use apt_ostree_core::operation::{Line, Report};
use tokio::net::UnixListener;
use tokio::sync::watch;
use zbus::connection::Builder;
use zbus::object_server::ResponseDispatchNotifier;
use zbus::{Connection, Guid, interface};

use crate::caller::{Caller, peer_may_cancel};
use crate::foreign::{Foreign, NOBODY};
use crate::job::Job;
use crate::journal;
use crate::limit::{self, End};
use crate::queue::{Queue, Signal};
use crate::refusal::{Refusal, text_of};

/// Lines that are kept for clients that join late.
const BACKLOG: usize = 1000;
/// Clients at a time, as the socket is open to everybody: of root and of whoever asked for the transaction each, of any other
/// user, and of all others.
const PEERS: usize = 32;
const FOREIGN_PEERS: usize = 4;
const ALL_FOREIGN_PEERS: usize = 32;
/// How long a client may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct State {
    started: bool,
    outcome: Option<(bool, String)>,
    peers: Vec<Client>,
    next_peer: u64,
    backlog: Vec<Arc<Signal>>,
    task: String,
    percent: Option<u32>,
}

/// A connection.
#[derive(Debug)]
struct Client {
    number: u64,
    uid: u32,
    signals: Arc<Queue>,
    ear: Ear,
    /// It was told the answer and `Finished`.
    told: bool,
}

/// What a client hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ear {
    /// It has not called `Start`: only the end.
    Shut,
    /// It is being answered: nothing, so that the answer comes first.
    Opening,
    Open,
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
    /// Clients have to leave.
    closed: End,
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
            closed: End::default(),
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

    /// Ends the connections of all clients, and of those that still come.
    pub(crate) fn close(&self) {
        self.closed.raise();
    }

    /// One step of the worker, for everybody who listens.
    pub(crate) fn tell(&self, line: &Line) {
        let text = serde_json::to_string(line).expect("lines have string keys only");
        let mut state = self.state();
        let passing =
            matches!(line, Line::Event(Event::Progress { .. } | Event::Download { .. } | Event::Output { .. }));
        let mut signals = vec![Signal::Line { text, passing }];
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
                    let percent =
                        u32::try_from(done.saturating_mul(100).checked_div(*total).unwrap_or_default().min(100));
                    let percent = percent.unwrap_or(100);
                    if state.percent.replace(percent) != Some(percent) {
                        signals.push(Signal::Percent(state.task.clone(), percent));
                    }
                }
                Event::Download { done, total, rate } => {
                    state.percent = Some(0);
                    let seconds = self.begun.elapsed().as_secs();
                    signals.push(Signal::Download { done: *done, total: *total, rate: *rate, seconds });
                }
                Event::Message { text } | Event::Warning { text } => signals.push(Signal::Message(text.clone())),
                Event::Output { .. } => {}
            }
        }
        if self.quiet {
            if let Line::Event(Event::Message { text } | Event::Warning { text }) = line {
                journal::note(text);
            }
            signals.truncate(1);
        }
        for signal in signals {
            let signal = Arc::new(signal);
            if !passing && state.backlog.len() < BACKLOG {
                state.backlog.push(signal.clone());
            }
            state.send(&signal);
        }
    }

    /// The end: told to everybody who is connected, and to everybody who still connects and asks.
    pub(crate) fn finish(&self, outcome: &Result<Report>) {
        let mut state = self.state();
        let line = match outcome {
            Ok(report) => {
                // For clients that do not know our own signal.
                let mut lines = report.lines.clone();
                if report.plan.is_some() {
                    lines.extend(report.diff.block().lines().map(ToOwned::to_owned));
                }
                for text in lines {
                    if !self.quiet {
                        let signal = Arc::new(Signal::Message(text));
                        state.backlog.push(signal.clone());
                        state.send(&signal);
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
        let answer = Signal::Answer(serde_json::to_string(&line).expect("lines have string keys only"));
        state.backlog.push(Arc::new(answer));
        state.outcome = Some(result);
        // Whoever is being answered is told with the backlog.
        let State { peers, backlog, outcome, .. } = &mut *state;
        peers.iter_mut().filter(|client| client.ear != Ear::Opening).for_each(|client| client.end(backlog, outcome));
    }

    /// A place for a new client, if its user has one left.
    fn admit(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let mut state = self.state();
        let trusted = |uid: u32| uid == 0 || uid == self.caller.uid;
        let same = state.peers.iter().filter(|client| client.uid == uid).count();
        let foreign = state.peers.iter().filter(|client| !trusted(client.uid)).count();
        let full = if trusted(uid) { same >= PEERS } else { same >= FOREIGN_PEERS || foreign >= ALL_FOREIGN_PEERS };
        if full {
            return None;
        }
        let number = state.next_peer;
        state.next_peer += 1;
        let signals = Arc::new(Queue::default());
        state.peers.push(Client { number, uid, signals: signals.clone(), ear: Ear::Shut, told: false });
        self.peers.send_replace(state.peers.len());
        Some(Seat { transaction: self.clone(), number, signals, end: End::default() })
    }

    /// `Start` of one client, before it is answered. True when it began the transaction.
    fn start(&self, number: u64, may_begin: bool) -> bool {
        let mut state = self.state();
        if let Some(client) = state.client(number).filter(|client| client.ear == Ear::Shut) {
            client.ear = Ear::Opening;
        }
        if !may_begin || state.outcome.is_some() || std::mem::replace(&mut state.started, true) {
            return false;
        }
        self.started.send_replace(true);
        true
    }

    /// `Start` was answered: the client is told what it missed, and from now on everything.
    fn hear(&self, number: u64) {
        let mut state = self.state();
        let State { peers, backlog, outcome, .. } = &mut *state;
        let Some(client) = peers.iter_mut().find(|client| client.number == number) else { return };
        if std::mem::replace(&mut client.ear, Ear::Open) == Ear::Open {
            return;
        }
        if !client.told {
            let missed = if outcome.is_some() { backlog.len() - 1 } else { backlog.len() };
            backlog[..missed].iter().for_each(|signal| client.signals.push(signal));
        }
        client.end(backlog, outcome);
    }

    /// Another call was answered: who asks something of what has ended waits for `Finished`, and may have been told before it
    /// listened.
    fn remind(&self, number: u64) {
        let mut state = self.state();
        let State { peers, backlog, outcome, .. } = &mut *state;
        if let Some(client) = peers.iter_mut().find(|client| client.number == number) {
            client.end(backlog, outcome);
        }
    }

    fn leave(&self, number: u64) {
        let mut state = self.state();
        state.peers.retain(|client| client.number != number);
        self.peers.send_replace(state.peers.len());
    }

    /// Makes the socket. What listened on that name before no longer does.
    pub(crate) fn listen(&self) -> Result<Listener> {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket)?;
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(0o666))?;
        let last = Foreign::new(listener.as_fd().try_clone_to_owned()?, NOBODY);
        Ok(Listener { inner: listener, _last: last })
    }

    pub(crate) fn remove_socket(&self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Where clients connect. What the others have sent to it that were not let in yet is closed with it, so that is done elsewhere: the copy
/// is the last one.
#[derive(Debug)]
pub(crate) struct Listener {
    inner: UnixListener,
    _last: Foreign,
}

impl State {
    fn client(&mut self, number: u64) -> Option<&mut Client> {
        self.peers.iter_mut().find(|client| client.number == number)
    }

    fn send(&mut self, signal: &Arc<Signal>) {
        self.peers.iter().filter(|client| client.ear == Ear::Open).for_each(|client| client.signals.push(signal));
    }
}

impl Client {
    /// Tells the end, if it has come. The answer is the last of the backlog.
    fn end(&mut self, backlog: &[Arc<Signal>], outcome: &Option<(bool, String)>) {
        let (Some((success, text)), Some(answer)) = (outcome, backlog.last()) else { return };
        if !std::mem::replace(&mut self.told, true) {
            self.signals.push(answer);
        }
        self.signals.push(&Arc::new(Signal::Finished(*success, text.clone())));
    }
}

/// The place of a client. Dropped, however that comes about, it is free again, and the connection ends.
#[derive(Debug)]
struct Seat {
    transaction: Arc<Transaction>,
    number: u64,
    signals: Arc<Queue>,
    end: End,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.end.raise();
        self.transaction.leave(self.number);
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
pub(crate) async fn accept(transaction: Arc<Transaction>, listener: Listener) {
    loop {
        match listener.inner.accept().await {
            Ok((stream, _)) => {
                let Ok(credentials) = stream.peer_cred() else {
                    limit::leave(stream, NOBODY);
                    continue;
                };
                // Too many of one user.
                let Some(seat) = transaction.admit(credentials.uid()) else {
                    limit::leave(stream, credentials.uid());
                    continue;
                };
                let (uid, pid) = (credentials.uid(), credentials.pid().and_then(|pid| u32::try_from(pid).ok()));
                // Before anything can drop it.
                let Ok(builder) = limit::peer(stream, uid, &seat.end) else { continue };
                tokio::spawn(serve(seat, builder, uid, pid.unwrap_or_default()));
            }
            Err(e) => {
                journal::warning(&format!("The socket of the transaction: {e}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One client, until it leaves or has to.
async fn serve(seat: Seat, builder: Builder<'static>, uid: u32, pid: u32) {
    tokio::select! {
        () = talk(&seat, builder, uid, pid) => {}
        () = seat.end.raised() => {}
        () = seat.transaction.closed.raised() => {}
    }
}

async fn talk(seat: &Seat, builder: Builder<'static>, uid: u32, pid: u32) {
    let peer = Peer { transaction: seat.transaction.clone(), number: seat.number, uid, pid, end: seat.end.clone() };
    let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE, connect(builder, peer)).await else { return };
    journal::note(&format!("Process [pid: {pid} uid: {uid}] connected to transaction progress"));
    while emit(&connection, &*seat.signals.next().await).await.is_ok() {}
}

async fn connect(builder: Builder<'static>, peer: Peer) -> zbus::Result<Connection> {
    builder.server(Guid::generate())?.p2p().serve_at(TRANSACTION_PATH, peer)?.build().await
}

async fn emit(connection: &Connection, signal: &Signal) -> zbus::Result<()> {
    let none = None::<zbus::names::BusName<'_>>;
    macro_rules! send {
        ($interface:expr, $name:literal, $body:expr) => {
            connection.emit_signal(none, TRANSACTION_PATH, $interface, $name, $body).await
        };
    }
    match signal {
        Signal::Line { text, .. } | Signal::Answer(text) => send!(TRANSACTION_LINES, "Line", &(text,)),
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
    /// Of its connection.
    end: End,
}

impl Peer {
    /// Whoever began it, and root.
    fn owns(&self) -> bool {
        self.uid == 0 || self.uid == self.transaction.caller.uid
    }

    /// Asks polkit, for as long as somebody waits for that.
    async fn may_cancel(&self) -> bool {
        let gone = async {
            tokio::select! {
                () = self.end.raised() => {}
                () = self.transaction.closed.raised() => {}
            }
        };
        peer_may_cancel(&self.transaction.bus, self.pid, self.uid, gone).await
    }
}

/// An answer, and what is done once it is sent.
fn after<T>(answer: T, then: impl FnOnce() + Send + 'static) -> ResponseDispatchNotifier<T> {
    let (answer, sent) = ResponseDispatchNotifier::new(answer);
    tokio::spawn(async move {
        sent.await;
        then();
    });
    answer
}

type Times = (u64, u64);
type Parts = (u32, u32, u32, u64);

// One call at a time: a peer that does not read its answers is not read either.
#[interface(name = "org.projectatomic.rpmostree1.Transaction", spawn = false)]
impl Peer {
    /// True when this call began it.
    async fn start(&self) -> ResponseDispatchNotifier<bool> {
        let begun = self.transaction.start(self.number, self.owns());
        let (transaction, number) = (self.transaction.clone(), self.number);
        after(begun, move || transaction.hear(number))
    }

    async fn cancel(&self) -> Result<ResponseDispatchNotifier<()>, Refusal> {
        if !self.transaction.is_finished() {
            if !self.owns() && !self.may_cancel().await {
                return Err(Refusal::new(
                    apt_ostree_bus::errors::ACCESS_DENIED,
                    "rpmostreed OS operation Cancel not allowed for user",
                ));
            }
            self.transaction.cancel();
        }
        let (transaction, number) = (self.transaction.clone(), self.number);
        Ok(after((), move || transaction.remind(number)))
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

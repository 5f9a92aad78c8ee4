//! What the service knows: the sysroot as it was last read, the settings, who is registered, and the one transaction.
//!
//! Lock rules: every lock here is held for a moment and never across an `await`.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use apt_ostree_bus::{Dict, errors, os_path};
use apt_ostree_core::last_transaction::LastTransaction;
use apt_ostree_core::model::settings::Settings;
use apt_ostree_core::operation::{Report, Request};
use apt_ostree_core::update_driver;
use apt_ostree_core::{Error, ErrorKind, Result};
use serde_json::Value as Json;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, broadcast};
use zbus::Connection;

use crate::caller::Caller;
use crate::job::Job;
use crate::question::{self, Question};
use crate::refusal::{Answer, Refusal};
use crate::transaction::{self, Transaction};
use crate::worker::Unit;
use crate::{journal, launch, wire, worker};

/// A transaction that nobody starts does not keep others out for longer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A reading of the sysroot that fails for want of something, as of memory or processes, is tried again after so long each.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// How long clients may stay connected after the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The socket's name for the running system.
const SOCKET: &str = "/run/rpm-ostree-transaction.sock";

/// The sysroot at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Deployments in boot order, as JSON documents.
    pub(crate) deployments: Vec<Json>,
    pub(crate) cached_update: Option<Json>,
    /// Stateroot of the booted deployment.
    pub(crate) booted: Option<String>,
    /// All stateroots that have a deployment.
    pub(crate) stateroots: Vec<String>,
}

impl Snapshot {
    fn new(sysroot: question::Sysroot) -> Self {
        let question::Sysroot { deployments, cached_update } = sysroot;
        let osname = |deployment: &Json| deployment["osname"].as_str().unwrap_or_default().to_owned();
        let booted = deployments.iter().find(|d| d["booted"] == true).map(osname);
        let mut stateroots: Vec<String> = deployments.iter().map(osname).collect();
        stateroots.sort();
        stateroots.dedup();
        Self { deployments, cached_update, booted, stateroots }
    }

    pub(crate) fn of<'a>(&'a self, osname: &'a str) -> impl Iterator<Item = &'a Json> {
        self.deployments.iter().filter(move |d| d["osname"] == *osname)
    }

    pub(crate) fn booted_deployment(&self, osname: &str) -> Dict {
        self.of(osname).find(|d| d["booted"] == true).map(wire::deployment).unwrap_or_default()
    }

    pub(crate) fn default_deployment(&self, osname: &str) -> Dict {
        self.of(osname).next().map(wire::deployment).unwrap_or_default()
    }

    /// The one that `rollback` would go to: after the booted one, or the first where that is not booted.
    pub(crate) fn rollback_deployment(&self, osname: &str) -> Dict {
        let mut after = self.of(osname).skip_while(|d| d["booted"] != true);
        after.nth(1).map(wire::deployment).unwrap_or_default()
    }
}

/// Calls of one user that are being answered at a time; root is not limited. Each keeps its message, of up to 256 KiB, and polkit's
/// dialog can hold it for as long as nobody looks at the screen.
const CALLS: usize = 16;

/// See [`Daemon::call`] and [`Daemon::enter`].
#[derive(Debug)]
pub(crate) struct Call {
    daemon: Arc<Daemon>,
    /// Among whose calls it counts.
    uid: Option<u32>,
    vanished: broadcast::Receiver<String>,
}

impl Call {
    fn admit(&mut self, uid: u32) -> Answer<()> {
        if uid == 0 {
            return Ok(());
        }
        let mut users = lock(&self.daemon.users);
        let count = users.entry(uid).or_default();
        if *count >= CALLS {
            let text = format!("{CALLS} calls of this user are being answered already: wait for one of them");
            return Err(Refusal::new(errors::LIMITS_EXCEEDED, text));
        }
        *count += 1;
        self.uid = Some(uid);
        Ok(())
    }

    /// Returns when the caller of that unique name has left the bus.
    pub(crate) async fn gone(&mut self, name: &str) {
        left(&mut self.vanished, name, || is_on(&self.daemon.bus, name)).await;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(uid) = self.uid {
            let mut users = lock(&self.daemon.users);
            if let Some(count) = users.get_mut(&uid) {
                *count -= 1;
                if *count == 0 {
                    users.remove(&uid);
                }
            }
        }
        self.daemon.calls.fetch_sub(1, Ordering::Relaxed);
        self.daemon.touch();
    }
}

/// Whether a unique name is on the bus, as far as the bus tells.
async fn is_on(bus: &Connection, name: &str) -> bool {
    let Ok(name) = zbus::names::BusName::try_from(name) else { return true };
    let Ok(bus) = zbus::fdo::DBusProxy::new(bus).await else { return true };
    bus.name_has_owner(name).await.unwrap_or(true)
}

/// Waits for a unique name to leave the bus; for ever, if nobody would tell. `is_there` says whether it still is, after so many left at
/// once that some were missed.
async fn left<F: Future<Output = bool>>(
    vanished: &mut broadcast::Receiver<String>,
    name: &str,
    is_there: impl Fn() -> F,
) {
    loop {
        match vanished.recv().await {
            Ok(gone) if gone == name => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => {
                if !is_there().await {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Work that is done once at a time, for all who asked for it before it began.
#[derive(Debug)]
struct Shared<T> {
    begun: AtomicU64,
    /// What came of the one with that number.
    last: tokio::sync::Mutex<Option<(u64, T)>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), last: tokio::sync::Mutex::new(None) }
    }
}

impl<T: Clone> Shared<T> {
    /// Does it, unless another began it after this call and has done it.
    async fn run(&self, work: impl Future<Output = T>) -> T {
        let before = self.begun.load(Ordering::Relaxed);
        let mut last = self.last.lock().await;
        if let Some((number, outcome)) = &*last {
            if *number > before {
                return outcome.clone();
            }
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let outcome = work.await;
        *last = Some((number, outcome.clone()));
        outcome
    }
}

/// Tries again after each of these times.
async fn surely<T, F: Future<Output = Result<T>>>(again: &[Duration], work: impl Fn() -> F) -> Result<T> {
    for pause in again {
        match work().await {
            Ok(done) => return Ok(done),
            Err(e) => journal::warning(&format!("Trying again in {} seconds: {e}", pause.as_secs())),
        }
        tokio::time::sleep(*pause).await;
    }
    work().await
}

/// Shared by all objects.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The program that works and reads for the service.
    pub(crate) program: PathBuf,
    pub(crate) sysroot: PathBuf,
    pub(crate) bus: Connection,
    /// For files of callers and, where the sysroot is not `/`, the socket.
    runtime: PathBuf,
    unit: String,
    snapshot: Mutex<Arc<Snapshot>>,
    settings: Mutex<Settings>,
    /// Who asked not to be left alone: unique names, and the id that each gave.
    clients: Mutex<BTreeMap<String, String>>,
    slot: Mutex<Option<Arc<Transaction>>>,
    last: Mutex<Option<LastTransaction>>,
    active: Mutex<Instant>,
    /// Something happened that the idle exit must look at.
    pub(crate) activity: Notify,
    rebooting: AtomicBool,
    serial: AtomicU64,
    /// Unique names that left the bus.
    pub(crate) vanished: broadcast::Sender<String>,
    /// One reading of the sysroot after the other, so that the newest is what stays. Anybody may ask for one, and each is a process: those
    /// who wait share the next.
    readings: Shared<Result<()>>,
    /// Questions that start a process or read much: a few at a time, whoever asks.
    pub(crate) questions: tokio::sync::Semaphore,
    /// Calls that are being answered, polkit's dialogs among them.
    calls: AtomicU64,
    /// The same by user, without root.
    users: Mutex<BTreeMap<u32, usize>>,
    /// The name is about to be given back: nothing new is begun.
    leaving: AtomicBool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    pub(crate) fn new(program: PathBuf, sysroot: PathBuf, bus: Connection, runtime: PathBuf) -> Arc<Self> {
        // Of a service before this one.
        let last = LastTransaction::read(&sysroot);
        Arc::new(Self {
            program,
            sysroot,
            bus,
            runtime,
            unit: update_driver::unit_of_process("self").unwrap_or_default(),
            snapshot: Mutex::default(),
            settings: Mutex::default(),
            clients: Mutex::default(),
            slot: Mutex::default(),
            last: Mutex::new(last),
            active: Mutex::new(Instant::now()),
            activity: Notify::new(),
            rebooting: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            vanished: broadcast::Sender::new(64),
            readings: Shared::default(),
            questions: Semaphore::new(2),
            calls: AtomicU64::new(0),
            users: Mutex::default(),
            leaving: AtomicBool::new(false),
        })
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        lock(&self.snapshot).clone()
    }

    pub(crate) fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    pub(crate) fn transaction(&self) -> Option<Arc<Transaction>> {
        lock(&self.slot).clone()
    }

    /// How the last transaction ended.
    pub(crate) fn last(&self) -> Option<LastTransaction> {
        lock(&self.last).clone()
    }

    /// Starts the time until the idle exit anew.
    pub(crate) fn touch(&self) {
        *lock(&self.active) = Instant::now();
        self.activity.notify_one();
    }

    /// How long nobody has wanted anything; `None` while somebody does.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let wanted =
            !lock(&self.clients).is_empty() || lock(&self.slot).is_some() || self.calls.load(Ordering::Relaxed) > 0;
        (!wanted).then(|| lock(&self.active).elapsed())
    }

    /// A call that is being answered, until the value is dropped.
    pub(crate) fn call(self: &Arc<Self>) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Call { daemon: self.clone(), uid: None, vanished: self.vanished.subscribe() }
    }

    /// The same with who calls, unless that user has too many already. What came with the message is to be dropped before.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        connection: &Connection,
        header: &zbus::message::Header<'_>,
    ) -> Answer<(Caller, Call)> {
        let mut call = self.call();
        let caller = Caller::of(connection, header).await?;
        call.admit(caller.uid)?;
        Ok((caller, call))
    }

    /// The same for a question that has to wait its turn.
    pub(crate) async fn turn(self: &Arc<Self>) -> Answer<(Call, SemaphorePermit<'_>)> {
        let call = self.call();
        let permit = self.questions.acquire().await.map_err(|e| Refusal::failed(e.to_string()))?;
        Ok((call, permit))
    }

    /// From here on nothing new is begun; false while something is going on.
    pub(crate) fn leave(&self) -> bool {
        self.leaving.store(true, Ordering::Relaxed);
        let alone = self.idle_for().is_some();
        self.leaving.store(alone, Ordering::Relaxed);
        alone
    }

    pub(crate) fn client_count(&self) -> usize {
        lock(&self.clients).len()
    }

    pub(crate) async fn register(&self, name: &str, id: String) {
        lock(&self.clients).insert(name.to_owned(), id);
        self.touch();
        // It may have left before, and nobody would tell that again.
        if !is_on(&self.bus, name).await {
            self.unregister(name);
        }
    }

    pub(crate) fn unregister(&self, name: &str) {
        lock(&self.clients).remove(name);
        self.touch();
    }

    fn client_id(&self, name: &str) -> String {
        lock(&self.clients).get(name).cloned().unwrap_or_else(|| "unknown".into())
    }

    /// Reads the settings again. A file that cannot be read leaves them as they are.
    pub(crate) async fn reload_settings(&self) -> Result<()> {
        let etc = self.sysroot.join("etc");
        let settings = tokio::task::spawn_blocking(move || apt_ostree_core::settings::read(&etc))
            .await
            .map_err(|e| Error::failed(e.to_string()))??;
        *lock(&self.settings) = settings;
        Ok(())
    }

    /// Reads the sysroot again and tells the bus of what is different.
    pub(crate) async fn reload(self: &Arc<Self>) -> Result<()> {
        self.reload_within(question::TIMEOUT).await
    }

    pub(crate) async fn reload_within(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        self.readings.run(self.read(timeout)).await
    }

    async fn read(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        let sysroot = question::ask_within(&self.program, &self.sysroot, &Question::Sysroot, timeout).await?;
        let new = Arc::new(Snapshot::new(sysroot));
        let old = std::mem::replace(&mut *lock(&self.snapshot), new.clone());
        if old.deployments != new.deployments || old.cached_update != new.cached_update {
            if !old.deployments.is_empty() && old.deployments != new.deployments {
                let first = new.deployments.first().and_then(|d| d["id"].as_str()).unwrap_or_default();
                journal::event(
                    journal::DEPLOYMENTS_CHANGED,
                    &format!("The deployments have changed; {first} is first"),
                    &[("DEPLOYMENT_ID", first)],
                );
            }
            crate::objects::publish(self, &old, &new).await.map_err(|e| Error::failed(e.to_string()))?;
        }
        Ok(())
    }

    /// The only place where a transaction begins. The address to connect to.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        mut job: Job,
        (caller, mut call): (Caller, Call),
        path: String,
    ) -> Answer<String> {
        caller.authorize(&self.bus, job.method, &job.actions, call.gone(&caller.name)).await?;
        job.set_driver_unit(&caller.unit)?;
        self.refuse_at_the_end()?;
        if let Some(address) = self.join(&job)? {
            return Ok(address);
        }
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        // What goes away before this point is seen there, and after it here.
        let vanished = self.vanished.subscribe();
        let staged = crate::files::stage(&mut job, &self.runtime).await?;
        let client = self.client_id(&caller.name);
        let transaction =
            Arc::new(Transaction::new(&job, caller, &client, path, self.socket(number), self.bus.clone()));
        {
            let mut slot = lock(&self.slot);
            self.refuse_at_the_end()?;
            // Somebody else was quicker.
            if let Some(other) = slot.as_ref().filter(|t| !t.is_finished()) {
                return Err(busy(other));
            }
            *slot = Some(transaction.clone());
        }
        let listener = match transaction.listen() {
            Ok(listener) => listener,
            Err(e) => {
                self.clear(&transaction);
                return Err(e.into());
            }
        };
        let address = transaction.address.clone();
        let uid = transaction.caller.uid.to_string();
        journal::event(
            journal::TRANSACTION_BEGIN,
            &format!("Initiated txn {} for {}: {}", transaction.method, transaction.initiator, transaction.path),
            &[("BUS_ADDRESS", &transaction.caller.name), ("CLIENT_UID", &uid)],
        );
        crate::objects::transaction_changed(self).await;
        let daemon = self.clone();
        tokio::spawn(async move {
            daemon.drive(&transaction, job, listener, vanished).await;
            drop(staged);
        });
        Ok(address)
    }

    fn refuse_at_the_end(&self) -> Answer<()> {
        if self.rebooting.load(Ordering::Relaxed) {
            return Err(Refusal::new(errors::BUSY, "A reboot is under way"));
        }
        if self.leaving.load(Ordering::Relaxed) {
            return Err(Refusal::new(errors::BUSY, "The service is about to end: try again"));
        }
        Ok(())
    }

    /// The running transaction is what is asked for: its address. Another one is running: busy.
    fn join(&self, job: &Job) -> Answer<Option<String>> {
        match lock(&self.slot).as_ref().filter(|t| !t.is_finished()) {
            None => Ok(None),
            Some(running) if running.fingerprint == transaction::fingerprint(job) => Ok(Some(running.address.clone())),
            Some(running) => Err(busy(running)),
        }
    }

    fn socket(&self, number: u64) -> PathBuf {
        if self.sysroot == Path::new("/") {
            return SOCKET.into();
        }
        self.runtime.join(format!("transaction-{number}.sock"))
    }

    /// The life of a transaction: wait for `Start`, work, tell, wait for the clients to leave.
    async fn drive(
        self: &Arc<Self>,
        transaction: &Arc<Transaction>,
        job: Job,
        listener: transaction::Listener,
        mut vanished: broadcast::Receiver<String>,
    ) {
        let accept = tokio::spawn(transaction::accept(transaction.clone(), listener));
        let caller = &transaction.caller.name;
        let why = tokio::select! {
            biased;
            () = transaction::raised(transaction.started()) => None,
            () = transaction::raised(transaction.cancelled()) => Some("Transaction cancelled"),
            () = left(&mut vanished, caller, || is_on(&self.bus, caller)) => Some("client disconnected before calling Start; cancelling transaction"),
            () = tokio::time::sleep(START_TIMEOUT) => Some("client did not call Start in time; cancelling transaction"),
        };
        let outcome = match why {
            Some(why) => Err(Error::new(ErrorKind::Cancelled, why)),
            None => as_asked(&job, self.work(transaction, &job.requests).await),
        };
        // Whoever is told the end reads the properties next.
        if let Err(e) = surely(&AGAIN, || self.reload()).await {
            journal::warning(&format!("Reading the sysroot again: {e}"));
        }
        self.conclude(transaction, &outcome).await;
        transaction.finish(&outcome);
        let asks_for_reboot = job.requests.iter().any(|r| r.options.reboot);
        if asks_for_reboot
            && outcome.as_ref().is_ok_and(|r| (r.changed && r.plan.is_none() && r.update.is_none()) || r.reboot_due)
        {
            self.reboot().await;
        }
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, transaction.deserted()).await;
        transaction.close();
        accept.abort();
        self.clear(transaction);
        crate::objects::transaction_changed(self).await;
        self.touch();
    }

    async fn work(self: &Arc<Self>, transaction: &Arc<Transaction>, requests: &[Request]) -> Result<Report> {
        let mut report = Report::default();
        for request in requests {
            let number = self.serial.fetch_add(1, Ordering::Relaxed);
            let unit = (launch::has_systemd() && !self.unit.is_empty()).then(|| Unit {
                name: format!("apt-ostree-worker-{}-{number}.service", std::process::id()),
                service: self.unit.clone(),
                title: transaction.title.clone(),
            });
            let done = worker::run(&self.program, request, unit.as_ref(), transaction.cancelled(), |line| {
                transaction.tell(&line);
            })
            .await?;
            let lines = [report.lines, done.lines].concat();
            report = Report { changed: done.changed || report.changed, lines, ..done };
        }
        Ok(report)
    }

    /// For the journal, and for who asks later.
    async fn conclude(&self, transaction: &Transaction, outcome: &Result<Report>) {
        let (success, text) = match outcome {
            Ok(_) => (true, String::new()),
            Err(e) => (false, e.to_string()),
        };
        let word = if success { "successful".to_owned() } else { format!("failed: {text}") };
        journal::event(
            journal::TRANSACTION_END,
            &format!("Txn {} on {} {word}", transaction.method, transaction.path),
            &[("TRANSACTION_TITLE", &transaction.title)],
        );
        let last = LastTransaction::new(
            transaction.method,
            &transaction.title,
            &transaction.initiator,
            outcome.as_ref().map(drop),
        );
        *lock(&self.last) = Some(last.clone());
        let root = self.sysroot.clone();
        let written = tokio::task::spawn_blocking(move || last.write(&root)).await;
        if let Ok(Err(e)) = written {
            journal::warning(&format!("`status` will not tell how the transaction ended: {e}"));
        }
    }

    fn clear(&self, transaction: &Arc<Transaction>) {
        let mut slot = lock(&self.slot);
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, transaction)) {
            *slot = None;
            transaction.remove_socket();
        }
    }

    async fn reboot(&self) {
        self.rebooting.store(true, Ordering::Relaxed);
        journal::note("Rebooting, as the transaction asked for");
        let mut command = tokio::process::Command::new("systemctl");
        let done = command.args(["reboot", "--check-inhibitors=yes"]).stdin(std::process::Stdio::null()).status().await;
        if !done.is_ok_and(|status| status.success()) {
            self.rebooting.store(false, Ordering::Relaxed);
            journal::warning(
                "The system cannot be rebooted now; the new deployment is in place and starts at the next boot",
            );
        }
    }

    /// Ends the running transaction, for a service that is stopped.
    pub(crate) async fn cancel_all(&self) {
        let Some(transaction) = self.transaction() else { return };
        transaction.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(15), async {
            while !transaction.is_finished() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    pub(crate) fn booted_path(&self) -> String {
        self.snapshot().booted.as_deref().map_or_else(|| "/".into(), os_path)
    }
}

/// What is refused to a person is no failure of an update that nobody watches: there is none to be had, and a client that takes it for
/// one would tell of it every day.
fn as_asked(job: &Job, outcome: Result<Report>) -> Result<Report> {
    match outcome {
        Err(error) if job.automatic && error.nothing_to_do => {
            journal::note(&error.to_string());
            Ok(Report { lines: vec![error.to_string()], ..Report::default() })
        }
        outcome => outcome,
    }
}

/// rpm-ostree's words.
fn busy(running: &Transaction) -> Refusal {
    Refusal::new(
        errors::BUSY,
        format!(
            "Transaction in progress: {}\n You can cancel the current transaction with `apt-ostree cancel`",
            running.title
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn who_leaves_among_too_many_is_noticed() {
        run(async {
            let vanished = broadcast::Sender::new(1);
            let mut receiver = vanished.subscribe();
            for name in [":1.7", ":1.8", ":1.9"] {
                let _ = vanished.send(name.to_owned());
            }
            left(&mut receiver, ":1.7", || async { false }).await;
            // One that is still there is waited for.
            let mut receiver = vanished.subscribe();
            for name in [":1.8", ":1.9", ":1.7"] {
                let _ = vanished.send(name.to_owned());
            }
            left(&mut receiver, ":1.7", || async { true }).await;
        });
    }

    #[test]
    fn who_waits_for_a_reading_shares_the_next() {
        let (shared, count) = (Shared::default(), AtomicU64::new(0));
        let read = || {
            shared.run(async {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::task::yield_now().await;
                number
            })
        };
        run(async {
            let first = async {
                let outcome = read().await;
                (outcome, 1)
            };
            // These ask while the first is under way, which may have seen what was before.
            let all = tokio::join!(first, read(), read(), read(), read());
            assert_eq!(all, ((1, 1), 2, 2, 2, 2));
            assert_eq!(read().await, 3);
        });
    }

    #[test]
    fn what_fails_once_is_tried_again() {
        let count = AtomicU64::new(0);
        let failing = |times: u64| {
            count.store(0, Ordering::Relaxed);
            let count = &count;
            run(surely(&[Duration::ZERO; 2], move || async move {
                let number = count.fetch_add(1, Ordering::Relaxed);
                if number < times { Err(Error::failed("no memory")) } else { Ok(number) }
            }))
        };
        assert_eq!((failing(0).ok(), failing(2).ok()), (Some(0), Some(2)));
        assert!(failing(3).is_err());
    }
}

//! The service: answers on the bus under rpm-ostree's name, asks polkit, runs one transaction at a time in a worker process.
//!
//! It writes nothing but its sockets and copies of package files. Every change is a worker's, and what it tells of the sysroot is
//! read by a process of its own ([`answer`]): the program `apt-ostreed` has no library of the engine in it. It keeps no state that
//! matters: killed at any moment, it is started again by the next call. One thread answers; what may block runs on others.

pub mod answer;
mod caller;
mod files;
mod foreign;
mod job;
mod journal;
pub mod launch;
mod limit;
mod manager;
mod objects;
mod os;
pub mod packages;
pub mod question;
mod queue;
mod refusal;
mod state;
mod sysroot;
mod transaction;
mod watch;
mod wire;
mod worker;

pub use job::names;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apt_ostree_core::{Context, Error, ErrorKind, Result};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use zbus::fdo::{DBusProxy, RequestNameFlags, RequestNameReply};

use state::Daemon;

/// Where the service puts copies of package files.
const RUNTIME: &str = "/var/cache/apt-ostree";

/// A call that is on its way while the name is given back still gets its answer.
const DRAIN: Duration = Duration::from_millis(200);

/// A machine that has just started is busy, and without a first reading there is no service. Below the unit's `TimeoutStartSec=`.
const FIRST_READING: Duration = Duration::from_secs(240);

/// What `start-daemon` is told.
#[derive(Debug)]
pub struct Options {
    /// The program `apt-ostree`: it works and reads for the service, each time in a process of its own.
    pub program: PathBuf,
    pub sysroot: PathBuf,
    /// Overrides the settings; for tests.
    pub idle_exit: Option<u64>,
}

/// Serves until it is idle for long enough, or told to stop.
pub fn serve(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Reading a sysroot is one thread's work, and an idle service should be small.
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .context(|| "Starting the service")?;
    runtime.block_on(run(options))
}

async fn run(options: &Options) -> Result<()> {
    let (bus, lost) = limit::system_bus().await.map_err(|e| on_bus("Connecting to the system bus", &e))?;
    let scratch = tempfile::tempdir().context(|| "Making a temporary folder")?;
    let on_machine = options.sysroot == std::path::Path::new("/");
    let runtime =
        if on_machine && std::path::Path::new(RUNTIME).is_dir() { RUNTIME.into() } else { scratch.path().to_owned() };
    let daemon = Daemon::new(options.program.clone(), options.sysroot.clone(), bus.clone(), runtime.clone());
    if let Err(e) = daemon.reload_settings().await {
        // Nobody could even look at the system. What changes it reads the settings again, and refuses.
        journal::warning(&format!("The settings are those of a system without any: {e}"));
    }
    objects::serve(&daemon).await.map_err(|e| on_bus("Making the objects", &e))?;
    daemon.reload_within(FIRST_READING).await?;
    // The name comes last: whoever sees it gets answers.
    let reply = bus
        .request_name_with_flags(apt_ostree_bus::NAME, RequestNameFlags::DoNotQueue.into())
        .await
        .map_err(|e| on_bus("Taking the name on the bus", &e))?;
    if reply != RequestNameReply::PrimaryOwner {
        return Err(Error::new(ErrorKind::Busy, format!("The name {} has an owner already", apt_ostree_bus::NAME)));
    }
    // What a service that was killed left behind.
    files::clean(&runtime);
    journal::note(&format!(
        "In idle state; will auto-exit in {} seconds",
        idle_limit(&daemon, options).map_or(0, |d| d.as_secs())
    ));
    tokio::spawn(watch::run(daemon.clone()));
    tokio::spawn(watch_names(daemon.clone()));
    let why = wait(&daemon, options, &lost).await?;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Status(why), sd_notify::NotifyState::Stopping]);
    journal::note(why);
    bus.release_name(apt_ostree_bus::NAME).await.map_err(|e| on_bus("Giving the name back", &e))?;
    tokio::time::sleep(DRAIN).await;
    Ok(())
}

/// Until there is a reason to end; says which.
async fn wait(daemon: &Arc<Daemon>, options: &Options, lost: &limit::End) -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context(|| "Catching signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context(|| "Catching signals")?;
    let mut hangup = signal(SignalKind::hangup()).context(|| "Catching signals")?;
    loop {
        report(daemon, options);
        // It could answer nobody, and would keep the name from one that can. A transaction is seen through.
        if lost.is_raised() && daemon.transaction().is_none() {
            return Err(Error::failed("The connection to the system bus has ended"));
        }
        // Up to four seconds more, so that machines do not do it in step.
        let spread = Duration::from_millis(u64::from(std::process::id() % 4000));
        let left = match (daemon.idle_for(), idle_limit(daemon, options)) {
            (Some(idle), Some(limit)) => (limit + spread).saturating_sub(idle),
            _ => Duration::from_secs(3600),
        };
        if left.is_zero() && daemon.leave() {
            return Ok("Exiting due to idle");
        }
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = daemon.activity.notified() => {}
            () = lost.raised(), if !lost.is_raised() => {}
            _ = hangup.recv() => {
                match daemon.reload_settings().await {
                    Ok(()) => drop(objects::settings_changed(&daemon.bus).await),
                    Err(e) => journal::warning(&format!("The settings stay as they were: {e}")),
                }
            }
            _ = terminate.recv() => {
                daemon.cancel_all().await;
                return Ok("Terminated");
            }
            _ = interrupt.recv() => {
                daemon.cancel_all().await;
                return Ok("Interrupted");
            }
        }
    }
}

/// `None`: never.
fn idle_limit(daemon: &Daemon, options: &Options) -> Option<Duration> {
    if std::env::var_os("RPMOSTREE_DEBUG_DISABLE_DAEMON_IDLE_EXIT").is_some() {
        return None;
    }
    let seconds = options.idle_exit.unwrap_or_else(|| daemon.settings().idle_exit_timeout);
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// The status text of the unit, in rpm-ostree's words.
fn report(daemon: &Daemon, options: &Options) {
    let clients = daemon.client_count();
    let text = match (daemon.transaction(), daemon.idle_for(), idle_limit(daemon, options)) {
        (Some(t), ..) => format!("clients={clients}; txn={} caller={} path={}", t.method, t.caller.name, t.path),
        (None, Some(_), Some(limit)) => format!("clients={clients}; idle exit in {} seconds", limit.as_secs()),
        _ => format!("clients={clients}; idle"),
    };
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Status(&text)]);
}

/// Forgets clients that leave the bus, and tells a transaction that waits for them.
async fn watch_names(daemon: Arc<Daemon>) {
    let stream = async { DBusProxy::new(&daemon.bus).await?.receive_name_owner_changed().await };
    let mut stream = match stream.await {
        Ok(stream) => stream,
        Err(e) => return journal::warning(&format!("Clients that vanish are not noticed: {e}")),
    };
    while let Some(signal) = stream.next().await {
        let Ok(args) = signal.args() else { continue };
        if args.new_owner().is_none() && args.name().starts_with(':') {
            daemon.unregister(args.name());
            // Nobody waits.
            let _ = daemon.vanished.send(args.name().to_string());
        }
    }
}

fn on_bus(what: &str, error: &zbus::Error) -> Error {
    let mut error = Error::failed(error.to_string());
    error.chain.insert(0, what.to_owned());
    error
}

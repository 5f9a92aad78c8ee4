//! Notices changes that others make: plain `ostree`, another tool, a worker without the service.
//!
//! libostree touches `ostree/deploy` whenever it writes deployments or an origin; a staged deployment is a file in
//! `/run/ostree`. Both are watched with inotify, and a burst of events is one change.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::journal;
use crate::state::Daemon;

/// What happens within this time of the first event belongs to it.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches until the service ends.
pub(crate) async fn run(daemon: Arc<Daemon>) {
    let inotify = match open(&daemon.sysroot) {
        Ok(inotify) => inotify,
        Err(e) => {
            journal::warning(&format!("Changes by other tools are seen only on reload: {e}"));
            return;
        }
    };
    let (sender, mut events) = mpsc::channel(1);
    // A thread that sleeps in read(2); it ends with the process.
    std::thread::spawn(move || read(&inotify, &sender));
    while events.recv().await.is_some() {
        tokio::time::sleep(SETTLE).await;
        let _ = events.try_recv();
        if let Err(e) = daemon.reload().await {
            journal::warning(&format!("Reading the sysroot after a change: {e}"));
        }
    }
}

fn open(sysroot: &Path) -> rustix::io::Result<OwnedFd> {
    let inotify = inotify::init(CreateFlags::CLOEXEC)?;
    let entries = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&inotify, sysroot.join("ostree/deploy"), entries | WatchFlags::ATTRIB)?;
    if sysroot == Path::new("/") {
        // Not there before the first boot of an OSTree system.
        let _ = inotify::add_watch(&inotify, "/run/ostree", entries);
    }
    Ok(inotify)
}

/// What happened does not matter, only that something did: one note is enough until it is taken.
fn read(inotify: &OwnedFd, sender: &mpsc::Sender<()>) {
    let mut buffer = [0u8; 4096];
    while rustix::io::read(inotify, &mut buffer).is_ok_and(|n| n > 0) {
        if let Err(TrySendError::Closed(())) = sender.try_send(()) {
            return;
        }
    }
}

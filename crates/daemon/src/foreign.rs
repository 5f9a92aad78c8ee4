//! Open files of callers. Closing one can take as long as whoever made it likes (a file system in user space, a socket that lingers), so
//! none is closed on the thread that answers.
//!
//! zbus closes what came with a message wherever it drops the message. So it never has the files: for each one it gets the end of a
//! pipe, which stands for it, and the file waits here until that end is closed everywhere. What closes files are a few threads of
//! their own; where all are held up, files wait for them, and when too many wait the service takes no more.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock, Mutex};

use rustix::fs::fstat;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;

use crate::journal;
use crate::state::lock;

/// Threads that close.
const CLOSERS: usize = 8;
/// Files that wait to be closed. Each still counts against what the service may have open.
const WAITING: usize = 256;

/// A file of somebody else's, closed elsewhere when it is dropped.
#[derive(Debug)]
pub(crate) struct Foreign(Option<OwnedFd>);

impl Foreign {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self(Some(file))
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("it is taken by `drop` alone").as_fd()
    }
}

impl io::Read for &Foreign {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self, buffer)?)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(close);
    }
}

/// What stands for files that came, by the number of the pipe.
static FILES: LazyLock<Mutex<HashMap<u64, Arc<Foreign>>>> = LazyLock::new(Mutex::default);

/// Forgets a file, and only then gives the number of its pipe back.
struct Entry {
    number: u64,
    end: Receiver,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let file = lock(&FILES).remove(&self.number);
        drop(file);
    }
}

/// What zbus gets for a file. Within the runtime.
pub(crate) fn stand_in(file: Foreign) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let number = fstat(&read)?.st_ino;
    let end = Receiver::from_owned_fd(read)?;
    lock(&FILES).insert(number, Arc::new(file));
    let entry = Entry { number, end };
    tokio::spawn(async move {
        // Nobody writes: this is the end of the last one that could.
        let _ = entry.end.readable().await;
        drop(entry);
    });
    Ok(write)
}

/// The file that something stands for.
pub(crate) fn behind(stand_in: impl AsFd) -> Option<Arc<Foreign>> {
    let number = fstat(stand_in).ok()?.st_ino;
    lock(&FILES).get(&number).cloned()
}

#[derive(Default)]
struct Closing {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
}

static CLOSING: LazyLock<Mutex<Closing>> = LazyLock::new(Mutex::default);

/// Whether files come faster than they can be closed.
pub(crate) fn is_full() -> bool {
    lock(&CLOSING).waiting.len() >= WAITING
}

fn close(file: OwnedFd) {
    let mut closing = lock(&CLOSING);
    closing.waiting.push_back(file);
    if closing.threads < CLOSERS {
        match std::thread::Builder::new().name("close".into()).spawn(close_all) {
            Ok(_) => closing.threads += 1,
            // The next one tries again.
            Err(e) => journal::warning(&format!("Files of callers stay open: {e}")),
        }
    }
}

/// Until none waits.
fn close_all() {
    loop {
        let file = {
            let mut closing = lock(&CLOSING);
            let file = closing.waiting.pop_front();
            if file.is_none() {
                closing.threads -= 1;
                return;
            }
            file
        };
        drop(file);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_stands_for_a_file_leads_to_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        std::fs::write(&path, "content").expect("own folder");
        let open = || OwnedFd::from(std::fs::File::open(&path).expect("own file"));
        let opened = || {
            let all = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
            all.filter(|f| std::fs::read_link(f.path()).is_ok_and(|to| to == path)).count()
        };
        runtime.block_on(async {
            let end = stand_in(Foreign::new(open())).expect("a pipe");
            let copy = end.try_clone().expect("a copy");
            let other = stand_in(Foreign::new(open())).expect("a pipe");
            drop(end);
            let file = behind(&copy).expect("the file");
            let mut text = String::new();
            (&*file).read_to_string(&mut text).expect("a file");
            assert_eq!((text.as_str(), opened()), ("content", 2));
            drop((copy, other));
            // One of them is still in use, and the other goes by itself.
            while opened() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(file);
            while opened() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(behind(open()).is_none());
    }
}

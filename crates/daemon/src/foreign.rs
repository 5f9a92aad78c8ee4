//! Open files of callers. Closing one can take as long as whoever made it likes (a file system in user space, a socket that lingers), so
//! none is closed on the thread that answers.
//!
//! zbus closes what came with a message wherever it drops the message. So it never has the files: for each one it gets the end of a
//! pipe, which stands for it, and the file waits here until that end is closed everywhere. What closes files are a few threads of
//! their own. Everything is counted by user, so that one who holds up the threads, or has too many files here, does so to nobody else:
//! a further file of that user's is not looked at any more, only closed in turn, and the call is refused.
//!
//! The kernel closes what lies unread in a socket with the socket's last descriptor, so our ends of such sockets are closed here too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock, Mutex};

use rustix::fs::fstat;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;

use apt_ostree_bus::errors;

use crate::journal;
use crate::refusal::{Answer, Refusal};
use crate::state::lock;

/// Threads that close: for one user, and for all but root, who has his own.
const CLOSERS_EACH: usize = 2;
const CLOSERS: usize = 16;
/// Files that the service has of one user, of root, and of all others together. Each takes three descriptors while its call is answered.
const FILES_EACH: usize = 256;
const FILES_ROOT: usize = 1024;
const FILES_OTHERS: usize = 2048;
/// From here on none is received: together with the above this is far below `LimitNOFILE=` of the unit.
const FILES: usize = 16384;

/// Whoever is not known.
pub(crate) const NOBODY: u32 = u32::MAX;

/// A file of somebody else's, closed elsewhere when it is dropped.
#[derive(Debug)]
pub(crate) struct Foreign {
    file: Option<OwnedFd>,
    uid: u32,
}

impl Foreign {
    pub(crate) fn new(file: OwnedFd, uid: u32) -> Self {
        lock(&ACCOUNTS).count(uid);
        Self { file: Some(file), uid }
    }

    /// It has turned out whose it is.
    pub(crate) fn is_of(&mut self, uid: u32) {
        let mut accounts = lock(&ACCOUNTS);
        accounts.count(uid);
        accounts.forget(std::mem::replace(&mut self.uid, uid));
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("it is taken by `drop` alone").as_fd()
    }
}

impl io::Read for &Foreign {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self, buffer)?)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            close(file, self.uid);
        }
    }
}

/// What stands for files that came, by the number of the pipe.
static STANDING: LazyLock<Mutex<HashMap<u64, Arc<Foreign>>>> = LazyLock::new(Mutex::default);

/// Forgets a file, and only then gives the number of its pipe back.
struct Entry {
    number: u64,
    end: Receiver,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let file = lock(&STANDING).remove(&self.number);
        drop(file);
    }
}

/// What zbus gets for a file. Within the runtime.
pub(crate) fn stand_in(file: Foreign) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let number = fstat(&read)?.st_ino;
    let end = Receiver::from_owned_fd(read)?;
    lock(&STANDING).insert(number, Arc::new(file));
    let entry = Entry { number, end };
    tokio::spawn(async move {
        // Nobody writes: this is the end of the last one that could.
        let _ = entry.end.readable().await;
        drop(entry);
    });
    Ok(write)
}

/// Stands for every file that was refused.
static REFUSED: LazyLock<io::Result<(u64, OwnedFd)>> = LazyLock::new(|| {
    let (_, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((fstat(&write)?.st_ino, write))
});

/// What zbus gets for a file that its user may not add. It is only closed.
pub(crate) fn refuse(file: Foreign) -> io::Result<OwnedFd> {
    drop(file);
    match &*REFUSED {
        Ok((_, end)) => end.try_clone(),
        Err(e) => Err(e.kind().into()),
    }
}

/// The file that something stands for.
pub(crate) fn behind(stand_in: impl AsFd) -> Answer<Option<Arc<Foreign>>> {
    let Ok(number) = fstat(stand_in).map(|stat| stat.st_ino) else { return Ok(None) };
    if REFUSED.as_ref().is_ok_and(|(refused, _)| *refused == number) {
        let text = "Too many files of this user are open in the service or wait to be closed: try again later";
        return Err(Refusal::new(errors::LIMITS_EXCEEDED, text));
    }
    Ok(lock(&STANDING).get(&number).cloned())
}

/// What is here of one user.
#[derive(Debug, Default)]
struct Account {
    files: usize,
    waiting: VecDeque<OwnedFd>,
    threads: usize,
}

#[derive(Debug, Default)]
struct Accounts {
    users: BTreeMap<u32, Account>,
    /// Threads that close, but for root.
    threads: usize,
}

static ACCOUNTS: Mutex<Accounts> = Mutex::new(Accounts { users: BTreeMap::new(), threads: 0 });

impl Accounts {
    fn count(&mut self, uid: u32) {
        self.users.entry(uid).or_default().files += 1;
    }

    fn forget(&mut self, uid: u32) {
        if let Some(user) = self.users.get_mut(&uid) {
            user.files -= 1;
            self.tidy(uid);
        }
    }

    fn tidy(&mut self, uid: u32) {
        if self.users.get(&uid).is_some_and(|user| user.files == 0 && user.threads == 0) {
            self.users.remove(&uid);
        }
    }

    /// No more than there may be, those that are here already included.
    fn is_within(&self, uid: u32) -> bool {
        let files = |uid: u32| self.users.get(&uid).map_or(0, |user| user.files);
        if uid == 0 {
            return files(0) <= FILES_ROOT;
        }
        let others: usize = self.users.iter().filter(|(uid, _)| **uid != 0).map(|(_, user)| user.files).sum();
        uid != NOBODY && files(uid) <= FILES_EACH && others <= FILES_OTHERS
    }

    fn may_close(&self, uid: u32) -> bool {
        self.users.get(&uid).is_some_and(|user| !user.waiting.is_empty() && user.threads < CLOSERS_EACH)
            && (uid == 0 || self.threads < CLOSERS)
    }

    /// A thread begins or ends to close for a user.
    fn attach(&mut self, uid: u32) {
        self.users.entry(uid).or_default().threads += 1;
        self.threads += usize::from(uid != 0);
    }

    fn detach(&mut self, uid: u32) {
        if let Some(user) = self.users.get_mut(&uid) {
            user.threads -= 1;
            self.threads -= usize::from(uid != 0);
            self.tidy(uid);
        }
    }

    /// The next file for a thread, which may go over to another user.
    fn next(&mut self, uid: &mut u32) -> Option<OwnedFd> {
        loop {
            if let Some(file) = self.users.get_mut(uid).and_then(|user| user.waiting.pop_front()) {
                return Some(file);
            }
            self.detach(*uid);
            *uid = self.users.keys().copied().find(|uid| self.may_close(*uid))?;
            self.attach(*uid);
        }
    }
}

/// Whether the user has no more files here than he may, with those that have just come.
pub(crate) fn is_within(uid: u32) -> bool {
    lock(&ACCOUNTS).is_within(uid)
}

/// Whether there are so many that none must come any more, whoever sends it.
pub(crate) fn is_full() -> bool {
    lock(&ACCOUNTS).users.values().map(|user| user.files).sum::<usize>() >= FILES
}

fn close(file: OwnedFd, uid: u32) {
    let mut accounts = lock(&ACCOUNTS);
    accounts.users.entry(uid).or_default().waiting.push_back(file);
    if accounts.may_close(uid) {
        match std::thread::Builder::new().name("close".into()).spawn(move || close_all(uid)) {
            Ok(_) => accounts.attach(uid),
            // The next one tries again.
            Err(e) => journal::warning(&format!("Files of callers stay open: {e}")),
        }
    }
}

/// Until none waits.
fn close_all(mut uid: u32) {
    loop {
        let Some(file) = lock(&ACCOUNTS).next(&mut uid) else { return };
        // A socket is not to wait for its reader. Here, as whoever shares it can hold up this call too; any other file has no such thing.
        let _ = rustix::net::sockopt::set_socket_linger(&file, None);
        drop(file);
        lock(&ACCOUNTS).forget(uid);
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
            let end = stand_in(Foreign::new(open(), 1)).expect("a pipe");
            let copy = end.try_clone().expect("a copy");
            let other = stand_in(Foreign::new(open(), 1)).expect("a pipe");
            drop(end);
            let file = behind(&copy).expect("no limit").expect("the file");
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
        assert!(behind(open()).expect("no limit").is_none());
    }

    fn open() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("it is everywhere").into()
    }

    fn until(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..24000 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited in vain for {what}");
    }

    fn files(uid: u32) -> usize {
        lock(&ACCOUNTS).users.get(&uid).map_or(0, |user| user.files)
    }

    #[test]
    fn one_user_has_so_many_files_and_others_have_theirs() {
        let (one, other) = (70_001, 70_002);
        let mut held: Vec<Foreign> = (0..FILES_EACH).map(|_| Foreign::new(open(), one)).collect();
        assert!(is_within(one) && is_within(other) && !is_within(NOBODY));
        let mut more = Foreign::new(open(), NOBODY);
        more.is_of(one);
        assert!(!is_within(one) && is_within(other) && is_within(0));
        assert_eq!(behind(refuse(more).expect("a pipe")).expect_err("refused").name(), errors::LIMITS_EXCEEDED);
        until("the file to be closed", || is_within(one));
        held.clear();
        until("all to be closed", || files(one) == 0);
    }

    #[test]
    fn a_user_who_holds_threads_up_leaves_some_for_others() {
        let mut accounts = Accounts::default();
        let mut wait = |uid: u32| {
            for _ in 0..3 {
                accounts.count(uid);
                accounts.users.get_mut(&uid).expect("it is counted").waiting.push_back(open());
            }
            let mut threads = 0;
            while accounts.may_close(uid) {
                accounts.attach(uid);
                assert!(accounts.next(&mut uid.clone()).is_some());
                threads += 1;
            }
            threads
        };
        let users = u32::try_from(CLOSERS / CLOSERS_EACH).expect("few");
        (1..=users).for_each(|uid| assert_eq!(wait(uid), CLOSERS_EACH));
        assert_eq!((wait(users + 1), wait(0)), (0, CLOSERS_EACH));
        // A thread that is done with its user takes the one who waits.
        let mut uid = 1;
        assert!(accounts.next(&mut uid).is_some() && uid == 1);
        assert!(accounts.next(&mut uid).is_some() && uid == users + 1);
    }

    #[test]
    fn a_socket_does_not_wait_for_its_reader() {
        use std::io::Write;
        let uid = 70_003;
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let mut sender = std::net::TcpStream::connect(server.local_addr().expect("bound")).expect("a connection");
        let (_unread, _) = server.accept().expect("a connection");
        sender.set_nonblocking(true).expect("a socket");
        while sender.write(&[0; 65536]).is_ok() {}
        sender.set_nonblocking(false).expect("a socket");
        rustix::net::sockopt::set_socket_linger(&sender, Some(Duration::from_secs(3600))).expect("a socket");
        drop(Foreign::new(sender.into(), uid));
        until("the socket to be closed", || files(uid) == 0);
    }
}

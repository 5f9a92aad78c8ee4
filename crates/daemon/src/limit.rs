//! What the service takes from a socket: the part of a connection that stands before zbus.
//!
//! zbus makes room for whatever length the first bytes of a message name, reads a handshake of any length, and turns each
//! byte of an array in a variant into many of its own. So sizes are checked here, before it sees them. The two kinds of
//! sockets differ in what becomes of a message that is too large: the bus must not be lost through one sender, so there it
//! is dropped; a peer of a transaction loses its connection.
//!
//! Files that come are counted by who sent them ([`foreign`](crate::foreign)). On the bus that is asked of the bus, on a connection of
//! its own, as this one is held up meanwhile.
//!
//! A half of a connection ends when its [`End`] is raised, and raises it when it ends; zbus tells nobody of that.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use zbus::Connection;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::connection::Builder;
use zbus::connection::socket::{BoxedSplit, ReadHalf, Split, WriteHalf};

use crate::foreign::{self, Foreign, NOBODY, stand_in};

/// A message of the bus. The longest that makes sense names some thousand packages. An array of bytes in a variant takes
/// about a hundred times its size once it is read.
const BUS_MESSAGE: usize = 256 * 1024;
/// Package files of one call.
const BUS_FILES: usize = 64;
/// A message of a peer: `Start`, `Cancel`, and questions for properties are below 300 bytes. zbus keeps a message until
/// its answer is written.
const PEER_MESSAGE: usize = 8 * 1024;
/// Messages of a peer in all.
const PEER_MESSAGES: usize = 256;
/// Bytes before the first message; some hundred is usual. zbus looks through all of them after each one.
const HANDSHAKE: usize = 2048;

/// Every message begins with that many bytes; they tell its length.
const HEADER: usize = 16;
/// The bus answers at once or not at all.
const NAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Names whose users are remembered.
const NAMES: usize = 256;
/// The flags that zbus knows. It gives the connection up over any other, which the specification says to ignore.
const FLAGS: u8 = 0x07;

type Received = io::Result<(usize, Vec<OwnedFd>)>;
type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Raised when a connection has ended, or has to.
#[derive(Clone, Debug, Default)]
pub(crate) struct End(Arc<watch::Sender<bool>>);

impl End {
    pub(crate) fn raise(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_raised(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn raised(&self) {
        // No error: the sender is here.
        let _ = self.0.subscribe().wait_for(|up| *up).await;
    }
}

/// Connects to the system bus. The end is raised when nothing can be received any more.
pub(crate) async fn system_bus() -> zbus::Result<(Connection, End)> {
    let (read, write) = to_system_bus().await?.into_split();
    let end = End::default();
    let read = Limited::new(Socket { inner: read, last: None }, Kind::Bus, end.clone());
    Ok((Builder::socket(boxed(read, write)).build().await?, end))
}

async fn to_system_bus() -> zbus::Result<UnixStream> {
    let address = zbus::Address::system()?;
    let Transport::Unix(unix) = address.transport() else { return Err(zbus::Error::Unsupported) };
    Ok(match unix.path() {
        UnixSocket::File(path) => UnixStream::connect(path).await?,
        UnixSocket::Abstract(name) => {
            use std::os::linux::net::SocketAddrExt;
            use std::os::unix::ffi::OsStrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes())?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)?
        }
        _ => return Err(zbus::Error::Unsupported),
    })
}

/// Whose the names on the bus are.
#[derive(Debug, Default)]
struct Names {
    /// To ask; made when somebody sends files for the first time.
    bus: Option<Connection>,
    known: HashMap<String, u32>,
}

impl Names {
    async fn uid(&mut self, name: &str) -> Option<u32> {
        if let Some(uid) = self.known.get(name) {
            return Some(*uid);
        }
        let uid = match tokio::time::timeout(NAME_TIMEOUT, self.ask(name)).await {
            Ok(Ok(uid)) => uid,
            // It has left already.
            Ok(Err(zbus::fdo::Error::NameHasNoOwner(_))) => return None,
            _ => {
                self.bus = None;
                return None;
            }
        };
        if self.known.len() >= NAMES {
            self.known.clear();
        }
        self.known.insert(name.to_owned(), uid);
        Some(uid)
    }

    async fn ask(&mut self, name: &str) -> zbus::fdo::Result<u32> {
        if self.bus.is_none() {
            let (read, write) = to_system_bus().await?.into_split();
            let read = Limited::new(Socket { inner: read, last: None }, Kind::Names, End::default());
            self.bus = Some(Builder::socket(boxed(read, write)).build().await?);
        }
        let bus = self.bus.as_ref().expect("it was made above");
        let name = zbus::names::BusName::try_from(name).map_err(zbus::Error::from)?;
        zbus::fdo::DBusProxy::new(bus).await?.get_connection_unix_user(name).await
    }
}

/// The sender in the fields of a message: bytes from the length of the array on.
fn sender(fields: &[u8], big: bool) -> Option<String> {
    let (mut at, mut found) = (4, None);
    let number = |at: usize| -> Option<usize> {
        let bytes = fields.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }).ok()
    };
    // The array begins at byte 12 of the message: what is a multiple of eight there is four more here.
    while at < fields.len() {
        let (code, length) = (*fields.get(at)?, *fields.get(at + 1)?);
        let (kind, value) = (*fields.get(at + 2)?, at + 4);
        if length != 1 {
            return None;
        }
        at = match kind {
            b's' | b'o' => {
                let (from, to) = (value + 4, value.checked_add(4)?.checked_add(number(value)?)?);
                let text = fields.get(from..to)?;
                if code == 7 && kind == b's' {
                    found = Some(String::from_utf8(text.to_vec()).ok()?);
                }
                to + 1
            }
            b'g' => value + usize::from(*fields.get(value)?) + 2,
            b'u' => value + 4,
            // No field that is known.
            _ => return None,
        };
        at = (at + 4).next_multiple_of(8) - 4;
    }
    found
}

/// Takes a connection with a peer, whose user is known.
pub(crate) fn peer(stream: UnixStream, uid: u32, end: &End) -> io::Result<Builder<'static>> {
    use std::os::fd::AsFd;
    let last = match stream.as_fd().try_clone_to_owned() {
        Ok(last) => Arc::new(Foreign::new(last, uid)),
        Err(e) => {
            leave(stream, uid);
            return Err(e);
        }
    };
    let (read, write) = stream.into_split();
    let read = Socket { inner: read, last: Some((last.clone(), uid)) };
    let read = Limited::new(read, Kind::Peer, end.clone());
    Ok(Builder::socket(boxed(read, Ending { inner: write, end: end.clone(), _last: last })).user_id(uid))
}

/// Closes a connection elsewhere: what the peer has sent is closed with it.
pub(crate) fn leave(stream: UnixStream, uid: u32) {
    if let Ok(stream) = stream.into_std() {
        drop(Foreign::new(stream.into(), uid));
    }
}

fn boxed(read: impl ReadHalf, write: impl WriteHalf) -> BoxedSplit {
    Split::new(Box::new(read), Box::new(write))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The service is the client.
    Bus,
    /// The same, only to ask for names: nobody else has anything to say there.
    Names,
    /// It is the server.
    Peer,
}

/// Where in the stream the next byte is.
#[derive(Debug)]
enum Phase {
    Handshake,
    /// In the first bytes of a message.
    Header,
    /// In its fields, which tell who sent the files that came; so many bytes follow.
    Fields {
        left: usize,
    },
    /// The first bytes are handed out from here on, then so many more.
    Give {
        from: usize,
        left: usize,
    },
    /// So many bytes are dropped.
    Swallow {
        left: u64,
    },
}

/// A half that reads no more than it has to.
#[derive(Debug)]
struct Limited<R: ReadHalf> {
    inner: R,
    kind: Kind,
    phase: Phase,
    /// Of the handshake: how much there was, and the line as far as it is there.
    seen: usize,
    line: Vec<u8>,
    /// What a message begins with; longer where the fields are read.
    header: Vec<u8>,
    have: usize,
    files: Vec<Foreign>,
    /// What stands for them.
    ends: Vec<OwnedFd>,
    /// How many files of the message were handed out.
    given: usize,
    messages: usize,
    names: Names,
    end: End,
}

impl<R: ReadHalf> Drop for Limited<R> {
    /// zbus drops its reading half when it gives the connection up, for whatever reason.
    fn drop(&mut self) {
        self.end.raise();
    }
}

impl<R: ReadHalf> Limited<R> {
    fn new(inner: R, kind: Kind, end: End) -> Self {
        Self {
            inner,
            kind,
            phase: Phase::Handshake,
            seen: 0,
            line: Vec::new(),
            header: vec![0; HEADER],
            have: 0,
            files: Vec::new(),
            ends: Vec::new(),
            given: 0,
            messages: 0,
            names: Names::default(),
            end,
        }
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> Received {
        if buffer.is_empty() {
            return Ok((0, Vec::new()));
        }
        loop {
            match self.phase {
                Phase::Handshake => {
                    // One at a time, so that none of the first message gets into zbus's buffer.
                    let (count, files) = self.inner.recvmsg(&mut buffer[..1]).await?;
                    let files = foreign(files).collect();
                    if count == 0 || !self.shakes(buffer[0])? {
                        // There are none in a handshake.
                        return Ok((count, Vec::new()));
                    }
                    // The first of a message.
                    self.files = files;
                    (self.header[0], self.have) = (buffer[0], 1);
                    self.phase = Phase::Header;
                }
                Phase::Header => {
                    let (count, files) = self.inner.recvmsg(&mut self.header[self.have..]).await?;
                    if count == 0 {
                        return Ok((0, Vec::new()));
                    }
                    self.files.extend(foreign(files));
                    self.have += count;
                    if self.have == HEADER {
                        self.phase = self.judge()?;
                    }
                }
                Phase::Fields { left } => {
                    let (count, files) = self.inner.recvmsg(&mut self.header[self.have..]).await?;
                    if count == 0 {
                        return Ok((0, Vec::new()));
                    }
                    self.files.extend(foreign(files));
                    self.have += count;
                    if self.have == self.header.len() {
                        self.take_files().await;
                        self.phase = Phase::Give { from: 0, left };
                    }
                }
                Phase::Give { from, left } if from < self.header.len() => {
                    let count = buffer.len().min(self.header.len() - from);
                    buffer[..count].copy_from_slice(&self.header[from..from + count]);
                    self.phase = Phase::Give { from: from + count, left };
                    self.given += self.ends.len();
                    return Ok((count, std::mem::take(&mut self.ends)));
                }
                Phase::Give { left: 0, .. } | Phase::Swallow { left: 0 } => {
                    (self.have, self.given) = (0, 0);
                    self.header.resize(HEADER, 0);
                    self.header.shrink_to(1024);
                    self.phase = Phase::Header;
                }
                Phase::Give { from, left } => {
                    let room = buffer.len().min(left);
                    let (count, files) = self.inner.recvmsg(&mut buffer[..room]).await?;
                    // The bus sends them with the first bytes. These are missed by who looks for them.
                    foreign(files).for_each(drop);
                    self.phase = Phase::Give { from, left: left - count };
                    return Ok((count, Vec::new()));
                }
                Phase::Swallow { left } => {
                    let mut scratch = [0; 4096];
                    let room = usize::try_from(left).unwrap_or(usize::MAX).min(scratch.len());
                    let (count, files) = self.inner.recvmsg(&mut scratch[..room]).await?;
                    foreign(files).for_each(drop);
                    if count == 0 {
                        return Ok((0, Vec::new()));
                    }
                    self.phase = Phase::Swallow { left: left - count as u64 };
                }
            }
        }
    }

    /// Looks at a byte of the handshake. True: it is none, but the first of a message.
    fn shakes(&mut self, byte: u8) -> io::Result<bool> {
        if self.kind != Kind::Peer && self.line.is_empty() && matches!(byte, b'l' | b'B') {
            return Ok(true);
        }
        self.seen += 1;
        if self.seen > HANDSHAKE {
            return Err(refuse("the handshake is too long"));
        }
        if self.kind == Kind::Peer && self.seen == 1 {
            return if byte == 0 { Ok(false) } else { Err(refuse("the first byte is not NUL")) };
        }
        if byte != b'\n' {
            self.line.push(byte);
            return Ok(false);
        }
        // zbus panics over a line that begins with its end.
        if self.line.last() != Some(&b'\r') {
            return Err(refuse("a line of the handshake ends without a carriage return"));
        }
        let line = std::mem::take(&mut self.line);
        // As zbus reads it.
        let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
        if self.kind == Kind::Peer && word == Some(b"BEGIN") {
            self.phase = Phase::Header;
        }
        Ok(false)
    }

    /// The fields are here: the files that came are those of whoever sent the message, as far as he may have any more.
    async fn take_files(&mut self) {
        let name = sender(&self.header[12..], self.header[0] == b'B');
        let uid = match name {
            Some(name) => self.names.uid(&name).await,
            None => None,
        };
        let uid = uid.unwrap_or(NOBODY);
        self.files.iter_mut().for_each(|file| file.is_of(uid));
        let turn = if self.files.len() <= BUS_FILES && foreign::is_within(uid) { stand_in } else { foreign::refuse };
        // One that is missing is missed by who looks for it.
        self.ends = self.files.drain(..).filter_map(|file| turn(file).ok()).collect();
    }

    /// The first bytes are here: what is to be done with the message.
    fn judge(&mut self) -> io::Result<Phase> {
        let number = |at: usize| -> io::Result<u64> {
            let bytes = [self.header[at], self.header[at + 1], self.header[at + 2], self.header[at + 3]];
            match self.header[0] {
                b'l' => Ok(u32::from_le_bytes(bytes).into()),
                b'B' => Ok(u32::from_be_bytes(bytes).into()),
                _ => Err(refuse("this is no message")),
            }
        };
        let (body, fields) = (number(4)?, number(12)?);
        let left = fields.next_multiple_of(8) + body;
        self.header[2] &= FLAGS;
        self.messages += 1;
        let (limit, files) = match self.kind {
            Kind::Bus => (BUS_MESSAGE, BUS_FILES),
            Kind::Names => (BUS_MESSAGE, 0),
            Kind::Peer => (PEER_MESSAGE, 0),
        };
        if self.kind == Kind::Peer && self.messages > PEER_MESSAGES {
            return Err(refuse("these are too many messages"));
        }
        let left_here = usize::try_from(left).ok().filter(|left| left + HEADER <= limit);
        // Of an unknown type: the specification says to ignore it, and zbus gives up.
        let known = matches!(self.header[1], 1..=4);
        match left_here {
            Some(left) if known && self.files.is_empty() => Ok(Phase::Give { from: 0, left }),
            Some(left) if known && self.files.len() <= files => {
                let fields = usize::try_from(fields.next_multiple_of(8)).unwrap_or(left);
                self.header.resize(HEADER + fields, 0);
                if fields == 0 {
                    self.files.clear();
                    return Ok(Phase::Give { from: 0, left });
                }
                Ok(Phase::Fields { left: left - fields })
            }
            None if self.kind == Kind::Peer => Err(refuse("the message is too large")),
            _ => {
                self.files.clear();
                Ok(Phase::Swallow { left })
            }
        }
    }
}

impl<R: ReadHalf> ReadHalf for Limited<R> {
    fn recvmsg<'life0, 'life1, 'async_trait>(
        &'life0 mut self,
        buffer: &'life1 mut [u8],
    ) -> Later<'async_trait, Received>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let end = self.end.clone();
            tokio::select! {
                biased;
                () = end.raised() => Err(io::ErrorKind::ConnectionAborted.into()),
                received = self.receive(buffer) => received,
            }
        })
    }

    fn can_pass_unix_fd(&self) -> bool {
        self.kind == Kind::Bus
    }
}

/// Reads with a place for open files: those without one the kernel closes on the thread that reads, which may take as long as whoever
/// made them likes. A peer that sends any is left.
#[derive(Debug)]
struct Socket {
    inner: OwnedReadHalf,
    /// Of a peer, with its user: closed last, and elsewhere, as files may lie in it unread.
    last: Option<(Arc<Foreign>, u32)>,
}

impl Socket {
    async fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let Some((_, uid)) = &self.last else {
            return if foreign::is_full() {
                self.receive_bytes(buffer).await
            } else {
                self.inner.recvmsg(buffer).await
            };
        };
        let uid = *uid;
        if foreign::is_full() {
            return Err(refuse("too many files are open"));
        }
        let (count, files) = self.inner.recvmsg(buffer).await?;
        if files.is_empty() {
            return Ok((count, files));
        }
        files.into_iter().for_each(|file| drop(Foreign::new(file, uid)));
        Err(refuse("open files came"))
    }

    /// No more descriptors than there are: the kernel closes files, on a thread that nobody waits for but this connection.
    async fn receive_bytes(&mut self, buffer: &mut [u8]) -> Received {
        use std::os::fd::AsFd;
        let length = buffer.len();
        loop {
            self.inner.readable().await?;
            let socket = self.inner.as_ref().as_fd().try_clone_to_owned()?;
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; length];
                let (count, _) = rustix::net::recv(&socket, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT)?;
                bytes.truncate(count);
                Ok::<_, io::Error>(bytes)
            });
            match read.await.map_err(io::Error::other)? {
                Ok(bytes) => {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    return Ok((bytes.len(), Vec::new()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // It is to wait again.
                    let _ = self.inner.as_ref().try_io(Interest::READABLE, || Err::<(), _>(e));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl ReadHalf for Socket {
    fn recvmsg<'life0, 'life1, 'async_trait>(
        &'life0 mut self,
        buffer: &'life1 mut [u8],
    ) -> Later<'async_trait, Received>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.receive(buffer))
    }
}

/// A writing half that does not wait for a peer beyond the end.
#[derive(Debug)]
struct Ending {
    inner: OwnedWriteHalf,
    end: End,
    /// See [`Socket`].
    _last: Arc<Foreign>,
}

impl WriteHalf for Ending {
    fn sendmsg<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 mut self,
        buffer: &'life1 [u8],
        files: &'life2 [BorrowedFd<'life3>],
    ) -> Later<'async_trait, io::Result<usize>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let end = self.end.clone();
            tokio::select! {
                biased;
                () = end.raised() => Err(io::ErrorKind::ConnectionAborted.into()),
                sent = self.inner.sendmsg(buffer, files) => sent,
            }
        })
    }

    fn close<'life0, 'async_trait>(&'life0 mut self) -> Later<'async_trait, io::Result<()>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move { self.inner.close().await })
    }
}

/// What came is closed elsewhere from the beginning.
fn foreign(files: Vec<OwnedFd>) -> impl Iterator<Item = Foreign> {
    files.into_iter().map(|file| Foreign::new(file, NOBODY))
}

fn refuse(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out bytes in chunks of one size, and with some of them as many open files.
    #[derive(Debug)]
    struct Fake {
        bytes: Vec<u8>,
        at: usize,
        chunk: usize,
        files: Vec<(usize, usize)>,
    }

    impl ReadHalf for Fake {
        fn recvmsg<'life0, 'life1, 'async_trait>(
            &'life0 mut self,
            buffer: &'life1 mut [u8],
        ) -> Later<'async_trait, Received>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            let count = buffer.len().min(self.chunk).min(self.bytes.len() - self.at);
            buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
            let here = self.at..self.at + count;
            self.at += count;
            let wanted: usize = self.files.iter().filter(|(at, _)| here.contains(at)).map(|(_, count)| count).sum();
            let file = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it is everywhere"));
            let files = (0..wanted).map(|_| file()).collect();
            Box::pin(async move { Ok((count, files)) })
        }
    }

    /// The same with a sender in its fields.
    fn message_of(big: bool, name: &str, body: usize) -> Vec<u8> {
        let number = |n: usize| {
            let n = u32::try_from(n).expect("small");
            if big { n.to_be_bytes() } else { n.to_le_bytes() }
        };
        let mut fields = [&[9, 1, b'u', 0], &number(1)[..], &[8, 1, b'g', 0, 1, b'h', 0, 0, 7, 1, b's', 0]].concat();
        fields.extend(number(name.len()));
        fields.extend(name.as_bytes());
        fields.push(0);
        let mut bytes = message(big, fields.len(), body, 0);
        bytes[HEADER..HEADER + fields.len()].copy_from_slice(&fields);
        bytes
    }

    fn message(big: bool, fields: usize, body: usize, mark: u8) -> Vec<u8> {
        let number = |n: usize| {
            let n = u32::try_from(n).expect("small");
            if big { n.to_be_bytes() } else { n.to_le_bytes() }
        };
        let mut bytes = vec![if big { b'B' } else { b'l' }, 1, 0, 1];
        bytes.extend(number(body));
        bytes.extend(number(7));
        bytes.extend(number(fields));
        bytes.resize(HEADER + fields.next_multiple_of(8) + body, mark);
        bytes
    }

    fn limited(kind: Kind, chunk: usize, bytes: Vec<u8>) -> Limited<Fake> {
        Limited::new(Fake { bytes, at: 0, chunk, files: Vec::new() }, kind, End::default())
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    /// A message, and how many files came with it.
    type Got = (Vec<u8>, usize);

    /// Reads as zbus does: the handshake up to where `shaken` says, then whole messages. What came, with the files of each, and
    /// whether it ended in an error.
    fn read(half: &mut Limited<Fake>, shaken: usize) -> (Vec<u8>, Vec<Got>, bool) {
        run(async {
            let (mut start, mut messages) = (Vec::new(), Vec::new());
            while start.len() < shaken {
                let mut buffer = [0; 1024];
                match half.recvmsg(&mut buffer).await {
                    Ok((0, _)) => return (start, messages, false),
                    Ok((count, _)) => start.extend(&buffer[..count]),
                    Err(_) => return (start, messages, true),
                }
            }
            loop {
                let (mut bytes, mut at, mut files) = (vec![0; HEADER], 0, 0);
                while at < bytes.len() {
                    match half.recvmsg(&mut bytes[at..]).await {
                        Ok((0, _)) => return (start, messages, false),
                        Ok((count, more)) => (at, files) = (at + count, files + more.len()),
                        Err(_) => return (start, messages, true),
                    }
                    if at == HEADER {
                        let number = |from: usize| {
                            let number = bytes[from..from + 4].try_into().expect("four");
                            if bytes[0] == b'B' { u32::from_be_bytes(number) } else { u32::from_le_bytes(number) }
                        };
                        let length = HEADER + (number(12) as usize).next_multiple_of(8) + number(4) as usize;
                        bytes.resize(length, 0);
                    }
                }
                messages.push((bytes, files));
            }
        })
    }

    const CHUNKS: [usize; 9] = [1, 2, 3, 7, 15, 16, 17, 4096, usize::MAX];
    const CLIENT: &[u8] = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n";
    const BUS: &[u8] = b"OK 0123456789abcdef\r\nAGREE_UNIX_FD\r\n";

    #[test]
    fn messages_pass_in_pieces_of_every_size() {
        for chunk in CHUNKS {
            for (kind, start) in [(Kind::Peer, CLIENT), (Kind::Bus, BUS)] {
                let sent = [
                    message(false, 0, 0, 0),
                    message(false, 61, 300, 1),
                    message(true, 8, 5, 2),
                    message(true, 0, 9, 3),
                ];
                let mut half = limited(kind, chunk, [start, &sent.concat()].concat());
                let (shaken, messages, refused) = read(&mut half, start.len());
                assert_eq!((&shaken[..], refused), (start, false), "{kind:?} {chunk}");
                let messages: Vec<_> = messages.into_iter().map(|(bytes, _)| bytes).collect();
                assert!(messages == sent, "{kind:?} {chunk}");
            }
        }
    }

    #[test]
    fn the_bus_is_kept_whatever_is_sent() {
        for chunk in CHUNKS {
            let (small, other) = (message(false, 8, 40, 1), message(true, 16, BUS_MESSAGE - 64, 2));
            let mut unknown = message(false, 8, 40, 3);
            unknown[1] = 5;
            let mut flags = message(false, 8, 8, 4);
            flags[2] = 0xff;
            let sent = [
                &small[..],
                &message(false, 8, BUS_MESSAGE, 5),
                &message(true, BUS_MESSAGE, 0, 6),
                &other,
                &unknown,
                &flags,
                &small,
            ];
            let mut half = limited(Kind::Bus, chunk, [BUS, &sent.concat()].concat());
            let (_, messages, refused) = read(&mut half, BUS.len());
            assert!(!refused);
            flags[2] = FLAGS;
            let messages: Vec<_> = messages.into_iter().map(|(bytes, _)| bytes).collect();
            assert!(messages == [&small, &other, &flags, &small].map(Clone::clone), "{chunk}");
        }
    }

    #[test]
    fn open_files_are_few() {
        for (big, chunk) in [false, true].into_iter().flat_map(|big| CHUNKS.map(|chunk| (big, chunk))) {
            let one = message_of(big, ":1.7", 4000);
            let start = |n: usize| BUS.len() + n * one.len();
            let mut half = limited(Kind::Bus, chunk, [BUS, &one.repeat(4)].concat());
            half.names.known = HashMap::from([(":1.7".to_owned(), 80_001)]);
            half.inner.files = vec![
                (start(0), BUS_FILES),
                // With the first bytes: the message goes. Later: the files.
                (start(1), BUS_FILES + 1),
                (start(2), 3),
                (start(2) + 1000, BUS_FILES),
            ];
            let (_, messages, refused) = read(&mut half, BUS.len());
            assert!(messages.iter().all(|(bytes, _)| *bytes == one), "{chunk}");
            let files: Vec<usize> = messages.iter().map(|(_, files)| *files).collect();
            assert_eq!((files, refused), (vec![BUS_FILES, 3, 0], false), "{chunk}");
        }
        assert!(!limited(Kind::Peer, 1, Vec::new()).can_pass_unix_fd());
        assert!(!limited(Kind::Names, 1, Vec::new()).can_pass_unix_fd());
    }

    #[test]
    fn who_sent_files_is_in_the_fields() {
        for big in [false, true] {
            let bytes = message_of(big, ":1.42", 10);
            let fields = &bytes[12..bytes.len() - 10];
            assert_eq!(sender(fields, big).as_deref(), Some(":1.42"));
            (0..fields.len()).for_each(|end| drop(sender(&fields[..end], big)));
            (4..fields.len()).for_each(|at| {
                let mut broken = fields.to_vec();
                broken[at] = 0xff;
                drop(sender(&broken, big));
            });
        }
        assert_eq!(sender(&message(false, 0, 0, 0)[12..], false), None);
    }

    /// The files of a message of the user with that number, once they are taken.
    fn given_to(uid: Option<u32>) -> Vec<OwnedFd> {
        run(async {
            let bytes = message_of(false, ":1.7", 8);
            let mut half = limited(Kind::Bus, usize::MAX, bytes);
            half.phase = Phase::Header;
            half.inner.files = vec![(0, 2)];
            half.names.known = uid.into_iter().map(|uid| (":1.7".to_owned(), uid)).collect();
            let (_, ends) = half.recvmsg(&mut [0; HEADER]).await.expect("bytes");
            ends
        })
    }

    #[test]
    fn a_user_with_too_many_files_is_refused_by_name() {
        let (uid, other) = (80_002, 80_003);
        let is_refused = |uid| given_to(Some(uid)).iter().all(|end| foreign::behind(end).is_err());
        assert!(!is_refused(uid));
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").expect("it is everywhere"));
        let _held: Vec<Foreign> = (0..256).map(|_| Foreign::new(file(), uid)).collect();
        assert!(is_refused(uid) && !is_refused(other));
        assert_eq!(given_to(Some(uid)).len(), 2);
    }

    #[test]
    fn a_peer_that_sends_files_is_left_and_its_socket_closed_elsewhere() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::io::{IoSlice, Read};
        use std::os::fd::AsFd;
        run(async {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
            ours.set_nonblocking(true).expect("a socket");
            let ours = UnixStream::from_std(ours).expect("a socket");
            let last = Arc::new(Foreign::new(ours.as_fd().try_clone_to_owned().expect("a copy"), 80_004));
            let (read, write) = ours.into_split();
            let mut socket = Socket { inner: read, last: Some((last, 80_004)) };
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut files = SendAncillaryBuffer::new(&mut space);
            let passed = [theirs.as_fd()];
            assert!(files.push(SendAncillaryMessage::ScmRights(&passed)));
            sendmsg(&theirs, &[IoSlice::new(b"x")], &mut files, SendFlags::empty()).expect("sent");
            assert!(socket.recvmsg(&mut [0; 1]).await.is_err());
            drop((socket, write));
            // The end, once the last of our copies is closed.
            assert_eq!(theirs.read(&mut [0; 1]).expect("a socket"), 0);
        });
    }

    #[test]
    fn a_peer_that_goes_too_far_is_left() {
        let refused = |bytes: &[u8]| {
            for chunk in CHUNKS {
                let (_, messages, refused) = read(&mut limited(Kind::Peer, chunk, bytes.to_vec()), CLIENT.len());
                assert!(refused && messages.is_empty(), "{chunk} {:?}", &bytes[..bytes.len().min(60)]);
            }
        };
        refused(b"\n");
        refused(b"AUTH EXTERNAL 30\r\n");
        refused(b"\0\n");
        refused(b"\0AUTH EXTERNAL 30\r\n\n");
        refused(b"\0AUTH EXTERNAL 30\n");
        refused(&[CLIENT, b"no message at all"].concat());
        refused(&[CLIENT, &message(false, 8, PEER_MESSAGE, 1)].concat());
        refused(&[CLIENT, &message(true, PEER_MESSAGE, 8, 1)].concat());
        refused(&[CLIENT, b"l\x01\0\x01\xff\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff"].concat());

        let mut half = limited(Kind::Peer, 5000, [b"\0".repeat(2), b"a".repeat(2 * HANDSHAKE)].concat());
        let (shaken, _, ended) = read(&mut half, usize::MAX);
        assert_eq!((shaken.len(), ended), (HANDSHAKE, true));

        let many = message(false, 8, 8, 1).repeat(PEER_MESSAGES + 1);
        let (_, messages, ended) = read(&mut limited(Kind::Peer, 100, [CLIENT, &many].concat()), CLIENT.len());
        assert_eq!((messages.len(), ended), (PEER_MESSAGES, true));
    }

    #[test]
    fn the_end_is_told_and_heard() {
        let half = limited(Kind::Peer, 1, CLIENT.to_vec());
        let end = half.end.clone();
        assert!(!end.is_raised());
        drop(half);
        assert!(end.is_raised());
        run(end.raised());

        let mut half = limited(Kind::Peer, 1, CLIENT.to_vec());
        half.end.raise();
        assert!(run(half.recvmsg(&mut [0; 16])).is_err());
    }
}

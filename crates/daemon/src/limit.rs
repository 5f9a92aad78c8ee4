//! What the service takes from a socket: the part of a connection that stands before zbus.
//!
//! zbus makes room for whatever length the first bytes of a message name, reads a handshake of any length, and turns each
//! byte of an array in a variant into many of its own. So sizes are checked here, before it sees them. The two kinds of
//! sockets differ in what becomes of a message that is too large: the bus must not be lost through one sender, so there it
//! is dropped; a peer of a transaction loses its connection.
//!
//! A half of a connection ends when its [`End`] is raised, and raises it when it ends; zbus tells nobody of that.

use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use zbus::Connection;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::connection::Builder;
use zbus::connection::socket::{BoxedSplit, ReadHalf, Split, WriteHalf};

use crate::foreign::{Foreign, is_full, stand_in};

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
    let address = zbus::Address::system()?;
    let Transport::Unix(unix) = address.transport() else { return Err(zbus::Error::Unsupported) };
    let stream = match unix.path() {
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
    };
    let end = End::default();
    let (read, write) = stream.into_split();
    let read = Limited::new(read, Kind::Bus, end.clone());
    Ok((Builder::socket(boxed(read, write)).build().await?, end))
}

/// The beginning of a connection with a peer, whose user is known.
pub(crate) fn peer(stream: UnixStream, uid: u32, end: &End) -> Builder<'static> {
    let (read, write) = stream.into_split();
    let read = Limited::new(Plain(read), Kind::Peer, end.clone());
    Builder::socket(boxed(read, Ending { inner: write, end: end.clone() })).user_id(uid)
}

fn boxed(read: impl ReadHalf, write: impl WriteHalf) -> BoxedSplit {
    Split::new(Box::new(read), Box::new(write))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The service is the client.
    Bus,
    /// It is the server.
    Peer,
}

/// Where in the stream the next byte is.
#[derive(Debug)]
enum Phase {
    Handshake,
    /// In the first bytes of a message.
    Header,
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
    header: [u8; HEADER],
    have: usize,
    files: Vec<Foreign>,
    /// What stands for them.
    ends: Vec<OwnedFd>,
    /// How many files of the message were handed out.
    given: usize,
    messages: usize,
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
            header: [0; HEADER],
            have: 0,
            files: Vec::new(),
            ends: Vec::new(),
            given: 0,
            messages: 0,
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
                Phase::Give { from, left } if from < HEADER => {
                    let count = buffer.len().min(HEADER - from);
                    buffer[..count].copy_from_slice(&self.header[from..from + count]);
                    self.phase = Phase::Give { from: from + count, left };
                    self.given += self.ends.len();
                    return Ok((count, std::mem::take(&mut self.ends)));
                }
                Phase::Give { left: 0, .. } | Phase::Swallow { left: 0 } => {
                    (self.have, self.given) = (0, 0);
                    self.phase = Phase::Header;
                }
                Phase::Give { from, left } => {
                    let room = buffer.len().min(left);
                    let (count, files) = self.inner.recvmsg(&mut buffer[..room]).await?;
                    let files: Vec<Foreign> = foreign(files).collect();
                    let some = files.into_iter().take(BUS_FILES.saturating_sub(self.given));
                    // One that is missing is missed by who looks for it.
                    let ends: Vec<OwnedFd> = some.filter_map(|file| stand_in(file).ok()).collect();
                    self.given += ends.len();
                    self.phase = Phase::Give { from, left: left - count };
                    return Ok((count, ends));
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
        if self.kind == Kind::Bus && self.line.is_empty() && matches!(byte, b'l' | b'B') {
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

    /// False when the files that came with the first bytes cannot be kept.
    fn take_files(&mut self) -> bool {
        if !self.files.is_empty() && is_full() {
            return false;
        }
        let ends: io::Result<Vec<OwnedFd>> = self.files.drain(..).map(stand_in).collect();
        let kept = ends.is_ok();
        self.ends = ends.unwrap_or_default();
        kept
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
            Kind::Peer => (PEER_MESSAGE, 0),
        };
        if self.kind == Kind::Peer && self.messages > PEER_MESSAGES {
            return Err(refuse("these are too many messages"));
        }
        let left_here = usize::try_from(left).ok().filter(|left| left + HEADER <= limit);
        // Of an unknown type: the specification says to ignore it, and zbus gives up.
        let known = matches!(self.header[1], 1..=4);
        match left_here {
            Some(left) if known && self.files.len() <= files && self.take_files() => Ok(Phase::Give { from: 0, left }),
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

/// Reads without a place for open files: the kernel closes those that a peer sends. The service never has them, as closing
/// one can take as long as whoever made it likes.
#[derive(Debug)]
struct Plain(OwnedReadHalf);

impl ReadHalf for Plain {
    fn recvmsg<'life0, 'life1, 'async_trait>(
        &'life0 mut self,
        buffer: &'life1 mut [u8],
    ) -> Later<'async_trait, Received>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move { Ok((self.0.read(buffer).await?, Vec::new())) })
    }
}

/// A writing half that does not wait for a peer beyond the end.
#[derive(Debug)]
struct Ending {
    inner: OwnedWriteHalf,
    end: End,
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
    files.into_iter().map(Foreign::new)
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
        let one = message(false, 8, 4000, 1);
        let start = |n: usize| BUS.len() + n * one.len();
        for chunk in CHUNKS {
            let mut half = limited(Kind::Bus, chunk, [BUS, &one.repeat(4)].concat());
            half.inner.files = vec![
                (start(0), BUS_FILES),
                // With the first bytes: the message goes. Later: the files.
                (start(1), BUS_FILES + 1),
                (start(2), 3),
                (start(2) + 100, BUS_FILES),
            ];
            let (_, messages, refused) = read(&mut half, BUS.len());
            let files: Vec<usize> = messages.iter().map(|(_, files)| *files).collect();
            assert_eq!((files, refused), (vec![BUS_FILES, BUS_FILES, 0], false), "{chunk}");
        }
        assert!(!limited(Kind::Peer, 1, Vec::new()).can_pass_unix_fd());
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

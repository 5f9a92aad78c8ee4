//! A small HTTP/1.1 file server on 127.0.0.1 for tests of APT archives and OSTree remotes.
//!
//! GET and HEAD of regular files, keep-alive, `Last-Modified` with 304, no ranges (clients that ask for one get the whole
//! file, which RFC 9110 section 14.2 allows). It counts requests and can be told to die.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    dead: AtomicBool,
    /// Requests that are still answered; `u64::MAX` = no limit.
    budget: AtomicU64,
    /// Milliseconds to wait before each answer.
    delay: AtomicU64,
    log: Mutex<VecDeque<String>>,
    open: Mutex<Vec<TcpStream>>,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct HttpServer {
    shared: Arc<Shared>,
    port: u16,
}

impl HttpServer {
    /// Serves `root` on a free port.
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on 127.0.0.1");
        let port = listener.local_addr().expect("a bound socket").port();
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            dead: AtomicBool::new(false),
            budget: AtomicU64::new(u64::MAX),
            delay: AtomicU64::new(0),
            log: Mutex::new(VecDeque::new()),
            open: Mutex::new(Vec::new()),
        });
        let server = Self { shared: Arc::clone(&shared), port };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.dead.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(copy) = stream.try_clone() {
                    shared.open.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that hangs up is its own business.
                    let _ = serve(&shared, stream);
                });
            }
        });
        server
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Every request so far, as `GET /path`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How many requests came whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|r| r.contains(part)).count()
    }

    /// Forgets the requests so far.
    pub fn clear(&self) {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Answers `n` more requests, then cuts every connection in the middle of the answer and refuses new ones.
    pub fn die_after(&self, n: u64) {
        self.shared.budget.store(n, Ordering::SeqCst);
    }

    /// Waits this long before each answer.
    pub fn delay(&self, time: Duration) {
        self.shared.delay.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Closes the port and every connection.
    pub fn die(&self) {
        self.shared.die();
        // Wakes the accepting thread, which then drops the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.die();
    }
}

impl Shared {
    fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether this request may still be answered in full.
    fn take_budget(&self) -> bool {
        let spend = |n: u64| if n == u64::MAX { Some(n) } else { n.checked_sub(1) };
        self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok()
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or("/").to_owned());
        let (mut since, mut close) = (None, false);
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            let Some((key, value)) = header.split_once(':') else { continue };
            match key.to_ascii_lowercase().as_str() {
                "if-modified-since" => since = Some(value.trim().to_owned()),
                "connection" => close = value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        let path = target.split(['?', '#']).next().unwrap_or_default();
        shared.log.lock().unwrap_or_else(PoisonError::into_inner).push_back(format!("{method} {path}"));
        std::thread::sleep(Duration::from_millis(shared.delay.load(Ordering::SeqCst)));
        let whole = shared.take_budget();
        answer(shared, &mut writer, &method, path, since.as_deref(), whole)?;
        if !whole {
            shared.die();
            return Ok(());
        }
        if close {
            return writer.shutdown(Shutdown::Both);
        }
    }
}

fn answer(
    shared: &Shared,
    out: &mut TcpStream,
    method: &str,
    path: &str,
    since: Option<&str>,
    whole: bool,
) -> std::io::Result<()> {
    if !matches!(method, "GET" | "HEAD") {
        return write!(out, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    }
    let file = locate(&shared.root, path).and_then(|p| Some((File::open(&p).ok()?, fs::metadata(&p).ok()?)));
    let Some((file, meta)) = file else {
        let body = "not found\n";
        let text = if method == "HEAD" { "" } else { body };
        return write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{text}", body.len());
    };
    let seconds = meta.modified()?.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let modified = http_date(seconds);
    if since == Some(modified.as_str()) {
        return write!(out, "HTTP/1.1 304 Not Modified\r\nLast-Modified: {modified}\r\n\r\n");
    }
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nLast-Modified: {modified}\r\n\r\n", meta.len())?;
    if method == "HEAD" {
        return Ok(());
    }
    let limit = if whole { u64::MAX } else { meta.len() / 2 };
    std::io::copy(&mut file.take(limit), out)?;
    out.flush()
}

/// The regular file that a request names, never outside `root`.
fn locate(root: &Path, path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(percent_decode(path)?);
    let inside = path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir));
    let full = root.join(path.strip_prefix("/").ok()?);
    (inside && full.is_file()).then_some(full)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = rest.get(2..)?;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
fn http_date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, with years that start in March (the leap day is then the last one).
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let week = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let pick =
        |list: &[&'static str], n: u64| usize::try_from(n).ok().and_then(|n| list.get(n).copied()).unwrap_or("?");
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        pick(&week, days % 7),
        pick(&names, month - 1),
        time / 3_600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_rfc() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    }

    #[test]
    fn serves_files_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a+b"), "hello").unwrap();
        let server = HttpServer::start(dir.path());
        let get = |path: &str| {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        assert!(get("/a%2bb").ends_with("\r\n\r\nhello"));
        assert!(get("/../../etc/passwd").starts_with("HTTP/1.1 404"));
        assert!(get("/missing").starts_with("HTTP/1.1 404"));
        assert_eq!(server.requests().len(), 3);
        server.die();
        assert!(std::panic::catch_unwind(|| TcpStream::connect(("127.0.0.1", server.port)).is_err()).is_ok());
    }
}

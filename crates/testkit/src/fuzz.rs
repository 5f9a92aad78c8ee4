//! A small fuzzer for parsers: inputs made of a corpus by mutations, each a function of kind, seed and number alone.
//!
//! It needs no instrumented compiler, so it runs in the ordinary tests; what it lacks in guidance the corpus and the dictionary
//! make up for. The property is in the check that the caller gives: it must not panic, and it must come back. An input that
//! breaks it is saved and named; put it into the corpus, where every later run begins with it.
//!
//! | variable | meaning |
//! |---|---|
//! | `APT_OSTREE_FUZZ` | inputs of each kind, 2000 if it is not set |
//! | `APT_OSTREE_FUZZ_SEED` | another sequence of inputs; 1 if it is not set |
//! | `APT_OSTREE_FUZZ_FROM` | the number to begin with |

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const INPUTS: u64 = 2000;
/// Larger inputs find nothing that smaller ones do not, and take long.
const MAX_LENGTH: usize = 16 << 10;
/// An input that takes longer than this many looks of the watchdog hangs.
const PATIENCE: u32 = 60;
const LOOK: Duration = Duration::from_millis(500);

/// Marsaglia's xorshift64*: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Close seeds must not give close sequences, and 0 would give nothing but 0.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.number();
        }
        random
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`; 0 for 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { usize::try_from(self.number() >> 33).unwrap_or(0) % limit }
    }

    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// What every format has trouble with.
const TOKENS: &[&str] = &[
    "",
    " ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "é",
    "𝄞",
    "\u{85}",
    "-",
    "--",
    ".",
    "..",
    "/",
    "//",
    ":",
    ";",
    ",",
    "=",
    "#",
    "%",
    "%%",
    "%%%",
    "\\",
    "\\\\",
    "\\x",
    "\\u0000",
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "<",
    ">",
    "~",
    "+",
    "*",
    "**",
    "?",
    "|",
    "&",
    "!",
    "$",
    "${",
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "00",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "9223372036854775808",
    "1e400",
    "0x10",
    "0777",
    "99999999999999999999999999",
];

/// One kind of input.
#[derive(Debug)]
pub struct Fuzzer {
    kind: String,
    corpus: Vec<Vec<u8>>,
    dictionary: Vec<String>,
    seed: u64,
}

impl Fuzzer {
    /// Takes every file of a directory as the corpus, and words of the format as its dictionary.
    ///
    /// # Panics
    /// When the directory has no file.
    pub fn new(kind: &str, corpus: &Path, dictionary: &[&str]) -> Self {
        let mut files: Vec<PathBuf> = fs::read_dir(corpus)
            .unwrap_or_else(|e| panic!("{}: {e}", corpus.display()))
            .map(|entry| entry.expect("a readable corpus").path())
            .collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|f| fs::read(f).expect("a readable corpus")).collect();
        assert!(!corpus.is_empty(), "there is no corpus for {kind}");
        let dictionary = TOKENS.iter().chain(dictionary).map(ToString::to_string).collect();
        Self { kind: kind.to_owned(), corpus, dictionary, seed: number("APT_OSTREE_FUZZ_SEED", 1) }
    }

    /// The input of a number. The first ones are the corpus as it is.
    pub fn input(&self, number: u64) -> Vec<u8> {
        if let Some(entry) = usize::try_from(number).ok().and_then(|n| self.corpus.get(n)) {
            return entry.clone();
        }
        let name = self.kind.bytes().fold(0u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let mut random = Random::new(self.seed ^ name.rotate_left(20) ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        let mut input = self.corpus[random.below(self.corpus.len())].clone();
        // Mostly a few changes, now and then many.
        let most = 1 << random.below(6);
        let changes = 1 + random.below(most);
        for _ in 0..changes {
            self.change(&mut random, &mut input);
            input.truncate(MAX_LENGTH);
        }
        input
    }

    fn change(&self, random: &mut Random, input: &mut Vec<u8>) {
        let at = random.below(input.len() + 1);
        match random.below(12) {
            0 if !input.is_empty() => {
                let at = random.below(input.len());
                input[at] ^= 1 << random.below(8);
            }
            1 if !input.is_empty() => {
                let at = random.below(input.len());
                input[at] = u8::try_from(random.below(256)).unwrap_or_default();
            }
            2 => drop(input.drain(range(random, input))),
            3 => {
                let copied = input[range(random, input)].to_vec();
                insert(input, at, &copied);
            }
            4 | 5 => {
                let token = &self.dictionary[random.below(self.dictionary.len())];
                insert(input, at, token.as_bytes());
            }
            6 => {
                let token = self.dictionary[random.below(self.dictionary.len())].clone();
                let word = word_at(input, at);
                input.splice(word, token.into_bytes());
            }
            7 => {
                // Deep nesting, long words.
                let token = &self.dictionary[random.below(self.dictionary.len())];
                let repeated = token.repeat(1 << random.below(13));
                insert(input, at, repeated.as_bytes());
            }
            8 => {
                // The end of another entry after the beginning of this one.
                let other = &self.corpus[random.below(self.corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            9 => {
                let other = &self.corpus[random.below(self.corpus.len())];
                let piece = other[range(random, other)].to_vec();
                insert(input, at, &piece);
            }
            10 => change_lines(random, input),
            _ => input.truncate(at),
        }
    }

    /// Gives every input to the check.
    ///
    /// # Panics
    /// When the check does, with the file that the input is in. A check that does not come back ends the process.
    pub fn run(self, check: impl Fn(&[u8])) {
        let from = number("APT_OSTREE_FUZZ_FROM", 0);
        let end = from + number("APT_OSTREE_FUZZ", INPUTS).max(self.corpus.len() as u64);
        let fuzzer = Arc::new(self);
        let (current, done) = (Arc::new(AtomicU64::new(from)), Arc::new(AtomicBool::new(false)));
        let watchdog = watch(Arc::clone(&fuzzer), Arc::clone(&current), Arc::clone(&done));
        let notes = folder().join(format!("{}.at", fuzzer.kind));
        let mut broken = None;
        for number in from..end {
            current.store(number, Ordering::Relaxed);
            // A stack that overflows ends the process without a word; this says where to look.
            if (number - from) % 4096 == 0 {
                fs::write(&notes, format!("{number}\n")).expect("a writable temporary folder");
            }
            let input = fuzzer.input(number);
            if std::panic::catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
                broken = Some(number);
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        watchdog.thread().unpark();
        watchdog.join().expect("the watchdog ends");
        let _ = fs::remove_file(notes);
        if let Some(number) = broken {
            panic!("{}", fuzzer.save(number, "broke the check"));
        }
    }

    /// Keeps an input for a look at it; the text says where.
    fn save(&self, number: u64, what: &str) -> String {
        let path = folder().join(format!("{}-{}-{number}", self.kind, self.seed));
        fs::write(&path, self.input(number)).expect("a writable temporary folder");
        format!("input {number} of {} (seed {}) {what}: {}", self.kind, self.seed, path.display())
    }
}

/// Ends the process when one input takes too long: a loop cannot be left in any other way.
fn watch(fuzzer: Arc<Fuzzer>, current: Arc<AtomicU64>, done: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut last, mut looks) = (u64::MAX, 0);
        while !done.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK);
            let now = current.load(Ordering::Relaxed);
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
            if looks > PATIENCE && !done.load(Ordering::Relaxed) {
                let text = fuzzer.save(now, "does not come back");
                // The tests' harness keeps what is printed until a test ends, and this one does not.
                let _ = fs::write("/dev/stderr", format!("{text}\n"));
                std::process::abort();
            }
        }
    })
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => default,
    }
}

fn folder() -> PathBuf {
    let path = std::env::temp_dir().join("apt-ostree-fuzz");
    fs::create_dir_all(&path).expect("a writable temporary folder");
    path
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

/// Some part of it, mostly a short one.
fn range(random: &mut Random, of: &[u8]) -> std::ops::Range<usize> {
    let start = random.below(of.len() + 1);
    let most = of.len() - start;
    let length = if random.below(4) == 0 { random.below(most + 1) } else { random.below(most.min(16) + 1) };
    start..start + length
}

/// The letters and digits around a place.
fn word_at(input: &[u8], at: usize) -> std::ops::Range<usize> {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let start = at - input[..at].iter().rev().take_while(|b| is_word(b)).count();
    start..at + input[at..].iter().take_while(|b| is_word(b)).count()
}

/// Swaps, doubles or drops lines.
fn change_lines(random: &mut Random, input: &mut Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = input.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return;
    }
    let (a, b) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(3) {
        0 => lines.swap(a, b),
        1 => lines.insert(b, lines[a].clone()),
        _ => drop(lines.remove(a)),
    }
    *input = lines.concat();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fuzzer(dir: &Path) -> Fuzzer {
        fs::write(dir.join("a"), "key=value\nother=1\n").unwrap();
        fs::write(dir.join("b"), "[group]\n").unwrap();
        Fuzzer::new("kind", dir, &["word"])
    }

    #[test]
    fn inputs_are_a_function_of_their_number() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (fuzzer(dir.path()), fuzzer(dir.path()));
        assert_eq!(one.input(0), b"key=value\nother=1\n");
        let inputs: Vec<_> = (0..500).map(|n| one.input(n)).collect();
        assert!((0..500).all(|n| two.input(n) == inputs[usize::try_from(n).unwrap()]));
        let different: std::collections::BTreeSet<_> = inputs.iter().collect();
        assert!(different.len() > 400, "{}", different.len());
        assert!(inputs.iter().all(|i| i.len() <= MAX_LENGTH));
        let other = Fuzzer { seed: 2, ..fuzzer(dir.path()) };
        assert!((2..500).filter(|n| other.input(*n) != one.input(*n)).count() > 400);
    }

    #[test]
    fn an_input_that_breaks_the_check_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let fuzzer = fuzzer(dir.path());
        let broken = std::panic::catch_unwind(AssertUnwindSafe(|| {
            fuzzer.run(|input| assert!(!input.windows(4).any(|w| w == b"word"), "a word"));
        }));
        let text = *broken.unwrap_err().downcast::<String>().unwrap();
        let (_, path) = text.split_once(": ").unwrap();
        assert!(fs::read(path).unwrap().windows(4).any(|w| w == b"word"), "{text}");
        fs::remove_file(path).unwrap();
    }
}

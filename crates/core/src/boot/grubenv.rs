//! The GRUB environment block: 1024 bytes that GRUB and the running system both write.
//!
//! Format (GRUB's `lib/envblk.c`): the line `# GRUB Environment Block`, then lines `NAME=VALUE` with `\` before a
//! backslash or newline of the value, lines that begin with `#` mean nothing, `#` to the end. GRUB has no file systems
//! that it can write to: it remembers in which blocks of the disk the file lies and overwrites those. So the file is never
//! replaced, grown or shrunk here, but written in place.

use std::fs::File;
use std::io::{ErrorKind as IoKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Error, ErrorKind, Result};

/// Where it is, below a sysroot.
pub const PATH: &str = "boot/grub/grubenv";

const SIGNATURE: &str = "# GRUB Environment Block\n";
/// GRUB's own is 1024; some installers make larger ones.
const MAX_SIZE: u64 = 64 << 10;

/// The content of a block. Order and lines that are not variables stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrubEnv {
    lines: Vec<Line>,
    size: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Variable(Vec<u8>, Vec<u8>),
    /// A comment, or anything else without a `=`.
    Other(Vec<u8>),
}

impl GrubEnv {
    pub fn parse(block: &[u8]) -> Result<Self> {
        let Some(mut rest) = block.strip_prefix(SIGNATURE.as_bytes()) else {
            return Err(Error::failed("it does not begin as a GRUB environment block"));
        };
        // The padding ends the last line: `#` up to the end of the block.
        while let Some(shorter) = rest.strip_suffix(b"#") {
            rest = shorter;
        }
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let (line, after) = split_line(rest)?;
            rest = after;
            let equals = line.iter().position(|b| *b == b'=').filter(|_| line[0] != b'#');
            lines.push(match equals {
                Some(at) => Line::Variable(line[..at].to_vec(), unescape(&line[at + 1..])),
                None => Line::Other(line.to_vec()),
            });
        }
        Ok(Self { lines, size: block.len() })
    }

    /// The block again, of the size it had.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = SIGNATURE.as_bytes().to_vec();
        for line in &self.lines {
            match line {
                Line::Variable(name, value) => {
                    bytes.extend(name);
                    bytes.push(b'=');
                    for byte in value {
                        if matches!(byte, b'\\' | b'\n') {
                            bytes.push(b'\\');
                        }
                        bytes.push(*byte);
                    }
                }
                Line::Other(text) => bytes.extend(text),
            }
            bytes.push(b'\n');
        }
        if bytes.len() > self.size {
            let (need, size) = (bytes.len(), self.size);
            return Err(Error::new(
                ErrorKind::Space,
                format!("{need} bytes of variables do not fit into the {size} bytes of the GRUB environment block"),
            )
            .hint("grub-editenv - list shows the variables, grub-editenv - unset NAME removes one."));
        }
        bytes.resize(self.size, b'#');
        Ok(bytes)
    }

    /// A variable that is text; an empty one counts as not set, as in GRUB's `-n`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.lines.iter().find_map(|line| match line {
            Line::Variable(key, value) if key == name.as_bytes() => Some(value),
            _ => None,
        })?;
        std::str::from_utf8(found).ok().filter(|v| !v.is_empty())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        for line in &mut self.lines {
            if let Line::Variable(key, old) = line {
                if key == name.as_bytes() {
                    *old = value.as_bytes().to_vec();
                    return;
                }
            }
        }
        self.lines.push(Line::Variable(name.into(), value.into()));
    }

    pub fn unset(&mut self, name: &str) {
        self.lines.retain(|line| !matches!(line, Line::Variable(key, _) if key == name.as_bytes()));
    }
}

/// The first line without its end, and what follows. A backslash protects the byte after it.
fn split_line(text: &[u8]) -> Result<(&[u8], &[u8])> {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'\n' if at == 0 => return Err(Error::failed("the GRUB environment block has an empty line")),
            b'\n' => return Ok((&text[..at], &text[at + 1..])),
            _ => at += 1,
        }
    }
    Err(Error::failed("the last line of the GRUB environment block has no end"))
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        plain.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    plain
}

/// Reads the block of a sysroot. `None`: there is none, so the loader counts nothing.
pub fn read(sysroot: &Path) -> Result<Option<GrubEnv>> {
    let path = sysroot.join(PATH);
    let read = || -> Result<Option<GrubEnv>> {
        let mut file = match File::open(&path) {
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => return Ok(None),
            other => other?,
        };
        Ok(Some(GrubEnv::parse(&content(&mut file)?)?))
    };
    read().context(|| format!("Reading {}", path.display()))
}

/// Changes the block of a sysroot in place, flushed to the disk. False when there is none, or when nothing changed.
pub fn update(sysroot: &Path, change: impl FnOnce(&mut GrubEnv)) -> Result<bool> {
    let path = sysroot.join(PATH);
    let write = || -> Result<bool> {
        let mut file = match File::options().read(true).write(true).open(&path) {
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => return Ok(false),
            other => other?,
        };
        let before = content(&mut file)?;
        let mut block = GrubEnv::parse(&before)?;
        change(&mut block);
        let after = block.to_bytes()?;
        if after == before {
            return Ok(false);
        }
        // One write of one disk block.
        file.write_all_at(&after, 0)?;
        file.sync_all()?;
        Ok(true)
    };
    write().context(|| format!("Changing {}", path.display()))
}

fn content(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let size = file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if size as u64 > MAX_SIZE {
        return Err(Error::failed("it is too large to be a GRUB environment block"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    fn sysroot() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("boot/grub")).unwrap();
        let path = dir.path().join(PATH);
        (dir, path)
    }

    /// The oracle: GRUB's own tool.
    fn editenv(path: &Path, words: &[&str]) -> String {
        let output = Command::new("grub-editenv").arg(path).args(words).output().expect("grub-common is installed");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn grub_editenv_reads_what_we_write() {
        let (dir, path) = sysroot();
        editenv(&path, &["create"]);
        editenv(&path, &["set", "saved_entry=0", "apt_ostree_good=old"]);
        let inode = std::fs::metadata(&path).unwrap().ino();
        let id = format!("{}.0", "ab12".repeat(16));
        let changed = update(dir.path(), |env| {
            env.set("apt_ostree_good", &id);
            env.set("odd", r"back\slash = # $x");
            env.unset("nothing");
        });
        assert!(changed.unwrap());
        assert_eq!(editenv(&path, &["list"]), format!("saved_entry=0\napt_ostree_good={id}\nodd=back\\slash = # $x\n"));
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.ino()), (1024, inode), "written in place");
        assert!(!update(dir.path(), |env| env.set("apt_ostree_good", &id)).unwrap(), "nothing to change");
        update(dir.path(), |env| env.unset("odd")).unwrap();
        assert_eq!(editenv(&path, &["list"]), format!("saved_entry=0\napt_ostree_good={id}\n"));
    }

    #[test]
    fn we_read_and_keep_what_grub_editenv_writes() {
        let (dir, path) = sysroot();
        editenv(&path, &["create"]);
        let all = ["a=1", "empty=", r"odd=back\slash", "eq=x=y", "two=line\nbreak"];
        editenv(&path, &[&["set"], all.as_slice()].concat());
        let env = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            [env.get("a"), env.get("odd"), env.get("eq"), env.get("two")],
            [Some("1"), Some(r"back\slash"), Some("x=y"), Some("line\nbreak")]
        );
        assert_eq!((env.get("empty"), env.get("none")), (None, None));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(env.to_bytes().unwrap(), bytes);
        // Both set the same variable and remove it again.
        let copy = path.with_file_name("copy");
        std::fs::copy(&path, &copy).unwrap();
        for (name, value) in [("a", "longer than before"), ("new", "x"), ("eq", "")] {
            editenv(&copy, &["set", &format!("{name}={value}")]);
            update(dir.path(), |env| env.set(name, value)).unwrap();
        }
        editenv(&copy, &["unset", "odd"]);
        update(dir.path(), |env| env.unset("odd")).unwrap();
        assert_eq!(editenv(&path, &["list"]), editenv(&copy, &["list"]));
    }

    #[test]
    fn bad_blocks_are_errors_and_stay() {
        let (dir, path) = sysroot();
        assert_eq!(read(dir.path()).unwrap(), None);
        assert!(!update(dir.path(), |_| panic!("there is none")).unwrap());
        for bad in [
            "",
            "hello",
            "# GRUB Environment Block\nx=1",
            "# GRUB Environment Block\n\n#",
            "# GRUB Environment Block\nx=\\",
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = update(dir.path(), |env| env.set("a", "b")).unwrap_err().to_string();
            assert!(error.contains("boot/grub/grubenv: "), "{bad}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
        let mut full = format!("{SIGNATURE}x={}\n", "y".repeat(990)).into_bytes();
        full.resize(1024, b'#');
        std::fs::write(&path, &full).unwrap();
        let error = update(dir.path(), |env| env.set("apt_ostree_good", "more")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Space);
        assert_eq!(std::fs::read(&path).unwrap(), full);
    }
}

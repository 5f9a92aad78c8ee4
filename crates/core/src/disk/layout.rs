//! The partition table: where each partition is, and writing it with sfdisk(8).
//!
//! GPT with, in this order, a BIOS boot partition (1 MiB, GRUB's core), the EFI system partition (64 MiB, FAT), /boot (ext4)
//! and the root file system. Root is last so that it can grow. The types of the first two are UEFI's and GRUB's; /boot has the
//! plain Linux type, because systemd mounts an "extended boot loader partition" by itself, in a place of its own choice.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use super::{program, uuid};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::size::human_size;

pub(crate) const SECTOR: u64 = 512;
pub(crate) const MIB: u64 = 1 << 20;

const BIOS_SIZE: u64 = MIB;
const ESP_SIZE: u64 = 64 * MIB;
/// Room for the table at the start, and for its copy at the end.
const MARGIN: u64 = MIB;

/// One partition: bytes from the start of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) start: u64,
    pub(crate) size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) bios: Partition,
    pub(crate) esp: Partition,
    pub(crate) boot: Partition,
    pub(crate) root: Partition,
    pub(crate) disk: u64,
}

fn round_up(value: u64) -> u64 {
    value.div_ceil(MIB) * MIB
}

impl Layout {
    /// A disk of `size` bytes, rounded down to MiB. `Usage`, with the least that fits, when root gets less than `root`
    /// bytes.
    pub(crate) fn new(size: u64, boot: u64, root: u64) -> Result<Self> {
        let least = Self::least(boot, root);
        let disk = size / MIB * MIB;
        if disk < least {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "A disk of {} is too small: this tree needs at least {} MiB ({})",
                    human_size(size),
                    least / MIB,
                    human_size(least)
                ),
            )
            .hint(format!("Give at least --size={}M; a machine that is upgraded needs twice that.", least / MIB)));
        }
        let bios = Partition { start: MARGIN, size: BIOS_SIZE };
        let esp = Partition { start: bios.start + bios.size, size: ESP_SIZE };
        let boot = Partition { start: esp.start + esp.size, size: round_up(boot) };
        let start = boot.start + boot.size;
        let root = Partition { start, size: disk - MARGIN - start };
        Ok(Self { bios, esp, boot, root, disk })
    }

    /// The smallest disk with room for these file systems.
    pub(crate) fn least(boot: u64, root: u64) -> u64 {
        2 * MARGIN + BIOS_SIZE + ESP_SIZE + round_up(boot) + round_up(root)
    }

    /// The input of sfdisk.
    fn script(&self, commit: &str, root_type: &str) -> String {
        let mut text = format!("label: gpt\nlabel-id: {}\nunit: sectors\nfirst-lba: 34\n\n", uuid(commit, "disk"));
        let partitions = [
            ("bios", self.bios, "21686148-6449-6E6F-744E-656564454649"),
            ("esp", self.esp, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
            ("boot", self.boot, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
            ("root", self.root, root_type),
        ];
        for (name, part, kind) in partitions {
            let id = uuid(commit, &format!("partition {name}"));
            text.push_str(&format!(
                "start={}, size={}, type={kind}, uuid={id}, name={name}\n",
                part.start / SECTOR,
                part.size / SECTOR
            ));
        }
        text
    }

    /// Makes the image file, sparse, with an empty file system in no partition.
    pub(crate) fn write(&self, image: &Path, commit: &str, root_type: &str) -> Result<()> {
        // It has the passwords of the machine.
        let create = || File::options().write(true).create(true).truncate(true).mode(0o600).open(image);
        let file = create().context(|| format!("Creating {}", image.display()))?;
        file.set_len(self.disk).context(|| format!("Creating {}", image.display()))?;
        drop(file);
        let run = || -> Result<std::process::Output> {
            let mut child = program("sfdisk")
                .args(["--quiet", "--no-reread", "--no-tell-kernel"])
                .arg(image)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            // One that is gone already says why.
            let _ = child.stdin.take().expect("stdin is piped").write_all(self.script(commit, root_type).as_bytes());
            Ok(child.wait_with_output()?)
        };
        let output = run().context(|| "Running sfdisk")?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::failed(format!("sfdisk failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

/// Copies a file into an image at `offset`. What is zero stays a hole.
pub(crate) fn copy_into(image: &File, offset: u64, source: &Path) -> Result<()> {
    let copy = || -> Result<()> {
        let mut from = File::open(source)?;
        let mut to = image;
        let length = from.metadata()?.len();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < length {
            // Holes are skipped whole: most of a new file system is one.
            at = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => break,
                Err(e) => return Err(e.into()),
            };
            from.seek(SeekFrom::Start(at))?;
            let count = from.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            if buffer[..count].iter().any(|byte| *byte != 0) {
                to.seek(SeekFrom::Start(offset + at))?;
                to.write_all(&buffer[..count])?;
            }
            at += count as u64;
        }
        Ok(())
    };
    copy().context(|| format!("Copying {} into the image", source.display()))
}

/// Writes GRUB into the boot sector and the BIOS boot partition, as grub-bios-setup(8) does: the boot sector is told the
/// first sector of the core, and the core's first sector where the rest of it is.
///
/// Offsets: GRUB's `include/grub/i386/pc/boot.h` (`KERNEL_SECTOR` 0x5c, `DRIVE_CHECK` 0x66) and `include/grub/offsets.h`; the block
/// list is the last 12 bytes of the core's first sector, start first. The partition table and the disk's signature, from byte
/// 440 on, stay.
pub(crate) fn write_bios(image: &File, bios: Partition, boot: &[u8], core: &[u8]) -> Result<()> {
    const CODE: usize = 440;
    const KERNEL_SECTOR: usize = 0x5c;
    const DRIVE_CHECK: usize = 0x66;
    const BLOCK_LIST: usize = 512 - 12;
    if boot.len() != 512 || core.len() < 1024 || core.len() as u64 > bios.size {
        return Err(Error::failed(format!(
            "GRUB's BIOS images have an unexpected size: boot.img {} bytes, core.img {} bytes",
            boot.len(),
            core.len()
        )));
    }
    let first = bios.start / SECTOR;
    let mut code = boot[..CODE].to_vec();
    code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    // Two nops in the place of a jump: firmware that passes the wrong drive is corrected.
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let mut core = core.to_vec();
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
    let write = || -> Result<()> {
        let mut to = image;
        to.seek(SeekFrom::Start(0))?;
        to.write_all(&code)?;
        to.seek(SeekFrom::Start(bios.start))?;
        Ok(to.write_all(&core)?)
    };
    write().context(|| "Writing the boot sector")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn partitions_follow_each_other_and_root_takes_the_rest() {
        let layout = Layout::new(8 << 30, 512 * MIB, 900 * MIB).unwrap();
        let parts = [layout.bios, layout.esp, layout.boot, layout.root];
        assert_eq!(parts[0].start, MIB);
        for pair in parts.windows(2) {
            assert_eq!(pair[0].start + pair[0].size, pair[1].start);
        }
        assert_eq!(layout.root.start + layout.root.size + MIB, 8 << 30);
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_the_least() {
        let least = Layout::least(512 * MIB, 900 * MIB);
        assert_eq!(Layout::new(least, 512 * MIB, 900 * MIB).unwrap().root.size, 900 * MIB);
        let e = Layout::new(least - 1, 512 * MIB, 900 * MIB).unwrap_err();
        assert!(e.kind == ErrorKind::Usage && e.hints[0].contains(&format!("--size={}M", least / MIB)), "{e:?}");
    }

    #[test]
    fn sfdisk_agrees_with_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let layout = Layout::new(1 << 30, 100 * MIB, 100 * MIB).unwrap();
        layout.write(&path, "c", "0FC63DAF-8483-4772-8E79-3D69D8477DE4").unwrap();
        let output = Command::new("sfdisk").arg("--json").arg(&path).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found: Vec<(u64, u64)> = json["partitiontable"]["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| (p["start"].as_u64().unwrap() * SECTOR, p["size"].as_u64().unwrap() * SECTOR))
            .collect();
        let parts = [layout.bios, layout.esp, layout.boot, layout.root];
        assert_eq!(found, parts.map(|p| (p.start, p.size)));
        assert!(Command::new("sfdisk").arg("--verify").arg(&path).output().unwrap().status.success());

        // GRUB's code does not touch the table.
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut core = vec![7; 5000];
        core[500..508].copy_from_slice(&[0; 8]);
        write_bios(&file, layout.bios, &[1; 512], &core).unwrap();
        let again = Command::new("sfdisk").arg("--json").arg(&path).output().unwrap();
        assert_eq!(output.stdout, again.stdout);
        let disk = std::fs::read(&path).unwrap();
        assert_eq!(disk[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(disk[(1 << 20) + 500..(1 << 20) + 508], 2049u64.to_le_bytes());
        assert!(write_bios(&file, layout.bios, &[1; 511], &core).is_err());
    }

    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        let mut file = File::create(&source).unwrap();
        file.write_all(b"start").unwrap();
        file.seek(SeekFrom::Start(50 * MIB)).unwrap();
        file.write_all(b"end").unwrap();
        file.set_len(60 * MIB).unwrap();
        let image = File::create(&target).unwrap();
        image.set_len(100 * MIB).unwrap();
        copy_into(&image, MIB, &source).unwrap();
        let read = std::fs::read(&target).unwrap();
        assert_eq!(&read[1 << 20..(1 << 20) + 5], b"start");
        assert_eq!(&read[51 << 20..(51 << 20) + 3], b"end");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&target).unwrap());
        assert!(blocks * 512 < 8 * MIB, "{blocks}");
    }
}

//! `history`: which command made which deployment, and when each was booted.
//!
//! Layout: `ostree/deploy/STATEROOT/var/lib/apt-ostree/history/SECONDS-CHECKSUM.SERIAL.json`, one file a deployment, written
//! when it was made; the newest [`KEPT`] stay. Boots are not recorded: they are messages of ostree-prepare-root in the
//! journal, which name device and inode of the deployment that was booted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Context, Result};
use crate::status::DeploymentStatus;
use crate::sysroot::{Deployment, Sysroot};

/// How many records stay.
const KEPT: usize = 200;

/// `MESSAGE_ID` of ostree-prepare-root's "Resolved OSTree target" (libostree, otcore.h: OTCORE_PREPARE_ROOT_BOOTED).
const BOOTED: &str = "7170336a73ba4601bad31af888aa0df7";

/// A deployment that was made. The keys are those of `rpm-ostree ex history --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// As it was when it was made; absent where the record cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentStatus>,
    /// Seconds since the epoch, like all times.
    pub deployment_create_timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_create_command_line: Option<String>,
    /// Absent where no boot is in the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_boot_timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_boot_timestamp: Option<u64>,
}

/// What a file has: the entry, and what its boots are found by.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    device: u64,
    inode: u64,
    #[serde(flatten)]
    entry: Entry,
}

fn folder(sysroot: &Sysroot, stateroot: &str) -> PathBuf {
    sysroot.var(stateroot).join("lib/apt-ostree/history")
}

/// Remembers the deployment that boots next, if it is new, and the command that made it.
pub fn record(sysroot: &Path, stateroot: Option<&str>, command_line: &str) -> Result<()> {
    let sysroot = Sysroot::open(sysroot)?;
    let stateroot = sysroot.stateroot(stateroot)?;
    let deployment = sysroot.pending(&stateroot)?;
    let folder = folder(&sysroot, &stateroot);
    fs::create_dir_all(&folder).context(|| format!("Creating {}", folder.display()))?;
    let metadata = fs::metadata(sysroot.directory(&deployment)).context(|| "Looking at the new deployment")?;
    if is_recorded(&folder, &deployment, metadata.ino()) {
        return Ok(());
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let record = Record {
        device: metadata.dev(),
        inode: metadata.ino(),
        entry: Entry {
            deployment: Some(DeploymentStatus::read(&sysroot.repo(), &deployment)?),
            deployment_create_timestamp: now,
            deployment_create_command_line: Some(command_line.to_owned()).filter(|c| !c.is_empty()),
            boot_count: None,
            first_boot_timestamp: None,
            last_boot_timestamp: None,
        },
    };
    let path = folder.join(format!("{now}-{}.json", deployment.name()));
    let partial = folder.join("partial");
    let text = serde_json::to_vec_pretty(&record).context(|| "Writing a record of the history")?;
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, &path))
        .context(|| format!("Writing {}", path.display()))?;
    drop_old(&folder)
}

/// The same directory was recorded before: deployments can come back to the first place.
fn is_recorded(folder: &Path, deployment: &Deployment, inode: u64) -> bool {
    let suffix = format!("-{}.json", deployment.name());
    files(folder).iter().filter(|p| p.to_string_lossy().ends_with(&suffix)).any(|p| {
        fs::read(p)
            .ok()
            .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
            .is_some_and(|v| v["inode"] == inode)
    })
}

/// The records, oldest first: the names begin with the time.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut list: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    list.sort();
    list
}

fn drop_old(folder: &Path) -> Result<()> {
    for old in files(folder).iter().rev().skip(KEPT) {
        fs::remove_file(old).context(|| format!("Removing {}", old.display()))?;
    }
    Ok(())
}

/// The history of a stateroot, newest first. Needs no root; a user who may not read the journal sees no boots.
pub fn read(sysroot: &Sysroot, stateroot: &str) -> Vec<Entry> {
    let boots = boots(&sysroot.var(stateroot).join("log/journal"));
    let mut list = Vec::new();
    for path in files(&folder(sysroot, stateroot)).iter().rev() {
        let record = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let Some(Record { device, inode, mut entry }) = record else {
            list.push(unreadable(path));
            continue;
        };
        // A directory that was deleted gives its number away: boots before this one was made are of another.
        let mut times: Vec<u64> = boots
            .iter()
            .filter(|b| b.device == device && b.inode == inode && b.time >= entry.deployment_create_timestamp)
            .map(|b| b.time)
            .collect();
        times.sort_unstable();
        if let (Some(first), Some(last)) = (times.first(), times.last()) {
            entry.boot_count = Some(times.len() as u64);
            entry.first_boot_timestamp = Some(*first);
            entry.last_boot_timestamp = Some(*last);
        }
        list.push(entry);
    }
    list
}

fn unreadable(path: &Path) -> Entry {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Entry {
        deployment: None,
        deployment_create_timestamp: name.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0),
        deployment_create_command_line: None,
        boot_count: None,
        first_boot_timestamp: None,
        last_boot_timestamp: None,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Boot {
    device: u64,
    inode: u64,
    /// Seconds since the epoch.
    time: u64,
}

/// The boots that a journal knows of; none where there is none, or no journalctl(1).
fn boots(journal: &Path) -> Vec<Boot> {
    if !journal.is_dir() {
        return Vec::new();
    }
    let output = Command::new("journalctl")
        .arg(format!("--directory={}", journal.display()))
        .args(["--quiet", "--output=json", "--output-fields=DEPLOYMENT_DEVICE,DEPLOYMENT_INODE"])
        .arg(format!("MESSAGE_ID={BOOTED}"))
        .output();
    let Ok(output) = output else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(boot).collect()
}

fn boot(line: &str) -> Option<Boot> {
    let value: Value = serde_json::from_str(line).ok()?;
    let number = |key: &str| value[key].as_str()?.parse::<u64>().ok();
    Some(Boot {
        device: number("DEPLOYMENT_DEVICE")?,
        inode: number("DEPLOYMENT_INODE")?,
        time: number("__REALTIME_TIMESTAMP")? / 1_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_journal() {
        let line = r#"{"__REALTIME_TIMESTAMP":"1700000000123456","DEPLOYMENT_INODE":"7","DEPLOYMENT_DEVICE":"65026","_BOOT_ID":"x"}"#;
        assert_eq!(boot(line), Some(Boot { device: 65026, inode: 7, time: 1_700_000_000 }));
        assert_eq!(boot("{}"), None);
        assert_eq!(boot("no"), None);
    }
}

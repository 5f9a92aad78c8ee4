//! The mounts on `/usr`: reading them, and switching to another tree.
//!
//! A transaction has a mount namespace of its own, in which nothing that it mounts is seen by others. The switch has to
//! reach everyone, so [`crate::namespace::of_the_system`] runs it on a thread that has entered the namespace of process 1; from there
//! it propagates into the namespaces of services.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::error::{Context, Error, Result};

/// Where `/usr` is put together.
const STAGING: &str = "/run/apt-ostree/live";
const USR: &str = "/usr";
/// The name of our mounts, followed by the commit.
const SOURCE: &str = "apt-ostree-live:";
/// `ostree-state-overlay@.service` keeps what the machine writes to an overlay in here.
const STATE_OVERLAYS: &str = "/var/ostree/state-overlays/";

/// One line of `/proc/PID/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    parent: u64,
    path: PathBuf,
    kind: String,
    source: String,
    options: String,
}

impl Mount {
    /// proc_pid_mountinfo(5): `ID PARENT DEVICE ROOT PATH OPTIONS TAG… - TYPE SOURCE OPTIONS`.
    fn parse(line: &str) -> Option<Self> {
        let (own, rest) = line.split_once(" - ")?;
        let mut own = own.split(' ');
        let mut rest = rest.split(' ');
        Some(Self {
            id: own.next()?.parse().ok()?,
            parent: own.next()?.parse().ok()?,
            path: unescape(own.nth(2)?),
            kind: rest.next()?.to_owned(),
            source: rest.next()?.to_owned(),
            options: rest.next().unwrap_or_default().to_owned(),
        })
    }

    /// A directory that the overlay was mounted with.
    fn directory(&self, option: &str) -> Option<PathBuf> {
        self.options.split(',').find_map(|o| o.strip_prefix(option)?.strip_prefix('=')).map(unescape)
    }

    fn is_state_overlay(&self) -> bool {
        self.kind == "overlay" && self.directory("upperdir").is_some_and(|d| d.starts_with(STATE_OVERLAYS))
    }
}

/// The kernel writes blank, tab, newline and backslash as `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal =
            after.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(Mount::parse).collect()
}

/// The mounts that process 1 sees. A transaction's own namespace is as it was when its process started, which may be
/// before it got the lock. Who may not look there (who is not root) gets the mounts that it sees itself.
pub fn of_the_system() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/1/mountinfo").or_else(|_| fs::read_to_string("/proc/self/mountinfo"));
    Ok(parse(&text.context(|| "Reading /proc/self/mountinfo")?))
}

/// The mount that a path shows: others at the same path are below it.
fn top<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let here: Vec<&Mount> = mounts.iter().filter(|m| m.path == path).collect();
    here.iter().find(|m| here.iter().all(|other| other.parent != m.id)).copied()
}

/// The commit that `/usr` shows; `None` if it is not one of our mounts.
pub fn live_commit(mounts: &[Mount]) -> Option<String> {
    top(mounts, Path::new(USR))?.source.strip_prefix(SOURCE).map(ToOwned::to_owned)
}

/// What covers `/usr` as an overlay that is neither ours nor libostree's, as merged systemd-sysext(8) images do.
pub fn foreign_overlay(mounts: &[Mount]) -> Option<&str> {
    let usr = top(mounts, Path::new(USR)).filter(|m| m.kind == "overlay" && !m.source.starts_with(SOURCE))?;
    Some(&usr.source)
}

/// What is mounted below the tree that `/usr` shows, outer mounts before inner ones.
fn below(mounts: &[Mount]) -> Vec<Mount> {
    let Some(usr) = top(mounts, Path::new(USR)) else { return Vec::new() };
    let mut found: Vec<Mount> = Vec::new();
    let mut parents = vec![usr.id];
    while let Some(parent) = parents.pop() {
        for mut shown in mounts.iter().filter(|m| m.parent == parent) {
            // What covers it is mounted on it, at the same path. Below the covered tree there may be mounts at that path too.
            while let Some(over) = mounts.iter().find(|m| m.parent == shown.id && m.path == shown.path) {
                shown = over;
            }
            parents.push(shown.id);
            found.push(shown.clone());
        }
    }
    found.sort_by_key(|m| m.path.components().count());
    found
}

/// What `/usr` is to show.
#[derive(Clone, Debug)]
pub struct Target {
    /// `/usr` of the booted deployment, on the disk.
    pub booted: PathBuf,
    /// The commit and the layer with its difference to the booted one; `None`: the booted one itself.
    pub live: Option<(String, PathBuf)>,
}

/// Makes `/usr` show another tree, at once. Mounts below `/usr` come along: state overlays are made anew over what the
/// new tree has, others are bound to their place. Within [`crate::namespace::of_the_system`].
pub fn switch(target: &Target) -> Result<()> {
    let mounts = below(&of_the_system()?);
    let staging = Path::new(STAGING);
    let stage = staging.join("usr");
    discard_staging()?;
    fs::create_dir_all(&stage).context(|| format!("Creating {STAGING}"))?;
    // A mount can only be moved away from a private one.
    rustix::mount::mount_bind(staging, staging)
        .and_then(|()| rustix::mount::mount_change(staging, MountPropagationFlags::PRIVATE))
        .context(|| format!("Preparing {STAGING}"))?;
    let prepared = mount_tree(target, &stage).and_then(|()| mounts.iter().try_for_each(|m| bring(m, &stage)));
    let outcome =
        prepared.and_then(|()| rustix::mount::mount_move(&stage, USR).context(|| "Moving the new tree onto /usr"));
    discard_staging()?;
    outcome
}

/// What a switch that was interrupted has prepared.
fn discard_staging() -> Result<()> {
    let staging = Path::new(STAGING);
    // As often as it is mounted; not being one is the end of it.
    while staging.exists() {
        match rustix::mount::unmount(staging, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(e) => return Err(e).context(|| format!("Unmounting {STAGING}")),
        }
    }
    Ok(())
}

fn mount_tree(target: &Target, stage: &Path) -> Result<()> {
    let Some((commit, layer)) = &target.live else {
        // Not the twin of the mount it comes from: what is mounted on it later would be mounted on the deployment's
        // directory as well.
        rustix::mount::mount_bind(&target.booted, stage)
            .and_then(|()| rustix::mount::mount_change(stage, MountPropagationFlags::PRIVATE))
            .context(|| "Mounting /usr of the booted deployment")?;
        let read_only = MountFlags::BIND | MountFlags::RDONLY;
        return rustix::mount::mount_remount(stage, read_only, c"").context(|| "Making /usr read-only");
    };
    let data = format!("lowerdir={}:{}", quoted(&layer.join("usr")), quoted(&target.booted));
    mount_overlay(&format!("{SOURCE}{commit}"), stage, MountFlags::RDONLY, &data)
}

/// Brings a mount of the old tree to its place in the new one.
fn bring(mount: &Mount, stage: &Path) -> Result<()> {
    let place = match mount.path.strip_prefix(USR) {
        Ok(relative) => stage.join(relative),
        Err(_) => return Ok(()),
    };
    if fs::symlink_metadata(&place).is_err() {
        return Err(Error::failed(format!(
            "{} is a mount point that the new tree does not have",
            mount.path.display()
        ))
        .hint(format!("Unmount {}, or reboot into the new tree. Nothing was changed.", mount.path.display())));
    }
    match (mount.is_state_overlay(), mount.directory("upperdir"), mount.directory("workdir")) {
        (true, Some(upper), Some(work)) => {
            // The covered one keeps using the same directories; with an index overlayfs would not have that.
            let data =
                format!("lowerdir={},upperdir={},workdir={},index=off", quoted(&place), quoted(&upper), quoted(&work));
            mount_overlay("overlay", &place, MountFlags::empty(), &data)
        }
        _ => rustix::mount::mount_bind(&mount.path, &place).context(|| format!("Binding {}", mount.path.display())),
    }
}

fn mount_overlay(source: &str, place: &Path, flags: MountFlags, data: &str) -> Result<()> {
    let data = CString::new(data).map_err(|_| Error::failed("A path has a NUL byte"))?;
    rustix::mount::mount(source, place, "overlay", flags, data.as_c_str())
        .context(|| format!("Mounting an overlay on {}", place.display()))
}

/// For the options of overlayfs.
fn quoted(path: &Path) -> String {
    let text = OsStr::to_string_lossy(OsStr::from_bytes(path.as_os_str().as_bytes()));
    text.replace('\\', r"\\").replace(',', r"\,").replace(':', r"\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
20 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
21 20 8:1 /usr /usr ro shared:2 - ext4 /dev/sda1 rw
22 21 0:40 / /usr/local rw shared:3 - overlay overlay rw,lowerdir=/usr/local,upperdir=/var/ostree/state-overlays/usr-local/upper,workdir=/var/ostree/state-overlays/usr-local/work
23 22 0:41 / /usr/local/a\\040b rw - tmpfs tmpfs rw
24 20 0:42 / /home rw - tmpfs tmpfs rw
";

    #[test]
    fn the_top_mount_counts() {
        let mut mounts = parse(TABLE);
        assert_eq!(mounts.len(), 5);
        assert_eq!(live_commit(&mounts), None);
        assert_eq!(top(&mounts, Path::new("/usr")).unwrap().id, 21);
        mounts.extend(parse("30 21 0:50 / /usr ro - overlay apt-ostree-live:abc ro,lowerdir=/x:/y\n"));
        assert_eq!(live_commit(&mounts).as_deref(), Some("abc"));
        // Back to the booted tree: another bind mount on top of that.
        mounts.insert(0, Mount::parse("31 30 8:1 /usr /usr ro - ext4 /dev/sda1 rw").unwrap());
        assert_eq!(live_commit(&mounts), None);
        assert!(below(&mounts).is_empty(), "what is below the covered tree is covered");
    }

    #[test]
    fn mounts_below_usr_come_in_order() {
        let mounts = below(&parse(TABLE));
        let paths: Vec<_> = mounts.iter().map(|m| m.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/usr/local", "/usr/local/a b"]);
        assert!(mounts[0].is_state_overlay() && !mounts[1].is_state_overlay());
        assert_eq!(mounts[0].directory("workdir").unwrap(), Path::new("/var/ostree/state-overlays/usr-local/work"));
    }

    #[test]
    fn mounts_below_a_live_usr_are_those_that_it_shows() {
        let switched = "30 21 0:50 / /usr ro - overlay apt-ostree-live:abc ro,lowerdir=/x:/y\n\
                        31 30 0:51 / /usr/local rw - overlay overlay rw,lowerdir=/usr/local\n";
        let mut mounts = parse(TABLE);
        mounts.extend(parse(switched));
        assert_eq!(below(&mounts).iter().map(|m| m.id).collect::<Vec<_>>(), [31]);
        assert_eq!(foreign_overlay(&mounts), None);
        mounts.extend(parse("40 30 0:60 / /usr ro - overlay sysext ro,lowerdir=/x:/y\n"));
        assert_eq!(foreign_overlay(&mounts), Some("sysext"));
    }

    #[test]
    fn lines_that_are_none_are_no_mounts() {
        assert!(parse("\nnonsense\n1 2 3\n1 2 8:1 / /x rw -\n").is_empty());
    }
}

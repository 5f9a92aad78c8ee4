//! The accounts of a tree: numbers fixed before packages are unpacked, locked and checked afterwards.
//!
//! dpkg, adduser and useradd read the files of the tree, so an account that stands there under its old number keeps it.
//! [`seed`] puts it there, [`capture`] writes the id lock and its sysusers.d file, [`check_owners`] refuses a tree in which
//! a file belongs to a number without a name. Passwords of a machine are never copied.
//!
//! On disk, under the tree: `usr/etc/{passwd,group,shadow,gshadow}`, `usr/lib/apt-ostree/ids.lock`,
//! `usr/lib/sysusers.d/50-apt-ostree-ids.conf`.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::ErrorKind as IoErrorKind;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::quirks::RUNTIME_DIR;
use crate::error::{Context, Error, Result};
use crate::model::accounts::{
    Account, AccountKind, Group, IDS_LOCK, IdLock, Passwd, Record, SYSUSERS_CONF, Shadow, Table, UserNames,
    is_system_id, pinned_accounts, render_sysusers,
};
use crate::model::layout::DPKG_ADMINDIR;

/// Where a machine's layered packages get new numbers. adduser counts from 100 up and systemd-sysusers from 999 down, so
/// a later base image does not get here.
pub const LAYER_IDS: RangeInclusive<u32> = 400..=499;
/// The range that Debian gives to dynamic system accounts.
const SYSTEM_IDS: RangeInclusive<u32> = 100..=999;
/// How many paths an error lists.
const LISTED: usize = 20;

/// The four files of one `/etc`.
#[derive(Clone, Debug, Default)]
pub struct AccountFiles {
    pub passwd: Table<Passwd>,
    pub group: Table<Group>,
    pub shadow: Table<Shadow>,
    pub gshadow: Table<Shadow>,
}

impl AccountFiles {
    /// Reads them from an `etc` directory; those that are missing are empty.
    pub fn read(etc: &Path) -> Result<Self> {
        Ok(Self {
            passwd: read_table(&etc.join("passwd"))?,
            group: read_table(&etc.join("group"))?,
            shadow: read_table(&etc.join("shadow"))?,
            gshadow: read_table(&etc.join("gshadow"))?,
        })
    }

    pub fn names(&self) -> UserNames {
        UserNames::new(&self.passwd, &self.group)
    }
}

/// Brings the four files of an `etc` directory into one order, by number: whether an account was there before the packages
/// or made by one of them shows in its place otherwise, and two composes of the same packages would differ.
pub fn sort(etc: &Path) -> Result<()> {
    let mut files = AccountFiles::read(etc)?;
    files.passwd.sort_by_key(|user| user.uid);
    files.group.sort_by_key(|group| group.gid);
    let users: BTreeMap<String, usize> = files.passwd.iter().zip(0..).map(|(u, at)| (u.name.clone(), at)).collect();
    let groups: BTreeMap<String, usize> = files.group.iter().zip(0..).map(|(g, at)| (g.name.clone(), at)).collect();
    files.shadow.sort_by_key(|row| users.get(&row.name).copied().unwrap_or(usize::MAX));
    files.gshadow.sort_by_key(|row| groups.get(&row.name).copied().unwrap_or(usize::MAX));
    write_files(etc, &files)
}

/// The names of a tree's accounts (`usr/etc`).
pub fn tree_names(tree: &Path) -> Result<UserNames> {
    let etc = tree.join("usr/etc");
    Ok(UserNames::new(&read_table(&etc.join("passwd"))?, &read_table(&etc.join("group"))?))
}

/// The id lock of a tree; empty if it has none.
pub fn read_lock(tree: &Path) -> Result<IdLock> {
    match fs::read_to_string(tree.join(IDS_LOCK)) {
        Ok(text) => IdLock::parse(&format!("/{IDS_LOCK}"), &text),
        Err(e) if e.kind() == IoErrorKind::NotFound => Ok(IdLock::default()),
        Err(e) => Err(e).context(|| format!("Reading /{IDS_LOCK}")),
    }
}

/// What [`seed`] added, as `user NAME` and `group NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeedReport {
    pub from_lock: Vec<String>,
    pub from_machine: Vec<String>,
}

/// Before packages are unpacked: adds to the tree's account files what the lock has and, for layering, the system
/// accounts (1–999) of the machine, so that a package finds the numbers already in use in `/var`.
/// An account that stands in both with different numbers, or a number with different names, is an error: one of the two
/// would own the other's files.
pub fn seed(tree_etc: &Path, machine_etc: Option<&Path>, lock: &IdLock) -> Result<SeedReport> {
    let mut files = AccountFiles::read(tree_etc)?;
    let mut report = SeedReport::default();
    let mut problems = Vec::new();
    for account in lock.iter() {
        match add(&mut files, account) {
            Added::Yes => report.from_lock.push(label(account)),
            Added::There => {}
            Added::OtherNumber(id) => problems.push(format!(
                "{} has the number {} in the id lock and {id} in the image",
                label(account),
                account.id
            )),
            Added::OtherName(name) => problems.push(format!(
                "the number {} is that of {} in the id lock and of {name} in the image",
                account.id,
                label(account)
            )),
        }
    }
    if !problems.is_empty() {
        return Err(collision(
            &problems,
            "The image contradicts its own id lock; compose it again from its previous commit.",
        ));
    }
    if let Some(machine_etc) = machine_etc {
        let machine = AccountFiles::read(machine_etc)?;
        let accounts = machine.group.iter().map(Account::group).chain(machine.passwd.iter().map(Account::user));
        let mut numbers = BTreeSet::new();
        // Of two names with one number (an alias an administrator made) the first is what the number means.
        for account in accounts.filter(|a| (1..=999).contains(&a.id)).filter(|a| numbers.insert((a.kind, a.id))) {
            match add(&mut files, &account) {
                Added::Yes => report.from_machine.push(label(&account)),
                Added::There => {}
                Added::OtherNumber(id) => problems.push(format!(
                    "{} has the number {} on this machine and {id} in the base image",
                    label(&account),
                    account.id
                )),
                Added::OtherName(name) => problems.push(format!(
                    "the number {} is that of {} on this machine and of {} {name} in the base image",
                    account.id,
                    label(&account),
                    account.kind
                )),
            }
        }
    }
    if !problems.is_empty() {
        return Err(collision(
            &problems,
            "Give the account on this machine a free number (usermod -u or groupmod -g, then chown its files in /var), or remove it, and try again.",
        ));
    }
    if report != SeedReport::default() {
        write_files(tree_etc, &files)?;
    }
    Ok(report)
}

/// Gives accounts that [`seed`] added the shadow rows of before, as far as those are locked: the id lock does not know of an
/// account that is expired (`u!` of systemd-sysusers). Passwords are never carried over.
pub fn restore_locked(etc: &Path, added: &SeedReport, shadow: &Table<Shadow>, gshadow: &Table<Shadow>) -> Result<()> {
    let mut files = AccountFiles::read(etc)?;
    for (kind, rows, old) in [("user", &mut files.shadow, shadow), ("group", &mut files.gshadow, gshadow)] {
        for row in rows.iter_mut().filter(|row| added.from_lock.contains(&format!("{kind} {}", row.name))) {
            match old.get(&row.name) {
                Some(old) if old.fields[0].starts_with(['!', '*']) => row.clone_from(old),
                _ => {}
            }
        }
    }
    write_files(etc, &files)
}

fn collision(problems: &[String], hint: &str) -> Error {
    Error::failed(format!("Account numbers collide: {}", problems.join("; "))).hint(hint)
}

fn label(account: &Account) -> String {
    format!("{} {}", account.kind, account.name)
}

enum Added {
    Yes,
    There,
    OtherNumber(u32),
    OtherName(String),
}

/// Adds one account without a password. The shadow rows are those systemd-sysusers writes.
fn add(files: &mut AccountFiles, account: &Account) -> Added {
    let (same_name, same_number) = match account.kind {
        AccountKind::User => (
            files.passwd.get(&account.name).map(|u| u.uid),
            files.passwd.iter().find(|u| u.uid == account.id).map(|u| u.name.clone()),
        ),
        AccountKind::Group => (
            files.group.get(&account.name).map(|g| g.gid),
            files.group.iter().find(|g| g.gid == account.id).map(|g| g.name.clone()),
        ),
    };
    match (same_name, same_number) {
        (Some(id), _) if id == account.id => return Added::There,
        (Some(id), _) => return Added::OtherNumber(id),
        (None, Some(name)) => return Added::OtherName(name),
        (None, None) => {}
    }
    let (table, fields) = match account.kind {
        AccountKind::User => {
            files.passwd.push(account.to_passwd());
            (&mut files.shadow, 8)
        }
        AccountKind::Group => {
            files.group.push(account.to_group());
            (&mut files.gshadow, 3)
        }
    };
    if table.get(&account.name).is_none() {
        let mut row = vec![String::new(); fields];
        row[0] = "!*".into();
        table.push(Shadow { name: account.name.clone(), fields: row });
    }
    Added::Yes
}

/// After the packages ran: removes the backups and locks of the account tools, takes dates out of the shadow file,
/// writes the id lock and the sysusers.d file, and gives the new lock. `old` is the lock that [`seed`] was given.
pub fn capture(tree: &Path, old: &IdLock) -> Result<IdLock> {
    let etc = tree.join("usr/etc");
    for name in ["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-", ".pwd.lock"] {
        match fs::remove_file(etc.join(name)) {
            Err(e) if e.kind() != IoErrorKind::NotFound => return Err(e).context(|| format!("Removing /etc/{name}")),
            _ => {}
        }
    }
    let mut files = AccountFiles::read(&etc)?;
    if undate(&mut files.shadow) {
        write_table(&etc.join("shadow"), &files.shadow, shadow_gid(&files.group))?;
    }
    let packages = OnceCell::new();
    let lock = old.merge(&files.passwd, &files.group, |kind, name| {
        let known: &BTreeMap<(AccountKind, String), String> = packages.get_or_init(|| account_packages(tree));
        known.get(&(kind, name.to_owned())).cloned()
    })?;
    write_text(&tree.join(IDS_LOCK), &lock.to_string())?;
    let mut pinned = BTreeSet::new();
    let own = tree.join(SYSUSERS_CONF);
    for entry in fs::read_dir(tree.join("usr/lib/sysusers.d")).into_iter().flatten() {
        let path = entry?.path();
        if path != own && path.extension().is_some_and(|e| e == "conf") {
            pinned.extend(pinned_accounts(&lock, &read_optional(&path)?.unwrap_or_default()));
        }
    }
    write_text(&own, &render_sysusers(&lock, &files.group, &pinned))?;
    Ok(lock)
}

/// The system accounts of `new` that `old` lacks and whose number is not from [`LAYER_IDS`]: a package asked for a fixed
/// number, or a tool did not see the overrides. A later base image may give the number to another name.
pub fn outside_layer_range<'a>(old: &IdLock, new: &'a IdLock) -> Vec<&'a Account> {
    new.iter().filter(|a| old.get(a.kind, &a.name).is_none() && !LAYER_IDS.contains(&a.id)).collect()
}

/// Empties the day of the last password change where it cannot matter: for locked passwords, and where nothing ages.
/// It is the day of the build otherwise, and two builds would differ. Empty means that nothing ages (shadow(5)); 0 would
/// ask for a new password.
fn undate(shadow: &mut Table<Shadow>) -> bool {
    let mut changed = false;
    for row in shadow.iter_mut() {
        let locked = row.fields[0].starts_with(['!', '*']);
        let ages = row.fields.get(3).is_some_and(|max| !matches!(max.as_str(), "" | "99999"));
        if (locked || !ages) && row.fields.len() == 8 && !row.fields[1].is_empty() {
            row.fields[1].clear();
            changed = true;
        }
    }
    changed
}

/// Which accounts come from which package, as far as files say it: base-passwd's lists and packages' sysusers.d.
fn account_packages(tree: &Path) -> BTreeMap<(AccountKind, String), String> {
    let mut known = BTreeMap::new();
    let info = tree.join(DPKG_ADMINDIR).join("info");
    for entry in fs::read_dir(info).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(package) = file.strip_suffix(".list") else { continue };
        let package = package.split(':').next().unwrap_or(package);
        let Ok(list) = fs::read(entry.path()) else { continue };
        for path in String::from_utf8_lossy(&list).lines().filter(|l| l.starts_with("/usr/lib/sysusers.d/")) {
            let Ok(text) = fs::read_to_string(tree.join(&path[1..])) else { continue };
            for line in text.lines() {
                let mut words = line.split_whitespace();
                let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
                let kinds: &[AccountKind] = match kind.trim_end_matches('!') {
                    "u" => &[AccountKind::User, AccountKind::Group],
                    "g" => &[AccountKind::Group],
                    _ => continue,
                };
                for kind in kinds {
                    known.entry((*kind, name.to_owned())).or_insert_with(|| package.to_owned());
                }
            }
        }
    }
    for (kind, file) in [(AccountKind::User, "passwd.master"), (AccountKind::Group, "group.master")] {
        let text = fs::read_to_string(tree.join("usr/share/base-passwd").join(file)).unwrap_or_default();
        for name in text.lines().filter_map(|l| l.split(':').next()) {
            known.insert((kind, name.to_owned()), "base-passwd".to_owned());
        }
    }
    known
}

/// Which files [`check_owners`] looks at.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// The whole tree but `var`, `sysroot` and `ostree`.
    Tree,
    /// These paths, relative to the tree; what is gone is passed over.
    Paths(&'a [PathBuf]),
}

/// Every owner of a file must have a name in the tree, and the owner of a setuid or setgid program must be a system
/// account: otherwise the number is somebody else's on some machine, with the program's rights.
pub fn check_owners(tree: &Path, scope: Scope<'_>) -> Result<()> {
    let names = tree_names(tree)?;
    let mut problems = Vec::new();
    let mut check = |rel: &Path, m: &Metadata| {
        let special = !m.is_dir() && !m.is_symlink();
        for (flag, bit, what, id, named) in [
            (0o4000, "setuid", "user", m.uid(), names.user(m.uid()).is_some()),
            (0o2000, "setgid", "group", m.gid(), names.group(m.gid()).is_some()),
        ] {
            let set_id = special && m.mode() & flag != 0;
            let bit = if set_id { format!("{bit}, ") } else { String::new() };
            if !named && id != 0 {
                problems.push(format!("/{} ({bit}{what} {id} has no name)", rel.display()));
            } else if set_id && !is_system_id(id) {
                problems.push(format!("/{} ({bit}{what} {id} is not a system {what})", rel.display()));
            }
        }
    };
    match scope {
        Scope::Paths(paths) => {
            for rel in paths {
                match fs::symlink_metadata(tree.join(rel)) {
                    Ok(m) => check(rel, &m),
                    Err(e) if matches!(e.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory) => {}
                    Err(e) => return Err(e).context(|| format!("Reading /{}", rel.display())),
                }
            }
        }
        Scope::Tree => {
            let mut pending = vec![PathBuf::new()];
            while let Some(directory) = pending.pop() {
                let list =
                    fs::read_dir(tree.join(&directory)).context(|| format!("Reading /{}", directory.display()))?;
                for entry in list {
                    let entry = entry?;
                    let rel = directory.join(entry.file_name());
                    let m = fs::symlink_metadata(entry.path()).context(|| format!("Reading /{}", rel.display()))?;
                    check(&rel, &m);
                    let skipped = ["var", "sysroot", "ostree"].iter().any(|name| rel == Path::new(name));
                    if m.is_dir() && !skipped {
                        pending.push(rel);
                    }
                }
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    let count = problems.len();
    let more = if count > LISTED { format!(", and {} more", count - LISTED) } else { String::new() };
    problems.truncate(LISTED);
    Err(Error::failed(format!("{count} files have an owner that does not resolve: {}{more}", problems.join(", "))).hint(
        "A package unpacked files for an account it did not create, or an account was removed after packages were unpacked. \
         Find the package with dpkg -S and make its account exist.",
    ))
}

/// Makes adduser, useradd, groupadd and systemd-sysusers give new numbers from [`LAYER_IDS`] only: writes configuration and
/// programs of these names into the runtime directory of a run (see [`super::quirks::Active::write_runtime`]), where
/// `shims` comes first in `PATH`. Nothing is mounted over the tree's own configuration, so dpkg can upgrade it.
///
/// adduser's own range stays as it is and the rest of it is reserved by a pool file: with `FIRST_SYSTEM_UID=400` it would
/// take an existing account with the number 105 for "not a system user" and fail the postinst. systemd-sysusers does not
/// read login.defs (Debian builds it without), but `r` lines.
pub fn write_layer_ids(tree_etc: &Path, runtime: &Path) -> Result<()> {
    let (first, last) = (LAYER_IDS.start(), LAYER_IDS.end());
    let keys = ["UID_POOL", "GID_POOL", "RESERVE_UID_POOL", "RESERVE_GID_POOL"];
    let own = read_optional(&tree_etc.join("adduser.conf"))?.unwrap_or_default();
    let mut adduser = without_settings(&own, &keys, |line| line.split('=').next());
    let pool = format!("{RUNTIME_DIR}/adduser-pool.conf");
    adduser.push_str(&format!("UID_POOL={pool}\nGID_POOL={pool}\nRESERVE_UID_POOL=yes\nRESERVE_GID_POOL=yes\n"));
    write_text(&runtime.join("adduser.conf"), &adduser)?;
    let reserved = SYSTEM_IDS.filter(|id| !LAYER_IDS.contains(id));
    let reserved: Vec<String> = reserved.map(|id| format!("apt-ostree-reserved-{id}:{id}")).collect();
    write_text(&runtime.join("adduser-pool.conf"), &(reserved.join("\n") + "\n"))?;
    write_text(&runtime.join("sysusers-range.conf"), &format!("r - {first}-{last}\n"))?;
    let uid = format!("-K SYS_UID_MIN={first} -K SYS_UID_MAX={last}");
    let gid = format!("-K SYS_GID_MIN={first} -K SYS_GID_MAX={last}");
    for (program, arguments) in [
        ("adduser", format!("--conf {RUNTIME_DIR}/adduser.conf")),
        ("addgroup", format!("--conf {RUNTIME_DIR}/adduser.conf")),
        ("useradd", format!("{uid} {gid}")),
        ("groupadd", gid),
    ] {
        write_program(runtime, program, &format!("exec /usr/sbin/{program} {arguments} \"$@\"\n"))?;
    }
    write_program(runtime, "systemd-sysusers", &SYSUSERS_SHIM.replace("RUNTIME", RUNTIME_DIR))
}

/// Gives systemd-sysusers one more file, or one more line where it is called with `--inline`.
const SYSUSERS_SHIM: &str = "\
real=/usr/bin/systemd-sysusers
range=RUNTIME/sysusers-range.conf
how=all
for word in \"$@\"; do
    case $word in
        --inline) how=inline ;;
        -*) ;;
        *) [ $how = inline ] || how=files ;;
    esac
done
case $how in
    inline) exec $real \"$@\" \"$(cat $range)\" ;;
    files) exec $real \"$@\" $range ;;
esac
mkdir -p /run/sysusers.d
cp $range /run/sysusers.d/00-apt-ostree-range.conf
exec $real \"$@\"
";

fn write_program(runtime: &Path, name: &str, body: &str) -> Result<()> {
    let path = runtime.join("shims").join(name);
    write_text(&path, &format!("#!/bin/sh\n# New numbers come from the range of layered packages.\n{body}"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context(|| format!("Writing {}", path.display()))
}

/// A configuration text without the lines that set one of `keys`, ending in a newline.
fn without_settings(text: &str, keys: &[&str], key: impl Fn(&str) -> Option<&str>) -> String {
    let kept = text.lines().filter(|line| !key(line.trim()).is_some_and(|k| keys.contains(&k.trim())));
    kept.flat_map(|line| [line, "\n"]).collect()
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == IoErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| format!("Reading {}", path.display())),
    }
}

fn read_table<T: Record>(path: &Path) -> Result<Table<T>> {
    Ok(read_optional(path)?.map_or_else(Table::default, |text| Table::parse(&text)))
}

/// The group that may read the shadow files; 42 on every Debian (base-passwd).
fn shadow_gid(group: &Table<Group>) -> u32 {
    group.get("shadow").map_or(42, |g| g.gid)
}

fn write_files(etc: &Path, files: &AccountFiles) -> Result<()> {
    let shadow = shadow_gid(&files.group);
    write_table(&etc.join("passwd"), &files.passwd, 0)?;
    write_table(&etc.join("group"), &files.group, 0)?;
    write_table(&etc.join("shadow"), &files.shadow, shadow)?;
    write_table(&etc.join("gshadow"), &files.gshadow, shadow)
}

/// Replaces the file whole, with the mode and owner it had; a new one of the group `gid` is 0640, otherwise 0644.
fn write_table<T: Record>(path: &Path, table: &Table<T>, gid: u32) -> Result<()> {
    let (mode, uid, gid) = match fs::symlink_metadata(path) {
        Ok(m) => (m.mode() & 0o7777, m.uid(), m.gid()),
        Err(_) => (if gid == 0 { 0o644 } else { 0o640 }, 0, gid),
    };
    replace(path, &table.to_string(), mode, Some((uid, gid)))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(|| format!("Making the directory {}", parent.display()))?;
    }
    replace(path, text, 0o644, None)
}

fn replace(path: &Path, text: &str, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    let what = || format!("Writing {}", path.display());
    let directory = path.parent().unwrap_or(path);
    let mut new = tempfile::Builder::new().prefix(".apt-ostree-").tempfile_in(directory).context(what)?;
    std::io::Write::write_all(new.as_file_mut(), text.as_bytes()).context(what)?;
    if let Some((uid, gid)) = owner {
        lchown(new.path(), Some(uid), Some(gid)).context(what)?;
    }
    fs::set_permissions(new.path(), fs::Permissions::from_mode(mode)).context(what)?;
    new.persist(path).map_err(|e| e.error).context(what)?;
    Ok(())
}

//! Accounts as text: passwd(5), group(5), shadow(5), gshadow(5), the id lock, and sysusers.d(5).
//!
//! The **id lock** (`/usr/lib/apt-ostree/ids.lock`) is the memory of an image line: which name has which number. A name
//! never changes its number and a number is never given to another name, because files in `/var` of machines and
//! setgid programs of the image carry the number, not the name. Rows are never removed.
//!
//! Layout of the lock: lines starting with `#` are comments, the first one names the format; then one line per account,
//! sorted, with fields that cannot hold a colon in passwd(5) either:
//!
//! ```text
//! user:NAME:UID:PRIMARY-GID:GECOS:HOME:SHELL:PACKAGE
//! group:NAME:GID:::::PACKAGE
//! ```
//!
//! `PACKAGE` is the package the account is known to come from, or `-`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::{Error, Result};

/// The id lock in the image.
pub const IDS_LOCK: &str = "usr/lib/apt-ostree/ids.lock";
/// The sysusers.d file made from it. The first file name wins for a name, so it stands before those of packages.
pub const SYSUSERS_CONF: &str = "usr/lib/sysusers.d/50-apt-ostree-ids.conf";
/// First line of the lock.
const LOCK_HEADER: &str = "# apt-ostree id lock, format 1";

/// A record of one of the four files.
pub trait Record: Sized {
    /// The fields of a line, split at colons. `None` if it is not such a record.
    fn from_fields(fields: &[&str]) -> Option<Self>;
    fn name(&self) -> &str;
    fn to_line(&self) -> String;
}

/// A line of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passwd {
    pub name: String,
    pub password: String,
    pub uid: u32,
    pub gid: u32,
    pub gecos: String,
    pub home: String,
    pub shell: String,
}

/// A line of group(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub password: String,
    pub gid: u32,
    pub members: Vec<String>,
}

/// A line of shadow(5) or gshadow(5): the fields after the name as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    pub name: String,
    /// shadow: password, last change, min, max, warn, inactive, expire, flag. gshadow: password, administrators, members.
    pub fields: Vec<String>,
}

impl Record for Passwd {
    fn from_fields(fields: &[&str]) -> Option<Self> {
        let [name, password, uid, gid, gecos, home, shell] = fields else { return None };
        Some(Self {
            name: valid_name(name)?,
            password: (*password).into(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            gecos: (*gecos).into(),
            home: (*home).into(),
            shell: (*shell).into(),
        })
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn to_line(&self) -> String {
        let Self { name, password, uid, gid, gecos, home, shell } = self;
        format!("{name}:{password}:{uid}:{gid}:{gecos}:{home}:{shell}")
    }
}

impl Record for Group {
    fn from_fields(fields: &[&str]) -> Option<Self> {
        let [name, password, gid, members] = fields else { return None };
        Some(Self {
            name: valid_name(name)?,
            password: (*password).into(),
            gid: gid.parse().ok()?,
            members: members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
        })
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn to_line(&self) -> String {
        format!("{}:{}:{}:{}", self.name, self.password, self.gid, self.members.join(","))
    }
}

impl Record for Shadow {
    fn from_fields(fields: &[&str]) -> Option<Self> {
        let (name, rest) = fields.split_first()?;
        if rest.len() < 3 {
            return None;
        }
        Some(Self { name: valid_name(name)?, fields: rest.iter().map(ToString::to_string).collect() })
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn to_line(&self) -> String {
        format!("{}:{}", self.name, self.fields.join(":"))
    }
}

/// Lines of NIS compatibility (`+`, `-name`) are no records.
fn valid_name(name: &str) -> Option<String> {
    (!name.is_empty() && !name.starts_with(['+', '-'])).then(|| name.to_owned())
}

/// One of the four files: its records, and the lines that are none, in their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<T> {
    rows: Vec<Row<T>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Row<T> {
    Record(T),
    Other(String),
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new() }
    }
}

impl<T: Record> Table<T> {
    pub fn parse(text: &str) -> Self {
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            T::from_fields(&fields).map_or_else(|| Row::Other(line.to_owned()), Row::Record)
        };
        // A carriage return is part of its line for the C library, and stays.
        Self { rows: text.split_terminator('\n').map(row).collect() }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.rows.iter().filter_map(|r| if let Row::Record(record) = r { Some(record) } else { None })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.rows.iter_mut().filter_map(|r| if let Row::Record(record) = r { Some(record) } else { None })
    }

    /// The first record of a name: the one the C library finds.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.iter().find(|r| r.name() == name)
    }

    /// Adds a record after the last one, before the NIS lines a file may end with.
    pub fn push(&mut self, record: T) {
        let at = self.rows.iter().rposition(|r| matches!(r, Row::Record(_))).map_or(0, |at| at + 1);
        self.rows.insert(at, Row::Record(record));
    }

    /// Sorts the records among their places; records with the same key keep their order.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&T) -> K)
    where
        T: Clone,
    {
        let mut records: Vec<T> = self.iter().cloned().collect();
        records.sort_by_key(key);
        for (place, record) in self.iter_mut().zip(records) {
            *place = record;
        }
    }
}

impl<T: Record> fmt::Display for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            match row {
                Row::Record(record) => writeln!(f, "{}", record.to_line())?,
                Row::Other(line) => writeln!(f, "{line}")?,
            }
        }
        Ok(())
    }
}

/// Numbers to names, as the C library would answer: the first record counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserNames {
    pub users: BTreeMap<u32, String>,
    pub groups: BTreeMap<u32, String>,
}

impl UserNames {
    pub fn new(passwd: &Table<Passwd>, group: &Table<Group>) -> Self {
        let mut names = Self::default();
        for user in passwd.iter() {
            names.users.entry(user.uid).or_insert_with(|| user.name.clone());
        }
        for group in group.iter() {
            names.groups.entry(group.gid).or_insert_with(|| group.name.clone());
        }
        names
    }

    pub fn user(&self, uid: u32) -> Option<&str> {
        self.users.get(&uid).map(String::as_str)
    }

    pub fn group(&self, gid: u32) -> Option<&str> {
        self.groups.get(&gid).map(String::as_str)
    }
}

/// Whether a number belongs to the system and not to people: Debian Policy 9.2.2 (0–999 and 60000–64999; 65534 is nobody).
pub fn is_system_id(id: u32) -> bool {
    id <= 999 || (60000..=64999).contains(&id) || id == 65534
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccountKind {
    Group,
    User,
}

impl fmt::Display for AccountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Group { "group" } else { "user" })
    }
}

/// One row of the lock. A group has only a name, an id and a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub kind: AccountKind,
    pub name: String,
    pub id: u32,
    /// The primary group's number; of users only.
    pub gid: u32,
    pub gecos: String,
    pub home: String,
    pub shell: String,
    pub package: Option<String>,
}

impl Account {
    pub fn user(passwd: &Passwd) -> Self {
        Self {
            kind: AccountKind::User,
            name: passwd.name.clone(),
            id: passwd.uid,
            gid: passwd.gid,
            gecos: passwd.gecos.clone(),
            home: passwd.home.clone(),
            shell: passwd.shell.clone(),
            package: None,
        }
    }

    pub fn group(group: &Group) -> Self {
        Self {
            kind: AccountKind::Group,
            name: group.name.clone(),
            id: group.gid,
            gid: 0,
            gecos: String::new(),
            home: String::new(),
            shell: String::new(),
            package: None,
        }
    }

    /// The record of passwd(5), its password in the shadow file.
    pub fn to_passwd(&self) -> Passwd {
        Passwd {
            name: self.name.clone(),
            password: "x".into(),
            uid: self.id,
            gid: self.gid,
            gecos: self.gecos.clone(),
            home: self.home.clone(),
            shell: self.shell.clone(),
        }
    }

    /// The record of group(5), without members.
    pub fn to_group(&self) -> Group {
        Group { name: self.name.clone(), password: "x".into(), gid: self.id, members: Vec::new() }
    }

    fn to_line(&self) -> String {
        let Self { kind, name, id, gid, gecos, home, shell, .. } = self;
        let package = self.package.as_deref().unwrap_or("-");
        match kind {
            AccountKind::User => format!("user:{name}:{id}:{gid}:{gecos}:{home}:{shell}:{package}"),
            AccountKind::Group => format!("group:{name}:{id}:::::{package}"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        let [kind, name, id, gid, gecos, home, shell, package] = fields[..] else { return None };
        let kind = match kind {
            "user" => AccountKind::User,
            "group" => AccountKind::Group,
            _ => return None,
        };
        let of_user = |field: &str| if kind == AccountKind::User { field.to_owned() } else { String::new() };
        Some(Self {
            kind,
            name: valid_name(name)?,
            id: id.parse().ok()?,
            gid: if kind == AccountKind::User { gid.parse().ok()? } else { 0 },
            gecos: of_user(gecos),
            home: of_user(home),
            shell: of_user(shell),
            package: (package != "-" && !package.is_empty()).then(|| package.to_owned()),
        })
    }
}

/// The id lock: accounts by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdLock {
    accounts: BTreeMap<(AccountKind, String), Account>,
}

impl IdLock {
    /// Reads the lock. `file` is for the errors.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let mut lock = Self::default();
        if text.lines().next().is_some_and(|first| first.starts_with("# apt-ostree id lock") && first != LOCK_HEADER) {
            return Err(Error::failed(format!("{file}: the id lock was written by a newer apt-ostree"))
                .hint("Update apt-ostree, then try again."));
        }
        for (number, line) in text.lines().map(str::trim_end).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = || format!("{file}:{}", number + 1);
            let account = Account::parse(line)
                .ok_or_else(|| Error::failed(format!("{}: not a row of an id lock: {line}", at())))?;
            if let Some(other) = lock.holder(account.kind, account.id) {
                return Err(Error::failed(format!(
                    "{}: {} {} has the number {} of {}",
                    at(),
                    account.kind,
                    account.name,
                    account.id,
                    other.name
                )));
            }
            if let Some(other) = lock.accounts.insert((account.kind, account.name.clone()), account) {
                return Err(Error::failed(format!("{}: {} {} stands there twice", at(), other.kind, other.name)));
            }
        }
        Ok(lock)
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Groups first, each kind by name.
    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    pub fn get(&self, kind: AccountKind, name: &str) -> Option<&Account> {
        self.accounts.get(&(kind, name.to_owned()))
    }

    /// Who has a number.
    pub fn holder(&self, kind: AccountKind, id: u32) -> Option<&Account> {
        self.accounts.values().find(|a| a.kind == kind && a.id == id)
    }

    /// This lock with the system accounts of a tree added. Rows of accounts that are gone stay. Errors: a name with another
    /// number than before, a number with another name than before, two names with one number.
    /// `package` names the package an account comes from, where that is known.
    pub fn merge(
        &self,
        passwd: &Table<Passwd>,
        group: &Table<Group>,
        package: impl Fn(AccountKind, &str) -> Option<String>,
    ) -> Result<Self> {
        let mut lock = self.clone();
        let present = group
            .iter()
            .map(Account::group)
            .chain(passwd.iter().map(Account::user))
            .filter(|account| is_system_id(account.id));
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for mut account in present {
            let key = (account.kind, account.name.clone());
            if !seen.insert(key.clone()) {
                // A second record of a name is not what the C library finds.
                continue;
            }
            if let Some(old) = lock.accounts.get(&key) {
                if old.id != account.id {
                    problems.push(format!(
                        "{} {} had the number {} and now has {}",
                        old.kind, old.name, old.id, account.id
                    ));
                    continue;
                }
                account.package.clone_from(&old.package);
            } else if let Some(other) = lock.holder(account.kind, account.id) {
                problems.push(format!(
                    "{} {} has the number {}, which belongs to {}",
                    account.kind, account.name, account.id, other.name
                ));
                continue;
            }
            account.package = account.package.or_else(|| package(account.kind, &account.name));
            lock.accounts.insert(key, account);
        }
        if problems.is_empty() {
            return Ok(lock);
        }
        Err(Error::failed(format!("Account numbers do not fit the id lock: {}", problems.join("; ")))
            .hint("Files on machines carry the old numbers. Give the accounts the numbers of the id lock before packages are installed, or start a new ref."))
    }
}

impl fmt::Display for IdLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{LOCK_HEADER}")?;
        writeln!(f, "# Which account has which number. A name never changes its number, a number never its name.")?;
        writeln!(f, "# user:NAME:UID:PRIMARY-GID:GECOS:HOME:SHELL:PACKAGE  group:NAME:GID:::::PACKAGE")?;
        self.accounts.values().try_for_each(|account| writeln!(f, "{}", account.to_line()))
    }
}

/// The sysusers.d file of a lock: a machine whose `/etc/passwd` was edited, so that libostree keeps it as it is, gets the
/// accounts it lacks with the same numbers. root is left out: a machine without it does not boot. `members` are the
/// memberships of the image; those of accounts outside the lock are left out. Accounts that are `pinned` (see
/// [`pinned_accounts`]) are left out too: two lines for one name that differ in a comment make noise on every boot.
pub fn render_sysusers(lock: &IdLock, group: &Table<Group>, pinned: &BTreeSet<(AccountKind, String)>) -> String {
    let mut text =
        String::from("# Written by apt-ostree from ids.lock: the accounts of this image with their numbers.\n");
    let shipped = |account: &&Account| account.id != 0 && !pinned.contains(&(account.kind, account.name.clone()));
    for account in lock.iter().filter(shipped) {
        if !sysusers_name(&account.name) {
            text.push_str(&format!(
                "# {} {} ({}): not a name sysusers.d takes\n",
                account.kind, account.name, account.id
            ));
            continue;
        }
        match account.kind {
            AccountKind::Group => text.push_str(&format!("g {} {}\n", account.name, account.id)),
            AccountKind::User => text.push_str(&format!(
                "u {} {}:{} {} {} {}\n",
                account.name,
                account.id,
                account.gid,
                quoted(&account.gecos),
                quoted(&account.home),
                quoted(&account.shell)
            )),
        }
    }
    let mut groups: Vec<&Group> = group.iter().collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    for group in groups {
        let mut members: Vec<&String> = group.members.iter().collect();
        members.sort();
        members.dedup();
        for user in members {
            let known = lock.get(AccountKind::Group, &group.name).is_some_and(|g| g.id != 0)
                && lock.get(AccountKind::User, user).is_some_and(|u| u.id != 0);
            if known && sysusers_name(&group.name) && sysusers_name(user) {
                text.push_str(&format!("m {user} {}\n", group.name));
            }
        }
    }
    text
}

/// The accounts that a package's sysusers.d file gives the very numbers of the lock.
pub fn pinned_accounts(lock: &IdLock, sysusers: &str) -> BTreeSet<(AccountKind, String)> {
    let mut pinned = BTreeSet::new();
    for line in sysusers.lines() {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(name), Some(id)) = (words.next(), words.next(), words.next()) else { continue };
        let (uid, gid) = id.split_once(':').unwrap_or((id, id));
        let same = |account: &Account| match account.kind {
            AccountKind::Group => uid.parse() == Ok(account.id),
            AccountKind::User => uid.parse() == Ok(account.id) && gid.parse() == Ok(account.gid),
        };
        let kind = match kind.trim_end_matches('!') {
            "u" => AccountKind::User,
            "g" => AccountKind::Group,
            _ => continue,
        };
        if lock.get(kind, name).is_some_and(same) {
            pinned.insert((kind, name.to_owned()));
        }
    }
    pinned
}

/// `valid_user_group_name` of systemd in its strict form.
fn sysusers_name(name: &str) -> bool {
    name.len() <= 31
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn quoted(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c)) && text != "-";
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    if plain { text } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nsshd:x:991:65534:sshd user:/run/sshd:/usr/sbin/nologin\n\
                          alice:x:1000:1000::/home/alice:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\ncrontab:x:997:\nadm:x:4:sshd,alice\nalice:x:1000:\nnogroup:x:65534:\n";

    fn lock(passwd: &str, group: &str) -> Result<IdLock> {
        IdLock::default()
            .merge(&Table::parse(passwd), &Table::parse(group), |_, n| (n == "sshd").then(|| "openssh-server".into()))
    }

    #[test]
    fn tables_keep_what_they_do_not_know() {
        let text = "root:x:0:0:root:/root:/bin/bash\n# odd\n+::::::\n";
        let mut table = Table::<Passwd>::parse(text);
        assert_eq!(table.to_string(), text);
        table.push(Passwd { name: "a".into(), ..table.get("root").unwrap().clone() });
        assert_eq!(
            table.to_string(),
            "root:x:0:0:root:/root:/bin/bash\na:x:0:0:root:/root:/bin/bash\n# odd\n+::::::\n"
        );
    }

    #[test]
    fn locks_system_accounts_and_round_trips() {
        let lock = lock(PASSWD, GROUP).unwrap();
        let text = lock.to_string();
        assert!(
            text.contains("\nuser:sshd:991:65534:sshd user:/run/sshd:/usr/sbin/nologin:openssh-server\n"),
            "{text}"
        );
        assert!(text.contains("\ngroup:crontab:997:::::-\n"));
        assert!(!text.contains("alice"));
        assert_eq!(IdLock::parse("ids.lock", &text).unwrap(), lock);
    }

    #[test]
    fn a_number_never_moves() {
        let old = lock(PASSWD, GROUP).unwrap();
        let gone = old
            .merge(&Table::parse("root:x:0:0:root:/root:/bin/bash\n"), &Table::parse("root:x:0:\n"), |_, _| None)
            .unwrap();
        assert_eq!(gone, old, "rows of accounts that are gone stay");
        let moved = old.merge(&Table::parse("sshd:x:990:65534:::\n"), &Table::default(), |_, _| None).unwrap_err();
        assert!(moved.to_string().contains("user sshd had the number 991 and now has 990"), "{moved}");
        let taken = old.merge(&Table::default(), &Table::parse("ssl:x:997:\n"), |_, _| None).unwrap_err();
        assert!(taken.to_string().contains("group ssl has the number 997, which belongs to crontab"), "{taken}");
        assert!(lock("a:x:5:5:::\nb:x:5:5:::\n", "").is_err());
    }

    #[test]
    fn bad_locks_name_file_and_line() {
        for (text, wanted) in [
            ("user:x\n", "l:1: not a row"),
            ("group:a:5:::::-\ngroup:b:5:::::-\n", "l:2: group b has the number 5 of a"),
            ("group:a:5:::::-\ngroup:a:6:::::-\n", "l:2: group a stands there twice"),
            ("# apt-ostree id lock, format 2\n", "newer"),
        ] {
            let error = IdLock::parse("l", text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn sysusers() {
        let lock = lock(PASSWD, GROUP).unwrap();
        let basic = "g crontab 997 -\nu nobody 65534:65534 -\nu! sshd - -\nu daemon 1\n";
        let pinned = pinned_accounts(&lock, basic);
        assert_eq!(pinned.len(), 2, "{pinned:?}");
        assert!(!render_sysusers(&lock, &Table::parse(GROUP), &pinned).contains("crontab"));
        let text = render_sysusers(&lock, &Table::parse(GROUP), &BTreeSet::new());
        assert!(text.contains("\nu sshd 991:65534 \"sshd user\" /run/sshd /usr/sbin/nologin\n"), "{text}");
        assert!(text.contains("\ng crontab 997\n") && text.contains("\nm sshd adm\n"));
        assert!(!text.contains("alice") && !text.contains("root"));
    }
}

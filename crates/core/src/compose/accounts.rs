//! The treefile's `preserve-passwd`, `check-passwd` and `check-groups`: which numbers the accounts of a new tree must have.
//!
//! A machine's files in /var and /etc carry numbers, so an account that goes or changes its number between two commits
//! gives them to nobody or to somebody else. Accounts that are new are no problem.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::assemble::accounts::{self, AccountFiles};
use crate::error::{Context, Error, Result};
use crate::model::accounts::{Group, IDS_LOCK, IdLock, Passwd, Shadow, Table};
use crate::model::treefile::{AccountIds, CheckAccounts, Treefile};
use crate::repo::Repo;

type Numbers = BTreeMap<String, AccountIds>;

/// The accounts that a new tree starts with.
#[derive(Clone, Debug, Default)]
pub struct Seed {
    pub ids: IdLock,
    /// Of the previous commit.
    pub shadow: Table<Shadow>,
    pub gshadow: Table<Shadow>,
}

impl Seed {
    /// Adds them to an `etc` directory. After the essential packages, which have base-passwd, and before the first
    /// package that makes an account of its own.
    pub fn plant(&self, etc: &Path) -> Result<()> {
        let added = accounts::seed(etc, None, &self.ids)?;
        accounts::restore_locked(etc, &added, &self.shadow, &self.gshadow)
    }
}

/// The accounts of the previous commit, and those of the files that `check-passwd` and `check-groups` name: nothing but
/// chance would meet those numbers otherwise.
pub fn seed(treefile: &Treefile, repo: &Repo, previous: Option<&str>) -> Result<Seed> {
    if !treefile.preserve_passwd {
        return Ok(Seed::default());
    }
    let text = |path: &str| -> Result<String> {
        Ok(previous.map(|commit| repo.read_text(commit, path)).transpose()?.flatten().unwrap_or_default())
    };
    let lock = IdLock::parse(IDS_LOCK, &text(IDS_LOCK)?)?;
    let file = |check: &CheckAccounts| match check {
        CheckAccounts::File { filename } => read(filename),
        _ => Ok(String::new()),
    };
    let passwd = Table::<Passwd>::parse(&file(&treefile.check_passwd)?);
    let group = Table::<Group>::parse(&file(&treefile.check_groups)?);
    let ids = lock
        .merge(&passwd, &group, |_, _| None)
        .context(|| "Comparing the previous commit with the treefile's accounts")?;
    let (shadow, gshadow) = (Table::parse(&text("usr/etc/shadow")?), Table::parse(&text("usr/etc/gshadow")?));
    Ok(Seed { ids, shadow, gshadow })
}

/// Compares the finished tree (`usr/etc`) with what the treefile says. An account that is gone or has other numbers is an
/// error that names all of them.
pub fn check(treefile: &Treefile, tree: &Path, repo: &Repo, previous: Option<&str>) -> Result<()> {
    let found = AccountFiles::read(&tree.join("usr/etc"))?;
    let expected = |check: &CheckAccounts, name: &str, numbers: fn(&str) -> Numbers| -> Result<Numbers> {
        Ok(match (check, previous) {
            (CheckAccounts::Previous, Some(commit)) => {
                numbers(&repo.read_text(commit, &format!("usr/etc/{name}"))?.unwrap_or_default())
            }
            (CheckAccounts::None, _) | (CheckAccounts::Previous, None) => Numbers::new(),
            (CheckAccounts::File { filename }, _) => numbers(&read(filename)?),
            (CheckAccounts::Data { entries }, _) => entries.clone(),
        })
    };
    let users = expected(&treefile.check_passwd, "passwd", users)?;
    let groups = expected(&treefile.check_groups, "group", groups)?;
    let mut problems = differences("user", &users, &users_of(&found.passwd), &treefile.ignore_removed_users);
    problems.extend(differences("group", &groups, &groups_of(&found.group), &treefile.ignore_removed_groups));
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("Accounts are not as check-passwd and check-groups want them: {}", problems.join("; ")))
        .hint("Files on machines carry the old numbers. List accounts that may go in ignore-removed-users and ignore-removed-groups."))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).context(|| format!("Reading {}", path.display()))
}

fn users(text: &str) -> Numbers {
    users_of(&Table::parse(text))
}

fn groups(text: &str) -> Numbers {
    groups_of(&Table::parse(text))
}

/// The first record of a name is the one the C library finds.
fn users_of(table: &Table<Passwd>) -> Numbers {
    let mut numbers = Numbers::new();
    for user in table.iter() {
        numbers.entry(user.name.clone()).or_insert(AccountIds::UidGid(user.uid, user.gid));
    }
    numbers
}

fn groups_of(table: &Table<Group>) -> Numbers {
    let mut numbers = Numbers::new();
    for group in table.iter() {
        numbers.entry(group.name.clone()).or_insert(AccountIds::One(group.gid));
    }
    numbers
}

fn differences(kind: &str, expected: &Numbers, found: &Numbers, may_go: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, wanted) in expected {
        match (found.get(name), wanted) {
            (None, _) if may_go.iter().any(|n| n == name || n == "*") => {}
            (None, _) => problems.push(format!("{kind} {name} is gone")),
            (Some(AccountIds::UidGid(uid, _)), AccountIds::One(id)) if uid == id => {}
            (Some(ids), wanted) if ids == wanted => {}
            (Some(ids), wanted) => problems.push(format!("{kind} {name} has {} and not {}", text(*ids), text(*wanted))),
        }
    }
    problems
}

fn text(ids: AccountIds) -> String {
    match ids {
        AccountIds::One(id) => id.to_string(),
        AccountIds::UidGid(uid, gid) => format!("{uid}:{gid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_and_what_moved() {
        let old =
            users("root:x:0:0::/root:/bin/sh\na:x:101:1::/:/bin/sh\nb:x:102:2::/:/bin/sh\nc:x:103:3::/:/bin/sh\n");
        let new =
            users("root:x:0:0::/root:/bin/sh\nb:x:102:4::/:/bin/sh\nc:x:103:3::/:/bin/sh\nnew:x:9:9::/:/bin/sh\n");
        let all = differences("user", &old, &new, &[]);
        assert_eq!(all, ["user a is gone", "user b has 102:4 and not 102:2"]);
        for ignored in ["a", "*"] {
            assert_eq!(differences("user", &old, &new, &[ignored.to_owned()]).len(), 1);
        }
        let data = |id| BTreeMap::from([("c".to_owned(), id)]);
        assert!(differences("user", &data(AccountIds::One(103)), &new, &[]).is_empty());
        assert_eq!(differences("user", &data(AccountIds::One(3)), &new, &[]), ["user c has 103:3 and not 3"]);
        let gone = groups("adm:x:4:\n");
        assert_eq!(differences("group", &gone, &groups("adm:x:5:\n"), &[]), ["group adm has 5 and not 4"]);
    }
}

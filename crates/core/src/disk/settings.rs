//! What makes a machine of an image: its file systems, its name, and who may log in. Written into the `/etc` of the first
//! deployment, as an administrator would; libostree's merge carries it along from there.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::assemble::runner::Runner;
use crate::error::{Context, Error, Result};
use crate::event::EventSink;
use crate::sandbox::{Bind, Sandbox};

/// A person who may log in and become root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    /// Public keys for ssh, the content of files like `id_ed25519.pub`.
    pub keys: Vec<String>,
    /// As crypt(5) has it; without one the account has no password, and sudo asks for none.
    pub password_hash: Option<String>,
}

/// The settings of one image.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    /// The deployment.
    pub(crate) tree: &'a Path,
    /// /var of its stateroot.
    pub(crate) var: &'a Path,
    pub(crate) boot_uuid: &'a str,
    pub(crate) hostname: Option<&'a str>,
    pub(crate) user: Option<&'a User>,
}

/// A name that useradd of Debian takes.
pub fn valid_user_name(name: &str) -> bool {
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-".contains(&c);
    name.len() <= 32
        && name.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c == b'_')
        && name.bytes().all(rest)
}

/// hostname(5): labels of letters, digits and hyphens, 64 characters in all.
pub fn valid_hostname(name: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    name.len() <= 64 && name.split('.').all(label)
}

impl Settings<'_> {
    pub(crate) fn write(&self, sandbox: &dyn Sandbox, events: &dyn EventSink) -> Result<()> {
        let etc = self.tree.join("etc");
        // What the image's author mounts stays.
        let mut text = std::fs::read_to_string(etc.join("fstab")).unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        if text.lines().any(|l| !l.trim_start().starts_with('#') && l.split_whitespace().nth(1) == Some("/boot")) {
            return Err(Error::usage("The image has an /etc/fstab that mounts /boot")
                .hint("Take that line out of the image: the disk has a file system of its own for /boot."));
        }
        text.push_str(&format!(
            "# libostree mounts / and /var. /boot must be mounted, or no change of the deployments is possible.\n\
             UUID={} /boot ext4 defaults 0 2\n",
            self.boot_uuid
        ));
        std::fs::write(etc.join("fstab"), text).context(|| "Writing fstab")?;
        if let Some(name) = self.hostname {
            std::fs::write(etc.join("hostname"), format!("{name}\n")).context(|| "Writing the host name")?;
        }
        match self.user {
            Some(user) => self.add_user(user, sandbox, events).context(|| format!("Adding the user {}", user.name)),
            None => Ok(()),
        }
    }

    /// With the tree's own useradd, which knows its defaults.
    fn add_user(&self, user: &User, sandbox: &dyn Sandbox, events: &dyn EventSink) -> Result<()> {
        let etc = self.tree.join("etc");
        // What systemd-tmpfiles would make at the first boot: the home is made before.
        let homes = self.var.join("home");
        std::fs::create_dir_all(&homes)?;
        std::fs::set_permissions(&homes, std::fs::Permissions::from_mode(0o755))?;
        let binds = [Bind { source: self.var.to_owned(), target: "/var".into(), read_only: false }];
        let runner = Runner { sandbox, root: self.tree, binds: &binds, events };
        let home = format!("/var/home/{}", user.name);
        let mut argv = vec!["useradd", "--create-home", "--home-dir", &home];
        let shell = if self.tree.join("usr/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        argv.extend(["--shell", shell]);
        let groups = std::fs::read_to_string(etc.join("group")).context(|| "Reading the groups of the tree")?;
        let sudo = groups.lines().any(|l| l.starts_with("sudo:"));
        if sudo {
            argv.extend(["--groups", "sudo"]);
        }
        if let Some(hash) = &user.password_hash {
            argv.extend(["--password", hash]);
        }
        argv.push(&user.name);
        runner.check("useradd", &argv, &[])?;
        for name in ["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-", ".pwd.lock"] {
            let _ = std::fs::remove_file(etc.join(name));
        }
        if user.password_hash.is_none() && sudo && etc.join("sudoers.d").is_dir() {
            let path = etc.join("sudoers.d").join(format!("50-{}", user.name));
            let text =
                format!("# The account has no password to ask for.\n{} ALL=(ALL:ALL) NOPASSWD: ALL\n", user.name);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o440))?;
        }
        if user.keys.is_empty() {
            return Ok(());
        }
        let (uid, gid) = ids(&etc, &user.name)?;
        let ssh: PathBuf = homes.join(&user.name).join(".ssh");
        std::fs::create_dir_all(&ssh)?;
        let keys = ssh.join("authorized_keys");
        let lines: Vec<&str> = user.keys.iter().map(|key| key.trim()).collect();
        std::fs::write(&keys, lines.join("\n") + "\n")?;
        for (path, mode) in [(&ssh, 0o700), (&keys, 0o600)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            chown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

/// Number of a user and of its group, from passwd(5).
fn ids(etc: &Path, name: &str) -> Result<(u32, u32)> {
    let text = std::fs::read_to_string(etc.join("passwd")).context(|| "Reading the accounts of the tree")?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    });
    found.ok_or_else(|| Error::failed(format!("useradd made no account '{name}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_machines_and_people() {
        for good in ["a", "host-1", "host.example.org", "A1"] {
            assert!(valid_hostname(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a b", "a_b", &"x".repeat(65)] {
            assert!(!valid_hostname(bad), "{bad}");
        }
        assert!(valid_user_name("me") && valid_user_name("_a-1"));
        for bad in ["", "1a", "A", "a b", "a:b", "-a", &"x".repeat(33)] {
            assert!(!valid_user_name(bad), "{bad}");
        }
    }
}

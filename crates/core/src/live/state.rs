//! What is live, and what is on its way.
//!
//! The top mount on `/usr` has its commit in its name, and that is the truth. The refs and the stamp are rpm-ostree's, for
//! others that read them and to keep the commits from being pruned: `rpmostree/live-apply`,
//! `rpmostree/live-apply-inprogress`, and `/run/ostree/deployment-state/COMMIT.SERIAL/rpmostree-is-live.stamp`, without
//! which the refs are those of an earlier boot. In it are the commits whose defaults `/etc` may have, a line each.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::mounts;
use crate::error::{Context, Result};
use crate::repo::Repo;
use crate::sysroot::{Deployment, Sysroot};

const LIVE: &str = "rpmostree/live-apply";
const IN_PROGRESS: &str = "rpmostree/live-apply-inprogress";
const STAMP: &str = "rpmostree-is-live.stamp";

/// The live state of the booted deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveState {
    /// The commit that `/usr` shows; `None`: the booted one.
    pub commit: Option<String>,
    /// The commit that an interrupted run was about to switch to.
    pub in_progress: Option<String>,
    /// Commits whose defaults `/etc` may have, besides: an interrupted run leaves some files at one and some at another.
    pub known: BTreeSet<String>,
}

impl LiveState {
    /// Of a deployment; empty unless it is the booted one. Needs no root.
    pub fn read(sysroot: &Sysroot, deployment: &Deployment) -> Result<Self> {
        if !deployment.booted {
            return Ok(Self::default());
        }
        let commit = mounts::live_commit(&mounts::of_the_system()?);
        let Ok(stamp) = fs::read_to_string(stamp(sysroot, deployment)) else {
            return Ok(Self { commit, ..Self::default() });
        };
        let repo = sysroot.repo();
        let mut known = BTreeSet::new();
        for line in stamp.lines() {
            // One that was pruned cannot be compared with any more.
            if repo.has_commit(line)? {
                known.insert(line.to_owned());
            }
        }
        Ok(Self { commit, in_progress: repo.try_resolve(IN_PROGRESS)?, known })
    }

    /// Says what is about to happen, or has happened.
    pub fn write(&self, sysroot: &Sysroot, deployment: &Deployment) -> Result<()> {
        let repo = sysroot.repo();
        let stamp = stamp(sysroot, deployment);
        let write_stamp = || -> Result<()> {
            if let Some(parent) = stamp.parent() {
                fs::create_dir_all(parent)?;
            }
            let aside = stamp.with_extension("new");
            fs::write(&aside, self.known.iter().fold(String::new(), |text, commit| text + commit + "\n"))?;
            Ok(fs::rename(&aside, &stamp)?)
        };
        write_stamp().context(|| format!("Writing {}", stamp.display()))?;
        set(&repo, LIVE, self.commit.as_deref())?;
        set(&repo, IN_PROGRESS, self.in_progress.as_deref())
    }
}

/// Drops what live changes of an earlier boot left: refs, which would keep their commits for ever, and layers. Within
/// one boot the layers stay, also after a reset: trees that are covered by now may still be in use.
pub fn forget_earlier(sysroot: &Sysroot) -> Result<()> {
    let booted = sysroot.deployments().into_iter().find(|d| d.booted);
    if booted.is_some_and(|booted| stamp(sysroot, &booted).exists()) {
        return Ok(());
    }
    let repo = sysroot.repo();
    set(&repo, LIVE, None)?;
    set(&repo, IN_PROGRESS, None)?;
    super::layer::remove_all(&repo)
}

fn set(repo: &Repo, name: &str, commit: Option<&str>) -> Result<()> {
    // libostree refuses to drop a ref that is not there.
    if commit.is_none() && repo.try_resolve(name)?.is_none() {
        return Ok(());
    }
    repo.set_ref(name, commit)
}

/// libostree keeps what is true until the next boot in there, by deployment.
fn stamp(sysroot: &Sysroot, deployment: &Deployment) -> PathBuf {
    sysroot.path().join("run/ostree/deployment-state").join(deployment.name()).join(STAMP)
}

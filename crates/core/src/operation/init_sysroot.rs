//! `init-sysroot`: from an empty directory to a first deployment, as `ostree admin init-fs`, `stateroot-init`,
//! `remote add`, `pull` and `deploy` would.

use std::path::Path;

use super::{InitSysroot, Report};
use crate::error::{Context, Error, Result};
use crate::event::EventSink;
use crate::model::image_kargs;
use crate::model::origin::Origin;
use crate::sysroot::Sysroot;
use crate::sysroot::deploy::NewDeployment;

pub fn execute(path: &Path, stateroot: &str, init: &InitSysroot, events: &dyn EventSink) -> Result<Report> {
    if path.join("ostree/repo").exists() {
        return Err(Error::usage(format!("{} is an OSTree sysroot already", path.display()))
            .hint("Use rebase or upgrade on it, or choose an empty directory."));
    }
    let fresh = !path.exists();
    std::fs::create_dir_all(path).context(|| format!("Creating {}", path.display()))?;
    let result = populate(path, stateroot, init, events);
    if result.is_err() {
        // What is left would be half a sysroot that the next run refuses.
        for name in ["ostree", "boot"] {
            let _ = crate::repo::remove_tree(&path.join(name));
        }
        if fresh {
            let _ = std::fs::remove_dir(path);
        }
    }
    result
}

fn populate(path: &Path, stateroot: &str, init: &InitSysroot, events: &dyn EventSink) -> Result<Report> {
    std::fs::create_dir_all(path.join("boot"))?;
    let sysroot = Sysroot::create(path, stateroot, init.grub)?;
    let repo = sysroot.repo();
    repo.set_option("sysroot", "readonly", "true")?;
    if let Some((name, url)) = &init.remote {
        repo.set_remote(name, url, !init.no_gpg_verify, &init.gpg_keys)?;
    }
    let origin = Origin::for_refspec(&init.refspec);
    let commit = match (&init.pull_local, origin.remote_and_branch()) {
        (Some(source), Some((None, branch))) => repo.pull_local(source, branch, events)?,
        // What the remote has, from nearer by.
        (Some(source), Some((Some(remote), branch))) if repo.has_remote(remote) => {
            let commit = repo.pull_local(source, branch, events)?;
            repo.move_ref_to_remote(remote, branch, &commit)?;
            commit
        }
        (Some(_), _) => {
            return Err(Error::usage(
                "With a local repository the refspec is a branch, without a remote or with that of --remote",
            ));
        }
        (None, Some((Some(remote), branch))) => repo.pull(remote, branch, None, events)?,
        (None, _) => {
            return Err(
                Error::usage(format!("'{}' names no remote to pull from", init.refspec)).hint("Write REMOTE:BRANCH.")
            );
        }
    };
    let kernel_arguments = image_kargs::merge(&init.kargs, &[], &repo.image_kargs(&commit)?);
    let new = NewDeployment {
        stateroot,
        commit: &commit,
        origin: &origin,
        kernel_arguments: Some(kernel_arguments),
        locked: false,
    };
    sysroot.deploy(&new, events)?;
    sysroot.clean_up()?;
    Ok(Report { changed: true, ..Report::default() })
}

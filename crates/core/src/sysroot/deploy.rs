//! Writing deployments: stage or deploy a commit, reorder, drop, clean up.

use std::io::{Seek, Write};
use std::os::fd::AsRawFd;

use ostree::SysrootSimpleWriteDeploymentFlags as WriteFlags;
use ostree::gio;

use super::{Deployment, Sysroot, bootloader, initramfs_etc, keyfile};
use crate::error::{Context, Error, Result};
use crate::event::{EventSink, EventSinkExt};
use crate::model::image_kargs;
use crate::model::origin::Origin;

/// A deployment to be made.
#[derive(Debug)]
pub struct NewDeployment<'a> {
    pub stateroot: &'a str,
    pub commit: &'a str,
    pub origin: &'a Origin,
    /// Kernel arguments; `None` carries those of the pending deployment over, with what the image changes about them.
    pub kernel_arguments: Option<Vec<String>>,
    /// Staged: only applied after `finalize-deployment`.
    pub locked: bool,
}

impl Sysroot {
    /// Stages the commit when booted from this sysroot, deploys it at once otherwise. True when it was staged.
    pub fn deploy(&self, new: &NewDeployment<'_>, events: &dyn EventSink) -> Result<bool> {
        let merge = self.merge_deployment(new.stateroot);
        // A pin belongs to one deployment; inherited, every later one would stay for ever. libostree's own function for that
        // would take the chosen commit along.
        let mut origin = new.origin.clone();
        origin.pinned = false;
        let origin = keyfile(&origin)?;
        // So does a hotfix; the key is libostree's, and need not be there.
        let _ = origin.remove_key("origin", "unlocked");
        let arguments = match &new.kernel_arguments {
            Some(arguments) => arguments.clone(),
            None => self.carried_arguments(new.stateroot, new.commit)?,
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let tracked = self.stage_tracked_files(new.origin, merge.as_ref())?;
        let tracked: Vec<&str> = tracked.iter().map(String::as_str).collect();
        let options = ostree::SysrootDeployTreeOpts {
            locked: new.locked,
            override_kernel_argv: Some(&arguments),
            overlay_initrds: (!tracked.is_empty()).then_some(&tracked[..]),
        };
        let merge = merge.as_ref().map(|m| &m.inner);
        if self.is_booted() {
            events.task("Staging deployment", || {
                self.inner
                    .stage_tree_with_options(
                        Some(new.stateroot),
                        new.commit,
                        Some(&origin),
                        merge,
                        &options,
                        gio::Cancellable::NONE,
                    )
                    .context(|| format!("Staging {}", new.commit))
            })?;
            return Ok(true);
        }
        events.task("Writing deployment", || {
            let deployment = self
                .inner
                .deploy_tree_with_options(
                    Some(new.stateroot),
                    new.commit,
                    Some(&origin),
                    merge,
                    Some(&options),
                    gio::Cancellable::NONE,
                )
                .context(|| format!("Deploying {}", new.commit))?;
            self.inner
                .simple_write_deployment(
                    Some(new.stateroot),
                    &deployment,
                    merge,
                    WriteFlags::NO_CLEAN,
                    gio::Cancellable::NONE,
                )
                .context(|| "Writing the boot configuration")
        })?;
        bootloader::refresh_menu(&self.path)?;
        Ok(false)
    }

    /// The arguments of the deployment that `commit` takes the place of, with those that its image brought replaced by those
    /// that `commit` brings. Not of the merge deployment: `kargs` and then `install` give both.
    fn carried_arguments(&self, stateroot: &str, commit: &str) -> Result<Vec<String>> {
        let repo = self.repo();
        let (current, old) = match self.pending(stateroot) {
            Ok(pending) => (pending.kernel_arguments(), repo.image_kargs(&pending.checksum())?),
            Err(_) => (Vec::new(), Vec::new()),
        };
        Ok(image_kargs::merge(&current, &old, &repo.image_kargs(commit)?))
    }

    /// Locks the staged deployment against finalization at shutdown, or unlocks it.
    pub fn toggle_finalization(&self, staged: &Deployment) -> Result<()> {
        self.inner.change_finalization(&staged.inner).context(|| "Changing the finalization of the staged deployment")
    }

    /// Hands the files that the origin tracks to libostree, as they are in the machine's /etc now. The name that it gives.
    fn stage_tracked_files(&self, origin: &Origin, merge: Option<&Deployment>) -> Result<Option<String>> {
        let Some(merge) = merge.filter(|_| !origin.initramfs_etc.is_empty()) else { return Ok(None) };
        let archive = initramfs_etc::archive(&self.directory(merge).join("etc"), &origin.initramfs_etc)?;
        let mut file = tempfile::tempfile().context(|| "Making the initramfs of tracked files")?;
        file.write_all(&archive).context(|| "Writing the initramfs of tracked files")?;
        file.rewind()?;
        let name = self
            .inner
            .stage_overlay_initrd(file.as_raw_fd(), gio::Cancellable::NONE)
            .context(|| "Staging the initramfs of tracked files")?;
        Ok(Some(name.into()))
    }

    /// Writes this list of deployments, in this order.
    pub fn write_deployments(&self, list: &[Deployment]) -> Result<()> {
        let inner: Vec<ostree::Deployment> = list.iter().map(|d| d.inner.clone()).collect();
        let options = ostree::SysrootWriteDeploymentsOpts { do_postclean: false };
        self.inner
            .write_deployments_with_options(&inner, &options, gio::Cancellable::NONE)
            .context(|| "Writing the boot configuration")?;
        bootloader::refresh_menu(&self.path)
    }

    /// Removes directories and boot files of deployments that are no longer in the list; the repository stays as it is.
    pub fn clean_up_deployments(&self) -> Result<()> {
        self.inner.prepare_cleanup(gio::Cancellable::NONE).context(|| "Cleaning up deployments")
    }

    /// Removes what no deployment and no ref uses: deployment directories, boot files, base checkouts, local
    /// packages, objects. Returns the bytes that the repository no longer holds.
    pub fn clean_up(&self) -> Result<u64> {
        self.inner.load_if_changed(gio::Cancellable::NONE)?;
        crate::live::state::forget_earlier(self)?;
        let repo = self.repo();
        let mut bases = Vec::new();
        let mut layered = Vec::new();
        // An origin that cannot be read may ask for any of them.
        let mut local = Some(Vec::new());
        for deployment in self.deployments() {
            match (&mut local, deployment.origin()) {
                (Some(list), Ok(origin)) => {
                    let packages = origin.requested_local.into_iter().chain(origin.override_replace_local);
                    list.extend(packages.map(|package| package.sha256));
                }
                _ => local = None,
            }
            let info = repo.info(&deployment.checksum())?;
            if info.layered {
                layered.push(info.base().to_owned());
            }
            bases.push(info.base().to_owned());
        }
        repo.set_base_refs(&layered)?;
        repo.clean_extension(&bases, local.as_deref())?;
        self.clean_up_deployments()?;
        let (_, _, freed) = repo
            .inner
            .prune(ostree::RepoPruneFlags::REFS_ONLY, 0, gio::Cancellable::NONE)
            .context(|| "Pruning the repository")?;
        Ok(freed)
    }

    /// The deployment `index` in boot order.
    pub fn deployment_at(&self, index: usize) -> Result<Deployment> {
        let all = self.deployments();
        let count = all.len();
        all.into_iter().nth(index).ok_or_else(|| {
            Error::usage(format!("Out of range deployment index {index}"))
                .hint(format!("There are {count} deployments, counted from 0."))
        })
    }
}

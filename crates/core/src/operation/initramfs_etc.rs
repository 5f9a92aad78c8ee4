//! `initramfs-etc`: files of the machine's /etc that its initramfs has as well.
//!
//! They are no part of the tree: every deployment gets them as an initramfs of their own beside the kernel's (see
//! [`initramfs_etc`]), with the content that they have when the deployment is made.

use super::transaction::Transaction;
use super::{InitramfsEtcChange, Report};
use crate::error::{Error, ErrorKind, Result};
use crate::sysroot::deploy::NewDeployment;
use crate::sysroot::initramfs_etc;

pub fn execute(transaction: &mut Transaction<'_>, change: &InitramfsEtcChange) -> Result<Report> {
    let pending = transaction.pending()?;
    let mut origin = pending.origin()?;
    let before = origin.initramfs_etc.clone();
    if change.untrack_all {
        origin.initramfs_etc.clear();
    }
    for file in &change.untrack {
        origin.initramfs_etc.retain(|f| *f != initramfs_etc::plain(file));
    }
    for file in &change.track {
        let file = initramfs_etc::plain(file).to_owned();
        initramfs_etc::check(&file)?;
        let there = transaction.machine_etc().map(|etc| etc.join(&file["/etc/".len()..]));
        if there.is_none_or(|path| path.symlink_metadata().is_err()) {
            return Err(Error::new(ErrorKind::NotFound, format!("There is no {file} to track"))
                .hint("Only files that exist in the machine's /etc can be tracked."));
        }
        origin.initramfs_etc.push(file);
    }
    origin.normalise();
    if origin.initramfs_etc == before && !change.force_sync {
        return Ok(Report { lines: vec!["No changes.".into()], ..Report::default() });
    }
    let new = NewDeployment {
        stateroot: &transaction.stateroot,
        commit: &pending.checksum(),
        origin: &origin,
        kernel_arguments: Some(pending.kernel_arguments()),
        locked: transaction.options.lock_finalization,
    };
    let staged = transaction.sysroot.deploy(&new, transaction.ports.events)?;
    transaction.sysroot.clean_up()?;
    Ok(Report { changed: true, staged, ..Report::default() })
}

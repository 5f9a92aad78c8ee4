//! `initramfs --enable|--disable`: an initramfs of this machine's own instead of the image's.

use super::transaction::Transaction;
use super::{InitramfsChange, PackageChanges, Report};
use crate::error::{Error, Result};

pub fn execute(transaction: &mut Transaction<'_>, change: &InitramfsChange) -> Result<Report> {
    let pending = transaction.pending()?;
    let mut origin = pending.origin()?;
    let state = if change.enable { "enabled" } else { "disabled" };
    // Arguments are not compared: who gives some wants them used.
    if origin.regenerate_initramfs == change.enable && origin.initramfs_args.is_empty() && change.args.is_empty() {
        return Err(Error::usage(format!("initramfs regeneration state is already {state}")));
    }
    origin.regenerate_initramfs = change.enable;
    origin.initramfs_args.clone_from(&change.args);
    let base = transaction.base_of(&pending)?;
    let mut report = transaction.make_deployment(&origin, &base.checksum, &PackageChanges::default(), false)?;
    report.lines.push(format!("Initramfs regeneration is now: {state}"));
    if !change.enable {
        report.lines.push("Initramfs will be reset to default on next reboot.".into());
    }
    Ok(report)
}

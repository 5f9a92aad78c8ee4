//! `reset`: back to what the image is, or to a part of it. Offline, unless something is installed at the same time.

use super::transaction::Transaction;
use super::{Report, Reset, overrides};
use crate::error::Result;
use crate::model::origin::Origin;

pub fn execute(transaction: &mut Transaction<'_>, reset: &Reset) -> Result<Report> {
    let pending = transaction.pending()?;
    let mut origin = pending.origin()?;
    clear(&mut origin, reset);
    transaction.change_requests(&mut origin, &reset.packages)?;
    origin.normalise();
    let base = transaction.base_of(&pending)?;
    let mut report = transaction.make_deployment(&origin, &base.checksum, &reset.packages, false)?;
    if !report.changed && report.lines.is_empty() {
        report.lines.push("No change.".into());
    }
    Ok(report)
}

/// None of the parts named means all of them.
fn clear(origin: &mut Origin, reset: &Reset) {
    let all = !(reset.overlays || reset.overrides || reset.initramfs);
    if all || reset.overlays {
        origin.requested.clear();
        origin.requested_local.clear();
    }
    if all || reset.overrides {
        overrides::clear(origin);
    }
    if all || reset.initramfs {
        origin.regenerate_initramfs = false;
        origin.initramfs_args.clear();
        origin.initramfs_etc.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bootc refuses to upgrade a deployment whose origin has one of these groups, even an empty one.
    #[test]
    fn no_group_of_requests_is_left() {
        let text = "[origin]\nbaserefspec=a:b\n\n[packages]\nrequested=htop;\n\n[overrides]\nremove=nano;\n\n\
                    [rpmostree]\nregenerate-initramfs=true\ninitramfs-etc=/etc/x;\n\n[libostree-transient]\npinned=true\n";
        let cleared = |reset: &Reset| {
            let mut origin = Origin::parse(text).unwrap();
            clear(&mut origin, reset);
            origin.to_string()
        };
        assert_eq!(cleared(&Reset::default()), "[origin]\nrefspec=a:b\n\n[libostree-transient]\npinned=true\n");
        let overlays = cleared(&Reset { overlays: true, ..Reset::default() });
        assert!(!overlays.contains("[packages]") && overlays.contains("[overrides]"), "{overlays}");
        let two = cleared(&Reset { overrides: true, initramfs: true, ..Reset::default() });
        assert!(two.contains("[packages]") && !two.contains("[overrides]") && !two.contains("[rpmostree]"), "{two}");
    }
}

//! Updates that nobody asks for: which transaction the machine's policy comes to. The timer and the daemon's clients start
//! the same one.

use super::{Options, PackageChanges, Verb};
use crate::error::{Error, Result};
use crate::model::settings::{Settings, UpdatePolicy};

/// What a mode means on a machine: `auto` is its own policy, the others are policies by their names.
pub fn policy(mode: &str, settings: &Settings) -> Result<UpdatePolicy> {
    if mode == "auto" {
        return Ok(settings.update_policy);
    }
    UpdatePolicy::parse(mode).ok_or_else(|| {
        Error::usage(format!("Unknown mode of automatic updates '{mode}'"))
            .hint("It may be auto, none, check, stage or apply.")
    })
}

/// The transaction; `None` where nothing is to be done. A deployment that failed to boot is not made again by it, as by no
/// `upgrade` ([`super::transaction::Transaction::refuse_failed_boots`]); here that is no failure
/// ([`Error::nothing_to_do`]). `apply` also restarts into an update that is staged already ([`super::Report::reboot_due`]).
pub fn transaction(policy: UpdatePolicy) -> Option<(Verb, Options)> {
    let upgrade = |check| Verb::Upgrade {
        changes: PackageChanges::default(),
        allow_downgrade: false,
        allow_failed: false,
        check,
        preview: false,
    };
    let options = Options::default();
    match policy {
        UpdatePolicy::None => None,
        UpdatePolicy::Check => Some((upgrade(true), options)),
        UpdatePolicy::Stage => Some((upgrade(false), options)),
        UpdatePolicy::Apply => Some((upgrade(false), Options { reboot: true, ..options })),
    }
}

/// What such a transaction is called: `automatic (stage)`.
pub fn title(policy: UpdatePolicy) -> String {
    format!("automatic ({policy})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_policies() {
        let settings = Settings { update_policy: UpdatePolicy::Stage, ..Settings::default() };
        assert_eq!(policy("auto", &settings).unwrap(), UpdatePolicy::Stage);
        assert_eq!(policy("check", &settings).unwrap(), UpdatePolicy::Check);
        assert!(policy("sometimes", &settings).is_err());
        let kind = |policy| {
            transaction(policy).map(|(verb, options)| match verb {
                Verb::Upgrade { check, allow_downgrade: false, allow_failed: false, .. } => (check, options.reboot),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(kind(UpdatePolicy::None), None);
        assert_eq!(kind(UpdatePolicy::Check), Some((true, false)));
        assert_eq!(kind(UpdatePolicy::Stage), Some((false, false)));
        assert_eq!(kind(UpdatePolicy::Apply), Some((false, true)));
        assert_eq!(title(UpdatePolicy::Apply), "automatic (apply)");
    }
}

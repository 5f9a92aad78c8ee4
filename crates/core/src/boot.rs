//! Whether a start went well: health checks, what the boot loader keeps count of, and the reports about both.
//!
//! The boot loader's side, the menu with the counting in it, is not here: it only shares the variables of
//! `boot/grub/grubenv` ([`variables`]). docs/boot-verification.md has the whole.

pub mod grubenv;
pub mod health;
pub mod verification;

/// The variables of the GRUB environment block that the loader and this module share. A deployment is named
/// `CHECKSUM.SERIAL` in them.
pub mod variables {
    /// The deployment that was found good last. The loader counts nothing where it is not set.
    pub const GOOD: &str = "apt_ostree_good";
    /// The deployment on trial.
    pub const TRIAL: &str = "apt_ostree_trial";
    /// The tries that the one on trial has left.
    pub const LEFT: &str = "apt_ostree_left";
    /// How many tries one gets.
    pub const TRIES: &str = "apt_ostree_tries";
    /// The deployment that the loader gave up.
    pub const FAILED: &str = "apt_ostree_failed";
}

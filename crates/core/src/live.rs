//! Changes on the running system: another commit's `/usr` in place of the booted one, until the next boot.
//!
//! rpm-ostree copies changed files into a writable overlay one after the other. Here the whole tree is switched at once: a
//! read-only overlay mount of what differs ([`layer`]) over the booted deployment's `/usr` is prepared aside and moved
//! onto `/usr` ([`mounts`]). A process that looks a file up finds the old tree or the new one, never half of one, and
//! there is no moment at which a kill would leave anything else. What is open stays open: the old tree goes on below.
//!
//! `/etc` follows by a three-way merge ([`etc`]), file by file, each by rename. The mount itself says what is live
//! ([`state`]), so nothing can be out of step with it, and it is gone with the next boot.
//!
//! On disk: `REPO/extensions/apt-ostree/live/COMMIT/usr`, the difference from the booted commit to COMMIT as an
//! overlay's layer, hard links to the repository's objects; `/run/apt-ostree/live`, where mounts are prepared. Writers hold
//! the lock of the sysroot.

pub mod etc;
pub mod layer;
pub mod mounts;
pub mod state;

/// Never switched: the running kernel's modules have to stay, and another kernel starts with a boot only.
pub const KERNEL: &str = "usr/lib/modules";

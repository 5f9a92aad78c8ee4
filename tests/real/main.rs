//! The real tier: the program on real sysroots, with real Debian packages and a signed archive of small ones.
//!
//! Runs as root where `scripts/devroot run` puts it. Two versions of a minimal Debian base are composed once per build
//! of the program (`bases`); every test has a sysroot of its own.

mod accounts;
mod bad_input;
mod bases;
mod boot;
mod booted;
mod bus;
mod clients;
mod compose;
mod container;
mod faults;
mod image;
mod initramfs;
mod interrupt;
mod layering;
mod live;
mod oracle;
mod overrides;
mod packaging;
mod queries;
mod questions;
mod rpm_ostree;
mod running;
mod service;
mod stories;
mod trees;
mod upgrade;
mod vm;
mod world;

#![allow(dead_code)]
//! What takes long in a virtual machine: every firmware, boot counting, other file systems, power cuts.
//!
//! Runs as root where `scripts/devroot run` puts it (`make check-vm`), on the bases of the real tier.

#[path = "../real/bases.rs"]
mod bases;
#[path = "../real/image.rs"]
mod image;
#[path = "../real/world.rs"]
mod world;

mod cuts;
mod firmware;

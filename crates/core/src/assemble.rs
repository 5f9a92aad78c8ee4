//! From a base tree and a set of packages to the tree of a deployment: one pipeline for layering and compose.
//!
//! lower tree + scratch layer → overlay → sandbox → one dpkg run → classification of what changed → commit of the
//! difference. The base is never written to; nothing is visible before the commit is whole.

pub mod accounts;
pub mod dpkg;
pub mod kernel;
pub mod layer;
pub mod layer_kernel;
pub mod order;
pub mod overlay;
pub mod quirks;
pub mod runner;
pub mod state;
pub mod tree;

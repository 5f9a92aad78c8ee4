//! Composing a base commit from a treefile: from an empty directory to a tree that libostree deploys.

pub mod accounts;
pub mod bootstrap;
pub mod input;
pub mod postprocess;

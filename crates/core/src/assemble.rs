//! From packages to a tree: the one pipeline for layering and for compose.

pub mod accounts;
pub mod quirks;
pub mod state;

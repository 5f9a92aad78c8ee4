//! Composing a base commit from a treefile.

pub mod input;

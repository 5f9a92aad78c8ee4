//! The engine of apt-ostree: model, plan, assemble, commit, deploy.
//!
//! It prints nothing, reads no argv and no environment, and assumes no `/`: the sysroot is a parameter everywhere.

pub mod advisories;
pub mod assemble;
pub mod boot;
pub mod cached_update;
pub mod catalog;
pub mod changelog;
pub mod completion;
pub mod compose;
pub mod db;
pub mod digest;
pub mod disk;
pub mod error;
pub mod event;
pub mod last_transaction;
pub mod live;
pub mod model;
pub mod namespace;
pub mod operation;
pub mod plan;
pub mod query;
mod record;
pub mod repo;
pub mod sandbox;
pub mod settings;
pub mod source;
pub mod status;
pub mod sysroot;
pub mod update_driver;
pub mod warnings;

pub use error::{Context, Error, ErrorKind, Result, ScriptFailure};

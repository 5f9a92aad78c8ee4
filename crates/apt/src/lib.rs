//! libapt as the [`PackageSource`] of the engine: pins, signatures, solver and downloads are apt's own.
//!
//! Owns: the configuration that libapt runs under, `lists/`, `cache/`, `archives/` and `etc/` below
//! [`SourceConfig::state`], and the translation of requests and results. Never touches the tree that is built, never runs
//! dpkg on it, and takes nothing from the host but how the network is reached (`Acquire::*` and `auth.conf`).
//!
//! Limits, all because libapt keeps them in globals:
//! - One operation at a time in a process; a lock in here makes a second one wait. Every operation configures libapt
//!   from the start, so that one process may serve several roots one after the other.
//! - The list of architectures is read once. A configuration with other ones than the first is refused: start a new
//!   process for it (the worker is one per transaction anyway).
//! - libapt forks its download methods; they end with the operation.

use apt_ostree_core::Result;
use apt_ostree_core::catalog::{KnownPackage, PackageCatalog, PackageRecord};
use apt_ostree_core::event::EventSink;
use apt_ostree_core::model::package::PackageId;
use apt_ostree_core::source::{PackageSource, Solution, SolveTask, SourceConfig};

mod catalog;
mod explain;
mod fetch;
mod refresh;
mod release;
mod requests;
mod session;
mod solve;

/// The package source that is libapt.
#[derive(Clone, Copy, Debug, Default)]
pub struct AptSource;

impl AptSource {
    pub fn new() -> Self {
        Self
    }
}

impl PackageSource for AptSource {
    fn refresh(&mut self, config: &SourceConfig, events: &dyn EventSink) -> Result<()> {
        refresh::refresh(config, events)
    }

    fn has_indexes(&mut self, config: &SourceConfig) -> Result<bool> {
        refresh::has_indexes(config)
    }

    fn solve(&mut self, config: &SourceConfig, task: &SolveTask, events: &dyn EventSink) -> Result<Solution> {
        solve::solve(config, task, events)
    }

    fn fetch(&mut self, config: &SourceConfig, solution: &mut Solution, events: &dyn EventSink) -> Result<()> {
        fetch::fetch(config, solution, events)
    }
}

impl PackageCatalog for AptSource {
    fn packages(
        &mut self,
        config: &SourceConfig,
        wanted: &dyn Fn(&str) -> bool,
        summaries: bool,
    ) -> Result<Vec<KnownPackage>> {
        catalog::packages(config, wanted, summaries)
    }

    fn records(&mut self, config: &SourceConfig, names: &[String]) -> Result<Vec<PackageRecord>> {
        catalog::records(config, names)
    }

    fn providers(&mut self, config: &SourceConfig, name: &str) -> Result<Vec<String>> {
        catalog::providers(config, name)
    }

    fn changelog(&mut self, config: &SourceConfig, package: &PackageId) -> Result<Option<String>> {
        catalog::changelog(config, package)
    }
}

//! `cleanup`: drop temporary files, the pending or rollback deployment, cached package data.

use super::Report;
use super::transaction::Transaction;
use crate::error::{Error, Result};
use crate::model::size::human_size;

/// The elements to clean.
#[derive(Clone, Copy, Debug)]
pub struct Cleanup {
    pub base: bool,
    pub pending: bool,
    pub rollback: bool,
    pub repomd: bool,
}

pub fn execute(transaction: &mut Transaction<'_>, what: Cleanup) -> Result<Report> {
    if !(what.base || what.pending || what.rollback || what.repomd) {
        return Err(Error::usage("At least one cleanup option must be specified"));
    }
    let mut report = Report::default();
    if what.repomd {
        for name in ["lists", "cache", "archives"] {
            crate::repo::remove_tree(&transaction.repo.extension("apt")?.join(name))?;
        }
    }
    if what.pending || what.rollback {
        let all = transaction.sysroot.deployments();
        // With nothing booted from here, the first deployment is what runs next: it counts as the booted one.
        let mine: Vec<_> = all.iter().filter(|d| d.stateroot() == transaction.stateroot).collect();
        let booted = mine.iter().position(|d| d.booted).unwrap_or(0);
        let dropped: Vec<String> = mine
            .iter()
            .enumerate()
            .filter(|(index, d)| {
                !d.is_pinned() && ((what.pending && *index < booted) || (what.rollback && *index > booted))
            })
            .map(|(_, d)| d.name())
            .collect();
        let left: Vec<_> = all
            .iter()
            .filter(|d| d.stateroot() != transaction.stateroot || !dropped.contains(&d.name()))
            .cloned()
            .collect();
        if left.len() == all.len() {
            report.lines.push("Deployments unchanged.".into());
        } else {
            transaction.sysroot.write_deployments(&left)?;
            report.changed = true;
        }
    }
    let freed = transaction.sysroot.clean_up()?;
    if freed > 0 {
        report.lines.push(format!("Freed: {}", human_size(freed)));
    }
    Ok(report)
}

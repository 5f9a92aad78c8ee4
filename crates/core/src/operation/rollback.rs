//! `rollback`: put the rollback deployment first.

use super::Report;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventSinkExt;
use crate::model::diff::PackageDiff;

pub fn execute(transaction: &mut Transaction<'_>) -> Result<Report> {
    let all = transaction.sysroot.deployments();
    let mine: Vec<_> = all.iter().filter(|d| d.stateroot() == transaction.stateroot).collect();
    if mine.iter().any(|d| d.is_staged()) {
        return Err(Error::usage("Staged deployment (remove with cleanup -p)"));
    }
    // Pending deployments stand before the booted one, rollbacks after it. With neither before the other (nothing is
    // booted from here), the first is what boots next and the second is what to go back to.
    let booted = mine.iter().position(|d| d.booted);
    let target = match booted {
        Some(position) if mine.len() > position + 1 => position + 1,
        // A pending one and no rollback: back to the booted one.
        Some(position) if position > 0 => position,
        None if mine.len() > 1 => 1,
        _ => return Err(Error::new(ErrorKind::NotFound, "No rollback deployment found")),
    };
    let target = mine[target].clone();
    let first = mine[0].clone();
    transaction.ports.events.message(format!("Moving '{}' to be first deployment", target.name()));
    let mut order = vec![target.clone()];
    order.extend(all.iter().filter(|d| d.name() != target.name() || d.stateroot() != target.stateroot()).cloned());
    transaction.sysroot.write_deployments(&order)?;
    let packages = |d: &crate::sysroot::Deployment| transaction.repo.packages(&d.checksum()).unwrap_or_default();
    Ok(Report { changed: true, diff: PackageDiff::between(&packages(&first), &packages(&target)), ..Report::default() })
}

//! `refresh-md`: fetch the package indexes.

use super::Report;
use super::transaction::Transaction;
use crate::error::Result;

pub fn execute(transaction: &mut Transaction<'_>, force: bool) -> Result<Report> {
    if force {
        crate::repo::remove_tree(&transaction.repo.extension("apt")?.join("lists"))?;
    }
    transaction.refresh_indexes()?;
    Ok(Report { changed: true, ..Report::default() })
}

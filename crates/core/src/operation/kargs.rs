//! `kargs`: kernel arguments of the next deployment. A change makes a new deployment of the same commit.

use super::transaction::Transaction;
use super::{KargsChange, Report};
use crate::error::{Context, Error, Result};
use crate::sysroot::deploy::NewDeployment;

pub fn execute(transaction: &mut Transaction<'_>, change: &KargsChange) -> Result<Report> {
    let source = match change.deploy_index {
        Some(index) => transaction.sysroot.deployment_at(index)?,
        None => transaction.pending()?,
    };
    let before = source.kernel_arguments();
    let line = before.join(" ");
    if change.expected.as_ref().is_some_and(|expected| *expected != line) {
        return Err(Error::usage(format!(
            "Conflict: bootloader configuration changed. Saved kernel arguments: {}",
            change.set.clone().unwrap_or_default()
        ))
        .hint("Another change came in between; try again."));
    }
    let start = if change.import_proc_cmdline { proc_cmdline()? } else { line };
    let after = apply(&start, change)?;
    let pending = transaction.pending()?;
    if after == pending.kernel_arguments() || !asks_for_change(change) {
        let lines = if asks_for_change(change) { vec!["No changes.".into()] } else { Vec::new() };
        return Ok(Report { kargs: Some(after.join(" ")), lines, ..Report::default() });
    }
    // Only the arguments are those of another deployment: the tree and the requests stay.
    let origin = pending.origin()?;
    let commit = pending.checksum();
    let new = NewDeployment {
        stateroot: &transaction.stateroot,
        commit: &commit,
        origin: &origin,
        kernel_arguments: Some(after.clone()),
        locked: transaction.options.lock_finalization,
    };
    let staged = transaction.sysroot.deploy(&new, transaction.ports.events)?;
    transaction.sysroot.clean_up()?;
    Ok(Report { changed: true, staged, kargs: Some(after.join(" ")), ..Report::default() })
}

fn asks_for_change(change: &KargsChange) -> bool {
    change.import_proc_cmdline
        || change.set.is_some()
        || [&change.append, &change.replace, &change.delete, &change.append_if_missing, &change.delete_if_present]
            .iter()
            .any(|l| !l.is_empty())
}

fn proc_cmdline() -> Result<String> {
    let arguments = ostree::KernelArgs::new();
    arguments.append_proc_cmdline(ostree::gio::Cancellable::NONE).context(|| "Reading /proc/cmdline")?;
    Ok(join(&arguments))
}

fn join(arguments: &ostree::KernelArgs) -> String {
    arguments.to_strv().iter().map(|a| a.as_str()).collect::<Vec<_>>().join(" ")
}

/// `KEY=NEW`, or `KEY=OLD=NEW` where the key has several values. libostree reads every second `=` as the latter, so
/// that a value with one of its own (`root=UUID=…`) could never be replaced: with a single value there is no doubt.
fn replace(arguments: &ostree::KernelArgs, argument: &str) -> Result<()> {
    let key = argument.split('=').next().unwrap_or_default();
    let same_key = arguments.to_strv().iter().filter(|a| a.split('=').next() == Some(key)).count();
    match arguments.new_replace(argument) {
        Err(_) if same_key == 1 && argument.matches('=').count() > 1 => arguments.replace(argument),
        other => other?,
    }
    Ok(())
}

/// Applies a change to a line, in rpm-ostree's order: delete, replace, append, append-if-missing, delete-if-present.
pub fn apply(line: &str, change: &KargsChange) -> Result<Vec<String>> {
    let all = [&change.append, &change.replace, &change.delete, &change.append_if_missing, &change.delete_if_present];
    for argument in all.into_iter().flatten().chain(change.set.iter().flat_map(|_| &[])) {
        if argument.split('=').next() == Some("ostree") {
            return Err(Error::usage("The kernel argument 'ostree=' belongs to the deployment and cannot be changed"));
        }
        if argument.trim().is_empty() {
            return Err(Error::usage("A kernel argument is empty"));
        }
    }
    let arguments = ostree::KernelArgs::from_string(change.set.as_deref().unwrap_or(line));
    let has = |list: &ostree::KernelArgs, argument: &str| list.to_strv().iter().any(|a| a == argument);
    for argument in &change.delete {
        arguments.delete(argument).context(|| format!("Deleting the kernel argument '{argument}'"))?;
    }
    for argument in &change.replace {
        replace(&arguments, argument).context(|| format!("Replacing the kernel argument '{argument}'"))?;
    }
    for argument in &change.append {
        arguments.append(argument);
    }
    for argument in &change.append_if_missing {
        if !has(&arguments, argument) {
            arguments.append(argument);
        }
    }
    for argument in &change.delete_if_present {
        if has(&arguments, argument) {
            arguments.delete(argument)?;
        }
    }
    // libostree reads an empty line as one empty argument.
    let kept = |a: &String| !a.is_empty() && !a.starts_with("ostree=");
    Ok(arguments.to_strv().iter().map(ToString::to_string).filter(kept).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(line: &str, change: &KargsChange) -> String {
        apply(line, change).unwrap().join(" ")
    }

    #[test]
    fn the_five_operations() {
        let s = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let line = "quiet root=UUID=1 console=tty0 console=ttyS0";
        assert_eq!(changed(line, &KargsChange { append: s(&["a=b"]), ..Default::default() }), format!("{line} a=b"));
        assert_eq!(changed(line, &KargsChange { delete: s(&["quiet"]), ..Default::default() }), &line[6..]);
        assert_eq!(
            changed(line, &KargsChange { replace: s(&["root=UUID=2"]), ..Default::default() }),
            line.replace("UUID=1", "UUID=2")
        );
        assert_eq!(
            changed(line, &KargsChange { replace: s(&["console=tty0=tty1"]), ..Default::default() }),
            line.replace("tty0", "tty1")
        );
        assert_eq!(changed(line, &KargsChange { append_if_missing: s(&["quiet"]), ..Default::default() }), line);
        assert_eq!(changed("", &KargsChange { append: s(&["quiet"]), ..Default::default() }), "quiet");
        assert_eq!(changed(line, &KargsChange { delete_if_present: s(&["nothere"]), ..Default::default() }), line);
    }

    #[test]
    fn refusals() {
        let s = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let line = "console=tty0 console=ttyS0";
        assert!(apply(line, &KargsChange { replace: s(&["console=x"]), ..Default::default() }).is_err(), "ambiguous");
        assert!(apply(line, &KargsChange { delete: s(&["nothere"]), ..Default::default() }).is_err());
        assert!(apply(line, &KargsChange { append: s(&["ostree=/x"]), ..Default::default() }).is_err());
        assert!(apply(line, &KargsChange { append: s(&[""]), ..Default::default() }).is_err());
    }
}

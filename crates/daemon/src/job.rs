//! What a method call asks for: requests of the worker, the actions they need, a title. Made from the dictionaries of the
//! contract (`rpm-ostree-dbus.md` section 3) or from a request of our own client, and checked here: nothing that comes from
//! the bus reaches the worker unseen.
//!
//! A key with a value of the wrong type is an error, a key that is not known is left alone, as in rpm-ostree.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apt_ostree_bus::{Action, Dict};
use apt_ostree_core::operation::{
    ApplyLive, KargsChange, OverrideChange, PackageChanges, Rebase, Request, Reset, Verb,
};
use apt_ostree_core::update_driver::UpdateDriver;
use zbus::zvariant::{Array, Value};

use crate::foreign::{self, Foreign};
use crate::refusal::{Answer, Refusal};

/// Limits of what one caller can make the service remember.
const MAX_TEXT: usize = 4096;
const MAX_ITEMS: usize = 4096;

/// A transaction to be.
#[derive(Debug)]
pub(crate) struct Job {
    /// The method of the contract.
    pub(crate) method: &'static str,
    /// One after the other, each only if the one before succeeded.
    pub(crate) requests: Vec<Request>,
    pub(crate) actions: BTreeSet<Action>,
    pub(crate) title: String,
    /// Package files for the local packages of the requests, in their order.
    pub(crate) files: Vec<Arc<Foreign>>,
    /// `output-to-self`: messages go to the journal only.
    pub(crate) quiet: bool,
    /// Nobody watches it: the timer's, or that of a client that plays the timer.
    pub(crate) automatic: bool,
}

impl Job {
    /// A driver of updates is the unit that calls, whatever the caller says.
    pub(crate) fn set_driver_unit(&mut self, unit: &str) -> Answer<()> {
        for request in &mut self.requests {
            if let Verb::Deploy { driver: Some(driver), .. } = &mut request.verb {
                if unit.is_empty() {
                    return Err(Refusal::failed(format!(
                        "The update driver {} does not run in a systemd unit",
                        driver.name
                    )));
                }
                unit.clone_into(&mut driver.unit);
            }
        }
        Ok(())
    }
}

/// A dictionary of options. What nobody looks at in it may be a hundred times as large as the message that it came in, so it goes
/// with this value before anything is waited for.
pub(crate) struct Given(pub(crate) Dict);

impl Given {
    fn get<'v, T>(&'v self, key: &str, kind: &str) -> Answer<Option<T>>
    where
        T: TryFrom<&'v Value<'static>>,
    {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        T::try_from(value).map(Some).map_err(|_| Refusal::invalid(format!("Option '{key}' is not {kind}")))
    }

    pub(crate) fn truth(&self, key: &str) -> Answer<bool> {
        Ok(self.maybe(key)?.unwrap_or_default())
    }

    pub(crate) fn maybe(&self, key: &str) -> Answer<Option<bool>> {
        self.get::<bool>(key, "a boolean")
    }

    pub(crate) fn text(&self, key: &str) -> Answer<Option<String>> {
        self.get::<&str>(key, "a string")?.map(checked).transpose()
    }

    pub(crate) fn list(&self, key: &str) -> Answer<Vec<String>> {
        let Some(list) = self.get::<&Array<'_>>(key, "a list of strings")? else { return Ok(Vec::new()) };
        let text = |value: &Value<'_>| match value {
            Value::Str(text) => checked(text),
            _ => Err(Refusal::invalid(format!("Option '{key}' is not a list of strings"))),
        };
        let list: Vec<String> = list.iter().map(text).collect::<Answer<_>>()?;
        within(list)
    }

    fn pair(&self, key: &str) -> Answer<Option<(String, String)>> {
        let Some(pair) = self.get::<&zbus::zvariant::Structure<'_>>(key, "a pair of strings")? else { return Ok(None) };
        match pair.fields() {
            [Value::Str(a), Value::Str(b)] => Ok(Some((checked(a)?, checked(b)?))),
            _ => Err(Refusal::invalid(format!("Option '{key}' is not a pair of strings"))),
        }
    }

    fn files(&self, key: &str) -> Answer<Vec<Arc<Foreign>>> {
        let Some(list) = self.get::<&Array<'_>>(key, "a list of files")? else { return Ok(Vec::new()) };
        let file = |value: &Value<'_>| match value {
            Value::Fd(fd) => foreign::behind(fd),
            _ => Ok(None),
        };
        let wrong = || Refusal::invalid(format!("Option '{key}' is not a list of files"));
        list.iter().map(|value| file(value)?.ok_or_else(wrong)).collect()
    }
}

/// One line of text, of reasonable length.
pub(crate) fn checked(text: &str) -> Answer<String> {
    if text.len() > MAX_TEXT {
        return Err(Refusal::invalid(format!("An argument is longer than {MAX_TEXT} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::invalid(format!("An argument has control characters: {}", text.escape_debug())));
    }
    Ok(text.to_owned())
}

/// A list of lines of reasonable length.
pub(crate) fn checked_all(list: &[String]) -> Answer<Vec<String>> {
    within(list.iter().map(|text| checked(text)).collect::<Answer<_>>()?)
}

fn within(list: Vec<String>) -> Answer<Vec<String>> {
    if list.len() > MAX_ITEMS {
        return Err(Refusal::invalid(format!("A list has more than {MAX_ITEMS} items")));
    }
    Ok(list)
}

/// Where requests are made for.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) sysroot: &'a Path,
    pub(crate) stateroot: &'a str,
}

impl Target<'_> {
    /// A job of one verb with the options that all verbs take.
    pub(crate) fn job(&self, method: &'static str, verb: Verb, given: &Given) -> Answer<Job> {
        let options = apt_ostree_core::operation::Options {
            dry_run: given.truth("dry-run")?,
            download_only: given.truth("download-only")?,
            cache_only: given.truth("cache-only")?,
            reboot: given.truth("reboot")?,
            lock_finalization: given.truth("lock-finalization")?,
            command_line: given.text("initiating-command-line")?.unwrap_or_default(),
        };
        allowed(&verb, options.reboot)?;
        let title =
            if options.command_line.is_empty() { title(method, &verb, &options) } else { options.command_line.clone() };
        let actions = actions(&verb);
        let request =
            Request { sysroot: self.sysroot.to_owned(), stateroot: Some(self.stateroot.to_owned()), verb, options };
        let quiet = given.truth("output-to-self")?;
        Ok(Job { method, requests: vec![request], actions, title, files: Vec::new(), quiet, automatic: false })
    }

    /// `Deploy`, `Upgrade`, `Rebase`, `PkgChange`, `UpdateDeployment`: one implementation, as in rpm-ostree.
    pub(crate) fn update(&self, method: &'static str, modifiers: &Given, given: &Given) -> Answer<Job> {
        for key in ["override-replace-packages", "install-fileoverride-packages"] {
            if !modifiers.list(key)?.is_empty() {
                return Err(Refusal::not_supported("Non-local replacement overrides not implemented yet"));
            }
        }
        for key in
            ["install-fileoverride-local-packages", "install-local-fileoverride-packages", "ex-local-repo-remote"]
        {
            if modifiers.0.contains_key(key) {
                return Err(Refusal::not_supported(format!(
                    "'{key}' is not available: packages never replace files of others"
                )));
            }
        }
        for key in ["install-modules", "enable-modules"] {
            if !modifiers.list(key)?.is_empty() {
                return Err(Refusal::not_supported("Debian packages have no modules"));
            }
        }
        if modifiers.text("treefile")?.is_some() {
            return Err(Refusal::not_supported("'treefile' is not available: name packages and overrides one by one"));
        }
        let (refspec, revision) = (modifiers.text("set-refspec")?, modifiers.text("set-revision")?);
        let (local, replace_local) =
            (modifiers.files("install-local-packages")?, modifiers.files("override-replace-local-packages")?);
        let change = Change {
            packages: PackageChanges {
                install: modifiers.list("install-packages")?,
                uninstall: modifiers.list("uninstall-packages")?,
                install_local: unnamed(local.len()),
                uninstall_all: false,
                idempotent: given.truth("idempotent-layering")?,
                allow_inactive: given.truth("allow-inactive")? || given.truth("allow-inactive-requests")?,
            },
            remove: modifiers.list("override-remove-packages")?,
            reset: modifiers.list("override-reset-packages")?,
            replace_local: unnamed(replace_local.len()),
            custom_origin: given.pair("custom-origin")?,
            refspec,
            revision,
        };
        let verb = self.verb(change, given)?;
        let mut job = self.job(method, verb, given)?;
        job.files = local.into_iter().chain(replace_local).collect();
        if given.truth("no-initramfs")? {
            job.actions.insert(Action::Bootconfig);
        }
        if given.truth("apply-live")? {
            if given.truth("reboot")? {
                return Err(Refusal::invalid("Can't specify both 'apply-live' and 'reboot'"));
            }
            if given.truth("dry-run")? || given.truth("download-only")? {
                return Err(Refusal::invalid("Can't specify 'apply-live' with 'dry-run' or 'download-only'"));
            }
            let live = self.job(method, Verb::ApplyLive(ApplyLive::default()), &Given(Dict::new()))?;
            job.actions.extend(live.actions);
            job.requests.extend(live.requests);
        }
        Ok(job)
    }

    fn verb(&self, change: Change, given: &Given) -> Answer<Verb> {
        let downgrade = given.maybe("allow-downgrade")?;
        let (no_overrides, no_layering, no_initramfs) =
            (given.truth("no-overrides")?, given.truth("no-layering")?, given.truth("no-initramfs")?);
        let no_pull = given.truth("no-pull-base")?;
        let overrides = !change.remove.is_empty() || !change.reset.is_empty() || !change.replace_local.is_empty();
        let both = |a: bool, b: bool, text: &str| if a && b { Err(Refusal::invalid(text)) } else { Ok(()) };
        both(given.truth("cache-only")?, given.truth("download-only")?, "Can't specify cache-only and download-only")?;
        both(given.truth("dry-run")?, given.truth("download-only")?, "Can't specify dry-run and download-only")?;
        both(no_overrides, overrides, "Can't specify no-overrides if setting override modifiers")?;
        both(
            given.truth("skip-purge")?,
            change.refspec.is_none(),
            "Can't specify skip-purge if not setting a new refspec",
        )?;
        both(no_pull, change.refspec.is_some(), "Can't specify no-pull-base if setting a new refspec")?;
        let resets = no_overrides || no_layering || no_initramfs;
        both(
            resets || overrides,
            change.refspec.is_some() || change.revision.is_some(),
            "Another tree and a change of overrides, or a reset, are two transactions here",
        )?;
        both(resets, overrides, "Overrides and a reset are two transactions here")?;
        if let Some(refspec) = change.refspec {
            let (url, description) = change.custom_origin.unzip();
            return Ok(Verb::Rebase(Rebase {
                refspec,
                revision: change.revision.filter(|r| !r.is_empty()),
                skip_purge: given.truth("skip-purge")?,
                disallow_downgrade: downgrade == Some(false),
                custom_origin_url: url,
                custom_origin_description: description,
                changes: change.packages,
                ..Rebase::default()
            }));
        }
        if let Some(revision) = change.revision {
            return Ok(Verb::Deploy {
                revision,
                changes: change.packages,
                preview: false,
                skip_branch_check: given.truth("skip-branch-check")?,
                disallow_downgrade: downgrade == Some(false),
                driver: given.text("register-driver")?.map(|name| UpdateDriver { name, unit: String::new() }),
            });
        }
        if overrides {
            return Ok(Verb::Override(OverrideChange {
                remove: change.remove,
                reset: change.reset,
                replace_local: change.replace_local,
                packages: change.packages,
                ..OverrideChange::default()
            }));
        }
        if resets {
            let (overlays, overrides, initramfs) = (no_layering, no_overrides, no_initramfs);
            return Ok(Verb::Reset(Reset { overlays, overrides, initramfs, packages: change.packages }));
        }
        if no_pull {
            return Ok(Verb::PkgChange { changes: change.packages });
        }
        Ok(upgrade(change.packages, downgrade.unwrap_or_default(), false))
    }

    /// `ModifyYumRepo`: all that can be set is `enabled`.
    pub(crate) fn modify_source(&self, id: &str, settings: &HashMap<String, String>) -> Answer<Job> {
        if let Some(other) = settings.keys().find(|key| *key != "enabled") {
            return Err(Refusal::invalid(format!("Of a source only 'enabled' can be set, not '{}'", checked(other)?)));
        }
        let enabled = match settings.get("enabled").map(String::as_str) {
            Some("0") => false,
            Some("1") => true,
            Some(other) => return Err(Refusal::invalid(format!("'enabled' is 0 or 1, not '{}'", checked(other)?))),
            None => return Err(Refusal::invalid("'enabled' is missing: nothing else of a source can be set")),
        };
        self.job("ModifyYumRepo", Verb::ModifySource { id: checked(id)?, enabled }, &Given(Dict::new()))
    }

    /// `KernelArgs`. `existing` is the line the caller saw: another one by now is an error.
    pub(crate) fn kernel_arguments(
        &self,
        existing: &str,
        [append, replace, delete]: [&[String]; 3],
        given: &Given,
    ) -> Answer<Job> {
        let line: Vec<&str> = existing.split_whitespace().filter(|word| !word.starts_with("ostree=")).collect();
        checked(existing)?;
        let change = KargsChange {
            append: checked_all(append)?,
            replace: checked_all(replace)?,
            delete: checked_all(delete)?,
            append_if_missing: given.list("append-if-missing")?,
            delete_if_present: given.list("delete-if-present")?,
            set: given.text("final-kernel-args")?,
            expected: Some(line.join(" ")).filter(|l| !l.is_empty()),
            ..KargsChange::default()
        };
        self.job("KernelArgs", Verb::Kargs(change), given)
    }
}

/// What the dictionaries of an update ask for.
struct Change {
    packages: PackageChanges,
    remove: Vec<String>,
    reset: Vec<String>,
    replace_local: Vec<PathBuf>,
    custom_origin: Option<(String, String)>,
    refspec: Option<String>,
    revision: Option<String>,
}

/// Names for files that came without.
fn unnamed(count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| PathBuf::from(format!("package-{n}.deb"))).collect()
}

pub(crate) fn upgrade(changes: PackageChanges, allow_downgrade: bool, check: bool) -> Verb {
    Verb::Upgrade { changes, allow_downgrade, allow_failed: false, check, preview: false }
}

/// A request of our own client. Its paths are names for `files`; sysroot and stateroot are the service's to say.
pub(crate) fn of_request(text: &str, files: Vec<Arc<Foreign>>, sysroot: &Path) -> Answer<Job> {
    if text.len() > 64 * MAX_TEXT {
        return Err(Refusal::invalid("The request is too long"));
    }
    let mut request: Request =
        serde_json::from_str(text).map_err(|e| Refusal::invalid(format!("The request is not understood: {e}")))?;
    // Every text of a request is a line. That also holds for those that a later version adds.
    let document =
        serde_json::from_str(text).map_err(|e| Refusal::invalid(format!("The request is not understood: {e}")))?;
    check_json(&document)?;
    let method = method_of(&request.verb)?;
    allowed(&request.verb, request.options.reboot)?;
    request.sysroot = sysroot.to_owned();
    let named = request.verb.local_files().len();
    if named != files.len() {
        return Err(Refusal::invalid(format!(
            "The request names {named} package files and comes with {}",
            files.len()
        )));
    }
    let title = if request.options.command_line.is_empty() {
        title(method, &request.verb, &request.options)
    } else {
        request.options.command_line.clone()
    };
    let actions = actions(&request.verb);
    Ok(Job { method, requests: vec![request], actions, title, files, quiet: false, automatic: false })
}

/// What the bus never gets, whoever asks.
fn allowed(verb: &Verb, reboot: bool) -> Answer<()> {
    if matches!(verb, Verb::Rebase(_)) && !verb.is_for_service() {
        return Err(Refusal::not_supported("A repository by its path is not taken from the bus: run it as root"));
    }
    if reboot && !verb.takes_reboot() {
        return Err(Refusal::invalid("'reboot' has no meaning for this"));
    }
    Ok(())
}

fn check_json(value: &serde_json::Value) -> Answer<()> {
    match value {
        serde_json::Value::String(text) => checked(text).map(drop),
        serde_json::Value::Array(list) if list.len() > MAX_ITEMS => Err(Refusal::invalid("A list is too long")),
        serde_json::Value::Array(list) => list.iter().try_for_each(check_json),
        serde_json::Value::Object(map) => map.values().try_for_each(check_json),
        _ => Ok(()),
    }
}

/// The method of the contract that does what a verb does.
fn method_of(verb: &Verb) -> Answer<&'static str> {
    Ok(match verb {
        Verb::PkgChange { .. } => "PkgChange",
        Verb::Upgrade { .. } => "Upgrade",
        Verb::Deploy { .. } => "Deploy",
        Verb::Rebase(_) => "Rebase",
        Verb::Rollback => "Rollback",
        Verb::Cleanup { .. } => "Cleanup",
        Verb::Kargs(_) => "KernelArgs",
        Verb::FinalizeDeployment { .. } => "FinalizeDeployment",
        Verb::Initramfs(_) => "SetInitramfsState",
        Verb::InitramfsEtc(_) => "InitramfsEtc",
        Verb::Override(_) | Verb::Reset(_) => "UpdateDeployment",
        Verb::ApplyLive(_) => "LiveFs",
        Verb::RefreshMd { .. } => "RefreshMd",
        Verb::ModifySource { .. } => "ModifyYumRepo",
        Verb::InitSysroot(_) | Verb::ComposeTree(_) | Verb::DiskImage(_) => {
            return Err(Refusal::not_supported("This is not done by the service: run it as root"));
        }
    })
}

/// What the caller must be allowed to.
pub(crate) fn actions(verb: &Verb) -> BTreeSet<Action> {
    let mut actions = BTreeSet::new();
    let mut packages = |changes: &PackageChanges| {
        if !changes.install.is_empty() || !changes.uninstall.is_empty() || changes.uninstall_all {
            actions.insert(Action::InstallUninstallPackages);
        }
        if !changes.install_local.is_empty() {
            actions.insert(Action::InstallLocalPackages);
        }
    };
    let own = match verb {
        Verb::PkgChange { changes } => {
            packages(changes);
            // A call that changes nothing still makes a transaction.
            if changes.is_empty() { Some(Action::InstallUninstallPackages) } else { None }
        }
        Verb::Upgrade { changes, .. } => {
            packages(changes);
            Some(Action::Upgrade)
        }
        Verb::Deploy { changes, .. } => {
            packages(changes);
            Some(Action::Deploy)
        }
        Verb::Rebase(rebase) => {
            packages(&rebase.changes);
            Some(Action::Rebase)
        }
        Verb::Override(change) => {
            packages(&change.packages);
            Some(Action::Override)
        }
        Verb::Reset(reset) => {
            packages(&reset.packages);
            let all = !reset.overlays && !reset.overrides && !reset.initramfs;
            if all || reset.initramfs {
                actions.insert(Action::Bootconfig);
            }
            if all || reset.overlays {
                actions.insert(Action::InstallUninstallPackages);
            }
            if all || reset.overrides { Some(Action::Override) } else { None }
        }
        Verb::Rollback => Some(Action::Rollback),
        Verb::Cleanup { .. } => Some(Action::Cleanup),
        Verb::Kargs(_) | Verb::Initramfs(_) | Verb::InitramfsEtc(_) => Some(Action::Bootconfig),
        Verb::FinalizeDeployment { .. } => Some(Action::FinalizeDeployment),
        Verb::ApplyLive(_) => Some(Action::ApplyLive),
        Verb::RefreshMd { .. } => Some(Action::RepoRefresh),
        Verb::ModifySource { .. } => Some(Action::RepoModify),
        // Refused before it comes to this.
        Verb::InitSysroot(_) | Verb::ComposeTree(_) | Verb::DiskImage(_) => Some(Action::Deploy),
    };
    actions.extend(own);
    actions
}

/// Method and title of a transaction that is made without the service; `None`: it changes no system.
pub fn names(request: &Request) -> Option<(&'static str, String)> {
    let method = method_of(&request.verb).ok()?;
    let line = &request.options.command_line;
    Some((method, if line.is_empty() { title(method, &request.verb, &request.options) } else { line.clone() }))
}

/// rpm-ostree's titles of transactions that have no command line.
fn title(method: &str, verb: &Verb, options: &apt_ostree_core::operation::Options) -> String {
    let changes = match verb {
        Verb::PkgChange { changes } | Verb::Upgrade { changes, .. } | Verb::Deploy { changes, .. } => Some(changes),
        Verb::Rebase(rebase) => Some(&rebase.changes),
        Verb::Override(change) => Some(&change.packages),
        _ => None,
    };
    let name = match verb {
        Verb::PkgChange { changes } if changes.install.is_empty() && changes.install_local.is_empty() => "uninstall",
        Verb::PkgChange { .. } => "install",
        Verb::Override(_) | Verb::Reset(_) => "override",
        Verb::Rebase(_) => "rebase",
        Verb::Deploy { .. } => "deploy",
        Verb::Upgrade { .. } => "upgrade",
        Verb::Rollback => "rollback",
        Verb::Cleanup { .. } => "cleanup",
        Verb::Kargs(_) => "kargs",
        Verb::Initramfs(_) => "initramfs",
        Verb::InitramfsEtc(_) => "initramfs-etc",
        Verb::FinalizeDeployment { .. } => "finalize-deployment",
        Verb::ApplyLive(_) => "apply-live",
        Verb::RefreshMd { force: true } => "refresh-md (force)",
        Verb::RefreshMd { force: false } => "refresh-md",
        Verb::ModifySource { .. } => "modify-yum-repo",
        _ => method,
    };
    let mut title = name.to_owned();
    if options.cache_only {
        title += " (cache only)";
    } else if options.download_only {
        title += " (download only)";
    } else if matches!(verb, Verb::Upgrade { check: true, .. }) {
        title += " (check only)";
    }
    for (word, count) in changes.into_iter().flat_map(|c| {
        [("uninstall", c.uninstall.len()), ("install", c.install.len()), ("localinstall", c.install_local.len())]
    }) {
        if count > 0 {
            title += &format!("; {word}: {count}");
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use apt_ostree_testkit::fuzz::Random;

    use super::*;

    const KEYS: &[&str] = &[
        "reboot",
        "allow-downgrade",
        "no-pull-base",
        "dry-run",
        "download-only",
        "cache-only",
        "skip-purge",
        "skip-branch-check",
        "no-overrides",
        "no-layering",
        "no-initramfs",
        "idempotent-layering",
        "allow-inactive",
        "lock-finalization",
        "apply-live",
        "register-driver",
        "custom-origin",
        "initiating-command-line",
        "output-to-self",
        "set-refspec",
        "set-revision",
        "install-packages",
        "uninstall-packages",
        "install-local-packages",
        "override-replace-local-packages",
        "override-remove-packages",
        "override-reset-packages",
        "override-replace-packages",
        "treefile",
        "final-kernel-args",
        "append-if-missing",
        "delete-if-present",
        "nonsense",
    ];
    const TEXTS: &[&str] = &[
        "",
        "htop",
        "kit:kit/debian",
        "/srv/repo:ref",
        "ostree:///srv/repo:ref",
        "a\nb",
        "\u{7}",
        "version=13",
        "..",
        "é",
        "x=y",
        "install a b",
        ":branch",
        "remote:",
        "\u{2028}",
    ];

    fn target() -> Target<'static> {
        Target { sysroot: Path::new("/"), stateroot: "debian" }
    }

    fn value(random: &mut Random) -> Value<'static> {
        let texts = |random: &mut Random| -> Vec<String> {
            (0..random.below(4)).map(|_| random.pick(TEXTS).to_owned()).collect()
        };
        match random.below(9) {
            0 | 1 => Value::from(random.below(2) == 1),
            2 | 3 => Value::from(random.pick(TEXTS).to_owned()),
            4 | 5 => Value::from(texts(random)),
            6 => Value::from((random.pick(TEXTS).to_owned(), random.pick(TEXTS).to_owned())),
            7 => Value::from(random.number()),
            _ => Value::Value(Box::new(Value::from("x".repeat(random.below(5000))))),
        }
    }

    fn dict(random: &mut Random) -> Dict {
        let mut dict = Dict::new();
        for _ in 0..random.below(6) {
            dict.insert((*random.pick(KEYS)).to_owned(), value(random).try_into().unwrap());
        }
        dict
    }

    /// What holds for every job that is let through, whatever was sent.
    fn check(job: &Job) {
        assert!(!job.actions.is_empty(), "{job:?}");
        assert!(!job.title.chars().any(char::is_control), "{job:?}");
        for request in &job.requests {
            assert_eq!(request.sysroot, Path::new("/"));
            assert!(request.verb.is_for_service(), "{request:?}");
            assert!(!request.options.reboot || request.verb.takes_reboot(), "{request:?}");
            if let Verb::Rebase(rebase) = &request.verb {
                // `nulle:///srv/repo` is a remote that there is not.
                assert!(!rebase.refspec.trim_start_matches("ostree://").starts_with('/'), "{rebase:?}");
            }
            for action in actions(&request.verb) {
                assert!(job.actions.contains(&action), "{job:?}");
            }
        }
        let live = job.requests.iter().any(|r| matches!(r.verb, Verb::ApplyLive(_)));
        assert!(!live || job.actions.contains(&Action::ApplyLive));
    }

    fn inputs() -> u64 {
        std::env::var("APT_OSTREE_FUZZ").map_or(2000, |n| n.parse().expect("a number"))
    }

    #[test]
    fn arguments_of_the_bus() {
        let mut random = Random::new(1);
        let mut taken = 0;
        for _ in 0..inputs() {
            let (modifiers, options) = (Given(dict(&mut random)), Given(dict(&mut random)));
            let job = target().update("UpdateDeployment", &modifiers, &options);
            let lists = [&[random.pick(TEXTS).to_owned()][..], &[], &[]];
            let kargs = target().kernel_arguments(random.pick(TEXTS), lists, &options);
            for job in [job, kargs].iter().flatten() {
                check(job);
                taken += 1;
            }
        }
        assert!(taken > inputs() / 20, "hardly anything is taken: {taken}");
    }

    #[test]
    fn requests_of_our_own_client() {
        let good = r#"{"sysroot":"/etc","stateroot":null,"verb":"rebase","refspec":"kit:kit/debian","options":{"reboot":false}}"#;
        check(&of_request(good, Vec::new(), Path::new("/")).unwrap());
        let source = r#"{"sysroot":"/","stateroot":null,"verb":"modify-source","id":"x","enabled":true}"#;
        let job = of_request(source, Vec::new(), Path::new("/")).unwrap();
        assert_eq!((job.method, job.title.as_str()), ("ModifyYumRepo", "modify-yum-repo"));
        let words = [
            "\"/srv/repo:x\"",
            "\"ostree:///srv/repo:x\"",
            "\"refresh-md\"",
            "\"force\":true",
            "true",
            "null",
            "1e999",
            "\"rollback\"",
            "\"compose-tree\"",
            "\\u0007",
            "\"changes\":{}",
            "\"reboot\":true",
            ",",
            "{",
            "}",
        ];
        let mut random = Random::new(2);
        for _ in 0..inputs() {
            let mut text = good.to_owned();
            for _ in 0..=random.below(4) {
                let (from, to) = (random.below(text.len()), random.below(text.len()));
                let (from, to) = (from.min(to), from.max(to));
                if to - from < 24 && text.is_char_boundary(from) && text.is_char_boundary(to) {
                    text.replace_range(from..to, random.pick(&words));
                }
            }
            if let Ok(job) = of_request(&text, Vec::new(), Path::new("/")) {
                check(&job);
            }
        }
    }
}

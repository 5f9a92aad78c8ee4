//! Fetching commits from an OSTree remote or a local repository.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use ostree::gio;
use ostree::glib::{self, VariantDict};

use super::Repo;
use super::metadata::CommitInfo;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, EventSink, EventSinkExt, NullSink};
use crate::model::origin::is_checksum;
use crate::model::size::human_size;

/// How often a running pull says how far it is.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Bytes of what a pull would fetch, without the savings of static deltas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MissingObjects {
    /// On disk.
    pub unpacked: u64,
    /// Over the network.
    pub archived: u64,
}

impl Repo {
    /// Pulls one branch of a remote. Signatures are checked as the remote's configuration says (`gpg-verify`
    /// defaults to true in libostree). `commit` chooses one of the branch instead of its head.
    pub fn pull(&self, remote: &str, branch: &str, commit: Option<&str>, events: &dyn EventSink) -> Result<String> {
        let options = pull_options(branch, 0);
        if let Some(commit) = commit {
            options.insert("override-commit-ids", vec![commit.to_owned()]);
        }
        events.task(format!("Pulling {remote}:{branch}"), || self.run_pull(remote, &options, events))?;
        match commit {
            Some(commit) => Ok(commit.to_owned()),
            None => self.resolve(&format!("{remote}:{branch}")),
        }
    }

    /// Pulls what an update can be judged by: the head of a branch, without its tree. The branch stays where it was until all of
    /// the new head is here, so that nothing takes it for a tree. What was fetched goes with the next clean-up, or is used by
    /// the next [`Repo::pull`].
    pub fn pull_head(&self, remote: &str, branch: &str, events: &dyn EventSink) -> Result<CommitInfo> {
        let options = pull_options(branch, ostree::RepoPullFlags::COMMIT_ONLY.bits());
        let pull = || self.keeping_branch(remote, branch, || self.run_pull(remote, &options, events));
        let head = events.task(format!("Looking at {remote}:{branch}"), pull)?;
        self.info(&head)
    }

    /// Pulls the commit objects of a branch's whole history, to look versions up. Its head; the branch stays likewise.
    pub fn pull_history(&self, remote: &str, branch: &str) -> Result<String> {
        let options = pull_options(branch, ostree::RepoPullFlags::COMMIT_ONLY.bits());
        options.insert("depth", -1i32);
        self.keeping_branch(remote, branch, || self.run_pull(remote, &options, &NullSink))
    }

    /// Pulls a commit without more of its tree than these files, those that it has.
    pub fn pull_files(&self, remote: &str, commit: &str, files: &[String], events: &dyn EventSink) -> Result<()> {
        let commit_only = if files.is_empty() { ostree::RepoPullFlags::COMMIT_ONLY.bits() } else { 0 };
        let options = pull_options(commit, commit_only);
        if !files.is_empty() {
            options.insert("subdirs", files.to_vec());
            // libostree would take a delta, and with it the whole image, for a few of its files.
            options.insert("disable-static-deltas", true);
        }
        self.run_pull(remote, &options, events)
    }

    /// Takes a note of the commit that is looked at. The one before goes, with all that only it has, unless it is here in full
    /// by now: a machine that only looks would keep a little of every image.
    pub fn note_looked_at(&self, commit: &str) -> Result<()> {
        let note = self.extension_path("looked-at");
        let last = std::fs::read_to_string(&note).unwrap_or_default().trim().to_owned();
        if last == commit {
            return Ok(());
        }
        if is_checksum(&last) && self.has_commit(&last)? && self.is_partial(&last)? {
            self.drop_commit(&last).context(|| format!("Dropping commit {last}, which was only looked at"))?;
        }
        let write = || -> Result<()> {
            std::fs::create_dir_all(self.extension_path(""))?;
            Ok(std::fs::write(&note, format!("{commit}\n"))?)
        };
        write().context(|| format!("Writing {}", note.display()))
    }

    /// Removes a commit that no ref names, and what is in no other commit.
    fn drop_commit(&self, commit: &str) -> Result<()> {
        let refs = self.inner.list_refs(None, gio::Cancellable::NONE)?;
        if refs.values().any(|named| named == commit) {
            return Ok(());
        }
        self.inner.delete_object(ostree::ObjectType::Commit, commit, gio::Cancellable::NONE)?;
        // All other commits stay, also those without a ref.
        self.inner.prune(ostree::RepoPruneFlags::NONE, 0, gio::Cancellable::NONE)?;
        match std::fs::remove_file(self.path.join(format!("state/{commit}.commitpartial"))) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// The head of a branch after a pull, and the branch back where it was unless that head is whole.
    fn keeping_branch(&self, remote: &str, branch: &str, pull: impl FnOnce() -> Result<()>) -> Result<String> {
        let refspec = format!("{remote}:{branch}");
        let before = self.inner.resolve_rev(&refspec, true)?;
        pull()?;
        let head = self.resolve(&refspec)?;
        if self.is_partial(&head)? {
            let whole = before.filter(|commit| !self.is_partial(commit).unwrap_or(true));
            self.inner
                .set_ref_immediate(Some(remote), branch, whole.as_deref(), gio::Cancellable::NONE)
                .context(|| format!("Leaving {refspec} where it was"))?;
        }
        Ok(head)
    }

    /// How much of a commit is not here; `None` where it does not say how large its objects are.
    pub fn missing_objects(&self, commit: &str) -> Result<Option<MissingObjects>> {
        let (variant, state) = self.inner.load_commit(commit).context(|| format!("Reading commit {commit}"))?;
        if !state.contains(ostree::RepoCommitState::PARTIAL) {
            return Ok(Some(MissingObjects::default()));
        }
        // Most commits have none, which libostree reports as an error.
        let Ok(sizes) = ostree::commit_get_object_sizes(&variant) else { return Ok(None) };
        let mut missing = MissingObjects::default();
        for object in sizes {
            if !self.inner.has_object(object.objtype(), &object.checksum(), gio::Cancellable::NONE)? {
                missing.unpacked = missing.unpacked.saturating_add(object.unpacked());
                missing.archived = missing.archived.saturating_add(object.archived());
            }
        }
        Ok(Some(missing))
    }

    /// Copies a commit and its branch from a repository on this machine into the local ref `branch`.
    pub fn pull_local(&self, source: &Path, branch: &str, events: &dyn EventSink) -> Result<String> {
        let url = format!("file://{}", source.display());
        let head = Self::open(source)?.resolve(branch)?;
        let options = pull_options(&head, ostree::RepoPullFlags::UNTRUSTED.bits());
        events.task(format!("Copying {branch} from {}", source.display()), || self.run_pull(&url, &options, events))?;
        self.set_ref(branch, Some(&head))?;
        Ok(head)
    }

    /// On a thread of its own, with a handle of its own: libostree wants a callback that outlives every borrow, and the
    /// sink of events is only borrowed.
    fn run_pull(&self, remote: &str, options: &VariantDict, events: &dyn EventSink) -> Result<()> {
        let options = options.end();
        let (sender, receiver) = channel();
        let (path, options) = (self.path.as_path(), &options);
        let result = std::thread::scope(|scope| {
            let pull = scope.spawn(move || pull_with_progress(path, remote, options, &sender));
            for event in receiver.iter().map_while(|e: Option<Event>| e) {
                events.emit(event);
            }
            pull.join()
        });
        match result {
            Ok(result) => result.map_err(|e| classify(remote, &e)).context(|| format!("Pulling from {remote}")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Adds or replaces a remote. OpenPGP verification is on unless `gpg_verify` is false.
    pub fn set_remote(&self, name: &str, url: &str, gpg_verify: bool, keys: &[std::path::PathBuf]) -> Result<()> {
        let options = VariantDict::new(None);
        options.insert("gpg-verify", gpg_verify);
        self.inner
            .remote_change(
                gio::File::NONE,
                ostree::RepoRemoteChange::Replace,
                name,
                Some(url),
                Some(&options.end()),
                gio::Cancellable::NONE,
            )
            .context(|| format!("Adding the remote {name}"))?;
        for key in keys {
            let stream = gio::File::for_path(key);
            let stream = ostree::prelude::FileExt::read(&stream, gio::Cancellable::NONE)
                .context(|| format!("Reading the key {}", key.display()))?;
            // The binding cannot say "all keys" (a null list); an empty list imports none and fails.
            let fingerprints = openpgp_fingerprints(key)?;
            let fingerprints: Vec<&str> = fingerprints.iter().map(String::as_str).collect();
            self.inner
                .remote_gpg_import(name, Some(&stream), &fingerprints, gio::Cancellable::NONE)
                .context(|| format!("Importing the key {}", key.display()))?;
        }
        Ok(())
    }

    pub fn has_remote(&self, name: &str) -> bool {
        self.inner.remote_list().iter().any(|r| r == name)
    }
}

/// Pulls, sends how far it is, and `None` at the end.
fn pull_with_progress(
    repo: &Path,
    remote: &str,
    options: &glib::Variant,
    sender: &Sender<Option<Event>>,
) -> std::result::Result<(), glib::Error> {
    let repo = ostree::Repo::new_for_path(repo);
    repo.open(gio::Cancellable::NONE)?;
    let progress = ostree::AsyncProgress::new();
    let started = Instant::now();
    let last = std::cell::Cell::new(None::<Instant>);
    let sink = sender.clone();
    progress.connect_changed(move |progress| {
        let due = last.get().is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if due && progress.uint("requested") > 0 {
            last.set(Some(Instant::now()));
            // Nobody listens any more: the pull itself goes on.
            let _ = sink.send(Some(pull_event(progress, started.elapsed())));
        }
    });
    let result = repo.pull_with_options(remote, options, Some(&progress), gio::Cancellable::NONE);
    progress.finish();
    let _ = sender.send(None);
    result
}

/// Objects are what libostree counts; how many bytes are still to come it does not know.
fn pull_event(progress: &ostree::AsyncProgress, elapsed: Duration) -> Event {
    let bytes = progress.uint64("bytes-transferred");
    let rate = (bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    Event::Progress {
        done: progress.uint("fetched").into(),
        total: progress.uint("requested").into(),
        item: format!("{}, {}/s", human_size(bytes), human_size(rate)),
    }
}

/// The fingerprints of the primary keys in a file, from gpg(1), which libostree uses as well.
fn openpgp_fingerprints(file: &Path) -> Result<Vec<String>> {
    let home = tempfile::tempdir().context(|| "Making a directory for gpg")?;
    let output = Command::new("gpg")
        .args(["--batch", "--with-colons", "--homedir"])
        .arg(home.path())
        .arg("--show-keys")
        .arg(file)
        .output()
        .context(|| "Running gpg")
        .map_err(|e: Error| e.hint("Install the package gpg."))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = Vec::new();
    let mut primary = false;
    for line in text.lines() {
        let mut fields = line.split(':');
        match fields.next() {
            Some("pub") => primary = true,
            Some("fpr") if primary => {
                found.extend(fields.nth(8).map(ToOwned::to_owned));
                primary = false;
            }
            _ => {}
        }
    }
    if found.is_empty() {
        return Err(Error::new(ErrorKind::Usage, format!("{} has no OpenPGP public key", file.display()))
            .hint("Write one with: gpg --export --output FILE KEY"));
    }
    Ok(found)
}

fn pull_options(reference: &str, flags: u32) -> VariantDict {
    // `flags` is an i32 in libostree's option dictionary.
    let flags = i32::try_from(flags).unwrap_or(0);
    let options = VariantDict::new(None);
    options.insert("refs", vec![reference.to_owned()]);
    options.insert("flags", flags);
    options
}

/// libostree reports network and signature trouble in generic error domains; the texts are stable.
fn classify(remote: &str, error: &ostree::glib::Error) -> Error {
    let text = error.message();
    let lower = text.to_lowercase();
    let base = Error::from(error.clone());
    if lower.contains("gpg") || lower.contains("signature") || lower.contains("public key") {
        base.with_kind(ErrorKind::Verification)
            .hint(format!("The commit is not signed by a key that the remote '{remote}' trusts. Nothing was changed."))
            .hint(format!("Import the right key: ostree remote gpg-import {remote} -k FILE"))
    } else if lower.contains("no such branch")
        || lower.contains("not found in summary")
        || lower.contains("no such ref")
        || (lower.contains("refspec") && lower.contains("not found"))
    {
        base.with_kind(ErrorKind::NotFound).hint(format!("The branches that it has: ostree remote refs {remote}"))
    } else if ["couldn't", "could not", "connect", "resolve host", "server returned", "timed out", "404", "opening"]
        .iter()
        .any(|w| lower.contains(w))
    {
        base.with_kind(ErrorKind::Network)
            .hint(format!("Check the network and the address of the remote: ostree remote show-url {remote}"))
    } else {
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_file_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("gpg");
        std::fs::create_dir(&home).unwrap();
        let gpg = |args: &[&str]| {
            let mut command = Command::new("gpg");
            command.args(["--batch", "--passphrase", "", "--homedir"]).arg(&home).args(args);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        for name in ["One <one@example.org>", "Two <two@example.org>"] {
            gpg(&["--quick-gen-key", name, "ed25519", "sign", "never"]);
        }
        let keys = dir.path().join("keys.asc");
        std::fs::write(&keys, gpg(&["--armor", "--export"])).unwrap();
        let path = dir.path().join("repo");
        let repo = Repo::open_or_create(&path).unwrap();
        repo.set_remote("r", "file:///nowhere", true, &[keys]).unwrap();
        let listed =
            Command::new("ostree").args(["remote", "gpg-list-keys", "r", "--repo"]).arg(&path).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("one@example.org") && listed.contains("two@example.org"), "{listed}");
        let none = dir.path().join("none");
        std::fs::write(&none, "not a key").unwrap();
        let e = repo.set_remote("r", "file:///nowhere", true, &[none]).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Usage, "{e}");
        let _ = Command::new("gpgconf").arg("--homedir").arg(&home).args(["--kill", "all"]).status();
    }
}

//! The state that packages leave in `/var` and `/etc`: what travels with the image, what every machine gets, what is
//! dropped.
//!
//! Maintainer scripts run with a scratch directory as `/var`. Before the run [`prepare_registries`] links the registries
//! ([`layout::REGISTRIES`]) from it into the image; after the run [`capture_var`] turns everything that is new into lines of
//! a tmpfiles.d file and content in `/usr/share/factory/var`, so that the commit's `/var` can be empty. Nothing is lost
//! in silence: every path that is dropped or that no rule explains is in the report.
//!
//! On disk, all under the tree: `usr/lib/sysimage/…`, `usr/lib/tmpfiles.d/00-apt-ostree-registries.conf`,
//! `usr/lib/tmpfiles.d/00-apt-ostree-layout.conf`, `usr/lib/tmpfiles.d/NAME.conf`, `usr/share/factory/var/…`.
//! Symbolic links are never followed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::model::accounts::UserNames;
use crate::model::layout::{
    self, DPKG_ADMINDIR, ETC_RULES, FACTORY, LAYOUT_CONF, REGISTRIES, REGISTRIES_CONF, REGISTRY_RULES, Registry,
    RegistryKind, Rule, RuleAction, SYSIMAGE, VAR_RULES,
};
use crate::model::tmpfiles::{Existing, Line};
use crate::model::treefile::OptUsrLocal;

/// How much of a file is searched for a private key.
const KEY_SEARCH_BYTES: u64 = 64 * 1024;

/// Makes the registries of `tree` and the links to them in the scratch directory `var`, the directories that the links
/// of the deployment's root point to, and the two tmpfiles.d files that do the same on a machine. What is there already
/// stays, but for a stray directory or file in the place of a registry's link, which is moved into the registry.
/// Runs before any script, for compose and for layering alike.
pub fn prepare_registries(tree: &Path, var: &Path, mode: OptUsrLocal) -> Result<()> {
    for registry in REGISTRIES {
        let image = tree.join(registry.image);
        match registry.kind {
            RegistryKind::Directory => make_dir(&image, 0o755)?,
            RegistryKind::File | RegistryKind::ConfiguredFile => make_dir(parent_of(&image), 0o755)?,
        }
        if registry.kind == RegistryKind::ConfiguredFile {
            continue;
        }
        let link = var.join(below_var(registry.var));
        if fs::symlink_metadata(&link).is_ok_and(|m| !m.is_symlink()) {
            adopt(registry, &link, tree)?;
            remove(&link)?;
        }
        if fs::symlink_metadata(&link).is_err() {
            make_dir(parent_of(&link), 0o755)?;
            symlink(layout::relative_link(registry.var, registry.image), &link)
                .context(|| format!("Linking {}", link.display()))?;
        }
    }
    for (path, mode) in layout::toplevel_targets(mode) {
        make_dir(&var.join(below_var(path)), mode)?;
    }
    for (path, mode) in [("cache", 0o755), ("lib", 0o755), ("log", 0o755), ("spool", 0o755), ("tmp", 0o1777)] {
        make_dir(&var.join(path), mode)?;
    }
    write_if_changed(&tree.join(REGISTRIES_CONF), &layout::registries_tmpfiles())?;
    write_if_changed(&tree.join(LAYOUT_CONF), &layout::layout_tmpfiles(mode))
}

/// Drops the locks and backups of the registries: they differ from run to run and mean nothing in an image.
pub fn clean_registries(tree: &Path) -> Result<Vec<Dropped>> {
    let mut dropped = Vec::new();
    let mut pending = vec![SYSIMAGE.to_owned()];
    while let Some(directory) = pending.pop() {
        for (rel, metadata) in entries(tree, &directory)? {
            if let Some(rule) = layout::rule_for(REGISTRY_RULES, &rel) {
                remove(&tree.join(&rel))?;
                dropped.push(Dropped::by(rel, rule));
            } else if metadata.is_dir() {
                pending.push(rel);
            }
        }
    }
    dropped.sort();
    Ok(dropped)
}

/// What `/var` was before the packages ran.
#[derive(Clone, Debug, Default)]
pub struct VarSnapshot {
    stamps: BTreeMap<PathBuf, Stamp>,
}

/// What shows that a path was changed. The change time is in it because dpkg and tar set modification times.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    mode: u32,
    owner: (u32, u32),
    /// Inode, size, modification and change time; not of directories, which change with their content.
    content: Option<(u64, u64, i64, i64, i64, i64)>,
}

impl Stamp {
    fn new(m: &Metadata) -> Self {
        let content = (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        Self { mode: m.mode(), owner: (m.uid(), m.gid()), content: (!m.is_dir()).then_some(content) }
    }
}

impl VarSnapshot {
    /// Walks `var` without following links.
    pub fn take(var: &Path) -> Result<Self> {
        let mut stamps = BTreeMap::new();
        let mut pending = vec![var.to_owned()];
        while let Some(directory) = pending.pop() {
            let list = fs::read_dir(&directory).context(|| format!("Reading {}", directory.display()))?;
            for entry in list {
                let path = entry?.path();
                let metadata = fs::symlink_metadata(&path).context(|| format!("Reading {}", path.display()))?;
                if metadata.is_dir() {
                    pending.push(path.clone());
                }
                let below = path.strip_prefix(var).unwrap_or(&path).to_owned();
                stamps.insert(below, Stamp::new(&metadata));
            }
        }
        Ok(Self { stamps })
    }

    fn unchanged(&self, below: &str, metadata: &Metadata) -> bool {
        self.stamps.get(Path::new(below)).is_some_and(|stamp| *stamp == Stamp::new(metadata))
    }

    fn has(&self, below: &str) -> bool {
        self.stamps.contains_key(Path::new(below))
    }
}

/// Why something is not in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropKind {
    /// It can be made again, or means nothing outside the build.
    Rule,
    /// It would be equal on every machine and must not be: a warning.
    Secret,
    /// Data a program made at installation and may miss: a warning.
    Data,
    /// A socket, fifo or device.
    Special,
}

/// One path that was dropped. A directory stands for all it holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropped {
    /// `var/…`, `etc/…` or `usr/…`.
    pub path: String,
    pub kind: DropKind,
    pub reason: String,
}

impl Dropped {
    fn by(path: String, rule: &Rule) -> Self {
        let kind = match rule.action {
            RuleAction::Secret => DropKind::Secret,
            RuleAction::Data => DropKind::Data,
            _ => DropKind::Rule,
        };
        Self { path, kind, reason: rule.reason.to_owned() }
    }

    fn secret(path: String, reason: &str) -> Self {
        Self { path, kind: DropKind::Secret, reason: reason.to_owned() }
    }
}

/// One path that no rule explains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unclassified {
    pub path: String,
    pub reason: String,
    /// Whether machines get it all the same.
    pub kept: bool,
}

/// What became of `/var`. All lists are sorted by path.
#[derive(Clone, Debug, Default)]
pub struct VarReport {
    /// The lines that were written.
    pub lines: Vec<Line>,
    /// Files copied to `/usr/share/factory`, as `var/…`.
    pub factory: Vec<String>,
    /// Registries whose link a program had replaced, as `var/…`; moved back.
    pub adopted: Vec<String>,
    /// Paths that a tmpfiles.d file of the tree already makes, with the file's name.
    pub covered: Vec<(String, String)>,
    pub dropped: Vec<Dropped>,
    pub unclassified: Vec<Unclassified>,
    /// Paths that were there before and that the packages removed; machines keep them.
    pub removed: Vec<String>,
}

impl VarReport {
    /// What the user should see: dropped secrets and data.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let shown = |d: &&Dropped| matches!(d.kind, DropKind::Secret | DropKind::Data);
        self.dropped.iter().filter(shown).map(|d| format!("Left out /{}: {}", d.path, d.reason))
    }

    /// For strict callers: an error that lists every path no rule explains.
    pub fn require_classified(&self) -> Result<()> {
        if self.unclassified.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = self.unclassified.iter().map(|u| format!("/{} ({})", u.path, u.reason)).collect();
        Err(Error::failed(format!("{} paths in /var are not explained by any rule: {}", list.len(), list.join(", ")))
            .hint("Make them at boot with a tmpfiles.d file, have a postprocess script remove them, or build without --strict-var."))
    }
}

/// How [`capture_var`] works.
#[derive(Clone, Copy, Debug)]
pub struct CaptureOptions<'a> {
    /// File name in `usr/lib/tmpfiles.d`.
    pub conf_name: &'a str,
}

/// The file name for a composed base.
pub const BASE_VAR_CONF: &str = "apt-ostree-base-var.conf";
/// The file name for layered packages.
pub const LAYER_VAR_CONF: &str = "apt-ostree-layer-var.conf";

/// Classifies what is in `var` and was not `before`, and writes it into `tree` so that every machine gets it.
/// `names` are the accounts of the tree: lines name owners, they never number them.
pub fn capture_var(
    var: &Path,
    before: Option<&VarSnapshot>,
    tree: &Path,
    names: &UserNames,
    options: CaptureOptions<'_>,
) -> Result<VarReport> {
    let existing = existing_tmpfiles(tree, options.conf_name)?;
    let mut capture =
        Capture { var, before, tree, names, existing, owned: OnceCell::new(), report: VarReport::default() };
    capture.directory("var", 0)?;
    if let Some(before) = before {
        let gone = before.stamps.keys().filter(|p| fs::symlink_metadata(var.join(p)).is_err());
        capture.report.removed = gone.map(|p| format!("var/{}", p.display())).collect();
    }
    let mut report = capture.report;
    report.lines.sort_by(|a, b| a.path.cmp(&b.path).then_with(|| a.kind.cmp(&b.kind)));
    for list in [&mut report.factory, &mut report.adopted] {
        list.sort();
    }
    report.covered.sort();
    report.dropped.sort();
    report.unclassified.sort();
    let conf = tree.join("usr/lib/tmpfiles.d").join(options.conf_name);
    if report.lines.is_empty() {
        if conf.exists() {
            remove(&conf)?;
        }
        return Ok(report);
    }
    let mut text = String::from("# Written by apt-ostree: what the packages of this image made in /var.\n");
    for line in &report.lines {
        text.push_str(&format!("{line}\n"));
    }
    write_if_changed(&conf, &text)?;
    Ok(report)
}

struct Capture<'a> {
    var: &'a Path,
    before: Option<&'a VarSnapshot>,
    tree: &'a Path,
    names: &'a UserNames,
    existing: Existing,
    /// Paths that packages ship, as `var/…`; read only when something depends on it.
    owned: OnceCell<BTreeSet<String>>,
    report: VarReport,
}

impl Capture<'_> {
    /// `rel` is `var` or below it, a directory of the user `uid`.
    fn directory(&mut self, rel: &str, uid: u32) -> Result<()> {
        let path = self.var.join(below_var(rel));
        let mut list: Vec<_> = fs::read_dir(&path)
            .context(|| format!("Reading {}", path.display()))?
            .collect::<std::io::Result<_>>()
            .context(|| format!("Reading {}", path.display()))?;
        list.sort_by_key(fs::DirEntry::file_name);
        for entry in list {
            let metadata =
                fs::symlink_metadata(entry.path()).context(|| format!("Reading {}", entry.path().display()))?;
            match entry.file_name().to_str() {
                Some(name) => self.entry(&format!("{rel}/{name}"), &metadata, uid)?,
                None => {
                    let path = format!("{rel}/{}", entry.file_name().to_string_lossy());
                    self.unclassified(path, "its name is not UTF-8", false);
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, rel: &str, metadata: &Metadata, parent_uid: u32) -> Result<()> {
        if let Some(registry) = REGISTRIES.iter().find(|r| r.var == rel) {
            if !metadata.is_symlink() {
                adopt(registry, &self.var.join(below_var(rel)), self.tree)?;
                self.report.adopted.push(rel.to_owned());
            }
            return Ok(());
        }
        let rule = layout::rule_for(VAR_RULES, rel);
        let unchanged = self.before.is_some_and(|b| b.unchanged(below_var(rel), metadata));
        if metadata.is_dir() {
            if let Some(rule) =
                rule.filter(|r| matches!(r.action, RuleAction::Drop | RuleAction::Secret | RuleAction::Data))
            {
                if self.before.is_none_or(|b| !b.has(below_var(rel))) {
                    self.report.dropped.push(Dropped::by(rel.to_owned(), rule));
                }
                return Ok(());
            }
            if !unchanged {
                self.new_directory(rel, metadata);
            }
            // `unsafe_transition` in systemd: below a directory of one user it does not enter that of another.
            if parent_uid != 0 && parent_uid != metadata.uid() {
                if fs::read_dir(self.var.join(below_var(rel)))?.next().is_some() {
                    let reason = "systemd-tmpfiles does not enter it: it belongs to another user than its parent";
                    self.unclassified(format!("{rel}/*"), reason, false);
                }
                return Ok(());
            }
            return self.directory(rel, metadata.uid());
        }
        if unchanged {
            return Ok(());
        }
        if metadata.is_symlink() {
            self.new_link(rel, rule)
        } else if metadata.is_file() {
            self.new_file(rel, metadata, rule)
        } else {
            let kind = metadata.file_type();
            let what = if kind.is_socket() {
                "socket"
            } else if kind.is_fifo() {
                "fifo"
            } else {
                "device"
            };
            let reason = format!("a {what}; its program makes it when it starts");
            self.report.dropped.push(Dropped { path: rel.to_owned(), kind: DropKind::Special, reason });
            Ok(())
        }
    }

    fn new_directory(&mut self, rel: &str, metadata: &Metadata) {
        let Some((user, group)) = self.owner(rel, metadata) else { return };
        let path = format!("/{rel}");
        let mode = metadata.mode() & 0o7777;
        let line = Line::directory(&path, mode, &user, &group);
        match self.existing.creator(&path) {
            None => {
                self.note_acl(rel);
                self.report.lines.push(line);
            }
            Some((file, made)) => {
                let file = file.to_owned();
                let differs = (&made.mode, &made.user, &made.group) != (&line.mode, &line.user, &line.group);
                // Of two lines that make a directory the first file counts, and the base's comes first; a package's
                // own line is its maintainer's word and is applied on every boot anyway.
                if differs && made.letter() == 'd' && file.starts_with("apt-ostree-") && !path.contains(['*', '?', '['])
                {
                    self.report.lines.push(Line::adjust(&path, mode, &user, &group));
                } else {
                    self.report.covered.push((rel.to_owned(), file));
                }
            }
        }
    }

    fn new_link(&mut self, rel: &str, rule: Option<&'static Rule>) -> Result<()> {
        let dropping = |r: &&Rule| !matches!(r.action, RuleAction::Log | RuleAction::Keep);
        if let Some(rule) = rule.filter(dropping) {
            self.report.dropped.push(Dropped::by(rel.to_owned(), rule));
            return Ok(());
        }
        let target = fs::read_link(self.var.join(below_var(rel))).context(|| format!("Reading the link /{rel}"))?;
        let Some(target) = target.to_str().filter(|t| !t.contains('\n') && t.trim() == *t) else {
            self.unclassified(rel.to_owned(), "its target cannot stand in tmpfiles.d", false);
            return Ok(());
        };
        let path = format!("/{rel}");
        match self.existing.creator(&path) {
            None => self.report.lines.push(Line::link(&path, target, false)),
            Some((file, made)) => {
                let file = file.to_owned();
                let same = made.letter() == 'L' && made.argument.as_deref() == Some(target);
                // /run/lock and ../run/lock are the same place to whoever opens it.
                let alike = made.letter() == 'L'
                    && made.argument.as_deref().is_some_and(|a| absolute(rel, a) == absolute(rel, target));
                if same || alike || !file.starts_with("apt-ostree-") {
                    self.report.covered.push((rel.to_owned(), file));
                } else {
                    self.unclassified(rel.to_owned(), &format!("{file} makes something else there"), false);
                }
            }
        }
        Ok(())
    }

    fn new_file(&mut self, rel: &str, metadata: &Metadata, rule: Option<&'static Rule>) -> Result<()> {
        let source = self.var.join(below_var(rel));
        match rule {
            Some(rule) if rule.action == RuleAction::Log => {
                if metadata.size() == 0 || (metadata.uid(), metadata.gid()) != (0, 0) {
                    self.empty_file(rel, metadata);
                } else {
                    self.report.dropped.push(Dropped::by(rel.to_owned(), rule));
                }
                return Ok(());
            }
            Some(rule) if rule.action != RuleAction::Keep => {
                self.report.dropped.push(Dropped::by(rel.to_owned(), rule));
                return Ok(());
            }
            _ => {}
        }
        if metadata.size() == 0 {
            self.empty_file(rel, metadata);
            return Ok(());
        }
        let known = rule.is_some() || self.owned()?.contains(rel);
        if !known && has_private_key(&source)? {
            self.report.dropped.push(Dropped::secret(rel.to_owned(), "a private key made at installation"));
            return Ok(());
        }
        if !known && metadata.mode() & 0o077 == 0 {
            let reason = "made by a script, readable by its owner only: taken for a secret of the machine";
            self.report.dropped.push(Dropped::secret(rel.to_owned(), reason));
            return Ok(());
        }
        self.factory_file(rel, metadata, known)
    }

    fn empty_file(&mut self, rel: &str, metadata: &Metadata) {
        let Some((user, group)) = self.owner(rel, metadata) else { return };
        let path = format!("/{rel}");
        if let Some((file, _)) = self.existing.creator(&path) {
            self.report.covered.push((rel.to_owned(), file.to_owned()));
            return;
        }
        self.note_acl(rel);
        self.report.lines.push(Line::empty_file(&path, metadata.mode() & 0o7777, &user, &group));
    }

    fn factory_file(&mut self, rel: &str, metadata: &Metadata, known: bool) -> Result<()> {
        let Some((user, group)) = self.owner(rel, metadata) else { return Ok(()) };
        let source = self.var.join(below_var(rel));
        let factory = self.tree.join(FACTORY).join(rel);
        let path = format!("/{rel}");
        if self.existing.copied_from_above(&path).is_some() && same_content(&source, &factory)? {
            self.report.covered.push((rel.to_owned(), "a C line of a directory above".to_owned()));
            return Ok(());
        }
        let made = self.existing.creator(&path).map(|(file, line)| (file.to_owned(), line.clone()));
        if let Some((file, line)) = made {
            let ours = file.starts_with("apt-ostree-") && line.letter() == 'C' && line.argument.is_none();
            if !ours {
                self.report.covered.push((rel.to_owned(), file));
                return Ok(());
            }
            // The base's line stays in force; new machines get the new content.
            if same_content(&source, &factory)? {
                return Ok(());
            }
        } else {
            self.note_acl(rel);
            self.report.lines.push(Line::factory_copy(&path, metadata.mode() & 0o7777, &user, &group));
        }
        self.factory_parents(rel)?;
        copy_node(&source, &factory)?;
        self.report.factory.push(rel.to_owned());
        if !known {
            self.unclassified(rel.to_owned(), "content made by a script; every machine starts with it", true);
        }
        Ok(())
    }

    /// Makes the directories of the factory with the modes and owners they have in `/var`: what they hid stays hidden.
    fn factory_parents(&self, rel: &str) -> Result<()> {
        let root = self.tree.join(FACTORY);
        make_dir(&root.join("var"), 0o755)?;
        for (at, _) in rel.match_indices('/').skip(1) {
            let directory = &rel[..at];
            let target = root.join(directory);
            if fs::symlink_metadata(&target).is_ok() {
                continue;
            }
            let metadata = fs::symlink_metadata(self.var.join(below_var(directory)))?;
            make_dir(&target, 0o700)?;
            lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
        Ok(())
    }

    /// The owner by name; without names the path cannot be given to machines, where the number may be another's.
    fn owner(&mut self, rel: &str, metadata: &Metadata) -> Option<(String, String)> {
        let found = self.names.user(metadata.uid()).zip(self.names.group(metadata.gid()));
        if let Some((user, group)) = found {
            return Some((user.to_owned(), group.to_owned()));
        }
        let reason = format!("its owner {}:{} has no name in the tree", metadata.uid(), metadata.gid());
        self.unclassified(rel.to_owned(), &reason, false);
        None
    }

    fn unclassified(&mut self, path: String, reason: &str, kept: bool) {
        self.report.unclassified.push(Unclassified { path, reason: reason.to_owned(), kept });
    }

    /// Access control lists do not travel: systemd copies only `user.` attributes.
    fn note_acl(&mut self, rel: &str) {
        let path = self.var.join(below_var(rel));
        let lost = |name: &Vec<u8>| name.starts_with(b"system.posix_acl_") || name == b"security.capability";
        if xattr_names(&path).iter().any(lost) && !self.existing.sets_acl(&format!("/{rel}")) {
            self.unclassified(rel.to_owned(), "its access control list or capability is not carried over", true);
        }
    }

    fn owned(&self) -> Result<&BTreeSet<String>> {
        if self.owned.get().is_none() {
            let _ = self.owned.set(shipped_paths(self.tree, "/var/")?);
        }
        Ok(self.owned.get_or_init(BTreeSet::new))
    }
}

/// Drops from `usr/etc` what every machine must make for itself and what the build left behind
/// ([`layout::ETC_RULES`], private keys no package ships, and links to what was dropped).
/// `changed` (paths `etc/…`) limits it to those: a base image may ship a host name on purpose. `None` is for compose, before
/// files of the treefile are added; there an empty machine-id is made as well.
pub fn scrub_etc(tree: &Path, changed: Option<&BTreeSet<String>>) -> Result<Vec<Dropped>> {
    let etc = tree.join("usr/etc");
    let owned = OnceCell::new();
    let mut dropped: Vec<Dropped> = Vec::new();
    let mut links: Vec<(String, String)> = Vec::new();
    let mut pending = vec!["etc".to_owned()];
    while let Some(directory) = pending.pop() {
        for (rel, metadata) in entries(&tree.join("usr"), &directory)? {
            let path = tree.join("usr").join(&rel);
            if metadata.is_dir() {
                pending.push(rel);
                continue;
            }
            if metadata.is_symlink() {
                links.push((rel.clone(), fs::read_link(&path)?.to_string_lossy().into_owned()));
            }
            if changed.is_some_and(|c| !c.contains(&rel)) {
                continue;
            }
            if let Some(rule) = layout::rule_for(ETC_RULES, &rel) {
                match rule.action {
                    RuleAction::Empty if metadata.size() == 0 => continue,
                    RuleAction::DropUnlessLink if metadata.is_symlink() => continue,
                    RuleAction::Empty => empty(&path)?,
                    _ => remove(&path)?,
                }
                dropped.push(Dropped::by(rel, rule));
            } else if metadata.is_file() && has_private_key(&path)? {
                if owned.get().is_none() {
                    let _ = owned.set(shipped_paths(tree, "/etc/")?);
                }
                if !owned.get_or_init(BTreeSet::new).contains(&rel) {
                    remove(&path)?;
                    dropped.push(Dropped::secret(rel, "a private key made at installation"));
                }
            }
        }
    }
    let gone: BTreeSet<String> =
        dropped.iter().filter(|d| d.path != "etc/machine-id").map(|d| format!("/{}", d.path)).collect();
    for (rel, target) in links {
        if gone.contains(&absolute(&rel, &target)) && !gone.contains(&format!("/{rel}")) {
            remove(&tree.join("usr").join(&rel))?;
            let reason = format!("a link to {target}, which is not shipped");
            dropped.push(Dropped { path: rel, kind: DropKind::Rule, reason });
        }
    }
    let machine_id = etc.join("machine-id");
    if changed.is_none() && fs::symlink_metadata(&machine_id).is_err() {
        empty(&machine_id)?;
    }
    dropped.sort();
    Ok(dropped)
}

/// The tmpfiles.d files of a tree, without `own`.
fn existing_tmpfiles(tree: &Path, own: &str) -> Result<Existing> {
    let mut existing = Existing::default();
    for directory in ["usr/etc/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d"] {
        let directory = tree.join(directory);
        let Ok(list) = fs::read_dir(&directory) else { continue };
        for entry in list {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".conf") || name == own {
                continue;
            }
            let mut path = entry.path();
            if entry.file_type()?.is_symlink() {
                // A link to /dev/null masks the file of that name; another absolute one stays inside the tree.
                let target = fs::read_link(&path)?;
                path = match target.strip_prefix("/") {
                    Ok(inside) => tree.join(inside),
                    Err(_) => directory.join(target),
                };
            }
            let text = match fs::symlink_metadata(&path) {
                Ok(m) if m.is_file() => fs::read(&path).context(|| format!("Reading {}", path.display()))?,
                _ => Vec::new(),
            };
            existing.add(&name, &String::from_utf8_lossy(&text));
        }
    }
    Ok(existing)
}

/// What the packages of a tree ship below `prefix` (`/var/`), without the leading slash (dpkg's `info/*.list`).
fn shipped_paths(tree: &Path, prefix: &str) -> Result<BTreeSet<String>> {
    let info = tree.join(DPKG_ADMINDIR).join("info");
    let mut paths = BTreeSet::new();
    let Ok(list) = fs::read_dir(&info) else { return Ok(paths) };
    for entry in list {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "list") {
            let text = fs::read(&path).context(|| format!("Reading {}", path.display()))?;
            let text = String::from_utf8_lossy(&text);
            paths.extend(text.lines().filter(|l| l.starts_with(prefix)).map(|l| l[1..].to_owned()));
        }
    }
    Ok(paths)
}

/// Moves what stands in the place of a registry's link into the registry: a program replaced the link by a file
/// (update-shells does), or made its directory before the link was there.
fn adopt(registry: &Registry, path: &Path, tree: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path).context(|| format!("Reading {}", path.display()))?;
    let expected_dir = registry.kind == RegistryKind::Directory;
    if metadata.is_dir() != expected_dir {
        return Err(Error::failed(format!(
            "/{} is not a {}",
            registry.var,
            if expected_dir { "directory" } else { "file" }
        ))
        .hint(format!("It holds {}. Remove it and try again.", registry.what)));
    }
    let image = tree.join(registry.image);
    make_dir(parent_of(&image), 0o755)?;
    copy_node(path, &image).context(|| format!("Moving /{} to /{}", registry.var, registry.image))
}

/// Copies a file, a link or a whole directory with owner, mode and attributes, over what is there.
pub(super) fn copy_node(source: &Path, target: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(source).context(|| format!("Reading {}", source.display()))?;
    let there = fs::symlink_metadata(target).ok();
    if metadata.is_dir() {
        if !there.is_some_and(|m| m.is_dir()) {
            make_dir(target, 0o700)?;
        }
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            copy_node(&entry.path(), &target.join(entry.file_name()))?;
        }
    } else {
        if there.is_some() {
            remove(target)?;
        }
        if metadata.is_symlink() {
            symlink(fs::read_link(source)?, target).context(|| format!("Linking {}", target.display()))?;
            lchown(target, Some(metadata.uid()), Some(metadata.gid()))?;
            return Ok(());
        }
        if !metadata.is_file() {
            return Ok(());
        }
        fs::copy(source, target).context(|| format!("Copying {} to {}", source.display(), target.display()))?;
    }
    lchown(target, Some(metadata.uid()), Some(metadata.gid())).context(|| format!("Giving {}", target.display()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_xattrs(source, target)
}

fn copy_xattrs(source: &Path, target: &Path) -> Result<()> {
    for name in xattr_names(source) {
        let name = std::ffi::OsStr::from_bytes(&name);
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(source, name, &mut value[..])?;
        rustix::fs::lsetxattr(target, name, &value[..length], rustix::fs::XattrFlags::empty())
            .context(|| format!("Setting the attribute {} of {}", name.to_string_lossy(), target.display()))?;
    }
    Ok(())
}

/// The extended attributes that belong to a file; none where the file system has none.
fn xattr_names(path: &Path) -> Vec<Vec<u8>> {
    let mut list = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec);
    names
        .filter(|n| n.starts_with(b"user.") || n.starts_with(b"system.posix_acl_") || n == b"security.capability")
        .collect()
}

/// Whether the head of a file has the armour of a PEM or OpenSSH private key.
fn has_private_key(path: &Path) -> Result<bool> {
    let file = fs::File::open(path).context(|| format!("Reading {}", path.display()))?;
    let mut head = Vec::new();
    file.take(KEY_SEARCH_BYTES).read_to_end(&mut head).context(|| format!("Reading {}", path.display()))?;
    let mut lines = head.split(|b| *b == b'\n');
    Ok(lines.any(|l| l.starts_with(b"-----BEGIN ") && l.trim_ascii_end().ends_with(b"PRIVATE KEY-----")))
}

fn same_content(a: &Path, b: &Path) -> Result<bool> {
    match fs::symlink_metadata(b) {
        Ok(m) if m.is_file() && m.size() == fs::symlink_metadata(a)?.size() => Ok(fs::read(a)? == fs::read(b)?),
        _ => Ok(false),
    }
}

/// Where a link at `rel` (without leading slash) leads, by its text alone.
fn absolute(rel: &str, target: &str) -> String {
    let joined = match rel.rsplit_once('/') {
        Some((parent, _)) if !target.starts_with('/') => format!("{parent}/{target}"),
        _ => target.to_owned(),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The entries of `base/directory`, sorted, as `directory/NAME`. A missing directory has none; names that are not UTF-8
/// are none of ours.
fn entries(base: &Path, directory: &str) -> Result<Vec<(String, Metadata)>> {
    let path = base.join(directory);
    let list = match fs::read_dir(&path) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context(|| format!("Reading {}", path.display())),
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str() {
            found.push((format!("{directory}/{name}"), fs::symlink_metadata(entry.path())?));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// `var/lib` to `lib`, `var` to the empty path.
fn below_var(rel: &str) -> &str {
    rel.strip_prefix("var").map_or(rel, |rest| rest.trim_start_matches('/'))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Makes a directory of exactly this mode, its parents 0755. One that is there is left as it is.
fn make_dir(path: &Path, mode: u32) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    let what = || format!("Making the directory {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o755).create(parent_of(path)).context(what)?;
    fs::DirBuilder::new().mode(mode).create(path).context(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context(what)
}

fn remove(path: &Path) -> Result<()> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        .context(|| format!("Removing {}", path.display()))
}

/// An empty file in the place of what is there; never written through a hard link.
fn empty(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        remove(path)?;
    }
    write_new(path, b"", 0o644)
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|m| m.is_file()) && fs::read(path)? == text.as_bytes() {
        return Ok(());
    }
    make_dir(parent_of(path), 0o755)?;
    if fs::symlink_metadata(path).is_ok() {
        remove(path)?;
    }
    write_new(path, text.as_bytes(), 0o644)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let what = || format!("Writing {}", path.display());
    fs::write(path, content).context(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context(what)
}

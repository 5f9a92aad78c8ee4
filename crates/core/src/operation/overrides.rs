//! `override remove|replace|reset`: base packages that go, or that another version takes the place of.
//!
//! The origin keeps what was asked for (`[overrides]`). What of it bears on a given base is decided anew for every base
//! ([`Prepared`]): an override of a package that the base does not have, or has in that very version, is *inactive*, stays
//! in the origin and comes back to life with a later base.
//!
//! Debian's kernel packages have their version in their name, and a deployment boots one kernel. So an override that
//! brings a kernel image takes the place of every other `linux-image-*` of the base, those that only depend on the newest
//! one included.

use std::path::{Path, PathBuf};

use super::transaction::Transaction;
use super::{OverrideChange, Report};
use crate::error::{Error, ErrorKind, Result};
use crate::model::origin::{LocalPackage, Origin, RemoteOverride};
use crate::model::package::PackageId;
use crate::model::request::{PackageRequest, Selector};
use crate::plan::{self, ActiveOverride, Overrides};
use crate::source::SolveTask;

pub fn execute(transaction: &mut Transaction<'_>, change: &OverrideChange) -> Result<Report> {
    let pending = transaction.pending()?;
    let mut origin = pending.origin()?;
    let before = origin.clone();
    let base = transaction.base_of(&pending)?;
    let packages = transaction.repo.packages(&base.checksum)?;
    if change.reset_all {
        clear(&mut origin);
    }
    for name in &change.reset {
        // In the words that made the override, or in the ones that the origin has.
        let key = find(&origin, &packages, name).map(|id| request_key(&packages, id)).ok();
        reset(&mut origin, name).or_else(|e| key.map_or(Err(e), |key| reset(&mut origin, &key)))?;
    }
    transaction.change_requests(&mut origin, &change.packages)?;
    for name in &change.remove {
        remove(&mut origin, &packages, name)?;
    }
    for text in &change.replace {
        replace(&mut origin, &packages, text, change.from.as_deref())?;
    }
    for path in &change.replace_local {
        let local = transaction.keep_local(path)?;
        replace_local(&mut origin, &packages, local)?;
    }
    origin.normalise();
    if origin == before {
        return Ok(Report { lines: vec!["No change.".into()], ..Report::default() });
    }
    let mut report = transaction.make_deployment(&origin, &base.checksum, &change.packages, false)?;
    if !report.changed && report.lines.is_empty() {
        report.lines.push("No change.".into());
    }
    Ok(report)
}

/// Drops every override.
pub fn clear(origin: &mut Origin) {
    origin.override_remove.clear();
    origin.override_replace_local.clear();
    origin.override_replace.clear();
}

/// Drops the overrides of a package: `name`, `name:arch`, or the NEVRA of a local one.
fn reset(origin: &mut Origin, name: &str) -> Result<()> {
    let before = origin.clone();
    let plain = |text: &str| text.split(':').next().is_some_and(|n| n == name) || text == name;
    origin.override_remove.retain(|r| !plain(r));
    origin.override_replace_local.retain(|l| {
        let id = &l.id;
        ![id.name.clone(), id.nevra(), format!("{}:{}", id.name, id.arch), id.to_string()].iter().any(|n| n == name)
    });
    for entry in &mut origin.override_replace {
        entry.packages.retain(|p| !plain(p));
    }
    origin.override_replace.retain(|entry| !entry.packages.is_empty());
    if *origin == before {
        return Err(Error::new(ErrorKind::NotFound, format!("No overrides for package '{name}'"))
            .hint("`apt-ostree status -v` shows the overrides, inactive ones as well."));
    }
    Ok(())
}

fn remove(origin: &mut Origin, base: &[PackageId], name: &str) -> Result<()> {
    let key = request_key(base, find(origin, base, name)?);
    let replaced = origin.override_replace_local.iter().any(|l| request_key(base, &l.id) == key)
        || origin.override_replace.iter().any(|r| r.packages.contains(&key));
    if replaced || origin.override_remove.contains(&key) {
        return Err(Error::usage(format!("Override already exists for package '{key}'"))
            .hint(format!("Undo it first: apt-ostree override reset {key}")));
    }
    origin.override_remove.push(key);
    Ok(())
}

/// By a version or a suite of an archive.
fn replace(origin: &mut Origin, base: &[PackageId], text: &str, from: Option<&str>) -> Result<()> {
    let request = PackageRequest::parse(text)?;
    let source = match (&request.selector, from) {
        (Selector::Any, Some(from)) => from.to_owned(),
        (Selector::Version(version), None) => format!("version={version}"),
        (Selector::Suite(suite), None) => format!("suite={suite}"),
        (Selector::Any, None) => {
            return Err(Error::usage(format!("Which version of {text} is to replace the base's?")).hint(format!(
                "Name it: {text}=VERSION, --from suite=SUITE {text}, or the path of a .deb (./{text}.deb)."
            )));
        }
        _ => {
            return Err(Error::usage(format!("'{text}' and --from both say where to take the package from"))
                .hint("Keep one of them."));
        }
    };
    let key = if is_other_kernel(base, &request.name) {
        request.target()
    } else {
        let id = find(origin, base, &request.target())?;
        if matches!(&request.selector, Selector::Version(v) if *v == id.version) {
            return Err(same_version(id));
        }
        request_key(base, id)
    };
    let entry = RemoteOverride { source, packages: vec![key.clone()] };
    entry.requests()?;
    take_place(origin, base, &key)?;
    origin.override_replace.push(entry);
    Ok(())
}

fn replace_local(origin: &mut Origin, base: &[PackageId], local: LocalPackage) -> Result<()> {
    let key = request_key(base, &local.id);
    if !is_other_kernel(base, &local.id.name) {
        let id = find(origin, base, &key)?;
        if id.version == local.id.version {
            return Err(same_version(id));
        }
    }
    take_place(origin, base, &key)?;
    origin.override_replace_local.push(local);
    Ok(())
}

/// A replacement takes the place of an earlier one; a removal stands against it.
fn take_place(origin: &mut Origin, base: &[PackageId], key: &str) -> Result<()> {
    if origin.override_remove.iter().any(|r| r == key) {
        return Err(Error::usage(format!("Override already exists for package '{key}'"))
            .hint(format!("It is removed; undo that first: apt-ostree override reset {key}")));
    }
    origin.override_replace_local.retain(|l| request_key(base, &l.id) != key);
    for entry in &mut origin.override_replace {
        entry.packages.retain(|p| p != key);
    }
    // A deployment has one kernel, whatever its package is called: the last override of one counts.
    let name = |key: &str| key.split(':').next().unwrap_or(key).to_owned();
    if plan::is_kernel(&name(key)) {
        origin.override_replace_local.retain(|l| !plan::is_kernel(&l.id.name));
        for entry in &mut origin.override_replace {
            entry.packages.retain(|p| !plan::is_kernel(&name(p)));
        }
    }
    origin.override_replace.retain(|entry| !entry.packages.is_empty());
    Ok(())
}

fn same_version(id: &PackageId) -> Error {
    Error::usage(format!("The base has {} in this version already", id.nevra())).hint("Nothing would be replaced.")
}

/// The package of the base that `name`, `name:arch` or a NEVRA means.
fn find<'b>(origin: &Origin, base: &'b [PackageId], name: &str) -> Result<&'b PackageId> {
    let native = native_arch(base);
    let exact = base.iter().find(|id| id.dpkg_name(native) == name || id.nevra() == name);
    let with_arch = || {
        let (plain, arch) = name.split_once(':')?;
        base.iter().find(|id| id.name == plain && (id.arch == arch || id.arch == "all"))
    };
    let found = exact.or_else(with_arch).or_else(|| base.iter().find(|id| id.name == name));
    found.ok_or_else(|| {
        let error = Error::new(ErrorKind::NotFound, format!("Package \"{name}\" not found"));
        let layered = origin.requested.iter().any(|r| PackageRequest::parse(r).is_ok_and(|r| r.name == name))
            || origin.requested_local.iter().any(|l| l.id.name == name || l.id.nevra() == name);
        if layered {
            return error.hint(format!("It is layered, not part of the base: apt-ostree uninstall {name}"));
        }
        error.hint("Overrides are for packages of the base; `apt-ostree list --base` lists those.")
    })
}

/// How the origin names a package of the base: with the architecture where it is a foreign one.
fn request_key(base: &[PackageId], id: &PackageId) -> String {
    id.dpkg_name(native_arch(base))
}

fn native_arch(base: &[PackageId]) -> &str {
    base.iter().find(|id| id.name == "dpkg").map_or("", |id| id.arch.as_str())
}

/// A kernel image that the base does not have, while it has another one.
fn is_other_kernel(base: &[PackageId], name: &str) -> bool {
    plan::is_kernel(name) && base.iter().all(|id| id.name != name) && base.iter().any(|id| plan::is_kernel(&id.name))
}

/// What the overrides of an origin come to on one base.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Of the base, in dpkg's names.
    remove: Vec<String>,
    replace: Vec<PackageRequest>,
    replace_local: Vec<PathBuf>,
    /// A kernel under a name that the base does not have.
    install: Vec<PackageRequest>,
    install_local: Vec<PathBuf>,
    pub plan: Overrides,
}

impl Prepared {
    /// `kept` gives the path of a local package; an error where it is gone.
    pub fn new(origin: &Origin, base: &[PackageId], kept: &dyn Fn(&LocalPackage) -> Result<PathBuf>) -> Result<Self> {
        let mut prepared = Self::default();
        let in_base = |name: &str, arch: Option<&str>| {
            let fits = |id: &&PackageId| match arch {
                Some(arch) => id.arch == arch || id.arch == "all" || arch == "all",
                None => id.arch == native_arch(base) || id.arch == "all",
            };
            base.iter().find(|id| id.name == name && fits(id))
        };
        for name in &origin.override_remove {
            let (plain, arch) = name.split_once(':').map_or((name.as_str(), None), |(n, a)| (n, Some(a)));
            match in_base(plain, arch) {
                Some(_) => prepared.remove.push(name.clone()),
                None => prepared.inactive(format!("removal of {name} (not in the base)")),
            }
        }
        for local in &origin.override_replace_local {
            let id = &local.id;
            match in_base(&id.name, Some(&id.arch)) {
                Some(there) if there.version == id.version => {
                    prepared.inactive(format!("{} (the base has this version)", id.nevra()));
                    continue;
                }
                Some(_) => prepared.replace_local.push(kept(local)?),
                None if is_other_kernel(base, &id.name) => prepared.install_local.push(kept(local)?),
                None => {
                    prepared.inactive(format!("{} (the base does not have {})", id.nevra(), id.name));
                    continue;
                }
            }
            prepared.activate(None, &id.name, Some(&id.arch), base);
        }
        for entry in &origin.override_replace {
            for request in entry.requests()? {
                let same = |id: &PackageId| matches!(&request.selector, Selector::Version(v) if *v == id.version);
                match in_base(&request.name, request.arch.as_deref()) {
                    Some(there) if same(there) => {
                        prepared.inactive(format!("{} (the base has this version)", there.nevra()));
                        continue;
                    }
                    Some(_) => prepared.replace.push(request.clone()),
                    None if is_other_kernel(base, &request.name) => prepared.install.push(request.clone()),
                    None => {
                        let target = request.target();
                        prepared.inactive(format!("{target} from {} (the base does not have it)", entry.source));
                        continue;
                    }
                }
                prepared.activate(Some(&entry.source), &request.name, request.arch.as_deref(), base);
            }
        }
        Ok(prepared)
    }

    fn inactive(&mut self, what: String) {
        self.plan.inactive.push(what);
    }

    fn activate(&mut self, source: Option<&str>, name: &str, arch: Option<&str>, base: &[PackageId]) {
        self.plan.replace.push(ActiveOverride {
            source: source.map(ToOwned::to_owned),
            name: name.to_owned(),
            arch: arch.filter(|a| *a != "all").map(ToOwned::to_owned),
        });
        if plan::is_kernel(name) {
            for other in base.iter().filter(|id| plan::is_kernel_or_meta(&id.name) && id.name != name) {
                let other = request_key(base, other);
                if !self.remove.contains(&other) {
                    self.remove.push(other);
                }
            }
        }
    }

    pub fn add_to(&self, task: &mut SolveTask) {
        task.remove.extend(self.remove.iter().cloned());
        task.replace.extend(self.replace.iter().cloned());
        task.replace_local.extend(self.replace_local.iter().cloned());
        task.install.extend(self.install.iter().cloned());
        task.local.extend(self.install_local.iter().cloned());
    }

    /// After the solver has told which replacements from suites are the base's version.
    pub fn settle(mut self, idle: &[(PackageRequest, PackageId)]) -> Overrides {
        for (request, id) in idle {
            self.plan.replace.retain(|o| o.name != request.name || o.arch != request.arch);
            self.plan.inactive.push(format!("{} (the base has this version)", id.nevra()));
        }
        self.plan
    }
}

/// Where a local package lies in the sysroot. `NotFound` when it is gone.
pub fn kept_path(local_dir: &Path, local: &LocalPackage, undo: &str) -> Result<PathBuf> {
    let path = local_dir.join(format!("{}.deb", local.sha256));
    if path.exists() {
        return Ok(path);
    }
    Err(Error::new(ErrorKind::NotFound, format!("The local package {} is no longer kept in the sysroot", local.id))
        .hint(format!("Drop the request: apt-ostree {undo} {}", local.id.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Vec<PackageId> {
        vec![
            PackageId::new("dpkg", "1.22", "amd64"),
            PackageId::new("less", "668-1", "amd64"),
            PackageId::new("libc6", "2.41-1", "amd64"),
            PackageId::new("libc6", "2.41-1", "i386"),
            PackageId::new("linux-image-6.1-amd64", "6.1-1", "amd64"),
            PackageId::new("linux-image-amd64", "6.1-1", "amd64"),
            PackageId::new("tzdata", "2025a", "all"),
        ]
    }

    fn local(name: &str, version: &str, arch: &str) -> LocalPackage {
        LocalPackage { sha256: "ab".repeat(32), id: PackageId::new(name, version, arch) }
    }

    fn prepared(origin: &Origin, base: &[PackageId]) -> Prepared {
        Prepared::new(origin, base, &|l| Ok(l.id.name.clone().into())).unwrap()
    }

    #[test]
    fn what_is_not_in_the_base_cannot_be_overridden() {
        let mut origin = Origin::for_refspec("a:b");
        origin.requested.push("htop".into());
        let error = remove(&mut origin, &base(), "htop").unwrap_err();
        assert_eq!(error.to_string(), "Package \"htop\" not found");
        assert!(error.hints[0].contains("uninstall htop"), "{error:?}");
        assert!(replace(&mut origin, &base(), "less", None).is_err(), "no version");
        assert!(replace(&mut origin, &base(), "less=668-1", None).is_err(), "the base's own version");
        assert!(replace(&mut origin, &base(), "less=1", Some("suite=x")).is_err(), "two sources");
        assert!(replace(&mut origin, &base(), "less", Some("sid")).is_err(), "no kind");
        assert!(replace_local(&mut origin, &base(), local("htop", "1", "amd64")).is_err());
        assert!(!origin.has_overrides());
    }

    #[test]
    fn one_override_a_package() {
        let mut origin = Origin::for_refspec("a:b");
        remove(&mut origin, &base(), "less").unwrap();
        assert!(remove(&mut origin, &base(), "less").is_err());
        assert!(replace(&mut origin, &base(), "less=1", None).is_err());
        reset(&mut origin, "less").unwrap();
        replace(&mut origin, &base(), "less=1", None).unwrap();
        replace_local(&mut origin, &base(), local("less", "2", "amd64")).unwrap();
        assert!(origin.override_replace.is_empty(), "the later one holds");
        replace(&mut origin, &base(), "less", Some("repo=Debian/sid")).unwrap();
        assert!(origin.override_replace_local.is_empty());
        replace(&mut origin, &base(), "libc6:i386=2", None).unwrap();
        assert_eq!(origin.override_replace[1].to_string(), "version=2,libc6:i386");
        assert_eq!(reset(&mut origin, "vim").unwrap_err().to_string(), "No overrides for package 'vim'");
        reset(&mut origin, "libc6").unwrap();
        reset(&mut origin, "less").unwrap();
        assert!(!origin.has_overrides());
    }

    #[test]
    fn inactive_on_a_base_that_is_otherwise() {
        let mut origin = Origin::for_refspec("a:b");
        remove(&mut origin, &base(), "tzdata").unwrap();
        replace(&mut origin, &base(), "less=670", None).unwrap();
        replace_local(&mut origin, &base(), local("libc6", "3", "i386")).unwrap();
        let active = prepared(&origin, &base());
        assert_eq!((active.remove.len(), active.replace.len(), active.replace_local.len()), (1, 1, 1));
        assert!(active.plan.inactive.is_empty());
        let later = vec![PackageId::new("dpkg", "1.22", "amd64"), PackageId::new("less", "670", "amd64")];
        let later = prepared(&origin, &later);
        assert!(later.remove.is_empty() && later.replace.is_empty() && later.replace_local.is_empty());
        assert_eq!(
            later.plan.inactive,
            [
                "removal of tzdata (not in the base)",
                "libc6-3.i386 (the base does not have libc6)",
                "less-670.amd64 (the base has this version)"
            ]
        );
    }

    #[test]
    fn a_kernel_takes_the_place_of_the_kernel() {
        let mut origin = Origin::for_refspec("a:b");
        replace_local(&mut origin, &base(), local("linux-image-6.2-amd64", "6.2-1", "amd64")).unwrap();
        let now = prepared(&origin, &base());
        assert_eq!(now.remove, ["linux-image-6.1-amd64", "linux-image-amd64"]);
        assert_eq!(now.install_local, [PathBuf::from("linux-image-6.2-amd64")]);
        // A later base has this kernel itself.
        let mut later = base();
        later[4] = PackageId::new("linux-image-6.2-amd64", "6.2-1", "amd64");
        let later = prepared(&origin, &later);
        assert!(later.remove.is_empty() && later.install_local.is_empty());
    }
}

//! Switches an apt source of the machine on or off, in its /etc/apt: the running system's, or of the deployment whose /etc the
//! next one gets.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Report;
use super::transaction::Transaction;
use crate::compose::input::{self, NamedSource};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::sources::switch;
use crate::sysroot::Sysroot;

/// The apt sources of the machine: what `ListRepos` lists.
pub fn sources(sysroot: &Sysroot, stateroot: &str) -> Result<Vec<NamedSource>> {
    match etc_apt(sysroot, stateroot) {
        Some(etc) => input::named_sources(&etc),
        None => Ok(Vec::new()),
    }
}

/// Changes the file of the source; the indexes follow with the next refresh.
pub fn execute(transaction: &mut Transaction<'_>, id: &str, enabled: bool) -> Result<Report> {
    let all = sources(&transaction.sysroot, &transaction.stateroot)?;
    let Some(named) = all.iter().find(|s| s.id == id) else {
        let known = all.iter().map(|s| s.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::new(ErrorKind::NotFound, format!("There is no apt source '{id}' in /etc/apt"))
            .hint(format!("There is: {}", if known.is_empty() { "none" } else { &known })));
    };
    let etc = etc_apt(&transaction.sysroot, &transaction.stateroot).unwrap_or_default();
    let shown = Path::new("/etc/apt").join(named.path.strip_prefix(&etc).unwrap_or(&named.path));
    let word = if enabled { "on" } else { "off" };
    if named.source.enabled == enabled {
        return Ok(Report { lines: vec![format!("The apt source {id} is {word} already")], ..Report::default() });
    }
    refuse_links(&etc, &named.path, &shown)?;
    let text = std::fs::read(&named.path).context(|| format!("Reading {}", shown.display()))?;
    let by_hand = || format!("Set `Enabled:` of it in {} by hand (sources.list(5)).", shown.display());
    let text = String::from_utf8(text)
        .map_err(|_| Error::failed(format!("{} is not UTF-8", shown.display())).hint(by_hand()))?;
    let text = switch::switch(&text, named.format, named.index, enabled)
        .context(|| format!("Switching the apt source {id} {word} in {}", shown.display()))
        .map_err(|e| e.hint(by_hand()))?;
    replace(&named.path, &text).context(|| format!("Writing {}", shown.display()))?;
    let line = format!("Switched {word} the apt source {id} in {}", shown.display());
    Ok(Report { changed: true, lines: vec![line], ..Report::default() })
}

fn etc_apt(sysroot: &Sysroot, stateroot: &str) -> Option<PathBuf> {
    let deployment = sysroot.merge_deployment(stateroot)?;
    Some(sysroot.directory(&deployment).join("etc/apt"))
}

/// What a link leads to may be the image's, or anybody's; and a file put in its place would not be the link any more.
fn refuse_links(etc: &Path, path: &Path, shown: &Path) -> Result<()> {
    for part in path.ancestors().take_while(|part| part.starts_with(etc)) {
        if let Ok(target) = std::fs::read_link(part) {
            let (link, to) = (Path::new("/etc/apt").join(part.strip_prefix(etc).unwrap_or(part)), target.display());
            let (what, link) =
                (if to.to_string().contains("usr/") { ", a part of the image" } else { "" }, link.display());
            return Err(Error::usage(format!("{} is not changed: {link} is a link to {to}{what}", shown.display()))
                .hint("Put a file of its own in the place of the link, which is this machine's then."));
        }
    }
    Ok(())
}

/// All or nothing, with owner, mode and attributes of the file that was there.
fn replace(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let old = std::fs::File::open(path)?;
    let metadata = old.metadata()?;
    // apt reads no file whose name begins so.
    let mut new = tempfile::Builder::new().prefix(".apt-ostree-").tempfile_in(folder)?;
    new.write_all(text.as_bytes())?;
    std::os::unix::fs::fchown(new.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    new.as_file().set_permissions(std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_attributes(path, new.path())?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        rustix::fs::lsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sources");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        replace(&path, "new").unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino(), "readers see the old file or the new one, never a part");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc/apt");
        std::fs::create_dir_all(etc.join("sources.list.d")).unwrap();
        let (link, file) = (etc.join("sources.list.d/a.sources"), etc.join("sources.list.d/b.sources"));
        std::os::unix::fs::symlink("/usr/share/a.sources", &link).unwrap();
        std::fs::write(&file, "").unwrap();
        let e = refuse_links(&etc, &link, Path::new("/etc/apt/sources.list.d/a.sources")).unwrap_err().to_string();
        assert!(
            e.contains("/etc/apt/sources.list.d/a.sources is a link to /usr/share/a.sources, a part of the image"),
            "{e}"
        );
        refuse_links(&etc, &file, &file).unwrap();
    }
}

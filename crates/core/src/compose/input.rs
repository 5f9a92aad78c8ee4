//! The input of a compose, from disk: the treefile with all it includes and names, and the archives to use.
//!
//! Opens files for reading only. What they mean is [`crate::model::treefile`]'s and [`crate::model::sources`]'s.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::sources::switch::{self, Format};
use crate::model::sources::{self, Source, VENDORS, Vendor};
use crate::model::treefile::{self, CheckAccounts, FileText, Reader, Treefile};

/// A treefile is text written by hand; anything larger is some other file.
const MAX_SIZE: u64 = 16 << 20;

/// A treefile as loaded from disk.
#[derive(Clone, Debug)]
pub struct Input {
    pub treefile: Treefile,
    /// Keys that were ignored, and why; each a line for the user.
    pub warnings: Vec<String>,
    /// The treefile and everything it includes, in the order of reading.
    pub files: Vec<PathBuf>,
    /// Lower case hex SHA256 of all that a treefile contributes to the result: the flattened treefile, and content and
    /// permissions of the files it names. Where those files lie, and the keys that verify archives, are not in it.
    pub digest: String,
}

/// Loads a treefile for the dpkg architecture `arch`. Opens everything it names, so that a missing file is
/// reported before any work begins.
pub fn load(path: &Path, arch: &str) -> Result<Input> {
    let base = std::path::absolute(".").context(|| "Finding the current directory")?;
    let loaded = treefile::load(path, &base, arch, &mut Disk)?;
    let digest = digest_of(&loaded.treefile).context(|| "Reading the files that the treefile names")?;
    Ok(Input { treefile: loaded.treefile, warnings: loaded.warnings, files: loaded.files, digest })
}

/// The real files.
struct Disk;

impl Reader for Disk {
    fn read(&mut self, path: &Path) -> Result<FileText> {
        let meta = regular(path)?;
        if meta.len() > MAX_SIZE {
            return Err(Error::usage("it is too large to be a treefile"));
        }
        let bytes = fs::read(path)?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|c| **c == b'\n').count();
            Error::usage(format!("line {line} is not UTF-8"))
        })?;
        Ok(FileText { text, identity: (meta.dev(), meta.ino()) })
    }

    fn probe(&mut self, path: &Path) -> Result<()> {
        regular(path)?;
        fs::File::open(path)?;
        Ok(())
    }
}

/// The metadata of a regular file, links followed. Asked before opening, since opening a FIFO would block.
fn regular(path: &Path) -> Result<fs::Metadata> {
    let meta = fs::metadata(path)?;
    if meta.is_file() { Ok(meta) } else { Err(Error::usage("it is not a regular file")) }
}

/// See [`Input::digest`].
fn digest_of(treefile: &Treefile) -> Result<String> {
    let mut value = serde_json::to_value(treefile)?;
    let mut files = Vec::new();
    for file in &treefile.add_files {
        let mode = fs::metadata(&file.source).context(|| file.source.display().to_string())?.permissions().mode();
        files.push(json!([file.dest, format!("{:04o}", mode & 0o7777), digest::of_file(&file.source)?]));
    }
    value["add-files"] = files.into();
    if let Some(script) = &treefile.postprocess_script {
        value["postprocess-script"] = digest::of_file(script)?.into();
    }
    for (key, check) in [("check-passwd", &treefile.check_passwd), ("check-groups", &treefile.check_groups)] {
        if let CheckAccounts::File { filename } = check {
            value[key] = digest::of_file(filename)?.into();
        }
    }
    for key in ["repos", "compose-repos"] {
        for source in value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(fields) = source.as_object_mut() {
                fields.shift_remove("Signed-By");
            }
        }
    }
    Ok(digest::of_bytes(value.to_string().as_bytes()))
}

/// The archives to compose from: the treefile's `repos`, else those of the machine below `host` (normally `/`)
/// turned to the treefile's `releasever`. `Signed-By` is absolute on this machine. Not in here: `compose-repos`, as what
/// this returns is what a tree without sources of its own is given.
pub fn archives(treefile: &Treefile, host: &Path) -> Result<Vec<Source>> {
    if !treefile.repos.is_empty() {
        return Ok(treefile.repos.clone());
    }
    let Some(suite) = &treefile.releasever else {
        return Err(Error::usage(
            "The treefile has neither 'repos' nor 'releasever', so there is no archive to compose from",
        )
        .hint("Add the codename to compose, for example 'releasever: trixie'."));
    };
    let mut sources = host_sources(host, suite)?;
    for source in &mut sources {
        source.expand_arch(&treefile.basearch);
    }
    Ok(sources)
}

/// The apt sources of the machine below `host`, turned to `suite` as [`sources::for_suite`] says.
pub fn host_sources(host: &Path, suite: &str) -> Result<Vec<Source>> {
    let release = os_release(host)?;
    let field = |name: &str| release.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let (id, like) = (field("ID").unwrap_or_default(), field("ID_LIKE").unwrap_or_default());
    let hint = "Give 'repos' in the treefile.";
    let Some(vendor) = vendor(id, like) else {
        return Err(
            Error::usage(format!("This machine runs '{id}', whose apt sources tell nothing about {suite}")).hint(hint)
        );
    };
    let Some(codename) = field("VERSION_CODENAME").or(field("UBUNTU_CODENAME")) else {
        return Err(
            Error::usage("os-release names no VERSION_CODENAME, so this machine's own suite is unknown").hint(hint)
        );
    };
    let mut all = Vec::new();
    for (path, found) in read_sources(&host.join("etc/apt"))? {
        all.extend(found.context(|| format!("Reading {}", path.display()))?);
    }
    for source in &mut all {
        source.map_keyrings(|path| below(host, path));
        source.uris = source.uris.iter().map(|uri| first_mirror(host, uri)).collect();
    }
    let keyring = below(host, Path::new(vendor.keyring));
    sources::for_suite(vendor, codename, &all, suite, keyring.exists().then_some(keyring.as_path()))
}

/// `mirror+file:/PATH` as the first address in that file, which apt tries first (apt-transport-mirror(1)). Debian's cloud
/// images have such sources, and the file is neither in a tree nor on the machines it comes to.
fn first_mirror(host: &Path, uri: &str) -> String {
    let Some(path) = uri.strip_prefix("mirror+file:") else { return uri.to_owned() };
    let path = below(host, Path::new(&format!("/{}", path.trim_start_matches('/'))));
    let list = fs::read_to_string(path).unwrap_or_default();
    let first = list.lines().filter(|l| !l.starts_with('#')).find_map(|l| l.split_whitespace().next());
    first.unwrap_or(uri).to_owned()
}

/// An apt source of a machine, on or off.
#[derive(Clone, Debug)]
pub struct NamedSource {
    /// The name of its file without the ending, numbered (`debian:2`) where the file has several. Where two files would have one name
    /// it is the path below /etc/apt.
    pub id: String,
    pub path: PathBuf,
    pub format: Format,
    /// Which one of its file.
    pub index: usize,
    pub source: Source,
}

/// All apt sources of an /etc/apt, also those that are switched off.
pub fn named_sources(etc: &Path) -> Result<Vec<NamedSource>> {
    let mut files = Vec::new();
    for path in source_files(etc)? {
        let (text, format) = read_source_file(&path)?;
        let found = switch::entries(&text, format).context(|| format!("Reading {}", path.display()))?;
        if !found.is_empty() {
            files.push((path, format, found));
        }
    }
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut all = Vec::new();
    for (path, format, found) in &files {
        let alone = files.iter().filter(|(other, ..)| stem(other) == stem(path)).count() == 1;
        let below = path.strip_prefix(etc).unwrap_or(path).display();
        let name = if alone { stem(path) } else { below.to_string() };
        for (index, source) in found.iter().enumerate() {
            let id = if found.len() > 1 { format!("{name}:{}", index + 1) } else { name.clone() };
            all.push(NamedSource { id, path: path.clone(), format: *format, index, source: source.clone() });
        }
    }
    Ok(all)
}

/// Distributions that only add to Debian keep its codename and archive; their ID_LIKE says so.
fn vendor(id: &str, like: &str) -> Option<&'static Vendor> {
    std::iter::once(id).chain(like.split_whitespace()).find_map(|id| VENDORS.iter().find(|v| v.id == id))
}

/// The apt sources of a system tree (`/etc/apt` of a deployment, `/usr/etc/apt` of a commit) for the solver: the enabled ones
/// with .debs, `$(ARCH)` replaced, `Signed-By` as a path on this machine.
pub fn tree_sources(tree: &Path, arch: &str) -> Result<Vec<Source>> {
    // A deployment has both: /etc is the machine's, and that is what its administrator edits.
    let etc = [tree.join("etc/apt"), tree.join("usr/etc/apt")];
    let etc = if etc[0].is_dir() { &etc[0] } else { &etc[1] };
    let mut all = Vec::new();
    for (path, found) in read_sources(etc)? {
        for mut source in found.context(|| format!("Reading {}", path.display()))? {
            if !source.provides_debs() {
                continue;
            }
            source.types.retain(|t| t == "deb");
            source.expand_arch(arch);
            source.map_keyrings(|keyring| tree_path(tree, keyring));
            if let Some(missing) = source.keyrings().iter().find(|k| !k.exists()) {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{}: the keyring {} does not exist", path.display(), missing.display()),
                )
                .hint("Correct or disable this source; its packages could not be verified."));
            }
            all.push(source);
        }
    }
    Ok(all)
}

/// A path of a running system as it lies in its tree: /etc of a commit is below usr.
fn tree_path(tree: &Path, path: &Path) -> PathBuf {
    let plain = below(tree, path);
    match path.strip_prefix("/etc") {
        Ok(rest) if !plain.exists() => tree.join("usr/etc").join(rest),
        _ => plain,
    }
}

fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix("/").map_or_else(|_| path.to_owned(), |rest| root.join(rest))
}

/// One file of sources and what is in it.
type SourcesFile = (PathBuf, Result<Vec<Source>>);

fn read_sources(etc: &Path) -> Result<Vec<SourcesFile>> {
    let read = |path: PathBuf| {
        let (text, format) = read_source_file(&path)?;
        let parsed = match format {
            Format::Deb822 => sources::parse_deb822(&text),
            Format::Lines => sources::parse_list(&text),
        };
        Ok((path, parsed))
    };
    source_files(etc)?.into_iter().map(read).collect()
}

fn read_source_file(path: &Path) -> Result<(String, Format)> {
    let text = fs::read(path).context(|| format!("Reading {}", path.display()))?;
    let format = if path.extension().is_some_and(|e| e == "sources") { Format::Deb822 } else { Format::Lines };
    Ok((String::from_utf8_lossy(&text).into_owned(), format))
}

/// The files apt reads, in its order: `sources.list`, then `*.list` and `*.sources` of `sources.list.d` by name
/// (apt's GetListOfFilesInDir: letters, digits, `_`, `-` and `.` only). Without a directory: none.
fn source_files(etc: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let main = etc.join("sources.list");
    if main.is_file() {
        paths.push(main);
    }
    let parts = etc.join("sources.list.d");
    let mut names = Vec::new();
    if parts.is_dir() {
        for entry in fs::read_dir(&parts).context(|| format!("Reading {}", parts.display()))? {
            let path = entry.context(|| format!("Reading {}", parts.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let valid =
                name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c)) && !name.starts_with('.');
            if valid && (name.ends_with(".list") || name.ends_with(".sources")) && path.is_file() {
                names.push(path);
            }
        }
    }
    names.sort();
    paths.extend(names);
    Ok(paths)
}

/// The fields of os-release(5) of a root, quotes removed.
fn os_release(root: &Path) -> Result<Vec<(String, String)>> {
    let path = root.join("etc/os-release");
    let path = if path.exists() { path } else { root.join("usr/lib/os-release") };
    let text = fs::read_to_string(&path).context(|| format!("Reading {}", path.display()))?;
    let unquote = |v: &str| v.trim_matches(|c| c == '"' || c == '\'').to_owned();
    Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.trim().to_owned(), unquote(v.trim()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_list_of_mirrors_is_its_first_address() {
        let dir = tempfile::tempdir().unwrap();
        let list = "# mirrors\n\nhttp://first.example.org/debian\tpriority:1\nhttp://second.example.org/debian\n";
        write(dir.path(), &[("etc/apt/mirrors/debian.list", list)]);
        let first = |uri: &str| first_mirror(dir.path(), uri);
        assert_eq!(first("mirror+file:///etc/apt/mirrors/debian.list"), "http://first.example.org/debian");
        assert_eq!(first("mirror+file:/etc/apt/mirrors/debian.list"), "http://first.example.org/debian");
        for other in ["mirror+file:/etc/apt/mirrors/none.list", "http://example.org/debian"] {
            assert_eq!(first(other), other);
        }
    }

    #[test]
    fn loads_from_disk_and_digests_what_matters() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let main = "ref: a/b\ninclude: sub/more.yaml\nrepos: [local]\n# a comment\npackages: [bb, aa]\n";
        write(
            root,
            &[
                ("t.yaml", main),
                ("sub/more.yaml", "add-files: [[issue, /etc/issue]]\npostprocess-script: post\n"),
                ("sub/issue", "hello\n"),
                ("sub/post", "#!/bin/sh\n"),
                ("local.sources", "Types: deb\nURIs: file:///x\nSuites: $(ARCH)/\nSigned-By: k.gpg\n"),
                ("k.gpg", "key"),
            ],
        );
        let path = root.join("t.yaml");
        let input = load(&path, "amd64").unwrap();
        assert_eq!(input.treefile.add_files[0].source, root.join("sub/issue"));
        assert_eq!(input.treefile.repos[0].keyrings(), [root.join("k.gpg")]);
        assert_eq!(archives(&input.treefile, root).unwrap()[0].suites, ["amd64/"]);
        assert_eq!(input.files, [path.clone(), root.join("sub/more.yaml")]);

        let digest = |path: &Path| load(path, "amd64").unwrap().digest;
        let first = digest(&path);
        assert_eq!(first.len(), 64);
        write(root, &[("t.yaml", &main.replace("# a comment", "# another").replace("[bb, aa]", "[aa bb]"))]);
        write(root, &[("k.gpg", "renewed")]);
        assert_eq!(digest(&path), first, "comments, order of packages and keys change nothing");
        let copy = tempfile::tempdir().unwrap();
        for name in ["t.yaml", "sub/more.yaml", "sub/issue", "sub/post", "local.sources", "k.gpg"] {
            write(copy.path(), &[(name, &fs::read_to_string(root.join(name)).unwrap())]);
        }
        assert_eq!(digest(&copy.path().join("t.yaml")), first, "nor does the place");

        write(root, &[("sub/issue", "changed\n")]);
        let second = digest(&path);
        assert_ne!(second, first);
        fs::set_permissions(root.join("sub/issue"), fs::Permissions::from_mode(0o755)).unwrap();
        let third = digest(&path);
        assert_ne!(third, second);
        write(root, &[("sub/post", "#!/bin/sh\ntrue\n")]);
        assert_ne!(digest(&path), third);
    }

    #[test]
    fn errors_of_files_say_where() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("dir.yaml")).unwrap();
        fs::write(root.join("bytes.yaml"), b"ref: a\nb: \xff\n").unwrap();
        std::os::unix::fs::symlink("t2.yaml", root.join("link.yaml")).unwrap();
        write(
            root,
            &[
                ("missing.yaml", "include: gone.yaml\n"),
                ("dir-file.yaml", "ref: a\nadd-files: [[dir.yaml, /etc/x]]\n"),
                ("t2.yaml", "include: link.yaml\n"),
            ],
        );
        for (name, expected) in [
            ("gone.yaml", "treefile '"),
            ("dir.yaml", "it is not a regular file"),
            ("bytes.yaml", "line 2 is not UTF-8"),
            ("missing.yaml", "missing.yaml:1: include '"),
            ("dir-file.yaml", "dir-file.yaml:2: 'add-files': "),
            ("t2.yaml", "t2.yaml:1: include cycle: "),
        ] {
            let error = load(&root.join(name), "amd64").unwrap_err();
            assert!(error.to_string().contains(expected), "{name}: {error}");
            assert_eq!(error.kind, ErrorKind::Usage, "{name}: {error}");
        }
    }

    const HOST: &[(&str, &str)] = &[
        ("etc/os-release", "ID=debian\nVERSION_CODENAME=\"bookworm\"\n"),
        ("etc/apt/sources.list", "deb http://a.invalid/$(ARCH) bookworm main\n"),
        (
            "etc/apt/sources.list.d/b.sources",
            "Types: deb\nURIs: http://s.invalid\nSuites: bookworm-security\nComponents: main\n",
        ),
        (
            "etc/apt/sources.list.d/off.sources",
            "Enabled: no\nTypes: deb\nURIs: http://off.invalid\nSuites: bookworm\nComponents: main\n",
        ),
        ("etc/apt/sources.list.d/a.list.save", "not read\n"),
        ("etc/apt/sources.list.d/x y.list", "not read\n"),
    ];

    #[test]
    fn takes_the_hosts_archives() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, HOST);
        write(root, &[("t.yaml", "ref: a\nreleasever: trixie\n"), ("none.yaml", "ref: a\n")]);
        let treefile = load(&root.join("t.yaml"), "amd64").unwrap().treefile;
        let list = archives(&treefile, root).unwrap();
        let uris: Vec<_> =
            list.iter().map(|s| (s.uris[0].as_str(), s.suites[0].as_str(), s.keyrings().len())).collect();
        assert_eq!(uris, [("http://a.invalid/amd64", "trixie", 0), ("http://s.invalid", "trixie-security", 0)]);

        write(root, &[("usr/share/keyrings/debian-archive-keyring.gpg", "")]);
        let list = archives(&treefile, root).unwrap();
        assert_eq!(list[1].keyrings(), [root.join("usr/share/keyrings/debian-archive-keyring.gpg")]);

        let none = load(&root.join("none.yaml"), "amd64").unwrap().treefile;
        assert!(archives(&none, root).unwrap_err().to_string().contains("neither 'repos' nor 'releasever'"));
        write(root, &[("etc/apt/sources.list", "deb nonsense\n")]);
        let error = archives(&treefile, root).unwrap_err().to_string();
        assert!(error.contains("etc/apt/sources.list: line 1: 'nonsense' is not a URI"), "{error}");
        write(root, &[("etc/os-release", "ID=arch\n")]);
        assert!(archives(&treefile, root).unwrap_err().to_string().contains("runs 'arch'"));
    }

    #[test]
    fn a_trees_sources_keep_everything_enabled() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        for (name, text) in HOST {
            write(tree, &[(&format!("usr/{name}"), text)]);
        }
        write(
            tree,
            &[
                (
                    "usr/etc/apt/sources.list.d/own.list",
                    "deb [signed-by=/etc/apt/keyrings/own.asc] http://o.invalid x main\ndeb-src http://o.invalid x main\n",
                ),
                ("usr/etc/apt/keyrings/own.asc", "key"),
            ],
        );
        let list = tree_sources(tree, "amd64").unwrap();
        let uris: Vec<_> = list.iter().map(|s| s.uris[0].as_str()).collect();
        assert_eq!(uris, ["http://a.invalid/amd64", "http://s.invalid", "http://o.invalid"]);
        assert_eq!(list[2].keyrings(), [tree.join("usr/etc/apt/keyrings/own.asc")]);

        fs::remove_file(tree.join("usr/etc/apt/keyrings/own.asc")).unwrap();
        let error = tree_sources(tree, "amd64").unwrap_err();
        assert!(error.to_string().contains("own.list: the keyring"), "{error}");
        assert!(tree_sources(&tree.join("empty"), "amd64").unwrap().is_empty());
    }
}

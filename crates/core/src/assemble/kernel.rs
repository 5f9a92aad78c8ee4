//! The kernel and the initramfs of a tree: exactly one of each, in `/usr/lib/modules/KVER/`. For composing and for layering.
//!
//! Owns `/usr/lib/modules/KVER/{vmlinuz,initramfs.img,System.map,config,dtb}`, the emptying of `/boot`, and the cache of
//! initramfs images. dracut and depmod are programs of the tree that read its `/etc`: a compose calls this before `/etc` moves, layering
//! binds one in its place.
//!
//! libostree boots the first directory below `/usr/lib/modules` that has a `vmlinuz`, in readdir order
//! (`get_kernel_from_tree_usrlib_modules` in ostree-sysroot-deploy.c), so a second one is an error here.
//!
//! Cache layout: `CACHE/initramfs/DIGEST.img`, `DIGEST` over everything dracut could read (see [`digest`]). An image is
//! stored only after it was checked, and by rename, so a file that is there is good.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::runner::Runner;
use super::tree::Tree;
use crate::digest as sha256;
use crate::error::{Context, Error, Result};
use crate::event::EventSinkExt;

const DRACUT_CONF: &str = include_str!("../../../../data/dracut/20-apt-ostree.conf");
const DRACUT_CONF_PATH: &str = "/usr/lib/dracut/dracut.conf.d/20-apt-ostree.conf";
const PREPARE_ROOT: &str = "/usr/lib/ostree/ostree-prepare-root";
/// Changes whenever the way an initramfs is made changes, so that old cached images are not used.
const RECIPE: &str = "apt-ostree initramfs 1";

/// What the treefile and the caller decide.
#[derive(Clone, Copy, Debug)]
pub struct KernelOptions<'a> {
    /// A tree without a kernel is an error; false for containers.
    pub required: bool,
    /// Make an initramfs (treefile `no-initramfs` inverted).
    pub initramfs: bool,
    /// Additional arguments for dracut (treefile `initramfs-args`).
    pub dracut_args: &'a [String],
    /// Where made images are kept between runs; `None` keeps none.
    pub cache: Option<&'a Path>,
    /// Only root may read the initramfs: it may hold files of a machine.
    pub private: bool,
}

/// The kernel of a tree.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Kernel {
    /// `uname -r` of it.
    pub version: String,
    /// The digest the initramfs is cached under; `None` without initramfs or cache.
    pub initramfs: Option<String>,
    /// The initramfs came from the cache.
    pub cached: bool,
}

/// Puts the kernel in place and makes its initramfs. `None`: the tree has no kernel, and none is required. What was dropped
/// from /boot is added to `dropped`. dracut needs a `/var/tmp`.
pub fn install(
    tree: &Tree,
    runner: &Runner<'_>,
    options: KernelOptions<'_>,
    dropped: &mut Vec<String>,
) -> Result<Option<Kernel>> {
    let found = find(tree)?;
    let kernel = match found.as_slice() {
        [] if options.required => {
            return Err(Error::usage("The tree has no kernel: neither /boot/vmlinuz-* nor /usr/lib/modules/*/vmlinuz")
                .hint("Add a kernel such as 'linux-image-amd64' to 'packages'; only a container has none."));
        }
        [] => None,
        [one] => Some(one.version.clone()),
        several => return Err(several_kernels(tree, several)),
    };
    if let Some(version) = &kernel {
        move_files(tree, version, &found[0].image)?;
    }
    empty_boot(tree, dropped)?;
    let Some(version) = kernel else { return Ok(None) };
    runner.check(&format!("Indexing the modules of {version} (depmod)"), &["depmod", "-a", &version], &[])?;
    if !options.initramfs {
        return Ok(Some(Kernel { version, initramfs: None, cached: false }));
    }
    let (digest, cached) = initramfs(tree, runner, &version, options)?;
    Ok(Some(Kernel { version, initramfs: digest, cached }))
}

/// A kernel image that was found.
#[derive(Debug)]
struct Found {
    version: String,
    image: String,
}

/// The versions of every kernel of a tree, in its modules directory or still in /boot.
pub(super) fn versions(tree: &Tree) -> Result<Vec<String>> {
    Ok(find(tree)?.into_iter().map(|f| f.version).collect())
}

/// Every kernel of the tree, sorted by name. One that is in /boot and in its modules directory counts once.
fn find(tree: &Tree) -> Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for version in tree.entries("/usr/lib/modules")? {
        let image = format!("/usr/lib/modules/{version}/vmlinuz");
        if tree.exists(&image) {
            found.push(Found { version, image });
        }
    }
    for name in tree.entries("/boot")? {
        // vmlinux on architectures whose kernels are not compressed (ppc64el, mips).
        let version = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-"));
        let Some(version) = version else { continue };
        let image = format!("/boot/{name}");
        if !tree.is_symlink(&image) && !found.iter().any(|f| f.version == version) {
            found.push(Found { version: version.to_owned(), image });
        }
    }
    found.sort_by(|a, b| a.version.cmp(&b.version));
    Ok(found)
}

fn several_kernels(tree: &Tree, found: &[Found]) -> Error {
    let named: Vec<String> = found
        .iter()
        .map(|f| match owner(tree, &f.image) {
            Some(package) => format!("{} (package {package})", f.version),
            None => format!("{} ({})", f.version, f.image),
        })
        .collect();
    Error::usage(format!("The tree has {} kernels and may have one: {}", found.len(), named.join(", ")))
        .hint("libostree would boot whichever the file system lists first; name one linux-image package, or exclude one with 'exclude-packages'.")
}

/// The package whose file list has `path`.
pub(super) fn owner(tree: &Tree, path: &str) -> Option<String> {
    // The second while an ordinary root is composed whose registries have not moved yet.
    ["/usr/lib/sysimage/dpkg/info", "/var/lib/dpkg/info"].into_iter().find_map(|info| {
        tree.entries(info).ok()?.iter().filter_map(|n| n.strip_suffix(".list")).find_map(|package| {
            let list = tree.read(&format!("{info}/{package}.list")).ok()??;
            // Before the merged /usr was known to packages, modules were in /lib.
            list.lines().any(|l| l == path || path.strip_prefix("/usr") == Some(l)).then(|| package.to_owned())
        })
    })
}

/// Moves what belongs to the kernel from /boot to its modules directory.
fn move_files(tree: &Tree, version: &str, image: &str) -> Result<()> {
    let dir = format!("/usr/lib/modules/{version}");
    if !tree.is_dir(&dir) {
        return Err(Error::failed(format!("The kernel {version} has no modules directory {dir} in the tree"))
            .hint("A kernel of one package needs the modules of the same build; is a linux-modules package missing?"));
    }
    let moved = [
        (image.to_owned(), "vmlinuz"),
        (format!("/boot/System.map-{version}"), "System.map"),
        (format!("/boot/config-{version}"), "config"),
        // Device trees, where libostree looks for them.
        (format!("/usr/lib/linux-image-{version}"), "dtb"),
    ];
    for (from, name) in moved {
        let to = format!("{dir}/{name}");
        if tree.exists(&from) && from != to {
            tree.remove(&to)?;
            fs::rename(tree.locate(&from)?, tree.locate(&to)?)
                .context(|| format!("Moving {from} of the tree to {to}"))?;
        }
    }
    Ok(())
}

/// Empties /boot, whose content libostree makes on the machine, and takes away the links Debian keeps beside it.
fn empty_boot(tree: &Tree, dropped: &mut Vec<String>) -> Result<()> {
    for name in tree.entries("/boot")? {
        let path = format!("/boot/{name}");
        tree.remove(&path)?;
        dropped.push(path);
    }
    for name in tree.entries("/")? {
        let stem = name.strip_suffix(".old").unwrap_or(&name);
        if ["vmlinuz", "vmlinux", "initrd.img"].contains(&stem) {
            tree.remove(&format!("/{name}"))?;
        }
    }
    Ok(())
}

/// Makes the initramfs of a kernel that is in place. Its digest in the cache, and whether it came from there.
pub fn initramfs(
    tree: &Tree,
    runner: &Runner<'_>,
    version: &str,
    options: KernelOptions<'_>,
) -> Result<(Option<String>, bool)> {
    if !tree.exists("/usr/bin/dracut") {
        return Err(Error::usage("The tree has a kernel but no dracut to make its initramfs with")
            .hint("Add the package 'dracut' to 'packages'; Debian's ostree-boot supports no other generator."));
    }
    if !tree.exists(PREPARE_ROOT) {
        return Err(Error::usage(format!("The tree has no {PREPARE_ROOT}, without which it cannot boot"))
            .hint("Add the package 'ostree-boot' to 'packages'."));
    }
    if tree.read(DRACUT_CONF_PATH)?.as_deref() != Some(DRACUT_CONF) {
        tree.write(DRACUT_CONF_PATH, DRACUT_CONF, 0o644)?;
    }
    let target = format!("/usr/lib/modules/{version}/initramfs.img");
    let place = tree.locate(&target)?;
    let digest = options.cache.map(|_| digest(tree, version, options.dracut_args)).transpose()?;
    let cached = options.cache.zip(digest.as_ref());
    let cached = cached.map(|(dir, digest)| dir.join("initramfs").join(format!("{digest}.img")));
    if let Some(image) = cached.as_ref().filter(|p| p.is_file()) {
        fs::copy(image, &place).context(|| format!("Copying {} into the tree", image.display()))?;
        set_mode(&place, options)?;
        runner.events.message(format!("Using the cached initramfs of {version}"));
        return Ok((digest, true));
    }
    runner.events.task(format!("Making the initramfs of {version}"), || {
        // Arguments as rpm-ostree gives them: an image for every machine, the same bytes from the same files.
        let mut argv = vec!["dracut", "--force", "--reproducible", "--kver", version];
        let hostonly = options.dracut_args.iter().any(|a| a == "--hostonly" || a == "-H");
        if !hostonly {
            argv.push("--no-hostonly");
        }
        argv.extend(options.dracut_args.iter().map(String::as_str));
        argv.push(&target);
        runner.check("Making the initramfs (dracut)", &argv, &[])?;
        verify(runner, &target)
    })?;
    set_mode(&place, options)?;
    if let Some(image) = cached {
        store(&place, &image).context(|| "Keeping the initramfs in the cache")?;
    }
    Ok((digest, false))
}

/// Nothing in one made of an image alone is secret, and the commit is readable by everybody anyhow.
fn set_mode(place: &Path, options: KernelOptions<'_>) -> Result<()> {
    let mode = if options.private { 0o600 } else { 0o644 };
    fs::set_permissions(place, fs::Permissions::from_mode(mode)).context(|| "Setting the mode of the initramfs")
}

fn store(place: &Path, image: &Path) -> Result<()> {
    let dir = image.parent().unwrap_or(image);
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    std::io::copy(&mut fs::File::open(place)?, &mut file)?;
    file.persist(image).map_err(|e| e.error)?;
    Ok(())
}

/// That the image has ostree-prepare-root, and the link that starts it. dracut leaves out what it cannot add and
/// exits with 0, and the machine would stop in the initramfs.
fn verify(runner: &Runner<'_>, image: &str) -> Result<()> {
    let listing = runner.lines("Listing the initramfs (lsinitrd)", &["lsinitrd", image], &[])?;
    let has = |what: &str| listing.iter().any(|l| l.split(" -> ").next().is_some_and(|l| l.ends_with(what)));
    for (what, hint) in [
        ("usr/lib/ostree/ostree-prepare-root", "dracut left its module 'ostree' out; its own messages say why."),
        (
            "initrd-root-fs.target.wants/ostree-prepare-root.service",
            "A file in dracut.conf.d sets systemdsystemconfdir or systemdsystemunitdir to something else.",
        ),
    ] {
        if !has(what) {
            return Err(Error::failed(format!("The initramfs has no {what}: the system would not boot")).hint(hint));
        }
    }
    Ok(())
}

/// Directories and files that dracut reads or copies from. All of /usr/{bin,sbin,lib,libexec} and /etc, because its
/// modules look for programs by name and take every library they link to.
const DIGEST_ROOTS: &[&str] = &[
    "/etc",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share/consolefonts",
    "/usr/share/keymaps",
    "/usr/share/plymouth",
    "/usr/share/dbus-1",
    "/usr/share/terminfo",
];
/// What is below those and never gets into an initramfs, but differs from compose to compose or is large.
const DIGEST_SKIP: &[&str] = &[
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/machine-id",
    "/etc/apt",
    "/etc/ssl",
    "/usr/lib/apt",
    "/usr/lib/apt-ostree",
    "/usr/lib/gcc",
    "/usr/lib/locale",
    "/usr/lib/os-release",
    "/usr/lib/python3",
    "/usr/lib/sysimage",
    "/etc/ld.so.cache",
    DRACUT_CONF_PATH,
];

/// The digest of what dracut could read, lower case hex SHA256. Names, types, link targets, permission bits and the
/// content of files; not times.
pub fn digest(tree: &Tree, version: &str, args: &[String]) -> Result<String> {
    let mut files = BTreeSet::new();
    for dir in DIGEST_ROOTS {
        if !tree.is_symlink(dir) {
            collect(tree, &tree.locate(dir)?, &mut files)?;
        }
    }
    let files: Vec<PathBuf> = files.into_iter().collect();
    let sums = checksums(&files)?;
    let mut all: Vec<u8> = Vec::new();
    for word in [RECIPE, version, DRACUT_CONF].into_iter().chain(args.iter().map(String::as_str)) {
        all.extend(word.as_bytes());
        all.push(b'\0');
    }
    for (path, sum) in files.iter().zip(sums) {
        all.extend(path.strip_prefix(tree.root()).unwrap_or(path).as_os_str().as_encoded_bytes());
        all.push(b'\0');
        all.extend(sum.as_bytes());
        all.push(b'\n');
    }
    Ok(sha256::of_bytes(&all))
}

fn collect(tree: &Tree, path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let inside = path.strip_prefix(tree.root()).unwrap_or(path);
    if DIGEST_SKIP.iter().any(|s| Path::new(&s[1..]) == inside)
        || path.file_name().is_some_and(|n| n == "initramfs.img")
    {
        return Ok(());
    }
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {
            for entry in fs::read_dir(path).context(|| format!("Listing {}", path.display()))? {
                collect(tree, &entry?.path(), files)?;
            }
            Ok(())
        }
        Ok(_) => {
            files.insert(path.to_owned());
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).context(|| format!("Reading {}", path.display())),
    }
}

/// One text per file: type, mode, and target or content's SHA256. On all processors, because this is what a cached
/// initramfs costs.
fn checksums(files: &[PathBuf]) -> Result<Vec<String>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let size = files.len().div_ceil(workers).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .chunks(size)
            .map(|chunk| scope.spawn(|| chunk.iter().map(|p| describe(p)).collect::<Result<Vec<_>>>()))
            .collect();
        let mut all = Vec::with_capacity(files.len());
        for thread in threads {
            all.extend(thread.join().map_err(|_| Error::failed("Computing checksums stopped unexpectedly"))??);
        }
        Ok(all)
    })
}

/// Type, and mode and digest of a file or the target of a link.
pub(super) fn describe(path: &Path) -> Result<String> {
    let text = || -> Result<String> {
        let meta = path.symlink_metadata()?;
        if meta.is_symlink() {
            return Ok(format!("link {}", fs::read_link(path)?.display()));
        }
        if !meta.is_file() {
            return Ok("special".to_owned());
        }
        Ok(format!("file {:o} {}", meta.permissions().mode(), sha256::of_file(path)?))
    };
    text().context(|| format!("Reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_kernels_are_named_with_their_packages() {
        let (_dir, tree) = Tree::with(&["/boot/vmlinuz-6.1", "/boot/vmlinuz-6.2", "/usr/lib/modules/6.2/vmlinuz"]);
        tree.write("/var/lib/dpkg/info/linux-image-6.1.list", "/.\n/boot/vmlinuz-6.1\n", 0o644).unwrap();
        let found = find(&tree).unwrap();
        assert_eq!(found.len(), 2);
        let error = several_kernels(&tree, &found);
        assert!(
            error.to_string().contains("6.1 (package linux-image-6.1), 6.2 (/usr/lib/modules/6.2/vmlinuz)"),
            "{error}"
        );
    }

    #[test]
    fn files_of_the_kernel_leave_boot() {
        let (_dir, tree) = Tree::with(&[
            "/boot/vmlinuz-6.1",
            "/boot/System.map-6.1",
            "/boot/config-6.1",
            "/boot/initrd.img-6.1",
            "/usr/lib/modules/6.1/modules.order",
            "/usr/lib/linux-image-6.1/a.dtb",
        ]);
        tree.symlink("boot/vmlinuz-6.1", "/vmlinuz").unwrap();
        tree.symlink("boot/initrd.img-6.1", "/initrd.img.old").unwrap();
        let mut dropped = Vec::new();
        move_files(&tree, "6.1", &find(&tree).unwrap()[0].image).unwrap();
        empty_boot(&tree, &mut dropped).unwrap();
        let names = tree.entries("/usr/lib/modules/6.1").unwrap();
        assert_eq!(names, ["System.map", "config", "dtb", "modules.order", "vmlinuz"]);
        assert!(tree.entries("/boot").unwrap().is_empty());
        assert!(!tree.exists("/vmlinuz") && !tree.exists("/initrd.img.old"));
        assert_eq!(dropped, ["/boot/initrd.img-6.1"]);
    }

    #[test]
    fn the_digest_sees_content_and_names_only() {
        let (_dir, tree) = Tree::with(&["/usr/bin/a", "/etc/dracut.conf", "/usr/share/doc/x"]);
        let first = digest(&tree, "6.1", &[]).unwrap();
        tree.write("/usr/share/doc/x", "other", 0o644).unwrap();
        tree.write("/usr/bin/a", "/usr/bin/a", 0o644).unwrap();
        assert_eq!(digest(&tree, "6.1", &[]).unwrap(), first);
        assert_ne!(digest(&tree, "6.2", &[]).unwrap(), first);
        assert_ne!(digest(&tree, "6.1", &["-v".into()]).unwrap(), first);
        tree.write("/usr/bin/a", "b", 0o644).unwrap();
        assert_ne!(digest(&tree, "6.1", &[]).unwrap(), first);
    }
}

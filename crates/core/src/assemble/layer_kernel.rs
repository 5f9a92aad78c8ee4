//! The kernel and the initramfs of a layered tree: a kernel that came by override, and an initramfs made again on request.
//!
//! Without either the base's own stay, and nothing of this runs. Otherwise exactly one kernel is left in
//! `/usr/lib/modules`, with the files beside it that a compose makes (see [`kernel`]).
//!
//! An initramfs made on request (`initramfs --enable`) is this machine's: dracut sees the tree's /etc with [`MACHINE_ETC`]
//! taken from the machine. Those files, and no others of the machine, are part of the input digest.

use std::fs;
use std::path::{Path, PathBuf};

use super::kernel::{self, KernelOptions};
use super::runner::Runner;
use super::state::copy_node;
use super::tree::Tree;
use crate::digest;
use crate::error::{Context, Error, Result};
use crate::event::EventSink;
use crate::plan::Plan;
use crate::sandbox::{Bind, Sandbox};

/// What `initramfs --enable` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regenerate {
    /// Arguments for dracut, after those of the base.
    pub args: Vec<String>,
    /// The machine's /etc.
    pub machine_etc: Option<PathBuf>,
}

/// What dracut and its modules read of a machine: how it finds its disks, what the early system looks like. Paths below
/// /etc, files and whole directories. A path that the machine does not have is taken away from what dracut sees.
pub const MACHINE_ETC: &[&str] = &[
    "cmdline",
    "cmdline.d",
    "console-setup",
    "crypttab",
    "default/console-setup",
    "default/keyboard",
    "dracut.conf",
    "dracut.conf.d",
    "fstab",
    "hostname",
    "iscsi",
    "locale.conf",
    "lvm",
    "mdadm",
    "modprobe.d",
    "modules",
    "modules-load.d",
    "multipath",
    "multipath.conf",
    "nvme",
    "ostree",
    "plymouth",
    "sysctl.conf",
    "sysctl.d",
    "systemd/journald.conf",
    "systemd/journald.conf.d",
    "systemd/network",
    "systemd/system.conf",
    "systemd/system.conf.d",
    "udev",
    "vconsole.conf",
];

/// Files that depmod writes into a modules directory, and those that are moved or made there: no package owns them.
const NOT_OWNED: &[&str] = &["vmlinuz", "initramfs.img", "System.map", "config", "dtb"];

impl Regenerate {
    /// The lines of the input digest.
    pub fn policy(&self) -> Result<Vec<String>> {
        let mut lines = vec!["initramfs".to_owned()];
        lines.extend(self.args.iter().map(|arg| format!("initramfs argument {arg}")));
        if let Some(etc) = &self.machine_etc {
            lines.push(format!("initramfs etc {}", etc_digest(etc)?));
        }
        Ok(lines)
    }
}

/// The tree and what its programs get to see.
#[derive(Clone, Copy)]
pub struct Layered<'a> {
    pub base: &'a Path,
    pub root: &'a Path,
    /// The sandbox's /var.
    pub var: &'a Path,
    /// For a copy of /etc; nothing is there yet.
    pub scratch: &'a Path,
    pub plan: &'a Plan,
    /// Arguments that the base's own initramfs was made with.
    pub base_args: &'a [String],
    pub regenerate: Option<&'a Regenerate>,
    pub sandbox: &'a dyn Sandbox,
    pub events: &'a dyn EventSink,
}

impl std::fmt::Debug for Layered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layered").field("base", &self.base).field("root", &self.root).finish_non_exhaustive()
    }
}

/// Makes what the plan says of kernel and initramfs true. The packages are in the tree already, `/etc` is at `usr/etc`.
pub fn apply(layered: Layered<'_>) -> Result<()> {
    let Layered { root, plan, regenerate, .. } = layered;
    if !plan.kernel_change && regenerate.is_none() {
        return Ok(());
    }
    let tree = Tree::new(root);
    let etc = match regenerate.and_then(|r| r.machine_etc.as_deref()) {
        Some(machine) => {
            let copy = layered.scratch.join("etc");
            copy_node(&root.join("usr/etc"), &copy)?;
            take_machine_files(machine, &copy)?;
            copy
        }
        None => root.join("usr/etc"),
    };
    let tmp = layered.var.join("tmp");
    fs::create_dir_all(&tmp).context(|| format!("Creating {}", tmp.display()))?;
    let binds = [
        Bind { source: etc, target: "/etc".into(), read_only: false },
        Bind { source: layered.var.to_owned(), target: "/var".into(), read_only: false },
    ];
    // Without shims: dracut copies the programs it finds in PATH.
    let runner = Runner { sandbox: layered.sandbox, root, binds: &binds, events: layered.events };
    let mut args = layered.base_args.to_vec();
    args.extend(regenerate.iter().flat_map(|r| r.args.iter().cloned()));
    let options = KernelOptions {
        required: true,
        initramfs: true,
        dracut_args: &args,
        cache: None,
        // The machine's files may hold what only root may read.
        private: regenerate.is_some(),
    };
    if plan.kernel_change {
        drop_replaced(&Tree::new(layered.base), &tree)?;
        one_kernel(&tree)?;
        kernel::install(&tree, &runner, options, &mut Vec::new()).context(|| "Preparing the kernel")?;
    } else {
        let version = one_kernel(&tree)?;
        kernel::initramfs(&tree, &runner, &version, options).context(|| "Making the initramfs again")?;
    }
    Ok(())
}

/// The version of the kernel that the deployment boots.
fn one_kernel(tree: &Tree) -> Result<String> {
    match kernel::versions(tree)?.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::usage("Nothing would be left to boot: the kernel of the base goes and no other comes")
            .hint("Bring another one in the same transaction: apt-ostree override replace ./linux-image-….deb")),
        several => Err(Error::usage(format!("The tree would have {} kernels: {}", several.len(), several.join(", ")))
            .hint("A deployment boots exactly one kernel; drop one of the requests.")),
    }
}

/// Takes away what no package owns of the base's kernels whose package is gone, or has brought its files anew.
fn drop_replaced(base: &Tree, tree: &Tree) -> Result<()> {
    for version in base.entries("/usr/lib/modules")? {
        let dir = format!("/usr/lib/modules/{version}");
        if !base.exists(&format!("{dir}/vmlinuz")) {
            continue;
        }
        let image = format!("/boot/vmlinuz-{version}");
        if kernel::owner(tree, &image).is_some() && !tree.exists(&image) {
            continue;
        }
        for name in NOT_OWNED {
            tree.remove(&format!("{dir}/{name}"))?;
        }
        for name in tree.entries(&dir)?.iter().filter(|n| n.starts_with("modules.")) {
            if kernel::owner(tree, &format!("{dir}/{name}")).is_none() {
                tree.remove(&format!("{dir}/{name}"))?;
            }
        }
        remove_empty(&tree.locate(&dir)?)?;
    }
    Ok(())
}

/// Removes a directory if there is nothing but directories in it. Modules that others built for that kernel stay.
fn remove_empty(dir: &Path) -> Result<bool> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e).context(|| format!("Listing {}", dir.display())),
    };
    let mut empty = true;
    for entry in entries {
        let entry = entry?;
        empty &= entry.file_type()?.is_dir() && remove_empty(&entry.path())?;
    }
    if empty {
        fs::remove_dir(dir).context(|| format!("Removing {}", dir.display()))?;
    }
    Ok(empty)
}

fn take_machine_files(machine: &Path, etc: &Path) -> Result<()> {
    for name in MACHINE_ETC {
        let target = etc.join(name);
        match fs::symlink_metadata(&target) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&target)?,
            Ok(_) => fs::remove_file(&target)?,
            Err(_) => {}
        }
        let source = machine.join(name);
        if fs::symlink_metadata(&source).is_ok() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            copy_node(&source, &target).context(|| format!("Taking {} for the initramfs", source.display()))?;
        }
    }
    Ok(())
}

/// Digest of [`MACHINE_ETC`]: names, types, modes, link targets and content.
fn etc_digest(etc: &Path) -> Result<String> {
    let mut text = String::new();
    for name in MACHINE_ETC {
        describe(etc, Path::new(name), &mut text)?;
    }
    Ok(digest::of_bytes(text.as_bytes()))
}

fn describe(etc: &Path, name: &Path, text: &mut String) -> Result<()> {
    let path = etc.join(name);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_dir() => {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path).context(|| format!("Listing {}", path.display()))? {
                names.push(entry?.file_name());
            }
            names.sort();
            names.iter().try_for_each(|n| describe(etc, &name.join(n), text))
        }
        Ok(_) => {
            text.push_str(&format!("{} {}\n", name.display(), kernel::describe(&path)?));
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).context(|| format!("Reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_kernel_leaves_nothing_but_what_others_own() {
        let (_base, base) = Tree::with(&["/usr/lib/modules/6.1/vmlinuz"]);
        let list = |path: &str| format!("/.\n{path}\n");
        // dpkg has removed the package of 6.1; its generated files and somebody's module are left.
        let (_dir, after) = Tree::with(&[
            "/usr/lib/modules/6.1/vmlinuz",
            "/usr/lib/modules/6.1/initramfs.img",
            "/usr/lib/modules/6.1/modules.dep",
            "/usr/lib/modules/6.1/updates/own.ko",
            "/boot/vmlinuz-6.2",
            "/usr/lib/modules/6.2/kernel/a.ko",
        ]);
        after.write("/usr/lib/sysimage/dpkg/info/linux-image-6.2.list", list("/boot/vmlinuz-6.2"), 0o644).unwrap();
        drop_replaced(&base, &after).unwrap();
        assert_eq!(after.entries("/usr/lib/modules/6.1").unwrap(), ["updates"]);
        assert_eq!(one_kernel(&after).unwrap(), "6.2");
        after.remove("/usr/lib/modules/6.1/updates/own.ko").unwrap();
        drop_replaced(&base, &after).unwrap();
        assert!(!after.exists("/usr/lib/modules/6.1"));
    }

    #[test]
    fn the_same_kernel_in_another_build() {
        let (_base, base) = Tree::with(&["/usr/lib/modules/6.1/vmlinuz"]);
        let (_dir, after) =
            Tree::with(&["/usr/lib/modules/6.1/vmlinuz", "/usr/lib/modules/6.1/kernel/a.ko", "/boot/vmlinuz-6.1"]);
        after.write("/usr/lib/sysimage/dpkg/info/linux-image-6.1.list", "/.\n/boot/vmlinuz-6.1\n", 0o644).unwrap();
        drop_replaced(&base, &after).unwrap();
        assert!(!after.exists("/usr/lib/modules/6.1/vmlinuz"), "the old image would win over the new one");
        // One that is installed and was not touched stays.
        after.remove("/boot/vmlinuz-6.1").unwrap();
        after.write("/usr/lib/modules/6.1/vmlinuz", "x", 0o644).unwrap();
        drop_replaced(&base, &after).unwrap();
        assert!(after.exists("/usr/lib/modules/6.1/vmlinuz"));
    }

    #[test]
    fn one_kernel_and_not_none() {
        assert!(one_kernel(&Tree::with(&["/usr/bin/a"]).1).unwrap_err().to_string().contains("left to boot"));
        let two = Tree::with(&["/boot/vmlinuz-6.1", "/usr/lib/modules/6.2/vmlinuz"]);
        assert!(one_kernel(&two.1).unwrap_err().to_string().contains("2 kernels: 6.1, 6.2"));
    }

    #[test]
    fn the_machine_counts_where_dracut_looks() {
        let (dir, machine) = Tree::with(&["/crypttab", "/dracut.conf.d/a.conf", "/hosts"]);
        let first = etc_digest(dir.path()).unwrap();
        machine.write("/hosts", "other", 0o644).unwrap();
        assert_eq!(etc_digest(dir.path()).unwrap(), first);
        machine.write("/dracut.conf.d/a.conf", "other", 0o644).unwrap();
        assert_ne!(etc_digest(dir.path()).unwrap(), first);
        let (copy, tree) = Tree::with(&["/crypttab", "/fstab", "/dracut.conf.d/b.conf", "/hosts"]);
        take_machine_files(dir.path(), copy.path()).unwrap();
        assert_eq!(tree.entries("/").unwrap(), ["crypttab", "dracut.conf.d", "hosts"]);
        assert_eq!(tree.entries("/dracut.conf.d").unwrap(), ["a.conf"]);
        assert_eq!(tree.read("/hosts").unwrap().as_deref(), Some("/hosts"), "the tree's own");
    }
}

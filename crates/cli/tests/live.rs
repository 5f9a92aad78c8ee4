//! What `apply-live` puts together, in a directory: the layer against a checkout by `ostree`, the merge of `/etc`.
//!
//! As root: trees have owners, and overlayfs is mounted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_core::live::{etc, layer};
use apt_ostree_core::repo::Repo;
use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::read_tree;

/// A repository with two commits whose trees differ in every way there is.
struct Two {
    dir: tempfile::TempDir,
    repo: Repo,
    old: String,
    new: String,
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("own directory");
    fs::write(path, text).expect("own file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own file");
}

impl Two {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("repo");
        run(Command::new("ostree").args(["init", "--mode=bare"]).arg(format!("--repo={}", path.display())));
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for (tree, version) in [(&a, "1"), (&b, "2")] {
            write(&tree.join("usr/bin/same"), "same", 0o755);
            write(&tree.join("usr/bin/changed"), version, 0o755);
            write(&tree.join("usr/share/same/file"), "same", 0o644);
            write(&tree.join("usr/lib/modules/6/vmlinuz"), version, 0o644);
            write(&tree.join("usr/etc/same"), "same", 0o644);
            write(&tree.join("usr/etc/changed"), version, 0o644);
            write(&tree.join("usr/etc/dir/changed"), version, 0o600);
        }
        write(&a.join("usr/bin/removed"), "", 0o755);
        write(&a.join("usr/share/removed/deep/file"), "x", 0o644);
        write(&a.join("usr/share/file-to-directory"), "x", 0o644);
        write(&a.join("usr/share/directory-to-file/x"), "x", 0o644);
        write(&a.join("usr/share/mode"), "x", 0o644);
        write(&a.join("usr/share/kept/file"), "x", 0o644);
        write(&a.join("usr/share/both/old"), "x", 0o644);
        write(&a.join("usr/etc/removed"), "x", 0o644);
        write(&a.join("usr/etc/gone/file"), "x", 0o644);
        symlink("old", a.join("usr/share/link")).expect("own directory");
        write(&b.join("usr/bin/empty"), "", 0o755);
        write(&b.join("usr/share/added/deep/file"), "x", 0o640);
        write(&b.join("usr/share/file-to-directory/x"), "x", 0o644);
        write(&b.join("usr/share/directory-to-file"), "x", 0o644);
        write(&b.join("usr/share/mode"), "x", 0o600);
        write(&b.join("usr/share/kept/file"), "x", 0o644);
        write(&b.join("usr/share/both/new"), "x", 0o644);
        write(&b.join("usr/etc/added/file"), "x", 0o640);
        symlink("new", b.join("usr/share/link")).expect("own directory");
        chown(b.join("usr/share/added"), Some(7), Some(8)).expect("root");
        chown(b.join("usr/share/kept"), Some(7), Some(8)).expect("root");
        fs::set_permissions(b.join("usr/share/kept"), fs::Permissions::from_mode(0o2770)).expect("own directory");
        run(Command::new("setcap").arg("cap_net_raw+ep").arg(b.join("usr/bin/changed")));
        let commit = |tree: &Path| {
            let mut command = Command::new("ostree");
            command.args(["commit", "--branch=x"]).arg(format!("--repo={}", path.display()));
            let output = run(command.arg(format!("--tree=dir={}", tree.display())));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let (old, new) = (commit(&a), commit(&b));
        Self { repo: Repo::open(&path).expect("a repository"), dir, old, new }
    }

    /// What ostree makes of a commit.
    fn checkout(&self, commit: &str, name: &str) -> PathBuf {
        let target = self.dir.path().join(name);
        let repo = format!("--repo={}", self.repo.path().display());
        run(Command::new("ostree").args(["checkout", "--force-copy"]).arg(repo).arg(commit).arg(&target));
        target
    }
}

#[test]
fn the_layer_makes_the_other_tree() {
    for backwards in [false, true] {
        let two = Two::new();
        let (from, to) = if backwards { (&two.new, &two.old) } else { (&two.old, &two.new) };
        let layer = layer::build(&two.repo, from, to).expect("a layer");
        let (old, new) = (two.checkout(from, "old"), two.checkout(to, "new"));
        let merged = two.dir.path().join("merged");
        fs::create_dir(&merged).expect("own directory");
        let lower = format!("lowerdir={}:{}", layer.join("usr").display(), old.join("usr").display());
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &lower]).arg(&merged));
        let kernel = |path: &str| path.starts_with("lib/modules");
        let got = read_tree(&merged, &kernel);
        let modules = fs::read_to_string(merged.join("lib/modules/6/vmlinuz"));
        run(Command::new("umount").arg(&merged));
        let want = read_tree(&new.join("usr"), &kernel);
        for (path, node) in &want {
            let other = got.get(path).unwrap_or_else(|| panic!("{path} is missing"));
            assert_eq!(node.difference(other), Vec::<String>::new(), "{path}");
        }
        let more: Vec<_> = got.keys().filter(|path| !want.contains_key(*path)).collect();
        assert!(more.is_empty(), "{more:?}");
        assert_eq!(modules.expect("own file"), if backwards { "2" } else { "1" }, "the running kernel's");
        // What did not change is not in it.
        assert!(!layer.join("usr/share/same").exists() && !layer.join("usr/bin/same").exists());
    }
}

#[test]
fn the_layer_is_not_built_twice() {
    let two = Two::new();
    let layer = layer::build(&two.repo, &two.old, &two.new).expect("a layer");
    fs::write(layer.join("mark"), "").expect("own directory");
    assert_eq!(layer::build(&two.repo, &two.old, &two.new).expect("a layer"), layer);
    assert!(layer.join("mark").exists());
    layer::remove_all(&two.repo).expect("own directory");
    assert!(!layer.exists());
}

#[test]
fn etc_follows_where_nobody_changed_it() {
    let two = Two::new();
    let (old, new) = (two.checkout(&two.old, "old").join("usr/etc"), two.checkout(&two.new, "new").join("usr/etc"));
    let (etc, all) = (two.dir.path().join("etc"), |_: &str| false);
    run(Command::new("cp").arg("-a").arg(&old).arg(&etc));
    let update = etc::merge(&two.repo, &[&two.old], &two.new, &etc).expect("a merge");
    assert_eq!(read_tree(&etc, &all), read_tree(&new, &all));
    assert!(update.kept.is_empty(), "{update:?}");
    // Nothing is left to do.
    let again = etc::merge(&two.repo, &[&two.old, &two.new], &two.new, &etc).expect("a merge");
    assert_eq!(again, etc::EtcUpdate::default());
    // An interrupted run: some files are at one tree, some at the other; and back.
    fs::copy(old.join("changed"), etc.join("changed")).expect("own file");
    etc::merge(&two.repo, &[&two.old, &two.new], &two.old, &etc).expect("a merge");
    assert_eq!(read_tree(&etc, &all), read_tree(&old, &all));
}

#[test]
fn etc_of_the_administrator_stays() {
    let two = Two::new();
    let old = two.checkout(&two.old, "old").join("usr/etc");
    let etc = two.dir.path().join("etc");
    run(Command::new("cp").arg("-a").arg(&old).arg(&etc));
    write(&etc.join("changed"), "mine", 0o644);
    fs::set_permissions(etc.join("removed"), fs::Permissions::from_mode(0o600)).expect("own file");
    write(&etc.join("gone/own"), "mine", 0o644);
    write(&etc.join("elsewhere/changed"), "1", 0o600);
    fs::remove_dir_all(etc.join("dir")).expect("own directory");
    symlink("elsewhere", etc.join("dir")).expect("own directory");
    let update = etc::merge(&two.repo, &[&two.old], &two.new, &etc).expect("a merge");
    let read = |path: &str| fs::read_to_string(etc.join(path)).unwrap_or_default();
    assert_eq!((read("changed"), read("removed"), read("gone/own")), ("mine".into(), "x".into(), "mine".into()));
    assert!(!etc.join("gone/file").exists());
    assert_eq!(read("elsewhere/changed"), "1", "a link is not followed");
    assert_eq!(read("added/file"), "x");
    let mut kept: Vec<_> = update.kept.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    kept.sort();
    assert_eq!(kept, ["changed", "dir/changed", "gone", "removed"]);
}

//! GRUB's menu on real libostree sysroots: written by the generator that libostree calls, and again where libostree sees no
//! need. `grub-script-check` and `ostree admin status` are the oracles. Needs root, as every ostree deployment does.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const GENERATOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/grub/grub-config");

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // Immutable deployments could not be removed with the temporary directory.
    command.env("OSTREE_SYSROOT_DEBUG", "mutable-deployments").env("OSTREE_GRUB2_EXEC", GENERATOR);
    command
}

#[track_caller]
fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn ostree(args: &[&str]) -> String {
    ok(&command("ostree").args(args).output().unwrap())
}

/// A sysroot that GRUB starts, and a repository with a tree that has no packages.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        let tree = fixture.path("tree");
        for dir in ["usr/lib/modules/6.12.0", "usr/etc", "usr/bin"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        fs::write(tree.join("usr/lib/os-release"), "ID=debian\nPRETTY_NAME=\"Kit's 13\"\n").unwrap();
        fs::write(tree.join("usr/lib/modules/6.12.0/vmlinuz"), "kernel").unwrap();
        fs::write(tree.join("usr/lib/modules/6.12.0/initramfs.img"), "initramfs").unwrap();
        let sysroot = fixture.text("sysroot");
        fs::create_dir(&sysroot).unwrap();
        ostree(&["admin", "init-fs", "--modern", &sysroot]);
        fixture.admin(&["stateroot-init", "debian"]);
        let repo = format!("--repo={sysroot}/ostree/repo");
        ostree(&["config", "set", "sysroot.bootloader", "grub2", &repo]);
        ostree(&["config", "set", "sysroot.bootprefix", "true", &repo]);
        fs::create_dir(fixture.path("sysroot/boot/grub")).unwrap();
        std::os::unix::fs::symlink("../loader/grub.cfg", fixture.menu_path()).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn menu_path(&self) -> PathBuf {
        self.path("sysroot/boot/grub/grub.cfg")
    }

    #[track_caller]
    fn admin(&self, args: &[&str]) -> String {
        let sysroot = format!("--sysroot={}", self.text("sysroot"));
        let mut all = vec!["admin", args[0], &sysroot];
        all.extend(&args[1..]);
        ostree(&all)
    }

    /// Commits the tree and deploys it with plain ostree.
    fn deploy(&self, version: &str, content: &str, kargs: &[&str]) {
        fs::write(self.path("tree/usr/bin/content"), content).unwrap();
        let repo = format!("--repo={}/ostree/repo", self.text("sysroot"));
        let version = format!("--add-metadata-string=version={version}");
        let tree = format!("--tree=dir={}", self.text("tree"));
        ostree(&["commit", &repo, "-b", "kit", &version, &tree, "--owner-uid=0", "--owner-gid=0"]);
        let mut args = vec!["deploy", "--os=debian"];
        args.extend(kargs);
        args.push("kit");
        self.admin(&args);
    }

    /// The program under test. Not by libostree's environment: it names the generator itself.
    fn apt_ostree(&self, args: &[&str]) -> String {
        let mut command = command(env!("CARGO_BIN_EXE_apt-ostree"));
        command.arg(format!("--sysroot={}", self.text("sysroot"))).args(args).env_remove("OSTREE_GRUB2_EXEC");
        ok(&command.output().unwrap())
    }

    /// The menu, which GRUB can read.
    fn menu(&self) -> String {
        let path = self.menu_path();
        ok(&Command::new("grub-script-check").arg(&path).output().expect("the package grub-common"));
        fs::read_to_string(path).unwrap()
    }

    /// Lines that begin so, without the beginning.
    fn lines(&self, start: &str) -> Vec<String> {
        self.menu().lines().filter_map(|l| l.strip_prefix(start)).map(ToOwned::to_owned).collect()
    }

    fn ids(&self) -> Vec<String> {
        let id = |line: &String| line.split("--id '").nth(1).unwrap().trim_end_matches("' {").to_owned();
        self.lines("menuentry ").iter().map(id).collect()
    }

    /// CHECKSUM.SERIAL in libostree's order.
    fn deployments(&self) -> Vec<String> {
        let text = self.admin(&["status"]);
        let name = |line: &str| line.trim_start_matches([' ', '*']).strip_prefix("debian ").map(ToOwned::to_owned);
        text.lines().filter_map(name).map(|l| l.split(' ').next().unwrap().to_owned()).collect()
    }
}

#[test]
fn the_menu_has_the_deployments_in_their_order() {
    let fixture = Fixture::new();
    fixture.deploy("7.1", "one", &["--karg=root=UUID=1", "--karg=x=\"a b\"", "--karg=y=$z;#"]);
    assert_eq!(fixture.ids(), fixture.deployments());
    assert!(!fixture.menu().contains("apt_ostree_good"), "there is nothing to go back to yet");
    fixture.deploy("7.2", "two", &[]);
    let deployments = fixture.deployments();
    assert_eq!((fixture.ids(), deployments.len()), (deployments.clone(), 2));
    let titles = fixture.lines("menuentry ");
    let title = |n: usize, version, end| format!(r"'Kit'\''s 13 {version} ({}){end}' ", &deployments[n][..10]);
    assert!(titles[0].starts_with(&title(0, "7.2", "")), "{titles:?}");
    assert!(titles[1].starts_with(&title(1, "7.1", " (rollback)")), "{titles:?}");
    let kernels = fixture.lines("  linux ");
    assert!(kernels[0].contains(r#" root=UUID=1 x="a b" y=\$z\;\# ostree=/ostree/boot."#), "{kernels:?}");
    assert!(kernels.iter().all(|k| k.starts_with("/boot/ostree/debian-")), "{kernels:?}");
    assert_eq!(fixture.lines("  initrd ").len(), 2);
}

#[test]
fn the_menu_follows_a_change_that_libostree_writes_none_for() {
    let fixture = Fixture::new();
    fixture.deploy("1", "one", &[]);
    fixture.deploy("1", "two", &[]);
    let before = fs::read_link(fixture.path("sysroot/boot/loader")).unwrap();
    let ids = fixture.ids();
    fixture.apt_ostree(&["rollback"]);
    // Kernel, arguments and version are the same: libostree only swapped its links.
    assert_eq!(fs::read_link(fixture.path("sysroot/boot/loader")).unwrap(), before);
    assert_eq!(fixture.ids(), fixture.deployments());
    assert_eq!(fixture.ids(), [ids[1].clone(), ids[0].clone()]);

    fixture.apt_ostree(&["kargs", "--append=quiet"]);
    assert_ne!(fs::read_link(fixture.path("sysroot/boot/loader")).unwrap(), before);
    assert_eq!(fixture.ids(), fixture.deployments());
    assert!(fixture.lines("  linux ")[0].contains(" quiet "));
}

#[test]
fn a_menu_of_somebody_else_is_left_alone() {
    let fixture = Fixture::new();
    fixture.deploy("1", "one", &[]);
    fixture.deploy("1", "two", &[]);
    fs::write(fixture.menu_path(), "# by grub-mkconfig\n").unwrap();
    fixture.apt_ostree(&["rollback"]);
    assert_eq!(fs::read_to_string(fixture.menu_path()).unwrap(), "# by grub-mkconfig\n");
}

fn generate(loader: &Path) -> Output {
    Command::new("sh").arg(GENERATOR).arg("-o").arg(loader.join("grub.cfg")).output().unwrap()
}

#[test]
fn without_an_entry_the_menu_stays() {
    let dir = tempfile::tempdir().unwrap();
    let loader = dir.path();
    fs::create_dir(loader.join("entries")).unwrap();
    fs::write(loader.join("grub.cfg"), "old").unwrap();
    for entry in [None, Some("title no kernel\nversion 1\n")] {
        if let Some(text) = entry {
            fs::write(loader.join("entries/ostree-1.conf"), text).unwrap();
        }
        let output = generate(loader);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("has no entry to boot"));
        assert_eq!(fs::read_to_string(loader.join("grub.cfg")).unwrap(), "old");
        let left = fs::read_dir(loader).unwrap().count();
        assert_eq!(left, 2, "entries and the menu");
    }
}

/// By number, not by letters; what no deployment is behind keeps its name; a quote that is not closed swallows nothing.
#[test]
fn entries_are_ordered_by_their_version() {
    let dir = tempfile::tempdir().unwrap();
    let loader = dir.path();
    fs::create_dir(loader.join("entries")).unwrap();
    for (name, version) in [("ostree-9.conf", 9), ("ostree-10.conf", 10), ("memtest.conf", 0)] {
        let text = format!("title {name}\nversion {version}\nlinux /k{version}\noptions a=\"b\ninitrd /i\ninitrd /j");
        fs::write(loader.join("entries").join(name), text).unwrap();
    }
    assert!(generate(loader).status.success());
    let menu = loader.join("grub.cfg");
    ok(&Command::new("grub-script-check").arg(&menu).output().unwrap());
    let text = fs::read_to_string(menu).unwrap();
    let kernels: Vec<&str> = text.lines().filter(|l| l.starts_with("  linux")).collect();
    assert_eq!(kernels, [r#"  linux /k10 a=\"b"#, r#"  linux /k9 a=\"b"#, r#"  linux /k0 a=\"b"#]);
    assert!(text.contains("  initrd /i /j\n") && text.contains("--id 'memtest' {"), "{text}");
}

//! Everything dies, or runs out, on a running system: it comes up with the old tree or the new one, and goes on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use apt_ostree_testkit::disk::Disk;
use apt_ostree_testkit::run;

use crate::bases::{BRANCH, base};
use crate::booted::Story;
use crate::world::{Dice, small};

/// How many times everything is killed. `APT_OSTREE_FAULTS` asks for more.
const ROUNDS: u32 = 12;

/// Drops the rollback, then goes from without the layer to with it, or back. Ends with the shutdown's finalization.
const CHANGE: &str = r#"
if command -v kit-a > /dev/null; then kit-a; have=with; else have=without; fi
echo "booted $(booted) $have"
ostree admin status > /dev/null
[ -z "$(systemctl --failed --no-legend --plain)" ] || { systemctl --failed; exit 1; }
echo begin
apt-ostree cleanup --pending --rollback > /dev/null
if [ $have = with ]; then apt-ostree uninstall kit-a; else apt-ostree install kit-a; fi > /dev/null
echo staged
"#;

/// What the script has found: checksum, and whether the layer is there.
fn found(output: &str) -> Option<(String, bool)> {
    let mut words = output.lines().find_map(|l| l.strip_prefix("booted "))?.split(' ');
    Some((words.next()?.to_owned(), words.next()? == "with"))
}

/// Kernel, initramfs and deployment of each boot entry are there.
fn every_entry_could_boot(story: &Story, context: &str) {
    let root = story.sysroot().dir();
    let entries = fs::read_dir(root.join("boot/loader/entries")).expect("boot entries");
    let texts: Vec<String> = entries.flatten().map(|e| fs::read_to_string(e.path()).expect("own file")).collect();
    assert!(!texts.is_empty(), "{context}");
    for text in texts {
        let field = |key: &str| text.lines().find_map(|l| Some(l.strip_prefix(key)?.trim().to_owned()));
        let deployment = field("options").and_then(|o| Some(o.split("ostree=/").nth(1)?.split(' ').next()?.to_owned()));
        let files =
            [field("linux"), field("initrd")].map(|f| f.map(|f| root.join("boot").join(f.trim_start_matches('/'))));
        for path in files.into_iter().chain([deployment.map(|d| root.join(d))]) {
            let path = path.unwrap_or_else(|| panic!("{context}: an entry without it: {text}"));
            assert!(path.exists(), "{context}: {} is missing", path.display());
        }
    }
}

#[test]
fn killed_at_any_moment_of_a_change_and_of_the_shutdown() {
    let rounds = std::env::var("APT_OSTREE_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0").file("/usr/share/kit-large", 0o644, vec![7; 4 << 20])]);
    // A whole one each way, to know both trees and how long it takes from the beginning to the power off.
    let mut trees = [String::new(), String::new()];
    let mut whole = Duration::ZERO;
    for _ in 0..3 {
        let mut boot = story.start(CHANGE);
        assert!(boot.wait_for("begin"), "{}", boot.end().text());
        let begin = Instant::now();
        let outcome = boot.end().exits(0);
        whole = begin.elapsed();
        let (checksum, with) = found(&outcome.stdout).expect("a script that says so");
        trees[usize::from(with)] = checksum;
    }
    assert_eq!(trees[0], base().v1);
    assert_ne!(trees[1], "");

    let mut dice = Dice(20_261_126);
    // Killed before anything was staged, between that and the end of the script, on the way down.
    let mut met = [0u32; 3];
    for round in 0..rounds {
        let delay = whole * (round * 1000 + dice.roll()) / (rounds * 1000);
        let context = format!("round {round}, {delay:?} of {whole:?}");
        let mut boot = story.start(CHANGE);
        assert!(boot.wait_for("begin"), "{context}: {}", boot.end().text());
        std::thread::sleep(delay);
        let (checksum, with) = found(&boot.output()).expect("a script that says so");
        assert_eq!(checksum, trees[usize::from(with)], "{context}: neither the old tree nor the new one");
        let phase = if boot.is_going_down() { 2 } else { usize::from(boot.output().contains("staged")) };
        met[phase] += 1;
        boot.kill();
        story.disk().thaw();
        story.sysroot().fsck();
        every_entry_could_boot(&story, &context);
    }
    // And it still goes on as ever.
    for _ in 0..2 {
        let outcome = story.boot(CHANGE);
        let (checksum, with) = found(&outcome.stdout).expect("a script that says so");
        assert_eq!(checksum, trees[usize::from(with)]);
    }
    assert!(met[0] > 0 && met[2] > 0, "not every part was met: {met:?}");
    story.done();
}

#[test]
fn the_archive_and_the_server_are_gone() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0")]);
    let (archive, server) = (story.world.archive.dir().to_owned(), story.server.dir().to_owned());
    let away = |path: &std::path::Path| path.with_extension("away");
    for path in [&archive, &server] {
        fs::rename(path, away(path)).expect("own directory");
    }
    let before = story.booted();
    story.boot(
        "refused apt-ostree install kit-a; refused apt-ostree upgrade; test ! -e /run/ostree/staged-deployment; apt-ostree status",
    );
    assert_eq!(story.booted(), before);
    for path in [&archive, &server] {
        fs::rename(away(path), path).expect("own directory");
    }
    story.boot("apt-ostree install kit-a");
    story.boot("kit-a");
    story.done();
}

#[test]
fn the_disk_is_full() {
    let mut story = Story::new();
    story.publish(&[
        small("kit-large", "1.0").file("/usr/share/kit-large", 0o644, noise(24 << 20)),
        small("kit-a", "1.0"),
    ]);
    let before = story.booted();
    for free in [8, 56] {
        story
            .boot(&format!(
                "free() {{ echo $(($(stat -f -c '%a * %S' /var) / 1048576)); }}
            fallocate -l $(($(free) - {free}))M /var/filler
            refused apt-ostree install kit-large
            test ! -e /run/ostree/staged-deployment; apt-ostree status
            rm /var/filler"
            ))
            .says(&["Not enough space on /"]);
    }
    assert_eq!(story.booted(), before);
    story.boot("apt-ostree install kit-large kit-a");
    story.boot("kit-a; stat -c %s /usr/share/kit-large").says(&[&(24 << 20).to_string()]);
    story.done();
}

/// v1 with another initramfs, which takes as much space in /boot again.
fn another_kernel(dir: &Path) -> String {
    let repo = format!("--repo={}", base().repo().display());
    let checkout = dir.join("modules");
    let subpath = "--subpath=/usr/lib/modules";
    run(Command::new("ostree").args(["checkout", "--force-copy", &repo, subpath, &base().v1]).arg(&checkout));
    let version = fs::read_dir(&checkout).expect("own directory").flatten().next().expect("a kernel").file_name();
    let tree = dir.join("tree/usr/lib/modules").join(&version);
    fs::create_dir_all(&tree).expect("own directory");
    let mut image = fs::read(checkout.join(&version).join("initramfs.img")).expect("an initramfs");
    // The kernel takes zeros between and after archives.
    image.extend([0; 512]);
    fs::write(tree.join("initramfs.img"), image).expect("own directory");
    let tree = format!("--tree=dir={}", dir.join("tree").display());
    let base_tree = format!("--tree=ref={}", base().v1);
    let output = run(Command::new("ostree").args(["commit", &repo, "--orphan", "--no-bindings"]).args([
        "--add-metadata-string=version=13.kernel",
        &format!("--parent={}", base().v1),
        &base_tree,
        &tree,
    ]));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn boot_is_full() {
    let story = Story::new();
    let before = story.booted();
    let boot = story.sysroot().dir().join("boot");
    let content = story.world.dir.join("boot-content");
    run(Command::new("cp").arg("-a").arg(&boot).arg(&content));
    let used: u64 = String::from_utf8_lossy(&run(Command::new("du").arg("-sm").arg(&content)).stdout)
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a size");
    // One kernel fits, two do not.
    let disk = Disk::new(&story.world.dir.join("boot.img"), &boot, used * 3 / 2 + 8);
    run(Command::new("cp").arg("-a").arg(content.join(".")).arg(&boot));
    story.sysroot().ostree(&["config", "--group=remote \"kit\"", "set", "gpg-verify", "false"]);
    story.server.set(BRANCH, &another_kernel(&story.world.dir));
    let outcome = story.boot("if apt-ostree upgrade; then echo it is staged; fi; findmnt /boot");
    let journal = story.boot("journalctl --quiet --boot=-1 --unit=ostree-finalize-staged.service --no-pager");
    // Whether it is refused at once or fails at the shutdown: nothing happened to the system that is there.
    let said = format!("{}{}", outcome.text(), journal.text());
    assert!(said.contains("No space left on device") || said.contains("Not enough space"), "{said}");
    assert_eq!(story.booted()["checksum"], before["checksum"], "{}", outcome.text());
    every_entry_could_boot(&story, "after the failure");
    story.boot("apt-ostree cleanup --pending; apt-ostree kargs --append=kit=1");
    story.boot("same \"$(apt-ostree kargs)\" 'quiet root=UUID=1 kit=1'");
    disk.close();
    story.done();
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut dice = Dice(1);
    (0..length).map(|_| dice.byte()).collect()
}

//! What only a running system shows, in a container: the host's apt, staged deployments and their finalization.

use std::fs;

use crate::boot::inside;
use crate::world::{World, small};

/// A deployment with an apt source that can be read inside, its indexes fetched.
fn system() -> World {
    let mut world = World::new();
    world.publish(&[small("kit-a", "1.0"), small("kit-base", "1.5")]);
    // The archive itself is not visible inside: what apt asks for comes from its lists alone.
    let lists = world.sysroot.deployment(0).join("etc/apt/sources.list.d/kit.sources");
    assert!(lists.exists());
    world
}

/// Puts files where the system finds them: `/var/kit/NAME`.
fn put(world: &World, name: &str, from: &std::path::Path) {
    let dir = world.sysroot.dir().join("ostree/deploy/debian/var/kit");
    fs::create_dir_all(&dir).expect("own directory");
    fs::copy(from, dir.join(name)).expect("a file");
}

#[test]
fn the_hosts_apt_reads_and_refuses() {
    let world = system();
    put(&world, "kit-a.deb", &world.local(&small("kit-a", "1.0")));
    let script = r#"
export LC_ALL=C
say() { echo "== $*"; "$@" </dev/null 2>&1; echo "status $?"; }
say apt-get -y install /var/kit/kit-a.deb
say apt-get -s install /var/kit/kit-a.deb
say apt-get -y -d install /var/kit/kit-a.deb
say apt-get -y -d remove nano
say apt-get -y install kit-nowhere nano
say apt-get -y install nano
say apt install nano
say apt-get -y reinstall nano
say apt-get -y --reinstall install nano
say apt-get --print-uris install /var/kit/kit-a.deb
say apt-get --print-uris reinstall nano
say apt-get -y remove nano
say apt -y autoremove --purge nano
say apt-get -y full-upgrade
say apt-mark auto nano
say apt-mark hold nano
say apt list --installed nano
say apt-cache policy nano
say dpkg -s nano
say dpkg -i /var/kit/kit-a.deb
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
  echo "$unit: $(systemctl is-enabled $unit 2>&1) $(systemctl is-active $unit 2>&1)"
done
# Nothing of it may have changed anything.
dpkg -l nano | grep -q '^ii' && test ! -e /usr/bin/kit-a && echo unchanged
# Where there is no booted deployment, as in a container made from the image, apt is not kept from anything.
umount /run/ostree-booted 2>/dev/null; rm -f /run/ostree-booted
/usr/lib/apt-ostree/apt-hook dpkg && echo "container: allowed"
"#;
    let said = inside(&world, "nspawn.sh", script).exits(0);
    let text = said.text();
    let answer = |command: &str| -> String {
        let start = text.find(&format!("== {command}\n")).unwrap_or_else(|| panic!("{command}:\n{text}"));
        let rest = &text[start..];
        let end = rest.find("\nstatus ").map_or(rest.len(), |at| at + 12);
        rest[..end.min(rest.len())].to_owned()
    };
    for (command, instead) in [
        ("apt-get -y install /var/kit/kit-a.deb", "Use this instead: apt-ostree install PACKAGE"),
        ("apt-get -y install kit-nowhere nano", "Use this instead: apt-ostree install kit-nowhere nano"),
        ("apt-get -y remove nano", "Use this instead: apt-ostree uninstall nano"),
        ("apt -y autoremove --purge nano", "Use this instead: apt-ostree uninstall nano"),
        ("apt-get -y full-upgrade", "Use this instead: apt-ostree upgrade"),
        ("apt-get -y reinstall nano", "Use this instead: apt-ostree install nano"),
        ("apt-get -y --reinstall install nano", "Use this instead: apt-ostree install nano"),
    ] {
        let said = answer(command);
        assert!(said.contains(instead) && said.contains("status 100"), "{said}\nof\n{text}");
    }
    for command in [
        "apt-get -s install /var/kit/kit-a.deb",
        "apt-get -y -d install /var/kit/kit-a.deb",
        "apt-get -y -d remove nano",
        "apt-get -y install nano",
        "apt install nano",
        "apt-get --print-uris install /var/kit/kit-a.deb",
        "apt-get --print-uris reinstall nano",
        "apt list --installed nano",
        "apt-cache policy nano",
        "dpkg -s nano",
    ] {
        assert!(answer(command).contains("status 0"), "{command}:\n{text}");
    }
    for command in ["apt-mark auto nano", "apt-mark hold nano", "dpkg -i /var/kit/kit-a.deb"] {
        let said = answer(command);
        assert!(!said.contains("status 0") && said.contains("Read-only"), "{said}\nof\n{text}");
    }
    for unit in ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"] {
        assert!(text.contains(&format!("{unit}: disabled inactive")), "{text}");
    }
    said.says(&["\nunchanged\n", "container: allowed\n"]);
    world.done();
}

#[test]
fn a_locked_deployment_waits_for_its_finalization() {
    let world = system();
    put(&world, "kit-a.deb", &world.local(&small("kit-a", "1.0")));
    let base = world.sysroot.field(0, "checksum");
    let before = world.sysroot.checksums();
    // What is locked is not applied by a shutdown.
    let lock = "apt-ostree install --cache-only --lock-finalization /var/kit/kit-a.deb && ostree admin status";
    inside(&world, "nspawn.sh", lock)
        .exits(0)
        .says(&[&format!("apt-ostree finalize-deployment {base}"), "finalization locked"]);
    assert_eq!(world.sysroot.checksums(), before);
    // A reboot is asked for at the end: the command that would do it says so, and the test's own shutdown follows. Not
    // earlier in the script: libostree starts the service of the finalization with it.
    let unlock = format!(
        "set -e\nmkdir /run/kit\nprintf '#!/bin/sh\\necho \"asked to $*\"\\n' > /run/kit/systemctl\nchmod 755 /run/kit/systemctl\n\
         apt-ostree install --cache-only --lock-finalization /var/kit/kit-a.deb\n\
         apt-ostree status --json | grep -q '\"finalization-locked\": true'\n\
         ! apt-ostree finalize-deployment\n! apt-ostree finalize-deployment {}\n\
         export PATH=/run/kit:$PATH\n\
         apt-ostree finalize-deployment {base}\n! apt-ostree finalize-deployment {base}\n\
         apt-ostree finalize-deployment --allow-unlocked --allow-missing-checksum\n",
        "0".repeat(64)
    );
    inside(&world, "nspawn.sh", &unlock).exits(0).says(&[
        "error: Missing expected checksum",
        &format!("error: Expected staged base checksum {}, but found {base}", "0".repeat(64)),
        &format!("Finalized deployment; rebooting into {base}\nasked to reboot\n"),
        "error: Staged deployment already unlocked",
    ]);
    inside(&world, "nspawn.sh", "kit-a && ! apt-ostree finalize-deployment --allow-missing-checksum")
        .exits(0)
        .says(&["kit-a 1.0\n", "error: No staged deployment"]);
    // And what is staged can be dropped.
    let drop = "set -e\napt-ostree kargs --append=x=1\napt-ostree cleanup -p\ntest ! -e /run/ostree/staged-deployment\n\
                apt-ostree status --json | grep -c '\"staged\": true' || true";
    inside(&world, "nspawn.sh", drop).exits(0).says(&["0\n"]);
    assert!(!world.sysroot.ok(&["kargs"]).stdout.contains("x=1"));
    world.done();
}

#[test]
fn a_failed_finalization_is_told_after_the_next_boot() {
    let world = system();
    put(&world, "kit-a.deb", &world.local(&small("kit-a", "1.0")));
    // The finalization cannot find the staged tree: it fails at shutdown, and the next boot tells.
    let fail = "set -e\napt-ostree install --cache-only /var/kit/kit-a.deb\n\
                tree=$(apt-ostree status --json | sed -n 's/.*\"checksum\": \"\\(.*\\)\",/\\1/p' | head -n 1)\n\
                mount -o remount,rw /sysroot 2>/dev/null || true\n\
                chattr -i /ostree/deploy/debian/deploy/$tree.0\nrm -rf --one-file-system /ostree/deploy/debian/deploy/$tree.0";
    inside(&world, "nspawn.sh", fail).exits(0);
    inside(&world, "nspawn.sh", "apt-ostree status; apt-ostree status --json").exits(0).says(&[
        "Warning: failed to finalize previous deployment\n         error: ",
        "         check `journalctl -b -1 -u ostree-finalize-staged.service`\n",
        "\"text\": \"failed to finalize previous deployment\"",
    ]);
    // libostree's generator, which does not run in a container, starts this service in such a boot. It takes the stamp away.
    let later = "systemctl start ostree-boot-complete.service\ntest ! -e /boot/ostree/finalize-failure.stamp && apt-ostree status";
    inside(&world, "nspawn.sh", later)
        .exits(0)
        .says(&["Warning: failed to finalize previous deployment\n         error: Finalizing deployment: opendir"]);
    inside(&world, "nspawn.sh", "apt-ostree status").exits(0).never_says(&["Warning"]);
    world.sysroot.ok(&["status"]).never_says(&["Warning"]);
    world.done();
}

#[test]
fn history_counts_the_boots_that_the_journal_has() {
    let world = World::new();
    // A container has no ostree-prepare-root: logger(1) says to the journal what it would. The last one is of another system.
    let script = "set -e\ntree=$(ls -d /ostree/deploy/debian/deploy/*.0)\n\
                  say() { printf 'MESSAGE_ID=7170336a73ba4601bad31af888aa0df7\\nMESSAGE=x\\nDEPLOYMENT_DEVICE=%s\\nDEPLOYMENT_INODE=%s\\n' \"$@\" | logger --journald; }\n\
                  say $(stat -c '%d %i' $tree)\nsay $(stat -c '%d %i' $tree)\nsay $(stat -c '%d' $tree) 1\njournalctl --sync\n\
                  apt-ostree history\napt-ostree history --json\n\
                  echo as nobody\nsetpriv --reuid=65534 --regid=65534 --clear-groups apt-ostree history";
    let said = inside(&world, "nspawn.sh", script).exits(0);
    let (root, nobody) = said.stdout.split_once("as nobody\n").expect("both answers");
    for part in ["BootTimestamp: ", "└ BootCount: 2; first booted on ", "\"boot-count\": 2,"] {
        assert!(root.contains(part), "{part}:\n{root}");
    }
    assert!(nobody.contains("CreateCommand: apt-ostree") && !nobody.contains("Boot"), "{nobody}");
    world.done();
}

//! More stories of a running system: its configuration, its accounts, its deployments.

use std::fs;

use crate::bases::{BRANCH, base};
use crate::booted::{Story, service};
use crate::world::small;

/// The text of the boot entry that is started next.
fn default_entry(story: &Story) -> String {
    let dir = story.sysroot().dir().join("boot/loader/entries");
    let mut names: Vec<_> = fs::read_dir(&dir).expect("boot entries").flatten().map(|e| e.path()).collect();
    names.sort();
    fs::read_to_string(names.last().expect("an entry")).expect("own file")
}

#[test]
fn kernel_arguments_are_those_of_the_next_boot() {
    let story = Story::new();
    let before = default_entry(&story);
    story
        .boot(
            "apt-ostree kargs --append=kit=1; test -e /run/ostree/staged-deployment; apt-ostree kargs --deploy-index=1",
        )
        .says(&["quiet root=UUID=1\n"]);
    let after = default_entry(&story);
    assert!(before.contains("options quiet root=UUID=1 ostree="), "{before}");
    assert!(after.contains("options quiet root=UUID=1 kit=1 ostree="), "{after}");
    story.boot("same \"$(apt-ostree kargs)\" 'quiet root=UUID=1 kit=1'; apt-ostree kargs --delete=kit=1");
    story.boot("same \"$(apt-ostree kargs)\" 'quiet root=UUID=1'; same \"$(booted)\" \"$(apt-ostree status --booted --json | sed -n 's/.*\"checksum\": \"\\(.*\\)\".*/\\1/p')\"");
    story.done();
}

#[test]
fn accounts_keep_their_numbers_whatever_the_administrator_edits() {
    let mut story = Story::new();
    story.publish(&[service("kit-service", "1.0")]);
    // Edited before anything is layered, and again between staging and the boot.
    story.boot(
        "useradd --create-home --uid 1500 alice; echo hers > /home/alice/file; chown alice: /home/alice/file
        apt-ostree install kit-service; useradd --create-home --uid 1501 bob",
    );
    let look = "id -u kit-service; id -g kit-service; stat -c '%u %g' /var/lib/kit-service";
    let runs = "systemctl is-active kit-service.service
        same alice \"$(stat -c %U /home/alice/file)\"; same 1501 \"$(id -u bob)\"
        same kit-service \"$(ps -o user= -p \"$(systemctl show -P MainPID kit-service.service)\" | tr -d ' ')\"";
    story.boot(runs);
    let numbers = story.boot(look).stdout;
    story.publish(&[service("kit-service", "2.0"), service("kit-other", "1.0")]);
    story.server.set(BRANCH, &base().v2);
    story.boot(
        "sed -i 's,^bob:.*,bob:x:1501:1501:Bob:/home/bob:/bin/sh,' /etc/passwd; apt-ostree upgrade --install kit-other",
    );
    story.boot(&format!("{runs}; systemctl is-active kit-other.service; getent passwd bob")).says(&["Bob"]);
    assert_eq!(story.boot(look).stdout, numbers);
    // An account goes by itself only when the administrator removes it: files may belong to it.
    story.boot("apt-ostree uninstall kit-other");
    story.boot(runs);
    assert_eq!(story.boot(look).stdout, numbers);
    story.done();
}

#[test]
fn etc_is_merged_at_shutdown() {
    let mut story = Story::new();
    let package = |version: &str| {
        let conf = |name: &str| format!("{name} of {version}\n");
        small("kit-conf", version)
            .conffile("/etc/kit-conf/changed", conf("changed"))
            .conffile("/etc/kit-conf/untouched", conf("untouched"))
            .conffile("/etc/kit-conf/removed", conf("removed"))
            .conffile("/etc/kit-conf/late", conf("late"))
    };
    story.publish(&[package("1.0")]);
    story.boot("apt-ostree install kit-conf");
    story.publish(&[package("2.0").conffile("/etc/kit-conf/new", "new\n")]);
    story.boot(
        "cd /etc/kit-conf; echo mine > changed; rm removed; echo own > own; chmod 600 own
        apt-ostree upgrade; echo afterwards > late; echo own > /etc/late-own; ln -s own link",
    );
    story
        .boot(
            "cd /etc/kit-conf; cat changed untouched late new own /etc/late-own link; test ! -e removed
            same 600 \"$(stat -c %a own)\"; same 'late of 2.0' \"$(cat /usr/etc/kit-conf/late)\"",
        )
        .says(&["mine\nuntouched of 2.0\nafterwards\nnew\nown\nown\nown\n"]);
    // Going back is going back: the old deployment has its own /etc.
    story.boot("apt-ostree rollback");
    story.boot("cd /etc/kit-conf; cat changed untouched; test ! -e new").says(&["mine\nuntouched of 1.0\n"]);
    story.done();
}

#[test]
fn pinned_cleaned_and_undeployed() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0"), small("kit-c", "1.0")]);
    story.boot("ostree admin pin 0; apt-ostree install kit-a");
    story.boot("apt-ostree install kit-b");
    // kit-a kit-b is booted, kit-a the rollback, the plain one pinned.
    story
        .boot(
            r#"
            apt-ostree status; same 3 "$(ostree admin status | grep -c '\.0')"
            apt-ostree install kit-c; test -e /run/ostree/staged-deployment
            refused apt-ostree rollback
            apt-ostree cleanup --pending; test ! -e /run/ostree/staged-deployment
            "#,
        )
        .says(&["Pinned: yes", "Staged deployment (remove with cleanup -p)"]);
    story.boot("kit-a; kit-b; test ! -e /usr/bin/kit-c; ostree admin undeploy 1; apt-ostree status; apt-ostree cleanup --rollback");
    assert_eq!(story.sysroot().checksums().len(), 2, "the booted one and the pinned one");
    assert_eq!(story.sysroot().checksums()[1], base().v1);
    story.boot("kit-a; kit-b; ostree admin pin --unpin 1; apt-ostree cleanup --rollback; apt-ostree install kit-c");
    story.boot("kit-a; kit-b; kit-c");
    assert_eq!(story.sysroot().checksums().len(), 2);
    story.done();
}

#[test]
fn another_branch_and_back() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0")]);
    story.server.set("kit/other", &base().v2);
    story.boot("apt-ostree install kit-a");
    let before = story.booted();
    story.boot("apt-ostree rebase kit:kit/other").says(&["kit-base 1.0 -> 2.0"]);
    story.boot("kit-a; kit-base; apt-ostree status").says(&["kit-a 1.0\n2.0\n", "● kit:kit/other"]);
    story.boot(&format!("apt-ostree rebase kit:{BRANCH}"));
    story.boot("kit-a; kit-base").says(&["kit-a 1.0\n1.0\n"]);
    assert_eq!(story.booted()["checksum"], before["checksum"], "the same inputs give the same commit");
    story.done();
}

#[test]
fn what_the_machine_writes_stays_beside_what_the_image_brings() {
    let mut story = Story::new();
    let package = |version: &str| {
        small("kit-opt", version).file("/opt/kit/version", 0o644, format!("{version}\n")).file(
            "/opt/kit/both",
            0o644,
            format!("{version}\n"),
        )
    };
    story.publish(&[package("1.0")]);
    story.boot(
        "echo own > /opt/own; mkdir -p /usr/local/bin; echo own > /usr/local/bin/own; echo own > /srv/own
        echo own > /var/lib/own; echo own > /root/own; apt-ostree install kit-opt",
    );
    let anyone = "setpriv --reuid=65534 --clear-groups cat /opt/kit/version /opt/own /usr/local/bin/own";
    story
        .boot(&format!("{anyone}; echo mine > /opt/kit/both; echo mine > /opt/kit/mine; cat /opt/kit/both"))
        .says(&["1.0\nown\nown\nmine\n"]);
    story.boot("cat /opt/kit/both").says(&["mine\n"]);
    story.publish(&[package("2.0")]);
    story.boot("apt-ostree upgrade");
    // What the image brings anew is the image's.
    story
        .boot(&format!("{anyone}; cat /opt/kit/both /opt/kit/mine; cat /srv/own /var/lib/own /root/own"))
        .says(&["2.0\nown\nown\n2.0\nmine\nown\nown\nown\n"]);
    story.boot("apt-ostree uninstall kit-opt");
    story.boot("test ! -e /opt/kit/version; cat /opt/own /opt/kit/mine /usr/local/bin/own").says(&["own\nmine\nown\n"]);
    story.done();
}

#[test]
fn a_read_only_sysroot_is_written_by_nobody_else() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0")]);
    // As ostree-remount leaves it on a machine; in a container it is writable.
    story
        .boot(
            "mount -o remount,bind,ro /sysroot; refused touch /sysroot/x
            apt-ostree install kit-a; apt-ostree apply-live; kit-a; apt-ostree kargs --append=kit=1
            refused touch /sysroot/x; ls /ostree/repo/extensions/apt-ostree/log",
        )
        .says(&["Read-only file system", "-pkg-change.log", "-kargs.log"]);
    story.boot("kit-a; same \"$(apt-ostree kargs)\" 'quiet root=UUID=1 kit=1'");
    story.done();
}

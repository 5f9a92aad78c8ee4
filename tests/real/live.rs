//! Changes on the running system: `apply-live`, `install --apply-live`, `usroverlay`.

use crate::bases::{BRANCH, base};
use crate::booted::{Story, service};
use crate::world::small;

/// Looks files up as fast as a shell can, and says when one was not there. `unwatch` ends it.
const WATCH: &str = r#"
watch() { while [ -e /run/watching ]; do for f; do [ -e "$f" ] || echo "MISSED $f" >> /run/missed; done; done; }
touch /run/watching
watch /usr/bin/kit-base /usr/lib/os-release /etc/kit-daemon.conf & watcher=$!
unwatch() { rm /run/watching; wait $watcher; [ ! -e /run/missed ] || { cat /run/missed; exit 1; }; }
"#;

#[test]
fn what_is_added_is_there_at_once_and_after_the_boot() {
    let mut story = Story::new();
    story.publish(&[
        service("kit-service", "1.0"),
        small("kit-a", "1.0").file("/opt/kit/tool", 0o755, "#!/bin/sh\necho tool\n").file(
            "/usr/lib/tmpfiles.d/kit-a.conf",
            0o644,
            "d /run/kit-a 0750 root root -\n",
        ),
    ]);
    let pending = r#"apt-ostree status --jsonpath '$.deployments[0].checksum' | tr -d '[]" \n'"#;
    let live = r#"apt-ostree status --booted --jsonpath '$.deployments[0].live-replaced' | tr -d '[]" \n'"#;
    let story_text = format!(
        r#"
        echo own > /opt/own; mkdir -p /usr/local/bin; echo own > /usr/local/bin/own
        cd /usr/bin  # a process that stays in the old tree
        refused apt-ostree apply-live
        apt-ostree install kit-a kit-service
        test ! -e /usr/bin/kit-a
        {WATCH}
        apt-ostree apply-live
        unwatch
        kit-a
        /opt/kit/tool
        same "$(stat -c %a /run/kit-a)" 750
        same "$(dpkg-query -W -f '${{Version}}' kit-a)" 1.0
        cat /etc/kit-service.conf
        getent passwd kit-service
        systemctl start kit-service.service
        systemctl is-active kit-service.service
        same "$(stat -c %U /var/lib/kit-service)" kit-service
        cat /opt/own /usr/local/bin/own
        echo more > /opt/more
        refused touch /usr/x
        refused apt-ostree usroverlay
        same "$({live})" "$({pending})"
        apt-ostree status
        "#
    );
    story.boot(&story_text).says(&[
        "No target commit specified and no pending deployment",
        "Added:\n  kit-a-1.0.amd64\n  kit-service-1.0.amd64",
        "Successfully updated running filesystem tree.",
        "  kit-service.service\n",
        "kit-a 1.0\ntool\n",
        "version=1.0",
        "active",
        "own\nown\n",
        "Read-only file system",
        "would hide",
        "BootedCommit: ",
        "LiveCommit: ",
        "LiveDiff: 2 added",
    ]);
    story
        .boot(
            r#"kit-a; /opt/kit/tool; cat /opt/own /opt/more /usr/local/bin/own; systemctl is-active kit-service.service
            same "$(stat -c %U /var/lib/kit-service)" kit-service
            apt-ostree status; apt-ostree cleanup --rollback; ostree refs"#,
        )
        .says(&["kit-a 1.0\ntool\nown\nmore\nown\nactive\n", "LayeredPackages: kit-a kit-service"])
        .never_says(&["LiveCommit", "rpmostree/live-apply"]);
    story.done();
}

#[test]
fn changes_and_removals_are_allowed_by_option_and_undone() {
    let mut story = Story::new();
    story.publish(&[service("kit-service", "1.0")]);
    story.boot("apt-ostree install kit-service");
    story.publish(&[service("kit-service", "2.0")]);
    story.server.set(BRANCH, &base().v2);
    let text = format!(
        r#"
        echo mine >> /etc/kit-service.conf
        echo own > /opt/own; mkdir -p /usr/local/bin; echo own > /usr/local/bin/own
        apt-ostree upgrade
        refused apt-ostree apply-live
        refused apt-ostree apply-live --target nothing --allow-replacement
        refused apt-ostree apply-live --target nothing --reset 2>&1 | grep 'usage error'
        same "$(kit-base)" 1.0
        {WATCH}
        apt-ostree apply-live --allow-replacement
        same "$(kit-base)" 2.0
        test -e /usr/share/kit/new; test ! -e /usr/share/kit/dropped
        cat /etc/kit-daemon.conf; cat /etc/kit-service.conf
        echo "--- back"
        apt-ostree apply-live --reset
        same "$(kit-base)" 1.0
        same "$(cat /opt/own /usr/local/bin/own)" "$(printf 'own\nown')"; echo more > /opt/more
        test ! -e /usr/share/kit/new; test -e /usr/share/kit/dropped
        cat /etc/kit-daemon.conf; cat /etc/kit-service.conf
        apt-ostree status
        echo "--- again"
        apt-ostree apply-live --allow-replacement
        unwatch
        same "$(kit-base)" 2.0
        same "$(cat /opt/own /opt/more /usr/local/bin/own)" "$(printf 'own\nmore\nown')"
        systemctl is-active kit-service.service
        ostree admin status >/dev/null; apt-ostree status --json >/dev/null
        "#
    );
    let outcome = story.boot(&text).says(&[
        "packages would be removed: 1, allow replacement to override",
        "Refspec 'nothing' not found",
        "Cannot specify both --target and --reset",
        "Following services may need to be restarted:\n  /usr/lib/systemd/system/kit-service.service\n",
        "Kept /etc/kit-service.conf",
    ]);
    let parts: Vec<&str> = outcome.stdout.split("--- ").collect();
    assert!(parts[0].contains("version=2.0\nversion=1.0\nmine\n"), "{}", outcome.text());
    assert!(parts[1].contains("version=1.0\nversion=1.0\nmine\n"), "{}", outcome.text());
    assert!(!parts[1].contains("LiveCommit"), "{}", outcome.text());
    story
        .boot("kit-base; cat /etc/kit-daemon.conf /etc/kit-service.conf; systemctl is-active kit-service.service")
        .says(&["2.0\nversion=2.0\nversion=1.0\nmine\nactive\n"]);
    assert_eq!(story.booted()["base-checksum"], base().v2.as_str());
    story.done();
}

#[test]
fn installing_live_and_uninstalling_live() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0"), small("kit-b", "1.0").conffile("/etc/kit-b.conf", "b\n")]);
    story
        .boot(
            r#"
            apt-ostree install --apply-live kit-a
            kit-a
            apt-ostree install -A -y kit-b
            kit-a; kit-b; cat /etc/kit-b.conf
            apt-ostree uninstall -A kit-b
            test ! -e /usr/bin/kit-b; test ! -e /etc/kit-b.conf
            apt-ostree status
            refused apt-ostree install -A --reboot kit-b
            "#,
        )
        .says(&[
            "notice: auto-inferring -y",
            "kit-a 1.0\nkit-b 1.0\nb\n",
            "LiveDiff: 1 added",
            "both --apply-live and --reboot",
        ])
        .never_says(&["Changes queued"]);
    story.boot("kit-a; test ! -e /usr/bin/kit-b; apt-ostree status").never_says(&["LiveCommit"]);
    story.done();
}

#[test]
fn an_unlocked_system_is_left_alone() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0")]);
    story
        .boot(
            "apt-ostree install kit-a; apt-ostree usroverlay; touch /usr/bin/mine; apt-ostree status
            refused apt-ostree apply-live; ls /usr/bin/mine; test ! -e /usr/bin/kit-a",
        )
        .says(&["Unlocked: development", "incompatible with unlock state: development", "/usr/bin/mine\n"]);
    story.boot("kit-a; test ! -e /usr/bin/mine");
    story.done();
}

#[test]
fn killed_at_any_moment_it_can_be_repeated_or_undone() {
    let mut story = Story::new();
    story.publish(&[service("kit-service", "1.0"), small("kit-a", "1.0")]);
    let text = format!(
        r#"
        apt-ostree install kit-a kit-service
        {WATCH}
        # How long a whole one takes, in hundredths of a second.
        now() {{ read -r up rest < /proc/uptime; echo "$up" | tr -d .; }}
        start=$(now); apt-ostree apply-live; whole=$(($(now) - start + 1)); apt-ostree apply-live --reset
        count=8; round=0; interrupted=0
        while [ $round -lt $count ]; do
          round=$((round + 1))
          apt-ostree apply-live > /dev/null 2>&1 & pid=$!
          delay=$((whole * round / count))
          sleep "$(printf '%d.%02d' $((delay / 100)) $((delay % 100)))"
          kill -KILL $pid 2>/dev/null || true
          wait $pid 2>/dev/null || true
          # The worker dies with it, a little later.
          while pgrep -f 'apt-ostree worker' > /dev/null; do sleep 0.01; done
          ls /usr/bin/kit-base /etc/kit-daemon.conf > /dev/null
          dpkg-query -W > /dev/null
          apt-ostree status --booted > /run/status
          if grep -q InterruptedLiveCommit /run/status; then interrupted=$((interrupted + 1)); fi
          if [ $((round % 2)) = 0 ]; then
            apt-ostree apply-live > /dev/null
            same "$(kit-a)" "kit-a 1.0"; cat /etc/kit-service.conf > /dev/null; getent passwd kit-service > /dev/null
            if apt-ostree status | grep Interrupted; then exit 1; fi
          fi
          apt-ostree apply-live --reset > /dev/null
          test ! -e /usr/bin/kit-a; test ! -e /etc/kit-service.conf
          if apt-ostree status | grep Live; then exit 1; fi
        done
        unwatch
        echo "interrupted $interrupted of $count"
        test $interrupted -gt 0
        if findmnt --noheadings --list --output TARGET | grep '^/run/apt-ostree/'; then exit 1; fi
        apt-ostree apply-live
        "#
    );
    story.boot(&text);
    story
        .boot("kit-a; cat /etc/kit-service.conf; systemctl is-active kit-service.service; apt-ostree status")
        .never_says(&["Live"]);
    story.done();
}

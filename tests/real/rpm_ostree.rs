//! A person who knows only rpm-ostree, on a system that was never told otherwise: every word is the one that rpm-ostree's manual
//! has, and the answers are those that it promises.
//!
//! What became of it is asked of dpkg, `ostree admin`, the boot entries and the programs themselves.

use std::fmt::Write as _;

use apt_ostree_testkit::sysroot::Outcome;

use crate::bases::BRANCH;
use crate::clients::{NEXT, images, machine};
use crate::service::Machine;
use crate::world::small;

/// `otto` is a user, all else is root's. `exits N` runs a command that must end with that status. `entry` is
/// the boot entry that is started next, `layers` what was layered on the booted deployment.
const WORDS: &str = r#"
id otto > /dev/null 2>&1 || useradd --create-home --shell /bin/sh otto
otto() { runuser -u otto -- "$@"; }
exits() { want=$1; shift; got=0; "$@" || got=$?; [ $got = $want ] || { echo "$got instead of $want: $*"; exit 1; }; }
same() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }; }
entry() { sed -n 's/^options //p' "$(ls /boot/loader/entries/*.conf | sort -V | tail -n 1)"; }
version() { dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$1"; }
layers() { rpm-ostree status --booted --json | jq -r '.deployments[0]["requested-packages"] | join(" ")'; }
deployments() { ostree admin status | grep -c '^[* ] debian'; }
"#;

const REBOOT: &str = "Changes queued for next boot. Run \"systemctl reboot\" to start a reboot\n";

fn boot(machine: &Machine, script: &str) -> Outcome {
    machine.boot(&format!("{WORDS}{script}"))
}

#[test]
fn who_knows_only_rpm_ostree() {
    let (mut machine, _) = machine();
    let v1 = &images().v1;
    machine.publish(&[small("kit-git", "1.0"), small("kit-three", "1.0")]);
    let replacement = machine.world.local(&small("kit-base", "3.0"));
    let replacement = replacement.display();

    // Everybody may look; who changes something is somebody.
    let looks = r#"
        otto rpm-ostree status; otto rpm-ostree db diff kit:kit/debian kit:kit/debian; otto rpm-ostree kargs
        exits 1 otto rpm-ostree install kit-one
        exits 77 rpm-ostree upgrade --check; exits 77 rpm-ostree upgrade --preview
        exits 77 rpm-ostree upgrade --unchanged-exit-77; exits 0 rpm-ostree update
        exits 0 otto rpm-ostree status --pending-exit-77 > /dev/null
        echo "--- install"; rpm-ostree install kit-one
        echo "--- pending"; exits 77 otto rpm-ostree status --pending-exit-77
        exits 77 rpm-ostree install --idempotent --unchanged-exit-77 kit-one
        exits 1 rpm-ostree install kit-one
        exits 1 rpm-ostree install kit-base
        test ! -e /usr/bin/kit-one; exits 1 dpkg-query -W kit-one 2> /dev/null
        otto rpm-ostree db diff; test -e /run/ostree/staged-deployment"#;
    let said = boot(&machine, looks);
    let head = format!("State: idle\nDeployments:\n● kit:{BRANCH}\n                  Version: 13 (");
    said.says(&[
        &head,
        &format!("                   Commit: {v1}\n"),
        "quiet root=UUID=1\n",
        "error: rpmostreed OS operation PkgChange not allowed for user\nhint: Run it as root (sudo)",
        "No updates available.\n",
        "No upgrade available.\n",
        &format!("Staging deployment... done\nAdded:\n  kit-one-1.0.amd64\n{REBOOT}--- pending\n"),
        "          LayeredPackages: kit-one\n",
        "No change.\n",
        "error: Package/capability 'kit-one' is already requested\n",
        "error: \"kit-base\" is already provided by: kit-base-1.0.amd64. Use --allow-inactive to explicitly require it.\n",
        "ostree diff commit from: booted deployment (",
        "ostree diff commit to:   pending deployment (",
    ]);

    // Another branch, under the same layer, and back.
    let script = format!(
        "kit-one; same 'ii 1.0' \"$(version kit-one)\"; same kit-one \"$(layers)\"
        exits 1 rpm-ostree rebase kit:{BRANCH}; exits 1 rpm-ostree rebase kit:nowhere
        rpm-ostree rebase kit:{NEXT}"
    );
    boot(&machine, &script).says(&[
        &format!("error: Old and new refs are equal: kit:{BRANCH}\n"),
        "hint: The branches that it has: ostree remote refs kit\n",
        "Upgraded:\n  kit-base 1.0 -> 2.0\n  kit-daemon 1.0 -> 2.0\nRemoved:\n  kit-dropped-1.0.amd64\nAdded:\n  kit-new-1.0.amd64\n",
        REBOOT,
    ]);
    let script = format!(
        "kit-one; same 2.0 \"$(kit-base)\"; same 'ii 2.0' \"$(version kit-base)\"
        otto rpm-ostree status; rpm-ostree rebase {BRANCH}"
    );
    boot(&machine, &script).says(&[&format!("● kit:{NEXT}\n"), "Downgraded:\n  kit-base 2.0 -> 1.0\n", REBOOT]);

    // An upgrade, which keeps the layer; back, and forth.
    machine.server.set(BRANCH, &images().v2);
    let script = "kit-one; same 1.0 \"$(kit-base)\"; rpm-ostree cleanup -r; same 1 \"$(deployments)\"
        exits 0 rpm-ostree upgrade --check; exits 0 rpm-ostree upgrade --preview
        test ! -e /run/ostree/staged-deployment; rpm-ostree upgrade
        exits 77 rpm-ostree upgrade --unchanged-exit-77; otto rpm-ostree status";
    boot(&machine, script).says(&[
        "AvailableUpdate:\n        Version: 13.1 (",
        "           Diff: 2 upgraded, 1 removed, 1 added\n",
        "       Upgraded: kit-base 1.0 -> 2.0\n",
        &format!("Upgraded:\n  kit-base 1.0 -> 2.0\n  kit-daemon 1.0 -> 2.0\nRemoved:\n  kit-dropped-1.0.amd64\nAdded:\n  kit-new-1.0.amd64\n{REBOOT}"),
        "No upgrade available.\n",
        "                     Diff: 2 upgraded, 1 removed, 1 added\n",
    ]);
    let script = "kit-one; same 2.0 \"$(kit-base)\"; same 'ii 2.0' \"$(version kit-base)\"; same kit-one \"$(layers)\"
        otto rpm-ostree db diff; otto rpm-ostree db diff --format=diff; rpm-ostree rollback
        exits 77 otto rpm-ostree status --pending-exit-77 > /dev/null";
    boot(&machine, script).says(&[
        "ostree diff commit from: rollback deployment (",
        "ostree diff commit to:   booted deployment (",
        "!kit-base-1.0.amd64\n=kit-base-2.0.amd64\n",
        "' to be first deployment\n",
        &format!("Downgraded:\n  kit-base 2.0 -> 1.0\n  kit-daemon 2.0 -> 1.0\nRemoved:\n  kit-new-1.0.amd64\nAdded:\n  kit-dropped-1.0.amd64\n{REBOOT}"),
    ]);
    boot(&machine, "same 1.0 \"$(kit-base)\"; kit-one; rpm-ostree rollback").says(&[REBOOT]);

    // Packages of the base, and kernel arguments.
    let script = format!(
        "same 2.0 \"$(kit-base)\"; exits 1 rpm-ostree uninstall kit-base
        echo '--- replace'; rpm-ostree override replace {replacement}
        echo '--- remove'; rpm-ostree override remove kit-new
        echo '--- kargs'; rpm-ostree kargs --append=kit=1
        exits 77 rpm-ostree kargs --append-if-missing=kit=1 --unchanged-exit-77
        exits 1 rpm-ostree kargs --append=ostree=x
        exits 1 rpm-ostree override remove kit-nowhere
        otto rpm-ostree status"
    );
    let undo = format!("Use \"rpm-ostree override reset\" to undo overrides\n{REBOOT}");
    boot(&machine, &script).says(&[
        "hint: It is part of the base: rpm-ostree override remove kit-base\n",
        &format!("Upgraded:\n  kit-base 2.0 -> 3.0\n{undo}"),
        &format!("Removed:\n  kit-new-1.0.amd64\n{undo}"),
        &format!("quiet root=UUID=1 kit=1\n{REBOOT}No changes.\nerror: "),
        "error: Package \"kit-nowhere\" not found\n",
        "      RemovedBasePackages: kit-new-1.0.amd64\n",
        "           LocalOverrides: kit-base 2.0 -> 3.0\n",
    ]);
    let script = "kit-base; same 'ii 3.0' \"$(version kit-base)\"; exits 1 dpkg-query -W kit-new 2> /dev/null
        test ! -e /usr/share/kit/new; entry
        case \"$(entry)\" in 'quiet root=UUID=1 kit=1 ostree='*) ;; *) exit 1 ;; esac
        ostree admin pin 0
        exits 1 rpm-ostree override reset kit-daemon
        rpm-ostree override reset kit-base; rpm-ostree override reset --all
        rpm-ostree kargs --delete=kit=1; exits 1 rpm-ostree kargs --delete=kit=1
        rpm-ostree initramfs; rpm-ostree initramfs-etc
        rpm-ostree initramfs-etc --track=/etc/os-release";
    boot(&machine, script).says(&[
        "kit-base 3.0\n",
        "error: No overrides for package 'kit-daemon'\n",
        "`rpm-ostree status -v`",
        &format!("Downgraded:\n  kit-base 3.0 -> 2.0\n{REBOOT}"),
        &format!("Added:\n  kit-new-1.0.amd64\n{REBOOT}"),
        "Initramfs regeneration: disabled\n",
        "No tracked files.\n",
    ]);

    // What is pinned stays; packages at once; and everything off again.
    let script = "same 2.0 \"$(kit-base)\"; kit-one; test -e /usr/share/kit/new
        case \"$(entry)\" in 'quiet root=UUID=1 ostree='*) ;; *) exit 1 ;; esac
        otto rpm-ostree status
        echo '--- live'; rpm-ostree install kit-two; rpm-ostree apply-live; kit-two; same 'ii 1.0' \"$(version kit-two)\"
        rpm-ostree install --apply-live kit-three; kit-three
        otto rpm-ostree status --booted
        echo '--- cleanup'; rpm-ostree cleanup -p; exits 0 rpm-ostree cleanup -p
        rpm-ostree cleanup --rollback; rpm-ostree cleanup --base --repomd
        ostree admin status; same 2 \"$(deployments)\"
        echo '--- off'; rpm-ostree uninstall kit-one; rpm-ostree reset; ostree admin pin --unpin 2";
    boot(&machine, script).says(&[
        "                   Pinned: yes\n",
        "Added:\n  kit-two-1.0.amd64\nSuccessfully updated running filesystem tree.\nkit-two 1.0\n",
        "notice: auto-inferring -y/--assumeyes",
        "kit-three 1.0\n",
        "                 LiveDiff: 2 added\n",
        "Deployments unchanged.\n",
        &format!("Removed:\n  kit-one-1.0.amd64\n{REBOOT}"),
    ]);

    // Without anything on it the system is its image; from now on it takes care of itself.
    let v2 = &images().v2;
    let mut script = format!(
        "exits 127 sh -c kit-one; exits 127 sh -c kit-two; same '' \"$(layers)\"; ostree admin status | grep -F '* debian {v2}.'\n"
    );
    let _ = write!(
        script,
        r#"
        sed -i 's/^#AutomaticUpdatePolicy=none/AutomaticUpdatePolicy=check/' /etc/rpm-ostreed.conf
        rpm-ostree reload
        systemctl enable --now rpm-ostreed-automatic.timer
        systemctl is-enabled rpm-ostreed-automatic.timer; systemctl is-active rpm-ostreed-automatic.timer
        otto rpm-ostree status
        systemctl mask --runtime --now systemd-networkd-wait-online.service
        systemctl start rpm-ostreed-automatic.service
        journalctl -b -q -o cat -u rpm-ostreed-automatic | grep -x 'No updates available.'
        systemctl is-system-running"#
    );
    boot(&machine, &script).says(&["AutomaticUpdates: check; rpm-ostreed-automatic.timer: ", "enabled\nactive\n"]);
    machine.world.done();
}

/// What such a person gets wrong, and is told.
#[test]
fn what_is_wrong_here_is_told_in_words_that_help() {
    let (machine, _) = machine();
    let typed: &[(&str, &[&str])] = &[
        ("install", &["error: usage error: At least one PACKAGE must be specified"]),
        ("install foo.rpm", &["'foo.rpm' is an RPM package", "rpm-ostree search WORD"]),
        ("install ./foo-1.0-1.fc42.x86_64.rpm", &["is an RPM package", "./NAME.deb"]),
        ("install https://download.example/foo.rpm", &["is an RPM package"]),
        ("install https://download.example/foo.deb", &["Download the .deb and give its path."]),
        (
            "install kit-one-core",
            &["Packages not found: kit-one-core", "did you mean kit-one", "rpm-ostree search WORD"],
        ),
        ("install kit-one-1.0.amd64", &["did you mean kit-one=1.0, kit-one"]),
        ("install htop-3.4.1-1.fc42.x86_64", &["not the name of a Debian package"]),
        ("install NetworkManager", &["Did you mean network-manager or networkmanager?"]),
        ("install @development-tools", &["is a group"]),
        ("install kit-*", &["is a pattern", "rpm-ostree list --all 'kit-*'"]),
        ("install --enablerepo=updates-testing kit-one", &["--enablerepo is not available", "NAME/SUITE"]),
        ("override replace https://bodhi.example/updates/FEDORA-1", &["Download the .deb"]),
        ("override replace kernel.rpm", &["is an RPM package"]),
        ("override replace kit-base", &["Which version of kit-base"]),
        ("override remove kit-nowhere", &["`rpm-ostree list --base`"]),
        ("override", &["error: No \"override\" subcommand specified"]),
        ("ex", &["error: No \"ex\" subcommand specified"]),
        ("ex override replace kit-base", &["It is a command of its own: rpm-ostree override"]),
        ("ex module install x", &["apt archives have no modules"]),
        ("livefs", &["hint: rpm-ostree apply-live"]),
        ("pin 0", &["ostree admin pin"]),
        ("repolist", &["/etc/apt/sources.list.d", "ostree remote list"]),
        ("downgrade kit-base", &["rpm-ostree override replace NAME=VERSION"]),
        ("instal kit-one", &["Unknown command 'instal'", "Did you mean install"]),
        ("uninstall kit-nowhere", &["is not currently requested", "`rpm-ostree status`"]),
        ("rebase fedora:fedora/42/x86_64/silverblue", &["No such remote 'fedora'", "ostree remote add fedora URL"]),
        ("rebase ostree-image-signed:docker://quay.example/x", &["Container images are not available"]),
        ("rebase docker://quay.example/x", &["Container images are not available"]),
        ("upgrade kit-base", &["Unexpected argument 'kit-base'"]),
        ("cleanup", &["At least one cleanup option must be specified"]),
        ("kargs quiet", &["Unexpected argument 'quiet'"]),
        ("rollback", &["error: No rollback deployment found"]),
        ("initramfs --arg=x", &["--arg must be used with --enable"]),
        ("deploy 99", &["error: Version 99 not found in kit:"]),
        ("apply-live", &["No target commit specified and no pending deployment"]),
        ("search", &["At least one TERM must be specified"]),
        ("info kit-nowhere", &["Packages not found: kit-nowhere", "rpm-ostree search WORD"]),
        ("cliwrap install-to-root /", &["apt and apt-get already refuse"]),
    ];
    let mut script = String::from("before=$(ostree admin status)\nset -f\n");
    for (number, (words, _)) in typed.iter().enumerate() {
        let _ = writeln!(script, "echo '=== {number}'; exits 1 rpm-ostree {words} 2>&1");
    }
    script += "echo '=== end'; same \"$before\" \"$(ostree admin status)\"
        number=0
        for command in $(rpm-ostree --help | sed -n 's/^  \\([a-z][a-z-]*\\)   *[A-Z].*/\\1/p'); do
          number=$((number + 1))
          rpm-ostree $command --help | grep -q \"^Usage: rpm-ostree .*$command\" || { echo \"no help: $command\"; exit 1; }
          if rpm-ostree $command --help | grep 'apt-ostree '; then exit 1; fi
        done
        [ $number -ge 20 ] || { echo \"only $number commands were found in the help\"; exit 1; }";
    let said = boot(&machine, &script).stdout;
    for (number, (words, texts)) in typed.iter().enumerate() {
        let (_, rest) =
            said.split_once(&format!("=== {number}\n")).unwrap_or_else(|| panic!("{words} is missing in:\n{said}"));
        let answer = rest.split("\n=== ").next().expect("the part before");
        let error = answer.find("error: ").unwrap_or_else(|| panic!("no error of {words}:\n{answer}"));
        for text in *texts {
            assert!(
                answer[error..].contains(text),
                "'{text}' is missing in the answer to {words}:\n{}",
                &answer[error..]
            );
        }
        // What is to be typed next is told by the name that was typed.
        assert!(!answer[error..].contains("apt-ostree "), "{words}:\n{}", &answer[error..]);
    }
    machine.world.done();
}

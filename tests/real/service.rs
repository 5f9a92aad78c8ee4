//! The installed service on a booted system: started by the bus, asked by users with and without rights, killed, and cancelled.
//!
//! dbus-daemon, systemd and polkit are Debian's; the package is the one of this source.

use std::path::Path;
use std::process::Command;

use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::sysroot::{Outcome, Server, Sysroot};

use crate::bases::{BRANCH, TREE, base, clients, directory};
use crate::packaging::{compat, package};
use crate::world::{World, small};

/// For every script: it ends at the first command that fails, and says which one that was.
const PRELUDE: &str = r#"set -eu
trap 'status=$?; [ $status = 0 ] || { echo "script: ended with $status"; journalctl -b -q --no-pager -u apt-ostreed -u "apt-ostree-worker*" | tail -n 40; }' EXIT
refused() { if said=$("$@" 2>&1); then echo "was allowed: $*"; exit 1; else printf '%s\n' "$said"; fi; }
until_true() { for _ in $(seq 600); do if "$@"; then return 0; fi; sleep 0.1; done; echo "waited in vain for: $*"; exit 1; }
hangs() { pgrep -f 'kit-hangs[.]postinst' > /dev/null; }
gone() { ! hangs; }
idle() { apt-ostree status | grep -qx 'State: idle'; }
"#;

/// What `nspawn.sh` ends with when the system restarts by itself.
pub(crate) const RESTARTED: i32 = 133;

/// A machine with the package, and packages of Debian.
pub(crate) struct Machine {
    pub(crate) world: World,
    pub(crate) server: Server,
}

impl Machine {
    /// A script that SIGKILL alone ends.
    pub(crate) const HANG: &str = "#!/bin/sh\ntrap '' TERM HUP INT\necho hanging\nwhile :; do sleep 1; done\n";

    fn new() -> Self {
        Self::with(&["polkitd"], false)
    }

    /// Has `debian`'s packages layered and, if `names`, the package with rpm-ostree's names. Its archive has kit-one, kit-two, and
    /// kit-hangs.
    pub(crate) fn with(debian: &[&str], names: bool) -> Self {
        let (mut world, server) = World::following();
        let hangs = small("kit-hangs", "1.0").script("postinst", Self::HANG);
        world.publish(&[small("kit-one", "1.0"), small("kit-two", "1.0"), hangs]);
        let deb = package(&world);
        let mut wanted = vec![deb.to_string_lossy().into_owned()];
        if names {
            wanted.push(compat(&deb).to_string_lossy().into_owned());
        }
        wanted.extend(debian.iter().map(ToString::to_string));
        with_debian(&mut world, |sysroot| {
            sysroot.ok(&[&["install".to_owned()], &wanted[..]].concat());
        });
        Self { world, server }
    }

    /// Puts packages into the archive.
    pub(crate) fn publish(&mut self, debs: &[Deb]) {
        self.world.publish(debs);
    }

    /// One boot with the program that is installed, with a script that must not fail.
    pub(crate) fn boot(&self, script: &str) -> Outcome {
        self.try_boot(script).exits(0)
    }

    /// The same, whatever becomes of the script.
    pub(crate) fn try_boot(&self, script: &str) -> Outcome {
        let mut command = Command::new(format!("{TREE}/tests/boot/nspawn.sh"));
        command.arg(self.world.sysroot.dir()).arg(format!("{PRELUDE}{script}")).env_remove("APT_OSTREE");
        let shared = [directory(), clients()].into_iter().filter(|dir| dir.exists());
        let shared: Vec<_> = shared.map(|dir| dir.to_string_lossy().into_owned()).collect();
        command.env("BIND", shared.join(":")).env("TIMEOUT", "600");
        let output = command.output().expect("the script starts");
        Outcome::new(&command, &output)
    }
}

/// Lets a sysroot do something with Debian's archives as well. Inside of machines there is no network: what it has fetched is in the
/// world's archive from then on.
pub(crate) fn with_debian(world: &mut World, fetch: impl FnOnce(&Sysroot)) {
    let sources =
        apt_ostree_core::compose::input::host_sources(Path::new("/"), "trixie").expect("sources of this machine");
    let lines: Vec<String> = sources.iter().map(ToString::to_string).collect();
    world.sysroot.set_sources(&format!("{}\n{}", lines.join("\n"), world.archive.sources("stable")));
    fetch(&world.sysroot);
    let fetched = world.sysroot.repo().join("extensions/apt-ostree/apt/archives");
    for file in std::fs::read_dir(fetched).expect("downloaded packages").flatten() {
        if file.path().extension().is_some_and(|e| e == "deb") {
            world.archive.add_file("stable", &file.path());
        }
    }
    world.archive.publish();
    world.sysroot.set_sources(&world.archive.sources("stable"));
}

#[test]
fn users_and_the_service() {
    let machine = Machine::new();
    let deb = machine.world.local(&small("kit-local", "1.0"));
    let deb = deb.display();
    let shared =
        "for user in anna otto; do id $user > /dev/null 2>&1 || useradd --create-home --shell /bin/sh $user; done
        as() { user=$1; shift; runuser -u \"$user\" -- \"$@\"; }";
    machine.boot(&format!(
        r#"{shared}
        systemctl is-active apt-ostreed && exit 1
        # Reading starts nothing.
        as anna apt-ostree status | grep -qx 'State: idle'
        systemctl is-active apt-ostreed && exit 1
        # Without rights: refused, and said so.
        said=$(refused as anna apt-ostree install kit-one)
        case $said in *'rpmostreed OS operation PkgChange not allowed for user'*) ;; *) echo "$said"; exit 1 ;; esac
        refused as anna apt-ostree rollback
        refused as anna apt-ostree kargs --append=x
        refused as anna apt-ostree apply-live
        refused as anna apt-ostree reload
        refused as anna busctl call org.projectatomic.rpmostree1 /org/projectatomic/rpmostree1/debian org.projectatomic.rpmostree1.OSExperimental Moo b true
        systemctl is-active apt-ostreed
        # With a rule for two actions: those, and no others; a file by its descriptor.
        mkdir -p /etc/polkit-1/rules.d
        cat > /etc/polkit-1/rules.d/50-test.rules <<'EOT'
polkit.addRule(function(action, subject) {{
    if (subject.user == "anna" && (action.id == "org.projectatomic.rpmostree1.install-uninstall-packages" ||
        action.id == "org.projectatomic.rpmostree1.install-local-packages")) return polkit.Result.YES;
}});
EOT
        systemctl restart polkit
        as anna apt-ostree install kit-one > /run/said
        cat /run/said
        grep -qx 'Changes queued for next boot. Run "systemctl reboot" to start a reboot' /run/said
        cp {deb} /home/anna/kit-local.deb; chmod 600 /home/anna/kit-local.deb; chown anna /home/anna/kit-local.deb
        as anna apt-ostree install /home/anna/kit-local.deb
        refused as anna apt-ostree upgrade
        refused as otto apt-ostree install kit-two
        apt-ostree status --json | grep -q '"kit-local-1.0.amd64"'
        journalctl -b -q -o cat MESSAGE_ID=d5bea37a8fc84ff59dbcfd79177b7df8 | grep -q 'Initiated txn PkgChange for client(id:'
        # What root asks goes through the service as well, in a unit of its own.
        apt-ostree install kit-two
        journalctl -b -q -o cat -u 'apt-ostree-worker-*' | grep -q 'apt-ostree transaction: apt-ostree install kit-two'
        journalctl -b -q -u apt-ostreed --no-pager | tail -n 30
        "#
    ));
    machine.boot(&format!(
        r#"{shared}
        kit-one && kit-two && kit-local
        # Somebody else's transaction: busy for others, not to be cancelled by them.
        as anna apt-ostree install kit-hangs > /run/anna 2>&1 & anna=$!
        until_true hangs
        apt-ostree status | sed -n '1,3p' > /run/said; cat /run/said
        grep -qx 'State: busy' /run/said; grep -qx 'Transaction: apt-ostree install kit-hangs' /run/said
        grep -q 'Initiator: client(id:' /run/said
        test "$(apt-ostree status --json | sed -n 's/^    "\(PkgChange\)",$/\1/p')" = PkgChange
        refused apt-ostree rollback | grep 'Transaction in progress: apt-ostree install kit-hangs'
        refused as otto apt-ostree cancel
        hangs
        apt-ostree cancel > /run/said; cat /run/said
        grep -qx 'Cancelling transaction: apt-ostree install kit-hangs' /run/said; grep -qx 'Cancelled.' /run/said
        wait $anna && exit 1; cat /run/anna; grep -q '^error: Transaction cancelled' /run/anna
        until_true idle; gone
        test "$(apt-ostree cancel)" = 'No active transaction.'
        # Ctrl-C.
        apt-ostree install kit-hangs > /run/root 2>&1 & root=$!
        until_true hangs
        kill -INT $root; wait $root && exit 1; cat /run/root
        grep -qx 'Caught SIGINT, cancelling transaction' /run/root; gone
        # Killed in the middle: the worker goes as well, and the next one works.
        apt-ostree install kit-hangs > /run/root 2>&1 & root=$!
        until_true hangs
        systemctl kill --signal=KILL apt-ostreed
        wait $root && exit 1; cat /run/root; grep -q '^error: The service went away during the transaction' /run/root
        until_true gone
        until_true sh -c '! systemctl list-units --plain --no-legend "apt-ostree-worker-*" | grep -q .'
        apt-ostree uninstall kit-two
        # Restarted in the middle: the same, and told as cancelled.
        apt-ostree install kit-hangs > /run/root 2>&1 & root=$!
        until_true hangs
        systemctl restart apt-ostreed
        wait $root && exit 1; cat /run/root; gone
        apt-ostree status --json | tr -d ' \n' | grep -q '"transaction":null'
        # The worker alone is killed: systemd says how its unit ended.
        apt-ostree install kit-hangs > /run/root 2>&1 & root=$!
        until_true hangs
        systemctl kill --kill-whom=main --signal=KILL 'apt-ostree-worker-*'
        wait $root && exit 1; cat /run/root; gone
        grep -q '^error: The worker process ended without a report' /run/root; grep -qx 'hint: systemd says of its unit: signal' /run/root
        until_true idle
        apt-ostree status | grep '^LastTransaction: apt-ostree install kit-hangs failed: The worker process ended without a report'
        # Figures for the documentation.
        apt-ostree reload
        systemd-analyze security --no-pager apt-ostreed | tail -n 1
        grep VmRSS "/proc/$(systemctl show -P MainPID apt-ostreed)/status"
        "#
    ));
    // What a killed worker leaves goes with the next transaction.
    machine.boot("kit-one && kit-local && ! command -v kit-two && ! command -v kit-hangs && apt-ostree cleanup -b");
    machine.world.done();
}

#[test]
fn an_automatic_update_from_timer_to_reboot() {
    let machine = Machine::new();
    machine.server.set(BRANCH, &base().v2);
    let timer = "apt-ostreed-automatic.timer";
    machine.boot(&format!(
        r#"
        # There is no network to wait for.
        systemctl mask --runtime --now systemd-networkd-wait-online.service
        systemctl start apt-ostreed-automatic.service
        journalctl -b -q -o cat -u apt-ostreed-automatic | grep -x 'Automatic updates are not enabled; exiting...' || exit 1
        printf '[Daemon]\nAutomaticUpdatePolicy=check\n' > /etc/apt-ostreed.conf
        apt-ostree reload
        busctl get-property org.projectatomic.rpmostree1 /org/projectatomic/rpmostree1/Sysroot org.projectatomic.rpmostree1.Sysroot AutomaticUpdatePolicy | grep check
        mkdir -p /run/systemd/system/{timer}.d
        printf '[Timer]\nOnBootSec=\nOnUnitInactiveSec=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\n' > /run/systemd/system/{timer}.d/soon.conf
        systemctl daemon-reload; systemctl restart {timer}
        known() {{ apt-ostree status | grep -q '^AvailableUpdate:'; }}
        until_true known
        apt-ostree status
        apt-ostree status | grep -q '^AutomaticUpdates: check; {timer}'
        apt-ostree status | grep -q '1 upgraded\|2 upgraded'
        until_true idle
        busctl get-property org.projectatomic.rpmostree1 /org/projectatomic/rpmostree1/debian org.projectatomic.rpmostree1.OS HasCachedUpdateRpmDiff | grep 'b true'
        test "$(apt-ostree status --json --booted | grep -c '"staged": true')" = 0
        printf '[Daemon]\nAutomaticUpdatePolicy=stage\n' > /etc/apt-ostreed.conf
        systemctl reload apt-ostreed
        until_true sh -c '! systemctl is-active apt-ostreed-automatic.service'
        systemctl start apt-ostreed-automatic.service
        apt-ostree status --json | grep -q '"staged": true'
        until_true idle
        "#
    ));
    machine.boot("test \"$(kit-base)\" = 2.0 && apt-ostree status --booted");
    machine.world.done();
}

/// The whole way: the timer comes, the service finds, fetches and stages, and has the machine restarted.
#[test]
fn an_update_that_is_applied_without_anybody() {
    let mut machine = Machine::new();
    let timer = "apt-ostreed-automatic.timer";
    // Who would be at work then is told that the machine goes down, by being ended.
    let wait = format!(
        "mkdir -p /run/systemd/system/{timer}.d
        printf '[Timer]\\nOnBootSec=\\nOnUnitInactiveSec=\\nOnActiveSec=1s\\nRandomizedDelaySec=0\\nAccuracySec=100ms\\n' > /run/systemd/system/{timer}.d/soon.conf
        systemctl daemon-reload; systemctl mask --runtime --now systemd-networkd-wait-online.service
        systemctl start {timer}; echo waiting; sleep infinity"
    );
    let apply = "printf '[Daemon]\\nAutomaticUpdatePolicy=apply\\n' > /etc/apt-ostreed.conf";
    machine.boot("apt-ostree install kit-one");

    // A new base.
    machine.server.set(BRANCH, &base().v2);
    let restarted = machine.try_boot(&format!("test \"$(kit-base)\" = 1.0; {apply}; {wait}"));
    restarted.exits(RESTARTED).says(&["waiting\n", "Rebooting."]);
    let nothing = format!(
        r#"
        test "$(kit-base)" = 2.0; kit-one
        ostree admin status | sed -n '1p' | grep '^\* debian'
        journalctl -b -1 -q -o cat -u apt-ostreed | grep -F 'Initiated txn '
        journalctl -b -1 -q -o cat -u {timer} -u apt-ostreed-automatic.service
        # Nothing is new: the machine stays up.
        systemctl mask --runtime --now systemd-networkd-wait-online.service
        booted=$(apt-ostree status --json --booted | grep '"checksum"')
        systemctl start apt-ostreed-automatic.service
        until_true idle
        test -z "$(systemctl list-jobs --no-legend reboot.target)"
        test "$booted" = "$(apt-ostree status --json --booted | grep '"checksum"')"
        test ! -e /run/ostree/staged-deployment
        "#
    );
    machine.boot(&nothing);

    // A newer layered package, which was staged before the policy became this one; first of all it is locked.
    machine.publish(&[small("kit-one", "2.0")]);
    let restarted = machine.try_boot(&format!(
        r#"
        test "$(kit-one)" = 'kit-one 1.0'
        apt-ostree upgrade --lock-finalization
        systemctl mask --runtime --now systemd-networkd-wait-online.service
        systemctl start apt-ostreed-automatic.service; until_true idle
        test -z "$(systemctl list-jobs --no-legend reboot.target)"
        ostree admin status | grep 'finalization locked'
        apt-ostree cleanup -p; apt-ostree upgrade
        {wait}"#
    ));
    restarted.exits(RESTARTED).says(&["waiting\n", "Rebooting."]);
    machine
        .boot("test \"$(kit-one)\" = 'kit-one 2.0'; test \"$(dpkg-query -W -f '${Version}' kit-one)\" = 2.0; kit-base");
    machine.world.done();
}

//! Stories of a running system, each with reboots, in systemd-nspawn on a file system of their own.
//!
//! Inside, systemd, libostree, dpkg and the C library answer. What a start cannot show there (initramfs, boot loader,
//! kernel arguments of the kernel itself) is in `boot`.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::disk::Disk;
use apt_ostree_testkit::machine::{Boot, Machine};
use apt_ostree_testkit::sysroot::{Outcome, Server, Sysroot};
use serde_json::Value;

use crate::bases::{BRANCH, PROGRAM, TREE, base, directory};
use crate::world::{World, small};

/// Space of a machine, sparse.
const MEGABYTES: u64 = 4096;

/// For every script: it ends at the first command that fails, and says which one that was.
const PRELUDE: &str = r#"set -eu
trap 'status=$?; [ $status = 0 ] || echo "script: ended with $status" >&2' EXIT
booted() { ostree admin status | sed -n 's/^\* [^ ]* \([0-9a-f]*\)\.[0-9]*.*/\1/p'; }
refused() { if said=$("$@" 2>&1); then echo "was allowed: $*"; exit 1; else printf '%s\n' "$said"; fi; }
same() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }; }
"#;

/// One machine that is started again and again.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) machine: Machine,
    // Unmounted before the sysroot, which is on it, is wiped.
    disk: Disk,
    pub(crate) world: World,
    pub(crate) server: Server,
}

impl Story {
    /// A machine at v1 that follows `kit:BRANCH` (signed) of its own server, with the world's archive as its only source.
    pub(crate) fn new() -> Self {
        let world = World::empty();
        let disk = Disk::copy(&template(), &world.dir.join("disk.img"), world.sysroot.dir());
        let server = world.server("server");
        server.set(BRANCH, &base().v1);
        world.sysroot.ostree(&["config", "--group=remote \"kit\"", "set", "url", &server.url()]);
        world.sysroot.set_sources(&world.archive.sources("stable"));
        let machine = machine(&world.sysroot, &world.dir.join("boots"));
        Self { machine, disk, world, server }
    }

    /// One boot, with a script that must not fail.
    pub(crate) fn boot(&self, script: &str) -> Outcome {
        self.machine.boot(&format!("{PRELUDE}{script}")).exits(0)
    }

    /// One boot that goes on while the test does something else.
    pub(crate) fn start(&self, script: &str) -> Boot {
        self.machine.start(&format!("{PRELUDE}{script}"))
    }

    /// One boot that only looks: the booted deployment as `status --json` has it.
    pub(crate) fn booted(&self) -> Value {
        let document = self.boot("apt-ostree status --json --booted").json();
        document["deployments"][0].clone()
    }

    /// Puts packages into the archive.
    pub(crate) fn publish(&mut self, debs: &[Deb]) {
        self.world.publish(debs);
    }

    pub(crate) fn sysroot(&self) -> &Sysroot {
        &self.world.sysroot
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The end: no object is damaged, nothing is mounted or left in the scratch space, the file system is whole.
    pub(crate) fn done(self) {
        self.sysroot().fsck();
        assert_eq!(self.sysroot().mounts(), Vec::<String>::new());
        assert_eq!(self.sysroot().scratch(), Vec::<String>::new());
        self.disk.close();
    }
}

fn machine(sysroot: &Sysroot, work: &std::path::Path) -> Machine {
    let script = format!("{TREE}/tests/boot/nspawn.sh");
    // Archives, servers, and the objects of the bases are all in there.
    Machine::new(script.as_ref(), PROGRAM.as_ref(), sysroot.dir(), work).sharing(&directory())
}

/// The image of a machine that was never started, made by the first test that asks.
fn template() -> PathBuf {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    IMAGE
        .get_or_init(|| {
            let dir = directory().join("work/template");
            fs::create_dir_all(&dir).expect("a writable cache");
            let disk = Disk::new(&dir.join("disk.img"), &dir.join("sysroot"), MEGABYTES);
            let server = Server::new(&base().repo(), &dir.join("server"));
            server.set(BRANCH, &base().v1);
            let sysroot = Sysroot::new(PROGRAM.as_ref(), disk.dir());
            let (remote, key) = (format!("--remote=kit={}", server.url()), base().key());
            let init = ["init-sysroot", "--stateroot=debian", &remote, "--karg=quiet", "--karg=root=UUID=1"];
            let key = format!("--gpg-import={}", key.display());
            sysroot.ok(&[&init[..], &[&key, &format!("kit:{BRANCH}")]].concat());
            let image = disk.close();
            drop(sysroot);
            image
        })
        .clone()
}

/// A service with a user of its own, configured as debhelper's packages are. The image's presets end with `disable *`, so it
/// brings a preset that comes before them and enables it.
pub(crate) fn service(name: &str, version: &str) -> Deb {
    Deb::new(name, version)
        .depends("adduser, init-system-helpers")
        .file(&format!("/usr/bin/{name}"), 0o755, format!("#!/bin/sh\necho {name} {version}\nexec sleep infinity\n"))
        .conffile(&format!("/etc/{name}.conf"), format!("version={version}\n"))
        .file(&format!("/usr/lib/systemd/system-preset/00-{name}.preset"), 0o644, format!("enable {name}.service\n"))
        .file(
            &format!("/usr/lib/systemd/system/{name}.service"),
            0o644,
            format!(
                "[Unit]\nDescription={name} {version}\n[Service]\nType=exec\nUser={name}\nStateDirectory={name}\n\
                 ExecStart=/usr/bin/{name}\n[Install]\nWantedBy=multi-user.target\n"
            ),
        )
        .script(
            "postinst",
            &format!(
                "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then\n  \
                 adduser --system --group --quiet --no-create-home --home /var/lib/{name} {name}\n  \
                 deb-systemd-helper unmask {name}.service >/dev/null || true\n  \
                 if deb-systemd-helper --quiet was-enabled {name}.service; then\n    \
                 deb-systemd-helper enable {name}.service >/dev/null\n  fi\n  \
                 if [ -d /run/systemd/system ]; then systemctl --system daemon-reload; fi\nfi\n"
            ),
        )
}

/// What two boots of one deployment have in common: without what the repository knows of newer commits.
fn lasting(mut deployment: Value) -> Value {
    if let Some(object) = deployment.as_object_mut() {
        object.retain(|key, _| !key.starts_with("pending-"));
    }
    deployment
}

#[test]
fn a_layer_is_kept_over_an_upgrade_and_a_rollback() {
    let mut story = Story::new();
    story.publish(&[service("kit-service", "1.0"), small("kit-a", "1.0")]);
    let plain = story.booted();
    assert_eq!(plain["checksum"], base().v1.as_str());
    story.boot("test -z \"$(command -v kit-a)\"; apt-ostree install kit-service kit-a; apt-ostree status").says(&[
        "Added:\n  kit-a-1.0.amd64\n  kit-service-1.0.amd64",
        "Changes queued for next boot. Run \"systemctl reboot\" to start a reboot",
        "Diff: 2 added",
    ]);
    let works = "kit-a; systemctl is-active kit-service.service; \
                 same kit-service \"$(ps -o user= -p \"$(systemctl show -P MainPID kit-service.service)\" | tr -d ' ')\"; \
                 same 'kit-service kit-service' \"$(stat -c '%U %G' /var/lib/kit-service)\"; kit-base; systemctl --failed --no-legend";
    story.boot(works).says(&["kit-a 1.0", "active"]).never_says(&["failed"]);
    let layered = story.booted();
    assert_eq!(layered["packages"], serde_json::json!(["kit-a", "kit-service"]));
    assert_eq!(layered["base-checksum"], base().v1.as_str());

    story.server.set(BRANCH, &base().v2);
    story.boot("echo kept > /var/lib/kit-service/state; apt-ostree upgrade").says(&["kit-base 1.0 -> 2.0"]);
    story.boot(&format!("{works}; cat /var/lib/kit-service/state")).says(&["kit-a 1.0", "active", "2.0\n", "kept\n"]);
    let upgraded = story.booted();
    assert_eq!(upgraded["base-checksum"], base().v2.as_str());
    assert_eq!(upgraded["packages"], layered["packages"]);

    story.boot("apt-ostree rollback").says(&["kit-base 2.0 -> 1.0"]);
    story.boot(works).says(&["kit-a 1.0", "active", "1.0\n"]);
    assert_eq!(lasting(story.booted()), lasting(layered));

    // Without its layer the tree is the base, bit for bit.
    story.boot("apt-ostree uninstall --all");
    let bare = story.booted();
    assert_eq!(bare["checksum"], plain["checksum"]);
    assert_eq!(bare["origin"], plain["origin"]);
    assert_eq!(bare.get("base-checksum"), None);
    story.done();
}

/// An update that is known of, staged by the policy and booted; and another program that decides about updates meanwhile.
#[test]
fn updates_that_nobody_asks_for() {
    let mut story = Story::new();
    story.publish(&[small("kit-a", "1.0")]);
    story.server.set(BRANCH, &base().v2);
    let found = story.boot(
        "apt-ostree upgrade --check; apt-ostree status
         printf '[Daemon]\\nAutomaticUpdatePolicy=check\\n' > /etc/apt-ostreed.conf
         apt-ostree upgrade --quiet --trigger-automatic-update-policy
         apt-ostree status; runuser -u nobody -- apt-ostree status --json > /dev/null",
    );
    let found = found.says(&["\n\nAvailableUpdate:\n        Version: 13.1 (", "Diff: 2 upgraded, 1 removed, 1 added"]);
    found.says(&["AutomaticUpdates: check; apt-ostreed-automatic.timer: inactive\n"]);
    let document = story.boot("apt-ostree status --json").json();
    assert_eq!(document["cached-update"]["checksum"], base().v2.as_str());
    assert_eq!(document["cached-update"]["update-sha256"], base().v1.as_str());

    let staged = story.boot(
        "printf '[Daemon]\\nAutomaticUpdatePolicy=stage\\n' > /etc/apt-ostreed.conf
         apt-ostree upgrade --quiet --trigger-automatic-update-policy > /dev/null
         apt-ostree upgrade --check > /run/said 2>&1; grep -q 'automatic updates (stage)' /run/said; grep -q 'Version: 13.1' /run/said
         refused apt-ostree upgrade --unchanged-exit-77 > /run/said; grep -q 'No upgrade available.' /run/said
         apt-ostree status > /run/said; ! grep AvailableUpdate /run/said
         apt-ostree status --json",
    );
    let staged = staged.json();
    assert_eq!(staged["cached-update"]["deployment"], staged["deployments"][0]["id"]);
    assert_eq!((&staged["deployments"][0]["staged"], &staged["update-driver"]), (&true.into(), &Value::Null));

    let driven = story.boot(
        "same \"$(apt-ostree status --json | grep -c '\"cached-update\": null')\" 1
         systemd-run --quiet --setenv=PATH=\"$PATH\" --unit=kit-driver.service sh -c 'apt-ostree deploy \"\" --register-driver=Kit && exec sleep infinity'
         for i in $(seq 100); do [ -e /run/rpm-ostree/update-driver.gv ] && break; sleep 0.2; done
         refused apt-ostree upgrade; refused apt-ostree deploy 13; refused apt-ostree rebase kit:other
         apt-ostree upgrade --bypass-driver; apt-ostree install kit-a
         apt-ostree status; apt-ostree status -J '$.update-driver'
         systemctl stop kit-driver.service; apt-ostree upgrade",
    );
    driven
        .says(&[
            "error: Updates and deployments are driven by Kit (kit-driver.service)\n",
            "hint: Use --bypass-driver to bypass Kit and perform the operation anyways.\n",
            "AutomaticUpdatesDriver: Kit (kit-driver.service)\n  DriverState: active\n",
            "\"driver-sd-unit\": \"kit-driver.service\"",
        ])
        .never_says(&["was allowed", "AvailableUpdate"]);
    let last = story.boot("apt-ostree status --json").json();
    assert_eq!((&last["update-driver"], &last["cached-update"]), (&Value::Null, &Value::Null));
    assert_eq!(last["deployments"][0]["base-checksum"], base().v2.as_str());
    story.done();
}

//! Programs written for rpm-ostree, on a booted system that has its names: scripts, desktops, cockpit, and what PyPI has.
//!
//! Where the program itself can run here, it does (`tests/clients/`, docs/clients.md); otherwise its calls are made in its order, with the
//! library that it uses.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::Server;

use crate::bases::{BRANCH, TREE, base, clients, directory};
use crate::service::Machine;
use crate::world::{World, small};

/// A second branch: the next release.
pub(crate) const NEXT: &str = "kit/next";

/// Images that have the program under its other name, and what the clients need.
#[derive(Debug)]
pub(crate) struct Images {
    repo: PathBuf,
    /// Like [`crate::bases::Base`]'s.
    pub(crate) v1: String,
    pub(crate) v2: String,
}

/// Made by layering, once: what is layered later takes no longer than anywhere.
pub(crate) fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let machine = Machine::with(&["polkitd", "python3-gi", "cockpit-bridge", "jq"], true);
        let repo = directory().join("work/clients-images");
        run(Command::new("ostree").args(["init", "--mode=bare"]).arg(format!("--repo={}", repo.display())));
        let v1 = image(&repo, &machine.world, "none", "13");
        machine.server.set(BRANCH, &base().v2);
        machine.world.sysroot.ok(&["upgrade"]);
        let v2 = image(&repo, &machine.world, &v1, "13.1");
        machine.world.done();
        Images { repo, v1, v2 }
    })
}

/// A commit with the tree of the first deployment, and what a base commit says of itself.
fn image(repo: &Path, world: &World, parent: &str, version: &str) -> String {
    let layered = world.sysroot.field(0, "checksum");
    let ostree = |words: &[String]| {
        let repo = format!("--repo={}", repo.display());
        let output = run(Command::new("ostree").arg(&words[0]).arg(repo).args(&words[1..]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    ostree(&["pull-local".into(), world.sysroot.repo().display().to_string(), layered.clone()]);
    let mut commit: Vec<String> = ["commit", "--orphan"].map(Into::into).to_vec();
    commit.extend([BRANCH, NEXT].map(|branch| format!("--bind-ref={branch}")));
    commit.extend([format!("--tree=ref={layered}"), format!("--parent={parent}")]);
    commit.push(format!("--add-metadata-string=version={version}"));
    for key in ["ostree.linux", "ostree.bootable", "rpmostree.rpmdb.pkglist"] {
        let value = ostree(&["show".into(), format!("--print-metadata-key={key}"), layered.clone()]);
        commit.push(format!("--add-metadata={key}={value}"));
    }
    ostree(&commit)
}

/// A machine at v1 that follows `kit:BRANCH`, with an archive of small packages.
pub(crate) fn machine() -> (Machine, String) {
    let images = images();
    let mut world = World::empty();
    let server = Server::new(&images.repo, &world.dir.join("server"));
    server.set(BRANCH, &images.v1);
    server.set(NEXT, &images.v2);
    let hangs = small("kit-hangs", "1.0").script("postinst", Machine::HANG);
    world.publish(&[small("kit-one", "1.0"), small("kit-two", "1.0"), hangs]);
    let (remote, branch) = (format!("--remote=kit={}", server.url()), format!("kit:{BRANCH}"));
    let init = ["init-sysroot", "--stateroot=debian", &remote, "--no-gpg-verify", "--karg=quiet", "--karg=root=UUID=1"];
    world.sysroot.ok(&[&init[..], &[&branch]].concat());
    world.sysroot.set_sources(&world.archive.sources("stable"));
    // Where the machine sees them.
    let scripts = world.dir.join("clients");
    run(Command::new("cp").arg("-r").arg(Path::new(TREE).join("tests/clients")).arg(&scripts));
    (Machine { world, server }, scripts.display().to_string())
}

#[test]
fn scripts_desktops_and_cockpit() {
    let (machine, clients) = machine();
    let Images { v1, v2, .. } = images();
    // Nothing is new, and then a package is layered by the other name.
    machine.boot(&format!(
        "{clients}/readers nothing-new; {clients}/discover.py notifier none; {clients}/readers layer kit-one kit-two"
    ));
    machine.server.set(BRANCH, v2);
    let file = machine.world.local(&small("kit-local", "1.0"));
    let file = file.display();
    machine.boot(&format!(
        "kit-one; {clients}/readers at-rest 13.1; {clients}/discover.py notifier 13.1
        {clients}/gnome_software.py refresh 13.1; {clients}/cockpit.py check 13.1 kit:{NEXT} 13.1
        {clients}/gnome_software.py layer kit-two {file} kit-hangs; {clients}/gnome_software.py upgrade 13.1 kit:{NEXT}
        {clients}/discover.py cancel kit-hangs; {clients}/cockpit.py change {v2} {v1} kit:{NEXT}
        {clients}/discover.py update kit:{NEXT}"
    ));
    machine.boot(&format!(
        "test \"$(kit-base)\" = 2.0; kit-one; {clients}/readers nothing-new; {clients}/discover.py notifier none"
    ));
    machine.world.done();
}

/// The method that only the booted system has: an update that failed to boot is none, and that is no failure.
#[test]
fn an_automatic_update_that_failed_to_boot() {
    let (machine, clients) = machine();
    let v2 = &images().v2;
    machine.server.set(BRANCH, v2);
    let trigger = format!(
        "{clients}/transaction.py unix:path=/run/dbus/system_bus_socket start AutomaticUpdateTrigger '(a{{sv}})' \"({{'mode': <'stage'>}},)\""
    );
    machine.boot(&format!(
        r#"reports=/var/lib/apt-ostree/health; mkdir -p $reports
        printf '{{"deployment":"{v2}.0","time":1700000000,"good":false,"reason":"it hung"}}' > $reports/{v2}.0.json
        # A person is told.
        refused apt-ostree upgrade | grep 'would be the same as {v2}.0, which failed to boot'
        until_true idle
        {trigger} > /run/said; cat /run/said
        grep -Fx 'Finished [true, ""]' /run/said
        journalctl -b -q -o cat -t apt-ostreed | grep 'would be the same as {v2}.0'
        until_true idle
        test "$(ostree admin status | grep -c {v2})" = 0
        # Without the report it is an update as any other.
        rm -r $reports
        {trigger} | grep -Fx 'Finished [true, ""]'
        ostree admin status | grep {v2}"#
    ));
    machine.world.done();
}

/// ansible-core with its collections' modules, insights-core, topgrade: `tests/clients/fetch` gets them from where pip is told to.
#[test]
fn programs_from_pypi() {
    let (machine, scripts) = machine();
    let programs = clients();
    run(Command::new(format!("{TREE}/tests/clients/fetch")).arg(&programs));
    let run = format!("PATH={}/venv/bin:$PATH PROGRAMS={0} {scripts}/pypi", programs.display());
    machine.boot(&format!("{run} layer"));
    machine.server.set(BRANCH, &images().v2);
    machine.boot(&format!("kit-one; {run} upgrade"));
    machine.boot(&format!("test \"$(kit-base)\" = 2.0; kit-one; {run} after"));
    machine.world.done();
}

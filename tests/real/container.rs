//! The program in a container made from a composed tree: a checkout whose `/var` nobody has filled. dpkg says what became of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::run;
use apt_ostree_testkit::sysroot::{Outcome, dpkg_list, wipe};

use crate::bases::{PROGRAM, base};
use crate::world::{World, small};

/// Where the container has the directory of the test.
const KIT: &str = "/run/kit";

#[derive(Debug)]
struct Container {
    world: World,
    root: PathBuf,
}

impl Container {
    /// The files of v1 as an image of containers has them, with the packages in its only archive.
    fn new(debs: &[Deb]) -> Self {
        let mut world = World::empty();
        world.publish(debs);
        let root = world.dir.join("root");
        let repo = format!("--repo={}", base().repo().display());
        run(Command::new("ostree").args(["checkout", "--force-copy"]).arg(repo).arg(&base().v1).arg(&root));
        fs::rename(root.join("usr/etc"), root.join("etc")).expect("own directory");
        let sources = root.join("etc/apt/sources.list.d");
        fs::remove_dir_all(&sources).expect("sources of the compose");
        fs::create_dir(&sources).expect("own directory");
        let key = fs::read(world.archive.key_armored()).expect("the key of the archive");
        fs::write(root.join("etc/apt/kit.asc"), key).expect("own directory");
        let text = format!(
            "Types: deb\nURIs: file://{KIT}/archive\nSuites: stable\nComponents: main\nSigned-By: /etc/apt/kit.asc\n"
        );
        fs::write(sources.join("kit.sources"), text).expect("own directory");
        Self { world, root }
    }

    /// As a container manager starts it.
    fn run(&self, words: &[&str]) -> Outcome {
        self.run_as(Some("oci"), words)
    }

    /// With this in the variable `container`.
    fn run_as(&self, container: Option<&str>, words: &[&str]) -> Outcome {
        let mut command = Command::new("bwrap");
        command.args(["--cap-add", "ALL", "--unshare-net", "--clearenv", "--bind"]).arg(&self.root);
        command.args(["/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run"]);
        command.arg("--ro-bind").arg(&self.world.dir).arg(KIT);
        command.args(["--ro-bind", PROGRAM, "/run/bin/apt-ostree", "--symlink", "apt-ostree", "/run/bin/rpm-ostree"]);
        let path = ("PATH", "/run/bin:/usr/sbin:/usr/bin");
        let variables = [path, ("LC_ALL", "C.UTF-8")].into_iter().chain(container.map(|name| ("container", name)));
        for (key, value) in variables {
            command.args(["--setenv", key, value]);
        }
        let output = command.arg("--").args(words).output().expect("bwrap starts");
        Outcome::new(&command, &output)
    }

    fn ok(&self, words: &[&str]) -> Outcome {
        self.run(&[&["apt-ostree"], words].concat()).exits(0)
    }

    /// An error, and nothing is different.
    fn refuses(&self, words: &[&str]) -> Outcome {
        let before = self.packages();
        let outcome = self.run(&[&["apt-ostree"], words].concat()).exits(1).says(&["error: "]);
        assert_eq!(self.packages(), before, "{words:?}");
        outcome
    }

    fn packages(&self) -> BTreeMap<String, String> {
        dpkg_list(&self.root.join("usr/lib/sysimage/dpkg"))
    }

    fn version(&self, name: &str) -> Option<String> {
        self.packages().get(&format!("{name}:amd64")).cloned()
    }

    /// A package outside of the archive, as the container sees it.
    fn local(&self, deb: &Deb) -> String {
        let path = self.world.local(deb);
        let path = path.strip_prefix(&self.world.dir).expect("a file of the test");
        format!("{KIT}/{}", path.display())
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("own directory");
        fs::write(&path, text).expect("own directory");
        path
    }
}

/// Names of files in a folder of the container.
fn files(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| !e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned());
    files.filter(|name| name != "lock").collect()
}

fn some(version: &str) -> Option<String> {
    Some(version.to_owned())
}

#[test]
fn packages_are_changed_in_place() {
    let container = Container::new(&[
        small("kit-a", "1.0").recommends("kit-more"),
        small("kit-a", "2.0").recommends("kit-more"),
        small("kit-more", "1.0"),
        small("kit-needs", "1.0").depends("kit-a"),
        small("kit-other", "1.0"),
        small("kit-plus++", "1.0"),
        small("kit-minus-", "1.0"),
        Deb::new("kit-base", "0.5").file("/usr/bin/kit-base", 0o755, "#!/bin/sh\necho 0.5\n"),
    ]);
    let base = container.packages();
    // A file that needs no other package needs no archive.
    let alone = container.local(&small("kit-alone", "1.0"));
    container.ok(&["install", &alone]).says(&["Added:\n  kit-alone-1.0.amd64\n"]);
    container.ok(&["uninstall", "kit-alone"]);
    assert_eq!(files(&container.root.join("var/lib/apt/lists")), Vec::<String>::new());
    // The first one fills /var and fetches the index; what is wrong with a request is apt's to say.
    container
        .refuses(&["install", "kit-absent"])
        .says(&["Unable to locate package kit-absent", "error: apt-get install kit-absent failed (exit status: 100)"]);
    container.refuses(&["install", "kit-a", "--reboot"]).says(&["--reboot is for deployments"]);
    container.refuses(&["install", "kit-a", "--dry-run", "--json"]).says(&["--json tells what was done"]);
    container.refuses(&["search", "kit-a", "--stateroot=debian"]).says(&["--stateroot is for deployments"]);
    container.refuses(&["install", "kit-."]).says(&["Unable to locate package kit-."]);
    // To apt-get a sign at the end of a name that nobody has says what to do with another one.
    for name in ["kit-dropped-", "kit-a+", "kit-plus+", "kit-a=1.0-"] {
        container.refuses(&["install", name]).says(&[&format!("error: apt-get install {name} failed")]);
    }
    container.ok(&["install", "kit-plus++", "kit-minus-=1.0"]);
    assert_eq!((container.version("kit-plus++"), container.version("kit-minus-")), (some("1.0"), some("1.0")));
    container.ok(&["uninstall", "kit-plus++", "kit-minus-"]);
    container
        .ok(&["install", "--dry-run", "kit-a"])
        .says(&["Inst kit-a (2.0", "Exiting because of '--dry-run' option"]);
    // As in `docker build`, of an image that does not say it.
    let hint = "hint: If this is a container build, say so in the image: ENV container=oci";
    container.run_as(None, &["apt-ostree", "install", "kit-a"]).exits(1).says(&["not booted via libostree.\n", hint]);
    container.run_as(None, &["apt-ostree", "rebuild"]).exits(1).says(&["this is no container", hint]);
    // A script of a package runs like this within a transaction.
    let within = container.run_as(Some("apt-ostree"), &["rpm-ostree", "override", "remove", "kit-dropped"]);
    within.exits(1).says(&["not booted via libostree; found container=apt-ostree"]);
    // The files of a repository; an overlayfs below the cache of the tests keeps them apart.
    let object = container.world.dir.join("object");
    fs::hard_link(container.root.join("usr/bin/dpkg"), &object).expect("one disk");
    let kind = run(Command::new("stat").args(["--file-system", "--format=%T"]).arg(&object));
    if kind.stdout.trim_ascii() != b"overlayfs" {
        container.refuses(&["install", "kit-a"]).says(&["/usr/bin/dpkg has other names"]);
    }
    fs::remove_file(object).expect("own file");
    assert_eq!(container.packages(), base);

    let outcome = container.run(&["rpm-ostree", "install", "-y", "--idempotent", "--allow-inactive", "kit-a=1.0"]);
    outcome.exits(0).says(&["Added:\n  kit-a-1.0.amd64\n  kit-more-1.0.amd64\n"]);
    container.run(&["kit-a"]).exits(0).says(&["kit-a 1.0"]);
    let again = container.run(&["apt-ostree", "install", "--unchanged-exit-77", "kit-a=1.0"]);
    again.exits(77);
    // The image's policy, and a file with what it depends on.
    container.ok(&["uninstall", "kit-a", "kit-more"]).says(&["Removed:\n  kit-a-1.0.amd64\n  kit-more-1.0.amd64\n"]);
    container.write("etc/apt-ostreed.conf", "[Daemon]\nRecommends=false\n");
    let local = container.local(&small("kit-local", "1.0").depends("kit-needs"));
    let document = container.ok(&["install", "--json", &local]).json();
    assert_eq!(document["changed"], true);
    assert_eq!(container.version("kit-local"), some("1.0"));
    assert_eq!((container.version("kit-a"), container.version("kit-more")), (some("2.0"), None));

    // Nothing goes but what was named, also where apt's settings say more.
    let settings =
        container.write("etc/apt/apt.conf.d/90kit", "APT::Get::Purge \"true\";\nAPT::Get::AutomaticRemove \"true\";\n");
    container.refuses(&["uninstall", "kit-a"]).says(&["have to go as well: kit-local, kit-needs"]);
    let purging = container.local(&Deb::new("kit-against", "1.0").conflicts("kit-needs"));
    container.refuses(&["install", &purging]).says(&["have to go as well: kit-local, kit-needs"]);
    fs::remove_file(settings).expect("own file");
    container.refuses(&["uninstall", "kit-a"]).says(&["have to go as well: kit-local, kit-needs"]);
    container.refuses(&["override", "remove", "kit-a"]).says(&["kit-needs"]);
    container.refuses(&["uninstall", "kit-more"]).says(&["Package 'kit-more' is not installed"]);
    container.refuses(&["override", "remove", "kit-more"]).says(&["Package \"kit-more\" not found"]);
    container.refuses(&["uninstall", "--all"]).says(&["--all is for deployments"]);
    container.ok(&["uninstall", "--idempotent", "kit-more", "kit-local", "kit-needs", "kit-a"]);

    // Packages of the image: an older version, and one in place of another.
    assert_eq!(container.version("kit-base"), some("1.0"));
    container.ok(&["override", "replace", "kit-base=0.5"]).says(&["Downgraded:\n  kit-base 1.0 -> 0.5\n"]);
    container.run(&["kit-base"]).says(&["0.5"]);
    container.run(&["apt-mark", "hold", "kit-base", "kit-dropped"]).exits(0);
    let newer = container.local(&small("kit-base", "2.0"));
    container.ok(&["override", "replace", &newer]).says(&["Upgraded:\n  kit-base 0.5 -> 2.0\n"]);
    container.ok(&["override", "replace", "kit-base=0.5"]).says(&["Downgraded:\n  kit-base 2.0 -> 0.5\n"]);
    // That one is held does not let go of another one.
    let needs = container.local(&small("kit-base", "3.0").depends("kit-dropped (>= 2.0)"));
    let other = container.local(&small("kit-dropped", "2.0"));
    container
        .refuses(&["override", "replace", &needs, "--install", &other])
        .says(&["Held packages would have to change as well: kit-dropped"]);
    let foreign = container.local(&small("kit-absent", "1.0"));
    container.refuses(&["override", "replace", &foreign]).says(&["Package \"kit-absent:amd64\" not found"]);
    container.run(&["apt-mark", "unhold", "kit-base", "kit-dropped"]).exits(0);
    container.ok(&["override", "remove", "kit-dropped", "--install", "kit-other"]);
    assert_eq!((container.version("kit-dropped"), container.version("kit-other")), (None, some("1.0")));
    container.refuses(&["override", "replace", "kit-base"]).says(&["'kit-base' has no version"]);
    container.refuses(&["override", "reset", "--all"]).says(&["found container=oci environment variable"]);
    container.refuses(&["upgrade"]).says(&["not booted via libostree; found container=oci"]);

    container.ok(&["search", "kit-nee"]).says(&["===== Name Matched =====\nkit-needs : "]);
    container.refuses(&["cleanup", "-p", "-m"]).says(&["--pending is for deployments"]);
    container.refuses(&["cleanup", "-m", "--stateroot=debian"]).says(&["--stateroot is for deployments"]);
    assert_eq!(container.ok(&["cleanup", "-m", "--json"]).json()["changed"], false);
    let left = ["var/lib/apt/lists", "var/lib/apt/lists/partial", "var/cache/apt/archives"]
        .map(|dir| container.root.join(dir));
    assert_eq!(left.map(|dir| files(&dir)), [const { Vec::<String>::new() }; 3]);
    container.refuses(&["search", "kit-nee"]).says(&["no package indexes", "apt-get update"]);
    container.refuses(&["refresh-md", "--os=debian"]).says(&["--stateroot is for deployments"]);
    container.ok(&["refresh-md", "--force"]);
    container.ok(&["search", "kit-nee"]).says(&["kit-needs"]);
    let audit = container.run(&["dpkg", "--audit"]).exits(0);
    assert_eq!(audit.text().trim(), "");
    wipe(&container.world.dir);
}

#[test]
fn origin_d_is_consumed() {
    let container = Container::new(&[
        small("kit-a", "1.0"),
        small("kit-b", "1.0"),
        Deb::new("kit-base", "0.5").file("/usr/bin/kit-base", 0o755, "#!/bin/sh\necho 0.5\n"),
    ]);
    container.ok(&["rebuild"]).says(&["No changes to apply.\n"]);
    let yaml = container.write(
        "etc/rpm-ostree/origin.d/a.yaml",
        "packages: [kit-a, kit-absent]\noverride-remove: [kit-dropped]\nex-override-replace:\n- packages: [kit-base=0.5]\n",
    );
    let json = container.write("etc/apt-ostree/origin.d/b.json", r#"{"packages": ["kit-b"], "kargs": ["x"]}"#);
    container.refuses(&["rebuild"]).says(&["b.json:1: the key 'kargs' is not known in a container build"]);
    fs::write(&json, r#"{"packages": ["~nkit-b|~nx.deb"]}"#).expect("own directory");
    container
        .refuses(&["rebuild"])
        .says(&["b.json: Opening the package file /etc/apt-ostree/origin.d/~nkit-b|~nx.deb"]);
    // A path from there, with characters that are special in patterns.
    let deb = container.world.local(&small("kit-local", "1.0"));
    fs::copy(deb, json.with_file_name("kit[1].deb")).expect("own directory");
    fs::write(&json, r#"{"packages": ["kit-b", "kit[1].deb"]}"#).expect("own directory");
    container.refuses(&["ex", "rebuild"]).says(&["Unable to locate package kit-absent", "failed (exit status: 100)"]);
    assert!(yaml.exists() && json.exists(), "what was not done is kept");
    let text = fs::read_to_string(&yaml).expect("own file");
    fs::write(&yaml, text.replace(", kit-absent", "")).expect("own directory");
    container.ok(&["ex", "rebuild"]).says(&[
        "Downgraded:\n  kit-base 1.0 -> 0.5\nRemoved:\n  kit-dropped-1.0.amd64\n",
        "Added:\n  kit-a-1.0.amd64\n  kit-b-1.0.amd64\n  kit-local-1.0.amd64\n",
    ]);
    let version = |name: &str| container.version(name);
    assert_eq!((version("kit-a"), version("kit-b"), version("kit-base")), (some("1.0"), some("1.0"), some("0.5")));
    assert_eq!(version("kit-dropped"), None);
    assert!(!yaml.exists() && !json.exists());
    container.ok(&["rebuild"]).says(&["No changes to apply.\n"]);
    wipe(&container.world.dir);
}

//! Bootstrap and post-processing with real Debian packages; mmdebstrap, dpkg, ostree and systemd-nspawn say whether
//! the result is right. Needs root and an archive (`scripts/devroot run`).

// The lint's own exception covers functions marked as tests, not what they call.
#![allow(clippy::unwrap_used)]

mod fixture;
mod treefile;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use apt_ostree_core::assemble::quirks::{Quirks, RUNTIME_DIR};
use apt_ostree_core::compose::accounts::Seed;
use apt_ostree_core::compose::{bootstrap, postprocess};
use apt_ostree_core::event::{Event, EventSink};
use apt_ostree_core::model::accounts::IdLock;
use apt_ostree_core::sandbox::Bind;
use apt_ostree_core::sandbox::bubblewrap::Bubblewrap;
use apt_ostree_core::source::SolvedPackage;
use fixture::{Fixture, run};

/// Keeps warnings and messages; shows everything when a test fails.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl EventSink for Log {
    fn emit(&self, event: Event) {
        let line = match event {
            Event::Output { line } => format!("  {line}"),
            Event::Progress { .. } => return,
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }
}

/// The composed tree, made once for all tests of this file.
struct Composed {
    dir: PathBuf,
    report: postprocess::Report,
    log: Vec<String>,
}

fn composed() -> &'static Composed {
    static ONCE: OnceLock<Composed> = OnceLock::new();
    ONCE.get_or_init(|| {
        let fixture = Fixture::get();
        let dir = fixture.scratch("composed");
        let root = dir.join("root");
        fs::create_dir_all(&root).unwrap();
        let log = Log::default();
        let treefile = treefile::minimal();
        let packages = fixture.packages();
        let shims = shims(&packages, &dir.join("runtime"));
        let accounts = Seed { ids: IdLock::parse("test", PINNED).unwrap(), ..Seed::default() };
        let options = bootstrap::BootstrapOptions { workdir: &dir, binds: &shims, accounts: &accounts };
        let result = bootstrap::run(&root, &packages, &treefile, &Bubblewrap, &log, options);
        check(result, &log);
        compare_with_mmdebstrap(fixture, &root);
        let cache = fixture.dir.join("cache");
        let options = postprocess::Options {
            workdir: &dir,
            cachedir: Some(&cache),
            version: Some("13.1"),
            sources: &[],
            binds: &shims,
            container: false,
            beside_initramfs: None,
            strict_var: false,
        };
        let report = check(postprocess::run(&root, &treefile, &Bubblewrap, &log, options), &log);
        Composed { dir, report, log: log.0.into_inner().unwrap() }
    })
}

/// The shims of the built-in quirks, as a compose binds them.
fn shims(packages: &[SolvedPackage], directory: &Path) -> Vec<Bind> {
    let active = Quirks::load(None).unwrap().for_packages(packages.iter().map(|p| &p.id)).unwrap();
    let runtime = active.write_runtime(directory).unwrap();
    let bind = |source: PathBuf, target: String, read_only| Bind { source, target, read_only };
    let files = runtime.binds.into_iter().map(|(source, target)| bind(source, target, true));
    std::iter::once(bind(runtime.directory, RUNTIME_DIR.into(), false)).chain(files).collect()
}

/// The lock of an earlier commit, in which the group of ssh-agent had another number than adduser would give it now.
const PINNED: &str = "# apt-ostree id lock, format 1\ngroup:_ssh:777:::::openssh-client\n";

fn check<T>(result: apt_ostree_core::Result<T>, log: &Log) -> T {
    result.unwrap_or_else(|e| panic!("{}\n{e}\n{e:#?}", log.0.lock().unwrap().join("\n")))
}

/// Oracle of the bootstrap: the same packages installed by mmdebstrap give the same database and the same files.
fn compare_with_mmdebstrap(fixture: &Fixture, root: &Path) {
    let theirs = fixture.mmdebstrap_root();
    let audit = run(Command::new("dpkg").arg("--root").arg(root).arg("--audit"));
    assert_eq!(audit, "", "dpkg --audit");
    let list = |root: &Path| {
        run(Command::new("dpkg-query").arg("--admindir").arg(root.join("var/lib/dpkg")).args([
            "-W",
            "-f",
            "${binary:Package} ${Version} ${db:Status-Abbrev} ${Conffiles}\n",
        ]))
    };
    assert_eq!(list(root), list(&theirs));
    let auto = |root: &Path| {
        let config = format!("Dir \"{0}\";\nDir::State::status \"{0}/var/lib/dpkg/status\";\n", root.display());
        let file = fixture.dir.join("apt.conf");
        fs::write(&file, config).unwrap();
        let states = root.join("usr/lib/sysimage/apt/extended_states");
        let mut apt = Command::new("apt-mark");
        apt.env("APT_CONFIG", &file).arg("showauto");
        if states.exists() {
            apt.arg("-o").arg(format!("Dir::State::extended_states={}", states.display()));
        }
        run(&mut apt).lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert!(auto(root).contains("libc6") || auto(&theirs).is_empty());
    assert!(!auto(root).contains("openssh-server"));
    let (ours, theirs) = (files(root), files(&theirs));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
        a.difference(b).filter(|p| !expected_difference(p)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(only(&theirs, &ours), Vec::<String>::new(), "only mmdebstrap has these");
    assert_eq!(only(&ours, &theirs), Vec::<String>::new(), "only we have these");
}

/// `type mode uid:gid path [target]` of everything outside /var and the mount points.
fn files(root: &Path) -> BTreeSet<String> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(root).unwrap().display().to_string();
            if ["var", "dev", "proc", "sys", "run", "tmp"].contains(&inside.as_str()) {
                continue;
            }
            let meta = path.symlink_metadata().unwrap();
            let target = fs::read_link(&path).map(|t| format!(" -> {}", t.display())).unwrap_or_default();
            out.insert(format!("{:o} {}:{} /{inside}{target}", meta.mode(), meta.uid(), meta.gid()));
            if meta.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(root, root, &mut out);
    out
}

/// What differs from mmdebstrap, and why.
fn expected_difference(line: &str) -> bool {
    [
        // The package database and registries live there, their links in /var.
        "/usr/lib/sysimage",
        "/usr/lib/tmpfiles.d/00-apt-ostree-",
        // Presets decide before packages are installed.
        "/usr/lib/systemd/system-preset/",
        "/etc/systemd/system/",
        // mmdebstrap's own: archive, host name, resolver of the build host.
        "/etc/apt/",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/etc/.resolv.conf",
        "/etc/fstab",
        "/etc/machine-id",
        // Ours.
        "/usr/lib/apt-ostree",
        // The kernel's links are libostree's business: linux-update-symlinks is a shim.
        " /vmlinuz",
        // Its group is pinned by the id lock.
        "/usr/bin/ssh-agent",
        // Made anew by every run.
        "/etc/ssh/ssh_host_",
        "/.cache",
    ]
    .iter()
    .any(|part| line.contains(part))
}

#[test]
fn the_tree_is_what_libostree_wants() {
    let composed = composed();
    let root = composed.dir.join("root");
    let names: BTreeSet<String> =
        fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let want = [
        "bin", "boot", "dev", "home", "lib", "lib64", "media", "mnt", "opt", "ostree", "proc", "root", "run", "sbin",
        "srv", "sys", "sysroot", "tmp", "usr", "var",
    ];
    assert_eq!(names, want.iter().map(ToString::to_string).collect(), "{:#?}", composed.report);
    let kernel = composed.report.kernel.as_ref().unwrap();
    let modules = root.join("usr/lib/modules").join(&kernel.version);
    assert!(modules.join("vmlinuz").is_file() && modules.join("initramfs.img").is_file());
    assert_eq!(fs::read_dir(root.join("boot")).unwrap().count(), 0);
    assert_eq!(fs::read(root.join("usr/etc/machine-id")).unwrap(), b"");
    let keys = fs::read_dir(root.join("usr/etc/ssh")).unwrap();
    assert!(keys.flatten().all(|e| !e.file_name().to_string_lossy().starts_with("ssh_host_")));
    assert!(composed.report.unclassified.is_empty(), "{:?}", composed.report.unclassified);
    let timers = root.join("usr/etc/systemd/system/timers.target.wants");
    assert!(!timers.join("apt-daily.timer").exists() && timers.join("fstrim.timer").is_symlink());
    assert_eq!(fs::read_dir(root.join("var")).unwrap().count(), 0);
    let agent = root.join("usr/bin/ssh-agent").metadata().unwrap();
    assert_eq!(agent.gid(), 777, "the id lock decides the group of a setgid program");
    let sysusers = fs::read_to_string(root.join("usr/lib/sysusers.d/50-apt-ostree-ids.conf")).unwrap();
    assert!(sysusers.lines().any(|l| l.starts_with("g _ssh 777")), "{sysusers}");
    // dpkg finds its database by the link alone.
    let audit = run(Command::new("dpkg").arg("--admindir").arg(root.join("usr/lib/sysimage/dpkg")).arg("--audit"));
    assert_eq!(audit, "");
    let os_release = fs::read_to_string(root.join("usr/lib/os-release")).unwrap();
    assert!(os_release.contains("OSTREE_VERSION=\"13.1\""), "{os_release}");
    let locales = run(Command::new("localedef").arg("--list-archive").arg("--prefix").arg(&root));
    assert!(locales.contains("de_DE.utf8"), "{locales}");
    assert_eq!(fs::read_to_string(root.join("usr/share/marker")).unwrap(), "no network\n");
    let less = root.join("usr/share/doc/less");
    assert!(less.join("copyright").exists() && !less.join("changelog.gz").exists() && !less.join("NEWS.gz").exists());
    assert!(!root.join("usr/share/doc/bash").exists());
    assert!(composed.log.iter().any(|l| l.contains("postprocess script 1 of 1")), "{:#?}", composed.log);
}

#[test]
fn it_deploys_and_boots_to_multi_user() {
    let composed = composed();
    let dir = &composed.dir;
    let (repo, sysroot) = (dir.join("repo"), dir.join("sysroot"));
    run(Command::new("ostree").arg("init").arg("--mode=bare").arg("--repo").arg(&repo));
    run(Command::new("ostree")
        .arg("commit")
        .arg("--repo")
        .arg(&repo)
        .args(["--branch=test", "--no-bindings", "--fsync=false"])
        .arg(format!("--tree=dir={}", dir.join("root").display())));
    fs::create_dir(&sysroot).unwrap();
    run(Command::new("ostree").args(["admin", "init-fs", "--modern"]).arg(&sysroot));
    let admin = |args: &[&str]| {
        run(Command::new("ostree").arg("admin").arg(args[0]).arg("--sysroot").arg(&sysroot).args(&args[1..]))
    };
    admin(&["os-init", "debian"]);
    let target = format!("--repo={}", sysroot.join("ostree/repo").display());
    run(Command::new("ostree").args(["pull-local", &target, "--disable-fsync"]).arg(&repo).arg("test"));
    run(Command::new("ostree").args(["config", &target, "set", "sysroot.bootloader", "none"]));
    admin(&["deploy", "--os=debian", "--karg=root=UUID=none", "--karg=rw", "test"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/boot/nspawn.sh");
    let inside = "set -x; systemctl is-system-running --wait; systemctl --failed --no-legend --plain; \
                  dpkg-query -W | wc -l; ls -ld /root /home /opt /var/lib/dpkg; ls /etc/ssh; cat /etc/machine-id; \
                  touch /usr/x && echo WRITABLE; stat -c '%a %n' /opt/. /usr/local/. /var/log/journal; ostree admin status";
    let output = run(Command::new("bash").arg(script).arg(&sysroot).arg(inside));
    assert!(output.contains("\nrunning\n"), "{output}");
    assert!(!output.contains("\nWRITABLE"), "{output}");
    assert!(output.contains("ssh_host_ed25519_key"), "{output}");
    assert!(output.contains("755 /opt/.") && output.contains("2755 /var/log/journal"), "{output}");
}

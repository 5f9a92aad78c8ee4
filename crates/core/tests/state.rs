//! State, accounts and quirks against the programs that read what the engine writes: systemd-tmpfiles, systemd-sysusers,
//! adduser, useradd, pwck, sh. Needs root and the environment of `scripts/devroot`.

// The lint's exception for tests does not reach their helper functions.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use apt_ostree_core::assemble::accounts::{self, AccountFiles, Scope};
use apt_ostree_core::assemble::quirks::{self, Quirks};
use apt_ostree_core::assemble::state::{
    BASE_VAR_CONF, CaptureOptions, DropKind, LAYER_VAR_CONF, VarReport, VarSnapshot, capture_var, clean_registries,
    prepare_registries, scrub_etc,
};
use apt_ostree_core::model::accounts::{AccountKind, Group, IdLock, Passwd, SYSUSERS_CONF, Table, render_sysusers};
use apt_ostree_core::model::package::PackageId;
use apt_ostree_core::model::treefile::OptUsrLocal;
use apt_ostree_core::sandbox::bubblewrap::BASE_ENVIRONMENT;
use tempfile::TempDir;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nman:x:6:12:man:/var/cache/man:/usr/sbin/nologin\n\
                      postfix:x:104:108:Postfix MTA:/var/spool/postfix:/usr/sbin/nologin\n\
                      sshd:x:990:65534:sshd user:/run/sshd:/usr/sbin/nologin\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nadm:x:4:postfix\nmail:x:8:\nman:x:12:\nutmp:x:43:\nshadow:x:42:\npostfix:x:108:\n\
                     postdrop:x:109:\nnogroup:x:65534:\n";

/// A tree with accounts and a scratch `/var`, ready for packages.
struct Fixture {
    _dir: TempDir,
    tree: PathBuf,
    var: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tree, var) = (dir.path().join("tree"), dir.path().join("var"));
        fs::create_dir_all(tree.join("usr/etc")).unwrap();
        fs::create_dir_all(tree.join("usr/lib/tmpfiles.d")).unwrap();
        fs::create_dir(tree.join("var")).unwrap();
        symlink("usr/etc", tree.join("etc")).unwrap();
        fs::create_dir(&var).unwrap();
        fs::write(tree.join("usr/etc/passwd"), PASSWD).unwrap();
        fs::write(tree.join("usr/etc/group"), GROUP).unwrap();
        prepare_registries(&tree, &var, OptUsrLocal::Root).unwrap();
        Self { _dir: dir, tree, var }
    }

    fn file(&self, path: &str, content: &str, mode: u32, owner: (u32, u32)) {
        put(&self.var.join(path), content, mode, owner);
    }

    fn dir(&self, path: &str, mode: u32, owner: (u32, u32)) {
        let path = self.var.join(path);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn capture(&self, before: Option<&VarSnapshot>, conf_name: &str) -> VarReport {
        let names = accounts::tree_names(&self.tree).unwrap();
        capture_var(&self.var, before, &self.tree, &names, CaptureOptions { conf_name }).unwrap()
    }

    /// What a machine with the tree gets at boot.
    fn boot(&self) {
        let root = format!("--root={}", self.tree.display());
        run(Command::new("systemd-tmpfiles").args(["--create", "--boot", "--prefix=/var", &root]));
    }

    fn machine_var(&self) -> BTreeMap<String, String> {
        listing(&self.tree.join("var"))
    }
}

fn put(path: &Path, content: &str, mode: u32, owner: (u32, u32)) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    chown(path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    output
}

/// Path to mode, owner, type, and content or target.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let m = fs::symlink_metadata(&path).unwrap();
            let content = if m.is_dir() {
                pending.push(path.clone());
                "dir".to_owned()
            } else if m.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if m.is_file() {
                format!("file {:?}", fs::read_to_string(&path).unwrap())
            } else {
                "special".to_owned()
            };
            let mode = if m.is_symlink() { 0 } else { m.mode() & 0o7777 };
            let rel = path.strip_prefix(root).unwrap().display().to_string();
            found.insert(rel, format!("{mode:04o} {}:{} {content}", m.uid(), m.gid()));
        }
    }
    found
}

/// Everything a set of packages may leave behind.
fn populate(f: &Fixture) {
    f.dir("mail", 0o2775, (0, 8));
    symlink("../mail", f.var.join("spool/mail")).unwrap();
    f.dir("spool/postfix", 0o755, (0, 0));
    f.dir("spool/postfix/active", 0o700, (104, 0));
    f.dir("spool/postfix/public", 0o2710, (104, 109));
    f.file("lib/app/data.db", "first content 100% \"q\"\n", 0o640, (104, 108));
    f.dir("lib/app", 0o750, (0, 108));
    f.file("lib/app/a b/odd name", "x", 0o644, (0, 0));
    f.file("lib/app/flag", "", 0o600, (104, 108));
    f.dir("cache/man", 0o2755, (6, 12));
    f.file("cache/man/index.db", "index", 0o644, (6, 12));
    f.file("log/dpkg.log", "log", 0o644, (0, 0));
    f.file("log/app/error.log", "log", 0o640, (104, 4));
    f.file("log/btmp", "", 0o660, (0, 43));
    f.file("lib/systemd/random-seed", "seed", 0o600, (0, 0));
    f.file("lib/app/key.pem", "x\n-----BEGIN PRIVATE KEY-----\nAAAA\n", 0o640, (0, 108));
    f.file("lib/app/password", "secret", 0o600, (0, 0));
    f.file("roothome/.profile", "mesg n\n", 0o644, (0, 0));
    // As a script sees it: through the link.
    put(&f.tree.join("usr/lib/sysimage/dpkg/status"), "Package: x\n", 0o644, (0, 0));
    drop(UnixListener::bind(f.var.join("lib/app/socket")).unwrap());
}

#[test]
fn systemd_tmpfiles_makes_what_was_captured() {
    let f = Fixture::new();
    populate(&f);
    let report = f.capture(None, BASE_VAR_CONF);
    f.boot();
    let mut expected = listing(&f.var);
    let gone = [
        "cache/man/index.db",
        "lib/app/key.pem",
        "lib/app/password",
        "lib/app/socket",
        "lib/systemd/random-seed",
        "log/dpkg.log",
    ];
    for path in gone {
        assert!(expected.remove(path).is_some());
        assert!(report.dropped.iter().any(|d| d.path == format!("var/{path}")), "{path} is not in the report");
    }
    // A log that belongs to a daemon is made, empty.
    expected.insert("log/app/error.log".into(), "0640 104:4 file \"\"".into());
    assert_eq!(f.machine_var(), expected);
    assert_eq!(report.warnings().count(), 3);
    let unexplained: Vec<_> = report.unclassified.iter().map(|u| u.path.as_str()).collect();
    assert_eq!(unexplained, ["var/lib/app/a b/odd name", "var/lib/app/data.db"]);
    let error = report.require_classified().unwrap_err().to_string();
    assert!(error.contains("/var/lib/app/data.db"), "{error}");
    // What is hidden in /var is hidden in the factory as well.
    let hidden = fs::symlink_metadata(f.tree.join("usr/share/factory/var/lib/app")).unwrap();
    assert_eq!((hidden.mode() & 0o7777, hidden.gid()), (0o750, 108));

    // The machine's own content survives the next boot.
    fs::write(f.tree.join("var/lib/app/data.db"), "mine").unwrap();
    put(&f.tree.join("var/lib/app/flag"), "set", 0o644, (0, 0));
    f.boot();
    assert_eq!(f.machine_var()["lib/app/data.db"], "0640 104:108 file \"mine\"");
    assert_eq!(f.machine_var()["lib/app/flag"], "0644 0:0 file \"set\"");
}

#[test]
fn a_second_capture_gives_the_same_bytes() {
    let f = Fixture::new();
    populate(&f);
    f.capture(None, BASE_VAR_CONF);
    let first = listing(&f.tree.join("usr"));
    f.capture(None, BASE_VAR_CONF);
    assert_eq!(listing(&f.tree.join("usr")), first);
}

#[test]
fn what_packages_say_themselves_is_not_said_again() {
    let f = Fixture::new();
    let (lib, etc) = (f.tree.join("usr/lib/tmpfiles.d"), f.tree.join("usr/etc/tmpfiles.d"));
    fs::write(lib.join("app.conf"), "d %S/app 0755 root root\nL /var/link - - - - ../run/x\n").unwrap();
    fs::write(lib.join("masked.conf"), "d /var/lib/masked\n").unwrap();
    fs::create_dir(&etc).unwrap();
    symlink("/dev/null", etc.join("masked.conf")).unwrap();
    f.dir("lib/app", 0o755, (0, 0));
    f.dir("lib/masked", 0o755, (0, 0));
    symlink("/run/x", f.var.join("link")).unwrap();
    let report = f.capture(None, BASE_VAR_CONF);
    let covered: Vec<_> = report.covered.iter().map(|(p, f)| format!("{p} {f}")).collect();
    for wanted in ["var/lib/app app.conf", "var/link app.conf", "var/roothome 00-apt-ostree-layout.conf"] {
        assert!(covered.iter().any(|c| c == wanted), "{wanted} {covered:?}");
    }
    assert!(report.lines.iter().any(|l| l.path == "/var/lib/masked"));
    assert!(!report.lines.iter().any(|l| l.path == "/var/lib/app"));
}

#[test]
fn a_layer_adds_to_its_base() {
    let mut f = Fixture::new();
    populate(&f);
    f.capture(None, BASE_VAR_CONF);
    f.boot();
    let base_conf = fs::read(f.tree.join("usr/lib/tmpfiles.d").join(BASE_VAR_CONF)).unwrap();

    // The scratch /var of a layering run is what the base makes on an empty machine.
    f.var = f.tree.join("var");
    prepare_registries(&f.tree, &f.var, OptUsrLocal::Root).unwrap();
    let before = VarSnapshot::take(&f.var).unwrap();
    assert!(f.capture(Some(&before), LAYER_VAR_CONF).lines.is_empty(), "nothing ran, nothing is new");
    assert!(!f.tree.join("usr/lib/tmpfiles.d").join(LAYER_VAR_CONF).exists());

    f.dir("lib/layered", 0o2770, (104, 109));
    f.file("lib/layered/new", "new", 0o664, (104, 109));
    f.dir("lib/app", 0o751, (0, 108));
    f.file("lib/app/data.db", "second content\n", 0o640, (104, 108));
    fs::remove_file(f.var.join("lib/app/flag")).unwrap();
    let report = f.capture(Some(&before), LAYER_VAR_CONF);
    let lines: Vec<String> = report.lines.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "z /var/lib/app 0751 root postfix - -",
            "d /var/lib/layered 2770 postfix postdrop - -",
            "C /var/lib/layered/new :0664 :postfix :postdrop - -",
        ]
    );
    assert_eq!(report.removed, ["var/lib/app/flag"]);
    assert_eq!(fs::read(f.tree.join("usr/lib/tmpfiles.d").join(BASE_VAR_CONF)).unwrap(), base_conf);
    let mut expected = listing(&f.var);
    expected.insert("lib/app/flag".into(), "0600 104:108 file \"\"".into());

    fs::remove_dir_all(&f.var).unwrap();
    fs::create_dir(&f.var).unwrap();
    f.boot();
    assert_eq!(f.machine_var(), expected);
}

#[test]
fn registries_replaced_by_a_program_are_moved_back() {
    let f = Fixture::new();
    // update-shells writes beside the link and renames over it.
    f.file("lib/shells.state.tmp", "/bin/sh\n", 0o644, (0, 0));
    fs::rename(f.var.join("lib/shells.state.tmp"), f.var.join("lib/shells.state")).unwrap();
    f.file("lib/apt/extended_states", "Package: x\nAuto-Installed: 1\n", 0o644, (0, 0));
    fs::remove_file(f.var.join("lib/ucf")).unwrap();
    f.file("lib/ucf/cache/x", "x", 0o644, (0, 0));
    let image = f.tree.join("usr/lib/sysimage");
    put(&image.join("dpkg/status-old"), "old", 0o644, (0, 0));
    let report = f.capture(None, BASE_VAR_CONF);
    assert_eq!(report.adopted, ["var/lib/apt/extended_states", "var/lib/shells.state", "var/lib/ucf"]);
    assert_eq!(fs::read_to_string(image.join("shells.state")).unwrap(), "/bin/sh\n");
    assert_eq!(fs::read_to_string(image.join("ucf/cache/x")).unwrap(), "x");
    assert!(image.join("apt/extended_states").is_file());
    assert_eq!(clean_registries(&f.tree).unwrap().len(), 1);
    f.boot();
    for (link, target) in [("dpkg", "dpkg"), ("shells.state", "shells.state"), ("ucf", "ucf")] {
        let found = fs::read_link(f.tree.join("var/lib").join(link)).unwrap();
        assert_eq!(found, Path::new("../../usr/lib/sysimage").join(target));
    }
}

#[test]
fn a_directory_in_the_place_of_a_registry_is_taken_in() {
    let f = Fixture::new();
    fs::remove_file(f.var.join("lib/pam")).unwrap();
    f.file("lib/pam/seen", "unix\n", 0o644, (0, 0));
    prepare_registries(&f.tree, &f.var, OptUsrLocal::Root).unwrap();
    assert_eq!(fs::read_to_string(f.tree.join("usr/lib/sysimage/pam/seen")).unwrap(), "unix\n");
    assert!(fs::symlink_metadata(f.var.join("lib/pam")).unwrap().is_symlink());
}

#[test]
fn what_cannot_be_said_is_reported() {
    let f = Fixture::new();
    f.dir("lib/nobody-knows", 0o755, (777, 0));
    f.dir("lib/a", 0o755, (104, 0));
    f.dir("lib/a/b", 0o755, (0, 0));
    f.file("lib/a/b/c", "x", 0o644, (0, 0));
    fs::create_dir(f.var.join("lib").join(OsString::from_vec(vec![0xff]))).unwrap();
    let report = f.capture(None, BASE_VAR_CONF);
    let found: Vec<_> = report.unclassified.iter().map(|u| (u.path.as_str(), u.kept)).collect();
    assert_eq!(found, [("var/lib/a/b/*", false), ("var/lib/nobody-knows", false), ("var/lib/\u{fffd}", false)]);
    f.boot();
    assert!(f.tree.join("var/lib/a/b").is_dir());
}

#[test]
fn etc_keeps_no_secret() {
    let f = Fixture::new();
    let etc = f.tree.join("usr/etc");
    for (path, content) in [
        ("machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("ssh/ssh_host_rsa_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
        ("ssh/ssh_host_rsa_key.pub", "ssh-rsa x\n"),
        ("ssh/sshd_config", "Port 22\n"),
        ("ssl/certs/ssl-cert-snakeoil.pem", "x"),
        ("ssl/private/own.key", "-----BEGIN RSA PRIVATE KEY-----\n"),
        ("ssl/private/shipped.key", "-----BEGIN RSA PRIVATE KEY-----\n"),
        ("hostname", "build\n"),
        ("passwd-", "x"),
    ] {
        put(&etc.join(path), content, 0o644, (0, 0));
    }
    symlink("ssl-cert-snakeoil.pem", etc.join("ssl/certs/1234abcd.0")).unwrap();
    symlink("../run/systemd/resolve/stub-resolv.conf", etc.join("resolv.conf")).unwrap();
    let list = "/.\n/etc\n/etc/ssl/private/shipped.key\n";
    put(&f.tree.join("usr/lib/sysimage/dpkg/info/x.list"), list, 0o644, (0, 0));

    let one = ["etc/hostname".to_owned()].into();
    assert_eq!(scrub_etc(&f.tree, Some(&one)).unwrap().len(), 1, "only what changed");
    let dropped = scrub_etc(&f.tree, None).unwrap();
    assert!(dropped.iter().any(|d| d.path == "etc/ssl/private/own.key" && d.kind == DropKind::Secret));
    let mut left: Vec<_> = listing(&etc).into_keys().collect();
    left.retain(|p| !etc.join(p).is_dir());
    assert_eq!(left, ["group", "machine-id", "passwd", "resolv.conf", "ssh/sshd_config", "ssl/private/shipped.key"]);
    assert_eq!(fs::read(etc.join("machine-id")).unwrap(), b"");
}

fn lock_of(passwd: &str, group: &str) -> IdLock {
    IdLock::default().merge(&Table::parse(passwd), &Table::parse(group), |_, _| None).unwrap()
}

#[test]
fn systemd_sysusers_gives_an_edited_machine_the_same_numbers() {
    let machine = tempfile::tempdir().unwrap();
    let etc = machine.path().join("etc");
    let own_passwd = "root:x:0:0:root:/root:/bin/zsh\nalice:x:1000:1000:Alice:/home/alice:/bin/bash\n\
                      man:x:6:12:mine:/m:/bin/sh\n";
    put(&etc.join("passwd"), own_passwd, 0o644, (0, 0));
    put(&etc.join("group"), "root:x:0:\nalice:x:1000:\nman:x:12:\nadm:x:4:alice\n", 0o644, (0, 0));
    // A package's own line, without a number, comes later by name and gives way.
    let package = machine.path().join("usr/lib/sysusers.d/openssh-server.conf");
    put(&package, "u! sshd - \"sshd user\" /run/sshd\n", 0o644, (0, 0));
    let (passwd, group) = (Table::<Passwd>::parse(PASSWD), Table::<Group>::parse(GROUP));
    fs::write(machine.path().join(SYSUSERS_CONF), render_sysusers(&lock_of(PASSWD, GROUP), &group, &BTreeSet::new()))
        .unwrap();
    run(Command::new("systemd-sysusers").arg(format!("--root={}", machine.path().display())));

    let after = AccountFiles::read(&etc).unwrap();
    assert!(after.passwd.to_string().starts_with(own_passwd), "{}", after.passwd);
    for user in passwd.iter() {
        let found = after.passwd.get(&user.name).unwrap();
        assert_eq!((found.uid, found.gid), (user.uid, user.gid), "{}", user.name);
    }
    for group in group.iter() {
        assert_eq!(after.group.get(&group.name).map(|g| g.gid), Some(group.gid), "{}", group.name);
    }
    assert_eq!(after.group.get("adm").unwrap().members, ["alice", "postfix"]);
    let sshd = after.passwd.get("sshd").unwrap();
    assert_eq!((sshd.gecos.as_str(), sshd.home.as_str()), ("sshd user", "/run/sshd"));
}

/// Runs a command of this system with another `/etc` and the runtime directory of the quirks.
fn sandbox(etc: &Path, runtime: &Path, argv: &[&str]) -> Output {
    let mut command = Command::new("bwrap");
    command.args(["--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/run", "--tmpfs", "/var", "--dir", "/var/lib"]);
    command.arg("--bind").arg(etc).arg("/etc").arg("--bind").arg(runtime).arg(quirks::RUNTIME_DIR);
    let path = BASE_ENVIRONMENT.iter().find(|(key, _)| *key == "PATH").unwrap().1;
    command.args(["--setenv", "PATH", path, "--setenv", "SYSTEMD_OFFLINE", "1", "--"]).args(argv);
    command.output().unwrap()
}

fn ok(output: &Output) {
    assert!(output.status.success(), "{} {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// This system's `/etc`, without what is mounted over it.
fn copy_of_etc(target: &Path) {
    run(Command::new("cp").args(["-a", "--one-file-system", "/etc"]).arg(target));
}

#[test]
fn layered_packages_get_numbers_of_their_own_range() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, machine, runtime) = (dir.path().join("etc"), dir.path().join("machine"), dir.path().join("run"));
    copy_of_etc(&etc);
    let passwd = "root:x:0:0:root:/root:/bin/bash\nolddaemon:x:401:402:Old:/var/lib/old:/usr/sbin/nologin\n";
    put(&machine.join("passwd"), passwd, 0o644, (0, 0));
    put(&machine.join("group"), "root:x:0:\nolddaemon:x:402:\n", 0o644, (0, 0));
    let base = lock_of("basedaemon:x:155:155:Base,,,:/nonexistent:/usr/sbin/nologin\n", "basedaemon:x:155:\n");
    let seeded = accounts::seed(&etc, Some(&machine), &base).unwrap();
    assert_eq!(seeded.from_lock, ["group basedaemon", "user basedaemon"]);
    assert_eq!(seeded.from_machine, ["group olddaemon", "user olddaemon"]);

    let runtime = Quirks::load(None).unwrap().for_packages(&[]).unwrap().write_runtime(&runtime).unwrap();
    accounts::write_layer_ids(&etc, &runtime.directory).unwrap();
    let inside = |argv: &[&str]| {
        ok(&sandbox(&etc, &runtime.directory, argv));
    };
    // Accounts that are there already, inside and outside the range, are found to be system accounts.
    for name in ["basedaemon", "olddaemon"] {
        inside(&["adduser", "--system", "--group", "--no-create-home", name]);
    }
    inside(&["adduser", "--system", "--group", "--no-create-home", "newdaemon"]);
    inside(&["addgroup", "--system", "newgroup"]);
    inside(&["useradd", "--system", "--user-group", "--no-create-home", "newuseradd"]);
    inside(&["groupadd", "--system", "newgroupadd"]);
    fs::write(runtime.directory.join("x.conf"), "u newsysuser - \"New\"\nu basedaemon -\n").unwrap();
    inside(&["systemd-sysusers", "/run/apt-ostree/x.conf"]);
    inside(&["systemd-sysusers", "--inline", "u newinline -"]);
    inside(&["sh", "-c", "mkdir -p /run/sysusers.d && echo 'u newall -' > /run/sysusers.d/x.conf && systemd-sysusers"]);
    inside(&["useradd", "--create-home", "--base-dir", "/run", "person"]);

    let after = AccountFiles::read(&etc).unwrap();
    let uid = |name: &str| after.passwd.get(name).unwrap().uid;
    assert_eq!((uid("basedaemon"), uid("olddaemon")), (155, 401));
    for name in ["newdaemon", "newuseradd", "newsysuser", "newinline", "newall"] {
        assert!(accounts::LAYER_IDS.contains(&uid(name)), "{name} {}", uid(name));
    }
    for name in ["newdaemon", "newgroup", "newgroupadd", "newuseradd", "newsysuser"] {
        let gid = after.group.get(name).unwrap().gid;
        assert!(accounts::LAYER_IDS.contains(&gid), "{name} {gid}");
    }
    assert!(uid("person") >= 1000);
    assert_eq!(after.shadow.get("olddaemon").unwrap().fields[0], "!*");
    let (shadow, original) = (fs::metadata(etc.join("shadow")).unwrap(), fs::metadata("/etc/shadow").unwrap());
    assert_eq!((shadow.mode(), shadow.gid()), (original.mode(), original.gid()));
}

#[test]
fn collisions_name_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, machine) = (dir.path().join("etc"), dir.path().join("machine"));
    let own = "root:x:0:0:::\nsshd:x:401:65534:::\nmine:x:104:104:::\nalice:x:1000:1000:::\n";
    for (path, passwd) in [(&etc, PASSWD), (&machine, own)] {
        put(&path.join("passwd"), passwd, 0o644, (0, 0));
        put(&path.join("group"), "root:x:0:\n", 0o644, (0, 0));
    }
    let error = accounts::seed(&etc, Some(&machine), &IdLock::default()).unwrap_err();
    let text = error.to_string();
    for wanted in [
        "user sshd has the number 401 on this machine and 990 in the base image",
        "the number 104 is that of user mine on this machine and of user postfix in the base image",
    ] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(error.hints[0].contains("usermod -u"));
    assert_eq!(fs::read_to_string(etc.join("passwd")).unwrap(), PASSWD, "nothing was written");
}

#[test]
fn capture_locks_and_the_next_compose_starts_from_it() {
    let f = Fixture::new();
    let etc = f.tree.join("usr/etc");
    let shadow =
        "root:*:20780:0:99999:7:::\nsshd:!*:20780::::::\nages:$y$x:20000:0:30:7:::\nadmin:$y$x:20780:0:99999:7:::\n";
    put(&etc.join("shadow"), shadow, 0o640, (0, 42));
    fs::write(etc.join("passwd-"), "").unwrap();
    fs::write(etc.join(".pwd.lock"), "").unwrap();
    let lock = accounts::capture(&f.tree, &IdLock::default()).unwrap();
    assert_eq!(accounts::read_lock(&f.tree).unwrap(), lock);
    assert!(!etc.join("passwd-").exists() && !etc.join(".pwd.lock").exists());
    let undated = "root:*::0:99999:7:::\nsshd:!*:::::::\nages:$y$x:20000:0:30:7:::\nadmin:$y$x::0:99999:7:::\n";
    assert_eq!(fs::read_to_string(etc.join("shadow")).unwrap(), undated);
    let m = fs::metadata(etc.join("shadow")).unwrap();
    assert_eq!((m.mode() & 0o7777, m.gid()), (0o640, 42));

    // The next build starts with the essential accounts only and would hand out numbers in another order.
    let next = Fixture::new();
    fs::write(next.tree.join("usr/etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    fs::write(next.tree.join("usr/etc/group"), "root:x:0:\n").unwrap();
    accounts::seed(&next.tree.join("usr/etc"), None, &lock).unwrap();
    let again = accounts::capture(&next.tree, &lock).unwrap();
    assert_eq!(again, lock);
    assert_eq!(again.get(AccountKind::User, "sshd").map(|a| a.id), Some(990));
    assert!(accounts::outside_layer_range(&lock, &again).is_empty());
}

#[test]
fn seeded_files_satisfy_pwck_and_grpck() {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    for (name, mode) in [("passwd", 0o644), ("group", 0o644), ("shadow", 0o640), ("gshadow", 0o640)] {
        put(&etc.join(name), "", mode, (0, 0));
    }
    for shell in ["usr/sbin/nologin", "bin/bash"] {
        put(&dir.path().join(shell), "", 0o755, (0, 0));
    }
    // Homes that are missing are a remark pwck's -q leaves out.
    accounts::seed(&etc, None, &lock_of(PASSWD, GROUP)).unwrap();
    run(Command::new("pwck").args(["-q", "-r", "-R"]).arg(dir.path()));
    run(Command::new("grpck").args(["-r", "-R"]).arg(dir.path()));
}

#[test]
fn every_owner_must_have_a_name() {
    let f = Fixture::new();
    let tool = f.tree.join("usr/bin/tool");
    put(&tool, "", 0o2755, (0, 109));
    accounts::check_owners(&f.tree, Scope::Tree).unwrap();
    put(&tool, "", 0o2755, (0, 997));
    let error = accounts::check_owners(&f.tree, Scope::Tree).unwrap_err().to_string();
    assert!(error.contains("/usr/bin/tool (setgid, group 997 has no name)"), "{error}");
    let paths = [PathBuf::from("usr/bin/tool"), PathBuf::from("usr/bin/gone")];
    assert!(accounts::check_owners(&f.tree, Scope::Paths(&paths)).is_err());
    assert!(accounts::check_owners(&f.tree, Scope::Paths(&paths[1..])).is_ok());
}

#[test]
fn shims_stand_for_programs_and_tell_who_called() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, own) = (dir.path().join("etc"), dir.path().join("quirks.d"));
    copy_of_etc(&etc);
    let rule =
        "- package: 'vendor-*'\n  script: postinst\n  action: shim\n  paths: [/usr/bin/false]\n  reason: a test\n";
    put(&own.join("05-site.yaml"), rule, 0o644, (0, 0));
    let packages = [PackageId::new("vendor-app", "1", "amd64")];
    let active = Quirks::load(Some(&own)).unwrap().for_packages(&packages).unwrap();
    let runtime = active.write_runtime(&dir.path().join("run")).unwrap();
    let inside = |script: &str| sandbox(&etc, &runtime.directory, &["sh", "-c", script]);
    let vendor = "export DPKG_MAINTSCRIPT_PACKAGE=vendor-app DPKG_MAINTSCRIPT_NAME";
    for (script, code) in [
        ("systemctl start ssh", 0),
        ("systemctl daemon-reload", 0),
        ("systemctl --quiet is-active ssh", 3),
        ("update-initramfs -u -k all", 0),
        ("udevadm trigger --action=add", 0),
        ("ischroot", 0),
        ("invoke-rc.d --quiet ssh start", 0),
        ("/run/apt-ostree/shims/policy-rc.d ssh start", 101),
        ("env false", 1),
        (&format!("{vendor}=prerm; env false"), 1),
        (&format!("{vendor}=postinst; env false 'two  words' 'new\nline'"), 0),
    ] {
        let output = inside(script);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // systemctl still makes and reads the links.
    let unit = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
    put(&etc.join("systemd/system/own.service"), unit, 0o644, (0, 0));
    assert_eq!(inside("systemctl is-enabled own.service").stdout, b"disabled\n");
    ok(&inside("systemctl enable --now own.service"));
    assert!(fs::symlink_metadata(etc.join("systemd/system/multi-user.target.wants/own.service")).is_ok());

    let log = fs::read_to_string(runtime.directory.join(quirks::LOG_NAME)).unwrap();
    let uses = quirks::uses(&log);
    let used = |package: &str, script: &str, command: &str| {
        assert!(uses.iter().any(|u| (&*u.package, &*u.script, &*u.command) == (package, script, command)), "{log}");
    };
    used("vendor-app", "postinst", "false two  words new line");
    used("-", "-", "systemctl start ssh");
    used("-", "-", "policy-rc.d ssh start");
    assert!(!log.contains("enable"), "{log}");
    assert_eq!(runtime.binds.iter().map(|(_, target)| target.as_str()).collect::<Vec<_>>(), ["/usr/sbin/policy-rc.d"]);
}

/// The second compose of the same packages starts from the accounts of the first; nothing of that shows in the files.
#[test]
fn seeded_accounts_are_those_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path();
    let base = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    put(&etc.join("passwd"), base, 0o644, (0, 0));
    put(&etc.join("group"), "root:x:0:\nnogroup:x:65534:\nshadow:x:42:\n", 0o644, (0, 0));
    put(&etc.join("shadow"), "root:*:::::::\nnobody:*:::::::\n", 0o640, (0, 42));
    put(&etc.join("gshadow"), "root:*::\nnogroup:*::\nshadow:*::\n", 0o640, (0, 42));
    let lock = "# apt-ostree id lock, format 1\nuser:a:101:65534::/:/usr/sbin/nologin:a\nuser:b:102:65534::/:/bin/sh:b\ngroup:c:103:::::c\n";
    let added = accounts::seed(etc, None, &IdLock::parse("l", lock).unwrap()).unwrap();
    let shadow = Table::parse("a:!*::::::1:\nb:$y$secret:::::::\nroot:$y$secret:::::::\n");
    accounts::restore_locked(etc, &added, &shadow, &Table::parse("c:!::\n")).unwrap();
    accounts::sort(etc).unwrap();
    let read = |name: &str| fs::read_to_string(etc.join(name)).unwrap();
    assert_eq!(
        read("shadow"),
        "root:*:::::::\na:!*::::::1:\nb:!*:::::::\nnobody:*:::::::\n",
        "no password is carried over"
    );
    assert_eq!(read("gshadow"), "root:*::\nshadow:*::\nc:!::\nnogroup:*::\n");
    let order: Vec<String> = read("passwd").lines().map(|l| l.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(order, ["root", "a", "b", "nobody"]);
    assert_eq!(fs::metadata(etc.join("shadow")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn files_of_quirks_are_dropped_where_they_are_new() {
    let f = Fixture::new();
    let ssh = f.tree.join("usr/etc/ssh");
    for name in ["ssh_host_rsa_key", "ssh_host_old_key", "sshd_config"] {
        put(&ssh.join(name), "x", 0o600, (0, 0));
    }
    f.file("lib/postgresql/17/main/PG_VERSION", "17", 0o600, (104, 108));
    let packages = [PackageId::new("openssh-server", "1", "amd64"), PackageId::new("postgresql-17", "1", "amd64")];
    let active = Quirks::load(None).unwrap().for_packages(&packages).unwrap();
    let dropped = active.drop_files(&f.tree, &f.var, &|path| path == "etc/ssh/ssh_host_old_key").unwrap();
    let paths: Vec<_> = dropped.iter().map(|d| d.path.as_str()).collect();
    assert_eq!(paths, ["etc/ssh/ssh_host_rsa_key", "var/lib/postgresql/17/main/PG_VERSION"]);
    assert!(ssh.join("sshd_config").exists() && ssh.join("ssh_host_old_key").exists());
    assert!(f.var.join("lib/postgresql/17/main").is_dir());
}

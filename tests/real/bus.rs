//! The service on a bus of its own: the real daemon, the real worker, a sysroot in a directory.
//!
//! Asked with `busctl` and with GDBus (tests/clients/), which are the libraries that existing clients use.

mod last;
mod limits;
mod sources;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apt_ostree_testkit::deb::Deb;
use apt_ostree_testkit::sysroot::Outcome;
use serde_json::Value;

use crate::bases::{BRANCH, PROGRAM, TREE, base};
use crate::world::{World, small};

const NAME: &str = "org.projectatomic.rpmostree1";
const SYSROOT: &str = "/org/projectatomic/rpmostree1/Sysroot";
const OS: &str = "/org/projectatomic/rpmostree1/debian";

/// Waits for something that happens by itself. Nothing is asserted on how long it took.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A bus, and the service on it.
struct Bus {
    daemon: Child,
    bus: Child,
    address: String,
    dir: PathBuf,
    world: World,
}

impl Drop for Bus {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.bus] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Bus {
    fn new(world: World, options: &[&str]) -> Self {
        let dir = world.dir.join("bus");
        fs::create_dir_all(&dir).expect("own directory");
        // A path on /tmp: those of sockets are short.
        let socket = tempfile::Builder::new().prefix("bus").tempdir_in("/tmp").expect("a directory").keep();
        let address = format!("unix:path={}/bus", socket.display());
        let config = dir.join("bus.conf");
        fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\
                 <busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>\
                 <limit name=\"max_message_unix_fds\">64</limit>\
                 <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_type=\"method_call\"/>\
                 <allow send_type=\"signal\"/><allow send_requested_reply=\"true\"/><allow receive_type=\"method_call\"/>\
                 <allow receive_type=\"method_return\"/><allow receive_type=\"error\"/><allow receive_type=\"signal\"/></policy>\
                 </busconfig>"
            ),
        )
        .expect("own directory");
        let bus = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--nosyslog"])
            .spawn()
            .expect("dbus-daemon starts");
        wait_for("the bus", || socket.join("bus").exists());
        let daemon = start(&address, &world, options);
        let this = Self { daemon, bus, address, dir, world };
        wait_for("the service", || this.busctl(&["status", NAME]).code == Some(0));
        this
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address).env("LC_ALL", "C.UTF-8");
        command
    }

    fn busctl(&self, words: &[&str]) -> Outcome {
        let mut command = self.command("busctl");
        command.arg(format!("--address={}", self.address)).args(["--json=short", "--timeout=120"]).args(words);
        let output = command.output().expect("busctl starts");
        Outcome::new(&command, &output)
    }

    fn property(&self, path: &str, interface: &str, name: &str) -> Value {
        let outcome = self.busctl(&["get-property", NAME, path, &format!("{NAME}.{interface}"), name]).exits(0);
        outcome.json()["data"].clone()
    }

    fn call(&self, path: &str, interface: &str, method: &str, words: &[&str]) -> Outcome {
        let interface = if interface.contains('.') { interface.to_owned() } else { format!("{NAME}.{interface}") };
        self.busctl(&[&["call", NAME, path, &interface, method], words].concat())
    }

    fn client(&self, words: &[&str]) -> Client {
        let mut command = Command::new(format!("{TREE}/tests/clients/transaction.py"));
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("the client starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Client { child, lines }
    }

    /// Calls a method that begins a transaction, from a client that stays.
    fn begin(&self, action: &str, method: &str, signature: &str, arguments: &str) -> (Client, String) {
        let mut client = self.client(&[&self.address, action, method, signature, arguments]);
        let line = client.line();
        let address = line.strip_prefix("address ").unwrap_or_else(|| panic!("{method} said {line}"));
        (client, address.to_owned())
    }

    /// A whole transaction.
    fn transaction(&self, method: &str, signature: &str, arguments: &str) -> Outcome {
        self.client(&[&self.address, "start", method, signature, arguments]).end()
    }

    /// Plain ostree at work on the sysroot.
    fn admin(&self, words: &[&str]) {
        let mut command = Command::new("ostree");
        command.arg("admin").args(words).arg(format!("--sysroot={}", self.world.sysroot.dir().display()));
        let output = command.output().expect("ostree starts");
        Outcome::new(&command, &output).exits(0);
    }

    fn is_idle(&self) -> bool {
        self.property(SYSROOT, "Sysroot", "ActiveTransactionPath") == ""
    }

    fn done(mut self) {
        let world = std::mem::replace(&mut self.world, World::empty());
        drop(self);
        world.done();
    }
}

/// tests/clients/transaction.py at work.
struct Client {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Client {
    fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("text")
    }

    /// Reads on until a line begins like this.
    fn until(&mut self, start: &str) -> String {
        let mut said = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            if line.starts_with(start) {
                return line;
            }
            said.push(line);
        }
        panic!("no line begins with '{start}': {said:?}");
    }

    /// To its end.
    fn end(mut self) -> Outcome {
        let stdout: Vec<String> = self.lines.by_ref().map(|l| l.expect("text")).collect();
        let code = self.child.wait().expect("the client ends").code();
        Outcome { command: "transaction.py".into(), code, stdout: stdout.join("\n"), stderr: String::new() }
    }

    fn kill(mut self) {
        self.child.kill().expect("a client");
        let _ = self.child.wait();
    }
}

fn start(address: &str, world: &World, options: &[&str]) -> Child {
    Command::new(PROGRAM)
        .arg(format!("--sysroot={}", world.sysroot.dir().display()))
        .arg("start-daemon")
        .args(options)
        .env("DBUS_SYSTEM_BUS_ADDRESS", address)
        .spawn()
        .expect("the service starts")
}

/// The interfaces as they are, by busctl, against the reference.
#[test]
fn members_have_the_signatures_of_the_contract() {
    let bus = Bus::new(World::new(), &[]);
    for (path, interface, expected) in [
        (SYSROOT, format!("{NAME}.Sysroot"), SYSROOT_MEMBERS),
        (OS, format!("{NAME}.OS"), OS_MEMBERS),
        (OS, format!("{NAME}.OSExperimental"), EXPERIMENTAL_MEMBERS),
    ] {
        let outcome = bus.busctl(&["introspect", NAME, path, &interface]).exits(0);
        let members: Vec<(String, String, String, String)> = outcome
            .stdout
            .lines()
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let name = words.first()?.strip_prefix('.')?.to_owned();
                Some((words[1].to_owned(), name, words[2].to_owned(), words[3].to_owned()))
            })
            .collect();
        for line in expected.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let found = members.iter().find(|(kind, name, ..)| kind == words[0] && name == words[1]);
            let (_, _, signature, result) = found.unwrap_or_else(|| panic!("{interface} has no {line}: {members:?}"));
            assert_eq!(signature, words[2], "{line}");
            if words[0] == "method" {
                assert_eq!(result, words[3], "{line}");
            }
        }
        let known = expected.lines().filter(|l| !l.trim().is_empty()).count();
        assert_eq!(members.len(), known, "{interface} has more: {members:?}");
    }
    bus.done();
}

const SYSROOT_MEMBERS: &str = "
    method RegisterClient a{sv} -
    method UnregisterClient a{sv} -
    method Reload - -
    method ReloadConfig - -
    method GetOS s o
    property Booted o
    property Path s
    property ActiveTransaction (sss)
    property ActiveTransactionPath s
    property AutomaticUpdatePolicy s
    property Deployments aa{sv}
";

const OS_MEMBERS: &str = "
    method AutomaticUpdateTrigger a{sv} bs
    method Deploy sa{sv} s
    method Upgrade a{sv} s
    method Rebase a{sv}sas s
    method Rollback a{sv} s
    method ClearRollbackTarget a{sv} s
    method PkgChange a{sv}asas s
    method UpdateDeployment a{sv}a{sv} s
    method FinalizeDeployment a{sv} s
    method SetInitramfsState basa{sv} s
    method InitramfsEtc asasbba{sv} s
    method KernelArgs sasasasa{sv} s
    method GetDeploymentBootConfig sb a{sv}
    method Cleanup as s
    method RefreshMd a{sv} s
    method ModifyYumRepo sa{ss} s
    method ListRepos - aa{sv}
    method GetDeploymentsRpmDiff ss a(sua{sv})
    method GetCachedUpdateRpmDiff s a(sua{sv})a{sv}
    method DownloadUpdateRpmDiff - s
    method GetCachedDeployRpmDiff sas a(sua{sv})a{sv}
    method DownloadDeployRpmDiff sas s
    method GetCachedRebaseRpmDiff sas a(sua{sv})a{sv}
    method DownloadRebaseRpmDiff sas s
    method WhatProvides as aa{sv}
    method GetPackages as aa{sv}
    method Search as aa{sv}
    property BootedDeployment a{sv}
    property DefaultDeployment a{sv}
    property RollbackDeployment a{sv}
    property CachedUpdate a{sv}
    property HasCachedUpdateRpmDiff b
    property Name s
";

const EXPERIMENTAL_MEMBERS: &str = "
    method Moo b s
    method LiveFs a{sv} s
    method DownloadPackages ass ah
";

/// What the bus says of deployments is what `status --json` says.
#[test]
fn properties_are_those_of_status() {
    let bus = Bus::new(World::new(), &[]);
    let plain = |value: &Value| -> Value {
        // busctl wraps variants in their type.
        fn open(value: &Value) -> Value {
            match value {
                Value::Object(map) if map.len() == 2 && map.contains_key("type") && map.contains_key("data") => {
                    open(&map["data"])
                }
                Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), open(v))).collect(),
                Value::Array(list) => list.iter().map(open).collect(),
                other => other.clone(),
            }
        }
        open(value)
    };
    let status = bus.world.sysroot.status();
    assert_eq!(plain(&bus.property(SYSROOT, "Sysroot", "Deployments")), status["deployments"]);
    assert_eq!(plain(&bus.property(OS, "OS", "DefaultDeployment")), status["deployments"][0]);
    assert_eq!(bus.property(OS, "OS", "BootedDeployment"), serde_json::json!({}));
    assert_eq!(bus.property(OS, "OS", "Name"), "debian");
    assert_eq!(bus.property(SYSROOT, "Sysroot", "Booted"), "/");
    assert_eq!(bus.property(SYSROOT, "Sysroot", "AutomaticUpdatePolicy"), "none");
    assert_eq!(bus.property(SYSROOT, "Sysroot", "ActiveTransaction"), serde_json::json!(["", "", ""]));
    assert_eq!(bus.call(SYSROOT, "Sysroot", "GetOS", &["s", "debian"]).exits(0).json()["data"][0], OS);
    bus.call(SYSROOT, "Sysroot", "GetOS", &["s", "nothing"]).exits(1).says(&["OS name \"nothing\" not found"]);
    bus.call(SYSROOT, "Sysroot", "GetOS", &["s", ""]).exits(1);
    let objects =
        bus.call("/org/projectatomic/rpmostree1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &[]);
    objects.exits(0).says(&[OS, SYSROOT]);
    bus.done();
}

/// A change made by others is seen without asking.
#[test]
fn changes_by_other_tools_are_signalled() {
    let bus = Bus::new(World::new(), &[]);
    let count = || bus.property(SYSROOT, "Sysroot", "Deployments").as_array().expect("a list").len();
    let mut monitor = bus.command("gdbus");
    monitor.args(["monitor", "--address", &bus.address, "--dest", NAME, "--object-path", SYSROOT]);
    let mut monitor = monitor.stdout(Stdio::piped()).spawn().expect("gdbus starts");
    let mut lines = BufReader::new(monitor.stdout.take().expect("piped")).lines();
    // It says who owns the name once it listens.
    assert!(lines.any(|l| l.expect("text").contains("is owned by")));
    assert_eq!(count(), 1);
    bus.admin(&["pin", "0"]);
    wait_for("the pin", || bus.property(SYSROOT, "Sysroot", "Deployments")[0]["pinned"]["data"] == true);
    bus.admin(&["deploy", "--os=debian", BRANCH]);
    wait_for("the deployment", || count() == 2);
    bus.admin(&["undeploy", "0"]);
    wait_for("the end of the deployment", || count() == 1);
    assert!(lines.any(|l| {
        let line = l.expect("text");
        line.contains("PropertiesChanged") && line.contains("'Deployments'")
    }));
    let _ = monitor.kill();
    let _ = monitor.wait();
    bus.done();
}

const PKG_CHANGE: &str = "(a{sv}asas)";
const UPDATE: &str = "(a{sv}a{sv})";

#[test]
fn packages_come_and_go_over_the_bus() {
    let mut world = World::new();
    world.publish(&[small("kit-one", "1.0"), small("kit-two", "1.0")]);
    let bus = Bus::new(world, &[]);
    let done = bus.transaction(
        "PkgChange",
        PKG_CHANGE,
        "({'initiating-command-line': <'gnome-software install kit-one'>}, ['kit-one'], [])",
    );
    let done = done.exits(0).says(&["start true", "TaskBegin [\"Resolving dependencies\"]", "Finished [true, \"\"]"]);
    assert!(done.stdout.find("TaskBegin") < done.stdout.find("Finished"), "{}", done.stdout);
    assert_eq!(bus.world.installed(0, "kit-one").as_deref(), Some("1.0"));
    // What is read after `Finished` is what is there.
    let default = bus.property(OS, "OS", "DefaultDeployment");
    assert_eq!(default["requested-packages"]["data"], serde_json::json!(["kit-one"]));
    assert_eq!(default["packages"]["data"], serde_json::json!(["kit-one"]));
    wait_for("the end", || bus.is_idle());

    // GNOME Software always sends these eight.
    let gnome = "{'reboot': <false>, 'allow-downgrade': <false>, 'cache-only': <false>, 'download-only': <false>, \
                 'skip-purge': <false>, 'no-pull-base': <true>, 'dry-run': <false>, 'no-overrides': <false>}";
    let change = "{'install-packages': <['kit-two']>, 'uninstall-packages': <['kit-one']>}";
    bus.transaction("UpdateDeployment", UPDATE, &format!("({change}, {gnome})")).exits(0);
    assert_eq!((bus.world.installed(0, "kit-one"), bus.world.installed(0, "kit-two").as_deref()), (None, Some("1.0")));

    // The engine's refusal, in `Finished`; nothing changed.
    let before = bus.world.sysroot.state();
    let refused = bus.transaction("PkgChange", PKG_CHANGE, "({}, ['no-such-package'], [])");
    refused.exits(1).says(&["Finished [false, \"Packages not found: no-such-package"]);
    bus.world.sysroot.assert_unchanged(&before, "a refused install");

    // Cockpit's reset.
    bus.transaction("UpdateDeployment", UPDATE, "({}, {'no-layering': <true>, 'no-overrides': <true>})").exits(0);
    assert_eq!(bus.world.installed(0, "kit-two"), None);
    bus.transaction("Cleanup", "(as)", "(['rollback-deploy'],)").exits(0);
    bus.done();
}

#[test]
fn a_local_package_comes_as_an_open_file() {
    let bus = Bus::new(World::new(), &[]);
    let deb = bus.world.local(&small("kit-local", "1.0"));
    let install = |path: &str| {
        let arguments = "({'install-local-packages': <[handle 0]>}, {'no-pull-base': <true>})";
        bus.client(&[&bus.address, "start", "UpdateDeployment", UPDATE, arguments, path]).end()
    };
    install(&deb.to_string_lossy()).exits(0);
    assert_eq!(bus.world.installed(0, "kit-local").as_deref(), Some("1.0"));
    wait_for("the end", || bus.is_idle());
    // Not a file, not a package.
    install("/dev/zero").exits(3).says(&["is not a regular file"]);
    let text = bus.dir.join("text");
    fs::write(&text, "no package").expect("own directory");
    install(&text.to_string_lossy()).exits(1).says(&["Finished [false"]);
    bus.done();
}

/// A package whose script waits for what never comes, and does not end by itself.
fn hanging(name: &str) -> Deb {
    small(name, "1.0").script("postinst", "#!/bin/sh\ntrap '' TERM HUP INT\necho hanging\nwhile :; do sleep 1; done\n")
}

/// Whether a script of a package runs anywhere.
fn script_runs(name: &str) -> bool {
    let output = Command::new("ps").args(["axo", "args"]).output().expect("ps starts");
    String::from_utf8_lossy(&output.stdout).contains(&format!("{name}.postinst"))
}

#[test]
fn one_at_a_time_and_cancel_really_ends_it() {
    let mut world = World::new();
    world.publish(&[hanging("kit-hangs"), small("kit-fine", "1.0")]);
    let bus = Bus::new(world, &[]);
    let before = bus.world.sysroot.state();
    let (hang, fine) = ("({}, ['kit-hangs'], [])", "({}, ['kit-fine'], [])");
    let (mut first, address) = bus.begin("start", "PkgChange", PKG_CHANGE, hang);
    first.until("TaskBegin");

    // Busy, by the name that clients wait for; the same call joins.
    let other = bus.transaction("PkgChange", PKG_CHANGE, fine).exits(3);
    other.says(&[
        "refused org.gtk.GDBus.UnmappedGError.Quark._g_2dio_2derror_2dquark.Code26",
        "Transaction in progress: install; install: 1",
    ]);
    let (mut late, joined) = bus.begin("start", "PkgChange", PKG_CHANGE, hang);
    assert_eq!(joined, address);
    assert_eq!(bus.property(SYSROOT, "Sysroot", "ActiveTransaction")[0], "PkgChange");
    let title = bus.client(&[&address, "title"]).end().exits(0);
    title.says(&["\"Title\": \"install; install: 1\"", "client(id:unknown dbus:"]);

    // Who comes late learns what was said; who does not read holds up nobody.
    assert_eq!(late.line(), "start false");
    late.until("TaskBegin [\"Resolving dependencies\"]");
    let mut holder = bus.client(&[&address, "hold"]);
    assert_eq!(holder.line(), "connected");

    // The script ignores every signal but one.
    wait_for("the script", || script_runs("kit-hangs"));
    let cancel = bus.client(&[&address, "cancel"]).end().exits(1);
    cancel.says(&["cancel sent", "Finished [false, \"Transaction cancelled"]);
    first.until("Finished [false");
    late.until("Finished [false");
    wait_for("the end of the script", || !script_runs("kit-hangs"));
    bus.world.sysroot.assert_unchanged(&before, "a cancelled install");

    // The next one need not wait for the client that still holds the socket.
    bus.transaction("PkgChange", PKG_CHANGE, fine).exits(0);
    assert_eq!(bus.world.installed(0, "kit-fine").as_deref(), Some("1.0"));
    [first, late, holder].into_iter().for_each(Client::kill);
    bus.done();
}

#[test]
fn nobody_blocks_the_next_one() {
    let mut world = World::new();
    world.publish(&[small("kit-fine", "1.0"), hanging("kit-dies")]);
    let bus = Bus::new(world, &[]);
    // busctl leaves the bus as soon as it has its answer, without a Start.
    bus.call(OS, "OS", "Rollback", &["a{sv}", "0"]).exits(0);
    wait_for("the end", || bus.is_idle());

    // A worker that is killed.
    let (mut client, _) = bus.begin("start", "PkgChange", PKG_CHANGE, "({}, ['kit-dies'], [])");
    wait_for("the script", || script_runs("kit-dies"));
    let daemon = bus.daemon.id().to_string();
    let killed = Command::new("pkill").args(["-KILL", "--parent", &daemon]).status().expect("pkill starts");
    assert!(killed.success(), "the service has no worker");
    let end = client.until("Finished [false");
    assert!(end.contains("The worker process ended without a report (signal 9)"), "{end}");
    wait_for("the end of the script", || !script_runs("kit-dies"));

    // A client that is killed in the middle: the transaction goes on, and ends.
    let (mut client, _) = bus.begin("start", "PkgChange", PKG_CHANGE, "({}, ['kit-fine'], [])");
    client.until("TaskBegin");
    client.kill();
    wait_for("the end", || bus.is_idle());
    assert_eq!(bus.world.installed(0, "kit-fine").as_deref(), Some("1.0"));
    bus.done();
}

const HOSTILE: &str = include_str!("../clients/hostile.py");
const TRANSACTION: &str = include_str!("../clients/transaction.py");

/// A program of tests/clients/ as a user who owns nothing, and may not even read it.
fn stranger(uid: u32, script: &str, words: &[&str]) -> Client {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}"));
    command.args(["--regid=65534", "--clear-groups", "--", "python3", "-c", script]).args(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    Client { child, lines }
}

#[test]
fn what_is_too_large_or_odd_does_not_take_the_service_away() {
    let mut bus = Bus::new(World::new(), &[]);
    let answer = stranger(65534, HOSTILE, &["bus", &bus.address]).end().exits(0);
    assert_eq!(answer.stdout, format!("('{OS}',)\n('{OS}',)"));
    assert!(bus.daemon.try_wait().expect("a child").is_none());
    // Without a bus it is of no use, and would keep the name from another.
    let _ = bus.bus.kill();
    wait_for("the end", || bus.daemon.try_wait().expect("a child").is_some());
    assert!(!bus.daemon.wait().expect("a child").success());
    bus.done();
}

#[test]
fn strangers_on_the_socket_keep_nobody_out() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new();
    world.publish(&[small("kit-fine", "1.0")]);
    let mut bus = Bus::new(world, &[]);
    let (mut holder, address) = bus.begin("hold", "PkgChange", PKG_CHANGE, "({}, ['kit-fine'], [])");
    assert_eq!(holder.line(), "connected");
    let socket = PathBuf::from(address.strip_prefix("unix:path=").expect("a path"));
    // That of the running system is where everybody gets.
    fs::set_permissions(socket.parent().expect("a directory"), fs::Permissions::from_mode(0o711))
        .expect("own directory");
    let mut hostile = stranger(65534, HOSTILE, &["peer", &socket.to_string_lossy()]);
    // One of its four it holds itself.
    assert_eq!(hostile.line(), "ready 3");

    let mut first = bus.client(&[&address, "start"]);
    assert_eq!(first.line(), "start true");
    first.end().exits(0).says(&["Finished [true"]);
    assert_eq!(bus.world.installed(0, "kit-fine").as_deref(), Some("1.0"));

    // Who asks after the end is told, once; who may not begin it as well.
    let late = bus.client(&[&address, "twice"]).end().exits(0);
    let late =
        late.says(&["start false", "start again false", "TaskBegin [\"Resolving dependencies\"]", "Finished [true"]);
    assert_eq!(late.stdout.matches("TaskBegin [\"Resolving").count(), 1, "{}", late.stdout);
    bus.client(&[&address, "cancel"]).end().exits(0).says(&["cancel sent", "Finished [true"]);
    // Places are by user: this one still has its own.
    stranger(65533, TRANSACTION, &[&address, "watch"]).end().exits(0).says(&["start false", "Finished [true"]);

    // Who stays nevertheless is sent away, and keeps nobody out until then.
    bus.transaction("Cleanup", "(as)", "(['pending-deploy'],)").exits(0);
    hostile.until("closed");
    wait_for("the end", || bus.is_idle());
    assert!(bus.daemon.try_wait().expect("a child").is_none());
    holder.kill();
    bus.done();
}

#[test]
fn bad_input_is_refused_by_name() {
    let bus = Bus::new(World::new(), &[]);
    let before = bus.world.sysroot.state();
    let long = "x".repeat(5000);
    let manager = "org.debian.aptostree1.Manager";
    for (path, interface, method, words, said) in [
        (
            OS,
            "OS",
            "PkgChange",
            vec!["a{sv}asas", "1", "dry-run", "s", "yes", "0", "0"],
            "Option 'dry-run' is not a boolean",
        ),
        (OS, "OS", "PkgChange", vec!["a{sv}asas", "0", "1", "a\nb", "0"], "has control characters"),
        (OS, "OS", "PkgChange", vec!["a{sv}asas", "0", "1", &long, "0"], "longer than"),
        (OS, "OS", "Cleanup", vec!["as", "1", "everything"], "Invalid cleanup type: everything"),
        (OS, "OS", "Rebase", vec!["a{sv}sas", "0", "/etc:ref", "0"], "by its path"),
        (OS, "OS", "DownloadRebaseRpmDiff", vec!["sas", "ostree:///etc:ref", "0"], "by its path"),
        (OS, "OS", "RefreshMd", vec!["a{sv}", "1", "reboot", "b", "true"], "no meaning"),
        (OS, "OS", "UpdateDeployment", vec!["a{sv}a{sv}", "0", "1", "skip-purge", "b", "true"], "skip-purge"),
        (
            OS,
            "OS",
            "UpdateDeployment",
            vec!["a{sv}a{sv}", "0", "2", "cache-only", "b", "true", "download-only", "b", "true"],
            "cache-only",
        ),
        (
            OS,
            "OS",
            "UpdateDeployment",
            vec!["a{sv}a{sv}", "1", "override-replace-packages", "as", "1", "x", "0"],
            "Non-local replacement overrides",
        ),
        (
            OS,
            "OS",
            "UpdateDeployment",
            vec!["a{sv}a{sv}", "1", "install-packages", "s", "x", "0"],
            "not a list of strings",
        ),
        (
            OS,
            "OS",
            "AutomaticUpdateTrigger",
            vec!["a{sv}", "1", "mode", "s", "often"],
            "Invalid automatic update mode 'often'",
        ),
        (OS, "OS", "GetDeploymentBootConfig", vec!["sb", "nothing", "false"], "Deployment with id 'nothing' not found"),
        (OS, "OS", "GetDeploymentBootConfig", vec!["sb", &long, "false"], "longer than"),
        (OS, "OS", "GetDeploymentsRpmDiff", vec!["ss", "", "a\nb"], "has control characters"),
        (OS, "OS", "ModifyYumRepo", vec!["sa{ss}", "x", "0"], "'enabled' is missing"),
        (SYSROOT, manager, "Execute", vec!["sah", "nonsense", "0"], "The request is not understood"),
        (
            SYSROOT,
            manager,
            "Execute",
            vec![
                "sah",
                r#"{"sysroot":"/","stateroot":null,"verb":"rollback","options":{"command_line":"a\u0007b"}}"#,
                "0",
            ],
            "control characters",
        ),
        (
            SYSROOT,
            manager,
            "Execute",
            vec![
                "sah",
                r#"{"sysroot":"/etc","stateroot":null,"verb":"pkg-change","changes":{"install_local":["/etc/shadow"]}}"#,
                "0",
            ],
            "names 1 package files and comes with 0",
        ),
        (
            SYSROOT,
            manager,
            "Execute",
            vec!["sah", r#"{"sysroot":"/","stateroot":null,"verb":"init-sysroot","refspec":"x"}"#, "0"],
            "not done by the service",
        ),
    ] {
        bus.call(path, interface, method, &words).exits(1).says(&[said]);
    }
    bus.world.sysroot.assert_unchanged(&before, "bad input");
    assert_eq!(bus.property(SYSROOT, "Sysroot", "ActiveTransactionPath"), "");
    bus.done();
}

#[test]
fn questions_are_answered() {
    let mut world = World::new();
    world.publish(&[
        small("kit-one", "1.0").field("Description", "A first thing"),
        small("kit-mail", "2:1.0-3").provides("kit-transport"),
    ]);
    world.sysroot.ok(&["refresh-md"]);
    let bus = Bus::new(world, &[]);
    let packages =
        bus.call(OS, "OS", "GetPackages", &["as", "2", "kit-one", "no-such"]).exits(0).json()["data"][0].clone();
    let packages = packages.as_array().expect("a list").clone();
    assert_eq!(packages.len(), 1, "{packages:?}");
    for (key, value) in [
        ("key", "kit-one"),
        ("name", "kit-one"),
        ("evr", "1.0"),
        ("nevra", "kit-one-1.0.amd64"),
        ("summary", "A first thing"),
        ("reponame", "stable/main"),
    ] {
        assert_eq!(packages[0][key]["data"], value, "{key}");
    }
    let provides = bus.call(OS, "OS", "WhatProvides", &["as", "1", "kit-transport"]).exits(0).json()["data"][0].clone();
    assert_eq!(provides[0]["nevra"]["data"], "kit-mail-2:1.0-3.amd64");
    let found = bus.call(OS, "OS", "Search", &["as", "1", "first"]).exits(0).json()["data"][0].clone();
    assert_eq!((&found[0]["key"]["data"], &found[0]["name"]["data"]), (&"match_group_c".into(), &"kit-one".into()));
    let config = bus.call(OS, "OS", "GetDeploymentBootConfig", &["sb", "", "true"]).exits(0).json()["data"][0].clone();
    assert!(config["options"]["data"].as_str().expect("text").contains("quiet root=UUID=1"), "{config}");
    assert_eq!(config["staged"]["data"], false);
    let repos = bus.call(OS, "OS", "ListRepos", &[]).exits(0).json()["data"][0].clone();
    assert_eq!(repos[0]["is-enabled"]["data"], true, "{repos}");
    bus.done();
}

#[test]
fn updates_over_the_bus() {
    let (world, server) = World::following();
    let bus = Bus::new(world, &[]);
    server.set(BRANCH, &base().v2);
    bus.transaction("DownloadUpdateRpmDiff", "()", "()").exits(0);
    bus.transaction("Upgrade", "(a{sv})", "({},)").exits(0);
    assert_eq!(bus.world.sysroot.field(0, "checksum"), base().v2);
    let ids: Vec<String> =
        bus.world.sysroot.deployments().iter().map(|d| d["id"].as_str().expect("text").to_owned()).collect();
    let diff =
        bus.call(OS, "OS", "GetDeploymentsRpmDiff", &["ss", &ids[1], &ids[0]]).exits(0).json()["data"][0].clone();
    let entry = |name: &str| {
        let mut entries = diff.as_array().expect("a list").iter();
        entries.find(|e| e[0] == name).unwrap_or_else(|| panic!("{name}: {diff}")).clone()
    };
    assert_eq!(entry("kit-new")[1], 0);
    assert_eq!(entry("kit-dropped")[1], 1);
    assert_eq!(entry("kit-base")[1], 2);
    assert_eq!(entry("kit-base")[2]["NewPackage"]["data"], serde_json::json!(["kit-base", "2.0", "amd64"]));
    bus.transaction("Rollback", "(a{sv})", "({},)").exits(0);
    assert_eq!(bus.world.sysroot.field(0, "checksum"), base().v1);
    bus.transaction("Deploy", "(sa{sv})", &format!("('{}', {{}})", base().v2)).exits(0);
    assert_eq!(bus.world.sysroot.field(0, "checksum"), base().v2);
    let kargs = "(sasasasa{sv})";
    bus.transaction("KernelArgs", kargs, "('', ['debug'], [], [], {})").exits(0);
    bus.call(OS, "OS", "GetDeploymentBootConfig", &["sb", "", "true"]).exits(0).says(&[" debug"]);
    bus.transaction("KernelArgs", kargs, "('another line', ['x'], [], [], {})").exits(1).says(&["Conflict"]);
    bus.done();
}

#[test]
fn the_service_ends_when_it_is_idle_and_is_alone() {
    let mut bus = Bus::new(World::new(), &["--idle-exit=1"]);
    // Up to four seconds more; a second service of the same name does not start.
    let second = start(&bus.address, &bus.world, &[]).wait_with_output().expect("it ends");
    assert!(!second.status.success());
    wait_for("the idle exit", || bus.daemon.try_wait().expect("a child").is_some());
    assert!(bus.daemon.wait().expect("a child").success());
    // Asked to stop, it does, and takes a transaction along.
    bus.daemon = start(&bus.address, &bus.world, &[]);
    wait_for("the service", || bus.busctl(&["status", NAME]).code == Some(0));
    let id = bus.daemon.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
    wait_for("the end", || bus.daemon.try_wait().expect("a child").is_some());
    assert!(bus.daemon.wait().expect("a child").success());
    let _ = std::io::stdout().flush();
    bus.done();
}

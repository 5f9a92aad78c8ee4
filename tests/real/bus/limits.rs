//! What one user can make the service hold, and for how long.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Bus, HOSTILE, OS, SYSROOT, stranger, wait_for};
use crate::bases::TREE;
use crate::world::{World, small};

/// The most memory that the service had so far, in KiB, as the kernel counts it.
fn peak(bus: &Bus) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", bus.daemon.id())).expect("a process");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("the kernel tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn calls_that_wait_for_polkit_are_few_and_small() {
    let mut bus = Bus::new(World::new(), &[]);
    let mut polkit = stranger(0, HOSTILE, &["polkit", &bus.address]);
    assert_eq!(polkit.line(), "ready");
    let before = peak(&bus);
    let mut first = stranger(65534, HOSTILE, &["calls", &bus.address]);
    assert_eq!(first.line(), "24 org.freedesktop.DBus.Error.LimitsExceeded");
    (0..16).for_each(|_| assert_eq!(polkit.line(), "asked"));
    // Another user (`daemon`; the bus wants one that it knows) has a share of its own, and root is not held up.
    let mut second = stranger(1, HOSTILE, &["calls", &bus.address]);
    assert_eq!(second.line(), "24 org.freedesktop.DBus.Error.LimitsExceeded");
    (0..16).for_each(|_| assert_eq!(polkit.line(), "asked"));
    bus.call(SYSROOT, "Sysroot", "GetOS", &["s", "debian"]).exits(0);
    bus.transaction("Cleanup", "(as)", "(['pending-deploy'],)").exits(0);
    // 80 messages of 250 KiB came, each of which was some 20 MB for a moment.
    let unit = fs::read_to_string(format!("{TREE}/data/package/usr/lib/systemd/system/apt-ostreed.service"))
        .expect("the unit");
    assert!(unit.contains("\nMemoryMax=512M\n"), "the limit below is the unit's");
    let grown = peak(&bus) - before;
    assert!(grown < 256 << 10, "{grown} KiB more");
    // Who leaves takes the questions along, and may ask again.
    first.kill();
    (0..16).for_each(|_| assert_eq!(polkit.line(), "taken back"));
    let mut again = stranger(65534, HOSTILE, &["calls", &bus.address]);
    assert_eq!(again.line(), "24 org.freedesktop.DBus.Error.LimitsExceeded");
    for client in [again, second, polkit] {
        client.kill();
    }
    assert!(bus.daemon.try_wait().expect("a child").is_none());
    bus.done();
}

/// Stops and continues the service, so that it gets files when nobody else has them any more.
fn signal(bus: &Bus, name: &str) {
    let id = bus.daemon.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
}

#[test]
fn files_that_take_long_to_close_hold_nothing_up() {
    let bus = Bus::new(World::new(), &[]);
    signal(&bus, "-STOP");
    let mut hostile = stranger(65534, HOSTILE, &["files", &bus.address]);
    assert_eq!(hostile.line(), "passed");
    signal(&bus, "-CONT");
    bus.call(SYSROOT, "Sysroot", "GetOS", &["s", "debian"]).exits(0).says(&[OS]);
    // Not even what closes them waits: the service has them no more, though they are as they were.
    let closing = || {
        let threads = fs::read_dir(format!("/proc/{}/task", bus.daemon.id())).expect("a process").flatten();
        let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        threads.map(name).filter(|name| name == "close\n").count()
    };
    wait_for("the files to be closed", || closing() == 0);
    hostile.kill();
    bus.done();
}

#[test]
fn files_are_counted_by_user() {
    let bus = Bus::new(World::new(), &[]);
    let mut polkit = stranger(0, HOSTILE, &["polkit", &bus.address]);
    assert_eq!(polkit.line(), "ready");
    let said = "GDBus.Error:org.freedesktop.DBus.Error.LimitsExceeded: Too many files of this user";
    let mut first = stranger(65534, HOSTILE, &["held", &bus.address]);
    first.until(said);
    // Four calls wait. Another user has as many, and root's files come.
    let mut second = stranger(1, HOSTILE, &["held", &bus.address]);
    second.until(said);
    (0..8).for_each(|_| assert_eq!(polkit.line(), "asked"));
    let deb = bus.world.local(&small("kit-local", "1.0"));
    let arguments = "({'install-local-packages': <[handle 0]>}, {'no-pull-base': <true>})";
    let install = ["start", "UpdateDeployment", "(a{sv}a{sv})", arguments, &deb.to_string_lossy()];
    bus.client(&[&[bus.address.as_str()][..], &install].concat()).end().exits(0);
    assert_eq!(bus.world.installed(0, "kit-local").as_deref(), Some("1.0"));
    // Who leaves takes his files along.
    first.kill();
    (0..4).for_each(|_| assert_eq!(polkit.line(), "taken back"));
    let mut again = stranger(65534, HOSTILE, &["held", &bus.address]);
    again.until(said);
    (0..4).for_each(|_| assert_eq!(polkit.line(), "asked"));
    for client in [again, second, polkit] {
        client.kill();
    }
    bus.done();
}

#[test]
fn files_on_the_socket_of_a_transaction_hold_nothing_up() {
    use std::os::unix::fs::PermissionsExt;
    let bus = Bus::new(World::new(), &[]);
    let (mut holder, address) = bus.begin("hold", "Cleanup", "(as)", "(['pending-deploy'],)");
    assert_eq!(holder.line(), "connected");
    let socket = PathBuf::from(address.strip_prefix("unix:path=").expect("a path"));
    fs::set_permissions(socket.parent().expect("a directory"), fs::Permissions::from_mode(0o711))
        .expect("own directory");
    signal(&bus, "-STOP");
    let mut hostile = stranger(65534, HOSTILE, &["rights", &socket.to_string_lossy()]);
    assert_eq!(hostile.line(), "passed");
    signal(&bus, "-CONT");
    // The service answers while the other side keeps all of them; it did take the connections, as this one comes after them.
    let mut client = bus.client(&[&address, "start"]);
    assert_eq!(client.line(), "start true");
    client.end().exits(0).says(&["Finished [true"]);
    bus.call(SYSROOT, "Sysroot", "GetOS", &["s", "debian"]).exits(0).says(&[OS]);
    holder.kill();
    wait_for("the end", || bus.is_idle());
    hostile.kill();
    bus.done();
}

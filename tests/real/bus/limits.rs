//! What one user can make the service hold, and for how long.

use std::fs;
use std::process::Command;

use super::{Bus, HOSTILE, OS, SYSROOT, stranger, wait_for};
use crate::world::World;

#[test]
fn files_that_cannot_be_closed_hold_nothing_up() {
    let bus = Bus::new(World::new(), &[]);
    let id = bus.daemon.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
    // It gets them when nobody else has them any more.
    signal("-STOP");
    let mut hostile = stranger(65534, HOSTILE, &["files", &bus.address]);
    assert_eq!(hostile.line(), "passed");
    signal("-CONT");
    bus.call(SYSROOT, "Sysroot", "GetOS", &["s", "debian"]).exits(0).says(&[OS]);
    // They did come.
    let closing = || {
        let threads = fs::read_dir(format!("/proc/{id}/task")).expect("a process").flatten();
        let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        threads.map(name).filter(|name| name == "close\n").count()
    };
    wait_for("two files to be closed", || closing() == 2);
    bus.call(SYSROOT, "Sysroot", "GetOS", &["s", "debian"]).exits(0).says(&[OS]);
    hostile.kill();
    wait_for("the end of that", || closing() == 0);
    bus.done();
}

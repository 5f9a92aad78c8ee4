//! How the last transaction ended, told by the service and, without it, by `status`.

use super::{Bus, NAME, PKG_CHANGE, SYSROOT, start, wait_for};
use crate::world::{World, small};

#[test]
fn a_failure_is_told_until_something_succeeds() {
    let mut world = World::new();
    world.publish(&[small("kit-one", "1.0")]);
    let mut bus = Bus::new(world, &[]);
    assert!(bus.world.sysroot.status().get("last-transaction").is_none());
    let options = "{'initiating-command-line': <'store install no-such'>}";
    let said = bus.transaction("PkgChange", PKG_CHANGE, &format!("({options}, ['no-such'], [])")).exits(1);
    let status = bus.world.sysroot.ok(&["status"]);
    let line = status.stdout.lines().find(|l| l.starts_with("LastTransaction: ")).expect("the line").to_owned();
    // What clients were told, and not the hints below it.
    let (_, reason) = line.split_once("LastTransaction: store install no-such failed: ").expect("title and outcome");
    let (reason, _) = reason.rsplit_once(" (").expect("a time");
    assert!(
        said.stdout.contains(&format!("Finished [false, \"{}", reason.replace('"', "\\\""))),
        "{line}: {}",
        said.stdout
    );
    assert_eq!(status.stdout.lines().next(), Some("State: idle"));

    // The service ends, another one comes: both tell it.
    let end = |bus: &mut Bus| {
        bus.daemon.kill().expect("a service");
        bus.daemon.wait().expect("a service");
        wait_for("the name to be free", || bus.busctl(&["status", NAME]).code != Some(0));
    };
    end(&mut bus);
    bus.world.sysroot.ok(&["status"]).says(&[&line]);
    bus.daemon = start(&bus.address, &bus.world, &[]);
    wait_for("the service", || bus.busctl(&["status", NAME]).code == Some(0));
    let property = |bus: &Bus| {
        let words = ["get-property", NAME, SYSROOT, "org.debian.aptostree1.Manager", "LastTransaction"];
        let text = bus.busctl(&words).exits(0).json()["data"].as_str().expect("text").to_owned();
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    assert_eq!(property(&bus), bus.world.sysroot.status()["last-transaction"]);
    assert_eq!((&property(&bus)["success"], &property(&bus)["method"]), (&false.into(), &"PkgChange".into()));

    // Somebody's own doing is none, and then it works.
    let (client, address) = bus.begin("hold", "PkgChange", PKG_CHANGE, "({}, ['kit-one'], [])");
    let _ = bus.client(&[&address, "cancel"]).end();
    client.kill();
    wait_for("the end", || bus.is_idle());
    assert_eq!(property(&bus)["cancelled"], true);
    bus.world.sysroot.ok(&["status"]).never_says(&["LastTransaction"]);
    bus.world.sysroot.ok(&["status", "-v"]).says(&["LastTransaction: ", " was cancelled ("]);
    bus.transaction("PkgChange", PKG_CHANGE, &format!("({options}, ['kit-one'], [])")).exits(0);
    end(&mut bus);
    bus.world.sysroot.ok(&["status"]).never_says(&["LastTransaction"]);
    bus.world.sysroot.ok(&["status", "-v"]).says(&["LastTransaction: store install no-such succeeded ("]);

    // Without the service as well.
    bus.world.sysroot.run(&["install", "no-such"]).exits(1);
    bus.world.sysroot.ok(&["status"]).says(&["LastTransaction: ", " failed: "]);
    bus.world.sysroot.ok(&["cleanup", "-p"]);
    bus.world.sysroot.ok(&["status"]).never_says(&["LastTransaction"]);
    bus.done();
}

//! The objects on the bus: which there are, and the signals of what changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use apt_ostree_bus::{BASE_PATH, SYSROOT_PATH, os_path};
use zbus::Connection;
use zbus::fdo::ObjectManager;

use crate::journal;
use crate::manager::Manager;
use crate::os::{Os, OsExperimental};
use crate::state::{Daemon, Snapshot};
use crate::sysroot::Sysroot;

/// Those that are always there.
pub(crate) async fn serve(daemon: &Arc<Daemon>) -> zbus::Result<()> {
    let server = daemon.bus.object_server();
    server.at(BASE_PATH, ObjectManager).await?;
    server.at(SYSROOT_PATH, Sysroot(daemon.clone())).await?;
    server.at(SYSROOT_PATH, Manager(daemon.clone())).await?;
    Ok(())
}

/// Makes the objects fit the new snapshot, and signals every property that may be another one.
pub(crate) async fn publish(daemon: &Arc<Daemon>, old: &Snapshot, new: &Snapshot) -> zbus::Result<()> {
    let server = daemon.bus.object_server();
    // Two names can have one path: the first of them has the object.
    let owners = |snapshot: &Snapshot| {
        let mut owners = BTreeMap::new();
        for name in &snapshot.stateroots {
            owners.entry(os_path(name)).or_insert_with(|| name.clone());
        }
        // That object has it.
        owners.remove(SYSROOT_PATH);
        owners
    };
    let (before, after) = (owners(old), owners(new));
    for (path, name) in before.iter().filter(|(path, name)| after.get(*path) != Some(*name)) {
        journal::note(&format!("The stateroot {name} is gone"));
        server.remove::<Os, _>(path.as_str()).await?;
        server.remove::<OsExperimental, _>(path.as_str()).await?;
    }
    for (path, name) in after.iter().filter(|(path, name)| before.get(*path) != Some(*name)) {
        server.at(path.as_str(), Os { daemon: daemon.clone(), name: name.clone() }).await?;
        server.at(path.as_str(), OsExperimental { daemon: daemon.clone(), name: name.clone() }).await?;
    }
    let sysroot = server.interface::<_, Sysroot>(SYSROOT_PATH).await?;
    let (object, emitter) = (sysroot.get().await, sysroot.signal_emitter());
    object.deployments_changed(emitter).await?;
    if old.booted != new.booted {
        object.booted_changed(emitter).await?;
    }
    drop(object);
    for name in new.stateroots.iter().filter(|name| old.stateroots.contains(name)) {
        let Ok(os) = server.interface::<_, Os>(os_path(name).as_str()).await else { continue };
        let (object, emitter) = (os.get().await, os.signal_emitter());
        object.booted_deployment_changed(emitter).await?;
        object.default_deployment_changed(emitter).await?;
        object.rollback_deployment_changed(emitter).await?;
        object.cached_update_changed(emitter).await?;
        object.has_cached_update_rpm_diff_changed(emitter).await?;
    }
    Ok(())
}

/// Signals that a transaction began or is gone.
pub(crate) async fn transaction_changed(daemon: &Arc<Daemon>) {
    let signal = async {
        let server = daemon.bus.object_server();
        let sysroot = server.interface::<_, Sysroot>(SYSROOT_PATH).await?;
        sysroot.get().await.active_transaction_changed(sysroot.signal_emitter()).await?;
        sysroot.get().await.active_transaction_path_changed(sysroot.signal_emitter()).await?;
        let manager = server.interface::<_, Manager>(SYSROOT_PATH).await?;
        manager.get().await.transaction_changed(manager.signal_emitter()).await
    };
    if let Err(e) = signal.await {
        journal::warning(&format!("Signalling the transaction: {e}"));
    }
}

/// Signals that the policy of automatic updates is another one.
pub(crate) async fn settings_changed(connection: &Connection) -> zbus::Result<()> {
    let sysroot = connection.object_server().interface::<_, Sysroot>(SYSROOT_PATH).await?;
    sysroot.get().await.automatic_update_policy_changed(sysroot.signal_emitter()).await
}

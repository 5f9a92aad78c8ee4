#!/usr/bin/env python3
"""What KDE Discover's rpm-ostree backend and its notifier do, on a booted system.

    discover.py notifier NEW|none|reboot     the notifier: an update to version NEW, none, or one that only waits for the reboot
    discover.py cancel HANGS                 the backend meets a transaction of somebody else (`rpm-ostree install HANGS`) and cancels it
    discover.py update REF                   the backend: update, then rebase to REF, each as a process whose output it reads

Exit status 1 when Discover would show an error, or something that is not so."""
import json
import os
import subprocess
import sys
import time

from gi.repository import Gio, GLib

NAME = "org.projectatomic.rpmostree1"
TEXTS = ("Checking out tree", "Resolving dependencies", "Writing OSTree commit", "Staging deployment")


def rpm_ostree(*words):
    done = subprocess.run(["rpm-ostree", *words], capture_output=True, text=True)
    return done.returncode, done.stdout


def new_version(output):
    """The first line with `Version: `, without the prefix, and without the last 23 characters."""
    line = next(line for line in output.splitlines() if "Version: " in line)
    return line.strip()[len("Version: "):-len(" (XXXX-XX-XXTXX:XX:XXZ)")]


def notifier(wanted):
    assert os.path.exists("/run/ostree-booted") and os.path.isdir("/ostree/deploy/debian/deploy/")
    code, _ = rpm_ostree("status", "--json")
    assert code == 0
    code, output = rpm_ostree("update", "--check")
    if code == 77:
        assert wanted == "none", f"no update, not {wanted}"
        return
    assert code == 0, output
    version = new_version(output)
    code, output = rpm_ostree("status", "--json")
    deployments = json.loads(output)["deployments"]
    assert code == 0 and deployments
    pending = any((d.get("base-version") or d.get("version")) == version for d in deployments)
    assert wanted == ("reboot" if pending else version), f"{version}, pending: {pending}"


class Backend:
    def __init__(self):
        self.bus = Gio.bus_get_sync(Gio.BusType.SYSTEM)
        # Activates the name first.
        self.bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "StartServiceByName",
                           GLib.Variant("(su)", (NAME, 0)), None, Gio.DBusCallFlags.NONE, -1, None)
        self.call("RegisterClient", GLib.Variant("(a{sv})", ({"id": GLib.Variant("s", "discover")},)))
        self.check()

    def call(self, method, body=None, path="/org/projectatomic/rpmostree1/Sysroot", interface=f"{NAME}.Sysroot"):
        return self.bus.call_sync(NAME, path, interface, method, body, None, Gio.DBusCallFlags.NONE, -1, None).unpack()

    def get(self, name):
        body = GLib.Variant("(ss)", (f"{NAME}.Sysroot", name))
        return self.call("Get", body, interface="org.freedesktop.DBus.Properties")[0]

    def check(self):
        """RpmOstreeResource: keys and what follows from them."""
        deployments = self.get("Deployments")
        assert self.get("Booted").startswith("/org/projectatomic/rpmostree1/")
        assert [d["booted"] for d in deployments].count(True) == 1, deployments
        for d in deployments:
            texts = [d["osname"], d.get("base-checksum", d["checksum"]), d.get("base-version", d["version"])]
            assert all(isinstance(text, str) and text for text in texts), texts
            assert isinstance(d.get("base-timestamp", d["timestamp"]), int) and isinstance(d["pinned"], bool) and isinstance(d["staged"], bool)
            for key in ("packages", "base-removals", "local-packages", "base-local-replacements"):
                assert isinstance(d[f"requested-{key}"], list), key
            # With any other number of colons the format is unknown and there are no update checks.
            assert d["origin"].count(":") == 1, d["origin"]
        return deployments

    def cancel(self):
        """A peer connection to the transaction, whoever began it."""
        address = self.get("ActiveTransactionPath")
        assert address and len(self.get("ActiveTransaction")) == 3
        peer = Gio.DBusConnection.new_for_address_sync(address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT, None, None)
        peer.call_sync(None, "/", f"{NAME}.Transaction", "Cancel", None, None, Gio.DBusCallFlags.NONE, -1, None)


def wait_for(what, condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    sys.exit(f"waited in vain for {what}")


def cancel(hangs):
    backend = Backend()
    other = subprocess.Popen(["rpm-ostree", "install", hangs], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for("the external transaction", lambda: backend.get("ActiveTransactionPath") != "")
    script = f"{hangs}.postinst"
    wait_for("its script", lambda: script in subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout)
    # uupd looks at the sysroot's lock with fcntl(F_GETLK) before it begins.
    assert lock_is_held(), "the sysroot's lock is not held"
    backend.cancel()
    said, _ = other.communicate()
    assert other.returncode != 0 and "error: " in said, said
    # Polled.
    wait_for("the end", lambda: backend.get("ActiveTransactionPath") == "")
    assert not lock_is_held()


def lock_is_held():
    import fcntl
    import struct
    layout = "hhqqi4x"
    with open("/sysroot/ostree/lock", "rb") as file:
        asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        return struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK


def update(reference):
    backend = Backend()
    before = backend.check()
    code, output = rpm_ostree("update")
    assert code == 0, output
    missing = [text for text in TEXTS if text not in output]
    print("texts for the progress bar that are not there:", missing or "none")
    wait_for("the deployment", lambda: backend.get("Deployments")[0]["checksum"] != before[0]["checksum"])
    assert backend.check()[0]["staged"]
    notifier("reboot")
    code, output = rpm_ostree("rebase", reference)
    assert code == 0, output
    wait_for("the other origin", lambda: backend.get("Deployments")[0]["origin"].endswith(reference.split(":")[-1]))
    backend.check()


def main():
    {"notifier": notifier, "cancel": cancel, "update": update}[sys.argv[1]](*sys.argv[2:])
    print("discover:", sys.argv[1], "ok")


main()

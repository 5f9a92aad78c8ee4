#!/usr/bin/env python3
"""What cockpit's page "Software updates" (cockpit-ostree) does, through cockpit's own bridge, on a booted system.

    cockpit.py check NEW REF NEXT    looks for updates of the branch, then of REF, where version NEXT is
    cockpit.py change NEW OLD REF    deploys commits by checksum, rebases REF to one, resets, rolls back, cleans up

cockpit-bridge (Debian's) talks to the bus and to the transactions with sd-bus; this program is the page: it sends the messages that
src/client.js of cockpit-ostree sends, in its order, and reads the answers by its rules. Exit status 1 when the page would show an error."""
import itertools
import json
import subprocess
import sys

DEST = "org.projectatomic.rpmostree1"
PATH = "/org/projectatomic/rpmostree1"
SYSROOT_PATH = f"{PATH}/Sysroot"
SYSROOT, OS, TRANSACTION = (f"{DEST}.{name}" for name in ("Sysroot", "OS", "Transaction"))


class Bridge:
    """The frames of cockpit's protocol: length, channel, message."""

    def __init__(self):
        self.process = subprocess.Popen(["cockpit-bridge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.numbers = itertools.count(1)
        assert self.read()[1]["command"] == "init"
        self.send("", {"command": "init", "version": 1, "host": "localhost"})

    def send(self, channel, message):
        frame = f"{channel}\n{json.dumps(message)}".encode()
        self.process.stdin.write(b"%d\n%s" % (len(frame), frame))
        self.process.stdin.flush()

    def read(self):
        size = self.process.stdout.readline()
        assert size, "the bridge ended"
        channel, _, message = self.process.stdout.read(int(size)).partition(b"\n")
        return channel.decode(), json.loads(message)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Channel:
    """cockpit.dbus()."""

    def __init__(self, page, **options):
        self.page, self.name = page, f"c{next(page.bridge.numbers)}"
        page.channels[self.name] = self
        self.objects, self.signals, self.replies, self.closed, self.is_ready = {}, [], {}, None, False
        page.bridge.send("", {"command": "open", "channel": self.name, "payload": "dbus-json3", **options})
        page.until(lambda: self.is_ready or self.closed)
        assert self.is_ready, self.closed

    def send(self, message):
        number = str(next(self.page.bridge.numbers))
        self.page.bridge.send(self.name, {**message, "id": number})
        return number

    def answer(self, message):
        number = self.send(message)
        self.page.until(lambda: number in self.replies or self.closed)
        assert self.closed is None, f"closed: {self.closed}"
        return self.replies.pop(number)

    def call(self, path, interface, method, *arguments):
        reply, error = self.answer({"call": [path, interface, method, list(arguments)]})
        assert error is None, f"{method}: {error}"
        return reply[0]

    def take(self, message):
        if "reply" in message or "error" in message:
            self.replies[message.get("id")] = (message.get("reply"), message.get("error"))
        for path, interfaces in (message.get("notify") or {}).items():
            for interface, values in interfaces.items():
                if values is None:
                    self.objects.get(path, {}).pop(interface, None)
                else:
                    self.objects.setdefault(path, {}).setdefault(interface, {}).update(values)
        if "signal" in message:
            self.signals.append(message["signal"])

    def close(self):
        self.page.bridge.send("", {"command": "close", "channel": self.name})
        self.page.until(lambda: self.closed is not None)


class Page:
    """RPMOSTreeDBusClient."""

    def __init__(self):
        self.bridge, self.channels = Bridge(), {}
        self.client = Channel(self, name=DEST, capabilities=["address"])
        for watch in ({"path": PATH}, {"path": SYSROOT_PATH, "interface": SYSROOT}, {"path_namespace": PATH, "interface": OS}):
            _, error = self.client.answer({"watch": watch})
            assert error is None, error
        booted = self.sysroot()["Booted"]
        self.names = {objects[OS]["Name"]: path for path, objects in self.client.objects.items() if OS in objects}
        # build_os_list
        assert all(deployment["osname"]["v"] in self.names for deployment in self.sysroot()["Deployments"])
        self.os = booted
        self.booted_id = self.proxy()["BootedDeployment"]["id"]["v"]

    def until(self, condition):
        while not condition():
            name, message = self.bridge.read()
            if name:
                self.channels[name].take(message)
                continue
            channel = self.channels.get(message.get("channel"))
            if channel and message["command"] == "ready":
                channel.is_ready = True
            elif channel and message["command"] == "close":
                channel.closed = message

    def sysroot(self):
        return self.client.objects[SYSROOT_PATH][SYSROOT]

    def proxy(self):
        return self.client.objects[self.os][OS]

    def call(self, method, *arguments):
        return self.client.call(self.os, OS, method, *arguments)

    def origin(self, which):
        deployment = self.proxy()[which]
        return (deployment.get("origin") or deployment["container-image-reference"])["v"]

    def deployments(self):
        return [(d["id"]["v"], d["checksum"]["v"]) for d in self.sysroot()["Deployments"]]

    def run_transaction(self, method, *arguments):
        """Succeeds only with `Finished` before the connection is closed."""
        self.client.call(SYSROOT_PATH, SYSROOT, "ReloadConfig")
        address = self.call(method, *arguments)[0]
        peer = Channel(self, bus="none", address=address)
        peer.send({"add-match": {"path": "/"}})
        peer.send({"call": ["/", TRANSACTION, "Start", []]})
        finished = lambda: [s[3] for s in peer.signals if s[:3] == ["/", TRANSACTION, "Finished"]]
        self.until(lambda: finished() or peer.closed)
        assert finished(), f"{method}: the connection was closed: {peer.closed}"
        success, text = finished()[0]
        assert success, f"{method}: {text}"
        peer.close()
        # The page shows nothing new while one is active.
        self.until(lambda: self.sysroot()["ActiveTransaction"] == ["", "", ""])
        print(method, "ok", flush=True)


def differences(entries):
    """process_diff_list."""
    kinds = ("adds", "removes", "up", "down")
    result = {}
    for name, kind, details in entries:
        package = details["PreviousPackage" if kind == 1 else "NewPackage"]["v"]
        result.setdefault(kinds[kind], []).append((name, package[1], package[2]))
    return result


def check(page, new, reference, next_version):
    # build_change_refspec and get_default_origin take the origin apart at its last colon.
    assert page.origin("BootedDeployment").rpartition(":")[0]
    page.run_transaction("DownloadUpdateRpmDiff")
    update = page.proxy()["CachedUpdate"]
    assert update["version"]["v"] == new and update["checksum"]["v"] and update["origin"]["v"] == page.origin("BootedDeployment"), update
    assert update["osname"]["v"] in page.names
    entries, details = page.call("GetCachedUpdateRpmDiff", "")
    assert details["checksum"]["v"] == update["checksum"]["v"], details
    found = differences(entries)
    assert ("kit-base", "2.0", "amd64") in found["up"] and ("kit-dropped", "1.0", "amd64") in found["removes"], found
    assert ("kit-new", "1.0", "amd64") in found["adds"], found

    page.run_transaction("DownloadRebaseRpmDiff", reference, [])
    entries, details = page.call("GetCachedRebaseRpmDiff", reference, [])
    assert details["checksum"]["v"] and details["version"]["v"] == next_version and details["origin"]["v"] == reference, details
    assert details["osname"]["v"] in page.names and differences(entries)["up"], (details, entries)


def change(page, new, old, reference):
    no, yes = ({"t": "b", "v": value} for value in (False, True))
    page.run_transaction("Deploy", new, {"reboot": no})
    first = page.proxy()["DefaultDeployment"]
    assert new in (first["checksum"]["v"], first.get("base-checksum", {}).get("v")), first
    assert first["staged"]["v"] and not first["booted"]["v"], first
    entries = page.call("GetDeploymentsRpmDiff", page.booted_id, first["id"]["v"])[0]
    assert ("kit-base", "2.0", "amd64") in differences(entries)["up"], entries
    page.run_transaction("Cleanup", ["pending-deploy"])
    assert page.proxy()["DefaultDeployment"]["booted"]["v"]
    page.run_transaction("Rebase", {"reboot": no, "revision": {"t": "s", "v": new}}, reference, [])
    assert page.origin("DefaultDeployment") == reference
    page.run_transaction("Cleanup", ["pending-deploy"])
    page.run_transaction("UpdateDeployment", {}, {"no-layering": yes, "no-overrides": yes})
    assert page.proxy()["DefaultDeployment"]["packages"]["v"] == []
    page.run_transaction("Cleanup", ["pending-deploy"])
    page.run_transaction("Deploy", old, {"reboot": no})
    # A staged deployment is in the way of a rollback, in rpm-ostree too.
    page.run_transaction("Cleanup", ["pending-deploy"])
    page.run_transaction("Rollback", {"reboot": no})
    assert page.deployments()[0][0] != page.booted_id
    page.run_transaction("Cleanup", ["base", "repomd", "pending-deploy", "rollback-deploy"])
    assert [id for id, _ in page.deployments()] == [page.booted_id], page.deployments()


def main():
    page = Page()
    {"check": check, "change": change}[sys.argv[1]](page, *sys.argv[2:])
    page.bridge.end()
    print("cockpit:", sys.argv[1], "ok")


main()

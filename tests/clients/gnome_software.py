#!/usr/bin/env python3
"""The calls of GNOME Software's rpm-ostree plugin, in its order and with its GDBus proxies, on a booted system.

    gnome_software.py refresh NEW              looks for updates: version NEW must be known afterwards
    gnome_software.py layer PACKAGE FILE HANGS installs PACKAGE and the file, meets a busy service with HANGS, cancels, removes them again
    gnome_software.py upgrade NEW REF          downloads, then stages what is downloaded; then the next release, which is REF

What the plugin asserts on (it would abort) or takes for a failure ends this program with exit status 1."""
import os
import sys

from gi.repository import Gio, GLib

NAME = "org.projectatomic.rpmostree1"
BUSY = "org.gtk.GDBus.UnmappedGError.Quark._g_2dio_2derror_2dquark.Code26"
EMPTY_FLAGS = Gio.DBusProxyFlags.NONE


def proxy(path, interface):
    bus = Gio.bus_get_sync(Gio.BusType.SYSTEM)
    return Gio.DBusProxy.new_sync(bus, EMPTY_FLAGS, None, NAME, path, f"{NAME}.{interface}", None)


def call(target, method, signature="()", *arguments, files=None):
    """The reply, unpacked; a list of files goes along."""
    body = GLib.Variant(signature, arguments)
    if files is None:
        return target.call_sync(method, body, Gio.DBusCallFlags.NONE, 300000, None).unpack()
    reply, _ = target.call_with_unix_fd_list_sync(method, body, Gio.DBusCallFlags.NONE, 300000, files, None)
    return reply.unpack()


def properties(target):
    return {name: target.get_cached_property(name) for name in target.get_cached_property_names() or []}


def has_type(dictionary, key, wanted):
    """g_variant_dict_lookup with a type: NULL unless it is exactly this one."""
    value = GLib.VariantDict.new(dictionary).lookup_value(key, None)
    assert value is not None and value.get_type_string() == wanted, f"{key} is {value and value.get_type_string()}, not {wanted}"
    return value


def options(**given):
    """make_rpmostree_options_variant: always these eight."""
    keys = ("reboot", "allow-downgrade", "cache-only", "download-only", "skip-purge", "no-pull-base", "dry-run", "no-overrides")
    return {key: GLib.Variant("b", given.get(key.replace("-", "_"), False)) for key in keys}


class Plugin:
    def __init__(self):
        assert os.path.exists("/run/ostree-booted"), "the plugin is off"
        self.sysroot = proxy("/org/projectatomic/rpmostree1/Sysroot", "Sysroot")
        path = self.sysroot.get_cached_property("Booted").unpack()
        assert call(self.sysroot, "GetOS", "(s)", "") == (path,)
        self.os = proxy(path, "OS")
        call(self.sysroot, "RegisterClient", "(a{sv})", {"id": GLib.Variant("s", "gnome-software")})
        assert self.sysroot.get_cached_property("Path").unpack() == "/"

    def reload(self):
        call(self.sysroot, "Reload")
        # What was signalled before the reply is handled now.
        while GLib.MainContext.default().iteration(False):
            pass

    def default_deployment(self):
        """What the plugin asserts on."""
        self.reload()
        default = self.os.get_cached_property("DefaultDeployment")
        has_type(default, "packages", "as")
        has_type(default, "requested-local-packages", "as")
        has_type(default, "checksum", "s")
        has_type(default, "staged", "b")
        return default.unpack()

    def wait_for_idle(self):
        """The plugin waits for notify::active-transaction-path, and only for that."""
        loop = GLib.MainLoop()

        def changed(_proxy, changed_properties, _invalidated):
            if changed_properties.unpack().get("ActiveTransactionPath") == "":
                loop.quit()

        handler = self.sysroot.connect("g-properties-changed", changed)
        if self.sysroot.get_cached_property("ActiveTransactionPath").unpack() != "":
            GLib.timeout_add_seconds(120, lambda: sys.exit("ActiveTransactionPath did not become empty"))
            loop.run()
        self.sysroot.disconnect(handler)

    def response(self, address, cancel_on=None):
        """gs_rpmostree_transaction_get_response_sync."""
        peer = Gio.DBusConnection.new_for_address_sync(address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT, None, None)
        transaction = Gio.DBusProxy.new_sync(peer, EMPTY_FLAGS, None, None, "/", f"{NAME}.Transaction", None)
        assert transaction.get_cached_property("Title").unpack()
        loop, end, seen = GLib.MainLoop(), [], []

        def signal(_proxy, _sender, name, parameters):
            seen.append(name)
            if name == "PercentProgress":
                assert parameters.get_type_string() == "(su)"
            if name == cancel_on:
                transaction.call("Cancel", None, Gio.DBusCallFlags.NONE, -1, None, None)
            if name == "Finished":
                end.append(parameters.unpack())
                loop.quit()

        transaction.connect("g-signal", signal)
        transaction.connect("notify::g-name-owner", lambda *_: sys.exit("Daemon disappeared"))
        peer.connect("closed", lambda *_: None if end else sys.exit("closed before Finished"))
        call(transaction, "Start")
        loop.run()
        peer.close_sync(None)
        return end[0], seen

    def transaction(self, method, signature, *arguments, files=None):
        """A call, repeated while the service is busy, and its transaction to the end."""
        while True:
            self.wait_for_idle()
            try:
                address = call(self.os, method, signature, *arguments, files=files)[-1]
                break
            except GLib.Error as error:
                if Gio.DBusError.get_remote_error(error) != BUSY:
                    raise
                print("busy, again", flush=True)
        (success, message), _ = self.response(address)
        assert success, message

    def change(self, install=None, uninstall=None, local=None, **given):
        """rpmostree_update_deployment."""
        modifiers, files = {}, Gio.UnixFDList.new()
        if install:
            modifiers["install-packages"] = GLib.Variant("as", [install])
        if uninstall:
            modifiers["uninstall-packages"] = GLib.Variant("as", [uninstall])
        if local:
            with open(local, "rb") as file:
                modifiers["install-local-packages"] = GLib.Variant("ah", [files.append(file.fileno())])
        chosen = options(no_pull_base=True, **given)
        self.transaction("UpdateDeployment", "(a{sv}a{sv})", modifiers, chosen, files=files)

    def cached_update(self):
        """gs_plugin_add_updates: NULL for any of the four lists is a failure."""
        self.reload()
        update = self.os.get_cached_property("CachedUpdate")
        if not update.n_children():
            return None
        version = has_type(update, "version", "s").unpack()
        has_type(update, "checksum", "s")
        diff = has_type(update, "rpm-diff", "a{sv}")
        lists = {kind: has_type(diff, kind, "a(us(ss)(ss))").unpack() for kind in ("upgraded", "downgraded")}
        lists |= {kind: has_type(diff, kind, "a(usss)").unpack() for kind in ("removed", "added")}
        return version, lists

    def close(self):
        call(self.sysroot, "UnregisterClient", "(a{sv})", {})


def refresh(plugin, new):
    plugin.default_deployment()
    plugin.transaction("RefreshMd", "(a{sv})", {"force": GLib.Variant("b", False)})
    plugin.transaction("AutomaticUpdateTrigger", "(a{sv})", {"mode": GLib.Variant("s", "check")})
    version, lists = plugin.cached_update()
    assert version == new, version
    print("known:", version, {kind: [entry[1] for entry in entries] for kind, entries in lists.items()})
    assert any(entry[1] == "kit-base" for entry in lists["upgraded"]) and lists["added"] and lists["removed"], lists
    for repository in call(plugin.os, "ListRepos")[0]:
        assert {"id", "description", "is-enabled", "is-devel", "is-source"} <= set(repository), repository
    # Its dialog of sources: off and on again.
    source = call(plugin.os, "ListRepos")[0][0]["id"]
    for state in ("0", "1"):
        plugin.transaction("ModifyYumRepo", "(sa{ss})", source, {"enabled": state})
        states = {repository["id"]: repository["is-enabled"] for repository in call(plugin.os, "ListRepos")[0]}
        assert states[source] == (state == "1"), states


def layer(plugin, package, file, hangs):
    found = call(plugin.os, "GetPackages", "(as)", [package, "no-such-package"])[0]
    assert [entry["key"] for entry in found] == [package], found
    # An entry without one of these is left out.
    assert all(found[0].get(key) for key in ("key", "evr", "nevra", "reponame", "name", "summary")), found
    provides = call(plugin.os, "WhatProvides", "(as)", [package])[0]
    assert any(entry["name"] == package and entry["nevra"] for entry in provides), provides

    plugin.change(install=package)
    default = plugin.default_deployment()
    assert package in default["packages"] and default["staged"] and not default["booted"], default
    plugin.change(local=file)
    local = plugin.default_deployment()["requested-local-packages"]
    assert len(local) == 1, local
    name = local[0].rsplit("-", 1)[0]

    # Somebody else's transaction: busy under the name that the plugin waits for. Cancelled, it ends, and the next one works.
    other = Plugin()
    plugin.wait_for_idle()
    address = call(other.os, "UpdateDeployment", "(a{sv}a{sv})", {"install-packages": GLib.Variant("as", [hangs])},
                   options(no_pull_base=True))[0]
    try:
        call(plugin.os, "Upgrade", "(a{sv})", options())
        raise AssertionError("it is not busy")
    except GLib.Error as error:
        assert Gio.DBusError.get_remote_error(error) == BUSY, error
        assert error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.BUSY), "GLib does not know it as G_IO_ERROR_BUSY"
    (success, message), _ = other.response(address, cancel_on="TaskBegin")
    assert not success and message, message
    print("cancelled:", message)
    plugin.change(uninstall=package)
    plugin.change(uninstall=name)
    default = plugin.default_deployment()
    assert not default["packages"] or package not in default["packages"], default
    plugin.transaction("Cleanup", "(as)", ["pending-deploy"])
    assert plugin.default_deployment()["booted"]


def upgrade(plugin, new, reference):
    plugin.transaction("Upgrade", "(a{sv})", options(download_only=True))
    assert plugin.default_deployment()["booted"]
    plugin.transaction("Upgrade", "(a{sv})", options(cache_only=True))
    default = plugin.default_deployment()
    assert default["staged"] and default.get("base-version", default.get("version")) == new, default
    plugin.transaction("Cleanup", "(as)", ["pending-deploy"])
    # The next release: downloaded, then put in place without the network.
    for given in ({"download_only": True}, {"cache_only": True}):
        plugin.transaction("Rebase", "(a{sv}sas)", options(allow_downgrade=True, **given), reference, [])
    default = plugin.default_deployment()
    assert default["origin"] == reference and default["staged"], default
    plugin.transaction("Cleanup", "(as)", ["pending-deploy"])


def main():
    plugin = Plugin()
    {"refresh": refresh, "layer": layer, "upgrade": upgrade}[sys.argv[1]](plugin, *sys.argv[2:])
    plugin.wait_for_idle()
    plugin.close()
    print("gnome-software:", sys.argv[1], "ok")


main()

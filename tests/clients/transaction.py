#!/usr/bin/env python3
"""Connects to a transaction as GNOME Software and cockpit do (GDBus, peer to peer, object /), and prints what it is told.

    transaction.py ADDRESS start|twice|cancel|watch|title|hold
    transaction.py BUS start|hold METHOD SIGNATURE ARGUMENTS [FILE...]

The second form first calls a method of the OS object (GVariant text; files are the handles 0, 1, ...) and prints the address that it answers.

start   calls Start, then prints every signal until Finished
twice   calls Start twice, then as start
cancel  calls Cancel and waits for Finished
watch   calls Start although somebody else did, prints every signal until Finished
title   prints the properties
hold    connects, says so, and never reads again until its stdin ends

One line each: `start true`, `SIGNAL {json arguments}`, `closed`. Exit status 0 when Finished said success, 1 when it did not, 2 when the
connection was closed before."""
import json
import sys

from gi.repository import Gio, GLib

NAME = "org.projectatomic.rpmostree1.Transaction"
OS = "org.projectatomic.rpmostree1.OS"
address, action = sys.argv[1:3]
if len(sys.argv) > 3:
    method, signature, text = sys.argv[3:6]
    opened = [open(path, "rb") for path in sys.argv[6:]]
    files = Gio.UnixFDList.new()
    for file in opened:
        files.append(file.fileno())
    bus = Gio.DBusConnection.new_for_address_sync(
        address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION, None, None)
    arguments = GLib.Variant.parse(GLib.VariantType(signature), text, None, None)
    try:
        reply, _ = bus.call_with_unix_fd_list_sync(
            "org.projectatomic.rpmostree1", "/org/projectatomic/rpmostree1/debian", OS, method, arguments, None,
            Gio.DBusCallFlags.NONE, 60000, files, None)
    except GLib.Error as error:
        print("refused", Gio.DBusError.get_remote_error(error), error.message, flush=True)
        sys.exit(3)
    address = reply.unpack()[-1]
    print("address", address, flush=True)
connection = Gio.DBusConnection.new_for_address_sync(
    address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT, None, None)
loop = GLib.MainLoop()
status = 2


def say(*words):
    print(*words, flush=True)


def on_signal(_connection, _sender, _path, _interface, member, arguments):
    global status
    say(member, json.dumps(arguments.unpack()))
    if member == "Finished":
        status = 0 if arguments.unpack()[0] else 1
        loop.quit()


def on_closed(*_):
    say("closed")
    loop.quit()


def call(interface, method, arguments=None):
    return connection.call_sync(None, "/", interface, method, arguments, None, Gio.DBusCallFlags.NONE, 60000, None)


connection.signal_subscribe(None, NAME, None, "/", None, Gio.DBusSignalFlags.NONE, on_signal)
connection.connect("closed", on_closed)
if action == "title":
    reply = call("org.freedesktop.DBus.Properties", "GetAll", GLib.Variant("(s)", (NAME,)))
    say(json.dumps(reply.unpack()[0]))
    sys.exit(0)
if action == "hold":
    say("connected")
    sys.stdin.read()
    sys.exit(0)
if action == "cancel":
    try:
        call(NAME, "Cancel")
        say("cancel sent")
    except GLib.Error as error:
        say("refused", error.message)
        sys.exit(3)
else:
    say("start", json.dumps(call(NAME, "Start").unpack()[0]))
    if action == "twice":
        say("start again", json.dumps(call(NAME, "Start").unpack()[0]))
loop.run()
sys.exit(status)

#!/usr/bin/env python3
"""Does to the service what no honest client does, and tells what became of it.

    hostile.py bus BUS      messages that are too large or odd; then an ordinary call, which must be answered
    hostile.py peer SOCKET  broken handshakes, 100 connections that do nothing, messages without end; says `ready N` with the number of
                            those that were let in, keeps one that never calls anything, and says `closed` when it is closed
    hostile.py polkit BUS   is polkit, and never answers
    hostile.py calls BUS    large calls that wait for that; says how many were refused and how
    hostile.py files BUS    open files that take long to close, where whoever closes them waits for that
    hostile.py held BUS     files in calls that wait for polkit; says how the one is refused that brings too many
    hostile.py rights SOCKET  the same to a transaction: with a handshake, unread after it, and on connections that are not let in"""
import array
import os
import socket
import struct
import sys
import time

from gi.repository import Gio, GLib

NAME = "org.projectatomic.rpmostree1"
SYSROOT = "/org/projectatomic/rpmostree1/Sysroot"
what, address = sys.argv[1:3]


def say(*words):
    print(*words, flush=True)


def bus():
    connection = Gio.DBusConnection.new_for_address_sync(
        address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION, None, None)

    def message(method, arguments):
        message = Gio.DBusMessage.new_method_call(NAME, SYSROOT, NAME + ".Sysroot", method)
        message.set_body(arguments)
        return message

    large = GLib.Variant("a{sv}", {"id": GLib.Variant.new_from_bytes(
        GLib.VariantType("ay"), GLib.Bytes.new(bytes(20 << 20)), True)})
    for _ in range(10):
        unanswered = message("UnregisterClient", GLib.Variant.new_tuple(large))
        unanswered.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
        connection.send_message(unanswered, Gio.DBusSendMessageFlags.NONE)
    connection.flush_sync(None)
    # A flag that nobody has defined.
    odd = message("GetOS", GLib.Variant("(s)", ("debian",)))
    odd.set_flags(Gio.DBusMessageFlags(0x80))
    reply, _ = connection.send_message_with_reply_sync(odd, Gio.DBusSendMessageFlags.NONE, 60000, None)
    say(reply.get_body().print_(False))
    reply = connection.call_sync(NAME, SYSROOT, NAME + ".Sysroot", "GetOS", GLib.Variant("(s)", ("debian",)), None,
                                 Gio.DBusCallFlags.NONE, 60000, None)
    say(reply.print_(False))


def connect():
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(20)
    peer.connect(address)
    return peer


def ended(peer):
    """Reads until the other side closes."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionError:
        pass
    peer.close()


def shake(peer):
    peer.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
    answer = peer.recv(1000)
    if not answer.startswith(b"OK"):
        raise SystemExit(f"handshake: {answer}")
    peer.sendall(b"BEGIN\r\n")
    return peer


def peers():
    for start in [b"\n", b"\0\n", b"\0AUTH EXTERNAL 30\r\n\n", b"garbage\r\n", os.urandom(4096), b"\0" + b"x" * 100000]:
        for _ in range(10):
            peer = connect()
            try:
                peer.sendall(start)
            except ConnectionError:
                pass
            ended(peer)
    # A message that says it is 100 MB, with an open file; and calls without end, whose answers nobody reads.
    peer = shake(connect())
    header = b"l\1\0\1" + (100 << 20).to_bytes(4, "little") + b"\1\0\0\0" + b"\0\0\0\0"
    with open("/dev/null", "rb") as file:
        peer.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])
    ended(peer)
    peer = shake(connect())
    call = Gio.DBusMessage.new_method_call(None, "/", "org.freedesktop.DBus.Introspectable", "Introspect")
    call.set_serial(1)
    blob = bytes(call.to_blob(Gio.DBusCapabilityFlags.NONE))
    try:
        for _ in range(100000):
            peer.sendall(blob)
    except (ConnectionError, TimeoutError):
        pass
    ended(peer)
    kept = shake(connect())
    idle = [connect() for _ in range(100)]
    count = 0
    for peer in idle:
        peer.settimeout(0.1)
        try:
            count += peer.recv(1) != b""
        except TimeoutError:
            count += 1
        except ConnectionError:
            pass
    say("ready", count)
    kept.settimeout(None)
    ended(kept)
    say("closed")


def message_bus():
    return Gio.DBusConnection.new_for_address_sync(
        address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION, None, None)


POLKIT = """<node><interface name="org.freedesktop.PolicyKit1.Authority"><method name="CheckAuthorization">
<arg type="(sa{sv})" direction="in"/><arg type="s" direction="in"/><arg type="a{ss}" direction="in"/><arg type="u" direction="in"/>
<arg type="s" direction="in"/><arg type="(bba{ss})" direction="out"/></method><method name="CancelCheckAuthorization">
<arg type="s" direction="in"/></method></interface></node>"""


def polkit():
    """A polkit whose dialogs nobody answers; says what it is asked, and what is taken back."""
    connection, asked = message_bus(), {}

    def on_call(_connection, _sender, _path, _interface, method, arguments, invocation):
        if method == "CancelCheckAuthorization":
            say("taken back")
            asked.pop(arguments.unpack()[0]).return_dbus_error("org.freedesktop.PolicyKit1.Error.Cancelled", "cancelled")
            invocation.return_value(None)
        else:
            asked[arguments.unpack()[4]] = invocation
            say("asked")

    interface = Gio.DBusNodeInfo.new_for_xml(POLKIT).interfaces[0]
    connection.register_object("/org/freedesktop/PolicyKit1/Authority", interface, on_call, None, None)
    Gio.bus_own_name_on_connection(connection, "org.freedesktop.PolicyKit1", Gio.BusNameOwnerFlags.NONE,
                                   lambda *_: say("ready"), None)
    GLib.MainLoop().run()


def calls():
    """40 calls at once, each with as much as a message may have in it; stays until its stdin ends."""
    connection, loop, refused = message_bus(), GLib.MainLoop(), []
    junk = GLib.Variant.new_from_bytes(GLib.VariantType("ay"), GLib.Bytes.new(bytes(250 << 10)), True)
    arguments = GLib.Variant("(a{sv}asas)", ({"junk": junk}, ["kit-one"], []))

    def answered(connection, result):
        try:
            connection.call_finish(result)
            raise SystemExit("a call was allowed")
        except GLib.Error as error:
            refused.append(Gio.DBusError.get_remote_error(error))
        if len(refused) == 24:
            loop.quit()

    for _ in range(40):
        connection.call(NAME, "/org/projectatomic/rpmostree1/debian", NAME + ".OS", "PkgChange", arguments, None,
                        Gio.DBusCallFlags.NONE, GLib.MAXINT, None, answered)
    loop.run()
    say(len(refused), *set(refused))
    sys.stdin.read()


def is_open(file):
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == file:
                return True
        except FileNotFoundError:
            pass
    return False


def lingering(server, unread):
    """A connection that takes five minutes to close, as nobody reads what it has sent."""
    sender = socket.create_connection(server.getsockname())
    unread.append(server.accept()[0])
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(65536))
    except BlockingIOError:
        pass
    sender.setblocking(True)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 300))
    return sender


def give_away(sender):
    """Whoever closes it last waits; this is not to be it."""
    file = os.readlink(f"/proc/self/fd/{sender.fileno()}")
    sender.close()
    while is_open(file):
        time.sleep(0.01)


def files():
    """Passes them in calls; stays until its stdin ends."""
    connection, server, unread = message_bus(), socket.create_server(("127.0.0.1", 0)), []
    for method in ["Execute", "Nothing"]:
        sender = lingering(server, unread)
        passed = Gio.UnixFDList.new()
        request = '{"sysroot":"/","stateroot":null,"verb":"pkg-change","changes":{"install_local":["a.deb"]}}'
        call = Gio.DBusMessage.new_method_call(NAME, SYSROOT, "org.debian.aptostree1.Manager", method)
        call.set_body(GLib.Variant("(sah)", (request, [passed.append(sender.fileno())])))
        call.set_unix_fd_list(passed)
        call.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
        connection.send_message(call, Gio.DBusSendMessageFlags.NONE)
        connection.flush_sync(None)
        del call, passed
        give_away(sender)
    say("passed")
    sys.stdin.read()


def held():
    """64 files in each of five calls; stays until its stdin ends."""
    connection, loop = message_bus(), GLib.MainLoop()
    names = ",".join(f'"{number}.deb"' for number in range(64))
    request = f'{{"sysroot":"/","stateroot":null,"verb":"pkg-change","changes":{{"install_local":[{names}]}}}}'

    def answered(connection, result):
        try:
            connection.call_with_unix_fd_list_finish(result)
            raise SystemExit("a call was allowed")
        except GLib.Error as error:
            say(error.message)
        loop.quit()

    for _ in range(5):
        passed = Gio.UnixFDList.new()
        with open("/dev/null", "rb") as file:
            handles = [passed.append(file.fileno()) for _ in range(64)]
        connection.call_with_unix_fd_list(
            NAME, SYSROOT, "org.debian.aptostree1.Manager", "Execute", GLib.Variant("(sah)", (request, handles)), None,
            Gio.DBusCallFlags.NONE, GLib.MAXINT, passed, None, answered)
    loop.run()
    sys.stdin.read()


def rights():
    """Says `passed` when they are on their way, with the service stopped until then; stays until its stdin ends."""
    server, unread, peers = socket.create_server(("127.0.0.1", 0)), [], []

    def send(peer, first):
        for data in first:
            sender = lingering(server, unread)
            peer.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sender.fileno()]))])
            give_away(sender)
        peers.append(peer)

    for first in [[b"\0"], [b"\0AUTH EXTERNAL 30\r\n", b"x"], [b"x", b"x"]]:
        send(connect(), first)
    # More than one user may have.
    for _ in range(4):
        send(connect(), [b"\0"])
    say("passed")
    sys.stdin.read()


{"bus": bus, "peer": peers, "polkit": polkit, "calls": calls, "files": files, "held": held, "rights": rights}[what]()

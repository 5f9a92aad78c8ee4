#!/bin/sh
# What tests/bench measures inside a started system: `NAME FIGURE` lines, in seconds and KiB. $RUNS times.
set -eu
runs=${RUNS:-5}
now() { date +%s.%N; }
since() { echo "$1 $2 $(now)" | awk '{ printf "%s %.4f\n", $1, $3 - $2 }'; }
service=org.projectatomic.rpmostree1
look() { busctl get-property $service /org/projectatomic/rpmostree1/Sysroot $service.Sysroot Path > /dev/null; }

for _ in $(seq "$runs"); do
  systemctl stop apt-ostreed
  begun=$(now); apt-ostree status > /dev/null; since cold "$begun"
  begun=$(now); look; since start "$begun"
  # Twenty at a time: one is a few milliseconds.
  begun=$(now); for _ in $(seq 20); do apt-ostree status > /dev/null; done; since bus "$begun"
  begun=$(now); for _ in $(seq 20); do apt-ostree --sysroot=/ status > /dev/null; done; since direct "$begun"
done
# As it waits: after a client has come, has read everything, and has gone.
busctl call $service /org/projectatomic/rpmostree1 org.freedesktop.DBus.ObjectManager GetManagedObjects > /dev/null
sleep 2
sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/resident \1/p' "/proc/$(systemctl show -P MainPID apt-ostreed)/status"
echo "exposure $(systemd-analyze security --no-pager apt-ostreed | tail -n 1)"

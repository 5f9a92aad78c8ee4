#!/usr/bin/env bash
# Start the default deployment of an OSTree sysroot in systemd-nspawn, as ostree-prepare-root would have set it up, run
# a command in it once it is up, show the command's output, and power it off. About two seconds.
#
#   tests/boot/nspawn.sh SYSROOT [COMMAND]     COMMAND: for sh -c; default lists failed units
#
# APT_OSTREE=FILE   the program apt-ostree to try inside, as the image does not have it yet: bound into
#                   /run/apt-ostree-test, which comes first in COMMAND's PATH
# BIND=DIR[:DIR...] directories that are seen inside at the same path, read-only and without what is mounted below them
# WORK=DIR          keep what the run is made of there (it must be empty): console, out/output (what COMMAND prints, while
#                   it prints it), out/status (once it has ended); otherwise a temporary directory
# TIMEOUT=SECONDS   for all of it, 120 if unset
#
# Exit status: that of COMMAND; 133 when the system restarted before COMMAND had ended, with what that has printed and the
# console: as with a reset that ends QEMU, the next call is the next start; 124 when the system was not up and done in time,
# its console and the end of its journal are shown then.
# The sysroot is written to, as by any start: /var, and /etc of the deployment; what COMMAND stages is finalized when the
# system goes down, and the next call starts it. Needs root; mounts happen in a mount namespace of its own, and the
# network is a loopback only. Not covered: initramfs, boot loader, kernel arguments (see qemu.sh).
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,22s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "error: this mounts file systems: run it as root" >&2; exit 1; }
if [ -z "${APT_OSTREE_NSPAWN:-}" ]; then
  exec env APT_OSTREE_NSPAWN=1 unshare --mount --propagation private -- bash "$0" "$@"
fi
# One at a time: without a manager to ask for a scope, containers share a control group.
exec 9> "${TMPDIR:-/tmp}/apt-ostree-nspawn.lock"
flock 9

sysroot=$(readlink -f "$1")
command=${2:-systemctl --failed --no-legend --plain}
if [ -n "${WORK:-}" ]; then
  work=$WORK
  trap 'umount -R "$work/root" 2>/dev/null || true' EXIT
else
  work=$(mktemp -d)
  trap 'umount -R "$work/root" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
fi
mkdir "$work/root" "$work/out" "$work/in"
: > "$work/booted"

# The entry with the highest number is the one a boot loader takes (libostree names them ostree-N.conf).
entry=$(find "$sysroot/boot/loader/entries/" -name '*.conf' | sort -V | tail -n 1)
[ -n "$entry" ] || { echo "error: $sysroot has no boot entry: nothing is deployed" >&2; exit 1; }
karg=$(sed -n 's/^options.*\(ostree=[^ ]*\).*/\1/p' "$entry")
deployment=$(readlink -f "$sysroot${karg#ostree=}")
stateroot=${deployment%/deploy/*}

# What ostree-prepare-root does in the initramfs (libostree, switchroot).
mount --bind "$deployment" "$work/root"
mount --bind "$deployment/usr" "$work/root/usr"
mount -o remount,bind,ro "$work/root/usr"
mount --rbind "$sysroot" "$work/root/sysroot"
mount --bind "$stateroot/var" "$work/root/var"
mount --bind "$sysroot/boot" "$work/root/boot"

bind=()
if [ -n "${APT_OSTREE:-}" ]; then
  : > "$work/in/apt-ostree"
  bind=("--bind-ro=$(readlink -f "$APT_OSTREE"):/run/apt-ostree-test/apt-ostree")
fi
IFS=: read -r -a shared <<< "${BIND:-}"
for dir in "${shared[@]}"; do bind+=("--bind-ro=$dir:$dir:norbind"); done

# The command runs in a unit of /run, when all that multi-user.target wants has been started.
printf '%s\n' "$command" > "$work/in/command"
cat > "$work/run.service" <<'EOT'
[Unit]
Description=Command of the boot test
[Service]
# simple: a start job that does not end would keep the system from being up.
Type=simple
Environment=PATH=/run/apt-ostree-test:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
ExecStart=/bin/sh -c 'systemctl is-system-running --wait >/dev/null; sh /run/apt-ostree-test/command > /run/host/apt-ostree-out/output 2>&1; echo $? > /run/host/apt-ostree-out/status'
ExecStopPost=/usr/bin/systemctl --no-block poweroff
EOT

ended=0
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout --kill-after=10 "${TIMEOUT:-120}" \
  systemd-nspawn --boot --quiet --register=no --keep-unit --private-network --link-journal=no --directory="$work/root" --machine=boot-test \
  --bind="$work/booted:/run/ostree-booted" --bind="$work/out:/run/host/apt-ostree-out" \
  --bind-ro="$work/in:/run/apt-ostree-test" "${bind[@]}" \
  --bind-ro="$work/run.service:/run/systemd/system/apt-ostree-boot-test.service" \
  "$karg" rw systemd.wants=apt-ostree-boot-test.service </dev/null > "$work/console" 2>&1 || ended=$?
if [ -s "$work/out/status" ]; then
  cat "$work/out/output"
  exit "$(cat "$work/out/status")"
fi
# With --keep-unit nspawn starts nothing again itself: it leaves with this status (RestartForceExitStatus= of its unit).
if [ "$ended" = 133 ]; then
  if [ -e "$work/out/output" ]; then cat "$work/out/output"; fi
  cat "$work/console" >&2
  exit 133
fi
echo "error: the system did not come up, or the command did not end; its console:" >&2
cat "$work/out/output" "$work/console" >&2 || true
journalctl --directory="$stateroot/var/log/journal" --quiet --no-pager --lines=60 >&2 || true
exit 124

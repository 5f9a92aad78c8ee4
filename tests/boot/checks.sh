#!/bin/sh
# What has to hold in a booted deployment, for COMMAND of nspawn.sh and qemu.sh:
#
#   tests/boot/qemu.sh SYSROOT "LAYERED=htop USERS=sshd; $(cat tests/boot/checks.sh)"
#
# LAYERED  a layered package with a program of its name that knows --version
# USERS    accounts that have to be there
#
# One line for each: "ok NAME", or "FAIL NAME" and what the check said. Exit status 0 when nothing failed.
# Runs inside, with what the minimal image has: dash, coreutils, grep, sed; no jq.
#
# The functions are reached through check:
# shellcheck disable=SC2317

: "${LAYERED=}" "${USERS=sshd messagebus}"
failed=0
check() {
  name=$1
  shift
  if said=$("$@" 2>&1); then
    echo "ok $name"
  else
    echo "FAIL $name: $* (status $?)"
    printf '%s\n' "$said" | sed 's/^/  /'
    failed=$((failed + 1))
  fi
}
container() { systemd-detect-virt --quiet --container; }
# The checksum of the booted deployment by libostree.
booted() { ostree admin status | sed -n 's/^\* [^ ]* \([0-9a-f]*\)\.[0-9]*.*/\1/p'; }
nothing() { said=$("$@" 2>&1) || return; [ -z "$said" ] || { printf '%s\n' "$said"; return 1; }; }
refused() { # MESSAGE COMMAND...
  message=$1
  shift
  if said=$(LC_ALL=C "$@" 2>&1); then echo "it was allowed"; return 1; fi
  case $said in *"$message"*) ;; *) echo "$said"; return 1 ;; esac
}
has() { # TEXT COMMAND...
  text=$1
  shift
  said=$("$@" 2>&1) || { echo "$said"; return 1; }
  case $said in *"$text"*) ;; *) echo "no '$text' in: $said"; return 1 ;; esac
}

check state has running systemctl is-system-running
check multi-user systemctl is-active multi-user.target
check no-failed-unit nothing systemctl --failed --no-legend --plain
check not-a-first-boot test ! -e /run/systemd/first-boot

# The deployment
path=$(sed -n 's/.*\(ostree=[^ ]*\).*/\1/p' /proc/cmdline)
container || check booted-the-entry test "$(readlink -f "/sysroot${path#ostree=}" | sed 's,.*/,,; s/\.[0-9]*$//')" = "$(booted)"
check ostree-admin-status test -n "$(booted)"
check apt-ostree-status has '●' apt-ostree status
check apt-ostree-status-booted has "$(booted)" apt-ostree status --booted --json
check apt-ostree-db-list has "dpkg" apt-ostree db list "$(booted)" 'dpkg*'
if [ -n "$LAYERED" ]; then
  check layered-status has "$LAYERED" apt-ostree status --booted
  check layered-db has "$LAYERED" apt-ostree db list "$(booted)" "$LAYERED*"
  check layered-dpkg has 'install ok installed' dpkg -s "$LAYERED"
  check layered-program "$LAYERED" --version
fi

# Packages
packages() { [ "$(dpkg -l | grep -c '^ii')" -gt 150 ]; }
check dpkg-l packages
check dpkg-audit nothing dpkg --audit
check apt-cache has Installed: apt-cache policy dpkg

# What is writable
writable() { for d; do : > "$d/boot-test" && rm "$d/boot-test" || return; done; }
check usr-read-only refused 'Read-only file system' touch /usr/boot-test
container || check root-immutable refused 'Operation not permitted' touch /boot-test
container || check sysroot-read-only refused 'Read-only file system' touch /sysroot/boot-test
check writable writable /etc /var /var/lib /var/tmp /tmp /run /root /home /srv /opt /usr/local /boot
open_to_all() { for d in /opt /usr/local /home /srv /usr /etc /var; do
  [ "$(stat -Lc %A "$d" | cut -c 8-10)" = r-x ] || { stat -Lc '%A %n' "$d"; return 1; }
done; }
check open-to-all open_to_all
check tmp has 1777 stat -c %a /tmp

# /var, which came empty
check var-dpkg test "$(readlink -f /var/lib/dpkg)" = /usr/lib/sysimage/dpkg
check var-journal ls "/var/log/journal/$(cat /etc/machine-id)/system.journal"
check var-home has '755 root' stat -c '%a %U' /var/home
check var-roothome has '700 root' stat -c '%a %U' /var/roothome

# What every machine has of its own
check machine-id grep -Eqx '[0-9a-f]{32}' /etc/machine-id
check machine-id-kept refused '' mountpoint -q /etc/machine-id
host_keys() { for t in rsa ecdsa ed25519; do [ "$(stat -c '%a %U' "/etc/ssh/ssh_host_${t}_key")" = '600 root' ] || return; done; }
check ssh-host-keys host_keys
check ssh-answers has ssh-ed25519 ssh-keyscan -T 20 -t ed25519 127.0.0.1

# Accounts
for user in $USERS; do
  check "user-$user" getent passwd "$user"
  check "user-$user-shadow" getent shadow "$user"
done
check owners-resolve nothing find / /usr /etc /var -xdev \( -path /sysroot -o -path /run -o -path /proc -o -path /sys -o -path /dev \) -prune \
  -o \( -nouser -o -nogroup \) -print
check resolv-conf test -e /etc/resolv.conf

echo "# $(systemd-analyze time | head -n 1)"
journalctl --boot --priority=warning --quiet --no-pager --output=short-monotonic _TRANSPORT=journal + _TRANSPORT=syslog + _TRANSPORT=stdout | sed 's/^/# /'
[ "$failed" = 0 ] && echo "all held"
exit "$((failed > 0))"

#!/usr/bin/env bash
# Start the default deployment of an OSTree sysroot as a machine of its own in QEMU, with the kernel, the initramfs and
# the kernel arguments of its boot entry; run a command in it once it is up, show the command's output, and power it
# off. About a minute without KVM. What nspawn.sh does not see is here: initramfs, ostree-prepare-root, kernel
# arguments, machine-id. Not covered: firmware and boot loader.
#
#   tests/boot/qemu.sh SYSROOT [COMMAND]       COMMAND: for sh -c; default lists failed units
#
# APT_OSTREE=FILE   the program apt-ostree to try inside, as the image does not have it yet: on a second disk, mounted
#                   at /run/apt-ostree-test, which comes first in COMMAND's PATH
# TIMEOUT=SECONDS   for the machine, 300 if unset
# ACCEL=kvm         where KVM is known to work; emulated if unset, as /dev/kvm may be there and not work
# MEMORY=MIB        of the machine, 2048 if unset
# LOG=FILE          keep the log of the serial line there; otherwise it is kept only on failure, and the path is named
#
# Exit status: that of COMMAND; 124 when the system was not up and done in time, the end of the log is shown then.
# SYSROOT is only read: it is copied into a disk image with one ext4 file system, whose UUID is the one that the boot
# entry's root=UUID= asks for. Needs root (to read every file), but neither mounts nor loop devices.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "error: the files of a system can only be copied by root" >&2; exit 1; }
sysroot=$(readlink -f "$1")
command=${2:-systemctl --failed --no-legend --plain}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=${LOG:-$work/console}

# The entry with the highest number is the one a boot loader takes (libostree names them ostree-N.conf).
entry=$(find "$sysroot/boot/loader/entries/" -name '*.conf' | sort -V | tail -n 1)
[ -n "$entry" ] || { echo "error: $sysroot has no boot entry: nothing is deployed" >&2; exit 1; }
field() { sed -n "s/^$1[[:space:]]*//p" "$entry"; }
# Paths of an entry are relative to the file system with /boot, or to / with sysroot.bootprefix.
file() { if [ -e "$sysroot/boot$1" ]; then echo "$sysroot/boot$1"; else echo "$sysroot$1"; fi; }
kernel=$(file "$(field linux)")
# A second initrd line has the files that `initramfs-etc` tracks; a boot loader loads all, each at a multiple of four.
initrd=$work/initrd
while read -r path; do
  cat "$(file "$path")" >> "$initrd"
  truncate -s %4 "$initrd"
done < <(field initrd)
options=$(field options)
case " $options " in
  *' root=UUID='*) uuid=${options##*root=UUID=} uuid=${uuid%% *} ;;
  *) uuid=$(cat /proc/sys/kernel/random/uuid) options="$options root=UUID=$uuid" ;;
esac

# mkfs.ext4 -d keeps owners, modes, extended attributes, times and hard links, and makes a sparse file.
image=$work/disk.img
truncate -s "$(($(du -sm --one-file-system "$sysroot" | cut -f 1) * 5 / 4 + 1024))M" "$image"
mkfs.ext4 -q -U "$uuid" -L root -d "$sysroot" "$image" > "$work/mkfs" 2>&1 || { cat "$work/mkfs" >&2; exit 1; }
# It does not keep the immutable bit of a deployment's root (4th bit; the other is "extents").
for root in "$sysroot"/ostree/deploy/*/deploy/*/; do
  echo "set_inode_field ${root#"$sysroot"} flags 0x80010"
done | debugfs -w -f - "$image" > "$work/debugfs" 2>&1

# The second disk: the command, and the program to try.
mkdir "$work/in"
printf '%s\n' "$command" > "$work/in/command"
[ -z "${APT_OSTREE:-}" ] || install -m 755 "$APT_OSTREE" "$work/in/apt-ostree"
truncate -s "$(($(du -sm "$work/in" | cut -f 1) * 5 / 4 + 16))M" "$work/in.img"
mkfs.ext4 -q -O ^has_journal -d "$work/in" "$work/in.img"

# The command runs in a unit that comes as a credential on the kernel's command line, when all that multi-user.target
# wants has been started. It talks on a second serial line, where no getty and no kernel message is.
unit=$(base64 -w 0 <<'EOT'
[Unit]
Description=Command of the boot test
[Service]
Environment=PATH=/run/apt-ostree-test:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
ExecStart=sh -c 'systemctl is-system-running --wait;cd /run;mkdir apt-ostree-test;mount -r /dev/vdb apt-ostree-test;{ sh apt-ostree-test/command 2>&1;echo "status $?"; }|cat >/dev/ttyS1'
ExecStopPost=systemctl --no-block poweroff
EOT
)
append="$options systemd.wants=apt-ostree-boot-test.service"
append+=" systemd.set_credential_binary=systemd.extra-unit.apt-ostree-boot-test.service:$unit"
[ ${#append} -lt 2048 ] || { echo "error: the kernel arguments are longer than the kernel takes" >&2; exit 1; }

# Without svm: the kernel turns it on when it loads kvm_amd, and an emulated CPU then loses its timer interrupts.
cpu=(-accel "tcg,thread=multi" -cpu "qemu64,-svm")
[ "${ACCEL:-tcg}" = tcg ] || cpu=(-accel "$ACCEL" -cpu host)
# -no-reboot: a panic (with panic=1), or a reset, ends the machine instead of starting it again.
timeout --kill-after=10 "${TIMEOUT:-300}" \
  qemu-system-x86_64 -machine q35 "${cpu[@]}" -smp 2 -m "${MEMORY:-2048}" -no-reboot \
  -vga none -display none -monitor none -nic user,restrict=on,model=virtio-net-pci \
  -kernel "$kernel" -initrd "$initrd" -append "$append panic=1" \
  -drive "if=virtio,format=raw,file=$image,cache=unsafe" \
  -drive "if=virtio,format=raw,file=$work/in.img,readonly=on" \
  -serial "file:$log" -serial "file:$work/output" </dev/null > "$work/qemu" 2>&1 || true

# Lines of a serial line end in CR LF.
tr -d '\r' < "$work/output" > "$work/text" || true
status=$(sed -n '$s/^status \([0-9]*\)$/\1/p' "$work/text")
sed '${/^status [0-9]*$/d}' "$work/text"
[ "$status" = 0 ] && exit 0
kept=$log
[ -n "${LOG:-}" ] || { kept=$(mktemp --suffix=.log) && cp "$log" "$kept"; }
[ -z "$status" ] || { echo "error: the command ended with status $status; log of the serial line: $kept" >&2; exit "$status"; }
echo "error: the system did not come up, or the command did not end; the end of the serial line, whole in $kept:" >&2
cat "$work/qemu" >&2
tail -n 60 "$log" >&2
exit 124

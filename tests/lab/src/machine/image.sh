#!/bin/sh
# Makes of a Debian root what a machine boots from: $OUT/vmlinux, $OUT/initrd, $OUT/disk.img.
# Input: ROOT (a directory, changed by this), OUT (a directory), INIT (the initrd's first program).
set -eu
version=$(ls "$ROOT/lib/modules")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# qemu starts an uncompressed kernel directly; the kernel's own decompressor is slow under emulation.
unpack_kernel() {
  for form in '\x28\xb5\x2f\xfd zstd' '\x02\x21\x4c\x18 lz4' '\xfd7zXZ\x00 xz' '\x1f\x8b\x08 gzip'; do
    for at in $(LC_ALL=C grep -aboP "${form% *}" "$1" | cut -d: -f1); do
      tail -c "+$((at + 1))" "$1" | "${form#* }" -dqc >"$2" 2>/dev/null || :
      if [ "$(head -c 4 "$2" | tail -c 3)" = ELF ]; then return; fi
    done
  done
  echo "no kernel found in $1" >&2
  return 1
}

# Only the modules that a root disk with this file system needs, in the order in which they load.
add_modules() {
  for module in virtio_pci virtio_blk "$1"; do
    chroot "$ROOT" modprobe -S "$version" --show-depends "$module"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
    name=$(basename "${path%.xz}")
    case $path in
    *.xz) xz -dc "$ROOT$path" >"$work/modules/$name" ;;
    *) cp "$ROOT$path" "$work/modules/$name" ;;
    esac
    echo "$name" >>"$work/modules/for-$1"
  done
}

make_initrd() {
  mkdir -p "$work/bin" "$work/dev" "$work/proc" "$work/new" "$work/modules"
  cp "$ROOT/bin/busybox" "$work/bin/busybox"
  printf '%s' "$INIT" >"$work/init"
  chmod 755 "$work/init"
  add_modules ext4
  add_modules xfs
  (cd "$work" && find . | cpio -o -H newc --quiet) >"$1"
}

# Units that cost a machine seconds of emulated time and that no test needs.
quiet_root() {
  rm -rf "$ROOT"/boot/*
  echo '/dev/vda / ext4 defaults 0 1' >"$ROOT/etc/fstab"
  echo machine >"$ROOT/etc/hostname"
  touch "$ROOT/etc/.updated" "$ROOT/var/.updated"
  for unit in e2scrub_all.timer e2scrub_reap.service xfs_scrub_all.timer fstrim.timer apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer modprobe@drm.service modprobe@efi_pstore.service \
    getty@tty1.service serial-getty@ttyS0.service systemd-timesyncd.service systemd-networkd.service \
    mdcheck_start.timer mdcheck_continue.timer mdmonitor-oneshot.timer; do
    ln -sf /dev/null "$ROOT/etc/systemd/system/$unit"
  done
  cat >"$ROOT/etc/systemd/system/lab-address.service" <<'UNIT'
[Unit]
Description=The address that the lab gave on the kernel's command line
DefaultDependencies=no
ConditionKernelCommandLine=lab.address

[Service]
Type=oneshot
ExecStart=sh -c 'a=$(sed "s/.*lab.address=\\([^ ]*\\).*/\\1/" /proc/cmdline); ip link set lo up; ip addr replace $a dev eth0; ip link set eth0 up'
UNIT
  # Started by its device: a machine without a network must not wait for one.
  echo 'SUBSYSTEM=="net", KERNEL=="eth0", TAG+="systemd", ENV{SYSTEMD_WANTS}+="lab-address.service"' \
    >"$ROOT/etc/udev/rules.d/90-lab.rules"
}

unpack_kernel "$ROOT/boot/vmlinuz-$version" "$OUT/vmlinux"
make_initrd "$OUT/initrd"
quiet_root
truncate -s 12G "$OUT/disk.img"
mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 -d "$ROOT" "$OUT/disk.img"

#!/bin/busybox sh
# PID 1 of a machine's initrd: loads what the root disk needs and hands over to systemd.
# With the word lab.copy it makes the second disk an XFS without file types in its
# directories, copies the root there, says so and switches off: kernels of today can
# often no longer mount such a disk, the machine's can.
set -e
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
type=ext4
copy=
for word in $($busybox cat /proc/cmdline); do
  case $word in
  rootfstype=*) type=${word#*=} ;;
  lab.copy) copy=yes ;;
  esac
done

load() {
  while read -r module; do
    # The second list names modules of the first.
    $busybox insmod "/modules/$module" 2>/dev/null || :
  done <"/modules/for-$1"
}

copy_root() {
  load xfs
  $busybox mount -t ext4 -o ro /dev/vda /new
  $busybox mount -o move /dev /new/dev
  $busybox mount -o move /proc /new/proc
  $busybox chroot /new mkfs.xfs -q -f -m crc=0 -n ftype=0 /dev/vdb
  $busybox mount -t xfs /new/dev/vdb /new/mnt
  $busybox chroot /new /bin/cp -ax /. /mnt/
  echo '/dev/vda / xfs defaults 0 0' >/new/mnt/etc/fstab
  $busybox umount /new/mnt
  echo 'lab: the root was copied' >/new/dev/console
  $busybox poweroff -f
}

load "$type"
until [ -b /dev/vda ]; do
  $busybox sleep 0.02
done
if [ "$copy" ]; then
  copy_root
fi
$busybox mount -t "$type" /dev/vda /new
$busybox mount -o move /dev /new/dev
$busybox umount /proc
exec $busybox switch_root /new /lib/systemd/systemd

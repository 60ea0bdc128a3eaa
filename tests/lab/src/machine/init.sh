#!/bin/busybox sh
# PID 1 of a machine's initrd: loads what the root disk needs and hands over to systemd.
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
while read -r module; do
  $busybox insmod "/modules/$module"
done </modules/list
until [ -b /dev/vda ]; do
  $busybox sleep 0.02
done
$busybox mount -t ext4 /dev/vda /new
$busybox mount -o move /dev /new/dev
$busybox umount /proc
exec $busybox switch_root /new /lib/systemd/systemd

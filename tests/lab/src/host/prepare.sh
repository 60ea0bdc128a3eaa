#!/bin/sh
# Runs inside a host early in every boot: what containers lack and real hosts have.
set -u

# systemd-nspawn mounts v1 hierarchies read-only; runc makes its groups there.
for tree in /sys/fs/cgroup /sys/fs/cgroup/*/; do
  if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then mount -o remount,bind,rw "$tree"; fi
done

# Settings of the machine's own kernel that a kubelet wants to change: each host gets
# files that start with the machine's values. A fixture, the kernel does not read them.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  if [ -e "/proc/sys/$setting" ]; then
    mkdir -p "/run/edge-lab/$(dirname "$setting")"
    cat "/proc/sys/$setting" >"/run/edge-lab/$setting"
    mount --bind "/run/edge-lab/$setting" "/proc/sys/$setting"
  fi
done

# Board and disks of its own, where the lab gave some. A fixture; the kernel does not know it.
if [ -d /usr/lib/edge-lab/hardware ]; then
  mkdir -p /run/edge-lab/class/dmi/id
  for class in net tty misc mem; do
    mkdir "/run/edge-lab/class/$class"
    mount --bind "/sys/class/$class" "/run/edge-lab/class/$class"
  done
  mount --bind /usr/lib/edge-lab/hardware/dmi /run/edge-lab/class/dmi/id
  mount --rbind /run/edge-lab/class /sys/class
  mount --bind /usr/lib/edge-lab/hardware/block /sys/block
fi
exit 0

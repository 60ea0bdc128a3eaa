#!/bin/sh
# The outermost process of one running lab host, in a mount namespace of its own:
# every mount vanishes with it, so nothing is left behind or pinned by another host.
# Input: DIR (the host's directory), ROOT (base image), KEEPER and GROUPS (cgroup
# directories), and systemd-nspawn's arguments.
set -eu
echo 0 >"$KEEPER/cgroup.procs"
mount -o loop "$DIR/disk.img" "$DIR/disk"
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$DIR/disk/up,workdir=$DIR/disk/work" "$DIR/root"
# From now on a power cut finds the disk.
echo $$ >"$DIR/supervisor.pid"
# 133: the host asked for a reboot.
rc=133
while [ "$rc" = 133 ]; do
  rc=0
  sh -c 'for g in $GROUPS; do echo 0 >"$g/cgroup.procs"; done; exec systemd-nspawn "$@"' nspawn "$@" || rc=$?
done
exit "$rc"

#!/bin/sh
# Makes /srv/images/TAG.tar, an archive of one image as `docker save` writes it: the
# machine's own static shell, and files whose sums its only program checks. TAG is $1,
# the size of the files in MiB $2.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/one/bin" "$work/two/data" "$work/image" /srv/images
cp /bin/busybox "$work/one/bin/busybox"
ln -s busybox "$work/one/bin/sh"
at=0
while [ "$at" -lt "$(($2 * 4))" ]; do
  head -c 262144 /dev/urandom >"$work/two/data/$at"
  at=$((at + 1))
done
(cd "$work/two" && sha256sum data/* >sums)
cat >"$work/one/check" <<'CHECK'
#!/bin/sh
# Ends with 0 when no file of the image lost a byte, and leaves a file of its own.
/bin/busybox sha256sum -c /sums >/dev/null && /bin/busybox sh -c 'echo ran >/ran'
CHECK
chmod 755 "$work/one/check"
for layer in one two; do
  tar -C "$work/$layer" --owner=0 --group=0 --numeric-owner -cf "$work/image/$layer.tar" .
done
sum() { sha256sum "$work/image/$1.tar" | cut -d' ' -f1; }
cat >"$work/config" <<CONFIG
{"architecture":"amd64","os":"linux","config":{"Cmd":["/check"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:$(sum one)","sha256:$(sum two)"]}}
CONFIG
config=$(sha256sum "$work/config" | cut -d' ' -f1).json
mv "$work/config" "$work/image/$config"
echo "[{\"Config\":\"$config\",\"RepoTags\":[\"registry.lab/tool:$1\"],\"Layers\":[\"one.tar\",\"two.tar\"]}]" \
  >"$work/image/manifest.json"
tar -C "$work/image" --owner=0 --group=0 --numeric-owner -cf "/srv/images/$1.tar" manifest.json "$config" one.tar two.tar
sha256sum "/srv/images/$1.tar" | cut -d' ' -f1

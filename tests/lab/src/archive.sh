#!/bin/sh
# Makes /srv/images/TAG.tar, an archive of the image $1 (REPOSITORY:TAG) as `docker save`
# writes it: this system's own shell (a static busybox, or its own with libraries), a program
# that ends with 0 when no file of the image lost a byte, and $2 files of 256 KiB (at least
# one). With gz as $3 the archive is compressed. Prints its SHA-256.
set -eu
tag=${1##*:}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/one/bin" "$work/two/data" "$work/image" /srv/images
for program in sh sha256sum sleep; do
  if [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; then
    cp /bin/busybox "$work/one/bin/"
    ln -s busybox "$work/one/bin/$program"
    continue
  fi
  file=$(readlink -f "$(command -v $program)")
  cp "$file" "$work/one/bin/$program"
  for library in $(ldd "$file" | grep -o '/[^ ]*'); do
    mkdir -p "$work/one$(dirname "$library")"
    cp -L "$library" "$work/one$library"
  done
done
at=0
while [ "$at" -lt "$2" ]; do
  head -c 262144 /dev/urandom >"$work/two/data/$at"
  at=$((at + 1))
done
(cd "$work/two" && sha256sum data/* >sums)
# It leaves a file of its own: the snapshot of a container is written as well.
printf '#!/bin/sh\n/bin/sha256sum -c /sums >/dev/null && echo ran >/ran\n' >"$work/one/check"
chmod 755 "$work/one/check"
for layer in one two; do
  tar -C "$work/$layer" --owner=0 --group=0 --numeric-owner -cf "$work/image/$layer.tar" .
done
sum() { sha256sum "$work/image/$1.tar" | cut -d' ' -f1; }
case $(uname -m) in aarch64) arch=arm64 ;; *) arch=amd64 ;; esac
cat >"$work/config" <<CONFIG
{"architecture":"$arch","os":"linux","config":{"Cmd":["/check"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:$(sum one)","sha256:$(sum two)"]}}
CONFIG
config=$(sha256sum "$work/config" | cut -d' ' -f1).json
mv "$work/config" "$work/image/$config"
echo "[{\"Config\":\"$config\",\"RepoTags\":[\"$1\"],\"Layers\":[\"one.tar\",\"two.tar\"]}]" >"$work/image/manifest.json"
tar -C "$work/image" --owner=0 --group=0 --numeric-owner -cf "/srv/images/$tag.tar" manifest.json "$config" one.tar two.tar
if [ "${3:-}" = gz ]; then
  gzip -f "/srv/images/$tag.tar"
  mv "/srv/images/$tag.tar.gz" "/srv/images/$tag.tar"
fi
sync -f /srv/images
sha256sum "/srv/images/$tag.tar" | cut -d' ' -f1

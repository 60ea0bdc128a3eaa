#!/bin/sh
# Makes /srv/images/TAG.tar, an archive of the image registry.lab/tool:TAG as `docker
# save` writes it: the host's own shell with what it needs, a program that ends with 0
# when no file of the image lost a byte, and $2 files of 256 KiB. Prints its SHA-256.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/one" "$work/two/data" "$work/image" /srv/images
for program in sh sha256sum sleep; do
  file=$(readlink -f "$(command -v $program)")
  mkdir -p "$work/one/bin"
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
printf '#!/bin/sh\nexec /bin/sha256sum -c --quiet /sums\n' >"$work/one/check"
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
echo "[{\"Config\":\"$config\",\"RepoTags\":[\"registry.lab/tool:$1\"],\"Layers\":[\"one.tar\",\"two.tar\"]}]" >"$work/image/manifest.json"
tar -C "$work/image" --owner=0 --group=0 --numeric-owner -cf "/srv/images/$1.tar" manifest.json "$config" one.tar two.tar
if [ "${3:-}" = gz ]; then
  gzip -f "/srv/images/$1.tar"
  mv "/srv/images/$1.tar.gz" "/srv/images/$1.tar"
fi
sync -f /srv/images
sha256sum "/srv/images/$1.tar" | cut -d' ' -f1

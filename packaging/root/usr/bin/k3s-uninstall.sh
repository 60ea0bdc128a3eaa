#!/bin/sh
# For habit: this host leaves its cluster. The binary, images, the identity and a backup
# stay; see `edge-bootstrap reset` for what goes, and /usr/share/doc/edge-bootstrap.
# A server that the majority of its cluster needs goes with --break-cluster.
exec /usr/bin/edge-bootstrap reset --yes "$@"

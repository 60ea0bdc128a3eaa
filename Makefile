# What people run here. `make demo` and `make test` need root on Debian or Ubuntu; they
# install the programs that they miss. See docs/testing.md for every rung by itself.

CARGO ?= cargo
# A stripped binary may be this large, in bytes (6 MiB).
SIZE_CEILING := 6291456

.PHONY: help demo test fmt lint unit failpoints words docs hosts size machines campaign machine-campaign mirrors real bench package deny

help:
	@echo "make demo      three bare hosts become steady, lose their power, come back without the central service"
	@echo "make test      everything that CI runs"
	@echo "make machines  the machine lab (QEMU)"
	@echo "make campaign  200 kills and 200 power cuts of a first boot, a change of the role cut at each step (host lab)"
	@echo "make mirrors   what a bad registry mirror costs every containerd, without the agent and with it (host lab)"
	@echo "make machine-campaign  20 power cuts each of an ext4 and an xfs ftype=0 machine with containers"
	@echo "make real      the host lab with a real k3s (K3S_BIN): the incident, resets by hand, forks, the lifecycle"
	@echo "make bench     the benchmarks"
	@echo "make package   the Debian package, release build"
	@echo "make deny      licences, bans, sources and advisories of all dependencies (cargo-deny 0.20)"

demo:
	$(CARGO) run --quiet --package edge-lab -- demo

# The quick ones first.
test: fmt lint unit words docs size hosts

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets -- --deny warnings

# Unit, golden, property and line tests, the units through systemd-analyze, kills and errors at the fail points (which
# are nothing before a test names one). Not the labs: see hosts, machines.
unit:
	$(CARGO) test --workspace --exclude edge-lab --features edge-bootstrap/failpoints
	$(CARGO) test --package edge-lab --lib

failpoints:
	$(CARGO) test --package edge-bootstrap --features failpoints --lib --test faults --test line_adopt

# Words and decisions alone, as programs elsewhere use them.
words:
	$(CARGO) test --package edge-bootstrap --no-default-features --lib

docs:
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps

size:
	$(CARGO) build --release --package edge-bootstrap
	@size=$$(stat -c %s "$$($(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/edge-bootstrap"); \
	echo "stripped binary: $$size bytes, ceiling $(SIZE_CEILING)"; test "$$size" -le $(SIZE_CEILING)

hosts:
	$(CARGO) test --package edge-lab --test hosts -- --test-threads=3

machines:
	$(CARGO) test --package edge-lab --test machines -- --test-threads=1

# EDGE_CAMPAIGN=200 says how many moments of each kind, EDGE_SEED=N which ones; and a change of the role, cut at each
# step of its journal.
campaign:
	EDGE_CAMPAIGN=$${EDGE_CAMPAIGN:-200} $(CARGO) test --package edge-lab --test hosts -- campaign:: --include-ignored --test-threads=1 --nocapture

# The table of docs/mirrors.md. Some ten minutes: containerd itself waits that long.
mirrors:
	$(CARGO) test --package edge-lab --test hosts -- --ignored mirrors:: --test-threads=1 --nocapture

# EDGE_CUTS=20 says how many power cuts of each kind of machine, EDGE_SEED=N at which moments.
machine-campaign:
	EDGE_CUTS=$${EDGE_CUTS:-20} $(CARGO) test --package edge-lab --test machines -- runtime::cuts:: --test-threads=1 --nocapture

# Needs K3S_BIN, a real k3s: what no stand-in can show (the incident with us and without, what people do to etcd by
# hand, forks without the gate), then the laws of the lifecycle with it.
LIFECYCLE := roles:: rolling:: retired:: tokens:: upgrade:: adopt:: reset_verb:: manifests:: emptied::
real:
	$(CARGO) test --package edge-lab --test hosts -- --ignored --skip mirrors:: --skip campaign:: --test-threads=1 --nocapture
	$(CARGO) test --package edge-lab --test hosts -- $(LIFECYCLE) --skip campaign:: --test-threads=1 --nocapture

bench:
	$(CARGO) run --quiet --package edge-lab -- bench

package:
	$(CARGO) deb --package edge-bootstrap

deny:
	$(CARGO) deny --workspace --config .deny.toml check

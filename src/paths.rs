//! Every path that this program reads or writes, in one table.
//!
//! Owns names only; never opens anything. All are absolute as seen inside the
//! root that `sys::Root` stands for.

/// Directory of a foreign root with what files of a host do not tell.
pub const FIXTURES: &str = "/.facts";
/// Configuration of the package, merged first.
pub const PACKAGE_CONFIG_DIR: &str = "/usr/lib/edge-bootstrap/config.d";
/// Configuration of the operator, merged second.
pub const CONFIG: &str = "/etc/edge-bootstrap/config.toml";
/// Drop-ins of the operator, merged last, in name order.
pub const CONFIG_DIR: &str = "/etc/edge-bootstrap/config.d";

/// State of the agent, mode 0700.
pub const STATE_DIR: &str = "/var/lib/edge-bootstrap";
/// Who this host is for good.
pub const IDENTITY: &str = "/var/lib/edge-bootstrap/identity.json";
/// Private key of the node, PKCS #8 PEM, mode 0600.
pub const NODE_KEY: &str = "/var/lib/edge-bootstrap/node.key";
/// Self-signed client certificate made from [`NODE_KEY`].
pub const NODE_CERT: &str = "/var/lib/edge-bootstrap/node.crt";
/// The newest valid assignment, as its signed envelope.
pub const ASSIGNMENT: &str = "/var/lib/edge-bootstrap/assignment.json";
/// Addresses at which the central service answered, by name.
pub const CENTRAL: &str = "/var/lib/edge-bootstrap/central.json";
/// What the agent did last and where it stands.
pub const LEDGER: &str = "/var/lib/edge-bootstrap/ledger.json";
/// One directory per generation, named by its number.
pub const GENERATIONS: &str = "/var/lib/edge-bootstrap/generations";
/// One directory per k3s version, holding the verified binary.
pub const K3S_STORE: &str = "/var/lib/edge-bootstrap/k3s";
/// Link to the directory of the version that was in force before this one.
pub const K3S_PREVIOUS: &str = "/var/lib/edge-bootstrap/k3s/previous";
/// Files that a person brought, by USB or from a peer: found by digest, whatever
/// their names.
pub const IMPORT: &str = "/var/lib/edge-bootstrap/import";
/// Copies that a person may need again, server tokens among them.
pub const BACKUP: &str = "/var/lib/edge-bootstrap/backup";
/// Copy of the node's password, mode 0600: k3s's own lies outside its data
/// directory and is lost with `/etc`.
pub const NODE_PASSWORD_COPY: &str = "/var/lib/edge-bootstrap/backup/node-password";
/// Files of a k3s that others installed, as they were before it was taken over.
pub const ADOPTED_FILES: &str = "/var/lib/edge-bootstrap/backup/adopted";
/// That a person had the k3s of others taken over, and when.
pub const ADOPTED: &str = "/var/lib/edge-bootstrap/backup/adopted.json";
/// Everything that a k3s of others was told, in one file, while it is taken over.
pub const ADOPT_CONFIG: &str = "/etc/rancher/k3s/adopt.yaml";
/// Names k3s the file that it reads while it is taken over.
pub const ADOPT_VARIABLES: &str = "/etc/rancher/k3s/adopt.env";
/// Name of the drop-in with which k3s reads that: the last one of its unit.
pub const ADOPT_DROP_IN: &str = "zz-edge-bootstrap-adopt.conf";
/// Broken files are moved here; nothing is deleted.
pub const QUARANTINE: &str = "/var/lib/edge-bootstrap/quarantine";
/// What installed programs print as their version, by identity of the file.
pub const VERSIONS: &str = "/var/lib/edge-bootstrap/versions.json";
/// What the installed containerd made of the files that it was asked about.
pub const CONTAINERD_CHECKED: &str = "/var/lib/edge-bootstrap/containerd-checked.json";
/// A file for containerd that it is asked about before it is put in force.
pub const CONTAINERD_CANDIDATE: &str = "/run/edge-bootstrap/containerd-candidate.toml";
/// Names that others gave this host, and who did.
pub const RENAMES: &str = "/var/lib/edge-bootstrap/renames.json";
/// How fast the disk of k3s's datastore was when it was measured last.
pub const DATA_DISK: &str = "/var/lib/edge-bootstrap/data-disk";
/// What containerd's store holds and what was decided about it.
pub const INVENTORY: &str = "/var/lib/edge-bootstrap/inventory.json";
/// Digests of the snapshots of etcd on this server, and which token opens each.
pub const SNAPSHOTS: &str = "/var/lib/edge-bootstrap/snapshots.json";
/// Image archives by SHA-256, kept as what their images come back from.
pub const IMAGES: &str = "/var/lib/edge-bootstrap/images";
/// Reports that could not be sent yet.
pub const OUTBOX: &str = "/var/lib/edge-bootstrap/outbox";

/// A time that is surely past.
pub const CLOCK: &str = "/var/lib/edge-bootstrap/clock.json";

/// Runtime state, mode 0755, gone at boot.
pub const RUN_DIR: &str = "/run/edge-bootstrap";
/// What `status` prints, for everybody to read.
pub const STATUS: &str = "/run/edge-bootstrap/status.json";
/// The same as Prometheus text.
pub const METRICS: &str = "/run/edge-bootstrap/metrics.prom";
/// The claim that waits for a person, with its code, mode 0600.
pub const CLAIM: &str = "/run/edge-bootstrap/claim.json";
/// Why k3s must not start yet; honoured only while its writer lives.
pub const HOLD: &str = "/run/edge-bootstrap/hold.json";
/// That the init lease was confirmed in this boot.
pub const LEASE: &str = "/run/edge-bootstrap/lease.json";
/// What a look with privileges saw of disks and snapshotters in this boot.
pub const STORAGE_LOOK: &str = "/run/edge-bootstrap/storage.json";
/// Who else was heard with the node IP, by the last look of this boot.
pub const ADDRESS_LOOK: &str = "/run/edge-bootstrap/address.json";
/// Which registry mirrors answered in this boot.
pub const MIRRORS: &str = "/run/edge-bootstrap/mirrors.json";
/// Held while the inventory is changed.
pub const INVENTORY_LOCK: &str = "/run/edge-bootstrap/inventory.lock";
/// One at a time brings images.
pub const IMAGES_LOCK: &str = "/run/edge-bootstrap/images.lock";
/// What the last check of the store's images found in this boot.
pub const IMAGES_CHECKED: &str = "/run/edge-bootstrap/images-checked.json";
/// The boot's id, once for each such check that did not end within its limit.
pub const IMAGES_ENDLESS: &str = "/run/edge-bootstrap/images-endless";
/// One pass at a time.
pub const LOCK: &str = "/run/edge-bootstrap/lock";
/// Set by `pause`: observe and report, change nothing. Survives a reboot.
pub const PAUSE: &str = "/var/lib/edge-bootstrap/pause.json";
/// That a person resets this host, or has reset it.
pub const RESET: &str = "/var/lib/edge-bootstrap/reset.json";
/// Refusals of the gate that a person lets pass for a while. Survives a reboot.
pub const ALLOW: &str = "/var/lib/edge-bootstrap/allow.json";
/// What the gate let pass in this boot, written by the gate.
pub const PASSED: &str = "/run/edge-bootstrap/let-pass.json";
/// Shown at every login while a person's pause or allowance is in force (pam_motd).
pub const MOTD: &str = "/run/motd.d/50-edge-bootstrap";
/// What the room answered in this boot, when it was asked for the newest epoch.
pub const PEERS_ASKED: &str = "/run/edge-bootstrap/peers.json";
/// How often the daemon was started in this boot.
pub const STARTS: &str = "/run/edge-bootstrap/starts.json";
/// A restart beside other servers that was begun, and whether the room's Lease is ours.
pub const TURN: &str = "/var/lib/edge-bootstrap/turn.json";
/// The newest try of another version of k3s.
pub const UPGRADE: &str = "/var/lib/edge-bootstrap/upgrade.json";
/// A change of the server token that was begun on this host.
pub const ROTATION: &str = "/var/lib/edge-bootstrap/rotation.json";
/// What was seen of our units in this boot, so that a person's stop is noticed.
pub const UNITS: &str = "/run/edge-bootstrap/units.json";

/// k3s's configuration; its rename commits a generation.
pub const K3S_CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// Drop-ins of operators, read by k3s after [`K3S_CONFIG`].
pub const K3S_CONFIG_DIR: &str = "/etc/rancher/k3s/config.yaml.d";
/// k3s's data directory.
pub const K3S_DATA: &str = "/var/lib/rancher/k3s";
/// Who may ask k3s, with the tokens of each; the datastore has a copy.
pub const K3S_USERS: &str = "/var/lib/rancher/k3s/server/cred/passwd";
/// Datastore of a server.
pub const K3S_ETCD: &str = "/var/lib/rancher/k3s/server/db/etcd";
/// Full member name of a server, without a line break.
pub const K3S_ETCD_NAME: &str = "/var/lib/rancher/k3s/server/db/etcd/name";
/// The node's password, with which a cluster knows it again.
pub const NODE_PASSWORD: &str = "/etc/rancher/node/password";
/// The link that the units start.
pub const K3S_LINK: &str = "/usr/local/bin/k3s";
/// Unit of a server.
pub const K3S_UNIT: &str = "/etc/systemd/system/k3s.service";
/// Unit of an agent.
pub const K3S_AGENT_UNIT: &str = "/etc/systemd/system/k3s-agent.service";
/// Name of the drop-in of ours beside a unit.
pub const DROP_IN: &str = "10-edge-bootstrap.conf";

/// containerd's data.
pub const CONTAINERD_ROOT: &str = "/var/lib/containerd";
/// A store that is a mount of its own and is being set aside: its parts are
/// gathered here. Gone when they all are.
pub const STORE_HALF_ASIDE: &str = "/var/lib/containerd/.quarantine";
/// Where containerd keeps what ends with the boot: its containers' mounts too.
pub const CONTAINERD_STATE: &str = "/run/containerd";
/// Where containerd answers.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// Our complete containerd configuration, named by `--config`.
pub const CONTAINERD_CONFIG: &str = "/etc/containerd/edge-bootstrap.toml";
/// Registry hosts, one directory per registry.
pub const CONTAINERD_CERTS: &str = "/etc/containerd/certs.d";
/// Our drop-in for containerd's unit.
pub const CONTAINERD_DROP_IN: &str = "/etc/systemd/system/containerd.service.d/10-edge-bootstrap.conf";
/// CNI configuration; the directory itself is never removed (containerd 2.1+ exits).
pub const CNI_DIR: &str = "/etc/cni/net.d";
/// The loopback network that makes the CRI report NetworkReady.
pub const CNI_LOOPBACK: &str = "/etc/cni/net.d/99-edge-loopback.conflist";

/// The static hostname.
pub const HOSTNAME: &str = "/etc/hostname";
/// Holds our managed block.
pub const HOSTS: &str = "/etc/hosts";
/// Keeps cloud-init from naming the host.
pub const CLOUD_INIT: &str = "/etc/cloud/cloud.cfg.d/99-edge-bootstrap.cfg";
/// Keeps NetworkManager from naming the host.
pub const NETWORK_MANAGER: &str = "/etc/NetworkManager/conf.d/99-edge-bootstrap.conf";
/// Where dhclient's script looks for hooks on Debian.
pub const DHCLIENT_HOOKS: &str = "/etc/dhcp/dhclient-enter-hooks.d";
/// Keeps dhclient from naming the host.
pub const DHCLIENT: &str = "/etc/dhcp/dhclient-enter-hooks.d/edge-bootstrap";
/// Kernel settings that a node needs.
pub const SYSCTL: &str = "/etc/sysctl.d/90-edge-bootstrap.conf";
/// Kernel modules that a node needs.
pub const MODULES: &str = "/etc/modules-load.d/edge-bootstrap.conf";

/// What the unit (`k3s`, `k3s-agent`) was started with last, written by the gate.
#[must_use]
pub fn started_with(unit: &str) -> String {
    format!("{RUN_DIR}/started-{unit}.json")
}

/// What containerd was started with by the agent last, written by the agent.
pub const STARTED_BY_AGENT: &str = "/run/edge-bootstrap/started-containerd-by-agent.json";

/// What k3s was started with by the agent last, written by the agent.
pub const K3S_STARTED_BY_AGENT: &str = "/run/edge-bootstrap/started-k3s-by-agent.json";

/// An archive of images, by its SHA-256.
#[must_use]
pub fn image_archive(sha256: &str) -> String {
    format!("{IMAGES}/{sha256}.tar")
}

/// How the import of an archive ended in this boot, written by its act.
#[must_use]
pub fn imported(sha256: &str) -> String {
    format!("{RUN_DIR}/imported-{sha256}.json")
}

/// That what an interrupted import of an archive left was removed in this boot.
#[must_use]
pub fn images_removed(sha256: &str) -> String {
    format!("{RUN_DIR}/removed-{sha256}.json")
}

/// How an act ended in this boot, written by it.
#[must_use]
pub fn act_end(name: &str) -> String {
    format!("{RUN_DIR}/act-{name}.json")
}

/// Where our k3s store keeps one version's binary.
#[must_use]
pub fn k3s_binary(version: &str) -> String {
    format!("{K3S_STORE}/{version}/k3s")
}

/// A file of generation `number`.
#[must_use]
pub fn generation_file(number: u64, name: &str) -> String {
    format!("{GENERATIONS}/{number}/{name}")
}

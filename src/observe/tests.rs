//! The whole step on trees that stand for hosts.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;

use super::fixture::{Tree, debian, rhel_7};
use super::{Clock, Fact, HostFacts, Root, host, k3s};
use crate::facts::runtime::{Unit, pinned_server};
use crate::facts::system::CgroupVersion;
use crate::paths;
use crate::sys::statefile;

const VERSION: &str = "v1.36.2+k3s1";
const CANARY: &str = "canary-5f1c";

async fn observed(root: &Root) -> HostFacts {
    host(root, Clock::Fixed(1_800_000_000), &BTreeMap::new()).await
}

/// How many facts are unknown, and how many of these have no reason of their own.
fn unknowns(value: &serde_json::Value) -> (usize, usize) {
    match value {
        serde_json::Value::Object(map) => {
            let own = map.get("unknown").and_then(|reason| reason.as_str());
            let bad = own.is_some_and(|reason| reason.is_empty() || reason == "not observed");
            map.values()
                .map(unknowns)
                .fold((own.iter().len(), usize::from(bad)), |a, b| (a.0 + b.0, a.1 + b.1))
        }
        serde_json::Value::Array(items) => {
            items.iter().map(unknowns).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        }
        _ => (0, 0),
    }
}

#[tokio::test]
async fn debian_on_bare_metal_is_known() {
    let facts = observed(&debian().root()).await;
    assert_eq!(facts.identity.hostname.transient, Fact::Known(None));
    assert_eq!(facts.identity.board.uuid.known().unwrap(), "4c4c4544-0042-3510-8052-b4c04f4d3132");
    assert_eq!(facts.identity.board.board_serial.reason(), Some("placeholder of the vendor"));
    assert_eq!(facts.hardware.cpus, Fact::Known(4));
    assert_eq!(facts.hardware.arch.known().unwrap(), "amd64");
    assert_eq!(facts.system.systemd, Fact::Known(252));
    assert_eq!(facts.system.modules.known().unwrap(), &["br_netfilter", "overlay"]);
    let cgroup = facts.system.cgroup.known().unwrap();
    assert_eq!((cgroup.version, cgroup.controllers.len()), (CgroupVersion::V2, 5));
    assert_eq!(facts.system.time.synchronized, Fact::Known(true));
    assert_eq!(facts.runtime.containerd.version, Fact::Known((1, 6, 20)));
    assert_eq!(facts.runtime.containerd.root_fs.known().unwrap(), "xfs");
    assert_eq!(facts.runtime.k3s.version, Fact::Known(None));
}

#[tokio::test]
async fn interfaces_keep_their_own_address_inside_a_bond() {
    let facts = observed(&debian().root()).await;
    let nics = facts.network.interfaces.known().unwrap();
    let names: Vec<&str> = nics.iter().map(|nic| nic.name.as_str()).collect();
    assert_eq!(names, ["eth0", "eth1", "veth0"]);
    assert_eq!(nics[0].driver.known().unwrap(), "igb");
    assert_eq!(nics[0].permanent_mac.known().unwrap(), "52:54:00:aa:bb:01");
    assert_eq!(nics[1].permanent_mac.known().unwrap(), "52:54:00:aa:bb:02");
    assert!(nics[2].permanent_mac.reason().unwrap().contains("software"));
    assert_eq!(nics[0].addresses.len(), 2);
    assert_eq!(facts.network.holder("172.16.36.1".parse().unwrap()).unwrap().name, "eth0");
    assert_eq!(facts.network.routes.known().unwrap()[0].gateway, "172.16.36.254".parse().ok());
}

#[tokio::test]
async fn a_virtual_address_on_the_loopback_interface_is_on_this_host() {
    let tree = debian();
    tree.file("/.facts/addresses", "lo 127.0.0.1/8\nlo ::1/128\nlo 172.16.36.9/32\n");
    let network = observed(&tree.root()).await.network;
    let holder = network.holder("172.16.36.9".parse().unwrap()).unwrap();
    assert_eq!((holder.name.as_str(), holder.addresses.len()), ("lo", 1));
    assert!(holder.mac.reason().is_some());
}

#[tokio::test]
async fn only_whole_disks_and_data_mounts_are_listed() {
    let facts = observed(&debian().root()).await;
    let disks = facts.hardware.disks.known().unwrap();
    assert_eq!(disks.len(), 2);
    assert_eq!(disks[0].serial.known().unwrap(), "WD-00042");
    assert_eq!(
        (disks[0].model.known().unwrap().as_str(), disks[0].size_bytes.known()),
        ("ST2000NM", Some(&1_048_576))
    );
    assert_eq!(disks[1].serial.known().unwrap(), "edge-1");
    let mounts: Vec<&str> =
        facts.hardware.filesystems.known().unwrap().iter().map(|fs| fs.mount_point.as_str()).collect();
    assert_eq!(mounts, ["/", "/var/lib/containerd"]);
}

#[tokio::test]
async fn rhel_7_is_read_with_its_gaps() {
    let facts = observed(&rhel_7().root()).await;
    assert_eq!(facts.identity.hostname.transient, Fact::Known(Some("localhost.localdomain".to_owned())));
    assert_eq!(facts.identity.board.uuid.reason(), Some("the firmware tells no DMI data"));
    let cgroup = facts.system.cgroup.known().unwrap();
    assert_eq!(
        (cgroup.version, cgroup.controllers.as_slice()),
        (CgroupVersion::V1, ["cpu".to_owned()].as_slice())
    );
    assert!(facts.hardware.memory.reason().is_some(), "a foreign root is not asked by call");
    assert_eq!(facts.runtime.containerd.binary.known().unwrap(), "/usr/local/bin/containerd");
    assert_eq!(facts.runtime.containerd.cni_bin_dirs.known().unwrap(), &["/usr/libexec/cni", "/opt/cni/bin"]);
    assert!(facts.system.systemd.reason().is_some());
}

#[tokio::test]
async fn an_empty_root_is_unknown_with_a_reason_for_each_fact() {
    let facts = observed(&Tree::new().root()).await;
    let (unknown, without_reason) = unknowns(&serde_json::to_value(&facts).unwrap());
    assert!(unknown >= 25, "{unknown}");
    assert_eq!(without_reason, 0);
    assert_eq!(facts.runtime.k3s.has_datastore, Fact::Known(false));
    assert_eq!(facts.runtime.identity, Fact::Known(None));
}

#[tokio::test]
async fn garbage_in_every_file_stops_nothing() {
    for garbage in [b"".as_slice(), b"\xff\xfe\x00\x01\n\x80", b"{]=\n- : [", b"\n\n - \n/ / / - - -\n"] {
        let tree = node();
        tree.garble(garbage);
        let facts = observed(&tree.root()).await;
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<HostFacts>(&json).unwrap(), facts);
        assert!(facts.runtime.identity.reason().is_some(), "a damaged identity is not a missing one");
        assert!(facts.identity.machine_id.reason().is_some());
    }
}

/// The Debian host as a joined server.
fn node() -> Tree {
    let tree = debian();
    let generations = "/var/lib/edge-bootstrap/generations";
    tree.file(&paths::k3s_binary(VERSION), "elf")
        .file(&format!("{}/{VERSION}/k3s.sha256", paths::K3S_STORE), format!("{}\n", "aB".repeat(32)))
        .file(&paths::k3s_binary("v1.35.0+k3s1"), "elf")
        .link("/usr/local/bin/kubectl", "k3s")
        .file(paths::K3S_CONFIG, format!("# edge-bootstrap\nnode-name: 172-16-36-1\ntoken-file: {generations}/7/server-token\ntoken: {CANARY}\n"))
        .file(&format!("{}/20-b.YML", paths::K3S_CONFIG_DIR), format!("disable+: traefik\nvpn-auth: {CANARY}\n"))
        .file(&format!("{}/10-a.yaml", paths::K3S_CONFIG_DIR), "disable: [coredns]\n")
        .file(&format!("{}/.note", paths::K3S_CONFIG_DIR), "not read\n")
        .file(&format!("{generations}/7/server-token"), CANARY)
        .file(&format!("{generations}/7/manifest.json"), r#"{"schema":1,"digest":"d7","files":{}}"#)
        .directory(&format!("{generations}/9"))
        .file("/etc/systemd/system/k3s.service.env", format!("K3S_TOKEN={CANARY}\n"))
        .file(paths::K3S_UNIT, format!("[Service]\nExecStart=/usr/local/bin/k3s \\\n  server '--token' '{CANARY}'\n"))
        .file("/etc/containerd/certs.d/docker.io/hosts.toml", format!("server = \"x\"\nAuthorization = \"{CANARY}\"\n"))
        .file("/etc/cni/net.d/10-other.conflist", r#"{"name":"cbr0"}"#)
        .file(paths::CNI_LOOPBACK, "{}")
        .file(paths::HOSTS, "127.0.0.1 localhost\n")
        .file("/var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal", "x")
        .file("/var/lib/rancher/k3s/server/db/etcd/name", "172-16-36-1-0a1b2c3d\n")
        .file("/var/lib/rancher/k3s/server/tls/server-ca.crt", include_str!("../facts/testdata/ca-root.pem"))
        .file("/run/edge-bootstrap/started-k3s.json", r#"{"effective":{"node-name":["172-16-36-1"]},"binary":"/x/k3s"}"#)
        .file(&paths::started_with("containerd"), r#"{"config":"c0ffee"}"#);
    std::os::unix::fs::symlink(paths::k3s_binary(VERSION), tree.root().path(paths::K3S_LINK)).unwrap();
    statefile::store(&tree.root(), paths::IDENTITY, &pinned_server()).unwrap();
    tree
}

#[tokio::test]
async fn a_joined_server_is_known_by_its_files() {
    let runtime = observed(&node().root()).await.runtime;
    assert_eq!(runtime.identity, Fact::Known(Some(pinned_server())));
    assert_eq!(
        (runtime.generations.highest, runtime.generations.current.as_ref().unwrap().digest.as_str()),
        (9, "d7")
    );
    let k3s = &runtime.k3s;
    assert_eq!(k3s.store, BTreeMap::from([(VERSION.to_owned(), "ab".repeat(32))]), "only what was verified");
    assert_eq!(k3s.drop_ins.known().unwrap().len(), 2);
    assert_eq!(k3s.effective.known().unwrap().all("disable"), ["coredns", "traefik"]);
    assert_eq!(k3s.started_binary.known().unwrap().as_deref(), Some("/x/k3s"));
    assert_eq!(runtime.containerd.started_with.known().unwrap().as_deref(), Some("c0ffee"));
    assert_eq!(k3s.effective.known().unwrap().first("node-name"), Some("172-16-36-1"));
    assert_eq!(k3s.started_with.known().unwrap().as_ref().unwrap().first("node-name"), Some("172-16-36-1"));
    assert_eq!(k3s.etcd_member.known().unwrap().as_deref(), Some("172-16-36-1-0a1b2c3d"));
    assert_eq!(k3s.has_datastore, Fact::Known(true));
    assert_eq!(k3s.ca_hash.known().unwrap().as_ref().unwrap().len(), 64);
    assert_eq!(runtime.cni_files.known().unwrap(), &["10-other.conflist: cbr0"]);
    assert_eq!(runtime.links.get("/usr/local/bin/kubectl").unwrap(), "k3s");
    assert_eq!(runtime.files.get(paths::HOSTS).unwrap().text.as_deref(), Some("127.0.0.1 localhost\n"));
    assert_eq!(runtime.files.get("/var/lib/edge-bootstrap/generations/7/server-token").unwrap().text, None);
    assert!(!runtime.files.contains_key(paths::K3S_AGENT_UNIT));
}

#[tokio::test]
async fn the_linked_version_is_told_by_its_path() {
    // The link is absolute; below a foreign root only its target's name is followed.
    let tree = node();
    let version = observed(&tree.root()).await.runtime.k3s.version;
    assert_eq!(version, Fact::Known(Some(VERSION.to_owned())));
    std::fs::remove_file(tree.root().path(&paths::k3s_binary(VERSION))).unwrap();
    assert_eq!(
        observed(&tree.root()).await.runtime.k3s.version,
        Fact::Known(None),
        "a link to nothing is no k3s"
    );
}

#[tokio::test]
async fn no_secret_reaches_facts_even_from_a_broken_file() {
    let tree = node();
    let json = serde_json::to_string(&observed(&tree.root()).await).unwrap();
    assert!(!json.contains(CANARY), "{json}");
    for broken in [
        "token: [{CANARY}",
        "token: \"{CANARY}\nx: y",
        "- {CANARY}",
        "token: &a {CANARY} {CANARY}: :",
        "\t{CANARY}: %",
    ] {
        tree.file(paths::K3S_CONFIG, broken.replace("{CANARY}", CANARY));
        let facts = observed(&tree.root()).await;
        let json = serde_json::to_string(&facts).unwrap();
        assert!(!json.contains(CANARY), "{:?}", facts.runtime.k3s.effective);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_not_told_as_absent() {
    let tree = debian();
    tree.link(paths::K3S_UNIT, "/dev/null");
    let file = observed(&tree.root()).await.runtime.files.remove(paths::K3S_UNIT).unwrap();
    assert_eq!((file.sha256.as_str(), file.text), ("", None));
}

#[tokio::test]
async fn unit_states_are_passed_on() {
    let units = BTreeMap::from([(
        "k3s".to_owned(),
        Fact::Known(Unit { active: "active".to_owned(), ..Unit::default() }),
    )]);
    let facts = host(&Tree::new().root(), Clock::Fixed(0), &units).await;
    assert_eq!(facts.runtime.units, units);
}

#[tokio::test]
async fn this_machine_is_read_without_a_panic() {
    let facts = host(&Root::default(), Clock::System, &BTreeMap::new()).await;
    assert!(facts.hardware.memory.known().unwrap().total_bytes > 0);
    assert!(facts.identity.hostname.kernel.known().is_some());
    assert!(facts.network.interfaces.known().is_some());
}

#[test]
fn the_agents_token_is_told_by_a_name_alone() {
    let tree = Tree::new();
    assert_eq!(k3s::agent_token(&tree.root()), None);
    let path = format!("{}/server/agent-token", paths::K3S_DATA);
    // Without one of their own agents join with the servers', to which it is a link.
    for user in ["node", "server"] {
        tree.file(&path, format!("K10{}::{user}:{CANARY}\n", "ab".repeat(32)));
        let wanted = crate::wire::secret::fingerprint(CANARY.as_bytes());
        assert_eq!(k3s::agent_token(&tree.root()), Some(wanted));
    }
}

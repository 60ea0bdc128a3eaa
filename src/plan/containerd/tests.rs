//! What each version of containerd is given, as whole files in `testdata/`.
//!
//! `EDGE_GOLDEN=update cargo test --lib plan::containerd` writes them anew; the
//! diff is then for a person to read.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and reads files of its own"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::{Table, Value};

use super::*;
use crate::facts::Fact;
use crate::plan::Local;
use crate::role::Snapshotter;
use crate::role::words::ImageRef;

/// Every version whose file is on record.
const VERSIONS: [Version; 10] = [
    (1, 4, 13),
    (1, 5, 18),
    (1, 6, 20),
    (1, 6, 33),
    (1, 7, 13),
    (1, 7, 24),
    (2, 0, 4),
    (2, 1, 9),
    (2, 2, 6),
    (2, 3, 4),
];
const SNAPSHOTTERS: [Snapshotter; 2] = [Snapshotter::Overlayfs, Snapshotter::Devmapper];

fn decision(version: Version, snapshotter: Snapshotter) -> Decision {
    let devmapper = snapshotter == Snapshotter::Devmapper;
    Decision {
        binary: "/usr/bin/containerd".into(),
        version,
        choice: Choice {
            snapshotter,
            pool: devmapper.then(|| "edge-thinpool".to_owned()),
            base_image_size: devmapper.then(|| "10GB".to_owned()),
            mount_point: "/".into(),
            fs_type: "ext4".into(),
            uuid: None,
            reason: "asked for".into(),
        },
        systemd_cgroup: true,
        cgroup_v1: false,
        cni_bin_dirs: vec!["/usr/lib/cni".into(), "/opt/cni/bin".into()],
        runc: None,
        arch: "amd64".into(),
        systemd: Some(252),
        notes: Vec::new(),
    }
}

fn sandbox() -> ImageRef {
    "registry.local:5000/pause:3.10".parse().unwrap()
}

fn table(decision: &Decision) -> Table {
    render::config(decision, Some(&sandbox())).parse().unwrap()
}

fn all() -> impl Iterator<Item = (Version, Snapshotter)> {
    VERSIONS.into_iter().flat_map(|version| SNAPSHOTTERS.map(|snapshotter| (version, snapshotter)))
}

fn at<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    let (mut parts, mut here) = (path.split('/').peekable(), table);
    while let Some(part) = parts.next() {
        let value = here.get(part)?;
        if parts.peek().is_none() {
            return Some(value);
        }
        here = value.as_table()?;
    }
    None
}

#[test]
fn the_file_of_each_version_is_the_one_that_was_reviewed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/plan/containerd/testdata");
    let updating = std::env::var("EDGE_GOLDEN").is_ok_and(|golden| golden == "update");
    for (version, snapshotter) in all() {
        let (major, minor, patch) = version;
        let path = folder.join(format!("{major}.{minor}.{patch}-{snapshotter}.toml"));
        let text = render::config(&decision(version, snapshotter), Some(&sandbox()));
        if updating {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(reviewed, text, "{}", path.display());
    }
}

/// `dumps/` holds what daemons of these versions printed for the files beside it.
#[test]
fn what_real_daemons_print_of_our_files_is_understood() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/plan/containerd/testdata");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    for version in ["1.5.18", "1.6.20", "1.7.24", "2.0.4", "2.1.9", "2.3.4"] {
        let ours = read(&format!("{version}-devmapper.toml"));
        let dump = read(&format!("dumps/{version}-devmapper.toml"));
        assert_eq!(dump::differences(&ours, &dump), Ok(Vec::new()), "{version}");
        // A file for another snapshotter is not taken for it.
        let other = dump::differences(&read(&format!("{version}-overlayfs.toml")), &dump).unwrap();
        assert!(
            other.iter().any(|key| key.contains(".snapshotter: ours \"overlayfs\"")),
            "{version}: {other:?}"
        );
    }
}

#[test]
fn every_key_has_a_row_and_only_those_that_know_it_get_it() {
    for (version, snapshotter) in all() {
        let runc = Some("/usr/libexec/docker/docker-runc-current".to_owned());
        let decision = Decision { runc, ..decision(version, snapshotter) };
        let rendered = table(&decision);
        for (path, _) in render::entries(&decision, Some(&sandbox())) {
            let has_row = keys::of(version).iter().any(|key| key.path == path);
            assert!(has_row, "{path} has no row in keys.rs");
            assert_eq!(at(&rendered, &path).is_some(), keys::knows(version, &path), "{version:?} {path}");
        }
    }
}

#[test]
fn no_row_of_the_table_is_there_for_nothing() {
    let written: BTreeSet<(u32, String)> = all()
        .flat_map(|(version, snapshotter)| {
            let decision = Decision { runc: Some("/x/runc".into()), ..decision(version, snapshotter) };
            let entries = render::entries(&decision, Some(&sandbox())).into_iter();
            entries.map(move |(path, _)| (version.0, path)).collect::<Vec<_>>()
        })
        .collect();
    for (major, keys) in [(1, keys::SCHEMA_2), (2, keys::SCHEMA_3)] {
        for key in keys {
            assert!(written.contains(&(major, key.path.to_owned())), "{} is never written", key.path);
            assert_eq!(key.since.0, major, "{}", key.path);
            assert!(key.source.contains('/'), "{}: {}", key.path, key.source);
        }
    }
}

/// containerd-facts trap 2: a schema that a version does not read is ignored or refused.
#[test]
fn schema_2_is_for_every_1_x_and_schema_3_for_every_2_x_and_4_for_none() {
    for (version, snapshotter) in all() {
        let schema = table(&decision(version, snapshotter))["version"].as_integer();
        assert_eq!(schema, Some(if version.0 == 1 { 2 } else { 3 }), "{version:?}");
    }
}

#[test]
fn a_version_that_we_do_not_know_gets_no_file() {
    for version in [(0, 9, 0), (1, 3, 9), (3, 0, 0)] {
        assert!(supported(version).is_err(), "{version:?}");
    }
    assert!(VERSIONS.into_iter().all(|version| supported(version).is_ok()));
}

/// A key that goes beside the runtime, whichever schema it is.
fn runtime_key(version: Version, key: &str) -> String {
    let plugin = if version.0 == 1 { "io.containerd.grpc.v1.cri" } else { "io.containerd.cri.v1.runtime" };
    format!("plugins/{plugin}/{key}")
}

/// Without the table 2.x migrates the snapshotter away, without `runtime_type`
/// every pod of 1.x fails.
#[test]
fn the_runtimes_table_and_the_type_of_runc_are_always_there() {
    for (version, snapshotter) in all() {
        let key = runtime_key(version, "containerd/runtimes/runc/runtime_type");
        let table = table(&decision(version, snapshotter));
        assert_eq!(at(&table, &key).and_then(Value::as_str), Some("io.containerd.runc.v2"), "{version:?}");
    }
}

fn strings(table: &Table, key: &str) -> Vec<String> {
    let list = table[key].as_array().unwrap().iter();
    list.map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// On 2.x one snapshotter that fails takes everything down.
#[test]
fn exactly_the_chosen_snapshotter_is_required_and_the_others_cannot_fail() {
    for (version, snapshotter) in all() {
        let table = table(&decision(version, snapshotter));
        let id = |name: &str| format!("io.containerd.snapshotter.v1.{name}");
        let (required, disabled) = (strings(&table, "required_plugins"), strings(&table, "disabled_plugins"));
        let chosen = id(&snapshotter.to_string());
        assert!(required.contains(&chosen) && !disabled.contains(&chosen), "{version:?} {required:?}");
        assert!(required.contains(&"io.containerd.grpc.v1.cri".to_owned()), "{version:?}");
        let devmapper = snapshotter == Snapshotter::Devmapper;
        assert_eq!(disabled.contains(&id("devmapper")), !devmapper, "{version:?}");
        assert_eq!(disabled.contains(&id("overlayfs")), devmapper && version.0 == 2, "{version:?}");
        assert_eq!(disabled.contains(&id("erofs")), devmapper && version >= (2, 1, 0), "{version:?}");
        let section = at(&table, "plugins/io.containerd.snapshotter.v1.devmapper/pool_name");
        assert_eq!(section.is_some(), devmapper, "{version:?}: a section of a snapshotter that is not used");
    }
}

/// 2.x without it: Ready, and no image can be pulled or imported.
#[test]
fn devmapper_is_unpacked_to_by_name_and_for_this_architecture() {
    for version in VERSIONS {
        let decision = Decision { arch: "arm64".into(), ..decision(version, Snapshotter::Devmapper) };
        let table = table(&decision);
        let unpack = at(&table, "plugins/io.containerd.transfer.v1.local/unpack_config");
        assert_eq!(unpack.is_some(), version >= (1, 7, 0), "{version:?}");
        let Some(unpack) = unpack.and_then(Value::as_array) else { continue };
        assert_eq!(unpack.len(), 1);
        let word = |key: &str| unpack[0][key].as_str().unwrap().to_owned();
        assert_eq!((word("platform"), word("snapshotter")), ("linux/arm64".into(), "devmapper".into()));
        assert_eq!(word("differ"), "walking");
    }
}

#[test]
fn the_size_of_devices_is_the_recorded_one() {
    let key = "plugins/io.containerd.snapshotter.v1.devmapper/base_image_size";
    let mut decision = decision((1, 7, 24), Snapshotter::Devmapper);
    decision.choice.base_image_size = Some("20GB".into());
    assert_eq!(at(&table(&decision), key).and_then(Value::as_str), Some("20GB"));
    decision.choice.base_image_size = None;
    assert_eq!(at(&table(&decision), key).and_then(Value::as_str), Some(BASE_IMAGE_SIZE));
}

/// An import is synced by us and a pull by containerd, where it can: the
/// transfer service of 2.1 and newer cannot, so that pulls go the local way.
#[test]
fn pulls_are_synced_where_containerd_can_and_by_the_way_that_does() {
    let has = |version, key: &str| at(&table(&decision(version, Snapshotter::Overlayfs)), key).cloned();
    let cri = "plugins/io.containerd.grpc.v1.cri/image_pull_with_sync_fs";
    let images = "plugins/io.containerd.cri.v1.images/image_pull_with_sync_fs";
    let local = "plugins/io.containerd.cri.v1.images/use_local_image_pull";
    assert_eq!(has((1, 6, 33), cri), None);
    assert_eq!(has((1, 7, 13), cri), None);
    assert_eq!(has((1, 7, 14), cri), Some(Value::Boolean(true)));
    assert_eq!(has((2, 0, 4), images), Some(Value::Boolean(true)));
    assert_eq!(has((2, 0, 4), local), None);
    for version in [(2, 1, 0), (2, 1, 9), (2, 2, 6), (2, 3, 4)] {
        assert_eq!(has(version, images), Some(Value::Boolean(true)), "{version:?}");
        assert_eq!(has(version, local), Some(Value::Boolean(true)), "{version:?}");
    }
}

#[test]
fn bin_dir_is_a_list_from_2_1_on_and_never_both() {
    for version in VERSIONS {
        let table = table(&decision(version, Snapshotter::Overlayfs));
        let one = at(&table, &runtime_key(version, "cni/bin_dir"));
        let many = at(&table, &runtime_key(version, "cni/bin_dirs"));
        assert_eq!(
            (one.is_some(), many.is_some()),
            (version < (2, 1, 0), version >= (2, 1, 0)),
            "{version:?}"
        );
    }
}

const AGENT: &str = r#"{"schema": 1, "site": "hz-017", "role": "agent",
    "node": {"name": "172-16-36-4", "ip": "172.16.36.4"},
    "cluster": {"name": "hz-017", "servers": ["https://172.16.36.1:6443"],
        "ca_hash": "5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d"},
    "join": {"agent_token": "agent-password"}, "k3s": {"version": "KUBERNETES"}}"#;

/// k3s tells the kubelet of its own containerd only, and 1.x cannot tell it itself.
#[test]
fn containerd_and_kubelet_are_told_the_same_of_control_groups() {
    let (facts, local) = (HostFacts::default(), Local::default());
    for kubernetes in ["v1.30.4+k3s1", "v1.31.0+k3s1", "v1.36.2+k3s1"] {
        let text = AGENT.replace("KUBERNETES", kubernetes);
        let assignment = &crate::role::parse_payload(text.as_bytes()).unwrap();
        let inputs = Inputs { facts: &facts, assignment, local: &local, confirmed: true };
        for ((version, snapshotter), systemd_cgroup) in all().flat_map(|one| [(one, true), (one, false)]) {
            let cgroup_v1 = !systemd_cgroup;
            let decision = Decision { systemd_cgroup, cgroup_v1, ..decision(version, snapshotter) };
            let key = runtime_key(version, "containerd/runtimes/runc/options/SystemdCgroup");
            assert_eq!(at(&table(&decision), &key).and_then(Value::as_bool), Some(systemd_cgroup));
            let args = decision.kubelet_args(inputs, assignment.duty.as_ref().unwrap());
            let asks_containerd = version.0 >= 2 && kubernetes != "v1.30.4+k3s1";
            let told = args.contains(&"cgroup-driver=systemd".to_owned());
            assert_eq!(told, systemd_cgroup && !asks_containerd, "{version:?} {kubernetes}");
            let allowed = args.contains(&"fail-cgroupv1=false".to_owned());
            assert_eq!(allowed, cgroup_v1 && kubernetes == "v1.36.2+k3s1", "{version:?} {kubernetes}");
        }
    }
}

#[test]
fn nothing_is_imported_and_no_list_of_others_can_grow_ours() {
    for (version, snapshotter) in all() {
        let table = table(&decision(version, snapshotter));
        assert!(!table.contains_key("imports"), "{version:?}");
        // Metrics have no address of their own, and so are off.
        assert!(!table.contains_key("metrics"), "{version:?}");
        let cri = "io.containerd.grpc.v1.cri".to_owned();
        assert!(!strings(&table, "disabled_plugins").contains(&cri), "{version:?}");
    }
}

fn containerd() -> Containerd {
    Containerd {
        cni_bin_dirs: Fact::Known(Vec::new()),
        runc: Fact::Known(Some("/usr/sbin/runc".into())),
        ..Containerd::default()
    }
}

#[test]
fn only_a_runc_outside_of_the_search_path_is_named() {
    for (runc, named) in [
        ("/usr/sbin/runc", false),
        ("/sbin/runc", false),
        ("/usr/local/bin/runc", false),
        ("/opt/containerd/bin/runc", true),
        ("/usr/bin/docker-runc", true),
    ] {
        let containerd = Containerd { runc: Fact::Known(Some(runc.into())), ..containerd() };
        assert_eq!(hidden_runc(&containerd).as_deref(), named.then_some(runc));
    }
}

#[test]
fn plugins_of_k3s_count_only_where_the_system_has_none() {
    let dirs = |found: &[&str]| {
        let found = found.iter().map(|dir| (*dir).to_owned()).collect();
        cni_bin_dirs(&Containerd { cni_bin_dirs: Fact::Known(found), ..containerd() })
    };
    let k3s = "/var/lib/rancher/k3s/data/cni";
    assert_eq!(dirs(&[k3s, "/usr/libexec/cni"]), ["/usr/libexec/cni"]);
    assert_eq!(dirs(&[k3s]), [k3s]);
    assert_eq!(dirs(&[]), [CNI_BIN_DIR]);
}

#[test]
fn dockers_store_is_never_taken_away_from_under_it() {
    let mut facts = HostFacts::default();
    facts.runtime.containerd.shared_with = Fact::Known(vec!["dockerd".into()]);
    assert!(shares_its_store(&facts).is_ok());
    facts.runtime.containerd.package_root = Fact::Known(Some("/var/lib/containerd/".into()));
    assert!(shares_its_store(&facts).is_ok());
    facts.runtime.containerd.package_root = Fact::Known(Some("/data/containerd".into()));
    assert_eq!(shares_its_store(&facts).unwrap_err().code, "EB-containerd-shared");
    facts.runtime.containerd.shared_with = Fact::Known(Vec::new());
    assert!(shares_its_store(&facts).is_ok());
}

#[test]
fn a_network_of_others_before_ours_is_named_and_a_broken_one_says_what_it_does() {
    let mut facts = HostFacts::default();
    let network = |facts: &HostFacts| foreign_network(facts).map(|network| network.blocks);
    facts.runtime.cni_files = Fact::Known(vec!["99-z.conflist: z".into()]);
    assert_eq!(network(&facts), None);
    facts.runtime.cni_files = Fact::Known(vec![
        "10-flannel.conflist: cbr0".into(),
        "20-x.conflist".into(),
        "99-z.conflist: z".into(),
    ]);
    assert_eq!(network(&facts), Some(false));
    let broken = |name: &str| Fact::Known([(name.to_owned(), "it is empty".to_owned())].into());
    // containerd takes the first and does not come to this one.
    facts.runtime.containerd.broken_networks = broken("20-x.conflist");
    assert_eq!(network(&facts), Some(false));
    facts.runtime.containerd.broken_networks = broken("10-flannel.conflist");
    assert_eq!(network(&facts), Some(true));
    assert!(foreign_network(&facts).unwrap().words.contains("10-flannel.conflist"));
}

//! Every distribution's own containerd starts with what we write.

use edge_lab::room::LONG;
use edge_lab::{Host, Room, Suite, wait_until};
use toml::{Table, Value};

use crate::hand::{SOON, property};

/// The package's own file, and ours.
const PACKAGES: &str = "/etc/containerd/config.toml";
const OURS: &str = "/etc/containerd/edge-bootstrap.toml";

/// Keys of `wanted` that `found` has not, or has with another value.
fn missing(wanted: &Table, found: &Table, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (key, value) in wanted {
        let path = format!("{path}.{key}");
        match (value, found.get(key)) {
            (Value::Table(wanted), Some(Value::Table(found))) => out.extend(missing(wanted, found, &path)),
            (wanted, Some(found)) if wanted == found => {}
            (wanted, found) => out.push(format!("{path} = {wanted} is {found:?}")),
        }
    }
    out
}

#[test]
fn a_key_that_is_dropped_or_changed_is_noticed() {
    let table = |text: &str| text.parse::<Table>().unwrap();
    let ours = table("a = 1\n[b.c]\nd = [\"x\"]\ne = true");
    assert_eq!(missing(&ours, &ours, ""), Vec::<String>::new());
    assert_eq!(missing(&ours, &table("a = 1\nz = 2\n[b.c]\nd = [\"x\", \"y\"]"), "").len(), 2);
    assert_eq!(missing(&ours, &table("b = 1"), "").len(), 2);
}

/// Lines of `ctr plugins ls`, each as its words: type, id, platforms, status.
fn plugins(host: &Host) -> Vec<Vec<String>> {
    let list = || Ok(host.sh("ctr plugins ls").ok());
    let text = wait_until(SOON, "containerd answers", list).unwrap();
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn is_ok(plugins: &[Vec<String>], kind: &str, id: &str) -> bool {
    let fits = |line: &&Vec<String>| {
        line.first().is_some_and(|word| word == kind) && line.get(1).is_some_and(|word| word == id)
    };
    plugins.iter().find(fits).is_some_and(|line| line.last().is_some_and(|word| word == "ok"))
}

/// The plugins that make a CRI of containerd: split in two since 2.0.
fn cri(major: &str) -> &'static [(&'static str, &'static str)] {
    match major {
        "1" => &[("io.containerd.grpc.v1", "cri")],
        _ => &[
            ("io.containerd.grpc.v1", "cri"),
            ("io.containerd.cri.v1", "images"),
            ("io.containerd.cri.v1", "runtime"),
        ],
    }
}

fn runs_on_our_file(host: &Host, version: &str) {
    let running = host.sh("containerd --version").unwrap();
    assert!(
        running.contains(&format!(" {version}.")) || running.contains(&format!(" v{version}.")),
        "{running}"
    );
    let pid = property(host, "containerd", "MainPID");
    let command = host.sh(&format!("tr '\\0' ' ' </proc/{pid}/cmdline")).unwrap();
    assert!(command.contains(&format!("--config {OURS}")), "{command}");
    let plugins = plugins(host);
    let (major, _) = version.split_once('.').unwrap();
    for (kind, id) in cri(major).iter().chain(&[("io.containerd.snapshotter.v1", "overlayfs")]) {
        assert!(is_ok(&plugins, kind, id), "{version}: {kind} {id} is not ok in\n{plugins:#?}");
    }
}

/// containerd drops keys that it does not know, silently or with a warning.
fn takes_every_key(host: &Host) {
    let ours: Table = host.read_file(OURS).unwrap().unwrap().parse().unwrap();
    let dump: Table = host.sh(&format!("containerd --config {OURS} config dump")).unwrap().parse().unwrap();
    assert!(ours["plugins"].as_table().is_some_and(|plugins| !plugins.is_empty()));
    assert_eq!(
        missing(&ours, &dump, ""),
        Vec::<String>::new(),
        "{}: containerd takes our file otherwise",
        host.name()
    );
}

#[test]
fn containerd_of_every_suite_runs_with_what_we_write_and_keeps_its_packages_file() {
    let mut room = Room::open("s-suites").unwrap();
    let suites = [("bw", Suite::Bookworm, "1.6"), ("tx", Suite::Trixie, "1.7"), ("sid", Suite::Sid, "2.1")];
    let mut before = Vec::new();
    for (name, suite, _) in suites {
        let host = room.bare(name, suite).unwrap();
        host.boot().unwrap();
        before.push(host.read_file(PACKAGES).unwrap());
        room.configure(&host).unwrap();
        host.install(room.package()).unwrap();
        room.hosts.push(host);
    }
    room.wait_steady(LONG).unwrap();
    for ((host, (_, _, version)), before) in room.hosts.iter().zip(suites).zip(before) {
        runs_on_our_file(host, version);
        takes_every_key(host);
        assert_eq!(
            host.read_file(PACKAGES).unwrap(),
            before,
            "{}: the package's file is changed",
            host.name()
        );
    }
}

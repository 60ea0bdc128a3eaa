//! Every distribution's own containerd starts with what we write, whatever its
//! package's own file says; what it does not take is not put in force, and what
//! it does not come up with is put back.

use edge_lab::room::LONG;
use edge_lab::{Host, Room, Suite, wait_until};
use toml::{Table, Value};

use crate::hand::{SOON, further_pass, invocations, is_active, one_steady, property, status};

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

/// Codes of what the daemon finds about containerd and networks.
fn codes(host: &Host) -> Vec<String> {
    let findings = status(host)["findings"].as_array().cloned().unwrap_or_default();
    let codes = findings.iter().filter_map(|finding| finding["code"].as_str().map(str::to_owned));
    // An answer that is late once is a finding of one pass, and not about the file.
    codes.filter(|code| code.starts_with("EB-c") && code != "EB-containerd-health").collect()
}

/// Text of the finding with this code.
fn finding(host: &Host, code: &str) -> Option<String> {
    let findings = status(host)["findings"].as_array().cloned().unwrap_or_default();
    let found = findings.iter().find(|finding| finding["code"] == code)?;
    found["text"].as_str().map(str::to_owned)
}

/// What a package, a person or a power cut may leave at the package's place.
const BROKEN: [(&str, &str); 3] =
    [("docker's", "disabled_plugins = [\"cri\"]\n"), ("torn", "version = 2\n[plugins.\"io."), ("empty", "")];

const SUITES: [(&str, Suite, &str); 3] =
    [("bw", Suite::Bookworm, "1.6"), ("tx", Suite::Trixie, "1.7"), ("sid", Suite::Sid, "2.1")];

/// Three hosts, one of each suite; `prepare` is done before the package comes.
fn every_suite(name: &str, prepare: impl Fn(usize, &Host)) -> Room {
    let mut room = Room::open(name).unwrap();
    for (at, (name, suite, _)) in SUITES.into_iter().enumerate() {
        let host = room.bare(name, suite).unwrap();
        host.boot().unwrap();
        prepare(at, &host);
        room.configure(&host).unwrap();
        host.install(room.package()).unwrap();
        room.hosts.push(host);
    }
    room.wait_steady(LONG).unwrap();
    room
}

#[test]
fn containerd_of_every_suite_runs_with_what_we_write_and_keeps_its_packages_file() {
    let packaged = std::cell::RefCell::new(Vec::new());
    let room =
        every_suite("s-suites", |_, host| packaged.borrow_mut().push(host.read_file(PACKAGES).unwrap()));
    for ((host, (_, _, version)), before) in room.hosts.iter().zip(SUITES).zip(packaged.take()) {
        runs_on_our_file(host, version);
        takes_every_key(host);
        assert_eq!(
            host.read_file(PACKAGES).unwrap(),
            before,
            "{}: the package's file is changed",
            host.name()
        );
        for (_, text) in BROKEN {
            host.write_file(PACKAGES, text).unwrap();
            host.sh("systemctl restart containerd").unwrap();
            runs_on_our_file(host, version);
            assert_eq!(host.read_file(PACKAGES).unwrap().as_deref(), Some(text));
        }
        networks_of_others_are_named(host);
        let directory = host.sh("stat -c %i /etc/cni/net.d").unwrap();
        host.sh("edge-bootstrap apply").unwrap();
        assert_eq!(host.sh("stat -c %i /etc/cni/net.d").unwrap(), directory, "containerd would end");
    }
}

/// containerd reads networks by name, and stops at one that it cannot use.
fn networks_of_others_are_named(host: &Host) {
    let leftover = "/etc/cni/net.d/10-left.conflist";
    assert!(!codes(host).contains(&"EB-cni-foreign".to_owned()));
    host.write_file(leftover, r#"{"cniVersion":"0.4.0","name":"left","plugins":[]}"#).unwrap();
    further_pass(host);
    let said = finding(host, "EB-cni-foreign").unwrap();
    assert!(said.contains("10-left.conflist") && said.contains("its list of plugins is empty"), "{said}");
    host.sh(&format!("rm {leftover}")).unwrap();
    further_pass(host);
    assert_eq!(finding(host, "EB-cni-foreign"), None);
}

#[test]
fn a_containerd_that_its_packages_broken_file_keeps_down_comes_up_with_ours() {
    let broken = |at: usize, host: &Host| {
        let (kind, text) = BROKEN[at];
        host.write_file(PACKAGES, text).unwrap();
        // The package's unit starts it again and again; docker's and the empty one run without a CRI of use.
        host.sh("systemctl restart containerd || true").unwrap();
        assert_eq!(is_active(host, "containerd"), kind != "torn", "{kind}");
    };
    let room = every_suite("s-broken", broken);
    for (host, (_, _, version)) in room.hosts.iter().zip(SUITES) {
        runs_on_our_file(host, version);
        takes_every_key(host);
    }
}

/// Where Red Hat's packages have CNI plugins.
const ANOTHER: &str = "/usr/libexec/cni";

fn ours(host: &Host) -> String {
    host.read_file(OURS).unwrap().unwrap()
}

/// Puts a program of ours before containerd, with these lines of shell; the rest
/// is containerd's own doing.
fn wrap(host: &Host, lines: &str) {
    let script = format!("#!/bin/sh\n{lines}\nexec /usr/bin/containerd.real \"$@\"\n");
    host.write_file_mode("/root/containerd", script, 0o755).unwrap();
    host.sh("mv /usr/bin/containerd /usr/bin/containerd.real; mv /root/containerd /usr/bin/containerd")
        .unwrap();
}

fn unwrap(host: &Host) {
    host.sh("mv /usr/bin/containerd.real /usr/bin/containerd").unwrap();
}

/// The next plan has another file for containerd: the distribution's directory
/// of plugins is at another place.
fn plan_another_file(host: &Host) {
    host.sh(&format!("mkdir -p /usr/libexec; mv /usr/lib/cni {ANOTHER}")).unwrap();
}

fn wait_for(host: &Host, what: &str, is_so: impl Fn(&Host) -> bool) {
    wait_until(LONG, what, || Ok(is_so(host).then_some(()))).unwrap();
}

#[test]
fn a_file_that_the_installed_containerd_refuses_is_not_put_in_force_and_nothing_is_restarted() {
    let room = one_steady("s-refused");
    let host = &room.hosts[0];
    let (before, running) = (ours(host), invocations(host));
    // One that drops a key in silence, with exit code 0.
    wrap(
        host,
        &format!(
            "case \"$*\" in *\"config dump\"*) echo x >>/run/asked; /usr/bin/containerd.real \"$@\" | sed 's,{ANOTHER},/nowhere,'; exit 0;; esac"
        ),
    );
    further_pass(host);
    assert_eq!(codes(host), Vec::<String>::new());
    assert_eq!(host.sh("wc -l </run/asked").unwrap().trim(), "1", "the file in force is asked about once");
    plan_another_file(host);
    further_pass(host);
    let said = finding(host, "EB-containerd-refused").unwrap();
    assert!(said.contains(&format!("bin_dir: ours \"{ANOTHER}\", containerd's \"/nowhere\"")), "{said}");
    assert!(said.contains("the file before it stays in force"), "{said}");
    (0..3).for_each(|_| further_pass(host));
    assert_eq!(host.sh("wc -l </run/asked").unwrap().trim(), "2", "a quiet pass asks nothing");
    assert_eq!((ours(host), invocations(host)), (before.clone(), running));
    // Before READY too, and inside the sandbox of a boot; also where the k3s in force
    // lost what it had unpacked.
    host.sh("truncate -s 0 /var/lib/rancher/k3s/data/*/bin/k3s && sync").unwrap();
    host.cut().unwrap();
    host.boot().unwrap();
    wait_for(host, "k3s is up again", |host| is_active(host, "k3s") && is_active(host, "containerd"));
    wait_for(host, "the refusal is told", |host| codes(host).contains(&"EB-containerd-refused".to_owned()));
    assert_eq!(ours(host), before);
    unwrap(host);
    further_pass(host);
    wait_for(host, "the file is in force", |host| ours(host).contains(ANOTHER) && codes(host).is_empty());
    takes_every_key(host);
}

#[test]
fn a_containerd_that_does_not_come_up_with_its_new_file_gets_the_one_before_back() {
    let room = one_steady("s-back");
    let host = &room.hosts[0];
    let (before, k3s) = (ours(host), invocations(host)[0].clone());
    wrap(
        host,
        &format!(
            "case \"$*\" in *dump*|*--version*) ;; *) if grep -q {ANOTHER} {OURS}; then echo 'containerd: load required plugin x: as if' >&2; exit 1; fi;; esac"
        ),
    );
    plan_another_file(host);
    host.sh("systemctl reload edge-bootstrap").unwrap();
    let code = "EB-containerd-rolled-back";
    wait_for(host, "it is rolled back", |host| codes(host).contains(&code.to_owned()));
    wait_for(host, "containerd is up", |host| is_active(host, "containerd") && !plugins(host).is_empty());
    let said = finding(host, code).unwrap();
    assert!(said.contains("as if"), "{said}");
    assert_eq!(ours(host), before);
    assert_eq!(invocations(host)[0], k3s, "k3s was restarted for nothing");
    further_pass(host);
    assert_eq!((ours(host), codes(host)), (before.clone(), vec![code.to_owned()]), "it was tried again");
    host.cut().unwrap();
    host.boot().unwrap();
    wait_for(host, "k3s is up again", |host| is_active(host, "k3s") && is_active(host, "containerd"));
    assert_eq!(ours(host), before);
    unwrap(host);
    host.sh("edge-bootstrap apply").unwrap();
    assert!(ours(host).contains(ANOTHER));
    runs_on_our_file(host, "1.7");
}

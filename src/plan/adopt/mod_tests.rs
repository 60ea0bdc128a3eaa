#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::facts::k3s_config::parse_in_clear;
use crate::facts::unit_text as line;
use crate::role::words::is_bootstrap_token;
use crate::wire::written;

/// The command line of the field, behind `k3s server`.
const FIELD: &str = "--disable coredns,servicelb,traefik,local-storage,metrics-server --disable-kube-proxy --disable-network-policy --no-flannel --cluster-init --cluster-cidr 10.253.0.0/16 --service-cidr 10.254.0.0/16 --container-runtime-endpoint unix:///run/containerd/containerd.sock --node-name 10-0-0-1 --node-ip 10-0-0-1";

fn installed(line: &str, variables: &[(&str, &str)], files: &[&str]) -> Installed {
    let variable = |(name, value): &(&str, &str)| Variable {
        path: "/etc/systemd/system/k3s.service.env".to_owned(),
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    let file =
        |text: &&str| ConfigFile { path: paths::K3S_CONFIG.to_owned(), layer: parse_in_clear(text).unwrap() };
    Installed {
        unit: "k3s.service".to_owned(),
        path: paths::K3S_UNIT.to_owned(),
        role: Role::Server,
        version: "v1.21.5+k3s2".parse().ok(),
        arguments: line::words(line),
        variables: variables.iter().map(variable).collect(),
        files: files.iter().map(file).collect(),
    }
}

fn seen() -> Seen {
    Seen {
        name: Some("10-0-0-1".to_owned()),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        servers: vec!["https://10.0.0.2:6443".to_owned()],
        server_token: Some("canary-server".to_owned()),
        agent_token: None,
        ca_hash: Some("5d".repeat(32)),
        version: Some("v1.21.5+k3s2".to_owned()),
        has_datastore: Some(true),
    }
}

fn fates(installed: &Installed) -> Vec<(String, Option<String>)> {
    settings(installed).into_iter().map(|one| (one.name, one.lost)).collect()
}

#[test]
fn the_command_line_of_the_field_is_understood() {
    let all = settings(&installed(FIELD, &[], &[]));
    assert_eq!(all.len(), 10);
    let raw = in_force(&all);
    assert_eq!(raw["disable"].len(), 5);
    assert_eq!(raw["no-flannel"], ["true"]);
    assert_eq!(raw["cluster-cidr"], ["10.253.0.0/16"]);
    let wrong: Vec<_> = all.iter().filter_map(|one| one.invalid.as_deref()).collect();
    assert_eq!(wrong, ["\"10-0-0-1\" is no IP address, which k3s refuses"]);
    assert!(!raw.contains_key("node-ip"));
}

#[test]
fn arguments_beat_files_and_files_beat_variables() {
    let host = installed(
        "--node-name=b -t canary --kubelet-arg a=1 --debug",
        &[
            ("K3S_NODE_NAME", "c"),
            ("K3S_URL", "https://10.0.0.2:6443"),
            ("HTTP_PROXY", "http://p"),
            ("K3S_TOKEN", ""),
        ],
        &["node-name: a\nkubelet-arg: [b=2]\n", "kubelet-arg+: [c=3]\n"],
    );
    let raw = in_force(&settings(&host));
    assert_eq!(raw["node-name"], ["b"]);
    assert_eq!(raw["kubelet-arg"], ["b=2", "c=3", "a=1"]);
    assert_eq!(raw["server"], ["https://10.0.0.2:6443"]);
    assert_eq!(raw["debug"], ["true"]);
    let lost: Vec<_> =
        fates(&host).into_iter().filter(|(_, lost)| lost.is_some()).map(|(name, _)| name).collect();
    assert_eq!(lost, ["node-name", "K3S_NODE_NAME", "K3S_TOKEN"]);
}

#[test]
fn nothing_shown_holds_a_secret() {
    let host = installed(
        "--token canary-1 --kube-apiserver-arg oidc-client-secret=canary-2 canary-3",
        &[("K3S_AGENT_TOKEN", "canary-4"), ("OTHER", "canary-5")],
        &["etcd-s3-secret-key: x\ntokenn: canary-6\ns3-secret: canary-7\nfoo-password: canary-8\n"],
    );
    let all = settings(&host);
    let table = rows(&all, &redacted(&in_force(&all)), &[], Role::Server);
    let text = format!("{table:?}{host:?}{:?}", redacted(&in_force(&all)));
    assert!(!text.contains("canary"), "{text}");
}

#[test]
fn configurations_that_do_the_same_are_equal() {
    let effective = |text: &str| {
        let mut effective = Effective::default();
        effective.merge(text).unwrap();
        normal(&effective, Role::Server, &seen())
    };
    let old = "disable: 'a,b'\nhttps-listen-port: 6443\nnode-name: 10-0-0-1\ndebug: false\ncluster-dns: 10.43.0.10\n";
    let new = "disable: [b, a]\nnode-ip: 10.0.0.1\ncluster-cidr: 10.42.0.0/16\nserver: https://x:6443\n";
    assert_eq!(differences(&effective(old), &effective(new)), []);
    let changed = differences(&effective("no-flannel: true\n"), &effective("flannel-backend: none\n"));
    assert_eq!(changed.len(), 1, "{changed:?}");
    let one = &changed[0];
    assert_eq!(
        (one.key.as_str(), one.old.as_slice()),
        ("flannel-backend", ["vxlan (k3s's default)".to_owned()].as_slice())
    );
    assert!(one.words.unwrap().contains("all servers one after another"));
}

fn proposed(line: &str, files: &[&str]) -> (crate::role::Assignment, Vec<String>) {
    let raw = in_force(&settings(&installed(line, &[], files)));
    let proposed = proposal(&raw, Role::Server, &seen(), "local").unwrap();
    let payload = written::payload(&proposed.text).unwrap();
    (crate::role::validate(&payload, String::new()).unwrap(), proposed.allow_keys)
}

#[test]
fn the_proposal_is_an_assignment_of_what_runs() {
    let more = "etcd-s3: true\netcd-s3-endpoint: s3.x\netcd-s3-bucket: b\netcd-s3-access-key: ak\netcd-s3-secret-key: sk\netcd-s3-skip-ssl-verify: true\nnode-label: [a=b]\ntls-san: [x.example]\nwrite-kubeconfig-mode: '0644'\ndisable+: runtimes\n";
    let (assignment, allowed) = proposed(FIELD, &[more]);
    let duty = assignment.duty.unwrap();
    assert_eq!(duty.node.name.as_str(), "10-0-0-1");
    assert_eq!(duty.node.ip.to_string(), "10.0.0.1");
    assert_eq!((duty.cluster.cluster_cidr.as_str(), duty.cluster.init), ("10.253.0.0/16", true));
    assert_eq!(duty.cluster.servers[0].as_str(), "https://10.0.0.2:6443");
    assert!(duty.cluster.ca_hash.is_some());
    let snapshots = duty.snapshots.unwrap();
    assert_eq!((snapshots.retention, snapshots.s3.unwrap().bucket.as_str()), (5, "b"));
    for (told, kept) in [("0", 5), ("9", 9)] {
        let (assignment, _) = proposed(FIELD, &[&format!("etcd-snapshot-retention: {told}\n")]);
        assert_eq!(assignment.duty.unwrap().snapshots.unwrap().retention, kept, "as k3s is told {told}");
    }
    let free: Vec<_> = duty.k3s.config.iter().map(|(key, value)| (key.as_str(), value.to_string())).collect();
    let expected = [
        ("disable", "[\"runtimes\"]"),
        ("etcd-s3-skip-ssl-verify", "true"),
        ("write-kubeconfig-mode", "\"0644\""),
    ];
    assert_eq!(free, expected.map(|(key, value)| (key, value.to_owned())));
    assert_eq!(allowed, ["write-kubeconfig-mode"]);
    assert_eq!(duty.join.server.unwrap().to_string(), "canary-server");
}

#[test]
fn what_cannot_be_told_is_asked_for() {
    let asked = proposal(&Raw::new(), Role::Agent, &Seen::default(), "local").unwrap_err();
    assert_eq!(asked.len(), 5, "{asked:?}");
}

#[test]
fn passwords_of_tokens_are_told_from_their_hash_and_user() {
    for (token, found) in [
        ("K10aa::server:pw", Some("pw")),
        ("K10aa::abcdef.0123456789abcdef", Some("abcdef.0123456789abcdef")),
        ("pw\n", Some("pw")),
        ("", None),
    ] {
        assert_eq!(password(token).as_deref(), found, "{token}");
    }
}

#[test]
fn what_is_left_of_files_is_what_was_not_moved() {
    let text = "# mine\nK3S_TOKEN='a\nb'\nHTTP_PROXY=http://p\nK3S_URL=\"x\"\n";
    let rest = environment_rest(text, &[]);
    assert!(rest.changed && rest.text.ends_with("# mine\nHTTP_PROXY=http://p\n"), "{rest:?}");
    assert_eq!(environment_rest(&rest.text, &[]), Rest { text: rest.text.clone(), changed: false });
    assert_eq!(environment_rest("K3S_URL=x\n", &[]).text, "");
    let unit = "[Unit]\nAfter=x\n[Service]\nExecStart=\nExecStart=k3s \\\n server\nEnvironment=K3S_URL=a \"B=c d\"\nNice=5\n";
    let rest = unit_rest(unit);
    assert_eq!(rest.text, "[Unit]\nAfter=x\n[Service]\nEnvironment=\"B=c d\"\nNice=5\n");
    assert_eq!(unit_rest("[Service]\nExecStart=k3s server\n").text, "");
    assert!(!unit_rest("[Service]\nNice=5\n").changed);
}

#[test]
fn the_configuration_meanwhile_says_alone_what_line_and_files_said() {
    let line = FIELD.replace("--node-ip 10-0-0-1", "--kubelet-arg a=b");
    let raw = in_force(&settings(&installed(&line, &[], &["kubelet-arg: [c=d]\n"])));
    let text = transition(&raw);
    let mut read = Effective::default();
    read.merge(&text).unwrap();
    assert_eq!(read, redacted(&raw));
    assert_eq!(in_force(&settings(&installed("", &[], &[&text]))), raw);
}

#[test]
fn an_operators_own_directives_are_told() {
    let theirs = "[Unit]\nDescription=x\n[Service]\nKillMode=process\nLimitNOFILE=9\nExecStartPre=-/sbin/modprobe overlay\nExecStartPre=/srv/prepare\nEnvironment=A=b\n";
    let ours = "[Service]\nKillMode=process\nLimitNOFILE=1048576\n";
    assert_eq!(left_out(theirs, ours), ["LimitNOFILE=9", "ExecStartPre=/srv/prepare"]);
}

#[test]
fn an_agent_joins_with_what_it_was_given() {
    let line = "-s https://10.0.0.2:6443 --no-flannel --kubelet-arg cgroup-driver=systemd";
    let host =
        Installed { role: Role::Agent, ..installed(line, &[("K3S_TOKEN", "K10aa::node:canary")], &[]) };
    let agent_token = Some("canary".to_owned());
    let seen = Seen { server_token: None, agent_token, servers: Vec::new(), ..seen() };
    let proposed = proposal(&in_force(&settings(&host)), Role::Agent, &seen, "local").unwrap();
    let payload = written::payload(&proposed.text).unwrap();
    let duty = crate::role::validate(&payload, String::new()).unwrap().duty.unwrap();
    assert_eq!(duty.cluster.servers[0].as_str(), "https://10.0.0.2:6443");
    assert_eq!((duty.join.agent.unwrap().to_string().as_str(), duty.join.server.is_none()), ("canary", true));
    assert!(duty.k3s.config.is_empty(), "the plan writes the cgroup driver itself");
    // Its servers may say vxlan for long, and nothing else keeps flannel away.
    let raw = in_force(&settings(&host));
    assert!(agent_drop_in(&raw, Role::Agent).unwrap().contains("\nno-flannel: true\n"));
    assert_eq!((agent_drop_in(&raw, Role::Server), agent_drop_in(&Raw::new(), Role::Agent)), (None, None));
}

#[test]
fn lists_of_files_and_of_the_command_line_add_up_as_in_k3s() {
    let raw = in_force(&settings(&installed(
        "--service-cidr 10.254.0.0/16",
        &[],
        &["service-cidr: 10.254.0.0/16\n"],
    )));
    assert_eq!(raw["service-cidr"], ["10.254.0.0/16", "10.254.0.0/16"]);
}

#[test]
fn a_variable_that_the_role_or_the_version_does_not_read_goes_nowhere() {
    let variables = [
        ("K3S_CLUSTER_INIT", "true"),
        ("K3S_DATA_DIR", "/srv"),
        ("K3S_NODE_NAME", "b"),
        ("K3S_VPN_AUTH", "canary"),
    ];
    let lost = |role, version: &str| {
        let host = Installed { role, version: version.parse().ok(), ..installed("", &variables, &[]) };
        let raw = in_force(&settings(&host));
        variables.map(|(name, _)| raw.contains_key(key_of(name).unwrap()))
    };
    assert_eq!(lost(Role::Agent, "v1.30.3+k3s1"), [false, true, true, true]);
    assert_eq!(lost(Role::Server, "v1.30.2+k3s1"), [true, false, true, true]);
    assert_eq!(lost(Role::Server, "v1.24.1+k3s1"), [true, false, true, false]);
}

#[test]
fn a_node_stays_as_what_it_runs_whatever_its_host_is_called_now() {
    let of = |line: &str, seen: &Seen| {
        let raw = in_force(&settings(&installed(line, &[], &[])));
        let payload = written::payload(&proposal(&raw, Role::Server, seen, "local").unwrap().text).unwrap();
        let duty = crate::role::validate(&payload, String::new()).unwrap().duty.unwrap();
        (duty.node.name.to_string(), duty.node.ip.to_string())
    };
    let six = "fd00::1".parse().unwrap();
    let seen =
        Seen { addresses: vec![six, "10.0.0.9".parse().unwrap(), "10.0.0.1".parse().unwrap()], ..seen() };
    let pair = |name: &str, ip: &str| (name.to_owned(), ip.to_owned());
    assert_eq!(of("", &seen), pair("10-0-0-1", "10.0.0.9"));
    assert_eq!(of("--node-external-ip 10.0.0.9", &seen), pair("10-0-0-1", "10.0.0.1"));
    assert_eq!(of("--node-ip 10.0.0.1", &seen), pair("10-0-0-1", "10.0.0.1"));
    let only = Seen { addresses: vec![six], ..seen.clone() };
    assert_eq!(only.running_ip(&Effective::default()).as_deref(), Some("fd00::1"));
}

#[test]
fn settings_that_would_make_another_node_are_no_way_to_take_it_over() {
    let broken = |line: &str| {
        let raw = in_force(&settings(&installed(line, &[], &[])));
        seen::contradictions(&redacted(&raw), &seen()).into_iter().map(|one| one.reason).collect::<Vec<_>>()
    };
    assert!(broken("--node-name 10-0-0-1 --node-ip 10.0.0.1").is_empty() && broken("").is_empty());
    let found = broken("--node-name other --node-ip 10.0.0.2");
    assert!(
        found.len() == 2 && found[0].contains("runs as 10-0-0-1") && found[1].contains("10.0.0.2"),
        "{found:?}"
    );
}

#[test]
fn a_token_of_a_day_is_no_token_of_a_cluster() {
    assert!(is_bootstrap_token("abcdef.0123456789abcdef"));
    for token in ["abcdef.0123456789abcde", "Abcdef.0123456789abcdef", "canary", "a.b", ""] {
        assert!(!is_bootstrap_token(token), "{token}");
    }
}

#[test]
fn blanks_that_k3s_would_cut_off_in_a_file_are_told() {
    let of = |value: &str| Raw::from([("node-label".to_owned(), vec!["a=b".to_owned(), value.to_owned()])]);
    assert_eq!((unwritable(&of("c=d ")), unwritable(&of("c=d"))), (Some("node-label"), None));
}

/// Agents join with the server token where there is no other.
#[test]
fn an_agent_token_that_agents_do_not_have_is_refused() {
    let text = include_str!("../../../tests/plan/01-first-server/assignment.json");
    let told = |assigned: Option<&str>, server: &str, agent: Option<&str>| {
        let mut payload: serde_json::Value = serde_json::from_str(text).unwrap();
        payload["join"]["agent_token"] = serde_json::json!(assigned);
        let assignment = crate::role::parse_payload(payload.to_string().as_bytes()).unwrap();
        let (server_token, agent_token) = (Some(server.to_owned()), agent.map(str::to_owned));
        let seen = Seen { server_token, agent_token, ..Seen::default() };
        let refusals = blockers(&Effective::default(), &[], &assignment, &seen);
        let is_told = refusals.iter().any(|refusal| refusal.reason.contains("agent token"));
        assert!(refusals.iter().all(|refusal| !refusal.to_string().contains("canary")));
        is_told
    };
    assert!(!told(Some("agents-canary"), "servers-canary", Some("agents-canary")));
    assert!(!told(Some("servers-canary"), "servers-canary", None));
    assert!(!told(None, "servers-canary", None));
    assert!(told(Some("other-canary"), "servers-canary", Some("agents-canary")));
    assert!(told(Some("other-canary"), "servers-canary", None));
    assert!(told(None, "servers-canary", Some("agents-canary")));
}

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn judged(at: &str, role: Role, config: &Json) -> Result<Assigned, Refusal> {
    allowed(at, role, config, &[])
}

fn allowed(at: &str, role: Role, config: &Json, allow: &[&str]) -> Result<Assigned, Refusal> {
    let config: BTreeMap<ConfigKey, Json> = serde_json::from_value(config.clone()).unwrap();
    let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
    assigned((&at.parse().unwrap(), role), &config, &allow)
}

fn words(at: &str, role: Role, config: &Json) -> String {
    let refusal = judged(at, role, config).unwrap_err();
    assert_eq!(refusal.code, "EB-k3s-key");
    refusal.to_string()
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let config = json!({
        "kubelet-args": ["v=2"], "no-deploy": "traefik", "secrets-encryption-provider": "secretbox",
        "debug": "maybe", "token": "x", "docker": true, "resolv-conf": "/x", "etcd-s3-timeout": 5,
    });
    let told = words("v1.30.2+k3s1", Role::Server, &config);
    for part in [
        "kubelet-args is no key of k3s; did you mean kubelet-arg (every version)?",
        "no-deploy is only in versions before v1.26.0: use disable",
        "a server of this version does not know secrets-encryption-provider (it is in v1.30.12 perhaps, v1.31.8, v1.32.4 and newer)",
        "debug takes true or false, not that text",
        "the plan itself decides token",
        "docker is not for nodes of edge-bootstrap",
        "resolv-conf: not allowed without this host's permission",
        "allow-keys = [\"resolv-conf\"]",
        "etcd-s3-timeout takes a duration above zero",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

#[test]
fn a_key_of_the_other_role_is_misplaced() {
    let told = words("v1.36.3+k3s1", Role::Agent, &json!({"secrets-encryption": true}));
    assert!(told.contains("an agent does not know secrets-encryption"), "{told}");
    let told = words("v1.36.3+k3s1", Role::Server, &json!({"disable-apiserver-lb": true}));
    assert!(told.contains("a server does not know disable-apiserver-lb"), "{told}");
    let bind = json!({"bind-address": "172.16.36.4"});
    let at = |at| allowed(at, Role::Agent, &bind, &["bind-address"]);
    assert!(at("v1.28.10+k3s1").unwrap_err().reason.contains("v1.28.11"));
    assert!(at("v1.28.11+k3s1").is_ok());
}

#[test]
fn a_release_that_is_not_certain_is_a_note_for_servers_and_a_refusal_for_agents() {
    let dns = json!({"node-internal-dns": "a.example.net"});
    assert_eq!(judged("v1.29.13+k3s1", Role::Server, &dns).unwrap().notes.len(), 1);
    assert!(words("v1.29.13+k3s1", Role::Agent, &dns).contains("may not know node-internal-dns yet"));
    assert!(judged("v1.30.8+k3s1", Role::Agent, &dns).unwrap().notes.is_empty());
}

#[test]
fn a_permission_opens_what_names_paths_and_nothing_that_the_plan_decides() {
    let allow = ["resolv-conf", "token-file", "no-such-key", "t", "cluster-reset"];
    let at = |config: &Json| allowed("v1.36.3+k3s1", Role::Server, config, &allow);
    assert!(at(&json!({"resolv-conf": "/etc/resolv.k3s"})).is_ok());
    for config in [json!({"token-file": "/x"}), json!({"no-such-key": 1}), json!({"cluster-reset": true})] {
        assert!(at(&config).is_err(), "{config}");
    }
    // A key of a k3s that is newer than the table is the host's own risk.
    let new = allowed("v1.37.1+k3s1", Role::Agent, &json!({"no-such-key": 1}), &allow).unwrap();
    assert_eq!((new.entries.len(), new.notes.len()), (1, 1));
    assert!(judged("v1.37.1+k3s1", Role::Agent, &json!({"no-such-key": 1})).is_err());
}

#[test]
fn values_have_the_type_of_their_key() {
    let rows = [
        (json!({"debug": true}), Some(Value::Bare("true".to_owned()))),
        (json!({"debug": "false"}), Some(Value::Bare("false".to_owned()))),
        (json!({"debug": "yes"}), None),
        (json!({"debug": 1}), None),
        (json!({"debug": null}), None),
        (json!({"etcd-s3-retention": 7}), Some(Value::Bare("7".to_owned()))),
        (json!({"etcd-s3-retention": "07"}), Some(Value::Bare("7".to_owned()))),
        (json!({"etcd-s3-retention": 7.5}), None),
        (json!({"etcd-s3-timeout": "1h30m"}), Some(Value::text("1h30m"))),
        (json!({"etcd-s3-timeout": "0s"}), None),
        (json!({"etcd-s3-timeout": "5"}), None),
        (json!({"etcd-s3-timeout": "5 minutes"}), None),
        (json!({"cluster-domain": "room.example"}), Some(Value::text("room.example"))),
        (json!({"cluster-domain": 12}), None),
        (json!({"cluster-domain": " room"}), None),
        (json!({"cluster-domain": "a\nb"}), None),
        (json!({"cluster-domain": {"a": 1}}), None),
        (json!({"egress-selector-mode": "pod"}), Some(Value::text("pod"))),
        (json!({"egress-selector-mode": "pods"}), None),
        (json!({"kubelet-arg": "v=2"}), Some(Value::List(vec!["v=2".to_owned()]))),
        (json!({"kubelet-arg": ["v=2", "x"]}), Some(Value::List(vec!["v=2".to_owned(), "x".to_owned()]))),
        (json!({"kubelet-arg": ["v=2", 1]}), None),
        (json!({"kubelet-arg": [""]}), None),
        (json!({"kubelet-arg": true}), None),
    ];
    for (config, wanted) in rows {
        let found = judged("v1.36.3+k3s1", Role::Server, &config);
        match wanted {
            Some(value) => assert_eq!(found.unwrap().entries[0].1, value, "{config}"),
            None => assert!(found.is_err(), "{config}"),
        }
    }
    assert!(judged("v1.36.3+k3s1", Role::Server, &json!({"disable": []})).unwrap().entries.is_empty());
}

#[test]
fn a_list_of_flags_is_no_open_door() {
    let rows = [
        (json!({"kubelet-arg": ["v=2", "hostname-override=x"]}), "the Node's name is `node.name`"),
        (json!({"kubelet-arg": "node_ip=10.0.0.1"}), "the Node's address is `node.ip`"),
        (json!({"kubelet-arg": "register-node=false"}), "would have no Node"),
        (json!({"kubelet-arg": "cgroup-driver=cgroupfs"}), "that of containerd"),
        (json!({"etcd-arg": ["force-new-cluster=true"]}), "go on alone"),
        (json!({"etcd-arg": ["Initial-Cluster-State=new"]}), "who this member is"),
        (json!({"kube-apiserver-arg": ["etcd-servers=https://a:2379"]}), "another datastore"),
        (json!({"kube-controller-manager-arg": ["cluster-cidr=10.0.0.0/8"]}), "`cluster.cluster_cidr`"),
        (json!({"kubelet-arg": ["max-pods 50"]}), "its value 1 is no flag"),
    ];
    for (config, wanted) in rows {
        let told = words("v1.36.3+k3s1", Role::Server, &config);
        assert!(told.contains(wanted), "{config}: {told}");
    }
    let path = json!({"kube-apiserver-arg": ["audit-log-path=/var/log/audit.log"]});
    assert!(words("v1.36.3+k3s1", Role::Server, &path).contains("allow-keys = [\"kube-apiserver-arg\"]"));
    assert!(allowed("v1.36.3+k3s1", Role::Server, &path, &["kube-apiserver-arg"]).is_ok());
    let forbidden = json!({"kubelet-arg": ["kubeconfig=/x"]});
    assert!(allowed("v1.36.3+k3s1", Role::Server, &forbidden, &["kubelet-arg"]).is_err());
}

#[test]
fn values_have_the_form_that_k3s_takes() {
    let rows = [
        (json!({"cluster-dns": ["10.254.0.10,10.254.0.11"]}), true),
        (json!({"cluster-dns": ["10-254-0-10"]}), false),
        (json!({"node-external-ip": "203.0.113.7,x"}), false),
        (json!({"service-node-port-range": "32767-30000"}), false),
        (json!({"cluster-domain": "Cluster Local"}), false),
        (json!({"system-default-registry": "https://registry.example.net"}), false),
    ];
    for (config, is_right) in rows {
        assert_eq!(judged("v1.36.3+k3s1", Role::Server, &config).is_ok(), is_right, "{config}");
    }
}

proptest! {
    /// Whatever an assignment says: refused, or read back equal by k3s.
    #[test]
    fn what_is_taken_can_be_written(text in any::<String>(), duration in "[0-9.smhu]{0,6}") {
        let config = json!({"cluster-domain": text, "etcd-s3-timeout": duration});
        if let Ok(found) = judged("v1.36.3+k3s1", Role::Server, &config) {
            prop_assert!(found.entries.iter().all(|(_, value)| value.reads_back()));
        }
        let _ = is_duration(&text);
    }
}

use std::collections::BTreeSet;

use super::*;
use crate::facts::k3s_config::{Effective, Layer, SECRET_KEYS, is_secret, parse_layer};

fn version(text: &str) -> K3sVersion {
    text.parse().unwrap()
}

fn keys(text: &str) -> Keys {
    of(&version(text))
}

fn layer(text: &str) -> Layer {
    parse_layer(text).unwrap()
}

#[test]
fn every_row_of_the_table_can_be_read() {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let key = Key::read(line).unwrap();
        let cells = line.split('\t').count();
        assert!((6..=11).contains(&cells), "{line}");
        assert!(["S", "A", "B"].contains(&key.columns[0]), "{line}");
        let kind = key.columns[3];
        assert!(["b", "s", "i", "d", "l"].contains(&kind.split('=').next().unwrap()), "{line}");
        assert!(["free", "host", "plan", "never"].contains(&key.columns[5]), "{line}");
        let releases = |column: &str| column == "0" || column.is_empty() || since::lines(column).count() > 0;
        assert!(!key.columns[1].is_empty() && releases(key.columns[1]) && releases(key.columns[2]), "{line}");
        assert!(key.columns[4] == "D" || releases(key.columns[4]), "{line}");
        assert!(key.name.parse::<crate::role::words::ConfigKey>().is_ok(), "no assignment can set {line}");
    }
    let named: Vec<_> = rows().map(|key| (key.name, key.columns[0])).collect();
    assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), named.len(), "a key stands twice");
    assert!(rows().count() > 130, "{}", rows().count());
}

#[test]
fn a_version_has_its_own_keys() {
    let rows = [
        ("etcd-arg", "v1.21.6+k3s1", Role::Server, "NotYet"),
        ("etcd-arg", "v1.21.7+k3s1", Role::Server, "Known"),
        ("etcd-arg", "v1.22.3+k3s1", Role::Server, "NotYet"),
        ("etcd-arg", "v1.23.1+k3s1", Role::Server, "Known"),
        ("etcd-arg", "v1.36.2+k3s1", Role::Agent, "OtherRole"),
        ("bind-address", "v1.27.14+k3s1", Role::Agent, "NotYet"),
        ("bind-address", "v1.27.14+k3s1", Role::Server, "Known"),
        ("bind-address", "v1.30.2-rc1+k3s1", Role::Agent, "Known"),
        ("disable-apiserver-lb", "v1.36.2+k3s1", Role::Server, "OtherRole"),
        ("no-deploy", "v1.25.16+k3s1", Role::Server, "Known"),
        ("no-deploy", "v1.26.0+k3s1", Role::Server, "Removed"),
        ("multi-cluster-cidr", "v1.28.9+k3s1", Role::Server, "Known"),
        ("multi-cluster-cidr", "v1.29.0+k3s1", Role::Server, "Removed"),
        ("node-internal-dns", "v1.29.13+k3s1", Role::Agent, "Perhaps"),
        ("helm-controller-arg", "v1.36.3+k3s1", Role::Server, "Known"),
        ("helm-controller-arg", "v1.36.2+k3s1", Role::Server, "NotYet"),
        ("kubelet-args", "v1.36.2+k3s1", Role::Server, "Unknown"),
    ];
    for (name, text, role, wanted) in rows {
        let found = format!("{:?}", keys(text).find(name, role));
        assert!(found.starts_with(wanted), "{name} of {text} as {role}: {found}");
    }
}

#[test]
fn only_versions_since_1_21_are_known() {
    assert_eq!(supported(&version("v1.20.15+k3s1")).unwrap_err().code, "EB-k3s-version");
    assert!(supported(&version("v1.21.0+k3s1")).is_ok() && supported(&version("v2.0.0+k3s1")).is_ok());
    assert!(!keys("v1.36.3+k3s1").is_newer_than_the_table());
    assert!(keys("v1.36.4+k3s1").is_newer_than_the_table() && keys("v1.37.0+k3s1").is_newer_than_the_table());
}

#[test]
fn short_and_second_names_are_the_long_ones() {
    for (name, wanted) in [
        ("t", "token"),
        ("i", "node-ip"),
        ("s", "server"),
        ("d", "data-dir"),
        ("c", "config"),
        ("o", "write-kubeconfig"),
        ("l", "log"),
        ("kube-controller-arg", "kube-controller-manager-arg"),
        ("kube-cloud-controller-arg", "kube-cloud-controller-manager-arg"),
        ("kubelet-arg", "kubelet-arg"),
        ("anything", "anything"),
    ] {
        assert_eq!(canonical(name), wanted);
    }
}

/// The facts cannot ask the table, which lies a layer above them.
#[test]
fn the_facts_know_the_same_short_names_and_secrets() {
    for key in rows() {
        for alias in key.columns[9].split(',').filter(|alias| !alias.is_empty()) {
            for end in ["", "+"] {
                let read = layer(&format!("{alias}{end}: x\n"));
                let names: Vec<&String> = read.keys().collect();
                assert_eq!(names, [&format!("{}{end}", key.name)], "{alias}");
            }
            assert_eq!(is_guarded(alias, Role::Server), is_guarded(key.name, Role::Server));
            assert_eq!(waits_for_start(alias), waits_for_start(key.name));
        }
        assert_eq!(key.is_secret(), SECRET_KEYS.contains(&key.name), "{}", key.name);
        assert_eq!(key.is_secret(), is_secret(key.name), "{}", key.name);
    }
    for secret in SECRET_KEYS {
        assert!(rows().any(|key| key.name == secret), "k3s has no key {secret}");
    }
}

#[test]
fn the_nearest_key_is_named() {
    let near = |name| nearest(name).map(|key| key.name);
    assert_eq!(near("kubelet-args"), Some("kubelet-arg"));
    assert_eq!(near("tokn"), Some("token"));
    assert_eq!(near("something-else-entirely"), None);
    assert_eq!(near("xyz"), None);
}

#[test]
fn what_may_be_set_freely_is_never_guarded() {
    let is_both = |key: &Key| key.may() == May::Free && key.has("guarded");
    assert_eq!(rows().find(is_both), None);
    assert!(rows().filter(|key| key.may() == May::Free).count() > 25);
}

#[test]
fn what_moves_k3s_from_where_it_is_looked_for_is_nobodys_to_set() {
    for name in ["https-listen-port", "supervisor-port", "bind-address", "lb-server-port", "vpn-auth"] {
        assert!(is_guarded(name, Role::Server), "{name}");
        let key = rows().find(|key| key.name == name && key.serves(Role::Server)).unwrap();
        assert_eq!(key.may(), May::Never, "{name}");
    }
    assert!(!is_guarded("bind-address", Role::Agent), "an agent's own ports are no server's");
    assert!(is_guarded("cluster-init", Role::Agent), "the other role's key");
}

#[test]
fn a_key_of_one_role_in_any_version_is_not_the_servers_alone() {
    assert!(
        is_server_only("cluster-init")
            && is_server_only("no-deploy")
            && is_server_only("helm-controller-arg")
    );
    assert!(
        !is_server_only("bind-address") && !is_server_only("kubelet-arg") && !is_server_only("unheard-of")
    );
}

#[test]
fn what_the_plan_writes_must_be_of_its_version() {
    let written = |text: &str, at: &str, role| {
        let mut config = Effective::default();
        config.merge(text).unwrap();
        written(&config, (&version(at), role)).map(|refusal| refusal.code)
    };
    let lint = Some("EB-lint-key".to_owned());
    assert_eq!(written("node-name: a\netcd-arg: [x=y]\n", "v1.22.4+k3s1", Role::Server), None);
    assert_eq!(written("node-name: a\netcd-arg: [x=y]\n", "v1.22.3+k3s1", Role::Server), lint);
    assert_eq!(written("disable: [x]\n", "v1.36.3+k3s1", Role::Agent), lint);
    assert_eq!(written("nonroot-devices: true\n", "v1.30.9+k3s1", Role::Server), None);
    assert_eq!(written("nonroot-devices: true\n", "v1.30.9+k3s1", Role::Agent), lint);
    assert_eq!(written("unheard-of: true\n", "v1.36.3+k3s1", Role::Server), lint);
    assert_eq!(written("unheard-of: true\n", "v1.37.1+k3s1", Role::Server), None);
}

#[test]
fn a_drop_in_at_which_k3s_would_end_is_refused_and_another_is_told() {
    let rows = [
        ("unheard-of: x", "v1.36.3+k3s1", Role::Agent, true),
        ("unheard-of: x", "v1.36.3+k3s1", Role::Server, false),
        ("unheard-of: x", "v1.22.3+k3s1", Role::Server, true),
        ("bind-address: 10.0.0.1", "v1.27.14+k3s1", Role::Agent, true),
        ("no-flannel: true", "v1.24.17+k3s1", Role::Agent, false),
        ("no-flannel: true", "v1.25.3+k3s1", Role::Server, true),
        ("no-flannel: true", "v1.26.0+k3s1", Role::Agent, true),
        ("no-flannel: true", "v1.26.0+k3s1", Role::Server, false),
        ("kubelet-arg+: v=2", "v1.21.1+k3s1", Role::Agent, false),
        ("nonroot-devices: true", "v1.30.9+k3s1", Role::Agent, true),
        ("nonroot-devices: true", "v1.30.9+k3s1", Role::Server, false),
    ];
    for (text, at, role, refused) in rows {
        let found = drop_in_refused(&[("f", &layer(text))], (&version(at), role), None);
        assert_eq!(found.is_some(), refused, "{text} of {at} as {role}: {found:?}");
    }
    let mut started = Effective::default();
    started.merge("nonroot-devices: true\n").unwrap();
    let kind = (&version("v1.30.9+k3s1"), Role::Agent);
    let known = drop_in_refused(&[("f", &layer("nonroot-devices: true"))], kind, Some(&started));
    assert_eq!(known, None, "k3s has come up with it");
    let told = |text, at: &str| drop_in_notes(&[("f", &layer(text))], (&version(at), Role::Server));
    assert_eq!(told("unheard-of: x", "v1.36.3+k3s1").len(), 1);
    assert_eq!(told("nonroot-devices: true", "v1.30.9+k3s1").len(), 1);
    assert!(told("kubelet-arg+: v=2", "v1.36.3+k3s1").is_empty());
}

#[test]
fn one_host_alone_changes_nothing_that_all_servers_have_alike() {
    let effective = |texts: &[&str]| {
        let mut whole = Effective::default();
        texts.iter().for_each(|text| whole.merge(text).unwrap());
        whole
    };
    let plan = "disable: [coredns, traefik]\ndisable-network-policy: true\nkubelet-arg: [a=b]\n";
    let critical = |drop_in: &str| {
        let file = layer(drop_in);
        let refusal = critical(
            &effective(&[plan]),
            &effective(&[plan, drop_in]),
            &[("/d/a", &Layer::new()), ("/d/b", &file)],
        );
        refusal.map(|refusal| refusal.reason)
    };
    for text in [
        "egress-selector-mode: disabled",
        "disable+: runtimes",
        "cluster-domain: room",
        "flannel-external-ip: true",
    ] {
        let told = format!("/d/b changes {}", text.split([':', '+']).next().unwrap());
        assert!(critical(text).unwrap().starts_with(&told), "{text}");
    }
    for text in [
        "kubelet-arg+: max-pods=50",
        "disable: [traefik, coredns]",
        "debug: true",
        "disable-network-policy: true",
    ] {
        assert_eq!(critical(text), None, "{text}");
    }
}

#[test]
fn a_drop_in_with_a_value_at_which_k3s_would_end_is_refused() {
    let rows = [
        ("debug: maybe", true),
        ("debug:", true),
        ("debug: yes", false),
        ("v: 0o17", false),
        ("v: high", true),
        ("kubelet-arg+: [max-pods 50]", true),
        ("kubelet-arg+: [max-pods=50]", false),
        ("node-external-ip: 203.0.113.7,203.0.113.300", true),
        ("node-external-ip: 203.0.113.7,203.0.113.8", false),
        ("etcd-snapshot-name: anything", false),
        ("unheard-of: anything", false),
    ];
    for (text, refused) in rows {
        assert_eq!(drop_in_value(&[("f", &layer(text))]).is_some(), refused, "{text}");
    }
}

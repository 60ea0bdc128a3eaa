//! What goes of empty files, when, and what a person is told.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::{Value, json};

use super::*;
use crate::facts::Fact;
use crate::facts::runtime::{Unit, pinned_server};
use crate::plan::{Local, PlannedRestore, RestoreFrom, config::Start};
use crate::role::{Assignment, parse_payload};

const MEMBER: &str = "server/db/etcd/name";
const CA: &str = "server/tls/client-ca.key";
const LEAF: &str = "server/tls/client-kube-proxy.key";

fn assignment(role: Role, version: &str) -> Assignment {
    let text = include_str!("../../tests/plan/05-second-server-has-joined/assignment.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    payload["role"] = json!(role.to_string());
    payload["k3s"]["version"] = json!(version);
    if role == Role::Agent {
        payload["cluster"]["init"] = json!(false);
        payload["join"].as_object_mut().unwrap().remove("server_token");
    }
    parse_payload(payload.to_string().as_bytes()).unwrap()
}

/// A host on which these files below k3s's directory are empty.
fn host(names: &[&str]) -> HostFacts {
    let mut facts = HostFacts::default();
    facts.runtime.k3s.empty_files = names.iter().map(|name| format!("{K3S_DATA}/{name}")).collect();
    facts
}

/// What goes, by names below k3s's directory.
fn goes(facts: &HostFacts, assignment: &Assignment, start: Start) -> Vec<String> {
    let local = Local::default();
    let inputs = Inputs { facts, assignment, local: &local, confirmed: true };
    let paths = decide(inputs, assignment.duty.as_ref().unwrap(), start).map_or_else(Vec::new, |it| it.paths);
    paths.iter().map(|path| path.trim_start_matches("/var/lib/rancher/k3s/").to_owned()).collect()
}

#[test]
fn what_k3s_makes_anew_goes_and_nothing_else() {
    let new = assignment(Role::Server, "v1.36.2+k3s1");
    let facts =
        host(&[LEAF, CA, MEMBER, "server/token", "server/db/etcd/config", "agent/client-kubelet.key"]);
    let gone = [LEAF, CA, "server/db/etcd/config", "agent/client-kubelet.key"];
    assert_eq!(goes(&facts, &new, Start::Member), gone);
    for path in known() {
        let name = path.strip_prefix("/var/lib/rancher/k3s/").unwrap();
        let kept = [MEMBER, "server/db/etcd/member/snap/db", "server/token"].contains(&name);
        assert_eq!(may_go(&path), !kept, "{name}");
    }
    for path in ["server/tls/intermediate-ca.key", "server/db/snapshots/a", "agent/images/a.tar", "agent"] {
        assert!(!may_go(&format!("{K3S_DATA}/{path}")), "{path}");
    }
}

#[test]
fn a_k3s_that_would_make_a_new_ca_for_its_cluster_keeps_the_empty_one() {
    let old = assignment(Role::Server, "v1.22.17+k3s1");
    let facts = host(&[LEAF, CA, "server/cred/passwd"]);
    assert_eq!(goes(&facts, &old, Start::Member), [LEAF]);
    assert_eq!(goes(&facts, &old, Start::Join), [LEAF, CA, "server/cred/passwd"]);
    let new = assignment(Role::Server, "v1.23.0+k3s1");
    assert_eq!(goes(&facts, &new, Start::Member), [LEAF, CA, "server/cred/passwd"]);
}

#[test]
fn an_agents_files_go_and_while_k3s_runs_none_does() {
    let agent = assignment(Role::Agent, "v1.36.2+k3s1");
    let mut facts = host(&[LEAF, "agent/client-kubelet.key", "agent/kubelet.kubeconfig"]);
    assert_eq!(goes(&facts, &agent, Start::Agent), ["agent/client-kubelet.key", "agent/kubelet.kubeconfig"]);
    for (main_pid, count) in [(0, 2), (4711, 0)] {
        let unit = Unit { active: "activating".into(), main_pid, ..Unit::default() };
        facts.runtime.units.insert("k3s-agent".to_owned(), Fact::Known(unit));
        assert_eq!(goes(&facts, &agent, Start::Agent).len(), count, "{main_pid}");
    }
}

#[test]
fn an_empty_kubeconfig_takes_its_certificate_along() {
    for (name, certificate) in KUBECONFIGS {
        let path = format!("{K3S_DATA}/{name}");
        assert_eq!(issued_with(&path), Some(format!("{K3S_DATA}/{certificate}")));
        assert!(may_go(&path) && may_go(&issued_with(&path).unwrap()), "{name}");
    }
    assert_eq!(issued_with(&format!("{K3S_DATA}/{LEAF}")), None);
}

#[test]
fn what_k3s_unpacked_goes_as_a_whole_and_only_by_the_names_that_k3s_gives() {
    let build = format!("data/{}", "5d".repeat(32));
    let program = format!("{build}/bin/aux/mount");
    let paths = [&program, LEAF].map(|name| format!("{K3S_DATA}/{name}"));
    assert_eq!(unpacked_with(&paths[0]), Some(format!("{K3S_DATA}/{build}").as_str()));
    assert_eq!((unpacked_with(&paths[1]), may_go(&paths[0])), (None, true));
    for (role, start) in [(Role::Agent, Start::Agent), (Role::Server, Start::Member)] {
        assert_eq!(goes(&host(&[&program]), &assignment(role, "v1.22.17+k3s1"), start), [program.as_str()]);
    }
    let short = "5d".repeat(31);
    for other in [
        "data/cni/bin/bridge".to_owned(),
        format!("data/{short}/bin/k3s"),
        format!("{build}-tmp/bin/k3s"),
        format!("{build}/bin/../../x"),
        build.clone(),
        format!("{build}/bin"),
    ] {
        assert!(!may_go(&format!("{K3S_DATA}/{other}")), "{other}");
    }
}

#[test]
fn what_goes_is_told_and_what_nobody_can_make_anew_fails() {
    let server = assignment(Role::Server, "v1.36.2+k3s1");
    let local = Local::default();
    let told = |names: &[&str], restored: bool| {
        let facts = host(names);
        let inputs = Inputs { facts: &facts, assignment: &server, local: &local, confirmed: true };
        let restores = restored.then(|| PlannedRestore {
            path: format!("{K3S_DATA}/{MEMBER}"),
            from: RestoreFrom::Text("a-1".into()),
            needs_stopped: None,
            reason: String::new(),
        });
        let plan = Plan {
            identity: Some(pinned_server()),
            empty: decide(inputs, server.duty.as_ref().unwrap(), Start::Member),
            restores: restores.into_iter().collect(),
            ..Plan::default()
        };
        findings(&plan, &facts).map(|finding| finding.map(|it| (it.code, it.reason)))
    };
    let path = |name: &str| format!("{K3S_DATA}/{name}");
    let warned = |words: String| {
        let why = "k3s had not synced what it wrote when the power went";
        Some(("EB-k3s-empty".to_owned(), format!("{words}: {why}")))
    };
    assert_eq!(told(&[], false), [None, None]);
    assert_eq!(
        told(&["server/token"], false),
        [warned(format!("{} holds nothing", path("server/token"))), None]
    );
    let many = [LEAF, CA, "server/token", "server/cred/passwd", "server/db/etcd/config"];
    let words = format!("{}, {}, {} and 2 more hold nothing", path(LEAF), path(CA), path("server/token"));
    assert_eq!(told(&many, false), [warned(words), None]);
    let lost = format!("{} holds nothing, and nothing here can make that anew", path(MEMBER));
    assert_eq!(told(&[MEMBER], false), [None, Some(("EB-k3s-lost".to_owned(), lost))]);
    assert_eq!(told(&[MEMBER], true), [None, None], "it is put back");
}

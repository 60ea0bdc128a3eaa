//! Passes on a host on which a power cut damaged records of the agent itself.

use super::*;

const IDENTITY: &str = "var/lib/edge-bootstrap/identity.json";
const CONFIG: &str = "etc/rancher/k3s/config.yaml";

fn told(pass: &Pass) -> Vec<String> {
    let found = pass.findings.iter().filter(|(finding, _)| finding.code == "EB-state-file");
    found.map(|(finding, _)| finding.to_string()).collect()
}

/// A host that was made true once.
async fn pinned() -> Host {
    let host = local();
    no_trouble(&boot::pass(&mut host.agent(), order(Until::Verified, 0)).await);
    host
}

fn torn(host: &Host) {
    host.write(IDENTITY, "");
    host.write(&format!("{IDENTITY}.prev"), "{\"schema\":1,");
}

#[tokio::test]
async fn an_identity_of_which_no_copy_is_whole_is_told_and_kept_before_it_is_pinned_anew() {
    let host = pinned().await;
    torn(&host);
    let pass = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    no_trouble(&pass);
    assert_eq!(
        told(&pass),
        [
            "EB-state-file: /var/lib/edge-bootstrap/identity.json is damaged (it is empty) and has no usable earlier copy; when it is pinned anew, what is left of it goes to /var/lib/edge-bootstrap/quarantine"
        ]
    );
    let plan = pass.plan.unwrap();
    assert!(plan.plan().notes.iter().any(|note| note.contains("identity.json is damaged")));
    let root = host.agent().root;
    let kept = root.list("/var/lib/edge-bootstrap/quarantine").unwrap();
    assert!(kept.len() == 2 && kept.iter().all(|name| name.starts_with("identity.json.")), "{kept:?}");
    assert_eq!(told(&boot::pass(&mut host.agent(), order(Until::Verified, 0)).await), Vec::<String>::new());
}

#[tokio::test]
async fn an_identity_that_its_earlier_copy_replaces_is_told() {
    let host = pinned().await;
    host.write(IDENTITY, "");
    let pass = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    no_trouble(&pass);
    assert_eq!(told(&pass), ["EB-state-file: identity.json: it is empty; its earlier copy is in force"]);
}

#[tokio::test]
async fn a_host_whose_identity_is_lost_does_not_become_another_node() {
    let host = pinned().await;
    torn(&host);
    let path = "etc/edge-bootstrap/assignment.toml";
    let text = std::fs::read_to_string(host.dir.path().join(path)).unwrap();
    host.write(path, &text.replace("name = \"172-16-36-4\"", "name = \"172-16-36-9\""));
    let before = host.files();
    let pass = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    assert_eq!(pass.stop.unwrap().why.code, "EB-identity-change");
    assert_eq!(
        (host.files().get(IDENTITY), host.files().get(CONFIG)),
        (before.get(IDENTITY), before.get(CONFIG))
    );
    host.write(path, &text);
    host.write("var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal", "wal");
    let pass = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    assert_eq!(pass.stop.unwrap().why.code, "EB-identity-change", "a server would become an agent");
}

#[tokio::test]
async fn a_pause_of_which_no_copy_is_whole_is_told() {
    let host = pinned().await;
    let record = "var/lib/edge-bootstrap/pause.json";
    host.write(record, "");
    host.write(&format!("{record}.prev"), "");
    let pass = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    let told = told(&pass);
    assert!(told.len() == 1 && told[0].contains("/pause.json is damaged"), "{told:?}");
}

#[tokio::test]
async fn a_directory_in_the_place_of_a_file_is_named_and_is_a_persons_to_move() {
    for path in [CONFIG, "etc/systemd/system/k3s-agent.service"] {
        let host = pinned().await;
        std::fs::remove_file(host.dir.path().join(path)).unwrap();
        host.write(&format!("{path}/x"), "");
        let stop = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await.stop.unwrap();
        assert!(stop.why.reason.contains(path), "{}", stop.why);
        assert_eq!(stop.why.next, "move away what lies there; then it goes on by itself", "{}", stop.why);
    }
}

//! Passes on a server whose k3s has taken a new server token while it ran.

use edge_bootstrap::paths;
use edge_bootstrap::plan::tokens::FORMER;
use edge_bootstrap::wire::secret::fingerprint;
use serde_json::json;

use super::*;

const HASH: &str = "5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d";

/// The only server that its assignment knows, and its k3s runs.
async fn server(token: &str, former: &str) -> Host {
    let host = local();
    let mut value = assignment();
    value["runtime"].as_object_mut().unwrap().remove("sandbox_image");
    value["role"] = json!("server");
    value["cluster"]["servers"] = json!([]);
    value["cluster"]["ca_hash"] = json!(HASH);
    value["join"] =
        json!({"server_token": token, "previous_server_token": former, "agent_token": "agent-canary"});
    host.write("etc/edge-bootstrap/assignment.toml", &toml::to_string(&value).unwrap());
    host.write("var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal", "wal");
    host.write("var/lib/rancher/k3s/server/token", &format!("K10{HASH}::server:{token}\n"));
    host.systemd.unit("k3s-agent.service", |unit| {
        (unit.load, unit.file_state) = ("not-found".into(), String::new());
    });
    host.systemd.unit("k3s.service", |unit| *unit = FakeUnit { pid: 5000, ..FakeUnit::up() });
    // Files first: without a record of the start, what lies on disk is what k3s read.
    no_trouble(&boot::pass(&mut host.agent(), order(Until::Verified, 0)).await);
    host
}

impl Host {
    /// What the gate recorded of the start.
    fn started_with(&self, token: Option<&str>) {
        let mut record = json!({"effective": null});
        if let Some(token) = token {
            record["server_token"] = json!(fingerprint(token.as_bytes()));
        }
        self.write(paths::started_with("k3s").trim_start_matches('/'), &record.to_string());
    }

    /// Why a restart of k3s is due after a pass, and what it waits for.
    async fn due(&self) -> (Option<String>, Option<String>) {
        let pass = boot::pass(&mut self.agent(), order(Until::Verified, 0)).await;
        no_trouble(&pass);
        let plan = pass.plan.unwrap();
        let k3s = plan.plan().units.iter().find(|unit| unit.name == "k3s.service").unwrap();
        assert_eq!(k3s.restart, None, "it goes by the room");
        (k3s.restart_pending.clone(), pass.turn.map(|wait| wait.reason))
    }

    fn in_force(&self) -> String {
        let config = std::fs::read_to_string(self.dir.path().join("etc/rancher/k3s/config.yaml")).unwrap();
        let path = config.lines().find_map(|line| line.strip_prefix("token-file: \"")).unwrap();
        std::fs::read_to_string(self.dir.path().join(path[1..].trim_end_matches('"'))).unwrap()
    }
}

#[tokio::test]
async fn a_server_that_took_the_new_token_waits_for_its_turn_with_the_token_file_in_force() {
    let host = server("server-canary-2", "server-canary-1").await;
    // An agent of before recorded no token: nothing restarts for it.
    host.started_with(None);
    assert_eq!(host.due().await, (None, None));

    host.started_with(Some("server-canary-1"));
    let (why, waits) = host.due().await;
    assert_eq!(why.as_deref(), Some(FORMER));
    // Nothing serves here: who else counts on it cannot be known.
    assert!(waits.unwrap().starts_with("the API of this host must answer first"));
    assert!(host.in_force().ends_with("::server:server-canary-2\n"));
    let calls = host.systemd.calls();
    assert!(!calls.iter().any(|call| call.contains("k3s.service") && call.contains("Restart")), "{calls:?}");

    // Whoever starts it now starts it with the new one.
    host.started_with(Some("server-canary-2"));
    assert_eq!(host.due().await, (None, None));
}

/// k3s ends at users that are newer than those of its datastore.
#[tokio::test]
async fn users_of_a_change_that_was_cut_give_way_to_the_datastores_before_k3s_starts() {
    const USERS: &str = "var/lib/rancher/k3s/server/cred/passwd";
    let host = server("new-canary", "old-canary").await;
    let root = Root::new(host.dir.path());
    host.write(USERS, "users");
    let is_old = || {
        let time = std::fs::metadata(host.dir.path().join(USERS)).unwrap().modified().unwrap();
        time == std::time::UNIX_EPOCH
    };
    let ready = || async { boot::pass(&mut host.agent(), order(Until::Ready, 0)).await };
    host.systemd.unit("k3s.service", |unit| *unit = FakeUnit::dead());
    no_trouble(&ready().await);
    assert!(!is_old(), "no change was begun");
    edge_bootstrap::rotation::begin(&root, "sha256:aaaaaaaaaaaa".to_owned()).unwrap();
    host.systemd.unit("k3s.service", |unit| *unit = FakeUnit { pid: 5000, ..FakeUnit::up() });
    no_trouble(&ready().await);
    assert!(!is_old(), "k3s runs");
    host.systemd.unit("k3s.service", |unit| *unit = FakeUnit::dead());
    no_trouble(&ready().await);
    assert!(is_old());
}

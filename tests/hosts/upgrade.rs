//! Another version of k3s on a real host: it comes into force, and one that does
//! not come up gives way to the one before.

use edge_lab::room::{LONG, SITE};
use edge_lab::{Host, Room, wait_until};
use serde_json::Value;

use crate::hand::{further_pass, is_active, number, one_steady, property, status, status_text, told};
use crate::rolling::{downtimes, probed};

const GOOD: &str = "v1.36.3+k3s1";
const BAD: &str = "v1.36.4+k3s1";
const LINK: &str = "/usr/local/bin/k3s";

/// Offers a k3s of this version, and wants it for the site. `words` say how it is.
fn want(room: &Room, version: &str, words: &str) {
    assert!(!room.k3s.real, "this law needs k3s in versions that do not exist: run it without K3S_BIN");
    let mut program = std::fs::read(&room.k3s.path).unwrap();
    program.extend_from_slice(format!("\n#standin {version} {words}\n").as_bytes());
    let file = room.lab.dir().join(format!("k3s-{version}"));
    std::fs::write(&file, program).unwrap();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let file = file.to_str().unwrap();
    let add = ["artifact", "add", file, "--name", "k3s", "--version", version, "--arch", arch];
    room.central.run(&add).unwrap().ok().unwrap();
    room.central.run(&["site", "set", SITE, "--k3s-version", version]).unwrap().ok().unwrap();
}

fn linked(host: &Host) -> String {
    host.sh(&format!("readlink {LINK}")).unwrap().trim().to_owned()
}

/// What the API of a host answers.
fn ask(host: &Host, path: &str) -> Value {
    let answer = host.exec(&["timeout", "5", "k3s", "kubectl", "get", "--raw", path]);
    let said = answer.map(|answer| answer.stdout).unwrap_or_default();
    serde_json::from_str(&said).unwrap_or_default()
}

/// The version that serves the API.
fn serves(host: &Host) -> String {
    ask(host, "/version")["gitVersion"].as_str().unwrap_or_default().to_owned()
}

fn wait_for(host: &Host, what: &str, is_so: impl Fn() -> bool) {
    let seen = wait_until(LONG, what, || Ok(is_so().then_some(())));
    assert!(seen.is_ok(), "{what}: no; {} runs\n{}", serves(host), status_text(host));
}

/// Whether every Node is Ready.
fn is_ready(host: &Host) -> bool {
    let ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    let nodes = ask(host, "/api/v1/nodes");
    nodes["items"].as_array().is_some_and(|nodes| !nodes.is_empty() && nodes.iter().all(ready))
}

fn finding(host: &Host, code: &str) -> Option<String> {
    let status = status(host);
    let found = status["findings"].as_array()?.iter().find(|finding| finding["code"] == code)?;
    Some(found["text"].as_str()?.to_owned())
}

/// Three servers and an agent come to another version, one after the other.
pub fn rolls(room: &Room) {
    let (servers, agent) = (&room.hosts[..3], &room.hosts[3]);
    let ((), looks) = probed(servers, || {
        want(room, GOOD, "");
        for host in servers {
            wait_for(host, "a server has the new version", || serves(host) == GOOD);
        }
        wait_for(agent, "the agent follows", || {
            linked(agent).contains(GOOD) && is_active(agent, "k3s-agent")
        });
        room.wait_steady(LONG).unwrap();
    });
    assert!(looks.iter().all(|served| *served >= 2), "servers that answered, second by second: {looks:?}");
    let down = downtimes(servers);
    assert!(down.windows(2).all(|two| two[0].1 <= two[1].0), "two were down at once: {down:?}");
    let last = down.last().unwrap().1;
    let began = number(agent, "k3s-agent", "ActiveExitTimestampMonotonic");
    assert!(began >= last, "the agent went at {began}, before the last server at {last}");
}

/// A version that does not come up: one server tries it, and nobody else.
pub fn is_tried_by_one(room: &Room) {
    let servers = &room.hosts[..3];
    want(room, BAD, "ends");
    let tried = |host: &&Host| finding(host, "EB-upgrade-failed").is_some();
    let warned =
        |host: &&Host| finding(host, "EB-upgrade-waits").is_some_and(|text| text.contains("did not come up"));
    wait_for(&servers[0], "one goes back and the others know", || {
        servers.iter().filter(tried).count() == 1 && servers.iter().filter(warned).count() == 2
    });
    wait_for(&servers[0], "every node is well", || is_ready(&servers[0]));
    for host in &room.hosts {
        assert!(linked(host).contains(GOOD), "{}: {}", host.name(), linked(host));
        let begun = told(host, "edge-bootstrap", "upgrade begins");
        assert_eq!(begun, if tried(&host) { 2 } else { 1 }, "{}", host.name());
    }
}

#[test]
fn a_version_comes_into_force_and_one_that_never_becomes_ready_is_rolled_back_and_not_tried_again() {
    let room = one_steady("up-one");
    let host = &room.hosts[0];
    want(&room, GOOD, "");
    wait_for(host, "the new version is in force", || {
        serves(host) == GOOD && status(host)["phase"] == "steady"
    });
    assert!(linked(host).contains(GOOD) && is_active(host, "k3s"));
    assert_eq!(finding(host, "EB-upgrade-waits"), None);

    want(&room, BAD, "ends");
    wait_for(host, "the one that fails is rolled back, and the node is well", || {
        finding(host, "EB-upgrade-failed").is_some() && serves(host) == GOOD && is_ready(host)
    });
    let why = finding(host, "EB-upgrade-failed").unwrap();
    assert!(why.contains(BAD) && why.contains("before it was up"), "{why}");
    assert!(linked(host).contains(GOOD) && is_active(host, "k3s"), "{}", linked(host));

    // Whatever passes come by: it is not tried again, and nothing restarts.
    let start = property(host, "k3s", "InvocationID");
    further_pass(host);
    further_pass(host);
    assert_eq!(property(host, "k3s", "InvocationID"), start, "k3s was restarted");
    assert_eq!(told(host, "edge-bootstrap", "upgrade begins"), 2, "one for each version");
}

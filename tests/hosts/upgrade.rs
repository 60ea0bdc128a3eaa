//! Another version of k3s on a real host: it comes into force, and one that does
//! not come up gives way to the one before.

use std::path::Path;
use std::process::Command;

use edge_lab::room::{LONG, SITE};
use edge_lab::{Host, Room, wait_until};
use serde_json::Value;

use crate::hand::{further_pass, is_active, number, one_steady, property, status, status_text, told};
use crate::rolling::{downtimes, probed};

const GOOD: &str = "v1.36.3+k3s1";
const BAD: &str = "v1.36.4+k3s1";
const LINK: &str = "/usr/local/bin/k3s";

/// How a version is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Good,
    Ends,
}

/// Offers a k3s of this version, and wants it for the site. One that is `Ends` never
/// comes to READY.
fn want(room: &Room, version: &str, how: How) {
    let file = room.lab.dir().join(format!("k3s-{version}"));
    let write = if room.k3s.real { rename } else { mark };
    write(&room.k3s.path, &file, (version, how));
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let add =
        ["artifact", "add", file.to_str().unwrap(), "--name", "k3s", "--version", version, "--arch", arch];
    room.central.run(&add).unwrap().ok().unwrap();
    room.central.run(&["site", "set", SITE, "--k3s-version", version]).unwrap().ok().unwrap();
}

/// The stand-in is told by a line behind its own bytes.
fn mark(from: &Path, to: &Path, (version, how): (&str, How)) {
    let mut program = std::fs::read(from).unwrap();
    let word = if how == How::Ends { "ends" } else { "" };
    program.extend_from_slice(format!("\n#standin {version} {word}\n").as_bytes());
    std::fs::write(to, program).unwrap();
}

/// A real k3s calls itself another version, and one that ends has an API server that
/// refuses the issuer of its own tokens.
fn rename(from: &Path, to: &Path, (version, how): (&str, How)) {
    let said = Command::new(from).arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let own = said.split_whitespace().find(|word| word.starts_with('v') && word.contains("+k3s")).unwrap();
    assert_eq!(own.len(), version.len(), "{own} cannot be made {version} in place");
    let issuer = "s|https://kubernetes\\.default\\.svc\\.|h%tps://kubernetes.default.svc.|g";
    let mut sed = Command::new("sed");
    sed.env("LC_ALL", "C").args(["-e", &format!("s|{}|{version}|g", own.replace('.', "\\."))]);
    if how == How::Ends {
        sed.args(["-e", issuer]);
    }
    let status = sed.arg(from).stdout(std::fs::File::create(to).unwrap()).status().unwrap();
    assert!(status.success(), "sed: {status}");
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

/// Four hosts that fetch a real k3s over TLS with a debug build take five minutes.
fn wait_for(host: &Host, what: &str, is_so: impl Fn() -> bool) {
    let seen = wait_until(3 * LONG, what, || Ok(is_so().then_some(())));
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
        want(room, GOOD, How::Good);
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
    want(room, BAD, How::Ends);
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
    want(&room, GOOD, How::Good);
    wait_for(host, "the new version is in force", || {
        serves(host) == GOOD && status(host)["phase"] == "steady"
    });
    assert!(linked(host).contains(GOOD) && is_active(host, "k3s"));
    assert_eq!(finding(host, "EB-upgrade-waits"), None);

    want(&room, BAD, How::Ends);
    wait_for(host, "the one that fails is rolled back, and the node is well", || {
        let is_back = serves(host) == GOOD && is_ready(host) && is_active(host, "k3s");
        is_back && finding(host, "EB-upgrade-failed").is_some()
    });
    let why = finding(host, "EB-upgrade-failed").unwrap();
    assert!(why.contains(BAD) && why.contains("before it was well"), "{why}");
    assert!(linked(host).contains(GOOD), "{}", linked(host));

    // Whatever passes come by: it is not tried again, and nothing restarts.
    let start = property(host, "k3s", "InvocationID");
    further_pass(host);
    further_pass(host);
    assert_eq!(property(host, "k3s", "InvocationID"), start, "k3s was restarted");
    assert_eq!(told(host, "edge-bootstrap", "upgrade begins"), 2, "one for each version");
}

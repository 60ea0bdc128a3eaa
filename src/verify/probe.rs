//! One look at each thing, no retry.
//!
//! Owns the limits: 5 s a probe, all at once. A server is asked through its
//! own admin certificate, the Node through the kubelet's, which agents have too
//! (k3s: anonymous requests are off).

use std::time::Duration;

use super::{Memory, NodeReady, Probe, Probing, State, containerd, parse_node};
use crate::error::Chain;
use crate::paths::K3S_DATA;
use crate::plan::units::K3S;
use crate::sys::clock;
use crate::sys::local::{self, Answer, Credentials, LocalError, Request};
use crate::sys::systemd::{SystemdError, UnitState};

const LIMIT: Duration = Duration::from_secs(5);
pub(super) const CONTAINERD_UNIT: &str = "containerd-unit";

/// What was found: state and detail.
pub(super) type Found = (State, String);

pub(super) async fn all(probing: &Probing<'_>, memory: &mut Memory) -> Vec<Probe> {
    let Some(unit) = probing.k3s_unit else { return containerd::all(probing, memory).await };
    let (mut probes, k3s, serves, node) = tokio::join!(
        containerd::all(probing, memory),
        k3s_unit(probing, unit),
        serves(probing, unit),
        node(probing)
    );
    let waiting = k3s.0 == State::Waiting;
    probes.push(named("k3s-unit", k3s));
    let name = if unit == K3S { "api-server" } else { "kubelet" };
    probes.push(named(name, patient(waiting, serves)));
    probes.push(named("node", patient(waiting, node)));
    probes
}

pub(super) fn named(name: &'static str, (state, detail): Found) -> Probe {
    Probe { name, state, detail }
}

/// What k3s serves cannot fail before k3s says READY.
fn patient(waiting: bool, (state, detail): Found) -> Found {
    let state = if waiting && state != State::Ok { State::Waiting } else { state };
    (state, detail)
}

async fn k3s_unit(probing: &Probing<'_>, name: &str) -> Found {
    match within(probing.systemd.unit(name)).await {
        Ok(unit) if unit.is_up() => (State::Ok, told(&unit)),
        Ok(unit) if unit.is_down() => (State::Failed, told(&unit)),
        Ok(unit) => {
            let now = u64::try_from(clock::monotonic().as_micros()).unwrap_or(0);
            let seconds = now.saturating_sub(unit.since_monotonic_us) / 1_000_000;
            (State::Waiting, format!("{}, for {seconds} s", told(&unit)))
        }
        Err(reason) => (State::Unknown, reason),
    }
}

pub(super) async fn within(
    state: impl Future<Output = Result<UnitState, SystemdError>>,
) -> Result<UnitState, String> {
    match tokio::time::timeout(LIMIT, state).await {
        Ok(state) => state.map_err(|error| Chain(&error).to_string()),
        Err(_) => Err(format!("systemd did not answer within {} s", LIMIT.as_secs())),
    }
}

pub(super) fn told(unit: &UnitState) -> String {
    let mut text = format!("{} is {}/{}", unit.name, unit.active, unit.sub);
    if unit.load != "loaded" {
        text.push_str(&format!(", {}", unit.load));
    }
    if !matches!(unit.result.as_str(), "" | "success") {
        text.push_str(&format!(", result {}", unit.result));
    }
    if let Some(restarts) = unit.restarts.filter(|restarts| *restarts > 0) {
        text.push_str(&format!(", {restarts} restarts"));
    }
    text
}

async fn serves(probing: &Probing<'_>, unit: &str) -> Found {
    if unit == K3S {
        let url = format!("https://127.0.0.1:{}/readyz", probing.ports.server);
        let files =
            ["server/tls/server-ca.crt", "server/tls/client-admin.crt", "server/tls/client-admin.key"];
        return plainly(ask(probing, &url, files).await);
    }
    let url = format!("http://127.0.0.1:{}/healthz", probing.ports.kubelet);
    plainly(local::get(&url, LIMIT).await.map_err(|error| failed(&error)))
}

fn plainly(answer: Result<Answer, Found>) -> Found {
    match answer {
        Ok(Answer { status: 200, .. }) => (State::Ok, "ok".to_owned()),
        Ok(answer) => (State::Failed, said(&answer)),
        Err(found) => found,
    }
}

async fn node(probing: &Probing<'_>) -> Found {
    let url = format!("https://127.0.0.1:{}/api/v1/nodes/{}", probing.ports.api, probing.node_name);
    let files = ["agent/server-ca.crt", "agent/client-kubelet.crt", "agent/client-kubelet.key"];
    match ask(probing, &url, files).await {
        Ok(answer) => own_node(&answer),
        // The API may be another host's; ours is judged by its own probe.
        Err((State::Failed, detail)) => (State::Degraded, detail),
        Err(found) => found,
    }
}

fn own_node(answer: &Answer) -> Found {
    match (answer.status, parse_node(&answer.body)) {
        (200, Ok(NodeReady::Ready)) => (State::Ok, "the Node is Ready".to_owned()),
        (200, Ok(NodeReady::NotReady(why))) => (State::Degraded, why),
        (200, Ok(NodeReady::NotReported)) => (State::Degraded, "the kubelet has not reported yet".to_owned()),
        (404, _) => (State::Degraded, "the cluster has no Node of this name".to_owned()),
        _ => (State::Degraded, said(answer)),
    }
}

/// Asks with the authority, certificate and key in these files of k3s's data.
async fn ask(probing: &Probing<'_>, url: &str, files: [&str; 3]) -> Result<Answer, Found> {
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        let path = format!("{K3S_DATA}/{file}");
        match probing.root.read(&path) {
            Ok(Some(text)) => texts.push(text),
            Ok(None) => return Err((State::Unknown, format!("{path} is not there yet"))),
            Err(error) => return Err((State::Unknown, Chain(&error).to_string())),
        }
    }
    let [ca, certificate, key] = texts.as_slice() else {
        return Err((State::Unknown, "credentials are incomplete".to_owned()));
    };
    let credentials = Credentials { ca, certificate, key };
    local::ask_tls(Request::get(url), &credentials, LIMIT).await.map_err(|error| failed(&error))
}

fn failed(error: &LocalError) -> Found {
    let state = match error {
        // A file that is just being written is no sign of ill health.
        LocalError::Credentials { .. } => State::Unknown,
        LocalError::Request { .. } | LocalError::TooLarge { .. } => State::Failed,
    };
    (state, Chain(error).to_string())
}

/// Status and the first line, which is what k3s's own errors fit in.
fn said(answer: &Answer) -> String {
    let line: String = answer.body.lines().next().unwrap_or_default().chars().take(200).collect();
    format!("status {}: {line}", answer.status).trim_end_matches([':', ' ']).to_owned()
}

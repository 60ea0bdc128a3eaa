//! Owns what k3s's API answers: health, version, Nodes, and to administrators
//! the other objects (`objects`). Anonymous requests get 401, as k3s sets
//! anonymous-auth=false.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::deploy;
use crate::http::{Reply, Request};
use crate::listen::Caller;
use crate::objects::{Fresh, Place, Refused};
use crate::store::Node;
use crate::supervisor::{Phase, Supervisor};
use crate::trailer;

/// A Node is `Unknown` when nobody heard of it for so long (Kubernetes:
/// node-monitor-grace-period).
const GRACE: Duration = Duration::from_secs(40);

/// End of the name of a secret with a node's password.
const PASSWORD: &str = ".node-password.k3s";

/// The version that the stand-in claims.
pub fn version() -> String {
    let claimed = std::env::var("K3S_STANDIN_VERSION").ok();
    claimed.unwrap_or_else(|| trailer::version().unwrap_or("v1.36.2+k3s1").to_owned())
}

/// All requests that are no supervisor's.
pub fn handle(server: &Supervisor, caller: &Caller, request: &Request) -> Reply {
    if server.phase() < Phase::Ready {
        return status(503, "ServiceUnavailable", "apiserver not ready");
    }
    let Some((name, group)) = server.check.identify(&caller.certs) else {
        return status(401, "Unauthorized", "Unauthorized");
    };
    let parts: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
    if matches!(parts.as_slice(), ["readyz" | "livez" | "healthz", ..]) {
        return health(server, request);
    }
    if parts.as_slice() == ["version"] {
        return Reply::json(200, &json!({"gitVersion": version(), "major": "1", "minor": "36"}));
    }
    let admin = group == "system:masters";
    match parts.as_slice() {
        ["api", "v1", "nodes"] if admin => list(server),
        ["api", "v1", "nodes", node] if admin || name == format!("system:node:{node}") => {
            one(server, request, node, admin)
        }
        ["api", "v1", "nodes", ..] => {
            status(403, "Forbidden", &format!("nodes is forbidden: User \"{name}\" cannot do this"))
        }
        ["api", "v1", "namespaces", "kube-system", "secrets", name] if admin && name.ends_with(PASSWORD) => {
            password(server, request, name)
        }
        _ => match Place::of(&request.path) {
            Some(place) if admin => objects(server, request, &place),
            Some(_) => status(403, "Forbidden", &format!("User \"{name}\" cannot do this")),
            None => match deploy::discovery(&request.path) {
                Some(kinds) => Reply::json(200, &kinds),
                None => status(404, "NotFound", "the server could not find the requested resource"),
            },
        },
    }
}

/// Everything but Nodes.
fn objects(server: &Supervisor, request: &Request, place: &Place<'_>) -> Reply {
    let cluster = &server.cluster;
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let done = || -> anyhow::Result<Value> {
        let fresh = Fresh::new()?;
        match request.method.as_str() {
            "GET" => Ok(cluster.with(|s| s.objects.get(place))?),
            "POST" => cluster.update(|s| Ok(s.objects.create(place, &body, &fresh)?)),
            "PUT" => cluster.update(|s| Ok(s.objects.replace(place, &body)?)),
            "PATCH" => cluster.update(|s| Ok(s.objects.patch(place, &body)?)),
            "DELETE" => cluster.update(|s| Ok(s.objects.delete(place, &body, &fresh)?)),
            _ => Err(Refused::method().into()),
        }
    };
    match done() {
        Ok(object) => Reply::json(if request.method == "POST" { 201 } else { 200 }, &object),
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) => status(refused.code, refused.reason, &refused.message),
            None => status(500, "InternalError", &format!("{error:#}")),
        },
    }
}

fn health(server: &Supervisor, request: &Request) -> Reply {
    if server.cluster.quorum() {
        return Reply::text(200, "ok");
    }
    let name = request.path.trim_start_matches('/');
    Reply::text(500, &format!("[+]ping ok\n[-]etcd failed: reason withheld\n{name} check failed\n"))
}

fn list(server: &Supervisor) -> Reply {
    let nodes = server.cluster.with(|s| s.nodes.clone());
    let items: Vec<Value> = nodes.iter().map(|(name, node)| object(&server.cluster, name, node)).collect();
    Reply::json(200, &json!({"kind": "NodeList", "apiVersion": "v1", "items": items}))
}

fn one(server: &Supervisor, request: &Request, name: &str, admin: bool) -> Reply {
    let changed = match request.method.as_str() {
        "GET" => Ok(true),
        "DELETE" if admin => {
            let options: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            if is_another(server, name, &options) {
                return status(409, "Conflict", "Precondition failed: UID in precondition differs");
            }
            let owns_password = owns_password(&version());
            server.cluster.update(|s| s.delete_node(name, owns_password)).map(|()| false)
        }
        "PATCH" if admin => {
            let patch: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            if is_another(server, name, &json!({"preconditions": {"uid": patch["metadata"]["uid"]}})) {
                return status(409, "Conflict", "Precondition failed: UID in precondition differs");
            }
            server.cluster.update(|s| s.patch_node(name, &patch))
        }
        _ => return status(405, "MethodNotAllowed", "method not allowed"),
    };
    match changed {
        Err(error) => status(500, "InternalError", &format!("{error:#}")),
        Ok(false) if request.method == "DELETE" => {
            Reply::json(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        Ok(_) => match server.cluster.with(|s| s.nodes.get(name).cloned()) {
            Some(node) => Reply::json(200, &object(&server.cluster, name, &node)),
            None => status(404, "NotFound", &format!("nodes \"{name}\" not found")),
        },
    }
}

/// Since v1.34.1 the secret with a node's password is the Node's and goes with it
/// (k3s commit d8790220f).
fn owns_password(version: &str) -> bool {
    let core = version.trim_start_matches('v').split(['+', '-']).next().unwrap_or_default();
    let parts: Vec<u64> = core.split('.').filter_map(|part| part.parse().ok()).collect();
    parts.as_slice() >= [1, 34, 1].as_slice()
}

/// The secret with a node's password (k3s: pkg/nodepassword/nodepassword.go).
fn password(server: &Supervisor, request: &Request, secret: &str) -> Reply {
    let node = secret.trim_end_matches(PASSWORD);
    let Some(uid) = server.cluster.with(|s| s.password_uid(node)) else {
        return status(404, "NotFound", &format!("secrets \"{secret}\" not found"));
    };
    let options: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match request.method.as_str() {
        "GET" => Reply::json(
            200,
            &json!({"kind": "Secret", "apiVersion": "v1",
                "metadata": {"name": secret, "namespace": "kube-system", "uid": uid}}),
        ),
        "DELETE" if options["preconditions"]["uid"].as_str().is_some_and(|wanted| wanted != uid) => {
            status(409, "Conflict", "Precondition failed: UID in precondition differs")
        }
        "DELETE" => {
            let removed = server.cluster.update(|s| {
                s.passwords.remove(node);
                Ok(())
            });
            match removed {
                Ok(()) => {
                    Reply::json(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
                }
                Err(error) => status(500, "InternalError", &format!("{error:#}")),
            }
        }
        _ => status(405, "MethodNotAllowed", "method not allowed"),
    }
}

/// Whether a delete means another Node than the one that has this name.
fn is_another(server: &Supervisor, name: &str, options: &Value) -> bool {
    let uid = options["preconditions"]["uid"].as_str();
    let now = server.cluster.with(|s| s.nodes.get(name).map(|node| node.uid.clone()));
    uid.is_some() && now.is_some() && uid != now.as_deref()
}

/// A Kubernetes `Status` object.
pub fn status(code: u16, reason: &str, message: &str) -> Reply {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    Reply::json(code, &body)
}

/// `https://IP:6443` of the servers, for load balancers of agents.
pub fn server_addresses(cluster: &Cluster) -> Vec<String> {
    let role = "node-role.kubernetes.io/control-plane";
    cluster.with(|s| {
        let servers = s.nodes.values().filter(|node| node.labels.contains_key(role));
        servers.filter_map(|node| node.ips.first()).map(|ip| format!("{ip}:6443")).collect()
    })
}

fn object(cluster: &Cluster, name: &str, node: &Node) -> Value {
    let mut addresses: Vec<Value> =
        node.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    addresses.push(json!({"type": "Hostname", "address": name}));
    let taints: Vec<Value> = node.taints.iter().filter_map(|text| taint(text)).collect();
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": node.uid, "creationTimestamp": node.created,
            "labels": node.labels, "annotations": node.annotations,
        },
        "spec": {"providerID": format!("k3s://{name}"), "taints": taints},
        "status": {
            "addresses": addresses,
            "conditions": conditions(cluster, node, name),
            "nodeInfo": {
                "kubeletVersion": node.version, "operatingSystem": "linux",
                "containerRuntimeVersion": "containerd://stand-in",
            },
        },
    })
}

fn taint(text: &str) -> Option<Value> {
    let (key, effect) = text.rsplit_once(':')?;
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    Some(json!({"key": key, "value": value, "effect": effect}))
}

fn conditions(cluster: &Cluster, node: &Node, name: &str) -> Value {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let silent = cluster.silence(name).is_none_or(|age| age > GRACE);
    let (state, reason, message) = match (silent, node.ready) {
        (true, _) => ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."),
        (false, true) => ("True", "KubeletReady", "kubelet is posting ready status"),
        (false, false) => ("False", "KubeletNotReady", node.message.as_str()),
    };
    let mut all = vec![json!({
        "type": "Ready", "status": state, "reason": reason, "message": message,
        "lastHeartbeatTime": now,
    })];
    if let Some(member) = node.annotations.get("etcd.k3s.cattle.io/node-name") {
        let voter = cluster.with(|s| s.voters().iter().any(|m| m.name == *member));
        all.push(json!({
            "type": "EtcdIsVoter", "status": if voter { "True" } else { "False" },
            "reason": if voter { "MemberNotLearner" } else { "MemberIsLearner" },
        }));
    }
    json!(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_with_its_node_from_a_version_on() {
        for (version, owns) in [
            ("v1.21.5+k3s2", false),
            ("v1.33.9+k3s1", false),
            ("v1.34.0-rc1+k3s1", false),
            ("v1.34.1+k3s1", true),
            ("v1.36.2+k3s1", true),
        ] {
            assert_eq!(owns_password(version), owns, "{version}");
        }
    }
}

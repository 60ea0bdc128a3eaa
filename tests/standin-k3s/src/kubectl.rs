//! Owns `k3s kubectl` in the few forms that tests and people use: nodes in
//! plain, wide, name and JSON form, `--raw`, delete and annotate. It asks the
//! local server with the admin certificate.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::http::Reply;
use crate::paths::{self, DataDir};
use crate::pki::Pair;
use crate::tls::Client;

/// Runs one command and returns what it prints.
pub fn run(arguments: &[String]) -> Result<String> {
    let (words, output) = split(arguments);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["get", "--raw", path] => Ok(good(&admin()?.get(path)?)?.as_text()),
        ["get", "nodes" | "node" | "no"] => nodes(&get("/api/v1/nodes")?, output),
        ["get", "nodes" | "node" | "no", name] => nodes(&get(&node_path(name))?, output),
        ["delete", "nodes" | "node" | "no", name] => {
            good(&admin()?.send("DELETE", &node_path(name), &[], Vec::new())?)?;
            Ok(format!("node \"{name}\" deleted\n"))
        }
        ["annotate", "nodes" | "node" | "no", name, pair] => {
            let (key, value) = pair.split_once('=').context("expected KEY=VALUE")?;
            let patch = json!({"metadata": {"annotations": {key: value}}});
            good(&admin()?.send("PATCH", &node_path(name), &[], serde_json::to_vec(&patch)?)?)?;
            Ok(format!("node/{name} annotated\n"))
        }
        _ => bail!("stand-in: this kubectl command is not imitated"),
    }
}

fn split(arguments: &[String]) -> (Vec<String>, Option<String>) {
    let (mut words, mut output) = (Vec::new(), None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "-o" || argument == "--output" {
            output = rest.next().cloned();
        } else if let Some(value) = argument.strip_prefix("--output=").or(argument.strip_prefix("-o=")) {
            output = Some(value.into());
        } else if let Some(value) = argument.strip_prefix("-o").filter(|value| !value.is_empty()) {
            output = Some(value.into());
        } else if argument != "--overwrite" {
            words.push(argument.clone());
        }
    }
    (words, output)
}

fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{}", name.trim_start_matches("node/"))
}

fn admin() -> Result<Client> {
    let configured = std::env::var("K3S_DATA_DIR").ok();
    let data = DataDir::new(configured.as_deref());
    let read = |name: &str| {
        std::fs::read_to_string(data.tls(name)).context(
            "The connection to the server localhost:8080 was refused - did you specify the right \
             host or port?",
        )
    };
    let pair = Pair { cert: read("client-admin.crt")?, key: read("client-admin.key")? };
    Client::new(&format!("{}:6443", paths::loopback()), &read("server-ca.crt")?, Some(&pair))
}

fn get(path: &str) -> Result<Value> {
    let reply = admin()?.get(path)?;
    Ok(serde_json::from_slice(&good(&reply)?.body)?)
}

fn good(reply: &Reply) -> Result<&Reply> {
    if reply.status < 300 {
        return Ok(reply);
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let message = body["message"].as_str().map_or_else(|| reply.as_text(), str::to_owned);
    bail!("Error from server ({}): {message}", body["reason"].as_str().unwrap_or("Unknown"))
}

fn nodes(value: &Value, output: Option<String>) -> Result<String> {
    let items = match value["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![value.clone()],
    };
    match output.as_deref() {
        Some("json") => Ok(format!("{}\n", serde_json::to_string_pretty(value)?)),
        Some("name") => Ok(items.iter().map(|node| format!("node/{}\n", name(node))).collect()),
        None | Some("wide") => Ok(table(&items)),
        Some(other) => bail!("stand-in: output {other} is not imitated"),
    }
}

fn name(node: &Value) -> &str {
    node["metadata"]["name"].as_str().unwrap_or_default()
}

fn table(items: &[Value]) -> String {
    if items.is_empty() {
        return "No resources found\n".into();
    }
    let mut text = format!(
        "{:<24} {:<9} {:<20} {:<6} {:<16} INTERNAL-IP\n",
        "NAME", "STATUS", "ROLES", "AGE", "VERSION"
    );
    for node in items {
        let conditions = node["status"]["conditions"].as_array();
        let ready =
            conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        text.push_str(&format!(
            "{:<24} {:<9} {:<20} {:<6} {:<16} {}\n",
            name(node),
            if ready { "Ready" } else { "NotReady" },
            roles(node),
            age(node),
            node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default(),
            node["status"]["addresses"][0]["address"].as_str().unwrap_or("<none>"),
        ));
    }
    text
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let roles: Vec<&str> = labels
        .into_iter()
        .flat_map(|labels| labels.keys())
        .filter_map(|key| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn age(node: &Value) -> String {
    let created = node["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    let seconds = humantime::parse_rfc3339(created)
        .ok()
        .and_then(|at| at.elapsed().ok())
        .map_or(0, |age| age.as_secs());
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

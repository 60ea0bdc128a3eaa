//! `node`, `approve`, `assign`: hosts, and a person's word about them.

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use edge_bootstrap::role::Role;
use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::{Context, output};
use crate::clock;
use crate::hardware::Hardware;
use crate::store::audit::Entry;
use crate::store::nodes::{self, Document, Node, NodeState};
use crate::store::{audit, commit, sites};

/// `GEN` is the generation on the host and the newest one.
pub(super) const NODE_HEADS: &[&str] =
    &["SITE", "NAME", "IP", "STATE", "ROLE", "GEN", "PHASE", "VERDICT", "CONTACT", "NODE-ID", "NOTE"];

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List hosts.
    List {
        /// Only of this site.
        #[arg(long, value_name = "SITE")]
        site: Option<String>,
    },
    /// Show one host with its facts and its last report.
    Show {
        /// Node id, name or code.
        node: String,
    },
    /// Move a host to another site, or give it another name or address.
    Move(super::moves::Move),
    /// A host is gone for good: its member and Node leave the cluster.
    Retire(super::retire::Retire),
    /// Take a host's place away; it keeps running what it runs.
    Revoke {
        /// Node id or name.
        node: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    /// Code from the host's console, node id or name.
    node: String,
    /// It may become an agent only.
    #[arg(long)]
    agent_only: bool,
    /// The host that it replaces is off for good, whatever it reported since.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Assign {
    /// Node id or name.
    node: String,
    /// What it shall be; `auto` leaves it to the policy again.
    #[arg(long)]
    role: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    Server,
    Agent,
    None,
    Auto,
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { site } => list(context, site.as_deref()).await,
        Command::Show { node } => show(context, &node).await,
        Command::Move(command) => super::moves::run(context, command).await,
        Command::Retire(command) => super::retire::run(context, command).await,
        Command::Revoke { node } => revoke(context, &node).await,
    }
}

/// The one node that a person means.
pub(super) async fn find(conn: &mut SqliteConnection, word: &str) -> anyhow::Result<Node> {
    let mut found = nodes::find(conn, word).await?;
    found.retain(|node| node.state != NodeState::Revoked || node.id == word);
    match found.len() {
        0 => bail!("there is no node {word}; `edge-central node list` names them"),
        1 => Ok(found.remove(0)),
        _ => bail!("{word} names {} nodes; say the node id", found.len()),
    }
}

async fn list(context: &Context, site: Option<&str>) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.read().await?;
    let nodes = match site {
        Some(site) => nodes::of_site(&mut tx, site).await?,
        None => nodes::all(&mut tx).await?,
    };
    output::list(context.json, "nodes", &nodes, node_json, node_row, NODE_HEADS);
    Ok(())
}

pub(super) fn node_json(node: &Node) -> Value {
    let (reported, pending) = (&node.reported, node.pending.as_ref());
    json!({
        "id": node.id, "site": node.site, "name": node.name, "ip": node.ip, "state": node.state.word(),
        "server_ok": node.server_ok, "forced_role": node.forced_role, "role": node.role,
        "generation": node.generation, "rejoin": node.rejoin, "former_sites": node.former_sites, "agent_version": node.agent_version, "boot_id": node.boot_id,
        "claimed": node.claimed_at.map(clock::rfc3339), "last_contact": clock::rfc3339(node.last_contact),
        "code": pending.map(|pending| &pending.code), "reason": pending.map(|pending| &pending.reason),
        "of": pending.and_then(|pending| pending.of.as_ref()),
        "reported": {
            "generation": reported.generation, "sequence": reported.sequence, "at": reported.at.map(clock::rfc3339),
            "phase": reported.phase, "verdict": reported.verdict, "ca_hash": reported.ca_hash,
            "ca_mismatch": reported.ca_mismatch, "init_started": reported.init_started,
            "etcd_member": reported.etcd_member,
        },
        "copy": node.copy.as_ref().map(|copy| json!({"boot_id": copy.boot_id, "seen": clock::rfc3339(copy.at)})),
    })
}

pub(super) fn node_row(node: &Node) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        node.site.clone(),
        node.name.clone(),
        node.ip.to_string(),
        node.state.word().to_owned(),
        or_dash(node.role.map(|role| role.to_string())),
        format!("{}/{}", node.reported.generation, node.generation),
        or_dash(node.reported.phase.clone()),
        or_dash(node.reported.verdict.clone()),
        format!("{}s", clock::now().saturating_sub(node.last_contact)),
        node.id.clone(),
        note(node),
    ]
}

fn note(node: &Node) -> String {
    match (&node.pending, &node.reported.ca_mismatch) {
        (Some(pending), _) => {
            let of = pending.of.as_ref().map(|of| format!(" {of}")).unwrap_or_default();
            format!("code {}: {}{of}", pending.code, pending.reason)
        }
        (None, Some(_)) => "ca_mismatch: in another cluster".to_owned(),
        (None, None) => copy_note(node).unwrap_or_default(),
    }
}

/// How long a copy that was seen is named in lists, in seconds.
const COPY_NOTED: clock::Seconds = 24 * 3600;

fn copy_note(node: &Node) -> Option<String> {
    let age = clock::now().saturating_sub(node.copy.as_ref()?.at);
    (age < COPY_NOTED).then(|| format!("a copy of its disk was seen {age}s ago"))
}

async fn show(context: &Context, word: &str) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.read().await?;
    let node = find(&mut tx, word).await?;
    let mut value = node_json(&node);
    for (key, which) in [("facts", Document::Facts), ("report", Document::Report)] {
        let text = nodes::document_of(&mut tx, &node.id, which).await?;
        let document = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
        if let Some(object) = value.as_object_mut() {
            object.insert(key.to_owned(), document);
        }
    }
    if context.json {
        output::object(value);
    } else {
        output::line(&serde_json::to_string_pretty(&value)?);
    }
    Ok(())
}

/// Finds a node, changes it, and writes it with an audit entry.
async fn change(
    context: &Context,
    word: &str,
    action: &str,
    how: impl AsyncFnOnce(&mut SqliteConnection, &mut Node) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    let mut node = find(&mut tx, word).await?;
    let detail = how(&mut tx, &mut node).await?;
    nodes::save(&mut tx, &node).await?;
    sites::touch(&mut tx, &node.site).await?;
    let (site, id) = (Some(node.site.clone()), Some(node.id.clone()));
    audit::add(&mut tx, &Entry { site, node: id, ..context.entry(action, detail.clone()) }).await?;
    commit(tx).await?;
    output::outcome(context.json, node_json(&node), &format!("{} ({}): {detail}", node.name, node.id));
    Ok(())
}

async fn revoke(context: &Context, word: &str) -> anyhow::Result<()> {
    change(context, word, "revoke", async |conn, node| {
        (node.state, node.pending) = (NodeState::Revoked, None);
        let site = sites::get(conn, &node.site).await?;
        let holds = site.is_some_and(|site| site.ca_hash.is_none() && site.lease.as_ref() == Some(&node.id));
        let lease = "; it holds the init lease, which only `site reinit` frees now";
        Ok(format!("revoked{}", if holds { lease } else { "" }))
    })
    .await
}

pub(super) async fn approve(context: &Context, command: Approve) -> anyhow::Result<()> {
    change(context, &command.node, "approve", async |conn, node| {
        let replaced = super::retire::replace(conn, node, (command.agent_only, command.force)).await?;
        check_place_is_free(node, &nodes::of_site(conn, &node.site).await?)?;
        (node.state, node.pending) = (NodeState::Claimed, None);
        node.claimed_at = node.claimed_at.or_else(|| Some(clock::now()));
        if replaced.is_none() {
            node.server_ok = !command.agent_only;
        }
        // A person says that this key is in the right machine, whichever it is.
        node.hardware = Hardware::default();
        let approved = if command.agent_only { "approved as agent" } else { "approved" };
        Ok(replaced.unwrap_or_else(|| approved.to_owned()))
    })
    .await
}

fn check_place_is_free(node: &Node, room: &[Node]) -> anyhow::Result<()> {
    for other in room.iter().filter(|other| other.id != node.id && other.state == NodeState::Claimed) {
        if other.name == node.name || other.ip == node.ip {
            bail!("{} or {} is taken by node {}", node.name, node.ip, other.id);
        }
    }
    Ok(())
}

pub(super) async fn assign(context: &Context, command: Assign) -> anyhow::Result<()> {
    change(context, &command.node, "assign", async |_, node| {
        node.forced_role = match command.role {
            Word::Server => Some(Role::Server),
            Word::Agent => Some(Role::Agent),
            Word::None => Some(Role::None),
            Word::Auto => None,
        };
        Ok(node.forced_role.map_or_else(|| "role by policy".to_owned(), |role| format!("role {role}")))
    })
    .await
}

//! Owns the way of a new server into an existing cluster (k3s:
//! pkg/cluster/bootstrap.go, pkg/etcd/etcd.go). Every step may be cut and done again at the next start.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::http::reason;
use crate::register::{Ballot, Register, Slot};
use crate::settings::Settings;
use crate::store::{BootFile, DUPLICATE_NAME, Store, TOO_MANY_LEARNERS};
use crate::supervisor::MemberRequest;
use crate::tls::Client;
use crate::token::Token;
use crate::{durable, files, log, pki};

/// The CA of the server at `address`, compared with the token's pin.
pub fn trusted_ca(address: &str, token: &Token) -> Result<String> {
    let reply = Client::blind(address)?.get("/cacerts").context("failed to get CA certs")?;
    if reply.status != 200 {
        let url = format!("https://{address}/cacerts");
        bail!("failed to get CA certs: {url}: {} {}", reply.status, reason(reply.status));
    }
    let ca = reply.as_text();
    token.check_pin(&pki::ca_hash(ca.as_bytes()))?;
    if token.ca_hash.is_none() {
        log::warn(
            "Cluster CA certificate is not trusted by the host CA bundle, but the token does not \
             include a CA hash. Use the full token from the server's node-token file to enable \
             Cluster CA validation.",
        );
    }
    Ok(ca)
}

/// A client for the join server, after the check of its CA.
pub fn client(settings: &Settings) -> Result<Client> {
    let address = settings.server_address()?;
    let what = "failed to bootstrap cluster data: failed to check if bootstrap data has been initialized: \
                failed to validate token";
    let token = Token::parse(&settings.token).context(what)?;
    let ca = trusted_ca(&address, &token).context(what)?;
    Ok(Client::new(&address, &ca, None)?.basic("server", &token.password))
}

/// The CA set of the peer.
pub fn fetch_set(client: &Client, address: &str) -> Result<BTreeMap<String, BootFile>> {
    let path = "/v1-k3s/server-bootstrap";
    let reply = client.get(path)?;
    match reply.status {
        200 => Ok(serde_json::from_slice(&reply.body)?),
        400 => bail!("https://{address}{path}: {}", reply.as_text()),
        code => bail!("https://{address}{path}: {code} {}", reason(code)),
    }
}

/// Joins: CA set, comparison of settings, learner, own copy of the datastore.
pub fn join(settings: &Settings) -> Result<Register> {
    let client = client(settings)?;
    log::info("Managed etcd cluster not yet initialized");
    compare(settings, &client).context("failed to validate server configuration")?;
    let set = fetch_set(&client, &settings.server_address()?).context("failed to bootstrap cluster data")?;
    files::write_set(&settings.data, &set)?;
    let name = files::member_name(settings)?;
    let (ballot, store) = become_learner(settings, &client, &name)?;
    let slot = Slot { promised: ballot.clone(), accepted: ballot, value: store };
    Register::create_member(&settings.data, slot)
}

fn become_learner(settings: &Settings, client: &Client, name: &str) -> Result<(Ballot, Store)> {
    let wanted =
        MemberRequest { node: settings.node_name.clone(), name: name.into(), peer_url: settings.peer_url() };
    loop {
        let reply = client.post("/standin/members", &wanted)?;
        let text = reply.as_text();
        if reply.status == 200 {
            let (ballot, store): (Ballot, Store) = serde_json::from_slice(&reply.body)?;
            if store.members.iter().any(|m| m.peer_url == wanted.peer_url) {
                return Ok((ballot, store));
            }
        } else if text == TOO_MANY_LEARNERS {
            log::info(&format!("Waiting for other members to finish joining etcd cluster: {text}"));
        } else if text == DUPLICATE_NAME {
            std::fs::remove_file(settings.data.etcd("name"))?;
            bail!("etcd cluster join failed: {text}");
        } else {
            bail!("etcd cluster join failed: {text}");
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// k3s compares only here (k3s: pkg/cluster/bootstrap.go compareConfig); an unreadable peer is skipped.
fn compare(settings: &Settings, client: &Client) -> Result<()> {
    let reply = client.get("/v1-k3s/config");
    let theirs: BTreeMap<String, String> = match reply {
        Ok(reply) if reply.status == 200 => serde_json::from_slice(&reply.body)?,
        other => {
            let why =
                other.map_or_else(|e| format!("{e:#}"), |r| format!("{} {}", r.status, reason(r.status)));
            log::warn(&format!("Skipping cluster configuration validation: {why}"));
            return Ok(());
        }
    };
    let ours = settings.critical();
    let mut wrong = ours.iter().filter(|(key, value)| theirs.get(*key) != Some(*value)).peekable();
    if wrong.peek().is_none() {
        return Ok(());
    }
    for (key, _) in wrong {
        log::warn(&format!("critical configuration mismatched: {key}"));
    }
    Err(anyhow!("critical configuration value mismatch between servers"))
}

/// Joins again after a tombstone; the peer is waited for (seen with v1.36.2).
pub fn rejoin(settings: &Settings) -> Result<Register> {
    while let Err(error) = client(settings) {
        log::info(&format!(
            "Waiting to retrieve etcd cluster member list: failed to get MemberList from server: {error:#}"
        ));
        std::thread::sleep(Duration::from_secs(1));
    }
    join(settings)
}

/// Moves `db/etcd` to `db/etcd-backup-<seconds>`, as k3s does on a tombstone.
pub fn move_aside(settings: &Settings) -> Result<()> {
    let from = settings.data.server("db/etcd");
    let to = settings.data.server(&format!("db/etcd-backup-{}", crate::store::now()));
    log::info("tombstone file has been detected, removing ${datadir}/server/db to rejoin the cluster");
    durable::rename(&from, &to)
}

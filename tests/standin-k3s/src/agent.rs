//! Owns the start of `k3s agent` (k3s: pkg/agent/run.go): load
//! balancer, token check, then the kubelet part of `node`.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::http::reason;
use crate::lb::Balancer;
use crate::node::Kubelet;
use crate::pki::{self, Pair};
use crate::settings::Settings;
use crate::tls::Client;
use crate::token::Token;
use crate::{join, log, notify, paths};

/// Runs until the process ends.
pub fn run(settings: &Settings) -> Result<Infallible> {
    if settings.server.is_none() {
        bail!("--server is required");
    }
    let proof = proof(settings)?;
    settings.record("agent")?;
    let balancer = Balancer::start(settings)?;
    let address = format!("{}:{}", paths::loopback(), settings.lb_port());
    let url = settings.server.clone().unwrap_or_default();
    let (ca, client) = wait_for_server(&url, &address, &proof);
    wait_for_config(&address, &client);
    let kubelet = Kubelet { settings, address, ca, client, member: None };
    let ready = || {
        log::info("k3s agent is up and running");
        notify::ready();
    };
    kubelet.run(ready, |servers| balancer.learn(servers));
    bail!("kubelet exited")
}

/// How an agent proves itself: its token, else a client certificate that it
/// still has (k3s >= 1.27.3).
enum Proof {
    Token(Token),
    Certificate(Pair),
}

fn proof(settings: &Settings) -> Result<Proof> {
    if !settings.token.is_empty() {
        return Ok(Proof::Token(Token::parse(&settings.token)?));
    }
    let read = |name: &str| std::fs::read_to_string(settings.data.agent(name)).unwrap_or_default();
    let pair = Pair { cert: read("client-kubelet.crt"), key: read("client-kubelet.key") };
    if pki::certs(&pair.cert).is_err() || pki::key(&pair.key).is_err() {
        bail!("--token is required");
    }
    Ok(Proof::Certificate(pair))
}

/// Each 2 s, for ever.
fn wait_for_server(url: &str, address: &str, proof: &Proof) -> (String, Client) {
    loop {
        match connect(address, proof) {
            Ok(found) => return found,
            Err(error) => {
                log::error(&format!("Failed to validate connection to cluster at {url}: {error:#}"));
                std::thread::sleep(Duration::from_secs(2));
            }
        }
    }
}

fn connect(address: &str, proof: &Proof) -> Result<(String, Client)> {
    let none = Token { ca_hash: None, user: String::new(), password: String::new() };
    let token = if let Proof::Token(token) = proof { token } else { &none };
    let ca = join::trusted_ca(address, token)?;
    let client = match proof {
        Proof::Token(token) => {
            let user = if token.user.is_empty() { "node" } else { &token.user };
            Client::new(address, &ca, None)?.basic(user, &token.password)
        }
        Proof::Certificate(pair) => Client::new(address, &ca, Some(pair))?,
    };
    Ok((ca, client))
}

/// Each 5 s, for ever; a wrong password is only seen here.
fn wait_for_config(address: &str, client: &Client) {
    while let Err(error) = config(address, client) {
        log::info(&format!(
            "Waiting to retrieve agent configuration; server is not ready: failed to retrieve configuration \
             from server: {error:#}"
        ));
        std::thread::sleep(Duration::from_secs(5));
    }
}

fn config(address: &str, client: &Client) -> Result<()> {
    let path = "/v1-k3s/config";
    match client.get(path)?.status {
        200 => Ok(()),
        code => bail!("https://{address}{path}: {code} {}", reason(code)),
    }
}

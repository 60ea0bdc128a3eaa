//! As what a node runs, whatever it is told now.
//!
//! Owns the evidence for its name and address: the certificates that k3s has
//! made anew at each start, and the name of its etcd member. A hostname or an
//! address of an interface is none: both may have changed since.

use std::net::IpAddr;

use super::compare::refused;
use crate::facts::k3s_config::Effective;
use crate::plan::refusal::Refusal;

/// What of the host counts beside its settings. Holds secrets.
#[derive(Clone, Default)]
pub struct Seen {
    /// Name of its Node, lower case: that of its kubelet's certificate, else the
    /// first part of its etcd member's.
    pub name: Option<String>,
    /// Addresses in its kubelet's certificate, those inside the room first.
    pub addresses: Vec<IpAddr>,
    /// URLs of the other servers, as the cluster names them; empty where it could
    /// not be asked.
    pub servers: Vec<String>,
    /// Password in the cluster's own server token, on a server.
    pub server_token: Option<String>,
    /// Password with which agents join; on a server only when it is its own.
    pub agent_token: Option<String>,
    /// Hash of the cluster's CA by k3s's rule.
    pub ca_hash: Option<String>,
    /// Version of the binary, for example `v1.36.2+k3s1`.
    pub version: Option<String>,
    /// Whether there is a datastore of etcd.
    pub has_datastore: Option<bool>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Seen({:?}, tokens secret)", self.name)
    }
}

impl Seen {
    /// The address that a node runs with which was told none. IPv4 first, as k3s
    /// takes it (k3s: pkg/util/net.go); an external one is not the node's own.
    #[must_use]
    pub fn running_ip(&self, told: &Effective) -> Option<String> {
        let own = || {
            let all = self.addresses.iter().map(|ip| (ip.is_ipv6(), ip.to_string()));
            all.filter(|(_, ip)| !told.all("node-external-ip").contains(ip))
        };
        let four = own().find(|(is_six, _)| !is_six);
        four.or_else(|| own().next()).map(|(_, ip)| ip)
    }
}

/// What a node is told against what it runs as: its next start would make it
/// another one.
pub(super) fn contradictions(told: &Effective, seen: &Seen) -> Vec<Refusal> {
    let name = told.first("node-name").filter(|name| !name.is_empty()).map(str::to_lowercase);
    let name = name.filter(|name| seen.name.as_ref().is_some_and(|runs| runs != name));
    let ip = told.first("node-ip").filter(|told| {
        let runs_with = |ip: &IpAddr| told.parse().is_ok_and(|told: IpAddr| told == *ip);
        !seen.addresses.is_empty() && !seen.addresses.iter().any(runs_with)
    });
    let runs = |list: String| format!("put back {list}, or let k3s start with the new value first");
    let all = seen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let name = name.map(|name| {
        let now = seen.name.clone().unwrap_or_default();
        refused(
            format!("node-name is {name} in its settings, and this node runs as {now} (client-kubelet.crt)"),
            runs(now),
        )
    });
    let ip = ip.map(|ip| {
        refused(
            format!("node-ip is {ip} in its settings, and this node runs with {all} (serving-kubelet.crt)"),
            runs(all.clone()),
        )
    });
    name.into_iter().chain(ip).collect()
}

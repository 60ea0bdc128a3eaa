//! How small and how large the networks of a cluster may be.
//!
//! Owns the sizes at which a server's k3s ends with an error. Silent where the
//! assignment sets what a size depends on. No I/O.

use super::{Cluster, K3s};
use crate::facts::network::Cidr;

/// What is wrong with the networks, each with its field.
pub(super) fn problems(cluster: &Cluster, k3s: &K3s) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let says = |key: &str| k3s.config.keys().any(|said| said.as_str() == key);
    if let Ok(pods) = cluster.cluster_cidr.parse::<Cidr>() {
        found.extend(pods_of(pods, says("kube-controller-manager-arg")));
    }
    if let Ok(services) = cluster.service_cidr.parse::<Cidr>() {
        // k3s: pkg/cli/server/server.go, the default of cluster-dns.
        if host_bits(services) < 4 && !says("cluster-dns") {
            let longest = length(services) - 4;
            let problem = format!(
                "{services} is too small: k3s gives its 10th address to the cluster's DNS, so that it must be a /{longest} or shorter"
            );
            found.push(("cluster.service_cidr", problem));
        }
        // Kubernetes: pkg/controlplane/apiserver/options/validation.go, validateMaxCIDRRange; some
        // later versions let it pass.
        if host_bits(services) > 20 && !k3s.version.at_least(33) && !says("kube-apiserver-arg") {
            let shortest = length(services) - 20;
            let problem =
                format!("{services} is too large: Kubernetes before 1.33 takes a /{shortest} or longer");
            found.push(("cluster.service_cidr", problem));
        }
    }
    found
}

/// Each node gets a network of its own (Kubernetes: pkg/controller/nodeipam/node_ipam_controller.go).
fn pods_of(pods: Cidr, has_own_size: bool) -> Option<(&'static str, String)> {
    let node = if pods.address.is_ipv4() { 24 } else { 64 };
    (pods.prefix > node && !has_own_size).then(|| {
        let problem = format!("{pods} is too small: each node gets a /{node} of it, so that it must be a /{node} or shorter; or set node-cidr-mask-size in k3s.config's kube-controller-manager-arg");
        ("cluster.cluster_cidr", problem)
    })
}

fn length(network: Cidr) -> u8 {
    if network.address.is_ipv4() { 32 } else { 128 }
}

fn host_bits(network: Cidr) -> u8 {
    length(network).saturating_sub(network.prefix)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use serde_json::{Value, json};

    use crate::role::parse_payload;

    /// What is said of a server with these networks, and with a key of `k3s.config`.
    fn said(role: &str, version: &str, cidrs: (&str, &str), key: &str) -> String {
        let mut payload = json!({
            "schema": 1, "generation": 3, "site": "hz-017", "role": role,
            "node": {"name": "a", "ip": if cidrs.0.contains(':') { "fd00::7" } else { "172.16.36.3" }},
            "cluster": {"name": "hz-017", "cluster_cidr": cidrs.0, "service_cidr": cidrs.1,
                "servers": ["https://172.16.36.1:6443"]},
            "join": {"agent_token": "agent-password"},
            "k3s": {"version": version, "config": {}},
        });
        if role == "server" {
            payload["join"]["server_token"] = json!("server-password");
        }
        if !key.is_empty() {
            payload["k3s"]["config"][key] = Value::Null;
        }
        parse_payload(payload.to_string().as_bytes())
            .map_or_else(|error| error.to_string(), |_| String::new())
    }

    const NEW: &str = "v1.36.2+k3s1";
    const OLD: &str = "v1.32.6+k3s1";

    #[test]
    fn a_network_at_which_k3s_ends_is_refused_and_the_one_beside_it_is_not() {
        let server = |version, cidrs| said("server", version, cidrs, "");
        for (good, bad, word) in [
            (("10.253.0.0/24", "10.254.0.0/28"), ("10.253.0.0/25", "10.254.0.0/16"), "each node gets a /24"),
            (("10.253.0.0/16", "10.254.0.0/28"), ("10.253.0.0/16", "10.254.0.0/29"), "be a /28 or shorter"),
            (("10.253.0.0/16", "10.0.0.0/12"), ("10.253.0.0/16", "10.0.0.0/11"), "takes a /12 or longer"),
            (("fd00:2::/64", "fd00:1::/124"), ("fd00:2::/65", "fd00:1::/112"), "each node gets a /64"),
            (("fd00:2::/48", "fd00:1::/124"), ("fd00:2::/48", "fd00:1::/125"), "be a /124 or shorter"),
            (("fd00:2::/48", "fd00:1::/108"), ("fd00:2::/48", "fd00:1::/107"), "takes a /108 or longer"),
        ] {
            assert_eq!(server(OLD, good), "");
            let told = server(OLD, bad);
            assert!(told.contains(word), "{word}: {told}");
            assert_eq!(said("agent", OLD, bad, ""), "", "an agent is told them by its server");
        }
        assert_eq!(server(NEW, ("10.253.0.0/16", "10.0.0.0/11")), "");
    }

    #[test]
    fn what_the_assignment_sets_itself_is_its_own_matter() {
        for (cidrs, key) in [
            (("10.253.0.0/25", "10.254.0.0/16"), "kube-controller-manager-arg"),
            (("10.253.0.0/16", "10.254.0.0/29"), "cluster-dns"),
            (("10.253.0.0/16", "10.0.0.0/11"), "kube-apiserver-arg"),
        ] {
            assert_ne!(said("server", OLD, cidrs, ""), "");
            assert_eq!(said("server", OLD, cidrs, key), "", "{key}");
        }
    }
}

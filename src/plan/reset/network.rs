//! Which interfaces, name spaces and sets of addresses are k3s's.
//!
//! Owns the rule: the names that k3s and its flannel use, as long as no CNI
//! configuration of others claims the same; cables of pods; name spaces that
//! the CRI made and in which nobody lives any more.

use super::NETWORKS;

/// Interfaces of k3s's flannel, kube-proxy (k3s: install.sh create_killall).
const INTERFACES: [&str; 5] = ["flannel.1", "flannel-v6.1", "flannel-wg", "flannel-wg-v6", "kube-ipvs0"];
/// The bridge of k3s's flannel, and the default name of everybody's bridge.
const BRIDGE: &str = "cni0";
/// Tables that kube-proxy and flannel make with nft itself.
const TABLES: [&str; 4] = ["ip kube-proxy", "ip6 kube-proxy", "ip flannel-ipv4", "ip6 flannel-ipv6"];

/// One interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Number of the bridge that it is a member of.
    pub master: Option<u32>,
}

/// Interfaces that go: cables before their bridge. `foreign` are the texts of
/// CNI configurations of others.
#[must_use]
pub fn interfaces(all: &[Interface], foreign: &[String]) -> Vec<Interface> {
    let claimed = |word: &str| foreign.iter().any(|text| text.contains(&format!("\"{word}\"")));
    let bridge = all.iter().find(|found| found.name == BRIDGE && !claimed(BRIDGE));
    let cable = |found: &&Interface| {
        found.name.starts_with("veth") && bridge.is_some_and(|bridge| found.master == Some(bridge.index))
    };
    let flannel = |found: &&Interface| {
        INTERFACES.contains(&found.name.as_str())
            && !(found.name.starts_with("flannel") && claimed("flannel"))
    };
    let cables = all.iter().filter(cable);
    cables.chain(bridge).chain(all.iter().filter(flannel)).cloned().collect()
}

/// Whether a network of the CNI of this name is ours or k3s's.
#[must_use]
pub fn is_own_network(name: &str) -> bool {
    NETWORKS.contains(&name)
}

/// Whether a result of a CNI plugin (`NETWORK-CONTAINER-INTERFACE`) is of a
/// network of ours or k3s's.
#[must_use]
pub fn is_own_result(name: &str) -> bool {
    NETWORKS.iter().any(|network| name.strip_prefix(network).is_some_and(|rest| rest.starts_with('-')))
}

/// Tables of nft that go, of those that `nft list tables` prints.
#[must_use]
pub fn tables(listed: &str) -> Vec<String> {
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix("table "));
    names.filter(|name| TABLES.contains(name)).map(str::to_owned).collect()
}

/// Sets of addresses that go, of those that `ipset list -n` prints. The network
/// policy controller puts the family before the name of those of IPv6
/// (kube-router: pkg/utils/ipset.go).
#[must_use]
pub fn sets(listed: &str) -> Vec<String> {
    let is_own = |name: &&str| name.strip_prefix("inet6:").unwrap_or(name).starts_with("KUBE-");
    listed.lines().map(str::trim).filter(is_own).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, master: Option<u32>) -> Interface {
        Interface { index, name: name.to_owned(), master }
    }

    fn names(found: &[Interface]) -> Vec<&str> {
        found.iter().map(|found| found.name.as_str()).collect()
    }

    #[test]
    fn cables_go_only_with_the_bridge_of_k3s() {
        let all = [
            interface(1, "lo", None),
            interface(2, "eth0", Some(3)),
            interface(3, "cni0", None),
            interface(4, "veth1", Some(3)),
            interface(5, "veth2", Some(6)),
            interface(6, "docker0", None),
            interface(7, "flannel.1", None),
            interface(8, "kube-ipvs0", None),
        ];
        assert_eq!(names(&interfaces(&all, &[])), ["veth1", "cni0", "flannel.1", "kube-ipvs0"]);
        let foreign = ["{\"type\":\"bridge\",\"bridge\":\"cni0\"}".to_owned()];
        assert_eq!(names(&interfaces(&all, &foreign)), ["flannel.1", "kube-ipvs0"]);
        let foreign = ["{\"type\": \"flannel\"}".to_owned()];
        assert_eq!(names(&interfaces(&all, &foreign)), ["veth1", "cni0", "kube-ipvs0"]);
    }

    #[test]
    fn results_tables_and_sets_of_others_stay() {
        assert!(is_own_result("cbr0-abc-eth0") && is_own_result("edge-loopback-abc-lo"));
        assert!(!is_own_result("podman-abc-eth0") && !is_own_result("cbr01-abc-eth0"));
        assert_eq!(
            tables("table ip filter\ntable ip kube-proxy\ntable inet kube-proxy\n"),
            ["ip kube-proxy"]
        );
        let listed = "KUBE-CLUSTER-IP\nblocklist\ninet6:KUBE-SRC-1\ninet6:others\n";
        assert_eq!(sets(listed), ["KUBE-CLUSTER-IP", "inet6:KUBE-SRC-1"]);
    }
}

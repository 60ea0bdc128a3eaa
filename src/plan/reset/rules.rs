//! Which chains and rules of iptables are k3s's, and how they go.
//!
//! Owns the rule, and the words for `iptables-restore --noflush`: each rule that
//! leads into such a chain, then the chains, in one act per table. Chains,
//! counters and rules of others are never written again. Source of the names:
//! k3s: install.sh create_killall, flannel: pkg/trafficmngr/iptables, cni
//! plugins: plugins/meta/portmap.

use std::collections::BTreeSet;

use super::network::is_own_network;

/// Chains of kubelet, kube-proxy, the network policy controller, and flannel.
const PREFIXES: [&str; 2] = ["KUBE-", "FLANNEL-"];
/// Chains of the portmap plugin, which all its users share.
const SHARED: [&str; 4] =
    ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];
/// Comment of rules that flannel puts directly into chains of the kernel.
const FLANNEL: &str = "flanneld ";

/// What goes of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// `filter`, `nat`, `mangle`, …
    pub name: String,
    /// Chains that go with all that is in them.
    pub chains: Vec<String>,
    /// Rules of other chains that go, as `iptables-save` prints them.
    pub rules: Vec<String>,
}

/// What goes of what `iptables-save` printed. `shared` says that other software
/// on this host uses the CNI: chains that belong to nobody alone then stay.
#[must_use]
pub fn to_remove(saved: &str, shared: bool) -> Vec<Table> {
    let shared = shared || networks(saved).any(|name| !is_own_network(name));
    let mut tables = Vec::new();
    for text in saved.split("\n*").map(|text| text.trim_start_matches('*')) {
        let table = one_table(text, shared);
        if !(table.chains.is_empty() && table.rules.is_empty()) {
            tables.push(table);
        }
    }
    tables
}

fn one_table(text: &str, shared: bool) -> Table {
    let mut lines = text.lines().map(str::trim);
    let name = lines.next().unwrap_or_default().to_owned();
    let lines: Vec<&str> = lines.collect();
    let custom = lines.iter().filter_map(|line| {
        let mut words = line.strip_prefix(':')?.split(' ');
        let name = words.next()?;
        (words.next() == Some("-")).then_some(name)
    });
    let chains: BTreeSet<&str> = custom.filter(|chain| is_own(chain, &lines, shared)).collect();
    let is_rule = |line: &&&str| {
        chain_of(line).is_some_and(|chain| !chains.contains(chain))
            && (target(line).is_some_and(|target| chains.contains(target)) || is_of_flannel(line))
    };
    let rules = lines.iter().filter(is_rule).map(|line| (*line).to_owned()).collect();
    Table { name, chains: chains.into_iter().map(str::to_owned).collect(), rules }
}

fn is_own(chain: &str, lines: &[&str], shared: bool) -> bool {
    if PREFIXES.iter().any(|prefix| chain.starts_with(prefix)) {
        return true;
    }
    if !chain.starts_with("CNI-") {
        return false;
    }
    let concerns = |line: &&&str| chain_of(line) == Some(chain) || target(line) == Some(chain);
    let mut named = lines.iter().filter(concerns).filter_map(|line| network(line)).peekable();
    if named.peek().is_none() {
        return SHARED.contains(&chain) && !shared;
    }
    named.all(is_own_network)
}

/// Networks that rules name in their comments.
fn networks(saved: &str) -> impl Iterator<Item = &str> {
    saved.lines().filter_map(network)
}

/// `… --comment "name: \"cbr0\" id: \"…\"" …` (cni plugins: pkg/utils/utils.go).
fn network(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("name: \\\"")?;
    rest.split_once("\\\"").map(|(name, _)| name)
}

fn chain_of(line: &str) -> Option<&str> {
    line.strip_prefix("-A ")?.split(' ').next()
}

/// A comment may hold any words; the target stands after it.
fn target(line: &str) -> Option<&str> {
    let words = [" -j ", " -g "];
    let at = words.iter().filter_map(|word| Some(line.rfind(word)? + word.len())).max()?;
    line.get(at..)?.split(' ').next()
}

fn is_of_flannel(line: &str) -> bool {
    line.contains(&format!("--comment \"{FLANNEL}"))
}

/// Input of `iptables-restore --noflush` that removes `tables`. A chain that is
/// named is emptied first; that is how kube-proxy cleans up itself
/// (kubernetes: pkg/proxy/iptables/proxier.go CleanupLeftovers).
#[must_use]
pub fn script(tables: &[Table]) -> String {
    let mut out = String::new();
    for table in tables {
        out.push_str(&format!("*{}\n", table.name));
        table.chains.iter().for_each(|chain| out.push_str(&format!(":{chain} - [0:0]\n")));
        let rules = table.rules.iter().filter_map(|rule| rule.strip_prefix("-A "));
        rules.for_each(|rule| out.push_str(&format!("-D {rule}\n")));
        table.chains.iter().for_each(|chain| out.push_str(&format!("-X {chain}\n")));
        out.push_str("COMMIT\n");
    }
    out
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save v1.8.9 (nf_tables)
*mangle
:PREROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
# Completed
*nat
:PREROUTING ACCEPT [12:720]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ABC - [0:0]
:FLANNEL-POSTRTG - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:CNI-DN-1 - [0:0]
:CNI-0a1b - [0:0]
:CNI-9z9z - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A POSTROUTING -s 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A POSTROUTING -s 10.42.0.5/32 -m comment --comment "name: \"cbr0\" id: \"1\"" -j CNI-0a1b
-A POSTROUTING -s 10.88.0.5/32 -m comment --comment "name: \"podman\" id: \"2\"" -j CNI-9z9z
-A POSTROUTING -m comment --comment "see -j KUBE-SERVICES" -j MASQUERADE
-A KUBE-SERVICES -d 10.43.0.1/32 -j KUBE-SVC-ABC
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cbr0\" id: \"1\"" -j CNI-DN-1
-A CNI-DN-1 -p tcp -j CNI-HOSTPORT-SETMARK
COMMIT
"#;

    #[test]
    fn chains_of_k3s_go_and_those_of_others_stay_with_their_rules() {
        let tables = to_remove(SAVED, false);
        assert_eq!(tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["mangle", "nat"]);
        let nat = &tables[1];
        assert_eq!(
            nat.chains,
            ["CNI-0a1b", "CNI-DN-1", "CNI-HOSTPORT-DNAT", "FLANNEL-POSTRTG", "KUBE-SERVICES", "KUBE-SVC-ABC"]
        );
        assert_eq!(nat.rules.len(), 5, "{:?}", nat.rules);
        assert!(!nat.rules.iter().any(|rule| rule.contains("DOCKER") || rule.contains("podman")));
        assert!(!nat.rules.iter().any(|rule| rule.contains("MASQUERADE")), "a comment is no target");
    }

    #[test]
    fn chains_that_all_users_of_the_cni_share_go_when_nobody_else_uses_it() {
        let alone = SAVED.replace("podman", "cbr0");
        let nat = |shared| to_remove(&alone, shared).remove(1).chains;
        assert!(nat(false).contains(&"CNI-HOSTPORT-SETMARK".to_owned()));
        assert!(!nat(true).contains(&"CNI-HOSTPORT-SETMARK".to_owned()));
    }

    #[test]
    fn the_words_empty_the_chains_before_they_go_and_name_nothing_else() {
        let words = script(&to_remove(SAVED, false));
        let lines: Vec<&str> = words.lines().collect();
        assert_eq!(
            lines[..4],
            ["*mangle", ":KUBE-KUBELET-CANARY - [0:0]", "-X KUBE-KUBELET-CANARY", "COMMIT"]
        );
        assert!(words.contains(
            "-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n"
        ));
        assert!(!words.contains("DOCKER") && !words.contains("-A ") && !words.contains("PREROUTING ACCEPT"));
        let position = |line: &str| lines.iter().position(|found| *found == line);
        assert!(position(":KUBE-SERVICES - [0:0]") < position("-X KUBE-SERVICES"));
    }

    #[test]
    fn a_host_without_any_of_them_needs_no_words() {
        assert!(to_remove("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n", false).is_empty());
        assert_eq!(script(&[]), "");
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "(\\*nat\n)?(:[A-Z-]{0,9} - \\[0:0\\]\n|-A [ -~]{0,40}\n){0,6}") {
            let _ = script(&to_remove(&text, false));
        }
    }
}

//! Whether another host uses the node IP (RFC 5227), and what follows from it.
//!
//! Owns which packets are evidence, how a router that answers for everybody
//! (proxy ARP) is told from an impostor, when to look, and the one thing that
//! evidence may stop: the first start of a host that never joined. A joined
//! node is never stopped by it: an impostor could stop the original.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::facts::network::{Cidr, Interface};
use crate::ordered::Ordered as _;

/// Between two looks of a node that runs, in seconds.
const EVERY_S: u64 = 30 * 60;
/// Between two looks while somebody else has the address, in seconds.
const AGAIN_S: u64 = 60;
/// Networks with fewer addresses have no two improbable ones.
const LONGEST_PREFIX: u8 = 28;

/// One ARP packet that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whether it asks; else it answers.
    pub is_request: bool,
    /// Hardware address of its sender, lower case with colons.
    pub mac: String,
    /// Address that the sender has; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// Address that it is about.
    pub target: Ipv4Addr,
}

/// What one look gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Nobody else answered.
    Free,
    /// Another host has the address or wants it.
    Taken {
        /// Its hardware address.
        mac: String,
    },
    /// It could not be found out.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// The last look of this boot, as it lies in `/run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Address that was looked for.
    pub ip: IpAddr,
    /// Boot in which that was.
    pub boot_id: String,
    /// When, RFC 3339.
    pub at: String,
    /// When, in seconds since boot.
    pub since_boot_s: u64,
    /// What it gave.
    pub result: Answer,
}

/// Hardware addresses of this host: in use and burnt in, bonds and members.
#[must_use]
pub fn own_macs(interfaces: &[Interface]) -> BTreeSet<String> {
    let macs = interfaces.iter().flat_map(|nic| [nic.mac.known(), nic.permanent_mac.known()]);
    macs.flatten().cloned().into_set()
}

/// Hardware addresses that have `ip` or probe for it, in the order in which they
/// were heard; those of this host are none (a bond hears its own probes).
#[must_use]
pub fn suspects(heard: &[Heard], ip: Ipv4Addr, own: &BTreeSet<String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for packet in heard.iter().filter(|packet| is_evidence(packet, ip)) {
        if !own.contains(&packet.mac) && !found.contains(&packet.mac) {
            found.push(packet.mac.clone());
        }
    }
    found
}

fn is_evidence(packet: &Heard, ip: Ipv4Addr) -> bool {
    let is_probe = packet.is_request && packet.sender.is_unspecified() && packet.target == ip;
    packet.sender == ip || is_probe
}

/// Two addresses of `network` that nobody should have, to unmask a router that
/// answers for all of them; `None` where the network is too small to tell.
#[must_use]
pub fn decoys(network: Cidr, ip: Ipv4Addr) -> Option<[Ipv4Addr; 2]> {
    let IpAddr::V4(_) = network.address else { return None };
    if network.prefix > LONGEST_PREFIX {
        return None;
    }
    let mask = u32::MAX.checked_shr(u32::from(network.prefix)).unwrap_or(0);
    let base = ip.to_bits() & !mask;
    // Neither the network nor broadcast, and far from low numbers that are in use.
    let at = |third: u32| {
        let host = (ip.to_bits() & mask).wrapping_add(mask / 3 * third).wrapping_add(11) & mask;
        Ipv4Addr::from_bits(base | host.clamp(1, mask - 1))
    };
    let pair = [at(1), at(2)];
    (pair[0] != ip && pair[1] != ip && pair[0] != pair[1]).then_some(pair)
}

/// The first suspect that does not also answer for both decoys.
#[must_use]
pub fn judge(suspects: &[String], heard: &[Heard], decoys: Option<[Ipv4Addr; 2]>) -> Answer {
    let answers = |mac: &String, ip: Ipv4Addr| {
        heard.iter().any(|packet| !packet.is_request && packet.sender == ip && packet.mac == *mac)
    };
    let is_proxy = |mac: &&String| decoys.is_some_and(|decoys| decoys.iter().all(|ip| answers(mac, *ip)));
    match suspects.iter().find(|mac| !is_proxy(mac)) {
        Some(mac) => Answer::Taken { mac: mac.clone() },
        None => Answer::Free,
    }
}

/// What the first start of a host that never joined must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstStart {
    /// Start.
    Go,
    /// Look first.
    Ask,
    /// Not start: another host has the address.
    Taken(Refusal),
}

/// Whether a host that never joined may start, by the last look of this boot.
#[must_use]
pub fn first_start(last: Option<&Look>, now_s: u64) -> FirstStart {
    match last {
        None => FirstStart::Ask,
        Some(look) => match &look.result {
            Answer::Free | Answer::Unknown { .. } => FirstStart::Go,
            Answer::Taken { .. } if is_old(look, now_s) => FirstStart::Ask,
            Answer::Taken { mac } => FirstStart::Taken(taken(look.ip, mac)),
        },
    }
}

/// Whether a node that runs should look again; always when its address came back.
#[must_use]
pub fn is_due(last: Option<&Look>, now_s: u64, came_back: bool) -> bool {
    came_back || last.is_none_or(|look| is_old(look, now_s))
}

fn is_old(look: &Look, now_s: u64) -> bool {
    let taken = matches!(look.result, Answer::Taken { .. });
    now_s.saturating_sub(look.since_boot_s) >= if taken { AGAIN_S } else { EVERY_S }
}

/// What is wrong by the last look; nothing when nobody else was heard.
#[must_use]
pub fn finding(last: &Look) -> Option<Refusal> {
    match &last.result {
        Answer::Taken { mac } => Some(taken(last.ip, mac)),
        Answer::Free | Answer::Unknown { .. } => None,
    }
}

/// What the kernel's own search found (IPv6, RFC 4862): it tells no hardware address.
#[must_use]
pub fn found_by_kernel(interfaces: &[Interface], ip: IpAddr) -> Option<Refusal> {
    let nic = interfaces.iter().find(|nic| nic.duplicates.contains(&ip))?;
    Some(Refusal::new(
        "EB-address-duplicate",
        format!("another host answers for node IP {ip} on {}, as the kernel found", nic.name),
        "find that host and give it another address, then take ours away and add it again",
    ))
}

fn taken(ip: IpAddr, mac: &str) -> Refusal {
    Refusal::new(
        "EB-address-duplicate",
        format!("another host answers for node IP {ip}: its hardware address is {mac}"),
        format!(
            "find {mac} in the switch's tables and give that host another address; it is looked at again every minute"
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IP: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 1);
    const OTHER: &str = "02:00:00:00:00:99";

    fn heard(is_request: bool, mac: &str, sender: Ipv4Addr, target: Ipv4Addr) -> Heard {
        Heard { is_request, mac: mac.to_owned(), sender, target }
    }

    fn own() -> BTreeSet<String> {
        BTreeSet::from(["02:00:00:00:00:01".to_owned()])
    }

    fn look(result: Answer) -> Look {
        Look { ip: IP.into(), boot_id: "b".into(), at: String::new(), since_boot_s: 100, result }
    }

    #[test]
    fn whoever_has_or_probes_the_address_is_a_suspect() {
        let none = Ipv4Addr::UNSPECIFIED;
        let away = Ipv4Addr::new(172, 16, 36, 9);
        for (packet, counts) in [
            (heard(false, OTHER, IP, none), true),
            (heard(true, OTHER, IP, away), true),
            (heard(true, OTHER, none, IP), true),
            (heard(true, OTHER, away, IP), false),
            (heard(false, OTHER, away, IP), false),
            (heard(false, "02:00:00:00:00:01", IP, none), false),
            (heard(true, "02:00:00:00:00:01", none, IP), false),
        ] {
            assert_eq!(!suspects(std::slice::from_ref(&packet), IP, &own()).is_empty(), counts, "{packet:?}");
        }
    }

    #[test]
    fn who_answers_for_everybody_is_a_router_and_who_answers_for_one_more_is_not() {
        let network: Cidr = "172.16.36.1/24".parse().unwrap();
        let decoys = decoys(network, IP).unwrap();
        let suspect = [OTHER.to_owned()];
        let answer = |ip| heard(false, OTHER, ip, Ipv4Addr::UNSPECIFIED);
        let one = [answer(IP), answer(decoys[0])];
        assert_eq!(judge(&suspect, &one, Some(decoys)), Answer::Taken { mac: OTHER.to_owned() });
        let all = [answer(decoys[0]), answer(decoys[1])];
        assert_eq!(judge(&suspect, &all, Some(decoys)), Answer::Free);
        assert_eq!(judge(&suspect, &all, None), Answer::Taken { mac: OTHER.to_owned() });
        let both = [suspect[0].clone(), "02:00:00:00:00:77".to_owned()];
        let second = Answer::Taken { mac: "02:00:00:00:00:77".to_owned() };
        assert_eq!(judge(&both, &all, Some(decoys)), second, "an impostor beside a router");
    }

    #[test]
    fn the_first_start_waits_for_a_look_and_stays_down_while_the_address_is_taken() {
        let taken = Answer::Taken { mac: OTHER.to_owned() };
        let unknown = Answer::Unknown { reason: String::new() };
        assert_eq!(first_start(None, 0), FirstStart::Ask);
        assert_eq!(first_start(Some(&look(Answer::Free)), 110), FirstStart::Go);
        assert_eq!(first_start(Some(&look(unknown)), 110), FirstStart::Go);
        let FirstStart::Taken(why) = first_start(Some(&look(taken.clone())), 110) else { unreachable!() };
        assert!(why.reason.contains(OTHER), "{why}");
        assert_eq!(first_start(Some(&look(taken)), 160), FirstStart::Ask);
    }

    #[test]
    fn a_node_that_runs_looks_every_half_hour_and_when_its_address_comes_back() {
        let free = look(Answer::Free);
        assert!(is_due(None, 0, false) && is_due(Some(&free), 101, true));
        assert!(!is_due(Some(&free), 100 + 1799, false) && is_due(Some(&free), 100 + 1800, false));
    }

    proptest! {
        #[test]
        fn decoys_are_two_other_hosts_of_the_network(bits in any::<u32>(), prefix in 1_u8..=32) {
            let ip = Ipv4Addr::from_bits(bits);
            let network = Cidr { address: ip.into(), prefix };
            let Some([first, second]) = decoys(network, ip) else { return Ok(()) };
            let mask = u32::MAX >> prefix;
            for decoy in [first, second] {
                prop_assert!(network.contains(decoy.into()) && decoy != ip);
                prop_assert!(decoy.to_bits() & mask != 0 && decoy.to_bits() & mask != mask);
            }
            prop_assert!(first != second && prefix <= LONGEST_PREFIX);
        }
    }
}

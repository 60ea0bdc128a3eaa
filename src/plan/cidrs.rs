//! Networks for a cluster that collide with nothing a host knows of.
//!
//! Owns the proposal that stands in a refusal: the same sizes, private
//! addresses, always the same answer for the same host. Never changes an
//! assignment: pods and services of a site are for its people to choose.

use std::net::{IpAddr, Ipv4Addr};

use crate::facts::HostFacts;
use crate::facts::network::Cidr;
use crate::role::{Assignment, Duty};

/// Private networks in the order of preference (RFC 1918; RFC 6598 last, which
/// carriers use too).
const BLOCKS: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];
/// Candidates of one block; more would be a host whose routes fill it anyway.
const CANDIDATES: u32 = 4096;

/// Networks for pods and services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// `cluster_cidr`.
    pub pods: Cidr,
    /// `service_cidr`.
    pub services: Cidr,
}

/// Everything that the cluster's networks must leave alone: addresses and
/// routes of the host but the default ones, the node IP, the hosts of the room.
#[must_use]
pub fn taken(facts: &HostFacts, assignment: &Assignment, duty: &Duty) -> Vec<Cidr> {
    let interfaces = facts.network.interfaces.known().into_iter().flatten();
    let routes = facts.network.routes.known().into_iter().flatten();
    let hosts = std::iter::once(duty.node.ip).chain(assignment.room.iter().map(|host| host.ip));
    interfaces
        .flat_map(|nic| nic.addresses.iter().copied())
        .chain(routes.map(|route| route.destination).filter(|destination| destination.prefix > 0))
        .chain(hosts.map(single))
        .collect()
}

fn single(address: IpAddr) -> Cidr {
    Cidr { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
}

/// A pair of the sizes of `wanted` that is free of `taken`; what is free
/// already stays. `None` for IPv6 and for a host on which nothing is free.
#[must_use]
pub fn proposal(wanted: Pair, taken: &[Cidr]) -> Option<Pair> {
    let free =
        |cidr: &Cidr, beside: Option<&Cidr>| taken.iter().chain(beside).all(|other| !other.overlaps(cidr));
    if !wanted.pods.address.is_ipv4() || !wanted.services.address.is_ipv4() {
        return None;
    }
    let kept = Some(wanted.services).filter(|services| free(services, None));
    let pods = candidates(wanted.pods).find(|pods| free(pods, kept.as_ref()))?;
    let services = candidates(wanted.services).find(|services| free(services, Some(&pods)))?;
    Some(Pair { pods, services })
}

/// The wanted network itself, then those of its size, the highest of each block first.
fn candidates(wanted: Cidr) -> impl Iterator<Item = Cidr> {
    let prefix = wanted.prefix;
    let fitting = BLOCKS.into_iter().filter(move |(_, block)| *block <= prefix && prefix <= 32);
    std::iter::once(wanted).chain(fitting.flat_map(move |(first, block)| {
        let size = 1_u32.checked_shl(32 - u32::from(prefix)).unwrap_or(u32::MAX);
        let count = 1_u32.checked_shl(u32::from(prefix - block)).unwrap_or(u32::MAX);
        let last = first.to_bits() | (u32::MAX >> block);
        (0..count.min(CANDIDATES)).map(move |at| {
            let bits = last - at * size - (size - 1);
            Cidr { address: Ipv4Addr::from_bits(bits).into(), prefix }
        })
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn pair(pods: &str, services: &str) -> Pair {
        Pair { pods: cidr(pods), services: cidr(services) }
    }

    #[test]
    fn what_is_free_stays_and_the_other_moves() {
        let wanted = pair("10.253.0.0/16", "10.254.0.0/16");
        assert_eq!(proposal(wanted, &[]), Some(wanted));
        let moved = proposal(wanted, &[cidr("10.253.4.0/24")]);
        assert_eq!(moved, Some(pair("10.255.0.0/16", "10.254.0.0/16")));
        let both = proposal(wanted, &[cidr("10.0.0.0/8")]);
        assert_eq!(both, Some(pair("172.31.0.0/16", "172.30.0.0/16")));
    }

    #[test]
    fn where_nothing_is_free_nothing_is_proposed() {
        assert_eq!(
            proposal(pair("10.0.0.0/9", "10.128.0.0/9"), &[cidr("10.0.0.1/32"), cidr("10.200.0.0/16")]),
            None
        );
        assert_eq!(proposal(pair("fd00::/56", "fd01::/112"), &[]), None);
    }

    fn any_cidr() -> impl Strategy<Value = Cidr> {
        let place = prop_oneof![
            any::<u32>(),
            (0x0a00_0000_u32..0x0b00_0000),
            (0xac10_0000_u32..0xac20_0000),
            (0xc0a8_0000_u32..0xc0a9_0000)
        ];
        (place, 1_u8..=32)
            .prop_map(|(bits, prefix)| Cidr { address: Ipv4Addr::from_bits(bits).into(), prefix })
    }

    proptest! {
        #[test]
        fn a_proposal_never_collides(
            pods in any_cidr(), services in any_cidr(),
            taken in proptest::collection::vec(any_cidr(), 0..12),
        ) {
            let wanted = Pair { pods, services };
            let Some(found) = proposal(wanted, &taken) else { return Ok(()) };
            prop_assert_eq!((found.pods.prefix, found.services.prefix), (pods.prefix, services.prefix));
            prop_assert!(!found.pods.overlaps(&found.services));
            for other in &taken {
                prop_assert!(!other.overlaps(&found.pods) && !other.overlaps(&found.services));
            }
            prop_assert_eq!(proposal(wanted, &taken), Some(found), "another answer to the same question");
        }

        #[test]
        fn a_usual_host_always_gets_a_proposal(taken in proptest::collection::vec(any_cidr(), 0..6)) {
            let narrow: Vec<Cidr> = taken.into_iter().filter(|cidr| cidr.prefix >= 12).collect();
            prop_assert!(proposal(pair("10.42.0.0/16", "10.43.0.0/16"), &narrow).is_some());
        }
    }
}

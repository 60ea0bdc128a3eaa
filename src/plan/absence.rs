//! Why the node IP is on no interface, in one sentence.
//!
//! Owns the order in which causes are looked for: the interface that carried
//! the address when the node was last healthy, then all of them. Pure; says
//! what was seen and never guesses who did it.

use std::net::IpAddr;

use crate::facts::network::{Interface, holder};
use crate::facts::runtime::PinnedNic;

/// The cause, or `None` when one of `interfaces` carries `ip`.
#[must_use]
pub fn cause(interfaces: &[Interface], nic: Option<&PinnedNic>, ip: IpAddr) -> Option<String> {
    if holder(interfaces, ip).is_some() {
        return None;
    }
    Some(match nic {
        Some(nic) => of_nic(interfaces, nic, ip),
        None => of_all(interfaces, ip),
    })
}

/// How the interface of `nic` may be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// Under its name; its hardware address may be new.
    ByName(&'a Interface),
    /// Under another name, by its hardware address.
    Renamed(&'a Interface),
    /// Not at all.
    Missing,
}

/// The interface of `nic`. A hardware address under another name counts more
/// than a name under which other hardware stands now.
#[must_use]
pub fn find<'a>(interfaces: &'a [Interface], nic: &PinnedNic) -> Found<'a> {
    let own = |candidate: &&Interface| nic.mac.as_ref().is_none_or(|mac| candidate.has_mac(mac));
    let named = interfaces.iter().find(|candidate| candidate.name == nic.name);
    if let Some(same) = named.filter(own) {
        return Found::ByName(same);
    }
    // A member of a bond shares the bond's address, and carries none itself.
    let mut free = interfaces.iter().filter(|candidate| !candidate.is_bond_member && nic.mac.is_some());
    match (free.find(own), named) {
        (Some(renamed), _) => Found::Renamed(renamed),
        (None, Some(named)) => Found::ByName(named),
        (None, None) => Found::Missing,
    }
}

fn of_nic(interfaces: &[Interface], nic: &PinnedNic, ip: IpAddr) -> String {
    match find(interfaces, nic) {
        Found::ByName(found) => state(found, ip),
        Found::Renamed(found) => {
            format!("its interface {} is called {} now, and {}", titled(nic), found.name, state(found, ip))
        }
        Found::Missing => format!(
            "interface {} is missing: its driver is not loaded, or the card is gone; there {}",
            titled(nic),
            names(interfaces)
        ),
    }
}

fn titled(nic: &PinnedNic) -> String {
    nic.mac.as_ref().map_or_else(|| nic.name.clone(), |mac| format!("{} ({mac})", nic.name))
}

fn names(interfaces: &[Interface]) -> String {
    let names: Vec<&str> = interfaces.iter().map(|nic| nic.name.as_str()).collect();
    match names.as_slice() {
        [] => "is no interface at all".to_owned(),
        [one] => format!("is only {one}"),
        many => format!("are {}", many.join(", ")),
    }
}

/// Without an earlier interface: each that could carry it, and how it is.
fn of_all(interfaces: &[Interface], ip: IpAddr) -> String {
    let candidates = interfaces.iter().filter(|nic| nic.name != "lo" && !nic.is_bond_member);
    let states: Vec<String> = candidates.map(|nic| state(nic, ip)).collect();
    if states.is_empty() {
        "there is no interface: no driver is loaded".to_owned()
    } else {
        states.join("; ")
    }
}

/// How one interface without the address is: the first thing that is wrong.
fn state(nic: &Interface, ip: IpAddr) -> String {
    let name = &nic.name;
    let others: Vec<String> =
        nic.addresses
            .iter()
            .filter(|cidr| cidr.address.is_ipv4() == ip.is_ipv4() && !is_link_local(cidr.address))
            .map(|cidr| {
                if nic.leased.contains(&cidr.address) { format!("{cidr} by DHCP") } else { cidr.to_string() }
            })
            .collect();
    if nic.bond.as_ref().is_some_and(Vec::is_empty) {
        return format!("bond {name} has no member");
    }
    if nic.admin_up.known() == Some(&false) {
        return format!("{name} is switched off");
    }
    if nic.carrier.known() == Some(&false) {
        return no_carrier(nic);
    }
    if !others.is_empty() {
        return format!("{name} has {} instead{}", others.join(", "), degraded(nic));
    }
    format!("{name} is up and has no such address{}", degraded(nic))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn no_carrier(nic: &Interface) -> String {
    match &nic.bond {
        None => format!("{} has no carrier: the cable, or the other side", nic.name),
        Some(members) => {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            format!("no member of bond {} has a link: {}", nic.name, names.join(", "))
        }
    }
}

/// Members of a bond without a link, behind the sentence about the bond.
fn degraded(nic: &Interface) -> String {
    let members = nic.bond.iter().flatten();
    let dark: Vec<&str> = members
        .filter(|member| member.has_link.known() == Some(&false))
        .map(|member| member.name.as_str())
        .collect();
    if dark.is_empty() { String::new() } else { format!(" ({} of the bond has no link)", dark.join(", ")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::Fact;
    use crate::facts::network::BondMember;

    const MAC: &str = "02:00:00:00:00:01";

    fn nic(name: &str, address: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            mac: Fact::Known(MAC.to_owned()),
            permanent_mac: Fact::Known(MAC.to_owned()),
            carrier: Fact::Known(true),
            admin_up: Fact::Known(true),
            addresses: address.split_whitespace().map(|text| text.parse().unwrap()).collect(),
            ..Interface::default()
        }
    }

    fn pinned() -> PinnedNic {
        PinnedNic { name: "eth0".to_owned(), mac: Some(MAC.to_owned()), prefix: 24 }
    }

    fn told(interfaces: &[Interface]) -> String {
        cause(interfaces, Some(&pinned()), "172.16.36.1".parse().unwrap()).unwrap_or_default()
    }

    #[test]
    fn an_address_that_is_there_has_no_cause_of_absence() {
        assert_eq!(told(&[nic("eth9", "10.0.0.1/8"), nic("eth0", "172.16.36.1/24")]), "");
    }

    #[test]
    fn the_first_thing_that_is_wrong_with_its_interface_is_told() {
        let off = Interface { admin_up: Fact::Known(false), ..nic("eth0", "") };
        let dark = Interface { carrier: Fact::Known(false), ..nic("eth0", "172.16.36.9/24") };
        let leased = Interface {
            leased: vec!["172.16.36.77".parse().unwrap()],
            ..nic("eth0", "172.16.36.77/24 fe80::1/64")
        };
        let other = Interface { mac: Fact::default(), permanent_mac: Fact::default(), ..nic("eth1", "") };
        for (interfaces, words) in [
            (vec![off], "eth0 is switched off"),
            (vec![dark], "eth0 has no carrier: the cable, or the other side"),
            (vec![leased], "eth0 has 172.16.36.77/24 by DHCP instead"),
            (vec![nic("eth0", "")], "eth0 is up and has no such address"),
            (
                vec![nic("ens3", "10.0.0.1/8")],
                "its interface eth0 (02:00:00:00:00:01) is called ens3 now, and ens3 has 10.0.0.1/8 instead",
            ),
            (
                vec![other],
                "interface eth0 (02:00:00:00:00:01) is missing: its driver is not loaded, or the card is gone; there is only eth1",
            ),
            (
                vec![],
                "interface eth0 (02:00:00:00:00:01) is missing: its driver is not loaded, or the card is gone; there is no interface at all",
            ),
        ] {
            assert_eq!(told(&interfaces), words);
        }
    }

    #[test]
    fn a_bond_tells_of_its_members() {
        let member = |name: &str, up| BondMember { name: name.to_owned(), has_link: Fact::Known(up) };
        let bond = |members, carrier| Interface {
            bond: Some(members),
            carrier: Fact::Known(carrier),
            ..nic("eth0", "")
        };
        let dark = vec![member("a", false), member("b", false)];
        assert_eq!(told(&[bond(vec![], false)]), "bond eth0 has no member");
        assert_eq!(told(&[bond(dark, false)]), "no member of bond eth0 has a link: a, b");
        let half = vec![member("a", true), member("b", false)];
        assert_eq!(
            told(&[bond(half, true)]),
            "eth0 is up and has no such address (b of the bond has no link)"
        );
    }

    #[test]
    fn a_member_of_a_bond_is_not_taken_for_a_renamed_interface() {
        let member = Interface { is_bond_member: true, ..nic("ens3", "") };
        assert!(matches!(find(&[member], &pinned()), Found::Missing));
    }

    #[test]
    fn without_an_earlier_interface_each_one_is_told() {
        let dark = Interface { carrier: Fact::Known(false), ..nic("eth1", "") };
        let words = cause(&[nic("eth0", "10.0.0.9/8"), dark], None, "172.16.36.1".parse().unwrap());
        assert_eq!(
            words.unwrap(),
            "eth0 has 10.0.0.9/8 instead; eth1 has no carrier: the cable, or the other side"
        );
    }
}

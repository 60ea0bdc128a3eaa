//! Interfaces, addresses and resolvers.
//!
//! Owns reading `/sys/class/net` and `/etc/resolv.conf` and joining them with
//! the addresses that the kernel tells. Sends no packet, resolves no name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{FIXTURES, routes, text};
use crate::facts::Fact;
use crate::facts::network::{BondMember, Cidr, Interface, Network};
use crate::sys::{Root, links};

const NET: &str = "/sys/class/net";
const LOOPBACK: &str = "lo";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// `NET_ADDR_PERM`: the address is the one that the hardware came with.
const PERMANENT: &str = "0";

/// `IFF_UP` in the interface's flags.
const UP: u32 = 0x1;

type Addresses = BTreeMap<String, Vec<Told>>;

/// One address as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    cidr: Cidr,
    ends: bool,
    is_duplicate: bool,
}

/// The host's view of its networks.
#[must_use]
pub fn observe(root: &Root) -> Network {
    Network { interfaces: interfaces(root), routes: routes::observe(root), resolvers: resolvers(root) }
}

/// Interfaces by name. The loopback interface is one of them only when it
/// carries an address of the host, as a virtual IP may be kept there.
#[must_use]
pub fn interfaces(root: &Root) -> Fact<Vec<Interface>> {
    let addresses = match addresses(root) {
        Fact::Known(addresses) => addresses,
        // Interfaces without their addresses would tell that the node IP is absent.
        Fact::Unknown { unknown } => return Fact::Unknown { unknown },
    };
    let mut names = match root.list(NET) {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    names.retain(|name| text::is_dir(root, &format!("{NET}/{name}")));
    names.extend(addresses.keys().cloned());
    names.sort();
    names.dedup();
    names.retain(|name| name != LOOPBACK || addresses.contains_key(LOOPBACK));
    Fact::Known(names.into_iter().map(|name| interface(root, name, &addresses)).collect())
}

fn interface(root: &Root, name: String, addresses: &Addresses) -> Interface {
    let file = |rest: &str| format!("{NET}/{name}/{rest}");
    let mac = mac(root, &file("address"));
    let told = addresses.get(&name).map(Vec::as_slice).unwrap_or_default();
    let those = |which: fn(&Told) -> bool| {
        told.iter().filter(|told| which(told)).map(|told| told.cidr.address).collect()
    };
    Interface {
        permanent_mac: permanent_mac(root, &file(""), &mac),
        driver: driver(root, &file("device/driver")),
        carrier: carrier(root, &file("carrier")),
        addresses: told.iter().map(|told| told.cidr).collect(),
        admin_up: admin_up(root, &file("flags")),
        leased: those(|told| told.ends),
        duplicates: those(|told| told.is_duplicate),
        bond: bond(root, &file("bonding/slaves")),
        is_bond_member: text::is_dir(root, &file("bonding_slave")),
        mac,
        name,
    }
}

fn admin_up(root: &Root, path: &str) -> Fact<bool> {
    let flags = text::parsed(text::kernel(root, path), "the interface's flags", |text| {
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    });
    flags.map(|flags| flags & UP != 0)
}

/// Members of a bond, in its own order; `None` for what is no bond.
fn bond(root: &Root, path: &str) -> Option<Vec<BondMember>> {
    let members = root.read_kernel(path).ok()?;
    Some(members.split_whitespace().map(|name| bond_member(root, name)).collect())
}

fn bond_member(root: &Root, name: &str) -> BondMember {
    let status = text::kernel(root, &format!("{NET}/{name}/bonding_slave/mii_status"));
    BondMember { name: name.to_owned(), has_link: status.map(|status| status == "up") }
}

fn mac(root: &Root, path: &str) -> Fact<String> {
    text::parsed(text::vendor(root, path), "the hardware address", parse_mac)
}

fn parse_mac(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(is_byte)).then(|| text.to_ascii_lowercase())
}

/// Why the address of this card says nothing about this host: management
/// controllers show the same one in every host of a model, adapters on USB go
/// from host to host, and a virtual function is told its address by its parent.
fn foreign(root: &Root, directory: &str) -> Option<&'static str> {
    let place = root.read_link(directory).ok().flatten().unwrap_or_default();
    let on_usb = place.contains("/usb").then_some("the card is on USB and may go from host to host");
    let virtual_function = || root.exists(&format!("{directory}/device/physfn"));
    on_usb.or_else(|| virtual_function().then_some("a virtual function has no address of its own"))
}

/// A member of a bond shows the bond's address; the bond keeps its own.
fn permanent_mac(root: &Root, directory: &str, mac_in_use: &Fact<String>) -> Fact<String> {
    if let Some(why) = foreign(root, directory.trim_end_matches('/')) {
        return Fact::unknown(why);
    }
    let kept = mac(root, &format!("{directory}bonding_slave/perm_hwaddr"));
    if kept.known().is_some() {
        return kept;
    }
    match text::kernel(root, &format!("{directory}addr_assign_type")) {
        Fact::Known(kind) if kind == PERMANENT => mac_in_use.clone(),
        Fact::Known(_) => Fact::unknown("the address in use was assigned by software"),
        Fact::Unknown { unknown } => Fact::Unknown { unknown },
    }
}

fn driver(root: &Root, path: &str) -> Fact<String> {
    match root.read_link(path) {
        Ok(Some(target)) => Fact::Known(target.rsplit('/').next().unwrap_or_default().to_owned()),
        Ok(None) => Fact::unknown("no driver: a virtual interface"),
        Err(error) => text::because(&error),
    }
}

fn carrier(root: &Root, path: &str) -> Fact<bool> {
    match root.read_kernel(path).as_deref() {
        Ok("1") => Fact::Known(true),
        Ok("0") => Fact::Known(false),
        Ok(_) => Fact::unknown("carrier has an unexpected form"),
        Err(error) if error.is_absent() => Fact::unknown(format!("there is no {path}")),
        // The kernel answers EINVAL while the interface is down.
        Err(_) => Fact::unknown("the interface is down"),
    }
}

/// Addresses by interface, without `127.0.0.0/8` and `::1`.
fn addresses(root: &Root) -> Fact<Addresses> {
    if !root.is_host() {
        let path = format!("{FIXTURES}/addresses");
        return text::file(root, &path)
            .map(|lines| lines.lines().filter_map(fixture_address).fold(Addresses::new(), add));
    }
    match links::addresses() {
        Ok(found) => Fact::Known(found.into_iter().map(kernel_address).fold(Addresses::new(), add)),
        Err(errno) => Fact::unknown(errno.desc()),
    }
}

fn add(mut map: Addresses, (interface, told): (String, Told)) -> Addresses {
    if told.cidr.address.is_loopback() {
        return map;
    }
    map.entry(interface).or_default().push(told);
    map
}

fn kernel_address(found: links::Address) -> (String, Told) {
    let cidr = Cidr { address: found.address, prefix: found.prefix };
    (found.interface, Told { cidr, ends: found.ends, is_duplicate: found.is_duplicate })
}

/// `eth0 172.16.36.1/24`, and `lease` behind it where a lease gave it.
fn fixture_address(line: &str) -> Option<(String, Told)> {
    let mut words = line.split_whitespace();
    let (interface, cidr) = (words.next()?, words.next()?.parse().ok()?);
    let ends = words.next() == Some("lease");
    Some((interface.to_owned(), Told { cidr, ends, is_duplicate: false }))
}

fn resolvers(root: &Root) -> Fact<Vec<IpAddr>> {
    text::file(root, RESOLV_CONF).map(|content| content.lines().filter_map(resolver).collect())
}

fn resolver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    words.next()?.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resolvers_are_read_with_and_without_a_zone() {
        assert_eq!(resolver("nameserver fe80::1%eth0"), "fe80::1".parse().ok());
        assert_eq!(resolver("  nameserver\t10.0.0.53 # lan"), "10.0.0.53".parse().ok());
        assert_eq!(resolver("#nameserver 10.0.0.53"), None);
        assert_eq!(resolver("nameserver localhost"), None);
    }

    #[test]
    fn a_mac_has_six_bytes() {
        assert_eq!(parse_mac("52:54:00:AB:cd:01").as_deref(), Some("52:54:00:ab:cd:01"));
        for text in ["", "52:54:00:ab:cd", "80:00:02:08:fe:80:00:00", "5g:54:00:ab:cd:01"] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }

    #[test]
    fn a_lease_is_told_behind_the_address() {
        let told = |line| fixture_address(line).map(|(name, told)| (name, told.cidr.to_string(), told.ends));
        let is = |ends| Some(("eth0".to_owned(), "10.0.0.9/8".to_owned(), ends));
        assert_eq!((told("eth0 10.0.0.9/8"), told("eth0 10.0.0.9/8 lease")), (is(false), is(true)));
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_left(line in "\\PC{0,80}") {
            let _ = (resolver(&line), fixture_address(&line), parse_mac(&line));
        }
    }
}

//! Interfaces, addresses and resolvers.
//!
//! Owns reading `/sys/class/net` and `/etc/resolv.conf` and joining them with
//! the addresses that the kernel tells. Sends no packet, resolves no name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{FIXTURES, routes, text};
use crate::facts::Fact;
use crate::facts::network::{Cidr, Interface, Network};
use crate::sys::{Root, host};

const NET: &str = "/sys/class/net";
const LOOPBACK: &str = "lo";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// `NET_ADDR_PERM`: the address is the one that the hardware came with.
const PERMANENT: &str = "0";

type Addresses = BTreeMap<String, Vec<Cidr>>;

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
    Interface {
        permanent_mac: permanent_mac(root, &file(""), &mac),
        driver: driver(root, &file("device/driver")),
        carrier: carrier(root, &file("carrier")),
        addresses: addresses.get(&name).cloned().unwrap_or_default(),
        mac,
        name,
    }
}

fn mac(root: &Root, path: &str) -> Fact<String> {
    text::parsed(text::vendor(root, path), "the hardware address", parse_mac)
}

fn parse_mac(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(is_byte)).then(|| text.to_ascii_lowercase())
}

/// A member of a bond shows the bond's address; the bond keeps its own.
fn permanent_mac(root: &Root, directory: &str, mac_in_use: &Fact<String>) -> Fact<String> {
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
    match host::addresses() {
        Ok(found) => Fact::Known(found.into_iter().map(kernel_address).fold(Addresses::new(), add)),
        Err(errno) => Fact::unknown(errno.desc()),
    }
}

fn add(mut map: Addresses, (interface, cidr): (String, Cidr)) -> Addresses {
    if cidr.address.is_loopback() {
        return map;
    }
    map.entry(interface).or_default().push(cidr);
    map
}

fn kernel_address(found: host::LocalAddress) -> (String, Cidr) {
    // An IPv4 address may come under its label, `eth0:1`.
    let name = found.interface.split(':').next().unwrap_or_default().to_owned();
    (name, Cidr { address: found.address, prefix: found.prefix })
}

fn fixture_address(line: &str) -> Option<(String, Cidr)> {
    let (interface, cidr) = line.trim().split_once(char::is_whitespace)?;
    Some((interface.to_owned(), cidr.trim().parse().ok()?))
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
    fn a_label_counts_for_its_interface() {
        let address = "172.16.36.1".parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let found = host::LocalAddress { interface: "eth0:1".to_owned(), address, prefix: 24 };
        assert_eq!(kernel_address(found).0, "eth0");
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_left(line in "\\PC{0,80}") {
            let _ = (resolver(&line), fixture_address(&line), parse_mac(&line));
        }
    }
}

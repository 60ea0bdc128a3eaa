//! Routes of the main table.
//!
//! Owns parsing `/proc/net/route` and `/proc/net/ipv6_route` (Linux:
//! net/ipv4/fib_trie.c, net/ipv6/route.c). Unreachable and blackhole routes
//! lead nowhere and are left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::text;
use crate::facts::Fact;
use crate::facts::network::{Cidr, Route};
use crate::sys::Root;

const UP: u32 = 0x1;
const GATEWAY: u32 = 0x2;
const REJECT: u32 = 0x200;
/// IPv6 cached, anycast and local entries, which the file mixes with routes.
const NO_ROUTE_V6: u32 = 0x0100_0000 | 0x0010_0000 | 0x8000_0000;

/// Routes of IPv4, then of IPv6.
#[must_use]
pub fn observe(root: &Root) -> Fact<Vec<Route>> {
    let v4 = text::table(root, "/proc/net/route").map(|table| table.lines().skip(1).filter_map(v4).collect());
    // A kernel without IPv6 has no such file, and then no such routes.
    let v6: Vec<Route> = text::table(root, "/proc/net/ipv6_route")
        .known()
        .map(|table| table.lines().filter_map(v6).collect())
        .unwrap_or_default();
    v4.map(|mut routes: Vec<Route>| {
        routes.extend(v6);
        routes
    })
}

fn v4(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, gateway, flags, _, _, _, mask, ..] = fields.as_slice() else { return None };
    let flags = hex(flags)?;
    if flags & UP == 0 || flags & REJECT != 0 {
        return None;
    }
    let prefix = u8::try_from(v4_address(mask)?.to_bits().leading_ones()).ok()?;
    let gateway = v4_address(gateway)?;
    Some(Route {
        destination: Cidr { address: IpAddr::V4(v4_address(destination)?), prefix },
        gateway: (flags & GATEWAY != 0).then_some(IpAddr::V4(gateway)),
        interface: (*interface).to_owned(),
    })
}

/// The kernel prints the number as it lies in memory.
fn v4_address(text: &str) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(hex(text)?.to_ne_bytes()))
}

fn v6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, prefix, _, _, gateway, _, _, _, flags, interface] = fields.as_slice() else {
        return None;
    };
    let flags = hex(flags)?;
    let address = v6_address(destination)?;
    if flags & UP == 0 || flags & (REJECT | NO_ROUTE_V6) != 0 || *interface == "lo" || address.is_multicast()
    {
        return None;
    }
    let prefix = u8::try_from(hex(prefix)?).ok().filter(|prefix| *prefix <= 128)?;
    let gateway = v6_address(gateway)?;
    Some(Route {
        destination: Cidr { address: IpAddr::V6(address), prefix },
        gateway: (flags & GATEWAY != 0).then_some(IpAddr::V6(gateway)),
        interface: (*interface).to_owned(),
    })
}

fn v6_address(text: &str) -> Option<Ipv6Addr> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from)
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn routes_of_ipv4_are_read() {
        let default = v4("eth0\t00000000\t012410AC\t0003\t0\t0\t100\t00000000\t0\t0\t0").unwrap();
        assert_eq!(default.destination.to_string(), "0.0.0.0/0");
        assert_eq!(default.gateway, "172.16.36.1".parse().ok());
        let local = v4("eth0\t002410AC\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0").unwrap();
        assert_eq!((local.destination.to_string().as_str(), local.gateway), ("172.16.36.0/24", None));
        assert_eq!(v4("eth0 000A0A0A 00000000 0201 0 0 0 00FFFFFF 0 0 0"), None, "unreachable");
    }

    #[test]
    fn routes_of_ipv6_are_told_from_local_entries() {
        let zeros = "0".repeat(32);
        let default = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0"
        );
        let route = v6(&default).unwrap();
        assert_eq!((route.destination.to_string().as_str(), route.gateway), ("::/0", "fe80::1".parse().ok()));
        let local = format!(
            "fd00000000000000000000000000000a 80 {zeros} 00 {zeros} 00000000 00000002 00000000 80200001     eth0"
        );
        assert_eq!(v6(&local), None);
        let multicast = format!(
            "ff{} 08 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth0",
            "0".repeat(30)
        );
        assert_eq!(v6(&multicast), None);
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_left(line in "\\PC{0,160}", words in proptest::collection::vec("[0-9a-fA-F+]{1,33}", 8..11)) {
            let _ = (v4(&line), v6(&line), v4(&words.join(" ")), v6(&words.join(" ")));
        }
    }
}

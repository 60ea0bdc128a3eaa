//! Interfaces, addresses, routes and resolvers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Fact;

/// The host's view of its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Interfaces by name; `lo` only when it carries an address beside its own.
    pub interfaces: Fact<Vec<Interface>>,
    /// Routes of the main table.
    pub routes: Fact<Vec<Route>>,
    /// Name servers of `/etc/resolv.conf`.
    pub resolvers: Fact<Vec<IpAddr>>,
}

impl Network {
    /// The interface that carries `ip`, when one does; `None` also when the
    /// interfaces are unknown.
    #[must_use]
    pub fn holder(&self, ip: IpAddr) -> Option<&Interface> {
        holder(self.interfaces.known()?, ip)
    }
}

/// The one of `interfaces` that carries `ip`.
#[must_use]
pub fn holder(interfaces: &[Interface], ip: IpAddr) -> Option<&Interface> {
    interfaces.iter().find(|nic| nic.addresses.iter().any(|cidr| cidr.address == ip))
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Kernel name, for example `eth0`.
    pub name: String,
    /// The MAC in use.
    pub mac: Fact<String>,
    /// The MAC burnt in; differs on members of a bond.
    pub permanent_mac: Fact<String>,
    /// Kernel driver.
    pub driver: Fact<String>,
    /// Whether a cable is in and the other side is up.
    pub carrier: Fact<bool>,
    /// Addresses with their prefix.
    pub addresses: Vec<Cidr>,
    /// Whether it is switched on (`IFF_UP`); says nothing about a cable.
    #[serde(default)]
    pub admin_up: Fact<bool>,
    /// Those of `addresses` that end by themselves: a lease gave them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leased: Vec<IpAddr>,
    /// Those of `addresses` that the kernel found in use elsewhere (IPv6 only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duplicates: Vec<IpAddr>,
    /// Its members, when it is a bond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<Vec<BondMember>>,
    /// Whether it is a member of a bond, which then has the addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_bond_member: bool,
}

impl Interface {
    /// Whether the hardware address `mac`, in lower case, is its own: burnt in or in use.
    #[must_use]
    pub fn has_mac(&self, mac: &str) -> bool {
        [&self.permanent_mac, &self.mac].into_iter().any(|own| own.known().is_some_and(|own| own == mac))
    }
}

/// One member of a bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BondMember {
    /// Kernel name, for example `eth0`.
    pub name: String,
    /// Whether the bond sees its link up (`bonding_slave/mii_status`).
    pub has_link: Fact<bool>,
}

/// How people name the interface of the node IP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceChoice {
    /// By its kernel name.
    Name(String),
    /// By its hardware address, lower case with colons.
    Mac(String),
    /// As the one that reaches this network.
    Network(Cidr),
}

/// One route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` or `::/0` for a default route.
    pub destination: Cidr,
    /// Next hop, when there is one.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub interface: String,
}

/// An address with a prefix length, for example `172.16.36.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// The address, host bits included.
    pub address: IpAddr,
    /// Bits of the network part.
    pub prefix: u8,
}

impl Cidr {
    /// Whether the two networks share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let prefix = self.prefix.min(other.prefix);
        match (bits(self.address), bits(other.address)) {
            ((a, 32), (b, 32)) => masked(a, 32, prefix) == masked(b, 32, prefix),
            ((a, 128), (b, 128)) => masked(a, 128, prefix) == masked(b, 128, prefix),
            _ => false,
        }
    }

    /// Whether the two are the same network, whatever their host bits.
    #[must_use]
    pub fn is_network_of(&self, other: &Self) -> bool {
        self.prefix == other.prefix && self.overlaps(other)
    }

    /// Whether `ip` lies inside.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let full = if ip.is_ipv4() { 32 } else { 128 };
        self.overlaps(&Self { address: ip, prefix: full })
    }
}

fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    }
}

fn masked(value: u128, width: u32, prefix: u8) -> u128 {
    let host_bits = width.saturating_sub(u32::from(prefix));
    value.checked_shr(host_bits).unwrap_or(0)
}

/// Not an address with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address with a prefix, like 10.0.0.0/8")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.chars().take(80).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.253.0.0/16")));
        assert!(cidr("0.0.0.0/0").overlaps(&cidr("10.253.0.0/16")));
        assert!(!cidr("10.252.0.0/16").overlaps(&cidr("10.253.0.0/16")));
        assert!(!cidr("::/0").overlaps(&cidr("10.253.0.0/16")));
    }

    #[test]
    fn bad_text_is_refused() {
        for text in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129", ""] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}

//! On which interface the node IP belongs, where the agent puts it there.
//!
//! Owns the choice for `node.manage-ip`: what the settings name, else where the
//! address was when the node was last healthy, else where its network is, else
//! the only cable. More than one answer is a refusal that names them. Pure;
//! never plans anything but the one address: no route, no name server.

use std::net::IpAddr;

use serde::Serialize;

use super::absence::{Found, find};
use super::refusal::Refusal;
use super::{Inputs, pinned};
use crate::facts::network::{Cidr, Interface, InterfaceChoice, holder};
use crate::facts::runtime::PinnedNic;

/// Interfaces that k3s and container tools make; a node IP never belongs there.
const NOT_OURS: [&str; 7] = ["cni", "flannel", "veth", "kube", "docker", "virbr", "br-"];

/// The address that the agent keeps on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedAddress {
    /// Kernel name, for example `eth0`.
    pub interface: String,
    /// The node IP with its prefix.
    pub cidr: Cidr,
    /// Why it belongs there.
    pub reason: String,
}

/// Where the node IP belongs; `None` where the settings leave it to others, and
/// where the interfaces are not known.
pub(super) fn decide(inputs: Inputs<'_>, ip: IpAddr) -> Result<Option<PlannedAddress>, Refusal> {
    let Some(interfaces) = inputs.facts.network.interfaces.known().filter(|_| inputs.local.manage_ip) else {
        return Ok(None);
    };
    if let Some((nic, cidr)) = present(interfaces, ip) {
        return Ok(Some(planned(nic, cidr.prefix, ip, "it is there")));
    }
    let search = Search { inputs, interfaces, ip };
    let (nic, reason) = search.interface()?;
    let prefix = search.prefix(nic)?;
    Ok(Some(planned(nic, prefix, ip, reason)))
}

fn present(interfaces: &[Interface], ip: IpAddr) -> Option<(&Interface, Cidr)> {
    let nic = holder(interfaces, ip)?;
    Some((nic, *nic.addresses.iter().find(|cidr| cidr.address == ip)?))
}

fn planned(nic: &Interface, prefix: u8, ip: IpAddr, reason: &str) -> PlannedAddress {
    PlannedAddress {
        interface: nic.name.clone(),
        cidr: Cidr { address: ip, prefix },
        reason: format!("node.manage-ip, {reason}"),
    }
}

struct Search<'a> {
    inputs: Inputs<'a>,
    interfaces: &'a [Interface],
    ip: IpAddr,
}

impl<'a> Search<'a> {
    fn interface(&self) -> Result<(&'a Interface, &'static str), Refusal> {
        if let Some(choice) = &self.inputs.local.interface {
            return self.chosen(choice).map(|nic| (nic, "node.interface names it"));
        }
        if let Some(nic) = self.nic() {
            return self
                .earlier(nic)
                .map(|nic| (nic, "the node IP was there when the node was last healthy"));
        }
        let near = self.reaching(|network| network.contains(self.ip));
        match near.as_slice() {
            [nic] => Ok((nic, "it reaches the network of the node IP")),
            [] => self.cabled().map(|nic| (nic, "it is the only one with a carrier")),
            many => Err(self.refused("several interfaces reach its network", many)),
        }
    }

    fn nic(&self) -> Option<&'a PinnedNic> {
        pinned(self.inputs.facts)?.nic.as_ref()
    }

    /// Another interface is never taken instead: the right one's driver may be late.
    fn earlier(&self, nic: &PinnedNic) -> Result<&'a Interface, Refusal> {
        match find(self.interfaces, nic) {
            Found::ByName(found) | Found::Renamed(found) => Ok(found),
            Found::Missing => {
                Err(self.refused(&format!("interface {} is not there", nic.name), &self.candidates()))
            }
        }
    }

    fn chosen(&self, choice: &InterfaceChoice) -> Result<&'a Interface, Refusal> {
        let (what, found) = match choice {
            InterfaceChoice::Name(name) => (name.clone(), self.those(|nic| nic.name == *name)),
            InterfaceChoice::Mac(mac) => {
                (mac.clone(), self.those(|nic| !nic.is_bond_member && nic.has_mac(mac)))
            }
            InterfaceChoice::Network(wanted) => (
                wanted.to_string(),
                self.reaching(|network| network.is_network_of(wanted) || wanted.contains(network.address)),
            ),
        };
        match found.as_slice() {
            [nic] => Ok(nic),
            [] => {
                Err(self
                    .refused(&format!("node.interface is {what}, and no interface fits"), &self.candidates()))
            }
            many => Err(self.refused(&format!("node.interface is {what}, and several interfaces fit"), many)),
        }
    }

    fn those(&self, fits: impl Fn(&Interface) -> bool) -> Vec<&'a Interface> {
        self.interfaces.iter().filter(|nic| fits(nic)).collect()
    }

    /// Interfaces that could carry a node IP at all.
    fn candidates(&self) -> Vec<&'a Interface> {
        let is_ours = |name: &str| name != "lo" && !NOT_OURS.iter().any(|other| name.starts_with(other));
        self.those(|nic| !nic.is_bond_member && is_ours(&nic.name))
    }

    /// Those with an address, or a route without a gateway, in a network that `fits`.
    fn reaching(&self, fits: impl Fn(&Cidr) -> bool) -> Vec<&'a Interface> {
        let routes: Vec<&str> =
            self.direct_routes().filter(|(to, _)| fits(to)).map(|(_, name)| name).collect();
        let near = |nic: &&Interface| nic.addresses.iter().any(&fits) || routes.contains(&nic.name.as_str());
        self.candidates().into_iter().filter(near).collect()
    }

    fn direct_routes(&self) -> impl Iterator<Item = (&'a Cidr, &'a str)> {
        let routes = self.inputs.facts.network.routes.known().into_iter().flatten();
        routes
            .filter(|route| route.gateway.is_none() && route.destination.prefix > 0)
            .map(|route| (&route.destination, route.interface.as_str()))
    }

    fn cabled(&self) -> Result<&'a Interface, Refusal> {
        let candidates = self.candidates();
        let lit: Vec<&Interface> =
            candidates.iter().copied().filter(|nic| nic.carrier.known() == Some(&true)).collect();
        match (lit.as_slice(), candidates.as_slice()) {
            // A switched-off interface knows nothing of its cable.
            ([nic], _) | ([], [nic]) => Ok(nic),
            ([], _) => Err(self.refused("no interface has a carrier", &candidates)),
            (many, _) => Err(self.refused("several interfaces have a carrier", many)),
        }
    }

    fn prefix(&self, nic: &Interface) -> Result<u8, Refusal> {
        let chosen = match &self.inputs.local.interface {
            Some(InterfaceChoice::Network(network)) => Some(*network),
            _ => None,
        };
        let holds = |network: &Cidr| network.contains(self.ip);
        let pinned = pinned(self.inputs.facts).filter(|pinned| pinned.node_ip == self.ip);
        let earlier = pinned.and_then(|pinned| pinned.nic.as_ref()).map(|nic| nic.prefix);
        let routes = self.direct_routes().filter(|(_, name)| *name == nic.name).map(|(to, _)| *to);
        let near = nic.addresses.iter().copied().chain(routes);
        let known = near.chain(chosen).chain(self.inputs.local.networks.iter().copied()).find(holds);
        earlier.or(known.map(|network| network.prefix)).ok_or_else(|| {
            let why = format!("the length of the network of {} is not known", self.ip);
            Refusal::new(
                "EB-manage-ip",
                format!("{why}, so it cannot be put on {}", nic.name),
                "name the network: `interface = \"172.16.36.0/24\"` or `ip-networks` in [node] of /etc/edge-bootstrap/config.toml",
            )
        })
    }

    fn refused(&self, why: &str, candidates: &[&Interface]) -> Refusal {
        let shown: Vec<String> = candidates.iter().map(|nic| shown(nic)).collect();
        let list = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
        Refusal::new(
            "EB-manage-ip",
            format!("no interface for the node IP {}: {why}; candidates: {list}", self.ip),
            "set `interface` in [node] of /etc/edge-bootstrap/config.toml to a name, a MAC or a network",
        )
    }
}

/// Name, hardware address and carrier, for a person who chooses.
fn shown(nic: &Interface) -> String {
    let mac = nic.permanent_mac.known().or_else(|| nic.mac.known()).map_or("no MAC", String::as_str);
    let link = match nic.carrier.known() {
        Some(true) => "carrier",
        Some(false) => "no carrier",
        None => "switched off",
    };
    format!("{} ({mac}, {link})", nic.name)
}

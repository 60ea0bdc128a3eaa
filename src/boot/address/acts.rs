//! The two acts on addresses, as they run in a unit of their own.
//!
//! Owns asking the network who has an address, with its record in `/run`, and
//! adding one. Both may be done twice. What follows is for the next pass.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

use crate::error::Chain;
use crate::facts::network::{Cidr, Network};
use crate::plan::conflict::{self, Answer, Heard, Look};
use crate::sys::arp::{self, ArpError, Ear, Packet};
use crate::sys::root::FileError;
use crate::sys::{Clock, Root, atomic, clock, host, links};
use crate::{observe, paths};

/// Why an address could not be added.
#[derive(Debug, Error)]
#[error("add {cidr} to {interface}")]
pub struct AddError {
    /// The interface.
    pub interface: String,
    /// The address.
    pub cidr: Cidr,
    /// What the kernel said.
    #[source]
    source: links::Errno,
}

/// Adds `cidr` to `interface`, switches that on, and announces the address.
///
/// # Errors
/// When the kernel refuses it. An announcement that nobody can hear is no error.
pub fn add(interface: &str, cidr: Cidr) -> Result<(), AddError> {
    links::add_address(interface, cidr.address, cidr.prefix).map_err(|source| AddError {
        interface: interface.to_owned(),
        cidr,
        source,
    })?;
    if let IpAddr::V4(ip) = cidr.address {
        // Others ask for it anyway when they need it.
        let _ = Ear::open(interface).and_then(|ear| ear.announce(ip));
    }
    Ok(())
}

/// Asks who else has `ip` on the network of `interface`, and records the answer.
///
/// # Errors
/// When the record cannot be written.
pub fn probe(root: &Root, interface: &str, ip: IpAddr) -> Result<Look, FileError> {
    let result = match ip {
        IpAddr::V4(ip) => ask(&observe::network::observe(root), interface, ip),
        IpAddr::V6(_) => {
            Answer::Unknown { reason: "the kernel itself looks for others with an IPv6 address".to_owned() }
        }
    };
    let look = Look {
        ip,
        boot_id: host::boot_id(root)?,
        at: Clock::System.rfc3339(),
        since_boot_s: clock::since_boot().as_secs(),
        result,
    };
    let bytes = serde_json::to_vec(&look).unwrap_or_default();
    root.make_dir(paths::RUN_DIR, 0o755)?;
    atomic::write_volatile(root, paths::ADDRESS_LOOK, &bytes, 0o644)?;
    Ok(look)
}

fn ask(network: &Network, interface: &str, ip: Ipv4Addr) -> Answer {
    let nics = network.interfaces.known().map(Vec::as_slice).unwrap_or_default();
    let dark = nics.iter().any(|nic| nic.name == interface && nic.carrier.known() != Some(&true));
    if dark {
        return Answer::Unknown { reason: format!("{interface} has no carrier") };
    }
    let asked = Ear::open(interface).and_then(|ear| listen(&ear, network, (interface, ip)));
    asked.unwrap_or_else(|error| Answer::Unknown { reason: Chain(&error).to_string() })
}

fn listen(ear: &Ear, network: &Network, (interface, ip): (&str, Ipv4Addr)) -> Result<Answer, ArpError> {
    let own = conflict::own_macs(network.interfaces.known().map(Vec::as_slice).unwrap_or_default());
    let mut heard: Vec<Heard> = ear.probe(&[ip])?.iter().map(words).collect();
    let suspects = conflict::suspects(&heard, ip, &own);
    if suspects.is_empty() {
        return Ok(Answer::Free);
    }
    let decoys = subnet(network, interface, ip.into()).and_then(|subnet| conflict::decoys(subnet, ip));
    if let Some(decoys) = decoys {
        heard.extend(ear.probe(&decoys)?.iter().map(words));
    }
    Ok(conflict::judge(&suspects, &heard, decoys))
}

/// The network of `ip` on `interface`: its own or a neighbour's prefix, or a route's.
fn subnet(network: &Network, interface: &str, ip: IpAddr) -> Option<Cidr> {
    let nics = network.interfaces.known().into_iter().flatten().filter(|nic| nic.name == interface);
    let routes = network.routes.known().into_iter().flatten();
    let routes = routes.filter(|route| route.interface == interface && route.destination.prefix > 0);
    let all = nics.flat_map(|nic| nic.addresses.iter().copied()).chain(routes.map(|route| route.destination));
    all.filter(|cidr| cidr.contains(ip)).min_by_key(|cidr| cidr.prefix)
}

fn words(packet: &Packet) -> Heard {
    Heard {
        is_request: packet.is_request,
        mac: arp::shown(packet.mac),
        sender: packet.sender,
        target: packet.target,
    }
}

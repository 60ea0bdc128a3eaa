//! Values with few forms: closed words, and addresses with a port or a meaning.
//! Owns their spelling; decides nothing about what they cause.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::reader::Reason;
use super::suggest;
use crate::role::Snapshotter;

/// The snapshotter; `None` where facts decide.
pub(super) fn snapshotter(text: &str) -> Result<Option<Snapshotter>, Reason> {
    let words = [
        ("auto", None),
        ("overlayfs", Some(Snapshotter::Overlayfs)),
        ("devmapper", Some(Snapshotter::Devmapper)),
    ];
    choose(text, &words)
}

/// What the agent may repair by itself; each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairPolicy {
    /// Nothing: observe and report.
    Observe,
    /// What cannot hurt a running workload.
    #[default]
    Safe,
    /// Also what interrupts workloads.
    Disruptive,
}

impl RepairPolicy {
    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let words = [("observe", Self::Observe), ("safe", Self::Safe), ("disruptive", Self::Disruptive)];
        choose(text, &words)
    }
}

/// Where the relay listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayListen {
    /// Nowhere.
    Off,
    /// On this port of the node IP.
    NodeIp(u16),
    /// On this address and port.
    Address(SocketAddr),
}

impl RelayListen {
    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let listen = match text.strip_prefix("node-ip:") {
            _ if text.is_empty() => Self::Off,
            Some(port) => Self::NodeIp(parse_port(port)?),
            None => Self::Address(text.parse().map_err(|_| "it is not an address and a port")?),
        };
        match listen {
            Self::Address(address) if address.port() == 0 => Err(PORT.into()),
            listen => Ok(listen),
        }
    }
}

impl fmt::Display for RelayListen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => Ok(()),
            Self::NodeIp(port) => write!(out, "node-ip:{port}"),
            Self::Address(address) => write!(out, "{address}"),
        }
    }
}

const PORT: &str = "the port is not a number from 1 to 65535";

/// A port in decimal, without sign; zero means "any" to the kernel and is refused.
pub(super) fn parse_port(text: &str) -> Result<u16, Reason> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(PORT.into()),
    }
}

/// An address with its port, or with `port` where it has none.
pub(super) fn address_with(port: u16, text: &str) -> Result<SocketAddr, Reason> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        Ok(_) => Err(PORT.into()),
        Err(_) => Err("it is not an IP address with a port or without".into()),
    }
}

/// An address that another host of the room can reach.
pub(super) fn host_address(text: &str) -> Result<IpAddr, Reason> {
    let address: IpAddr = text.parse().map_err(|_| "it is not an IP address")?;
    let narrow = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    if narrow || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err("no other host reaches it".into());
    }
    Ok(address)
}

fn choose<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Reason> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| Reason {
        why: "unknown word".to_owned(),
        suggestion: suggest::nearest(text, words.iter().map(|(word, _)| *word)).map(str::to_owned),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn listen_forms_read_back() {
        for text in ["", "node-ip:6446", "172.16.36.1:6446", "[fd00::1]:6446"] {
            assert_eq!(RelayListen::parse(text).unwrap().to_string(), text);
        }
        for text in ["6446", "node-ip", "node-ip:", "node-ip:0", "1.2.3.4", "1.2.3.4:0", "name:6446", " "] {
            assert!(RelayListen::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_is_optional_behind_an_address() {
        for (text, shown) in [
            ("114.114.114.114", "114.114.114.114:53"),
            ("10.0.0.1:5353", "10.0.0.1:5353"),
            ("fd00::1", "[fd00::1]:53"),
            ("[fd00::1]:5353", "[fd00::1]:5353"),
        ] {
            assert_eq!(address_with(53, text).unwrap().to_string(), shown);
        }
        for text in ["", "dns.example.net", "10.0.0.1:0", "10.0.0.1:", "[fd00::1]"] {
            assert!(address_with(53, text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_addresses_are_reachable_ones() {
        for text in ["172.16.36.1", "203.0.113.7", "fd00::1"] {
            assert!(host_address(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "a",
            "0.0.0.0",
            "127.0.0.1",
            "::1",
            "::",
            "224.0.0.1",
            "169.254.1.1",
            "fe80::1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:10.0.0.1",
        ] {
            assert!(host_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn policies_are_ordered() {
        assert!(RepairPolicy::Observe < RepairPolicy::Safe && RepairPolicy::Safe < RepairPolicy::Disruptive);
    }
}

//! Networks in CIDR form. Owns the rule that a configured network has no host
//! bits: 172.16.36.1/24 may be meant as the address or as the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::Reason;
use crate::facts::network::{Cidr, InterfaceChoice};

/// `IFNAMSIZ` of the kernel without its end.
const LONGEST_NAME: usize = 15;

/// An interface by its name, its hardware address, or a network that it reaches.
pub(super) fn interface(text: &str) -> Result<InterfaceChoice, Reason> {
    if text.contains('/') {
        return parse(text).map(InterfaceChoice::Network);
    }
    if text.contains(':') {
        return mac(text).map(InterfaceChoice::Mac).ok_or_else(|| "it is not a MAC of six bytes".into());
    }
    let is_name = |letter: char| letter.is_ascii_graphic();
    if text.len() > LONGEST_NAME || !text.chars().all(is_name) || text.parse::<IpAddr>().is_ok() {
        return Err("it is not the name of an interface".into());
    }
    Ok(InterfaceChoice::Name(text.to_owned()))
}

fn mac(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(is_byte)).then(|| text.to_ascii_lowercase())
}

/// A network without host bits.
pub(super) fn parse(text: &str) -> Result<Cidr, Reason> {
    let prefix = text.rsplit('/').next().unwrap_or_default();
    let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let cidr: Cidr = text.parse().ok().filter(|_| digits).ok_or("it is not a network")?;
    let lowest = Cidr { address: lowest(cidr), prefix: cidr.prefix };
    if lowest == cidr {
        return Ok(cidr);
    }
    Err(Reason { why: "it is an address inside a network".to_owned(), suggestion: Some(lowest.to_string()) })
}

fn lowest(cidr: Cidr) -> IpAddr {
    let prefix = u32::from(cidr.prefix);
    match cidr.address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(u32::BITS.saturating_sub(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(u128::BITS.saturating_sub(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_in_three_ways() {
        let network = InterfaceChoice::Network("172.16.36.0/24".parse().unwrap());
        assert_eq!(interface("eth0").unwrap(), InterfaceChoice::Name("eth0".to_owned()));
        assert_eq!(
            interface("52:54:00:AB:cd:01").unwrap(),
            InterfaceChoice::Mac("52:54:00:ab:cd:01".to_owned())
        );
        assert_eq!(interface("172.16.36.0/24").unwrap(), network);
        for text in
            ["172.16.36.1", "172.16.36.1/24", "52:54:00", "eth 0", "a-name-that-is-too-long", "fd00::1"]
        {
            assert!(interface(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_without_host_bits_are_accepted() {
        for text in ["172.16.36.0/24", "0.0.0.0/0", "10.0.0.1/32", "fd00::/8", "::/0", "fd00::1/128"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn host_bits_are_refused_with_the_network() {
        for (text, network) in
            [("172.16.36.1/24", "172.16.36.0/24"), ("10.0.0.1/0", "0.0.0.0/0"), ("fd00::1/64", "fd00::/64")]
        {
            assert_eq!(parse(text).unwrap_err().suggestion.as_deref(), Some(network));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "/",
            "172.16.36.0",
            "172.16.36.0/",
            "172.16.36/24",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/33",
            "::/129",
        ] {
            assert_eq!(parse(text).unwrap_err().why, "it is not a network", "{text}");
        }
    }
}

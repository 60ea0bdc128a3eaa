//! Networks in CIDR form. Owns the rule that a configured network has no host
//! bits: 172.16.36.1/24 may be meant as the address or as the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::Reason;
use crate::facts::network::Cidr;

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

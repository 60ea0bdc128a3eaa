//! The two URLs of the configuration: an endpoint of the central service and a
//! proxy. Owns the rule that plain http reaches only loopback, and that the
//! credentials of a proxy are never printed. Resolves nothing.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;

use super::choices::parse_port;
use super::reader::Reason;
use crate::wire::secret::without_credentials;

/// The host part of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// Whether the host is this machine: `localhost`, 127.0.0.0/8 or ::1.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::Address(address) => address.is_loopback(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(out, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(out, "[{address}]"),
        }
    }
}

/// Where the central service answers: scheme, host and port, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    plain: bool,
    host: Host,
    port: u16,
}

impl Endpoint {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port: as written, else 443, or 80 for plain http.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the endpoint is plain http; its host is then loopback.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let authority = Authority::parse(text)?;
        if authority.userinfo.is_some() {
            return Err("user information has no place in an endpoint".into());
        }
        let plain = authority.scheme == "http";
        if plain && !authority.host.is_loopback() {
            return Err("plain http is refused except to loopback".into());
        }
        let port = authority.port.unwrap_or(if plain { 80 } else { 443 });
        Ok(Self { plain, host: authority.host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "http" } else { "https" };
        write!(out, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A proxy for everything that leaves the room. `Debug`, `Display` and serde
/// give it without its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: String,
    printable: String,
    credentials: bool,
}

impl Proxy {
    /// The URL with its credentials: for the HTTP client, never for a log.
    #[must_use]
    pub fn secret_url(&self) -> &str {
        &self.url
    }

    /// Whether the URL carries a user name or a password.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        self.credentials
    }

    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let Authority { scheme, userinfo, host, port } = Authority::parse(text)?;
        let port = port.ok_or("the port is missing")?;
        let secret = userinfo.map(|userinfo| format!("{userinfo}@")).unwrap_or_default();
        let url = format!("{scheme}://{secret}{host}:{port}");
        Ok(Self { printable: without_credentials(&url), url, credentials: userinfo.is_some() })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.printable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Proxy").field(&self.printable).finish()
    }
}

impl Serialize for Proxy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.printable)
    }
}

/// `scheme://[userinfo@]host[:port]`, one slash at the end allowed.
struct Authority<'a> {
    scheme: &'static str,
    userinfo: Option<&'a str>,
    host: Host,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Result<Self, Reason> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let scheme = ["https", "http"]
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known))
            .ok_or("the scheme is neither https nor http")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err("it goes on behind the host and the port".into());
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it has a space or a character outside ASCII".into());
        }
        let (userinfo, rest) = match rest.rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, rest),
        };
        let (host, port) = split_port(rest)?;
        Ok(Self { scheme, userinfo, host: parse_host(host)?, port })
    }
}

/// The host, in brackets when it is an IPv6 address, and the port behind it.
fn split_port(text: &str) -> Result<(&str, Option<u16>), Reason> {
    let end = text.find(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match text.get(end..).unwrap_or_default().find(':') {
        Some(colon) => (text.get(..end + colon), text.get(end + colon + 1..)),
        None => (Some(text), None),
    };
    let port = port.map(parse_port).transpose()?;
    Ok((host.unwrap_or_default(), port))
}

fn parse_host(text: &str) -> Result<Host, Reason> {
    if text.is_empty() {
        return Err("the host is missing".into());
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| "no IPv6 address stands in the brackets")?;
        return Ok(Host::Address(address.into()));
    }
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    let name = text.to_ascii_lowercase();
    if is_host_name(&name) {
        Ok(Host::Name(name))
    } else {
        Err("the host is not a name or an address".into())
    }
}

/// A last label of digits only would be read as a broken IPv4 address elsewhere.
fn is_host_name(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Endpoint::parse(text).unwrap_err().why
    }

    #[test]
    fn endpoints_are_normalised() {
        for (text, shown) in [
            ("https://central.example.net:8443", "https://central.example.net:8443"),
            ("HTTPS://Central.Example.NET/", "https://central.example.net:443"),
            ("https://203.0.113.7", "https://203.0.113.7:443"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
            ("http://localhost", "http://localhost:80"),
            ("http://127.8.9.1:8080/", "http://127.8.9.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn endpoints_refused() {
        let loopback = "plain http is refused except to loopback";
        let port = "the port is not a number from 1 to 65535";
        let host = "the host is not a name or an address";
        for (text, why) in [
            ("central.example.net", "it has no scheme"),
            ("ftp://central.example.net", "the scheme is neither https nor http"),
            ("http://203.0.113.7", loopback),
            ("http://localhost.example.net", loopback),
            ("http://127.0.0.1.example.net", loopback),
            ("https://user:word@central.example.net", "user information has no place in an endpoint"),
            ("https://", "the host is missing"),
            ("https://:8443", "the host is missing"),
            ("https://a:0", port),
            ("https://a:65536", port),
            ("https://a:+1", port),
            ("https://a:", port),
            ("https://a:1:2", port),
            ("https://[::1]x:1", host),
            ("https://300.1.1.1", host),
            ("https://-a.example", host),
            ("https://a..b", host),
            ("https://[::g]", "no IPv6 address stands in the brackets"),
            ("https://::1", port),
            ("https://a/v1", "it goes on behind the host and the port"),
            ("https://a?x", "it goes on behind the host and the port"),
            ("https://a b", "it has a space or a character outside ASCII"),
            ("https://ä", "it has a space or a character outside ASCII"),
        ] {
            assert_eq!(refusal(text), why, "{text}");
        }
    }

    #[test]
    fn proxy_never_prints_its_credentials() {
        let proxy = Proxy::parse("http://user:p@ss@172.16.36.10:3128/").unwrap();
        assert_eq!(proxy.secret_url(), "http://user:p@ss@172.16.36.10:3128");
        assert!(proxy.has_credentials());
        let json = serde_json::to_string(&proxy).unwrap();
        assert_eq!(proxy.to_string(), "http://REDACTED@172.16.36.10:3128");
        for printed in [json, proxy.to_string(), format!("{proxy:?}")] {
            assert!(!printed.contains("user") && !printed.contains("ss@"), "{printed}");
        }
        let open = Proxy::parse("https://proxy.example.net:3128").unwrap();
        assert_eq!((open.has_credentials(), open.to_string()), (false, open.secret_url().to_owned()));
    }

    #[test]
    fn proxy_needs_a_port() {
        assert_eq!(Proxy::parse("http://172.16.36.10").unwrap_err().why, "the port is missing");
        assert!(Proxy::parse("socks5://172.16.36.10:1080").is_err());
    }
}

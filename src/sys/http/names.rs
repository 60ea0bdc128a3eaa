//! From a name to addresses: the given DNS servers first, then the system's
//! resolver, then fixed addresses.
//!
//! Owns the order and its time limits. The system's resolver may be a pod that
//! does not run yet, and a name may be unknown on a cut link: both end here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{Settings, dns};

/// For all given DNS servers together.
const RESOLVERS: Duration = Duration::from_secs(2);
/// For the system's resolver.
const SYSTEM: Duration = Duration::from_secs(2);

/// A name that nobody resolves.
#[derive(Debug)]
pub(super) struct Unresolved(pub(super) String);

impl fmt::Display for Unresolved {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the name {} does not resolve", self.0)
    }
}

impl std::error::Error for Unresolved {}

#[derive(Debug, Clone)]
pub(super) struct Names {
    resolvers: Vec<SocketAddr>,
    fixed: Vec<IpAddr>,
}

impl Names {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { resolvers: settings.resolvers.clone(), fixed: settings.addresses.clone() }
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        if name == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let mut found = self.ask_resolvers(name).await;
        if found.is_empty() {
            found = ask_system(name).await;
        }
        if found.is_empty() {
            found.clone_from(&self.fixed);
        }
        if found.is_empty() { Err(Unresolved(name.to_owned())) } else { Ok(found) }
    }

    async fn ask_resolvers(&self, name: &str) -> Vec<IpAddr> {
        let Ok(servers) = u32::try_from(self.resolvers.len()) else { return Vec::new() };
        for server in &self.resolvers {
            let found = tokio::time::timeout(RESOLVERS / servers, dns::look_up(*server, name)).await;
            if let Ok(Ok(found)) = found
                && !found.is_empty()
            {
                return found;
            }
        }
        Vec::new()
    }
}

async fn ask_system(name: &str) -> Vec<IpAddr> {
    match tokio::time::timeout(SYSTEM, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        _ => Vec::new(),
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found = this.look_up(name.as_str()).await?;
            // Port 0 stands for the port of the URL.
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fixed_addresses_serve_a_name_that_does_not_resolve() {
        let names = Names { resolvers: Vec::new(), fixed: vec!["203.0.113.7".parse().unwrap()] };
        assert_eq!(names.look_up("central.invalid").await.unwrap(), names.fixed);
        let names = Names { resolvers: Vec::new(), fixed: Vec::new() };
        assert_eq!(names.look_up("central.invalid").await.unwrap_err().0, "central.invalid");
    }

    #[tokio::test]
    async fn a_silent_resolver_is_passed_over() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let names = Names {
            resolvers: vec![silent.local_addr().unwrap()],
            fixed: vec!["203.0.113.7".parse().unwrap()],
        };
        assert_eq!(names.look_up("central.invalid").await.unwrap(), names.fixed);
    }
}

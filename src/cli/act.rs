//! `act NAME …`: one privileged act, run by systemd outside the daemon's sandbox.
//!
//! Owns the acts' words, and no decision: each does the one thing it is told,
//! may be run twice, and changes nothing when it is not root's. Not for people,
//! so `--help` does not list it.

use std::net::IpAddr;

use clap::Subcommand;

use super::Common;
use crate::boot::address::acts;
use crate::facts::network::Cidr;
use crate::sys::{clock, host};

#[derive(Debug, Subcommand)]
pub enum ActVerb {
    /// Set the machine's wall clock
    SetClock {
        /// Seconds since 1970
        #[arg(long, value_name = "UNIX_SECONDS")]
        to: u64,
    },
    /// Add an address to an interface and announce it
    AddAddress {
        /// Its kernel name
        #[arg(long)]
        interface: String,
        /// Address and prefix
        #[arg(long)]
        address: Cidr,
    },
    /// Ask the network who has an address
    ProbeAddress {
        /// Where to ask
        #[arg(long)]
        interface: String,
        /// The address
        #[arg(long)]
        ip: IpAddr,
    },
}

pub fn run(common: &Common, verb: &ActVerb) -> anyhow::Result<u8> {
    anyhow::ensure!(host::is_root(), "only root may do this: edge-bootstrap starts it by itself when needed");
    anyhow::ensure!(common.root().is_host(), "acts change the running host: not with --root");
    match verb {
        ActVerb::SetClock { to } => set_clock(*to),
        ActVerb::AddAddress { interface, address } => {
            acts::add(interface, *address)?;
            Ok(0)
        }
        ActVerb::ProbeAddress { interface, ip } => {
            acts::probe(&common.root(), interface, *ip)?;
            Ok(0)
        }
    }
}

fn set_clock(to: u64) -> anyhow::Result<u8> {
    clock::set(to).map_err(|errno| {
        anyhow::Error::new(errno).context(format!("set the clock to {}", clock::rfc3339(to)))
    })?;
    Ok(0)
}

//! `act NAME …`: one privileged act, run by systemd outside the daemon's sandbox.
//!
//! Owns the acts' words, and no decision: each does the one thing it is told,
//! may be run twice, and changes nothing when it is not root's. Not for people,
//! so `--help` does not list it.

use std::net::IpAddr;

use clap::Subcommand;

use super::Common;
use crate::boot::address::acts;
use crate::boot::images::{ImageError, Tool, acts as images};
use crate::boot::storage::look;
use crate::boot::storage::pool::{self, PoolError};
use crate::facts::network::Cidr;
use crate::facts::storage::Named;
use crate::plan::PoolSpace;
use crate::role::words::Sha256Hex;
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
    /// Import an archive of images, and sync them
    ImportImages {
        #[command(flatten)]
        tool: CtrTool,
        /// Of the archive
        #[arg(long)]
        sha256: Sha256Hex,
        /// Tell ctr to import by itself (containerd 2.x)
        #[arg(long)]
        local: bool,
        /// Remove first what an interrupted import left
        #[arg(long)]
        again: bool,
        /// The sandbox image
        #[arg(long, value_name = "NAME")]
        sandbox: Option<String>,
    },
    /// Remove images, under all their names
    RemoveImages {
        #[command(flatten)]
        tool: CtrTool,
        /// A name of each
        #[arg(long = "image", value_name = "NAME")]
        images: Vec<String>,
    },
    /// Compare images with their digests, and unpacked layers with their blobs
    VerifyImages {
        #[command(flatten)]
        tool: CtrTool,
        /// Seconds since 1970: what is older was verified before
        #[arg(long, value_name = "UNIX_SECONDS", default_value_t = 0)]
        since: u64,
        /// The sandbox image
        #[arg(long, value_name = "NAME")]
        sandbox: Option<String>,
        /// Look only who uses what the last look of this boot found damaged
        #[arg(long)]
        again: bool,
    },
    /// Look at what a snapshotter could stand on
    LookAtStorage {
        /// Device-mapper name of the pool
        #[arg(long, value_name = "NAME")]
        pool: Option<String>,
        /// The volume group that holds it
        #[arg(long, value_name = "NAME")]
        volume_group: Option<String>,
        /// The block device that holds it
        #[arg(long, value_name = "PATH")]
        device: Option<String>,
        /// Try a real overlay mount as well
        #[arg(long)]
        overlay: bool,
    },
    /// Make a thin pool on provably empty space
    CreatePool {
        #[command(flatten)]
        pool: PoolName,
        /// The whole device that becomes its volume group
        #[arg(long, value_name = "PATH", conflicts_with = "volume_group")]
        device: Option<String>,
        /// The volume group that has room for it
        #[arg(long, value_name = "NAME", required_unless_present = "device")]
        volume_group: Option<String>,
    },
    /// Bring a thin pool up
    ActivatePool(PoolName),
    /// Check a thin pool's metadata, and repair them into new ones
    RepairPool(PoolName),
    /// Give a full thin pool more of its volume group
    ExtendPool(PoolName),
    /// Let go of a device that a power cut left without its snapshot
    ReleaseDevice(PoolName),
}

#[derive(Debug, clap::Args)]
pub struct CtrTool {
    /// Path of ctr, of the same package as the daemon
    #[arg(long, value_name = "PATH")]
    ctr: String,
    /// Snapshotter of the CRI
    #[arg(long, value_name = "NAME")]
    snapshotter: String,
}

impl CtrTool {
    fn tool(&self) -> Tool {
        Tool { ctr: self.ctr.clone(), snapshotter: self.snapshotter.clone() }
    }
}

#[derive(Debug, clap::Args)]
pub struct PoolName {
    /// Its device-mapper name
    #[arg(long)]
    pool: String,
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
        ActVerb::ImportImages { tool, sha256, local, again, sandbox } => {
            let (sha256, sandbox) = (sha256.as_str(), sandbox.as_deref());
            let wanted = images::Import { sha256, is_local: *local, again: *again, sandbox };
            on_images(images::import(&common.root(), &tool.tool(), wanted))
        }
        ActVerb::RemoveImages { tool, images } => {
            on_images(images::remove(&common.root(), &tool.tool(), images))
        }
        ActVerb::VerifyImages { tool, again: true, .. } => {
            on_images(images::verify_again(&common.root(), &tool.tool()))
        }
        ActVerb::VerifyImages { tool, since, sandbox, .. } => {
            on_images(images::verify(&common.root(), &tool.tool(), *since, sandbox.as_deref()))
        }
        ActVerb::LookAtStorage { pool, volume_group, device, overlay } => {
            let named = Named { pool: pool.clone(), group: volume_group.clone(), device: device.clone() };
            super::on_runtime(async {
                look::look(&common.root(), named, *overlay).await?;
                Ok(0)
            })
        }
        ActVerb::CreatePool { pool, device, volume_group } => {
            let space = match (device, volume_group) {
                (Some(path), _) => PoolSpace::Device(path.clone()),
                (None, group) => PoolSpace::VolumeGroup(group.clone().unwrap_or_default()),
            };
            on_pool(common, "create-pool", &pool.pool, pool::create(&pool.pool, &space))
        }
        ActVerb::ActivatePool(name) => {
            on_pool(common, "activate-pool", &name.pool, pool::activate(&name.pool))
        }
        ActVerb::RepairPool(name) => on_pool(common, "repair-pool", &name.pool, pool::repair(&name.pool)),
        ActVerb::ExtendPool(name) => on_pool(common, "extend-pool", &name.pool, pool::extend(&name.pool)),
        ActVerb::ReleaseDevice(name) => {
            on_pool(common, "release-device", &name.pool, pool::release(&name.pool))
        }
    }
}

fn on_images(work: impl Future<Output = Result<(), ImageError>>) -> anyhow::Result<u8> {
    super::on_runtime(async {
        work.await?;
        Ok(0)
    })
}

/// Works on a pool, and leaves for the daemon that it begins and how it ended.
fn on_pool(
    common: &Common,
    act: &str,
    name: &str,
    work: impl Future<Output = Result<pool::record::Done, PoolError>>,
) -> anyhow::Result<u8> {
    super::on_runtime(async {
        pool::record::begin(&common.root(), (act, name))?;
        let result = work.await;
        pool::record::write(&common.root(), (act, name), &result)?;
        super::output::text(&result?.words);
        Ok(0)
    })
}

fn set_clock(to: u64) -> anyhow::Result<u8> {
    clock::set(to).map_err(|errno| {
        anyhow::Error::new(errno).context(format!("set the clock to {}", clock::rfc3339(to)))
    })?;
    Ok(0)
}

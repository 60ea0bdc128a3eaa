//! `identity show`.

use clap::Subcommand;

use super::{Common, output};
use crate::identity;

#[derive(Debug, Subcommand)]
pub enum IdentityVerb {
    /// Print the pinned identity
    Show,
}

pub fn run(common: &Common, verb: &IdentityVerb) -> anyhow::Result<u8> {
    let IdentityVerb::Show = verb;
    let loaded = identity::load(&common.root())?;
    if let Some(damage) = loaded.damage() {
        output::note(&format!("identity.json: {damage}; this is its earlier copy"));
    }
    match loaded.value() {
        None => output::text("no identity is pinned: this host has not been given a role yet"),
        Some(identity) if common.json => output::json(&identity)?,
        Some(identity) => {
            let step = if identity.joined.is_some() { "joined" } else { "assigned" };
            output::text(&format!(
                "node      {} {}\nrole      {} of cluster {} in site {}\nstep      {step}, epoch {}\nnode id   {}\nmember    {}",
                identity.node_name,
                identity.node_ip,
                identity.role,
                identity.cluster,
                identity.site,
                identity.epoch,
                identity.node_id.as_deref().unwrap_or("none (local assignment file)"),
                identity.joined.as_ref().and_then(|joined| joined.etcd_member.as_deref()).unwrap_or("none"),
            ));
        }
    }
    Ok(0)
}

//! `identity show`, and `identity accept`: a person says that this is the machine.
//!
//! Owns their words. Which hardware counts, and what is recorded of it, is
//! decided in `plan::fingerprint` and `identity`.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Common, on_runtime, output, person};
use crate::facts::runtime::PinnedIdentity;
use crate::report::status::one_line;
use crate::sys::lock;
use crate::{boot, identity, paths};

#[derive(Debug, Subcommand)]
pub enum IdentityVerb {
    /// Print the pinned identity
    Show,
    /// Record the hardware of now: this is the machine (board replaced, disk moved for good)
    Accept {
        /// Why, for those who find it
        #[arg(long, value_name = "TEXT", value_parser = person::reason)]
        reason: String,
    },
}

/// How long a pass that runs may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

pub fn run(common: &Common, verb: &IdentityVerb) -> anyhow::Result<u8> {
    match verb {
        IdentityVerb::Show => show(common),
        IdentityVerb::Accept { reason } => on_runtime(accept(common, reason)),
    }
}

async fn accept(common: &Common, reason: &str) -> anyhow::Result<u8> {
    let root = common.root();
    root.make_dir(paths::RUN_DIR, 0o755)?;
    // A pass that runs would put back what it read before.
    let Some(lock) = lock::acquire(&root, paths::LOCK, LOCK_PATIENCE).await? else {
        anyhow::bail!("another pass is running and did not end within 60 s; nothing was changed, try again");
    };
    let Some(before) = identity::load(&root)?.value() else {
        anyhow::bail!(
            "no identity is pinned: this host has not been given a role yet, and nothing is to accept"
        );
    };
    let after = identity::accepted(&before, &boot::facts(&root).await);
    let changes = identity::changes(&before, &after);
    identity::pin(&root, &after)?;
    let what = if changes.is_empty() { "as recorded before".to_owned() } else { changes.join("; ") };
    let by = person::name();
    let line = format!("hardware of {} accepted by {by} ({}): {what}", after.node_name, one_line(reason));
    drop(lock);
    person::tell(common, &line).await;
    if common.json {
        output::json(&json(Some(after))?)?;
    } else {
        output::text(&line);
    }
    Ok(0)
}

/// The fields of the identity beside `schema`; `identity` is null where there is none.
fn json(identity: Option<PinnedIdentity>) -> serde_json::Result<Value> {
    let mut json = match identity {
        Some(identity) => serde_json::to_value(identity)?,
        None => json!({"identity": null}),
    };
    json["schema"] = 1.into();
    Ok(json)
}

fn show(common: &Common) -> anyhow::Result<u8> {
    let loaded = identity::load(&common.root())?;
    if let Some(damage) = loaded.damage() {
        output::note(&format!("identity.json: {damage}; this is its earlier copy"));
    }
    match loaded.value() {
        identity if common.json => output::json(&json(identity)?)?,
        None => output::text("no identity is pinned: this host has not been given a role yet"),
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::runtime::pinned_server;

    #[test]
    fn json_has_its_schema_with_and_without_an_identity() {
        assert_eq!(json(None).unwrap(), json!({"schema": 1, "identity": null}));
        let shown = json(Some(pinned_server())).unwrap();
        assert_eq!((&shown["schema"], &shown["node_name"]), (&json!(1), &json!("172-16-36-1")));
    }
}

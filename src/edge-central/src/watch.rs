//! Wakes waiting hosts when something about their site changed.
//!
//! Owns one channel per site. This process nudges it after a write; writes of
//! the command line are seen within a quarter of a second by SQLite's data
//! version. Also lets the role policy look again as time passes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::clock;
use crate::issue;
use crate::service::Service;
use crate::store::{Store, StoreError, sites};

/// How often writes of other processes are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// How long after a failure of the database the next try comes.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Revisions of all sites, for whoever waits.
#[derive(Debug, Default)]
pub struct Changes {
    sites: Mutex<HashMap<String, watch::Sender<i64>>>,
    nudge: Notify,
}

impl Changes {
    /// A receiver that sees every later change of `site`.
    #[must_use]
    pub fn subscribe(&self, site: &str) -> watch::Receiver<i64> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.entry(site.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Says that this process wrote something.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    fn publish(&self, changed: &[(String, i64)]) {
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        for (site, revision) in changed {
            if let Some(sender) = sites.get(site) {
                sender.send_replace(*revision);
            }
        }
    }
}

/// Watches the database for ever.
pub async fn run(service: Arc<Service>) {
    loop {
        if let Err(error) = watch(&service).await {
            warn!(%error, "the database cannot be watched, retrying");
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Ends only with an error.
async fn watch(service: &Service) -> Result<(), StoreError> {
    let mut own = service.store.connection().await?;
    let (mut version, mut revision) = (0, 0);
    loop {
        let found = Store::data_version(&mut own).await?;
        if found != version {
            version = found;
            let changed = sites::changed_after(&mut own, revision).await?;
            revision = changed.iter().map(|(_, revision)| *revision).max().unwrap_or(revision);
            // Once for all who wait, and before they look.
            for (site, _) in &changed {
                issue::settle_if_due(service, site, clock::now()).await?;
            }
            service.changes.publish(&changed);
        }
        tokio::select! {
            // Both arms only wait: nothing is lost when the other one is first.
            () = service.changes.nudge.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Lets the role policy look at rooms where time alone may decide, for ever.
pub async fn tick(service: Arc<Service>) {
    let pause = Duration::from_secs(u64::try_from(service.options.steady / 20).unwrap_or(0).clamp(1, 15));
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = settle_undecided(&service).await {
            warn!(%error, "the role policy could not look at the rooms, retrying");
        }
    }
}

async fn settle_undecided(service: &Service) -> Result<(), StoreError> {
    let mut tx = service.store.read().await?;
    let names = sites::undecided(&mut tx).await?;
    drop(tx);
    for name in names {
        issue::settle_if_due(service, &name, clock::now()).await?;
    }
    Ok(())
}

//! Changes that systemd and hostnamed tell by themselves.
//!
//! Owns the subscription and its renewal. An event says only where to look;
//! what is so, is read afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::{Link, Signal};
use super::{CALL, Systemd, proxy};

/// First and longest wait between two attempts to subscribe again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This unit's state.
    Unit(String),
    /// One of the names that hostnamed keeps.
    Hostname,
    /// Signals may have been missed: look at everything.
    Missed,
}

/// A running subscription.
#[derive(Debug)]
pub struct Watch {
    systemd: Systemd,
    units: BTreeSet<String>,
    signals: Option<Receiver<Signal>>,
    retry_at: Instant,
    wait: Duration,
}

impl Systemd {
    /// Watches the state of `units` and the hostname. Subscribes at the first
    /// [`Watch::changed`] and for ever after, whatever happens to the bus.
    #[must_use]
    pub fn watch(&self, units: &[&str]) -> Watch {
        Watch {
            systemd: self.clone(),
            units: units.iter().map(|name| (*name).to_owned()).collect(),
            signals: None,
            retry_at: Instant::now(),
            wait: BACKOFF.0,
        }
    }
}

impl Watch {
    /// The next change. The first one is [`Event::Missed`]: nothing was watched
    /// before. May be dropped and called again without losing an event.
    pub async fn changed(&mut self) -> Event {
        loop {
            let Some(signals) = &mut self.signals else {
                if self.subscribed().await {
                    return Event::Missed;
                }
                continue;
            };
            match signals.recv().await {
                Ok(Signal::Unit(name)) if self.units.contains(&name) => return Event::Unit(name),
                Ok(Signal::Hostname) => return Event::Hostname,
                Ok(Signal::Unit(_) | Signal::JobRemoved { .. }) => {}
                Err(RecvError::Lagged(_)) => return Event::Missed,
                Ok(Signal::Lost) | Err(RecvError::Closed) => self.signals = None,
            }
        }
    }

    async fn subscribed(&mut self) -> bool {
        sleep_until(self.retry_at).await;
        // A drop in the middle of an attempt must not make the next one immediate.
        self.retry_at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(BACKOFF.1);
        let Ok(link) = self.systemd.link().await else { return false };
        let signals = link.signals();
        if !matches!(timeout(CALL, self.add_matches(&link)).await, Ok(Ok(()))) {
            return false;
        }
        self.signals = Some(signals);
        self.wait = BACKOFF.0;
        true
    }

    async fn add_matches(&self, link: &Link) -> zbus::Result<()> {
        let changed = "type='signal',interface='org.freedesktop.DBus.Properties',member='PropertiesChanged'";
        for name in &self.units {
            // Without being loaded a unit has no object that could tell anything.
            let _ = self.systemd.unit(name).await;
            let (path, unit) = (proxy::unit_path(name), proxy::UNIT_INTERFACE);
            link.add_match(&format!("{changed},sender='{}',path='{path}',arg0='{unit}'", proxy::SERVICE))
                .await?;
        }
        link.add_match(&format!(
            "{changed},sender='org.freedesktop.hostname1',path='/org/freedesktop/hostname1'"
        ))
        .await
    }
}

//! Is it really up: step 6 of the boot line.
//!
//! Owns probes of this host alone, each with its own limit, and the verdict.
//! Changes nothing. Neither a WAN nor another host is a health signal. Before
//! k3s has said READY nothing that k3s serves can fail: it is waited for.

mod containerd;
mod judge;
mod node;
mod probe;

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep_until};

pub use containerd::{Expected, Memory, Seen, number};
pub use judge::judge;
pub use node::{NodeReady, parse_node};

use crate::sys::Root;
use crate::sys::systemd::Systemd;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Probing<'a> {
    /// Where `/` is.
    pub root: &'a Root,
    /// The host's systemd.
    pub systemd: &'a Systemd,
    /// What containerd shall be; `None` where it is not ours to ask.
    pub containerd: Option<Expected>,
    /// k3s's unit as the plan names it; `None` where the host runs no k3s.
    pub k3s_unit: Option<&'a str>,
    /// Name of the host's own Node.
    pub node_name: &'a str,
    /// Where k3s listens.
    pub ports: Ports,
}

/// Loopback ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Supervisor and API server of a server.
    pub server: u16,
    /// API from this host, on servers and agents.
    pub api: u16,
    /// kubelet's health.
    pub kubelet: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { server: 6443, api: 6444, kubelet: 10248 }
    }
}

/// The whole in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every probe is good.
    Healthy,
    /// It works, but not as it should.
    Degraded,
    /// It does not work.
    Failed,
    /// It cannot be told yet, or not at all.
    Unknown,
}

/// How one probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Good.
    Ok,
    /// Not yet, and it may still come by itself.
    Waiting,
    /// Bad, while the host's own k3s works.
    Degraded,
    /// Bad.
    Failed,
    /// Could not be looked at.
    Unknown,
}

/// One probe's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Which one; a closed list, in the order in which causes are looked for.
    pub name: &'static str,
    /// How it went.
    pub state: State,
    /// What was seen, in plain words.
    pub detail: String,
}

impl Probe {
    /// Code of the finding that it becomes when it is not good.
    #[must_use]
    pub fn code(&self) -> &'static str {
        if containerd::is_tier(self.name) { "EB-containerd-health" } else { "EB-probe" }
    }

    /// Whether it asks for containerd.
    #[must_use]
    pub fn is_of_containerd(&self) -> bool {
        self.name == probe::CONTAINERD_UNIT || containerd::is_tier(self.name)
    }
}

/// What all probes together say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The whole.
    pub health: Health,
    /// k3s is still on its way up.
    pub waiting: bool,
    /// The first thing that is not good, cause before effect.
    pub cause: Option<String>,
    /// Each probe.
    pub probes: Vec<Probe>,
}

/// Looks once. Ends within 10 s whatever hangs; what hangs together is waited
/// for together.
pub async fn look(probing: &Probing<'_>, memory: &mut Memory) -> Verdict {
    judge(probe::all(probing, memory).await)
}

/// Looks again and again until all is good, or `budget` is over. k3s that is
/// still starting then makes the host degraded, not failed: it waits for ever.
pub async fn wait(probing: &Probing<'_>, memory: &mut Memory, budget: Duration) -> Verdict {
    let deadline = Instant::now() + budget;
    loop {
        let verdict = look(probing, memory).await;
        if verdict.health == Health::Healthy {
            return verdict;
        }
        if Instant::now() + PAUSE >= deadline {
            return judge::overdue(verdict, budget);
        }
        sleep_until(Instant::now() + PAUSE).await;
    }
}

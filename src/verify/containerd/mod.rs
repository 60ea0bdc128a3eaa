//! Whether containerd works, asked on its own socket, tier by tier.
//!
//! Owns when how much is asked. "active" says little: plugins may have failed,
//! a snapshotter's database may not open, the CRI may miss. Every pass asks for
//! the version; the other tiers are asked when the process is another one, when
//! something was wrong, and every five minutes. Restarts nothing.

mod tiers;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::probe::{CONTAINERD_UNIT, Found, named as probe, told, within};
use super::{Probe, Probing, State};
use crate::containerd::{CallError, Client, Image};
use crate::ordered::Ordered as _;
use crate::paths::CONTAINERD_DROP_IN;
use crate::plan::units::CONTAINERD;
use crate::role::Snapshotter;
use crate::sys::clock;
use crate::sys::grpc::GrpcError;

/// How long a containerd may take from its start to its first good answers. It
/// reconnects to each running container at its start.
const COMING_UP: Duration = Duration::from_secs(90);
/// Between two looks at plugins and lists of a containerd that is well.
const EVERY: Duration = Duration::from_secs(300);

/// What this host's containerd shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The snapshotter of the CRI.
    pub snapshotter: Snapshotter,
}

/// What looks remember of containerd, so that a steady host is not asked
/// everything all the time.
#[derive(Debug, Default)]
pub struct Memory {
    /// Main process that was well once; 0 for none.
    came_up: u32,
    good: Option<Good>,
    version: Option<String>,
    seen: Option<Seen>,
}

/// The last good look at plugins and lists.
#[derive(Debug)]
struct Good {
    pid: u32,
    at: Instant,
    probes: Vec<Probe>,
}

/// What a containerd that is well holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Digest by name, without the names that only repeat a digest.
    pub images: BTreeMap<String, String>,
    /// Snapshots of its snapshotter.
    pub snapshots: u64,
}

impl Memory {
    /// Version of the running containerd, as it told it last.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What the last look at everything found, once; `None` when nothing new was seen.
    pub fn news(&mut self) -> Option<Seen> {
        self.seen.take()
    }

    /// Makes the next look ask everything: somebody changed what containerd holds.
    pub fn forget(&mut self) {
        self.good = None;
    }

    /// What plugins and lists said when that is still good enough.
    fn recent(&self, pid: u32) -> Option<&[Probe]> {
        let good = self.good.as_ref().filter(|good| good.pid == pid && good.at.elapsed() < EVERY)?;
        Some(&good.probes)
    }

    /// Whether all is well decides how soon everything is asked again.
    fn note(&mut self, pid: u32, tiers: &[Probe], (held, seen): (&[Probe], Option<Seen>)) {
        if tiers.iter().any(|tier| tier.state != State::Ok) {
            self.good = None;
            return;
        }
        self.came_up = pid;
        if seen.is_some() {
            // Without its process nobody can tell that it is still the same one.
            self.good = (pid != 0).then(|| Good { pid, at: Instant::now(), probes: held.to_vec() });
            self.seen = seen;
        }
    }
}

/// Whether a probe is one of containerd's own answers.
pub(super) fn is_tier(name: &str) -> bool {
    tiers::ALL.contains(&name)
}

/// Version `major.minor.patch` out of what a running containerd tells.
#[must_use]
pub fn number(version: &str) -> Option<(u32, u32, u32)> {
    tiers::number(version)
}

/// The unit, and then the tiers up to the first that is not reached.
pub(super) async fn all(probing: &Probing<'_>, memory: &mut Memory) -> Vec<Probe> {
    let Some(expected) = probing.containerd.filter(|_| is_ours(probing)) else {
        return vec![probe(CONTAINERD_UNIT, unit(probing).await.found)];
    };
    let (unit, connected) = tokio::join!(unit(probing), connect(probing));
    let mut probes = vec![probe(CONTAINERD_UNIT, unit.found.clone())];
    memory.version = connected.as_ref().ok().map(|(_, version)| version.clone());
    let tiers = match connected {
        Ok((client, version)) => ask(&client, &version, expected, (memory, unit.pid)).await,
        Err(error) => {
            memory.forget();
            vec![probe(tiers::CONTAINERD, tiers::unreached(&error))]
        }
    };
    let comes_up = unit.found.0 == State::Waiting || (unit.is_young && memory.came_up != unit.pid);
    probes.extend(tiers.into_iter().map(|tier| if comes_up { patient(tier) } else { tier }));
    probes
}

/// Another owner's containerd is not ours to judge.
fn is_ours(probing: &Probing<'_>) -> bool {
    probing.root.exists(CONTAINERD_DROP_IN)
}

/// What may still come by itself. A plugin that failed does not: it is started once.
fn patient(tier: Probe) -> Probe {
    let may_come = tier.state != State::Ok && tier.name != tiers::PLUGINS;
    Probe { state: if may_come { State::Waiting } else { tier.state }, ..tier }
}

struct Unit {
    found: Found,
    pid: u32,
    is_young: bool,
}

async fn unit(probing: &Probing<'_>) -> Unit {
    match within(probing.systemd.unit(CONTAINERD)).await {
        Ok(unit) => {
            let state = match () {
                () if unit.is_up() => State::Ok,
                () if unit.is_activating() || unit.job.is_some() => State::Waiting,
                () => State::Failed,
            };
            let since = Duration::from_micros(unit.since_monotonic_us);
            let is_young = unit.is_up() && clock::monotonic().saturating_sub(since) < COMING_UP;
            Unit { found: (state, told(&unit)), pid: unit.main_pid, is_young }
        }
        Err(reason) => Unit { found: (State::Unknown, reason), pid: 0, is_young: false },
    }
}

async fn connect(probing: &Probing<'_>) -> Result<(Client, String), CallError> {
    let client = Client::connect(probing.root).await?;
    let version = client.version().await?;
    Ok((client, version))
}

async fn ask(
    client: &Client,
    version: &str,
    expected: Expected,
    (memory, pid): (&mut Memory, u32),
) -> Vec<Probe> {
    let recent = memory.recent(pid).map(<[Probe]>::to_vec);
    let hold = async {
        match recent {
            Some(recent) => (recent, None),
            None => holds(client, version, expected).await,
        }
    };
    let ((held, seen), status) = tokio::join!(hold, client.cri_status());
    let [runtime, cni] = tiers::cri(status);
    let mut probes = vec![probe(tiers::CONTAINERD, (State::Ok, format!("containerd {version} answers")))];
    probes.extend_from_slice(&held);
    probes.extend([probe(tiers::RUNTIME, runtime), probe(tiers::CNI, cni)]);
    memory.note(pid, &probes, (&held, seen));
    probes
}

/// Plugins and lists.
async fn holds(client: &Client, version: &str, expected: Expected) -> (Vec<Probe>, Option<Seen>) {
    let snapshotter = expected.snapshotter.to_string();
    let (plugins, snapshots, images) =
        tokio::join!(client.plugins(), client.snapshots(&snapshotter), client.images());
    let seen = match (&snapshots, images) {
        (Ok(snapshots), Ok(images)) => Some(Seen { images: by_name(images), snapshots: *snapshots }),
        _ => None,
    };
    let plugins = probe(tiers::PLUGINS, tiers::plugins(plugins, &snapshotter, version));
    (vec![plugins, probe(tiers::SNAPSHOTS, tiers::snapshots(snapshots, &snapshotter))], seen)
}

/// Names of people; the CRI adds one `sha256:…` to each (containerd: `pkg/cri/store/image`).
fn by_name(images: Vec<Image>) -> BTreeMap<String, String> {
    let named = images.into_iter().filter(|image| !image.name.starts_with("sha256:"));
    named.map(|image| (image.name, image.digest)).into_map()
}

//! The items of a plan: files, links, removals, artifacts, units.
//!
//! Owns their shapes. An item holds everything that `apply` and `activate`
//! need, down to bytes, mode and order, and the reason for people.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::facts::k3s_config::Effective;
use crate::facts::storage::Choice;
use crate::role::words::{ArtifactUrl, Sha256Hex};
use crate::wire::secret::{sha256_hex, without_credentials};

/// Who may see the content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// Everybody; diffs show it.
    Public,
    /// Root only; diffs show a redacted form or nothing.
    Secret,
}

/// One file that must hold exactly these bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Absolute path below the root.
    pub path: String,
    /// The content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Who may see it.
    pub sensitivity: Sensitivity,
    /// What people are shown; `None` hides the content.
    pub shown: Option<String>,
    /// Why it must be so.
    pub reason: String,
}

impl std::fmt::Debug for PlannedFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "PlannedFile({} {:o}, {} bytes)", self.path, self.mode, self.bytes.len())
    }
}

impl PlannedFile {
    /// A file that everybody may read.
    pub fn public(path: impl Into<String>, text: impl Into<String>, reason: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            path: path.into(),
            bytes: text.clone().into_bytes(),
            mode: 0o644,
            sensitivity: Sensitivity::Public,
            shown: Some(text),
            reason: reason.into(),
        }
    }

    /// A file that only root may read and that no diff shows.
    pub fn secret(path: impl Into<String>, bytes: impl Into<Vec<u8>>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            bytes: bytes.into(),
            mode: 0o600,
            sensitivity: Sensitivity::Secret,
            shown: None,
            reason: reason.into(),
        }
    }

    /// SHA-256 of the content.
    #[must_use]
    pub fn sha256(&self) -> String {
        sha256_hex(&self.bytes)
    }
}

/// One symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedLink {
    /// Absolute path below the root.
    pub path: String,
    /// What it leads to.
    pub target: String,
    /// Why it must be so.
    pub reason: String,
}

/// One file of ours that must not be there any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRemoval {
    /// Absolute path below the root.
    pub path: String,
    /// Why it goes.
    pub reason: String,
}

/// Something of k3s that must be out of its way before k3s starts: it is moved
/// beside its place, nothing is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedQuarantine {
    /// Absolute path below the root.
    pub path: String,
    /// Unit that must be down while it is moved.
    pub needs_stopped: String,
    /// Why it goes.
    pub reason: String,
}

/// A file of k3s that is put back, because it is missing or empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRestore {
    /// Absolute path below the root.
    pub path: String,
    /// Where its content is.
    pub from: RestoreFrom,
    /// Unit that must be down while it is written; none when it reads the file
    /// at its start only.
    pub needs_stopped: Option<String>,
    /// Why it must be there.
    pub reason: String,
}

/// Where the content of a [`PlannedRestore`] is; its mode is 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RestoreFrom {
    /// A copy of ours at this path.
    Copy(String),
    /// This text, which is no secret.
    Text(String),
}

/// Files of k3s with nothing in them, which go before it starts: it makes anew
/// what is missing, and ends at what is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedEmpty {
    /// Absolute paths below the root.
    pub paths: Vec<String>,
    /// Unit that must be down while they are removed.
    pub needs_stopped: String,
    /// Why they go.
    pub reason: String,
}

/// A file by digest that must be in the store before the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedArtifact {
    /// What it is, for progress: `k3s v1.36.2+k3s1`.
    pub title: String,
    /// Where it belongs.
    pub path: String,
    /// Tried in order.
    #[serde(serialize_with = "without_secrets")]
    pub urls: Vec<ArtifactUrl>,
    /// SHA-256 that decides.
    pub sha256: Sha256Hex,
    /// What it must print as its version; its title shows it.
    #[serde(skip)]
    pub version: String,
    /// Architecture that it must be built for (`amd64`, `arm64`).
    #[serde(skip)]
    pub arch: String,
}

/// A signed URL has its signature in its query: who sees a plan must not see that.
fn without_secrets<S: Serializer>(urls: &[ArtifactUrl], to: S) -> Result<S::Ok, S::Error> {
    let shown: Vec<String> = urls.iter().map(|url| without_credentials(url.as_str())).collect();
    shown.serialize(to)
}

/// The snapshotter that was decided, and what must be done to its pool before
/// containerd starts, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStorage {
    /// What is recorded in the inventory.
    pub choice: Choice,
    /// Why it is so in this pass, with the values that decided.
    pub reason: String,
    /// What was looked at, one line each.
    pub inputs: Vec<String>,
    /// What is done to the pool; empty where it is up and well.
    pub acts: Vec<PoolAct>,
}

/// One piece of work on a thin pool, done by a transient unit. Each may be run
/// twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolAct {
    /// Make it, on space that the act proves to be empty once more.
    Create {
        /// Its device-mapper name.
        pool: String,
        /// Volume group with room for it, or the device that becomes one.
        space: PoolSpace,
    },
    /// Bring a pool that exists up.
    Activate {
        /// Its device-mapper name.
        pool: String,
    },
    /// Check its metadata, and repair them into new ones where they are damaged;
    /// the old ones are kept. It is down meanwhile.
    Repair {
        /// Its device-mapper name.
        pool: String,
    },
    /// Give it more of its volume group's free room.
    Extend {
        /// Its device-mapper name.
        pool: String,
    },
    /// Let go of the device that a power cut left without its snapshot.
    Release {
        /// Its device-mapper name.
        pool: String,
        /// That of the device.
        device: String,
    },
}

impl fmt::Display for PoolAct {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { pool, space: PoolSpace::Device(path) } => {
                write!(out, "create thin pool {pool} on device {path}")
            }
            Self::Create { pool, space: PoolSpace::VolumeGroup(group) } => {
                write!(out, "create thin pool {pool} in volume group {group}")
            }
            Self::Activate { pool } => write!(out, "activate thin pool {pool}"),
            Self::Repair { pool } => write!(out, "check and repair thin pool {pool}"),
            Self::Extend { pool } => write!(out, "extend thin pool {pool}"),
            Self::Release { pool, device } => {
                write!(
                    out,
                    "let go of {device} on thin pool {pool}: a power cut left it without its snapshot"
                )
            }
        }
    }
}

/// What a pool is made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolSpace {
    /// Free room of this volume group.
    VolumeGroup(String),
    /// This whole device.
    Device(String),
}

/// The thin pool that a host's settings name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolWish {
    /// Its device-mapper name.
    pub pool: String,
    /// What it lies on, where that is known.
    pub space: Option<PoolSpace>,
    /// Whether it may be made; then `space` is known.
    pub create: bool,
}

/// One archive of images that shall be in containerd's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedImage {
    /// Tried in order.
    #[serde(serialize_with = "without_secrets")]
    pub urls: Vec<ArtifactUrl>,
    /// SHA-256 that decides.
    pub sha256: Sha256Hex,
}

/// What a unit shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// Up now and at every boot.
    Running,
    /// Down now and at every boot.
    Stopped,
    /// Run once more, because a file that it reads at its start changed.
    Rerun,
}

/// One unit and what it shall do, in the order of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedUnit {
    /// Unit name.
    pub name: String,
    /// The wish.
    pub wanted: Wanted,
    /// Whether its boot link is ours to keep.
    pub manage_boot: bool,
    /// Why a running one must be restarted now; `None` leaves it running.
    pub restart: Option<String>,
    /// Why a restart that is due must wait for the room's Lease.
    pub restart_pending: Option<String>,
    /// Why it shall be so.
    pub reason: String,
}

/// The hostname that the host must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedHostname {
    /// Kernel and static name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What is written into a generation's directory beside its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedGeneration {
    /// Number of its directory.
    pub number: u64,
    /// Names everything that was rendered, whatever the number.
    pub digest: String,
    /// Whether the directory is there already.
    pub exists: bool,
    /// Effective values that k3s will see.
    pub effective: Effective,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_signature_in_a_url_is_kept_for_the_download_and_never_printed() {
        let signed = "https://s3.example.net/k3s?X-Amz-Signature=canary";
        let (urls, sha256) = (vec![signed.parse().unwrap()], "ab".repeat(32).parse().unwrap());
        let [title, path, version, arch] = ["k3s", "/k3s", "", ""].map(str::to_owned);
        let image = PlannedImage { urls, sha256 };
        let (urls, sha256) = (image.urls.clone(), image.sha256.clone());
        let artifact = PlannedArtifact { title, path, urls, sha256, version, arch };
        for printed in [serde_json::to_value(&image).unwrap(), serde_json::to_value(&artifact).unwrap()] {
            assert_eq!(printed["urls"], serde_json::json!(["https://s3.example.net/k3s?REDACTED"]));
        }
        assert_eq!(artifact.urls[0].as_str(), signed);
    }
}

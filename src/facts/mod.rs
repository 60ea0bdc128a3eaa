//! What a host is: plain data, no opinion.
//!
//! Owns the shapes that `facts --json` prints and that the plan takes. A fact
//! that could not be read is `unknown` with its reason, never a failure. No
//! I/O here: `observe` reads the host into these types.

pub mod archive;
pub mod bolt;
pub mod ca;
pub mod devices;
pub mod hardware;
pub mod identity;
pub mod k3s_config;
mod k3s_yaml;
pub mod leaf;
pub mod mirrors;
pub mod network;
pub mod overrides;
pub mod rename;
pub mod runtime;
pub mod storage;
pub mod store;
pub mod system;
pub mod thin;
pub mod unit_text;
pub mod upgrade;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::wire::secret::sha256_hex;

/// One observed value, or why there is none.
///
/// In JSON a known value stands by itself; an unknown one is
/// `{"unknown":"reason"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Fact<T> {
    /// Not observed.
    Unknown {
        /// Why, in plain words.
        unknown: String,
    },
    /// Observed.
    Known(T),
}

/// By way of JSON's own values: what is read for each type of fact is then one
/// copy of code and not one for each way to read.
impl<'de, T: DeserializeOwned> Deserialize<'de> for Fact<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        match value.get("unknown").and_then(serde_json::Value::as_str) {
            Some(unknown) => Ok(Self::unknown(unknown)),
            None => serde_json::from_value(value).map(Self::Known).map_err(D::Error::custom),
        }
    }
}

impl<T> Fact<T> {
    /// Not observed, because of `reason`.
    #[must_use]
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { unknown: reason.into() }
    }

    /// The value, when it is known.
    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    /// Why it is not known, when it is not.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown { unknown } => Some(unknown),
        }
    }

    /// Applies `change` to a known value.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(change(value)),
            Self::Unknown { unknown } => Fact::Unknown { unknown },
        }
    }
}

impl<T> Default for Fact<T> {
    fn default() -> Self {
        Self::unknown("not observed")
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Fact<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => Self::unknown(error.to_string()),
        }
    }
}

/// Everything that was observed on one host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// 1.
    pub schema: u32,
    /// Names and hardware identity.
    pub identity: identity::Identity,
    /// Processors, memory, disks, file systems.
    pub hardware: hardware::Hardware,
    /// Interfaces, addresses, routes, resolvers.
    pub network: network::Network,
    /// Kernel, distribution, cgroups, time.
    pub system: system::System,
    /// containerd, k3s and our own files as they are now.
    pub runtime: runtime::Runtime,
    /// containerd's store and what it could stand on.
    #[serde(default)]
    pub storage: storage::Storage,
}

impl HostFacts {
    /// Names this set of facts without what changes by itself all the time.
    ///
    /// SHA-256 over the JSON of identity, hardware without free space, network
    /// and system without time; used as `facts_digest` of reports.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut steady = self.clone();
        steady.identity.boot_id = Fact::default();
        steady.hardware.forget_usage();
        steady.system.time = system::Time::default();
        steady.runtime = runtime::Runtime::default();
        steady.storage = storage::Storage::default();
        sha256_hex(serde_json::to_value(&steady).unwrap_or_default().to_string().as_bytes())
    }
}

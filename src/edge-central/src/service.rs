//! What all requests share.
//!
//! Owns the options of a running service and the rules that follow from them.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Seconds;
use crate::contact::CONTACT;
use crate::policy::Rules;
use crate::sign::Signer;
use crate::store::Store;
use crate::watch::Changes;

/// Directory of artifacts inside the data directory.
pub const ARTIFACTS: &str = "artifacts";
/// File of the signing key inside the data directory.
pub const SIGNING_KEY: &str = "signing.key";

/// How long the other side may take, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// The TLS handshake.
    pub handshake: Duration,
    /// The head of a request; also how long a connection may be idle.
    pub head: Duration,
    /// The body of a request.
    pub body: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { handshake: seconds(15), head: seconds(30), body: seconds(20) }
    }
}

/// How the service shall behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub data: PathBuf,
    /// URL under which hosts reach the service, without a slash at the end;
    /// empty means: the first name of the certificate and the port.
    pub public_url: String,
    /// How long a host must be up before the role policy counts it, in seconds.
    pub steady: Seconds,
    /// Seconds between two reports of a host.
    pub report_every: u64,
    /// How long the other side may take.
    pub deadlines: Deadlines,
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub store: Store,
    /// The key that signs assignments.
    pub signer: Signer,
    /// How to behave.
    pub options: Options,
    /// Who waits for what.
    pub changes: Changes,
}

impl Service {
    /// The rules of the role policy at `now`.
    #[must_use]
    pub fn rules(&self, now: Seconds) -> Rules {
        Rules { now, steady: self.options.steady, contact: CONTACT }
    }

    /// Where the artifact with this digest lies.
    #[must_use]
    pub fn artifact_path(&self, sha256: &str) -> PathBuf {
        self.options.data.join(ARTIFACTS).join(sha256)
    }
}

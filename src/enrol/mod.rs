//! Who am I: asks the central service, or a local file, what this host shall be.
//! Second step of the boot line.
//!
//! Owns the node key, the claim, the signed assignment on disk and the rules of
//! trust, and when to ask again. Never decides what an assignment means for the
//! host, never stops or changes a running node because the service says no:
//! whatever goes wrong, the assignment in force stays in force. Every call may
//! be repeated, and a kill at any moment costs nothing.
//!
//! | code | says |
//! |---|---|
//! | `EB-not-configured` | nobody is named who could say what this host shall be, or a setting is missing |
//! | `EB-claim-pending` | a person must approve this host |
//! | `EB-assignment-pending` | claimed, and not decided yet |
//! | `EB-token-invalid`, `EB-site-unknown`, `EB-address-taken`, `EB-moved-disk`, `EB-claim-denied` | why the claim was refused |
//! | `EB-node-refused`, `EB-node-unknown`, `EB-node-revoked` | 401 or 403, 404, 410 for a host that has claimed |
//! | `EB-central-unreachable` | no whole answer |
//! | `EB-central-unavailable` | 429 or 5xx |
//! | `EB-central-untrusted` | somebody else answers |
//! | `EB-captive-portal` | a web page or a redirect answers |
//! | `EB-central-answer` | an answer outside the contract |
//! | `EB-central-settings` | authority, proxy or token file cannot be used |
//! | `EB-assignment-signature`, `EB-assignment-invalid`, `EB-assignment-foreign` | an assignment that is not taken over |
//! | `EB-generation-lower`, `EB-generation-conflict` | one that is older, or contradicts the one in force |
//! | `EB-node-key` | the node's key or certificate cannot be used |
//! | `EB-secret-exposed` | others can read a file with secrets |
//! | `EB-state-file` | a file of ours cannot be read or written |
//! | `EB-reset` | a person takes this host out of its cluster, or has done so |

pub mod cache;
pub mod client;
pub mod credential;
mod error;
pub mod local;
pub mod peers;
mod reach;
pub mod retry;
mod settings;
pub mod trust;

use std::time::Duration;

pub use client::Client;
pub use error::{EnrolError, Waiting, Words};
pub use settings::{CentralSettings, Source};

use cache::{Cached, Owner};
use client::Reply;
use credential::Credential;
use retry::Backoff;

use crate::reset;
use crate::role::Assignment;
use crate::role::words::NodeId;
use crate::sys::Root;
use crate::sys::http::HttpError;
use crate::wire::PROTOCOL;
use crate::wire::claim::{ClaimAnswer, ClaimRequest, ProposedNode};
use crate::wire::envelope::SigningKey;

/// Bounds of the service's `retry_after` while a person has to approve.
const APPROVAL_WAIT: (u64, u64) = (1, 3600);

/// What this host says about itself in a claim.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    /// `node.site` of the settings; empty when it is not set.
    pub site: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Name and address that the settings propose.
    pub node: Option<ProposedNode>,
    /// The facts as `facts --json` prints them.
    pub facts: serde_json::Value,
}

/// Where an assignment came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The service gave or confirmed it in this call.
    Fresh,
    /// From disk; the service was not asked or gave nothing better.
    Cached,
    /// From the local file.
    Local,
}

/// An assignment to act on.
#[derive(Debug)]
pub struct Enrolled {
    /// What this host shall be.
    pub assignment: Assignment,
    /// Where it came from.
    pub freshness: Freshness,
    /// Whether it differs from what was in force before this call.
    pub is_new: bool,
    /// Why the service gave nothing better: a finding, never a reason to stop.
    pub trouble: Option<EnrolError>,
    /// What was wrong with the file on disk.
    pub damage: Option<String>,
    /// The statement of the site, as peers may be told it.
    pub told: Option<peers::Told>,
    /// The service's clock, seconds since 1970, when its answer told it over TLS.
    pub time: Option<u64>,
}

/// What enrolment ended with.
#[derive(Debug)]
pub enum Outcome {
    /// There is an assignment.
    Enrolled(Box<Enrolled>),
    /// There is none yet, and that is no fault.
    Waiting(Waiting),
}

/// This host in front of who says what it shall be.
#[derive(Debug)]
pub struct Enrolment {
    root: Root,
    source: Source,
    introduction: Introduction,
    backoff: Backoff,
    replace_trust: bool,
    /// With the trust that it was made for.
    client: Option<(trust::Trust, Client)>,
}

impl Enrolment {
    /// Asks nobody yet. `seed` makes the delays of this host its own.
    #[must_use]
    pub fn new(root: &Root, source: Source, introduction: Introduction, seed: u64) -> Self {
        let backoff = Backoff::new(seed);
        Self { root: root.clone(), source, introduction, backoff, replace_trust: false, client: None }
    }

    /// Takes what the host says about itself from newer facts.
    pub fn introduce(&mut self, introduction: Introduction) {
        self.introduction = introduction;
    }

    /// The next claim replaces whom this host believes: `enrol --replace-trust`.
    /// Until it is answered everything stays as it is.
    pub fn replace_trust(&mut self) {
        self.replace_trust = true;
    }

    /// The delay before the next try, after `error`.
    #[must_use]
    pub fn delay(&mut self, error: &EnrolError) -> Duration {
        self.backoff.next(error.retry_after())
    }

    /// What this host shall be. With `patience` zero nobody is asked; else the
    /// service is asked once, and again while nothing is in force and there is
    /// patience left.
    ///
    /// # Errors
    /// Only when nothing is in force.
    pub async fn assignment(&mut self, patience: Duration) -> Result<Outcome, EnrolError> {
        let central = match &self.source {
            Source::None => return Ok(Outcome::Waiting(Waiting::NotConfigured)),
            Source::File(path) => return local_outcome(&self.root, path),
            Source::Central(central) => central.clone(),
        };
        let credential = credential::ensure(&self.root)?;
        let mut cached = cache::load(&self.root, &credential.node_id)?;
        let asked = if patience.is_zero() {
            None
        } else {
            Some(self.ask_patiently(&central, &credential, &mut cached, patience).await)
        };
        outcome(asked, cached)
    }

    /// Waits up to `wait` for an assignment newer than the one in force; `None`
    /// when there is none. May be dropped at any moment. Begins nothing while a
    /// reset stands: what that has dropped would come back.
    ///
    /// # Errors
    /// Why the service gave nothing; what is in force stays in force.
    pub async fn poll(&mut self, wait: Duration) -> Result<Option<Enrolled>, EnrolError> {
        let central = self.central()?;
        let credential = credential::ensure(&self.root)?;
        let mut cached = cache::load(&self.root, &credential.node_id)?;
        let (assignment, is_new, time) = self.ask(&central, &credential, &mut cached, wait).await?;
        self.backoff.succeeded();
        let Cached { damage, told, .. } = cached;
        let enrolled =
            Enrolled { assignment, freshness: Freshness::Fresh, is_new, trouble: None, damage, told, time };
        Ok(is_new.then_some(enrolled))
    }

    /// The typed calls themselves, for reports.
    ///
    /// # Errors
    /// When there is no service in the settings, or the client cannot be prepared.
    pub fn client(&mut self) -> Result<Client, EnrolError> {
        let central = self.central()?;
        let credential = credential::ensure(&self.root)?;
        let cached = cache::load(&self.root, &credential.node_id)?;
        self.connect(&central, &credential, &cached.stored.trust)
    }

    /// Whom the daemon talks to, unless a person has taken this host out of its cluster.
    fn central(&self) -> Result<Box<CentralSettings>, EnrolError> {
        match &self.source {
            _ if reset::current(&self.root).is_some() => Err(EnrolError::Reset),
            Source::Central(central) => Ok(central.clone()),
            _ => Err(EnrolError::Setting("central.endpoints is not set, nobody can be asked")),
        }
    }

    async fn ask_patiently(
        &mut self,
        central: &CentralSettings,
        credential: &Credential,
        cached: &mut Cached,
        patience: Duration,
    ) -> Result<Asked, EnrolError> {
        let once = cached.assignment.is_some();
        let mut backoff = self.backoff.clone();
        let span = if once { Duration::ZERO } else { patience };
        let end = tokio::time::Instant::now() + patience;
        let asked = retry::within(span, &mut backoff, async || {
            let attempt = self.ask(central, credential, cached, Duration::ZERO);
            match tokio::time::timeout_at(end, attempt).await {
                Ok(asked) => asked,
                Err(_) => Err(too_late(central, patience)),
            }
        })
        .await;
        self.backoff = backoff;
        asked
    }

    /// One exchange: claim where that is needed, then the question itself.
    async fn ask(
        &mut self,
        central: &CentralSettings,
        credential: &Credential,
        cached: &mut Cached,
        wait: Duration,
    ) -> Result<Asked, EnrolError> {
        let mut time = None;
        if self.replace_trust || !cached.stored.trust.is_claimed() {
            time = self.claim(central, credential, cached).await?;
        }
        let client = self.connect(central, credential, &cached.stored.trust)?;
        let generation = cached.assignment.as_ref().map_or(0, |now| now.generation);
        let mut reply = client.assignment(generation, wait).await;
        if matches!(reply, Err(EnrolError::Unknown)) {
            time = self.claim(central, credential, cached).await?;
            reply = client.assignment(generation, Duration::ZERO).await;
        }
        let reply = reply?;
        self.met(central, &client, cached);
        let (assignment, is_new) = match (reply, &cached.assignment) {
            (Reply::Granted(granted), _) => {
                let owner = Owner { node_id: &credential.node_id, site: &self.introduction.site };
                cache::accept(&self.root, cached, &granted, &owner)?
            }
            (Reply::NotNewer, Some(now)) => (now.clone(), false),
            (Reply::Undecided, _) => return Err(EnrolError::Waiting(Waiting::Undecided)),
            (Reply::NotNewer, None) => return Err(nothing_to_confirm(central)),
        };
        Ok((assignment, is_new, time))
    }

    /// Claims and stores the signing key; the answer's time comes back.
    async fn claim(
        &mut self,
        central: &CentralSettings,
        credential: &Credential,
        cached: &mut Cached,
    ) -> Result<Option<u64>, EnrolError> {
        let request = self.claim_request(central)?;
        // A new service is proven by the settings alone.
        let mut stored = if self.replace_trust { cache::Stored::default() } else { cached.stored.clone() };
        let client = self.connect(central, credential, &stored.trust)?;
        let (key, time) = claimed(client.claim(&request).await?, &credential.node_id)?;
        stored.trust.claim(key);
        cache::store(&self.root, &stored)?;
        if self.replace_trust {
            cached.assignment = None;
            self.replace_trust = false;
        }
        cached.stored = stored;
        self.met(central, &client, cached);
        Ok(client.told(&time))
    }

    fn claim_request(&self, central: &CentralSettings) -> Result<ClaimRequest, EnrolError> {
        let Introduction { site, boot_id, node, facts } = &self.introduction;
        if site.is_empty() {
            return Err(EnrolError::Setting(
                "node.site is not set, and central has to know the site of this host",
            ));
        }
        let Some(node) = node.clone() else {
            return Err(EnrolError::Setting(
                "this host has no node IP to propose; set node.ip, or node.ip-networks that hold exactly one of its addresses",
            ));
        };
        Ok(ClaimRequest {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            site: site.clone(),
            enrol_token: reach::token(&self.root, central)?,
            boot_id: boot_id.clone(),
            node,
            facts: facts.clone(),
        })
    }

    /// The client for `trust`; made anew only when that changed.
    fn connect(
        &mut self,
        central: &CentralSettings,
        credential: &Credential,
        trust: &trust::Trust,
    ) -> Result<Client, EnrolError> {
        if let Some((made_for, client)) = &self.client
            && made_for == trust
        {
            return Ok(client.clone());
        }
        let http = reach::http_client(&self.root, central, credential, trust)?;
        let client = Client::new(http, credential.node_id.clone(), trust.endpoints(&central.endpoints));
        self.client = Some((trust.clone(), client.clone()));
        Ok(client)
    }

    /// After an answer that shows that the service knows this host: who it was,
    /// from where, and that the enrolment token has served. None of it is a
    /// reason to throw the answer away.
    fn met(&self, central: &CentralSettings, client: &Client, cached: &mut Cached) {
        let met = client.met();
        reach::remember(&self.root, central, &met);
        if let Some(peer) = met.peer {
            let mut stored = cached.stored.clone();
            stored.trust.meet(peer, &central.pins);
            if stored != cached.stored && cache::store(&self.root, &stored).is_ok() {
                cached.stored = stored;
            }
        }
        if let Err(error) = reach::forget_token(&self.root, central) {
            let error = crate::error::Chain(&error);
            cached.damage = Some(format!("the enrolment token has served and is still there: {error}"));
        }
    }
}

/// Assignment, whether it is new, the service's clock.
type Asked = (Assignment, bool, Option<u64>);

fn outcome(asked: Option<Result<Asked, EnrolError>>, cached: Cached) -> Result<Outcome, EnrolError> {
    let Cached { assignment: now, damage, told, .. } = cached;
    let enrolled = |assignment, freshness, is_new, trouble, time| {
        let enrolled = Enrolled { assignment, freshness, is_new, trouble, damage, told, time };
        Ok(Outcome::Enrolled(Box::new(enrolled)))
    };
    match (asked, now) {
        (Some(Ok((assignment, is_new, time))), _) => {
            enrolled(assignment, Freshness::Fresh, is_new, None, time)
        }
        (Some(Err(error)), Some(now)) => enrolled(now, Freshness::Cached, false, Some(error), None),
        (None, Some(now)) => enrolled(now, Freshness::Cached, false, None, None),
        (Some(Err(EnrolError::Waiting(waiting))), None) => Ok(Outcome::Waiting(waiting)),
        (Some(Err(error)), None) => Err(error),
        (None, None) => Ok(Outcome::Waiting(Waiting::NotAsked)),
    }
}

fn local_outcome(root: &Root, path: &str) -> Result<Outcome, EnrolError> {
    let assignment = local::assignment(root, path)?;
    let freshness = Freshness::Local;
    let (is_new, trouble, damage, told, time) = (false, None, None, None, None);
    let enrolled = Enrolled { assignment, freshness, is_new, trouble, damage, told, time };
    Ok(Outcome::Enrolled(Box::new(enrolled)))
}

fn nothing_to_confirm(central: &CentralSettings) -> EnrolError {
    EnrolError::Answer {
        endpoint: central.endpoints.first().cloned().unwrap_or_default(),
        problem: "status 304 although this host has no assignment".to_owned(),
    }
}

fn too_late(central: &CentralSettings, patience: Duration) -> EnrolError {
    EnrolError::Unreachable {
        endpoint: central.endpoints.first().cloned().unwrap_or_default(),
        source: HttpError::Deadline(patience.as_secs()),
    }
}

/// The signing key and the service's clock.
fn claimed(answer: ClaimAnswer, ours: &NodeId) -> Result<(SigningKey, String), EnrolError> {
    match answer {
        ClaimAnswer::Pending { code, of, retry_after, .. } => {
            Err(EnrolError::Waiting(approval(&code, of.as_deref(), retry_after)))
        }
        ClaimAnswer::Claimed { node_id, .. } if node_id != ours.as_str() => {
            let theirs = Words::new(&node_id).to_string();
            Err(EnrolError::Foreign { field: "node_id", theirs, ours: ours.to_string() })
        }
        ClaimAnswer::Claimed { signing_key, time, .. } => {
            Ok((SigningKey::try_from(signing_key).map_err(EnrolError::Signature)?, time))
        }
    }
}

/// The code goes to a console: nothing but letters and digits.
fn approval(code: &str, of: Option<&str>, retry_after: u64) -> Waiting {
    Waiting::Approval {
        code: code.chars().filter(char::is_ascii_alphanumeric).take(16).collect(),
        of: of.map(Words::new),
        retry_after: Duration::from_secs(retry_after.clamp(APPROVAL_WAIT.0, APPROVAL_WAIT.1)),
    }
}

fn unix(time: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339_weak(time).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

//! The newest valid assignment and whom this host believes, on disk.
//!
//! Owns `assignment.json`: the signed envelope as it came, and the trust that
//! goes with it, in one file, so that a power cut never separates them. The
//! signature is checked on arrival and at every load; a lower generation, or
//! the same with other content, never replaces what is in force.

use serde::{Deserialize, Serialize};

use super::EnrolError;
use super::peers::Told;
use super::trust::Trust;
use crate::paths::{ASSIGNMENT, QUARANTINE, STATE_DIR};
use crate::role::words::NodeId;
use crate::role::{Assignment, parse_payload};
use crate::sys::Root;
use crate::sys::statefile::{self, StateError};
use crate::wire::envelope::Envelope;
use crate::wire::statement::{Granted, Statement};

/// Content of `assignment.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Whom this host believes.
    #[serde(default)]
    pub trust: Trust,
    /// The newest valid assignment, signed.
    #[serde(default)]
    pub envelope: Option<Envelope>,
    /// The newest statement of its site, from the service or from a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Envelope>,
}

/// Whom an assignment must be for.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// This host.
    pub node_id: &'a NodeId,
    /// Its machine room, as the settings say.
    pub site: &'a str,
}

/// What a load gave.
#[derive(Debug, Default)]
pub struct Cached {
    /// The file's content.
    pub stored: Stored,
    /// The assignment in force.
    pub assignment: Option<Assignment>,
    /// The statement of its site, checked.
    pub told: Option<Told>,
    /// What is wrong with the file, when something is.
    pub damage: Option<String>,
}

/// Loads and checks what is stored; damage is told, never an end: whatever is
/// lost here comes back with the next claim.
///
/// # Errors
/// When the file cannot be read at all, or a damaged one cannot be moved away.
pub fn load(root: &Root, node_id: &NodeId) -> Result<Cached, EnrolError> {
    let loaded = match statefile::load::<Stored>(root, ASSIGNMENT) {
        Ok(loaded) => loaded,
        Err(StateError::Damaged { damage, .. }) => {
            statefile::set_aside(root, ASSIGNMENT, QUARANTINE)?;
            let damage = Some(format!("{ASSIGNMENT} was damaged ({damage}) and is in {QUARANTINE}"));
            return Ok(Cached { damage, ..Cached::default() });
        }
        Err(error) => return Err(error.into()),
    };
    let damage =
        loaded.damage().map(|damage| format!("{ASSIGNMENT} is damaged ({damage}); its earlier copy counts"));
    let stored = loaded.value().unwrap_or_default();
    match stored.envelope.as_ref().map(|envelope| open(&stored.trust, envelope, node_id)).transpose() {
        Ok(assignment) => Ok(checked(Cached { stored, assignment, damage, told: None })),
        Err(error) => {
            let damage = Some(format!("{ASSIGNMENT} is not usable: {}", crate::error::Chain(&error)));
            Ok(Cached { stored, damage, ..Cached::default() })
        }
    }
}

/// The assignment in force, for who only looks: moves nothing away that is damaged.
#[must_use]
pub fn in_force(root: &Root, node_id: &str) -> Option<Assignment> {
    statefile::load::<Stored>(root, ASSIGNMENT).ok()?;
    load(root, &node_id.parse().ok()?).ok()?.assignment
}

/// With the stored statement, when it still counts.
fn checked(cached: Cached) -> Cached {
    let told = cached.stored.statement.as_ref().and_then(|envelope| statement(&cached, envelope));
    Cached { told, ..cached }
}

/// What `envelope` proves about the site of the assignment in force. A
/// statement that does not count is none: it is a help, and never a fault.
#[must_use]
pub fn statement(cached: &Cached, envelope: &Envelope) -> Option<Told> {
    let site = cached.assignment.as_ref()?.site.as_str();
    let statement = Statement::open(envelope, &cached.stored.trust.signing_keys, site).ok()?;
    let bytes = serde_json::to_vec(envelope).ok()?;
    Some(Told { site: statement.site, epoch: statement.epoch, bytes })
}

/// Keeps the statement in `envelope` when it counts and is of a higher epoch
/// than the one that is kept.
///
/// # Errors
/// When it cannot be stored.
pub fn learn(root: &Root, cached: &mut Cached, envelope: &Envelope) -> Result<(), EnrolError> {
    let before = cached.stored.statement.clone();
    *cached = with_newer(std::mem::take(cached), envelope);
    if cached.stored.statement == before {
        return Ok(());
    }
    store(root, &cached.stored)
}

/// Takes over `granted` when its assignment is signed, for this host, and not older than
/// what is in force. Whether anything changed is told by the second value.
///
/// # Errors
/// Why it is not taken over; what is stored is then untouched.
pub fn accept(
    root: &Root,
    cached: &mut Cached,
    granted: &Granted,
    owner: &Owner<'_>,
) -> Result<(Assignment, bool), EnrolError> {
    let envelope = &granted.envelope;
    let assignment = open(&cached.stored.trust, envelope, owner.node_id)?;
    check_site(&assignment, cached.assignment.as_ref(), owner.site)?;
    if let Some(now) = &cached.assignment {
        compare(now, &assignment)?;
        if cached.stored.envelope.as_ref() == Some(envelope) {
            granted.statement.iter().try_for_each(|statement| learn(root, cached, statement))?;
            return Ok((assignment, false));
        }
    }
    let is_new = cached.assignment.as_ref().is_none_or(|now| now.digest != assignment.digest);
    let mut stored = cached.stored.clone();
    stored.trust.take_over(&assignment.trust, &envelope.key_id);
    stored.envelope = Some(envelope.clone());
    let mut next = checked(Cached { stored, assignment: Some(assignment.clone()), ..Cached::default() });
    next.damage = cached.damage.take();
    if let Some(statement) = &granted.statement {
        next = with_newer(next, statement);
    }
    store(root, &next.stored)?;
    *cached = next;
    Ok((assignment, is_new))
}

/// With `envelope` as the statement when it counts and the one that is there is
/// of a lower epoch, or counts no more.
fn with_newer(mut cached: Cached, envelope: &Envelope) -> Cached {
    let Some(told) = statement(&cached, envelope) else { return cached };
    if cached.told.as_ref().is_none_or(|known| known.epoch < told.epoch) {
        cached.stored.statement = Some(envelope.clone());
        cached.told = Some(told);
    }
    cached
}

/// Stores `stored` durably; equal content is left alone.
///
/// # Errors
/// When it cannot be written; the old content is then still there.
pub fn store(root: &Root, stored: &Stored) -> Result<(), EnrolError> {
    root.make_dir(STATE_DIR, 0o700)?;
    statefile::store(root, ASSIGNMENT, stored)?;
    Ok(())
}

fn open(trust: &Trust, envelope: &Envelope, node_id: &NodeId) -> Result<Assignment, EnrolError> {
    let payload = envelope.open(&trust.signing_keys).map_err(EnrolError::Signature)?;
    let assignment = parse_payload(&payload).map_err(EnrolError::Invalid)?;
    if assignment.node_id.as_ref() != Some(node_id) {
        let theirs = assignment.node_id.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
        return Err(EnrolError::Foreign { field: "node_id", theirs, ours: node_id.to_string() });
    }
    Ok(assignment)
}

/// The site is the settings' or that of the assignment in force; another one
/// only when the assignment says that the identity may change: a host that
/// moved to another room.
fn check_site(new: &Assignment, now: Option<&Assignment>, ours: &str) -> Result<(), EnrolError> {
    let moves = new.duty.as_ref().is_some_and(|duty| duty.cluster.rejoin);
    let stays = now.is_some_and(|now| now.site == new.site);
    if moves || stays || new.site.as_str() == ours {
        return Ok(());
    }
    Err(EnrolError::Foreign { field: "site", theirs: new.site.to_string(), ours: ours.to_owned() })
}

fn compare(now: &Assignment, new: &Assignment) -> Result<(), EnrolError> {
    if new.generation < now.generation {
        return Err(EnrolError::GenerationLower { ours: now.generation, theirs: new.generation });
    }
    if new.generation == now.generation && new.digest != now.digest {
        return Err(EnrolError::GenerationConflict(now.generation));
    }
    Ok(())
}

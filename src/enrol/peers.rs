//! Hosts of one room tell each other the site's newest statement.
//!
//! Owns the question of a host that would start a cluster's only server: has
//! the datastore begun anew meanwhile? Peers need no trust, because only what
//! the central service signed counts, and silence says nothing. Answering is
//! the daemon's.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::cache::{self, Cached};
use super::{EnrolError, credential};
use crate::ordered::Ordered as _;
use crate::sys::Root;
use crate::sys::datagram::Datagrams;
use crate::wire::envelope::Envelope;
use crate::wire::json;
use crate::wire::statement::{PORT, QUESTION_SIZE, Question};

/// From one question to its repetition, for those who have not answered.
const AGAIN: Duration = Duration::from_millis(400);

/// The site's statement as this host may show it to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The site.
    pub site: String,
    /// Number of the datastore's life in it.
    pub epoch: u64,
    /// The signed envelope as JSON: what a peer is answered.
    pub bytes: Vec<u8>,
}

/// Whom to ask, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The node IP, on an interface of this host.
    pub from: IpAddr,
    /// The other hosts of the room.
    pub peers: &'a [IpAddr],
    /// For all of it.
    pub patience: Duration,
}

/// Why the room cannot be asked.
#[derive(Debug, Error)]
pub enum PeersError {
    /// What is known of the site cannot be read or kept.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// No datagram leaves from the node IP.
    #[error("ask the room from {0}")]
    Socket(IpAddr, #[source] io::Error),
}

/// The highest epoch of the site that a peer can prove; `None` when nobody
/// answered. What is higher than this host's own statement is kept, so that
/// this host can show it too.
///
/// # Errors
/// When this host cannot ask, or has claimed nowhere.
pub async fn highest(root: &Root, asked: Asked<'_>) -> Result<Option<u64>, PeersError> {
    let Some(node_id) = credential::node_id(root)? else { return Ok(None) };
    let mut cached = cache::load(root, &node_id)?;
    let Some(site) = cached.assignment.as_ref().map(|assignment| assignment.site.to_string()) else {
        return Ok(None);
    };
    let socket = Datagrams::bind(asked.from, 0).await;
    let socket = socket.map_err(|source| PeersError::Socket(asked.from, source))?;
    let answers = collect(&socket, &site, asked, &cached).await;
    let highest = answers.into_iter().max_by_key(|(epoch, _)| *epoch);
    let Some((epoch, envelope)) = highest else { return Ok(None) };
    cache::learn(root, &mut cached, &envelope)?;
    Ok(Some(epoch))
}

/// Every proven answer, until all have answered or the time is over.
async fn collect(socket: &Datagrams, site: &str, asked: Asked<'_>, cached: &Cached) -> Vec<(u64, Envelope)> {
    let question = Question::bytes(site);
    let mut silent: BTreeSet<IpAddr> = asked.peers.iter().copied().into_set();
    let mut answers = Vec::new();
    let end = Instant::now() + asked.patience;
    while !silent.is_empty() && Instant::now() < end {
        for peer in &silent {
            // A peer that cannot be reached is a silent one.
            let _ = socket.send(&question, SocketAddr::new(*peer, PORT)).await;
        }
        let round = end.min(Instant::now() + AGAIN);
        while let Some((from, envelope)) = next(socket, round).await {
            let Some(told) = cache::statement(cached, &envelope) else { continue };
            if silent.remove(&from) {
                answers.push((told.epoch, envelope));
            }
            if silent.is_empty() {
                return answers;
            }
        }
        // A socket that fails at once must not be asked without a pause.
        sleep_until(round).await;
    }
    answers
}

/// The next envelope that comes before `end`; what is none is passed over.
async fn next(socket: &Datagrams, end: Instant) -> Option<(IpAddr, Envelope)> {
    let mut buffer = [0; QUESTION_SIZE];
    loop {
        let (size, from) = timeout_at(end, socket.receive(&mut buffer)).await.ok()?.ok()?;
        if let Ok(envelope) = json::read(&buffer[..size]) {
            return Some((from.ip(), envelope));
        }
    }
}

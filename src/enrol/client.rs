//! The calls of the wire contract, typed (DESIGN 7).
//!
//! Owns which endpoint is asked, what each status means, and that a web page is
//! never taken for an answer. Every call may be repeated; this file never does
//! so by itself, except at the next endpoint. Stores nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{EnrolError, error::Words};
use crate::role::words::NodeId;
use crate::sys::http::{self, Answer, HttpError, KeyDigest, Request};
use crate::wire::claim::{ClaimAnswer, ClaimRequest};
use crate::wire::json;
use crate::wire::report::{Report, ReportAnswer};
use crate::wire::statement::Granted;
use crate::wire::{ErrorBody, ErrorDetail, MAX_ASSIGNMENT, MAX_REQUEST};

/// For one exchange that does not wait on purpose.
const DEADLINE: Duration = Duration::from_secs(15);
/// What a long poll may take beyond its own wait.
const POLL_MARGIN: Duration = Duration::from_secs(10);
/// Largest answer that is no assignment, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Answer to "what shall I be".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 200: this.
    Granted(Granted),
    /// 304: nothing newer than what you have.
    NotNewer,
    /// 204: claimed, not decided yet.
    Undecided,
}

/// Who answered last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Met {
    /// Its public key; `None` over plain http.
    pub peer: Option<KeyDigest>,
    /// Name or address in the endpoint, and the address that answered.
    pub address: Option<(String, IpAddr)>,
}

/// Speaks with the central service. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: http::Client,
    node_id: NodeId,
    endpoints: Arc<[String]>,
    /// Index of the endpoint that answered last: asked first the next time.
    first: Arc<AtomicUsize>,
    met: Arc<watch::Sender<Met>>,
}

/// One call, whichever endpoint answers it.
struct Call<'a> {
    path: &'a str,
    json: Option<&'a [u8]>,
    deadline: Duration,
    limit: usize,
}

impl Client {
    pub(super) fn new(http: http::Client, node_id: NodeId, endpoints: Vec<String>) -> Self {
        let met = Arc::new(watch::Sender::new(Met::default()));
        Self { http, node_id, endpoints: endpoints.into(), first: Arc::default(), met }
    }

    /// Who answered last.
    #[must_use]
    pub fn met(&self) -> Met {
        self.met.borrow().clone()
    }

    /// A time in an answer as seconds since 1970, when who answered has proven
    /// itself; over plain http nobody has.
    #[must_use]
    pub fn told(&self, time: &str) -> Option<u64> {
        self.met.borrow().peer.and_then(|_| super::unix(time))
    }

    /// Asks for this host's place.
    ///
    /// # Errors
    /// [`EnrolError::ClaimRefused`] for 401, 403 and 409; why no endpoint answered.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, EnrolError> {
        let body = claim_body(request)?;
        let call = Call { path: "/v1/claims", json: Some(&body), deadline: DEADLINE, limit: MAX_ANSWER };
        self.call(&call, |endpoint, answer| match answer.status {
            200 | 202 => parse(endpoint, answer),
            401 | 403 | 409 => {
                let (reason, message) = words(answer);
                Err(EnrolError::ClaimRefused { reason, message })
            }
            410 => Err(EnrolError::Revoked),
            _ => Err(unknown_status(endpoint, answer)),
        })
        .await
    }

    /// Asks for an assignment newer than `generation`; the service may hold the
    /// answer back for up to `wait`.
    ///
    /// # Errors
    /// Why there is no answer, or that the service refuses this host.
    pub async fn assignment(&self, generation: u64, wait: Duration) -> Result<Reply, EnrolError> {
        let path =
            format!("/v1/nodes/{}/assignment?generation={generation}&wait={}", self.node_id, wait.as_secs());
        let deadline = DEADLINE.max(wait + POLL_MARGIN);
        let call = Call { path: &path, json: None, deadline, limit: MAX_ASSIGNMENT };
        self.call(&call, |endpoint, answer| match answer.status {
            200 => parse(endpoint, answer).map(Reply::Granted),
            204 => Ok(Reply::Undecided),
            304 => Ok(Reply::NotNewer),
            _ => Err(node_refusal(endpoint, answer)),
        })
        .await
    }

    /// Tells how this host is.
    ///
    /// # Errors
    /// Why there is no answer, or that the service refuses this host.
    pub async fn report(&self, report: &Report) -> Result<ReportAnswer, EnrolError> {
        let path = format!("/v1/nodes/{}/reports", self.node_id);
        let body = encode(report)?;
        let call = Call { path: &path, json: Some(&body), deadline: DEADLINE, limit: MAX_ANSWER };
        self.call(&call, |endpoint, answer| match answer.status {
            200 => parse(endpoint, answer),
            _ => Err(node_refusal(endpoint, answer)),
        })
        .await
    }

    async fn call<T>(
        &self,
        call: &Call<'_>,
        judge: impl Fn(&str, &Answer) -> Result<T, EnrolError>,
    ) -> Result<T, EnrolError> {
        let (count, first) = (self.endpoints.len(), self.first.load(Ordering::Relaxed));
        let mut failure = None;
        for index in (0..count).map(|step| (first + step) % count) {
            let endpoint = &self.endpoints[index];
            match self.exchange(endpoint, call).await.and_then(|answer| {
                let judged = judge(endpoint, &answer);
                self.note(endpoint, &answer);
                judged
            }) {
                Err(error) if is_local(&error) => failure = Some(more_telling(failure, error)),
                result => {
                    self.first.store(index, Ordering::Relaxed);
                    return result;
                }
            }
        }
        Err(failure.unwrap_or(EnrolError::Setting("central.endpoints is empty")))
    }

    async fn exchange(&self, endpoint: &str, call: &Call<'_>) -> Result<Answer, EnrolError> {
        let url = format!("{endpoint}{}", call.path);
        let request = Request { url: &url, json: call.json, deadline: call.deadline, limit: call.limit };
        let endpoint = endpoint.to_owned();
        let answer = self.http.send(request).await.map_err(|source| failed(endpoint.clone(), source))?;
        match answer.status {
            429 | 500.. => Err(EnrolError::Unavailable {
                endpoint,
                status: answer.status,
                retry_after: answer.retry_after,
            }),
            304 => Ok(answer),
            status if (300..400).contains(&status) || is_page(&answer) => {
                Err(EnrolError::CaptivePortal { endpoint, status })
            }
            _ => Ok(answer),
        }
    }

    fn note(&self, endpoint: &str, answer: &Answer) {
        let host = host_of(endpoint).map(str::to_owned);
        self.met.send_replace(Met { peer: answer.peer, address: host.zip(answer.address) });
    }
}

/// Host part of `https://HOST:PORT`, when it is a name.
fn host_of(endpoint: &str) -> Option<&str> {
    let authority = endpoint.split("://").nth(1)?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let is_name = !host.starts_with('[') && host.parse::<IpAddr>().is_err();
    is_name.then_some(host)
}

/// Whether another endpoint may do better.
fn is_local(error: &EnrolError) -> bool {
    matches!(
        error,
        EnrolError::Unreachable { .. }
            | EnrolError::Untrusted { .. }
            | EnrolError::CaptivePortal { .. }
            | EnrolError::Unavailable { .. }
            | EnrolError::Answer { .. }
    )
}

/// Of two endpoints' failures the one that a person can do something about.
fn more_telling(before: Option<EnrolError>, now: EnrolError) -> EnrolError {
    match before {
        Some(before) if !matches!(before, EnrolError::Unreachable { .. }) => before,
        Some(before) if matches!(now, EnrolError::Unreachable { .. }) => before,
        _ => now,
    }
}

fn failed(endpoint: String, source: HttpError) -> EnrolError {
    match source {
        HttpError::Untrusted(_) => EnrolError::Untrusted { endpoint, source },
        HttpError::TooLarge(limit) => {
            EnrolError::Answer { endpoint, problem: format!("it is larger than {limit} bytes") }
        }
        source => EnrolError::Unreachable { endpoint, source },
    }
}

/// Also behind a good certificate a web page is no answer: a proxy of the
/// service's own side may speak.
fn is_page(answer: &Answer) -> bool {
    let first = answer.body.iter().find(|byte| !byte.is_ascii_whitespace());
    answer.content_type.starts_with("text/html") || first == Some(&b'<')
}

fn node_refusal(endpoint: &str, answer: &Answer) -> EnrolError {
    match answer.status {
        401 | 403 => {
            let (reason, message) = words(answer);
            EnrolError::NodeRefused { reason, message }
        }
        404 => EnrolError::Unknown,
        410 => EnrolError::Revoked,
        _ => unknown_status(endpoint, answer),
    }
}

fn unknown_status(endpoint: &str, answer: &Answer) -> EnrolError {
    EnrolError::Answer { endpoint: endpoint.to_owned(), problem: format!("status {}", answer.status) }
}

fn words(answer: &Answer) -> (Words, Words) {
    let ErrorDetail { code, message } = json::read::<ErrorBody>(&answer.body).map_or_else(
        |_| ErrorDetail { code: format!("status_{}", answer.status), message: "no reason given".to_owned() },
        |body| body.error,
    );
    (Words::new(&code), Words::new(&message))
}

fn parse<T: DeserializeOwned>(endpoint: &str, answer: &Answer) -> Result<T, EnrolError> {
    json::read(&answer.body).map_err(|error| EnrolError::Answer {
        endpoint: endpoint.to_owned(),
        // The place only: the parser's words may quote what came.
        problem: format!("not the expected JSON at line {} column {}", error.line(), error.column()),
    })
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, EnrolError> {
    serde_json::to_vec(value).map_err(|error| EnrolError::Client(HttpError::Settings(error.to_string())))
}

/// Facts of a host with very many mounts may be too large for a request: parts
/// that say the least about who it is are left out.
fn claim_body(request: &ClaimRequest) -> Result<Vec<u8>, EnrolError> {
    let mut request = request.clone();
    let mut body = encode(&request)?;
    for part in ["runtime", "system", "hardware", "network", "identity"] {
        if body.len() < MAX_REQUEST {
            break;
        }
        if let Some(facts) = request.facts.as_object_mut() {
            facts.remove(part);
        }
        body = encode(&request)?;
    }
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::wire::claim::ProposedNode;

    #[test]
    fn only_names_are_remembered() {
        assert_eq!(host_of("https://central.example.net:8443"), Some("central.example.net"));
        assert_eq!(host_of("https://172.16.36.10:8443"), None);
        assert_eq!(host_of("https://[fd00::1]:8443"), None);
    }

    #[test]
    fn a_claim_always_fits() {
        let request = ClaimRequest {
            protocol: 1,
            agent_version: "0".to_owned(),
            site: "s".to_owned(),
            enrol_token: None,
            boot_id: "b".to_owned(),
            node: ProposedNode { name: "n".to_owned(), ip: [10, 0, 0, 1].into() },
            facts: serde_json::json!({"identity": {"board": "x"}, "runtime": {"files": "x".repeat(MAX_REQUEST)}}),
        };
        let body = claim_body(&request).unwrap();
        assert!(body.len() < MAX_REQUEST && String::from_utf8(body).unwrap().contains("board"));
    }
}

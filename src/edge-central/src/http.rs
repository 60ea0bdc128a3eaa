//! Requests and answers: routes, limits, refusals.
//!
//! Owns the closed list of error codes (`docs/openapi.yaml`) and what every
//! request has in common. Knows no rule of the service.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use edge_bootstrap::error::Chain;
use edge_bootstrap::wire::{ErrorBody, ErrorDetail, MAX_REQUEST};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::error;

use crate::issue::IssueError;
use crate::service::Service;
use crate::store::StoreError;
use crate::{artifacts, claims, longpoll, reports};

/// How long a host may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(20);
/// Seconds after which a host may try again when the service is at fault.
const RETRY_AFTER_FAULT: u64 = 5;

/// Node id of the client certificate's key; `None` when there was none.
#[derive(Debug, Clone)]
pub struct Peer(pub Option<String>);

/// All routes of the host-facing contract.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/claims", post(claims::handle))
        .route("/v1/nodes/{id}/assignment", get(longpoll::handle))
        .route("/v1/nodes/{id}/reports", post(reports::handle))
        .route("/v1/artifacts/{sha256}/{name}", get(artifacts::handle))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
        })
        .layer(Extension(service))
}

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status of the answer.
    pub status: StatusCode,
    /// One of the closed list.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Seconds, when the same request may do better later.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// A refusal that the same request will meet again.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// The service cannot do its work now.
    #[must_use]
    pub fn unavailable() -> Self {
        Self {
            retry_after: Some(RETRY_AFTER_FAULT),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the service cannot do its work now")
        }
    }

    /// There is no such node: claim again with the same key.
    #[must_use]
    pub fn node_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "node_unknown", "no node with this key is known; claim again")
    }

    /// A person took the node's place away.
    #[must_use]
    pub fn node_revoked() -> Self {
        Self::new(StatusCode::GONE, "node_revoked", "this node was revoked; `edge-central approve` takes it back")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let detail = ErrorDetail { code: self.code.to_owned(), message: self.message };
        with_retry_after(json(self.status, &ErrorBody { error: detail }), self.retry_after)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        error!(reason = %Chain(&error), "request failed");
        Self::unavailable()
    }
}

impl From<IssueError> for Refusal {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Store(error) => error.into(),
            IssueError::Exhausted(_) => Self::new(StatusCode::BAD_REQUEST, "bad_request", error.to_string()),
        }
    }
}

/// An answer with a JSON body.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => json_bytes(status, bytes),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// An answer whose body is JSON already.
#[must_use]
pub fn json_bytes(status: StatusCode, bytes: impl Into<Bytes>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, Body::from(bytes.into())).into_response()
}

/// Adds `Retry-After` in seconds.
#[must_use]
pub fn with_retry_after(mut response: Response, seconds: Option<u64>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The key behind a request.
///
/// # Errors
/// 401 without a client certificate.
pub fn key_of(peer: Peer) -> Result<String, Refusal> {
    peer.0.ok_or_else(|| {
        let message = "show a client certificate: the service knows a host by its key";
        Refusal::new(StatusCode::UNAUTHORIZED, "certificate_required", message)
    })
}

/// Checks that the host asks about itself.
///
/// # Errors
/// 401 without a client certificate, 403 with that of another node.
pub fn own_id(peer: Peer, id: &str) -> Result<(), Refusal> {
    if key_of(peer)? == id {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "denied", "the client certificate belongs to another node"))
}

/// Reads a JSON body within its limits of size and time.
///
/// # Errors
/// 413 when it is too large, 408 when it is too slow, 400 when it is not of the shape.
pub async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let read = axum::body::to_bytes(request.into_body(), MAX_REQUEST);
    let slow = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time");
    let read = tokio::time::timeout(BODY_DEADLINE, read).await.map_err(|_| slow())?;
    let bytes = read.map_err(|_| {
        let message = "the body is not readable or larger than 64 KiB";
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "bad_request", format!("not the right shape: {error}")))
}

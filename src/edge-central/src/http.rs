//! Requests and answers: routes, limits, shapes.
//!
//! Owns what every request has in common. Knows no rule of the service.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use edge_bootstrap::wire::MAX_REQUEST;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::refusal::{Code, Refusal};
use crate::service::Service;
use crate::{artifacts, claims, longpoll, reports};

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
        .fallback(|| async { Refusal::new(Code::NotFound, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(Code::MethodNotAllowed, "this path takes another method")
        })
        .layer(Extension(service))
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
        Refusal::new(Code::CertificateRequired, message)
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
    Err(Refusal::new(Code::Denied, "the client certificate belongs to another node"))
}

/// Reads a JSON body of at most 64 KiB within `deadline`.
///
/// # Errors
/// 413 when it is too large, 408 when it is too slow, 400 when it is not of the shape.
pub async fn body<T: DeserializeOwned>(request: Request, deadline: Duration) -> Result<T, Refusal> {
    let read = axum::body::to_bytes(request.into_body(), MAX_REQUEST);
    let slow = || Refusal::new(Code::TooSlow, "the body did not come in time");
    let read = tokio::time::timeout(deadline, read).await.map_err(|_| slow())?;
    let bytes = read.map_err(|_| {
        let message = "the body is not readable or larger than 64 KiB";
        Refusal::new(Code::BodyTooLarge, message)
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(Code::BadRequest, format!("not the right shape: {error}")))
}

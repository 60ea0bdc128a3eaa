//! Answers that say no.
//!
//! Owns the closed list of error codes and the status of each, as
//! `docs/openapi.yaml` lists them.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use edge_bootstrap::error::Chain;
use edge_bootstrap::wire::{ErrorBody, ErrorDetail};
use tracing::error;

use crate::http;
use crate::issue::IssueError;
use crate::store::StoreError;

/// Seconds after which a host may try again when the service is at fault.
const RETRY_AFTER_FAULT: u64 = 5;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:ident;)*) => {
        /// Why the service says no.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// The closed list.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word on the wire.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// The status of the answer.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),* }
            }
        }
    };
}

codes! {
    /// The request is not of the contract's shape.
    BadRequest = "bad_request", BAD_REQUEST;
    /// Another version of the contract.
    ProtocolUnknown = "protocol_unknown", BAD_REQUEST;
    /// No client certificate.
    CertificateRequired = "certificate_required", UNAUTHORIZED;
    /// Enrolment token wrong, used up, expired, revoked, or of another site.
    TokenInvalid = "token_invalid", FORBIDDEN;
    /// No such site.
    SiteUnknown = "site_unknown", FORBIDDEN;
    /// The key is not allowed to do this.
    Denied = "denied", FORBIDDEN;
    /// Nothing at this path.
    NotFound = "not_found", NOT_FOUND;
    /// No node with this key.
    NodeUnknown = "node_unknown", NOT_FOUND;
    /// No artifact with this digest.
    ArtifactUnknown = "artifact_unknown", NOT_FOUND;
    /// The path takes another method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED;
    /// The body did not come in time.
    TooSlow = "too_slow", REQUEST_TIMEOUT;
    /// Another node has this name or address.
    AddressTaken = "address_taken", CONFLICT;
    /// The key is in another machine than before.
    MovedDisk = "moved_disk", CONFLICT;
    /// A person took the node's place away.
    NodeRevoked = "node_revoked", GONE;
    /// The body is larger than 64 KiB.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE;
    /// The range is outside the file.
    RangeOutside = "range_outside", RANGE_NOT_SATISFIABLE;
    /// Too many hosts of the site wait for approval.
    TooManyPending = "too_many_pending", TOO_MANY_REQUESTS;
    /// The service cannot do its work now.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE;
}

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of the closed list.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Seconds, when the same request may do better later.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// A refusal that the same request will meet again.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// A refusal that may be gone after `seconds`.
    #[must_use]
    pub fn for_now(code: Code, message: impl Into<String>, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(code, message) }
    }

    /// The service cannot do its work now.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::for_now(Code::Unavailable, "the service cannot do its work now", RETRY_AFTER_FAULT)
    }

    /// There is no such node: claim again with the same key.
    #[must_use]
    pub fn node_unknown() -> Self {
        Self::new(Code::NodeUnknown, "no node with this key is known; claim again")
    }

    /// A person took the node's place away.
    #[must_use]
    pub fn node_revoked() -> Self {
        Self::new(Code::NodeRevoked, "this node was revoked; `edge-central approve` takes it back")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let detail = ErrorDetail { code: self.code.word().to_owned(), message: self.message };
        http::with_retry_after(http::json(self.code.status(), &ErrorBody { error: detail }), self.retry_after)
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
            IssueError::Exhausted(_) => Self::new(Code::BadRequest, error.to_string()),
        }
    }
}

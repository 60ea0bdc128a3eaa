//! gRPC calls over a Unix socket: one connection for a few calls.
//!
//! Owns the connection, its limits and what an answer must look like (gRPC over
//! HTTP/2). Knows no service: a call is a path, and messages are bytes. Whatever
//! the other side sends, or does not send, is a typed error within the limit.

mod frames;

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, response};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Root;
use frames::Frames;

/// What the other side may send before we have read it, in bytes.
const WINDOW: u32 = 256 * 1024;
/// Largest list of headers or trailers, in bytes; a status message is in there.
const MAX_HEADERS: u32 = 64 * 1024;
/// Longest part of a status message that is kept, in characters.
const MAX_WORDS: usize = 1000;
/// `UNIMPLEMENTED` of gRPC's status codes: no such service or method.
const UNIMPLEMENTED: u32 = 12;
/// `NOT_FOUND` of gRPC's status codes.
const NOT_FOUND: u32 = 5;

/// A call that brought no whole answer.
#[derive(Debug, Error)]
pub enum GrpcError {
    /// Nothing accepts connections there.
    #[error("connect to {path}")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody accepts connections, and says nothing.
    #[error("{what} did not answer within {} ms", limit.as_millis())]
    Late {
        /// The socket or the method.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke, or the other side speaks no HTTP/2.
    #[error("call {method}")]
    Broken {
        /// The method.
        method: String,
        /// Why.
        #[source]
        source: h2::Error,
    },
    /// It is no answer as gRPC has them.
    #[error("the answer of {method} {what}")]
    Answer {
        /// The method.
        method: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The service said no.
    #[error("{method} says: {message} (status {code})")]
    Status {
        /// The method.
        method: String,
        /// Status code of gRPC.
        code: u32,
        /// In the service's words.
        message: String,
    },
}

impl GrpcError {
    /// Whether there is no socket: the service did not start since the boot.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether there is a socket that nobody listens on.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    /// Whether it hangs.
    #[must_use]
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Late { .. })
    }

    /// Whether the service or method is not served there.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Status { code: UNIMPLEMENTED, .. })
    }

    /// Whether the service knows no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: NOT_FOUND, .. })
    }
}

/// What is called, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `/package.Service/Method`.
    pub method: &'a str,
    /// Headers beside those of gRPC, in lower case.
    pub metadata: &'a [(&'static str, &'a str)],
    /// The whole call, answer included.
    pub limit: Duration,
}

/// One connection. It ends when this is dropped.
#[derive(Debug)]
pub struct Channel {
    sender: SendRequest<Bytes>,
    driver: AbortHandle,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Channel {
    /// Connects to the Unix socket at `path`.
    ///
    /// # Errors
    /// When nobody accepts within `limit`. That the other side speaks HTTP/2 is
    /// known with the first answer only.
    pub async fn connect(root: &Root, path: &str, limit: Duration) -> Result<Self, GrpcError> {
        let late = |_| GrpcError::Late { what: path.to_owned(), limit };
        let stream = timeout(limit, UnixStream::connect(root.path(path))).await.map_err(late)?;
        let stream = stream.map_err(|source| GrpcError::Connect { path: path.to_owned(), source })?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        builder.max_header_list_size(MAX_HEADERS).enable_push(false);
        let opened = timeout(limit, builder.handshake::<_, Bytes>(stream)).await.map_err(late)?;
        let (sender, connection) =
            opened.map_err(|source| GrpcError::Broken { method: path.to_owned(), source })?;
        // Its error also reaches every call on the connection.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, driver })
    }

    /// One message there, one back.
    ///
    /// # Errors
    /// When no whole and good answer comes within the call's limit.
    pub async fn unary(&self, call: Call<'_>, message: &[u8]) -> Result<Vec<u8>, GrpcError> {
        let mut answer = None;
        self.stream(call, message, |message| answer = Some(message.to_vec())).await?;
        answer.ok_or_else(|| bad(call.method, "has no message"))
    }

    /// One message there, any number back, each given to `each` as it comes.
    ///
    /// # Errors
    /// When no whole and good answer comes within the call's limit.
    pub async fn stream(
        &self,
        call: Call<'_>,
        message: &[u8],
        each: impl FnMut(&[u8]),
    ) -> Result<(), GrpcError> {
        let late = |_| GrpcError::Late { what: call.method.to_owned(), limit: call.limit };
        timeout(call.limit, self.exchange(call, message, each)).await.map_err(late)?
    }

    async fn exchange(
        &self,
        call: Call<'_>,
        message: &[u8],
        each: impl FnMut(&[u8]),
    ) -> Result<(), GrpcError> {
        let broken = |source| GrpcError::Broken { method: call.method.to_owned(), source };
        let mut sender = self.sender.clone().ready().await.map_err(broken)?;
        let (response, mut body) = sender.send_request(request(call)?, false).map_err(broken)?;
        body.send_data(frames::frame(message), true).map_err(broken)?;
        let (head, body) = response.await.map_err(broken)?.into_parts();
        check_head(call.method, &head)?;
        if let Some(status) = status(call.method, &head.headers) {
            return status;
        }
        read(call.method, body, each).await
    }
}

fn bad(method: &str, what: &'static str) -> GrpcError {
    GrpcError::Answer { method: method.to_owned(), what }
}

fn request(call: Call<'_>) -> Result<Request<()>, GrpcError> {
    let mut request = Request::post(format!("http://localhost{}", call.method))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in call.metadata {
        request = request.header(*name, *value);
    }
    // Paths and headers are ours; only a name from outside in a header can fail here.
    request.body(()).map_err(|_| bad(call.method, "was never asked for: a header has forbidden characters"))
}

fn check_head(method: &str, head: &response::Parts) -> Result<(), GrpcError> {
    if head.status != http::StatusCode::OK {
        return Err(bad(method, "has another HTTP status than 200"));
    }
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("application/grpc")) {
        return Err(bad(method, "is of another type than application/grpc"));
    }
    Ok(())
}

async fn read(method: &str, mut body: RecvStream, mut each: impl FnMut(&[u8])) -> Result<(), GrpcError> {
    let broken = |source| GrpcError::Broken { method: method.to_owned(), source };
    let mut frames = Frames::default();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(broken)?;
        body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
        frames.take(&chunk, &mut each).map_err(|what| bad(method, what))?;
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
    let ended = status(method, &trailers).unwrap_or_else(|| Err(bad(method, "ends without a status")));
    ended.and_then(|()| frames.end().map_err(|what| bad(method, what)))
}

/// What `grpc-status` says; `None` when there is none.
fn status(method: &str, headers: &HeaderMap) -> Option<Result<(), GrpcError>> {
    let code = headers.get("grpc-status")?;
    let Some(code) = code.to_str().ok().and_then(|code| code.parse::<u32>().ok()) else {
        return Some(Err(bad(method, "has a status that is no number")));
    };
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map_or(&b""[..], http::HeaderValue::as_bytes);
    let message = frames::words(message).chars().take(MAX_WORDS).collect();
    Some(Err(GrpcError::Status { method: method.to_owned(), code, message }))
}

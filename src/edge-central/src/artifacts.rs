//! `GET /v1/artifacts/{sha256}/{name}`: files by digest, in parts when asked.
//!
//! Owns range requests. Artifacts are no secret and hosts check their digest,
//! so no client certificate is needed.

use std::io::{self, SeekFrom};
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edge_bootstrap::role::words::Sha256Hex;
use futures_util::stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tracing::warn;

use crate::files;
use crate::refusal::{Code, Refusal};
use crate::service::Service;

/// Bytes that are read and sent at once.
const CHUNK: u64 = 128 * 1024;

/// Which bytes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// First byte and number of bytes.
    Range(u64, u64),
    Outside,
}

/// Answers the request.
///
/// # Errors
/// 404, 416, 503 with their codes.
pub async fn handle(
    Extension(service): Extension<Arc<Service>>,
    Path((sha256, _name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let missing = || Refusal::new(Code::ArtifactUnknown, "there is no artifact with this digest");
    let digest: Sha256Hex = sha256.parse().map_err(|_| missing())?;
    let (file, size) = match files::open_artifact(&service.artifact_path(digest.as_str())).await {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => {
            warn!(%error, sha256, "artifact cannot be read");
            return Err(Refusal::unavailable());
        }
    };
    let etag = format!("\"{digest}\"");
    let mut response = match wanted(&headers, &etag, size) {
        Part::Whole => send(file, StatusCode::OK, (0, size)).await?,
        Part::Range(from, length) => partial(file, (from, length), size).await?,
        Part::Outside => outside(size),
    };
    describe(response.headers_mut(), &etag);
    Ok(response)
}

fn describe(headers: &mut HeaderMap, etag: &str) {
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
}

fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Part {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // A part of another version is of no use: then the whole is sent.
    if text(header::IF_RANGE).is_some_and(|known| known != etag) {
        return Part::Whole;
    }
    text(header::RANGE).map_or(Part::Whole, |range| parse_range(range, size))
}

/// One range in bytes; what is not understood is ignored (RFC 9110, 14.2).
fn parse_range(text: &str, size: u64) -> Part {
    let Some((from, to)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Whole;
    };
    let (first, last) = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if to.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(count)) if from.is_empty() && count > 0 => {
            (size.saturating_sub(count), size.saturating_sub(1))
        }
        _ => return Part::Whole,
    };
    if first >= size { Part::Outside } else { Part::Range(first, last - first + 1) }
}

async fn partial(file: File, (from, length): (u64, u64), size: u64) -> Result<Response, Refusal> {
    let mut response = send(file, StatusCode::PARTIAL_CONTENT, (from, length)).await?;
    let range = format!("bytes {from}-{}/{size}", from + length - 1);
    if let Ok(range) = HeaderValue::from_str(&range) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

fn outside(size: u64) -> Response {
    let refusal = Refusal::new(Code::RangeOutside, "the range is outside the file");
    let mut response = refusal.into_response();
    if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

async fn send(mut file: File, status: StatusCode, (from, length): (u64, u64)) -> Result<Response, Refusal> {
    file.seek(SeekFrom::Start(from)).await.map_err(|_| Refusal::unavailable())?;
    let parts = stream::try_unfold((file, length), next_chunk);
    let headers = [(header::CONTENT_LENGTH, HeaderValue::from(length))];
    Ok((status, headers, Body::from_stream(parts)).into_response())
}

/// A file that is shorter than announced ends in an error, so that the host
/// sees a broken answer and not a short file.
async fn next_chunk((mut file, left): (File, u64)) -> io::Result<Option<(Bytes, (File, u64))>> {
    if left == 0 {
        return Ok(None);
    }
    let size = usize::try_from(left.min(CHUNK)).unwrap_or(0);
    let mut chunk = vec![0; size];
    file.read_exact(&mut chunk).await?;
    Ok(Some((Bytes::from(chunk), (file, left - left.min(CHUNK)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let cases = [
            ("bytes=0-0", Part::Range(0, 1)),
            ("bytes=5-", Part::Range(5, 5)),
            ("bytes=-3", Part::Range(7, 3)),
            ("bytes=-30", Part::Range(0, 10)),
            ("bytes=8-99", Part::Range(8, 2)),
            ("bytes=10-", Part::Outside),
            ("bytes=9-3", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=-0", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes=x", Part::Whole),
        ];
        for (text, part) in cases {
            assert_eq!(parse_range(text, 10), part, "{text}");
        }
        assert_eq!(parse_range("bytes=0-0", 0), Part::Outside);
    }
}

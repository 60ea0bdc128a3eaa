//! Owns HTTP/1.1 in its smallest form: one request per connection, for server
//! and client. It knows no path and no TLS.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail};

const HEAD_LIMIT: usize = 32 * 1024;
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// A request as the server sees it.
#[derive(Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// User and password of basic authentication.
    pub fn basic(&self) -> Option<(String, String)> {
        use base64::Engine;
        let value = self.header("authorization")?.strip_prefix("Basic ")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(value).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.into(), password.into()))
    }
}

/// An answer, for both sides.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Content type.
    pub kind: &'static str,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Plain text.
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.as_bytes().to_vec() }
    }

    /// JSON.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status, kind: "application/json", body },
            Err(error) => Self::text(500, &error.to_string()),
        }
    }

    /// The body as text.
    pub fn as_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The words of a status line.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// Reads one request.
pub fn read_request(stream: &mut impl Read) -> Result<Request> {
    let (head, mut body) = read_head(stream)?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&head)?;
    let target = parsed.path.context("no path")?;
    let mut request = Request {
        method: parsed.method.context("no method")?.into(),
        path: target.split('?').next().unwrap_or_default().into(),
        headers: owned(parsed.headers),
        body: Vec::new(),
    };
    let length = content_length(&request.headers)?.unwrap_or(0);
    read_body(stream, &mut body, Some(length))?;
    request.body = body;
    Ok(request)
}

/// Writes an answer; the connection ends after it.
pub fn write_reply(stream: &mut impl Write, reply: &Reply) -> Result<()> {
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reply.status,
        reason(reply.status),
        reply.kind,
        reply.body.len()
    );
    stream.write_all(&[head.as_bytes(), &reply.body].concat())?;
    stream.flush()?;
    Ok(())
}

/// Sends a request and reads the answer.
pub fn exchange(stream: &mut (impl Read + Write), host: &str, request: &Request) -> Result<Reply> {
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n",
        request.method,
        request.path,
        request.body.len()
    );
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), &request.body].concat())?;
    stream.flush()?;
    read_reply(stream)
}

fn read_reply(stream: &mut impl Read) -> Result<Reply> {
    let (head, mut body) = read_head(stream)?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed.parse(&head)?;
    let status = parsed.code.context("no status")?;
    let headers = owned(parsed.headers);
    read_body(stream, &mut body, content_length(&headers)?)?;
    Ok(Reply { status, kind: "", body })
}

/// Bytes up to the empty line, and what was read after it.
fn read_head(stream: &mut impl Read) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((bytes, rest));
        }
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            bail!("EOF");
        }
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if bytes.len() > HEAD_LIMIT {
            bail!("header too large");
        }
    }
}

fn read_body(stream: &mut impl Read, body: &mut Vec<u8>, length: Option<usize>) -> Result<()> {
    let length = length.unwrap_or(BODY_LIMIT);
    if length > BODY_LIMIT {
        bail!("body too large");
    }
    let missing = length.saturating_sub(body.len());
    let mut rest = stream.take(u64::try_from(missing)?);
    match rest.read_to_end(body) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error.into()),
    }
    if length != BODY_LIMIT && body.len() < length {
        bail!("unexpected EOF");
    }
    Ok(())
}

fn owned(headers: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect()
}

fn content_length(headers: &[(String, String)]) -> Result<Option<usize>> {
    let value = headers.iter().find(|(name, _)| name == "content-length");
    value.map(|(_, text)| text.trim().parse().context("bad content-length")).transpose()
}

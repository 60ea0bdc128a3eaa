//! Whether a web server answers, and whether it does so in time.
//!
//! Owns one TCP connection, one request and the begin of one answer. Trusts
//! nobody: nothing of what comes is used, so plain http is as good as https.

use std::io;
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::{Client, HttpError, Proof, Request, Settings};

/// What became of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It answers, whatever the status.
    Came,
    /// It fails at once: why.
    Broke(String),
    /// It keeps whoever asks waiting: how.
    Late(String),
}

/// How long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the name and the TCP connection.
    pub connect: Duration,
    /// From there to the begin of the answer.
    pub answer: Duration,
}

/// Gets `url`; nothing but the begin of the answer is read.
pub async fn ask(url: &str, limits: Limits) -> Answer {
    let Ok(url) = Url::parse(url) else { return Answer::Broke("it is no URL".to_owned()) };
    let connected = match timeout(limits.connect, connect(&url)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_nobody(&error) => return Answer::Late("no such host answers".to_owned()),
        Ok(Err(error)) => return Answer::Broke(error.to_string()),
        Err(_) => return Answer::Late(format!("no connection within {}", seconds(limits.connect))),
    };
    let answer = async {
        if url.scheme() == "https" {
            drop(connected);
            over_tls(&url, limits).await
        } else {
            first_line(connected, &url).await
        }
    };
    match timeout(limits.answer, answer).await {
        Ok(Ok(())) => Answer::Came,
        Ok(Err(error)) => Answer::Broke(error.to_string()),
        Err(_) => {
            let limit = seconds(limits.answer);
            Answer::Late(format!("it takes the connection and does not answer within {limit}"))
        }
    }
}

/// A host of the same network that is switched off: the kernel says so only
/// after three seconds of asking for its address, and to every caller anew.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut)
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs())
}

async fn connect(url: &Url) -> io::Result<TcpStream> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL has no host");
    let host = url.host_str().ok_or_else(missing)?.trim_matches(['[', ']']);
    let port = url.port_or_known_default().ok_or_else(missing)?;
    TcpStream::connect((host, port)).await
}

/// Every HTTP server of any version begins its answer like this.
const BEGIN: &[u8; 5] = b"HTTP/";

async fn first_line(mut stream: TcpStream, url: &Url) -> io::Result<()> {
    let host = url.authority();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: edge-bootstrap\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        url.path()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut begin = [0; BEGIN.len()];
    stream.read_exact(&mut begin).await?;
    if begin == *BEGIN { Ok(()) } else { Err(io::Error::other("what it answers is not HTTP")) }
}

/// The certificate is not looked at: containerd does that, and falls back at
/// once where it is not good.
async fn over_tls(url: &Url, limits: Limits) -> Result<(), io::Error> {
    let proof = Proof { anybody: true, ..Proof::default() };
    let client = Client::new(&Settings { proof, ..Settings::default() })
        .map_err(|error| io::Error::other(error.to_string()))?;
    // The caller's limit ends it first, and tells that it was late.
    let deadline = limits.answer * 2;
    match client.send(Request { url: url.as_str(), json: None, deadline, limit: 4096 }).await {
        Ok(_) | Err(HttpError::TooLarge(_)) => Ok(()),
        Err(error) => Err(io::Error::other(crate::sys::http::innermost(&error))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const SHORT: Limits = Limits { connect: Duration::from_millis(500), answer: Duration::from_millis(300) };

    /// Asks a server that says `text` to the first who comes, or nothing.
    async fn server(text: Option<&'static [u8]>) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2/", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 512];
            let size = stream.read(&mut asked).await.unwrap();
            assert!(asked[..size].starts_with(b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1:"));
            match text {
                Some(text) => stream.write_all(text).await.unwrap(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = ask(&url, SHORT) => answer,
            () = async { serve.await; std::future::pending::<()>().await } => Answer::Came,
        }
    }

    #[tokio::test]
    async fn any_http_is_an_answer_and_silence_is_none() {
        assert_eq!(server(Some(b"HTTP/1.1 200 OK\r\n\r\n")).await, Answer::Came);
        assert_eq!(server(Some(b"HTTP/1.0 503 Busy\r\n\r\n")).await, Answer::Came);
        assert!(matches!(server(Some(b"SSH-2.0-x\r\n")).await, Answer::Broke(_)));
        assert!(matches!(server(Some(b"HT")).await, Answer::Late(_) | Answer::Broke(_)));
        assert!(matches!(server(None).await, Answer::Late(_)));
    }

    #[tokio::test]
    async fn a_refused_connection_is_no_stall() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2/", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(ask(&url, SHORT).await, Answer::Broke(_)));
        assert!(matches!(ask("nonsense", SHORT).await, Answer::Broke(_)));
    }

    #[tokio::test]
    async fn https_that_says_nothing_is_late_and_plain_text_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/v2/", listener.local_addr().unwrap());
        // Nobody accepts: the kernel does, and nobody ever answers.
        assert!(matches!(ask(&url, SHORT).await, Answer::Late(_)));
    }
}

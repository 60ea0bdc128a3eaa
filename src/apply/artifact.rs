//! Files by digest: k3s's binary.
//!
//! Owns the rule that nothing becomes executable, or gets its final name,
//! before its SHA-256 was right. How bytes travel is the caller's
//! [`Download`].

use std::io::{self, Write as _};

use thiserror::Error;

use crate::error::{Chain, ErrorKind};
use crate::plan::PlannedArtifact;
use crate::sys::root::FileError;
use crate::sys::sink::Sink;
use crate::sys::{Root, atomic, fault};

/// Where a download stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all, when the other side said so.
    pub total: Option<u64>,
}

/// Brings the bytes of a URL.
pub trait Download {
    /// Feeds the bytes of `url` to `sink`, in order.
    fn download(
        &self,
        title: &str,
        url: &str,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> impl Future<Output = Result<(), DownloadError>>;
}

/// A download that did not come to its end.
#[derive(Debug, Error)]
#[error("download {url}")]
pub struct DownloadError {
    /// What was asked for.
    pub url: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why an artifact is not there.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// No URL gave the right bytes.
    #[error("{title} could not be had: {}", tried.join("; "))]
    NoSource {
        /// What it is.
        title: String,
        /// What each URL gave.
        tried: Vec<String>,
    },
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ArtifactError {
    /// Category of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSource { .. } => ErrorKind::Transient,
            Self::File(_) => ErrorKind::Environment,
        }
    }
}

/// Makes sure that the artifact lies at its place, with its digest beside it.
pub(super) async fn ensure(
    root: &Root,
    artifact: &PlannedArtifact,
    download: &impl Download,
) -> Result<(), ArtifactError> {
    let directory = artifact.path.rsplit_once('/').map_or("/", |(directory, _)| directory);
    root.make_dir(directory, 0o755)?;
    let part = format!("{}.part", artifact.path);
    let mut tried = Vec::new();
    for url in &artifact.urls {
        match attempt(root, artifact, url.as_str(), &part, download).await {
            Ok(()) => return publish(root, artifact, &part),
            Err(why) => tried.push(format!("{url}: {why}")),
        }
    }
    root.remove_file(&part)?;
    Err(ArtifactError::NoSource { title: artifact.title.clone(), tried })
}

async fn attempt(
    root: &Root,
    artifact: &PlannedArtifact,
    url: &str,
    part: &str,
    download: &impl Download,
) -> Result<(), String> {
    let mut sink = Sink::create(root, part).map_err(|error| Chain(&error).to_string())?;
    if let Some(path) = url.strip_prefix("file://") {
        sink.copy(root, path).map_err(|error| Chain(&error).to_string())?;
    } else {
        let mut feed = |bytes: &[u8]| sink.write_all(bytes);
        let result = download.download(&artifact.title, url, &mut feed).await;
        result.map_err(|error| Chain(&error).to_string())?;
    }
    let found = sink.digest();
    if found == artifact.sha256.as_str() {
        return Ok(());
    }
    Err(format!("its SHA-256 is {found}, wanted {}", artifact.sha256))
}

fn publish(root: &Root, artifact: &PlannedArtifact, part: &str) -> Result<(), ArtifactError> {
    atomic::publish(root, part, &artifact.path, 0o755)?;
    // The record comes last: a binary without it counts as absent.
    let _ = fault::point("artifact-published");
    atomic::write(
        root,
        &format!("{}.sha256", artifact.path),
        format!("{}\n", artifact.sha256).as_bytes(),
        0o644,
    )?;
    Ok(())
}

//! How artifacts travel.
//!
//! Owns the client for them: anybody may answer, because only the signed
//! digest decides what is used.

use std::io::Write as _;
use std::time::Duration;

use crate::apply::{Download, DownloadError, Progress};
use crate::enrol::{CentralSettings, Source};
use crate::sys::http::{Client, HttpError, Proof, Settings};
use crate::sys::sink::Sink;

/// Longest pause between two pieces.
const PATIENCE: Duration = Duration::from_secs(30);
/// A power cut loses at most this many bytes of what came.
const SYNCED: u64 = 32 << 20;

/// Is told how a download goes.
pub trait Watcher: std::fmt::Debug {
    /// `title` stands at `progress`.
    fn progress(&self, title: &str, progress: Progress);

    /// Something else is done now, in words.
    fn doing(&self, _: &str) {}
}

/// Tells nobody.
#[derive(Debug)]
pub struct Quiet;

impl Watcher for Quiet {
    fn progress(&self, _: &str, _: Progress) {}
}

/// Brings artifacts over HTTPS.
#[derive(Debug)]
pub struct Downloader<'a> {
    client: Result<Client, String>,
    watcher: &'a dyn Watcher,
}

impl<'a> Downloader<'a> {
    /// Uses the resolvers and the proxy of the settings.
    pub fn new(source: &Source, watcher: &'a dyn Watcher) -> Self {
        let central = match source {
            Source::Central(central) => (**central).clone(),
            Source::None | Source::File(_) => CentralSettings::default(),
        };
        let settings = Settings {
            proof: Proof { anybody: true, ..Proof::default() },
            identity: None,
            resolvers: central.resolvers,
            addresses: central.addresses,
            proxy: central.proxy.as_ref().map(|proxy| proxy.expose().to_owned()),
            // Nobody's certificate is looked at: the digest proves the content.
            believable: None,
        };
        Self { client: Client::new(&settings).map_err(|error| error.to_string()), watcher }
    }

    async fn bring(
        &self,
        title: &str,
        url: &str,
        sink: &mut Sink,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let client = self.client.as_ref().map_err(|text| text.clone())?;
        let mut download = client.download_rest(url, (sink.size, sink.tag.as_deref()), PATIENCE).await?;
        if download.status() == 416 && sink.size > 0 {
            // What an earlier try left is longer than the file.
            sink.clear()?;
            download = client.download_rest(url, (0, None), PATIENCE).await?;
        }
        match download.status() {
            206 if download.begins_at() == sink.size => {}
            200 if sink.size > 0 => sink.clear()?,
            200 => {}
            status => return Err(format!("status {status}").into()),
        }
        sink.tag = download.tag();
        let total = download.length().map(|rest| sink.size + rest);
        while let Some(bytes) = download.chunk().await? {
            sink.write_all(&bytes)?;
            sink.sync(SYNCED).await?;
            self.watcher.progress(title, Progress { done: sink.size, total });
        }
        match total {
            Some(total) if sink.size < total => {
                Err(Box::new(HttpError::Settings(format!("{} of {total} bytes came", sink.size))))
            }
            _ => Ok(()),
        }
    }
}

impl Download for Downloader<'_> {
    async fn download(&self, title: &str, url: &str, sink: &mut Sink) -> Result<(), DownloadError> {
        let brought = self.bring(title, url, sink).await;
        brought.map_err(|source| DownloadError { url: url.to_owned(), source })
    }
}

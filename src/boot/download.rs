//! How artifacts travel.
//!
//! Owns the client for them: anybody may answer, because only the signed
//! digest decides what is used.

use std::io;
use std::time::Duration;

use crate::apply::{Download, DownloadError, Progress};
use crate::enrol::{CentralSettings, Source};
use crate::sys::http::{Client, HttpError, Proof, Settings};

/// Longest pause between two pieces.
const PATIENCE: Duration = Duration::from_secs(30);

/// Is told how a download goes.
pub trait Watcher: std::fmt::Debug {
    /// `title` stands at `progress`.
    fn progress(&self, title: &str, progress: Progress);
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
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let client = self.client.as_ref().map_err(|text| text.clone())?;
        let mut download = client.download(url, 0, PATIENCE).await?;
        if download.status() != 200 {
            return Err(format!("status {}", download.status()).into());
        }
        let total = download.length();
        let mut done = 0;
        while let Some(bytes) = download.chunk().await? {
            sink(&bytes)?;
            done += bytes.len() as u64;
            self.watcher.progress(title, Progress { done, total });
        }
        match total {
            Some(total) if done < total => {
                Err(Box::new(HttpError::Settings(format!("{done} of {total} bytes came"))))
            }
            _ => Ok(()),
        }
    }
}

impl Download for Downloader<'_> {
    async fn download(
        &self,
        title: &str,
        url: &str,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), DownloadError> {
        let brought = self.bring(title, url, sink).await;
        brought.map_err(|source| DownloadError { url: url.to_owned(), source })
    }
}

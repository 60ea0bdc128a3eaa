//! How artifacts travel.
//!
//! Owns the client for them: anybody may answer, because only the signed
//! digest decides what is used. What a person brought comes before every URL.
//! Remembers what found no room, and lets it rest.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use std::{error, io};

use crate::apply::{Download, DownloadError, Progress, fullness};
use crate::binary;
use crate::enrol::{CentralSettings, Source};
use crate::paths::IMPORT;
use crate::plan::binary::Seen;
use crate::sys::http::{Client, HttpError, Proof, Settings};
use crate::sys::sink::{self, NoRoom, Sink};
use crate::sys::{Root, clock};

/// Longest pause between two pieces.
const PATIENCE: Duration = Duration::from_secs(30);
/// What found no room is not asked for again before this has passed: a source
/// that does not say how large its file is would fill the disk each time.
const REST: Duration = Duration::from_secs(600);

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

/// Until when a URL rests (in time since boot), and what its file lacked where
/// that is known.
type Rest = (Duration, Option<NoRoom>);

/// URLs whose files found no room, and the digests of what lies in the import
/// directory. Copies share one memory.
#[derive(Debug, Clone, Default)]
pub struct Rests(Rc<RefCell<BTreeMap<String, Rest>>>, Rc<RefCell<Digests>>);

/// SHA-256 by name of the file and by how it looked when it was hashed.
type Digests = BTreeMap<String, (Seen, String)>;

impl Rests {
    /// Fails as the last try did, while `url` rests.
    fn heed(&self, url: &str, now: Duration) -> io::Result<()> {
        match self.0.borrow().get(url).filter(|(until, _)| now < *until) {
            Some((_, Some(no_room))) => Err(io::Error::new(io::ErrorKind::StorageFull, *no_room)),
            Some((_, None)) => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn note(&self, url: &str, no_room: Option<NoRoom>, now: Duration) {
        let mut rests = self.0.borrow_mut();
        rests.retain(|_, (until, _)| now < *until);
        rests.insert(url.to_owned(), (now + REST, no_room));
    }

    /// The file of this digest in the import directory. Each file there is hashed
    /// once, whatever its name.
    async fn imported(&self, root: &Root, sha256: &str) -> Option<String> {
        for name in root.list(IMPORT).unwrap_or_default() {
            let path = format!("{IMPORT}/{name}");
            if self.digest(root, &path).await.is_some_and(|digest| digest == sha256) {
                return Some(path);
            }
        }
        None
    }

    async fn digest(&self, root: &Root, path: &str) -> Option<String> {
        let seen = binary::seen(root, path).ok()??;
        let known = self.1.borrow().get(path).filter(|(then, _)| *then == seen).cloned();
        if let Some((_, digest)) = known {
            return Some(digest);
        }
        let digest = sink::digest_beside(root, path).await.ok()?;
        self.1.borrow_mut().insert(path.to_owned(), (seen, digest.clone()));
        Some(digest)
    }
}

/// Brings artifacts over HTTPS.
#[derive(Debug)]
pub struct Downloader<'a> {
    client: Result<Client, String>,
    watcher: &'a dyn Watcher,
    rests: Rests,
    patience: Duration,
}

type Why = Box<dyn error::Error + Send + Sync>;

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
        let client = Client::new(&settings).map_err(|error| error.to_string());
        Self { client, watcher, rests: Rests::default(), patience: PATIENCE }
    }

    /// Waits for at most this long for the next piece.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Uses a memory that lives longer than this.
    #[must_use]
    pub fn resting(self, rests: &Rests) -> Self {
        Self { rests: rests.clone(), ..self }
    }

    async fn bring(&self, title: &str, url: &str, sink: &mut Sink) -> Result<(), Why> {
        let client = self.client.as_ref().map_err(|text| text.clone())?;
        let mut download = client.download_rest(url, (sink.size, sink.tag.as_deref()), self.patience).await?;
        if download.status() == 416 && sink.size > 0 {
            // What an earlier try left is longer than the file.
            sink.clear()?;
            download = client.download_rest(url, (0, None), self.patience).await?;
        }
        match download.status() {
            206 if download.begins_at() == sink.size => {}
            200 if sink.size > 0 => sink.clear()?,
            200 => {}
            status => return Err(format!("status {status}").into()),
        }
        sink.tag = download.tag();
        let total = download.length().map(|rest| sink.size.saturating_add(rest));
        sink.room(download.length()).await?;
        while let Some(bytes) = download.chunk().await? {
            let come = sink.size + bytes.len() as u64;
            sink.take(&bytes, total.map(|total| total.saturating_sub(come))).await?;
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
    fn ready(&self, url: &str) -> Result<(), DownloadError> {
        let failed = |error: io::Error| DownloadError { url: url.to_owned(), source: error.into() };
        self.rests.heed(url, clock::monotonic()).map_err(failed)
    }

    async fn download(&self, title: &str, url: &str, sink: &mut Sink) -> Result<(), DownloadError> {
        let failed = |source: Why| DownloadError { url: url.to_owned(), source };
        let brought = self.bring(title, url, sink).await;
        if let Some(no_room) = brought.as_ref().err().and_then(|why| fullness(&**why)) {
            self.rests.note(url, no_room, clock::monotonic());
        }
        brought.map_err(failed)
    }

    async fn at_hand(&self, root: &Root, sha256: &str) -> Option<String> {
        self.rests.imported(root, sha256).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::apply::{self, ArtifactError, Wanted};

    /// Answers everybody with a file that no disk has room for; counts them.
    fn server() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/f.tar", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]);
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 8796093022208\r\n\r\nabc";
                let _ = stream.write_all(head.as_bytes());
            }
        });
        (url, asked)
    }

    #[tokio::test]
    async fn what_no_disk_has_room_for_is_not_begun_and_not_asked_for_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let (url, asked) = server();
        let (urls, sha256) = ([url.parse().unwrap()], "00".repeat(32).parse().unwrap());
        let (title, path, floor) = ("f", "/f", crate::sys::space::floor);
        let wanted = Wanted { title, path, mode: 0o600, urls: &urls, sha256: &sha256, floor };
        let rests = Rests::default();
        for _ in 0..2 {
            // A downloader for each try, as passes make them.
            let downloader = Downloader::new(&Source::None, &Quiet).resting(&rests);
            let error = apply::bring(&root, wanted, &downloader).await.unwrap_err();
            let needed = |it: &NoRoom| it.needed;
            assert!(
                matches!(&error, ArtifactError::Full { no_room, is_kept: false, .. } if no_room.as_ref().map(needed) == Some(8 << 40)),
                "{error:?}"
            );
            let words = error.to_string();
            assert!(
                words
                    .starts_with("f: no space left on the disk of /f: 8796093022208 bytes more are needed, "),
                "{words}"
            );
            assert_eq!(root.list("/").unwrap(), [] as [String; 0]);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_found_no_room_rests_and_is_then_asked_for_again() {
        let rests = Rests::default();
        let (begin, no_room) = (Duration::from_secs(7), NoRoom { needed: 3, free: 2, total: 9, stays: 4 });
        rests.note("a", Some(no_room), begin);
        rests.note("b", None, begin + REST / 2);
        // Whoever shares the memory, of a later pass too.
        let later = rests.clone();
        let error = later.heed("a", begin + REST / 2).unwrap_err();
        assert_eq!(fullness(&error), Some(Some(no_room)));
        assert!(later.heed("c", begin).is_ok());
        assert!(later.heed("a", begin + REST).is_ok());
        assert_eq!(fullness(&later.heed("b", begin + REST).unwrap_err()), Some(None));
        later.note("c", None, begin + REST);
        assert_eq!(rests.0.borrow().len(), 2, "what rested long enough is forgotten");
    }
}

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
use crate::plan::Refusal;
use crate::plan::binary::Seen;
use crate::sys::http::{Client, HttpError, Proof, Settings};
use crate::sys::sink::{self, NoRoom, Sink};
use crate::sys::{Root, clock, random};

/// Longest pause between two pieces.
const PATIENCE: Duration = Duration::from_secs(30);
/// What found no room is not asked for again before this has passed: a source
/// that does not say how large its file is would fill the disk each time.
const REST: Duration = Duration::from_secs(600);

/// Shortest and longest rest of what gave another file.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// In each span of this length at least [`LEAST`] bytes must come.
const SPAN: Duration = Duration::from_secs(20);
const LEAST: u64 = 64 << 10;

/// Twice as long each time, and never the same for two hosts: a room that is given
/// a wrong file would ask for it all at once.
fn back_off(times: u32, random: u64) -> Duration {
    let doubled = SHORTEST.saturating_mul(1 << times.saturating_sub(1).min(10)).min(LONGEST);
    doubled.mul_f64(0.75 + f64::from(u16::try_from(random % 1000).unwrap_or(0)) / 2000.0)
}

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

/// Why something rests.
#[derive(Debug, Clone, Copy)]
enum Because {
    /// There was no room for it; what it lacked where that is known.
    NoRoom(Option<NoRoom>),
    /// Too little came.
    Slow,
    /// So many times it was another file.
    Another(u32),
}

/// Until when a URL rests (in time since boot), and why.
type Rest = (Duration, Because);

/// What is not asked for again at once: URLs whose files found no room or came too
/// slowly, and those with a digest that gave another file. Also the digests of
/// what lies in the import directory. Copies share one memory.
#[derive(Debug, Clone, Default)]
pub struct Rests {
    rests: Rc<RefCell<BTreeMap<String, Rest>>>,
    digests: Rc<RefCell<Digests>>,
    /// How long downloads may take in one pass; they go on in the next one.
    pub slice: Option<Duration>,
    /// How far a download of this pass has come that goes on in the next one.
    goes_on: Rc<RefCell<Option<String>>>,
}

/// SHA-256 by name of the file and by how it looked when it was hashed.
type Digests = BTreeMap<String, (Seen, String)>;

impl Rests {
    /// Fails as the last try did, while `key` rests.
    fn heed(&self, key: &str, now: Duration) -> io::Result<()> {
        let rests = self.rests.borrow();
        let Some((until, because)) = rests.get(key).filter(|(until, _)| now < *until) else { return Ok(()) };
        let left = until.saturating_sub(now).as_secs();
        Err(match because {
            Because::NoRoom(Some(no_room)) => io::Error::new(io::ErrorKind::StorageFull, *no_room),
            Because::NoRoom(None) => io::ErrorKind::StorageFull.into(),
            Because::Slow => io::Error::other(format!("it was too slow, and is asked again in {left} s")),
            Because::Another(times) => {
                let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
                io::Error::other(format!("it gave another file {times}, and is asked again in {left} s"))
            }
        })
    }

    fn note(&self, key: &str, because: Because, now: Duration) {
        let rest = match because {
            Because::NoRoom(_) | Because::Slow => REST,
            Because::Another(times) => back_off(times, random::number()),
        };
        let mut rests = self.rests.borrow_mut();
        // What gives another file again is still known then.
        rests.retain(|_, (until, _)| now < *until + LONGEST);
        rests.insert(key.to_owned(), (now + rest, because));
    }

    /// One more time `key` gave another file.
    fn note_another(&self, key: &str, now: Duration) {
        let before = match self.rests.borrow().get(key) {
            Some((_, Because::Another(times))) => *times,
            _ => 0,
        };
        self.note(key, Because::Another(before.saturating_add(1)), now);
    }

    /// How far a download of this pass has come that goes on in the next one; asked once.
    pub(super) fn goes_on(&self) -> Option<Refusal> {
        let how_far = self.goes_on.take()?;
        Some(Refusal::new("EB-apply", how_far, "the download goes on by itself"))
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
        let known = self.digests.borrow().get(path).filter(|(then, _)| *then == seen).cloned();
        if let Some((_, digest)) = known {
            return Some(digest);
        }
        let digest = sink::digest_beside(root, path).await.ok()?;
        self.digests.borrow_mut().insert(path.to_owned(), (seen, digest.clone()));
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
    /// When this pass has downloaded long enough, in time since boot.
    until: Option<Duration>,
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
        Self { client, watcher, rests: Rests::default(), patience: PATIENCE, until: None }
    }

    /// Waits for at most this long for the next piece.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Uses a memory that lives longer than this.
    #[must_use]
    pub fn resting(self, rests: &Rests) -> Self {
        Self { rests: rests.clone(), until: rests.slice.map(|slice| clock::monotonic() + slice), ..self }
    }

    fn remember(&self, url: &str, why: &(dyn error::Error + Send + Sync + 'static)) {
        let is_silent = matches!(why.downcast_ref(), Some(HttpError::Deadline(_)));
        let because = match (fullness(why), why.downcast_ref()) {
            (Some(no_room), _) => Because::NoRoom(no_room),
            (None, Some(Left::Slow { .. })) => Because::Slow,
            // Each silence holds up the pass that waits for it.
            (None, None) if is_silent && self.until.is_some() => Because::Slow,
            (None, _) => return,
        };
        self.rests.note(url, because, clock::monotonic());
    }

    fn note_slice(&self, title: &str, left: &Left, total: Option<u64>) {
        let Left::Sliced { size } = left else { return };
        let of = total.map_or_else(String::new, |total| format!(" of {}", total / 1_000_000));
        let how_far = format!("{title} is being downloaded: {}{of} MB are here", size / 1_000_000);
        self.rests.goes_on.replace(Some(how_far));
    }

    async fn bring(&self, title: &str, url: &str, sink: &mut Sink) -> Result<(), Why> {
        let client = self.client.as_ref().map_err(|text| text.clone())?;
        let mut download = client.download_rest(url, (sink.size, sink.tag.as_deref()), self.patience).await?;
        if download.status() == 416 && sink.size > 0 {
            // What an earlier try left is longer than the file.
            sink.clear()?;
            download = client.download_rest(url, (0, None), self.patience).await?;
        }
        let mut pace = Pace { until: self.until, ..Pace::begin(sink.size, clock::monotonic()) };
        match download.status() {
            206 if download.begins_at() == sink.size => {}
            // Whoever begins anew each time would never come to the end in slices.
            200 if sink.size > 0 => {
                pace.until = pace.until.filter(|_| download.can_go_on());
                sink.clear()?;
            }
            200 => {}
            status => return Err(format!("status {status}").into()),
        }
        pace.at = sink.size;
        sink.tag = download.tag();
        let total = download.length().map(|rest| sink.size.saturating_add(rest));
        sink.room(download.length()).await?;
        while let Some(bytes) = download.chunk().await? {
            let come = sink.size + bytes.len() as u64;
            sink.take(&bytes, total.map(|total| total.saturating_sub(come))).await?;
            self.watcher.progress(title, Progress { done: sink.size, total });
            if let Err(left) = pace.look(sink.size, clock::monotonic()) {
                self.note_slice(title, &left, total);
                return Err(left.into());
            }
        }
        match total {
            Some(total) if sink.size < total => {
                Err(Box::new(HttpError::Settings(format!("{} of {total} bytes came", sink.size))))
            }
            _ => Ok(()),
        }
    }
}

/// Why a download is left while bytes come.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("{came} bytes came in {} s: it is too slow", took.as_secs())]
    Slow { came: u64, took: Duration },
    #[error("{size} bytes are here, and it goes on in the next pass")]
    Sliced { size: u64 },
}

/// How fast bytes come.
struct Pace {
    since: Duration,
    at: u64,
    until: Option<Duration>,
}

impl Pace {
    fn begin(at: u64, now: Duration) -> Self {
        Self { since: now, at, until: None }
    }

    /// The end of a slice comes before that of the span that begins in it: what
    /// drips is known by then, or it would be taken up again in every pass.
    fn look(&mut self, size: u64, now: Duration) -> Result<(), Left> {
        let (came, took) = (size.saturating_sub(self.at), now.saturating_sub(self.since));
        let is_over = self.until.is_some_and(|until| now >= until);
        if took >= SPAN || is_over && took >= SPAN / 2 {
            let least = LEAST.saturating_mul(took.min(SPAN).as_secs()) / SPAN.as_secs();
            if came < least {
                return Err(Left::Slow { came, took });
            }
            (self.since, self.at) = (now, size);
        }
        if is_over { Err(Left::Sliced { size }) } else { Ok(()) }
    }
}

/// What came from one URL and was another file, in the memory of rests.
fn pair(url: &str, sha256: &str) -> String {
    format!("{url} {sha256}")
}

impl Download for Downloader<'_> {
    fn ready(&self, url: &str, sha256: &str) -> Result<(), DownloadError> {
        let failed = |error: io::Error| DownloadError { url: url.to_owned(), source: error.into() };
        let now = clock::monotonic();
        if self.until.is_some_and(|until| now >= until) {
            return Err(failed(io::Error::other(
                "the time of this pass for downloads is over; the next pass goes on",
            )));
        }
        self.rests.heed(url, now).and_then(|()| self.rests.heed(&pair(url, sha256), now)).map_err(failed)
    }

    fn gave_another(&self, url: &str, sha256: &str) {
        // A file on the disk is looked at for nothing, and a person may put the right one there.
        if !url.starts_with("file://") {
            self.rests.note_another(&pair(url, sha256), clock::monotonic());
        }
    }

    async fn download(&self, title: &str, url: &str, sink: &mut Sink) -> Result<(), DownloadError> {
        let failed = |source: Why| DownloadError { url: url.to_owned(), source };
        let brought = self.bring(title, url, sink).await;
        if let Err(why) = &brought {
            self.remember(url, &**why);
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
        rests.note("a", Because::NoRoom(Some(no_room)), begin);
        rests.note("b", Because::NoRoom(None), begin + REST / 2);
        // Whoever shares the memory, of a later pass too.
        let later = rests.clone();
        let error = later.heed("a", begin + REST / 2).unwrap_err();
        assert_eq!(fullness(&error), Some(Some(no_room)));
        assert!(later.heed("c", begin).is_ok());
        assert!(later.heed("a", begin + REST).is_ok());
        assert_eq!(fullness(&later.heed("b", begin + REST).unwrap_err()), Some(None));
        later.note("c", Because::Slow, begin + REST / 2 + REST + LONGEST);
        assert_eq!(rests.rests.borrow().len(), 1, "what rested long enough is forgotten");
    }

    #[test]
    fn what_gives_another_file_rests_twice_as_long_each_time_up_to_hours() {
        let (rests, url) = (Rests::default(), pair("https://a/k3s", "00"));
        let mut now = Duration::from_secs(5);
        let mut pauses = Vec::new();
        for _ in 0..14 {
            rests.note_another(&url, now);
            let (until, _) = rests.rests.borrow()[&url];
            assert!(rests.heed(&url, now).unwrap_err().to_string().starts_with("it gave another file "));
            pauses.push((until - now).as_secs());
            now = until;
            assert!(rests.heed(&url, now).is_ok());
        }
        assert!((45..=75).contains(&pauses[0]) && (90..=150).contains(&pauses[1]), "{pauses:?}");
        assert!(pauses[9..].iter().all(|pause| (16_200..=27_000).contains(pause)), "{pauses:?}");
        assert!(rests.heed(&pair("https://a/k3s", "01"), Duration::from_secs(6)).is_ok(), "another digest");
        assert_ne!(back_off(3, 0), back_off(3, 999), "hosts do not ask all at once");
    }

    #[test]
    fn a_slice_ends_a_download_that_comes_and_one_that_drips_is_given_up() {
        let at = Duration::from_secs;
        let mut sliced = Pace { until: Some(at(40)), ..Pace::begin(0, at(20)) };
        assert!(sliced.look(1 << 20, at(39)).is_ok());
        assert!(matches!(sliced.look(2 << 20, at(40)), Err(Left::Sliced { size }) if size == 2 << 20));
        let mut whole = Pace::begin(1000, at(20));
        assert!(whole.look(1000 + LEAST, at(40)).is_ok() && whole.look(LEAST, at(59)).is_ok());
        assert!(matches!(whole.look(1001 + LEAST, at(60)), Err(Left::Slow { came: 1, .. })));
        // A slice that is as long as the span ends first: it began before the answer came.
        let begun = |at_s| Pace { until: Some(at(40)), ..Pace::begin(0, at(at_s)) };
        let ended = begun(21).look(500, at(40)).unwrap_err();
        assert_eq!(ended.to_string(), "500 bytes came in 19 s: it is too slow");
        assert!(matches!(begun(21).look(LEAST, at(40)), Err(Left::Sliced { .. })));
        assert!(matches!(begun(35).look(500, at(40)), Err(Left::Sliced { .. })), "too short to tell");
    }
}

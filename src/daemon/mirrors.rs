//! Asks the registry mirrors of the assignment whether they answer.
//!
//! Owns one task beside the passes, and when it asks. It writes its record and
//! wakes the daemon when that changed; leaving a mirror out of `hosts.toml` is a
//! pass's own doing. One that is busy for a moment is not left out: a second
//! look gives it more time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::error::Chain;
use crate::facts::mirrors::{Mirrors as Record, State};
use crate::mirrors::{self, Track};
use crate::role::Assignment;
use crate::sys::answers::{self, Answer, Limits};
use crate::sys::{Clock, Root, random};

/// Between looks while all mirrors answer: a pull may meet a stalled one that long.
const QUIET: Duration = Duration::from_secs(15);
/// Between looks while one is away, so that it is used again soon.
const AWAY: Duration = Duration::from_secs(10);
/// Up to this part of a pause is added to it, so that a room does not ask at once.
const JITTER: u32 = 5;
/// From a look that says something new to the one that decides.
const DOUBT: Duration = Duration::from_secs(2);
/// What a mirror in a room needs, many times over.
const FIRST: Limits = Limits { connect: Duration::from_secs(1), answer: Duration::from_secs(2) };
/// For the look that decides: a mirror that a whole room pulls from is slow, not dead.
const PATIENT: Limits = Limits { connect: Duration::from_secs(2), answer: Duration::from_secs(5) };

/// The running task; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Mirrors {
    wanted: watch::Sender<BTreeSet<String>>,
    news: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Mirrors {
    /// Asks nobody yet; goes on from what an earlier daemon of this boot recorded.
    fn begin(root: &Root) -> Self {
        let (wanted, followed) = watch::channel(BTreeSet::new());
        let news = Arc::new(Notify::new());
        let looking = Looking::new(root.clone(), news.clone());
        Self { wanted, news, task: tokio::task::spawn_local(looking.run(followed)) }
    }

    fn follow(&self, assignment: &Assignment) {
        let mirrors = assignment.duty.iter().flat_map(|duty| &duty.runtime.mirrors);
        let urls = mirrors.flat_map(|mirror| &mirror.endpoints).map(ToString::to_string).collect();
        self.wanted.send_if_modified(|now| {
            let changed = *now != urls;
            *now = urls;
            changed
        });
    }
}

/// The mirrors of `assignment` are asked from now on, and no others; a pass that
/// did not come to an assignment changes nothing about it.
pub(super) fn follow(mirrors: &mut Option<Mirrors>, root: &Root, assignment: Option<&Assignment>) {
    if let Some(assignment) = assignment {
        mirrors.get_or_insert_with(|| Mirrors::begin(root)).follow(assignment);
    }
}

/// Waits until a mirror went or came back.
pub(super) async fn changed(mirrors: &Option<Mirrors>) {
    match mirrors {
        Some(mirrors) => mirrors.news.notified().await,
        None => std::future::pending().await,
    }
}

impl Drop for Mirrors {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task knows.
struct Looking {
    root: Root,
    news: Arc<Notify>,
    tracks: BTreeMap<String, Track>,
}

impl Looking {
    fn new(root: Root, news: Arc<Notify>) -> Self {
        let record = mirrors::load(&root).ok().flatten().unwrap_or_default();
        let tracks = record.into_iter().map(|(url, seen)| (url, Track::known(seen))).collect();
        Self { root, news, tracks }
    }

    async fn run(mut self, mut wanted: watch::Receiver<BTreeSet<String>>) {
        // What is asked is not known before the first pass: the record stays until then.
        if wanted.changed().await.is_err() {
            return;
        }
        loop {
            let urls = wanted.borrow_and_update().clone();
            self.tracks.retain(|url, _| urls.contains(url));
            self.look(&urls).await;
            let pause = if urls.is_empty() { Duration::MAX } else { self.pause() };
            // A change of the list ends the pause; so does the end of the daemon.
            if let Ok(Err(_)) = timeout(pause, wanted.changed()).await {
                return;
            }
        }
    }

    /// Asks all of them at once, and records what that says.
    async fn look(&mut self, urls: &BTreeSet<String>) {
        let asked = urls.iter().map(|url| async {
            let doubted = self.tracks.get(url).is_some_and(Track::is_in_doubt);
            (url.clone(), answers::ask(&asked_url(url), if doubted { PATIENT } else { FIRST }).await)
        });
        for (url, answer) in join_all(asked).await {
            self.take(&url, &answer);
        }
        self.record();
    }

    fn take(&mut self, url: &str, answer: &Answer) {
        let track = self.tracks.entry(url.to_owned()).or_default();
        let before = track.seen.as_ref().map(|seen| seen.state);
        if !track.take(answer, &Clock::System.rfc3339()) {
            return;
        }
        let Some(seen) = &track.seen else { return };
        match (seen.state, before) {
            (State::Answers, None) => {}
            (State::Answers, Some(_)) => {
                info!(EDGE_STEP = "mirrors", EDGE_REASON = %url, "mirror answers again")
            }
            _ => {
                let reason = format!("{url}: {}", seen.why);
                warn!(EDGE_STEP = "mirrors", EDGE_CODE = "EB-mirror-down", EDGE_REASON = %reason, "mirror does not answer, going on without");
            }
        }
    }

    fn record(&self) {
        let seen = self.tracks.iter().filter_map(|(url, track)| Some((url.clone(), track.seen.clone()?)));
        match mirrors::store(&self.root, &seen.collect::<Record>()) {
            Ok(change) if change.is_change() => self.news.notify_one(),
            Ok(_) => {}
            Err(error) => {
                warn!(EDGE_STEP = "mirrors", EDGE_REASON = %Chain(&error), "which mirrors answer cannot be written, retrying");
            }
        }
    }

    fn pause(&self) -> Duration {
        if self.tracks.values().any(Track::is_in_doubt) {
            return DOUBT;
        }
        let answers = |track: &Track| track.seen.as_ref().is_some_and(|seen| seen.state == State::Answers);
        let pause = if self.tracks.values().all(answers) { QUIET } else { AWAY };
        let span = u64::try_from((pause / JITTER).as_millis()).unwrap_or(0);
        pause + Duration::from_millis(random::number() % span.saturating_add(1))
    }
}

/// The begin of every registry's API, which each of them answers: 200 or 401.
fn asked_url(url: &str) -> String {
    format!("{}/v2/", url.trim_end_matches('/').trim_end_matches("/v2"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::paths;

    #[test]
    fn the_api_is_asked_wherever_it_lies() {
        for (url, asked) in [
            ("http://10.0.0.5:5000", "http://10.0.0.5:5000/v2/"),
            ("http://10.0.0.5:5000/", "http://10.0.0.5:5000/v2/"),
            ("https://cache.example/v2/", "https://cache.example/v2/"),
            ("https://cache.example/docker", "https://cache.example/docker/v2/"),
        ] {
            assert_eq!(asked_url(url), asked);
        }
    }

    #[tokio::test]
    async fn what_nobody_listens_on_is_recorded_at_once_and_forgotten_with_its_assignment() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let test = async {
            let mirrors = Mirrors::begin(&root);
            let url = "http://127.0.0.1:1".to_owned();
            mirrors.wanted.send_replace([url.clone()].into());
            timeout(Duration::from_secs(10), mirrors.news.notified()).await.unwrap();
            let seen = mirrors::load(&root).unwrap().unwrap();
            assert_eq!(seen[&url].state, State::Fails);
            mirrors.wanted.send_replace(BTreeSet::new());
            timeout(Duration::from_secs(10), mirrors.news.notified()).await.unwrap();
            assert_eq!(mirrors::load(&root).unwrap(), Some(Record::new()));
            assert!(root.exists(paths::MIRRORS));
        };
        LocalSet::new().run_until(test).await;
    }
}

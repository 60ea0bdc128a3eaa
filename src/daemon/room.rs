//! Answers the other hosts of the room.
//!
//! Owns one task that shows the site's signed statement to whoever asks for
//! this site on the node IP. It tells nothing that is a secret, never more than
//! it was sent, and to a limited number in a second: no use as an amplifier.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::enrol::peers::Told;
use crate::sys::datagram::Datagrams;
use crate::wire::statement::{PORT, QUESTION_SIZE, Question};

/// Answers in one second: a room of 40 hosts that boots at once asks five times each.
const MOST: u32 = 200;
/// From a failure, such as a node IP that is not there yet, to the next try.
const AGAIN: Duration = Duration::from_secs(5);

/// What is answered, and on which address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The node IP.
    pub(super) ip: IpAddr,
    /// The site's statement.
    pub(super) told: Told,
}

/// The running task; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    answers: watch::Sender<Option<Answer>>,
    task: JoinHandle<()>,
}

impl Room {
    /// Answers nothing yet.
    pub(super) fn begin() -> Self {
        let (answers, heard) = watch::channel(None);
        Self { answers, task: tokio::task::spawn_local(listen(heard)) }
    }

    /// What is answered from now on; `None`: nothing.
    pub(super) fn tell(&self, answer: Option<Answer>) {
        self.answers.send_if_modified(|now| {
            let changed = *now != answer;
            *now = answer;
            changed
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(mut heard: watch::Receiver<Option<Answer>>) {
    loop {
        let answer = heard.borrow_and_update().clone();
        let pause = match &answer {
            Some(answer) => {
                tokio::select! {
                    // Cancel-safe: what is lost with it is a question that is asked again.
                    () = serve(answer) => AGAIN,
                    // Cancel-safe: a watch.
                    changed = heard.changed() => if changed.is_ok() { continue } else { return },
                }
            }
            None => Duration::MAX,
        };
        // A new answer ends the pause; so does the end of the daemon.
        if let Ok(Err(_)) = timeout(pause, heard.changed()).await {
            return;
        }
    }
}

/// Ends when the socket cannot be had or fails.
async fn serve(answer: &Answer) {
    let socket = match Datagrams::bind(answer.ip, PORT).await {
        Ok(socket) => socket,
        Err(error) => {
            debug!(EDGE_STEP = "report", EDGE_REASON = %error, "the room cannot ask this host yet");
            return;
        }
    };
    let mut budget = Budget::new(Instant::now());
    let mut buffer = [0; QUESTION_SIZE + 1];
    while let Ok((size, from)) = socket.receive(&mut buffer).await {
        let Told { site, bytes, .. } = &answer.told;
        if budget.take(Instant::now()) && Question::is_asked(&buffer[..size], site, bytes.len()) {
            // Whoever did not get it asks again.
            let _ = socket.send(bytes, from).await;
        }
    }
}

/// How much is answered in the second that runs.
#[derive(Debug)]
struct Budget {
    second: Instant,
    left: u32,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { second: now, left: MOST }
    }

    /// Whether one more may be answered.
    fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let had = self.left;
        self.left = had.saturating_sub(1);
        had > 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn answer(ip: &str, bytes: &[u8]) -> Option<Answer> {
        let told = Told { site: "hz-017".to_owned(), epoch: 2, bytes: bytes.to_vec() };
        Some(Answer { ip: ip.parse().unwrap(), told })
    }

    /// The answer to `question`; `None` when there is none within a second.
    async fn ask(ip: &str, question: &[u8]) -> Option<Vec<u8>> {
        let socket = Datagrams::bind("127.0.0.1".parse().unwrap(), 0).await.unwrap();
        let mut buffer = [0; 2048];
        for _ in 0..10 {
            // The task binds on its own time: a question before that is lost.
            socket.send(question, (ip.parse::<IpAddr>().unwrap(), PORT).into()).await.unwrap();
            let received = timeout(Duration::from_millis(100), socket.receive(&mut buffer)).await;
            if let Ok(Ok((size, _))) = received {
                return Some(buffer[..size].to_vec());
            }
        }
        None
    }

    #[tokio::test]
    async fn the_own_site_is_answered_with_the_newest_statement_and_no_other_is() {
        let test = async {
            let room = Room::begin();
            assert_eq!(ask("127.64.46.1", &Question::bytes("hz-017")).await, None, "nothing to tell yet");
            room.tell(answer("127.64.46.1", b"first"));
            assert_eq!(ask("127.64.46.1", &Question::bytes("hz-017")).await.unwrap(), b"first");
            assert_eq!(ask("127.64.46.1", &Question::bytes("hz-018")).await, None);
            assert_eq!(ask("127.64.46.1", br#"{"schema":1,"site":"hz-017"}"#).await.unwrap(), b"first");
            room.tell(answer("127.64.46.1", &[b'x'; 100]));
            assert_eq!(
                ask("127.64.46.1", br#"{"schema":1,"site":"hz-017"}"#).await,
                None,
                "too short a question"
            );
            assert_eq!(ask("127.64.46.1", &Question::bytes("hz-017")).await.unwrap(), [b'x'; 100]);
            room.tell(None);
            assert_eq!(ask("127.64.46.1", &Question::bytes("hz-017")).await, None);
        };
        LocalSet::new().run_until(test).await;
    }

    #[test]
    fn a_flood_is_answered_no_more_than_a_room_needs() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!((0..1000).filter(|_| budget.take(now)).count(), 200);
        assert!(budget.take(now + Duration::from_secs(1)));
    }
}

//! Owns agreement between servers: changes of the datastore that a majority
//! of the voters holds on disk, who is reachable, who joins and who was
//! removed. It stands for etcd; it knows nothing of Kubernetes objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::paths::DataDir;
use crate::pki::Pair;
use crate::register::{Ballot, Register};
use crate::store::{self, Member, Store};
use crate::tls::Client;
use crate::{durable, log};

/// A message between members, sent to `https://<peer>:2380/peer`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// Must be the receiver's.
    pub cluster_id: String,
    /// Peer URL of the sender.
    pub from: String,
    /// The question.
    pub ask: Ask,
}

/// Questions between members.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// Are you there; ages of node heartbeats in ms.
    Status(Ballot, BTreeMap<String, u64>),
    /// First phase of a change.
    Prepare(Ballot),
    /// Second phase of a change.
    Accept(Ballot, Box<Store>),
    /// The whole value.
    Read,
    /// A learner without a vote tells its name.
    Publish(String, String),
}

/// Answers between members.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To `Status`.
    Status(Ballot, BTreeMap<String, u64>),
    /// To `Prepare` and `Read`: the accepted ballot and value.
    Value(Ballot, Box<Store>),
    /// To `Accept` and `Publish`.
    Done,
    /// A higher promise was given.
    Rejected(Ballot),
    /// The sender is no member any more.
    Removed,
    /// `request cluster ID mismatch`.
    WrongCluster,
    /// Anything else.
    Failed(String),
}

/// Who this host is among the members.
#[derive(Debug, Clone)]
pub struct Me {
    /// Member name, from `db/etcd/name`.
    pub name: String,
    /// `https://<node-ip>:2380`.
    pub peer_url: String,
    /// sqlite: no members, no peers.
    pub single: bool,
}

/// This host's part of the cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Who this host is.
    pub me: Me,
    register: Register,
    data: DataDir,
    peers: Option<(String, Pair)>,
    reach: Mutex<BTreeMap<String, Instant>>,
    seen: Mutex<BTreeMap<String, Instant>>,
    busy: Mutex<BTreeSet<String>>,
    turn: Mutex<u64>,
    removed: AtomicBool,
}

const PEER_TIMEOUT: Duration = Duration::from_secs(3);
const REACHABLE: Duration = Duration::from_secs(5);
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// k3s: pkg/etcd/etcd.go learnerMaxStallTime.
const LEARNER_STALL: u64 = 300;

pub fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// `peers`: server CA (PEM) and this host's peer certificate.
    pub fn new(me: Me, register: Register, data: DataDir, peers: Option<(String, Pair)>) -> Arc<Self> {
        let removed = AtomicBool::new(data.etcd("tombstone").exists() && !me.single);
        Arc::new(Self {
            me,
            register,
            data,
            peers,
            reach: Mutex::default(),
            seen: Mutex::default(),
            busy: Mutex::default(),
            turn: Mutex::default(),
            removed,
        })
    }

    /// This host's copy with its ballot; may be a moment behind.
    pub fn snapshot(&self) -> (Ballot, Store) {
        self.register.read()
    }

    /// Looks at this host's copy.
    pub fn with<R>(&self, look: impl FnOnce(&Store) -> R) -> R {
        self.register.with(look)
    }

    /// Whether this host was taken out of the member list.
    pub fn removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Whether this host has a vote.
    pub fn votes(&self) -> bool {
        self.me.single
            || self.with(|s| s.member(&self.me.name, &self.me.peer_url).is_some_and(|m| !m.learner))
    }

    /// Whether a majority of voters was reachable in the last seconds.
    pub fn quorum(&self) -> bool {
        if self.me.single {
            return true;
        }
        let voters = self.with(Store::voters);
        let up = self.reachable(&voters).len();
        !self.removed() && up > voters.len() / 2
    }

    fn reachable(&self, members: &[Member]) -> Vec<Member> {
        let reach = guard(&self.reach);
        let fresh = |url: &str| reach.get(url).is_some_and(|at| at.elapsed() < REACHABLE);
        let near = |m: &&Member| m.peer_url == self.me.peer_url || fresh(&m.peer_url);
        members.iter().filter(near).cloned().collect()
    }

    /// The reachable voter with the lowest name does the common work.
    fn leads(&self) -> bool {
        let voters = self.with(Store::voters);
        self.reachable(&voters).iter().map(|m| &m.name).min() == Some(&self.me.name)
    }

    /// Notes a heartbeat of a node's kubelet.
    pub fn heard(&self, node: &str) {
        guard(&self.seen).insert(node.into(), Instant::now());
    }

    /// How long ago any server heard of a node; `None`: not since this start.
    pub fn silence(&self, node: &str) -> Option<Duration> {
        guard(&self.seen).get(node).map(Instant::elapsed)
    }

    fn ages(&self) -> BTreeMap<String, u64> {
        let ms = |at: &Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        guard(&self.seen).iter().map(|(node, at)| (node.clone(), ms(at))).collect()
    }

    fn hear(&self, ages: BTreeMap<String, u64>) {
        let mut seen = guard(&self.seen);
        for (node, age) in ages {
            let at = Instant::now().checked_sub(Duration::from_millis(age));
            if let Some(at) = at
                && seen.get(&node).is_none_or(|known| *known < at)
            {
                seen.insert(node, at);
            }
        }
    }

    /// Changes the datastore. `change` may run several times and must lead to
    /// the same end; its error goes to the caller and changes nothing.
    pub fn update<R>(&self, mut change: impl FnMut(&mut Store) -> Result<R>) -> Result<R> {
        let mut turn = guard(&self.turn);
        let deadline = Instant::now() + CHANGE_LIMIT;
        let mut voters = self.with(Store::voters);
        loop {
            if self.removed() || !(self.votes() || self.me.single) {
                bail!("etcdserver: not a voting member");
            }
            let ballot = self.next_ballot(&mut turn);
            match self.attempt(&ballot, &mut voters, &mut change, &mut turn)? {
                Some(result) => return Ok(result),
                None if Instant::now() > deadline => bail!("etcdserver: request timed out"),
                None => std::thread::sleep(jitter()),
            }
        }
    }

    fn next_ballot(&self, turn: &mut u64) -> Ballot {
        *turn = (*turn).max(self.register.ballot().round) + 1;
        Ballot { round: *turn, who: self.me.name.clone() }
    }

    /// One round; `None` means try again.
    fn attempt<R>(
        &self,
        ballot: &Ballot,
        voters: &mut Vec<Member>,
        change: &mut impl FnMut(&mut Store) -> Result<R>,
        turn: &mut u64,
    ) -> Result<Option<R>> {
        let answers = self.ask_all(voters, &Ask::Prepare(ballot.clone()), std::slice::from_ref(voters));
        let Some(mut value) = self.highest(&answers, voters, turn) else { return Ok(None) };
        let before = value.voters();
        if before != *voters {
            *voters = before;
            return Ok(None);
        }
        let old = value.members.clone();
        let result = change(&mut value)?;
        let after = value.voters();
        let mut all = old;
        all.extend(value.members.iter().filter(|m| !before.contains(m)).cloned());
        let ask = Ask::Accept(ballot.clone(), Box::new(value));
        let answers = self.ask_all(&all, &ask, &[before.clone(), after.clone()]);
        self.note_rejections(&answers, turn);
        let done = |set: &[Member]| self.majority(&answers, set, |a| matches!(a, Answer::Done));
        Ok((done(&before) && done(&after)).then_some(result))
    }

    /// The value of the highest ballot that a majority reported.
    fn highest(&self, answers: &[(String, Answer)], voters: &[Member], turn: &mut u64) -> Option<Store> {
        self.note_rejections(answers, turn);
        if !self.majority(answers, voters, |a| matches!(a, Answer::Value(..))) {
            return None;
        }
        let values = answers.iter().filter_map(|(_, answer)| match answer {
            Answer::Value(ballot, value) => Some((ballot, value)),
            _ => None,
        });
        values.max_by(|a, b| a.0.cmp(b.0)).map(|(_, value)| (**value).clone())
    }

    fn note_rejections(&self, answers: &[(String, Answer)], turn: &mut u64) {
        for (_, answer) in answers {
            if let Answer::Rejected(ballot) = answer {
                *turn = (*turn).max(ballot.round);
            }
        }
    }

    fn majority(
        &self,
        answers: &[(String, Answer)],
        voters: &[Member],
        good: impl Fn(&Answer) -> bool,
    ) -> bool {
        if self.me.single {
            return answers.iter().any(|(_, answer)| good(answer));
        }
        let yes = |m: &&Member| answers.iter().any(|(url, a)| *url == m.peer_url && good(a));
        voters.iter().filter(yes).count() > voters.len() / 2
    }

    /// Asks this host and all members at once; returns as soon as each set in
    /// `quorums` has a majority of positive answers, else when all answered.
    fn ask_all(&self, members: &[Member], ask: &Ask, quorums: &[Vec<Member>]) -> Vec<(String, Answer)> {
        let own = self.answer(ask.clone());
        let mut answers = vec![(self.me.peer_url.clone(), own)];
        let (sender, receiver) = mpsc::channel();
        let others: BTreeSet<&str> =
            members.iter().map(|m| m.peer_url.as_str()).filter(|url| *url != self.me.peer_url).collect();
        for url in others {
            self.send_later(url, ask, sender.clone());
        }
        drop(sender);
        let good = |a: &Answer| matches!(a, Answer::Value(..) | Answer::Done);
        let enough =
            |answers: &[(String, Answer)]| quorums.iter().all(|set| self.majority(answers, set, good));
        while !enough(&answers) {
            match receiver.recv_timeout(PEER_TIMEOUT * 2) {
                Ok(answer) => answers.push(answer),
                Err(_) => break,
            }
        }
        answers
    }

    fn send_later(&self, url: &str, ask: &Ask, sender: mpsc::Sender<(String, Answer)>) {
        let call = self.call(url, ask);
        let url = url.to_owned();
        std::thread::spawn(move || {
            let answer = call().unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
            let _ = sender.send((url, answer));
        });
    }

    /// A call to one peer, ready to run on any thread.
    fn call(&self, url: &str, ask: &Ask) -> impl FnOnce() -> Result<Answer> + Send + 'static {
        let message = Message {
            cluster_id: self.with(|s| s.cluster_id.clone()),
            from: self.me.peer_url.clone(),
            ask: ask.clone(),
        };
        let address = url.trim_start_matches("https://").to_owned();
        let peers = self.peers.clone();
        move || {
            let (ca, pair) = peers.context("no peers")?;
            let client = Client::new(&address, &ca, Some(&pair))?.timeout(PEER_TIMEOUT);
            let reply = client.post("/peer", &message)?;
            if reply.status != 200 {
                bail!("{} {}", reply.status, reply.as_text());
            }
            Ok(serde_json::from_slice(&reply.body)?)
        }
    }

    /// Answers a peer's message.
    pub fn receive(&self, message: Message) -> Answer {
        if self.with(|s| s.cluster_id != message.cluster_id) {
            log::warn(&format!("request cluster ID mismatch (from {})", message.from));
            return Answer::WrongCluster;
        }
        let known = self.with(|s| s.members.iter().any(|m| m.peer_url == message.from));
        if let Ask::Status(ballot, ages) = &message.ask {
            if known {
                guard(&self.reach).insert(message.from, Instant::now());
                self.hear(ages.clone());
            } else if *ballot < self.register.ballot() {
                return Answer::Removed;
            }
        }
        self.answer(message.ask)
    }

    fn answer(&self, ask: Ask) -> Answer {
        let answer = match ask {
            Ask::Status(..) => Ok(Answer::Status(self.register.ballot(), self.ages())),
            Ask::Prepare(ballot) => self.register.prepare(&ballot).map(|promise| match promise {
                Ok((accepted, value)) => Answer::Value(accepted, Box::new(value)),
                Err(higher) => Answer::Rejected(higher),
            }),
            Ask::Accept(ballot, value) => self.take(&ballot, &value),
            Ask::Read => {
                let (ballot, value) = self.register.read();
                Ok(Answer::Value(ballot, Box::new(value)))
            }
            Ask::Publish(name, url) => self.update(|s| s.publish(&name, &url)).map(|()| Answer::Done),
        };
        answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")))
    }

    fn take(&self, ballot: &Ballot, value: &Store) -> Result<Answer> {
        let was = self.with(|s| s.member(&self.me.name, &self.me.peer_url).is_some());
        let answer = match self.register.accept(ballot, value)? {
            Ok(()) => Answer::Done,
            Err(higher) => Answer::Rejected(higher),
        };
        let still = value.member(&self.me.name, &self.me.peer_url).is_some();
        if matches!(answer, Answer::Done) && was && !still && !self.me.single {
            self.bury()?;
        }
        Ok(answer)
    }

    /// k3s: pkg/executor/embed/etcd/etcd.go: an empty file, one line, and the
    /// process stays up without etcd.
    fn bury(&self) -> Result<()> {
        if !self.removed.swap(true, Ordering::SeqCst) {
            durable::write(&self.data.etcd("tombstone"), b"", 0o600)?;
            log::info(
                "This node has been removed from the cluster - please restart k3s to rejoin the cluster",
            );
        }
        Ok(())
    }

    /// Starts the watch over the peers; it never ends.
    pub fn watch(self: &Arc<Self>) {
        let cluster = self.clone();
        std::thread::spawn(move || {
            loop {
                cluster.poll();
                if cluster.leads() && !cluster.removed() {
                    cluster.tend_learners();
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        });
    }

    /// One look at every peer, each on its own thread, one at a time per peer.
    fn poll(self: &Arc<Self>) {
        for member in self.with(|s| s.members.clone()) {
            let url = member.peer_url;
            if url == self.me.peer_url || !guard(&self.busy).insert(url.clone()) {
                continue;
            }
            let cluster = self.clone();
            std::thread::spawn(move || {
                if let Err(error) = cluster.visit(&url)
                    && std::env::var("K3S_STANDIN_TRACE").is_ok()
                {
                    log::line("debug", &format!("peer {url}: {error:#}"));
                }
                guard(&cluster.busy).remove(&url);
            });
        }
    }

    fn visit(&self, url: &str) -> Result<()> {
        let ask = Ask::Status(self.register.ballot(), self.ages());
        match self.call(url, &ask)()? {
            Answer::Status(ballot, ages) => {
                guard(&self.reach).insert(url.to_owned(), Instant::now());
                self.hear(ages);
                if ballot > self.register.ballot() {
                    self.pull(url)?;
                }
                self.tell_name(url)
            }
            Answer::Removed => self.bury(),
            Answer::WrongCluster => Err(anyhow!("request cluster ID mismatch")),
            other => Err(anyhow!("{other:?}")),
        }
    }

    fn pull(&self, url: &str) -> Result<()> {
        if let Answer::Value(ballot, value) = self.call(url, &Ask::Read)()? {
            self.take(&ballot, &value)?;
        }
        Ok(())
    }

    /// A joining member gets its name once it runs.
    fn tell_name(&self, url: &str) -> Result<()> {
        let unnamed =
            self.with(|s| s.members.iter().any(|m| m.peer_url == self.me.peer_url && m.name.is_empty()));
        if unnamed {
            let ask = Ask::Publish(self.me.name.clone(), self.me.peer_url.clone());
            self.call(url, &ask)()?;
        }
        Ok(())
    }

    /// Promotes a learner that has caught up, evicts one that stalls.
    fn tend_learners(&self) {
        let learners = self.with(|s| s.members.iter().filter(|m| m.learner).cloned().collect::<Vec<_>>());
        for learner in learners {
            let near = !self.reachable(std::slice::from_ref(&learner)).is_empty();
            let result = if near && !learner.name.is_empty() {
                self.update(|s| s.promote(&learner.id))
            } else if !near && store::now().saturating_sub(learner.since) > LEARNER_STALL {
                log::warn(&format!("Removed learner {} from etcd cluster", learner.name));
                self.update(|s| s.drop_learner(&learner.id))
            } else {
                Ok(())
            };
            if let Err(error) = result {
                log::warn(&format!("Failed to process learner {}: {error:#}", learner.name));
            }
        }
    }
}

/// 20 to 150 ms, so that two proposers do not collide for ever.
fn jitter() -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |age| age.subsec_nanos());
    Duration::from_millis(20 + u64::from(nanos / 1000 % 130))
}

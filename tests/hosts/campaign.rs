//! A first boot that is disturbed at a random moment, again and again: by
//! `kill -9` of the agent, and by a power cut. The host must become steady by
//! itself every time, and its files must be of one generation at every look.
//!
//! `EDGE_CAMPAIGN` says how many moments of each kind (3), `EDGE_SEED` which
//! ones; both are printed, so that a run can be repeated.

mod roles;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use edge_lab::central::TOKEN_FILE;
use edge_lab::{Host, Room, Suite, say, wait_until};
use whole::{Files, GATHER};

/// Stops the agent between two system calls: its files are looked at one by one,
/// and must not change meanwhile.
const FREEZE: &str = r#"
pid=$(systemctl show -P MainPID edge-bootstrap)
kill -STOP "$pid"
until grep -q '^State:.T' "/proc/$pid/status"; do sleep 0.01; done
cd /
"#;

/// What happens to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    Cut,
}

#[test]
fn a_killed_agent_always_ends_its_first_boot() {
    Campaign::open("kills", Blow::Kill).run();
}

#[test]
fn a_first_boot_without_power_is_always_ended_with_it() {
    Campaign::open("cuts", Blow::Cut).run();
}

/// One host that becomes another one in each round.
struct Campaign {
    room: Room,
    host: Host,
    blow: Blow,
    seed: u64,
    rounds: u64,
    limit: Duration,
}

/// What a round showed.
struct Shown {
    stage: &'static str,
    leftovers: Vec<String>,
    /// From the blow to steady.
    recovery: Duration,
    problems: Vec<String>,
}

impl std::fmt::Display for Shown {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (recovery, problems) = (self.recovery.as_secs_f64(), self.problems.len());
        write!(out, "{}, steady {recovery:.1} s later, {problems} problems", self.stage)?;
        if !self.leftovers.is_empty() {
            write!(out, ", stay: {:?}", self.leftovers)?;
        }
        self.problems.iter().try_for_each(|problem| write!(out, "\n  {problem}"))
    }
}

/// How long a first boot takes, from the agent's first act.
struct Span {
    /// Until `config.yaml` is in force.
    commit: Duration,
    /// Until the host is steady.
    steady: Duration,
}

impl Span {
    /// The moment of a round. Every other one lies in the short part in which
    /// most files are written; all reach a little beyond the end, so that the
    /// last write is among the targets.
    fn moment(&self, seed: u64, round: u64) -> Duration {
        let part = if round.is_multiple_of(2) { self.steady } else { self.commit };
        part.mul_f64(1.1 * fraction(seed, round))
    }
}

impl Campaign {
    fn open(name: &str, blow: Blow) -> Self {
        let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse().unwrap());
        let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let given = number("EDGE_SEED").unwrap_or(clock);
        // The two kinds of blow fall at different moments.
        let seed = given.wrapping_add(blow as u64 * 1_000_003);
        let rounds = number("EDGE_CAMPAIGN").unwrap_or(3);
        let room = Room::open(name).unwrap();
        let host = room.bare("c1", Suite::Trixie).unwrap();
        let limit = Duration::from_secs(if room.k3s.real { 300 } else { 90 });
        say(&format!("{name}: EDGE_SEED={given} EDGE_CAMPAIGN={rounds}"));
        let campaign = Self { room, host, blow, seed, rounds, limit };
        campaign.make_template();
        campaign
    }

    /// A disk as it leaves the work bench: the package, and nothing that ran.
    /// The agent comes back 1 s after a kill instead of 10 s, which changes
    /// nothing but the length of this test.
    fn make_template(&self) {
        self.host.boot().unwrap();
        self.host.install(self.room.package()).unwrap();
        self.host.off().unwrap();
        let quick = "[Service]\nRestartSec=1\n";
        self.host.write_file("/etc/systemd/system/edge-bootstrap.service.d/50-lab.conf", quick).unwrap();
        self.host.edit("rm -rf ./var/lib/edge-bootstrap/* ./var/log/journal/*").unwrap();
        self.host.keep_disk().unwrap();
    }

    fn run(&self) {
        self.prepare(0);
        let span = self.undisturbed();
        let mut stages = BTreeMap::<&str, u64>::new();
        let mut failures = Vec::new();
        for round in 1..=self.rounds {
            let moment = span.moment(self.seed, round);
            let shown = self.round(round, moment);
            *stages.entry(shown.stage).or_default() += 1;
            say(&format!(
                "{:?} {round}/{} at {:.3} s: {shown}",
                self.blow,
                self.rounds,
                moment.as_secs_f64()
            ));
            failures.extend(
                shown.problems.iter().map(|problem| format!("round {round} at {moment:?}: {problem}")),
            );
        }
        say(&format!(
            "{:?}: {} rounds, {} problems, by stage {stages:?}",
            self.blow,
            self.rounds,
            failures.len()
        ));
        assert!(failures.is_empty(), "{:?}\n{}", self.blow, failures.join("\n"));
    }

    /// Another host, for a site of its own, that was never on.
    fn prepare(&self, round: u64) {
        let site = format!("c-{}", round + 1);
        self.host.put_disk_back().unwrap();
        let central = &self.room.central;
        central.run(&["site", "add", &site, "--k3s-version", edge_lab::room::VERSION]).unwrap().ok().unwrap();
        let token = central.token(&site, 1, true).unwrap();
        let config = central.host_config().unwrap();
        let node = format!("\n[node]\nsite = \"{site}\"\nip-networks = [\"10.77.0.0/16\"]\n");
        self.host.write_file_mode(TOKEN_FILE, format!("{token}\n"), 0o600).unwrap();
        self.host.write_file("/etc/edge-bootstrap/config.d/20-site.toml", config + &node).unwrap();
    }

    fn undisturbed(&self) -> Span {
        self.start();
        let began = Instant::now();
        let config = self.host.seen_from_outside().unwrap().join("etc/rancher/k3s/config.yaml");
        wait_until(self.limit, "a generation is in force", || Ok(config.exists().then_some(()))).unwrap();
        let commit = began.elapsed();
        self.steady(None).unwrap();
        let steady = began.elapsed();
        say(&format!(
            "{:?}: undisturbed, committed after {commit:.2?}, steady after {steady:.2?}",
            self.blow
        ));
        assert_eq!(self.look().problems(), Vec::<String>::new(), "without any blow");
        self.host.kill().unwrap();
        Span { commit, steady }
    }

    fn round(&self, round: u64, moment: Duration) -> Shown {
        self.prepare(round);
        self.start();
        // The moment itself: nothing is waited for.
        std::thread::sleep(moment);
        let (before, struck) = self.strike();
        let began = Instant::now();
        let mut problems = before.problems();
        if let Err(error) = self.steady(struck) {
            problems.push(format!("does not converge: {error:#}\n{}", self.journal()));
        }
        let recovery = began.elapsed();
        let after = self.look();
        problems.extend(after.problems());
        problems.extend(before.torn(&after));
        if let (Some(first), last) = (before.joined(), after.joined())
            && last.as_ref() != Some(&first)
        {
            problems.push(format!("the cluster was forked: CA {first} became {last:?}"));
        }
        self.host.kill().unwrap();
        Shown { stage: before.stage(), leftovers: after.leftovers(), recovery, problems }
    }

    /// Switches the host on and waits for the first act of the agent.
    fn start(&self) {
        self.host.boot_no_wait().unwrap();
        let end = Instant::now() + self.limit;
        while !self.run_file("starts.json").is_some_and(|file| file.exists()) {
            assert!(Instant::now() < end, "the agent does not start; {}", self.journal());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Strikes, and looks at what is there before anybody repairs it; gives the
    /// id of a process that was killed.
    fn strike(&self) -> (Files, Option<u64>) {
        match self.blow {
            Blow::Kill => {
                // What a stopped process left is what a killed one leaves.
                let output = self.host.sh(&format!("{FREEZE}echo $pid\n{GATHER}kill -9 $pid\n")).unwrap();
                let (pid, files) = output.split_once('\n').unwrap_or((&output, ""));
                (Files::parse(files), pid.parse().ok())
            }
            Blow::Cut => {
                self.host.cut().unwrap();
                let files = Files::parse(&self.host.edit(GATHER).unwrap());
                self.start();
                (files, None)
            }
        }
    }

    fn look(&self) -> Files {
        Files::parse(&self.host.sh(&format!("{FREEZE}{GATHER}kill -CONT $pid\n")).unwrap())
    }

    /// Waits until an agent that is not `killed` says that the host is steady.
    fn steady(&self, killed: Option<u64>) -> anyhow::Result<()> {
        wait_until(self.limit, "the host is steady", || {
            let text =
                self.run_file("status.json").and_then(|file| std::fs::read(file).ok()).unwrap_or_default();
            let status: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            let other = status["agent"]["pid"].as_u64() != killed;
            Ok((other && status["phase"] == "steady").then_some(()))
        })
    }

    /// A file of the agent's volatile directory, as the machine sees it.
    fn run_file(&self, name: &str) -> Option<PathBuf> {
        Some(self.host.seen_from_outside()?.join("run/edge-bootstrap").join(name))
    }

    fn journal(&self) -> String {
        let script = "edge-bootstrap status; journalctl --no-pager -b -n 60 -o short-monotonic -u edge-bootstrap -u k3s -u containerd";
        self.host.exec(&["sh", "-c", script]).map(|output| output.stdout).unwrap_or_default()
    }
}

/// The `round`th number of a seed, from 0 to 1 (splitmix64).
fn fraction(seed: u64, round: u64) -> f64 {
    let mut z = seed.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let bits = u32::try_from((z ^ (z >> 31)) >> 32).unwrap();
    f64::from(bits) / f64::from(u32::MAX)
}

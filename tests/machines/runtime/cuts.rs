//! Power cuts at random moments: of a first boot, in which the pool is made and
//! the image imported, and while containers run.
//!
//! `EDGE_CUTS` says how many (2 for each kind of root disk), `EDGE_SEED` which
//! moments; both are printed.

use std::time::{Duration, Instant};

use edge_lab::{RootFs, say};
use sha2::{Digest as _, Sha256};

use super::room::{Room, Well};

/// One machine whose power is cut again and again.
struct Campaign {
    room: Room,
    seed: u64,
    cuts: u64,
    first_boot: FirstBoot,
}

/// An undisturbed one: what happened how long after the power came.
#[derive(Debug)]
struct FirstBoot {
    /// The agent started.
    start: Duration,
    /// The import began and ended.
    import: (Duration, Duration),
    /// All was well.
    well: Duration,
}

impl FirstBoot {
    fn of(room: &Room, well: &Well) -> Self {
        let journal = |text: &str| {
            let script = format!(
                "journalctl -b -o short-monotonic --no-pager _PID=1 | sed -n 's/^\\[ *\\([0-9.]*\\)\\].* {text}.*/\\1/p' | tail -n 1"
            );
            Duration::from_secs_f64(room.machine.sh(&script).unwrap().parse().unwrap())
        };
        let import = "edge-bootstrap-act-import-images";
        Self {
            start: journal("Starting edge-bootstrap.service"),
            import: (journal(&format!("Starting {import}")), journal(&format!("Finished {import}"))),
            well: well.after,
        }
    }

    /// A moment of it: every other one while the image is imported, the others at any
    /// time from the agent's start to shortly after the end.
    fn moment(&self, seed: u64, round: u64) -> Duration {
        let (from, to) =
            if round.is_multiple_of(2) { (self.start, self.well.mul_f64(1.05)) } else { self.import };
        from + to.saturating_sub(from).mul_f64(fraction(seed, round))
    }
}

#[test]
fn an_ext4_host_chooses_overlayfs_and_comes_back_from_every_power_cut() {
    Campaign::open("cut-ext4", RootFs::Ext4).run();
}

#[test]
fn a_host_on_xfs_without_file_types_makes_a_pool_and_comes_back_from_every_power_cut() {
    Campaign::open("cut-xfs", RootFs::XfsNoFtype).run();
}

impl Campaign {
    fn open(name: &str, root: RootFs) -> Self {
        let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse().unwrap());
        let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let seed = number("EDGE_SEED").unwrap_or(clock);
        let cuts = number("EDGE_CUTS").unwrap_or(2);
        say(&format!("{name}: EDGE_SEED={seed} EDGE_CUTS={cuts}"));
        let room = Room::bench(name, root);
        let began = Instant::now();
        room.machine.boot_no_wait().unwrap();
        let well = room.wait_well(began).unwrap();
        let first_boot = FirstBoot::of(&room, &well);
        say(&format!("{name}: undisturbed {first_boot:.1?};{}", well.acts));
        Self { room, seed, cuts, first_boot }
    }

    /// Every third cut falls into a first boot; those while containers run hit the same
    /// disks one after the other.
    fn run(&self) {
        let mut problems = Vec::new();
        for round in 1..=self.cuts {
            let is_first = round % 3 == 1;
            let (kind, moment) = if is_first {
                ("first boot", self.cut_first_boot(round))
            } else {
                ("running", self.cut_running(round))
            };
            let began = Instant::now();
            self.room.machine.boot_no_wait().unwrap();
            let shown = match self.room.wait_well(began) {
                Ok(well) => describe(&well),
                Err(error) => {
                    let problem = format!("round {round}: {error:#}");
                    say(&problem);
                    problems.push(problem);
                    "NOT WELL".to_owned()
                }
            };
            say(&format!(
                "{} cut {round}/{} | {kind} at {moment:.1?} | {shown}",
                self.room.snapshotter, self.cuts
            ));
        }
        say(&format!("{}: {} cuts, {} problems", self.room.snapshotter, self.cuts, problems.len()));
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    /// The machine as it left the bench, cut in the middle of its work.
    fn cut_first_boot(&self, round: u64) -> Duration {
        if self.room.machine.is_on() {
            self.room.machine.cut().unwrap();
        }
        self.room.machine.put_disks_back().unwrap();
        let moment = self.first_boot.moment(self.seed, round);
        self.room.machine.boot_no_wait().unwrap();
        // The moment itself: nothing is waited for.
        std::thread::sleep(moment);
        self.room.machine.cut().unwrap();
        moment
    }

    /// The machine as it is, on which containers come and go.
    fn cut_running(&self, round: u64) -> Duration {
        let moment = Duration::from_secs(10).mul_f64(fraction(self.seed, round));
        std::thread::sleep(moment);
        self.room.machine.cut().unwrap();
        moment
    }
}

fn describe(well: &Well) -> String {
    let failed: String = well.failed.iter().map(|text| format!(" | meanwhile {text}")).collect();
    format!("all well {:.1?} after the power came | acts:{}{failed}", well.after, well.acts)
}

/// The `round`th number of a seed, from 0 to 1.
fn fraction(seed: u64, round: u64) -> f64 {
    let sum = Sha256::digest(format!("{seed} {round}"));
    let bits = sum.iter().take(4).fold(0, |bits, byte| (bits << 8) | u32::from(*byte));
    f64::from(bits) / f64::from(u32::MAX)
}

//! Power cuts at random moments: of a first boot, in which the pool is made and
//! the image imported, and while containers run.
//!
//! `EDGE_CUTS` says how many (2 for each kind of root disk), `EDGE_SEED` which
//! moments; both are printed.

use std::time::{Duration, Instant};

use anyhow::Result;
use edge_lab::{RootFs, say, wait_until};
use sha2::{Digest as _, Sha256};

use super::room::{LONG, Room, Well};

/// One machine whose power is cut again and again.
struct Campaign {
    room: Room,
    seed: u64,
    cuts: u64,
    first_boot: FirstBoot,
}

/// What an undisturbed one showed, in time since the power came.
#[derive(Debug)]
struct FirstBoot {
    /// The agent started.
    start: Duration,
    /// The acts that are cut in their middle, and how long each took.
    acts: Vec<(&'static str, Duration)>,
    /// All was well.
    well: Duration,
}

impl FirstBoot {
    fn of(room: &Room, well: &Well) -> Self {
        let last = |words: &str| well.said.last(words).unwrap();
        let acts: &[&str] = if room.snapshotter == "devmapper" {
            &["import-images", "create-pool"]
        } else {
            &["import-images"]
        };
        let took = |act: &&'static str| {
            let unit = |word: &str| last(&format!("{word} edge-bootstrap-act-{act}"));
            (*act, unit("Finished").saturating_sub(unit("Starting")))
        };
        Self {
            start: last("Starting edge-bootstrap.service"),
            acts: acts.iter().map(took).collect(),
            well: well.after,
        }
    }

    /// What the first boot of this round is cut in: each act in turn, and after them any time
    /// from the agent's start to shortly after the end.
    fn act(&self, round: u64) -> Option<(&'static str, Duration)> {
        let turn = usize::try_from(round / 3).unwrap() % (self.acts.len() + 1);
        self.acts.get(turn).copied()
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
        say(&format!("{name}: undisturbed {first_boot:.1?}, {}", describe(&well)));
        Self { room, seed, cuts, first_boot }
    }

    /// Every third cut falls into a first boot; those while containers run hit the same
    /// disks one after the other.
    fn run(&self) {
        let (mut wells, mut problems) = (Vec::new(), Vec::new());
        for round in 1..=self.cuts {
            let is_first = round % 3 == 1;
            let moment = if is_first { self.cut_first_boot(round) } else { self.cut_running(round) };
            let well = self.come_back();
            let shown = well.as_ref().map_or_else(|error| format!("NOT WELL: {error:#}"), describe);
            let of = format!("{} cut {round}/{}", self.room.snapshotter, self.cuts);
            say(&format!("{of} | {moment} | {shown}"));
            match well {
                Ok(well) => wells.push(well),
                Err(error) => problems.push(format!("{of}: {error:#}")),
            }
        }
        say(&format!(
            "{}: {} cuts, {} problems, {}",
            self.room.snapshotter,
            self.cuts,
            problems.len(),
            count(&wells)
        ));
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    /// Boots until all is well. An emulator that crashes is one cut more, told and not
    /// counted.
    fn come_back(&self) -> Result<Well> {
        let mut crashes = 0;
        loop {
            let began = Instant::now();
            self.room.machine.boot_no_wait()?;
            let well = self.room.wait_well(began);
            match &well {
                Err(error) if self.room.machine.has_crashed() && crashes < 2 => {
                    crashes += 1;
                    say(&format!("the emulator crashed, one cut more: {error:#}"));
                }
                _ => return well,
            }
        }
    }

    /// The machine as it left the bench, cut in the middle of its work.
    fn cut_first_boot(&self, round: u64) -> String {
        let (machine, part) = (&self.room.machine, fraction(self.seed, round));
        if machine.is_on() {
            machine.cut().unwrap();
        }
        machine.put_disks_back().unwrap();
        machine.boot_no_wait().unwrap();
        // The moments themselves: nothing is waited for.
        let Some((act, took)) = self.first_boot.act(round) else {
            let FirstBoot { start, well, .. } = self.first_boot;
            let moment = start + (well.mul_f64(1.05).saturating_sub(start)).mul_f64(part);
            std::thread::sleep(moment);
            machine.cut().unwrap();
            return format!("first boot at {moment:.1?}");
        };
        // A short one may end between two looks, or before the guest answers: a late cut, too.
        let begun = || Ok((self.room.runs(act)? || self.room.has_ended(act)?).then_some(()));
        wait_until(LONG, act, begun).unwrap();
        let moment = took.mul_f64(part);
        std::thread::sleep(moment);
        let end = if self.room.runs(act).unwrap() { "" } else { " (it had ended)" };
        machine.cut().unwrap();
        format!("{act} at {moment:.1?} of {took:.1?}{end}")
    }

    /// The machine as it is, on which containers come and go.
    fn cut_running(&self, round: u64) -> String {
        let moment = Duration::from_secs(10).mul_f64(fraction(self.seed, round));
        std::thread::sleep(moment);
        self.room.machine.cut().unwrap();
        format!("running at {moment:.1?}")
    }
}

fn describe(well: &Well) -> String {
    let (said, after) = (&well.said, well.after);
    let meanwhile = said.failures().into_iter().chain(well.failed.iter().cloned());
    let meanwhile = meanwhile.chain(well.warnings.iter().map(|text| format!("the agent: {text}")));
    let meanwhile: String = meanwhile.map(|text| format!("\n    meanwhile {text}")).collect();
    format!("all well {after:.1?} after the power came | {} | {}{meanwhile}", said.milestones(), said.acts())
}

/// Seconds until all was well, and what failed on the way, of all cuts.
fn count(wells: &[Well]) -> String {
    let mut seconds: Vec<u64> = wells.iter().map(|well| well.after.as_secs()).collect();
    seconds.sort_unstable();
    let at = |part: usize| seconds.get(seconds.len().saturating_sub(1) * part / 2).copied().unwrap_or(0);
    let units: usize = wells.iter().map(|well| well.said.failures().len()).sum();
    let containers: usize = wells.iter().map(|well| well.failed.len()).sum();
    format!(
        "all well after {}, {}, {} s (least, median, most); meanwhile {units} units and {containers} containers failed",
        at(0),
        at(1),
        at(2)
    )
}

/// The `round`th number of a seed, from 0 to 1.
fn fraction(seed: u64, round: u64) -> f64 {
    let sum = Sha256::digest(format!("{seed} {round}"));
    let bits = sum.iter().take(4).fold(0, |bits, byte| (bits << 8) | u32::from(*byte));
    f64::from(bits) / f64::from(u32::MAX)
}

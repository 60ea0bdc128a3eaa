//! Laws of the outbox.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a test damages files on purpose")]

use super::*;
use crate::wire::report::{ReportedClock, ReportedCluster};

fn report(sequence: u64) -> Report {
    Report {
        sequence,
        boot_id: "b".to_owned(),
        generation: 1,
        epoch: 1,
        phase: "steady".to_owned(),
        verdict: "healthy".to_owned(),
        findings: Vec::new(),
        node: None,
        cluster: ReportedCluster::default(),
        versions: Default::default(),
        facts_digest: String::new(),
        clock: ReportedClock::default(),
    }
}

fn outbox(dir: &tempfile::TempDir, unix: u64) -> Outbox {
    Outbox::new(&Root::new(dir.path()), Clock::Fixed(unix))
}

fn waiting(outbox: &Outbox) -> Vec<u64> {
    outbox.pending().unwrap().reports.iter().map(|report| report.sequence).collect()
}

#[test]
fn what_waits_comes_back_in_order_until_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir, 0);
    assert!(waiting(&outbox).is_empty());
    for sequence in [9, 1_800_000_000, 10, 20_000_000_000] {
        outbox.push(&report(sequence)).unwrap();
    }
    assert_eq!(waiting(&outbox), [9, 10, 1_800_000_000, 20_000_000_000]);
    outbox.sent(10).unwrap();
    outbox.sent(10).unwrap();
    assert_eq!(waiting(&outbox), [9, 1_800_000_000, 20_000_000_000]);
}

#[test]
fn only_root_reads_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir, 0);
    outbox.push(&report(1)).unwrap();
    assert_eq!(outbox.root.stat(OUTBOX).unwrap().unwrap().mode, 0o700);
    assert_eq!(outbox.root.stat(&file(1)).unwrap().unwrap().mode, 0o600);
}

#[test]
fn the_oldest_goes_first_but_not_what_it_alone_says_of_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir, 0);
    for sequence in 1..=100 {
        let mut report = report(sequence);
        // 5 to 8 say the same; the last that says it is enough.
        report.cluster.init_started = (5..=8).contains(&sequence).then_some(1);
        outbox.push(&report).unwrap();
    }
    let expected: Vec<u64> = [8].into_iter().chain(69..=100).collect();
    assert_eq!(waiting(&outbox), expected);
}

#[test]
fn there_is_an_end_to_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir, 0);
    for sequence in 1..=100 {
        let mut report = report(sequence);
        report.cluster.init_started = Some(sequence);
        outbox.push(&report).unwrap();
    }
    assert_eq!(waiting(&outbox).len(), 2 * KEEP);
}

#[test]
fn damaged_files_go_to_quarantine_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&dir, 0);
    for round in 0..2 {
        for sequence in 1..=3 {
            outbox.push(&report(sequence)).unwrap();
        }
        let whole = outbox.root.read(&file(1)).unwrap().unwrap();
        std::fs::write(outbox.root.path(&file(2)), &whole[..whole.len() / 2]).unwrap();
        // Whole, but under the name of another.
        std::fs::write(outbox.root.path(&file(3)), &whole).unwrap();
        let pending = outbox.pending().unwrap();
        assert_eq!(pending.reports, [report(1)], "round {round}");
        assert_eq!(pending.damaged.len(), 2, "{pending:?}");
        assert!(pending.damaged.iter().all(|damaged| damaged.moved_to.is_some()), "{pending:?}");
        assert_eq!(waiting(&outbox), [1]);
    }
    assert_eq!(outbox.root.list(QUARANTINE).unwrap().len(), 4, "nothing in quarantine is overwritten");
}

#[test]
fn numbers_rise_across_starts_and_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..4 {
        let mut outbox = outbox(&dir, 0);
        for _ in 0..BLOCK + 3 {
            let number = outbox.number();
            assert!(number > last, "{number} after {last}");
            last = number;
        }
    }
}

#[test]
fn two_processes_never_share_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let (mut daemon, mut by_hand) = (outbox(&dir, 0), outbox(&dir, 0));
    let mut last = 0;
    for turn in 0..200 {
        let number = if turn % 3 == 0 { by_hand.number() } else { daemon.number() };
        assert!(number > last, "{number} after {last} in turn {turn}");
        last = number;
    }
}

#[test]
fn a_damaged_or_lost_counter_does_not_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = outbox(&dir, 0);
    let last = (0..BLOCK * 2).map(|_| first.number()).max().unwrap();
    std::fs::write(first.root.path(&counter()), b"").unwrap();
    assert!(outbox(&dir, 0).number() > last, "the earlier copy and one block");

    let mut second = outbox(&dir, 1_800_000_000);
    let last = second.number();
    std::fs::remove_dir_all(second.root.path(OUTBOX)).unwrap();
    assert!(outbox(&dir, last + 60).number() > last, "the clock");

    second.push(&report(last + 100)).unwrap();
    assert!(outbox(&dir, 0).number() > last + 100, "what waits");
}

#[test]
fn a_disk_that_takes_nothing_does_not_silence_the_host() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the directories should be: every write fails, also for root.
    std::fs::write(dir.path().join("var"), b"").unwrap();
    let mut outbox = outbox(&dir, 1000);
    let numbers: Vec<u64> = (0..3).map(|_| outbox.number()).collect();
    assert_eq!(numbers, [1001, 1002, 1003]);
    assert!(outbox.push(&report(1001)).is_err());
}

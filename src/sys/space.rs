//! How much of a filesystem the agent leaves free.
//!
//! Owns the rule and nothing else: who asks brings the numbers, and says what
//! does not fit. No I/O here.

/// Always left free: a node writes its datastore, its logs and its leases.
const LEAST: u64 = 1 << 30;
/// More is never kept: a tenth of a large disk is room that images may have.
const MOST: u64 = 5 << 30;

/// Stays free where a program of k3s is brought: a disk that is nearly full
/// must not keep a node from its update.
const PROGRAM: u64 = 256 << 20;

/// Bytes that stay free on a filesystem of `total` bytes whatever the agent
/// brings: a tenth of it, at least 1 GiB and at most 5 GiB; of one smaller than
/// 2 GiB, half of it. Up to 100 GiB that is no less than the 5 % below which
/// the kubelet of k3s evicts pods (k3s: `pkg/daemons/agent/agent.go`).
#[must_use]
pub fn floor(total: u64) -> u64 {
    (total / 10).clamp(LEAST, MOST).min(total / 2)
}

/// As [`floor`], where the program itself is brought: 256 MiB; of a filesystem
/// smaller than 512 MiB, half of it.
#[must_use]
pub fn program_floor(total: u64) -> u64 {
    PROGRAM.min(total / 2)
}

/// Whether `more` bytes fit on a filesystem of `total` bytes of which `free`
/// are free for everybody (without root's reserve), and the floor stays.
#[must_use]
pub fn fits(more: u64, (free, total): (u64, u64)) -> bool {
    leaves(more, free, floor(total))
}

/// Whether `stays` bytes of `free` are left beside `more`.
#[must_use]
pub fn leaves(more: u64, free: u64, stays: u64) -> bool {
    free.saturating_sub(more) >= stays && free >= more
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_tenth_stays_free_within_one_and_five_gib() {
        let totals = [0, GIB, 2 * GIB, 8 * GIB, 20 * GIB, 50 * GIB, 252 * GIB, u64::MAX];
        let floors = [0, GIB / 2, GIB, GIB, 2 * GIB, 5 * GIB, 5 * GIB, 5 * GIB];
        assert_eq!(totals.map(floor), floors);
        assert_eq!([0, 256 << 20, GIB, u64::MAX].map(program_floor), [0, 128 << 20, PROGRAM, PROGRAM]);
    }

    #[test]
    fn what_would_go_below_the_floor_does_not_fit() {
        let disk = (24 * GIB, 252 * GIB);
        assert!(fits(19 * GIB, disk));
        assert!(!fits(19 * GIB + 1, disk));
        assert!(!fits(u64::MAX, disk));
        assert!(!fits(0, (GIB, 252 * GIB)), "nothing more fits where the floor is gone");
        assert!(!fits(1, (0, 0)));
    }
}

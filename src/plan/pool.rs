//! Numbers of a thin pool: sizes of a new one, what a full one is given, how long
//! work on it may take, and how often it is repaired.
//!
//! Owns the numbers. Pure; what is done with them is `boot/storage`'s.

use std::time::Duration;

/// Metadata never need more: containerd holds some hundred devices, and
/// `thin_metadata_size` asks 264 MiB for 1 TiB in chunks of 128 KiB.
const METADATA_MOST: u64 = 1 << 30;
/// Less holds too few devices.
const METADATA_LEAST: u64 = 16 << 20;
/// Room below which no pool is made: a base device of one image would fill it.
pub const LEAST: u64 = 512 << 20;
/// Data and metadata from which a pool is given more, in percent.
pub const DATA_FULL: u64 = 80;
/// As [`DATA_FULL`], for metadata: these fail harder.
pub const METADATA_FULL: u64 = 70;

/// Sizes in bytes, each whole extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of the data.
    pub data: u64,
    /// Of the metadata, and of the spare beside them.
    pub metadata: u64,
}

/// What a new pool takes of `free` bytes in extents of `extent` bytes: metadata
/// of a twentieth, 16 MiB at least and 1 GiB at most; a spare of the same size,
/// with which LVM repairs; a twentieth stays free, for the day it runs full.
/// `None` when that is too little.
#[must_use]
pub fn sizes(free: u64, extent: u64) -> Option<Sizes> {
    if extent == 0 || free < LEAST {
        return None;
    }
    let metadata = up((free / 20).clamp(METADATA_LEAST, METADATA_MOST), extent);
    let kept = up(free / 20, extent);
    let data = down(free.checked_sub(2 * metadata + kept)?, extent);
    (data > 0).then_some(Sizes { data, metadata })
}

/// What a pool is given: bytes to add; 0: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth {
    /// To the data.
    pub data: u64,
    /// To the metadata.
    pub metadata: u64,
}

/// A pool as its growth sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Sizes in bytes.
    pub size: Sizes,
    /// Data in use and in all, in blocks.
    pub data: (u64, u64),
    /// Metadata in use and in all, in blocks.
    pub metadata: (u64, u64),
}

impl Fill {
    /// Whether the data are full enough for more.
    #[must_use]
    pub fn wants_data(&self) -> bool {
        percent(self.data) >= DATA_FULL
    }

    /// Whether the metadata are full enough for more.
    #[must_use]
    pub fn wants_metadata(&self) -> bool {
        percent(self.metadata) >= METADATA_FULL
    }
}

/// How much of `free` bytes a pool is given. Metadata first, doubled, half of
/// the room at most because LVM enlarges its spare by as much; data by a fifth.
#[must_use]
pub fn growth(fill: &Fill, free: u64, extent: u64) -> Growth {
    if extent == 0 {
        return Growth::default();
    }
    let metadata = if fill.wants_metadata() { fill.size.metadata.min(METADATA_MOST) } else { 0 };
    let metadata = down(up(metadata, extent).min(free / 2), extent);
    let left = free.saturating_sub(2 * metadata);
    let data = if fill.wants_data() { up(fill.size.data / 5, extent) } else { 0 };
    Growth { data: down(data.min(left), extent), metadata }
}

/// Share of `(used, all)` in whole percent; 0 of nothing.
#[must_use]
pub fn percent((used, all): (u64, u64)) -> u64 {
    u64::try_from(u128::from(used) * 100 / u128::from(all.max(1))).unwrap_or(u64::MAX)
}

fn up(bytes: u64, extent: u64) -> u64 {
    bytes.div_ceil(extent).saturating_mul(extent)
}

fn down(bytes: u64, extent: u64) -> u64 {
    bytes / extent * extent
}

/// Length in bytes of each end of a device that must be blank.
pub const END: u64 = 1 << 20;
/// Where LVM writes the header of its metadata area, before it writes its label.
const LVM_HEADER: std::ops::Range<usize> = 4096..4608;
const LVM_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";

/// Whether an end of a device holds nothing: all zero. At its begin an empty
/// header of LVM counts as nothing too: it is what a cut leaves between the two
/// writes of pvcreate, when no label says yet that it is one.
#[must_use]
pub fn is_blank(end: &[u8], is_first: bool) -> bool {
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if zero(end) {
        return true;
    }
    let (before, rest) = end.split_at(LVM_HEADER.start.min(end.len()));
    let (header, after) = rest.split_at(LVM_HEADER.len().min(rest.len()));
    let is_header = header.get(4..4 + LVM_MAGIC.len()) == Some(LVM_MAGIC);
    is_first && is_header && zero(before) && zero(after)
}

/// How long a program may take that checks or repairs metadata of `metadata`
/// bytes: ten minutes, and ten more for each GiB begun. That is 1.7 MiB/s, which
/// slow disks read at random.
#[must_use]
pub fn patience(metadata: u64) -> Duration {
    Duration::from_mins(10 + 10 * metadata.div_ceil(1 << 30).min(METADATA_LARGEST >> 30))
}

/// How long an act may take in all before systemd ends it: longer than all its
/// programs, so that it is they who run out of time and the act can say so.
#[must_use]
pub fn patience_with_an_act() -> Duration {
    PROGRAMS * patience(METADATA_LARGEST)
}

/// Programs of one act that check metadata, at most. A repair: down, up, down,
/// repair, up, and to clear `needs_check` down and up.
const PROGRAMS: u32 = 7;
/// The kernel takes no more (kernel: `THIN_METADATA_MAX_SECTORS`, just below).
const METADATA_LARGEST: u64 = 16 << 30;
/// How often a repair is begun within [`TERM`].
const OFTEN: usize = 2;
/// In seconds.
const TERM: u64 = 86_400;

/// Why no further repair is begun, as the end of a sentence; `None`: it may be.
/// `begun` are those that have not brought the pool up, each with its boot and
/// its time in seconds since 1970; `past` is a time that is surely past, so that
/// a clock that jumped ends no term.
#[must_use]
pub fn repaired_enough(begun: &[(&str, u64)], boot_id: &str, past: u64) -> Option<&'static str> {
    if begun.iter().any(|(boot, _)| *boot == boot_id) {
        return Some("in this boot");
    }
    let recent = begun.iter().filter(|(_, at)| past < at.saturating_add(TERM)).count();
    (recent >= OFTEN).then_some("twice within a day")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn a_large_pool_has_a_gibibyte_of_metadata_and_a_small_one_a_twentieth() {
        let large = sizes(1000 * GIB, 4 * MIB).unwrap();
        assert_eq!((large.metadata, large.data), (GIB, 948 * GIB));
        let small = sizes(2 * GIB, 4 * MIB).unwrap();
        assert_eq!((small.metadata, small.data), (104 * MIB, 1736 * MIB));
        assert_eq!(sizes(GIB / 4, 4 * MIB), None);
        assert_eq!(sizes(GIB, 0), None);
    }

    #[test]
    fn a_full_pool_is_given_room_and_a_well_one_nothing() {
        let size = Sizes { data: 1000 * MIB, metadata: 16 * MIB };
        let well = Fill { size, data: (79, 100), metadata: (69, 100) };
        assert_eq!(growth(&well, GIB, 4 * MIB), Growth::default());
        let full = Fill { data: (80, 100), ..well };
        assert_eq!(growth(&full, GIB, 4 * MIB), Growth { data: 200 * MIB, metadata: 0 });
        let both = Fill { metadata: (70, 100), ..full };
        assert_eq!(growth(&both, GIB, 4 * MIB), Growth { data: 200 * MIB, metadata: 16 * MIB });
        assert_eq!(growth(&both, 40 * MIB, 4 * MIB), Growth { data: 8 * MIB, metadata: 16 * MIB });
        assert_eq!(growth(&both, 3 * MIB, 4 * MIB), Growth::default());
    }

    #[test]
    fn only_zeroes_and_an_unlabelled_header_of_lvm_are_blank() {
        let mut end = vec![0_u8; 8192];
        assert!(is_blank(&end, true) && is_blank(&[], false));
        end[4096..4100].copy_from_slice(&[1, 2, 3, 4]);
        end[4100..4116].copy_from_slice(LVM_MAGIC);
        assert!(is_blank(&end, true) && !is_blank(&end, false));
        end[512] = b'L';
        assert!(!is_blank(&end, true));
        assert!(!is_blank(&[0, 0, 7], true));
    }

    #[test]
    fn large_metadata_have_more_time_and_an_act_more_than_its_programs() {
        assert_eq!(patience(8 * MIB), Duration::from_mins(20));
        assert_eq!(patience(2 * GIB), Duration::from_mins(30));
        assert_eq!(patience(u64::MAX), Duration::from_mins(170));
        assert!(patience_with_an_act() >= 7 * patience(16 * GIB));
    }

    #[test]
    fn a_repair_is_begun_once_in_a_boot_and_twice_a_day_by_what_is_surely_past() {
        let day = 86_400;
        assert_eq!(repaired_enough(&[], "one", 5), None);
        assert_eq!(repaired_enough(&[("one", 5)], "one", 9 * day), Some("in this boot"));
        assert_eq!(repaired_enough(&[("one", 5)], "two", 6), None);
        let twice = [("one", 5), ("two", 9)];
        assert_eq!(repaired_enough(&twice, "three", 4 + day), Some("twice within a day"));
        assert_eq!(repaired_enough(&twice, "three", 5 + day), None);
    }

    proptest! {
        #[test]
        fn no_size_exceeds_the_room(free in 0..64 * GIB, exponent in 16_u32..28) {
            let extent = 1_u64 << exponent;
            if let Some(sizes) = sizes(free, extent) {
                prop_assert!(sizes.data + 2 * sizes.metadata + free / 20 <= free);
                prop_assert!(sizes.data % extent == 0 && sizes.metadata % extent == 0);
            }
        }

        #[test]
        fn no_growth_exceeds_the_room(
            free in 0..GIB, data in 1..64_u64, metadata in 1..64_u64, used in 0..=100_u64, meta in 0..=100_u64,
        ) {
            let size = Sizes { data: data * 16 * MIB, metadata: metadata * 4 * MIB };
            let fill = Fill { size, data: (used, 100), metadata: (meta, 100) };
            let given = growth(&fill, free, 4 * MIB);
            prop_assert!(given.data + 2 * given.metadata <= free);
        }
    }
}

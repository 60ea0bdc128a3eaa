//! Whether a bbolt database is whole, by its headers.
//!
//! Owns the layout of the two meta pages and of a page's header (bbolt:
//! internal/common/meta.go, page.go, db.go), and the few pages that tell whether
//! the database can be opened: the metas, the root and the list of free pages.
//! Pure and total; where the bytes come from is the caller's. Never repairs: a
//! database that is cut open and sewn up again is trusted less than a new one
//! (bbolt#883).

pub mod tree;

use super::storage::DatabaseState;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Length of a page's header; a meta follows it.
const HEADER: usize = 16;
/// Length of a meta without its checksum, and with it.
const META: (usize, usize) = (56, 64);
/// Page sizes that bbolt looks for when the first meta is damaged (bbolt: db.go
/// `getPageSizeFromSecondMeta`).
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=24;
/// The list of free pages is not stored (bbolt: `PgidNoFreelist`).
const NO_FREELIST: u64 = u64::MAX;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const FREELIST: u16 = 0x10;
/// How often a database is read that somebody writes meanwhile.
const TRIES: u32 = 5;

/// The bytes of one database file, which somebody may be writing.
pub trait Bytes {
    /// Why they could not be read.
    type Error;

    /// Its length now.
    ///
    /// # Errors
    /// When it cannot be told.
    fn length(&mut self) -> Result<u64, Self::Error>;

    /// `length` bytes from `offset` on; fewer at the end of the file.
    ///
    /// # Errors
    /// When they cannot be read.
    fn at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Self::Error>;
}

/// What a valid meta page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: u64,
    root: u64,
    freelist: u64,
    /// The first page number that was never used.
    high_water: u64,
    txid: u64,
}

/// Whether the database can be opened and its root be read. A file that is
/// written meanwhile is never called damaged: pages of the newest transaction
/// are written anew only after a newer one was committed (bbolt: tx.go
/// `Commit`), so damage counts only when the newest meta and the length are the
/// same before and after.
///
/// # Errors
/// What the bytes could not be read for.
pub fn judge<B: Bytes>(bytes: &mut B) -> Result<DatabaseState, B::Error> {
    for _ in 0..TRIES {
        let meta = newest(bytes)?;
        // After the meta: a file grows before a meta says so, and never shrinks.
        let length = bytes.length()?;
        let state = judge_once(bytes, meta, length)?;
        if state == DatabaseState::Whole || (newest(bytes)? == meta && bytes.length()? == length) {
            return Ok(state);
        }
    }
    Ok(DatabaseState::Whole)
}

fn judge_once<B: Bytes>(bytes: &mut B, meta: Option<Meta>, length: u64) -> Result<DatabaseState, B::Error> {
    let damaged = |words: String| Ok(DatabaseState::Damaged(words));
    if length == 0 {
        return Ok(DatabaseState::Empty);
    }
    let Some(meta) = meta else {
        return damaged(format!("neither of its two headers is valid ({length} bytes)"));
    };
    let needed = meta.high_water.saturating_mul(meta.page_size);
    if length < needed {
        return damaged(format!("it has {length} bytes and its header counts {needed}"));
    }
    if !is_page(bytes, meta, meta.root, &[LEAF, BRANCH])? {
        return damaged(format!("page {} is not the root that its header names", meta.root));
    }
    if meta.freelist != NO_FREELIST && !is_page(bytes, meta, meta.freelist, &[FREELIST])? {
        return damaged(format!(
            "page {} is not the list of free pages that its header names",
            meta.freelist
        ));
    }
    Ok(DatabaseState::Whole)
}

/// The valid meta of the highest transaction.
fn newest<B: Bytes>(bytes: &mut B) -> Result<Option<Meta>, B::Error> {
    let first = meta_at(bytes, 0)?;
    let second = match first {
        Some(meta) => meta_at(bytes, meta.page_size)?,
        None => second(bytes)?,
    };
    Ok(first.into_iter().chain(second).max_by_key(|meta| meta.txid))
}

/// The second meta, where the first one does not tell the size of a page.
fn second<B: Bytes>(bytes: &mut B) -> Result<Option<Meta>, B::Error> {
    for size in PAGE_SIZES.map(|bits| 1_u64 << bits) {
        let meta = meta_at(bytes, size)?.filter(|meta| meta.page_size == size);
        if meta.is_some() {
            return Ok(meta);
        }
    }
    Ok(None)
}

fn meta_at<B: Bytes>(bytes: &mut B, offset: u64) -> Result<Option<Meta>, B::Error> {
    let page = bytes.at(offset, HEADER + META.1)?;
    Ok(page.get(HEADER..).and_then(parse))
}

fn parse(bytes: &[u8]) -> Option<Meta> {
    let is_meta = number32(bytes, 0)? == MAGIC && number32(bytes, 4)? == VERSION;
    let is_sound = number64(bytes, META.0)? == fnv64a(bytes.get(..META.0)?);
    let size = number32(bytes, 8)?;
    let is_size = size.is_power_of_two() && PAGE_SIZES.contains(&size.trailing_zeros());
    (is_meta && is_sound && is_size).then_some(())?;
    Some(Meta {
        page_size: size.into(),
        root: number64(bytes, 16)?,
        freelist: number64(bytes, 32)?,
        high_water: number64(bytes, 40)?,
        txid: number64(bytes, 48)?,
    })
}

/// Whether page `id` says that it is this page, and of one of these kinds.
fn is_page<B: Bytes>(bytes: &mut B, meta: Meta, id: u64, kinds: &[u16]) -> Result<bool, B::Error> {
    if id < 2 || id >= meta.high_water {
        return Ok(false);
    }
    let header = bytes.at(id.saturating_mul(meta.page_size), HEADER)?;
    Ok(number64(&header, 0) == Some(id) && number16(&header, 8).is_some_and(|kind| kinds.contains(&kind)))
}

/// bbolt writes the numbers of the machine that it runs on.
fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// FNV-1a, 64 bits.
fn fnv64a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::facts) struct Memory(pub Vec<u8>);

    impl Bytes for Memory {
        type Error = std::convert::Infallible;

        fn length(&mut self) -> Result<u64, Self::Error> {
            Ok(self.0.len() as u64)
        }

        fn at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Self::Error> {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
            Ok(self.0[from..(from + length).min(self.0.len())].to_vec())
        }
    }

    fn state(bytes: &[u8]) -> DatabaseState {
        judge(&mut Memory(bytes.to_vec())).unwrap()
    }

    fn reason(bytes: &[u8]) -> String {
        match state(bytes) {
            DatabaseState::Damaged(reason) => reason,
            other => format!("{other:?}"),
        }
    }

    pub(in crate::facts) fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_page(file: &mut [u8], size: usize, id: u64, kind: u16) {
        let at = usize::try_from(id).unwrap() * size;
        put(file, at, &id.to_ne_bytes());
        put(file, at + 8, &kind.to_ne_bytes());
    }

    pub(super) fn put_meta(file: &mut [u8], size: usize, slot: usize, meta: &Meta) {
        let at = slot * size + HEADER;
        put(file, at, &MAGIC.to_ne_bytes());
        put(file, at + 4, &VERSION.to_ne_bytes());
        put(file, at + 8, &u32::try_from(size).unwrap().to_ne_bytes());
        for (offset, number) in [(16, meta.root), (32, meta.freelist), (40, meta.high_water), (48, meta.txid)]
        {
            put(file, at + offset, &number.to_ne_bytes());
        }
        let sum = fnv64a(&file[at..at + META.0]);
        put(file, at + META.0, &sum.to_ne_bytes());
    }

    /// A database as bbolt begins one, and one transaction later.
    pub(crate) fn whole(size: usize) -> Vec<u8> {
        let mut file = vec![0; 6 * size];
        let first = Meta { page_size: size as u64, root: 3, freelist: 2, high_water: 4, txid: 0 };
        put_meta(&mut file, size, 0, &first);
        put_meta(&mut file, size, 1, &Meta { root: 4, freelist: 5, high_water: 6, txid: 1, ..first });
        for (id, kind) in [(2, FREELIST), (3, LEAF), (4, LEAF), (5, FREELIST)] {
            put_page(&mut file, size, id, kind);
        }
        file
    }

    #[test]
    fn the_sum_is_that_of_the_format() {
        // Published values of FNV-1a.
        assert_eq!(fnv64a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv64a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_database_is_whole_with_any_size_of_a_page() {
        for size in [1024, 4096, 16_384, 65_536] {
            assert_eq!(state(&whole(size)), DatabaseState::Whole, "{size}");
            let mut file = whole(size);
            file[0..80].fill(0);
            assert_eq!(state(&file), DatabaseState::Whole, "{size}: the second header is enough");
        }
    }

    #[test]
    fn a_list_of_free_pages_that_is_not_stored_is_no_damage() {
        let mut file = whole(4096);
        let meta = Meta { page_size: 4096, root: 4, freelist: NO_FREELIST, high_water: 6, txid: 2 };
        put_meta(&mut file, 4096, 0, &meta);
        assert_eq!(state(&file), DatabaseState::Whole);
    }

    #[test]
    fn each_damage_is_told() {
        assert_eq!(state(&[]), DatabaseState::Empty);
        let file = whole(4096);
        assert!(reason(&file[..4096 * 5]).contains("header counts 24576"));
        assert!(reason(&file[..300]).contains("has 300 bytes"));
        assert!(reason(&vec![0; 24_576]).contains("neither of its two headers"));
        let broken = |id: u64, kind| {
            let mut file = whole(4096);
            put_page(&mut file, 4096, id, kind);
            reason(&file)
        };
        assert!(broken(4, FREELIST).contains("page 4 is not the root"));
        assert!(broken(5, 0).contains("page 5 is not the list of free pages"));
        // A page of an older transaction may hold anything.
        assert_eq!(broken(3, 0), "Whole");
    }

    #[test]
    fn a_newest_header_that_is_torn_leaves_the_one_before_in_force() {
        let mut file = whole(4096);
        file[4096 + HEADER + 20] ^= 1;
        assert_eq!(state(&file), DatabaseState::Whole);
        put_page(&mut file, 4096, 3, 0);
        assert!(reason(&file).contains("page 3"));
    }

    /// A writer that commits between any two reads.
    struct Busy(Vec<Vec<u8>>, usize);

    impl Bytes for Busy {
        type Error = std::convert::Infallible;

        fn length(&mut self) -> Result<u64, Self::Error> {
            Ok(self.0[0].len() as u64)
        }

        fn at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Self::Error> {
            self.1 += 1;
            let now = self.1 / 3 % self.0.len();
            Memory(self.0[now].clone()).at(offset, length)
        }
    }

    #[test]
    fn a_database_that_is_written_meanwhile_is_never_damaged() {
        let mut states = Vec::new();
        for txid in 2..40_u64 {
            let mut file = whole(4096);
            let (root, freelist) = if txid % 2 == 0 { (2, 3) } else { (4, 5) };
            let meta = Meta { page_size: 4096, root, freelist, high_water: 6, txid };
            put_meta(&mut file, 4096, usize::try_from(txid % 2).unwrap(), &meta);
            [2, 3, 4, 5].iter().for_each(|id| put_page(&mut file, 4096, *id, 0));
            put_page(&mut file, 4096, root, LEAF);
            put_page(&mut file, 4096, freelist, FREELIST);
            states.push(file);
        }
        for start in 0..20 {
            assert_eq!(judge(&mut Busy(states.clone(), start)).unwrap(), DatabaseState::Whole, "{start}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert_ne!(state(&bytes), DatabaseState::Whole);
        }

        // Cut below what the older header counts: with the newest one torn, a file of
        // four pages is whole as it was a transaction before.
        #[test]
        fn any_flipped_byte_and_any_cut_is_judged(at in 0_usize..24_576, byte in any::<u8>(), cut in 0_usize..16_384) {
            let mut file = whole(4096);
            file[at] = byte;
            let _ = state(&file);
            prop_assert_eq!(state(&file[..cut]) == DatabaseState::Whole, false);
        }
    }
}

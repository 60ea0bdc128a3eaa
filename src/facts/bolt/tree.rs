//! What lies in one bucket of a bbolt database.
//!
//! Owns the layout of branch and leaf pages and of nested buckets (bbolt:
//! internal/common/page.go, inode.go, bucket.go). Pure and total: whatever the
//! bytes say, it ends, and takes a bounded part of them. Never writes.

use super::{BRANCH, Bytes, HEADER, LEAF, Meta, TRIES, newest, number16, number32, number64};

/// Length of an element of a branch or leaf page, without its key and value.
const ELEMENT: usize = 16;
/// The value of a leaf's element is a bucket.
const IS_BUCKET: u32 = 1;
/// Length of a bucket's header; an inline page follows where it has no root.
const BUCKET: usize = 16;
/// Bytes of pages that are read at most.
const MOST: u64 = 64 << 20;

/// One bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The last number that it gave away.
    pub sequence: u64,
    /// What is in it, by pages.
    pub items: Vec<Item>,
}

/// One key of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub key: Vec<u8>,
    /// Its value; of a bucket in it the header, and its page where that is inline.
    pub value: Vec<u8>,
    /// Where the value begins in the file.
    pub at: u64,
    /// Whether it is a bucket.
    pub is_bucket: bool,
}

/// What was found at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The bucket.
    Bucket(Bucket),
    /// There is none.
    Nothing,
    /// The database is not readable here, or is written all the time.
    Unsound,
}

/// The bucket that `path` leads to, from the root on. Without `with_items` what is
/// in it is not read.
///
/// # Errors
/// What the bytes could not be read for.
pub fn bucket<B: Bytes>(bytes: &mut B, path: &[&str], with_items: bool) -> Result<Found, B::Error> {
    for _ in 0..TRIES {
        let Some(meta) = newest(bytes)? else { return Ok(Found::Unsound) };
        let found = Walk { bytes, meta, left: MOST }.find(path, with_items)?;
        if newest(bytes)? == Some(meta) {
            return Ok(found.unwrap_or(Found::Unsound));
        }
    }
    Ok(Found::Unsound)
}

struct Walk<'a, B> {
    bytes: &'a mut B,
    meta: Meta,
    /// Bytes that may still be read.
    left: u64,
}

impl<B: Bytes> Walk<'_, B> {
    /// `None`: a page is none, or there are too many.
    fn find(mut self, path: &[&str], with_items: bool) -> Result<Option<Found>, B::Error> {
        let Some(items) = self.leaves(self.meta.root)? else { return Ok(None) };
        let mut here = Bucket { sequence: 0, items };
        for (depth, name) in path.iter().enumerate() {
            let is_it = |item: &&Item| item.is_bucket && item.key == name.as_bytes();
            let Some(item) = here.items.iter().find(is_it) else { return Ok(Some(Found::Nothing)) };
            let is_read = with_items || depth + 1 < path.len();
            let Some(inner) = self.open(item, is_read)? else { return Ok(None) };
            here = inner;
        }
        Ok(Some(Found::Bucket(here)))
    }

    fn open(&mut self, item: &Item, is_read: bool) -> Result<Option<Bucket>, B::Error> {
        let Some((root, sequence)) = number64(&item.value, 0).zip(number64(&item.value, 8)) else {
            return Ok(None);
        };
        let items = match root {
            _ if !is_read => Some(Vec::new()),
            0 => {
                let at = item.at.saturating_add(BUCKET as u64);
                item.value.get(BUCKET..).and_then(|page| leaf(page, at))
            }
            root => self.leaves(root)?,
        };
        Ok(items.map(|items| Bucket { sequence, items }))
    }

    /// All items below page `root`.
    fn leaves(&mut self, root: u64) -> Result<Option<Vec<Item>>, B::Error> {
        let mut items = Vec::new();
        let mut pages = vec![root];
        while let Some(id) = pages.pop() {
            let Some((page, at)) = self.page(id)? else { return Ok(None) };
            let more = match kind(&page) {
                Some(BRANCH) => children(&page).map(|children| pages.extend(children)),
                Some(LEAF) => leaf(&page, at).map(|found| items.extend(found)),
                _ => None,
            };
            if more.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(items))
    }

    /// A page with all that overflows it, and where it begins.
    fn page(&mut self, id: u64) -> Result<Option<(Vec<u8>, u64)>, B::Error> {
        if id < 2 || id >= self.meta.high_water {
            return Ok(None);
        }
        let at = id.saturating_mul(self.meta.page_size);
        let header = self.bytes.at(at, HEADER)?;
        let overflow = number32(&header, 12).map_or(0, u64::from);
        let length = overflow.saturating_add(1).saturating_mul(self.meta.page_size);
        let Some(left) = self.left.checked_sub(length) else { return Ok(None) };
        self.left = left;
        let page = self.bytes.at(at, usize::try_from(length).unwrap_or_default())?;
        Ok((number64(&page, 0) == Some(id)).then_some((page, at)))
    }
}

fn kind(page: &[u8]) -> Option<u16> {
    number16(page, 8)
}

/// Pages that a branch leads to.
fn children(page: &[u8]) -> Option<Vec<u64>> {
    elements(page)?.map(|at| number64(page, at + 8)).collect()
}

/// Items of a leaf that begins at `from` in the file.
fn leaf(page: &[u8], from: u64) -> Option<Vec<Item>> {
    (kind(page)? == LEAF).then_some(())?;
    elements(page)?.map(|at| item(page, at, from)).collect()
}

fn item(page: &[u8], at: usize, from: u64) -> Option<Item> {
    let word = |index: usize| number32(page, at + 4 * index);
    let number = |index: usize| word(index).and_then(|number| usize::try_from(number).ok());
    let key = at.checked_add(number(1)?)?;
    let value = key.checked_add(number(2)?)?;
    let end = value.checked_add(number(3)?)?;
    Some(Item {
        key: page.get(key..value)?.to_vec(),
        value: page.get(value..end)?.to_vec(),
        at: from.saturating_add(value as u64),
        is_bucket: word(0)? & IS_BUCKET != 0,
    })
}

/// Where the elements of a page begin in it.
fn elements(page: &[u8]) -> Option<impl Iterator<Item = usize>> {
    let count = usize::from(number16(page, 10)?);
    (HEADER + count * ELEMENT <= page.len()).then(|| (0..count).map(|index| HEADER + index * ELEMENT))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
pub(crate) mod tests;

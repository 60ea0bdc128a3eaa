//! Databases put together byte by byte, in every shape that bbolt writes.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;

use super::super::tests::{Memory, put, put_meta};
use super::*;

const SIZE: usize = 1024;

fn meta(root: u64, high_water: u64) -> Meta {
    Meta { page_size: SIZE as u64, root, freelist: u64::MAX, high_water, txid: 1 }
}

/// A file with pages from number 2 on.
fn file(root: u64, pages: &[Vec<u8>]) -> Vec<u8> {
    let mut file = vec![0; 2 * SIZE];
    pages.iter().for_each(|page| file.extend(page));
    let high_water = (file.len() / SIZE) as u64;
    put_meta(&mut file, SIZE, 0, &meta(root, high_water));
    file
}

fn words(numbers: [u32; 4]) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn header(id: u64, kind: u16, count: usize, overflow: u32) -> Vec<u8> {
    let mut page = id.to_ne_bytes().to_vec();
    page.extend(kind.to_ne_bytes());
    page.extend(u16::try_from(count).unwrap().to_ne_bytes());
    page.extend(overflow.to_ne_bytes());
    page
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

/// A leaf without padding: `(key, value, is bucket)`.
fn leaf_of(id: u64, overflow: u32, items: &[(&str, Vec<u8>, bool)]) -> Vec<u8> {
    let mut page = header(id, LEAF, items.len(), overflow);
    let mut data: Vec<u8> = Vec::new();
    for (index, (key, value, is_bucket)) in items.iter().enumerate() {
        let pos = (items.len() - index) * ELEMENT + data.len();
        page.extend(words([u32::from(*is_bucket), number(pos), number(key.len()), number(value.len())]));
        data.extend(key.as_bytes());
        data.extend(value);
    }
    page.extend(data);
    page
}

fn padded(mut page: Vec<u8>, pages: usize) -> Vec<u8> {
    assert!(page.len() <= pages * SIZE);
    page.resize(pages * SIZE, 0);
    page
}

fn branch_of(id: u64, children: &[u64]) -> Vec<u8> {
    let mut page = header(id, BRANCH, children.len(), 0);
    for child in children {
        page.extend([0; 8]);
        page.extend(child.to_ne_bytes());
    }
    padded(page, 1)
}

/// The value of a bucket.
fn bucket_of(root: u64, sequence: u64, inline: &[u8]) -> Vec<u8> {
    [&root.to_ne_bytes(), &sequence.to_ne_bytes(), inline].concat()
}

fn found(file: &[u8], path: &[&str]) -> Found {
    bucket(&mut Memory(file.to_vec()), path, true).unwrap()
}

fn keys(found: Found) -> (u64, Vec<String>) {
    let Found::Bucket(bucket) = found else { panic!("{found:?}") };
    let mut keys: Vec<String> =
        bucket.items.iter().map(|item| String::from_utf8(item.key.clone()).unwrap()).collect();
    keys.sort();
    (bucket.sequence, keys)
}

#[test]
fn an_inline_bucket_and_one_with_pages_are_read_and_tell_their_sequence() {
    let inline = leaf_of(0, 0, &[("a", b"1".to_vec(), false)]);
    let file = file(
        2,
        &[
            padded(
                leaf_of(2, 0, &[("in", bucket_of(0, 7, &inline), true), ("out", bucket_of(3, 9, &[]), true)]),
                1,
            ),
            branch_of(3, &[4, 5]),
            padded(leaf_of(4, 0, &[("b", b"22".to_vec(), false)]), 1),
            padded(leaf_of(5, 1, &[("c", vec![b'x'; 1500], false)]), 2),
        ],
    );
    assert_eq!(keys(found(&file, &["in"])), (7, vec!["a".into()]));
    assert_eq!(keys(found(&file, &["out"])), (9, vec!["b".into(), "c".into()]));
    assert_eq!(found(&file, &["none"]), Found::Nothing);
    let alone = bucket(&mut Memory(file[..4 * SIZE].to_vec()), &["out"], false).unwrap();
    assert_eq!(keys(alone), (9, vec![]), "its pages are not read");
    assert_eq!(found(&file, &["in", "a"]), Found::Nothing, "a value is no bucket");
    for path in [["in"], ["out"]] {
        let Found::Bucket(bucket) = found(&file, &path) else { panic!() };
        for item in bucket.items {
            let at = usize::try_from(item.at).unwrap();
            assert_eq!(&file[at..at + item.value.len()], item.value, "the place of {:?}", item.key);
        }
    }
}

#[test]
fn pages_that_lead_in_a_circle_or_outside_are_unsound() {
    for children in [vec![2], vec![99], vec![0], vec![3, 2]] {
        let file = file(2, &[branch_of(2, &children), padded(leaf_of(3, 0, &[]), 1)]);
        assert_eq!(found(&file, &[]), Found::Unsound, "{children:?}");
    }
    let mut broken = padded(leaf_of(2, 0, &[("a", b"1".to_vec(), false)]), 1);
    put(&mut broken, HEADER + 12, &u32::MAX.to_ne_bytes());
    assert_eq!(found(&file(2, &[broken]), &[]), Found::Unsound, "a value that ends outside");
    assert_eq!(found(&[], &[]), Found::Unsound);
}

proptest! {
    #[test]
    fn any_page_is_read_or_refused(page in prop::collection::vec(any::<u8>(), SIZE), count in 0..40_u16) {
        let mut page = page;
        put(&mut page, 0, &header(2, if count % 2 == 0 { LEAF } else { BRANCH }, count.into(), 0));
        let _ = found(&file(2, &[page]), &["v1"]);
    }
}

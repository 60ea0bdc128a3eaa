//! Sets and maps from iterators, and short lists in order, one insertion after the
//! other.
//!
//! Owns that one way. `collect` and `sort` make some 3 KB of code for each type; what
//! is ordered here has tens of members.

use std::collections::{BTreeMap, BTreeSet};

/// What `collect` does, in less code.
pub trait Ordered: Iterator + Sized {
    /// The set of all items.
    fn into_set(self) -> BTreeSet<Self::Item>
    where
        Self::Item: Ord,
    {
        let mut all = BTreeSet::new();
        all.extend(self);
        all
    }

    /// The map of all pairs; of two with one key the later one stays.
    fn into_map<K: Ord, V>(self) -> BTreeMap<K, V>
    where
        Self: Iterator<Item = (K, V)>,
    {
        let mut all = BTreeMap::new();
        all.extend(self);
        all
    }
}

impl<I: Iterator> Ordered for I {}

/// Sorts a short list by an order that `is_before` tells; equals stay as they are.
pub fn sort_by<T>(list: &mut [T], is_before: impl Fn(&T, &T) -> bool) {
    for end in 1..list.len() {
        for at in (0..end).rev() {
            match list.get(at..at + 2) {
                Some([one, next]) if is_before(next, one) => list.swap(at, at + 1),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_collect_makes() {
        let pairs = [(2, 'a'), (1, 'b'), (2, 'c')];
        assert_eq!(pairs.into_iter().into_map(), pairs.into_iter().collect());
        assert_eq!(pairs.into_iter().into_set(), pairs.into_iter().collect());
    }

    proptest::proptest! {
        #[test]
        fn a_short_list_gets_the_order_that_sort_gives_it(list: Vec<(u8, u16)>) {
            let (mut ours, mut theirs) = (list.clone(), list);
            sort_by(&mut ours, |one, other| one.0 < other.0);
            theirs.sort_by_key(|one| one.0);
            proptest::prop_assert_eq!(ours, theirs);
        }
    }
}

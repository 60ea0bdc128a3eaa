//! Sets and maps from iterators, one insertion after the other.
//!
//! Owns that one way. `collect` sorts first, for which the compiler makes some
//! 3 KB of code for each type; the sets here have tens of members.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_collect_makes() {
        let pairs = [(2, 'a'), (1, 'b'), (2, 'c')];
        assert_eq!(pairs.into_iter().into_map(), pairs.into_iter().collect());
        assert_eq!(pairs.into_iter().into_set(), pairs.into_iter().collect());
    }
}

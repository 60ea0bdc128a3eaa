//! Puts the files together in their order. Owns provenance: which file and line
//! gave each value. Checks nothing itself; hands on what reading found.

use std::collections::BTreeMap;

use toml::Value;
use toml::de::DeTable;

use super::Source;
use super::error::{ConfigError, Origin};
use super::fragment::Fragment;
use super::reader::Reader;

/// A value as its file wrote it, without credentials, and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// All files put together.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) fragment: Fragment,
    pub(super) given: BTreeMap<&'static str, Given>,
    pub(super) errors: Vec<ConfigError>,
}

/// Reads every file; a later one replaces the whole value of a key. Values that
/// a later file replaces are checked all the same.
pub(super) fn merge(sources: &[Source]) -> Merged {
    sources.iter().fold(Merged::default(), |merged, source| merged.with(source))
}

impl Merged {
    fn with(mut self, source: &Source) -> Self {
        let (document, faults) = DeTable::parse_recoverable(&source.text);
        let mut reader = Reader::new(source, document.get_ref(), &faults);
        let later = Fragment::read(&mut reader);
        let (given, errors) = reader.finish();
        self.fragment = self.fragment.replaced_by(later);
        self.given.extend(given);
        self.errors.extend(errors);
        self
    }
}

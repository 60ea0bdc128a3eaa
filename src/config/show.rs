//! The merged values and the file each came from, as `config show` prints them:
//! text that is TOML again, and a serde form. Owns the printed form; credentials
//! never reach it, because values are recorded without them.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use toml::Value;

use super::Configuration;
use super::error::Origin;
use super::keys::KEYS;

/// Every key with its value and its place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The version of this form.
    pub schema: u32,
    /// The files that were read, in merge order.
    pub files: Vec<PathBuf>,
    /// One entry per key, in the order of the documentation.
    pub values: Vec<ShownValue>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownValue {
    /// The dotted name.
    pub key: &'static str,
    /// The value in force; `None` when nothing is.
    pub value: Option<Value>,
    /// The place that gave it; `None` for a default.
    pub from: Option<Origin>,
}

impl Shown {
    pub(super) fn new(configuration: &Configuration) -> Self {
        let values = KEYS.iter().map(|key| match configuration.given.get(key.name) {
            Some(given) => ShownValue {
                key: key.name,
                value: Some(given.value.clone()),
                from: Some(given.origin.clone()),
            },
            None => ShownValue { key: key.name, value: key.default.value(), from: None },
        });
        Self { schema: 1, files: configuration.files.clone(), values: values.collect() }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(out, "# read {}", file.display())?;
        }
        self.values.iter().try_for_each(|value| writeln!(out, "{value}"))
    }
}

impl fmt::Display for ShownValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.value, &self.from) {
            (None, _) => write!(out, "# {} is not set", self.key),
            (Some(value), None) => write!(out, "{} = {value}  # default", self.key),
            (Some(value), Some(from)) => write!(out, "{} = {value}  # {from}", self.key),
        }
    }
}

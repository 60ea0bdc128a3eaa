//! What a command line needs to know of k3s's keys to be read.
//!
//! Owns the few look-ups in the table of keys, over all versions, and the one
//! thing that it does not tell: which lists k3s splits at commas.

use crate::plan::keys::{self, Kind};

/// Lists whose values k3s splits at commas (k3s: pkg/cli/cmds, util.SplitStringSlice).
const COMMAS: [&str; 9] = [
    "cluster-cidr",
    "cluster-dns",
    "disable",
    "node-external-dns",
    "node-external-ip",
    "node-internal-dns",
    "node-ip",
    "service-cidr",
    "tls-san",
];

/// The name under which k3s keeps `key`; `no-deploy` was the name of `disable`
/// (k3s: pkg/cli/cmds/server.go until v1.25).
pub(super) fn long_name(key: &str) -> &str {
    if key == "no-deploy" { "disable" } else { keys::canonical(key) }
}

/// The key that `variable` sets when neither file nor argument does.
#[must_use]
pub fn key_of(variable: &str) -> Option<&'static str> {
    if variable.is_empty() {
        return None;
    }
    keys::rows().find(|key| key.variable() == variable).map(|key| key.name)
}

fn is(key: &str, kind: Kind) -> bool {
    keys::rows().any(|row| row.name == key && row.kind() == kind)
}

/// Whether `key` needs no value.
pub(super) fn is_switch(key: &str) -> bool {
    is(key, Kind::Switch)
}

/// Whether `key` takes a whole number.
pub(super) fn is_number(key: &str) -> bool {
    is(key, Kind::Number)
}

/// Whether all values of `key` count, wherever they stand.
pub(super) fn is_list(key: &str) -> bool {
    is(key, Kind::List) || splits(key)
}

/// Whether k3s splits a value of `key` at commas.
pub(super) fn splits(key: &str) -> bool {
    COMMAS.contains(&key)
}

//! What a command line needs to know of k3s's keys to be read.
//!
//! Owns the few look-ups in the table of keys, over all versions.

use crate::plan::keys::{self, Kind, values};
use crate::role::K3sVersion;

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

/// Whether `version` reads `variable`, given that it has its key: the one for the
/// data directory is younger than the key (k3s: pkg/cli/cmds/root.go, since
/// v1.29.7 and v1.30.3).
pub(super) fn has_variable(version: &K3sVersion, variable: &str) -> bool {
    let (_, minor, patch) = version.kubernetes;
    variable != "K3S_DATA_DIR"
        || version.at_least(31)
        || (minor, patch) >= (30, 3)
        || minor == 29 && patch >= 7
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
    values::splits(key)
}

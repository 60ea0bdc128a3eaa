//! What stands in a configuration against the table of its version.
//!
//! Owns invariant 8 for the lint: what the plan writes, what operators' files
//! add to it, and that no host alone changes what all servers of a room must
//! have alike. Never reads a file.

use std::collections::BTreeMap;

use super::{Key, May, Presence, canonical, of, rows, values};
use crate::facts::k3s_config::{DropIn, Effective, SOME_FILE};
use crate::ordered::Ordered as _;
use crate::plan::refusal::Refusal;
use crate::role::{K3sVersion, Role};

/// Every key that the plan writes is one that `version` has for `role`.
#[must_use]
pub fn written(config: &Effective, (version, role): (&K3sVersion, Role)) -> Option<Refusal> {
    let keys = of(version);
    let fits = |name: &str| match keys.find(name, role) {
        Presence::Known(_) => true,
        Presence::Perhaps(_) => role == Role::Server,
        // Only this host's own permission lets one through.
        Presence::Unknown => keys.is_newer_than_the_table(),
        _ => false,
    };
    let unfit: Vec<&str> = config.0.keys().map(String::as_str).filter(|name| !fits(name)).collect();
    (!unfit.is_empty()).then(|| {
        Refusal::new(
            "EB-lint-key",
            format!("the plan writes {}, which a {role} of k3s {version} does not know", unfit.join(", ")),
            "this is a defect of edge-bootstrap: nothing was changed; please report it",
        )
    })
}

/// A key of a drop-in at which k3s would end. `started` is what k3s on this host
/// last came up with: what stands there it knows, whatever the table says.
#[must_use]
pub fn drop_in_refused(
    drop_ins: &[DropIn<'_>],
    (version, role): (&K3sVersion, Role),
    started: Option<&Effective>,
) -> Option<Refusal> {
    let keys = of(version);
    let ends = role == Role::Agent || keys.server_ends_at_unknown();
    let (file, name) = names(drop_ins).find(|(_, name)| match keys.find(name, role) {
        Presence::Known(key) => key.has("fatal-in-25") && version.minor() == 25,
        Presence::Perhaps(_) => ends && started.is_none_or(|started| !started.0.contains_key(*name)),
        // A server's key on an agent has a rule and a code of its own.
        Presence::OtherRole(_) => ends && role == Role::Server,
        Presence::Unknown => ends && !keys.is_newer_than_the_table(),
        _ => ends,
    })?;
    Some(Refusal::new(
        "EB-override",
        format!(
            "{file} sets {name}, which k3s {version} as {role} does not know: it would exit with an error"
        ),
        format!("remove {name} from that file"),
    ))
}

/// A value in a drop-in at which k3s, or the part that gets it, would end.
#[must_use]
pub fn drop_in_value(drop_ins: &[DropIn<'_>]) -> Option<Refusal> {
    entries(drop_ins).find_map(|(file, key, written)| {
        let name = canonical(key.trim_end_matches('+'));
        let problem = values::problem(name, &values::parts(name, written))?;
        Some(Refusal::new(
            "EB-override",
            format!("{file} sets {name}: {problem}"),
            format!("correct {name} in that file"),
        ))
    })
}

/// Keys of drop-ins that k3s leaves out or may leave out, for people.
#[must_use]
pub fn drop_in_notes(drop_ins: &[DropIn<'_>], (version, role): (&K3sVersion, Role)) -> Vec<String> {
    let keys = of(version);
    let left_out = |(_, name): &(&str, &str)| match keys.find(name, role) {
        Presence::Known(_) => false,
        Presence::Unknown => !keys.is_newer_than_the_table(),
        _ => true,
    };
    let note = |(file, name)| {
        format!("{file} sets {name}, which k3s {version} as {role} may not know and then ignores")
    };
    names(drop_ins).filter(left_out).map(note).collect()
}

/// A drop-in changes what all servers of the room must have alike. k3s compares
/// it only when a server joins (k3s: pkg/cluster/bootstrap.go), so that a file
/// of one host would show only when the next server is added.
#[must_use]
pub fn critical(planned: &Effective, whole: &Effective, drop_ins: &[DropIn<'_>]) -> Option<Refusal> {
    let differs = |key: &Key| key.is_critical() && !same(planned.all(key.name), whole.all(key.name));
    let key = rows().find(differs)?;
    let is_it = |name: &String| canonical(name.trim_end_matches('+')) == key.name;
    let file =
        drop_ins.iter().rfind(|(_, layer)| layer.keys().any(is_it)).map_or(SOME_FILE, |(file, _)| file);
    Some(Refusal::new(
        "EB-override",
        format!("{file} changes {}, which must be the same on all servers of the room", key.name),
        elsewhere(key),
    ))
}

/// Where a value belongs that all servers must have alike.
fn elsewhere(key: Key) -> String {
    let name = key.name;
    match (key.may(), key.instead()) {
        (May::Free, _) => {
            format!(
                "remove {name} from that file; to set it on all servers, use `k3s.config` of the assignment"
            )
        }
        (May::Host, _) => format!(
            "remove {name} from that file; to set it on all servers, use `k3s.config` of the assignment and \
             [trust] allow-keys of each host"
        ),
        (May::Plan, field) if !field.is_empty() => {
            format!("remove {name} from that file; `{field}` of the assignment decides it for all servers")
        }
        _ => format!("remove {name} from that file"),
    }
}

/// What of `effective` all servers of a room must have alike, for the central
/// service to compare: k3s does so only when a server joins. Secrets stay out.
#[must_use]
pub fn critical_values(effective: &Effective) -> BTreeMap<String, String> {
    let told = rows().filter(|key| key.is_critical() && !key.is_secret());
    let value = |key: Key| {
        let mut values = effective.all(key.name).to_vec();
        values.sort();
        (key.name.to_owned(), values.join(","))
    };
    told.map(value).filter(|(_, value)| !value.is_empty()).into_map()
}

/// Order does not matter in any of these.
fn same(one: &[String], other: &[String]) -> bool {
    let sorted = |values: &[String]| {
        let mut values = values.to_vec();
        values.sort();
        values.dedup();
        values
    };
    sorted(one) == sorted(other)
}

/// File, key as written and values of each entry.
pub fn entries<'a>(drop_ins: &[DropIn<'a>]) -> impl Iterator<Item = (&'a str, &'a str, &'a Vec<String>)> {
    let all = drop_ins.iter().flat_map(|(file, layer)| layer.iter().map(move |entry| (*file, entry)));
    all.map(|(file, (key, values))| (file, key.as_str(), values))
}

fn names<'a>(drop_ins: &[DropIn<'a>]) -> impl Iterator<Item = (&'a str, &'a str)> {
    entries(drop_ins).map(|(file, key, _)| (file, canonical(key.trim_end_matches('+'))))
}

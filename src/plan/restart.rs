//! What units do, and whether a running one must be restarted.
//!
//! Owns invariant 10: nothing restarts a running k3s unless an effective value
//! that it reads changed, compared per key after parsing; keys that matter only
//! at the next start never do; of a token file, once k3s itself has taken what it
//! holds. A server of a room with other servers does not
//! restart here at all: the change waits.

use super::item::{PlannedFile, PlannedGeneration, PlannedUnit, Wanted};
use super::{Inputs, etcd, keys, members, tokens, units};
use crate::facts::k3s_config::Effective;
use crate::facts::runtime::Unit;
use crate::ordered::Ordered as _;
use crate::paths;
use crate::role::{Duty, Role};

/// All units in the order in which they are brought into their state.
pub(super) fn units(
    inputs: Inputs<'_>,
    duty: &Duty,
    files: &[PlannedFile],
    generation: &PlannedGeneration,
    binary: Option<&str>,
) -> Vec<PlannedUnit> {
    let mut planned = reruns(inputs, files);
    planned.push(units::other_stopped(duty));
    planned.push(running(units::CONTAINERD, containerd_restart(inputs, files), "k3s needs its socket"));
    let removed = waits_as_removed(inputs, duty);
    let waits = removed.is_none() && needs_lease(inputs, duty);
    let reason = removed.or_else(|| k3s_restart(inputs, duty, &generation.effective, binary));
    let mut k3s = running(units::of_role(duty.role), reason, "the role of this host");
    if let (Some(reason), true) = (&k3s.restart, waits) {
        k3s.restart_pending = Some(reason.clone());
        k3s.restart = None;
    }
    planned.push(k3s);
    planned
}

fn running(name: &str, restart: Option<String>, reason: &str) -> PlannedUnit {
    PlannedUnit {
        name: name.to_owned(),
        wanted: Wanted::Running,
        manage_boot: true,
        restart,
        restart_pending: None,
        reason: reason.to_owned(),
    }
}

/// systemd's own appliers run again when their file changed.
fn reruns(inputs: Inputs<'_>, files: &[PlannedFile]) -> Vec<PlannedUnit> {
    [(units::MODULES, paths::MODULES), (units::SYSCTL, paths::SYSCTL)]
        .into_iter()
        .filter(|(_, path)| differs(inputs, files, path))
        .map(|(name, path)| PlannedUnit {
            name: name.to_owned(),
            wanted: Wanted::Rerun,
            manage_boot: false,
            restart: None,
            restart_pending: None,
            reason: format!("{path} changed"),
        })
        .collect()
}

fn differs(inputs: Inputs<'_>, files: &[PlannedFile], path: &str) -> bool {
    let planned = files.iter().find(|file| file.path == path);
    let now = inputs.facts.runtime.files.get(path);
    planned.is_some_and(|planned| now.is_none_or(|now| now.sha256 != planned.sha256()))
}

fn unit<'a>(inputs: Inputs<'a>, name: &str) -> Option<&'a Unit> {
    inputs.facts.runtime.units.get(name.trim_end_matches(".service"))?.known()
}

fn is_up(unit: &Unit) -> bool {
    unit.main_pid != 0 && matches!(unit.active.as_str(), "active" | "activating" | "reloading")
}

/// containerd's restart is safe for workloads (KillMode=process): it is done as
/// soon as it runs on another configuration than the planned one.
fn containerd_restart(inputs: Inputs<'_>, files: &[PlannedFile]) -> Option<String> {
    unit(inputs, units::CONTAINERD).filter(|unit| is_up(unit))?;
    let planned = files.iter().find(|file| file.path == paths::CONTAINERD_CONFIG)?.sha256();
    match inputs.facts.runtime.containerd.started_with.known() {
        Some(Some(started)) if *started == planned => None,
        Some(Some(_)) => Some("its configuration changed".to_owned()),
        // With the kubelet, with which it must agree on cgroups.
        Some(None) if inputs.facts.runtime.k3s.accepted.is_some() => None,
        Some(None) => Some("it runs without our configuration".to_owned()),
        None => None,
    }
}

fn k3s_restart(inputs: Inputs<'_>, duty: &Duty, planned: &Effective, binary: Option<&str>) -> Option<String> {
    unit(inputs, units::of_role(duty.role)).filter(|unit| is_up(unit))?;
    let k3s = &inputs.facts.runtime.k3s;
    // Without a record of the start, what lies on disk is what it read.
    let started = k3s.started_with.known().and_then(Option::as_ref).or(k3s.effective.known())?;
    let mut changed = changed_keys(started, planned);
    if let Some(accepted) = &k3s.accepted {
        let since = changed_keys(accepted, planned);
        // Once containerd was started on our file alone, the kubelet must follow.
        let is_alone = matches!(inputs.facts.runtime.containerd.started_with.known(), Some(Some(_)));
        changed.retain(|key| since.contains(key) || is_alone && key == "kubelet-arg");
    }
    if !changed.is_empty() {
        return Some(format!("changed: {}", changed.join(", ")));
    }
    tokens::restart(inputs.facts, duty).map(str::to_owned).or_else(|| other_binary(inputs, duty, binary?))
}

/// A removed member that has not come to READY serves nobody and waits to be
/// started anew for ever (k3s: pkg/etcd/etcd.go): no better than a dead unit. A
/// cut that loses the tombstone right after the removal leads here.
fn waits_as_removed(inputs: Inputs<'_>, duty: &Duty) -> Option<String> {
    unit(inputs, units::K3S).filter(|unit| unit.main_pid != 0 && unit.active == "activating")?;
    members::is_removed(inputs, duty)
        .then(|| "etcd has removed this member, and k3s waits to be started anew".to_owned())
}

/// Only a record of the start tells what runs; a record without a link's target
/// is that of a file which a person put in the link's place.
fn other_binary(inputs: Inputs<'_>, duty: &Duty, wanted: &str) -> Option<String> {
    let k3s = &inputs.facts.runtime.k3s;
    k3s.started_with.known()?.as_ref()?;
    let by_hand =
        || k3s.version.known().and_then(Option::as_deref).filter(|found| *found != duty.k3s.version.as_str());
    match k3s.started_binary.known()?.as_deref() {
        Some(runs) if runs == wanted => None,
        Some(runs) => Some(format!("runs {runs}, wanted {wanted}")),
        None => by_hand().map(|found| format!("runs {found}, installed by hand; wanted {wanted}")),
    }
}

/// Keys whose effective value differs and matters to a running k3s.
#[must_use]
pub fn changed_keys(old: &Effective, new: &Effective) -> Vec<String> {
    let all: std::collections::BTreeSet<&String> = old.0.keys().chain(new.0.keys()).into_set();
    all.into_iter()
        .filter(|key| !keys::waits_for_start(key))
        .filter(|key| values(old, key) != values(new, key))
        .cloned()
        .collect()
}

/// `tls-san` is a set: its order does not matter.
fn values(effective: &Effective, key: &str) -> Vec<String> {
    let mut values = effective.all(key).to_vec();
    if key == "etcd-arg" {
        values.retain(|value| !etcd::is_interval(value));
    }
    if key == "tls-san" {
        values.sort();
    }
    values
}

/// A server that is up in a room with other servers restarts only under the
/// room's Lease; dead units and first starts are exempt. A list without others may
/// be older than the room: with a datastore of etcd the cluster is asked first.
fn needs_lease(inputs: Inputs<'_>, duty: &Duty) -> bool {
    let up = unit(inputs, units::K3S).is_some_and(|unit| unit.active == "active");
    let shares = inputs.facts.runtime.k3s.has_datastore.known() != Some(&false);
    duty.role == Role::Server && up && (shares || !duty.cluster.servers.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn effective(text: &str) -> Effective {
        let mut effective = Effective::default();
        effective.merge(text).unwrap();
        effective
    }

    #[test]
    fn only_values_that_a_running_k3s_reads_count() {
        let old = effective("server: https://a:6443\ncluster-init: true\ntls-san: [a, b]\ndisable: [x]\n");
        let new = effective("server: https://b:6443\ntls-san: [b, a]\ndisable: [x, y]\n");
        assert_eq!(changed_keys(&old, &new), ["disable"]);
    }

    #[test]
    fn intervals_of_a_measured_disk_restart_nothing_and_other_arguments_do() {
        let old = effective("etcd-arg: [a=b]\n");
        let tuned = effective("etcd-arg: [a=b, heartbeat-interval=1000, election-timeout=10000]\n");
        assert!(changed_keys(&old, &tuned).is_empty());
        assert!(changed_keys(&effective(""), &effective("etcd-arg: [election-timeout=10000]\n")).is_empty());
        assert_eq!(
            changed_keys(&old, &effective("etcd-arg: [a=c, heartbeat-interval=1000]\n")),
            ["etcd-arg"]
        );
    }

    #[test]
    fn the_same_values_in_another_form_are_equal() {
        let old = effective("disable-kube-proxy: true\ndisable: [x]\n");
        let new = effective("disable: x\ndisable-kube-proxy: 'true'\n");
        assert!(changed_keys(&old, &new).is_empty());
    }
}

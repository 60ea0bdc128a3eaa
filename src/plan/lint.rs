//! A second opinion on any plan.
//!
//! Owns [`CheckedPlan`], the only thing that `apply` takes. Every invariant
//! that can be seen in a plan is checked here again, by the rules that the gate
//! uses, so that a mistake of the planner is found before it reaches a disk.

use super::item::{PlannedFile, Wanted};
use super::refusal::Refusal;
use super::{Inputs, Plan, empty, forks, keys, retire, rules, units};
use crate::facts::k3s_config::Effective;
use crate::paths;
use crate::role::Role;

/// A plan that keeps every invariant.
#[derive(Debug, Clone)]
pub struct CheckedPlan(Plan);

impl CheckedPlan {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.0
    }
}

/// Directories below which a plan may write.
const PLACES: [&str; 13] = [
    "/var/lib/edge-bootstrap/",
    "/etc/rancher/k3s/",
    "/etc/systemd/system/",
    "/etc/containerd/",
    "/etc/cni/net.d/",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/sysctl.d/90-edge-bootstrap.conf",
    "/etc/modules-load.d/edge-bootstrap.conf",
    paths::CLOUD_INIT,
    paths::NETWORK_MANAGER,
    paths::DHCLIENT,
    "/usr/local/bin/",
];

/// Checks `plan` against the invariants.
///
/// # Errors
/// Every broken invariant at once.
pub fn check(plan: Plan, inputs: Inputs<'_>) -> Result<CheckedPlan, Vec<Refusal>> {
    // A leave is done before the rest of its plan: that is for the host after it.
    let left = inputs.assignment.duty.as_ref().filter(|_| plan.retirement.is_some());
    let after = left.map(|duty| retire::facts_after(inputs, duty));
    let inputs = Inputs { facts: after.as_ref().unwrap_or(inputs.facts), ..inputs };
    let mut broken = places(&plan);
    broken.extend(leave_is_bounded(&plan));
    broken.extend(secrets(&plan, inputs));
    broken.extend(one_role(&plan));
    broken.extend(commit_last(&plan));
    broken.extend(configuration(&plan, inputs));
    broken.extend(no_fork(&plan, inputs));
    broken.extend(mending(&plan));
    if broken.is_empty() { Ok(CheckedPlan(plan)) } else { Err(broken) }
}

fn places(plan: &Plan) -> Vec<Refusal> {
    let files = plan.files.iter().map(|file| file.path.as_str());
    let links = plan.links.iter().map(|link| link.path.as_str());
    let removals = plan.removals.iter().map(|removal| removal.path.as_str());
    files.chain(links).chain(removals).filter(|path| !is_ours(path)).map(outside).collect()
}

fn is_ours(path: &str) -> bool {
    let inside =
        PLACES.iter().any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)));
    inside && !path.split('/').any(|part| part == ".." || part == ".") && !path.contains(['\0', '\n'])
}

/// A leave touches k3s's own files of one life, and nothing else.
fn leave_is_bounded(plan: &Plan) -> Option<Refusal> {
    let mut paths = plan.retirement.iter().flat_map(|retirement| &retirement.paths);
    paths.find(|path| !retire::belongs_to_a_cluster(path)).map(|path| outside(path))
}

fn outside(path: &str) -> Refusal {
    Refusal::new("EB-lint-place", format!("the plan writes {path:?}, which is no place of ours"), REPORT)
}

const REPORT: &str = "this is a defect of edge-bootstrap: nothing was changed; please report it";

/// No secret in a file that others can read, and none in what people see (invariant 9).
fn secrets(plan: &Plan, inputs: Inputs<'_>) -> Vec<Refusal> {
    let secrets = known_secrets(inputs);
    let leaks = |text: &[u8]| secrets.iter().any(|secret| contains(text, secret.as_bytes()));
    plan.files
        .iter()
        .filter(|file| {
            let open = file.mode & 0o077 != 0 && leaks(&file.bytes);
            open || file.shown.as_ref().is_some_and(|shown| leaks(shown.as_bytes()))
        })
        .map(|file| {
            Refusal::new("EB-lint-secret", format!("a secret would be readable in {}", file.path), REPORT)
        })
        .collect()
}

fn known_secrets(inputs: Inputs<'_>) -> Vec<String> {
    let Some(duty) = &inputs.assignment.duty else { return Vec::new() };
    let join = &duty.join;
    let tokens =
        [&join.server, &join.agent, &join.previous_server].into_iter().flatten().map(ToString::to_string);
    let s3 = duty.snapshots.iter().filter_map(|snapshots| snapshots.s3.as_ref());
    let keys = s3.flat_map(|s3| [s3.access_key.to_string(), s3.secret_key.to_string()]);
    // A very short one would be found by chance everywhere.
    tokens.chain(keys).filter(|secret| secret.len() >= 6).collect()
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

/// Never both units of k3s (invariant 4).
fn one_role(plan: &Plan) -> Option<Refusal> {
    let wanted = plan.units.iter().filter(|unit| unit.wanted == Wanted::Running && units::is_k3s(&unit.name));
    (wanted.count() > 1)
        .then(|| Refusal::new("EB-lint-role", "the plan runs k3s as server and agent", REPORT))
}

/// `config.yaml` comes last and names only files of its own generation.
fn commit_last(plan: &Plan) -> Option<Refusal> {
    let commits: Vec<usize> = plan
        .files
        .iter()
        .enumerate()
        .filter(|(_, file)| file.path == paths::K3S_CONFIG)
        .map(|(at, _)| at)
        .collect();
    let fits = match (plan.generation.is_some(), commits.as_slice()) {
        (true, [at]) => *at + 1 == plan.files.len() && !plan.files[*at].bytes.is_empty(),
        (false, []) => true,
        _ => false,
    };
    (!fits)
        .then(|| Refusal::new("EB-lint-commit", "the commit point is not the last file of the plan", REPORT))
}

fn configuration(plan: &Plan, inputs: Inputs<'_>) -> Vec<Refusal> {
    let (Some(identity), Some(generation)) = (&plan.identity, &plan.generation) else { return Vec::new() };
    // What else is wrong then follows from the drop-in, and would blame the plan.
    if let Some(refusal) = guarded(inputs).or_else(|| unreadable(inputs)) {
        return vec![refusal];
    }
    let effective = with_paths(&generation.effective, plan.files.last());
    let rules = [
        rules::config_fits(&effective, identity),
        rules::token_is_named(&effective),
        rules::keys_fit(&effective, identity.role),
        init_is_rightful(&effective, inputs),
    ];
    rules.into_iter().flatten().chain(keys_of_the_version(plan, inputs)).collect()
}

/// Keys fit the k3s version (invariant 8), and no host alone changes what all
/// servers must have alike.
fn keys_of_the_version(plan: &Plan, inputs: Inputs<'_>) -> Vec<Refusal> {
    let (Some(duty), Some(generation)) = (&inputs.assignment.duty, &plan.generation) else {
        return Vec::new();
    };
    let version = plan.upgrade.as_ref().map_or(&duty.k3s.version, |upgrade| upgrade.in_force());
    let kind = (version, duty.role);
    let planned = with_paths(&Effective::default(), plan.files.last());
    let drop_ins = &inputs.facts.runtime.drop_ins();
    let started = inputs.facts.runtime.k3s.started_with.known().and_then(Option::as_ref);
    let critical =
        || keys::critical(&planned, &with_paths(&generation.effective, plan.files.last()), drop_ins);
    let rules = [
        keys::written(&planned, kind),
        keys::drop_in_refused(drop_ins, kind, started),
        keys::drop_in_flag(drop_ins),
        keys::drop_in_value(drop_ins),
        critical().filter(|_| duty.role == Role::Server),
    ];
    rules.into_iter().flatten().collect()
}

/// The effective values as k3s will read them, side files included.
fn with_paths(effective: &Effective, commit: Option<&PlannedFile>) -> Effective {
    let mut whole = Effective::default();
    if let Some(text) = commit.and_then(|file| std::str::from_utf8(&file.bytes).ok()) {
        // Text that does not read back leaves no name and no token: refused above.
        let _ = whole.merge(text);
    }
    whole.0.extend(effective.0.clone());
    whole
}

/// `cluster-init` only without a datastore, for a server, confirmed in this boot.
fn init_is_rightful(effective: &Effective, inputs: Inputs<'_>) -> Option<Refusal> {
    let rightful = inputs.assignment.role() == Role::Server
        && inputs.confirmed
        && inputs.facts.runtime.k3s.has_datastore.known() == Some(&false)
        && effective.first("server").is_none();
    (effective.is_true("cluster-init") && !rightful).then(|| {
        Refusal::new("EB-lint-init", "the plan would initialise a cluster without the right to", REPORT)
    })
}

/// Operators' drop-ins must not touch identity, membership or the ports of k3s.
fn guarded(inputs: Inputs<'_>) -> Option<Refusal> {
    let drop_ins = inputs.facts.runtime.drop_ins();
    let role = inputs.assignment.role();
    let mut keys = keys::entries(&drop_ins).map(|(file, key, _)| (file, key.trim_end_matches('+')));
    keys.find(|(_, key)| keys::is_guarded(key, role)).map(|(file, key)| {
        Refusal::new(
            "EB-override",
            format!(
                "{file} sets {key}, which decides who this node is, what it belongs to or where it is reached"
            ),
            format!("remove {key} from that file"),
        )
    })
}

/// What the gate would say of the planned configuration, on the datastore as the
/// plan leaves it.
fn no_fork(plan: &Plan, inputs: Inputs<'_>) -> Option<Refusal> {
    let (identity, generation) = (plan.identity.as_ref()?, plan.generation.as_ref()?);
    if guarded(inputs).is_some() {
        return None;
    }
    let config = with_paths(&generation.effective, plan.files.last());
    let unit = units::of_role(identity.role);
    let overrides = inputs.facts.runtime.k3s.overrides.known().into_iter().flatten();
    let overrides: Vec<_> =
        overrides.filter(|over| over.unit == unit && !is_replaced(plan, &over.path)).cloned().collect();
    let whole = forks::with_overrides(&config, &overrides);
    let refused = |effective: &Effective| match identity.role {
        Role::Server => server_refused(plan, inputs, effective),
        _ => forks::agent_has_server(effective),
    };
    forks::override_breaks(&config, &overrides, identity)
        .or_else(|| Some(forks::blamed(refused(&whole)?, refused(&config).as_ref(), &overrides)))
}

/// Whether the plan puts its own unit file in the place of this one; a file of
/// the same name in another directory is hidden by it.
fn is_replaced(plan: &Plan, path: &str) -> bool {
    let name = path.rsplit('/').next().filter(|name| units::is_k3s(name));
    let ours = |file: &PlannedFile| file.path.rsplit('/').next() == name;
    name.is_some() && plan.files.iter().any(ours)
}

fn server_refused(plan: &Plan, inputs: Inputs<'_>, effective: &Effective) -> Option<Refusal> {
    let mut datastore = forks::Datastore::of(inputs.facts);
    if plan.quarantines.iter().any(|item| item.path == paths::K3S_ETCD) {
        datastore = forks::Datastore { present: Some(false), ..forks::Datastore::default() };
    }
    if plan.restores.iter().any(|item| item.path == paths::K3S_ETCD_NAME) {
        datastore.name = None;
    }
    let has_token = rules::token_is_named(effective).is_none();
    let (identity, has_lease) = (plan.identity.as_ref(), inputs.confirmed);
    // The gate looks into the token's file.
    let is_pinned = true;
    forks::Server { identity, effective, datastore: &datastore, has_token, is_pinned, has_lease }.refused()
}

/// Only the datastore and containerd's store are moved aside, only two files are
/// put back, and only what k3s makes anew is removed (invariant 7).
fn mending(plan: &Plan) -> Option<Refusal> {
    let stores = [paths::K3S_ETCD, paths::CONTAINERD_ROOT];
    let moved =
        plan.quarantines.iter().map(|item| &item.path).filter(|path| !stores.contains(&path.as_str()));
    let places = [paths::K3S_ETCD_NAME, paths::NODE_PASSWORD];
    let put_back =
        plan.restores.iter().map(|item| &item.path).filter(|path| !places.contains(&path.as_str()));
    let emptied = plan.empty.iter().flat_map(|empty| &empty.paths).filter(|path| !empty::may_go(path));
    moved.chain(put_back).chain(emptied).next().map(|path| outside(path))
}

fn unreadable(inputs: Inputs<'_>) -> Option<Refusal> {
    let reason = inputs.facts.runtime.k3s.drop_ins.reason()?;
    Some(Refusal::new(
        "EB-override",
        format!("{} cannot be read: {reason}", paths::K3S_CONFIG_DIR),
        "correct that file; k3s would exit with an error as well",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_others_are_refused() {
        for path in [
            "/etc/shadow",
            "/etc/rancher/k3s/../../shadow",
            "/etc/hostsx",
            "etc/hosts",
            "/var/lib/edge-bootstrap/a\nb",
        ] {
            assert!(!is_ours(path), "{path:?}");
        }
        assert!(is_ours("/etc/hosts") && is_ours("/etc/rancher/k3s/config.yaml"));
    }
}

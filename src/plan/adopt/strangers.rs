//! A k3s of others that is not taken over: its unit has another name, or it has
//! none.
//!
//! Owns which of them keep this host from becoming a node, since two of k3s end
//! each other, and what a person does about each. Pure.

use super::{has_lived, unit_file};
use crate::facts::HostFacts;
use crate::facts::runtime::Stranger;
use crate::plan::refusal::Refusal;
use crate::plan::units;

/// Why this host is not taken over, and nothing is planned for it: what runs or
/// starts at boot, and what has left a cluster's files where nothing else did.
#[must_use]
pub fn strangers(all: &[Stranger], facts: &HostFacts) -> Vec<Refusal> {
    let known = [units::K3S, units::K3S_AGENT];
    let is_alone = || has_lived(facts) && !known.iter().any(|unit| unit_file(facts, unit).is_some());
    let counts = |one: &&Stranger| one.pid != 0 || one.enabled || is_alone();
    all.iter().filter(counts).map(refusal).collect()
}

fn refusal(stranger: &Stranger) -> Refusal {
    let place = &stranger.place;
    let process = match stranger.pid {
        0 => String::new(),
        pid => format!(" (process {pid})"),
    };
    let name = place.rsplit('/').next().unwrap_or_default();
    let only = "only k3s.service and k3s-agent.service are taken over";
    let (reason, next) = if place.is_empty() {
        (
            format!("a k3s of others runs as process {}, from no unit of its own, and {only}", stranger.pid),
            "end it with whatever starts it, and start it by a unit /etc/systemd/system/k3s.service (k3s-agent.service for an agent) whose ExecStart is its command line; then run `edge-bootstrap adopt`".to_owned(),
        )
    } else if place.starts_with("/etc/init.d/") {
        (
            format!("a k3s of others is started by the script {place}{process}, and {only}"),
            format!(
                "stop it, take {place} away, and start its command line by a unit /etc/systemd/system/k3s.service (k3s-agent.service for an agent); then run `edge-bootstrap adopt`"
            ),
        )
    } else {
        (
            format!("a k3s of others has the unit {place}{process}, and {only}"),
            format!(
                "give it that name: `systemctl disable --now {name}`, move the file to /etc/systemd/system/k3s.service (k3s-agent.service for an agent), and {stem} in /etc/default and /etc/sysconfig likewise, `systemctl daemon-reload`, `systemctl enable --now k3s`; containers go on meanwhile. Then run `edge-bootstrap adopt`",
                stem = name.trim_end_matches(".service")
            ),
        )
    };
    Refusal::new("EB-adopt-refused", reason, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Fact;

    fn told(stranger: &Stranger, remains: &[&str]) -> Vec<Refusal> {
        let mut facts = HostFacts::default();
        let remains = remains.iter().map(|path| (*path).to_owned()).collect();
        facts.runtime.k3s.remains = Fact::Known(remains);
        strangers(std::slice::from_ref(stranger), &facts)
    }

    #[test]
    fn one_that_neither_runs_nor_starts_nor_lived_is_no_trouble() {
        let unit = |pid, enabled| Stranger {
            place: "/etc/systemd/system/k3s-edge.service".to_owned(),
            pid,
            enabled,
        };
        let life = "/var/lib/rancher/k3s/server";
        assert_eq!(told(&unit(0, false), &["/var/lib/rancher/k3s/agent/images"]), []);
        for (stranger, remains) in
            [(unit(7, false), &[][..]), (unit(0, true), &[]), (unit(0, false), &[life])]
        {
            let refusals = told(&stranger, remains);
            assert_eq!(refusals.len(), 1, "{stranger:?}");
            assert!(
                refusals.iter().all(|it| it.next.contains("disable --now k3s-edge.service")),
                "{refusals:?}"
            );
        }
    }
}

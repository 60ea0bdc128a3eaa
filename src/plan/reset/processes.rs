//! Which processes are k3s's.
//!
//! Owns the rule: those in a control group of k3s or of pods, k3s itself
//! wherever it was started, and the trees below shims of CRI containers. Shims
//! of other namespaces (`moby`, `default`) belong to others.

use std::collections::{BTreeMap, BTreeSet};

use crate::ordered::Ordered as _;
use crate::paths;

/// Namespace of the CRI in containerd.
const NAMESPACE: &str = "k8s.io";

/// Begins of control groups of other programs' containers and machines.
const NESTED: [&str; 4] = ["machine.slice", "docker", "libpod", "lxc"];

/// One process as procfs tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// When it started, in clock ticks since boot: with the number it is unique.
    pub started: u64,
    /// Its name as the kernel knows it.
    pub name: String,
    /// Its arguments, the program first.
    pub arguments: Vec<String>,
    /// Its control groups, as `/proc/PID/cgroup` tells them.
    pub groups: String,
    /// Its program; empty when that is not known.
    pub program: String,
}

impl Process {
    fn why(&self) -> Option<&'static str> {
        let has_part = |wanted: &str| self.groups.split(['/', '\n']).any(|part| part == wanted);
        if super::UNITS.iter().any(|unit| has_part(unit)) {
            return Some("runs in a unit of k3s");
        }
        if self.groups.split(['/', '\n', ':']).any(|part| part.starts_with("kubepods")) {
            return Some("runs in a pod");
        }
        if self.is_k3s() {
            return Some("is k3s");
        }
        self.is_shim().then_some("holds a container of a pod")
    }

    /// k3s calls itself `k3s-server` and `k3s-agent` (k3s: pkg/cli/server/server.go);
    /// what it unpacks lies in its data directory.
    fn is_k3s(&self) -> bool {
        let verb = self.arguments.get(1).map(String::as_str);
        let unpacked =
            self.program.strip_prefix(paths::K3S_DATA).is_some_and(|rest| rest.starts_with("/data/"));
        matches!(self.name.as_str(), "k3s-server" | "k3s-agent" | "k3s-init")
            || (self.name == "k3s" && matches!(verb, Some("server" | "agent")))
            || (unpacked && self.name.starts_with("containerd"))
    }

    /// In somebody else's container or machine, which may run a k3s of its own.
    fn is_nested(&self) -> bool {
        let mut parts = self.groups.split(['/', '\n', ':']);
        parts.any(|part| NESTED.iter().any(|mark| part.starts_with(mark)))
    }

    fn is_shim(&self) -> bool {
        let mut pairs = self.arguments.iter().zip(self.arguments.iter().skip(1));
        self.name.starts_with("containerd-shim")
            && pairs.any(|(word, value)| word == "-namespace" && value == NAMESPACE)
    }
}

/// Whether a process is in somebody else's container or machine, and this host
/// itself is none.
fn in_others_machine(all: &[Process]) -> impl Fn(&Process) -> bool {
    let is_nested = all.iter().any(|process| process.pid == 1 && process.is_nested());
    move |process| process.is_nested() && !is_nested
}

/// Processes that must end, with the reason, in the order of their numbers.
/// `me` and those that started it are never among them.
#[must_use]
pub fn to_end(all: &[Process], me: u32) -> Vec<(Process, &'static str)> {
    let by_pid: BTreeMap<u32, &Process> = all.iter().map(|process| (process.pid, process)).into_map();
    let mine = ancestors(&by_pid, me);
    let shims: BTreeSet<u32> = all.iter().filter(|process| process.is_shim()).map(|shim| shim.pid).into_set();
    let below_a_shim =
        |process: &Process| ancestors(&by_pid, process.pid).iter().any(|pid| shims.contains(pid));
    let is_others = in_others_machine(all);
    let why = |process: &Process| {
        if is_others(process) {
            return None;
        }
        process.why().or_else(|| below_a_shim(process).then_some("runs in a container of a pod"))
    };
    let ours = |process: &&Process| process.pid > 1 && !mine.contains(&process.pid);
    let found = all.iter().filter(ours).filter_map(|process| Some((process.clone(), why(process)?)));
    let mut found: Vec<(Process, &'static str)> = found.collect();
    found.sort_by_key(|(process, _)| process.pid);
    found
}

/// Names of the kubelets of other distributions; k3s's is a part of k3s.
const KUBELETS: [&str; 2] = ["kubelet", "kubelite"];

/// The kubelet of another Kubernetes on this host: its pods, mounts and chains
/// cannot be told from those of k3s.
#[must_use]
pub fn other_kubelet(all: &[Process]) -> Option<&Process> {
    let is_others = in_others_machine(all);
    let mut own = all.iter().filter(|process| !is_others(process) && process.why().is_none());
    own.find(|process| KUBELETS.contains(&process.name.as_str()))
}

/// Units whose own process may be k3s under another name, with that process:
/// `NAME.service` directly in the slice of services.
#[must_use]
pub fn units_of_k3s(all: &[Process]) -> Vec<(String, u32)> {
    let is_others = in_others_machine(all);
    let unit = |process: &Process| {
        let mut parts = process.groups.split(['/', '\n']).skip_while(|part| *part != "system.slice").skip(1);
        parts
            .next()
            .filter(|part| part.ends_with(".service") && !super::UNITS.contains(part))
            .map(str::to_owned)
    };
    let k3s = all.iter().filter(|process| !is_others(process) && process.is_k3s());
    k3s.filter_map(|process| Some((unit(process)?, process.pid))).collect()
}

/// Whether `me` itself runs in a pod or in a unit of k3s, and would end with it.
#[must_use]
pub fn is_inside(all: &[Process], me: u32) -> bool {
    let by_pid: BTreeMap<u32, &Process> = all.iter().map(|process| (process.pid, process)).into_map();
    by_pid.get(&me).is_some_and(|process| process.why().is_some())
}

/// The process and those that it comes from. A table that was read while it
/// changed may hold a circle.
fn ancestors(all: &BTreeMap<u32, &Process>, pid: u32) -> BTreeSet<u32> {
    let mut seen = BTreeSet::new();
    let mut next = pid;
    while next > 1 && seen.insert(next) {
        next = all.get(&next).map_or(0, |process| process.parent);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, name: &str, groups: &str) -> Process {
        Process { pid, parent, name: name.into(), groups: groups.into(), ..Process::default() }
    }

    fn shim(pid: u32, namespace: &str) -> Process {
        let arguments = ["containerd-shim-runc-v2", "-namespace", namespace, "-id", "x"].map(str::to_owned);
        let groups = "0::/system.slice/containerd.service";
        Process { arguments: arguments.into(), ..process(pid, 1, "containerd-shim", groups) }
    }

    fn numbers(all: &[Process], me: u32) -> Vec<u32> {
        to_end(all, me).into_iter().map(|(process, _)| process.pid).collect()
    }

    #[test]
    fn k3s_and_its_pods_end_and_nobody_else() {
        let pod = "0::/kubepods.slice/kubepods-besteffort.slice/cri-containerd-1.scope";
        let by_hand = |verb: &str| vec!["k3s".to_owned(), verb.to_owned()];
        let all = [
            process(1, 0, "systemd", "0::/init.scope"),
            process(10, 1, "k3s-server", "0::/user.slice"),
            process(11, 1, "containerd", "0::/system.slice/k3s.service"),
            process(12, 1, "containerd", "0::/system.slice/containerd.service"),
            shim(20, "k8s.io"),
            process(21, 20, "pause", "0::/x"),
            process(22, 21, "sh", "0::/x"),
            shim(30, "moby"),
            process(31, 30, "nginx", "0::/docker/1"),
            process(40, 1, "app", pod),
            process(41, 1, "app", "5:cpu:/kubepods/burstable/pod1\n"),
            process(50, 1, "kubectl", "0::/user.slice"),
            Process { arguments: by_hand("server"), ..process(60, 1, "k3s", "0::/user.slice") },
            Process { arguments: by_hand("kubectl"), ..process(61, 1, "k3s", "0::/user.slice") },
            process(70, 1, "x", "0::/system.slice/my-k3s.service"),
        ];
        assert_eq!(numbers(&all, 99), [10, 11, 20, 21, 22, 40, 41, 60]);
    }

    #[test]
    fn the_kubelet_of_another_kubernetes_is_none_in_a_pod_or_a_machine() {
        let named =
            |groups: &str| vec![process(1, 0, "systemd", "0::/init.scope"), process(9, 1, "kubelet", groups)];
        assert_eq!(other_kubelet(&named("0::/system.slice/kubelet.service")).map(|it| it.pid), Some(9));
        for groups in ["0::/kubepods.slice/pod1", "0::/docker/kind", "0::/system.slice/k3s.service"] {
            assert_eq!(other_kubelet(&named(groups)), None, "{groups}");
        }
    }

    #[test]
    fn a_unit_of_another_name_is_told_by_the_k3s_in_it() {
        let all = [
            process(5, 1, "k3s-server", "0::/system.slice/k3s-edge.service"),
            process(6, 1, "k3s-agent", "3:pids:/user.slice\n1:name=systemd:/system.slice/k3s-rpm.service\n"),
            process(7, 1, "k3s-server", "0::/system.slice/k3s.service"),
            process(8, 1, "k3s-server", "0::/user.slice/user-0.slice/user@0.service/app.slice"),
            process(9, 1, "sh", "0::/system.slice/k3s-backup.service"),
        ];
        assert_eq!(
            units_of_k3s(&all),
            [("k3s-edge.service".to_owned(), 5), ("k3s-rpm.service".to_owned(), 6)]
        );
    }

    #[test]
    fn a_reset_does_not_end_itself_and_knows_that_it_is_inside_a_pod() {
        let all = [
            process(1, 0, "systemd", ""),
            process(2, 1, "sh", "0::/kubepods/pod1"),
            process(3, 2, "edge-bootstrap", "0::/kubepods/pod1"),
            process(4, 1, "app", "0::/kubepods/pod1"),
        ];
        assert_eq!(numbers(&all, 3), [4]);
        assert!(is_inside(&all, 3) && !is_inside(&all, 1));
    }

    #[test]
    fn a_k3s_in_somebody_elses_machine_goes_on_unless_this_host_is_that_machine() {
        let machine = "0::/machine.slice/a.service/payload";
        let inside = process(9, 1, "k3s-server", &format!("{machine}/system.slice/k3s.service"));
        let init = |groups: &str| process(1, 0, "systemd", groups);
        assert!(numbers(&[init("0::/init.scope"), inside.clone()], 99).is_empty());
        assert_eq!(numbers(&[init(&format!("{machine}/init.scope")), inside], 99), [9]);
    }

    #[test]
    fn a_circle_in_the_table_ends() {
        let all = [process(2, 3, "a", ""), process(3, 2, "b", "")];
        assert!(numbers(&all, 2).is_empty());
    }
}

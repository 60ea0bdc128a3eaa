//! Which processes are k3s's.
//!
//! Owns the rule: those in a control group of k3s or of pods, k3s itself
//! wherever it was started, and the trees below shims of CRI containers. Shims
//! of other namespaces (`moby`, `default`) belong to others.

use std::collections::{BTreeMap, BTreeSet};

use crate::ordered::{Ordered as _, sort_by};
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
    /// Where `/proc/PID/ns/pid` leads; empty when that is not known.
    pub space: String,
}

impl Process {
    fn why(&self) -> Option<&'static str> {
        if super::UNITS.iter().any(|unit| self.is_in(unit)) {
            return Some("runs in a unit of k3s");
        }
        if self.is_in_pod() {
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
        let unpacked =
            self.program.strip_prefix(paths::K3S_DATA).is_some_and(|rest| rest.starts_with("/data/"));
        self.is_k3s_itself() || (unpacked && self.name.starts_with("containerd"))
    }

    fn is_k3s_itself(&self) -> bool {
        let verb = self.arguments.get(1).map(String::as_str);
        matches!(self.name.as_str(), "k3s-server" | "k3s-agent" | "k3s-init")
            || (self.name == "k3s" && matches!(verb, Some("server" | "agent")))
    }

    fn is_in(&self, unit: &str) -> bool {
        self.groups.split(['/', '\n']).any(|part| part == unit)
    }

    fn is_in_pod(&self) -> bool {
        self.groups.split(['/', '\n', ':']).any(|part| part.starts_with("kubepods"))
    }

    /// In somebody else's container or machine, which may run a k3s of its own. A
    /// container that a pod runs in itself is the pod's: the outermost group counts.
    fn is_nested(&self) -> bool {
        let is_others = |part: &&str| NESTED.iter().any(|mark| part.starts_with(mark));
        let is_own = |part: &&str| part.starts_with("kubepods") || super::UNITS.contains(part);
        self.groups.lines().any(|line| {
            let outermost = line.split(['/', ':']).find(|part| is_others(part) || is_own(part));
            outermost.is_some_and(|part| is_others(&part))
        })
    }

    fn is_shim(&self) -> bool {
        let mut pairs = self.arguments.iter().zip(self.arguments.iter().skip(1));
        self.name.starts_with("containerd-shim")
            && pairs.any(|(word, value)| word == "-namespace" && value == NAMESPACE)
    }
}

/// Whether a process is in somebody else's container or machine: by the name of its
/// control group where this host itself is none, and by its name space of processes,
/// unless the first process of that is a pod's.
fn in_others_machine(all: &[Process]) -> impl Fn(&Process) -> bool {
    let by_pid: BTreeMap<u32, &Process> = all.iter().map(|process| (process.pid, process)).into_map();
    let init = by_pid.get(&1).copied();
    let is_nested = init.is_some_and(Process::is_nested);
    let is_pods = |first: &Process, by_pid: &BTreeMap<u32, &Process>| {
        let above = ancestors(by_pid, first.pid);
        let has_shim = above.iter().any(|pid| by_pid.get(pid).is_some_and(|above| above.is_shim()));
        first.is_in_pod() || has_shim || super::UNITS.iter().any(|unit| first.is_in(unit))
    };
    move |process| {
        let first = init.and_then(|init| first_of_space(&by_pid, process, &init.space));
        first.is_some_and(|first| !is_pods(first, &by_pid)) || process.is_nested() && !is_nested
    }
}

/// The first process of the container or machine that `process` is in; `None` for
/// one of this host itself, whose name space is `own`.
fn first_of_space<'a>(
    by_pid: &BTreeMap<u32, &'a Process>,
    process: &Process,
    own: &str,
) -> Option<&'a Process> {
    let mut first = None;
    let mut next = by_pid.get(&process.pid).copied();
    // As often at most as there are processes: a table that changed may hold a circle.
    for _ in by_pid {
        let Some(found) = next.filter(|it| !it.space.is_empty() && it.space != own && !own.is_empty()) else {
            break;
        };
        first = Some(found);
        next = by_pid.get(&found.parent).copied();
    }
    first
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
    sort_by(&mut found, |(one, _), (other, _)| one.pid < other.pid);
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

/// A k3s that runs outside of [`super::UNITS`], with the service that it is part
/// of, where there is one.
#[must_use]
pub fn strangers(all: &[Process]) -> Vec<(Option<String>, u32)> {
    let is_others = in_others_machine(all);
    let is_known = |process: &Process| super::UNITS.iter().any(|unit| process.is_in(unit));
    let k3s = all.iter().filter(|process| process.is_k3s_itself() && !is_known(process));
    let service = |process: &Process| {
        let mut parts = process.groups.split(['/', '\n']);
        parts.find(|part| part.ends_with(".service")).map(str::to_owned)
    };
    k3s.filter(|process| !is_others(process)).map(|process| (service(process), process.pid)).collect()
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
    fn a_k3s_outside_of_its_units_is_a_stranger_unless_it_is_in_somebody_elses_machine() {
        let all = [
            process(1, 0, "systemd", "0::/init.scope"),
            process(5, 1, "k3s-server", "0::/system.slice/k3s-edge.service"),
            process(6, 1, "k3s-agent", "0::/user.slice/user-0.slice/session-1.scope"),
            process(7, 1, "k3s-server", "0::/system.slice/k3s.service"),
            process(8, 1, "k3s-server", "0::/docker/k3d"),
            process(9, 5, "containerd", "0::/system.slice/k3s-edge.service"),
        ];
        assert_eq!(strangers(&all), [(Some("k3s-edge.service".to_owned()), 5), (None, 6)]);
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
    fn a_container_in_a_pod_ends_with_the_pod_and_a_cluster_in_a_container_does_not() {
        let in_pod = "0::/kubepods/burstable/pod1/0a1b/docker/2c3d";
        let in_scope = "4:cpu:/kubepods.slice/kubepods-pod1.slice:cri-containerd:0a1b/docker/2c3d";
        let all = [
            process(1, 0, "systemd", "0::/init.scope"),
            process(5, 1, "app", in_pod),
            process(6, 1, "app", in_scope),
            process(7, 1, "app", "0::/docker/kind/kubelet/kubepods/pod2"),
        ];
        assert_eq!(numbers(&all, 99), [5, 6]);
    }

    #[test]
    fn a_machine_under_any_name_is_told_by_its_own_name_space_and_a_pod_by_its_first_process() {
        let in_space = |space: &str, process: Process| Process { space: space.to_owned(), ..process };
        let pod = "0::/kubepods.slice/kubepods-pod1.slice/cri-1.scope";
        let all = [
            in_space("own", process(1, 0, "systemd", "0::/init.scope")),
            in_space("own", process(2, 1, "k3s-server", "0::/system.slice/k3s.service")),
            // A machine in a service of somebody's, with a k3s, a shim and a pod of its own.
            in_space("m", process(3, 1, "systemd", "0::/system.slice/box.service/payload/init.scope")),
            in_space("m", process(4, 3, "k3s-server", "0::/system.slice/box.service/payload/k3s.service")),
            in_space("m", shim(5, NAMESPACE)),
            in_space("n", process(6, 5, "app", "0::/system.slice/box.service/payload/kubepods/pod1")),
            // Pods of this host: with a shim, and one that outlived it.
            in_space("own", shim(7, NAMESPACE)),
            in_space("p", process(8, 7, "app", "0::/x")),
            in_space("q", process(9, 1, "app", pod)),
            in_space("q", process(10, 9, "sh", pod)),
        ];
        let mut all = all.to_vec();
        all[4].parent = 3;
        assert_eq!(numbers(&all, 99), [2, 7, 8, 9, 10]);
        assert_eq!(strangers(&all[..4]), []);
        let unknown: Vec<Process> = all.iter().map(|it| in_space("", it.clone())).collect();
        assert!(numbers(&unknown, 99).contains(&4), "an old kernel tells by names alone");
    }

    #[test]
    fn a_circle_in_the_table_ends() {
        let all = [process(2, 3, "a", ""), process(3, 2, "b", "")];
        assert!(numbers(&all, 2).is_empty());
    }
}

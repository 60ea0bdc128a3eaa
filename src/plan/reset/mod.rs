//! Leaving a cluster at a person's word: what goes, what is moved, what stays.
//!
//! Owns the lists and the rules of what is k3s's and what is somebody else's.
//! Pure: what is there is seen by `boot::reset`, which also does the work. What
//! is not known to be k3s's or the agent's is left alone.

pub mod mounts;
pub mod network;
pub mod processes;
pub mod quorum;
pub mod rules;

use super::refusal::Refusal;
use super::{hosts, retire, units};
use crate::facts::overrides::Service;
use crate::facts::runtime::PinnedIdentity;
use crate::paths;

/// Where kubelet keeps its pods; k3s never moves it.
pub const KUBELET: &str = "/var/lib/kubelet";
/// What the kubelet makes there (kubernetes: pkg/kubelet/config/defaults.go,
/// pkg/kubelet/cm). Behind a link that is all that is touched: a person's link may
/// lead to the top of a disk that holds other things.
pub const KUBELETS: [&str; 14] = [
    "actuated_pods_state",
    "allocated_pods_state",
    "checkpoints",
    "cpu_manager_state",
    "device-plugins",
    "dra_manager_state",
    "image_manager",
    "memory_manager_state",
    "pki",
    "plugin-containers",
    "plugins",
    "plugins_registry",
    "pod-resources",
    "pods",
];
/// What k3s keeps for one boot.
pub const K3S_RUN: &str = "/run/k3s";
/// Admin credentials, written at each start of a server.
pub const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// Slice in which systemd keeps pods.
pub const PODS_SLICE: &str = "kubepods.slice";
/// Where results of all CNI plugins are, those of others too.
pub const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Names of networks that are k3s's or ours (k3s: pkg/agent/flannel/setup_linux.go).
pub const NETWORKS: [&str; 2] = ["cbr0", "edge-loopback"];

/// First words of every file of ours that has comments.
const MARK: &str = "Written by edge-bootstrap";

/// Whether a file at one of our places was written by us. A file at the same
/// place without our mark is somebody else's.
#[must_use]
pub fn is_ours(path: &str, text: &str) -> bool {
    match path {
        paths::CNI_LOOPBACK => text.contains("\"edge-loopback\""),
        paths::CONTAINERD_CONFIG => true,
        _ => text.lines().next().is_some_and(|line| line.contains(MARK)),
    }
}

/// Places of files that the agent writes and that a reset removes, in this
/// order; those of registries are beside them. The units go after everything
/// that they could start was moved away.
#[must_use]
pub fn own_files() -> Vec<String> {
    let drop_in = |unit: &str| format!("{unit}.d/{}", paths::DROP_IN);
    let mut files: Vec<String> = super::writers::paths().map(str::to_owned).collect();
    let plain = [
        paths::CNI_LOOPBACK,
        paths::SYSCTL,
        paths::MODULES,
        paths::K3S_UNIT,
        paths::K3S_AGENT_UNIT,
        paths::CONTAINERD_DROP_IN,
        paths::CONTAINERD_CONFIG,
    ];
    files.extend(plain.map(str::to_owned));
    // Of a take-over that was broken off: k3s would go on to read what it named.
    files.push(paths::ADOPT_VARIABLES.to_owned());
    files.extend(
        [paths::K3S_UNIT, paths::K3S_AGENT_UNIT].map(|unit| format!("{unit}.d/{}", paths::ADOPT_DROP_IN)),
    );
    // The gate line goes last: until then nothing starts.
    files.extend([paths::K3S_UNIT, paths::K3S_AGENT_UNIT].map(drop_in));
    files
}

/// Moved into the backup: what a person may need again, and secrets.
/// `present` are names in k3s's `agent` directory.
#[must_use]
pub fn moved(present: &[String]) -> Vec<String> {
    let mut all = vec![format!("{}/server", paths::K3S_DATA)];
    let agent = present.iter().map(|name| format!("{}/agent/{name}", paths::K3S_DATA));
    all.extend(agent.filter(|path| retire::belongs_to_a_cluster(path)));
    all.push(KUBECONFIG.to_owned());
    all.extend([paths::K3S_CONFIG, paths::ADOPT_CONFIG, paths::GENERATIONS].map(str::to_owned));
    all.extend(
        [paths::LEDGER, paths::ALLOW, paths::TURN, paths::UPGRADE, paths::ROTATION, paths::SNAPSHOTS]
            .into_iter()
            .flat_map(with_copy),
    );
    all
}

/// Removed with all that is in them: k3s's state of one host and one boot.
pub const REMOVED: [&str; 5] =
    [KUBELET, K3S_RUN, "/run/flannel", "/var/lib/cni/flannel", "/var/lib/cni/networks/cbr0"];

/// Records of this boot about the life that is left.
pub const BOOT_RECORDS: [&str; 5] = [
    "/run/edge-bootstrap/started-k3s.json",
    "/run/edge-bootstrap/started-k3s-agent.json",
    paths::K3S_STARTED_BY_AGENT,
    paths::LEASE,
    paths::PEERS_ASKED,
];

/// What `--forget` removes besides: who this host is.
#[must_use]
pub fn forgotten() -> Vec<String> {
    let mut all: Vec<String> = [paths::IDENTITY, paths::ASSIGNMENT].into_iter().flat_map(with_copy).collect();
    let plain = [paths::NODE_KEY, paths::NODE_CERT, paths::NODE_PASSWORD_COPY, paths::NODE_PASSWORD];
    all.extend(plain.map(str::to_owned));
    // Else a k3s of others, installed on the nobody that is left, would count as taken over.
    all.extend([paths::OUTBOX, paths::ADOPTED].map(str::to_owned));
    all
}

/// What stays, with the reason; the last two only where nothing is forgotten.
#[must_use]
pub fn kept(forget: bool) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        (paths::K3S_LINK, "the program"),
        (paths::K3S_STORE, "binaries: there may be no network to get them again"),
        ("/var/lib/rancher/k3s/data", "what k3s unpacks from its binary"),
        ("/var/lib/rancher/k3s/agent/images", "archives of images"),
        ("/var/lib/rancher/k3s/agent/containerd", "images of k3s's own containerd"),
        ("/var/lib/rancher/k3s/storage", "volumes of pods: data of people"),
        (paths::CONTAINERD_ROOT, "images"),
        (paths::IMAGES, "archives of images"),
        (paths::BACKUP, "what was kept before"),
        ("/var/log/pods", "logs"),
        ("/etc/edge-bootstrap", "settings: whom to ask"),
    ];
    if !forget {
        all.extend([
            (paths::NODE_KEY, "the identity of this host"),
            (paths::NODE_PASSWORD, "the node's password, with which a cluster knows it again"),
        ]);
    }
    all
}

/// A state file and its earlier copy.
fn with_copy(path: &str) -> [String; 2] {
    [path.to_owned(), format!("{path}.prev")]
}

/// The identity that outlives a reset: the same host, of no cluster any more.
/// That it began an initialisation stays: it must not begin another in the same
/// epoch (invariant 4).
#[must_use]
pub fn identity_after(pinned: &PinnedIdentity) -> PinnedIdentity {
    PinnedIdentity { joined: None, retiring: None, departing: None, ..pinned.clone() }
}

/// `/etc/hosts` without our block; `None` when there is none.
#[must_use]
pub fn hosts_after(text: &str) -> Option<String> {
    hosts::without_block(text)
}

/// The units that are stopped, and not started at boot any more; with them
/// [`is_unit_of_k3s`] under other names.
pub const UNITS: [&str; 2] = [units::K3S, units::K3S_AGENT];

/// Where unit files may lie that others wrote.
pub const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Whether the unit file `name` with this text starts k3s under a name that is
/// none of [`UNITS`]: `INSTALL_K3S_NAME` of k3s's installer, `k3s-server` of its
/// rpm (k3s: install.sh setup_env, package/rpm/k3s.spec).
#[must_use]
pub fn is_unit_of_k3s(name: &str, text: &str) -> bool {
    let is_other = name.starts_with("k3s") && name.ends_with(".service") && !name.contains('@');
    is_other && !UNITS.contains(&name) && starts_k3s(text)
}

/// Whether a unit file starts a server or an agent of k3s, under whatever name.
#[must_use]
pub fn starts_k3s(text: &str) -> bool {
    let mut service = Service::default();
    service.merge("", text);
    service.exec_start.iter().any(|(_, words)| {
        let program = words.first().map(|word| word.trim_start_matches(['-', '@', ':', '+', '!']));
        let is_k3s = program.is_some_and(|program| program.rsplit('/').next() == Some("k3s"));
        is_k3s && words.iter().any(|word| matches!(word.as_str(), "server" | "agent"))
    })
}

/// A reset that has begun and not ended: nothing of k3s starts.
#[must_use]
pub fn unfinished(forget: bool) -> Refusal {
    let command = if forget { "edge-bootstrap reset --yes --forget" } else { "edge-bootstrap reset --yes" };
    Refusal::new(
        "EB-resetting",
        "a reset of this host has begun and is not finished",
        format!("run `{command}`: it goes on where it was"),
    )
}

/// A reset that is done: the host waits for a person's word.
#[must_use]
pub fn finished(at: &str, by: &str) -> Refusal {
    Refusal::new(
        "EB-reset",
        format!("this host was reset at {at} by {by} and is in no cluster"),
        "`edge-bootstrap apply` or `edge-bootstrap enrol` makes it claim its place again",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::runtime::pinned_server;

    #[test]
    fn a_file_without_our_mark_is_somebody_elses() {
        assert!(is_ours(
            paths::K3S_UNIT,
            "# Written by edge-bootstrap; changes here are put back.\n[Unit]\n"
        ));
        assert!(!is_ours(paths::K3S_UNIT, "[Unit]\n# not Written by edge-bootstrap\n"));
        assert!(is_ours(paths::CNI_LOOPBACK, "{\"name\":\"edge-loopback\"}"));
        assert!(!is_ours(paths::CNI_LOOPBACK, "{\"name\":\"podman\"}"));
    }

    #[test]
    fn what_a_node_needs_to_be_itself_again_is_never_moved_or_removed() {
        let present = ["images", "containerd", "etc", "client-kubelet.key"].map(str::to_owned);
        let goes: Vec<String> =
            moved(&present).into_iter().chain(REMOVED.map(str::to_owned)).chain(own_files()).collect();
        for (path, _) in kept(false) {
            let is_lost = |gone: &String| path == gone || path.starts_with(&format!("{gone}/"));
            assert!(!goes.iter().any(is_lost), "{path}");
        }
        for path in [paths::IDENTITY, paths::INVENTORY, paths::CLOCK, paths::NODE_CERT] {
            assert!(!goes.iter().any(|gone| gone == path), "{path}");
        }
        assert!(goes.contains(&"/var/lib/rancher/k3s/agent/etc".to_owned()));
        for path in [paths::NODE_KEY, paths::ADOPTED] {
            assert!(forgotten().iter().any(|gone| gone == path), "{path}");
        }
        assert!(goes.iter().any(|gone| gone == paths::TURN), "a turn of the life that is left");
    }

    #[test]
    fn a_take_over_that_was_broken_off_leaves_nothing_that_k3s_would_read() {
        let drop_in = format!("{}.d/{}", paths::K3S_UNIT, paths::ADOPT_DROP_IN);
        assert!(
            own_files().contains(&drop_in) && own_files().iter().any(|path| path == paths::ADOPT_VARIABLES)
        );
        assert!(moved(&[]).iter().any(|path| path == paths::ADOPT_CONFIG), "it may hold tokens");
    }

    #[test]
    fn a_unit_of_k3s_is_told_by_what_it_starts() {
        let of_installer = "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--disable' \\\n";
        assert!(is_unit_of_k3s("k3s-edge.service", of_installer));
        assert!(is_unit_of_k3s("k3s-server.service", "[Service]\nExecStart=-/usr/bin/k3s 'server'\n"));
        assert!(!is_unit_of_k3s("k3s.service", of_installer), "it is known by its name");
        for command in ["/usr/bin/k3s-backup server", "/usr/bin/k3s etcd-snapshot save", ""] {
            let text = format!("[Service]\nExecStart={command}\n");
            assert!(!is_unit_of_k3s("k3s-backup.service", &text), "{text}");
        }
        assert!(
            !is_unit_of_k3s("my-k3s.service", of_installer) && !is_unit_of_k3s("k3s-@.service", of_installer)
        );
    }

    #[test]
    fn the_gate_line_goes_after_the_units_that_it_guards() {
        let files = own_files();
        let place = |wanted: &str| files.iter().position(|path| path == wanted).unwrap();
        assert!(place(paths::K3S_UNIT) < place("/etc/systemd/system/k3s.service.d/10-edge-bootstrap.conf"));
    }

    #[test]
    fn a_host_that_began_a_cluster_does_not_begin_another_in_the_same_epoch() {
        let before = PinnedIdentity { init_started: Some(1), highest_epoch: 1, ..pinned_server() };
        let after = identity_after(&before);
        assert_eq!((after.init_started, after.highest_epoch, after.joined), (Some(1), 1, None));
        assert_eq!(after.node_name, before.node_name);
    }
}

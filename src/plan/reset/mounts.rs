//! Which mounts are k3s's, and which only lie where k3s's files are.
//!
//! Owns the rule. What pods and k3s mounted goes. What a person mounted to give
//! k3s room (`server`, its `db`) stays, and only k3s's own files in it are moved
//! aside; any other mount in the way is taken off its place, and what is in it
//! is not touched.

use super::{K3S_RUN, KUBELET, KUBELETS};
use crate::paths;

/// Where a person may give a server's data a disk of its own.
const ROOM: [&str; 4] = ["", "/db", "/db/etcd", "/db/snapshots"];

/// Directories of the CRI below containerd's state.
const CRI: [&str; 3] = ["/k8s.io/", "/io.containerd.grpc.v1.cri/", "/io.containerd.cri.v1."];

/// Directories whose way there may lead over a link of a person's, who gave
/// them another disk so.
pub const PLACES: [&str; 4] = [KUBELET, paths::K3S_DATA, K3S_RUN, paths::CONTAINERD_STATE];

/// A mount point by the name that the rules know: the kernel tells where it
/// really is. `links` are places with where they lead.
#[must_use]
pub fn nominal(point: &str, links: &[(&str, String)]) -> String {
    let led = links.iter().find_map(|(place, real)| {
        let rest = point.strip_prefix(real.as_str())?;
        let first = rest.split('/').nth(1).unwrap_or_default();
        let is_own = *place != KUBELET || first.is_empty() || KUBELETS.contains(&first);
        (is_own && (rest.is_empty() || rest.starts_with('/'))).then(|| format!("{place}{rest}"))
    });
    led.unwrap_or_else(|| point.to_owned())
}

/// Whether the mount at `point` must go.
#[must_use]
pub fn must_go(point: &str) -> bool {
    if is_below(point, KUBELET) || point == K3S_RUN || is_below(point, K3S_RUN) {
        return true;
    }
    if is_below(point, paths::CONTAINERD_STATE) {
        return CRI.iter().any(|part| point.contains(part));
    }
    let of_server = is_in_server(point) && !is_room(point);
    of_server || ["agent/containerd", "agent/etc"].iter().any(|name| is_below(point, &in_data(name)))
}

/// Whether the mount at `point` stays while its files are moved aside in it.
#[must_use]
pub fn is_room(point: &str) -> bool {
    ROOM.iter().any(|end| point == format!("{}{end}", in_data("server")))
}

fn is_in_server(point: &str) -> bool {
    let server = in_data("server");
    point == server || is_below(point, &server)
}

fn in_data(name: &str) -> String {
    format!("{}/{name}", paths::K3S_DATA)
}

/// Whether `path` lies below `directory`, and is not it.
#[must_use]
pub fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_behind_a_link_is_known_by_its_name() {
        let links = [(KUBELET, "/data/kubelet".to_owned())];
        assert_eq!(nominal("/data/kubelet/pods/1/token", &links), "/var/lib/kubelet/pods/1/token");
        for others in ["/data/kubelet2/x", "/data/kubelet/database"] {
            assert_eq!(nominal(others, &links), others);
        }
        assert_eq!(nominal("/data/kubelet", &links), KUBELET);
    }

    #[test]
    fn mounts_of_pods_and_of_k3s_go_and_those_of_others_stay() {
        for point in [
            "/var/lib/kubelet/pods/1/volumes/kubernetes.io~projected/token",
            "/var/lib/kubelet/plugins/x",
            "/run/k3s",
            "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/1/rootfs",
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/1/rootfs",
            "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/1/shm",
            "/var/lib/rancher/k3s/server/manifests",
            "/var/lib/rancher/k3s/agent/containerd/tmpmounts/1",
        ] {
            assert!(must_go(point), "{point}");
        }
        for point in [
            "/",
            "/var/lib/kubelet",
            "/var/lib/kubelet2/x",
            "/run/containerd/io.containerd.runtime.v2.task/moby/1/rootfs",
            "/var/lib/containerd",
            "/var/lib/rancher",
            "/var/lib/rancher/k3s",
            "/var/lib/rancher/k3s/server",
            "/var/lib/rancher/k3s/server/db",
            "/var/lib/rancher/k3s/agent/images",
            "/var/lib/rancher/k3s/agent/containerd",
            "/var/lib/rancher/k3s/storage",
            "/run/netns/cni-1",
            "/data",
        ] {
            assert!(!must_go(point), "{point}");
        }
        assert!(is_room("/var/lib/rancher/k3s/server/db") && !is_room("/var/lib/rancher/k3s/server/tls"));
    }
}

//! What is known about k3s's configuration keys.
//!
//! Owns four small tables: keys that only a server has, keys that the plan
//! itself writes, keys that an assignment may set freely, and keys whose change
//! waits for the next start. Sources: k3s: pkg/cli/cmds/server.go, agent.go;
//! pkg/configfilearg/defaultparser.go.

/// Keys that k3s's agent does not know; one of them in an agent's file ends
/// it at once (k3s-io/k3s-ansible#270, k3s#6756).
pub const SERVER_ONLY: [&str; 79] = [
    "advertise-address",
    "advertise-port",
    "agent-token",
    "agent-token-file",
    "apiserver-bind-address",
    "apiserver-port",
    "cluster-cidr",
    "cluster-dns",
    "cluster-domain",
    "cluster-init",
    "cluster-reset",
    "cluster-reset-restore-path",
    "datastore-cafile",
    "datastore-certfile",
    "datastore-endpoint",
    "datastore-keyfile",
    "default-local-storage-path",
    "disable",
    "disable-agent",
    "disable-apiserver",
    "disable-cloud-controller",
    "disable-controller-manager",
    "disable-etcd",
    "disable-helm-controller",
    "disable-kube-proxy",
    "disable-network-policy",
    "disable-scheduler",
    "egress-selector-mode",
    "embedded-registry",
    "etcd-arg",
    "etcd-disable-snapshots",
    "etcd-expose-metrics",
    "etcd-s3",
    "etcd-s3-access-key",
    "etcd-s3-bucket",
    "etcd-s3-bucket-lookup-type",
    "etcd-s3-config-secret",
    "etcd-s3-endpoint",
    "etcd-s3-endpoint-ca",
    "etcd-s3-folder",
    "etcd-s3-insecure",
    "etcd-s3-proxy",
    "etcd-s3-region",
    "etcd-s3-retention",
    "etcd-s3-secret-key",
    "etcd-s3-session-token",
    "etcd-s3-skip-ssl-verify",
    "etcd-s3-timeout",
    "etcd-snapshot-compress",
    "etcd-snapshot-dir",
    "etcd-snapshot-name",
    "etcd-snapshot-reconcile-interval",
    "etcd-snapshot-retention",
    "etcd-snapshot-schedule-cron",
    "flannel-backend",
    "flannel-external-ip",
    "flannel-ipv6-masq",
    "helm-job-image",
    "https-listen-port",
    "kine-tls",
    "kube-apiserver-arg",
    "kube-cloud-controller-arg",
    "kube-cloud-controller-manager-arg",
    "kube-controller-arg",
    "kube-controller-manager-arg",
    "kube-scheduler-arg",
    "secrets-encryption",
    "secrets-encryption-provider",
    "service-cidr",
    "service-node-port-range",
    "servicelb-namespace",
    "supervisor-metrics",
    "supervisor-port",
    "system-default-registry",
    "tls-san",
    "tls-san-security",
    "write-kubeconfig",
    "write-kubeconfig-group",
    "write-kubeconfig-mode",
];

/// Keys that an assignment may set in `k3s.config` on any host.
pub const FREE: [&str; 19] = [
    "cluster-dns",
    "cluster-domain",
    "debug",
    "etcd-arg",
    "etcd-expose-metrics",
    "etcd-snapshot-compress",
    "etcd-snapshot-name",
    "kube-apiserver-arg",
    "kube-controller-manager-arg",
    "kube-scheduler-arg",
    "kubelet-arg",
    "node-external-ip",
    "protect-kernel-defaults",
    "secrets-encryption",
    "secrets-encryption-provider",
    "service-node-port-range",
    "supervisor-metrics",
    "system-default-registry",
    "egress-selector-mode",
];

/// Keys that name paths or programs: only with the host's `allow-keys`.
pub const NEED_PERMISSION: [&str; 11] = [
    "bind-address",
    "datastore-endpoint",
    "etcd-s3-endpoint-ca",
    "etcd-snapshot-dir",
    "image-credential-provider-bin-dir",
    "image-credential-provider-config",
    "kube-cloud-controller-manager-arg",
    "resolv-conf",
    "tls-san-security",
    "write-kubeconfig",
    "write-kubeconfig-mode",
];

/// Keys whose change matters only at the next start and never restarts a
/// running k3s (invariant 10). Taints are read at a node's first registration only.
pub const NEXT_START: [&str; 7] =
    ["agent-token", "agent-token-file", "cluster-init", "node-taint", "server", "token", "token-file"];

/// Keys that an operator's drop-in must not set, because each of them breaks an
/// invariant of identity or membership.
pub const GUARDED: [&str; 20] = [
    "agent-token",
    "agent-token-file",
    "cluster-cidr",
    "cluster-init",
    "cluster-reset",
    "cluster-reset-restore-path",
    "config",
    "container-runtime-endpoint",
    "data-dir",
    "datastore-endpoint",
    "disable-etcd",
    "docker",
    "flannel-backend",
    "node-ip",
    "node-name",
    "server",
    "service-cidr",
    "token",
    "token-file",
    "with-node-id",
];

/// Whether only a server knows `key`.
#[must_use]
pub fn is_server_only(key: &str) -> bool {
    SERVER_ONLY.contains(&key)
}

/// The known key that is nearest to `key`, when one is near enough to be meant.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    let candidates = FREE.iter().chain(&NEED_PERMISSION).chain(&SERVER_ONLY);
    candidates
        .map(|known| (distance(key, known), *known))
        .filter(|(far, _)| *far <= 3)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named() {
        assert_eq!(nearest("kubelet-args"), Some("kubelet-arg"));
        assert_eq!(nearest("something-else-entirely"), None);
    }

    #[test]
    fn what_may_be_set_freely_is_never_guarded() {
        assert!(FREE.iter().all(|key| !GUARDED.contains(key)));
    }
}

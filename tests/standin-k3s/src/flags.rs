//! Owns the table of configuration keys of k3s v1.36.2: name, aliases,
//! environment, kind, and which role knows it (k3s:
//! pkg/cli/cmds/server.go, agent.go). It parses nothing.

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stands alone or takes `=true` / `=false`.
    Bool,
    /// A whole number.
    Int,
    /// One value, the last one wins.
    Text,
    /// Values accumulate; one value is one element.
    List,
    /// Values accumulate; a comma separates elements.
    Commas,
}

/// Which sub-command defines the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only `k3s server`.
    Server,
    /// Only `k3s agent`.
    Agent,
    /// Both.
    Both,
}

/// One configuration key.
#[derive(Debug)]
pub struct Flag {
    /// Key in the file, `--name` on the command line.
    pub name: &'static str,
    /// Kind of its value.
    pub kind: Kind,
}

/// Other spellings: one-letter forms and hidden aliases.
const ALIASES: &[(&str, &str)] = &[
    ("c", "config"),
    ("d", "data-dir"),
    ("i", "node-ip"),
    ("kube-cloud-controller-arg", "kube-cloud-controller-manager-arg"),
    ("kube-controller-arg", "kube-controller-manager-arg"),
    ("l", "log"),
    ("o", "write-kubeconfig"),
    ("s", "server"),
    ("t", "token"),
];

/// Environment variables that set a key when neither file nor command line does.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("K3S_AGENT_TOKEN", "agent-token"),
    ("K3S_AGENT_TOKEN_FILE", "agent-token-file"),
    ("K3S_CLUSTER_INIT", "cluster-init"),
    ("K3S_CLUSTER_RESET", "cluster-reset"),
    ("K3S_DATASTORE_ENDPOINT", "datastore-endpoint"),
    ("K3S_DATA_DIR", "data-dir"),
    ("K3S_DEBUG", "debug"),
    ("K3S_LB_SERVER_PORT", "lb-server-port"),
    ("K3S_NODE_NAME", "node-name"),
    ("K3S_RESOLV_CONF", "resolv-conf"),
    ("K3S_SELINUX", "selinux"),
    ("K3S_SYSTEM_DEFAULT_REGISTRY", "system-default-registry"),
    ("K3S_TOKEN", "token"),
    ("K3S_TOKEN_FILE", "token-file"),
    ("K3S_URL", "server"),
];

const BOTH_BOOL: &[&str] = &[
    "alsologtostderr",
    "debug",
    "disable-default-registry-endpoint",
    "docker",
    "enable-pprof",
    "nonroot-devices",
    "prefer-bundled-bin",
    "protect-kernel-defaults",
    "rootless",
    "selinux",
    "with-node-id",
];
const BOTH_INT: &[&str] = &["lb-server-port", "v"];
const BOTH_TEXT: &[&str] = &[
    "bind-address",
    "config",
    "container-runtime-endpoint",
    "data-dir",
    "default-runtime",
    "flannel-cni-conf",
    "flannel-conf",
    "flannel-iface",
    "image-credential-provider-bin-dir",
    "image-credential-provider-config",
    "image-service-endpoint",
    "log",
    "node-name",
    "pause-image",
    "private-registry",
    "resolv-conf",
    "server",
    "snapshotter",
    "token",
    "token-file",
    "vmodule",
    "vpn-auth",
    "vpn-auth-file",
];
const BOTH_LIST: &[&str] =
    &["airgap-extra-registry", "kube-proxy-arg", "kubelet-arg", "node-label", "node-taint"];
const BOTH_COMMAS: &[&str] = &["node-external-dns", "node-external-ip", "node-internal-dns", "node-ip"];
const SERVER_BOOL: &[&str] = &[
    "cluster-init",
    "cluster-reset",
    "disable-agent",
    "disable-apiserver",
    "disable-cloud-controller",
    "disable-controller-manager",
    "disable-etcd",
    "disable-helm-controller",
    "disable-kube-proxy",
    "disable-network-policy",
    "disable-scheduler",
    "embedded-registry",
    "etcd-disable-snapshots",
    "etcd-expose-metrics",
    "etcd-s3",
    "etcd-s3-insecure",
    "etcd-s3-skip-ssl-verify",
    "etcd-snapshot-compress",
    "flannel-external-ip",
    "flannel-ipv6-masq",
    "kine-tls",
    "secrets-encryption",
    "supervisor-metrics",
    "tls-san-security",
];
const SERVER_INT: &[&str] = &[
    "advertise-port",
    "apiserver-port",
    "etcd-s3-retention",
    "etcd-snapshot-retention",
    "https-listen-port",
    "supervisor-port",
];
const SERVER_TEXT: &[&str] = &[
    "advertise-address",
    "agent-token",
    "agent-token-file",
    "apiserver-bind-address",
    "cluster-domain",
    "cluster-reset-restore-path",
    "datastore-cafile",
    "datastore-certfile",
    "datastore-endpoint",
    "datastore-keyfile",
    "default-local-storage-path",
    "egress-selector-mode",
    "etcd-s3-access-key",
    "etcd-s3-bucket",
    "etcd-s3-bucket-lookup-type",
    "etcd-s3-config-secret",
    "etcd-s3-endpoint",
    "etcd-s3-endpoint-ca",
    "etcd-s3-folder",
    "etcd-s3-proxy",
    "etcd-s3-region",
    "etcd-s3-secret-key",
    "etcd-s3-session-token",
    "etcd-s3-timeout",
    "etcd-snapshot-dir",
    "etcd-snapshot-name",
    "etcd-snapshot-reconcile-interval",
    "etcd-snapshot-schedule-cron",
    "flannel-backend",
    "helm-job-image",
    "secrets-encryption-provider",
    "service-node-port-range",
    "servicelb-namespace",
    "system-default-registry",
    "write-kubeconfig",
    "write-kubeconfig-group",
    "write-kubeconfig-mode",
];
const SERVER_LIST: &[&str] = &[
    "etcd-arg",
    "kube-apiserver-arg",
    "kube-cloud-controller-manager-arg",
    "kube-controller-manager-arg",
    "kube-scheduler-arg",
];
const SERVER_COMMAS: &[&str] = &["cluster-cidr", "cluster-dns", "disable", "service-cidr", "tls-san"];
const AGENT_BOOL: &[&str] = &["disable-apiserver-lb"];

const TABLE: &[(Scope, Kind, &[&str])] = &[
    (Scope::Both, Kind::Bool, BOTH_BOOL),
    (Scope::Both, Kind::Int, BOTH_INT),
    (Scope::Both, Kind::Text, BOTH_TEXT),
    (Scope::Both, Kind::List, BOTH_LIST),
    (Scope::Both, Kind::Commas, BOTH_COMMAS),
    (Scope::Server, Kind::Bool, SERVER_BOOL),
    (Scope::Server, Kind::Int, SERVER_INT),
    (Scope::Server, Kind::Text, SERVER_TEXT),
    (Scope::Server, Kind::List, SERVER_LIST),
    (Scope::Server, Kind::Commas, SERVER_COMMAS),
    (Scope::Agent, Kind::Bool, AGENT_BOOL),
];

/// The flag that `role` (`Scope::Server` or `Scope::Agent`) knows by this name.
pub fn find(role: Scope, name: &str) -> Option<Flag> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, full)| full);
    TABLE.iter().filter(|(scope, _, _)| *scope == role || *scope == Scope::Both).find_map(
        |(_, kind, names)| {
            let name = names.iter().find(|known| **known == name)?;
            Some(Flag { name, kind: *kind })
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_server_key_is_unknown_to_an_agent() {
        assert!(find(Scope::Agent, "cluster-init").is_none());
        assert!(find(Scope::Agent, "tls-san").is_none());
        assert_eq!(find(Scope::Server, "tls-san").unwrap().kind, Kind::Commas);
    }

    #[test]
    fn aliases_lead_to_the_long_name() {
        assert_eq!(find(Scope::Agent, "t").unwrap().name, "token");
    }

    #[test]
    fn every_environment_variable_names_a_real_key() {
        for (variable, key) in ENVIRONMENT {
            assert!(find(Scope::Server, key).is_some(), "{variable}");
        }
    }
}

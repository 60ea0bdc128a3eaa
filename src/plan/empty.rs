//! Files of k3s that a power cut left with nothing in them.
//!
//! k3s syncs little of what it writes. It makes anew what is missing and ends at
//! what is there and empty (k3s: pkg/daemons/control/deps/deps.go `exists`).
//! Owns which empty files go before k3s starts, and which only a person can
//! bring back. Names no file that holds something but the certificate of an
//! empty kubeconfig, which k3s writes only together with it, and the directory in
//! which one of k3s's programs is empty: k3s unpacks all of them or none.

use std::net::IpAddr;

use super::item::PlannedEmpty;
use super::refusal::Refusal;
use super::{Inputs, Plan, config, units};
use crate::facts::HostFacts;
use crate::paths::K3S_DATA;
use crate::role::version::K3sVersion;
use crate::role::{Duty, Role};

/// How many paths are named where more are meant.
const NAMED: usize = 3;
/// Minor version from which k3s puts its CA set back from the datastore at each
/// start (k3s: pkg/cluster/bootstrap.go `ReconcileBootstrapData`). One before it
/// would make a new CA for a cluster that exists.
const RECONCILES: u32 = 23;

/// Where the content of a file can come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// k3s makes it anew where it is missing.
    K3s,
    /// As `K3s`, whether it is there or not.
    Always,
    /// It is the same on all servers: k3s takes it from its datastore, or from the
    /// server that it joins.
    Cluster,
    /// Nothing that this program may decide.
    Nowhere,
}

/// Certificates with their keys, and keys alone, as `NAME.crt` and `NAME.key`.
const ISSUED: [&str; 22] = [
    "server/tls/client-admin",
    "server/tls/client-supervisor",
    "server/tls/client-controller",
    "server/tls/client-scheduler",
    "server/tls/client-kube-apiserver",
    "server/tls/client-kube-proxy",
    "server/tls/client-k3s-controller",
    "server/tls/client-k3s-cloud-controller",
    "server/tls/client-cloud-controller",
    "server/tls/client-kubelet",
    "server/tls/client-auth-proxy",
    "server/tls/serving-kube-apiserver",
    "server/tls/serving-kubelet",
    "server/tls/kube-scheduler/kube-scheduler",
    "server/tls/kube-controller-manager/kube-controller-manager",
    "server/tls/etcd/client",
    "server/tls/etcd/server-client",
    "server/tls/etcd/peer-server-client",
    "agent/client-kubelet",
    "agent/serving-kubelet",
    "agent/client-kube-proxy",
    "agent/client-k3s-controller",
];

/// CAs, as `NAME.crt` and `NAME.key`.
const AUTHORITIES: [&str; 5] = [
    "server/tls/server-ca",
    "server/tls/client-ca",
    "server/tls/request-header-ca",
    "server/tls/etcd/server-ca",
    "server/tls/etcd/peer-ca",
];

const OTHERS: [(&str, Source); 20] = [
    ("server/tls/server-ca.nochain.crt", Source::K3s),
    ("server/tls/client-ca.nochain.crt", Source::K3s),
    ("server/tls/service.current.key", Source::K3s),
    ("server/tls/dynamic-cert.json", Source::K3s),
    ("server/etc/egress-selector-config.yaml", Source::K3s),
    ("server/etc/cloud-config.yaml", Source::K3s),
    ("server/db/etcd/config", Source::K3s),
    ("agent/client-ca.crt", Source::K3s),
    ("agent/server-ca.crt", Source::K3s),
    ("agent/kubelet.kubeconfig", Source::K3s),
    ("agent/kubeproxy.kubeconfig", Source::K3s),
    ("agent/k3scontroller.kubeconfig", Source::K3s),
    ("server/token", Source::Always),
    ("server/tls/service.key", Source::Cluster),
    ("server/cred/passwd", Source::Cluster),
    ("server/cred/ipsec.psk", Source::Cluster),
    ("server/cred/encryption-config.json", Source::Cluster),
    ("server/cred/encryption-state.json", Source::Cluster),
    ("server/db/etcd/name", Source::Nowhere),
    ("server/db/etcd/member/snap/db", Source::Nowhere),
];

/// Kubeconfigs of a server and what is issued with each.
const KUBECONFIGS: [(&str, &str); 6] = [
    ("server/cred/admin.kubeconfig", "server/tls/client-admin.crt"),
    ("server/cred/supervisor.kubeconfig", "server/tls/client-supervisor.crt"),
    ("server/cred/controller.kubeconfig", "server/tls/client-controller.crt"),
    ("server/cred/scheduler.kubeconfig", "server/tls/client-scheduler.crt"),
    ("server/cred/api-server.kubeconfig", "server/tls/client-kube-apiserver.crt"),
    ("server/cred/cloud-controller.kubeconfig", "server/tls/client-k3s-cloud-controller.crt"),
];

/// Every file that is looked at, below k3s's data directory; no other is of
/// interest when it is empty.
pub fn known() -> impl Iterator<Item = String> {
    sources().map(|(name, _)| format!("{K3S_DATA}/{name}"))
}

fn sources() -> impl Iterator<Item = (String, Source)> {
    let pair = |name: &str, source| [(format!("{name}.crt"), source), (format!("{name}.key"), source)];
    let issued = ISSUED.into_iter().flat_map(move |name| pair(name, Source::K3s));
    let authorities = AUTHORITIES.into_iter().flat_map(move |name| pair(name, Source::Cluster));
    let kubeconfigs = KUBECONFIGS.into_iter().map(|(name, _)| (name.to_owned(), Source::K3s));
    let others = OTHERS.into_iter().map(|(name, source)| (name.to_owned(), source));
    issued.chain(authorities).chain(kubeconfigs).chain(others)
}

fn source(path: &str) -> Option<Source> {
    if unpacked_with(path).is_some() {
        return Some(Source::K3s);
    }
    let name = path.strip_prefix(K3S_DATA)?.strip_prefix('/')?;
    sources().find(|(known, _)| known == name).map(|(_, source)| source)
}

/// The certificate without which k3s does not write this kubeconfig anew. It must
/// go first: a kubeconfig that is missing beside it stays so for good.
#[must_use]
pub fn issued_with(path: &str) -> Option<String> {
    let name = path.strip_prefix(K3S_DATA)?.strip_prefix('/')?;
    let (_, certificate) = KUBECONFIGS.into_iter().find(|(known, _)| *known == name)?;
    Some(format!("{K3S_DATA}/{certificate}"))
}

/// Where k3s unpacks its programs, one directory for each build of it.
pub const UNPACKED: &str = "/var/lib/rancher/k3s/data";
/// Where they lie below that directory; k3s is the one without which it ends.
pub const PROGRAMS: [&str; 2] = ["bin", "bin/aux"];

/// Whether k3s gives this name to what it unpacks: the digest of its archive
/// (k3s: cmd/k3s/main.go `getAssetAndDir`).
#[must_use]
pub fn is_unpacked(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The directory that k3s unpacked as a whole, for a program in it. Where it is
/// there k3s takes it for complete, whatever is in it (k3s: cmd/k3s/main.go `extract`).
#[must_use]
pub fn unpacked_with(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(UNPACKED)?.strip_prefix('/')?;
    let (name, program) = rest.split_once('/').filter(|(name, _)| is_unpacked(name))?;
    let is_program = program.starts_with("bin/") && !program.contains("..");
    is_program.then(|| path.get(..UNPACKED.len() + 1 + name.len()))?
}

/// Whether a plan may remove this file where it is empty.
pub(super) fn may_go(path: &str) -> bool {
    matches!(source(path), Some(Source::K3s | Source::Cluster))
}

/// The empty files that go before k3s starts; none while it runs, which empties
/// files itself for a moment when it writes them.
pub(super) fn decide(inputs: Inputs<'_>, duty: &Duty, start: config::Start) -> Option<PlannedEmpty> {
    planned(inputs, duty.role, cluster_has_it(duty, start))
}

/// The same for a server that leaves etcd, and is a member until that is done.
pub(super) fn while_leaving(inputs: Inputs<'_>) -> Option<PlannedEmpty> {
    let version = inputs.facts.runtime.k3s.version.known().and_then(|text| text.as_deref()?.parse().ok());
    let is_reconciled = version.is_some_and(|version: K3sVersion| version.at_least(RECONCILES));
    planned(inputs, Role::Server, is_reconciled)
}

fn planned(inputs: Inputs<'_>, role: Role, cluster_has_it: bool) -> Option<PlannedEmpty> {
    let goes = |path: &&String| match source(path) {
        Some(Source::K3s) => true,
        Some(Source::Cluster) => cluster_has_it,
        _ => false,
    };
    let paths: Vec<String> = of_role(inputs.facts, role).filter(goes).cloned().collect();
    let reason = format!(
        "{}, as a power cut leaves them; k3s ends at such a file, and makes anew or fetches what is missing",
        holds_nothing(&paths)
    );
    let needs_stopped = units::of_role(role).to_owned();
    (!paths.is_empty()).then_some(PlannedEmpty { paths, needs_stopped, reason })
}

/// A server that forms its cluster has given its CA to nobody yet.
fn cluster_has_it(duty: &Duty, start: config::Start) -> bool {
    match start {
        config::Start::Init | config::Start::Join | config::Start::Agent => true,
        config::Start::Member => duty.k3s.version.at_least(RECONCILES),
    }
}

/// Empty files that matter to this role, while its unit is down.
fn of_role(facts: &HostFacts, role: Role) -> impl Iterator<Item = &String> {
    let unit = facts.runtime.units.get(units::of_role(role).trim_end_matches(".service"));
    let runs = unit.and_then(|unit| unit.known()).is_some_and(|unit| unit.main_pid != 0);
    let counts = move |path: &&String| !runs && (role == Role::Server || !path.contains("/server/"));
    facts.runtime.k3s.empty_files.iter().filter(counts)
}

/// `A holds nothing`, `A, B, C and 3 more hold nothing`.
fn holds_nothing(paths: &[String]) -> String {
    let named: Vec<&str> = paths.iter().take(NAMED).map(String::as_str).collect();
    let more = match paths.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = if paths.len() == 1 { "holds" } else { "hold" };
    format!("{}{more} {verb} nothing", named.join(", "))
}

/// What is told of empty files: those that go or that k3s writes over, and, as
/// the second, those which only a person can bring back.
#[must_use]
pub fn findings(plan: &Plan, facts: &HostFacts) -> [Option<Refusal>; 2] {
    let Some(identity) = plan.identity.as_ref().filter(|_| plan.retirement.is_none()) else {
        return [None, None];
    };
    let goes = plan.empty.as_ref().map(|empty| &empty.paths);
    let put_back = |path: &String| plan.restores.iter().any(|item| item.path == *path);
    let is_mended =
        |path: &String| goes.is_some_and(|goes| goes.contains(path)) || source(path) == Some(Source::Always);
    let empty = of_role(facts, identity.role).filter(|path| !put_back(path)).cloned();
    let (mended, lost): (Vec<String>, Vec<String>) = empty.partition(is_mended);
    [
        (!mended.is_empty()).then(|| {
            Refusal::new(
                "EB-k3s-empty",
                format!("{}: k3s had not synced what it wrote when the power went", holds_nothing(&mended)),
                "nothing: what k3s makes anew is removed before it starts",
            )
        }),
        lost.first().map(|first| {
            let reason = format!("{}, and nothing here can make that anew", holds_nothing(&lost));
            Refusal::new("EB-k3s-lost", reason, by_hand(first, identity.node_ip))
        }),
    ]
}

fn by_hand(path: &str, ip: IpAddr) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name {
        "name" => format!(
            "write the member's name into it: on another server `k3s kubectl describe node` shows it as the annotation etcd.k3s.cattle.io/node-name of the Node with {ip}"
        ),
        "db" => "replace this server, or restore a snapshot where it is the only one (docs/replacement.md)"
            .to_owned(),
        _ => "copy it from another server of the site, or restore a snapshot; nothing is removed".to_owned(),
    }
}

#[cfg(test)]
#[path = "empty_tests.rs"]
mod tests;

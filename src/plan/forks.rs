//! Whether a start of k3s could fork the cluster, or lose it.
//!
//! Owns the rules of invariant 4 that gate and lint share: what a server would
//! do with the datastore that it finds (k3s: pkg/cluster/managed.go,
//! bootstrap.go, pkg/etcd/etcd.go), and which settings of others break an
//! invariant. Pure; each rule refuses on what was seen, never on what is not
//! known.

use super::refusal::Refusal;
use super::{keys, roles};
use crate::facts::HostFacts;
use crate::facts::k3s_config::{DropIn, Effective};
use crate::facts::overrides::Override;
use crate::facts::runtime::PinnedIdentity;
use crate::paths;

/// The datastore on disk; `None` is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Datastore {
    /// `db/etcd/member/wal` holds something.
    pub present: Option<bool>,
    /// etcd has removed this member.
    pub tombstone: Option<bool>,
    /// First line of `db/etcd/name`; empty when the file is.
    pub name: Option<String>,
    /// Hash of `server/tls/server-ca.crt`.
    pub ca_hash: Option<String>,
}

impl Datastore {
    /// As it was observed.
    #[must_use]
    pub fn of(facts: &HostFacts) -> Self {
        let k3s = &facts.runtime.k3s;
        let empty = k3s.etcd_name_empty.known() == Some(&true);
        Self {
            present: k3s.has_datastore.known().copied(),
            tombstone: k3s.tombstone.known().copied(),
            name: if empty { Some(String::new()) } else { k3s.etcd_member.known().cloned().flatten() },
            ca_hash: k3s.ca_hash.known().cloned().flatten(),
        }
    }

    fn is_present(&self) -> bool {
        self.present == Some(true)
    }
}

/// A server that is about to start.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// Who the host is, when that could be read.
    pub identity: Option<&'a PinnedIdentity>,
    /// Every value as k3s would see it.
    pub effective: &'a Effective,
    /// What it would start on.
    pub datastore: &'a Datastore,
    /// The token that it would use is not empty.
    pub has_token: bool,
    /// That token names the cluster's CA, or could not be read.
    pub is_pinned: bool,
    /// The init lease was confirmed in this boot, for the pinned epoch.
    pub has_lease: bool,
}

/// What k3s does when it finds no datastore of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Joins a server, or fails and is started again.
    Join,
    /// Asks itself, which nobody answers.
    JoinItself,
    /// Forms a new cluster on etcd.
    Init,
    /// Runs on a database elsewhere.
    External,
    /// Forms a cluster of its own on sqlite.
    Sqlite,
}

impl Server<'_> {
    /// What k3s would do without a datastore (k3s: pkg/cluster/managed.go).
    #[must_use]
    pub fn beginning(&self) -> Beginning {
        let server = last(self.effective, "server");
        if !last(self.effective, "datastore-endpoint").is_empty() {
            return Beginning::External;
        }
        match (server.is_empty(), self.has_token) {
            (false, true) if self.is_itself(server) => Beginning::JoinItself,
            (false, true) => Beginning::Join,
            (true, _) if is_true(self.effective, "cluster-init") => Beginning::Init,
            _ => Beginning::Sqlite,
        }
    }

    fn is_itself(&self, server: &str) -> bool {
        self.identity.is_some_and(|identity| names_host(server, &identity.node_name, identity.node_ip))
    }

    fn has_joined(&self) -> bool {
        self.identity.is_some_and(|identity| identity.joined.is_some())
    }

    /// The first evidence against this start.
    #[must_use]
    pub fn refused(&self) -> Option<Refusal> {
        let rules = [epoch_holds, is_a_member, begins_rightly, name_fits, ca_fits];
        rules.into_iter().find_map(|rule| rule(self))
    }
}

/// The datastore is of the newest life of the cluster that this host knows of.
#[must_use]
pub fn epoch_holds(server: &Server<'_>) -> Option<Refusal> {
    let identity = server.identity.filter(|_| server.datastore.is_present())?;
    (identity.epoch < identity.highest_epoch).then(|| {
        Refusal::new(
            "EB-datastore-epoch",
            format!(
                "the datastore on this host is of epoch {}, the site is at epoch {}",
                identity.epoch, identity.highest_epoch
            ),
            "bring the central service in reach, which says what becomes of this host; nothing is deleted",
        )
    })
}

/// etcd has not removed this member.
#[must_use]
pub fn is_a_member(server: &Server<'_>) -> Option<Refusal> {
    let removed = server.datastore.tombstone == Some(true) && server.datastore.present != Some(false);
    removed.then(|| {
        Refusal::new(
            "EB-tombstone",
            "etcd has removed this member, and its datastore is still in its place",
            "`edge-bootstrap apply` moves it aside and lets k3s join anew",
        )
    })
}

/// Without a datastore k3s joins, or forms a cluster that this host may form.
#[must_use]
pub fn begins_rightly(server: &Server<'_>) -> Option<Refusal> {
    if server.datastore.present != Some(false) {
        return None;
    }
    match server.beginning() {
        Beginning::Join if server.identity.is_some() => pins_ca(server.is_pinned),
        Beginning::Join => None,
        Beginning::Init if server.has_lease && !server.has_joined() => None,
        // A host that is not pinned is somebody else's to configure.
        Beginning::Init if server.identity.is_none() => Some(no_lease()),
        _ if server.identity.is_none() => None,
        Beginning::External => Some(external()),
        _ if server.has_joined() => Some(missing()),
        Beginning::Init => Some(no_lease()),
        Beginning::JoinItself | Beginning::Sqlite => Some(sqlite()),
    }
}

/// The datastore is of this member. Only after its first READY; only the part
/// before the last `-` counts, because a reset or a rejoin gives a new end.
#[must_use]
pub fn name_fits(server: &Server<'_>) -> Option<Refusal> {
    let identity = server.identity.filter(|_| server.datastore.is_present())?;
    let recorded = identity.joined.as_ref()?.etcd_member.as_deref();
    let name = server.datastore.name.as_deref().filter(|name| Some(*name) != recorded)?;
    if name.is_empty() {
        return Some(name_is_empty());
    }
    let prefix = name.rsplit_once('-').map_or(name, |(prefix, _)| prefix);
    // k3s lower-cases node names (k3s: pkg/util/net.go).
    (!prefix.eq_ignore_ascii_case(&identity.node_name)).then(|| {
        Refusal::new(
            "EB-datastore-name",
            format!("the datastore on this host is of member {name}, this host is {}", identity.node_name),
            "the disk or directory of another host is here: put back the right one",
        )
    })
}

/// The datastore is of the cluster that this host joined.
#[must_use]
pub fn ca_fits(server: &Server<'_>) -> Option<Refusal> {
    let identity = server.identity.filter(|_| server.datastore.is_present())?;
    let recorded = identity.joined.as_ref()?.ca_hash.as_deref()?;
    let found = server.datastore.ca_hash.as_deref().filter(|found| *found != recorded)?;
    Some(Refusal::new(
        "EB-datastore-ca",
        format!(
            "the cluster CA on this host begins with {}, the cluster that it joined has {}",
            short(found),
            short(recorded)
        ),
        "the files of another cluster are here: put back the right ones",
    ))
}

/// A join without the CA's hash in the token is a join of whoever answers (k3s:
/// pkg/clientaccess/token.go).
#[must_use]
pub fn pins_ca(is_pinned: bool) -> Option<Refusal> {
    (!is_pinned).then(|| {
        Refusal::new(
            "EB-token-unpinned",
            "the token names no CA: k3s would join whoever answers at the server's address",
            "`edge-bootstrap apply` writes the token anew",
        )
    })
}

/// How a member comes back whose datastore is gone, where no other server has it.
pub(super) const RESTORE: &str = "restore a snapshot: `edge-bootstrap pause --for 1h --reason restore`, \
     `k3s server --cluster-reset --cluster-reset-restore-path=FILE`, `edge-bootstrap resume`; \
     or raise the site's epoch at the central service";

fn missing() -> Refusal {
    Refusal::new(
        "EB-datastore-missing",
        "this host was a member of etcd, its datastore is gone, and its configuration names no server to join; k3s would form a second, empty cluster",
        RESTORE,
    )
}

fn no_lease() -> Refusal {
    Refusal::new(
        "EB-wait-init-lease",
        "k3s would form a new cluster, and the init lease was not confirmed in this boot",
        "bring the central service in reach, then it goes on by itself",
    )
}

fn external() -> Refusal {
    Refusal::new(
        "EB-override",
        "datastore-endpoint is set: k3s would run on another datastore than this host's own etcd",
        "remove datastore-endpoint from k3s's configuration on this host",
    )
}

fn sqlite() -> Refusal {
    Refusal::new(
        "EB-datastore-sqlite",
        "there is no etcd datastore and no server to join with a token, so that k3s would form a private cluster on sqlite",
        "`edge-bootstrap apply` writes the configuration anew",
    )
}

fn name_is_empty() -> Refusal {
    Refusal::new(
        "EB-datastore-name",
        format!(
            "{} is empty; etcd would call this member \"default\", and k3s would wait for ever",
            paths::K3S_ETCD_NAME
        ),
        "`edge-bootstrap apply` writes the recorded name back",
    )
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// A leave that has begun goes on before anything of k3s starts.
#[must_use]
pub fn is_not_leaving(identity: &PinnedIdentity) -> Option<Refusal> {
    let left = roles::has_left(identity).then_some("etcd has removed this server");
    let reason = identity.retiring.as_ref().map(|retiring| retiring.reason.as_str()).or(left);
    reason.map(|reason| {
        Refusal::new(
            "EB-retiring",
            format!("this host is leaving its cluster: {reason}"),
            "edge-bootstrap ends the leave by itself; see `edge-bootstrap status`",
        )
    })
}

/// An agent has a server to ask (k3s: pkg/cli/agent/agent.go ends without one).
#[must_use]
pub fn agent_has_server(effective: &Effective) -> Option<Refusal> {
    last(effective, "server").is_empty().then(|| {
        Refusal::new(
            "EB-server-missing",
            "the configuration of this agent names no server; k3s would exit with an error",
            "`edge-bootstrap apply` writes it anew",
        )
    })
}

/// Whether the URL of a server leads to the host with this name and address.
#[must_use]
pub fn names_host(url: &str, name: &str, ip: std::net::IpAddr) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let address: Option<std::net::IpAddr> = host.parse().ok();
    address.is_some_and(|address| address == ip || address.is_loopback())
        || host.eq_ignore_ascii_case(name)
        || host.eq_ignore_ascii_case("localhost")
}

// === settings of others ===

/// What k3s would see with the settings of others: arguments replace, variables
/// fill in what is not set.
#[must_use]
pub fn with_overrides(config: &Effective, overrides: &[Override]) -> Effective {
    let mut whole = config.clone();
    let (arguments, variables): (Vec<_>, Vec<_>) = overrides.iter().partition(|over| over.wins);
    for over in arguments {
        whole.0.insert(over.key.clone(), vec![over.value.clone()]);
    }
    for over in variables {
        whole.0.entry(over.key.clone()).or_insert_with(|| vec![over.value.clone()]);
    }
    whole
}

/// Settings in force that break an invariant whatever the datastore is.
#[must_use]
pub fn override_breaks(
    config: &Effective,
    overrides: &[Override],
    identity: &PinnedIdentity,
) -> Option<Refusal> {
    let in_force = overrides.iter().filter(|over| over.wins || !config.0.contains_key(&over.key));
    in_force.into_iter().find_map(|over| {
        let flag = || keys::breaks_start(&over.key, &over.value, &identity.node_name);
        let why = breaks(&over.key, &over.value, identity).or_else(flag)?;
        Some(overridden(&format!("{} in {}", over.name, over.path), &over.path, why))
    })
}

/// Keys of drop-ins that break an invariant whatever the datastore is. `main`
/// is `config.yaml` alone.
#[must_use]
pub fn drop_in_breaks(
    main: &Effective,
    drop_ins: &[DropIn<'_>],
    identity: &PinnedIdentity,
) -> Option<Refusal> {
    keys::entries(drop_ins).find_map(|(file, key, values)| {
        let name = key.trim_end_matches('+');
        let value = values.last().map_or("", String::as_str);
        let flag = || values.iter().find_map(|one| keys::breaks_start(name, one, &identity.node_name));
        let why = breaks(name, value, identity).or_else(flag).or_else(|| differs(main, name, values))?;
        Some(overridden(&format!("{name} in {file}"), file, why))
    })
}

fn overridden(what: &str, place: &str, why: &str) -> Refusal {
    Refusal::new("EB-override", format!("{what}: {why}"), format!("remove it from {place}"))
}

/// Why `key` with this value breaks an invariant.
fn breaks(key: &str, value: &str, identity: &PinnedIdentity) -> Option<&'static str> {
    let ip = identity.node_ip.to_string();
    match key {
        "config" if value != paths::K3S_CONFIG => Some("k3s would read another configuration"),
        "data-dir" if value.trim_end_matches('/') != paths::K3S_DATA => {
            Some("k3s would start on another directory and without this host's datastore")
        }
        "cluster-reset" if is_on(value) => Some("every start would reset the membership of the cluster"),
        "cluster-reset-restore-path" if !value.is_empty() => {
            Some("a start would replace the datastore by a snapshot")
        }
        "disable-etcd" if is_on(value) => Some("this server would run without its datastore"),
        "with-node-id" if is_on(value) => Some("the node would get another name"),
        "node-name" if !value.eq_ignore_ascii_case(&identity.node_name) => {
            Some("the node would get another name than the pinned one")
        }
        "node-ip" if value.split(',').next() != Some(&ip) => {
            Some("the node would get another address than the pinned one")
        }
        _ => None,
    }
}

/// k3s compares these only when a server joins, never at a restart.
fn differs(main: &Effective, key: &str, values: &[String]) -> Option<&'static str> {
    let critical = ["cluster-cidr", "service-cidr", "flannel-backend"].contains(&key);
    (critical && main.all(key) != values).then_some("it differs from the rest of the cluster")
}

/// Names the setting of somebody else that makes a start wrong which would be
/// right without it; other evidence stays as it is.
#[must_use]
pub fn blamed(refusal: Refusal, without: Option<&Refusal>, overrides: &[Override]) -> Refusal {
    let keys = ["cluster-init", "datastore-endpoint", "server", "token", "token-file"];
    let guilty = overrides.iter().find(|over| keys.contains(&over.key.as_str()));
    match guilty.filter(|_| without != Some(&refusal)) {
        Some(over) => Refusal::new(
            "EB-override",
            format!("{} in {}: {}", over.name, over.path, refusal.reason),
            format!("remove it from {}", over.path),
        ),
        None => refusal,
    }
}

/// The value that counts of a key that takes one: the last.
fn last<'a>(effective: &'a Effective, key: &str) -> &'a str {
    effective.all(key).last().map_or("", String::as_str)
}

fn is_true(effective: &Effective, key: &str) -> bool {
    is_on(last(effective, key))
}

fn is_on(value: &str) -> bool {
    keys::values::truth(value) == Some(true)
}

//! Owns the decision that a k3s server takes at start (k3s:
//! pkg/cluster/managed.go, bootstrap.go, pkg/etcd/etcd.go). Pure: it sees
//! what was found and says what follows; it touches no file.

/// What was found at start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// `db/etcd/member/wal` exists.
    pub wal: bool,
    /// `db/etcd/tombstone` exists.
    pub tombstone: bool,
    /// `server:` is set.
    pub server: bool,
    /// The configured token is not empty.
    pub token: bool,
    /// `cluster-init` is on.
    pub init: bool,
    /// `datastore-endpoint` is set.
    pub endpoint: bool,
}

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Starts the member whose data is there.
    Existing {
        /// Tries once to compare the CA files with the configured peer.
        reconcile: bool,
    },
    /// Moves `db/etcd` aside and joins as a new member; waits for ever while
    /// the server does not answer.
    Rejoin,
    /// Moves `db/etcd` aside and becomes a new single-node cluster.
    Fork,
    /// Creates a new etcd cluster.
    NewEtcd,
    /// Joins the configured server.
    Join,
    /// Runs on sqlite, an existing file or a new one.
    Sqlite,
    /// Runs on an external datastore.
    External,
    /// Ends with this fatal message.
    Refuse(&'static str),
}

/// k3s >= 1.35.1 refuses this state (commit 499e1b564).
pub const TOMBSTONE_WITHOUT_SERVER: &str = "failed to start supervisor listener: tombstone file has \
    been detected but --server is empty: backup and delete ${datadir}/server/db to create a new \
    cluster, or set --server to rejoin the cluster";

/// A join needs the secret of the cluster.
pub const TOKEN_REQUIRED: &str = "failed to bootstrap cluster data: failed to check if bootstrap data \
    has been initialized: token is required to join a cluster";

/// What k3s does in each state.
pub fn decide(found: Found) -> Outcome {
    match found {
        Found { wal: true, tombstone: true, .. } => tombstoned(found),
        Found { wal: true, .. } => Outcome::Existing { reconcile: found.server && found.token },
        Found { endpoint: true, .. } => Outcome::External,
        Found { server: false, init: true, .. } => Outcome::NewEtcd,
        Found { server: true, token: true, .. } => Outcome::Join,
        Found { server: true, token: false, init: true, .. } => Outcome::Refuse(TOKEN_REQUIRED),
        _ => Outcome::Sqlite,
    }
}

/// Seen with v1.36.2: a peer that does not answer is waited for (older
/// releases may fork); without a token the cluster is forked.
fn tombstoned(found: Found) -> Outcome {
    if !found.server {
        Outcome::Refuse(TOMBSTONE_WITHOUT_SERVER)
    } else if found.token {
        Outcome::Rejoin
    } else {
        Outcome::Fork
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Found =
        Found { wal: false, tombstone: false, server: false, token: false, init: false, endpoint: false };

    /// Every combination of the columns that a row calls "any".
    fn any(row: Found, free: &[fn(&mut Found)]) -> Vec<Found> {
        free.iter().fold(vec![row], |rows, set| {
            rows.into_iter()
                .flat_map(|row| {
                    let mut other = row;
                    set(&mut other);
                    [row, other]
                })
                .collect()
        })
    }

    fn assert_all(rows: Vec<Found>, expected: Outcome) {
        for row in rows {
            assert_eq!(decide(row), expected, "{row:?}");
        }
    }

    const TOKEN: fn(&mut Found) = |f| f.token = true;
    const INIT: fn(&mut Found) = |f| f.init = true;
    const ENDPOINT: fn(&mut Found) = |f| f.endpoint = true;
    const TOMBSTONE: fn(&mut Found) = |f| f.tombstone = true;

    #[test]
    fn wal_starts_the_existing_member() {
        let wal = Found { wal: true, ..NONE };
        assert_all(any(wal, &[TOKEN, INIT, ENDPOINT]), Outcome::Existing { reconcile: false });
        let peer = Found { server: true, token: true, ..wal };
        assert_all(any(peer, &[INIT, ENDPOINT]), Outcome::Existing { reconcile: true });
        let no_token = Found { server: true, ..wal };
        assert_all(any(no_token, &[INIT, ENDPOINT]), Outcome::Existing { reconcile: false });
    }

    #[test]
    fn tombstone_with_server_and_token_rejoins() {
        let row = Found { wal: true, tombstone: true, server: true, token: true, ..NONE };
        assert_all(any(row, &[INIT]), Outcome::Rejoin);
    }

    #[test]
    fn tombstone_with_an_empty_token_forks() {
        let row = Found { wal: true, tombstone: true, server: true, ..NONE };
        assert_all(any(row, &[INIT]), Outcome::Fork);
    }

    #[test]
    fn tombstone_without_server_is_refused() {
        let row = Found { wal: true, tombstone: true, ..NONE };
        assert_all(any(row, &[TOKEN, INIT]), Outcome::Refuse(TOMBSTONE_WITHOUT_SERVER));
    }

    #[test]
    fn init_without_server_makes_a_new_cluster() {
        let row = Found { init: true, ..NONE };
        assert_all(any(row, &[TOKEN, TOMBSTONE]), Outcome::NewEtcd);
    }

    #[test]
    fn server_and_token_join() {
        let row = Found { server: true, token: true, ..NONE };
        assert_all(any(row, &[INIT, TOMBSTONE]), Outcome::Join);
    }

    #[test]
    fn server_and_init_without_token_is_refused() {
        let row = Found { server: true, init: true, ..NONE };
        assert_all(vec![row], Outcome::Refuse(TOKEN_REQUIRED));
    }

    #[test]
    fn server_without_token_is_a_private_sqlite_cluster() {
        assert_all(vec![Found { server: true, ..NONE }], Outcome::Sqlite);
    }

    #[test]
    fn nothing_set_is_sqlite() {
        assert_all(any(NONE, &[TOKEN]), Outcome::Sqlite);
    }

    #[test]
    fn endpoint_is_external() {
        let rows = any(Found { endpoint: true, ..NONE }, &[TOKEN, INIT, |f| f.server = true]);
        assert_all(rows, Outcome::External);
    }
}

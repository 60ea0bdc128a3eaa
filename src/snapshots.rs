//! The snapshots of etcd that lie on this server, as reports name them.
//!
//! Owns the record of their digests, so that each file is read once, and which
//! token opens each: the one that k3s held when the file was first seen. Opens
//! no snapshot, and keeps no token.

use std::collections::BTreeMap;

use crate::binary;
use crate::paths::{K3S_DATA, SNAPSHOTS};
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{Root, sink};
use crate::wire::report::ReportedSnapshot;
use crate::wire::secret::sha256_hex;

/// Newest files that are reported; a report has room for a few hundred.
const MOST: usize = 50;

/// Name of a file to its digest, that of its token, its size and its time, with
/// blanks between them.
type Record = BTreeMap<String, String>;

/// What is known of the snapshots, oldest name first.
#[must_use]
pub fn known(root: &Root) -> Vec<ReportedSnapshot> {
    let reported = |(name, line): (String, String)| {
        let mut words = line.split(' ').map(str::to_owned);
        Some(ReportedSnapshot { name, sha256: words.next()?, token_sha256: words.next()? })
    };
    load(root).into_iter().filter_map(reported).collect()
}

fn load(root: &Root) -> Record {
    statefile::load(root, SNAPSHOTS).ok().and_then(Loaded::value).unwrap_or_default()
}

/// Forgets what is gone from `directory` (k3s's own where none is named) and reads
/// one file that is new: the next pass reads the next one. What cannot be read is
/// looked at again.
///
/// # Errors
/// When the record cannot be written.
pub async fn learn(root: &Root, directory: Option<&str>) -> Result<(), StateError> {
    let own = format!("{K3S_DATA}/server/db/snapshots");
    let directory = directory.unwrap_or(&own);
    let before = load(root);
    let Some(token) = token(root) else { return Ok(()) };
    let mut names = root.list(directory).unwrap_or_default();
    // One that etcd is still writing (etcd: client/v3/snapshot/v3_snapshot.go).
    names.retain(|name| !name.ends_with(".part"));
    names.drain(..names.len().saturating_sub(MOST));
    let (mut now, mut has_read) = (Record::new(), false);
    for name in names {
        let path = format!("{directory}/{name}");
        let Ok(Some(seen)) = binary::seen(root, &path) else { continue };
        let look = format!(" {} {}", seen.size, seen.mtime);
        if let Some(line) = before.get(&name).filter(|line| line.ends_with(&look)) {
            now.insert(name, line.clone());
        } else if !has_read && let Ok(digest) = sink::digest_beside(root, &path).await {
            has_read = true;
            now.insert(name, [&digest, " ", &token, &look].concat());
        }
    }
    if now == before { Ok(()) } else { statefile::store(root, SNAPSHOTS, &now).map(|_| ()) }
}

/// Names the password in `server/token`, which k3s keeps as the one it holds.
fn token(root: &Root) -> Option<String> {
    let text = root.read_text(&format!("{K3S_DATA}/server/token")).ok()??;
    let (_, password) = text.trim_end().strip_prefix("K10")?.split_once("::server:")?;
    (!password.is_empty()).then(|| sha256_hex(password.as_bytes()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    fn put(root: &Root, path: &str, text: &str) {
        let path = format!("{K3S_DATA}/server/{path}");
        root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
        atomic::write(root, &path, text.as_bytes(), 0o600).unwrap();
    }

    fn holds(root: &Root, password: &str) -> String {
        put(root, "token", &format!("K10{}::server:{password}\n", "ab".repeat(32)));
        sha256_hex(password.as_bytes())
    }

    #[tokio::test]
    async fn a_snapshot_remembers_the_token_of_its_day_and_each_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir(crate::paths::STATE_DIR, 0o700).unwrap();
        learn(&root, None).await.unwrap();
        assert_eq!(known(&root), []);
        let old = holds(&root, "old-canary");
        put(&root, "db/snapshots/etcd-snapshot-1", "one");
        put(&root, "db/snapshots/etcd-snapshot-2", "two");
        put(&root, "db/snapshots/etcd-snapshot-9.part", "not whole");
        learn(&root, None).await.unwrap();
        assert_eq!(known(&root).len(), 1, "one in a pass");
        learn(&root, None).await.unwrap();
        let new = holds(&root, "new-canary");
        put(&root, "db/snapshots/etcd-snapshot-3", "three");
        learn(&root, None).await.unwrap();
        let file = |name: &str, content: &str, token: &str| ReportedSnapshot {
            name: name.to_owned(),
            sha256: sha256_hex(content.as_bytes()),
            token_sha256: token.to_owned(),
        };
        let three = file("etcd-snapshot-3", "three", &new);
        let two = file("etcd-snapshot-2", "two", &old);
        assert_eq!(known(&root), [file("etcd-snapshot-1", "one", &old), two.clone(), three.clone()]);
        root.remove_file(&format!("{K3S_DATA}/server/db/snapshots/etcd-snapshot-1")).unwrap();
        learn(&root, None).await.unwrap();
        assert_eq!(known(&root), [two, three]);
        let stored = root.read_text(SNAPSHOTS).unwrap().unwrap();
        assert!(!stored.contains("canary"), "{stored}");
    }
}

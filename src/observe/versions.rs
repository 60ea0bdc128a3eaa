//! What installed programs print as their version.
//!
//! Owns a cache by identity of the file (device, inode, size, time of change),
//! because starting containerd or k3s costs more than all other facts together.
//! A cache that cannot be read or written costs time, nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FIXTURES, text};
use crate::facts::Fact;
use crate::paths::{STATE_DIR, VERSIONS};
use crate::sys::root::Stat;
use crate::sys::{Root, exec, statefile};

/// On a cold disk a program of 70 MB takes seconds to load.
const DEADLINE: Duration = Duration::from_secs(5);

type Cache = BTreeMap<String, Entry>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    dev: u64,
    inode: u64,
    size: u64,
    mtime: i64,
    text: String,
}

impl Entry {
    fn new(stat: &Stat, text: String) -> Self {
        Self { dev: stat.dev, inode: stat.inode, size: stat.size, mtime: stat.mtime, text }
    }

    fn is_of(&self, stat: &Stat) -> bool {
        (self.dev, self.inode, self.size, self.mtime) == (stat.dev, stat.inode, stat.size, stat.mtime)
    }
}

/// What `program --version` prints. With a foreign root nothing is run: the
/// text is then in the file `NAME-version` of the fixtures.
pub async fn printed(root: &Root, program: &str) -> Fact<String> {
    let stat = match root.stat(program) {
        Ok(Some(stat)) if stat.is_file => stat,
        Ok(_) => return Fact::unknown(format!("there is no program {program}")),
        Err(error) => return text::because(&error),
    };
    if !root.is_host() {
        let name = program.rsplit('/').next().unwrap_or_default();
        return text::kernel(root, &format!("{FIXTURES}/{name}-version"));
    }
    let mut cache = load(root);
    if let Some(entry) = cache.get(program).filter(|entry| entry.is_of(&stat)) {
        return Fact::Known(entry.text.clone());
    }
    let printed = ask(program).await;
    if let Fact::Known(text) = &printed {
        cache.insert(program.to_owned(), Entry::new(&stat, text.clone()));
        save(root, &cache);
    }
    printed
}

async fn ask(program: &str) -> Fact<String> {
    match exec::run(program, &["--version"], DEADLINE).await {
        Ok(output) if output.code == Some(0) => Fact::Known(output.stdout.trim().to_owned()),
        Ok(output) => Fact::unknown(format!("{program} --version ended with {:?}", output.code)),
        Err(error) => text::because(&error),
    }
}

fn load(root: &Root) -> Cache {
    statefile::load(root, VERSIONS).ok().and_then(statefile::Loaded::value).unwrap_or_default()
}

fn save(root: &Root, cache: &Cache) {
    // The state directory is apply's to make: looking at a bare host leaves no trace.
    if root.exists(STATE_DIR) {
        let _ = statefile::store(root, VERSIONS, cache);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const STAT: Stat = Stat {
        mode: 0o755,
        size: 10,
        uid: 0,
        dev: 1,
        inode: 2,
        mtime: 3,
        ctime: 3,
        is_dir: false,
        is_file: true,
    };

    #[test]
    fn another_file_is_not_taken_for_the_one_that_was_asked() {
        let entry = Entry::new(&STAT, "containerd x 1.7.0".to_owned());
        assert!(entry.is_of(&STAT));
        for other in [
            Stat { inode: 9, ..STAT },
            Stat { size: 9, ..STAT },
            Stat { mtime: 9, ..STAT },
            Stat { dev: 9, ..STAT },
        ] {
            assert!(!entry.is_of(&other));
        }
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one_and_a_bare_host_gets_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let cache = Cache::from([("/usr/bin/containerd".to_owned(), Entry::new(&STAT, "x".to_owned()))]);
        save(&root, &cache);
        assert!(!root.exists(VERSIONS));
        root.make_dir(STATE_DIR, 0o700).unwrap();
        save(&root, &cache);
        assert_eq!(load(&root), cache);
        crate::sys::atomic::write(&root, VERSIONS, b"{", 0o600).unwrap();
        assert_eq!(load(&root), cache, "the earlier copy counts");
        crate::sys::atomic::write(&root, &format!("{VERSIONS}.prev"), b"{", 0o600).unwrap();
        assert_eq!(load(&root), Cache::new());
    }

    #[tokio::test]
    async fn a_program_that_fails_has_no_version() {
        assert!(ask("/bin/false").await.reason().unwrap().contains("ended with Some(1)"));
        assert!(ask("/no/such/program").await.reason().unwrap().starts_with("start /no/such/program"));
    }
}

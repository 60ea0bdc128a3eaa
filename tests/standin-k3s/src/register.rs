//! Owns this host's durable copy of the datastore: one register that accepts
//! numbered values (single-decree Paxos without a leader, one whole value per
//! change). It contacts nobody; `cluster` decides what a majority holds.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths::DataDir;
use crate::store::Store;
use crate::{durable, pki};

/// Orders the attempts of all proposers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// Rises with each attempt.
    pub round: u64,
    /// Breaks ties.
    pub who: String,
}

/// What is on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Slot {
    /// No attempt below this one is accepted any more.
    pub promised: Ballot,
    /// The attempt that wrote `value`.
    pub accepted: Ballot,
    /// The datastore.
    pub value: Store,
}

/// The register in memory and on disk.
#[derive(Debug)]
pub struct Register {
    path: PathBuf,
    slot: Mutex<Slot>,
}

const WAL_FILE: &str = "0000000000000000-0000000000000000.wal";
const WAL_TEXT: &[u8] = b"stand-in write-ahead log: the state is in ../snap/db\n";

impl Register {
    /// Creates the files of a new member. The rename of the WAL directory is
    /// the commit: before it the next start begins again, after it the member
    /// exists with its whole state.
    pub fn create_member(data: &DataDir, slot: Slot) -> Result<Self> {
        let path = data.etcd("member/snap/db");
        durable::write(&path, &encode(&slot)?, 0o600)?;
        let temporary = data.etcd("member/wal.tmp");
        let _ = std::fs::remove_dir_all(&temporary);
        durable::write(&temporary.join(WAL_FILE), WAL_TEXT, 0o600)?;
        durable::rename(&temporary, &data.wal())?;
        Ok(Self { path, slot: Mutex::new(slot) })
    }

    /// Loads an existing member; damage is fatal with etcd's words
    /// as far as a start shows them.
    pub fn load_member(data: &DataDir) -> Result<Self> {
        let path = data.etcd("member/snap/db");
        match std::fs::read(data.wal().join(WAL_FILE)) {
            Err(_) => bail!("failed to read WAL, cannot be repaired: wal: file not found"),
            Ok(bytes) if bytes != WAL_TEXT => {
                bail!("failed to read WAL, cannot be repaired: walpb: crc mismatch")
            }
            Ok(_) if !path.exists() => {
                bail!("database file ({}) of the backend is missing", path.display())
            }
            Ok(_) => Self::load(&path),
        }
    }

    /// Creates the files of a member from a copy of a register file.
    pub fn restore(data: &DataDir, copy: &Path) -> Result<()> {
        let register = Self::load(copy)?;
        let slot = register.lock().clone();
        Self::create_member(data, slot).map(drop)
    }

    /// Loads a register file.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let slot = decode(&bytes)
            .context("failed to create temporary datastore client: failed to read consistent index")?;
        Ok(Self { path: path.to_path_buf(), slot: Mutex::new(slot) })
    }

    /// Creates a register file (sqlite's place).
    pub fn create(path: &Path, slot: Slot) -> Result<Self> {
        durable::write(path, &encode(&slot)?, 0o600)?;
        Ok(Self { path: path.to_path_buf(), slot: Mutex::new(slot) })
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The accepted ballot and value.
    pub fn read(&self) -> (Ballot, Store) {
        let slot = self.lock();
        (slot.accepted.clone(), slot.value.clone())
    }

    /// The accepted ballot alone.
    pub fn ballot(&self) -> Ballot {
        self.lock().accepted.clone()
    }

    /// Looks at the value without a copy.
    pub fn with<R>(&self, look: impl FnOnce(&Store) -> R) -> R {
        look(&self.lock().value)
    }

    /// Changes the value without asking anybody: only for `--cluster-reset`.
    /// The jump in rounds lets this value win over every older one.
    pub fn overwrite(&self, change: impl FnOnce(&mut Store) -> Result<()>) -> Result<()> {
        let mut slot = self.lock();
        let mut next = slot.clone();
        change(&mut next.value)?;
        next.accepted.round = slot.promised.round + 1000;
        next.promised = next.accepted.clone();
        durable::write(&self.path, &encode(&next)?, 0o600)?;
        *slot = next;
        Ok(())
    }

    /// Promises not to accept below `ballot`; `Err` holds the higher promise.
    pub fn prepare(&self, ballot: &Ballot) -> Result<Result<(Ballot, Store), Ballot>> {
        let mut slot = self.lock();
        if *ballot <= slot.promised {
            return Ok(Err(slot.promised.clone()));
        }
        let next = Slot { promised: ballot.clone(), ..slot.clone() };
        durable::write(&self.path, &encode(&next)?, 0o600)?;
        *slot = next;
        Ok(Ok((slot.accepted.clone(), slot.value.clone())))
    }

    /// Accepts a value unless a higher promise was given.
    pub fn accept(&self, ballot: &Ballot, value: &Store) -> Result<Result<(), Ballot>> {
        let mut slot = self.lock();
        if *ballot < slot.promised || *ballot < slot.accepted {
            return Ok(Err(slot.promised.clone()));
        }
        if *ballot == slot.accepted {
            return Ok(Ok(()));
        }
        let next = Slot { promised: ballot.clone(), accepted: ballot.clone(), value: value.clone() };
        durable::write(&self.path, &encode(&next)?, 0o600)?;
        *slot = next;
        Ok(Ok(()))
    }
}

fn encode(slot: &Slot) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(slot)?;
    let sum = pki::ca_hash(&body);
    Ok([sum.as_bytes(), b"\n", &body].concat())
}

fn decode(bytes: &[u8]) -> Result<Slot> {
    let at = bytes.iter().position(|byte| *byte == b'\n').context("invalid database")?;
    let (sum, body) = bytes.split_at(at);
    let body = body.get(1..).unwrap_or_default();
    if pki::ca_hash(body).as_bytes() != sum {
        bail!("walpb: crc mismatch");
    }
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, who: "a".into() }
    }

    fn member() -> (tempfile::TempDir, DataDir, Register) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().to_str());
        let register = Register::create_member(&data, Slot::default()).unwrap();
        (dir, data, register)
    }

    #[test]
    fn a_promise_survives_a_restart() {
        let (_dir, data, register) = member();
        assert!(register.prepare(&ballot(5)).unwrap().is_ok());
        drop(register);
        let register = Register::load_member(&data).unwrap();
        assert_eq!(register.prepare(&ballot(5)).unwrap().unwrap_err(), ballot(5));
        assert!(register.accept(&ballot(4), &Store::default()).unwrap().is_err());
        assert!(register.accept(&ballot(5), &Store::default()).unwrap().is_ok());
    }

    #[test]
    fn damage_is_told_in_etcds_words() {
        let (_dir, data, _register) = member();
        let db = data.etcd("member/snap/db");
        std::fs::write(&db, b"").unwrap();
        assert!(Register::load_member(&data).is_err());
        std::fs::remove_file(&db).unwrap();
        let error = Register::load_member(&data).unwrap_err().to_string();
        assert!(error.ends_with("of the backend is missing"), "{error}");
        std::fs::write(data.wal().join(WAL_FILE), b"").unwrap();
        let error = Register::load_member(&data).unwrap_err().to_string();
        assert!(error.contains("walpb: crc mismatch"), "{error}");
    }

    #[test]
    fn a_cut_before_the_commit_leaves_no_member() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().to_str());
        durable::write(&data.etcd("member/snap/db"), b"half", 0o600).unwrap();
        durable::write(&data.etcd("member/wal.tmp/x"), b"", 0o600).unwrap();
        assert!(!data.wal().exists());
        Register::create_member(&data, Slot::default()).unwrap();
        Register::load_member(&data).unwrap();
    }
}

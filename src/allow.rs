//! `gate allow`: a person lets one refusal of the gate pass for a while.
//!
//! Owns the record, which survives a reboot, needs no daemon and ends by itself,
//! and the one list of what the gate may refuse with, each with what may be
//! lost by letting it pass. Never decides whether a start is refused.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config;
use crate::paths;
use crate::sys::statefile::{self, StateError};
use crate::sys::{Clock, Root, clock};

/// Who lets which refusal pass, until when and why. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// `EB-…`.
    pub code: String,
    /// When it was given. A clock far before it is wrong, and the allowance then
    /// does not count: one that ran out must not come back with a dead clock battery.
    #[serde(default)]
    pub since: u64,
    /// Until when.
    pub until: u64,
    /// Login of the person.
    pub by: String,
    /// In the person's words.
    pub reason: String,
}

/// Longest time for which a refusal may be let pass.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

const FORK: &str = "k3s may start a second, empty cluster beside this one, and workloads are then removed";
const MEMBER: &str = "the member of etcd may be lost, and with it the quorum of the cluster";
const IMAGES: &str = "containerd deletes every image layer that is on the disk, and pods start only when all are brought again";
const TWICE: &str = "two hosts may act as one node, and each damages what the other stores";

/// What the gate may refuse with, and what letting it pass may lose. The codes
/// of a hold are among them: the gate refuses with the hold's own code.
const CODES: &[(&str, Option<&str>)] = &[
    ("EB-address-duplicate", Some(TWICE)),
    ("EB-clock-ahead", None),
    ("EB-clock-behind", None),
    ("EB-config-damaged", Some(FORK)),
    ("EB-config-empty", Some(FORK)),
    ("EB-config-identity", Some(MEMBER)),
    ("EB-containerd-config", None),
    ("EB-copied-disk", Some(TWICE)),
    ("EB-datastore-ca", Some(MEMBER)),
    ("EB-datastore-epoch", Some(FORK)),
    ("EB-datastore-missing", Some(FORK)),
    ("EB-datastore-name", Some(MEMBER)),
    ("EB-datastore-sqlite", Some(FORK)),
    ("EB-datastore-unknown", Some(FORK)),
    ("EB-hostname", None),
    ("EB-ip-absent", None),
    ("EB-k3s-damaged", None),
    ("EB-lint", Some(FORK)),
    ("EB-lint-commit", Some(FORK)),
    ("EB-lint-init", Some(FORK)),
    ("EB-lint-place", None),
    ("EB-lint-role", Some(FORK)),
    ("EB-lint-secret", None),
    ("EB-orphan", Some(MEMBER)),
    ("EB-override", Some(FORK)),
    ("EB-pool-inactive", None),
    ("EB-pre-start-late", None),
    ("EB-resetting", Some(FORK)),
    ("EB-retiring", Some(TWICE)),
    ("EB-server-key", None),
    ("EB-server-missing", None),
    ("EB-state-file", Some(FORK)),
    ("EB-storage-root", None),
    ("EB-store-empty", Some(IMAGES)),
    ("EB-token-empty", Some(FORK)),
    ("EB-token-missing", Some(FORK)),
    ("EB-token-unpinned", Some(FORK)),
    ("EB-tombstone", Some(FORK)),
    ("EB-unit-role", Some(MEMBER)),
    ("EB-wait-address-probe", Some(TWICE)),
    ("EB-wait-init-lease", Some(FORK)),
    ("EB-wait-peers", Some(FORK)),
];

/// Why a refusal is not let pass.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AllowError {
    /// Not the form of a code.
    #[error("`{0}` is no code; `edge-bootstrap status` shows the code of every refusal")]
    Form(String),
    /// No code that this version refuses with, and none that was refused with on this host.
    #[error(
        "the gate of this version never refuses with {code}{near}; if another version on this host does, add --i-accept-data-loss, because what {code} protects is not known here"
    )]
    Unknown {
        /// As it was typed.
        code: String,
        /// The nearest known one as words, or nothing.
        near: String,
    },
    /// Something may be lost, and nobody said that this is accepted.
    #[error("with {code} let pass, {loss}; if that is accepted, add --i-accept-data-loss")]
    Risk {
        /// The code.
        code: String,
        /// What may be lost.
        loss: &'static str,
    },
    /// Zero, or longer than [`LONGEST`].
    #[error("--for must be more than nothing and at most 30 days")]
    Term,
    /// Who finds it later must be told why.
    #[error("--reason is empty; who finds this later must be told why")]
    NoReason,
}

/// Whether the gate of this version may refuse with `code`.
#[must_use]
pub fn is_known(code: &str) -> bool {
    known().any(|known| known == code)
}

/// Every code that the gate of this version may refuse with.
pub fn known() -> impl Iterator<Item = &'static str> {
    CODES.iter().map(|(code, _)| *code)
}

/// What may be lost when this code is let pass. One that this version does not
/// know may protect anything.
#[must_use]
pub fn risk(code: &str) -> Option<&'static str> {
    let known = CODES.iter().find(|(known, _)| *known == code);
    known.map_or(Some("data may be lost: this version does not know what the code protects"), |(_, loss)| {
        *loss
    })
}

/// Whether letting this code pass could fork the cluster or lose data.
#[must_use]
pub fn risks_data(code: &str) -> bool {
    risk(code).is_some()
}

/// Checks what a person asks for. `refused` are the codes that units on this
/// host were refused with: those are never a dead end, whichever version knows them.
///
/// # Errors
/// Why it is not let pass.
pub fn may_be_given(allowance: &Allowance, refused: &[String], accepts_loss: bool) -> Result<(), AllowError> {
    let code = &allowance.code;
    let term = Duration::from_secs(allowance.until.saturating_sub(allowance.since));
    if !has_form(code) {
        return Err(AllowError::Form(code.escape_debug().to_string()));
    }
    if !is_known(code) && !refused.contains(code) && !accepts_loss {
        return Err(AllowError::Unknown { code: code.clone(), near: nearest(code) });
    }
    if term.is_zero() || term > LONGEST {
        return Err(AllowError::Term);
    }
    if allowance.reason.trim().is_empty() {
        return Err(AllowError::NoReason);
    }
    match risk(code).filter(|_| !accepts_loss) {
        Some(loss) => Err(AllowError::Risk { code: code.clone(), loss }),
        None => Ok(()),
    }
}

fn has_form(code: &str) -> bool {
    let rest = code.strip_prefix("EB-").unwrap_or_default();
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    code.len() <= 64 && rest.split('-').all(is_word)
}

fn nearest(code: &str) -> String {
    config::nearest(code, known()).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
}

/// Allowances in force. A damaged record counts as none: the gate refuses again,
/// and says how to allow it.
#[must_use]
pub fn current(root: &Root, clock: Clock) -> Vec<Allowance> {
    let loaded = statefile::load::<Vec<Allowance>>(root, paths::ALLOW).ok();
    let all = loaded.and_then(statefile::Loaded::value).unwrap_or_default();
    let now = clock.unix();
    all.into_iter().filter(|allowance| clock::runs(now, allowance.since, allowance.until)).collect()
}

/// The allowance for exactly this code, when one is in force.
#[must_use]
pub fn lets_pass(root: &Root, clock: Clock, code: &str) -> Option<Allowance> {
    current(root, clock).into_iter().find(|allowance| allowance.code == code)
}

/// Lets a refusal pass; a newer allowance replaces one for the same code.
///
/// # Errors
/// When the record cannot be stored.
pub fn add(root: &Root, clock: Clock, allowance: Allowance) -> Result<(), StateError> {
    root.make_dir(paths::STATE_DIR, 0o700)?;
    let mut all = current(root, clock);
    all.retain(|other| other.code != allowance.code);
    all.push(allowance);
    statefile::store(root, paths::ALLOW, &all).map(|_| ())
}

/// Ends the allowance for `code`; whether there was one. The earlier copy goes
/// too: a damaged record must not bring it back.
///
/// # Errors
/// When the record cannot be stored.
pub fn revoke(root: &Root, clock: Clock, code: &str) -> Result<bool, StateError> {
    let mut all = current(root, clock);
    let before = all.len();
    all.retain(|other| other.code != code);
    if all.len() == before {
        return Ok(false);
    }
    statefile::store(root, paths::ALLOW, &all)?;
    root.remove_file(&format!("{}.prev", paths::ALLOW))?;
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn wish(code: &str, seconds: u64) -> Allowance {
        let [code, by, reason] = [code, "wang", "cable is on its way"].map(str::to_owned);
        Allowance { code, since: 1_000_000, until: 1_000_000 + seconds, by, reason }
    }

    fn asked(code: &str, accepts_loss: bool) -> Result<(), AllowError> {
        may_be_given(&wish(code, 3600), &["EB-of-tomorrow".to_owned()], accepts_loss)
    }

    #[test]
    fn what_may_lose_data_needs_a_word_and_says_what_is_lost() {
        assert_eq!(asked("EB-hostname", false), Ok(()));
        let said = asked("EB-token-empty", false).unwrap_err().to_string();
        assert!(said.contains("second, empty cluster") && said.contains("--i-accept-data-loss"), "{said}");
        assert_eq!(asked("EB-token-empty", true), Ok(()));
        for (code, _) in CODES.iter().filter(|(code, _)| code.starts_with("EB-datastore-")) {
            assert!(risks_data(code), "{code}");
        }
    }

    #[test]
    fn an_unknown_code_is_refused_with_the_nearest_and_is_never_a_dead_end() {
        let said = asked("EB-hostnam", false).unwrap_err().to_string();
        assert!(said.contains("did you mean EB-hostname?"), "{said}");
        assert!(
            matches!(asked("EB-nothing-like-it", false), Err(AllowError::Unknown { near, .. }) if near.is_empty())
        );
        // The gate of another version has refused with it: its risk is not known.
        assert!(matches!(asked("EB-of-tomorrow", false), Err(AllowError::Risk { .. })));
        assert_eq!(asked("EB-of-tomorrow", true), Ok(()));
        assert_eq!(asked("EB-of-next-year", true), Ok(()));
    }

    #[test]
    fn a_text_that_is_no_code_a_term_without_end_and_no_reason_are_refused() {
        for code in ["", "EB-", "EB--x", "eb-hostname", "EB-Host", "EB-a\nb", "EB-x-", "hostname"] {
            assert!(matches!(asked(code, true), Err(AllowError::Form(_))), "{code:?}");
        }
        for seconds in [0, LONGEST.as_secs() + 1] {
            assert_eq!(may_be_given(&wish("EB-hostname", seconds), &[], false), Err(AllowError::Term));
        }
        assert_eq!(may_be_given(&wish("EB-hostname", LONGEST.as_secs()), &[], false), Ok(()));
        let mut silent = wish("EB-hostname", 60);
        silent.reason = " ".to_owned();
        assert_eq!(may_be_given(&silent, &[], false), Err(AllowError::NoReason));
    }

    #[test]
    fn it_lets_exactly_its_code_pass_until_its_end_and_not_again_with_a_dead_clock() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let at = Clock::Fixed;
        add(&root, at(1_000_000), wish("EB-hostname", 3600)).unwrap();
        add(&root, at(1_000_000), wish("EB-ip-absent", 60)).unwrap();
        let passes = |now, code| lets_pass(&root, at(now), code).is_some();
        assert!(passes(1_000_000, "EB-hostname") && passes(1_003_599, "EB-hostname"));
        assert!(!passes(1_003_600, "EB-hostname") && !passes(1_000_061, "EB-ip-absent"));
        assert!(!passes(1_000_000, "EB-token-empty") && !passes(1_000_000, "EB-host"));
        assert!(!passes(0, "EB-hostname"), "a clock of 1970 brings it back");
        assert!(passes(999_990, "EB-hostname"), "a small correction ends it");
        assert!(revoke(&root, at(1_000_001), "EB-hostname").unwrap());
        assert!(!passes(1_000_001, "EB-hostname") && passes(1_000_001, "EB-ip-absent"));
        assert!(!revoke(&root, at(1_000_001), "EB-hostname").unwrap());
    }
}

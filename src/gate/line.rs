//! What the gate says, and how often.
//!
//! Owns the record of a refusal in `/run`, which `status` shows also while the
//! daemon is dead, and the rule of one line per ten minutes.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::plan::Refusal;
use crate::report::status::one_line;
use crate::sys::{Clock, Root, atomic};
use crate::wire::json;

/// A repeated refusal is told once in this many seconds.
const REPEAT_S: u64 = 600;

/// The last refusal of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// `EB-…`.
    pub code: String,
    /// What was seen.
    #[serde(default)]
    pub reason: String,
    /// What to do.
    #[serde(default)]
    pub next: String,
    /// When it was told last, seconds since 1970.
    pub told_at: u64,
    /// How often it was refused for this.
    pub count: u64,
    /// When it was refused last, seconds since 1970.
    #[serde(default)]
    pub last_at: u64,
}

const NAME: (&str, &str) = ("refused-", ".json");

fn path(unit: &str) -> String {
    format!("{}/{}{}{}", paths::RUN_DIR, NAME.0, unit.trim_end_matches(".service"), NAME.1)
}

/// The refusal in force for `unit`; none after a start that was let go.
#[must_use]
pub fn refused(root: &Root, unit: &str) -> Option<Refused> {
    json::read(&root.read(&path(unit)).ok()??).ok()
}

/// Every unit whose last start in this boot was refused, by name.
#[must_use]
pub fn all_refused(root: &Root) -> Vec<(String, Refused)> {
    let names = root.list(paths::RUN_DIR).unwrap_or_default().into_iter();
    let units = names.filter_map(|name| Some(name.strip_prefix(NAME.0)?.strip_suffix(NAME.1)?.to_owned()));
    units
        .filter_map(|unit| refused(root, &unit).map(|refused| (format!("{unit}.service"), refused)))
        .collect()
}

/// Forgets the refusals of `unit`: a refusal after a start is no repetition.
pub(super) fn forget(root: &Root, unit: &str) {
    // Best effort, as the record is.
    let _ = root.remove_file(&path(unit));
}

/// The line to say about a refusal: at once for a new one, then once per ten
/// minutes with the number of times.
#[must_use]
pub fn line(root: &Root, clock: Clock, unit: &str, refusal: &Refusal) -> Option<String> {
    let before = refused(root, unit).unwrap_or_default();
    let now = clock.unix();
    let same = before.code == refusal.code;
    let quiet = same && now >= before.told_at && now - before.told_at < REPEAT_S;
    let count = if same { before.count + 1 } else { 1 };
    let told_at = if quiet { before.told_at } else { now };
    let Refusal { code, reason, next } = refusal.clone();
    let record = Refused { code, reason, next, told_at, count, last_at: now };
    let _ = root.ensure_dir(paths::RUN_DIR);
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    let _ = atomic::write_volatile(root, &path(unit), &bytes, 0o644);
    let again = if count > 1 { format!(" ({count} times)") } else { String::new() };
    let allow = allow_command(&refusal.code);
    (!quiet).then(|| one_line(&format!("{unit} must not start{again}: {refusal}; to let it pass: {allow}")))
}

/// The command with which a person lets this refusal pass.
#[must_use]
pub fn allow_command(code: &str) -> String {
    let risk = if crate::allow::risks_data(code) { " --i-accept-data-loss" } else { "" };
    format!("edge-bootstrap gate allow --code {code} --for 1h --reason TEXT{risk}")
}

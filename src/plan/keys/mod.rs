//! What is known about k3s's configuration keys, per version of k3s.
//!
//! Owns the tables `keys.tsv` and `flags.tsv` (docs/k3s-keys.md tells their columns
//! and sources) and every look-up in them: which key a version has for a role, who
//! may set it, to what, what its change means. Never reads a host; never writes a configuration.

mod assigned;
mod fit;
mod flags;
mod since;
pub(in crate::plan) mod values;

pub use assigned::{Assigned, assigned};
pub use fit::{critical, critical_values, drop_in_notes, drop_in_refused, drop_in_value, entries, written};
pub use flags::{breaks_start, drop_in_flag, names_path};
use since::Has;

use super::refusal::Refusal;
use crate::role::{K3sVersion, Role};

const TABLE: &str = include_str!("keys.tsv");
/// The line of the table that names the last release read of each minor line.
const READ: &str = "# read\t";

/// One row of the table: a key as one role knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name, as in `config.yaml`.
    pub name: &'static str,
    /// What stands in the columns after it.
    columns: [&'static str; 10],
}

/// Who may set a key of k3s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// The assignment, on any host.
    Free,
    /// The assignment, where the host's `trust.allow-keys` names the key.
    Host,
    /// Only the plan, from other fields of the assignment.
    Plan,
    /// Nobody: k3s would not be the node that edge-bootstrap keeps.
    Never,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A text; when words are named, one of them.
    Text(&'static str),
    /// A whole number.
    Number,
    /// A duration as Go writes it, for example `5m`.
    Duration,
    /// Several texts.
    List,
}

/// Whether a version has a key for a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Known(Key),
    /// It may have: no source tells the first release for certain.
    Perhaps(Key),
    /// A later release has it first.
    NotYet(Key),
    /// It had, before.
    Removed(Key),
    /// Only the other role knows it.
    OtherRole(Key),
    /// The table does not know it.
    Unknown,
}

impl Key {
    fn read(line: &'static str) -> Option<Self> {
        let mut cells = line.split('\t');
        let name = cells.next().filter(|name| !name.starts_with('#') && !name.is_empty())?;
        Some(Self { name, columns: std::array::from_fn(|_| cells.next().unwrap_or_default()) })
    }

    /// Whether this row is for `role`.
    #[must_use]
    pub fn serves(&self, role: Role) -> bool {
        match self.columns[0] {
            "S" => role == Role::Server,
            "A" => role == Role::Agent,
            _ => true,
        }
    }

    /// The releases that have it, for people.
    #[must_use]
    pub fn versions(&self) -> String {
        match (self.columns[1], self.until()) {
            ("0", Some(until)) => format!("versions before {until}"),
            (since, Some(until)) => format!("{}, before {until}", since::words(since)),
            (since, None) => since::words(since),
        }
    }

    /// The first release without it, for people.
    fn until(&self) -> Option<String> {
        since::lines(self.columns[2]).map(|((minor, patch), _)| format!("v1.{minor}.{patch}")).next()
    }

    /// What it takes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.columns[3].split_once('=').unwrap_or((self.columns[3], "")) {
            ("b", _) => Kind::Switch,
            ("i", _) => Kind::Number,
            ("d", _) => Kind::Duration,
            ("l", _) => Kind::List,
            (_, words) => Kind::Text(words),
        }
    }

    /// Whether all servers of a cluster must have the same value: k3s compares
    /// it at a join, or its documentation asks for it.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        !self.columns[4].is_empty()
    }

    /// Who may set it.
    #[must_use]
    pub fn may(&self) -> May {
        match self.columns[5] {
            "free" => May::Free,
            "plan" => May::Plan,
            "never" => May::Never,
            _ => May::Host,
        }
    }

    /// Whether its value is a secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.has("secret")
    }

    fn has(&self, mark: &str) -> bool {
        self.columns[6].split(',').any(|own| own == mark)
    }

    /// The variable that sets it when neither file nor argument does; empty
    /// when there is none.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        self.columns[7]
    }

    /// What to use in its place: another key of k3s, or the field of the
    /// assignment that decides it; may be empty.
    #[must_use]
    pub fn instead(&self) -> &'static str {
        self.columns[8]
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.columns[9].split(',').any(|alias| alias == name && !alias.is_empty())
    }

    fn presence(self, release: since::Release) -> Presence {
        match since::has(self.columns[1], release) {
            _ if since::is_gone(self.columns[2], release) => Presence::Removed(self),
            Has::Yes => Presence::Known(self),
            Has::Perhaps => Presence::Perhaps(self),
            Has::NotYet => Presence::NotYet(self),
        }
    }
}

/// Every row.
pub fn rows() -> impl Iterator<Item = Key> {
    TABLE.lines().filter_map(Key::read)
}

/// The keys of one version of k3s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    release: since::Release,
}

/// The keys of `version`.
#[must_use]
pub fn of(version: &K3sVersion) -> Keys {
    Keys { release: since::release(version) }
}

impl Keys {
    /// Whether this version has `name`, or its short name, for `role`.
    #[must_use]
    pub fn find(self, name: &str, role: Role) -> Presence {
        let named = || rows().filter(|key| key.is_called(name));
        match (named().find(|key| key.serves(role)), named().next()) {
            (Some(key), _) => key.presence(self.release),
            (None, Some(key)) => Presence::OtherRole(key),
            (None, None) => Presence::Unknown,
        }
    }

    /// Whether this version has `name` for `role`, for certain.
    #[must_use]
    pub fn has(self, name: &str, role: Role) -> bool {
        matches!(self.find(name, role), Presence::Known(_))
    }

    /// Whether this version is newer than what the table was made from: an
    /// unknown key may then be a new one.
    #[must_use]
    pub fn is_newer_than_the_table(self) -> bool {
        let column = TABLE.lines().find_map(|line| line.strip_prefix(READ)).unwrap_or_default();
        let read = since::lines(column).filter(|(line, _)| line.0 <= self.release.0).last();
        read.is_none_or(|(last, _)| self.release > last)
    }

    /// Whether a server of this version ends at a key that it does not know;
    /// later ones warn and go on (k3s: pkg/configfilearg/parser.go).
    fn server_ends_at_unknown(self) -> bool {
        since::has("21.7 22.4", self.release) != Has::Yes
    }
}

/// Versions before v1.21.0 are not known here.
///
/// # Errors
/// `EB-k3s-version`.
pub fn supported(version: &K3sVersion) -> Result<(), Refusal> {
    if since::release(version) >= (21, 0) {
        return Ok(());
    }
    Err(Refusal::new(
        "EB-k3s-version",
        format!(
            "the assignment asks for k3s {version}, and the oldest whose configuration is known is v1.21.0"
        ),
        "set a newer version in the assignment; k3s goes on as it is",
    ))
}

/// The name under which k3s keeps what `name` sets: short and second names are
/// the long ones.
#[must_use]
pub fn canonical(name: &str) -> &str {
    let Some(key) = rows().find(|key| key.is_called(name)) else { return name };
    if key.has("second-name") { key.instead() } else { key.name }
}

/// Whether only a server knows `name`, in every version.
#[must_use]
pub fn is_server_only(name: &str) -> bool {
    let mut named = rows().filter(|key| key.is_called(name)).peekable();
    named.peek().is_some() && named.all(|key| !key.serves(Role::Agent))
}

/// Whether a change of `name` matters only at the next start and never restarts
/// a running k3s (invariant 10). Taints are read at a node's first registration
/// only; `tls-san-security` waits, because it only narrows which names of
/// strangers get into a certificate.
#[must_use]
pub fn waits_for_start(name: &str) -> bool {
    marked(name, "next-start")
}

/// Whether an operator's drop-in on a host of `role` must not set `name`: it would
/// break an invariant of identity or membership, or nothing of this program would
/// find k3s any more, which it looks for at the ports of 127.0.0.1.
#[must_use]
pub fn is_guarded(name: &str, role: Role) -> bool {
    let named = || rows().filter(|key| key.is_called(name));
    let key = named().find(|key| key.serves(role)).or_else(|| named().next());
    key.is_some_and(|key| key.has("guarded"))
}

fn marked(name: &str, mark: &str) -> bool {
    rows().any(|key| key.is_called(name) && key.has(mark))
}

/// The known key that is nearest to `name`, when one is near enough to be meant.
#[must_use]
pub fn nearest(name: &str) -> Option<Key> {
    let far = (name.len() / 3).min(3);
    let near = rows().map(|key| (distance(name, key.name), key)).filter(|(steps, _)| *steps <= far);
    near.min_by_key(|(steps, key)| (*steps, key.name)).map(|(_, key)| key)
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
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#[path = "tests.rs"]
mod tests;

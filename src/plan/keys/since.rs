//! Which k3s releases have a key.
//!
//! Owns the notation of the table's version columns: `0` for every release
//! since v1.21.0, else one patch release per minor line, `26.13 27.10 28.6`:
//! lines below the first have none, the last stands for all later lines, and a
//! `?` marks a release that no source tells for certain. Never looks at keys.

use crate::role::K3sVersion;

/// Minor and patch of Kubernetes 1.x.
pub(super) type Release = (u32, u32);

/// Whether a release has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    /// It has.
    Yes,
    /// It may have: the first release with it is not known for certain.
    Perhaps,
    /// A later release has it first.
    NotYet,
}

/// Minor and patch of `version`; pre-releases count as their release. A later
/// major version is above everything that is known.
pub(super) fn release(version: &K3sVersion) -> Release {
    let (major, minor, patch) = version.kubernetes;
    match major {
        0 => (0, 0),
        1 => (minor, patch),
        _ => (u32::MAX, patch),
    }
}

/// Whether `release` has what came with `since`.
pub(super) fn has(since: &str, release: Release) -> Has {
    if since == "0" {
        return Has::Yes;
    }
    match lines(since).filter(|(line, _)| line.0 <= release.0).last() {
        None => Has::NotYet,
        Some((line, sure)) if line.0 == release.0 => match (release.1 >= line.1, sure) {
            (false, _) => Has::NotYet,
            (true, true) => Has::Yes,
            (true, false) => Has::Perhaps,
        },
        Some(_) => Has::Yes,
    }
}

/// Whether `release` came after what went with `until`.
pub(super) fn is_gone(until: &str, release: Release) -> bool {
    lines(until).any(|(line, _)| release >= line)
}

/// The releases of `since`, for people.
pub(super) fn words(since: &str) -> String {
    if since == "0" {
        return "every version".to_owned();
    }
    let sure = |sure| if sure { "" } else { " perhaps" };
    let named: Vec<String> = lines(since)
        .map(|((minor, patch), is_sure)| format!("v1.{minor}.{patch}{}", sure(is_sure)))
        .collect();
    format!("{} and newer", named.join(", "))
}

/// Each release of a column, and whether it is certain.
pub(super) fn lines(column: &str) -> impl Iterator<Item = (Release, bool)> {
    column.split_ascii_whitespace().filter_map(|word| {
        let (minor, patch) = word.trim_end_matches('?').split_once('.')?;
        Some(((minor.parse().ok()?, patch.parse().ok()?), !word.ends_with('?')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_tells_each_line_by_itself() {
        let column = "29.12? 30.8 31.4";
        let rows = [
            ((28, 99), Has::NotYet),
            ((29, 11), Has::NotYet),
            ((29, 12), Has::Perhaps),
            ((30, 7), Has::NotYet),
            ((30, 8), Has::Yes),
            ((31, 3), Has::NotYet),
            ((31, 4), Has::Yes),
            ((32, 0), Has::Yes),
            ((40, 0), Has::Yes),
        ];
        for (release, wanted) in rows {
            assert_eq!(has(column, release), wanted, "{release:?}");
        }
        assert_eq!(has("0", (21, 0)), Has::Yes);
        assert_eq!(words(column), "v1.29.12 perhaps, v1.30.8, v1.31.4 and newer");
    }

    #[test]
    fn what_is_gone_stays_gone() {
        assert!(!is_gone("", (36, 3)) && !is_gone("26.0", (25, 16)));
        assert!(is_gone("26.0", (26, 0)) && is_gone("26.0", (30, 0)));
    }
}

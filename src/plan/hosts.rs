//! The managed block of `/etc/hosts`.
//!
//! Owns the lines between its two marks: the names of the room, so that they
//! resolve without any DNS. Lines of others stay byte for byte.

use super::Inputs;
use super::item::PlannedFile;
use crate::ordered::sort_by;
use crate::paths;
use crate::role::Duty;

const BEGIN: &str = "# BEGIN edge-bootstrap";
const END: &str = "# END edge-bootstrap";
/// What a host without the file gets.
const BASIC: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// The whole file with our block; `None` when the present one cannot be read.
pub(super) fn file(inputs: Inputs<'_>, duty: &Duty) -> Option<PlannedFile> {
    let present = inputs.facts.runtime.files.get(paths::HOSTS);
    let old = match present {
        None => BASIC,
        Some(file) => file.text.as_deref()?,
    };
    let mut lines = vec![(duty.node.ip, duty.node.name.to_string())];
    lines.extend(inputs.assignment.room.iter().map(|host| (host.ip, host.name.to_string())));
    sort_by(&mut lines, |one, other| one < other);
    lines.dedup();
    let block: String = lines.iter().map(|(ip, name)| format!("{ip} {name}\n")).collect();
    Some(PlannedFile::public(paths::HOSTS, replace(old, &block), "the names of the room resolve without DNS"))
}

/// The text without our block; `None` when there is none.
pub(super) fn without_block(text: &str) -> Option<String> {
    let (rest, place) = strip(text, "");
    place.map(|_| rest)
}

/// Puts `block` between the marks, at the end when there are none.
fn replace(old: &str, block: &str) -> String {
    let (mut rest, place) = strip(old, block);
    let place = place.unwrap_or_else(|| {
        if !rest.is_empty() && !rest.ends_with('\n') {
            rest.push('\n');
        }
        rest.len()
    });
    rest.insert_str(place, &format!("{BEGIN}\n{block}{END}\n"));
    rest
}

/// The lines of others, and the place of our first mark among them. A begin without an
/// end before the next begin is torn, and an end without a begin: what stands there may
/// be anybody's. Only the mark goes, and lines right behind a begin that `block` has too.
fn strip(text: &str, block: &str) -> (String, Option<usize>) {
    let (mut rest, mut place, mut begin) = (String::new(), None, None);
    for line in text.split_inclusive('\n') {
        match line.trim() {
            BEGIN => {
                begin = Some(rest.len());
                place = place.or(begin);
            }
            END => {
                rest.truncate(begin.take().unwrap_or(rest.len()));
                place = place.or(Some(rest.len()));
            }
            own if begin == Some(rest.len()) && block.lines().any(|line| line == own) => {}
            _ => rest.push_str(line),
        }
    }
    (rest, place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_others_stay_and_a_second_time_changes_nothing() {
        let old = "127.0.0.1 localhost\n10.0.0.9 db";
        let once = replace(old, "172.16.36.1 a\n");
        assert_eq!(once, format!("{old}\n{BEGIN}\n172.16.36.1 a\n{END}\n"));
        assert_eq!(replace(&once, "172.16.36.1 a\n"), once);
        let again = replace(&format!("{once}10.0.0.8 x\n"), "172.16.36.2 b\n");
        assert_eq!(again, format!("{old}\n{BEGIN}\n172.16.36.2 b\n{END}\n10.0.0.8 x\n"));
    }

    #[test]
    fn without_the_block_the_lines_of_others_are_as_they_were() {
        let old = "127.0.0.1 localhost\n10.0.0.9 db\n";
        assert_eq!(without_block(&replace(old, "172.16.36.1 a\n")).as_deref(), Some(old));
        assert_eq!(without_block(old), None);
    }

    #[test]
    fn a_torn_mark_takes_no_line_of_others_along() {
        let (own, db) = ("172.16.36.1 a\n", "10.0.0.9 db\n");
        let fresh = format!("{BEGIN}\n{own}{END}\n");
        for (torn, rest) in [
            (format!("{db}{BEGIN}\n{own}"), db.to_owned()),
            (format!("{db}{BEGIN}\n{own}{db}"), format!("{db}{db}")),
            (format!("{BEGIN}\n{own}{db}{fresh}"), db.to_owned()),
            (format!("{db}{END}\n{db}"), format!("{db}{db}")),
            (format!("{fresh}{db}{END}\n{db}"), format!("{db}{db}")),
            (format!("{db}{BEGIN} of the lab\n{db}"), format!("{db}{BEGIN} of the lab\n{db}")),
        ] {
            let whole = replace(&torn, own);
            assert_eq!(whole.replacen(&fresh, "", 1), rest, "{torn}");
            assert_eq!(replace(&whole, own), whole);
        }
        let torn = format!("{BEGIN}\n{own}{db}");
        assert_eq!(without_block(&torn).unwrap(), format!("{own}{db}"), "which of them was ours?");
    }

    proptest! {
        /// Whatever was cut out of the file and appended to it since.
        #[test]
        fn only_what_stands_between_two_marks_goes(
            kinds in proptest::collection::vec(0..4_usize, 0..24),
            cut in proptest::bool::ANY,
        ) {
            let own = "172.16.36.1 a";
            let name = |at: usize| [BEGIN.to_owned(), END.to_owned(), own.to_owned(), format!("10.0.0.9 x{at}")];
            let lines: Vec<String> = kinds.iter().enumerate().map(|(at, kind)| name(at)[*kind].clone()).collect();
            let is_inside = |at: usize| {
                let mark = |kind: &&usize| **kind < 2;
                kinds[..at].iter().rev().find(mark) == Some(&0) && kinds[at..].iter().find(mark) == Some(&1)
            };
            let others: Vec<&String> =
                (0..lines.len()).filter(|at| kinds[*at] == 3 && !is_inside(*at)).map(|at| &lines[at]).collect();
            let text = lines.join("\n") + if cut { "" } else { "\n" };
            let whole = replace(&text, &format!("{own}\n"));
            let left: Vec<&str> = whole.lines().filter(|line| line.contains(" x")).collect();
            prop_assert_eq!(&left, &others);
            prop_assert_eq!(whole.matches(BEGIN).count(), 1);
            prop_assert_eq!(replace(&whole, &format!("{own}\n")), whole);
            let left = without_block(&text).unwrap_or(text);
            prop_assert!(!left.contains("edge-bootstrap"));
            prop_assert_eq!(left.lines().filter(|line| line.contains(" x")).count(), others.len());
        }
    }
}

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

/// The text without our block; `None` when there is no whole one.
pub(super) fn without_block(text: &str) -> Option<String> {
    let begin = text.find(BEGIN)?;
    let end = begin + text[begin..].find(END)? + END.len();
    let rest = text[end..].strip_prefix('\n').unwrap_or(&text[end..]);
    Some(format!("{}{rest}", &text[..begin]))
}

/// Puts `block` between the marks, at the end when there are none.
fn replace(old: &str, block: &str) -> String {
    let fresh = format!("{BEGIN}\n{block}{END}\n");
    let marks = old.find(BEGIN).and_then(|begin| Some((begin, old[begin..].find(END)? + begin + END.len())));
    match marks {
        Some((begin, end)) => {
            let rest = old[end..].strip_prefix('\n').unwrap_or(&old[end..]);
            format!("{}{fresh}{rest}", &old[..begin])
        }
        None if old.is_empty() || old.ends_with('\n') => format!("{old}{fresh}"),
        None => format!("{old}\n{fresh}"),
    }
}

#[cfg(test)]
mod tests {
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
    fn a_torn_block_is_left_and_a_whole_one_added() {
        let text = replace(&format!("{BEGIN}\n1.2.3.4 x\n"), "172.16.36.1 a\n");
        assert!(text.ends_with(&format!("{BEGIN}\n172.16.36.1 a\n{END}\n")));
    }
}

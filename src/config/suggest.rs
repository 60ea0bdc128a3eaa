//! The known word nearest to a mistyped one. Owns the edit distance and the
//! limit beyond which a guess would mislead; knows no keys.

/// Longer words are no typing mistake of a known one, and the distance costs their square.
const LONGEST: usize = 64;

/// The candidate nearest to `word`, when it is near enough to be a typing
/// mistake: at most a third of the longer word differs. The first of equals wins.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().count() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| distance * 3 <= word.len().max(candidate.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words; two neighbours in the wrong order are one edit, and
/// upper case for lower or `_` for `-` is none.
fn distance(left: &str, right: &str) -> usize {
    let (left, right) = (plain(left), plain(right));
    let mut before = vec![0; right.len() + 1];
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row];
        for column in 1..=right.len() {
            let differs = usize::from(left[row - 1] != right[column - 1]);
            let mut least = (above[column - 1] + differs).min(above[column] + 1).min(current[column - 1] + 1);
            if row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1]
            {
                least = least.min(before[column - 2] + 1);
            }
            current.push(least);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

fn plain(word: &str) -> Vec<char> {
    word.chars().map(|letter| if letter == '_' { '-' } else { letter.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (left, right, edits) in [
            ("", "", 0),
            ("", "pins", 4),
            ("pins", "pins", 0),
            ("pin", "pins", 1),
            ("isp", "ips", 1),
            ("ca_file", "ca-file", 0),
            ("SITE", "site", 0),
            ("enroll-token-file", "enrol-token-file", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right), edits, "{left} {right}");
            assert_eq!(distance(right, left), edits, "{right} {left}");
        }
    }

    #[test]
    fn nothing_near_gives_no_guess() {
        assert_eq!(nearest("colour", ["pins", "proxy"]), None);
        assert_eq!(nearest(&"p".repeat(65), ["p"]), None);
    }

    #[test]
    fn nearest_wins() {
        assert_eq!(nearest("endpoint", ["addresses", "endpoints"]), Some("endpoints"));
        assert_eq!(nearest("manage-hostnam", ["manage-ip", "manage-hostname"]), Some("manage-hostname"));
    }
}

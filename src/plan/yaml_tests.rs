//! What is written here against a small model of k3s's reader.
//!
//! The model follows the YAML 1.1 that k3s reads with since v1.21.0
//! (gopkg.in/yaml.v2 v2.4.0: resolve.go, scannerc.go, readerc.go) and what k3s
//! makes of the values (k3s: pkg/configfilearg/parser.go: Go's text of it,
//! blanks at both ends cut off). It shares no code with the writer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;

use super::*;
use crate::facts::k3s_config::Effective;

/// Keys and their arguments, as k3s would have them.
fn read(text: &str) -> Vec<(String, Vec<String>)> {
    assert!(text.chars().all(is_printable), "the reader refuses a character of {text:?}");
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.split(is_break).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(item) = line.strip_prefix("  - ") {
            out.last_mut().unwrap().1.push(scalar(item));
            continue;
        }
        let (key, value) = line.split_once(':').unwrap();
        let value = value.trim_start_matches(' ');
        let values = if value.is_empty() || value == "[]" { vec![] } else { vec![scalar(value)] };
        out.push((key.to_owned(), values));
    }
    out
}

/// Line breaks of YAML 1.1.
fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
        && c != '\u{feff}'
}

fn scalar(text: &str) -> String {
    let value = match text.strip_prefix('"') {
        Some(quoted) => unescaped(quoted.strip_suffix('"').unwrap()),
        None => plain(text),
    };
    value.trim().to_owned()
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            assert!(c != '"', "an open quote in {text:?}");
            out.push(c);
            continue;
        }
        let digits = match chars.next().unwrap() {
            same @ ('"' | '\\' | '/') => {
                out.push(same);
                continue;
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => panic!("an escape that the writer has no need of: {other:?}"),
        };
        let code: String = chars.by_ref().take(digits).collect();
        // Half of a pair is no character for the reader.
        out.push(char::from_u32(u32::from_str_radix(&code, 16).unwrap()).unwrap());
    }
    out
}

/// A plain scalar by the rules of YAML 1.1 as yaml.v2 has them.
fn plain(text: &str) -> String {
    let text = text.split(" #").next().unwrap().trim();
    let usual = |word: &str| {
        let capital = word[..1].to_uppercase() + &word[1..];
        [word.to_owned(), capital, word.to_uppercase()].contains(&text.to_owned())
    };
    if ["y", "yes", "true", "on"].into_iter().any(usual) {
        return "true".to_owned();
    }
    if ["n", "no", "false", "off"].into_iter().any(usual) {
        return "false".to_owned();
    }
    if text.is_empty() || text == "~" || usual("null") {
        return String::new();
    }
    number(text).unwrap_or_else(|| text.to_owned())
}

fn number(text: &str) -> Option<String> {
    text.chars().next().filter(|c| c.is_ascii_digit() || "+-.".contains(*c))?;
    let bare = text.replace('_', "");
    let (sign, digits) = match bare.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", bare.strip_prefix('+').unwrap_or(&bare)),
    };
    let radix = |prefix: &str, radix| {
        digits.strip_prefix(prefix).and_then(|rest| i128::from_str_radix(rest, radix).ok())
    };
    let whole = radix("0x", 16).or_else(|| radix("0b", 2)).or_else(|| radix("0o", 8));
    let octal = || digits.strip_prefix('0').filter(|rest| !rest.is_empty());
    let whole = whole
        .or_else(|| octal().and_then(|rest| i128::from_str_radix(rest, 8).ok()))
        .or_else(|| if octal().is_none() { digits.parse::<i128>().ok() } else { None });
    if let Some(whole) = whole {
        return Some(if whole == 0 { "0".to_owned() } else { format!("{sign}{whole}") });
    }
    let is_float = digits.chars().all(|c| c.is_ascii_digit() || ".eE+-".contains(c));
    let float = is_float.then(|| bare.parse::<f64>().ok())??;
    Some(float.to_string())
}

#[test]
fn the_model_reads_what_was_measured_of_the_reader() {
    let rows = [
        ("y", "true"),
        ("Yes", "true"),
        ("oN", "oN"),
        ("off", "false"),
        ("tRUE", "tRUE"),
        ("012", "10"),
        ("0o12", "10"),
        ("08", "8"),
        ("0644", "420"),
        ("0x1F", "31"),
        ("0b11", "3"),
        ("1_000", "1000"),
        ("0777_", "511"),
        ("+1", "1"),
        ("-0", "0"),
        ("~", ""),
        ("null", ""),
        ("1.10", "1.1"),
        ("1.0", "1"),
        ("1e3", "1000"),
        (".5", "0.5"),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("::1", "::1"),
        ("a #b", "a"),
        ("10.42.0.0/16", "10.42.0.0/16"),
    ];
    for (written, wanted) in rows {
        assert_eq!(scalar(written), wanted, "{written:?}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text =
        || prop_oneof![any::<String>(), "[ -~]{0,12}", "[0-9_.xobeE+-]{1,8}", "(y|yes|on|No|~|null|012)"];
    prop_oneof![
        text().prop_map(Value::Text),
        any::<bool>().prop_map(|on| Value::Bare(on.to_string())),
        any::<i64>().prop_map(|number| Value::Bare(number.to_string())),
        prop::collection::vec(text(), 0..4).prop_map(Value::List),
    ]
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Text(text) | Value::Bare(text) => vec![text.clone()],
        Value::List(items) => items.clone(),
    }
}

proptest! {
    #[test]
    fn k3s_reads_back_what_is_written(first in value(), second in value()) {
        let entries = [("node-name".to_owned(), first), ("disable".to_owned(), second)];
        let trimmed = |value: &Value| -> Vec<String> {
            texts(value).iter().map(|text| text.trim().to_owned()).collect()
        };
        let wanted: Vec<_> = entries.iter().map(|(key, value)| (key.clone(), trimmed(value))).collect();
        prop_assert_eq!(read(&render("head", &entries)), wanted);
        for (_, value) in &entries {
            prop_assert_eq!(value.reads_back(), trimmed(value) == texts(value));
        }
    }

    #[test]
    fn facts_read_back_what_is_written(text in "[^\\p{C}]{0,40}", item in "[^\\p{C}]{0,40}") {
        let entries = [
            ("node-name".to_owned(), Value::text(&text)),
            ("disable".to_owned(), Value::List(vec![item.clone(), "yes".to_owned()])),
        ];
        let mut read = Effective::default();
        read.merge(&render("head", &entries)).unwrap();
        prop_assert_eq!(read.first("node-name"), Some(text.trim()));
        prop_assert_eq!(read.all("disable"), [item.trim(), "yes"]);
    }
}

#[test]
fn traps_of_yaml_1_1_are_quoted() {
    for trap in ["yes", "on", "012", "1_000", "12:30:45", "~", "null", "1e3", "=", "<<", "::1"] {
        let text = render("", &[("k".to_owned(), Value::text(trap))]);
        assert_eq!(text, format!("k: \"{trap}\"\n"));
    }
}

#[test]
fn an_empty_list_is_no_argument() {
    assert_eq!(render("", &[("disable".to_owned(), Value::List(vec![]))]), "disable: []\n");
}

//! `docs/codes.md` lists exactly the codes and words that the source uses.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and reads the source as it lies there"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use edge_bootstrap::allow;
use edge_bootstrap::report::{FindingStatus, Outcome, Phase, Verdict};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    std::fs::read_to_string(repository().join("docs/codes.md")).unwrap()
}

/// First cells of the rows below `heading`, with the other cells.
fn rows(heading: &str) -> Vec<(String, Vec<String>)> {
    let text = document();
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        (cells.next().unwrap().trim_matches('`').to_owned(), cells.collect())
    })
    .collect()
}

/// Every code that stands at the begin of a string in the source, with one file that has it.
fn codes_in_source() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut open = vec![repository().join("src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("src/allow.rs")
        {
            // Its list of what may be let pass says no code of its own.
            let codes = codes_in(&path).into_iter();
            found.extend(codes.map(|code| (code, path.clone())));
        }
    }
    found
}

fn codes_in(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let starts = text.split("\"EB-").skip(1);
    let is_word = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
    let words = starts.map(|rest| rest.chars().take_while(is_word).collect::<String>());
    words.filter(|word| !word.is_empty()).map(|word| format!("EB-{word}")).collect()
}

#[test]
fn every_code_of_the_source_is_listed_and_every_listed_one_is_used() {
    let source = codes_in_source();
    let listed: BTreeSet<String> = rows("Codes").into_iter().map(|(code, _)| code).collect();
    assert!(source.len() > 20, "the source was not found: {source:?}");
    // A string that ends in `-` asks for a family of codes.
    let is_listed = |code: &String| match code.ends_with('-') {
        true => listed.iter().any(|known| known.starts_with(code)),
        false => listed.contains(code),
    };
    let missing: Vec<_> = source.iter().filter(|(code, _)| !is_listed(code)).collect();
    assert!(missing.is_empty(), "add a row to docs/codes.md for {missing:?}");
    let unused: Vec<_> = listed.iter().filter(|code| !source.contains_key(*code)).collect();
    assert!(unused.is_empty(), "no source uses {unused:?}: remove the row from docs/codes.md");
}

/// Whatever the gate refuses with must be a code that a person can let pass
/// without being told that it is unknown, and that stands in the list.
#[test]
fn every_code_of_the_gate_can_be_let_pass_by_name() {
    let gate = std::fs::read_dir(repository().join("src/gate")).unwrap();
    let mut missing: BTreeSet<String> = gate.flat_map(|file| codes_in(&file.unwrap().path())).collect();
    assert!(missing.contains("EB-config-empty"), "the gate's own codes were not found: {missing:?}");
    missing.extend(FROM_RULES.map(str::to_owned));
    missing.retain(|code| !code.ends_with('-') && !allow::is_known(code));
    assert!(missing.is_empty(), "say in src/allow.rs what letting these pass may lose: {missing:?}");
    let listed: BTreeSet<String> = rows("Codes").into_iter().map(|(code, _)| code).collect();
    let unlisted: Vec<_> = allow::known().filter(|code| !listed.contains(*code)).collect();
    assert!(unlisted.is_empty(), "nothing refuses with {unlisted:?}");
}

/// What the gate refuses with by rules that it shares with the plan, and by a hold.
const FROM_RULES: [&str; 8] = [
    "EB-config-identity",
    "EB-hostname",
    "EB-ip-absent",
    "EB-override",
    "EB-server-key",
    "EB-token-missing",
    "EB-unit-role",
    "EB-wait-init-lease",
];

#[test]
fn every_listed_code_has_a_meaning_and_a_next_step_and_stands_once() {
    let mut seen = BTreeSet::new();
    for (code, cells) in rows("Codes") {
        assert!(cells.len() == 2 && cells.iter().all(|cell| cell.len() > 3), "{code}: {cells:?}");
        assert!(seen.insert(code.clone()), "{code} stands twice");
    }
}

#[test]
fn words_are_listed_in_the_order_of_the_source() {
    let listed = |heading: &str| -> Vec<String> { rows(heading).into_iter().map(|(word, _)| word).collect() };
    assert_eq!(listed("Phases"), Phase::ALL.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(listed("Verdicts"), Verdict::ALL.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(listed("Findings"), FindingStatus::ALL.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(listed("Outcomes"), Outcome::ALL.iter().map(ToString::to_string).collect::<Vec<_>>());
}

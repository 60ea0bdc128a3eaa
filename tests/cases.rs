//! Every row of `docs/cases.md` names a test that exists, and a code that exists;
//! so does every trap of `docs/containerd.md` its tests.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and reads the source as it lies there"
)]

use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Rows of all tables: case, what happens, code, test.
fn rows() -> Vec<[String; 4]> {
    let text = read(&repository().join("docs/cases.md"));
    let is_row =
        |line: &&str| line.starts_with("| ") && !line.starts_with("| case") && !line.starts_with("|--");
    let cells = |line: &str| {
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        <[String; 4]>::try_from(cells).unwrap()
    };
    text.lines().filter(is_row).map(cells).collect()
}

/// Words in backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn each_row_names_a_test_that_exists() {
    let rows = rows();
    assert!(rows.len() > 40, "only {} rows", rows.len());
    for row in &rows {
        let tests = quoted(&row[3]);
        assert!(!tests.is_empty(), "no test in {row:?}");
        tests.into_iter().for_each(exists);
    }
}

/// `FILE::NAME`, a function or a name in quotes.
fn exists(test: &str) {
    let (file, name) = test.split_once("::").unwrap();
    let text = read(&repository().join(file));
    let is_there = text.contains(&format!("fn {name}(")) || text.contains(&format!("\"{name}\""));
    assert!(is_there, "{file} has no test {name}");
}

#[test]
fn each_trap_of_containerd_names_what_we_do_and_a_test_that_exists() {
    let text = read(&repository().join("docs/containerd.md"));
    let section = text.split("\n## ").find(|section| section.starts_with("Traps\n")).unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| trap"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 15, "the traps are fifteen");
    for row in rows {
        assert!(row.len() == 3 && row[..2].iter().all(|cell| cell.len() > 10), "{row:?}");
        let tests = quoted(row[2]);
        assert!(!tests.is_empty(), "no test in {row:?}");
        tests.into_iter().for_each(exists);
    }
}

#[test]
fn each_code_is_explained() {
    let codes = read(&repository().join("docs/codes.md"));
    for row in rows() {
        for code in quoted(&row[2]) {
            assert!(codes.contains(&format!("| `{code}` |")), "{code} of {row:?} is not in docs/codes.md");
        }
    }
}

//! What people and scripts see. The only file that prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one place that speaks to the user")]

use serde_json::{Value, json};

/// One line for people.
pub(super) fn line(text: &str) {
    println!("{text}");
}

/// One line about a failure, on standard error.
pub(super) fn failure(text: &str) {
    eprintln!("{text}");
}

/// One object for scripts; `schema` is added.
pub(super) fn object(mut value: Value) {
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".to_owned(), json!(1));
    }
    println!("{value}");
}

/// The outcome of a command that changed something.
pub(super) fn outcome(as_json: bool, value: Value, text: &str) {
    if as_json { object(value) } else { line(text) }
}

/// Items as a JSON array under `key`, or as a table.
pub(super) fn list<T>(
    as_json: bool,
    key: &str,
    items: &[T],
    to_json: impl Fn(&T) -> Value,
    to_row: impl Fn(&T) -> Vec<String>,
    heads: &[&str],
) {
    if as_json {
        let items: Vec<Value> = items.iter().map(to_json).collect();
        return object(json!({ key: items }));
    }
    let heads = heads.iter().map(|&head| head.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(items.iter().map(to_row)).collect();
    table(&rows);
}

/// Columns as wide as their widest cell.
pub(super) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

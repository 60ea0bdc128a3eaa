//! k3s's `config.yaml` as text.
//!
//! Owns quoting: k3s reads with a YAML 1.1 reader, where `yes`, `012` or
//! `1_000` are no strings. Every string is written in double quotes, which all
//! YAML versions read alike (k3s: pkg/configfilearg/parser.go).

use std::fmt::Write as _;

/// One value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number or switch, written bare.
    Bare(String),
    /// A list of texts.
    List(Vec<String>),
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A switch that is on.
    #[must_use]
    pub fn yes() -> Self {
        Self::Bare("true".to_owned())
    }

    /// A free-form JSON value, as k3s would read it; `None` for shapes that
    /// k3s's configuration does not have.
    #[must_use]
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        use serde_json::Value as Json;
        match value {
            Json::String(text) => Some(Self::text(text)),
            Json::Bool(_) | Json::Number(_) => Some(Self::Bare(value.to_string())),
            Json::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(Self::List),
            Json::Null | Json::Object(_) => None,
        }
    }
}

fn scalar(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Writes `entries` in their order below `header`, which is made a comment.
#[must_use]
pub fn render(header: &str, entries: &[(String, Value)]) -> String {
    let mut out = String::new();
    for line in header.lines() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# {line}");
    }
    for (key, value) in entries {
        let _ = match value {
            Value::Text(text) => writeln!(out, "{key}: {}", quoted(text)),
            Value::Bare(text) => writeln!(out, "{key}: {text}"),
            Value::List(items) => {
                let lines: String = items.iter().map(|item| format!("  - {}\n", quoted(item))).collect();
                write!(out, "{key}:\n{lines}")
            }
        };
    }
    out
}

/// A double-quoted scalar: JSON strings are a subset of it.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::k3s_config::Effective;

    proptest! {
        #[test]
        fn every_text_reads_back_equal(text in "[^\\p{C}]{0,40}", item in "[^\\p{C}]{0,40}") {
            let entries = [
                ("node-name".to_owned(), Value::text(&text)),
                ("disable".to_owned(), Value::List(vec![item.clone(), "yes".to_owned()])),
            ];
            let mut read = Effective::default();
            read.merge(&render("head", &entries)).unwrap();
            prop_assert_eq!(read.first("node-name"), Some(text.as_str()));
            prop_assert_eq!(read.all("disable"), [item.as_str(), "yes"]);
        }
    }

    #[test]
    fn traps_of_yaml_1_1_are_quoted() {
        for trap in ["yes", "on", "012", "1_000", "12:30:45", "~", "null", "1e3", "=", "<<", "::1"] {
            let text = render("", &[("k".to_owned(), Value::text(trap))]);
            assert_eq!(text, format!("k: \"{trap}\"\n"));
        }
    }
}

//! k3s's `config.yaml` as text.
//!
//! Owns quoting: k3s reads with a YAML 1.1 reader, where `yes`, `012` or
//! `1_000` are no strings. Every string is written in double quotes, which all
//! YAML versions read alike (k3s: pkg/configfilearg/parser.go). Blanks at both
//! ends of a value cannot be written at all: k3s cuts them off.

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

    /// A JSON value whose type nobody knows here, as k3s would read it; `None`
    /// for shapes that k3s's configuration does not have.
    #[must_use]
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        use serde_json::Value as Json;
        match value {
            Json::String(text) => Some(Self::text(text)),
            Json::Bool(on) => Some(Self::Bare(on.to_string())),
            // As a text: a reader of YAML 1.1 writes large and broken numbers otherwise.
            Json::Number(number) => Some(Self::text(number.to_string())),
            Json::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(Self::List),
            Json::Null | Json::Object(_) => None,
        }
    }

    /// Whether k3s reads it back as it is.
    #[must_use]
    pub fn reads_back(&self) -> bool {
        let whole = |text: &String| text.trim() == text;
        match self {
            Self::Text(text) | Self::Bare(text) => whole(text),
            Self::List(items) => items.iter().all(whole),
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
            // Nothing after the colon would be null, which is an argument for k3s.
            Value::List(items) if items.is_empty() => writeln!(out, "{key}: []"),
            Value::List(items) => {
                let lines: String = items.iter().map(|item| format!("  - {}\n", quoted(item))).collect();
                write!(out, "{key}:\n{lines}")
            }
        };
    }
    out
}

/// A double-quoted scalar with the escapes that YAML 1.1 and 1.2 share. JSON's
/// would not do: it leaves U+2028 as it is, a line break in YAML 1.1, and writes
/// two halves for what is one character.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' => write!(out, "{c}"),
            _ if u32::from(c) > 0xffff => write!(out, "\\U{:08X}", u32::from(c)),
            _ => write!(out, "\\u{:04X}", u32::from(c)),
        };
    }
    out.push('"');
    out
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;

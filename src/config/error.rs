//! What is wrong with the configuration: one value per mistake, printed one per
//! line, each with the place where a person mends it. Owns the printed form;
//! decides nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One place in one configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// The file, as it was named to [`super::parse`].
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

impl Origin {
    /// The place of byte `offset` of `text`, the content of `file`.
    pub(super) fn at(file: &Path, text: &str, offset: usize) -> Self {
        let mut end = offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = text.get(..end).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { file: file.to_owned(), line, column }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// One mistake in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ConfigError {
    /// The file that holds the mistake.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The dotted key, such as `central.endpoints`; empty for a TOML syntax error.
    pub key: String,
    /// What is wrong and which form is expected. Holds no value of a key that may carry a secret.
    pub message: String,
    /// The nearest known key or word, where one is near.
    pub suggestion: Option<String>,
}

impl ConfigError {
    /// An error at `origin` about `key`, without a suggestion.
    pub(super) fn new(origin: Origin, key: &str, message: String) -> Self {
        let Origin { file, line, column } = origin;
        Self { file, line, column, key: key.to_owned(), message, suggestion: None }
    }

    /// The same error with the word that was probably meant.
    pub(super) fn suggest(self, suggestion: Option<String>) -> Self {
        Self { suggestion, ..self }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.message)?;
        match &self.suggestion {
            Some(word) => write!(out, " (did you mean `{word}`?)"),
            None => Ok(()),
        }
    }
}

/// Every mistake of every file, in the order of the files and of their lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{error}")?;
        }
        Ok(())
    }
}

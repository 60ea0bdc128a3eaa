//! Walks one parsed TOML file and hands out its values by key, each with its
//! place. Owns syntax errors, unknown keys and wrong types; goes on after each
//! mistake, so that one run finds them all. Knows nothing of other files.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue, Error as SyntaxError};
use toml::{Spanned, Value};

use super::error::{ConfigError, Origin};
use super::keys::{self, KEYS, Key, SECTIONS};
use super::merge::Given;
use super::{Source, suggest};
use crate::wire::secret::without_credentials;

/// The longest stretch of a file that a message repeats, in characters.
const QUOTE_LIMIT: usize = 80;

/// How many syntax errors of one file are worth reading.
const SYNTAX_LIMIT: usize = 20;

/// The message of the TOML parser that leaves the rest of the file readable.
const DUPLICATE: &str = "duplicate key";

/// Why a text does not have the form of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is wrong, worded to follow the value and a colon.
    pub(super) why: String,
    /// The word that was probably meant.
    pub(super) suggestion: Option<String>,
}

impl From<&str> for Reason {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl From<String> for Reason {
    fn from(why: String) -> Self {
        Self { why, suggestion: None }
    }
}

/// Turns the text of one value into its type.
pub(super) type Parse<T> = fn(&str) -> Result<T, Reason>;

/// A value and the place of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

struct Leaf<'a> {
    key: Range<usize>,
    value: &'a Spanned<DeValue<'a>>,
}

/// One file while it is read.
pub(super) struct Reader<'a> {
    source: &'a Source,
    leaves: BTreeMap<&'static str, Leaf<'a>>,
    given: BTreeMap<&'static str, Given>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    /// Sorts the content of `document` by known key; reports the rest. After a
    /// syntax error that may have moved keys to another table it reports only that.
    pub(super) fn new(source: &'a Source, document: &'a DeTable<'a>, faults: &[SyntaxError]) -> Self {
        let (leaves, given) = (BTreeMap::new(), BTreeMap::new());
        let mut reader = Self { source, leaves, given, errors: Vec::new() };
        reader.syntax(faults);
        if faults.iter().all(|fault| fault.message() == DUPLICATE) {
            reader.walk("", document);
        }
        reader
    }

    /// What was read for `config show`, and every mistake of the file.
    pub(super) fn finish(self) -> (BTreeMap<&'static str, Given>, Vec<ConfigError>) {
        (self.given, self.errors)
    }

    /// A switch.
    pub(super) fn flag(&mut self, key: &'static Key) -> Option<Placed<bool>> {
        let leaf = self.leaves.remove(key.name)?;
        let Some(value) = leaf.value.get_ref().as_bool() else {
            self.wrong_type(key, leaf.value, "");
            return None;
        };
        Some(self.placed(key, leaf.key, (Value::Boolean(value), value)))
    }

    /// A text that has to be there when the key is.
    pub(super) fn text<T>(&mut self, key: &'static Key, parse: Parse<T>) -> Option<Placed<T>> {
        let leaf = self.leaves.remove(key.name)?;
        let value = self.word(key, leaf.value, parse)?;
        Some(self.placed(key, leaf.key, (printable(key, leaf.value.get_ref()), value)))
    }

    /// A text that takes back an earlier file's value when it is empty.
    pub(super) fn optional<T>(&mut self, key: &'static Key, parse: Parse<T>) -> Option<Placed<Option<T>>> {
        let leaf = self.leaves.remove(key.name)?;
        let value = match leaf.value.get_ref().as_str() {
            Some("") => None,
            _ => Some(self.word(key, leaf.value, parse)?),
        };
        Some(self.placed(key, leaf.key, (printable(key, leaf.value.get_ref()), value)))
    }

    /// A list of texts.
    pub(super) fn list<T>(&mut self, key: &'static Key, parse: Parse<T>) -> Option<Placed<Vec<T>>> {
        let leaf = self.leaves.remove(key.name)?;
        let Some(items) = leaf.value.get_ref().as_array() else {
            self.wrong_type(key, leaf.value, "");
            return None;
        };
        let read: Vec<_> = items.iter().map(|item| self.word(key, item, parse)).collect();
        let values = read.into_iter().collect::<Option<Vec<T>>>()?;
        let shown = items.iter().map(|item| printable(key, item.get_ref())).collect();
        Some(self.placed(key, leaf.key, (Value::Array(shown), values)))
    }

    fn word<T>(&mut self, key: &'static Key, value: &Spanned<DeValue<'_>>, parse: Parse<T>) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, if key.form.starts_with("a list") { " in it" } else { "" });
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                self.wrong_form(key, value, reason);
                None
            }
        }
    }

    fn placed<T>(&mut self, key: &'static Key, span: Range<usize>, read: (Value, T)) -> Placed<T> {
        let (shown, value) = read;
        let origin = self.origin(&span);
        self.given.insert(key.name, Given { value: shown, origin: origin.clone() });
        Placed { value, origin }
    }

    fn walk(&mut self, section: &str, table: &'a DeTable<'a>) {
        for (name, value) in table {
            let dotted = join(section, name.get_ref());
            if name.get_ref().contains('.') {
                self.unknown(&name.span(), section, name.get_ref());
            } else if let Some(key) = keys::find(&dotted) {
                self.leaves.insert(key.name, Leaf { key: name.span(), value });
            } else if !SECTIONS.contains(&dotted.as_str()) {
                self.unknown(&name.span(), section, name.get_ref());
            } else if let DeValue::Table(inner) = value.get_ref() {
                self.walk(&dotted, inner);
            } else {
                let found = type_name(value.get_ref());
                self.report(&value.span(), &dotted, format!("expected a table, found {found}"));
            }
        }
    }

    /// One error a line: what follows on the same line is mostly its echo.
    fn syntax(&mut self, faults: &[SyntaxError]) {
        for fault in faults {
            let span = fault.span().unwrap_or_default();
            let line = self.origin(&span).line;
            if self.errors.iter().any(|error| error.line == line) {
                continue;
            }
            if self.errors.len() == SYNTAX_LIMIT {
                return self.report(&span, "", "more syntax errors from here on".to_owned());
            }
            if fault.message() == DUPLICATE {
                let name = quote(self.source.text.get(span.clone()).unwrap_or_default());
                self.report(&span, &name, "set a second time in this file".to_owned());
            } else {
                let message = format!("{}{}", fault.message(), hint(&self.source.text, line, fault));
                self.report(&span, "", message);
            }
        }
    }

    fn unknown(&mut self, span: &Range<usize>, section: &str, name: &str) {
        let suggestion = meant(section, name);
        let message = match suggestion {
            Some(_) => "unknown key".to_owned(),
            None => format!("unknown key; known here: {}", children(section).join(", ")),
        };
        let name = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
        let error = ConfigError::new(self.origin(span), &quote(&join(section, &name)), message);
        self.errors.push(error.suggest(suggestion));
    }

    fn wrong_type(&mut self, key: &Key, value: &Spanned<DeValue<'_>>, place: &str) {
        let found = type_name(value.get_ref());
        let message = format!("expected {}, found {found}{place}", key.expected());
        self.report(&value.span(), key.name, message);
    }

    fn wrong_form(&mut self, key: &Key, value: &Spanned<DeValue<'_>>, reason: Reason) {
        let text = value.get_ref().as_str().filter(|_| !key.secret);
        let quoted =
            text.map(|text| format!("\"{}\": ", quote(&without_credentials(text)))).unwrap_or_default();
        let message = format!("{quoted}{}; expected {}", reason.why, key.expected());
        let error = ConfigError::new(self.origin(&value.span()), key.name, message);
        self.errors.push(error.suggest(reason.suggestion));
    }

    fn report(&mut self, span: &Range<usize>, key: &str, message: String) {
        self.errors.push(ConfigError::new(self.origin(span), key, message));
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::at(&self.source.path, &self.source.text, span.start)
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The keys and tables directly in `section`, without its name; the empty name is the top.
fn children(section: &str) -> Vec<&'static str> {
    let names = KEYS.iter().map(|key| key.name).chain(SECTIONS);
    names.filter_map(|name| child(section, name)).collect()
}

fn child(section: &str, name: &'static str) -> Option<&'static str> {
    let rest = match section {
        "" => name,
        _ => name.strip_prefix(section)?.strip_prefix('.')?,
    };
    (!rest.contains('.')).then_some(rest)
}

/// The full name that was probably meant: a neighbour, a key of the same name in
/// another table, or one that is spelled nearly like the whole.
fn meant(section: &str, name: &str) -> Option<String> {
    if let Some(near) = suggest::nearest(name, children(section)) {
        return Some(join(section, near));
    }
    let all = || KEYS.iter().map(|key| key.name).chain(SECTIONS);
    let elsewhere = all().find(|known| known.rsplit('.').next() == Some(name));
    elsewhere.or_else(|| suggest::nearest(&join(section, name), all())).map(str::to_owned)
}

/// The most frequent slip, which the TOML parser takes for a broken number: a
/// text without quotes on `line`, counted from 1.
fn hint(text: &str, line: usize, fault: &SyntaxError) -> &'static str {
    let value = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
    let bare = value.is_some_and(|(_, value)| value.trim_start().starts_with(|c: char| c.is_alphanumeric()));
    if bare && !fault.message().contains("quoted") { "; a text stands in quotes" } else { "" }
}

/// A stretch of the file for a message: one line, no control characters, not endless.
fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTE_LIMIT).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    quoted.chars().flat_map(printed).collect()
}

/// Quotes and backslashes stay as they are: the place shows the original anyway.
fn printed(letter: char) -> impl Iterator<Item = char> {
    let escape = letter.is_control() || letter == '\u{2028}' || letter == '\u{2029}';
    let escaped = escape.then(|| letter.escape_default()).into_iter().flatten();
    escaped.chain((!escape).then_some(letter))
}

fn printable(key: &Key, value: &DeValue<'_>) -> Value {
    let text = value.as_str().unwrap_or_default();
    Value::String(if key.secret { without_credentials(text) } else { text.to_owned() })
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

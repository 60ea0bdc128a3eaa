//! Unit files, command lines and environment files as systemd reads them.
//!
//! Owns systemd's quoting (systemd.service(5), "Command lines"; systemd.exec(5),
//! `EnvironmentFile=`), which is not a shell's. No I/O; never says what a value
//! means to k3s.

use std::collections::BTreeMap;

/// One directive of a unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// `[Service]` without its brackets.
    pub section: String,
    /// `ExecStart`; empty for lines that are no directive.
    pub name: String,
    /// The value, continued lines joined by a blank.
    pub value: String,
    /// The lines as they stand, with their ends.
    pub raw: String,
}

/// One assignment of an environment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Name of the variable; empty for lines that assign nothing.
    pub name: String,
    /// Its value without quotes.
    pub value: String,
    /// The lines as they stand, with their ends.
    pub raw: String,
}

/// All lines of a unit file, in order; putting the `raw` parts together gives the file.
#[must_use]
pub fn directives(text: &str) -> Vec<Directive> {
    let mut section = String::new();
    let mut found: Vec<Directive> = Vec::new();
    let mut goes_on = false;
    for raw in text.split_inclusive('\n') {
        let line = raw.trim();
        let is_comment = line.starts_with(['#', ';']);
        if let (true, Some(last)) = (goes_on, found.last_mut()) {
            last.raw.push_str(raw);
            // A comment inside a continued line is skipped and does not end it.
            goes_on = is_comment || join(&mut last.value, line);
            continue;
        }
        if line.starts_with('[') && line.ends_with(']') {
            section = line.trim_matches(['[', ']']).to_owned();
        }
        let (name, value) = line.split_once('=').filter(|_| !is_comment).unwrap_or_default();
        let mut directive = Directive {
            section: section.clone(),
            name: name.trim().to_owned(),
            value: String::new(),
            raw: raw.to_owned(),
        };
        goes_on = !directive.name.is_empty() && join(&mut directive.value, value.trim());
        found.push(directive);
    }
    found
}

/// Adds one line to a value; whether the next line belongs to it too.
fn join(value: &mut String, line: &str) -> bool {
    let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |head| (head, true));
    if !value.is_empty() {
        value.push(' ');
    }
    value.push_str(part.trim());
    goes_on
}

/// Splits at blanks outside quotes; takes quotes and C escapes away.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().push_str(&escape(&mut chars)),
            _ if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What follows a backslash. One that systemd does not know stays as it is.
fn escape(chars: &mut std::str::Chars<'_>) -> String {
    let Some(c) = chars.next() else { return "\\".to_owned() };
    let plain = match c {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        's' => ' ',
        '\\' | '"' | '\'' => c,
        'x' => return number(chars, "x", 2, 16),
        'u' => return number(chars, "u", 4, 16),
        'U' => return number(chars, "U", 8, 16),
        '0'..='7' => {
            let mut octal = String::from(c);
            octal.extend(chars.by_ref().take(2));
            return u32::from_str_radix(&octal, 8).ok().and_then(char::from_u32).map_or(octal, String::from);
        }
        other => return format!("\\{other}"),
    };
    plain.to_string()
}

fn number(chars: &mut std::str::Chars<'_>, letter: &str, digits: usize, radix: u32) -> String {
    let text: String = chars.by_ref().take(digits).collect();
    let found = u32::from_str_radix(&text, radix).ok().and_then(char::from_u32);
    found.map_or_else(|| format!("\\{letter}{text}"), String::from)
}

/// Puts in what a specifier stands for; one that is not known here stays.
#[must_use]
pub fn specified(word: &str, unit: &str, hostname: &str) -> String {
    let name = unit.trim_end_matches(".service");
    let mut out = String::new();
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some('n') => out.push_str(unit),
            Some('N' | 'p') => out.push_str(name),
            Some('H') => out.push_str(hostname),
            Some('l') => out.push_str(hostname.split('.').next().unwrap_or_default()),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Puts variables into the words of a command line: `$NAME` as a word of its
/// own is split at blanks, `${NAME}` is not, `$$` is a dollar sign.
#[must_use]
pub fn expanded(words: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
    let mut out = Vec::new();
    for word in words {
        let alone = word.strip_prefix('$').filter(|name| is_name(name));
        match alone {
            Some(name) => out.extend(self::words(variables.get(name).map_or("", String::as_str))),
            None => out.push(replaced(word, variables)),
        }
    }
    out
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn replaced(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((head, tail)) = rest.split_once('$') {
        out.push_str(head);
        let braced = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'));
        rest = match braced {
            Some((name, tail)) if is_name(name) => {
                out.push_str(variables.get(name).map_or("", String::as_str));
                tail
            }
            _ => {
                out.push('$');
                tail.strip_prefix('$').unwrap_or(tail)
            }
        };
    }
    out + rest
}

/// Where the reader of an environment file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Key,
    Before,
    Value,
    Single,
    Double,
    Comment,
}

/// All lines of an environment file, in order; both quotings and line
/// continuations as systemd reads them (systemd: src/basic/env-file.c).
#[must_use]
pub fn assignments(text: &str) -> Vec<Assigned> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (assigned, length) = assignment(rest);
        rest = rest.get(length..).unwrap_or_default();
        found.push(assigned);
    }
    found
}

/// What was read of one assignment so far.
#[derive(Default)]
struct Reader {
    name: String,
    value: String,
    /// Bytes of the value before blanks that may turn out to be its end.
    kept: usize,
}

impl Reader {
    /// Takes in one character, and those that its escape takes along.
    fn step(&mut self, at: At, c: char, rest: &mut std::str::CharIndices<'_>) -> At {
        match (at, c) {
            (At::Single, '\'') | (At::Double, '"') => At::Before,
            (At::Key, '#' | ';') if self.name.trim().is_empty() => At::Comment,
            (At::Key, '=') => At::Before,
            (At::Key, _) => {
                self.name.push(c);
                At::Key
            }
            (At::Comment, '\\') => {
                rest.next();
                At::Comment
            }
            (At::Comment, _) => At::Comment,
            (At::Before, '\'') => At::Single,
            (At::Before, '"') => At::Double,
            (At::Before, _) if c.is_whitespace() => At::Before,
            (At::Double, '\\') => {
                self.escaped_in_quotes(rest.next());
                At::Double
            }
            (At::Before | At::Value, '\\') => {
                self.value.extend(rest.next().map(|(_, c)| c).filter(|c| *c != '\n'));
                self.kept = self.value.len();
                At::Value
            }
            (At::Before | At::Value, _) => {
                self.value.push(c);
                At::Value
            }
            (At::Single | At::Double, _) => {
                self.value.push(c);
                at
            }
        }
    }

    fn escaped_in_quotes(&mut self, next: Option<(usize, char)>) {
        match next.map(|(_, c)| c) {
            Some(c @ ('"' | '\\' | '`' | '$')) => self.value.push(c),
            Some('\n') | None => {}
            Some(other) => self.value.extend(['\\', other]),
        }
    }
}

fn assignment(text: &str) -> (Assigned, usize) {
    let mut read = Reader::default();
    let (mut at, mut end) = (At::Key, text.len());
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        if c == '\n' && !matches!(at, At::Single | At::Double) {
            end = index + 1;
            break;
        }
        at = read.step(at, c, &mut chars);
        if !(at == At::Value && c.is_whitespace()) {
            read.kept = read.value.len();
        }
    }
    read.value.truncate(read.kept);
    // Words without `=`, or with a blank in their name, set nothing.
    let name = read.name.trim().to_owned();
    let is_set = !matches!(at, At::Key | At::Comment) && is_name(&name);
    let raw = text.get(..end).unwrap_or_default().to_owned();
    (Assigned { name: if is_set { name } else { String::new() }, value: read.value, raw }, end)
}

#[cfg(test)]
#[path = "unit_text_tests.rs"]
mod tests;

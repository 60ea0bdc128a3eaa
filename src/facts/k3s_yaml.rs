//! One YAML file as k3s reads it: keys and values as texts.
//!
//! Owns the rules of k3s's reader (k3s: pkg/configfilearg/parser.go, with
//! gopkg.in/yaml.v2 resolve.go and rancher/wrangler pkg/data/convert): YAML 1.1
//! scalars, where `yes` is true and `012` is ten, repeated keys, only the first
//! document, merge keys that are lost. Never knows what a key means. No I/O.

use std::borrow::Cow;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use super::k3s_config::ConfigParseError;

/// Nodes that one file may hold after its aliases are resolved; k3s's own reader
/// refuses files whose aliases multiply as well (yaml.v2: decode.go).
const MAX_NODES: usize = 100_000;

#[derive(Debug, Clone)]
enum Node {
    Null,
    Scalar(String),
    Merge,
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// Keys with their values, in the order of the file; a repeated key comes twice.
///
/// # Errors
/// [`ConfigParseError`] with the place and never with text of the file, which
/// may be a token.
pub(super) fn read(text: &str) -> Result<Vec<(String, Vec<String>)>, ConfigParseError> {
    let mut reader = Reader::new(text);
    let entries = match reader.document()? {
        None => Vec::new(),
        Some(Node::Map(entries)) => entries,
        Some(_) => return Err(ConfigParseError::NotAMapping),
    };
    // A merge key is read and then lost where a mapping keeps its order (yaml.v2: decode.go).
    if entries.iter().any(|(key, value)| matches!((key, value), (Node::Merge, Node::Scalar(_) | Node::Merge)))
    {
        return Err(reader.refusal("a merge of what is no mapping"));
    }
    // Where the name of an anchor ends is another place in YAML 1.1.
    let has_colon = |word: &str| word.starts_with('&') && word.contains(':');
    if !reader.anchors.is_empty() && text.split_whitespace().any(has_colon) {
        return Err(reader.refusal("an anchor with a colon"));
    }
    Ok(entries.iter().filter(|(key, _)| !matches!(key, Node::Merge)).map(arguments).collect())
}

fn arguments((key, value): &(Node, Node)) -> (String, Vec<String>) {
    let values = match value {
        Node::List(items) => items.iter().map(argument).collect(),
        one => vec![argument(one)],
    };
    (argument(key), values)
}

/// What k3s writes behind the `=` of an argument: of a list within a list only
/// the first, and blanks at both ends are cut.
fn argument(node: &Node) -> String {
    let one = match node {
        Node::List(items) => items.first().unwrap_or(&Node::Null),
        other => other,
    };
    let text = if matches!(one, Node::Null) { String::new() } else { printed(one) };
    text.trim().to_owned()
}

/// As Go prints it (fmt.Sprint).
fn printed(node: &Node) -> String {
    let joined = |parts: Vec<String>| format!("[{}]", parts.join(" "));
    match node {
        Node::Null => "<nil>".to_owned(),
        Node::Scalar(text) => text.clone(),
        Node::Merge => "<<".to_owned(),
        Node::List(items) => joined(items.iter().map(printed).collect()),
        Node::Map(entries) => joined(
            entries.iter().map(|(key, value)| format!("{{{} {}}}", printed(key), printed(value))).collect(),
        ),
    }
}

struct Reader<'input> {
    events: Parser<'input, granit_parser::StrInput<'input>>,
    anchors: Vec<(usize, Node)>,
    nodes: usize,
    line: usize,
}

impl<'input> Reader<'input> {
    fn new(text: &'input str) -> Self {
        Self { events: Parser::new_from_str(text), anchors: Vec::new(), nodes: 0, line: 1 }
    }

    /// The first document; none when there is nothing in it.
    fn document(&mut self) -> Result<Option<Node>, ConfigParseError> {
        loop {
            match self.next()? {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd | Event::DocumentEnd => return Ok(None),
                first => {
                    let node = self.node(first)?;
                    // A document that ends wrongly is read by nobody.
                    self.next()?;
                    return Ok(Some(node).filter(|node| !matches!(node, Node::Null)));
                }
            }
        }
    }

    fn next(&mut self) -> Result<Event<'input>, ConfigParseError> {
        let (event, span) = self
            .events
            .next()
            .ok_or_else(|| self.refusal("an unexpected end"))?
            .map_err(|error| place(&error))?;
        self.line = span.start.line();
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(self.refusal("too many values")) } else { Ok(event) }
    }

    fn node(&mut self, event: Event<'input>) -> Result<Node, ConfigParseError> {
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, self.scalar(text, style, tag.as_deref())?),
            Event::SequenceStart(_, anchor, _) => (anchor, self.list()?),
            Event::MappingStart(_, anchor, _) => (anchor, self.map()?),
            Event::Alias(anchor) => (0, self.anchored(anchor)?),
            _ => return Err(self.refusal("an unexpected end")),
        };
        if anchor != 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    /// A tag other than text's would have to fit what is written: k3s's configuration has none.
    fn scalar(
        &self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
    ) -> Result<Node, ConfigParseError> {
        match (style, tag) {
            (ScalarStyle::Plain, None) if text == "<<" => Ok(Node::Merge),
            (ScalarStyle::Plain, None) => Ok(match plain(&text) {
                none if none.is_empty() => Node::Null,
                text => Node::Scalar(text.into_owned()),
            }),
            (_, Some(tag)) if tag.handle() == "tag:yaml.org,2002:" && tag.suffix() != "str" => {
                Err(self.refusal("a tag that is not taken here"))
            }
            _ => Ok(Node::Scalar(text.into_owned())),
        }
    }

    fn refusal(&self, what: &str) -> ConfigParseError {
        ConfigParseError::Yaml(format!(" at line {}: {what}", self.line))
    }

    fn list(&mut self) -> Result<Node, ConfigParseError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Node::List(items)),
                item => items.push(self.node(item)?),
            }
        }
    }

    fn map(&mut self) -> Result<Node, ConfigParseError> {
        let mut entries = Vec::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(Node::Map(entries)),
                key => self.node(key)?,
            };
            let value = self.next()?;
            entries.push((key, self.node(value)?));
        }
    }

    /// The node with this anchor; its size counts again, as it is there again.
    fn anchored(&mut self, anchor: usize) -> Result<Node, ConfigParseError> {
        let found = self.anchors.iter().rev().find(|(known, _)| *known == anchor);
        let (_, node) = found.ok_or_else(|| self.refusal("an alias of nothing"))?;
        self.nodes += size(node);
        if self.nodes > MAX_NODES { Err(self.refusal("too many aliases")) } else { Ok(node.clone()) }
    }
}

fn size(node: &Node) -> usize {
    match node {
        Node::Null | Node::Scalar(_) | Node::Merge => 1,
        Node::List(items) => items.iter().map(size).sum::<usize>() + 1,
        Node::Map(entries) => entries.iter().map(|(key, value)| size(key) + size(value)).sum::<usize>() + 1,
    }
}

fn place(error: &ScanError) -> ConfigParseError {
    let at = error.marker();
    ConfigParseError::Yaml(format!(" at line {}, column {}", at.line(), at.col() + 1))
}

/// An unquoted scalar as k3s prints it. A date stays as it is written: no key of
/// k3s's takes one.
fn plain(text: &str) -> Cow<'_, str> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => "true".into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            "false".into()
        }
        "" | "~" | "null" | "Null" | "NULL" => "".into(),
        ".nan" | ".NaN" | ".NAN" => "NaN".into(),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => "+Inf".into(),
        "-.inf" | "-.Inf" | "-.INF" => "-Inf".into(),
        _ => number(text).map_or(text.into(), Cow::Owned),
    }
}

fn number(text: &str) -> Option<String> {
    match text.bytes().next()? {
        b'.' => float(text),
        b'0'..=b'9' | b'+' | b'-' => {
            let digits = text.replace('_', "");
            integer(&digits).or_else(|| float(&digits))
        }
        _ => None,
    }
}

/// Go's strconv.ParseInt and ParseUint with base 0: 64 bits, the base by its prefix.
fn integer(text: &str) -> Option<String> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("+", &text[1..]),
        _ => ("", text),
    };
    let (base, digits) = based(digits);
    if !digits.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(digits, base).ok()?);
    let value = if sign == "-" { -value } else { value };
    let unsigned = sign.is_empty() && value >= 0;
    (unsigned || i64::try_from(value).is_ok()).then(|| value.to_string())
}

fn based(digits: &str) -> (u32, &str) {
    let prefixes = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
    let prefixed = prefixes.iter().find_map(|(prefix, base)| Some((*base, digits.strip_prefix(prefix)?)));
    prefixed.unwrap_or(if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    })
}

/// Decimal digits with point and exponent, as Go's `%v` prints them.
fn float(text: &str) -> Option<String> {
    let allowed = |c: u8| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-');
    let starts = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value: f64 = (starts && text.bytes().all(allowed)).then(|| text.parse().ok())??;
    if !value.is_finite() {
        return None;
    }
    let size = value.abs();
    let exponent = size != 0.0 && !(1e-4..1e6).contains(&size);
    Some(if exponent { with_exponent(value) } else { value.to_string() })
}

/// Go writes a sign and at least two digits.
fn with_exponent(value: f64) -> String {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |exponent| ("-", exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
#[path = "k3s_yaml_tests.rs"]
mod tests;

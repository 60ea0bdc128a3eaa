//! The TOML form of an assignment, read by way of its JSON form.
//!
//! Owns the way from one to the other and the place of a mistake. The payload's
//! many types are read from JSON anyway; reading them from TOML as well would
//! be a second copy of all that code.

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::assignment::Payload;
use super::fields;

/// Text that is no assignment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {words}")]
pub struct Unreadable {
    /// Line of the text, from 1.
    pub line: usize,
    /// What is wrong, without the text of the line: a token may stand there.
    pub words: String,
}

/// Reads an assignment that is written as TOML.
///
/// # Errors
/// The first place that is no TOML or has another shape.
pub fn payload(text: &str) -> Result<Payload, Unreadable> {
    let unreadable = |at: usize, words: &str| {
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        Unreadable { line, words: unquoted(words) }
    };
    let document = DeTable::parse(text)
        .map_err(|error| unreadable(error.span().map_or(0, |span| span.start), error.message()))?;
    let mut json = Json { text: String::new(), starts: vec![0], untold: None };
    json.table(document.get_ref(), 0);
    if let Some(at) = json.untold {
        return Err(unreadable(at, "a number that cannot be read: too large, or none at all"));
    }
    fields::payload(json.text.as_bytes()).map_err(|error| {
        let words = error.to_string();
        let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(words, _)| words);
        unreadable(json.starts.get(error.line().saturating_sub(1)).copied().unwrap_or(0), words)
    })
}

/// The parser's own words, without any value that they quote.
fn unquoted(words: &str) -> String {
    let quote = |letter: char| letter == '`' || letter == '"';
    match (words.find(quote), words.rfind(quote)) {
        (Some(first), Some(last)) => format!("{}…{}", &words[..first], &words[last + 1..]).trim().to_owned(),
        _ => words.trim().to_owned(),
    }
}

/// JSON with each value on a line of its own, so that a line tells the value.
struct Json {
    text: String,
    /// Where in the TOML each line comes from, as a byte offset.
    starts: Vec<usize>,
    /// Where the first number stands that JSON cannot tell: as `null` it would
    /// be a key that is not there.
    untold: Option<usize>,
}

impl Json {
    fn line(&mut self, start: usize) {
        self.text.push('\n');
        self.starts.push(start);
    }

    fn put(&mut self, value: &serde_json::Value) {
        self.text.push_str(&value.to_string());
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>) {
        let start = value.span().start;
        self.line(start);
        match value.get_ref() {
            DeValue::Array(items) => self.list(items.iter()),
            DeValue::Table(inner) => self.table(inner, start),
            scalar => match plain(scalar) {
                serde_json::Value::Null => self.untold = Some(self.untold.map_or(start, |at| at.min(start))),
                told => self.put(&told),
            },
        }
    }

    fn list<'a>(&mut self, items: impl Iterator<Item = &'a Spanned<DeValue<'a>>>) {
        self.text.push('[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            self.value(item);
        }
        self.text.push(']');
    }

    fn table(&mut self, table: &DeTable<'_>, start: usize) {
        self.text.push('{');
        for (index, (name, value)) in table.iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            self.put(&name.get_ref().as_ref().into());
            self.text.push(':');
            self.value(value);
        }
        // What is missing in a table is told with the table's own place.
        self.line(start);
        self.text.push('}');
    }
}

/// `Null`: JSON cannot tell it. TOML has no null itself.
fn plain(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(serde_json::Value::Null, Into::into)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(serde_json::Value::Null, Into::into),
        DeValue::Boolean(switch) => (*switch).into(),
        DeValue::Datetime(moment) => moment.to_string().into(),
        other => other.as_str().unwrap_or_default().into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const TEXT: &str =
        "schema = 1\nsite = 'hz-017'\nrole = \"server\"\n[node]\nname = 'a'\nip = '10.0.0.1'\n";

    #[test]
    fn each_kind_of_value_arrives_as_it_is_written() {
        let more = "[k3s]\nversion = 'v1'\n[later]\nn = [1_000, 0x10, -7, +3]\nf = 1.5\nb = true\n\
                    d = 2026-11-22T08:00:00Z\nt = \"\"\"a\"\nb\\u00e9\"\"\"\nm.'x.y' = {}\n[[later.l]]\na = 1\n[[later.l]]\n";
        let payload = payload(&format!("{TEXT}{more}")).unwrap();
        assert_eq!((payload.schema, payload.node.unwrap().ip.to_string().as_str()), (1, "10.0.0.1"));
        let wanted = serde_json::json!({
            "n": [1000, 16, -7, 3], "f": 1.5, "b": true, "d": "2026-11-22T08:00:00Z", "t": "a\"\nbé",
            "m": {"x.y": {}}, "l": [{"a": 1}, {}],
        });
        assert_eq!(payload.unknown["later"], wanted);
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_without_its_value() {
        for (text, line) in [
            (TEXT.replace("'10.0.0.1'", "'canary'"), 6),
            (TEXT.replace("ip = '10.0.0.1'\n", ""), 4),
            (TEXT.replace("schema = 1", "schema = \"a\\\"canary`b\""), 1),
            (TEXT.replace("'hz-017'", "[\n'canary']"), 2),
            (TEXT.replace("'hz-017'", "'canary"), 2),
            (format!("{TEXT}labels.a = 99999999999999999999\n"), 7),
            (format!("{TEXT}[runtime]\nsandbox_image = inf\n"), 8),
        ] {
            let error = payload(&text).unwrap_err();
            assert_eq!(error.line, line, "{text}{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_number_that_json_cannot_tell_is_no_absent_key() {
        for number in ["12345678901234567890", "-99999999999999999999", "inf", "-nan", "1e999"] {
            let text = format!("{TEXT}[k3s]\nversion = 'v1'\n[cluster]\nprevious_server_token = {number}\n");
            let error = payload(&text).unwrap_err();
            assert!(error.words.starts_with("a number that cannot be read"), "{error}");
            assert_eq!(error.line, 10, "{error}");
            assert!(!error.to_string().contains(number), "{error}");
        }
        let text = format!("{TEXT}[k3s]\nversion = 'v1'\n[k3s.config]\nb = inf\na = nan\n");
        assert_eq!(payload(&text).unwrap_err().line, 10, "the first one");
    }
}

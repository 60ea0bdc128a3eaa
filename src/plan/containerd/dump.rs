//! Whether containerd takes our file as it is meant.
//!
//! Owns the comparison of every key that we write with what `containerd
//! --config FILE config dump` prints. The exit code alone proves nothing: keys
//! and whole sections that a version does not know are dropped in silence. Runs
//! nothing.

use toml::{Table, Value};

/// A server section of schema 4, where it was in schema 3 (containerd 2.3 reads
/// our file and turns it into schema 4 before it prints it).
const MOVED: [(&str, &str); 4] = [
    ("grpc", "io.containerd.server.v1.grpc"),
    ("ttrpc", "io.containerd.server.v1.ttrpc"),
    ("metrics", "io.containerd.server.v1.metrics"),
    ("debug", "io.containerd.server.v1.debug"),
];

/// Every key of `ours` that containerd understands otherwise; empty when it takes
/// all of them.
///
/// # Errors
/// When one of the two is no TOML at all; says which.
pub fn differences(ours: &str, dump: &str) -> Result<Vec<String>, String> {
    let parse = |text: &str, what: &str| {
        text.parse::<Table>().map_err(|error| format!("{what} is no TOML: {}", error.message()))
    };
    let (ours, dump) = (parse(ours, "our file")?, parse(dump, "what containerd prints")?);
    let mut out = Vec::new();
    compare(&ours, &moved_back(dump), "", &mut out);
    Ok(out)
}

/// The sections of schema 4 where schema 3 has them. The number itself is
/// containerd's own affair once it has read ours.
fn moved_back(mut dump: Table) -> Table {
    let schema = dump.get("version").and_then(Value::as_integer);
    if schema.is_none_or(|schema| schema < 4) {
        return dump;
    }
    let plugins = dump.get("plugins").and_then(Value::as_table).cloned().unwrap_or_default();
    for (section, plugin) in MOVED {
        if let Some(values) = plugins.get(plugin) {
            dump.insert(section.to_owned(), values.clone());
        }
    }
    dump.insert("version".to_owned(), Value::Integer(3));
    dump
}

fn compare(ours: &Table, theirs: &Table, above: &str, out: &mut Vec<String>) {
    for (key, value) in ours {
        let path = if above.is_empty() { quoted(key) } else { format!("{above}.{}", quoted(key)) };
        match (value, theirs.get(key)) {
            (Value::Table(ours), Some(Value::Table(theirs))) => compare(ours, theirs, &path, out),
            (ours, Some(theirs)) if is_same(ours, theirs) => {}
            (ours, None) if is_nothing(ours) => {}
            (Value::Table(ours), None) => compare(ours, &Table::new(), &path, out),
            (ours, theirs) => {
                let theirs = theirs.map_or_else(|| "nothing".to_owned(), shown);
                out.push(format!("{path}: ours {}, containerd's {theirs}", shown(ours)));
            }
        }
    }
}

/// A part of a path as it stands in a file.
fn quoted(key: &str) -> String {
    if key.contains('.') { format!("\"{key}\"") } else { key.to_owned() }
}

/// containerd prints what a key means to it: a list of one for a string where it
/// takes both, and more fields of an element than were given.
fn is_same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::String(_), Value::Array(list)) | (Value::Array(list), Value::String(_)) => {
            let one = if ours.is_array() { theirs } else { ours };
            matches!(list.as_slice(), [only] if only == one)
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs))
        }
        (Value::Table(ours), Value::Table(theirs)) => ours
            .iter()
            .all(|(key, value)| theirs.get(key).map_or(is_nothing(value), |theirs| is_same(value, theirs))),
        (Value::String(ours), Value::String(theirs)) => {
            ours == theirs || seconds(ours).is_some_and(|ours| seconds(theirs) == Some(ours))
        }
        _ => ours == theirs,
    }
}

/// An empty value is the same as none.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Table(table) => table.values().all(is_nothing),
        Value::Boolean(set) => !set,
        _ => false,
    }
}

/// Seconds of a duration as Go writes it: `10m`, `10m0s`, `1h0m0s`.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        rest = rest.get(digits + 1..)?;
    }
    (!text.is_empty()).then_some(sum)
}

fn shown(value: &Value) -> String {
    let text = value.to_string().replace('\n', " ");
    if text.chars().count() > 120 {
        format!("{}…", text.chars().take(120).collect::<String>())
    } else {
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(ours: &str, dump: &str) -> Vec<String> {
        differences(ours, dump).unwrap()
    }

    #[test]
    fn a_key_that_is_dropped_or_changed_is_named() {
        let ours = "version = 2\n[plugins.\"a.b\".c]\nd = \"devmapper\"\ne = [\"x\"]\n";
        assert_eq!(found(ours, ours), Vec::<String>::new());
        let dump = "version = 2\nmore = 1\n[plugins.\"a.b\".c]\nd = \"overlayfs\"\ne = [\"x\"]\n";
        assert_eq!(
            found(ours, dump),
            ["plugins.\"a.b\".c.d: ours \"devmapper\", containerd's \"overlayfs\""]
        );
        // The whole section is gone, as in a schema that the version does not know.
        let all = found(ours, "version = 2\n");
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[1].ends_with("ours [\"x\"], containerd's nothing"), "{all:?}");
        assert_eq!(found(ours, &ours.replace("[\"x\"]", "[\"x\", \"y\"]")).len(), 1);
    }

    #[test]
    fn sections_that_2_3_moves_are_found_where_they_are() {
        let ours = "version = 3\n[grpc]\naddress = \"/run/a.sock\"\n";
        let dump = "version = 4\n[plugins.\"io.containerd.server.v1.grpc\"]\naddress = \"/run/a.sock\"\n";
        assert_eq!(found(ours, dump), Vec::<String>::new());
        assert_eq!(found(ours, &dump.replace("a.sock", "b.sock")).len(), 1);
        // A daemon that reads no more than schema 3 and says 4 is not one that we know.
        assert_eq!(found(ours, "version = 4\n").len(), 1);
    }

    #[test]
    fn the_same_in_another_form_is_the_same() {
        assert!(found("a = \"x\"", "a = [\"x\"]").is_empty());
        assert!(found("a = [\"x\"]", "a = \"x\"").is_empty());
        assert!(found("a = \"10m\"", "a = \"10m0s\"").is_empty());
        assert!(found("a = \"\"\nb = []\n[c]\nd = false\n", "").is_empty());
        assert!(found("[[a]]\nb = 1\n", "[[a]]\nb = 1\nc = 2\n").is_empty());
        assert_eq!(found("a = \"10m\"", "a = \"5m0s\"").len(), 1);
        assert_eq!(found("a = \"x\"", "a = [\"x\", \"y\"]").len(), 1);
        assert_eq!(found("[[a]]\nb = 1\n", "[[a]]\nb = 2\n").len(), 1);
        assert_eq!(found("a = true", "").len(), 1);
    }

    #[test]
    fn what_is_no_toml_is_said() {
        assert!(
            differences("a = 1", "panic: x").unwrap_err().starts_with("what containerd prints is no TOML")
        );
        assert!(differences("a =", "a = 1").unwrap_err().starts_with("our file is no TOML"));
    }

    proptest! {
        #[test]
        fn any_two_texts_are_compared_or_refused(ours in "\\PC{0,80}", dump in "\\PC{0,80}") {
            let _ = differences(&ours, &dump);
            let _ = seconds(&ours);
        }

        #[test]
        fn a_file_is_always_the_same_as_itself(key in "[a-z.]{1,9}", value in "\\PC{0,20}") {
            let table = Table::from_iter([(key, Value::String(value))]);
            let text = toml::to_string(&table).unwrap();
            prop_assert_eq!(differences(&text, &text).unwrap(), Vec::<String>::new());
        }
    }
}

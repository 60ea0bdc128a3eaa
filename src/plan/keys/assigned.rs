//! `k3s.config` of an assignment against the table.
//!
//! Owns which keys an assignment may set for a version and role, of which type
//! and form their values are, and the words about everything that does not fit, all in
//! one refusal. Never decides what the plan itself writes.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Key, Keys, Kind, May, Presence, flags, nearest, of, values};
use crate::plan::refusal::Refusal;
use crate::plan::yaml::Value;
use crate::role::schedule::is_duration;
use crate::role::words::ConfigKey;
use crate::role::{K3sVersion, Role};

/// What an assignment sets freely, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assigned {
    /// Keys and values, typed as k3s takes them.
    pub entries: Vec<(String, Value)>,
    /// What a reader should know, and does not stop anything.
    pub notes: Vec<String>,
}

/// What is wrong with one key.
enum Fault {
    /// In words.
    Wrong(String),
    /// It needs the host's permission.
    NotAllowed,
}

/// Checks `config` for `version` and `role`; `allowed` are the keys that the
/// host's own settings permit.
///
/// # Errors
/// `EB-k3s-key` with everything that does not fit.
pub fn assigned(
    (version, role): (&K3sVersion, Role),
    config: &BTreeMap<ConfigKey, Json>,
    allowed: &[String],
) -> Result<Assigned, Refusal> {
    let case = Case { keys: of(version), version, role, allowed };
    let (mut found, mut wrong, mut not_allowed) = (Assigned::default(), Vec::new(), Vec::new());
    for (name, value) in config {
        match case.judge(name.as_str(), value) {
            Ok((value, note)) => {
                found.entries.extend(value.map(|value| (name.to_string(), value)));
                found.notes.extend(note);
            }
            Err(Fault::Wrong(words)) => wrong.push(words),
            Err(Fault::NotAllowed) => not_allowed.push(name.to_string()),
        }
    }
    if wrong.is_empty() && not_allowed.is_empty() {
        return Ok(found);
    }
    Err(refusal(version, wrong, &not_allowed))
}

fn refusal(version: &K3sVersion, mut wrong: Vec<String>, not_allowed: &[String]) -> Refusal {
    let correct = "correct `k3s.config` in the assignment";
    let next = match (wrong.is_empty(), not_allowed.is_empty()) {
        (_, true) => correct.to_owned(),
        (true, false) => format!("remove it from the assignment, or {}", permission(not_allowed)),
        (false, false) => format!("{correct}; for what needs permission, {}", permission(not_allowed)),
    };
    if !not_allowed.is_empty() {
        wrong.push(format!("{}: not allowed without this host's permission", not_allowed.join(", ")));
    }
    Refusal::new("EB-k3s-key", format!("`k3s.config` does not fit k3s {version}: {}", wrong.join("; ")), next)
}

fn permission(names: &[String]) -> String {
    format!("allow it on this host with [trust] allow-keys = {names:?}")
}

/// What all keys of one assignment have in common.
struct Case<'a> {
    keys: Keys,
    version: &'a K3sVersion,
    role: Role,
    allowed: &'a [String],
}

type Judged = Result<(Option<Value>, Option<String>), Fault>;

impl Case<'_> {
    fn judge(&self, name: &str, value: &Json) -> Judged {
        let key = match self.keys.find(name, self.role) {
            Presence::Known(key) => key,
            Presence::Perhaps(key) if self.role == Role::Server => {
                let note = format!(
                    "`k3s.config` sets {name}, which k3s {} may not know yet (it is in {}): it then warns and ignores the key",
                    self.version,
                    key.versions()
                );
                return Ok((self.fitting(key, value)?, Some(note)));
            }
            other => return self.unfit(name, other, value),
        };
        Ok((self.fitting(key, value)?, None))
    }

    /// The value of a key that this version has.
    fn fitting(&self, key: Key, value: &Json) -> Result<Option<Value>, Fault> {
        self.permitted(key)?;
        let (name, value) = (key.name, typed(key, value)?);
        let texts = value.as_ref().map_or_else(Vec::new, |value| parts(name, value));
        let wrong = |text: &String| {
            let flag = text.split('=').next().unwrap_or_default();
            flags::forbidden(name, text).map(|why| format!("{name} sets {flag}: {why}"))
        };
        let wrong: Vec<String> = texts.iter().filter_map(wrong).collect();
        if !wrong.is_empty() {
            return Err(Fault::Wrong(wrong.join("; ")));
        }
        if let Some(problem) = values::problem(name, &texts) {
            return Err(Fault::Wrong(format!("{name}: {problem}")));
        }
        let needs_permission = texts.iter().any(|text| flags::names_path(name, text));
        if needs_permission && !self.is_allowed(name) { Err(Fault::NotAllowed) } else { Ok(value) }
    }

    fn unfit(&self, name: &str, presence: Presence, value: &Json) -> Judged {
        let role = self.role;
        let words = match presence {
            Presence::Unknown if self.may_be_new(name) => {
                let note =
                    format!("`k3s.config` sets {name}, which this version of edge-bootstrap does not know");
                return Ok((Some(untyped(name, value)?), Some(note)));
            }
            Presence::Unknown => unknown(name),
            Presence::OtherRole(_) if role == Role::Agent => {
                format!("an agent does not know {name} and would exit with an error: set it for servers only")
            }
            Presence::OtherRole(_) => format!("a {role} does not know {name}"),
            Presence::Removed(key) => format!("{name} is only in {}{}", key.versions(), replacement(key)),
            Presence::Perhaps(key) => format!(
                "an agent of this version may not know {name} yet, and would exit with an error then (it is in {})",
                key.versions()
            ),
            Presence::NotYet(key) | Presence::Known(key) => {
                format!("a {role} of this version does not know {name} (it is in {})", key.versions())
            }
        };
        Err(Fault::Wrong(words))
    }

    fn may_be_new(&self, name: &str) -> bool {
        self.keys.is_newer_than_the_table() && self.is_allowed(name)
    }

    fn is_allowed(&self, name: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == name)
    }

    fn permitted(&self, key: Key) -> Result<(), Fault> {
        let name = key.name;
        match key.may() {
            May::Free => Ok(()),
            May::Host if self.is_allowed(name) => Ok(()),
            May::Host => Err(Fault::NotAllowed),
            May::Plan if key.instead().is_empty() => {
                Err(Fault::Wrong(format!("the plan itself decides {name}")))
            }
            May::Plan => {
                Err(Fault::Wrong(format!("the plan itself decides {name}, from `{}`", key.instead())))
            }
            May::Never => {
                Err(Fault::Wrong(format!("{name} is not for nodes of edge-bootstrap{}", replacement(key))))
            }
        }
    }
}

/// What k3s makes of a value: a list, some of them split at commas.
fn parts(name: &str, value: &Value) -> Vec<String> {
    let texts = match value {
        Value::Text(text) | Value::Bare(text) => std::slice::from_ref(text),
        Value::List(texts) => texts.as_slice(),
    };
    values::parts(name, texts)
}

fn replacement(key: Key) -> String {
    if key.instead().is_empty() { String::new() } else { format!(": use {}", key.instead()) }
}

fn unknown(name: &str) -> String {
    match nearest(name) {
        Some(key) => {
            format!("{name} is no key of k3s; did you mean {} ({})?", key.name, key.versions())
        }
        None => format!("{name} is no key of k3s"),
    }
}

/// The value as k3s takes it; nothing for an empty list, which k3s takes so too.
fn typed(key: Key, value: &Json) -> Result<Option<Value>, Fault> {
    let name = key.name;
    let wrong = |wanted: &str| Fault::Wrong(format!("{name} takes {wanted}, not {}", kind_of(value)));
    match (key.kind(), value) {
        (Kind::Switch, Json::Bool(on)) => Ok(Some(Value::Bare(on.to_string()))),
        (Kind::Switch, Json::String(text)) if text == "true" || text == "false" => {
            Ok(Some(Value::Bare(text.clone())))
        }
        (Kind::Switch, _) => Err(wrong("true or false")),
        (Kind::Number, _) => {
            whole(value).map(|number| Some(Value::Bare(number))).ok_or_else(|| wrong("a whole number"))
        }
        (Kind::Duration, Json::String(text)) if is_duration(text) => Ok(Some(Value::text(text))),
        (Kind::Duration, _) => Err(wrong("a duration above zero such as \"5m\"")),
        (Kind::Text(words), Json::String(text)) => {
            text_of(name, text, words).map(|text| Some(Value::Text(text)))
        }
        (Kind::Text(_), _) => Err(wrong("a text in quotes")),
        (Kind::List, Json::String(text)) => text_of(name, text, "").map(|text| Some(Value::List(vec![text]))),
        (Kind::List, Json::Array(items)) if items.is_empty() => Ok(None),
        (Kind::List, Json::Array(items)) => {
            let texts = items.iter().map(|item| match item {
                Json::String(text) if !text.is_empty() => text_of(name, text, ""),
                other => {
                    Err(Fault::Wrong(format!("{name} takes a list of texts, and holds {}", kind_of(other))))
                }
            });
            texts.collect::<Result<_, _>>().map(|texts| Some(Value::List(texts)))
        }
        (Kind::List, _) => Err(wrong("a list of texts")),
    }
}

/// A key of a later k3s, whose type nobody knows here.
fn untyped(name: &str, value: &Json) -> Result<Value, Fault> {
    Value::from_json(value).ok_or_else(|| {
        Fault::Wrong(format!("{name} takes a text, number, switch or list, not {}", kind_of(value)))
    })
}

fn whole(value: &Json) -> Option<String> {
    let number = match value {
        Json::Number(number) => number.as_i64()?,
        Json::String(text) => text.parse().ok()?,
        _ => return None,
    };
    Some(number.to_string())
}

/// A text that k3s reads back equal, and that is one of `words` when there are any.
fn text_of(name: &str, text: &str, words: &str) -> Result<String, Fault> {
    if !words.is_empty() && !words.split(',').any(|word| word == text) {
        return Err(Fault::Wrong(format!("{name} is one of {}, not {text:?}", words.replace(',', ", "))));
    }
    if text.trim() != text {
        return Err(Fault::Wrong(format!("{name} begins or ends with a blank, which k3s cuts off")));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::Wrong(format!("{name} holds a control character")));
    }
    Ok(text.to_owned())
}

fn kind_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "nothing",
        Json::Bool(_) => "a switch",
        Json::Number(_) => "a number",
        Json::String(text) if text.is_empty() => "an empty text",
        Json::String(_) => "that text",
        Json::Array(_) => "a list",
        Json::Object(_) => "a mapping",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#[path = "assigned_tests.rs"]
mod tests;

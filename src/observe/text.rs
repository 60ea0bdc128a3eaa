//! Texts of the kernel and of vendors as facts.
//!
//! Owns reading one value, the words for an absent or empty one, and the list
//! of values that vendors leave in place of a real one.

use std::error::Error;

use crate::error::Chain;
use crate::facts::Fact;
use crate::sys::Root;

/// Placeholders of board and disk vendors, lower case.
const PLACEHOLDERS: [&str; 19] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "to be filled by o.e.m.",
    "default string",
    "not specified",
    "not applicable",
    "not available",
    "system serial number",
    "chassis serial number",
    "base board serial number",
    "o.e.m.",
    "none",
    "n/a",
    "unknown",
    "invalid",
    "empty",
    "0123456789",
    "123456789",
];

/// The reason of an error with all its causes.
pub fn because<T>(error: &(dyn Error + 'static)) -> Fact<T> {
    Fact::unknown(Chain(error).to_string())
}

/// A text of the kernel without control characters; an empty one is unknown.
pub fn kernel(root: &Root, path: &str) -> Fact<String> {
    match root.read_kernel(path) {
        Ok(text) => named(path, &text),
        Err(error) if error.is_absent() => Fact::unknown(format!("there is no {path}")),
        Err(error) => because(&error),
    }
}

/// A text of a vendor: as [`kernel`], and placeholders are unknown.
pub fn vendor(root: &Root, path: &str) -> Fact<String> {
    match kernel(root, path) {
        Fact::Known(text) => vendor_text(text),
        unknown @ Fact::Unknown { .. } => unknown,
    }
}

/// A vendor's text, unless it is a placeholder.
pub fn vendor_text(text: String) -> Fact<String> {
    if is_placeholder(&text) { Fact::unknown("placeholder of the vendor") } else { Fact::Known(text) }
}

/// Whether a directory is there, links followed.
pub fn is_dir(root: &Root, path: &str) -> bool {
    root.stat(path).ok().flatten().is_some_and(|stat| stat.is_dir)
}

/// A whole text file; absent is unknown.
pub fn file(root: &Root, path: &str) -> Fact<String> {
    match root.read_text(path) {
        Ok(Some(text)) => Fact::Known(text),
        Ok(None) => Fact::unknown(format!("there is no {path}")),
        Err(error) => because(&error),
    }
}

/// A whole file of the kernel, all lines.
pub fn table(root: &Root, path: &str) -> Fact<String> {
    match root.read_kernel(path) {
        Ok(text) => Fact::Known(text),
        Err(error) if error.is_absent() => Fact::unknown(format!("there is no {path}")),
        Err(error) => because(&error),
    }
}

/// Turns what `parse` does not understand into an unknown fact.
pub fn parsed<T>(text: Fact<String>, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Fact<T> {
    match text {
        Fact::Known(text) => {
            parse(&text).map_or_else(|| Fact::unknown(format!("{what} has an unexpected form")), Fact::Known)
        }
        Fact::Unknown { unknown } => Fact::Unknown { unknown },
    }
}

/// The first known of several sources; the reason of the first when none is.
pub fn first_known<T>(sources: impl IntoIterator<Item = Fact<T>>) -> Fact<T> {
    let mut first = None;
    for source in sources {
        if source.known().is_some() {
            return source;
        }
        first.get_or_insert(source);
    }
    first.unwrap_or_default()
}

fn named(path: &str, text: &str) -> Fact<String> {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.trim() {
        "" => Fact::unknown(format!("{path} is empty")),
        text => Fact::Known(text.to_owned()),
    }
}

fn is_placeholder(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    let mut significant = text.chars().filter(|c| !matches!(c, '-' | ':' | ' ' | '.' | '_'));
    let monotone = match significant.next() {
        Some(first @ ('0' | 'f' | 'x')) => significant.all(|c| c == first),
        Some(_) => false,
        None => true,
    };
    monotone || PLACEHOLDERS.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_of_vendors_are_told_from_real_values() {
        for text in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF",
            "Default string",
            "...",
            "To Be Filled By O.E.M.",
            "xxxx",
            "0",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["4c4c4544-0042-3510-8052-b4c04f4d3132", "F00D", "7XK2Q93", "PF0A1B2C", "0000001"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}

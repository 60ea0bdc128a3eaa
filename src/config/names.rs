//! The name template, names of devices, and paths: validated types, so that no
//! later step has to ask again. Checks form only; whether the thing exists is a
//! fact of the host.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use super::reader::Reason;
use super::suggest;
use crate::role::words::{NodeName, SiteName, WordError};

/// The longest name of a device-mapper device or volume group in bytes: the
/// kernel's DM_NAME_LEN of 128 counts the closing NUL.
const DEVICE_NAME_LIMIT: usize = 127;

/// The longest path in bytes (PATH_MAX counts the closing NUL).
const PATH_LIMIT: usize = 4095;

/// The name of a thin pool or volume group: letters, digits, `+`, `_`, `.` and
/// `-`, not starting with `-`; safe as a path component and as an argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DeviceName(String);

impl DeviceName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
        let known = !text.is_empty() && text.bytes().all(plain);
        if !known || text.starts_with('-') || text == "." || text == ".." {
            return Err("it is not made of letters, digits, `+`, `_`, `.` and `-`, or starts with `-`".into());
        }
        limit(text, DEVICE_NAME_LIMIT)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A word of an assignment that the configuration knows too.
pub(super) fn word<T: FromStr<Err = WordError>>(text: &str) -> Result<T, Reason> {
    text.parse().map_err(|error: WordError| format!("the rule is {}", error.rule).into())
}

/// How the node name is made: lower-case letters, digits and `-` with the place
/// holders `{ip-dashed}` and `{site}`. `{ip-dashed}` is always there, because
/// without it two hosts of a room would propose one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    IpDashed,
    Site,
}

impl NameTemplate {
    /// The node name for a host: 172.16.36.1 gives `172-16-36-1` for
    /// `{ip-dashed}`; an IPv6 address gives its eight groups, none left out.
    ///
    /// # Errors
    /// [`NameError`] when the template names the site and there is none, or when
    /// the result is no node name.
    pub fn render(&self, ip: IpAddr, site: Option<&SiteName>) -> Result<NodeName, NameError> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => name.push_str(text),
                Part::IpDashed => name.push_str(&dashed(ip)),
                Part::Site => name.push_str(site.ok_or(NameError::NoSite)?.as_str()),
            }
        }
        Ok(name.parse()?)
    }

    /// Whether the template holds `{site}`.
    #[must_use]
    pub fn names_site(&self) -> bool {
        self.0.contains(&Part::Site)
    }

    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, behind)) = rest.split_once('{') {
            let (word, behind) = behind.split_once('}').ok_or("a `{` is not closed")?;
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(place_holder(word)?);
            rest = behind;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| *part != Part::Literal(String::new()));
        if !parts.contains(&Part::IpDashed) {
            return Err("it lacks {ip-dashed}, so two hosts of a room would have one name".into());
        }
        let template = Self(parts);
        match template.render([u8::MAX; 4].into(), Some(&shortest_site()?)) {
            Ok(_) => Ok(template),
            Err(error) => Err(error.to_string().into()),
        }
    }
}

/// A site of one letter: a template that fails with it fails with every site.
fn shortest_site() -> Result<SiteName, Reason> {
    word("s")
}

impl Default for NameTemplate {
    fn default() -> Self {
        Self(vec![Part::IpDashed])
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => out.write_str(text),
            Part::IpDashed => out.write_str("{ip-dashed}"),
            Part::Site => out.write_str("{site}"),
        })
    }
}

/// Why a template gives no node name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The template holds `{site}`, and no site is set.
    #[error("the name template holds {{site}} and node.site is not set")]
    NoSite,
    /// The rendered text cannot be a node name.
    #[error(transparent)]
    Word(#[from] WordError),
}

fn place_holder(word: &str) -> Result<Part, Reason> {
    match word {
        "ip-dashed" => Ok(Part::IpDashed),
        "site" => Ok(Part::Site),
        _ => Err(Reason {
            why: "the place holders are {ip-dashed} and {site}".to_owned(),
            suggestion: suggest::nearest(word, ["ip-dashed", "site"]).map(|near| format!("{{{near}}}")),
        }),
    }
}

fn dashed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.octets().map(|part| part.to_string()).join("-"),
        IpAddr::V6(ip) => ip.segments().map(|part| format!("{part:x}")).join("-"),
    }
}

/// An absolute path below which nothing has to be resolved: no `..`, no control character.
pub(super) fn path(text: &str) -> Result<PathBuf, Reason> {
    if !text.starts_with('/') {
        return Err("it does not start with `/`".into());
    }
    if text.chars().any(char::is_control) {
        return Err("it has a control character".into());
    }
    if text.split('/').any(|part| part == "..") {
        return Err("it has a `..`".into());
    }
    if text.ends_with('/') {
        return Err("it names a directory".into());
    }
    limit(text, PATH_LIMIT)?;
    Ok(PathBuf::from(text))
}

/// A block device: a path below `/dev`.
pub(super) fn device(text: &str) -> Result<PathBuf, Reason> {
    let device = path(text)?;
    if device.starts_with("/dev") { Ok(device) } else { Err("it does not lie below /dev".into()) }
}

fn limit(text: &str, bytes: usize) -> Result<(), Reason> {
    if text.len() <= bytes { Ok(()) } else { Err(format!("it is longer than {bytes} bytes").into()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// Everything that a path, an option or a line break could be made of.
    const HOSTILE: [&str; 9] = ["", ".", "..", "a/b", "../a", "a\nb", "a\0b", "-a", "a b"];

    #[test]
    fn names_refuse_hostile_text() {
        for text in HOSTILE {
            assert!(DeviceName::parse(text).is_err(), "{text:?}");
            assert!(NameTemplate::parse(&format!("{text}{{ip-dashed}}/")).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_have_limits() {
        assert!(DeviceName::parse(&"a".repeat(127)).is_ok());
        assert!(DeviceName::parse(&"a".repeat(128)).is_err());
        assert_eq!(DeviceName::parse("VG_0.a+b").unwrap().as_str(), "VG_0.a+b");
    }

    #[test]
    fn template_renders() {
        let site = "hz-017".parse().unwrap();
        for (template, ip, name) in [
            ("{ip-dashed}", "172.16.36.1", "172-16-36-1"),
            ("{site}-{ip-dashed}", "172.16.36.1", "hz-017-172-16-36-1"),
            ("n{ip-dashed}x", "10.0.0.1", "n10-0-0-1x"),
            ("{ip-dashed}", "fd00::1", "fd00-0-0-0-0-0-0-1"),
        ] {
            let parsed = NameTemplate::parse(template).unwrap();
            assert_eq!(parsed.render(ip.parse().unwrap(), Some(&site)).unwrap().as_str(), name);
            assert_eq!(parsed.to_string(), template);
        }
    }

    #[test]
    fn template_without_site_says_so() {
        let template = NameTemplate::parse("{site}-{ip-dashed}").unwrap();
        assert!(template.names_site());
        assert_eq!(template.render([10, 0, 0, 1].into(), None), Err(NameError::NoSite));
        let long = "a".repeat(63).parse().unwrap();
        let error = template.render([10, 0, 0, 1].into(), Some(&long)).unwrap_err();
        assert!(matches!(error, NameError::Word(_)), "{error}");
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        for text in ["", "a", "./a", "/a/../b", "/a/", "/", "/a\nb", "/..", "/a\0"] {
            assert!(path(text).is_err(), "{text:?}");
        }
        assert_eq!(path("/etc/a..b/c").unwrap(), PathBuf::from("/etc/a..b/c"));
        assert!(device("/dev/disk/by-id/x").is_ok());
        assert!(device("/device").is_err());
    }
}

//! systemd's D-Bus interface, under systemd's own names.
//!
//! Owns names and types only. Properties are read with `GetAll` (see `unit`), so
//! that one which an old systemd does not have is absent instead of an error.

use zbus::Variant;

use crate::sys::dbus::Object;

/// Where systemd answers on the bus; ignored peer to peer.
pub const SERVICE: &str = "org.freedesktop.systemd1";
/// The manager's object.
pub const MANAGER: &str = "/org/freedesktop/systemd1";
/// Properties that every unit has.
pub const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
/// Properties that services have.
pub const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
/// Where units lie.
const UNITS: &str = "/org/freedesktop/systemd1/unit/";

/// One link that enabling or disabling made: kind, path, target.
pub type LinkChange = (String, String, String);

/// Properties of a unit that is to be made: name and value.
pub type UnitProperties<'a> = Vec<(&'a str, Variant<'a>)>;

/// The manager.
pub(super) const THE_MANAGER: Object<'static> =
    Object { service: SERVICE, path: MANAGER, interface: "org.freedesktop.systemd1.Manager" };

/// Object path of a unit: every byte that is no ASCII letter or digit, and a
/// leading digit, becomes `_` and two hex digits.
#[must_use]
pub fn unit_path(name: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::from(UNITS);
    for (index, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && index > 0);
        if plain {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

/// Name of the unit at an object path; `None` for anything else.
#[must_use]
pub fn unit_name(path: &str) -> Option<String> {
    let mut rest = path.strip_prefix(UNITS)?.bytes();
    let mut name = Vec::new();
    while let Some(byte) = rest.next() {
        if byte != b'_' {
            name.push(byte);
            continue;
        }
        let (high, low) = (char::from(rest.next()?), char::from(rest.next()?));
        name.push(u8::try_from(high.to_digit(16)? * 16 + low.to_digit(16)?).ok()?);
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_paths_are_systemds_and_lead_back() {
        assert_eq!(unit_path("k3s-agent.service"), "/org/freedesktop/systemd1/unit/k3s_2dagent_2eservice");
        assert_eq!(unit_path("1a"), "/org/freedesktop/systemd1/unit/_31a");
        for name in ["k3s.service", "k3s-agent.service", "a_b@1.service", "0"] {
            assert_eq!(unit_name(&unit_path(name)).as_deref(), Some(name));
        }
        assert_eq!(unit_name("/org/freedesktop/systemd1/unit/a_2"), None);
        assert_eq!(unit_name("/org/freedesktop/systemd1"), None);
    }
}

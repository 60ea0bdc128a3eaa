//! Names and hardware identity.
//!
//! Owns reading hostnames, machine id and DMI. The raw machine id never leaves
//! this file.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::text;
use crate::facts::Fact;
use crate::facts::identity::{Board, Hostname, Identity};
use crate::paths::HOSTNAME;
use crate::sys::Root;

const KERNEL_HOSTNAME: &str = "/proc/sys/kernel/hostname";
const MACHINE_ID: &str = "/etc/machine-id";
const DMI: &str = "/sys/class/dmi/id";
/// This program's own id for `sd_id128_get_machine_app_specific`(3), random.
const APPLICATION: [u8; 16] =
    [0x8d, 0x1f, 0x6a, 0x02, 0x5b, 0xe7, 0x4c, 0x39, 0xa4, 0x70, 0xd3, 0x9e, 0x61, 0xc8, 0x2f, 0xb5];

/// Who the host says it is, and what its board says.
#[must_use]
pub fn observe(root: &Root) -> Identity {
    Identity {
        hostname: hostname(root),
        machine_id: machine_id(root),
        boot_id: text::kernel(root, "/proc/sys/kernel/random/boot_id"),
        board: board(root),
    }
}

/// The three hostnames.
#[must_use]
pub fn hostname(root: &Root) -> Hostname {
    let kernel = text::kernel(root, KERNEL_HOSTNAME);
    let static_name = match root.read_text(HOSTNAME) {
        Ok(content) => Fact::Known(content.as_deref().and_then(static_name)),
        Err(error) => text::because(&error),
    };
    let transient = transient(&kernel, &static_name);
    Hostname { kernel, static_name, transient }
}

/// The first line that is neither empty nor a comment (systemd: hostname(5)).
fn static_name(content: &str) -> Option<String> {
    let line = content.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some(line.to_owned())
}

fn transient(kernel: &Fact<String>, static_name: &Fact<Option<String>>) -> Fact<Option<String>> {
    let (Some(kernel), Some(fixed)) = (kernel.known(), static_name.known()) else {
        return Fact::unknown("the kernel's or the static hostname is unknown");
    };
    Fact::Known((Some(kernel) != fixed.as_ref()).then(|| kernel.clone()))
}

fn machine_id(root: &Root) -> Fact<String> {
    text::parsed(text::kernel(root, MACHINE_ID), MACHINE_ID, |id| application_id(&raw_id(id)?))
}

fn raw_id(hex: &str) -> Option<[u8; 16]> {
    // from_str_radix alone would take a sign.
    if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(hex, 16).ok().filter(|id| *id != 0).map(u128::to_be_bytes)
}

/// As `systemd-id128 machine-id --app-specific=` makes it: keyed with the
/// machine id, cut to 16 bytes, marked as a UUID of version 4.
fn application_id(raw: &[u8; 16]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(raw).ok()?;
    mac.update(&APPLICATION);
    let hash = mac.finalize().into_bytes();
    let mut id = [0_u8; 16];
    id.copy_from_slice(hash.get(..16)?);
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    Some(format!("{:032x}", u128::from_be_bytes(id)))
}

/// What the board says, by DMI.
#[must_use]
pub fn board(root: &Root) -> Board {
    if !root.exists(DMI) {
        let none = || Fact::unknown("the firmware tells no DMI data");
        return Board {
            uuid: none(),
            product_serial: none(),
            board_serial: none(),
            chassis_serial: none(),
            vendor: none(),
            product: none(),
        };
    }
    let dmi = |name: &str| text::vendor(root, &format!("{DMI}/{name}"));
    Board {
        uuid: text::parsed(dmi("product_uuid"), "product_uuid", uuid),
        product_serial: dmi("product_serial"),
        board_serial: dmi("board_serial"),
        chassis_serial: dmi("chassis_serial"),
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
    }
}

fn uuid(text: &str) -> Option<String> {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    (text.len() == 36 && digits == 32 && dashes == 4).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_machine_id_is_hashed_as_systemd_does_it() {
        // HMAC-SHA256 by another implementation, itself equal to systemd-id128 on a real machine id.
        let raw = raw_id("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(application_id(&raw).unwrap(), "09a707b004ab4056bb6464efd450231d");
    }

    #[test]
    fn what_is_no_machine_id_is_refused() {
        for id in
            ["", "uninitialized", "00000000000000000000000000000000", "+123456789abcdef0123456789abcdef"]
        {
            assert_eq!(raw_id(id), None, "{id}");
        }
    }

    #[test]
    fn a_transient_name_is_one_that_differs_from_the_file() {
        let known = |name: &str| Fact::Known(name.to_owned());
        assert_eq!(transient(&known("a"), &Fact::Known(Some("a".to_owned()))), Fact::Known(None));
        assert_eq!(transient(&known("b"), &Fact::Known(None)), Fact::Known(Some("b".to_owned())));
        assert!(transient(&Fact::default(), &Fact::Known(None)).reason().is_some());
        assert_eq!(static_name("\n# by hand\n node-1 \n"), Some("node-1".to_owned()));
    }
}

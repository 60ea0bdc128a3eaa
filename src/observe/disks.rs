//! Whole disks from sysfs.
//!
//! Owns which block devices are disks and where each driver keeps a serial
//! number. Never opens a device.

use super::text;
use crate::facts::Fact;
use crate::facts::hardware::Disk;
use crate::sys::Root;

const BLOCK: &str = "/sys/block";
/// Block devices that are no disks of this machine.
const OTHERS: [&str; 11] = ["loop", "ram", "dm-", "zram", "sr", "fd", "md", "nbd", "drbd", "rbd", "mtdblock"];
const SECTOR: u64 = 512;
/// Parts of the path of a disk that is not built in: USB, iSCSI, Fibre Channel, NVMe over a network.
const FOREIGN: [&str; 4] = ["/usb", "/session", "/rport-", "/nvme-fabrics/"];

/// Whole disks, by name.
#[must_use]
pub fn observe(root: &Root) -> Fact<Vec<Disk>> {
    if !root.exists(BLOCK) {
        return Fact::unknown(format!("there is no {BLOCK}"));
    }
    match root.list(BLOCK) {
        Ok(names) => Fact::Known(
            names.iter().filter(|name| is_disk(root, name)).map(|name| disk(root, name)).collect(),
        ),
        Err(error) => text::because(&error),
    }
}

fn is_disk(root: &Root, name: &str) -> bool {
    let target = root.read_link(&format!("{BLOCK}/{name}")).ok().flatten().unwrap_or_default();
    // The head of a multipath NVMe disk lies in devices/virtual too, but not below block.
    !OTHERS.iter().any(|prefix| name.starts_with(prefix)) && !target.contains("/virtual/block/")
}

fn disk(root: &Root, name: &str) -> Disk {
    let file = |rest: &str| format!("{BLOCK}/{name}/{rest}");
    let size = text::kernel(root, &file("size"));
    Disk {
        name: name.to_owned(),
        serial: serial(root, name),
        model: text::vendor(root, &file("device/model")),
        size_bytes: text::parsed(size, "size", |size| size.parse::<u64>().ok()?.checked_mul(SECTOR)),
        rotational: text::parsed(text::kernel(root, &file("queue/rotational")), "rotational", flag),
        removable: removable(root, name),
    }
}

/// The kernel's own flag stands for the medium alone: a disk in a USB case has
/// none, and where it hangs tells more. Paths of sysfs name the way to a disk.
fn removable(root: &Root, name: &str) -> Fact<bool> {
    let target = root.read_link(&format!("{BLOCK}/{name}")).ok().flatten().unwrap_or_default();
    if FOREIGN.iter().any(|part| target.contains(part)) {
        return Fact::Known(true);
    }
    text::parsed(text::kernel(root, &format!("{BLOCK}/{name}/removable")), "removable", flag)
}

/// NVMe and MMC tell `device/serial`, SCSI and SATA page 0x80, virtio `serial`;
/// what is left is a world-wide name.
fn serial(root: &Root, name: &str) -> Fact<String> {
    let file = |rest: &str| format!("{BLOCK}/{name}/{rest}");
    let known = text::first_known([
        text::vendor(root, &file("device/serial")),
        page_80(root, &file("device/vpd_pg80")),
        text::vendor(root, &file("serial")),
        text::vendor(root, &file("wwid")),
        text::vendor(root, &file("device/wwid")),
    ]);
    if known.known().is_some() { known } else { Fact::unknown("the disk tells no serial number and no WWN") }
}

/// Unit serial number page of SCSI: four bytes of header, then the text.
fn page_80(root: &Root, path: &str) -> Fact<String> {
    match root.read(path) {
        Ok(Some(bytes)) => page_80_text(&bytes)
            .map_or_else(|| Fact::unknown(format!("{path} has an unexpected form")), text::vendor_text),
        Ok(None) => Fact::unknown(format!("there is no {path}")),
        Err(error) => text::because(&error),
    }
}

fn page_80_text(bytes: &[u8]) -> Option<String> {
    let (header, rest) = bytes.split_at_checked(4)?;
    let length = usize::from(u16::from_be_bytes([*header.get(2)?, *header.get(3)?]));
    let text = std::str::from_utf8(rest.get(..length)?).ok()?.trim_matches(['\0', ' ']);
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_serial_page_of_scsi_is_read() {
        assert_eq!(page_80_text(b"\x00\x80\x00\x08  WD-12 \n"), Some("WD-12".to_owned()));
        for page in [
            b"".as_slice(),
            b"\x00\x80",
            b"\x00\x80\x00\x09short",
            b"\x00\x80\x00\x04    ",
            b"\x00\x80\x00\x02\xff\xfe",
        ] {
            assert_eq!(page_80_text(page), None, "{page:?}");
        }
    }

    proptest! {
        #[test]
        fn any_page_is_taken_or_left(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = page_80_text(&bytes);
        }
    }
}

//! Processors and memory; disks and mounts have their own files.
//!
//! Owns parsing `/proc/meminfo` and the list of processors. On the running
//! host `sysinfo` answers where the kernel's files do not: `MemAvailable` is
//! missing before Linux 3.14, and sysfs may not be mounted.

use super::disks;
use super::mounts::{self, Mount};
use super::{FIXTURES, text};
use crate::facts::Fact;
use crate::facts::hardware::{Hardware, Memory};
use crate::sys::{Root, machine};

/// The parts of the machine.
#[must_use]
pub fn observe(root: &Root, mounts: &Fact<Vec<Mount>>) -> Hardware {
    Hardware {
        cpus: cpus(root),
        arch: arch(root),
        memory: memory(root),
        disks: disks::observe(root),
        filesystems: mounts::filesystems(root, mounts),
    }
}

fn cpus(root: &Root) -> Fact<u32> {
    let online = text::kernel(root, "/sys/devices/system/cpu/online");
    let own = text::parsed(online, "the list of processors", count_of_list);
    or_ask(root, own, machine::cpus)
}

fn arch(root: &Root) -> Fact<String> {
    if root.is_host() {
        return Fact::Known(artifact_arch(machine::arch()));
    }
    text::first_known([
        text::kernel(root, &format!("{FIXTURES}/arch")),
        text::kernel(root, "/proc/sys/kernel/arch"),
    ])
    .map(|arch| artifact_arch(&arch))
}

/// k3s's name of an architecture (k3s: install.sh).
fn artifact_arch(arch: &str) -> String {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

fn memory(root: &Root) -> Fact<Memory> {
    let own = text::parsed(text::table(root, "/proc/meminfo"), "/proc/meminfo", meminfo);
    or_ask(root, own, || {
        machine::memory().map(|totals| Memory {
            total_bytes: totals.total,
            available_bytes: totals.available,
            swap_total_bytes: totals.swap,
        })
    })
}

fn or_ask<T>(root: &Root, own: Fact<T>, ask: impl FnOnce() -> Option<T>) -> Fact<T> {
    if own.known().is_some() || !root.is_host() {
        return own;
    }
    ask().map_or(own, Fact::Known)
}

fn meminfo(table: &str) -> Option<Memory> {
    let bytes = |key: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory {
        total_bytes: bytes("MemTotal")?,
        available_bytes: bytes("MemAvailable")?,
        swap_total_bytes: bytes("SwapTotal").unwrap_or(0),
    })
}

/// How many numbers a list like `0-3,8` holds.
fn count_of_list(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(count_of_list("0-3,8,10-11"), Some(7));
        assert_eq!(count_of_list("0"), Some(1));
        for list in ["", "3-0", "0-4294967295", "a", "-"] {
            assert_eq!(count_of_list(list), None, "{list}");
        }
    }

    #[test]
    fn memory_is_in_bytes_and_swap_may_be_missing() {
        let memory = meminfo("MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n");
        let expected = Memory { total_bytes: 2 << 20, available_bytes: 1 << 20, swap_total_bytes: 0 };
        assert_eq!(memory, Some(expected));
        assert_eq!(meminfo("MemTotal: 2048 kB\n"), None, "before Linux 3.14");
        assert_eq!(meminfo("MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_left(text in "\\PC{0,200}") {
            let _ = (count_of_list(&text), meminfo(&text));
        }
    }
}

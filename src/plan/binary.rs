//! k3s's binary in the store: what is recorded of it, and what a look means.
//!
//! Owns the text of the record beside each binary, the comparison of a file with
//! it, and what a program must say about itself before it is put in force. Reads
//! and runs nothing.

use std::fmt;

use super::refusal::Refusal;
use crate::paths;
use crate::role::version::K3sVersion;

/// A file as the kernel tells it: enough to see that it is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Change time, seconds since 1970.
    pub ctime: i64,
}

/// What is recorded beside a binary of the store, as `k3s.sha256`: its digest in
/// the first line, and in the second how the file looked when it was hashed
/// last and in which boot that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// SHA-256, 64 lower-case hex digits.
    pub sha256: String,
    /// The file when it had that digest; a record of an earlier version of this
    /// program has none.
    pub seen: Option<Seen>,
    /// Boot in which it was hashed; empty where that is not known.
    pub boot_id: String,
}

impl Record {
    /// Reads the text of a record; `None` when it names no digest.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let digest = words.next()?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sha256 = is_digest.then(|| digest.to_ascii_lowercase())?;
        let (seen, boot_id) = (seen(&mut words), words.next().unwrap_or_default().to_owned());
        Some(Self { sha256, seen, boot_id })
    }
}

fn seen<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Seen> {
    let mut number = || words.next()?.parse::<i64>().ok();
    let (dev, inode, size) = (number()?, number()?, number()?);
    let [dev, inode, size] = [dev, inode, size].map(i64::cast_unsigned);
    Some(Seen { dev, inode, size, mtime: number()?, ctime: number()? })
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.sha256)?;
        let Some(Seen { dev, inode, size, mtime, ctime }) = self.seen else { return Ok(()) };
        let [dev, inode, size] = [dev, inode, size].map(u64::cast_signed);
        writeln!(out, "{dev} {inode} {size} {mtime} {ctime} {}", self.boot_id)
    }
}

/// What a look at a binary says beside its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nobody touched it since it was hashed.
    Same,
    /// Something about it is different: only its digest tells whether it is whole.
    Other,
    /// It is gone, or shorter than it was: it cannot be whole.
    Short {
        /// Bytes that are there; `None` when there is no file.
        size: Option<u64>,
    },
}

/// Compares a binary with its record; `found` is `None` when there is no file.
#[must_use]
pub fn look(record: &Record, found: Option<Seen>) -> Look {
    let Some(found) = found else { return Look::Short { size: None } };
    match record.seen {
        _ if found.size == 0 => Look::Short { size: Some(0) },
        Some(seen) if found.size < seen.size => Look::Short { size: Some(found.size) },
        // Device numbers may be others after each boot (device-mapper, btrfs).
        Some(seen) if found == (Seen { dev: found.dev, ..seen }) => Look::Same,
        _ => Look::Other,
    }
}

/// A binary that cannot be whole, for people.
#[must_use]
pub fn damaged(path: &str, record: &Record, size: Option<u64>) -> Refusal {
    let recorded = record.seen.map_or_else(String::new, |seen| format!(" of {} bytes", seen.size));
    let reason = match size {
        None => format!("{path} is gone"),
        Some(0) => format!("{path} is empty"),
        Some(size) => format!("{path} has only {size}{recorded}"),
    };
    Refusal::new("EB-k3s-damaged", reason, restored())
}

/// A binary whose digest is another one, for people.
#[must_use]
pub fn changed(path: &str) -> Refusal {
    let reason = format!("{path} is no longer the file that was verified: its SHA-256 differs");
    Refusal::new("EB-k3s-damaged", reason, restored())
}

/// A binary that systemd may not start where SELinux enforces, for people; `label` is
/// what `stat -c %C` prints. k3s's own policy knows `/usr/local/bin/k3s` as a file
/// (k3s-selinux: policy/centos9/k3s.fc), and ours is a link into the store.
#[must_use]
pub fn mislabelled(path: &str, label: &str) -> Option<Refusal> {
    let kind = label.split(':').nth(2)?;
    let may_start = matches!(kind, "bin_t" | "usr_t") || kind.ends_with("_exec_t");
    (!may_start).then(|| {
        let store = paths::K3S_STORE;
        Refusal::new(
            "EB-k3s-label",
            format!("SELinux enforces, and {path} is {kind}: systemd may not start it (203/EXEC)"),
            format!("`semanage fcontext -a -t bin_t '{store}(/.*)?'` and `restorecon -R {store}`; later versions get the label of their directory"),
        )
    })
}

fn restored() -> String {
    format!(
        "edge-bootstrap fetches it again by itself; without a network, put the file into {}",
        paths::IMPORT
    )
}

/// Why a program is not the wanted k3s, by what it printed as its version.
///
/// # Errors
/// With the words for that.
pub fn is_version(printed: &str, wanted: &str) -> Result<(), String> {
    match printed_version(printed) {
        Some(version) if version == wanted => Ok(()),
        Some(version) => Err(format!("it says that it is {version}, wanted {wanted}")),
        None => {
            let line: String = printed.lines().next().unwrap_or_default().chars().take(80).collect();
            Err(format!("it is no k3s: as its version it prints `{line}`"))
        }
    }
}

/// The version in `k3s version v1.36.2+k3s1 (0123abcd)` and a line about Go
/// (k3s: pkg/cli/cmds/root.go). The first word is the name of the file that was run:
/// `k3s.new` before it is put in its place.
#[must_use]
pub fn printed_version(printed: &str) -> Option<String> {
    let (name, rest) = printed.split_once(" version ").filter(|(name, _)| name.starts_with("k3s"))?;
    let version = rest.split_whitespace().next().filter(|_| !name.contains(char::is_whitespace))?;
    version.parse::<K3sVersion>().ok().map(String::from)
}

/// Why a program that begins with `begin` cannot run on a host of architecture
/// `arch` (`amd64`, `arm64`). What is no ELF file of a known machine is left to
/// the kernel.
///
/// # Errors
/// With the words for that.
pub fn is_built_for(begin: &[u8], arch: &str) -> Result<(), String> {
    // ELF header: magic, then e_machine in two bytes at 18, little-endian here.
    let machine = begin.strip_prefix(b"\x7fELF").and_then(|_| begin.get(18..20));
    let built = match machine {
        Some([0x3e, 0]) => "amd64",
        Some([0xb7, 0]) => "arm64",
        Some([0x28, 0]) => "arm",
        Some([0xf3, 0]) => "riscv64",
        _ => return Ok(()),
    };
    if built == arch { Ok(()) } else { Err(format!("it is built for {built}, and this host is {arch}")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const SEEN: Seen = Seen { dev: 66305, inode: 7, size: 100, mtime: -3, ctime: 1_800_000_000 };

    fn record() -> Record {
        Record { sha256: "ab".repeat(32), seen: Some(SEEN), boot_id: "b-1".into() }
    }

    #[test]
    fn a_record_reads_back_and_an_old_one_has_a_digest_only() {
        let largest = Seen { dev: u64::MAX, inode: u64::MAX, ..SEEN };
        for record in [record(), Record { seen: Some(largest), ..record() }] {
            assert_eq!(Record::parse(&record.to_string()).unwrap(), record);
        }
        let old = Record::parse(&format!("{}\n", "AB".repeat(32))).unwrap();
        assert_eq!(old, Record { seen: None, boot_id: String::new(), ..record() });
        assert_eq!(Record::parse(&old.to_string()).unwrap(), old);
        for text in ["", "\n", "abc\n", &"zz".repeat(32)] {
            assert_eq!(Record::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_is_shorter_cannot_be_whole() {
        let at = |found| look(&record(), found);
        assert_eq!(at(Some(SEEN)), Look::Same);
        assert_eq!(at(Some(Seen { dev: 1, ..SEEN })), Look::Same, "the number of its disk in another boot");
        assert_eq!(at(None), Look::Short { size: None });
        assert_eq!(at(Some(Seen { size: 0, ..SEEN })), Look::Short { size: Some(0) });
        assert_eq!(at(Some(Seen { size: 99, ..SEEN })), Look::Short { size: Some(99) });
        for other in [
            Seen { size: 101, ..SEEN },
            Seen { inode: 1, ..SEEN },
            Seen { mtime: 1, ..SEEN },
            Seen { ctime: 1, ..SEEN },
        ] {
            assert_eq!(at(Some(other)), Look::Other, "{other:?}");
        }
        let old = Record { seen: None, ..record() };
        assert_eq!(look(&old, Some(SEEN)), Look::Other);
        assert_eq!(look(&old, Some(Seen { size: 0, ..SEEN })), Look::Short { size: Some(0) });
    }

    #[test]
    fn a_program_of_another_version_or_none_is_told() {
        let says = |printed| is_version(printed, "v1.31.4+k3s1");
        assert_eq!(says("k3s version v1.31.4+k3s1 (a562d090)\ngo version go1.22.9"), Ok(()));
        assert_eq!(says("k3s.new version v1.31.4+k3s1 (a562d090)\ngo version go1.22.9"), Ok(()));
        let other = says("k3s version v1.31.4+k3s2 (a562d090)\n").unwrap_err();
        assert_eq!(other, "it says that it is v1.31.4+k3s2, wanted v1.31.4+k3s1");
        assert_eq!(says("bash 5\n").unwrap_err(), "it is no k3s: as its version it prints `bash 5`");
        assert_eq!(printed_version("k3s version dev (HEAD)"), None);
    }

    #[test]
    fn a_label_with_which_systemd_may_not_start_it_is_told() {
        let told = |kind: &str| mislabelled("/k3s", &format!("system_u:object_r:{kind}:s0")).is_some();
        assert!(told("var_lib_t") && told("default_t") && told("user_home_t"));
        assert!(!told("bin_t") && !told("container_runtime_exec_t") && !told("usr_t"));
        assert_eq!(mislabelled("/k3s", "?"), None, "a file system without labels");
    }

    #[test]
    fn a_program_for_another_machine_is_told() {
        let elf = |machine: u8| {
            let mut begin = vec![0; 64];
            begin[..4].copy_from_slice(b"\x7fELF");
            begin[18] = machine;
            begin
        };
        assert_eq!(is_built_for(&elf(0x3e), "amd64"), Ok(()));
        assert_eq!(is_built_for(&elf(0xb7), "arm64"), Ok(()));
        assert_eq!(
            is_built_for(&elf(0xb7), "amd64").unwrap_err(),
            "it is built for arm64, and this host is amd64"
        );
        for other in [&elf(0x77)[..], b"#!/bin/sh\n", b"\x7fELF", b""] {
            assert_eq!(is_built_for(other, "amd64"), Ok(()));
        }
    }
}

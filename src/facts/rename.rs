//! A name that others gave this host, and what is known about who did.
//!
//! Owns the shapes: what a pass saw when it put the name back, and the traces
//! that writers of a name leave. No judgement: that is `plan::suspects`.

use serde::{Deserialize, Serialize};

use super::Fact;

/// The host had another name than its own, and was given its own back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// When it was put back first, seconds since 1970.
    pub at: u64,
    /// When it was put back last; a program that does not give in is one entry.
    pub last: u64,
    /// How often.
    pub times: u32,
    /// Boot in which it was put back.
    pub boot_id: String,
    /// When that boot began, seconds since 1970 by the clock at that time.
    pub boot_began: u64,
    /// The kernel's name before; absent when that was right.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The name in `/etc/hostname` before; absent when that was right.
    #[serde(default)]
    pub file: Option<String>,
    /// Whether `/etc/hostname` was not as it should be, a missing one included.
    #[serde(default)]
    pub file_differed: bool,
    /// Change time of `/etc/hostname` before it was put back, when that had
    /// another name: no program can set it.
    #[serde(default)]
    pub file_changed: Option<u64>,
    /// Its modification time.
    #[serde(default)]
    pub file_modified: Option<u64>,
    /// The name that it has again.
    pub to: String,
    /// Whether hostnamed put it back; otherwise we did ourselves.
    pub by_hostnamed: bool,
    /// Who gave the other name; absent until somebody looked.
    #[serde(default)]
    pub who: Option<Who>,
}

impl Rename {
    /// The names that were not right, the kernel's first.
    pub fn found(&self) -> impl Iterator<Item = &str> {
        let file = self.file.as_deref().filter(|file| self.kernel.as_deref() != Some(*file));
        self.kernel.as_deref().into_iter().chain(file)
    }

    /// Whether the name was changed on disk before the boot in which it was put
    /// back. Both times are whole seconds: what happened in the first two of a
    /// boot counts as before it.
    #[must_use]
    pub fn is_of_an_earlier_boot(&self) -> bool {
        self.file_changed.is_some_and(|changed| changed < self.boot_began.saturating_add(2))
    }

    /// Whether `other` is the same program at it again.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.kernel, &self.file, &self.to, &self.boot_id)
            == (&other.kernel, &other.file, &other.to, &other.boot_id)
    }
}

/// Who gave the host another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The program or person.
    pub writer: Writer,
    /// What that is known from, for people; says what is not known too.
    pub how: String,
}

/// Programs and people that give names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writer {
    /// A person with sudo, by login.
    Person(String),
    /// NetworkManager.
    NetworkManager,
    /// cloud-init.
    CloudInit,
    /// systemd-networkd, from a DHCP lease.
    Networkd,
    /// dhclient's script, from a DHCP lease.
    Dhclient,
    /// hostnamed, for a caller that it does not name.
    Hostnamed,
    /// Somebody who left no trace.
    Unknown,
}

impl std::fmt::Display for Writer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Person(login) => write!(out, "{login} with sudo"),
            Self::NetworkManager => out.write_str("NetworkManager"),
            Self::CloudInit => out.write_str("cloud-init"),
            Self::Networkd => out.write_str("systemd-networkd (DHCP)"),
            Self::Dhclient => out.write_str("dhclient (DHCP)"),
            Self::Hostnamed => out.write_str("a caller of hostnamed that is not known"),
            Self::Unknown => out.write_str("nobody who left a trace"),
        }
    }
}

/// What writers of names leave behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Lines of the journal.
    pub journal: Fact<Vec<Entry>>,
    /// DHCP leases on disk.
    pub leases: Vec<Lease>,
    /// cloud-init's own log, whole lines; it begins each with its time in UTC.
    pub cloud_init_log: Fact<String>,
}

/// One line of the journal. The source is one that journald itself vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Seconds since 1970.
    pub at: u64,
    /// Unit of the sender, for example `NetworkManager.service`.
    pub unit: String,
    /// Program of the sender, for example `/usr/bin/sudo`.
    pub program: String,
    /// The text.
    pub message: String,
}

/// A DHCP lease with a name for the host (option 12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The file.
    pub path: String,
    /// Whose it is.
    pub client: Writer,
    /// The names in it.
    pub names: Vec<String>,
}

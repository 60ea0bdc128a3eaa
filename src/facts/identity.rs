//! Names and hardware identity of a host.

use serde::{Deserialize, Serialize};

use super::Fact;

/// Who the host says it is, and what its board says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The three hostnames.
    pub hostname: Hostname,
    /// HMAC-SHA256 of the machine id with this program's own key, 32 hex
    /// digits; the raw machine id is confidential (systemd: machine-id(5)).
    pub machine_id: Fact<String>,
    /// The kernel's boot id, new at each boot.
    pub boot_id: Fact<String>,
    /// Mainboard and chassis as DMI tells them.
    pub board: Board,
}

/// The three hostnames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostname {
    /// What the kernel says now.
    pub kernel: Fact<String>,
    /// `/etc/hostname`; absent when there is no such file.
    #[serde(rename = "static")]
    pub static_name: Fact<Option<String>>,
    /// What a network service set, when it differs from the static one.
    pub transient: Fact<Option<String>>,
}

/// DMI identity. Placeholder values of vendors are `unknown`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    /// `product_uuid`, lower case.
    pub uuid: Fact<String>,
    /// `product_serial`.
    pub product_serial: Fact<String>,
    /// `board_serial`.
    pub board_serial: Fact<String>,
    /// `chassis_serial`.
    pub chassis_serial: Fact<String>,
    /// `sys_vendor`.
    pub vendor: Fact<String>,
    /// `product_name`.
    pub product: Fact<String>,
}

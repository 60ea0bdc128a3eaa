//! What timedated says about the clock.
//!
//! Owns two properties of `org.freedesktop.timedate1`, asked with a limit of
//! 2 s. The kernel's own word (`adjtimex`) is denied in our sandbox, with all
//! that could set the clock; timedated has it.

use std::time::Duration;

use tokio::time::timeout;

use super::dbus::{self, Object};
use super::systemd::Systemd;

/// Limit of the whole question; timedated may have to be started first.
const LIMIT: Duration = Duration::from_secs(2);

/// timedated on the bus.
const TIMEDATE: Object<'static> = Object {
    service: "org.freedesktop.timedate1",
    path: "/org/freedesktop/timedate1",
    interface: "org.freedesktop.timedate1",
};

/// What is known of the clock's keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// The kernel says that the clock is synchronised.
    pub synchronized: bool,
    /// A time service is on.
    pub ntp: bool,
}

/// Asks timedated.
///
/// # Errors
/// In plain words why there is no answer: no bus, no timedated, too late.
pub async fn keeping(systemd: &Systemd) -> Result<Keeping, String> {
    let Some(bus) = systemd.bus().await else { return Err("the bus cannot be reached".to_owned()) };
    let ask = async {
        let synchronized = dbus::value(&TIMEDATE.get(&bus, "NTPSynchronized").await?)?;
        Ok(Keeping { synchronized, ntp: dbus::value(&TIMEDATE.get(&bus, "NTP").await?)? })
    };
    match timeout(LIMIT, ask).await {
        Ok(answer) => answer.map_err(|error: zbus::Error| format!("timedated: {error}")),
        Err(_) => Err(format!("timedated did not answer within {} s", LIMIT.as_secs())),
    }
}

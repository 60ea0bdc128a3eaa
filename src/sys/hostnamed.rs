//! The host's own name: kernel and `/etc/hostname`.
//!
//! Owns the change through hostnamed, so that everybody hears of it, and the
//! way without hostnamed. What hostnamed writes does not survive a power cut,
//! so file and directory are synced here whoever wrote them. Nothing is called
//! when the name is right already. Below a foreign root the kernel's name is
//! the file `/proc/sys/kernel/hostname` there.

use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use zbus::{Connection, Message};

use super::atomic;
use super::dbus::Object;
use super::host;
use super::root::{FileError, Root};
use super::systemd::Systemd;

/// The static name.
const FILE: &str = "/etc/hostname";
/// The kernel's name as a file.
const KERNEL: &str = "/proc/sys/kernel/hostname";
/// Limit of one call; hostnamed may have to be started first.
const CALL: Duration = Duration::from_secs(5);

/// hostnamed on the bus.
const HOSTNAMED: Object<'static> = Object {
    service: "org.freedesktop.hostname1",
    path: "/org/freedesktop/hostname1",
    interface: "org.freedesktop.hostname1",
};

/// A name that could not be set.
#[derive(Debug, Error)]
pub enum HostnameError {
    /// The file could not be read, written or synced.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel did not take the name.
    #[error("set the kernel's hostname to {name}")]
    Kernel {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Everything was called and answered, and the name is still another.
    #[error(
        "the hostname is still {found} instead of {name}; something else sets it (cloud-init, NetworkManager, a script)"
    )]
    StillOther {
        /// The name that was wanted.
        name: String,
        /// What is there.
        found: String,
    },
}

/// The names as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The kernel's; `None` when nobody tells.
    pub kernel: Option<String>,
    /// The first line of `/etc/hostname` that is no comment; `None` when there is none.
    pub fixed: Option<String>,
}

impl Names {
    /// Reads both.
    ///
    /// # Errors
    /// When `/etc/hostname` is there and cannot be read.
    pub fn read(root: &Root) -> Result<Self, FileError> {
        let text = root.read_text(FILE)?.unwrap_or_default();
        let fixed = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(Self { kernel: kernel_name(root), fixed: fixed.map(str::to_owned) })
    }

    /// Whether the kernel's name is this; one that nobody tells counts as right.
    #[must_use]
    pub fn kernel_is(&self, name: &str) -> bool {
        self.kernel.as_deref().is_none_or(|kernel| kernel == name)
    }

    /// Whether the static name is this.
    #[must_use]
    pub fn fixed_is(&self, name: &str) -> bool {
        self.fixed.as_deref() == Some(name)
    }

    /// Whether both are this.
    #[must_use]
    pub fn are(&self, name: &str) -> bool {
        self.kernel_is(name) && self.fixed_is(name)
    }
}

/// What making the name right took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renamed {
    /// It was right.
    Unchanged,
    /// It was another.
    Changed {
        /// The names before.
        before: Names,
        /// Whether hostnamed did it all.
        by_hostnamed: bool,
    },
}

/// Makes kernel and static name `name`, durably.
///
/// `synced` says that the file is known to be durable already, so that a right
/// name costs nothing at all.
///
/// # Errors
/// When neither hostnamed nor we ourselves could set it, or it did not stay.
pub async fn ensure(
    root: &Root,
    systemd: &Systemd,
    name: &str,
    synced: bool,
) -> Result<Renamed, HostnameError> {
    let before = Names::read(root)?;
    let right = before.are(name);
    if right && synced {
        return Ok(Renamed::Unchanged);
    }
    let by_hostnamed = if right { true } else { rename(root, systemd, &before, name).await? };
    root.sync_file(FILE)?;
    root.sync_dir("/etc")?;
    let after = Names::read(root)?;
    if !after.are(name) {
        let found = if after.fixed_is(name) { after.kernel } else { after.fixed };
        return Err(HostnameError::StillOther { name: name.to_owned(), found: found.unwrap_or_default() });
    }
    Ok(if right { Renamed::Unchanged } else { Renamed::Changed { before, by_hostnamed } })
}

/// Sets what is wrong; whether hostnamed did it all.
async fn rename(root: &Root, systemd: &Systemd, before: &Names, name: &str) -> Result<bool, HostnameError> {
    if let Some(bus) = systemd.bus().await {
        // Whatever it answers, the names themselves are looked at next.
        let _ = timeout(2 * CALL, through_hostnamed(&bus, before, name)).await;
    }
    let mut by_hostnamed = true;
    let now = Names::read(root)?;
    if !now.fixed_is(name) {
        atomic::write(root, FILE, format!("{name}\n").as_bytes(), 0o644)?;
        by_hostnamed = false;
    }
    if !now.kernel_is(name) {
        set_kernel_name(root, name)?;
        by_hostnamed = false;
    }
    Ok(by_hostnamed)
}

async fn through_hostnamed(bus: &Connection, before: &Names, name: &str) -> zbus::Result<()> {
    // Nobody is asked for a password.
    let to = (name, false);
    if !before.fixed_is(name) {
        in_time(HOSTNAMED.call(bus, "SetStaticHostname", &to)).await?;
    }
    if !before.kernel_is(name) {
        in_time(HOSTNAMED.call(bus, "SetHostname", &to)).await?;
    }
    Ok(())
}

async fn in_time(call: impl Future<Output = zbus::Result<Message>>) -> zbus::Result<()> {
    let late = |_| zbus::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(CALL, call).await.map_err(late)?.map(drop)
}

fn kernel_name(root: &Root) -> Option<String> {
    if root.is_host() {
        return host::hostname().ok();
    }
    root.read_kernel(KERNEL).ok()
}

fn set_kernel_name(root: &Root, name: &str) -> Result<(), HostnameError> {
    if root.is_host() {
        return host::set_hostname(name)
            .map_err(|source| HostnameError::Kernel { name: name.to_owned(), source });
    }
    atomic::write_volatile(root, KERNEL, format!("{name}\n").as_bytes(), 0o644)?;
    Ok(())
}

#[expect(unsafe_code, reason = "tokio asks for the promise that the descriptor stays the same and open")]
pub(super) fn register(file: std::fs::File, interest: Interest) -> Option<AsyncFd<std::fs::File>> {
    // SAFETY: a `File` owns its descriptor, gives always the same one and closes it only when dropped.
    unsafe { AsyncFd::register_with_interest(file, interest).ok() }
}

/// Tells when the kernel's name has changed, also by programs that know no D-Bus.
#[derive(Debug)]
pub struct NameWatch {
    file: Option<AsyncFd<std::fs::File>>,
    last: Option<String>,
}

impl NameWatch {
    /// Watches the host's own name; below a foreign root it never tells anything.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        let file = root.is_host().then(|| std::fs::File::open(KERNEL).ok()).flatten();
        Self { file: file.and_then(|file| register(file, Interest::PRIORITY)), last: host::hostname().ok() }
    }

    /// The name is another one than before. May be dropped at any time.
    ///
    /// The kernel wakes everybody whenever any container's name is set, so the
    /// name itself is compared.
    pub async fn changed(&mut self) {
        let Some(file) = &self.file else { return std::future::pending().await };
        loop {
            match file.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            }
            let now = host::hostname().ok();
            if now != self.last {
                self.last = now;
                return;
            }
        }
    }
}

//! systemd over D-Bus.
//!
//! Owns calls with a limit of 5 s each, the choice between the bus and
//! systemd's own socket, jobs, and the state of units. Knows no unit by name
//! and never runs `systemctl`. A connection that broke or hung is replaced at
//! the next call; the process never ends because of it.

mod connect;
mod error;
mod jobs;
mod private;
mod proxy;
mod transient;
mod unit;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use zbus::Connection;
use zbus::names::InterfaceName;

pub use connect::Way;
pub use error::{Cause, SystemdError};
pub use jobs::{Job, JobEnd, Verb};
pub use proxy::LinkChange;
pub use transient::{Ran, Transient};
pub use unit::UnitState;
pub use watch::{Event, Watch};

use super::root::Root;
use connect::{Link, Ways};
use proxy::ManagerProxy;
use unit::Properties;

/// Limit of one call.
pub const CALL: Duration = Duration::from_secs(5);
/// Limit of `Reload`: it answers when all generators have run, which takes
/// seconds on a slow disk. Half of what the pre-start part has.
pub const RELOAD: Duration = Duration::from_secs(10);
/// How long a bus that hung or is away is left alone.
const AVOID_BUS: Duration = Duration::from_secs(60);

/// systemd as seen from below one root. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Systemd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ways: Ways,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    link: Option<Arc<Link>>,
    avoid_bus_until: Option<Instant>,
    /// The bus is not started for our sake.
    is_hurried: bool,
}

impl Slot {
    fn avoids_bus(&self) -> bool {
        self.is_hurried || self.avoid_bus_until.is_some_and(|until| Instant::now() < until)
    }
}

impl Systemd {
    /// Uses `/run/dbus/system_bus_socket` and `/run/systemd/private` below
    /// `root`. Connects at the first call.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        Self(Arc::new(Inner { ways: Ways::below(root), slot: Mutex::default() }))
    }

    /// From here on systemd's own socket is preferred, until [`Self::take_time`]:
    /// in the middle of a boot the bus itself has yet to start.
    pub async fn hurry(&self) {
        self.0.slot.lock().await.is_hurried = true;
    }

    /// From here on the bus is preferred again.
    pub async fn take_time(&self) {
        self.0.slot.lock().await.is_hurried = false;
    }

    /// Which way calls take now.
    ///
    /// # Errors
    /// When there is none.
    pub async fn way(&self) -> Result<Way, SystemdError> {
        Ok(self.link().await?.way)
    }

    /// Major version of systemd, for example 252.
    ///
    /// # Errors
    /// When systemd is not reached, or tells no number.
    pub async fn version(&self) -> Result<u32, SystemdError> {
        let text = self.manager("Version", "", Retry::Yes, |it| async move { it.version().await }).await?;
        let digits: String =
            text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| SystemdError::from_answer("Version", &text, zbus::Error::InvalidReply))
    }

    /// Whether the whole system is being stopped.
    ///
    /// # Errors
    /// When systemd is not reached.
    pub async fn is_stopping(&self) -> Result<bool, SystemdError> {
        let ask = |it: ManagerProxy<'static>| async move { it.system_state().await };
        Ok(self.manager("SystemState", "", Retry::Yes, ask).await? == "stopping")
    }

    /// State of one unit. A unit without any file has `load` `not-found`.
    ///
    /// # Errors
    /// When systemd is not reached or does not know such a name.
    pub async fn unit(&self, name: &str) -> Result<UnitState, SystemdError> {
        let path =
            self.manager("LoadUnit", name, Retry::Yes, |it| async move { it.load_unit(name).await }).await?;
        let unit = self.properties(name, path.as_str(), proxy::UNIT_INTERFACE).await?;
        let service = match self.properties(name, path.as_str(), proxy::SERVICE_INTERFACE).await {
            Err(SystemdError::Refused { .. }) => Properties::new(),
            other => other?,
        };
        let mut state = UnitState::from_properties(name, &unit, &service);
        // The property is a cache of the last load; links may have changed since.
        match self
            .manager(
                "GetUnitFileState",
                name,
                Retry::Yes,
                |it| async move { it.get_unit_file_state(name).await },
            )
            .await
        {
            Ok(now) => state.file_state = now,
            Err(SystemdError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(state)
    }

    /// Reads all unit files again.
    ///
    /// # Errors
    /// When systemd is not reached or not done within [`RELOAD`].
    pub async fn reload(&self) -> Result<(), SystemdError> {
        let call = |bus| async move { connect::manager(&bus).await?.reload().await };
        let ask = Ask { method: "Reload", object: "", limit: RELOAD, retry: Retry::No };
        self.call(ask, call).await
    }

    /// Makes a unit's boot links. The links, also those that were there, are
    /// not durable until their directories are synced.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn enable(&self, name: &str) -> Result<Vec<LinkChange>, SystemdError> {
        let files = [name];
        let call =
            |it: ManagerProxy<'static>| async move { it.enable_unit_files(&files, false, false).await };
        Ok(self.manager("EnableUnitFiles", name, Retry::Yes, call).await?.1)
    }

    /// Removes a unit's boot links.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn disable(&self, name: &str) -> Result<Vec<LinkChange>, SystemdError> {
        let files = [name];
        let call = |it: ManagerProxy<'static>| async move { it.disable_unit_files(&files, false).await };
        self.manager("DisableUnitFiles", name, Retry::Yes, call).await
    }

    /// Forgets a unit's failure, so that systemd allows starts again.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn reset_failed(&self, name: &str) -> Result<(), SystemdError> {
        self.manager(
            "ResetFailedUnit",
            name,
            Retry::Yes,
            |it| async move { it.reset_failed_unit(name).await },
        )
        .await
    }

    async fn properties(
        &self,
        name: &str,
        path: &str,
        interface: &'static str,
    ) -> Result<Properties, SystemdError> {
        let ask = Ask { method: "GetAll", object: name, limit: CALL, retry: Retry::Yes };
        self.call(ask, |bus| get_all(bus, path, interface)).await
    }

    async fn manager<T, F: Future<Output = zbus::Result<T>>>(
        &self,
        method: &'static str,
        object: &str,
        retry: Retry,
        call: impl Fn(ManagerProxy<'static>) -> F,
    ) -> Result<T, SystemdError> {
        let call = &call;
        let over = |bus| async move { call(connect::manager(&bus).await?).await };
        self.call(Ask { method, object, limit: CALL, retry }, over).await
    }

    /// One call; when its connection proves dead, once more over a new one.
    async fn call<T, F: Future<Output = zbus::Result<T>>>(
        &self,
        ask: Ask<'_>,
        call: impl Fn(Connection) -> F,
    ) -> Result<T, SystemdError> {
        match self.call_once(ask, &call).await {
            // A first failure to connect has tried every way already.
            Err(SystemdError::Timeout { .. } | SystemdError::Lost { .. }) if ask.retry == Retry::Yes => {
                self.call_once(ask, &call).await
            }
            other => other,
        }
    }

    async fn call_once<T, F: Future<Output = zbus::Result<T>>>(
        &self,
        ask: Ask<'_>,
        call: &impl Fn(Connection) -> F,
    ) -> Result<T, SystemdError> {
        let link = self.link().await?;
        let (method, seconds) = (ask.method, ask.limit.as_secs());
        let error = match timeout(ask.limit, call(link.connection.clone())).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(source)) => SystemdError::from_answer(method, ask.object, source),
            Err(_) => SystemdError::Timeout { call: method, object: ask.object.to_owned(), seconds },
        };
        if error.is_transport() {
            self.drop_link(&link, matches!(error, SystemdError::Timeout { .. })).await;
        }
        Err(error)
    }

    /// The connection in use, or a new one. Goes back to the bus when it has
    /// been left alone for long enough.
    async fn link(&self) -> Result<Arc<Link>, SystemdError> {
        let mut slot = self.0.slot.lock().await;
        let avoid_bus = slot.avoids_bus();
        let open = slot.link.clone().filter(|link| !link.connection.is_closed());
        if let Some(link) = open {
            if link.way == Way::Bus || avoid_bus {
                return Ok(link);
            }
            if let Ok(bus) = self.0.ways.bus().await {
                slot.link = Some(Arc::new(bus));
            }
            slot.avoid_bus_until = Some(Instant::now() + AVOID_BUS);
            return Ok(slot.link.clone().unwrap_or(link));
        }
        slot.link = None;
        let link = Arc::new(self.0.ways.connect(avoid_bus).await?);
        if link.way == Way::Private && !avoid_bus {
            slot.avoid_bus_until = Some(Instant::now() + AVOID_BUS);
        }
        slot.link = Some(link.clone());
        Ok(link)
    }

    /// The bus, for services other than systemd; `None` when calls go another way.
    pub(in crate::sys) async fn bus(&self) -> Option<Connection> {
        // Who needs another service waits for the bus.
        self.take_time().await;
        self.link().await.ok().filter(|link| link.way == Way::Bus).map(|link| link.connection.clone())
    }

    async fn drop_link(&self, broken: &Arc<Link>, hung: bool) {
        let mut slot = self.0.slot.lock().await;
        if slot.link.as_ref().is_some_and(|link| Arc::ptr_eq(link, broken)) {
            slot.link = None;
        }
        // Only a bus that hung is worth avoiding; one that was restarted is back at once.
        slot.avoid_bus_until = (hung && broken.way == Way::Bus).then(|| Instant::now() + AVOID_BUS);
    }
}

async fn get_all(bus: Connection, path: &str, interface: &'static str) -> zbus::Result<Properties> {
    let all = zbus::fdo::PropertiesProxy::builder(&bus).destination(proxy::SERVICE).path(path);
    let all = all.cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    Ok(all.get_all(InterfaceName::try_from(interface)?).await?)
}

/// One call: its method, what it is about, and its limits.
#[derive(Debug, Clone, Copy)]
struct Ask<'a> {
    method: &'static str,
    object: &'a str,
    limit: Duration,
    retry: Retry,
}

/// Whether a call may be made twice when nobody knows if it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    Yes,
    No,
}

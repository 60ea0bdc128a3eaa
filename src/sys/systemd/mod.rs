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

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use zbus::{Connection, DynamicType, Message, OwnedObjectPath, Type};

pub use connect::Way;
pub use error::{Cause, SystemdError};
pub use jobs::{Job, JobEnd, Verb};
pub use proxy::LinkChange;
pub use transient::{Ran, Transient};
pub use unit::UnitState;
pub use watch::{Event, Watch};

use super::dbus::{self, Object};
use super::root::Root;
use connect::{Link, Ways};
use proxy::THE_MANAGER;
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
        let text = self.told("Version").await?;
        let digits: String =
            text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| SystemdError::from_answer("Version", &text, zbus::Error::InvalidReply))
    }

    /// Whether the whole system is being stopped.
    ///
    /// # Errors
    /// When systemd is not reached.
    pub async fn is_stopping(&self) -> Result<bool, SystemdError> {
        Ok(self.told("SystemState").await? == "stopping")
    }

    /// State of one unit. A unit without any file has `load` `not-found`.
    ///
    /// # Errors
    /// When systemd is not reached or does not know such a name.
    pub async fn unit(&self, name: &str) -> Result<UnitState, SystemdError> {
        let ask = Ask::manager("LoadUnit", name, Retry::Yes);
        let path: OwnedObjectPath = decoded(ask, &self.manager(ask, &name).await?)?;
        let unit = self.properties(name, path.as_str(), proxy::UNIT_INTERFACE).await?;
        let service = match self.properties(name, path.as_str(), proxy::SERVICE_INTERFACE).await {
            Err(SystemdError::Refused { .. }) => Properties::new(),
            other => other?,
        };
        let mut state = UnitState::from_properties(name, &unit, &service);
        // The property is a cache of the last load; links may have changed since.
        let ask = Ask::manager("GetUnitFileState", name, Retry::Yes);
        match self.manager(ask, &name).await.and_then(|answer| decoded(ask, &answer)) {
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
        let ask = Ask { limit: RELOAD, ..Ask::manager("Reload", "", Retry::No) };
        self.manager(ask, &()).await.map(drop)
    }

    /// Makes a unit's boot links. The links, also those that were there, are
    /// not durable until their directories are synced.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn enable(&self, name: &str) -> Result<Vec<LinkChange>, SystemdError> {
        let ask = Ask::manager("EnableUnitFiles", name, Retry::Yes);
        let (_, changes): (bool, _) = decoded(ask, &self.manager(ask, &(&[name][..], false, false)).await?)?;
        Ok(changes)
    }

    /// Removes a unit's boot links.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn disable(&self, name: &str) -> Result<Vec<LinkChange>, SystemdError> {
        let ask = Ask::manager("DisableUnitFiles", name, Retry::Yes);
        decoded(ask, &self.manager(ask, &(&[name][..], false)).await?)
    }

    /// Forgets a unit's failure, so that systemd allows starts again.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn reset_failed(&self, name: &str) -> Result<(), SystemdError> {
        self.manager(Ask::manager("ResetFailedUnit", name, Retry::Yes), &name).await.map(drop)
    }

    async fn properties(
        &self,
        name: &str,
        path: &str,
        interface: &'static str,
    ) -> Result<Properties, SystemdError> {
        let ask = Ask::manager("GetAll", name, Retry::Yes);
        let unit = Object { service: proxy::SERVICE, path, interface };
        let answer = self.call(ask, &|bus| Box::pin(async move { unit.get_all(&bus).await })).await?;
        decoded(ask, &answer)
    }

    /// A property of the manager that is a text.
    async fn told(&self, name: &'static str) -> Result<String, SystemdError> {
        let ask = Ask::manager(name, "", Retry::Yes);
        let answer =
            self.call(ask, &|bus| Box::pin(async move { THE_MANAGER.get(&bus, name).await })).await?;
        dbus::value(&answer).map_err(|error| SystemdError::from_answer(name, "", error))
    }

    /// One method of the manager, with the arguments in `body`.
    async fn manager<B: Serialize + DynamicType + Sync>(
        &self,
        ask: Ask<'_>,
        body: &B,
    ) -> Result<Message, SystemdError> {
        self.call(ask, &|bus| Box::pin(async move { THE_MANAGER.call(&bus, ask.method, body).await })).await
    }

    /// One call; when its connection proves dead, once more over a new one.
    async fn call(&self, ask: Ask<'_>, call: &Call<'_>) -> Result<Message, SystemdError> {
        match self.call_once(ask, call).await {
            // A first failure to connect has tried every way already.
            Err(SystemdError::Timeout { .. } | SystemdError::Lost { .. }) if ask.retry == Retry::Yes => {
                self.call_once(ask, call).await
            }
            other => other,
        }
    }

    async fn call_once(&self, ask: Ask<'_>, call: &Call<'_>) -> Result<Message, SystemdError> {
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

/// Asks over the connection that it is given. One type for all calls: what
/// stands around them is compiled once.
type Call<'a> =
    dyn Fn(Connection) -> Pin<Box<dyn Future<Output = zbus::Result<Message>> + Send + 'a>> + Sync + 'a;

/// What an answer holds.
fn decoded<T: DeserializeOwned + Type>(ask: Ask<'_>, answer: &Message) -> Result<T, SystemdError> {
    answer.body().deserialize().map_err(|error| SystemdError::from_answer(ask.method, ask.object, error))
}

/// One call: its method, what it is about, and its limits.
#[derive(Debug, Clone, Copy)]
struct Ask<'a> {
    method: &'static str,
    object: &'a str,
    limit: Duration,
    retry: Retry,
}

impl<'a> Ask<'a> {
    /// About `object`, with the usual limit.
    fn manager(method: &'static str, object: &'a str, retry: Retry) -> Self {
        Self { method, object, limit: CALL, retry }
    }
}

/// Whether a call may be made twice when nobody knows if it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    Yes,
    No,
}

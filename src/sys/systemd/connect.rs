//! The way to systemd: the system bus, or systemd's own socket when the bus is
//! dead or hangs.
//!
//! Owns one connection at a time with the task that drains its signals: a
//! stream that nobody polls stops every reply behind it. Never gives up for
//! good: the next call connects again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::net::UnixStream;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::{Connection, Message, MessageStream};

use super::error::SystemdError;
use super::private;
use super::proxy::{self, MANAGER, THE_MANAGER};
use crate::sys::root::Root;

/// How long a socket may take to let us in. A live bus needs milliseconds.
const CONNECT: Duration = Duration::from_secs(3);
/// Signals that may wait for a slow listener; one that falls behind is told so
/// and looks at the state itself.
const SIGNALS: usize = 512;

/// Where systemd can be reached.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    bus: PathBuf,
    private: PathBuf,
}

impl Ways {
    pub(super) fn below(root: &Root) -> Self {
        Self { bus: root.path("/run/dbus/system_bus_socket"), private: root.path("/run/systemd/private") }
    }

    /// Tries the bus first, or last when it is to be avoided.
    pub(super) async fn connect(&self, avoid_bus: bool) -> Result<Link, SystemdError> {
        let early = if avoid_bus { None } else { Some(self.bus().await) };
        if let Some(Ok(link)) = early {
            return Ok(link);
        }
        let private = match open(&self.private, Way::Private).await {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        let bus = match early {
            Some(tried) => tried,
            None => self.bus().await,
        };
        bus.map_err(|bus| SystemdError::Unreachable {
            bus: bus.to_string(),
            private: self.private.display().to_string(),
            source: private.into(),
        })
    }

    pub(super) async fn bus(&self) -> zbus::Result<Link> {
        open(&self.bus, Way::Bus).await
    }
}

/// Which way a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The system bus; other services answer there too.
    Bus,
    /// systemd's own socket; only systemd answers.
    Private,
}

/// What a signal told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    JobRemoved { job: String, result: String },
    Unit(String),
    Hostname,
    Lost,
}

/// One connection and its drained signals.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) way: Way,
    signals: broadcast::Sender<Signal>,
    drain: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

impl Link {
    pub(super) fn signals(&self) -> broadcast::Receiver<Signal> {
        self.signals.subscribe()
    }

    /// Asks the bus for the signals that `rule` matches; peer to peer all come anyway.
    pub(super) async fn add_match(&self, rule: &str) -> zbus::Result<()> {
        if self.way == Way::Private {
            return Ok(());
        }
        let bus = "org.freedesktop.DBus";
        let call =
            self.connection.call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &rule);
        call.await.map(|_| ())
    }
}

async fn open(path: &Path, way: Way) -> zbus::Result<Link> {
    match timeout(CONNECT, handshake(path, way)).await {
        Ok(link) => link,
        Err(_) => Err(io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("{} did not answer within {} s", path.display(), CONNECT.as_secs()),
        ))),
    }
}

async fn handshake(path: &Path, way: Way) -> zbus::Result<Link> {
    let named =
        |error: std::io::Error| io(std::io::Error::new(error.kind(), format!("{}: {error}", path.display())));
    let stream = UnixStream::connect(path).await.map_err(named)?;
    let builder = match way {
        Way::Bus => Builder::unix_stream(stream.into_std().map_err(named)?),
        Way::Private => Builder::unix_stream(private::readable(stream).map_err(named)?).p2p(),
    };
    let connection = builder.build().await?;
    let link = drained(connection, way);
    if way == Way::Bus {
        link.add_match(&format!(
            "type='signal',sender='{}',interface='org.freedesktop.systemd1.Manager',member='JobRemoved',path='{MANAGER}'",
            proxy::SERVICE
        ))
        .await?;
    }
    subscribe(&link.connection).await?;
    Ok(link)
}

/// Without a subscriber systemd may send no `JobRemoved` at all.
async fn subscribe(connection: &Connection) -> zbus::Result<()> {
    match THE_MANAGER.call(connection, "Subscribe", &()).await {
        Err(zbus::Error::MethodError(name, ..)) if name.as_str().ends_with(".AlreadySubscribed") => Ok(()),
        other => other.map(drop),
    }
}

fn drained(connection: Connection, way: Way) -> Link {
    let (signals, _) = broadcast::channel(SIGNALS);
    let mut messages = MessageStream::from(&connection);
    let out = signals.clone();
    let drain = tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            if let Some(signal) = signal_of(&message) {
                // Nobody listening is no fault: state is read when it matters.
                let _ = out.send(signal);
            }
        }
        let _ = out.send(Signal::Lost);
    });
    Link { connection, way, signals, drain }
}

fn signal_of(message: &Message) -> Option<Signal> {
    if message.message_type() != zbus::message::Type::Signal {
        return None;
    }
    let header = message.header();
    let path = header.path()?.as_str();
    match header.member()?.as_str() {
        "JobRemoved" => {
            let body = message.body();
            let (_, job, _, result): (u32, zbus::ObjectPath<'_>, &str, &str) = body.deserialize().ok()?;
            Some(Signal::JobRemoved { job: job.to_string(), result: result.to_owned() })
        }
        "PropertiesChanged" if path == "/org/freedesktop/hostname1" => Some(Signal::Hostname),
        "PropertiesChanged" => proxy::unit_name(path).map(Signal::Unit),
        _ => None,
    }
}

fn io(error: std::io::Error) -> zbus::Error {
    zbus::Error::from(error)
}

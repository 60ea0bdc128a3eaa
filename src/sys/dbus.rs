//! Calls over D-Bus without generated proxies.
//!
//! Owns how a method is named and asked, and nothing of what it means. A proxy
//! of `zbus` carries the cache of properties and its signals along, also where
//! neither is used.

use serde::Serialize;
use zbus::{Connection, DynamicType, Message, OwnedVariant};

/// The interface that every object with properties has.
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// One interface of one object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    /// Who answers on the bus; ignored peer to peer.
    pub(super) service: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

impl Object<'_> {
    /// Calls `method` and hands on the answer, whatever is in it.
    pub(super) async fn call<B>(&self, bus: &Connection, method: &str, body: &B) -> zbus::Result<Message>
    where
        B: Serialize + DynamicType + Sync,
    {
        bus.call_method(Some(self.service), self.path, Some(self.interface), method, body).await
    }

    /// One property.
    pub(super) async fn get(&self, bus: &Connection, name: &str) -> zbus::Result<Message> {
        let of = Object { interface: PROPERTIES, ..*self };
        of.call(bus, "Get", &(self.interface, name)).await
    }

    /// All properties.
    pub(super) async fn get_all(&self, bus: &Connection) -> zbus::Result<Message> {
        let of = Object { interface: PROPERTIES, ..*self };
        of.call(bus, "GetAll", &self.interface).await
    }
}

/// What an answer to [`Object::get`] holds.
pub(super) fn value<T: TryFrom<OwnedVariant>>(answer: &Message) -> zbus::Result<T> {
    let value: OwnedVariant = answer.body().deserialize()?;
    T::try_from(value).map_err(|_| zbus::Error::InvalidReply)
}

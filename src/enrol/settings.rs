//! What enrolment needs of the configuration.
//!
//! Owns the shape; [`Source::from`] takes it over from the settings. Reads no file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::{self, AssignmentSource, ServerProof};
use crate::sys::http::KeyDigest;
use crate::wire::Secret;

/// Who says what this host shall be.
#[derive(Debug, Clone, Default)]
pub enum Source {
    /// Nobody yet.
    #[default]
    None,
    /// The central service.
    Central(Box<CentralSettings>),
    /// A local file, absolute path.
    File(String),
}

/// How the central service is reached, and how it proves itself.
#[derive(Clone, Default)]
pub struct CentralSettings {
    /// `https://HOST:PORT`, tried in order.
    pub endpoints: Vec<String>,
    /// Used when a name does not resolve.
    pub addresses: Vec<IpAddr>,
    /// SHA-256 of the service's public keys.
    pub pins: Vec<KeyDigest>,
    /// PEM file of its authority, instead of pins.
    pub ca_file: Option<String>,
    /// File with the enrolment token.
    pub token_file: Option<String>,
    /// DNS servers that are asked first.
    pub resolvers: Vec<SocketAddr>,
    /// Proxy URL; it may hold a password.
    pub proxy: Option<Secret>,
}

impl fmt::Debug for CentralSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CentralSettings").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl From<&config::Settings> for Source {
    fn from(settings: &config::Settings) -> Self {
        match &settings.source {
            AssignmentSource::None => Self::None,
            AssignmentSource::File(path) => Self::File(path.to_string_lossy().into_owned()),
            AssignmentSource::Central(central) => {
                Self::Central(Box::new(taken_over(central, &settings.transport)))
            }
        }
    }
}

fn taken_over(central: &config::Central, transport: &config::Transport) -> CentralSettings {
    let (pins, ca_file) = match &central.proof {
        ServerProof::Pins(pins) => (pins.iter().map(|pin| *pin.digest()).collect(), None),
        ServerProof::CaFile(file) => (Vec::new(), Some(file.to_string_lossy().into_owned())),
        ServerProof::Loopback => (Vec::new(), None),
    };
    CentralSettings {
        endpoints: central.endpoints.iter().map(ToString::to_string).collect(),
        addresses: central.addresses.clone(),
        pins,
        ca_file,
        token_file: central.enrol_token_file.as_ref().map(|file| file.to_string_lossy().into_owned()),
        resolvers: transport.resolvers.clone(),
        proxy: transport.proxy.as_ref().map(|proxy| Secret::new(proxy.secret_url())),
    }
}

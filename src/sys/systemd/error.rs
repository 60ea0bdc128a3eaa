//! Why systemd or another service of the bus did not do what it was asked.

use thiserror::Error;

/// What the other side or the socket said, in its own words. `zbus` errors
/// repeat themselves along their chain of sources; this does not.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Cause(String);

impl From<zbus::Error> for Cause {
    fn from(error: zbus::Error) -> Self {
        Self(error.to_string())
    }
}

/// A call over D-Bus that did not succeed.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// Neither the bus nor systemd's own socket can be reached.
    #[error("reach systemd at {private} (the bus is no way either: {bus})")]
    Unreachable {
        /// What is wrong with the bus.
        bus: String,
        /// systemd's own socket.
        private: String,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// No answer in time.
    #[error("{call} {object} got no answer within {seconds} s")]
    Timeout {
        /// Name of the method.
        call: &'static str,
        /// What it was about.
        object: String,
        /// The limit in seconds.
        seconds: u64,
    },
    /// The connection broke on the way.
    #[error("{call} {object} lost its connection")]
    Lost {
        /// Name of the method.
        call: &'static str,
        /// What it was about.
        object: String,
        /// What broke.
        #[source]
        source: Cause,
    },
    /// It was answered with an error.
    #[error("{call} {object} was refused")]
    Refused {
        /// Name of the method.
        call: &'static str,
        /// What it was about.
        object: String,
        /// The answer.
        #[source]
        source: Cause,
    },
}

impl SystemdError {
    /// Whether the other side was not reached, so that nothing is known.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    pub(super) fn from_answer(call: &'static str, object: &str, source: zbus::Error) -> Self {
        let object = object.to_owned();
        if is_answer(&source) {
            Self::Refused { call, object, source: source.into() }
        } else {
            Self::Lost { call, object, source: source.into() }
        }
    }
}

/// An error that the peer itself sent back, not one that says it is gone.
fn is_answer(error: &zbus::Error) -> bool {
    use zbus::fdo::Error as Bus;
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Handshake(_) | zbus::Error::Connection(..) => false,
        zbus::Error::FDO(error) => {
            !matches!(**error, Bus::NoReply(_) | Bus::Timeout(_) | Bus::TimedOut(_) | Bus::Disconnected(_))
        }
        _ => true,
    }
}

//! What systemd is told about this process (sd_notify).
//!
//! Owns the datagrams. Outside a notify unit every call is nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use super::root::Root;

/// The pre-start part is done.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// The event loop is alive.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// A clean stop has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// How often the watchdog must be fed, when the unit asks for one.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}

fn send(states: &[NotifyState<'_>]) {
    // A lost datagram costs at most a status line; systemd's own timeouts cover the rest.
    let _ = sd_notify::notify(states);
}

/// One line on the console, for whoever stands before the host. A host without
/// a console shows it in `status` alone.
pub fn console(root: &Root, line: &str) {
    use std::io::Write as _;
    if let Ok(mut console) = std::fs::OpenOptions::new().write(true).open(root.path("/dev/console")) {
        // A console that takes no line has nobody before it.
        let _ = writeln!(console, "{line}");
    }
}

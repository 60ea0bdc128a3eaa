//! One line in the journal from a command that a person typed.
//!
//! Owns the datagram of journald's native protocol. The daemon and the gate need
//! no such thing: systemd collects what they say.

use std::os::unix::net::UnixDatagram;

use super::root::Root;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Puts `message` into the journal with priority notice; `journalctl -u UNIT`
/// shows it too. A host without a journal has nobody to tell.
pub fn tell(root: &Root, unit: &str, message: &str) {
    let line = message.replace(|letter: char| letter.is_control(), " ");
    let text =
        format!("MESSAGE={line}\nPRIORITY=5\nSYSLOG_IDENTIFIER=edge-bootstrap\nOBJECT_SYSTEMD_UNIT={unit}\n");
    let Ok(socket) = UnixDatagram::unbound() else { return };
    // A journal that takes no line now would keep a person from a way out: not waited for.
    let _ = socket.set_nonblocking(true);
    let _ = socket.send_to(text.as_bytes(), root.path(SOCKET));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_line_arrives_whole_and_can_forge_no_field() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        tell(&root, "x.service", "nobody listens");
        root.make_dir("/run/systemd/journal", 0o755).unwrap();
        let journal = UnixDatagram::bind(root.path(SOCKET)).unwrap();
        tell(&root, "x.service", "paused by wang: a\nPRIORITY=0");
        let mut buffer = [0; 512];
        let length = journal.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "MESSAGE=paused by wang: a PRIORITY=0");
        assert_eq!(lines[1], "PRIORITY=5");
        assert!(lines.contains(&"OBJECT_SYSTEMD_UNIT=x.service") && lines.len() == 4, "{lines:?}");
    }
}

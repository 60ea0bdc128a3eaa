//! systemd's own socket, made readable for zbus.
//!
//! Peer to peer systemd signs every message with `org.freedesktop.systemd1` as
//! its sender. zbus takes only unique names there and drops the connection, so
//! a relay in between writes `:rg.freedesktop.systemd1`: a unique name of the
//! same length, which nothing reads. No other byte is touched.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Start of the header field SENDER with a string of 24 bytes, little endian
/// as on all hosts that are supported.
const SENDER: [u8; 8] = [7, 1, b's', 0, 24, 0, 0, 0];

/// The other end of a relay to `systemd`; it ends when either side does.
pub(super) fn readable(systemd: UnixStream) -> io::Result<std::os::unix::net::UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    tokio::spawn(async move {
        let (from_systemd, mut to_systemd) = systemd.into_split();
        let (mut from_zbus, to_zbus) = ours.into_split();
        // Whichever ends first takes the other with it: half a connection is none.
        tokio::select! {
            () = rename(from_systemd, to_zbus) => {}
            _ = tokio::io::copy(&mut from_zbus, &mut to_systemd) => {}
        }
    });
    theirs.into_std()
}

async fn rename(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut renamer = Renamer::default();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(size) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get_mut(..size).filter(|bytes| !bytes.is_empty()) else { return };
        renamer.rename(bytes);
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// How much of [`SENDER`] the bytes so far end with.
#[derive(Debug, Default)]
struct Renamer(usize);

impl Renamer {
    fn rename(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = match SENDER.get(self.0) {
                Some(next) if byte == next => self.0 + 1,
                Some(_) => usize::from(*byte == SENDER[0]),
                None => {
                    if *byte == b'o' {
                        *byte = b':';
                    }
                    0
                }
            };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const NAME: &[u8] = b"org.freedesktop.systemd1\0";

    #[test]
    fn the_sender_becomes_a_unique_name_however_the_bytes_are_cut() {
        let message = [&[9, 7][..], &SENDER, NAME, &[8, 1, b'g', 0], NAME].concat();
        let right = [&[9, 7][..], &SENDER, b":rg.freedesktop.systemd1\0", &[8, 1, b'g', 0], NAME].concat();
        for cut in 0..message.len() {
            let mut bytes = message.clone();
            let mut renamer = Renamer::default();
            let (first, second) = bytes.split_at_mut(cut);
            renamer.rename(first);
            renamer.rename(second);
            assert_eq!(bytes, right, "cut at {cut}");
        }
        assert!(zbus::names::UniqueName::try_from(":rg.freedesktop.systemd1").is_ok());
    }

    #[test]
    fn a_unique_sender_stays() {
        let message = [&SENDER[..], b":1.123456789012345678901\0"].concat();
        let mut bytes = message.clone();
        Renamer::default().rename(&mut bytes);
        assert_eq!(bytes, message);
    }

    #[tokio::test]
    async fn one_end_takes_the_other_with_it() {
        let (systemd, far) = UnixStream::pair().unwrap();
        let near = readable(systemd).unwrap();
        drop(far);
        let mut near = UnixStream::from_std(near).unwrap();
        assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

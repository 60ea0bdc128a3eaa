//! gRPC's frames: a byte that says whether it is compressed, four bytes of
//! length, the message.
//!
//! Owns putting messages into frames and getting them out of any cut of the
//! stream. Pure.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Largest message that is read, in bytes. A list of some thousand images has 1 MiB.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Bytes before each message.
const HEAD: usize = 5;

/// `message` in a frame, not compressed.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// What came and is no whole message yet.
#[derive(Debug, Default)]
pub(super) struct Frames {
    open: BytesMut,
}

impl Frames {
    /// Adds `chunk` and gives every message that is whole now to `each`.
    pub(super) fn take(&mut self, chunk: &[u8], each: &mut impl FnMut(&[u8])) -> Result<(), &'static str> {
        self.open.extend_from_slice(chunk);
        while let Some((head, rest)) = self.open.split_first_chunk::<HEAD>() {
            let [compressed, length @ ..] = *head;
            if compressed != 0 {
                return Err("is compressed, which nobody asked for");
            }
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if length > MAX_MESSAGE {
                return Err("is larger than 4 MiB");
            }
            let Some(message) = rest.get(..length) else { return Ok(()) };
            each(message);
            let _ = self.open.split_to(HEAD + length);
        }
        Ok(())
    }

    /// Whether the stream ended between two messages.
    pub(super) fn end(&self) -> Result<(), &'static str> {
        if self.open.is_empty() { Ok(()) } else { Err("ends within a message") }
    }
}

/// A status message: UTF-8 in percent encoding. What is no encoding stays as it is.
pub(super) fn words(encoded: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(hex);
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let [high, low] = digits else { return None };
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn messages(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, &'static str> {
        let mut found = Vec::new();
        let mut frames = Frames::default();
        for chunk in chunks {
            frames.take(chunk, &mut |message| found.push(message.to_vec()))?;
        }
        frames.end().map(|()| found)
    }

    #[test]
    fn every_cut_of_the_stream_gives_the_same_messages() {
        let stream = [frame(b"one"), frame(b""), frame(&[7; 300])].concat();
        let whole = messages(&[&stream]).unwrap();
        assert_eq!(whole, [b"one".to_vec(), Vec::new(), vec![7; 300]]);
        for at in 0..=stream.len() {
            let (left, right) = stream.split_at(at);
            assert_eq!(messages(&[left, right]).unwrap(), whole, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(messages(&bytes).unwrap(), whole);
    }

    #[test]
    fn what_is_no_frame_is_said() {
        let stream = frame(b"one");
        assert_eq!(messages(&[&stream[..6]]), Err("ends within a message"));
        assert_eq!(messages(&[&[1, 0, 0, 0, 0]]), Err("is compressed, which nobody asked for"));
        assert_eq!(messages(&[&[0, 0xff, 0xff, 0xff, 0xff]]), Err("is larger than 4 MiB"));
    }

    #[test]
    fn words_come_out_of_their_encoding() {
        assert_eq!(words(b"a%20b%C3%A9"), "a b\u{e9}");
        assert_eq!(words(b"100% sure %zz %"), "100% sure %zz %");
        assert_eq!(words(b"%+1"), "%+1");
    }
}

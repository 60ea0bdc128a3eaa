//! netlink(7): how requests and answers are framed.
//!
//! Owns the socket, the message and attribute headers, and reading a list to
//! its end. What a message says belongs to its family: `links`, `sockets`.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// The kernel answers at once; this is for one that does not.
const ANSWER_S: i64 = 2;
/// Above what the kernel puts into one answer, in bytes.
pub const ROOM: usize = 64 * 1024;
/// Tries of a list that changed while it was read.
const TRIES: u32 = 3;

const HEADER: usize = 16;
/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_DUMP_INTR`: the list changed while it was read.
const INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP`: the whole list.
pub const DUMP: u16 = 0x300;
#[allow(clippy::cast_possible_truncation, reason = "NLMSG_DONE and NLMSG_ERROR are 3 and 2")]
const DONE: u16 = libc::NLMSG_DONE as u16;
/// `NLMSG_ERROR`: how a request went.
#[allow(clippy::cast_possible_truncation, reason = "NLMSG_DONE and NLMSG_ERROR are 3 and 2")]
pub const ERROR: u16 = libc::NLMSG_ERROR as u16;

/// One message: kind, flags, what follows the header.
pub type Message<'a> = (u16, u16, &'a [u8]);

/// A socket of one netlink family, member of `groups`.
///
/// # Errors
/// When the kernel has no such family or refuses.
pub fn open(family: SockProtocol, groups: u32, flags: SockFlag) -> Result<OwnedFd, Errno> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, family)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_S))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Asks for a list and takes from each message what `take` makes of its kind and
/// body. A list that changes while it is read is asked for again.
///
/// # Errors
/// When the kernel does not tell.
pub fn dump<T>(
    family: SockProtocol,
    request: &[u8],
    take: impl Fn(u16, &[u8]) -> Option<T>,
) -> Result<Vec<T>, Errno> {
    let mut last = Err(Errno::EINTR);
    for _ in 0..TRIES {
        last = dump_once(family, request, &take);
        if !matches!(last, Err(Errno::EINTR)) {
            return last;
        }
    }
    last
}

fn dump_once<T>(
    family: SockProtocol,
    request: &[u8],
    take: impl Fn(u16, &[u8]) -> Option<T>,
) -> Result<Vec<T>, Errno> {
    let socket = open(family, 0, SockFlag::empty())?;
    send(socket.as_raw_fd(), request, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut room = vec![0; ROOM];
    loop {
        let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty())?;
        for (kind, flags, body) in messages(room.get(..length).unwrap_or_default()) {
            if flags & INTERRUPTED != 0 {
                return Err(Errno::EINTR);
            }
            match kind {
                DONE => return Ok(found),
                ERROR => error_of(body)?,
                _ => found.extend(take(kind, body)),
            }
        }
    }
}

/// What an error message says; 0 says that it was done.
///
/// # Errors
/// The error that it names.
pub fn error_of(body: &[u8]) -> Result<(), Errno> {
    match number(body, 0).map(|bits| i32::from_ne_bytes(bits.to_ne_bytes())) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(code.saturating_neg())),
        None => Err(Errno::EPROTO),
    }
}

/// One request: header and body.
#[must_use]
pub fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence and sender: the kernel needs neither for one request at a time.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// The messages of an answer; ends at the first that is not whole.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok().filter(|length| *length >= HEADER)?;
        let (kind, flags) = (half(bytes, 4)?, half(bytes, 6)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, flags, body))
    })
}

/// Kind and content of the attributes that follow a message's own header.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)?;
        let content = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, content))
    })
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// The number of four bytes at `at`, in the machine's order.
#[must_use]
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_of_zero_means_done() {
        assert_eq!(error_of(&0_i32.to_ne_bytes()), Ok(()));
        assert_eq!(error_of(&(-17_i32).to_ne_bytes()), Err(Errno::EEXIST));
        assert_eq!(error_of(&[]), Err(Errno::EPROTO));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for (_, _, body) in messages(&bytes) {
                let _ = error_of(body);
            }
            let _ = attributes(&bytes).count();
        }
    }
}

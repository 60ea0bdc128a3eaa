//! One question to one DNS server: the A and AAAA records of a name, over UDP.
//!
//! Owns the packet format, read strictly: an answer counts only when it comes
//! from the server that was asked, repeats our number and our question, and its
//! records belong to the name or to what the name is an alias of. Own code,
//! because the stub resolver of the field adds some fifty crates and a cache
//! for the one name that this program ever asks for. A forged answer gains
//! nothing: the other side still has to prove itself over TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::sys::random;

/// A question is repeated after this time: datagrams get lost.
const REPEAT: Duration = Duration::from_millis(500);
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;
/// Largest answer without extensions (RFC 1035 4.2.1), and room for more.
const MAX_PACKET: usize = 1500;
/// Aliases and compression pointers that are followed at most.
const MAX_HOPS: usize = 16;

/// Asks `server` until it answers; the caller sets the deadline.
///
/// # Errors
/// When the server cannot be reached or the name cannot be asked for.
pub(super) async fn look_up(server: SocketAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let (v4, v6) = tokio::join!(ask(server, name, A), ask(server, name, AAAA));
    // One family may fail alone: some servers never answer AAAA.
    let mut found = v4.or_else(|error| if v6.is_ok() { Ok(Vec::new()) } else { Err(error) })?;
    found.extend(v6.unwrap_or_default());
    Ok(found)
}

async fn ask(server: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await?;
    // A connected socket hears only the server that was asked.
    socket.connect(server).await?;
    let [low, high, ..] = random::number().to_le_bytes();
    let id = [low, high];
    let question =
        question(id, name, kind).ok_or_else(|| io::Error::other("not a name that DNS can ask for"))?;
    let mut packet = [0; MAX_PACKET];
    loop {
        socket.send(&question).await?;
        let answer = async {
            loop {
                let length = socket.recv(&mut packet).await?;
                if let Some(found) = parse(packet.get(..length).unwrap_or_default(), &question, kind) {
                    return found;
                }
            }
        };
        if let Ok(answer) = tokio::time::timeout(REPEAT, answer).await {
            return answer;
        }
    }
}

fn question(id: [u8; 2], name: &str, kind: u16) -> Option<Vec<u8>> {
    // Recursion desired, one question.
    let mut packet = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        packet.push(length);
        packet.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend(INTERNET.to_be_bytes());
    (packet.len() <= 12 + 255 + 4).then_some(packet)
}

/// `None` when the packet is not an answer to `question`; then the right one may still come.
fn parse(packet: &[u8], question: &[u8], kind: u16) -> Option<io::Result<Vec<IpAddr>>> {
    let (id, rest) = (packet.get(..2)?, packet.get(12..question.len())?);
    let is_answer = packet.get(2)? & 0x80 != 0 && packet.get(4..6)? == [0, 1];
    if id != question.get(..2)? || !is_answer || !rest.eq_ignore_ascii_case(question.get(12..)?) {
        return None;
    }
    match packet.get(3)? & 0x0f {
        0 => Some(
            records(packet, question, kind).ok_or_else(|| io::Error::other("the DNS answer is malformed")),
        ),
        3 => Some(Ok(Vec::new())),
        code => Some(Err(io::Error::other(format!("the DNS server answered with error {code}")))),
    }
}

fn records(packet: &[u8], question: &[u8], kind: u16) -> Option<Vec<IpAddr>> {
    let count = be16(packet, 6)?;
    let mut wanted = name_at(packet, 12)?.0;
    let (mut at, mut hops, mut found) = (question.len(), 0, Vec::new());
    for _ in 0..count {
        let (owner, after) = name_at(packet, at)?;
        let (record, class) = (be16(packet, after)?, be16(packet, after + 2)?);
        let length = usize::from(be16(packet, after + 8)?);
        let data = after + 10;
        let bytes = packet.get(data..data + length)?;
        if class == INTERNET && owner == wanted {
            if record == CNAME && hops < MAX_HOPS {
                wanted = name_at(packet, data)?.0;
                hops += 1;
            } else if record == kind {
                found.push(address(bytes)?);
            }
        }
        at = data + length;
    }
    Some(found)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn be16(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

/// The name at `at` in lower case, and where the bytes after it begin.
fn name_at(packet: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let (mut name, mut end, mut hops) = (Vec::new(), None, 0);
    loop {
        let length = usize::from(*packet.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                name.extend(packet.get(at + 1..=at + length)?.iter().map(u8::to_ascii_lowercase));
                name.push(b'.');
                at += 1 + length;
            }
            0xc0.. if hops < MAX_HOPS => {
                end = end.or(Some(at + 2));
                at = usize::from(be16(packet, at)? & 0x3fff);
                hops += 1;
            }
            _ => return None,
        }
        if name.len() > 255 {
            return None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer that goes through one alias: www -> a.b, a.b has the address.
    fn answer(question: &[u8]) -> Vec<u8> {
        let mut packet = question.to_vec();
        packet[2] = 0x81;
        packet[3] = 0x80;
        packet[7] = 2;
        packet.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 5, 1, b'a', 1, b'b', 0]);
        let alias = u8::try_from(packet.len() - 5).unwrap();
        packet.extend([0xc0, alias, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 7]);
        packet
    }

    #[test]
    fn an_alias_is_followed() {
        let question = question([1, 2], "www.example.net", A).unwrap();
        let found = parse(&answer(&question), &question, A).unwrap().unwrap();
        assert_eq!(found, ["203.0.113.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let question_a = question([1, 2], "www.example.net", A).unwrap();
        for other in [question([1, 3], "www.example.net", A), question([1, 2], "wwx.example.net", A)] {
            assert!(parse(&answer(&other.unwrap()), &question_a, A).is_none());
        }
        assert!(parse(&question_a, &question_a, A).is_none(), "an echo is no answer");
    }

    #[test]
    fn a_name_that_points_at_itself_ends() {
        let question = question([1, 2], "a", A).unwrap();
        let mut packet = answer(&question);
        let at = u8::try_from(question.len()).unwrap();
        packet[question.len()] = 0xc0;
        packet[question.len() + 1] = at;
        assert!(parse(&packet, &question, A).unwrap().is_err());
    }

    #[test]
    fn names_that_dns_cannot_ask_for_are_refused() {
        for name in ["", "a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(question([0, 0], name, A).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_stumble(mut packet: Vec<u8>, flips in prop::collection::vec((0usize..80, any::<u8>()), 0..8)) {
            let question = question([1, 2], "www.example.net", A).unwrap();
            let _ = parse(&packet, &question, A);
            packet = answer(&question);
            for (at, value) in flips {
                if let Some(byte) = packet.get_mut(at) { *byte = value; }
            }
            let _ = parse(&packet, &question, A);
        }
    }
}

//! A router that answers every ARP probe, whatever address it is for (proxy ARP).
//!
//! Owns one thread in a network namespace. Linux' own proxy ARP leaves probes
//! unanswered; the routers that do answer them are imitated here.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// A probe: Ethernet type ARP, for IPv4 on Ethernet, a request.
const REQUEST: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];

pub struct Router {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<Ipv4Addr>>,
}

impl Router {
    /// Answers on `eth0` of a network namespace from now on.
    pub fn open(netns: &str) -> Self {
        let netns = File::open(format!("/run/netns/{netns}")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        Self { stop, thread: thread::spawn(move || answer(&netns, &seen)) }
    }

    /// Ends it; the addresses for which it answered.
    pub fn close(self) -> BTreeSet<Ipv4Addr> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn answer(netns: &File, stop: &AtomicBool) -> BTreeSet<Ipv4Addr> {
    // Of this thread alone.
    setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
    let link = eth0();
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    bind(socket.as_raw_fd(), &link).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
    let mut answered = BTreeSet::new();
    let mut room = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty()) else { continue };
        let Some((reply, target)) = reply(&room[..length], link.addr().unwrap()) else { continue };
        send(socket.as_raw_fd(), &reply, MsgFlags::empty()).unwrap();
        answered.insert(target);
    }
    answered
}

fn eth0() -> LinkAddr {
    let mut all = getifaddrs().unwrap().filter(|entry| entry.interface_name == "eth0");
    all.find_map(|entry| entry.address?.as_link_addr().copied()).unwrap()
}

/// The answer to a probe, and what it was for.
fn reply(frame: &[u8], mac: [u8; 6]) -> Option<(Vec<u8>, Ipv4Addr)> {
    if frame.get(12..22)? != REQUEST || frame.get(28..32)? != [0; 4] {
        return None;
    }
    let (asker, target) = (frame.get(22..28)?, frame.get(38..42)?);
    let mut reply = [asker, &mac, &REQUEST[..9], &[2], &mac, target, asker, &[0; 4]].concat();
    reply.resize(60, 0);
    Some((reply, Ipv4Addr::from(<[u8; 4]>::try_from(target).ok()?)))
}

//! Who listens on the ports of k3s.
//!
//! Owns finding the process behind a listening socket. The sockets are read
//! first; processes are looked at only when one of the ports is taken. Reads
//! sockets and procfs only (sock_diag(7), proc(5)).

use crate::sys::{Root, sockets};

/// API and supervisor, the agents' load balancer, etcd's clients and peers, kubelet.
/// k3s listens on the first four with `SO_REUSEPORT`: a second one starts
/// beside the first without an error.
pub const PORTS: [u16; 5] = [6443, 6444, 2379, 2380, 10250];

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// `TCP_LISTEN`.
const LISTEN: &str = "0A";

/// A process that listens on one of [`PORTS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// Process, 0 when it was not found.
    pub pid: u32,
    /// Its name as the kernel knows it.
    pub comm: String,
    /// Its control groups, as `/proc/PID/cgroup` tells them.
    pub cgroup: String,
}

impl Listener {
    /// Whether it is a k3s.
    #[must_use]
    pub fn is_k3s(&self) -> bool {
        self.comm.starts_with("k3s")
    }

    /// Whether it runs as part of `unit`.
    #[must_use]
    pub fn is_of(&self, unit: &str) -> bool {
        self.cgroup.split(['/', '\n']).any(|part| part == unit)
    }
}

/// Processes that listen on [`PORTS`]; empty when nobody does or it cannot be read.
#[must_use]
pub fn listeners(root: &Root) -> Vec<Listener> {
    let mut sockets = sockets(root);
    if sockets.is_empty() {
        return Vec::new();
    }
    sockets.sort();
    sockets.dedup();
    let mut found = Vec::new();
    for pid in root.list("/proc").unwrap_or_default().iter().filter_map(|name| name.parse::<u32>().ok()) {
        let ports = ports_of(root, pid, &sockets);
        if !ports.is_empty() {
            found.extend(ports.into_iter().map(|port| listener(root, pid, port)));
        }
    }
    found
}

/// Port and inode of each listening socket on one of the ports. The tables of
/// procfs say the same, for other roots and for a kernel without sock_diag.
fn sockets(root: &Root) -> Vec<(u16, String)> {
    if root.is_host()
        && let Ok(told) = sockets::listening()
    {
        let ours = told.into_iter().filter(|socket| PORTS.contains(&socket.port));
        return ours.map(|socket| (socket.port, socket.inode.to_string())).collect();
    }
    let tables = TABLES.iter().filter_map(|path| root.read_kernel(path).ok());
    tables.flat_map(|table| table.lines().skip(1).filter_map(socket).collect::<Vec<_>>()).collect()
}

/// `0: 0100007F:18EB 00000000:0000 0A … uid timeout inode …`
fn socket(line: &str) -> Option<(u16, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, port) = words.get(1)?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok().filter(|port| PORTS.contains(port))?;
    let listens = words.get(3) == Some(&LISTEN);
    listens.then(|| Some((port, (*words.get(9)?).to_owned())))?
}

fn ports_of(root: &Root, pid: u32, sockets: &[(u16, String)]) -> Vec<u16> {
    let directory = format!("/proc/{pid}/fd");
    let names = root.list(&directory).unwrap_or_default();
    let targets = names.iter().filter_map(|name| root.read_link(&format!("{directory}/{name}")).ok()?);
    let inodes: Vec<String> = targets
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let held = sockets.iter().filter(|(_, inode)| inodes.contains(inode)).map(|(port, _)| *port);
    let mut ports: Vec<u16> = held.collect();
    ports.dedup();
    ports
}

fn listener(root: &Root, pid: u32, port: u16) -> Listener {
    let read = |name: &str| root.read_kernel(&format!("/proc/{pid}/{name}")).unwrap_or_default();
    Listener { port, pid, comm: read("comm"), cgroup: read("cgroup") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const LINE: &str =
        "   1: 0B244DAC:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1";

    #[test]
    fn only_listening_sockets_of_our_ports_are_taken() {
        assert_eq!(socket(LINE), Some((2379, "4242".to_owned())));
        assert_eq!(socket(&LINE.replace(" 0A ", " 01 ")), None, "a connection");
        assert_eq!(socket(&LINE.replace(":094B", ":0016")), None, "another port");
        for line in ["", "x", "1: 2", "1: :zz a 0A"] {
            assert_eq!(socket(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_process_belongs_to_the_unit_whose_name_is_a_part_of_its_group() {
        let of =
            |cgroup: &str| Listener { port: 6443, pid: 7, comm: "k3s-server".into(), cgroup: cgroup.into() };
        assert!(of("0::/system.slice/k3s.service").is_of("k3s.service"));
        assert!(of("4:cpu:/system.slice/k3s.service/x\n0::/").is_of("k3s.service"));
        assert!(!of("0::/system.slice/my-k3s.service").is_of("k3s.service"));
        assert!(!of("0::/user.slice").is_of("k3s.service"));
        assert!(of("").is_k3s());
    }
}

//! The demo: three bare hosts become a cluster, lose their power, and come back
//! while the central service is away.
//!
//! Owns what a newcomer sees. Everything that happens on the hosts is the
//! product's own doing: the package is installed, the configuration is written,
//! the rest is waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::host::Host;
use crate::room::{LONG, Room, SITE, phase, status};
use crate::root::{self, Suite};
use crate::say;

/// Names of the hosts, as the rack has them.
const HOSTS: [&str; 3] = ["rack-1", "rack-2", "rack-3"];
/// Between two looks at the hosts.
const LOOK: Duration = Duration::from_millis(500);

/// Runs the demo.
///
/// # Errors
/// A host does not become steady in time; says how it is.
pub fn run() -> Result<()> {
    let began = Instant::now();
    root::prepare()?;
    root::host_root(Suite::Trixie)?;
    title("building the package, the central service and what the hosts run");
    let mut room = Room::open("demo")?;
    loudly(&room);
    title("three bare hosts: the package is installed, then nobody touches them");
    let first = Instant::now();
    for name in HOSTS {
        room.add(name, Suite::Trixie)?;
        say(&format!("{name}: package installed"));
    }
    follow(&room, first)?;
    show(&room)?;
    title("the power goes, on all three at once; the central service goes too");
    room.cut()?;
    room.central.stop()?;
    title("the power comes back, the central service does not");
    let second = Instant::now();
    room.boot()?;
    follow(&room, second)?;
    show(&room)?;
    title(&format!(
        "three steady nodes of {SITE}, before and after the cut, in {} s",
        began.elapsed().as_secs()
    ));
    loudly(&room);
    Ok(())
}

fn title(text: &str) {
    say("");
    say(&format!("== {text}"));
}

/// Nobody may take the stand-in for k3s.
fn loudly(room: &Room) {
    if room.k3s.real {
        say(&format!("the hosts run the k3s at {}", room.k3s.path.display()));
        return;
    }
    say("**********************************************************************");
    say("** K3S_BIN is not set: the hosts run a STAND-IN, not a real k3s.     **");
    say("** It keeps k3s's rules for configuration, files, ports and          **");
    say("** readiness, and runs no containers. Name a k3s binary in K3S_BIN   **");
    say("** to see the real one.                                              **");
    say("**********************************************************************");
}

/// Prints every change of phase until all hosts are steady.
fn follow(room: &Room, began: Instant) -> Result<()> {
    let mut seen = vec![String::new(); room.hosts.len()];
    loop {
        for (host, last) in room.hosts.iter().zip(&mut seen) {
            let now = words(host);
            if !now.is_empty() && now != *last {
                say(&format!("{:>5.1} s  {}  {now}", began.elapsed().as_secs_f32(), host.name()));
                *last = now;
            }
        }
        if room.hosts.iter().all(|host| phase(host) == "steady") && all_in_one_cluster(room)? {
            return Ok(());
        }
        if began.elapsed() > LONG {
            show(room)?;
            bail!("not all hosts are steady after {} s", LONG.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

/// Phase, role and what the host waits for, in one line.
fn words(host: &Host) -> String {
    let Some(status) = status(host) else { return String::new() };
    let phase = status["phase"].as_str().unwrap_or_default();
    let role = status["role"].as_str().map(|role| format!(", {role}")).unwrap_or_default();
    let waits =
        status["waiting_on"]["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{phase}{role}{waits}")
}

/// Each host's own k3s lists all nodes as Ready.
fn all_in_one_cluster(room: &Room) -> Result<bool> {
    for host in &room.hosts {
        let nodes = host.exec(&["k3s", "kubectl", "get", "nodes"])?;
        let ready =
            nodes.stdout.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count();
        if ready != room.hosts.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn show(room: &Room) -> Result<()> {
    for host in &room.hosts {
        say("");
        say(&format!("{} $ edge-bootstrap status", host.name()));
        let status = host.exec(&["edge-bootstrap", "status"])?;
        status.stdout.lines().chain(status.stderr.lines()).for_each(|line| say(&format!("    {line}")));
    }
    if let Some(host) = room.hosts.first() {
        say("");
        say(&format!("{} $ k3s kubectl get nodes", host.name()));
        let nodes = host.exec(&["k3s", "kubectl", "get", "nodes"])?;
        nodes.stdout.lines().chain(nodes.stderr.lines()).for_each(|line| say(&format!("    {line}")));
    }
    Ok(())
}

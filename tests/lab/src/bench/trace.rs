//! Whether k3s's start waits for anybody outside: the agent's own system calls
//! in a boot whose packets to the central service are dropped.

use anyhow::{Context, Result, bail};

use super::table::{Row, Table, ms};
use super::{UNIT, cycle, moment};
use crate::host::Host;

/// Where the trace lies, in memory: the unit may write there.
const FILE: &str = "/run/edge-bootstrap.strace";

/// The same unit, with strace between systemd and the agent.
const TRACED: &str = "[Service]
ExecStart=
ExecStart=/usr/bin/strace -f -ttt -s 200 -e trace=execve,connect,sendto,sendmsg,recvfrom,recvmsg,write -o /run/edge-bootstrap.strace /usr/bin/edge-bootstrap run
NotifyAccess=all
SystemCallFilter=
CapabilityBoundingSet=CAP_SYS_PTRACE
";

/// Boots once with the agent traced; gives the lines that tell the story.
///
/// READY is what lets k3s start; the agent must have said it before anything
/// was asked or heard outside this host.
pub(super) fn trace(host: &Host, table: &mut Table) -> Result<String> {
    let place = format!("/etc/systemd/system/{UNIT}.d/60-trace.conf");
    host.write_file(&place, TRACED)?;
    cycle(host)?;
    let text = host.read_file(FILE)?.context("strace wrote nothing")?;
    host.sh(&format!("rm {place}"))?;
    let begin = first(&text, |line| line.contains("execve(")).context("no execve in the trace")?;
    let ready = first(&text, |line| line.contains("READY=1")).context("no READY in the trace")?;
    let outside = first(&text, is_outside);
    if outside.is_some_and(|outside| outside < ready) {
        bail!("the agent looked outside before READY:\n{}", story(&text));
    }
    let k3s = moment(host, "k3s.service", "InactiveExit")?.saturating_sub(moment(host, UNIT, "ActiveEnter")?);
    let outside = outside.map_or("never".to_owned(), |outside| seconds(outside - begin));
    table.push(Row {
        what: "traced warm boot, packets to central dropped".to_owned(),
        bar: "READY before any call to the network".to_owned(),
        measured: format!(
            "READY {} after execve, first call to the network {outside}; k3s's start job ran {} after READY",
            seconds(ready - begin),
            ms(k3s)
        ),
        held: true,
    });
    Ok(story(&text))
}

/// A call that concerns an address which is not of this host.
fn is_outside(line: &str) -> bool {
    let inet = line.contains("sa_family=AF_INET");
    inet && !line.contains("\"127.") && !line.contains("\"::1\"")
}

/// The time of the first line that `fits`, in seconds.
fn first(text: &str, fits: impl Fn(&str) -> bool) -> Option<f64> {
    let line = text.lines().find(|line| fits(line))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn seconds(time: f64) -> String {
    format!("{:.1} ms", time * 1000.0)
}

/// Start, READY, unit jobs and what went outside.
fn story(text: &str) -> String {
    let tells = |line: &&str| {
        ["execve(", "READY=1", "StartUnit", "RestartUnit"].iter().any(|word| line.contains(word))
            || is_outside(line)
    };
    let lines: Vec<String> = text.lines().filter(tells).take(20).map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

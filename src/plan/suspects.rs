//! Who gave the host another name, judged from what was left behind.
//!
//! Owns the reading of journal lines, leases and cloud-init's log, and the
//! order in which they count. Pure. Only a trace that carries the very name
//! counts; what is not known is said, never guessed.

use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;

use crate::facts::rename::{Entry, Lease, Rename, Traces, Who, Writer};

/// hostnamed's unit.
pub const HOSTNAMED: &str = "systemd-hostnamed.service";
/// NetworkManager's unit.
pub const NETWORK_MANAGER: &str = "NetworkManager.service";
/// Unit of the bus, which tells for whom it starts hostnamed.
pub const BUS: &str = "dbus.service";
/// The program by which people become root.
pub const SUDO: &str = "/usr/bin/sudo";
/// hostnamed ends by itself after half a minute without a question.
const HOSTNAMED_LIVES: u64 = 35;
/// Clocks of a file system and of a log line may differ by this, in seconds.
const SLACK: u64 = 120;

/// Lines of `journalctl -o json`; those that are no such line are left out.
#[must_use]
pub fn entries(lines: &str) -> Vec<Entry> {
    lines.lines().filter_map(entry).collect()
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    unit: Value,
    #[serde(rename = "_EXE", default)]
    program: Value,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

fn entry(line: &str) -> Option<Entry> {
    let line: Line = serde_json::from_str(line).ok()?;
    let at = line.at.parse::<u64>().ok()? / 1_000_000;
    Some(Entry { at, unit: text(&line.unit), program: text(&line.program), message: text(&line.message) })
}

/// journalctl writes a text that is no UTF-8 as a list of bytes.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(bytes) => {
            let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
            String::from_utf8_lossy(&bytes.iter().filter_map(byte).collect::<Vec<u8>>()).into_owned()
        }
        _ => String::new(),
    }
}

/// Names for the host in a lease of dhclient (`option host-name "x";`) or of
/// systemd-networkd and NetworkManager (`HOSTNAME=x`).
#[must_use]
pub fn lease_names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = text.lines().filter_map(lease_name).collect();
    names.sort();
    names.dedup();
    names
}

fn lease_name(line: &str) -> Option<String> {
    let line = line.trim();
    let name = match line.strip_prefix("HOSTNAME=") {
        Some(name) => name,
        None => line.strip_prefix("option host-name")?.trim().trim_end_matches(';'),
    };
    let name = name.trim().trim_matches('"');
    (!name.is_empty()).then(|| name.to_owned())
}

/// The judgement.
#[must_use]
pub fn judge(rename: &Rename, traces: &Traces) -> Who {
    let journal = traces.journal.known().map(Vec::as_slice).unwrap_or_default();
    let told = by_person(rename, journal)
        .or_else(|| by_network_manager(rename, journal))
        .or_else(|| by_cloud_init(rename, traces))
        .or_else(|| by_lease(rename, journal, &traces.leases))
        .or_else(|| by_hostnamed(rename, journal));
    told.unwrap_or_else(|| Who { writer: Writer::Unknown, how: without_trace(rename, traces) })
}

/// Whether `text` is a name that was found, with or without a domain behind it.
fn is_found(rename: &Rename, text: &str) -> bool {
    let host = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    !text.is_empty() && rename.found().any(|name| name == text || host(name) == host(text))
}

fn newest(journal: &[Entry], mut is: impl FnMut(&Entry) -> bool) -> Option<&Entry> {
    journal.iter().rev().find(|entry| is(entry))
}

/// sudo's line: `LOGIN : TTY=… ; PWD=… ; USER=root ; COMMAND=…`, with the name in the command.
fn by_person(rename: &Rename, journal: &[Entry]) -> Option<Who> {
    let named = |entry: &Entry| {
        let command = entry.message.split_once("COMMAND=").map(|(_, command)| command);
        let part = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        entry.program == SUDO
            && command.is_some_and(|command| command.split(part).any(|word| is_found(rename, word)))
    };
    let entry = newest(journal, named)?;
    let login = entry.message.split(" :").next().unwrap_or_default().trim();
    let is_login = !login.is_empty()
        && login.len() <= 64
        && login.chars().all(|c| c.is_ascii_alphanumeric() || "-._@+\\$".contains(c));
    is_login.then(|| Who {
        writer: Writer::Person(login.to_owned()),
        how: format!("the journal has the command with this name at {}", time(entry.at)),
    })
}

/// `policy: set-hostname: set hostname to 'x' (from DHCPv4)`, and the words of older versions.
fn by_network_manager(rename: &Rename, journal: &[Entry]) -> Option<Who> {
    let set = |entry: &Entry| {
        let told = ["set hostname to '", "Setting system hostname to '"]
            .iter()
            .find_map(|words| quoted(&entry.message, words, '\''));
        entry.unit == NETWORK_MANAGER && told.is_some_and(|name| is_found(rename, name))
    };
    let entry = newest(journal, set)?;
    let from = entry.message.rsplit_once('(').map_or("", |(_, from)| from.trim_end_matches(')'));
    let from = ["from DHCPv4", "from DHCPv6", "from address lookup", "from system configuration"]
        .iter()
        .find(|known| from.starts_with(**known));
    let from = from.map(|from| format!(", {from}")).unwrap_or_default();
    Some(Who { writer: Writer::NetworkManager, how: format!("its journal at {}{from}", time(entry.at)) })
}

/// `2026-11-21 10:00:00,123 - cc_set_hostname.py[DEBUG]: Setting the hostname to x.y (x)`.
fn by_cloud_init(rename: &Rename, traces: &Traces) -> Option<Who> {
    let since = match rename.file_changed {
        Some(changed) if rename.is_of_an_earlier_boot() => changed,
        _ => rename.boot_began,
    };
    let log = traces.cloud_init_log.known()?;
    let at = log.lines().rev().filter_map(cloud_init_line).find_map(|(at, names)| {
        let fits = names.iter().any(|name| is_found(rename, name));
        (fits && at + SLACK >= since && at <= rename.last + SLACK).then_some(at)
    })?;
    Some(Who { writer: Writer::CloudInit, how: format!("its log at {}", time(at)) })
}

/// Time and names of a line with which cloud-init says that it sets a name.
fn cloud_init_line(line: &str) -> Option<(u64, Vec<&str>)> {
    let (_, names) = line.split_once(" hostname to ")?;
    let stamp = line.get(..19)?;
    let time = humantime::parse_rfc3339_weak(stamp).ok()?;
    let at = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let part = |c: char| c.is_whitespace() || matches!(c, '(' | ')');
    Some((at, names.split(part).filter(|name| !name.is_empty()).collect()))
}

/// A lease with this name. Who set it is told by nobody then; that its client
/// did is only likely, and said so.
fn by_lease(rename: &Rename, journal: &[Entry], leases: &[Lease]) -> Option<Who> {
    let lease = leases.iter().find(|lease| lease.names.iter().any(|name| is_found(rename, name)))?;
    let set = newest(journal, |entry| hostnamed_set(rename, entry).is_some());
    let how = match set {
        Some(entry) => format!(
            "its lease {} gives this name, and hostnamed set it at {} without saying for whom",
            lease.path,
            time(entry.at)
        ),
        None => format!("its lease {} gives this name; no journal says who set it", lease.path),
    };
    Some(Who { writer: lease.client.clone(), how })
}

fn by_hostnamed(rename: &Rename, journal: &[Entry]) -> Option<Who> {
    let entry = newest(journal, |entry| hostnamed_set(rename, entry).is_some())?;
    let kind = hostnamed_set(rename, entry)?;
    let lived = entry.at.saturating_sub(HOSTNAMED_LIVES)..=entry.at;
    let bus = newest(journal, |other| lived.contains(&other.at) && starter(other).is_some());
    let hint = bus.and_then(starter).map(|who| format!("; it had been started for {who}"));
    Some(Who {
        writer: Writer::Hostnamed,
        how: format!(
            "hostnamed set the {kind} name at {} and does not say for whom{}",
            time(entry.at),
            hint.unwrap_or_default()
        ),
    })
}

/// The bus's line `Activating via systemd: service name='org.freedesktop.hostname1' …
/// requested by ':1.9' (uid=0 pid=7 comm="hostnamectl …")`. Others may have used
/// what this one started, so it is a hint and no proof.
fn starter(entry: &Entry) -> Option<String> {
    let line = Some(&entry.message).filter(|_| entry.unit == BUS)?;
    let (_, line) = line.split_once("name='org.freedesktop.hostname1'")?;
    let uid: u32 = quoted(line, "(uid=", ' ')?.parse().ok()?;
    let program = quoted(line, "comm=\"", '"')?.split(' ').next()?;
    let program = program.rsplit('/').next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let fits = !program.is_empty() && program.len() <= 64 && program.chars().all(plain);
    (fits && program != "edge-bootstrap").then(|| format!("{program} of uid {uid}"))
}

/// `Hostname set to <x> (static)`, or `Changed static host name to 'x'` (systemd
/// below 250 and its fallback): the kind, when the name is the found one.
fn hostnamed_set(rename: &Rename, entry: &Entry) -> Option<&'static str> {
    if entry.unit != HOSTNAMED {
        return None;
    }
    let message = &entry.message;
    let name = quoted(message, "Hostname set to <", '>').or_else(|| quoted(message, " to '", '\''))?;
    let kinds = [("static", "static"), ("transient", "transient")];
    let kind =
        kinds.into_iter().find(|(word, _)| message.contains(word)).map_or("kernel's", |(_, kind)| kind);
    is_found(rename, name).then_some(kind)
}

fn quoted<'a>(text: &'a str, before: &str, end: char) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(end).map(|(name, _)| name)
}

fn without_trace(rename: &Rename, traces: &Traces) -> String {
    let file = match rename.file_changed {
        Some(changed) if rename.file_differed => {
            format!("/etc/hostname was changed at {}", time(changed))
        }
        _ if rename.file_differed => "/etc/hostname was gone".to_owned(),
        _ => "only the kernel's name was another, as sethostname(2) leaves it".to_owned(),
    };
    let journal = match traces.journal.reason() {
        Some(reason) => format!("the journal could not be read: {reason}"),
        None => "no journal line, lease or log has this name".to_owned(),
    };
    format!("{file}; {journal}")
}

/// Seconds since 1970 as people and machines read them.
fn time(unix: u64) -> String {
    // Beyond the year 9999 there is no such form.
    let at = UNIX_EPOCH + Duration::from_secs(unix.min(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
#[path = "suspects_tests.rs"]
mod tests;

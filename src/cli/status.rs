//! `status` for people.
//!
//! Owns the text form of a status, and what is shown where no daemon runs: then
//! pause, allowances, refusals and the pinned identity come from disk.

use super::output;
use crate::enrol::cache;
use crate::error::Chain;
use crate::hatches::{self, Hatches};
use crate::report;
use crate::report::Phase;
use crate::report::status::{self, NodeAddress, PendingClaim, RefusedStart, Status, UnitState, one_line};
use crate::sys::{Clock, Root};
use crate::{hold, identity, observe, paths};

/// `status`: what the daemon last said with what is in force now, and for root
/// the code of a claim.
///
/// # Errors
/// When the status has no JSON form.
pub fn run(common: &super::Common) -> anyhow::Result<u8> {
    let root = common.root();
    let (status, notes) = look(&root, Clock::System);
    if common.json {
        notes.iter().for_each(|note| output::note(note));
        output::json(&status)?;
        return Ok(status.exit_code());
    }
    notes.iter().for_each(|note| output::text(note));
    output::text(&text(&status));
    // Others than root are not told the code, and that is no error.
    if let Ok(Some(claim)) = report::read_claim(&root) {
        output::text(&claim_text(&claim));
    }
    Ok(status.exit_code())
}

/// How the host is, with the daemon alive or dead, and what must be said first.
#[must_use]
pub fn look(root: &Root, clock: Clock) -> (Status, Vec<String>) {
    let said = report::read_status(root);
    let hatches = hatches::look(root, clock);
    let mut notes = Vec::new();
    let mut status = match said {
        Ok(Some(mut status)) => {
            status.running = is_running(root, status.agent.pid);
            if !status.running {
                notes.push("edge-bootstrap is not running; this is what it said last".to_owned());
            }
            status
        }
        Ok(None) => {
            notes.push("edge-bootstrap has said nothing in this boot; this is what lies on disk; `systemctl status edge-bootstrap` tells whether it runs".to_owned());
            silent(root)
        }
        Err(error) => {
            notes.push(format!("{}; this is what lies on disk", Chain(&error)));
            silent(root)
        }
    };
    hatches.fill(&mut status);
    if !status.running {
        notes.extend(without_daemon(root, &mut status).filter(|_| !hatches.hidden));
        notes.extend(hidden(&hatches));
    }
    (status, notes)
}

fn hidden(hatches: &Hatches) -> Option<String> {
    let who = "run it as root to see pause, allowances and identity as they are now";
    hatches.hidden.then(|| format!("{} can be read by root only; {who}", paths::STATE_DIR))
}

/// The daemon's process, told from a later one with the same number by its name.
fn is_running(root: &Root, pid: u32) -> bool {
    root.read_kernel(&format!("/proc/{pid}/comm")).is_ok_and(|name| name == "edge-bootstrap")
}

/// Nobody said anything in this boot.
fn silent(root: &Root) -> Status {
    let host = root.read_kernel("/proc/sys/kernel/hostname").unwrap_or_default();
    let agent = status::Agent { version: env!("CARGO_PKG_VERSION").to_owned(), pid: 0, starts_in_boot: 0 };
    // Nobody says since when.
    let mut status = Status::starting(host, agent, "");
    status.phase = Phase::Silent;
    status.running = false;
    status
}

/// Adds what a daemon would have said anew, and gives what is wrong with the
/// identity's file. A hold counts only while its daemon lives.
fn without_daemon(root: &Root, status: &mut Status) -> Option<String> {
    if hold::current(root).is_none() {
        status.hold = None;
    }
    if let Some(current) = observe::runtime::generations(root).current {
        status.plan_generation = current.number;
    }
    let loaded = match identity::load(root) {
        Ok(loaded) => loaded,
        Err(error) => return Some(Chain(&error).to_string()),
    };
    let damage = loaded.damage().map(|damage| format!("identity.json: {damage}; this is its earlier copy"));
    let Some(pinned) = loaded.value() else { return damage };
    if let Some(assignment) = pinned.node_id.as_ref().and_then(|id| cache::in_force(root, id)) {
        status.generation = assignment.generation;
    }
    status.node = Some(NodeAddress { name: pinned.node_name, ip: pinned.node_ip });
    status.epoch = pinned.epoch;
    status.role.get_or_insert_with(|| pinned.role.to_string());
    status.site.get_or_insert(pinned.site);
    damage
}

/// The status as lines, the most urgent first.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut out = Lines::default();
    let since = if status.since.is_empty() { String::new() } else { format!(" since {}", status.since) };
    out.line("phase", format!("{}{since}", status.phase));
    reasons(&mut out, status);
    place(&mut out, status);
    passes(&mut out, status);
    if let Some(images) = &status.images {
        let now = images.now.as_ref().map(|now| format!(", {now}")).unwrap_or_default();
        out.line("images", format!("{} of {}{now}", images.imported, images.wanted));
    }
    for (name, unit) in &status.units {
        out.line("unit", unit_text(name, unit));
    }
    for (name, version) in &status.versions {
        out.line("version", format!("{name} {version}"));
    }
    let agent = &status.agent;
    if agent.pid != 0 {
        out.line(
            "agent",
            format!("{}, process {}, start {} in this boot", agent.version, agent.pid, agent.starts_in_boot),
        );
    }
    out.0
}

/// What root sees of a claim that waits for a person.
#[must_use]
pub fn claim_text(claim: &PendingClaim) -> String {
    let mut out = Lines::default();
    let replaces = claim.of.as_ref().map(|of| format!(", would replace {of}")).unwrap_or_default();
    out.line("approval", format!("code {}{replaces}; tell it to who approves hosts", claim.code));
    out.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, text: impl AsRef<str>) {
        self.0.push_str(&format!("{name:<12}{}\n", one_line(text.as_ref())));
    }
}

/// Everything that keeps the host from being steady, or a person's hand in it.
fn reasons(out: &mut Lines, status: &Status) {
    if let Some(paused) = &status.paused {
        out.line("paused", format!("by {} until {}: {}", paused.by, paused.until, paused.reason));
    }
    for allowed in &status.allowed {
        let used = match &allowed.last_used {
            Some(at) => format!("used {} in this boot, last {at}", often(allowed.used)),
            None => "not used in this boot".to_owned(),
        };
        let (code, until, by) = (&allowed.code, &allowed.until, &allowed.by);
        out.line("allowed", format!("{code} until {until} by {by}: {} ({used})", allowed.reason));
    }
    for refused in &status.refused {
        refusal(out, refused);
    }
    if let Some(hold) = &status.hold {
        out.line("hold", format!("{}: {} (since {})", hold.code, hold.reason, hold.since));
    }
    if let Some(waiting) = &status.waiting_on {
        out.line("waits for", format!("{}: {}", waiting.code, waiting.reason));
        out.line("next", &waiting.next);
    }
    status.coming_up.iter().for_each(|what| out.line("waits for", what));
    for left in &status.left_alone {
        out.line("left alone", format!("{}: {} (since {})", left.unit, left.why, left.since));
    }
    for restart in &status.pending_restarts {
        out.line("restart due", format!("{}: {}", restart.unit, restart.reason));
        restart.waits_for.iter().for_each(|why| out.line("waits for", why));
    }
    for finding in &status.findings {
        out.line("finding", format!("{} {}: {}", finding.status, finding.code, finding.text));
    }
}

/// A start that the gate refused: what, why, what to do, and the way past it.
fn refusal(out: &mut Lines, refused: &RefusedStart) {
    let RefusedStart { unit, code, reason, next, count, last_at, allow, .. } = refused;
    out.line("refused", format!("{unit}: {code}: {reason} ({}, last {last_at})", often(*count)));
    out.line("next", next);
    out.line("let pass", allow);
}

fn often(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn place(out: &mut Lines, status: &Status) {
    if !status.host.is_empty() {
        out.line("host", &status.host);
    }
    if let Some(node) = &status.node {
        out.line("node", format!("{} ({})", node.name, node.ip));
    }
    out.line("site", status.site.as_deref().unwrap_or("unknown"));
    out.line("role", status.role.as_deref().unwrap_or("not assigned"));
    // Where nobody said that there is none, there may be one.
    let none = if status.phase == Phase::Silent { "unknown" } else { "none" };
    let number = |number: u64| if number == 0 { none.to_owned() } else { number.to_string() };
    let (assigned, files) = (number(status.generation), number(status.plan_generation));
    out.line("generation", format!("{assigned} assigned, {files} on disk, epoch {}", status.epoch));
}

fn passes(out: &mut Lines, status: &Status) {
    out.line("contact", status.last_contact.as_deref().unwrap_or("not in this boot"));
    match &status.last_pass {
        Some(pass) => out.line("last pass", format!("{}, {}", pass.outcome, pass.at)),
        None => out.line("last pass", "none yet"),
    }
}

fn unit_text(name: &str, unit: &UnitState) -> String {
    let restarts = match unit.restarts {
        None | Some(0) => String::new(),
        Some(count) => format!(", {count} restarts"),
    };
    format!("{name} {} ({}){restarts}", unit.active, unit.sub)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::report::Phase;
    use crate::report::status::{Agent, Waiting};

    fn status() -> Status {
        let agent = Agent { version: "0.1.0".to_owned(), pid: 7, starts_in_boot: 1 };
        Status::starting("h", agent, "2026-11-21T10:00:00Z")
    }

    #[test]
    fn a_wait_names_its_reason_and_the_next_step() {
        let mut status = status();
        status.phase = Phase::Waiting;
        let [code, reason, next] = ["EB-wait-server", "no server", "wait"].map(str::to_owned);
        status.waiting_on = Some(Waiting { code, reason, next });
        let text = text(&status);
        assert!(
            text.starts_with(
                "phase       waiting since 2026-11-21T10:00:00Z\nwaits for   EB-wait-server: no server\n"
            ),
            "{text}"
        );
        assert!(text.contains("next        wait\n"), "{text}");
    }

    #[test]
    fn a_node_that_comes_up_names_the_unit_and_for_how_long() {
        let mut status = status();
        status.phase = Phase::Verifying;
        status.coming_up = Some("k3s-unit: k3s.service is activating/start, for 14 s".to_owned());
        let text = text(&status);
        let words = "waits for   k3s-unit: k3s.service is activating/start, for 14 s\n";
        assert!(text.contains(words), "{text}");
    }

    fn host() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/proc/sys/kernel", 0o755).unwrap();
        root.make_dir("/proc/7", 0o755).unwrap();
        (dir, root)
    }

    fn refuse(root: &Root) {
        let refusal = crate::plan::Refusal::new("EB-token-empty", "it is empty", "write it");
        for at in [1000, 1005, 1010] {
            let _ = crate::gate::line(root, Clock::Fixed(at), "k3s.service", &refusal);
        }
    }

    #[test]
    fn a_refusal_is_told_whole_where_no_daemon_ever_ran() {
        let (_dir, root) = host();
        refuse(&root);
        let (status, notes) = look(&root, Clock::Fixed(1010));
        assert!(notes[0].contains("has said nothing in this boot"), "{notes:?}");
        assert_eq!((status.exit_code(), status.running, &status.phase), (1, false, &Phase::Silent));
        let text = text(&status);
        assert!(text.starts_with("phase       silent\n"), "nobody knows since when: {text}");
        assert_eq!(serde_json::to_value(&status).unwrap().get("since"), None);
        assert!(
            text.contains(
                "refused     k3s.service: EB-token-empty: it is empty (3 times, last 1970-01-01T00:16:50Z)\n"
            ),
            "{text}"
        );
        assert!(text.contains("next        write it\nlet pass    edge-bootstrap gate allow --code EB-token-empty --for 1h --reason TEXT --i-accept-data-loss\n"), "{text}");
    }

    #[test]
    fn what_is_in_force_is_read_from_disk_where_no_daemon_runs_and_is_never_a_zero() {
        let (_dir, root) = host();
        let told = || text(&look(&root, Clock::Fixed(1010)).0);
        assert!(told().contains("generation  unknown assigned, unknown on disk, epoch 0\n"), "{}", told());
        let config = "token-file: /var/lib/edge-bootstrap/generations/3/server-token\n";
        root.ensure_dir("/etc/rancher/k3s").unwrap();
        crate::sys::atomic::write(&root, paths::K3S_CONFIG, config.as_bytes(), 0o600).unwrap();
        assert!(told().contains("unknown assigned, 3 on disk"), "{}", told());
        let node_id = "a".repeat(26);
        let payload = serde_json::json!({
            "schema": 1, "generation": 7, "issued_at": "2026-11-21T10:00:00Z", "node_id": node_id,
            "site": "hz-017", "role": "none",
        });
        let (envelope, key) = crate::wire::envelope::tests::signed(payload.to_string().as_bytes());
        let trust = crate::enrol::trust::Trust { signing_keys: vec![key], ..Default::default() };
        let stored = cache::Stored { trust, envelope: Some(envelope), statement: None };
        cache::store(&root, &stored).unwrap();
        let node_id = Some(node_id);
        let pinned =
            crate::facts::runtime::PinnedIdentity { node_id, ..crate::facts::runtime::pinned_server() };
        identity::pin(&root, &pinned).unwrap();
        assert!(told().contains("generation  7 assigned, 3 on disk, epoch 1\n"), "{}", told());
    }

    #[test]
    fn the_last_word_of_a_dead_daemon_is_no_promise() {
        let (_dir, root) = host();
        let mut steady = status();
        steady.phase = Phase::Steady;
        report::publish(&root, &steady).unwrap();
        crate::sys::atomic::write(&root, "/proc/7/comm", b"edge-bootstrap\n", 0o444).unwrap();
        let (alive, notes) = look(&root, Clock::Fixed(0));
        assert_eq!((alive.exit_code(), alive.running, notes.len()), (0, true, 0));
        crate::sys::atomic::write(&root, "/proc/7/comm", b"bash\n", 0o444).unwrap();
        let (dead, notes) = look(&root, Clock::Fixed(0));
        assert_eq!((dead.exit_code(), dead.running), (1, false));
        assert!(notes[0].starts_with("edge-bootstrap is not running"), "{notes:?}");
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor_or_forge_a_line() {
        let mut status = status();
        status.site = Some("x\nphase  steady\u{1b}[2J".to_owned());
        let text = text(&status);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("phase  steady")), "{text}");
    }
}

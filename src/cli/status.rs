//! `status` for people.
//!
//! Owns the text form of a status; a pure function of it. Prints nothing and
//! reads nothing: the caller brings the status, and for root the claim.

use super::output;
use crate::report;
use crate::report::status::{PendingClaim, Status, UnitState, one_line};

/// `status`: what the daemon last said, and for root the code of a claim.
///
/// # Errors
/// When the status cannot be read.
pub fn run(common: &super::Common) -> anyhow::Result<u8> {
    let root = common.root();
    let Some(status) = report::read_status(&root)? else {
        anyhow::bail!(
            "edge-bootstrap has said nothing in this boot; `systemctl status edge-bootstrap` tells whether it runs"
        );
    };
    if common.json {
        output::json(&status)?;
        return Ok(status.exit_code());
    }
    output::text(&text(&status));
    // Others than root are not told the code, and that is no error.
    if let Ok(Some(claim)) = report::read_claim(&root) {
        output::text(&claim_text(&claim));
    }
    Ok(status.exit_code())
}

/// The status as lines, the most urgent first.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut out = Lines::default();
    out.line("phase", format!("{} since {}", status.phase, status.since));
    reasons(&mut out, status);
    place(&mut out, status);
    passes(&mut out, status);
    for (name, unit) in &status.units {
        out.line("unit", unit_text(name, unit));
    }
    for (name, version) in &status.versions {
        out.line("version", format!("{name} {version}"));
    }
    let agent = &status.agent;
    out.line(
        "agent",
        format!("{}, process {}, start {} in this boot", agent.version, agent.pid, agent.starts_in_boot),
    );
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
    if let Some(hold) = &status.hold {
        out.line("hold", format!("{}: {} (since {})", hold.code, hold.reason, hold.since));
    }
    if let Some(waiting) = &status.waiting_on {
        out.line("waits for", format!("{}: {}", waiting.code, waiting.reason));
        out.line("next", &waiting.next);
    }
    for left in &status.left_alone {
        out.line("left alone", format!("{}: {} (since {})", left.unit, left.why, left.since));
    }
    for restart in &status.pending_restarts {
        out.line("restart due", format!("{}: {}", restart.unit, restart.reason));
    }
    for finding in &status.findings {
        out.line("finding", format!("{} {}: {}", finding.status, finding.code, finding.text));
    }
}

fn place(out: &mut Lines, status: &Status) {
    out.line("host", &status.host);
    if let Some(node) = &status.node {
        out.line("node", format!("{} ({})", node.name, node.ip));
    }
    out.line("site", status.site.as_deref().unwrap_or("unknown"));
    out.line("role", status.role.as_deref().unwrap_or("not assigned"));
    let (assigned, files, epoch) = (status.generation, status.plan_generation, status.epoch);
    out.line("generation", format!("{assigned} assigned, {files} on disk, epoch {epoch}"));
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
    fn text_of_others_cannot_move_the_cursor_or_forge_a_line() {
        let mut status = status();
        status.site = Some("x\nphase  steady\u{1b}[2J".to_owned());
        let text = text(&status);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("phase  steady")), "{text}");
    }
}

//! The status as Prometheus text.
//!
//! Owns metric names, types and escaping (text format 0.0.4). Says nothing
//! that [`Status`] does not say; times are seconds since 1970.

use std::fmt::{Display, Write as _};
use std::time::UNIX_EPOCH;

use super::status::{LastPass, Status, UnitState};
use super::words::{FindingStatus, Phase};

/// The status as Prometheus text.
#[must_use]
pub fn metrics(status: &Status) -> String {
    let mut out = Exposition::default();
    build(&mut out, status);
    phase(&mut out, status);
    place(&mut out, status);
    times(&mut out, status);
    if let Some(pass) = &status.last_pass {
        last_pass(&mut out, pass);
    }
    stops(&mut out, status);
    findings(&mut out, status);
    units(&mut out, status);
    out.0
}

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    /// Begins a gauge.
    fn gauge(&mut self, name: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP edge_bootstrap_{name} {help}\n# TYPE edge_bootstrap_{name} gauge");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "edge_bootstrap_{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauge(name, help);
        self.sample(name, &[], value);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn build(out: &mut Exposition, status: &Status) {
    out.gauge("build_info", "Version of the running daemon.");
    out.sample("build_info", &[("version", &status.agent.version)], 1);
    out.single("starts_in_boot", "Starts of the daemon in this boot.", status.agent.starts_in_boot);
}

/// One series per phase, so that none vanishes when the phase changes.
fn phase(out: &mut Exposition, status: &Status) {
    out.gauge("phase", "1 for the phase that the boot line is in, 0 for the others.");
    for phase in Phase::ALL {
        out.sample("phase", &[("phase", phase.as_str())], u8::from(*phase == status.phase));
    }
    if let Phase::Other(word) = &status.phase {
        out.sample("phase", &[("phase", word)], 1);
    }
}

fn place(out: &mut Exposition, status: &Status) {
    out.single("generation", "Generation of the assignment in force, 0 for none.", status.generation);
    out.single("epoch", "Epoch of the pinned identity, 0 for none.", status.epoch);
    out.single("plan_generation", "Generation directory in force, 0 for none.", status.plan_generation);
}

fn times(out: &mut Exposition, status: &Status) {
    let times = [
        ("phase_since_timestamp_seconds", "When the phase was entered.", Some(&status.since)),
        (
            "last_contact_timestamp_seconds",
            "When the central service last answered.",
            status.last_contact.as_ref(),
        ),
        (
            "last_pass_timestamp_seconds",
            "When the last pass ended.",
            status.last_pass.as_ref().map(|pass| &pass.at),
        ),
    ];
    for (name, help, time) in times {
        if let Some(seconds) = time.and_then(|time| unix(time)) {
            out.single(name, help, seconds);
        }
    }
}

fn unix(time: &str) -> Option<u64> {
    Some(humantime::parse_rfc3339(time).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn last_pass(out: &mut Exposition, pass: &LastPass) {
    out.gauge("pass_outcome", "1 for how the last pass ended.");
    out.sample("pass_outcome", &[("outcome", pass.outcome.as_str())], 1);
    out.gauge("pass_duration_seconds", "Duration of each step of the last pass.");
    for (step, millis) in &pass.steps_ms {
        let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
        out.sample("pass_duration_seconds", &[("step", step)], seconds);
    }
}

fn stops(out: &mut Exposition, status: &Status) {
    out.single("hold", "1 while k3s must not start.", u8::from(status.hold.is_some()));
    out.single("paused", "1 while a person stopped all changes.", u8::from(status.paused.is_some()));
    out.single("left_alone", "Units that a person stopped.", status.left_alone.len());
    out.single("pending_restarts", "Restarts that wait for the room's Lease.", status.pending_restarts.len());
    if let Some(waiting) = &status.waiting_on {
        out.gauge("waiting", "1 while something outside must happen first.");
        out.sample("waiting", &[("code", &waiting.code)], 1);
    }
}

fn findings(out: &mut Exposition, status: &Status) {
    out.gauge("findings", "Findings by status.");
    for word in FindingStatus::ALL {
        let count = status.findings.iter().filter(|finding| finding.status == *word).count();
        out.sample("findings", &[("status", word.as_str())], count);
    }
}

fn units(out: &mut Exposition, status: &Status) {
    out.gauge("unit_active", "1 while systemd calls the unit active.");
    for (name, unit) in &status.units {
        out.sample("unit_active", &[("unit", name)], u8::from(unit.active == "active"));
    }
    out.gauge("unit_restarts", "Restarts of the unit since it was loaded.");
    for (name, UnitState { restarts, .. }) in &status.units {
        if let Some(restarts) = restarts {
            out.sample("unit_restarts", &[("unit", name)], restarts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::Agent;
    use super::*;

    fn status() -> Status {
        let agent = Agent { version: "0.1.0".to_owned(), pid: 7, starts_in_boot: 2 };
        Status::starting("h", agent, "1970-01-01T00:01:00Z")
    }

    #[test]
    fn exactly_one_phase_is_one() {
        for phase in Phase::ALL.iter().cloned().chain([Phase::Other("later".to_owned())]) {
            let mut status = status();
            status.phase = phase.clone();
            let text = metrics(&status);
            let ones: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with("edge_bootstrap_phase{") && line.ends_with(" 1"))
                .collect();
            assert_eq!(ones, [format!("edge_bootstrap_phase{{phase=\"{phase}\"}} 1")]);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut status = status();
        let state = UnitState { active: "active".to_owned(), sub: String::new(), restarts: None };
        status.units.insert("a\\b\"c\nd".to_owned(), state);
        let text = metrics(&status);
        assert!(text.contains("edge_bootstrap_unit_active{unit=\"a\\\\b\\\"c\\nd\"} 1\n"), "{text}");
        assert!(
            text.lines().all(|line| line.starts_with("# ") || line.starts_with("edge_bootstrap_")),
            "{text}"
        );
    }

    #[test]
    fn durations_are_seconds_and_times_are_unix() {
        let mut status = status();
        status.last_pass = Some(LastPass {
            at: "1970-01-01T00:02:00Z".to_owned(),
            outcome: super::super::words::Outcome::Converged,
            steps_ms: [("plan".to_owned(), 1042)].into(),
        });
        let text = metrics(&status);
        assert!(text.contains("edge_bootstrap_pass_duration_seconds{step=\"plan\"} 1.042\n"), "{text}");
        assert!(text.contains("edge_bootstrap_last_pass_timestamp_seconds 120\n"), "{text}");
        assert!(text.contains("edge_bootstrap_phase_since_timestamp_seconds 60\n"), "{text}");
        assert!(!text.contains("last_contact"), "no contact is no series, not 1970: {text}");
    }

    #[test]
    fn a_family_is_announced_once() {
        let text = metrics(&status());
        let mut types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all);
    }
}

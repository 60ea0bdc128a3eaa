//! What systemd itself said in one boot of a machine.
//!
//! Owns how its lines are read: when something started and ended, which acts ran,
//! and every unit that failed on the way. Judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use edge_lab::Machine;

/// Lines of PID 1 of this boot and refusals of k3s's gate, each with its time since
/// the kernel's start.
const LINES: &str = "journalctl -b -o short-monotonic --no-pager _PID=1 + _SYSTEMD_UNIT=k3s.service \
                     | grep -e 'systemd\\[1\\]: ' -e EB-";

/// systemd's words of one boot.
pub struct Said(Vec<(Duration, String)>);

impl Said {
    /// Reads them from the machine that is on.
    pub fn by(machine: &Machine) -> Result<Self> {
        Ok(Self(machine.sh(LINES)?.lines().filter_map(line).collect()))
    }

    /// When it last said something that begins so.
    pub fn last(&self, words: &str) -> Option<Duration> {
        self.0.iter().rev().find(|(_, said)| said.starts_with(words)).map(|(at, _)| *at)
    }

    /// How often each act ended well.
    pub fn acts(&self) -> String {
        let mut acts: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, said) in &self.0 {
            let act = said.strip_prefix("Finished edge-bootstrap-act-");
            if let Some((act, _)) = act.and_then(|said| said.split_once(".service")) {
                *acts.entry(act).or_default() += 1;
            }
        }
        let acts: Vec<String> = acts.into_iter().map(|(act, times)| format!("{act} {times}")).collect();
        acts.join(", ")
    }

    /// Every failure of a unit, with its moment; where the gate refused, with its words.
    pub fn failures(&self) -> Vec<String> {
        let is_failure =
            |said: &str| said.contains(": Failed with result") || said.starts_with("Dependency failed");
        let mut refused = None;
        let mut failures = Vec::new();
        for (at, said) in &self.0 {
            if said.contains("EB-") {
                refused = Some(said);
            } else if is_failure(said) {
                let why = refused.take().map(|words| format!(": {words}")).unwrap_or_default();
                failures.push(format!("{said} ({:.0} s){why}", at.as_secs_f64()));
            }
        }
        failures
    }

    /// When the agent was started and READY, and when the others were up.
    pub fn milestones(&self) -> String {
        let of = [
            ("agent", "Starting edge-bootstrap.service"),
            ("READY", "Started edge-bootstrap.service"),
            ("containerd", "Started containerd.service"),
            ("k3s", "Started k3s.service"),
        ];
        let moment =
            |(name, words): (&str, &str)| Some(format!("{name} {:.0}", self.last(words)?.as_secs_f64()));
        of.into_iter().filter_map(moment).collect::<Vec<_>>().join(" ")
    }
}

/// `[   15.123456] m1 systemd[1]: words`, or another program's.
fn line(text: &str) -> Option<(Duration, String)> {
    let (at, rest) = text.strip_prefix('[')?.split_once(']')?;
    let (_, said) = rest.split_once("]: ")?;
    Some((Duration::from_secs_f64(at.trim().parse().ok()?), said.to_owned()))
}

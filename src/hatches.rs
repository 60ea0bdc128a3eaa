//! What people's hands overrode, and what the gate refuses: pause, allowances,
//! refused starts.
//!
//! Owns how these are gathered from disk, with the daemon alive or dead, and how
//! everybody sees them: fields and findings of the status, the text at login, the
//! news for the journal. Sets and ends none of them.

use crate::allow::{self, Allowance};
use crate::gate::{self, Passed, Refused};
use crate::paths;
use crate::pause::{self, Pause};
use crate::report::FindingStatus;
use crate::report::status::{Allowed, Finding, Paused, RefusedStart, Status, one_line};
use crate::sys::clock::rfc3339;
use crate::sys::{Change, Clock, FileError, Root, atomic};

/// Everything that is in force now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hatches {
    /// A person's pause.
    pub pause: Option<Pause>,
    /// Refusals that a person lets pass.
    pub allowed: Vec<Allowance>,
    /// What they let pass in this boot.
    pub passed: Vec<Passed>,
    /// Starts that the gate refused last, by unit.
    pub refused: Vec<(String, Refused)>,
    /// Pause and allowances cannot be read: they are root's.
    pub hidden: bool,
}

/// Reads what is in force.
#[must_use]
pub fn look(root: &Root, clock: Clock) -> Hatches {
    Hatches {
        pause: pause::current(root, clock),
        allowed: allow::current(root, clock),
        passed: gate::passed(root),
        refused: gate::all_refused(root),
        hidden: root.list(paths::STATE_DIR).is_err(),
    }
}

// === impl Hatches ===

impl Hatches {
    /// Brings `status` up to what is in force. What cannot be read stays as the
    /// daemon said it.
    pub fn fill(&self, status: &mut Status) {
        status.refused = self.refused.iter().map(|(unit, refused)| refused_start(unit, refused)).collect();
        if self.hidden {
            return;
        }
        status.paused = self.pause.as_ref().map(paused);
        status.allowed = self.allowed.iter().map(|allowance| self.allowed(allowance)).collect();
        status.findings.retain(|finding| !["EB-paused", "EB-allowed"].contains(&finding.code.as_str()));
        status.findings.extend(findings(status));
    }

    fn allowed(&self, allowance: &Allowance) -> Allowed {
        let used = self.passed.iter().find(|passed| passed.code == allowance.code);
        Allowed {
            code: allowance.code.clone(),
            until: rfc3339(allowance.until),
            by: allowance.by.clone(),
            reason: allowance.reason.clone(),
            used: used.map_or(0, |passed| passed.count),
            last_used: used.map(|passed| rfc3339(passed.last_at)),
        }
    }

    /// What is shown at every login; `None` when nothing is in force.
    #[must_use]
    pub fn motd(&self) -> Option<String> {
        let pause = self.pause.iter().map(|pause| {
            let line = pause_line(pause);
            format!("edge-bootstrap is {line}\n  it changes nothing meanwhile; to end this: edge-bootstrap resume\n")
        });
        let allowed = self.allowed.iter().map(|allowance| {
            let (line, code) = (allow_line(allowance), &allowance.code);
            format!("edge-bootstrap: {line}\n  to end this: edge-bootstrap gate revoke --code {code}\n")
        });
        let text: String = pause.chain(allowed).collect();
        (!text.is_empty()).then_some(text)
    }

    /// What ended since `before`, one line each.
    #[must_use]
    pub fn ended(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(pause) = before.pause.as_ref().filter(|_| self.pause.is_none()) {
            lines.push(format!("pause ended: was {}", pause_line(pause)));
        }
        let gone = before.allowed.iter().filter(|old| !self.allowed.iter().any(|now| now.code == old.code));
        lines.extend(gone.map(|old| format!("allowance ended: {}", allow_line(old))));
        lines
    }

    /// Everything that is in force, one line each.
    #[must_use]
    pub fn in_force(&self) -> Vec<String> {
        self.pause.iter().map(pause_line).chain(self.allowed.iter().map(allow_line)).collect()
    }
}

/// Makes the text at login say what is in force; with nothing it goes.
///
/// # Errors
/// When it cannot be written or removed.
pub fn tell_logins(root: &Root, hatches: &Hatches) -> Result<Change, FileError> {
    let Some(text) = hatches.motd() else {
        let was = root.remove_file(paths::MOTD)?;
        return Ok(if was { Change::Replaced } else { Change::Unchanged });
    };
    root.ensure_dir(paths::MOTD.rsplit_once('/').map_or("/run", |(directory, _)| directory))?;
    atomic::write_volatile(root, paths::MOTD, text.as_bytes(), 0o644)
}

/// `paused until … by …: …`.
#[must_use]
pub fn pause_line(pause: &Pause) -> String {
    one_line(&format!("paused until {} by {}: {}", rfc3339(pause.until), pause.by, pause.reason))
}

/// `EB-… is let pass until … by …: …`.
#[must_use]
pub fn allow_line(allowance: &Allowance) -> String {
    let Allowance { code, by, reason, .. } = allowance;
    one_line(&format!("{code} is let pass until {} by {by}: {reason}", rfc3339(allowance.until)))
}

fn paused(pause: &Pause) -> Paused {
    Paused { until: rfc3339(pause.until), by: pause.by.clone(), reason: pause.reason.clone() }
}

fn refused_start(unit: &str, refused: &Refused) -> RefusedStart {
    RefusedStart {
        unit: unit.to_owned(),
        code: refused.code.clone(),
        reason: refused.reason.clone(),
        next: refused.next.clone(),
        count: refused.count,
        told_at: rfc3339(refused.told_at),
        last_at: rfc3339(refused.last_at),
        allow: gate::allow_command(&refused.code),
    }
}

fn findings(status: &Status) -> Vec<Finding> {
    let pause = status.paused.iter().map(|paused| Finding {
        id: "pause".to_owned(),
        code: "EB-paused".to_owned(),
        status: FindingStatus::Info,
        text: format!("{} paused all changes until {}: {}", paused.by, paused.until, paused.reason),
    });
    let allowed = status.allowed.iter().map(|allowed| Finding {
        id: format!("allow-{}", allowed.code.trim_start_matches("EB-")),
        code: "EB-allowed".to_owned(),
        status: FindingStatus::Warn,
        text: format!(
            "{} lets {} pass until {}: {}; it was used {} times in this boot",
            allowed.by, allowed.code, allowed.until, allowed.reason, allowed.used
        ),
    });
    pause.chain(allowed).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::report::status::Agent;

    fn hatches() -> Hatches {
        let [by, reason, code] =
            ["wang", "disk\u{1b}[2J\nroot: all is well", "EB-hostname"].map(str::to_owned);
        let pause = Pause { since: 1000, until: 1060, by: by.clone(), reason: reason.clone() };
        let allowed = vec![Allowance { code: code.clone(), since: 1000, until: 1060, by, reason }];
        let passed = vec![Passed { code, count: 3, last_at: 1005 }];
        Hatches { pause: Some(pause), allowed, passed, refused: Vec::new(), hidden: false }
    }

    fn status() -> Status {
        Status::starting("h", Agent { version: "0.1.0".to_owned(), pid: 7, starts_in_boot: 1 }, "x")
    }

    #[test]
    fn the_text_at_login_names_who_why_and_the_way_out_and_goes_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let text = hatches().motd().unwrap();
        assert!(text.contains("edge-bootstrap resume") && text.contains("gate revoke --code EB-hostname"));
        assert_eq!(text.lines().count(), 4, "a reason forges a line: {text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(tell_logins(&root, &hatches()).unwrap(), Change::Created);
        assert_eq!(root.stat(paths::MOTD).unwrap().unwrap().mode, 0o644);
        assert_eq!(tell_logins(&root, &hatches()).unwrap(), Change::Unchanged);
        assert_eq!(tell_logins(&root, &Hatches::default()).unwrap(), Change::Replaced);
        assert!(!root.exists(paths::MOTD));
    }

    #[test]
    fn a_status_is_filled_once_however_often_and_keeps_what_cannot_be_read() {
        let mut status = status();
        hatches().fill(&mut status);
        hatches().fill(&mut status);
        assert_eq!((status.findings.len(), status.allowed.len()), (2, 1));
        assert_eq!((status.allowed[0].used, status.paused.is_some()), (3, true));
        let mut same = status.clone();
        Hatches { hidden: true, ..Hatches::default() }.fill(&mut same);
        assert_eq!(same, status);
        Hatches::default().fill(&mut status);
        assert_eq!((status.findings.len(), status.allowed.len(), status.paused), (0, 0, None));
    }

    #[test]
    fn what_ends_is_told_once() {
        let (all, none) = (hatches(), Hatches::default());
        assert_eq!((none.ended(&all).len(), all.ended(&none).len(), all.ended(&all).len()), (2, 0, 0));
        assert_eq!((all.in_force().len(), none.in_force().len()), (2, 0));
    }
}

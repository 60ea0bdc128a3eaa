//! Names that others gave this host: noticed when they are put back, judged
//! after READY, told for a day.
//!
//! Owns how the step before and after the name's own, the traces and the
//! record become a finding. Judges nothing: that is `plan::suspects`.

use tracing::{debug, warn};

use super::{Agent, Order, Pass, Severity, Until};
use crate::activate::Changed;
use crate::error::Chain;
use crate::facts::rename::{Rename, Writer};
use crate::observe;
use crate::paths;
use crate::plan::{PlannedHostname, Refusal, suspects};
use crate::renames::{Record, is_news};
use crate::sys::hostnamed::Names;
use crate::sys::root::Stat;
use crate::sys::statefile::StateError;
use crate::sys::{Root, clock, host};

/// The kernel counts the start of a process in these (proc(5): `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: u64 = 100;

/// The names before the step that puts them right.
pub(super) struct Before {
    names: Names,
    file: Option<Stat>,
}

/// Looks; our own write takes the file's times away.
pub(super) fn before(root: &Root) -> Option<Before> {
    let names = Names::read(root).ok()?;
    Some(Before { names, file: root.stat(paths::HOSTNAME).ok().flatten() })
}

/// After that step: notes a name of others that is right again.
pub(super) fn note(agent: &Agent, wanted: Option<&PlannedHostname>, before: Option<Before>, pass: &Pass) {
    let Some(before) = before else { return };
    if let Err(error) = noted(agent, wanted, before, pass) {
        warn!(EDGE_STEP = "activate", EDGE_REASON = %Chain(&error), "a change of the hostname cannot be recorded, ignoring");
    }
}

fn noted(
    agent: &Agent,
    wanted: Option<&PlannedHostname>,
    before: Before,
    pass: &Pass,
) -> Result<(), StateError> {
    let record = Record::load(&agent.root);
    let Some(name) = wanted.map(|wanted| &wanted.name) else {
        return Record { kept: None, ..record.clone() }.store_over(&record, &agent.root);
    };
    if !Names::read(&agent.root)?.are(name) {
        return Ok(());
    }
    let mut next = Record { kept: Some(name.clone()), ..record.clone() };
    // The first time it is no change by others: the host gets its name.
    if record.kept.as_ref() == Some(name) && !before.names.are(name) {
        let rename = rename(agent, name, before, pass);
        warn!(
            EDGE_STEP = "activate",
            EDGE_CODE = "EB-hostname-changed",
            EDGE_REASON = rename.found().next().unwrap_or("(none)"),
            "hostname was another, put back"
        );
        next.add(rename);
    }
    next.store_over(&record, &agent.root)
}

fn rename(agent: &Agent, name: &str, before: Before, pass: &Pass) -> Rename {
    let Before { names, file } = before;
    let now = agent.clock.unix();
    let file_differed = !names.fixed_is(name);
    let file = file.filter(|_| file_differed);
    let seconds = |time: i64| u64::try_from(time).ok();
    let changed = pass.activated.iter().flat_map(|activated| &activated.changed);
    let mut by_hostnamed = changed.filter_map(|changed| {
        if let Changed::Hostname { by_hostnamed, .. } = changed { Some(*by_hostnamed) } else { None }
    });
    Rename {
        at: now,
        last: now,
        times: 1,
        boot_id: boot_id(&agent.root),
        boot_began: now.saturating_sub(boot_age(&agent.root)),
        kernel: names.kernel.filter(|kernel| kernel != name),
        file: names.fixed.filter(|fixed| fixed != name),
        file_differed,
        file_changed: file.and_then(|file| seconds(file.ctime)),
        file_modified: file.and_then(|file| seconds(file.mtime)),
        to: name.to_owned(),
        by_hostnamed: by_hostnamed.next().unwrap_or(false),
        who: None,
    }
}

fn boot_id(root: &Root) -> String {
    host::boot_id(root).unwrap_or_default()
}

/// Seconds since PID 1 began: in a container the kernel is older than the boot.
fn boot_age(root: &Root) -> u64 {
    let began = host::process_start(root, 1).unwrap_or(0) / TICKS_PER_SECOND;
    clock::since_boot().as_secs().saturating_sub(began)
}

/// At the end of a pass: judges what nobody has judged yet, where there is time
/// for it, and tells what happened lately.
pub(super) async fn tell(agent: &Agent, order: Order, pass: &mut Pass) {
    if !agent.root.exists(paths::RENAMES) {
        return;
    }
    let mut record = Record::load(&agent.root);
    if order.until == Until::Verified {
        judge(agent, &mut record).await;
    }
    let now = agent.clock.unix();
    let boot_id = boot_id(&agent.root);
    let mut recent = record.recent(now, &boot_id);
    let Some(newest) = recent.next() else { return };
    let severity = if is_news(newest, now) { Severity::Warn } else { Severity::Info };
    let finding = finding(newest, recent.count());
    pass.find(severity, finding);
}

async fn judge(agent: &Agent, record: &mut Record) {
    let before = record.clone();
    while let Some(at) = record.open() {
        let Some(rename) = record.renames.get(at).cloned() else { break };
        let traces = observe::rename::traces(&agent.root, &rename).await;
        let who = suspects::judge(&rename, &traces);
        warn!(EDGE_STEP = "observe", EDGE_CODE = "EB-hostname-changed", EDGE_REASON = %who.how, "hostname was changed by {}", who.writer);
        record.judged(at, who);
    }
    if let Err(error) = record.store_over(&before, &agent.root) {
        debug!(EDGE_STEP = "observe", EDGE_REASON = %Chain(&error), "judgement cannot be stored, retrying in the next pass");
    }
}

fn finding(rename: &Rename, earlier: usize) -> Refusal {
    let found = match (&rename.kernel, &rename.file) {
        (Some(kernel), Some(file)) if kernel != file => format!("{kernel} (in /etc/hostname {file})"),
        (Some(kernel), _) => kernel.clone(),
        (None, Some(file)) => format!("{file} (in /etc/hostname only)"),
        (None, None) => "gone from /etc/hostname".to_owned(),
    };
    let times = if rename.times > 1 { format!(", {} times", rename.times) } else { String::new() };
    let boot = if rename.is_of_an_earlier_boot() { "before boot" } else { "in boot" };
    let reason = format!(
        "the hostname was {found}, put back to {} at {}{times}; it was changed {boot} {} by {}",
        rename.to,
        clock::rfc3339(rename.last),
        rename.boot_id,
        by(rename)
    );
    let more = match earlier {
        0 => String::new(),
        more => format!("; earlier changes: {more}, in {}", paths::RENAMES),
    };
    Refusal::new("EB-hostname-changed", reason, format!("{}{more}", next(rename)))
}

fn by(rename: &Rename) -> String {
    match &rename.who {
        Some(who) => format!("{}: {}", who.writer, who.how),
        None => "somebody who is still being looked for".to_owned(),
    }
}

fn next(rename: &Rename) -> &'static str {
    match rename.who.as_ref().map(|who| &who.writer) {
        Some(Writer::Person(_)) => "tell that person that the central service names this host",
        Some(Writer::Hostnamed | Writer::Unknown) | None => {
            "nothing: the node is not affected; find who names this host if it comes again"
        }
        Some(_) => {
            "nothing: the node is not affected; stop that program from naming this host if it comes again"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::rename::Who;

    #[test]
    fn a_finding_says_what_was_so_since_when_and_who() {
        let mut rename = Rename {
            last: 1_000,
            times: 3,
            boot_id: "b1".into(),
            boot_began: 500,
            kernel: Some("web-7".into()),
            to: "n".into(),
            ..Rename::default()
        };
        let open = finding(&rename, 0);
        assert_eq!(
            open.reason,
            "the hostname was web-7, put back to n at 1970-01-01T00:16:40Z, 3 times; it was changed in boot b1 by somebody who is still being looked for"
        );
        rename.who = Some(Who { writer: Writer::CloudInit, how: "its log".into() });
        (rename.kernel, rename.file, rename.file_changed) = (None, Some("web-7".into()), Some(400));
        let judged = finding(&rename, 2);
        assert!(judged.reason.contains("web-7 (in /etc/hostname only)"), "{}", judged.reason);
        assert!(
            judged.reason.ends_with("changed before boot b1 by cloud-init: its log"),
            "{}",
            judged.reason
        );
        assert!(judged.next.contains("earlier changes: 2"), "{}", judged.next);
    }
}

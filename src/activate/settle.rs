//! Before READY: name, boot links, `Reload`.
//!
//! Queues no job. Links are synced here because a power cut loses what
//! systemd's own enabling leaves behind.

use std::collections::BTreeSet;

use super::record::Record;
use super::{ActivateError, Activated, Changed, Host, Wish};
use crate::plan::{PlannedHostname, PlannedUnit, Wanted};
use crate::sys::hostnamed::{self, Renamed};
use crate::sys::systemd::{LinkChange, UnitState};
use crate::sys::{FileError, Root};

/// Where units that boot starts have their links.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

/// Makes name and boot links right and lets systemd read what changed.
///
/// A name that cannot be set and a unit that cannot be enabled are troubles in
/// the result; the rest is done all the same.
///
/// # Errors
/// When systemd is not reached (the name is set by then) or the run directory
/// cannot be written.
pub async fn settle(host: Host<'_>, wish: &Wish<'_>) -> Result<Activated, ActivateError> {
    let mut record = Record::load(host.root);
    let mut done = Activated::default();
    if let Some(hostname) = wish.hostname {
        settle_hostname(host, hostname, &mut record, &mut done).await;
        record.store(host.root)?;
    }
    let mut reload = wish.unit_files_changed;
    for unit in wish.units.iter().filter(|unit| unit.wanted != Wanted::Rerun) {
        let state = match host.systemd.unit(&unit.name).await {
            Ok(state) => state,
            Err(error) if error.is_transport() => return Err(error.into()),
            Err(error) => {
                done.trouble(&unit.name, &error);
                continue;
            }
        };
        reload |= state.need_reload;
        reload |= settle_links(host, unit, &state, &mut record, &mut done).await?;
    }
    record.store(host.root)?;
    if reload {
        host.systemd.reload().await?;
        done.changed.push(Changed::Reloaded);
    }
    Ok(done)
}

async fn settle_hostname(host: Host<'_>, wanted: &PlannedHostname, record: &mut Record, done: &mut Activated) {
    let synced = record.hostname_synced.as_deref() == Some(&wanted.name);
    match hostnamed::ensure(host.root, host.systemd, &wanted.name, synced).await {
        Ok(renamed) => {
            record.hostname_synced = Some(wanted.name.clone());
            if let Renamed::Changed { before, by_hostnamed } = renamed {
                let from = before.kernel.or(before.fixed);
                done.changed.push(Changed::Hostname { from, to: wanted.name.clone(), by_hostnamed });
            }
        }
        Err(error) => {
            record.hostname_synced = None;
            done.trouble("hostname", &error);
        }
    }
}

/// Whether links changed.
async fn settle_links(
    host: Host<'_>,
    unit: &PlannedUnit,
    state: &UnitState,
    record: &mut Record,
    done: &mut Activated,
) -> Result<bool, ActivateError> {
    let person = record.note(state, host.clock);
    if unit.wanted == Wanted::Stopped {
        record.note_unwanted(state, host.clock);
    }
    if !unit.manage_boot {
        return Ok(false);
    }
    let links = match (unit.wanted, state.file_state.as_str()) {
        (Wanted::Running, "disabled") if person.is_none() => host.systemd.enable(&unit.name).await,
        (Wanted::Stopped, "enabled" | "enabled-runtime") => host.systemd.disable(&unit.name).await,
        (Wanted::Running, "enabled") => {
            sync_once(host.root, &unit.name, record, done);
            return Ok(false);
        }
        _ => return Ok(false),
    };
    match links {
        Ok(links) => {
            took_effect(host.root, unit, &links, record, done);
            Ok(true)
        }
        Err(error) if error.is_transport() => Err(error.into()),
        Err(error) => {
            done.trouble(&unit.name, &error);
            Ok(false)
        }
    }
}

fn took_effect(root: &Root, unit: &PlannedUnit, links: &[LinkChange], record: &mut Record, done: &mut Activated) {
    let seen = record.unit(&unit.name);
    seen.enabled = unit.wanted == Wanted::Running;
    done.changed.push(if seen.enabled {
        Changed::Enabled(unit.name.clone())
    } else {
        Changed::Disabled(unit.name.clone())
    });
    let synced = sync_links(root, links);
    record.unit(&unit.name).synced = synced.is_ok();
    if let Err(error) = synced {
        done.trouble(&unit.name, &error);
    }
}

/// Links that were there before us may be younger than the last sync.
fn sync_once(root: &Root, unit: &str, record: &mut Record, done: &mut Activated) {
    if record.unit(unit).synced || !root.exists(WANTS) {
        return;
    }
    match root.sync_dir(WANTS) {
        Ok(()) => record.unit(unit).synced = true,
        Err(error) => done.trouble(unit, &error),
    }
}

/// Syncs the directories of all links, and those that hold them: systemd makes
/// a missing `*.wants` itself.
fn sync_links(root: &Root, links: &[LinkChange]) -> Result<(), FileError> {
    let parents = links.iter().filter_map(|(_, path, _)| parent(path));
    let mut directories: BTreeSet<&str> = parents.clone().collect();
    directories.extend(parents.filter_map(parent));
    for directory in directories.into_iter().rev().filter(|directory| root.exists(directory)) {
        root.sync_dir(directory)?;
    }
    Ok(())
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
}

//! Before READY: name, boot links, `Reload`.
//!
//! Queues no job. Links are synced here because a power cut loses what
//! systemd's own enabling leaves behind.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::record::Record;
use super::{ActivateError, Activated, Changed, Host, Wish, mount};
use crate::ordered::Ordered as _;
use crate::plan::{PlannedHostname, PlannedUnit, Wanted};
use crate::sys::hostnamed::{self, Renamed};
use crate::sys::systemd::{LinkChange, SystemdError, UnitState};
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
    let mut pass = Pass { host, record: Record::load(host.root), done: Activated::default() };
    if let Some(hostname) = wish.hostname {
        pass.hostname(hostname).await;
        pass.record.store(host.root)?;
    }
    let mut reload = wish.unit_files_changed;
    let units: Vec<&PlannedUnit> = wish.units.iter().filter(|unit| unit.wanted != Wanted::Rerun).collect();
    // All at once: in the middle of a boot systemd takes its time for each answer.
    let states = join_all(units.iter().map(|unit| host.systemd.unit(&unit.name))).await;
    for (unit, state) in units.into_iter().zip(states) {
        let settled = match state {
            Ok(state) => pass.unit(unit, &state).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(needs_reload) => reload |= needs_reload,
            Err(error) if error.is_transport() => {
                pass.record.store(host.root)?;
                return Err(error.into());
            }
            Err(error) => pass.done.trouble(&unit.name, &error),
        }
    }
    pass.record.store(host.root)?;
    if reload {
        host.systemd.reload().await?;
        pass.done.changed.push(Changed::Reloaded);
    }
    Ok(pass.done)
}

struct Pass<'a> {
    host: Host<'a>,
    record: Record,
    done: Activated,
}

impl Pass<'_> {
    async fn hostname(&mut self, wanted: &PlannedHostname) {
        let synced = self.record.hostname_synced.as_deref() == Some(&wanted.name);
        match hostnamed::ensure(self.host.root, self.host.systemd, &wanted.name, synced).await {
            Ok(renamed) => {
                self.record.hostname_synced = Some(wanted.name.clone());
                if let Renamed::Changed { before, by_hostnamed } = renamed {
                    let from = before.kernel.or(before.fixed);
                    self.done.changed.push(Changed::Hostname { from, to: wanted.name.clone(), by_hostnamed });
                }
            }
            Err(error) => {
                self.record.hostname_synced = None;
                self.done.trouble("hostname", &error);
            }
        }
    }

    /// Whether systemd has to read its files again because of this unit.
    async fn unit(&mut self, unit: &PlannedUnit, state: &UnitState) -> Result<bool, SystemdError> {
        let person = match unit.wanted {
            Wanted::Stopped => {
                self.record.note_unwanted(state, self.host.clock);
                None
            }
            Wanted::Running | Wanted::Rerun => mount::note(self.host, &mut self.record, state).await,
        };
        if !unit.manage_boot {
            return Ok(state.need_reload);
        }
        match (unit.wanted, state.file_state.as_str()) {
            (Wanted::Running, "disabled") if person.is_none() => {
                let links = self.host.systemd.enable(&unit.name).await?;
                self.linked(&unit.name, true, &links);
            }
            (Wanted::Stopped, "enabled" | "enabled-runtime") => {
                let links = self.host.systemd.disable(&unit.name).await?;
                self.linked(&unit.name, false, &links);
            }
            (Wanted::Running, "enabled") => {
                self.sync_once(&unit.name);
                return Ok(state.need_reload);
            }
            _ => return Ok(state.need_reload),
        }
        Ok(true)
    }

    fn linked(&mut self, unit: &str, enabled: bool, links: &[LinkChange]) {
        let change = if enabled { Changed::Enabled } else { Changed::Disabled };
        self.done.changed.push(change(unit.to_owned()));
        let synced = sync_links(self.host.root, links);
        let seen = self.record.unit(unit);
        (seen.enabled, seen.synced) = (enabled, synced.is_ok());
        if let Err(error) = synced {
            self.done.trouble(unit, &error);
        }
    }

    /// Links that were there before us may be younger than the last sync.
    fn sync_once(&mut self, unit: &str) {
        if self.record.unit(unit).synced || !self.host.root.exists(WANTS) {
            return;
        }
        match self.host.root.sync_dir(WANTS) {
            Ok(()) => self.record.unit(unit).synced = true,
            Err(error) => self.done.trouble(unit, &error),
        }
    }
}

/// Syncs the directories of all links, and those that hold them: systemd makes
/// a missing `*.wants` itself.
fn sync_links(root: &Root, links: &[LinkChange]) -> Result<(), FileError> {
    let parents = links.iter().filter_map(|(_, path, _)| parent(path));
    let mut directories: BTreeSet<&str> = parents.clone().into_set();
    directories.extend(parents.filter_map(parent));
    for directory in directories.into_iter().rev().filter(|directory| root.exists(directory)) {
        root.sync_dir(directory)?;
    }
    Ok(())
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
}

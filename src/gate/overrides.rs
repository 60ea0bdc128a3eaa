//! Whether others set something for k3s that breaks an invariant, and whether
//! another k3s is there already.
//!
//! Owns reading drop-ins, unit files, environment files and listening sockets
//! before a start; the rules are the plan's ([`crate::plan::forks`]).

use super::Look;
use crate::facts::k3s_config::with_files;
use crate::facts::overrides::Override;
use crate::observe::{self, ports};
use crate::plan::{Refusal, forks};

/// Settings of others for the unit that starts; none when they cannot be read.
pub(super) fn of<'a>(look: &'a mut Look<'_>) -> &'a [Override] {
    let (root, unit, notes) = (look.root, look.unit, &mut look.notes);
    look.overrides.get_or_insert_with(|| {
        let found = observe::overrides::of_unit(root, unit);
        notes.extend(found.reason().map(|reason| format!("settings of others were not checked: {reason}")));
        found.known().cloned().unwrap_or_default()
    })
}

pub(super) fn unit_breaks_nothing(look: &mut Look<'_>) -> Option<Refusal> {
    let overrides = of(look).to_vec();
    forks::override_breaks(look.effective.known()?, &overrides, look.identity.as_ref()?)
}

pub(super) fn drop_ins_break_nothing(look: &mut Look<'_>) -> Option<Refusal> {
    let drop_ins = observe::k3s::drop_ins(look.root);
    let layers = drop_ins.known().filter(|layers| !layers.is_empty())?;
    let paths = observe::k3s::drop_in_paths(look.root);
    let files = paths.known().into_iter().flatten().map(String::as_str).collect();
    let main = observe::k3s::main_config(look.root);
    forks::drop_in_breaks(main.known()?, &with_files(layers, files), look.identity.as_ref()?)
}

/// A k3s of somebody else would share ports and datastore with this one. Any
/// other program on a port is told, and k3s itself ends at it.
pub(super) fn nobody_else_runs(look: &mut Look<'_>) -> Option<Refusal> {
    for listener in ports::listeners(look.root) {
        if listener.is_of(look.unit) {
            continue;
        }
        let who = format!(
            "process {} ({}) in {} listens on port {}",
            listener.pid,
            listener.comm,
            listener.cgroup.lines().next_back().unwrap_or("no control group"),
            listener.port
        );
        if listener.is_k3s() {
            return Some(Refusal::new(
                "EB-orphan",
                format!("another k3s is running: {who}"),
                format!("end it: kill {}; then k3s starts by itself", listener.pid),
            ));
        }
        look.notes.push(who);
    }
    None
}

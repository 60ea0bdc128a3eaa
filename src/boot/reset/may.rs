//! Why a reset, or the end of what runs, must not begin.
//!
//! Owns the reasons, with what to do about each. A reset that has begun is not
//! asked again what its cluster loses: that was lost when it began.

use super::Wish;
use crate::boot::Agent;
use crate::observe::strangers;
use crate::plan::reset::processes;
use crate::plan::reset::quorum::Loss;
use crate::sys::host;
use crate::{pause, reset};

/// Why not, one line each; empty when nothing is in the way.
pub(super) fn obstacles(agent: &Agent, wish: Wish, loss: Option<&Loss>) -> Vec<String> {
    let all = strangers::processes(&agent.root);
    let mut found = Vec::new();
    if processes::is_inside(&all, host::pid()) {
        let why =
            "this shell runs in a pod or in k3s's unit and would end with it; log in to the host itself";
        found.push(why.to_owned());
    }
    if let Some(kubelet) = processes::other_kubelet(&all) {
        found.push(format!(
            "process {} ({}) is the kubelet of another Kubernetes: its pods, mounts and chains cannot be told from \
             those of k3s; stop it first",
            kubelet.pid, kubelet.name
        ));
    }
    // Ending k3s by hand is what a person may do on a paused host.
    if let Some(pause) = pause::current(&agent.root, agent.clock).filter(|_| !wish.kill_only) {
        found.push(format!("paused by {}: {}; `edge-bootstrap resume` ends it", pause.by, pause.reason));
    }
    let breaks = loss.and_then(|loss| loss.breaks).filter(|_| !wish.kill_only && !wish.break_cluster);
    if let Some(why) = breaks.filter(|_| reset::unfinished(&agent.root).is_none()) {
        let forget = if wish.forget { " --forget" } else { "" };
        found.push(format!("{why}: `edge-bootstrap reset{forget} --break-cluster --yes`"));
    }
    found
}

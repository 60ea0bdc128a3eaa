//! The node IP of a pass: is it here, is it ours to add, does another host use it.
//!
//! Owns when the acts on addresses run and what their results mean for a pass;
//! the rules are the plan's ([`crate::plan::conflict`], [`crate::plan::absence`],
//! [`crate::plan::address`]). Never stops a node that runs, and never takes an
//! address away.

pub mod acts;

use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Agent, Order, Pass, Severity, Stop, StopKind, Until, act};
use crate::error::Chain;
use crate::facts::runtime::PinnedIdentity;
use crate::plan::conflict::{self, FirstStart, Look};
use crate::plan::{self, CheckedPlan, Plan, PlannedAddress, Refusal, rules};
use crate::sys::{clock, host};
use crate::wire::json;
use crate::{hold, observe, paths};

/// Three probes, and three more to unmask a router, take about 5 s.
const PROBE: Duration = Duration::from_secs(15);
/// One netlink message, and two announcements.
const ADD: Duration = Duration::from_secs(5);
/// Between two tries of a look that could not even be begun.
const RETRY: Duration = Duration::from_secs(60);
/// Holds of this module, which end before the unit is started and not after it.
const HOLDS: [&str; 3] = ["EB-wait-address-probe", "EB-address-duplicate", "EB-ip-absent"];

/// What passes remember of the address from one to the next.
#[derive(Debug, Default)]
pub struct Memory {
    was_absent: bool,
    came_back: bool,
    asked_at: Option<Duration>,
    look: Option<JoinHandle<()>>,
}

impl Memory {
    fn note(&mut self, is_absent: bool) {
        self.came_back |= self.was_absent && !is_absent;
        self.was_absent = is_absent;
    }

    /// Whether a look may begin: none runs, and none was begun just now.
    fn is_free(&self, now: Duration) -> bool {
        let runs = self.look.as_ref().is_some_and(|look| !look.is_finished());
        let recent = self.asked_at.is_some_and(|asked| now.saturating_sub(asked) < RETRY);
        !runs && (!recent || self.came_back)
    }
}

/// Tells what is wrong with the address of a host that has one, whatever else
/// this pass finds. k3s goes on: only the gate refuses starts.
pub(super) fn notice(agent: &mut Agent, pass: &mut Pass) {
    let Some(identity) = plan::pinned(&pass.facts).cloned() else { return };
    let Some(interfaces) = pass.facts.network.interfaces.known() else { return };
    let absent = rules::address_fits(interfaces, &identity);
    let kernels = conflict::found_by_kernel(interfaces, identity.node_ip);
    agent.address.note(absent.is_some());
    let heard = last(agent, identity.node_ip).and_then(|look| conflict::finding(&look));
    for refusal in [absent, heard, kernels].into_iter().flatten() {
        pass.find(Severity::Fail, refusal);
    }
}

/// Puts the address in place where that is ours to do, and keeps a host that
/// never joined from its first start until nobody else was heard with it.
pub(super) async fn settle(
    agent: &mut Agent,
    order: Order,
    checked: &CheckedPlan,
    pass: &mut Pass,
) -> Result<(), Stop> {
    let plan = checked.plan();
    let Some(identity) = plan.identity.as_ref().filter(|_| agent.root.is_host()) else { return Ok(()) };
    if identity.joined.is_some() {
        // The original comes back at once; who else has its address is told later.
        add(agent, plan, pass).await;
        return Ok(());
    }
    if plan.k3s_unit().is_none() || pass.facts.network.interfaces.known().is_none() {
        return Ok(());
    }
    let interface = interface(plan, identity, pass).ok_or_else(|| absent(identity, pass))?;
    nobody_else(agent, order, (&interface, identity.node_ip)).await?;
    add(agent, plan, pass).await;
    if pass.facts.network.holder(identity.node_ip).is_none() {
        return Err(absent(identity, pass));
    }
    end_hold(agent);
    Ok(())
}

/// Where the address is, or will be.
fn interface(plan: &Plan, identity: &PinnedIdentity, pass: &Pass) -> Option<String> {
    let holder = pass.facts.network.holder(identity.node_ip).map(|nic| nic.name.clone());
    holder.or_else(|| plan.address.as_ref().map(|planned| planned.interface.clone()))
}

fn absent(identity: &PinnedIdentity, pass: &Pass) -> Stop {
    let interfaces = pass.facts.network.interfaces.known().map(Vec::as_slice).unwrap_or_default();
    let unsaid = || {
        Refusal::new(
            "EB-ip-absent",
            "the node IP is on no interface of this host",
            "check cable and network configuration",
        )
    };
    held(rules::address_fits(interfaces, identity).unwrap_or_else(unsaid))
}

fn held(why: Refusal) -> Stop {
    Stop { why, kind: StopKind::Held }
}

async fn nobody_else(agent: &Agent, order: Order, (interface, ip): (&str, IpAddr)) -> Result<(), Stop> {
    let answer =
        |agent: &Agent| conflict::first_start(last(agent, ip).as_ref(), clock::since_boot().as_secs());
    match answer(agent) {
        FirstStart::Go => return Ok(()),
        FirstStart::Taken(why) => return Err(held(why)),
        FirstStart::Ask if order.until == Until::Ready => return Err(held(not_asked(ip))),
        FirstStart::Ask => ask(agent, interface, ip).await,
    }
    match answer(agent) {
        FirstStart::Taken(why) => Err(held(why)),
        // What could not be asked is no evidence.
        FirstStart::Go | FirstStart::Ask => Ok(()),
    }
}

fn not_asked(ip: IpAddr) -> Refusal {
    Refusal::new(
        "EB-wait-address-probe",
        format!("whether another host has {ip} is asked before this host's first start"),
        "nothing: it takes some seconds after the boot",
    )
}

/// The hold of the pass before READY must not refuse the start that follows now.
fn end_hold(agent: &Agent) {
    let is_ours = hold::current(&agent.root).is_some_and(|hold| HOLDS.contains(&hold.code.as_str()));
    if is_ours && let Err(error) = hold::clear(&agent.root) {
        warn!(EDGE_STEP = "start", EDGE_REASON = %Chain(&error), "hold cannot be removed, retrying in the next pass");
    }
}

/// Looks for another host with the address of a node that runs, beside
/// everything else: nothing waits for it, and a later pass tells the result.
pub(super) fn watch(agent: &mut Agent, checked: &CheckedPlan, pass: &Pass) {
    let Some(identity) = checked.plan().identity.as_ref().filter(|_| agent.root.is_host()) else { return };
    let (ip, now) = (identity.node_ip, clock::since_boot());
    let Some(nic) = pass.facts.network.holder(ip) else { return };
    let due = conflict::is_due(last(agent, ip).as_ref(), now.as_secs(), agent.address.came_back);
    if !due || !agent.address.is_free(now) {
        return;
    }
    let (root, systemd, words) = (agent.root.clone(), agent.systemd.clone(), probe_words(&nic.name, ip));
    agent.address.came_back = false;
    agent.address.asked_at = Some(now);
    agent.address.look = Some(tokio::task::spawn(async move {
        if let Err(error) = act::run_act((&root, &systemd), "probe-address", &words, PROBE).await {
            warn!(EDGE_STEP = "verify", EDGE_REASON = %Chain(&error), "nobody could be asked for the node IP, retrying in a minute");
        }
    }));
}

async fn ask(agent: &Agent, interface: &str, ip: IpAddr) {
    let words = probe_words(interface, ip);
    if let Err(error) = act::run_act((&agent.root, &agent.systemd), "probe-address", &words, PROBE).await {
        warn!(EDGE_STEP = "start", EDGE_REASON = %Chain(&error), "nobody could be asked for the node IP, going on");
    }
}

fn probe_words(interface: &str, ip: IpAddr) -> [String; 4] {
    ["--interface".to_owned(), interface.to_owned(), "--ip".to_owned(), ip.to_string()]
}

/// The last look of this boot at `ip`; what cannot be read is none.
fn last(agent: &Agent, ip: IpAddr) -> Option<Look> {
    let bytes = agent.root.read(paths::ADDRESS_LOOK).ok()??;
    let look: Look = json::read(&bytes).ok()?;
    let boot_id = host::boot_id(&agent.root).ok()?;
    (look.ip == ip && look.boot_id == boot_id).then_some(look)
}

/// Adds the planned address where it is missing, and looks at the host again.
async fn add(agent: &Agent, plan: &Plan, pass: &mut Pass) {
    let Some(planned) = &plan.address else { return };
    if pass.facts.network.holder(planned.cidr.address).is_some() {
        return;
    }
    match act::run_act((&agent.root, &agent.systemd), "add-address", &add_words(planned), ADD).await {
        Ok(()) => {
            info!(EDGE_STEP = "activate", EDGE_INTERFACE = %planned.interface, EDGE_REASON = %planned.reason, "node IP added");
            pass.facts.network = observe::network::observe(&agent.root);
            pass.findings.retain(|(finding, _)| finding.code != "EB-ip-absent");
        }
        Err(error) => pass.find(Severity::Fail, not_added(planned, &Chain(&error).to_string())),
    }
}

fn add_words(planned: &PlannedAddress) -> [String; 4] {
    ["--interface".to_owned(), planned.interface.clone(), "--address".to_owned(), planned.cidr.to_string()]
}

fn not_added(planned: &PlannedAddress, why: &str) -> Refusal {
    Refusal::new(
        "EB-manage-ip",
        format!("{} could not be put on {}: {why}", planned.cidr, planned.interface),
        "it is tried again by itself; look at the interface",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_comes_back_is_looked_for_at_once_and_others_not_again_and_again() {
        let mut memory = Memory { asked_at: Some(Duration::from_secs(100)), ..Memory::default() };
        assert!(!memory.is_free(Duration::from_secs(159)) && memory.is_free(Duration::from_secs(160)));
        memory.note(false);
        assert!(!memory.came_back, "it was never away");
        memory.note(true);
        memory.note(false);
        assert!(memory.is_free(Duration::from_secs(101)), "it came back");
    }
}

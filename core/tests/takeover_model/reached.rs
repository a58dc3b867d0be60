//! What a scenario must come across, for its result to mean something.

use stateright::Property;

use crate::model::{State, Takeover};
use crate::node::{Commit, Node, Step};
use crate::record::Kind;

pub(crate) const SERVED_TWICE: &str = "two reigns are granted from";
pub(crate) const FAILOVER: &str = "a leader is overtaken with its reign in memory";
pub(crate) const HAND_OVER: &str = "a released reign is taken over without a wait";
pub(crate) const OWN_RETURN: &str = "a node takes over from itself without a wait";
pub(crate) const LATE_LANDING: &str = "a commit of a claim that is over may land";
pub(crate) const RIVALS: &str = "commits of two nodes have the same base";
pub(crate) const COPIES: &str = "a node learns that the first of its copies landed";
pub(crate) const SETTLED: &str = "a version-only commit decides that a renewal is not stored";
pub(crate) const UNOPENED: &str = "a node crashes between fence and open";
pub(crate) const PAUSED_CALL: &str = "a checked call outlives its reign";
pub(crate) const EVIDENCE: &str = "a wait counts from evidence";
pub(crate) const ADOPTED: &str =
    "a leader of the lost state serves beside one of the adopted state";

pub(crate) fn properties() -> Vec<Property<Takeover>> {
    vec![
        Property::sometimes(SERVED_TWICE, served_twice),
        Property::sometimes(FAILOVER, failover),
        Property::sometimes(HAND_OVER, hand_over),
        Property::sometimes(OWN_RETURN, own_return),
        Property::sometimes(LATE_LANDING, late_landing),
        Property::sometimes(RIVALS, rivals),
        Property::sometimes(COPIES, copies),
        Property::sometimes(SETTLED, settled),
        Property::sometimes(UNOPENED, unopened),
        Property::sometimes(PAUSED_CALL, paused_call),
        Property::sometimes(EVIDENCE, evidence),
        Property::sometimes(ADOPTED, adopted),
    ]
}

/// A window begins above the high-water, and so above the first window.
fn served_twice(model: &Takeover, state: &State) -> bool {
    let first = 1 + model.scenario.headroom;
    let from_first = state.answered & ((1 << (first + 1)) - 1) != 0;
    let extended = model.scenario.budget.extensions * model.scenario.extension;
    from_first && state.answered >> (first + extended + 1) != 0
}

/// The other one does not know yet: it still has its reign, and would renew it.
fn failover(_: &Takeover, state: &State) -> bool {
    let overtaken = |it: &Node| it.step == Step::Leading && it.epoch < state.record.epoch;
    state.leader().is_some() && state.nodes.iter().any(overtaken)
}

/// No time has passed, so that only a release can have closed the other reign.
fn hand_over(_: &Takeover, state: &State) -> bool {
    state.tick == 0
        && state.record.released
        && state.commits.iter().any(|open| {
            open.kind == Kind::Open
                && open.base == state.version
                && state.record.opened_by.is_some_and(|id| usize::from(id) != open.node)
        })
}

/// The reign that its fence replaced is open to this day, and no time has passed.
fn own_return(_: &Takeover, state: &State) -> bool {
    let opens = |commit: &Commit| {
        commit.kind == Kind::Open
            && commit.base == state.version
            && state.record.opened_by.map(usize::from) == Some(commit.node)
    };
    state.tick == 0 && !state.record.released && state.commits.iter().any(opens)
}

fn late_landing(model: &Takeover, state: &State) -> bool {
    let late = |commit: &Commit| {
        let current = commit.awaited && commit.epoch == state.nodes[commit.node].epoch;
        !current && model.may_land(state, commit)
    };
    state.commits.iter().any(late)
}

/// All but one of them come to nothing.
fn rivals(model: &Takeover, state: &State) -> bool {
    let landable = |commit: &&Commit| model.may_land(state, commit);
    let mut nodes = state.commits.iter().filter(landable).map(|commit| commit.node);
    nodes.next().is_some_and(|first| nodes.any(|other| other != first))
}

/// Its node has sent a second one later, which can be told by the tick.
fn copies(model: &Takeover, state: &State) -> bool {
    let first = |open: &Commit| {
        let retried = state.left.retries < model.scenario.budget.retries;
        open.kind == Kind::Open && open.stored && retried && open.start % 1000 == 1
    };
    state.tick > 0 && state.commits.iter().any(first)
}

fn settled(_: &Takeover, state: &State) -> bool {
    state.commits.iter().any(|commit| commit.kind == Kind::Settle && commit.stored)
}

fn unopened(_: &Takeover, state: &State) -> bool {
    let fenced = |it: &Node| it.epoch == state.record.epoch;
    state.record.version == state.version
        && state.record.epoch > 0
        && state.record.released
        && state.record.opened_by.is_none()
        && !state.nodes.iter().any(fenced)
        && state.commits.is_empty()
}

fn paused_call(_: &Takeover, state: &State) -> bool {
    let calls = state.nodes.iter().filter_map(|it| it.call);
    state.leader().is_some() && { calls }.any(|call| call.epoch < state.record.epoch)
}

fn evidence(model: &Takeover, state: &State) -> bool {
    let counts = |commit: &Commit| match (commit.wait, state.nodes[commit.node].seen) {
        (Some(wait), Some(seen)) => {
            commit.stored
                && model.counts(seen.version, wait.replaced)
                && seen.at < model.boot_clock(state, commit.node)
        }
        _ => false,
    };
    state.commits.iter().any(counts)
}

fn adopted(_: &Takeover, state: &State) -> bool {
    let lost = |it: &Node| it.reign.is_some_and(|reign| reign.epoch < 16 && !reign.closed);
    state.leader().is_some_and(|leader| state.nodes[leader].epoch > 16)
        && state.nodes.iter().any(lost)
}

impl State {
    /// The node that leads with the epoch of the record.
    fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| node.step == Step::Leading && node.epoch == self.record.epoch;
        self.nodes.iter().position(leads)
    }
}

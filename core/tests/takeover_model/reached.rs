//! What a scenario must come across, for its result to mean something.

use stateright::Property;

use crate::model::{State, Takeover};
use crate::node::{Commit, Node, Step};
use crate::record::{Command, Reply, Stage};

pub(crate) const FAILOVER: &str = "a leader is overtaken with its reign in memory";
pub(crate) const HAND_OVER: &str = "a released reign is taken over without a wait";
pub(crate) const OWN_RETURN: &str = "a node takes over from itself without a wait";
pub(crate) const LATE_LANDING: &str = "a commit lands that was given up";
pub(crate) const UNOPENED: &str = "a node crashes between fence and open";
pub(crate) const PAUSED_CALL: &str = "a checked call outlives its reign";
pub(crate) const EVIDENCE: &str = "a wait counts from evidence";

pub(crate) fn properties() -> Vec<Property<Takeover>> {
    vec![
        Property::sometimes(FAILOVER, failover),
        Property::sometimes(HAND_OVER, hand_over),
        Property::sometimes(OWN_RETURN, own_return),
        Property::sometimes(LATE_LANDING, late_landing),
        Property::sometimes(UNOPENED, unopened),
        Property::sometimes(PAUSED_CALL, paused_call),
        Property::sometimes(EVIDENCE, evidence),
    ]
}

/// The other one does not know yet: it still has its reign, and would renew it.
fn failover(_: &Takeover, state: &State) -> bool {
    let overtaken = |it: &Node| it.step == Step::Leading && it.epoch < state.record.epoch;
    state.leader().is_some() && state.nodes.iter().any(overtaken)
}

/// No time has passed, so that only a release can have closed the other reign.
fn hand_over(_: &Takeover, state: &State) -> bool {
    let closed =
        |it: &Node| it.step != Step::Leading && it.reign.is_some_and(|reign| reign.deadline == 0);
    state.tick == 0 && state.leader().is_some() && state.nodes.iter().any(closed)
}

/// The reign that its fence replaced is open to this day, and no time has passed.
fn own_return(_: &Takeover, state: &State) -> bool {
    let opens = |commit: &Commit| {
        matches!(commit.command, Command::Open { .. })
            && commit.epoch() == state.record.epoch
            && state.record.opened_by == Some(commit.author.id)
    };
    state.tick == 0
        && state.record.stage == Stage::Fenced
        && !state.record.released
        && state.commits.iter().any(opens)
}

fn late_landing(model: &Takeover, state: &State) -> bool {
    let lands = |commit: &Commit| {
        !commit.awaited && state.record.accepts(model.rules, commit.epoch(), commit.command)
    };
    state.commits.iter().any(lands)
}

fn unopened(_: &Takeover, state: &State) -> bool {
    let epoch = state.record.epoch;
    epoch > 0
        && epoch == state.last_epoch
        && state.record.stage == Stage::Fenced
        && state.nodes.iter().all(|it| it.epoch != epoch)
}

fn paused_call(_: &Takeover, state: &State) -> bool {
    let calls = state.nodes.iter().filter_map(|it| it.call);
    state.leader().is_some() && { calls }.any(|call| call.epoch < state.record.epoch)
}

fn evidence(model: &Takeover, state: &State) -> bool {
    let counts = |commit: &Commit| match (commit.reply, state.nodes[commit.node].seen) {
        (Some(Reply::Fenced { replaced, .. }), Some(seen)) => {
            seen.revision == replaced.revision && seen.at < model.boot_clock(state, commit.node)
        }
        _ => false,
    };
    state.commits.iter().any(counts)
}

impl State {
    /// The node that leads with the epoch of the record.
    fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| node.step == Step::Leading && node.epoch == self.record.epoch;
        self.nodes.iter().position(leads)
    }
}

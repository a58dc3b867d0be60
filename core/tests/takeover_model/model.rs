//! The state space: what there is, what may happen next, and what must hold.

use stateright::{Model, Property};

use crate::clauses::{Clause, Rules};
use crate::node::{Commit, Node, Step};
use crate::reached;
use crate::record::{Command, Record};
use crate::scenario::{Budget, Scenario};

pub(crate) const ORDER: &str = "G1 order";
pub(crate) const UNIQUENESS: &str = "G2 uniqueness";
pub(crate) const FENCED: &str = "G5 fenced";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Promise {
    Order,
    Uniqueness,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Real time.
    pub(crate) tick: u8,
    pub(crate) record: Record,
    pub(crate) nodes: Vec<Node>,
    /// In order of epoch, and within an epoch in the order submitted.
    pub(crate) commits: Vec<Commit>,
    /// The timestamps that clients received, one bit each.
    pub(crate) answered: u64,
    pub(crate) broken: Option<Promise>,
    /// Whether a command was accepted although one of a newer epoch had been.
    pub(crate) older_committed: bool,
    /// The highest epoch claimed so far.
    pub(crate) last_epoch: u8,
    /// How many nodes have claimed so far; they start in order, since they are alike.
    pub(crate) claimants: usize,
    pub(crate) left: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Tick,
    /// A node learns that it leads, and submits its fence.
    Claim {
        node: usize,
        now: u8,
    },
    /// A commit takes effect, its submitter alive or not.
    Land {
        commit: usize,
    },
    Receive {
        commit: usize,
    },
    /// A node gives up on a commit, which may still land, and submits it again.
    Retry {
        commit: usize,
    },
    Open {
        node: usize,
    },
    Extend {
        node: usize,
    },
    Release {
        node: usize,
    },
    /// A node gives up on its release, and renews the reign instead.
    Resume {
        node: usize,
    },
    /// A call is sent and arrives, loads the reign and passes the lease check.
    Arrive {
        node: usize,
    },
    /// Only without `LeaseCheckedAfterArrival`: the call comes after the check.
    Send {
        node: usize,
    },
    /// A call takes its timestamp and is answered.
    Grant {
        node: usize,
    },
    Crash {
        node: usize,
    },
    /// A node sees the latest write of the record.
    Observe {
        node: usize,
    },
}

/// The model: the protocol with the clauses in `rules`, looked at within `scenario`.
#[derive(Clone, Debug)]
pub(crate) struct Takeover {
    pub(crate) rules: Rules,
    pub(crate) scenario: Scenario,
    /// Whether to look for what a scenario must come across, as well as for broken promises.
    pub(crate) witnesses: bool,
}

impl Takeover {
    /// The boot clock of a node: each has its own zero and its own rate.
    pub(crate) fn boot_clock(&self, state: &State, node: usize) -> u16 {
        1 + 1000 * node as u16 + u16::from(state.tick) * self.scenario.rates[node]
    }

    /// Whether every command of `epoch` will be refused from here on.
    pub(crate) fn is_fenced_off(&self, state: &State, epoch: u8) -> bool {
        let refused = [
            Clause::OlderFenceRefused,
            Clause::OlderOpenRefused,
            Clause::OlderExtendRefused,
            Clause::OlderReleaseRefused,
        ];
        epoch < state.record.epoch && refused.into_iter().all(|clause| self.rules.keep(clause))
    }

    fn commit_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, commit) in state.commits.iter().enumerate() {
            if commit.may_land() {
                actions.push(Action::Land { commit: index });
            } else {
                actions.push(Action::Receive { commit: index });
            }
            let current = commit.epoch() == state.nodes[commit.node].epoch;
            if state.left.retries > 0
                && commit.awaited
                && current
                && !self.is_fenced_off(state, commit.epoch())
            {
                actions.push(Action::Retry { commit: index });
            }
        }
    }

    fn node_actions(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let it = &state.nodes[node];
        let clock = self.boot_clock(state, node);
        if state.left.claims > 0 && node <= state.claimants {
            let now = self.scenario.wall_clocks.iter();
            actions.extend(now.map(|&now| Action::Claim { node, now }));
        }
        if state.left.crashes > 0 && *it != Node::started() {
            actions.push(Action::Crash { node });
        }
        let in_flight =
            |commit: &&Commit| commit.node == node && commit.epoch() == it.epoch && commit.awaited;
        let busy = state.commits.iter().any(|commit| in_flight(&commit));
        let extending = state
            .commits
            .iter()
            .filter(in_flight)
            .any(|commit| matches!(commit.command, Command::Extend { .. }));
        if !self.is_fenced_off(state, it.epoch) {
            let may_release = match it.step {
                Step::Leading => !busy || !self.rules.keep(Clause::ReleaseWaitsForCommits),
                Step::Waiting { .. } => !self.rules.keep(Clause::ReleaseOnlyOpened),
                Step::Idle | Step::Releasing => false,
            };
            if may_release && state.left.releases > 0 {
                actions.push(Action::Release { node });
            }
            if it.step == Step::Releasing && busy && state.left.retries > 0 {
                actions.push(Action::Resume { node });
            }
            if matches!(it.step, Step::Waiting { until, .. } if until <= clock) {
                actions.push(Action::Open { node });
            }
            if it.step == Step::Leading && !extending && state.left.extensions > 0 {
                actions.push(Action::Extend { node });
            }
        }
        if self.may_observe(state, node) {
            actions.push(Action::Observe { node });
        }
        self.call_actions(state, node, actions);
    }

    /// Evidence only matters to a node that may have to wait for another one.
    fn may_observe(&self, state: &State, node: usize) -> bool {
        let it = &state.nodes[node];
        self.scenario.evidence
            && state.left.claims > 0
            && !state.record.released
            && state.record.opened_by != Some(self.identity(node))
            && it.seen.is_none_or(|seen| seen.revision != state.record.revision)
    }

    fn call_actions(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let it = &state.nodes[node];
        match it.call {
            None if state.left.calls > 0 => {
                let clock = self.boot_clock(state, node);
                let checked = |deadline| clock < deadline || !self.rules.keep(Clause::LeaseChecked);
                if it.reign.is_some_and(|reign| checked(reign.deadline)) {
                    actions.push(Action::Arrive { node });
                }
            }
            None => {}
            Some(call) if call.above.is_none() => actions.push(Action::Send { node }),
            Some(call) => {
                let reigns = [it.reign, it.old_reign];
                let mut reigns = reigns.into_iter().flatten();
                let loaded = reigns.find(|reign| reign.epoch == call.epoch);
                if loaded.is_some_and(|reign| reign.next <= reign.ceiling) {
                    actions.push(Action::Grant { node });
                }
            }
        }
    }

    /// Who a node is in the record: two processes are one node if they share a directory.
    pub(crate) fn identity(&self, node: usize) -> u8 {
        if self.rules.keep(Clause::DirectoryLock) { node as u8 } else { 0 }
    }
}

impl Model for Takeover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tick: 0,
            record: Record::fresh(),
            nodes: vec![Node::started(); self.scenario.rates.len()],
            commits: Vec::new(),
            answered: 0,
            broken: None,
            older_committed: false,
            last_epoch: 0,
            claimants: 0,
            left: self.scenario.budget,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let calls_to_come = state.left.calls > 0 || state.nodes.iter().any(|it| it.call.is_some());
        if state.broken.is_some() || !calls_to_come {
            return;
        }
        if state.left.ticks > 0 {
            actions.push(Action::Tick);
        }
        self.commit_actions(state, actions);
        for node in 0..state.nodes.len() {
            self.node_actions(state, node, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => {
                state.tick += 1;
                state.left.ticks -= 1;
            }
            Action::Claim { node, now } => self.claim(&mut state, node, now),
            Action::Land { commit } => self.land(&mut state, commit),
            Action::Receive { commit } => self.receive(&mut state, commit),
            Action::Retry { commit } => self.retry(&mut state, commit),
            Action::Open { node } => self.open(&mut state, node),
            Action::Extend { node } => self.extend(&mut state, node),
            Action::Release { node } => self.release(&mut state, node),
            Action::Resume { node } => self.resume(&mut state, node),
            Action::Arrive { node } => self.arrive(&mut state, node),
            Action::Send { node } => self.send(&mut state, node),
            Action::Grant { node } => self.grant(&mut state, node),
            Action::Crash { node } => self.crash(&mut state, node),
            Action::Observe { node } => self.observe(&mut state, node),
        }
        self.forget(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ORDER, |_, state: &State| state.broken != Some(Promise::Order)),
            Property::always(UNIQUENESS, |_, state: &State| {
                state.broken != Some(Promise::Uniqueness)
            }),
            Property::always(FENCED, |_, state: &State| !state.older_committed),
        ];
        if self.witnesses {
            properties.extend(reached::properties());
        }
        properties
    }
}

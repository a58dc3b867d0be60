//! The state space: what there is, what may happen next, and what must hold.

use stateright::{Model, Property};

use crate::clauses::{Clause, Rules};
use crate::node::{Commit, Held, Node, Step};
use crate::reached;
use crate::record::{Kind, Record, Version};
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
    /// Of the stored state, as is the record.
    pub(crate) version: Version,
    pub(crate) record: Record,
    /// What an operator may restore.
    pub(crate) backup: Option<Held>,
    pub(crate) nodes: Vec<Node>,
    /// Ordered by their content, so that the order in which they were submitted makes no other state.
    pub(crate) commits: Vec<Commit>,
    /// The timestamps that clients received, one bit each.
    pub(crate) answered: u64,
    pub(crate) broken: Option<Promise>,
    /// Whether a commit of an older epoch was stored, or two fences wrote the same one.
    pub(crate) older_committed: bool,
    /// How many nodes have claimed so far; they start in order, since they are alike.
    pub(crate) claimants: usize,
    pub(crate) left: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Tick,
    /// A node learns that it should lead, reads the state, and submits a fence planned from it.
    Claim {
        node: usize,
        now: u8,
    },
    /// A commit takes effect, its submitter alive or not.
    Land {
        commit: usize,
    },
    /// A node learns that its commit is stored: by the answer, by reading a version of its name, or by a
    /// conflict with it.
    Receive {
        commit: usize,
    },
    /// A node does not know what became of a commit. It reads the base, perhaps from a replica that is
    /// behind, and submits another one on it.
    Retry {
        commit: usize,
    },
    /// Only without `SettledByName`: a node takes another commit for its own.
    Mistake {
        commit: usize,
    },
    Open {
        node: usize,
    },
    Extend {
        node: usize,
    },
    /// A node stops leading of its own will, or before it has begun to.
    Release {
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
    /// A node observes the stored version.
    Observe {
        node: usize,
    },
    /// Only without `EvidenceOfDecided`: a node counts a commit that it sees in its log.
    Glimpse {
        node: usize,
        commit: usize,
    },
    Backup,
    /// An operator restores the backup, and adopts it.
    Adopt,
}

/// The model: the protocol with the clauses in `rules`, looked at within `scenario`.
#[derive(Clone, Debug)]
pub(crate) struct Takeover {
    pub(crate) rules: Rules,
    pub(crate) scenario: Scenario,
}

impl Takeover {
    /// The boot clock of a node: each has its own zero and its own rate.
    pub(crate) fn boot_clock(&self, state: &State, node: usize) -> u16 {
        1 + 1000 * node as u16 + u16::from(state.tick) * self.scenario.rates[node]
    }

    fn commit_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, commit) in state.commits.iter().enumerate() {
            if self.may_land(state, commit) {
                actions.push(Action::Land { commit: index });
            }
            if commit.stored {
                actions.push(Action::Receive { commit: index });
            }
            let it = &state.nodes[commit.node];
            let settled = match commit.kind {
                Kind::Fence | Kind::Open => true,
                Kind::Extend => matches!(it.step, Step::Leading | Step::Stopping),
                Kind::Release | Kind::Settle => false,
            };
            let current = commit.awaited && commit.epoch == it.epoch;
            if state.left.retries > 0 && current && settled {
                actions.push(Action::Retry { commit: index });
            }
            let overtaken = state.version.number >= commit.version.number;
            if current && overtaken && !commit.stored && !self.rules.keep(Clause::SettledByName) {
                actions.push(Action::Mistake { commit: index });
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
        if !self.is_fenced_off(state, node) || state.is_opening(node) {
            let may_release = match it.step {
                Step::Leading => true,
                Step::Waiting { .. } => !self.rules.keep(Clause::ReleaseOnlyOpened),
                Step::Idle => state.is_opening(node),
                Step::Stopping | Step::Releasing => false,
            };
            if may_release && state.left.releases > 0 {
                actions.push(Action::Release { node });
            }
            if matches!(it.step, Step::Waiting { until, .. } if until <= clock) {
                actions.push(Action::Open { node });
            }
            let busy = state.is_busy(node);
            if it.step == Step::Leading && !busy && state.left.extensions > 0 {
                actions.push(Action::Extend { node });
            }
        }
        if self.may_observe(state, node) {
            actions.push(Action::Observe { node });
        }
        if self.scenario.evidence && !self.rules.keep(Clause::EvidenceOfDecided) {
            let undecided = |(_, commit): &(usize, &Commit)| !commit.stored && commit.node != node;
            let commits = state.commits.iter().enumerate().filter(undecided);
            actions.extend(commits.map(|(commit, _)| Action::Glimpse { node, commit }));
        }
        self.call_actions(state, node, actions);
    }

    /// Evidence only matters to a node that may have to wait for another one.
    fn may_observe(&self, state: &State, node: usize) -> bool {
        let seen = state.nodes[node].seen;
        self.scenario.evidence
            && state.left.claims > 0
            && !state.record.released
            && state.record.opened_by != Some(self.author(node).id)
            && seen.is_none_or(|seen| !self.counts(seen.version, state.record.version))
    }

    fn call_actions(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let it = &state.nodes[node];
        match it.call {
            None if state.left.calls > 0 => {
                let clock = self.boot_clock(state, node);
                let unchecked = !self.rules.keep(Clause::LeaseChecked);
                if it.reign.is_some_and(|reign| reign.is_valid(clock) || unchecked && !reign.closed)
                {
                    actions.push(Action::Arrive { node });
                }
            }
            None => {}
            Some(call) if call.above.is_none() => actions.push(Action::Send { node }),
            Some(call) => {
                let mut reigns = [it.reign, it.old_reign].into_iter().flatten();
                let loaded = reigns.find(|reign| reign.epoch == call.epoch);
                if loaded.is_some_and(|reign| reign.next <= reign.ceiling) {
                    actions.push(Action::Grant { node });
                }
            }
        }
    }
}

impl Model for Takeover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tick: 0,
            version: Version::FIRST,
            record: Record::fresh(),
            backup: None,
            nodes: vec![Node::started(); self.scenario.rates.len()],
            commits: Vec::new(),
            answered: 0,
            broken: None,
            older_committed: false,
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
        if state.left.adoptions > 0 {
            match state.backup {
                None => actions.push(Action::Backup),
                Some(backup) if backup.version != state.version => actions.push(Action::Adopt),
                Some(_) => {}
            }
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
            Action::Receive { commit } | Action::Mistake { commit } => {
                self.receive(&mut state, commit);
            }
            Action::Retry { commit } => self.retry(&mut state, commit),
            Action::Open { node } => self.open(&mut state, node),
            Action::Extend { node } => self.extend(&mut state, node),
            Action::Release { node } => self.release(&mut state, node),
            Action::Arrive { node } => self.arrive(&mut state, node),
            Action::Send { node } => self.send(&mut state, node),
            Action::Grant { node } => self.grant(&mut state, node),
            Action::Crash { node } => self.crash(&mut state, node),
            Action::Observe { node } => {
                let version = state.version;
                self.observe(&mut state, node, version);
            }
            Action::Glimpse { node, commit } => {
                let version = state.commits[commit].version;
                self.observe(&mut state, node, version);
            }
            Action::Backup => {
                state.backup = Some(Held { version: state.version, record: state.record });
            }
            Action::Adopt => self.adopt(&mut state),
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
        properties.extend(reached::properties());
        properties
    }
}

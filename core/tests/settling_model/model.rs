//! The state space: what there is, what may happen next, and what must hold.

use stateright::{Model, Property};

use crate::clauses::{Clause, Rules};

pub(crate) const EXACTLY_ONCE: &str = "exactly once";
pub(crate) const GAPLESS: &str = "gapless";
pub(crate) const FINAL: &str = "settling is final";
pub(crate) const READS: &str = "reads show what is stored";

pub(crate) const BOTH_SERVE: &str = "two nodes hand out a block each";
pub(crate) const AHEAD: &str = "what was planned on a commit in flight is sent";
pub(crate) const CONFLICT: &str = "a commit is told to be not stored";
pub(crate) const ASKED_AGAIN: &str = "a block is told to a request that asks again";
pub(crate) const SETTLED: &str = "a version-only commit decides";
pub(crate) const FENCE_TELLS: &str = "the fence's base tells what became of a commit";
pub(crate) const UNCERTAIN: &str = "what became of a commit stays uncertain";
pub(crate) const STALE: &str = "a fence is planned on a stale read";

/// Which block each of the requests has.
pub(crate) type Blocks = [Option<u8>; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    pub(crate) number: u8,
    pub(crate) name: u8,
}

/// A state that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Decided {
    pub(crate) version: Version,
    pub(crate) blocks: Blocks,
    /// What the last fence was based on.
    pub(crate) fence_base: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Fence,
    Grant,
    /// Writes the version only.
    Settle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Commit {
    pub(crate) node: usize,
    pub(crate) kind: Kind,
    pub(crate) base: Version,
    pub(crate) version: Version,
    pub(crate) blocks: Blocks,
    /// The requests that are answered with it, those for whose sake it was planned first.
    pub(crate) planned: [bool; 2],
    pub(crate) waiting: [bool; 2],
    /// Copies that may still land, and whether there was more than one.
    pub(crate) copies: u8,
    pub(crate) doubled: bool,
    /// Whether a copy found the state at another version.
    pub(crate) refused: bool,
    /// Whether its node still wants to know what became of it.
    pub(crate) awaited: bool,
    /// Whether its node was told that this is uncertain.
    pub(crate) doubted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reign {
    /// The number of its fence.
    pub(crate) start: u8,
    pub(crate) version: Version,
    /// The working set: the record of the sequence, if it was read.
    pub(crate) record: Option<Blocks>,
    /// The last of its own writes, and the number of the commit.
    pub(crate) own: Option<(u8, Blocks)>,
    pub(crate) leased: bool,
    /// What was planned on the commit in flight, to be sent once that is stored.
    pub(crate) ahead: Option<Commit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// The number up to which its replica has applied.
    pub(crate) replica: u8,
    pub(crate) reign: Option<Reign>,
    /// A read under way: the number of its snapshot, and the record in it.
    pub(crate) fetched: Option<(u8, Blocks)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) claims: u8,
    pub(crate) asks: u8,
    pub(crate) doubts: u8,
    pub(crate) copies: u8,
    pub(crate) fetches: u8,
    pub(crate) crashes: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) history: Vec<Decided>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) nodes: [Node; 2],
    /// What clients were told.
    pub(crate) answered: Blocks,
    /// The requests that were told to be not stored, and were not sent again.
    pub(crate) refused: [bool; 2],
    /// The commits that were told to be not stored, and may still land.
    pub(crate) denied: Vec<Version>,
    /// The promise that is broken, or what was watched for and has happened.
    pub(crate) broken: Option<&'static str>,
    pub(crate) left: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Claim {
        node: usize,
    },
    /// A copy of a commit is decided, at the end of the history.
    Land {
        commit: usize,
    },
    Copy {
        commit: usize,
    },
    /// A replica applies what was decided next.
    Apply {
        node: usize,
    },
    /// The driver's answers.
    Stored {
        commit: usize,
    },
    Conflict {
        commit: usize,
        replica: usize,
    },
    Uncertain {
        commit: usize,
    },
    /// The engine reads, to know what became of a commit.
    Settle {
        commit: usize,
    },
    /// The lease of a node begins, all others having lapsed.
    Open {
        node: usize,
    },
    Lapse {
        node: usize,
    },
    Fetch {
        node: usize,
    },
    Join {
        node: usize,
    },
    /// The working set is bounded: a record leaves it.
    Evict {
        node: usize,
    },
    Ask {
        node: usize,
        request: usize,
    },
    Read {
        node: usize,
    },
    Crash {
        node: usize,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Settling {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    /// What must come about, for the bounds to mean something; its own search ends there.
    pub(crate) watched: Option<&'static str>,
}

impl State {
    pub(crate) fn tip(&self) -> Decided {
        self.history[self.history.len() - 1]
    }

    pub(crate) fn at(&self, node: usize) -> Decided {
        self.history[usize::from(self.nodes[node].replica)]
    }

    pub(crate) fn is_stored(&self, version: Version) -> bool {
        let decided = self.history.get(usize::from(version.number));
        decided.is_some_and(|decided| decided.version == version)
    }

    /// The commit of the node's reign whose outcome is not known.
    pub(crate) fn in_flight(&self, node: usize) -> Option<&Commit> {
        let start = self.nodes[node].reign?.start;
        let unknown = |commit: &&Commit| commit.node == node && commit.awaited;
        self.commits.iter().filter(unknown).find(|commit| commit.base.number >= start)
    }

    pub(crate) fn breaks(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }
}

impl Settling {
    pub(crate) fn reaches(&self, state: &mut State, what: &'static str) {
        if self.watched == Some(what) {
            state.breaks(what);
        }
    }

    /// Whether no block is asked for or in flight any more. Reads may still be wrong.
    fn is_over(&self, state: &State) -> bool {
        let grants = |commit: &Commit| commit.kind == Kind::Grant;
        state.left.asks == 0 && !state.commits.iter().any(grants)
    }

    fn commit_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let commit = &state.commits[index];
        if commit.copies > 0 {
            actions.push(Action::Land { commit: index });
            if state.left.copies > 0 && !commit.doubled && commit.kind == Kind::Grant {
                actions.push(Action::Copy { commit: index });
            }
        }
        if !commit.awaited {
            return;
        }
        if commit.doubted {
            actions.push(Action::Settle { commit: index });
            return;
        }
        if state.is_stored(commit.version) {
            actions.push(Action::Stored { commit: index });
        }
        for replica in 0..state.nodes.len() {
            if self.is_conflict(state, commit, replica) {
                actions.push(Action::Conflict { commit: index, replica });
            }
        }
        if state.left.doubts > 0 && commit.kind != Kind::Fence {
            actions.push(Action::Uncertain { commit: index });
        }
    }

    fn node_actions(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let it = &state.nodes[node];
        if usize::from(it.replica) + 1 < state.history.len() {
            actions.push(Action::Apply { node });
        }
        // The nodes are alike, and so are the requests: the first of each goes first.
        if state.left.claims > 0 && (node == 0 || state.left.claims < self.budget.claims) {
            actions.push(Action::Claim { node });
        }
        if state.left.crashes > 0 && (it.reign.is_some() || it.fetched.is_some()) {
            actions.push(Action::Crash { node });
        }
        if state.left.fetches > 0 && it.fetched.is_none() {
            actions.push(Action::Fetch { node });
        }
        let Some(reign) = it.reign else { return };
        let others = state.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        let leased = |(_, other): (usize, &Node)| other.reign.is_some_and(|reign| reign.leased);
        if !reign.leased && !{ others }.any(leased) && state.tip().version == reign.version {
            actions.push(Action::Open { node });
        }
        if reign.leased {
            actions.push(Action::Lapse { node });
        }
        if reign.record.is_none() && it.fetched.is_some() && state.in_flight(node).is_none() {
            actions.push(Action::Join { node });
        }
        if reign.record.is_some() {
            if state.in_flight(node).is_none() && it.fetched.is_some() {
                actions.push(Action::Evict { node });
            }
            if reign.leased || !self.rules.keep(Clause::ReadsUnderLease) {
                actions.push(Action::Read { node });
            }
            if reign.leased && state.left.asks > 0 {
                actions.push(Action::Ask { node, request: 0 });
                if state.left.asks < self.budget.asks {
                    actions.push(Action::Ask { node, request: 1 });
                }
            }
        }
    }
}

impl Model for Settling {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let version = Version { number: 0, name: 0 };
        vec![State {
            history: vec![Decided { version, blocks: [None; 2], fence_base: version }],
            commits: vec![],
            nodes: [Node { replica: 0, reign: None, fetched: None }; 2],
            answered: [None; 2],
            refused: [false; 2],
            denied: vec![],
            broken: None,
            left: self.budget,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        if self.is_over(state) {
            actions.extend([0, 1].map(|node| Action::Read { node }));
            return;
        }
        for commit in 0..state.commits.len() {
            self.commit_actions(state, commit, actions);
        }
        for node in 0..state.nodes.len() {
            self.node_actions(state, node, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let it = &mut state;
        match action {
            Action::Claim { node } => self.claim(it, node),
            Action::Land { commit } => self.land(it, commit),
            Action::Copy { commit } => self.copy(it, commit),
            Action::Apply { node } => it.nodes[node].replica += 1,
            Action::Stored { commit } => self.stored(it, commit),
            Action::Conflict { commit, .. } => self.conflict(it, commit),
            Action::Uncertain { commit } => {
                it.left.doubts -= 1;
                it.commits[commit].doubted = true;
            }
            Action::Settle { commit } => self.settle(it, commit),
            Action::Open { node } => self.open(it, node),
            Action::Lapse { node } => self.lapse(it, node),
            Action::Fetch { node } => self.fetch(it, node),
            Action::Join { node } => self.join(it, node),
            Action::Evict { node } => self.evict(it, node),
            Action::Ask { node, request } => self.ask(it, node, request),
            Action::Read { node } => self.read(it, node),
            Action::Crash { node } => self.crash(it, node),
        }
        self.forget(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EXACTLY_ONCE, |_, it: &State| it.broken != Some(EXACTLY_ONCE)),
            Property::always(GAPLESS, |_, it: &State| it.broken != Some(GAPLESS)),
            Property::always(FINAL, |_, it: &State| it.broken != Some(FINAL)),
            Property::always(READS, |_, it: &State| it.broken != Some(READS)),
            Property::sometimes(BOTH_SERVE, |_, it: &State| it.broken == Some(BOTH_SERVE)),
            Property::sometimes(AHEAD, |_, it: &State| it.broken == Some(AHEAD)),
            Property::sometimes(CONFLICT, |_, it: &State| it.broken == Some(CONFLICT)),
            Property::sometimes(ASKED_AGAIN, |_, it: &State| it.broken == Some(ASKED_AGAIN)),
            Property::sometimes(SETTLED, |_, it: &State| it.broken == Some(SETTLED)),
            Property::sometimes(FENCE_TELLS, |_, it: &State| it.broken == Some(FENCE_TELLS)),
            Property::sometimes(UNCERTAIN, |_, it: &State| it.broken == Some(UNCERTAIN)),
            Property::sometimes(STALE, |_, it: &State| it.broken == Some(STALE)),
        ]
    }
}

//! The engine's side: the working set, plans, replies and settling.

use crate::clauses::Clause;
use crate::model::{
    AHEAD, ASKED_AGAIN, BOTH_SERVE, Blocks, CONFLICT, Commit, EXACTLY_ONCE, FENCE_TELLS, FINAL,
    Kind, READS, Reign, SETTLED, STALE, Settling, State, UNCERTAIN,
};

/// What a read tells about a commit.
enum Fate {
    Stored,
    NotStored,
    MayLand,
    Unknown,
}

impl Settling {
    /// Whatever the node had in memory of an older reign goes. A read that is under way does not.
    pub(crate) fn claim(&self, state: &mut State, node: usize) {
        state.left.claims -= 1;
        state.nodes[node].reign = None;
        let read = state.at(node);
        if read.version != state.tip().version {
            self.reaches(state, STALE);
        }
        for commit in state.commits.iter_mut() {
            commit.awaited &= commit.node != node || commit.kind != Kind::Fence;
        }
        let fence = plan(node, Kind::Fence, &read.version);
        self.submit(state, fence);
    }

    pub(crate) fn stored(&self, state: &mut State, index: usize) {
        let commit = state.commits[index];
        let node = commit.node;
        state.commits[index].awaited = false;
        if !state.is_stored(commit.version) {
            state.breaks(FINAL);
            return;
        }
        let it = &mut state.nodes[node];
        it.replica = it.replica.max(commit.version.number);
        let version = commit.version;
        match (commit.kind, &mut it.reign) {
            (Kind::Fence, reign) => {
                let start = version.number;
                let fresh =
                    Reign { start, version, record: None, own: None, leased: false, ahead: None };
                *reign = Some(fresh);
            }
            (kind, Some(reign)) if commit.base.number >= reign.start => {
                reign.version = version;
                if kind == Kind::Grant {
                    reign.record = Some(commit.blocks);
                    reign.own = Some((version.number, commit.blocks));
                } else {
                    self.drop_plans(reign);
                }
            }
            _ => {}
        }
        if commit.kind == Kind::Grant {
            self.send_ahead(state, &commit);
        }
        for request in 0..2 {
            if commit.waiting[request] {
                self.answer(state, request, commit.blocks[request]);
            }
        }
        let first = commit.planned.iter().position(|planned| *planned);
        let other = commit.blocks.iter().flatten().count() > 1;
        if other && first.is_some() && state.commits.iter().all(|other| !other.awaited) {
            self.reaches(state, BOTH_SERVE);
        }
    }

    /// Sends what was planned on a commit, on what is stored now.
    fn send_ahead(&self, state: &mut State, commit: &Commit) {
        let Some(reign) = &mut state.nodes[commit.node].reign else { return };
        let Some(mut ahead) = reign.ahead.take() else { return };
        ahead.base = reign.version;
        self.reaches(state, AHEAD);
        self.submit(state, ahead);
    }

    fn drop_ahead(&self, state: &mut State, node: usize) {
        if let Some(reign) = &mut state.nodes[node].reign {
            reign.ahead = None;
        }
    }

    /// Plans a request on a commit that is in flight.
    fn plan_ahead(&self, state: &mut State, in_flight: &Commit, request: usize) {
        let Some(reign) = &mut state.nodes[in_flight.node].reign else { return };
        if in_flight.kind != Kind::Grant || reign.ahead.is_some() {
            return;
        }
        state.refused[request] = false;
        reign.ahead = Some(grant(in_flight.node, &in_flight.version, &in_flight.blocks, request));
    }

    fn drop_plans(&self, reign: &mut Reign) {
        if self.rules.keep(Clause::LostPlansDropped) {
            reign.record = None;
        }
    }

    fn answer(&self, state: &mut State, request: usize, block: Option<u8>) {
        let before = state.answered[request];
        if before.is_some() && before == block {
            self.reaches(state, ASKED_AGAIN);
        }
        let twice = before.is_some() && before != block;
        if twice || state.answered[1 - request] == block {
            state.breaks(EXACTLY_ONCE);
        }
        state.answered[request] = block;
    }

    pub(crate) fn conflict(&self, state: &mut State, index: usize) {
        let commit = state.commits[index];
        state.commits[index].awaited = false;
        if commit.kind == Kind::Settle {
            if !self.rules.keep(Clause::OwnCommitIsNoConflict) {
                let doubted = |other: &Commit| other.base == commit.base && other.doubted;
                let lost = state.commits.iter().position(|other| other.awaited && doubted(other));
                lost.into_iter().for_each(|lost| self.not_stored(state, lost));
            }
            return;
        }
        self.not_stored(state, index);
        self.end_reign(state, &commit);
    }

    /// A reign ends with the first commit of its own that is not stored because another one is.
    fn end_reign(&self, state: &mut State, commit: &Commit) {
        let reign = &mut state.nodes[commit.node].reign;
        if reign.is_some_and(|reign| commit.base.number >= reign.start) {
            *reign = None;
        }
    }

    fn not_stored(&self, state: &mut State, index: usize) {
        let commit = &mut state.commits[index];
        commit.awaited = false;
        let commit = *commit;
        if commit.kind == Kind::Fence {
            return;
        }
        if state.is_stored(commit.version) {
            state.breaks(FINAL);
        }
        state.denied.push(commit.version);
        self.reaches(state, CONFLICT);
        for request in 0..2 {
            let elsewhere =
                |other: &Commit| other.blocks[request].is_some() && other.version != commit.version;
            let alone = !state.commits.iter().any(elsewhere);
            let given = state.tip().blocks[request].is_some();
            state.refused[request] |= commit.planned[request] && alone && !given;
        }
    }

    pub(crate) fn settle(&self, state: &mut State, index: usize) {
        let commit = state.commits[index];
        let node = commit.node;
        match self.fate(state, &commit) {
            Fate::Stored => self.stored(state, index),
            Fate::NotStored => {
                self.not_stored(state, index);
                let by_own = state.nodes[node]
                    .reign
                    .is_some_and(|reign| reign.version.number == commit.version.number);
                if by_own {
                    self.reaches(state, SETTLED);
                    if self.rules.keep(Clause::AheadAfterStored) {
                        self.drop_ahead(state, node);
                    } else {
                        self.send_ahead(state, &commit);
                    }
                } else {
                    self.end_reign(state, &commit);
                }
            }
            Fate::MayLand => {
                let reign = state.nodes[node].reign;
                let open = reign.is_some_and(|it| it.version == commit.base && it.leased);
                let settles = |other: &Commit| other.kind == Kind::Settle && other.awaited;
                let sent = state.commits.iter().any(settles);
                if open && !sent && commit.kind == Kind::Grant {
                    self.submit(state, plan(node, Kind::Settle, &commit.base));
                }
            }
            Fate::Unknown => {
                self.reaches(state, UNCERTAIN);
                state.commits[index].awaited = false;
                self.end_reign(state, &commit);
            }
        }
    }

    fn fate(&self, state: &mut State, commit: &Commit) -> Fate {
        let read = state.at(commit.node);
        let next = commit.version.number;
        if read.version == commit.version {
            return Fate::Stored;
        }
        if read.version.number == next {
            let by_name = self.rules.keep(Clause::SettledByName);
            return if by_name { Fate::NotStored } else { Fate::Stored };
        }
        if read.version.number < next {
            let open = self.rules.keep(Clause::BaseDoesNotTell);
            return if open { Fate::MayLand } else { Fate::NotStored };
        }
        let fence = read.fence_base;
        if fence == commit.version {
            self.reaches(state, FENCE_TELLS);
            return Fate::Stored;
        }
        let other = fence == commit.base || fence.number == next;
        let uncertain = self.rules.keep(Clause::FurtherOnDoesNotTell);
        if other || !uncertain { Fate::NotStored } else { Fate::Unknown }
    }

    pub(crate) fn open(&self, state: &mut State, node: usize) {
        if let Some(reign) = &mut state.nodes[node].reign {
            reign.leased = true;
        }
    }

    /// What a reign plans after that is of no interest here.
    pub(crate) fn lapse(&self, state: &mut State, node: usize) {
        if let Some(reign) = &mut state.nodes[node].reign {
            reign.leased = false;
        }
    }

    pub(crate) fn fetch(&self, state: &mut State, node: usize) {
        state.left.fetches -= 1;
        let read = state.at(node);
        state.nodes[node].fetched = Some((read.version.number, read.blocks));
    }

    pub(crate) fn join(&self, state: &mut State, node: usize) {
        let it = &mut state.nodes[node];
        let (Some(reign), Some((number, blocks))) = (&mut it.reign, it.fetched.take()) else {
            return;
        };
        let own_chain = (reign.start..=reign.version.number).contains(&number);
        if !own_chain && self.rules.keep(Clause::JoinsOwnChain) {
            return;
        }
        let own = reign.own.filter(|(written, _)| *written > number);
        let own = own.filter(|_| self.rules.keep(Clause::OwnWritesOverlaid));
        reign.record = Some(own.map_or(blocks, |(_, own)| own));
    }

    pub(crate) fn evict(&self, state: &mut State, node: usize) {
        if let Some(reign) = &mut state.nodes[node].reign {
            reign.record = None;
        }
    }

    /// A request arrives, under a lease that is valid.
    pub(crate) fn ask(&self, state: &mut State, node: usize, request: usize) {
        state.left.asks -= 1;
        let Some(Reign { version, record: Some(record), .. }) = state.nodes[node].reign else {
            return;
        };
        if let Some(in_flight) = state.in_flight(node).copied() {
            let planned = in_flight.blocks[request];
            if planned.is_some() && !self.rules.keep(Clause::RepliesAfterStored) {
                self.answer(state, request, planned);
            } else if planned.is_some() {
                let same = |commit: &&mut Commit| commit.version == in_flight.version;
                let commit = state.commits.iter_mut().find(same);
                commit.into_iter().for_each(|commit| commit.waiting[request] = true);
            } else {
                self.plan_ahead(state, &in_flight, request);
            }
            return;
        }
        if record[request].is_some() {
            self.answer(state, request, record[request]);
            return;
        }
        state.refused[request] = false;
        let grant = grant(node, &version, &record, request);
        self.submit(state, grant);
        if !self.rules.keep(Clause::LostPlansDropped)
            && let Some(reign) = &mut state.nodes[node].reign
        {
            reign.record = Some(grant.blocks);
        }
    }

    /// How many blocks were given, asked and answered at once.
    pub(crate) fn read(&self, state: &mut State, node: usize) {
        let Some(Reign { record: Some(mut record), leased, .. }) = state.nodes[node].reign else {
            return;
        };
        if !leased && self.rules.keep(Clause::ReadsUnderLease) {
            return;
        }
        if !self.rules.keep(Clause::ReadsStored)
            && let Some(in_flight) = state.in_flight(node).filter(|it| it.kind == Kind::Grant)
        {
            record = in_flight.blocks;
        }
        let answered = state.answered.iter().flatten().max().map_or(0, |block| block + 1);
        if next(&record) < answered || next(&record) > next(&state.tip().blocks) {
            state.breaks(READS);
        }
    }
}

fn next(blocks: &Blocks) -> u8 {
    blocks.iter().flatten().max().map_or(0, |block| block + 1)
}

/// A commit that hands out the next block.
fn grant(node: usize, base: &crate::model::Version, record: &Blocks, request: usize) -> Commit {
    let mut grant = plan(node, Kind::Grant, base);
    grant.blocks = *record;
    grant.blocks[request] = Some(next(record));
    grant.planned[request] = true;
    grant.waiting[request] = true;
    grant
}

fn plan(node: usize, kind: Kind, base: &crate::model::Version) -> Commit {
    Commit {
        node,
        kind,
        base: *base,
        version: *base,
        blocks: [None; 2],
        planned: [false; 2],
        waiting: [false; 2],
        copies: 1,
        doubled: false,
        refused: false,
        awaited: true,
        doubted: false,
    }
}

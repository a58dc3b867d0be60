//! Commits: how they are submitted, stored, learnt of and settled.

use crate::clauses::Clause;
use crate::model::{State, Takeover};
use crate::node::{Commit, Held, Reign, Step};
use crate::record::{Author, Kind, Record, Version, Wait};

/// What a node plans: everything of a commit but what its submission adds.
struct Plan {
    kind: Kind,
    base: Version,
    record: Record,
    floor: u8,
    wait: Option<Wait>,
}

impl Takeover {
    /// Who a node is in the record: two processes are one node if they share a directory.
    pub(crate) fn author(&self, node: usize) -> Author {
        let id = if self.rules.keep(Clause::DirectoryLock) { node as u8 } else { 0 };
        Author { id, lease: self.scenario.leases[node] }
    }

    /// A fence is planned from the state as it is. That covers stale reads: a plan that lands later
    /// than it was made was made on a read that is stale by then.
    pub(crate) fn claim(&self, state: &mut State, node: usize, now: u8) {
        state.left.claims -= 1;
        state.claimants = state.claimants.max(node + 1);
        let read = state.record;
        let author = self.author(node);
        let (record, floor) = read.fenced(self.rules, author, now, self.scenario.headroom);
        let it = &mut state.nodes[node];
        if self.rules.keep(Clause::ClosedBeforeFence) {
            it.close();
        }
        it.epoch = record.epoch;
        it.step = Step::Idle;
        it.held = None;
        let wait = read.wait(self.rules, author);
        let plan = Plan { kind: Kind::Fence, base: state.version, record, floor, wait };
        self.submit(state, node, plan);
    }

    fn submit(&self, state: &mut State, node: usize, plan: Plan) {
        let Plan { kind, base, mut record, floor, wait } = plan;
        let timed = match kind {
            Kind::Open | Kind::Extend => true,
            Kind::Fence => !self.rules.keep(Clause::WaitCountsFromStored),
            Kind::Settle => !self.rules.keep(Clause::SettleRenewsNothing),
            Kind::Release => false,
        };
        let start = if timed { self.boot_clock(state, node) } else { 0 };
        let bare = kind == Kind::Extend && record.high_water == state.high_water_held(node);
        let version = if bare && !self.rules.keep(Clause::RenewalIsAWrite) {
            base
        } else {
            state.unused(Version { number: base.number + 1, ..base })
        };
        let noted = !bare || self.rules.keep(Clause::RenewalNotesVersion);
        if kind != Kind::Settle && noted {
            record.version = version;
        }
        let epoch = state.nodes[node].epoch;
        let (awaited, stored) = (true, false);
        state.commits.push(Commit {
            node,
            epoch,
            kind,
            base,
            version,
            record,
            floor,
            wait,
            start,
            awaited,
            stored,
        });
    }

    /// Submits the next commit of the present claim.
    fn submit_next(&self, state: &mut State, node: usize, kind: Kind, floor: u8, ceiling: u8) {
        let Some(Held { version, record }) = state.nodes[node].held else { return };
        let record = match kind {
            Kind::Open => record.opened(self.rules, self.author(node)),
            Kind::Extend => record.extended(ceiling),
            Kind::Release => record.released(),
            Kind::Fence | Kind::Settle => record,
        };
        self.submit(state, node, Plan { kind, base: version, record, floor, wait: None });
    }

    fn compares(&self, commit: &Commit) -> bool {
        let clause = match commit.kind {
            _ if commit.stored => Clause::EachCopyCompared,
            Kind::Fence => Clause::FenceCompared,
            Kind::Open => Clause::OpenCompared,
            Kind::Extend => Clause::ExtendCompared,
            Kind::Release => Clause::ReleaseCompared,
            Kind::Settle => return true,
        };
        self.rules.keep(clause)
    }

    pub(crate) fn compares_all(&self) -> bool {
        self.rules.keep_all(&[
            Clause::FenceCompared,
            Clause::OpenCompared,
            Clause::ExtendCompared,
            Clause::ReleaseCompared,
            Clause::EachCopyCompared,
        ])
    }

    /// Whether the state would take the commit, or another copy of it.
    pub(crate) fn may_land(&self, state: &State, commit: &Commit) -> bool {
        let at_base = state.version == commit.base && !commit.stored;
        at_base || !self.compares(commit) && state.version != commit.version
    }

    /// Whether nothing can come of what the node would commit next: its base is gone.
    pub(crate) fn is_fenced_off(&self, state: &State, node: usize) -> bool {
        let it = &state.nodes[node];
        let at_base = it.held.is_some_and(|held| held.version == state.version);
        !at_base && self.compares_all()
    }

    pub(crate) fn land(&self, state: &mut State, index: usize) {
        let commit = &mut state.commits[index];
        let Commit { kind, version, record, .. } = *commit;
        commit.stored = true;
        let newest = state.record.epoch;
        let older = record.epoch < newest || kind == Kind::Fence && record.epoch == newest;
        state.older_committed |= older;
        state.version = version;
        if kind != Kind::Settle {
            state.record = record;
        }
    }

    pub(crate) fn receive(&self, state: &mut State, index: usize) {
        let commit = state.commits.remove(index);
        let node = commit.node;
        let current = commit.epoch == state.nodes[node].epoch;
        if current {
            let Commit { version, record, .. } = commit;
            state.nodes[node].held = Some(Held { version, record });
        }
        match commit.kind {
            Kind::Fence if current => match self.wait_until(state, &commit) {
                Some(until) => {
                    state.nodes[node].step = Step::Waiting { until, floor: commit.floor };
                }
                None => self.submit_open(state, node, commit.floor),
            },
            Kind::Open if self.starts_reign(state, &commit) => {
                self.begin_reign(state, node, self.reign(state, &commit));
                let it = &mut state.nodes[node];
                if it.step != Step::Stopping {
                    it.step = Step::Leading;
                }
            }
            Kind::Extend => self.raise(state, &commit),
            Kind::Settle if !self.rules.keep(Clause::SettleRenewsNothing) => {
                self.raise(state, &commit);
            }
            Kind::Release if current => {
                let it = &mut state.nodes[node];
                it.step = Step::Idle;
                it.close();
            }
            _ => {}
        }
        if current && state.nodes[node].step == Step::Stopping {
            self.submit_release(state, node);
        }
    }

    fn starts_reign(&self, state: &State, open: &Commit) -> bool {
        let it = &state.nodes[open.node];
        if open.epoch != it.epoch {
            return !self.rules.keep(Clause::LateOpenIgnored);
        }
        it.step != Step::Stopping || !self.rules.keep(Clause::StoppedOpenIgnored)
    }

    fn raise(&self, state: &mut State, commit: &Commit) {
        let Reign { epoch, ceiling, deadline, .. } = self.reign(state, commit);
        let final_close = self.rules.keep(Clause::ClosedForGood);
        let apart = self.rules.keep(Clause::ReignsApart);
        for reign in state.nodes[commit.node].reigns() {
            if reign.epoch != epoch && apart || reign.closed && final_close {
                continue;
            }
            reign.closed = false;
            reign.raise(ceiling, deadline);
        }
    }

    /// Until when a node has to wait after its fence, `None` if not at all.
    fn wait_until(&self, state: &State, fence: &Commit) -> Option<u16> {
        let wait = fence.wait?;
        let stored = if self.rules.keep(Clause::WaitCountsFromStored) {
            self.boot_clock(state, fence.node)
        } else {
            fence.start
        };
        let seen = state.nodes[fence.node].seen;
        let seen = seen.filter(|seen| self.counts(seen.version, wait.replaced));
        let from = seen.map_or(stored, |seen| seen.at.min(stored));
        let drift = self.rules.keep(Clause::WaitCoversDrift);
        Some(from + if drift { (wait.lease * 11).div_ceil(10) } else { wait.lease })
    }

    /// Whether having observed `seen` is evidence of the commit that made `replaced`.
    pub(crate) fn counts(&self, seen: Version, replaced: Version) -> bool {
        let same_number = (seen.era, seen.number) == (replaced.era, replaced.number);
        seen == replaced
            || seen.is_after(replaced, self.rules)
            || same_number && !self.rules.keep(Clause::EvidenceByName)
            || !self.rules.keep(Clause::EvidenceOfReplaced)
    }

    /// The reign that a stored Open starts, or to which a stored Extend raises.
    fn reign(&self, state: &State, commit: &Commit) -> Reign {
        let from = if self.rules.keep(Clause::DeadlineFromStart) {
            commit.start
        } else {
            self.boot_clock(state, commit.node)
        };
        Reign {
            epoch: commit.epoch,
            next: commit.floor,
            ceiling: commit.record.high_water.max(commit.floor + self.unpromised()),
            deadline: from + self.scenario.leases[commit.node],
            closed: false,
        }
    }

    /// How far a window reaches of which the record does not tell.
    fn unpromised(&self) -> u8 {
        if self.rules.keep(Clause::FenceRaisesHighWater) { 0 } else { self.scenario.headroom }
    }

    fn begin_reign(&self, state: &mut State, node: usize, reign: Reign) {
        let it = &mut state.nodes[node];
        match &mut it.reign {
            Some(begun) if begun.epoch == reign.epoch => begun.raise(reign.ceiling, reign.deadline),
            previous => {
                let copied = previous.filter(|_| !self.rules.keep(Clause::WordNotCopied));
                let next = copied.map_or(reign.next, |previous| previous.next);
                it.begin(Reign { next, ..reign });
            }
        }
        if !self.rules.keep(Clause::ReignsApart) {
            it.reigns().for_each(|other| other.raise(reign.ceiling, reign.deadline));
        }
    }

    /// The first copy stays where it is: whichever lands first decides.
    pub(crate) fn retry(&self, state: &mut State, index: usize) {
        state.left.retries -= 1;
        let commit = state.commits[index];
        let Commit { node, kind, base, floor, wait, record, .. } = commit;
        let stopping = state.nodes[node].step == Step::Stopping;
        match kind {
            Kind::Extend if stopping => self.submit_release(state, node),
            Kind::Extend => self.submit_next(state, node, Kind::Settle, 0, 0),
            _ => self.submit(state, node, Plan { kind, base, record, floor, wait }),
        }
        if !self.rules.keep(Clause::DeadlineOfLanded) && commit.start > 0 {
            state.commits[index].start = self.boot_clock(state, node);
        }
    }

    pub(crate) fn open(&self, state: &mut State, node: usize) {
        if let Step::Waiting { floor, .. } = state.nodes[node].step {
            self.submit_open(state, node, floor);
        }
    }

    fn submit_open(&self, state: &mut State, node: usize, floor: u8) {
        state.nodes[node].step = Step::Idle;
        self.submit_next(state, node, Kind::Open, floor, 0);
        if !self.rules.keep(Clause::GrantsAfterOpen)
            && let Some(open) = state.commits.last()
        {
            self.begin_reign(state, node, self.reign(state, open));
        }
    }

    pub(crate) fn extend(&self, state: &mut State, node: usize) {
        state.left.extensions -= 1;
        let Some(reign) = &mut state.nodes[node].reign else { return };
        let ceiling = reign.ceiling + self.scenario.extension;
        if !self.rules.keep(Clause::CeilingAfterCommit) {
            reign.ceiling = ceiling;
        }
        self.submit_next(state, node, Kind::Extend, 0, ceiling);
    }

    pub(crate) fn release(&self, state: &mut State, node: usize) {
        state.left.releases -= 1;
        let it = &mut state.nodes[node];
        it.step = Step::Stopping;
        if self.rules.keep(Clause::ReleaseClosesFirst) {
            it.close();
        }
        if !state.is_busy(node) {
            self.submit_release(state, node);
        }
    }

    fn submit_release(&self, state: &mut State, node: usize) {
        state.nodes[node].step = Step::Releasing;
        self.submit_next(state, node, Kind::Release, 0, 0);
    }
}

impl State {
    /// Whether a commit of the node's present claim is in flight.
    pub(crate) fn is_busy(&self, node: usize) -> bool {
        let epoch = self.nodes[node].epoch;
        self.commits.iter().any(|it| it.node == node && it.epoch == epoch && it.awaited)
    }

    /// Whether an Open of the node's present claim is in flight.
    pub(crate) fn is_opening(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        let opens = |commit: &Commit| commit.node == node && commit.kind == Kind::Open;
        let current = |commit: &Commit| commit.epoch == it.epoch && commit.awaited;
        self.commits.iter().any(|commit| opens(commit) && current(commit))
    }

    fn high_water_held(&self, node: usize) -> u8 {
        self.nodes[node].held.map_or(0, |held| held.record.high_water)
    }

    /// The version with the lowest name that is neither stored nor in flight nor remembered.
    pub(crate) fn unused(&self, mut version: Version) -> Version {
        while self.is_in_use(version) {
            version.name += 1;
        }
        version
    }

    fn is_in_use(&self, version: Version) -> bool {
        let commits = self.commits.iter().any(|commit| {
            let replaced = commit.wait.map(|wait| wait.replaced);
            [commit.base, commit.version, commit.record.version].contains(&version)
                || replaced == Some(version)
        });
        let nodes = self.nodes.iter().any(|it| {
            let held = it.held.map(|held| [held.version, held.record.version]);
            let seen = it.seen.map(|seen| seen.version);
            held.is_some_and(|held| held.contains(&version)) || seen == Some(version)
        });
        commits || nodes || [self.version, self.record.version].contains(&version)
    }
}

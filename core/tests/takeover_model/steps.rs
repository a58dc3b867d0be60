//! What each action does to the state.

use crate::clauses::Clause;
use crate::model::{Promise, State, Takeover};
use crate::node::{Call, Commit, Evidence, Node, Reign, Step};
use crate::record::{Author, Command, Record, Reply};

impl Takeover {
    pub(crate) fn claim(&self, state: &mut State, node: usize, now: u8) {
        state.left.claims -= 1;
        state.claimants = state.claimants.max(node + 1);
        let reused = match state.nodes[node].epoch {
            0 => None,
            _ if self.rules.keep(Clause::OwnEpochNotReused) => None,
            epoch => Some(epoch),
        };
        let raised = !state.claimed_before() || self.rules.keep(Clause::FreshEpochPerClaim);
        state.last_epoch += u8::from(reused.is_none() && raised);
        let it = &mut state.nodes[node];
        it.epoch = reused.unwrap_or(state.last_epoch);
        it.step = Step::Idle;
        let needs_read = [Clause::FloorFromReplaced, Clause::WaitReadsReplaced];
        let reads = needs_read.into_iter().any(|clause| !self.rules.keep(clause));
        let read = reads.then_some(state.record);
        self.submit(state, node, Command::Fence { now, headroom: self.scenario.headroom, read });
    }

    fn submit(&self, state: &mut State, node: usize, command: Command) {
        let timed = match command {
            Command::Open { .. } | Command::Extend { .. } => true,
            Command::Fence { .. } => !self.rules.keep(Clause::WaitCountsFromReply),
            Command::Release => false,
        };
        let start = if timed { self.boot_clock(state, node) } else { 0 };
        let author = Author {
            id: self.identity(node),
            epoch: state.nodes[node].epoch,
            lease: self.scenario.leases[node],
        };
        let commit = Commit { node, author, command, start, awaited: true, reply: None };
        let at = state.commits.partition_point(|other| other.epoch() <= commit.epoch());
        state.commits.insert(at, commit);
    }

    /// The commit takes effect. Whatever its node submitted before it under the same epoch, and has
    /// not landed yet, never will.
    pub(crate) fn land(&self, state: &mut State, index: usize) {
        let Commit { node, author, command, awaited, .. } = state.commits[index];
        let newest = state.record.epoch;
        let reply = state.record.apply(self.rules, author, command);
        state.older_committed |= reply.is_some() && author.epoch < newest;
        state.commits[index].reply = reply;
        let gone = reply.is_none() || !awaited;
        let mut position = 0;
        state.commits.retain(|commit| {
            let overtaken = position < index
                && commit.may_land()
                && commit.node == node
                && commit.epoch() == author.epoch
                && self.rules.keep(Clause::OrderOfCommits);
            position += 1;
            !(overtaken || gone && position == index + 1)
        });
    }

    pub(crate) fn receive(&self, state: &mut State, index: usize) {
        let commit = state.commits.remove(index);
        let node = commit.node;
        let current = commit.epoch() == state.nodes[node].epoch;
        match (commit.command, commit.reply) {
            (Command::Fence { read, .. }, Some(Reply::Fenced { floor, high_water, replaced })) => {
                let replaced = match read {
                    Some(read) if !self.rules.keep(Clause::WaitReadsReplaced) => read,
                    _ => replaced,
                };
                if let Some(until) = self.wait_until(state, &commit, replaced) {
                    state.nodes[node].step = Step::Waiting { until, floor, ceiling: high_water };
                } else {
                    state.nodes[node].step = Step::Idle;
                    self.submit_open(state, node, floor, high_water);
                }
            }
            (Command::Open { floor, ceiling }, _)
                if current || !self.rules.keep(Clause::LateOpenIgnored) =>
            {
                let deadline = self.deadline(state, &commit);
                let reign = Reign { epoch: commit.epoch(), next: floor, ceiling, deadline };
                self.begin_reign(state, node, reign);
                state.nodes[node].step = Step::Leading;
            }
            (Command::Extend { high_water }, _) => {
                let deadline = self.deadline(state, &commit);
                let it = &mut state.nodes[node];
                if let Some(reign) = it.reign_of(commit.epoch()) {
                    reign.raise(high_water, deadline);
                }
                if !self.rules.keep(Clause::ReignsApart) {
                    it.raise_all(high_water, deadline);
                }
            }
            (Command::Release, _) if current => {
                let it = &mut state.nodes[node];
                it.step = Step::Idle;
                if let Some(reign) = &mut it.reign {
                    reign.deadline = 0;
                }
            }
            _ => {}
        }
    }

    /// Until when a node has to wait after its fence, `None` if not at all.
    fn wait_until(&self, state: &State, fence: &Commit, replaced: Record) -> Option<u16> {
        let own = replaced.opened_by == Some(fence.author.id);
        if replaced.released || own || !self.rules.keep(Clause::Waits) {
            return None;
        }
        let seen = state.nodes[fence.node].seen;
        let evidence = seen.filter(|seen| {
            seen.revision == replaced.revision || !self.rules.keep(Clause::EvidenceOfReplaced)
        });
        let reply = if self.rules.keep(Clause::WaitCountsFromReply) {
            self.boot_clock(state, fence.node)
        } else {
            fence.start
        };
        let from = evidence.map_or(reply, |evidence| evidence.at.min(reply));
        let wait = if self.rules.keep(Clause::WaitCoversDrift) {
            (replaced.lease * 11).div_ceil(10)
        } else {
            replaced.lease
        };
        Some(from + wait)
    }

    fn deadline(&self, state: &State, commit: &Commit) -> u16 {
        let from = if self.rules.keep(Clause::DeadlineFromStart) {
            commit.start
        } else {
            self.boot_clock(state, commit.node)
        };
        from + self.scenario.leases[commit.node]
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
            it.raise_all(reign.ceiling, reign.deadline);
        }
    }

    pub(crate) fn retry(&self, state: &mut State, index: usize) {
        state.left.retries -= 1;
        let Commit { node, command, reply, .. } = state.commits[index];
        if reply.is_some() {
            state.commits.remove(index);
        } else {
            state.commits[index].awaited = false;
        }
        let command = match command {
            Command::Fence { now, headroom, read } => {
                Command::Fence { now, headroom, read: read.map(|_| state.record) }
            }
            other => other,
        };
        self.submit(state, node, command);
    }

    pub(crate) fn open(&self, state: &mut State, node: usize) {
        if let Step::Waiting { floor, ceiling, .. } = state.nodes[node].step {
            state.nodes[node].step = Step::Idle;
            self.submit_open(state, node, floor, ceiling);
        }
    }

    fn submit_open(&self, state: &mut State, node: usize, floor: u8, ceiling: u8) {
        self.submit(state, node, Command::Open { floor, ceiling });
        if !self.rules.keep(Clause::GrantsAfterOpen) {
            let epoch = state.nodes[node].epoch;
            let deadline = self.boot_clock(state, node) + self.scenario.leases[node];
            self.begin_reign(state, node, Reign { epoch, next: floor, ceiling, deadline });
        }
    }

    pub(crate) fn extend(&self, state: &mut State, node: usize) {
        state.left.extensions -= 1;
        let Some(reign) = &mut state.nodes[node].reign else { return };
        let high_water = reign.ceiling + self.scenario.extension;
        if !self.rules.keep(Clause::CeilingAfterCommit) {
            reign.ceiling = high_water;
        }
        self.submit(state, node, Command::Extend { high_water });
    }

    pub(crate) fn release(&self, state: &mut State, node: usize) {
        state.left.releases -= 1;
        let it = &mut state.nodes[node];
        it.step = Step::Releasing;
        if let Some(reign) = &mut it.reign
            && self.rules.keep(Clause::ReleaseClosesFirst)
        {
            reign.deadline = 0;
        }
        self.submit(state, node, Command::Release);
    }

    /// Whether the Release lands is open, but it will not after this Extend.
    pub(crate) fn resume(&self, state: &mut State, node: usize) {
        state.left.retries -= 1;
        let it = &mut state.nodes[node];
        it.step = Step::Leading;
        let Some(reign) = it.reign else { return };
        let epoch = it.epoch;
        state.commits.retain_mut(|commit| {
            if commit.node == node && commit.epoch() == epoch {
                commit.awaited = false;
            }
            commit.awaited || commit.may_land()
        });
        self.submit(state, node, Command::Extend { high_water: reign.ceiling });
    }

    pub(crate) fn arrive(&self, state: &mut State, node: usize) {
        state.left.calls -= 1;
        let sent = self.rules.keep(Clause::LeaseCheckedAfterArrival);
        let above = sent.then_some(state.above_answers());
        let it = &mut state.nodes[node];
        it.call = it.reign.map(|reign| Call { epoch: reign.epoch, above });
    }

    pub(crate) fn send(&self, state: &mut State, node: usize) {
        let above = state.above_answers();
        if let Some(call) = &mut state.nodes[node].call {
            call.above = Some(above);
        }
    }

    pub(crate) fn grant(&self, state: &mut State, node: usize) {
        let it = &mut state.nodes[node];
        let Some(call) = it.call.take() else { return };
        let Some(reign) = it.reign_of(call.epoch) else { return };
        let timestamp = reign.next;
        reign.next += 1;
        it.old_reign = None;
        let bit = 1 << timestamp;
        if state.answered & bit != 0 {
            state.broken = Some(Promise::Uniqueness);
        } else if call.above.is_some_and(|above| timestamp < above) {
            state.broken = Some(Promise::Order);
        }
        state.answered |= bit;
    }

    /// The node starts again with nothing in memory. What it submitted may still land.
    pub(crate) fn crash(&self, state: &mut State, node: usize) {
        state.left.crashes -= 1;
        let epoch = state.nodes[node].epoch;
        state.nodes[node] = Node::started();
        if !self.rules.keep(Clause::OwnEpochNotReused) {
            state.nodes[node].epoch = epoch;
        }
        state.commits.retain_mut(|commit| {
            commit.awaited &= commit.node != node;
            commit.awaited || commit.may_land()
        });
    }

    pub(crate) fn observe(&self, state: &mut State, node: usize) {
        let at = self.boot_clock(state, node);
        state.nodes[node].seen = Some(Evidence { revision: state.record.revision, at });
    }

    /// Drops what can have no effect any more, so that states which differ in nothing else are one.
    pub(crate) fn forget(&self, state: &mut State) {
        let mut commits = std::mem::take(&mut state.commits);
        commits.retain(|commit| !self.is_void(state, commit));
        state.commits = commits;
        for node in 0..state.nodes.len() {
            let clock = self.boot_clock(state, node);
            let fenced_off = self.is_fenced_off(state, state.nodes[node].epoch);
            let evidence_counts = self.evidence_counts(state, node);
            let it = &mut state.nodes[node];
            if fenced_off && it.step != Step::Leading {
                it.step = Step::Idle;
            }
            if !evidence_counts {
                it.seen = None;
            }
            let held = it.call.map(|call| call.epoch);
            for slot in [&mut it.reign, &mut it.old_reign] {
                let Some(reign) = slot else { continue };
                if reign.deadline <= clock && self.rules.keep(Clause::LeaseChecked) {
                    reign.deadline = 0;
                }
                let renewable = reign.epoch == it.epoch || Some(reign.epoch) == held;
                if reign.deadline == 0 && !renewable && self.rules.keep(Clause::WordNotCopied) {
                    *slot = None;
                }
            }
        }
    }

    /// Whether a commit can change nothing any more: neither by landing nor by being answered.
    fn is_void(&self, state: &State, commit: &Commit) -> bool {
        let fenced_off = self.is_fenced_off(state, commit.epoch());
        if commit.may_land() {
            return fenced_off;
        }
        let current = commit.epoch() == state.nodes[commit.node].epoch;
        match commit.command {
            Command::Fence { .. } => fenced_off || !current,
            Command::Open { .. } => !current && self.rules.keep(Clause::LateOpenIgnored),
            Command::Extend { .. } => false,
            Command::Release => !current,
        }
    }

    /// Whether what a node saw is about the latest write, or about one that its fence replaced.
    fn evidence_counts(&self, state: &State, node: usize) -> bool {
        let Some(seen) = state.nodes[node].seen else { return true };
        let replaced_by_own = |commit: &Commit| match commit.reply {
            Some(Reply::Fenced { replaced, .. }) => {
                commit.node == node && replaced.revision == seen.revision
            }
            _ => false,
        };
        seen.revision == state.record.revision
            || state.commits.iter().any(replaced_by_own)
            || !self.rules.keep(Clause::EvidenceOfReplaced)
    }
}

impl State {
    fn claimed_before(&self) -> bool {
        self.last_epoch > 0
    }

    /// The lowest timestamp above all that any client has received.
    fn above_answers(&self) -> u8 {
        (u64::BITS - self.answered.leading_zeros()) as u8
    }
}

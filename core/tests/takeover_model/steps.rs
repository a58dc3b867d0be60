//! What happens besides commits: calls, crashes, evidence, adoption, and what may be forgotten.

use crate::clauses::Clause;
use crate::model::{Promise, State, Takeover};
use crate::node::{Call, Commit, Evidence, Node, Step};
use crate::record::{Kind, Version};

impl Takeover {
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

    /// The node starts again with nothing in memory, and the same identity. What it submitted may
    /// still land.
    pub(crate) fn crash(&self, state: &mut State, node: usize) {
        state.left.crashes -= 1;
        state.nodes[node] = Node::started();
        for commit in &mut state.commits {
            commit.awaited &= commit.node != node;
        }
    }

    pub(crate) fn observe(&self, state: &mut State, node: usize, version: Version) {
        let at = self.boot_clock(state, node);
        state.nodes[node].seen = Some(Evidence { version, at });
    }

    /// The processes go on, with what they have in memory and in flight: the worst case.
    pub(crate) fn adopt(&self, state: &mut State) {
        state.left.adoptions -= 1;
        let Some(backup) = state.backup.take() else { return };
        let longest = self.scenario.leases.iter().max().copied().unwrap_or(0);
        let era = state.version.era + 1;
        let version = Version { era, number: backup.version.number + 1, name: 0 };
        state.record = backup.record.adopted(self.rules, era, state.record, longest);
        state.record.version = version;
        state.version = version;
    }

    /// Drops what can have no effect any more, so that states which differ in nothing else are one.
    pub(crate) fn forget(&self, state: &mut State) {
        let mut commits = std::mem::take(&mut state.commits);
        commits.retain(|commit| !self.is_void(state, commit));
        commits.sort_unstable();
        state.commits = commits;
        for node in 0..state.nodes.len() {
            if !self.evidence_counts(state, node) {
                state.nodes[node].seen = None;
            }
            self.forget_claim(state, node);
        }
    }

    /// A claim whose base is gone leads to nothing; what is left of it is the reign in memory, until it
    /// lapses.
    fn forget_claim(&self, state: &mut State, node: usize) {
        let clock = self.boot_clock(state, node);
        let busy = state.is_busy(node);
        let over = self.is_fenced_off(state, node) && !busy;
        let in_flight = |epoch| {
            let mut commits = state.commits.iter();
            commits.any(|commit| commit.node == node && commit.epoch == epoch)
        };
        let it = &state.nodes[node];
        let (leads, held) = (it.step == Step::Leading && !over, it.call.map(|call| call.epoch));
        let kept = [it.reign, it.old_reign].map(|slot| {
            let mut reign = slot?;
            if reign.deadline <= clock && self.rules.keep(Clause::LeaseChecked) {
                reign.deadline = 0;
            }
            let renewable = in_flight(reign.epoch) || leads && reign.epoch == it.epoch;
            let used = reign.deadline > 0 || renewable || Some(reign.epoch) == held;
            (used || !self.rules.keep(Clause::WordNotCopied)).then_some(reign)
        });
        let it = &mut state.nodes[node];
        [it.reign, it.old_reign] = kept;
        if over {
            it.held = None;
        }
        if over && (it.step != Step::Leading || it.reign.is_none()) {
            it.step = Step::Idle;
            if it.reign.is_none() {
                it.epoch = 0;
            }
        }
    }

    /// Whether a commit can change nothing any more: neither by landing nor by being learnt of.
    fn is_void(&self, state: &State, commit: &Commit) -> bool {
        if self.may_land(state, commit)
            || commit.stored && !self.rules.keep(Clause::EachCopyCompared)
        {
            return false;
        }
        if !commit.stored {
            return !commit.awaited || self.rules.keep(Clause::SettledByName);
        }
        let current = commit.epoch == state.nodes[commit.node].epoch;
        let overtaken = state.version != commit.version && self.compares_all();
        let void = match commit.kind {
            Kind::Fence => !current || overtaken,
            Kind::Open => !current && self.rules.keep(Clause::LateOpenIgnored),
            Kind::Extend => false,
            Kind::Release | Kind::Settle => !current,
        };
        void || !commit.awaited
    }

    /// Whether what a node saw may shorten a wait, now or later.
    fn evidence_counts(&self, state: &State, node: usize) -> bool {
        let Some(seen) = state.nodes[node].seen else { return true };
        let replaced = |commit: &Commit| {
            let wait = commit.wait.filter(|_| commit.node == node);
            wait.is_some_and(|wait| self.counts(seen.version, wait.replaced))
        };
        let by_number = !self.rules.keep_all(&[
            Clause::EvidenceOfDecided,
            Clause::EvidenceOfSameEra,
            Clause::EvidenceOfReplaced,
        ]);
        let backup = state.backup.filter(|_| state.left.adoptions > 0);
        let oldest = backup.map_or(state.record.version, |backup| backup.version);
        by_number && seen.version.number >= oldest.number
            || self.counts(seen.version, state.record.version)
            || state.commits.iter().any(replaced)
    }
}

impl State {
    /// The lowest timestamp above all that any client has received.
    fn above_answers(&self) -> u8 {
        (u64::BITS - self.answered.leading_zeros()) as u8
    }
}

//! The driver's side: what lands, and what is said of it.

use crate::clauses::Clause;
use crate::model::{Commit, Decided, EXACTLY_ONCE, FINAL, GAPLESS, Kind, Settling, State, Version};

impl Settling {
    pub(crate) fn submit(&self, state: &mut State, mut commit: Commit) {
        commit.version = Version { number: commit.base.number + 1, name: 0 };
        let taken = |version: Version| {
            let mut in_flight = state.commits.iter();
            state.is_stored(version) || in_flight.any(|other| other.version == version)
        };
        while taken(commit.version) {
            commit.version.name += 1;
        }
        state.commits.push(commit);
    }

    pub(crate) fn land(&self, state: &mut State, index: usize) {
        let commit = &mut state.commits[index];
        commit.copies -= 1;
        let commit = *commit;
        let tip = state.tip();
        let is_again = state.is_stored(commit.version);
        let compared = self.rules.keep(Clause::Compared);
        if is_again || compared && tip.version != commit.base {
            state.commits[index].refused |= tip.version != commit.version;
            return;
        }
        let blocks = if commit.kind == Kind::Grant { commit.blocks } else { tip.blocks };
        let fence_base = if commit.kind == Kind::Fence { commit.base } else { tip.fence_base };
        let number = tip.version.number + 1;
        // Without comparison a commit makes whatever version comes next.
        let version = Version { number, ..commit.version };
        state.commits[index].version = version;
        state.history.push(Decided { version, blocks, fence_base });
        if state.denied.contains(&commit.version) {
            state.breaks(FINAL);
        }
        let answered = |request: usize| state.answered[request].is_some();
        let kept = |request: usize| blocks[request] == state.answered[request];
        if !(0..2).all(|request| !answered(request) || kept(request)) {
            state.breaks(EXACTLY_ONCE);
        }
        let spent = (0..2).any(|request| state.refused[request] && blocks[request].is_some());
        let given = blocks.iter().flatten().count();
        let gapless = (0..given).all(|block| blocks.contains(&Some(block as u8)));
        if spent || !gapless {
            state.breaks(GAPLESS);
        }
    }

    pub(crate) fn copy(&self, state: &mut State, index: usize) {
        state.left.copies -= 1;
        let commit = &mut state.commits[index];
        commit.copies += 1;
        commit.doubled = true;
    }

    /// Whether a replica says that the commit is not stored and never will be.
    pub(crate) fn is_conflict(&self, state: &State, commit: &Commit, replica: usize) -> bool {
        let found = state.at(replica).version;
        let behind = found.number < commit.base.number;
        let other = found.number == commit.version.number && found != commit.version;
        // The only copy was refused: the replica that refused it tells.
        let refused = commit.refused && (!commit.doubled || !self.copies_told_apart());
        other || refused && !behind || behind && !self.rules.keep(Clause::BehindDoesNotTell)
    }

    fn copies_told_apart(&self) -> bool {
        self.rules.keep(Clause::CopiesToldApart)
    }

    /// Drops what can have no effect any more.
    pub(crate) fn forget(&self, state: &mut State) {
        let mut commits = std::mem::take(&mut state.commits);
        for commit in &mut commits {
            let gone = state.tip().version != commit.base && self.rules.keep(Clause::Compared);
            let denied = state.denied.contains(&commit.version);
            if gone && !commit.awaited && !denied {
                commit.copies = 0;
            }
        }
        commits.retain(|commit| commit.awaited || commit.copies > 0);
        commits.sort_unstable();
        let alive = |version: &Version| commits.iter().any(|commit| commit.version == *version);
        state.denied.retain(alive);
        state.commits = commits;
    }

    pub(crate) fn crash(&self, state: &mut State, node: usize) {
        state.left.crashes -= 1;
        state.nodes[node].reign = None;
        state.nodes[node].fetched = None;
        for commit in state.commits.iter_mut().filter(|commit| commit.node == node) {
            commit.awaited = false;
        }
    }
}

//! The beginning of the next commit, worked out while one is in flight. It is planned on what that commit writes, and
//! goes on its way only once that is stored; otherwise it is dropped, and planned again on what is.

use std::{collections::VecDeque, mem};

use super::{
    backlog::Backlog,
    group::{Group, Planner},
    pending::Pending,
};
use crate::{
    CommitLimits, Now,
    state::{Moment, millis},
};

/// How many commands are worked out ahead at most: those that come later go along with them.
const MOST_AHEAD: usize = 1_024;

/// What was worked out ahead.
#[derive(Default, Debug)]
pub(crate) struct Ahead {
    group: Group,
    /// What the group was planned of, and what of that it has no room for.
    dealt: VecDeque<Pending>,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.dealt.is_empty()
    }

    pub(super) fn take(&mut self) -> (Group, VecDeque<Pending>) {
        let Self { group, dealt } = mem::take(self);
        (group, dealt)
    }
}

impl Planner<'_> {
    /// Works out what has come, as far as all that it needs is known.
    pub(super) fn plan_ahead(&mut self, backlog: &mut Backlog) {
        let (mut group, mut dealt) = self.ahead.take();
        let planned = dealt.iter().map(Pending::len).sum::<usize>();
        let caller = dealt.front().map(Pending::caller);
        dealt.extend(backlog.deal_ahead(caller, MOST_AHEAD.saturating_sub(planned)));
        if !dealt.is_empty() {
            let CommitLimits { writes, bytes } = self.shared.guard.driver().limits();
            // The engine's own commands come behind it, and have to fit.
            let limits = CommitLimits { writes: writes / 2, bytes: bytes / 2 };
            let at = self.moment(self.shared.clock.now());
            // What is missing is met again when the group is completed.
            let _ = self.plan(&mut group, &[], &mut dealt, at, limits);
            self.known.take_missing();
        }
        self.ahead = Ahead { group, dealt };
    }

    /// When commands are worked out, for those that depend on it.
    pub(super) fn moment(&self, now: Now) -> Moment {
        let elapsed_ms = millis(now.boot.since(self.reign.opened));
        Moment { now_ms: self.reign.wall_ms(now), elapsed_ms }
    }
}

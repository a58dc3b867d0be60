//! Group commit: requests that arrive while a commit is in flight go together into the next one.

use std::{collections::VecDeque, ops::Range};

use super::ahead::Ahead;
use super::{
    Shared,
    backlog::MOST_COMMANDS,
    pending::{Pending, Waiter},
    reign::Reign,
    settle,
    shares::Shares,
};
use crate::{
    CallerId, CallerLimits, CommitLimits, Effect, Error, Reads, Reject, Result, Version,
    state::{Command, Moment, Plan, REIGN, Reply, Stage, WorkingSet, Writes},
};

/// How often a group is worked out again since the state has changed, before it has to wait.
const MOST_ATTEMPTS: usize = 8;

/// Commands that were worked out together on one version of the state.
#[derive(Default, Debug)]
pub(crate) struct Group {
    plan: Plan,
    /// Of the callers' commands in their order, and of the engine's own.
    results: Vec<Result<Reply, Reject>>,
    /// How many of the engine's own commands were looked at.
    own_seen: usize,
    /// The results of those of them that were worked out.
    own: Range<usize>,
}

/// What is needed to answer a group once it is stored.
pub(crate) struct Answers {
    waiters: Vec<Waiter>,
    results: Vec<Result<Reply, Reject>>,
}

/// The state, as an open reign knows it: what it has read and stored, and nothing else.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) reign: &'a Reign,
    pub(crate) known: WorkingSet,
    pub(crate) shares: Shares,
    /// What the next commits need is likely to be not known.
    pub(super) reads_ahead: bool,
    /// What was worked out while a commit was in flight.
    pub(super) ahead: Ahead,
}

impl Planner<'_> {
    /// Forgets what was planned on: it is read again.
    pub(crate) fn forget(&mut self) {
        self.known = WorkingSet::default();
        self.shares.forget();
    }

    /// Works out `own` commands of the engine, and then as many of the pending ones as fit.
    ///
    /// # Errors
    /// Those of reading what has to be known for it.
    pub(crate) async fn group(
        &mut self,
        own: &[Command],
        pending: &mut VecDeque<Pending>,
        at: Moment,
    ) -> Result<Group> {
        let commands = pending.iter().map(Pending::len).sum::<usize>() + own.len();
        let group = Group::with_capacity(commands.min(MOST_COMMANDS));
        self.complete(group, own, pending, at).await
    }

    /// As [`group`](Self::group), where the first of the pending commands are worked out already.
    pub(crate) async fn complete(
        &mut self,
        mut group: Group,
        own: &[Command],
        pending: &mut VecDeque<Pending>,
        at: Moment,
    ) -> Result<Group> {
        let limits = self.shared.guard.driver().limits();
        let mut attempts = 0;
        loop {
            // Where too much has to be read, what is known enough for goes ahead.
            let cut = attempts >= MOST_ATTEMPTS;
            let planned = self.plan(&mut group, own, pending, at, limits);
            match (self.known.take_missing(), planned) {
                (Some(missing), Err(_)) if !cut => {
                    let version = self.known.version();
                    self.fetch(missing, &group, own, pending).await?;
                    if self.known.version() != version {
                        // What was worked out rests on a state that is gone.
                        group = Group::default();
                    }
                }
                // The first one of all has to wait for what it needs.
                (Some(_), Err(error)) if group.results.is_empty() => return Err(error),
                (Some(_), Err(_)) => return Ok(group),
                (_, planned) => return planned.map(|()| group),
            }
            attempts += 1;
        }
    }

    /// Whether the state is still that of this reign, though a commit found it at `found`: only its own
    /// commits follow its fence. What is read must not be older than that.
    pub(crate) async fn is_ours(&mut self, found: Version) -> bool {
        let reads = Reads::keys([REIGN]);
        let read = self.shared.guard.read(&reads, self.shared.options.lease).await;
        let Ok(snapshot) = read else { return false };
        if snapshot.version.position() < found.position() {
            return false;
        }
        settle::reign(snapshot)
            .ok()
            .flatten()
            .is_some_and(|record| record.epoch == self.reign.epoch && record.stage == Stage::Open)
    }

    /// Goes on with a group, up to the first command that does not fit, or for which something has to be
    /// read first.
    pub(super) fn plan(
        &mut self,
        group: &mut Group,
        own: &[Command],
        pending: &mut VecDeque<Pending>,
        at: Moment,
        limits: CommitLimits,
    ) -> Result<()> {
        for command in &own[group.own_seen..] {
            if group.own.is_empty() {
                group.own = group.results.len()..group.results.len();
            }
            // What does not fit any more is due again soon.
            group.own.end += usize::from(group.add(self, None, command, limits)?);
            group.own_seen += 1;
        }
        let mut done = group.of_callers();
        for call in pending {
            let skipped = done.min(call.len());
            done -= skipped;
            let caller = call.caller().map(|caller| (caller, call.own_limits()));
            for command in call.commands_mut().skip(skipped) {
                command.stamp(at);
                if let Some(limits) = command.limits_mut() {
                    *limits = self.shares.limits(caller);
                }
                if group.results.len() >= MOST_COMMANDS
                    || !group.add(self, caller, command, limits)?
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads what is missing, and what the commands to come will most likely ask for.
    async fn fetch(
        &mut self,
        missing: Reads,
        group: &Group,
        own: &[Command],
        pending: &VecDeque<Pending>,
    ) -> Result<()> {
        let mut reads = missing;
        let calls = pending.iter().flat_map(Pending::commands).skip(group.of_callers());
        let commands = own[group.own_seen..].iter().chain(calls);
        // More than a commit takes would only be read in vain.
        let most = self.shared.guard.driver().limits().writes;
        for command in commands.take(MOST_COMMANDS) {
            if reads.keys.len() >= most {
                break;
            }
            command.add_unknown(&self.known, &mut reads);
        }
        reads.keys.push(REIGN.into());
        reads.settle();
        self.reads_ahead = true;
        let snapshot = self.shared.guard.read(&reads, self.shared.options.lease).await?;
        if snapshot.version != self.known.version() {
            // Something else was stored: what is known may not be mixed with what is read now. The reign
            // record comes along, and tells whether it is still this reign.
            self.forget();
            self.known = WorkingSet::at(snapshot.version);
        }
        self.known.learn(reads, snapshot)
    }
}

impl Group {
    fn with_capacity(commands: usize) -> Self {
        let (plan, results) = (Plan::with_capacity(commands), Vec::with_capacity(commands));
        Self { plan, results, ..Self::default() }
    }

    /// Adds a command; false if it does not fit any more.
    fn add(
        &mut self,
        planner: &mut Planner<'_>,
        caller: Option<(CallerId, CallerLimits)>,
        command: &Command,
        limits: CommitLimits,
    ) -> Result<bool> {
        let added = self.plan.add(&planner.known, planner.reign.epoch, command, limits)?;
        let fits = added.is_some();
        for change in self.plan.take_changes() {
            planner.shares.note(caller.map(|(caller, _)| caller), &change);
        }
        let explain = |reject| planner.shares.explain(caller, reject);
        self.results.extend(added.map(|result| result.map_err(explain)));
        Ok(fits)
    }

    /// How many commands of callers were worked out.
    fn of_callers(&self) -> usize {
        self.results.len() - self.own.len()
    }

    /// Whether there is nothing to be stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.plan.is_empty()
    }

    /// Whether the renewal, which is the first of the engine's own commands, was worked out: it may have had no room,
    /// and what is behind it may.
    pub(crate) fn has_renewal(&self) -> bool {
        matches!(self.results[self.own.clone()].first(), Some(Ok(Reply::Extended { .. })))
    }

    pub(crate) fn commands(&self) -> usize {
        self.results.len()
    }

    /// Whether some command was refused since the reign is over.
    pub(crate) fn is_fenced(&self) -> bool {
        self.results.iter().any(|result| matches!(result, Err(Reject::Fenced { .. })))
    }

    /// Takes the commands that were worked out from the pending ones: the effect that makes version
    /// `next`, its records, and the answers that may be given once it is stored.
    pub(crate) fn submit(
        self,
        pending: &mut VecDeque<Pending>,
        next: Version,
    ) -> (Effect, Writes, Answers) {
        let mut waiters = Vec::with_capacity(pending.len());
        let mut left = self.of_callers();
        while left > 0
            && let Some(call) = pending.front_mut()
        {
            let taken = left.min(call.len());
            waiters.push(call.submit(taken));
            left -= taken;
            if call.len() == 0 {
                pending.pop_front();
            }
        }
        let (effect, writes) = self.plan.finish(next);
        let mut results = self.results;
        results.drain(self.own);
        (effect, writes, Answers { waiters, results })
    }
}

impl Answers {
    /// Tells every caller the result.
    pub(crate) fn reply(self, reign: &Reign) {
        let mut results = self.results.into_iter();
        self.waiters.into_iter().for_each(|waiter| waiter.reply(&mut results, reign.epoch));
    }

    /// Tells every caller the same error.
    pub(crate) fn fail(self, error: &Error) {
        self.waiters.into_iter().for_each(|waiter| waiter.fail(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine's own commands behind one of a caller's.
    fn group(own: Vec<Reply>) -> Group {
        let results = [Reply::Seeded(1)].into_iter().chain(own).map(Ok).collect::<Vec<_>>();
        Group { own: 1..results.len(), results, ..Group::default() }
    }

    #[test]
    fn a_lease_counts_as_renewed_by_its_renewal_alone() {
        let (renewal, expiry) = (|| Reply::Extended { high_water_ms: 1 }, || Reply::Expired(0));
        assert!(group(vec![renewal()]).has_renewal());
        assert!(group(vec![renewal(), expiry()]).has_renewal());
        assert!(!group(vec![]).has_renewal());
        assert!(!group(vec![expiry()]).has_renewal(), "the renewal had no room, and this had");
        let rejected =
            Group { own: 0..1, results: vec![Err(Reject::NotEmpty)], ..Group::default() };
        assert!(!rejected.has_renewal());
    }
}

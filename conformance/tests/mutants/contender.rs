//! A driver over the shared state: a task that owns its side of it, and callers with reply channels.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tsoracle_core::{
    BootTime, Clock, CommitLimits, ConsensusDriver, Effect, Error, ErrorKind, Leadership, NodeId,
    Outcome, Reads, Result, SeqStore, Snapshot, SystemClock, VERSION, Version,
};

use crate::{
    sabotage::Flaw,
    shared::{SharedState, halves, without_version},
};

/// How long a flaw that needs time takes, so that it shows.
const MOMENT: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Contender {
    node: NodeId,
    index: usize,
    flaw: Option<Flaw>,
    shared: SharedState,
    leadership: watch::Receiver<Leadership>,
    jobs: mpsc::UnboundedSender<Job>,
    stops: AtomicUsize,
    stopping: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Job {
    Commit { base: Version, effect: Effect, reply: oneshot::Sender<Result<Outcome>> },
    Read { wanted: Reads, reply: oneshot::Sender<Result<Snapshot>> },
    Stop { reply: oneshot::Sender<()> },
}

impl Contender {
    pub(crate) fn start(
        shared: SharedState,
        index: usize,
        node: NodeId,
        flaw: Option<Flaw>,
        leadership: watch::Receiver<Leadership>,
        connection: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let side = Side {
            shared: shared.clone(),
            index,
            flaw,
            connection,
            latched: false,
            stopping: stopping.clone(),
            postponed: VecDeque::new(),
        };
        tokio::spawn(side.run(queue));
        let stops = AtomicUsize::new(0);
        Arc::new(Self { node, index, flaw, shared, leadership, jobs, stops, stopping })
    }

    async fn submit<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let stopped = || Error::new(ErrorKind::Unavailable, "the driver has stopped");
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

#[async_trait]
impl ConsensusDriver for Contender {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        if self.flaw != Some(Flaw::ReportsLeadershipLate) {
            return self.leadership.clone();
        }
        let (late, receiver) = watch::channel(Leadership::Unknown);
        let mut leadership = self.leadership.clone();
        tokio::spawn(async move {
            loop {
                SystemClock.sleep(MOMENT).await;
                late.send_replace(leadership.borrow_and_update().clone());
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        if self.flaw == Some(Flaw::ShowsACommitInPart) {
            return wanted.read_from(&self.shared.lock().store);
        }
        let wanted = wanted.clone();
        self.submit(|reply| Job::Read { wanted, reply }).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        if self.flaw == Some(Flaw::SeesUndecidedCommits) {
            self.shared.lock().observe(effect.version()?);
        }
        self.submit(|reply| Job::Commit { base, effect, reply }).await
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        let state = self.shared.lock();
        let opened = state.members[self.index].opened;
        match self.flaw {
            Some(Flaw::TakesAnyCommitForEvidence) => return Some(opened),
            Some(Flaw::TakesAnyNameForEvidence) => {
                let mut seen = state.seen.iter();
                return seen
                    .find(|(seen, _)| seen.position() == version.position())
                    .map(|(_, &when)| when);
            }
            Some(Flaw::TakesALaterEraForEvidence) => {
                let later =
                    state.seen.iter().filter(|(seen, _)| seen.position() >= version.position());
                return later.map(|(_, &when)| when.max(opened)).max();
            }
            Some(Flaw::DatesEvidenceFromTheOpening) if state.seen.contains_key(version) => {
                return Some(opened);
            }
            Some(Flaw::DatesEvidenceFromTheCommitBefore) => {
                let before = state.seen.iter().find(|(seen, _)| seen.number + 1 == version.number);
                return before.map(|(_, &when)| when).filter(|_| state.seen.contains_key(version));
            }
            _ => {}
        }
        state.seen.get(version).map(|&seen| seen.max(opened))
    }

    async fn resign(&self, claim: u64) {
        if self.flaw == Some(Flaw::IgnoresResignations) {
            return;
        }
        let mut state = self.shared.lock();
        let now = self.leadership.borrow().clone();
        let any = self.flaw == Some(Flaw::ResignsWhateverTheClaim);
        if any || now == (Leadership::Leader { claim }) {
            state.resign(self.index);
        }
    }

    fn limits(&self) -> CommitLimits {
        CommitLimits { writes: 16_384, bytes: 1 << 18 }
    }

    async fn shutdown(&self) -> Result<()> {
        let again = self.stops.fetch_add(1, Ordering::Relaxed) > 0;
        if again && self.flaw == Some(Flaw::CannotBeStoppedTwice) {
            return Err(Error::new(ErrorKind::Fatal, "the driver has stopped already"));
        }
        self.stopping.store(true, Ordering::Relaxed);
        let (reply, stopped) = oneshot::channel();
        if self.flaw == Some(Flaw::StopsBeforeItsCommitsEnd) {
            let _ = self.jobs.send(Job::Stop { reply });
            self.shared.lock().leave(self.index);
            return Ok(());
        }
        if self.jobs.send(Job::Stop { reply }).is_ok() {
            // If the reply is dropped, it has stopped as well.
            let _ = stopped.await;
        }
        Ok(())
    }
}

/// The task's side.
struct Side {
    shared: SharedState,
    index: usize,
    flaw: Option<Flaw>,
    connection: watch::Receiver<bool>,
    latched: bool,
    stopping: Arc<AtomicBool>,
    /// Writes that are made without any comparison, once the number of commits is reached.
    postponed: VecDeque<(u64, Effect)>,
}

impl Side {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = queue.recv().await {
            if self.connection.has_changed().is_err() {
                return;
            }
            let held_up = !*self.connection.borrow();
            let alone = held_up && self.goes_on_alone(&job);
            if held_up && !alone {
                let healed = self.connection.wait_for(|connected| *connected).await.is_ok();
                if !healed {
                    return;
                }
            }
            if !self.perform(job, held_up, queue.len()).await {
                break;
            }
        }
        self.shared.lock().leave(self.index);
    }

    /// Whether a job is done though this node is cut off.
    fn goes_on_alone(&self, job: &Job) -> bool {
        matches!(job, Job::Stop { .. }) || self.is(Flaw::CommitsAloneWhenCutOff)
    }

    /// Does a job. False once it was told to stop.
    async fn perform(&mut self, job: Job, held_up: bool, waiting: usize) -> bool {
        match job {
            Job::Read { wanted, reply } => drop(reply.send(self.read(&wanted, held_up))),
            Job::Commit { base, effect, reply } => {
                if self.is(Flaw::RefusesManyAtOnce) && waiting > 64 {
                    let error = Error::new(ErrorKind::Fatal, "too many at once");
                    drop(reply.send(Err(error)));
                    return true;
                }
                if self.minds_who_has_gone() {
                    SystemClock.sleep(MOMENT).await;
                    if reply.is_closed() {
                        self.commit_what_was_dropped(&effect);
                        return true;
                    }
                }
                if self.is(Flaw::DropsWhatIsInFlightWhenStopped) && waiting > 0 {
                    SystemClock.sleep(MOMENT).await;
                }
                if self.stopping.load(Ordering::Relaxed) && self.is(Flaw::StopsBeforeItsCommitsEnd)
                {
                    SystemClock.sleep(MOMENT * 300).await;
                }
                if self.is(Flaw::ShowsACommitInPart) {
                    let half = halves(&effect).0;
                    self.shared.lock().store.commit(half).unwrap();
                    SystemClock.sleep(MOMENT).await;
                }
                if self.is(Flaw::ComparesBeforeItWaitsForOthers)
                    && effect.len() > 100
                    && self.is_at(base)
                {
                    SystemClock.sleep(MOMENT).await;
                    if !self.is_at(base) {
                        drop(reply.send(Ok(Outcome::Stored)));
                        return true;
                    }
                }
                let outcome = self.commit(base, effect, held_up, waiting);
                drop(reply.send(self.lost_answer().map_or(outcome, Err)));
                self.catch_up();
            }
            Job::Stop { reply } => {
                self.shared.lock().leave(self.index);
                // The caller may have gone.
                let _ = reply.send(());
                return self.is(Flaw::ServesAfterItHasStopped);
            }
        }
        true
    }

    fn is_at(&self, base: Version) -> bool {
        let stored = self.shared.lock().store.get(VERSION);
        stored.is_ok_and(|stored| Version::decode(stored.as_deref()).is_ok_and(|now| now == base))
    }

    /// What a commit is answered whose answer does not get through.
    fn lost_answer(&self) -> Option<Error> {
        let is_lost = self.shared.lock().members[self.index].answers_are_lost;
        let kind = match self.is(Flaw::RefusesWhatItGotNoAnswerTo) {
            true => ErrorKind::Unavailable,
            false => ErrorKind::Uncertain,
        };
        is_lost.then(|| Error::new(kind, "no answer"))
    }

    fn read(&mut self, wanted: &Reads, held_up: bool) -> Result<Snapshot> {
        if self.latched && !self.is(Flaw::ReadsOnAfterAStorageError) {
            return Err(Error::new(ErrorKind::Fatal, "the storage has failed"));
        }
        let mut state = self.shared.lock();
        state.reads += 1;
        if held_up && self.is(Flaw::CommitsAloneWhenCutOff) {
            return wanted.read_from(&state.members[self.index].cut_off_from);
        }
        if self.is(Flaw::ReadsWhatWasThereBefore) && state.reads.is_multiple_of(17) {
            return wanted.read_from(&state.before);
        }
        let mut wanted = wanted.clone();
        for range in &mut wanted.ranges {
            match self.flaw {
                Some(Flaw::RangesIncludeTheirEnd) => range.to.push(0),
                Some(Flaw::RangesAreCutAt16) => range.limit = range.limit.min(16),
                _ => {}
            }
        }
        let mut found = wanted.read_from(&state.store)?;
        for (range, page) in wanted.ranges.iter().zip(&mut found.ranges) {
            match self.flaw {
                Some(Flaw::LeavesOutTheLastOfAFullPage) if page.len() == range.limit => {
                    let all = state.store.scan(&range.from, &range.to, usize::MAX)?;
                    page.truncate(if all.len() == page.len() {
                        page.len() - 1
                    } else {
                        page.len()
                    });
                }
                Some(Flaw::ReadsRangesOfTheVersionBefore) if !wanted.keys.is_empty() => {
                    *page = state.before.scan(&range.from, &range.to, range.limit)?;
                }
                _ => {}
            }
        }
        if self.is(Flaw::SortsTheKeysOfARead) {
            found.values.sort();
        }
        Ok(found)
    }

    fn commit(
        &mut self,
        base: Version,
        effect: Effect,
        held_up: bool,
        waiting: usize,
    ) -> Result<Outcome> {
        if self.latched {
            return Err(Error::new(ErrorKind::Fatal, "the storage has failed"));
        }
        let mut state = self.shared.lock();
        if std::mem::take(&mut state.storage_fails) {
            if !self.is(Flaw::LeadsOnAfterAStorageError) {
                self.latched = true;
            }
            if self.latched && !self.is(Flaw::KeepsTheChannelOpenAfterAStorageError) {
                state.leave(self.index);
            }
            return Err(Error::new(ErrorKind::Uncertain, "the storage was told to fail"));
        }
        if self.is(Flaw::LimitsTheWritesOfACommit) && effect.len() > 128 {
            return Err(Error::new(ErrorKind::Unavailable, "more than 128 writes at once"));
        }
        if held_up && self.is(Flaw::CommitsAloneWhenCutOff) {
            state.members[self.index].cut_off_from.commit(effect)?;
            return Ok(Outcome::Stored);
        }
        if held_up && self.is(Flaw::CommitsLateWhateverTheBase) {
            state.write(effect)?;
            return Ok(Outcome::Stored);
        }
        if self.is(Flaw::DropsWhatIsInFlightWhenStopped) && self.stopping.load(Ordering::Relaxed) {
            return Ok(Outcome::Stored);
        }
        if self.is(Flaw::CommitsTwiceWhenBusy) && waiting > 0 {
            self.postponed.push_back((state.commits + 2, without_version(&effect)));
        }
        let (next, rest) = (effect.version()?, without_version(&effect));
        if self.is(Flaw::SeesWhatConflicted) {
            state.observe(next);
        }
        let outcome = state.compare_and_store(base, effect);
        if self.is(Flaw::StoresAConflictLater) && matches!(outcome, Ok(Outcome::Conflict { .. })) {
            self.postponed.push_back((state.commits + 2, rest));
        }
        outcome
    }

    fn minds_who_has_gone(&self) -> bool {
        [
            Flaw::OverwritesWithADroppedCommit,
            Flaw::CommitsWhatWasDroppedLater,
            Flaw::CommitsWhatWasDroppedInPart,
        ]
        .into_iter()
        .any(|flaw| self.is(flaw))
    }

    /// What a flaw makes of a commit whose caller has gone.
    fn commit_what_was_dropped(&mut self, effect: &Effect) {
        let mut state = self.shared.lock();
        match self.flaw {
            Some(Flaw::OverwritesWithADroppedCommit) => {
                self.postponed.push_back((state.commits + 1, effect.clone()));
            }
            Some(Flaw::CommitsWhatWasDroppedLater) => {
                self.postponed.push_back((state.commits + 3, without_version(effect)));
            }
            _ => {
                let mut part = halves(effect).0;
                part.set_version(effect.version().unwrap());
                state.write(part).unwrap();
            }
        }
    }

    /// Makes what was postponed.
    fn catch_up(&mut self) {
        let mut state = self.shared.lock();
        if self.postponed.front().is_some_and(|(due, _)| *due <= state.commits)
            && let Some((_, effect)) = self.postponed.pop_front()
        {
            state.write(effect).unwrap();
        }
    }
}

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
    Clock, CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership,
    Membership, NodeId, Result, SystemClock,
    state::{Answer, Command, Query, answer},
};

use crate::{commit, flaw::Flaw, shared::Shared};

/// How long a flaw that needs time takes, so that it shows.
const MOMENT: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Contender {
    node: NodeId,
    flaw: Option<Flaw>,
    shared: Shared,
    leadership: watch::Receiver<Leadership>,
    jobs: mpsc::UnboundedSender<Job>,
    stops: AtomicUsize,
    stopping: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Job {
    Commit { epoch: Epoch, commands: Vec<Command>, reply: oneshot::Sender<Result<Committed>> },
    Read { query: Query, reply: oneshot::Sender<Result<Answer>> },
    Stop { reply: oneshot::Sender<()> },
}

impl Contender {
    pub(crate) fn start(
        shared: Shared,
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
            listed: 0,
        };
        tokio::spawn(side.run(queue));
        let stops = AtomicUsize::new(0);
        Arc::new(Self { node, flaw, shared, leadership, jobs, stops, stopping })
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

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        self.submit(|reply| Job::Commit { epoch, commands, reply }).await
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        if self.flaw == Some(Flaw::ShowsABatchInPart) {
            return answer(&self.shared.lock().store, &query);
        }
        self.submit(|reply| Job::Read { query, reply }).await
    }

    fn limits(&self) -> CommitLimits {
        CommitLimits { commands: 1_000, bytes: 1 << 18 }
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        let again = self.stops.fetch_add(1, Ordering::Relaxed) > 0;
        if again && self.flaw == Some(Flaw::CannotBeStoppedTwice) {
            return Err(Error::new(ErrorKind::Fatal, "the driver has stopped already"));
        }
        self.stopping.store(true, Ordering::Relaxed);
        let (reply, stopped) = oneshot::channel();
        if self.jobs.send(Job::Stop { reply }).is_ok() {
            // If the reply is dropped, it has stopped as well.
            let _ = stopped.await;
        }
        Ok(())
    }
}

/// The task's side.
struct Side {
    shared: Shared,
    index: usize,
    flaw: Option<Flaw>,
    connection: watch::Receiver<bool>,
    latched: bool,
    stopping: Arc<AtomicBool>,
    /// Commits whose caller has gone, to be made once so many commits have been.
    postponed: VecDeque<(u64, Epoch, Vec<Command>)>,
    /// How many sequences the pages before have listed.
    listed: usize,
}

impl Side {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut jobs = VecDeque::new();
        loop {
            if jobs.is_empty() {
                match queue.recv().await {
                    Some(job) => jobs.push_back(job),
                    None => break,
                }
                if self.is(Flaw::ReordersCommits) {
                    self.reorder(&mut jobs, &mut queue).await;
                }
            }
            let Some(job) = jobs.pop_front() else { break };
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
            if !self.perform(job, held_up, alone, queue.len()).await {
                break;
            }
        }
        self.shared.lock().leave(self.index);
    }

    async fn reorder(&self, jobs: &mut VecDeque<Job>, queue: &mut mpsc::UnboundedReceiver<Job>) {
        SystemClock.sleep(MOMENT).await;
        while let Ok(job) = queue.try_recv() {
            jobs.push_back(job);
        }
        if jobs.iter().all(|job| matches!(job, Job::Commit { .. })) {
            jobs.make_contiguous().reverse();
        }
    }

    /// Whether a job is done though this node is cut off.
    fn goes_on_alone(&self, job: &Job) -> bool {
        match job {
            Job::Commit { .. } => self.is(Flaw::CommitsAloneWhenCutOff),
            Job::Read { .. } => {
                self.is(Flaw::ReadsAloneWhenCutOff) || self.is(Flaw::CommitsAloneWhenCutOff)
            }
            Job::Stop { .. } => true,
        }
    }

    /// Does a job. False once it was told to stop.
    async fn perform(&mut self, job: Job, held_up: bool, alone: bool, waiting: usize) -> bool {
        match job {
            Job::Read { query, reply } => drop(reply.send(self.read(&query, alone))),
            Job::Commit { epoch, commands, reply } => {
                if self.is(Flaw::RefusesManyAtOnce) && waiting > 64 {
                    let error = Error::new(ErrorKind::Fatal, "too many at once");
                    drop(reply.send(Err(error)));
                    return true;
                }
                if self.minds_who_has_gone() {
                    SystemClock.sleep(MOMENT).await;
                    if reply.is_closed() {
                        self.commit_for_nobody(epoch, commands);
                        return true;
                    }
                }
                if self.is(Flaw::DropsWhatIsInFlightWhenStopped) && waiting > 0 {
                    SystemClock.sleep(MOMENT).await;
                }
                drop(reply.send(self.commit(epoch, commands, held_up, waiting).await));
                self.catch_up();
            }
            Job::Stop { reply } => {
                self.shared.lock().leave(self.index);
                // Whoever asked may have gone.
                let _ = reply.send(());
                return self.is(Flaw::ServesAfterItHasStopped);
            }
        }
        true
    }

    fn read(&mut self, query: &Query, alone: bool) -> Result<Answer> {
        if self.latched {
            return Err(Error::new(ErrorKind::Fatal, "the storage has failed"));
        }
        let state = self.shared.lock();
        if let (Some(Flaw::ListsByOffset), Query::Sequences { prefix, after, limit }) =
            (self.flaw, query)
        {
            self.listed = if after.is_empty() { 0 } else { self.listed + limit };
            let (prefix, after) = (prefix.clone(), String::new());
            let all = Query::Sequences { prefix, after, limit: self.listed + limit };
            let Answer::Sequences(all) = answer(&state.store, &all)? else { unreachable!() };
            return Ok(Answer::Sequences(all.into_iter().skip(self.listed).collect()));
        }
        if alone {
            return answer(&state.members[self.index].cut_off_from, query);
        }
        if self.is(Flaw::ReadsWhatWasThereBefore) && state.commits.is_multiple_of(7) {
            return answer(&state.before, query);
        }
        answer(&state.store, query)
    }

    async fn commit(
        &mut self,
        epoch: Epoch,
        commands: Vec<Command>,
        held_up: bool,
        waiting: usize,
    ) -> Result<Committed> {
        if self.latched {
            return Err(Error::new(ErrorKind::Fatal, "the storage has failed"));
        }
        if self.is(Flaw::ShowsABatchInPart) && commands.len() > 1 {
            let mut results = vec![];
            for command in commands {
                let step = [command];
                let committed = commit::commit(&mut self.shared.lock(), self.index, epoch, &step)?;
                results.extend(committed.results);
                SystemClock.sleep(MOMENT).await;
            }
            return Ok(Committed { results, replaced_seen: None });
        }
        let mut state = self.shared.lock();
        if std::mem::take(&mut state.storage_fails) {
            if !self.is(Flaw::LeadsOnAfterAStorageError) {
                self.latched = true;
                state.leave(self.index);
            }
            return Err(Error::new(ErrorKind::Uncertain, "the storage was told to fail"));
        }
        if held_up && self.is(Flaw::CommitsAloneWhenCutOff) {
            let alone = &mut state.members[self.index].cut_off_from;
            return commit::commit_alone(alone, epoch, &commands);
        }
        if held_up && self.is(Flaw::CommitsLateWhateverTheEpoch) {
            let epoch = commit::reigning(&state.store)?.unwrap_or(epoch);
            return commit::commit(&mut state, self.index, epoch, &commands);
        }
        if self.is(Flaw::DropsWhatIsInFlightWhenStopped) && self.stopping.load(Ordering::Relaxed) {
            let mut alone = state.store.clone();
            return commit::commit_alone(&mut alone, epoch, &commands);
        }
        if self.is(Flaw::CommitsTwiceWhenBusy) && waiting > 0 {
            commit::commit(&mut state, self.index, epoch, &commands)?;
        }
        commit::commit(&mut state, self.index, epoch, &commands)
    }

    fn minds_who_has_gone(&self) -> bool {
        [
            Flaw::OverwritesWithADroppedCommit,
            Flaw::CommitsWhatWasDroppedLater,
            Flaw::CommitsWhatWasDroppedInPart,
            Flaw::LosesTheIdOfADroppedRequest,
        ]
        .into_iter()
        .any(|flaw| self.is(flaw))
    }

    /// What a flaw makes of a commit whose caller has gone.
    fn commit_for_nobody(&mut self, epoch: Epoch, mut commands: Vec<Command>) {
        let mut state = self.shared.lock();
        let made = match self.flaw {
            Some(Flaw::OverwritesWithADroppedCommit) => {
                commit::commit_late(&mut state, epoch, &commands)
            }
            Some(Flaw::CommitsWhatWasDroppedLater) => {
                self.postponed.push_back((state.commits + 3, epoch, commands));
                Ok(())
            }
            Some(Flaw::CommitsWhatWasDroppedInPart) => {
                commands.truncate(1);
                commit::commit(&mut state, self.index, epoch, &commands).map(drop)
            }
            _ => {
                for command in &mut commands {
                    if let Command::Advance(advance) = command {
                        advance.id = None;
                    }
                }
                commit::commit(&mut state, self.index, epoch, &commands).map(drop)
            }
        };
        made.unwrap();
    }

    /// Makes what was postponed.
    fn catch_up(&mut self) {
        let mut state = self.shared.lock();
        let late = std::mem::take(&mut state.late);
        if !late.is_empty() {
            state.write(late).unwrap();
        }
        if self.postponed.front().is_some_and(|(due, ..)| *due <= state.commits)
            && let Some((_, epoch, commands)) = self.postponed.pop_front()
        {
            commit::commit(&mut state, self.index, epoch, &commands).unwrap();
        }
    }
}

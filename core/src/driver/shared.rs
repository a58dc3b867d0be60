use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{RwLock, watch};

use super::{
    Announcer, CommitLimits, ConsensusDriver, Effect, Elected, Election, Leadership, News, Outcome,
    Reads, Report, SharedStore, Snapshot, Version, local::draw,
};
use crate::{
    BootTime, Clock, Error, ErrorKind, LeaderHint, NodeId, Result, SystemClock, supervised,
};

/// How soon a node looks again after a look that has failed.
const AGAIN: Duration = Duration::from_millis(100);

/// For how long a node that has resigned leaves the election to the others: each of them has looked by then.
const ASIDE: Duration = Duration::from_secs(2);

/// For how long a node that begins or stops tries again while the service does not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A driver over any service that nodes share and that decides for all of them.
///
/// The first error that is final ends leadership, and every later call fails with it.
#[derive(Debug)]
pub struct SharedDriver<S: SharedStore> {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    shared: Arc<Shared<S>>,
    /// How it stopped, once it has.
    stopped: watch::Receiver<Option<Result<()>>>,
}

/// What the task of a driver and its callers share.
#[derive(Debug)]
struct Shared<S> {
    store: S,
    news: News,
    /// The newest claim that was resigned.
    resigned: watch::Sender<u64>,
    /// Shared by each commit in flight; taken whole to stop.
    commits: Arc<RwLock<()>>,
    /// The error that every call fails with, once there is one.
    ended: watch::Sender<Option<Error>>,
}

impl<S: SharedStore> SharedDriver<S> {
    /// Takes part in the election. If the service cannot be reached, it does so once it can.
    ///
    /// `ttl` is how long the service takes a leader for alive that it hears nothing from: one that has got no
    /// answer for as long leads no more.
    ///
    /// # Errors
    /// Those of the first look, unless it may succeed later.
    pub async fn open(store: S, ttl: Duration) -> Result<Arc<Self>> {
        let news = News::default();
        match insist(|| store.elect(false)).await {
            Ok(found) => news.version(found.version),
            Err(error) if is_unanswered(&error) => {
                tracing::warn!(error = %format_args!("{error:#}"), "the service does not answer yet; this node waits for it");
            }
            Err(error) => return Err(error),
        }
        let (announcer, leadership) = Announcer::new();
        let (left, stopped) = watch::channel(None);
        // No lock keeps another process from the same state, so every process is a node of its own.
        let node = NodeId(draw()?);
        let (resigned, commits, ended) = Default::default();
        let shared = Arc::new(Shared { store, news, resigned, commits, ended });
        // One task, so that a panic anywhere in it ends everything.
        tokio::spawn(run(shared.clone(), announcer, ttl, left));
        Ok(Arc::new(Self { node, leadership, shared, stopped }))
    }
}

/// Takes part in the election until the driver has failed, or is stopped or dropped.
async fn run<S: SharedStore>(
    shared: Arc<Shared<S>>,
    announcer: Announcer,
    ttl: Duration,
    left: watch::Sender<Option<Result<()>>>,
) {
    let mut candidate = Candidate::new(&shared, announcer, ttl);
    let working = async {
        tokio::select! {
            () = shared.ended() => {}
            () = candidate.run() => {}
            () = shared.store.watch(&shared.news) => {}
        }
    };
    if let Err(panic) = supervised("the election", working).await {
        shared.failed(panic);
    }
    candidate.announcer.unknown();
    drop(candidate);
    left.send_replace(Some(insist(|| shared.store.give_up()).await));
}

#[async_trait]
impl<S: SharedStore> ConsensusDriver for SharedDriver<S> {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let shared = &self.shared;
        shared.check()?;
        let snapshot = shared.store.read(wanted).await.map_err(|error| {
            let error = shared.failed(error);
            // Nothing that a read does is in doubt.
            if error.is_final() { error } else { error.of_kind(ErrorKind::Unavailable) }
        })?;
        shared.news.version(snapshot.version);
        Ok(snapshot)
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let shared = self.shared.clone();
        let permit = shared.commits.clone().try_read_owned().map_err(|_| stopped())?;
        shared.check()?;
        // In a task of its own, which goes on if this future is dropped.
        let committing = tokio::spawn(async move {
            let outcome = shared.commit(base, &effect).await;
            drop(permit);
            outcome
        });
        let lost = |_| Error::new(ErrorKind::Uncertain, "the driver failed while it committed");
        committing.await.map_err(lost)?
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.shared.news.observed.seen(version)
    }

    async fn resign(&self, claim: u64) {
        // Of a claim that is over it must not be noted either: it would hide a later resignation.
        if *self.leadership.borrow() == (Leadership::Leader { claim }) {
            self.shared.resigned.send_replace(claim);
        }
    }

    fn limits(&self) -> CommitLimits {
        S::LIMITS
    }

    fn report(&self, now: BootTime) -> Report {
        self.shared.store.report(now)
    }

    async fn shutdown(&self) -> Result<()> {
        // Commits in flight end first, and no other begins.
        let commits = self.shared.commits.write().await;
        self.shared.end(stopped());
        drop(commits);
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Error::new(ErrorKind::Fatal, "the driver's task panicked")),
        }
    }
}

impl<S: SharedStore> Drop for SharedDriver<S> {
    fn drop(&mut self) {
        self.shared.end(stopped());
    }
}

impl<S: SharedStore> Shared<S> {
    async fn commit(&self, base: Version, effect: &Effect) -> Result<Outcome> {
        let next = effect.version()?;
        let found = self.store.commit(base, next, effect).await;
        let found = found.map_err(|error| self.failed(error))?;
        self.news.version(if found == base { next } else { found });
        base.admits(next, found).ok_or_else(|| {
            let context = format!("the state is at {found:?}, which is before {base:?}");
            Error::new(ErrorKind::Uncertain, context)
        })
    }

    /// Fails if this driver has failed or stopped.
    fn check(&self) -> Result<()> {
        self.ended.borrow().as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Waits until this driver has failed or stopped.
    async fn ended(&self) {
        // The sender is in `self`, so that the channel does not close meanwhile.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    /// Has every call from now on fail with `error`, if none does yet.
    fn end(&self, error: Error) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(error);
            is_first
        });
    }

    /// Passes an error on. A final one ends this driver; of any other, the reason may pass.
    fn failed(&self, error: Error) -> Error {
        if !error.is_final() {
            let is_known = is_unanswered(&error);
            return if is_known { error } else { error.of_kind(ErrorKind::Unavailable) };
        }
        if self.check().is_ok() {
            tracing::error!(error = %format_args!("{error:#}"), "this process serves no more");
            self.end(error.clone());
        }
        error
    }
}

/// A node's part in the election.
struct Candidate<'a, S> {
    shared: &'a Shared<S>,
    announcer: Announcer,
    ttl: Duration,
    /// That of the election that this node has won last.
    number: i64,
    /// Until then this node, having resigned, lets the others go first.
    aside: BootTime,
    /// When the service was last asked something that it then answered.
    answered: BootTime,
    trouble: Option<String>,
}

impl<'a, S: SharedStore> Candidate<'a, S> {
    fn new(shared: &'a Shared<S>, announcer: Announcer, ttl: Duration) -> Self {
        let (number, aside, trouble) = Default::default();
        let answered = SystemClock.now().boot;
        Self { shared, announcer, ttl, number, aside, answered, trouble }
    }

    /// Takes part for ever.
    async fn run(&mut self) {
        let mut resigned = self.shared.resigned.subscribe();
        let mut pause = Duration::ZERO;
        loop {
            let claim = self.announcer.claim();
            let resigns = tokio::select! {
                _ = resigned.wait_for(|resigned| claim == Some(*resigned)) => true,
                () = self.shared.news.look.notified() => false,
                () = SystemClock.sleep(pause) => false,
            };
            let began = SystemClock.now().boot;
            if resigns {
                self.aside = began + ASIDE;
                self.give_up().await;
            }
            pause = match self.shared.store.elect(began >= self.aside).await {
                Ok(found) => self.found(began, found),
                Err(error) => self.failed(&self.shared.failed(error)).await,
            };
        }
    }

    /// Publishes what a look has found. Returns when to look again.
    fn found(&mut self, began: BootTime, found: Election) -> Duration {
        self.answered = began;
        self.shared.news.version(found.version);
        if self.trouble.take().is_some() {
            tracing::info!("the service answers again");
        }
        let claim = self.announcer.claim();
        match found.elected {
            Elected::This(number) if claim.is_some() && number == self.number => {}
            Elected::This(number) => {
                self.number = number;
                let claim = self.announcer.lead();
                tracing::info!(claim, "elected");
            }
            Elected::Other(endpoint) => {
                let is_known = !endpoint.is_empty();
                self.announcer.follow(is_known.then_some(LeaderHint { endpoint, epoch: None }));
            }
            Elected::None => self.announcer.unknown(),
        }
        if claim.is_some() && claim != self.announcer.claim() {
            tracing::warn!(claim, "no longer elected");
        }
        match self.aside.since(began) {
            Duration::ZERO => found.again,
            aside => found.again.min(aside),
        }
    }

    /// Once the service has been silent for as long as leaders may be, it is not known which node leads.
    async fn failed(&mut self, error: &Error) -> Duration {
        let text = format!("{error:#}");
        if self.trouble.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "cannot take part in the election; trying again");
            self.trouble = Some(text);
        }
        if SystemClock.now().boot.since(self.answered) >= self.ttl {
            self.give_up().await;
        }
        AGAIN
    }

    /// Ends the claim, if there is one, and lets another node lead.
    async fn give_up(&mut self) {
        if let Some(claim) = self.announcer.claim() {
            tracing::warn!(claim, "no longer elected");
        }
        self.announcer.unknown();
        if let Err(error) = self.shared.store.give_up().await {
            tracing::debug!(error = %format_args!("{error:#}"), "the service does not know yet that this node has given up");
        }
    }
}

/// Tries again for a while if the service does not answer.
async fn insist<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    let until = SystemClock.now().boot + PATIENCE;
    loop {
        match attempt().await {
            Err(error) if is_unanswered(&error) && SystemClock.now().boot < until => {
                SystemClock.sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether another attempt may succeed without anyone mending anything.
fn is_unanswered(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Uncertain)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}

#[cfg(test)]
#[path = "shared_test.rs"]
mod tests;

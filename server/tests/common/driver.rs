use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Epoch, Error, ErrorKind, LeaderHint,
    Leadership, MemoryStore, NodeId, Outcome, Reads, Result, SeqStore, Snapshot, VERSION, Version,
};

/// The first byte of the keys of sequences.
const SEQUENCE: u8 = b's';

/// What a driver does with requests for sequence values.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Manner {
    /// Commits them.
    Commit,
    /// Fails with such an error, and commits nothing.
    Fail(ErrorKind),
    /// Commits them, and fails all the same; reads fail from then on, so that nothing can be found out.
    CommitAndFail(ErrorKind),
    /// Waits until told otherwise.
    Hang,
}

/// A driver whose leadership and failures are scripted.
#[derive(Debug)]
pub(crate) struct Scripted {
    leadership: watch::Sender<Leadership>,
    manner: watch::Sender<Manner>,
    /// No commit goes on, whatever is in it.
    stalled: watch::Sender<bool>,
    /// How many commits with requests have begun.
    begun: watch::Sender<usize>,
    /// Reads fail, so that nothing can be found out of a commit that failed.
    doubtful: watch::Sender<bool>,
    store: Mutex<MemoryStore>,
}

impl Scripted {
    pub(crate) fn new(leadership: Leadership) -> Arc<Self> {
        Arc::new(Self {
            leadership: watch::Sender::new(leadership),
            manner: watch::Sender::new(Manner::Commit),
            stalled: watch::Sender::new(false),
            begun: watch::Sender::new(0),
            doubtful: watch::Sender::new(false),
            store: Mutex::default(),
        })
    }

    pub(crate) fn leader() -> Arc<Self> {
        Self::new(Leadership::Leader { claim: 1 })
    }

    pub(crate) fn follower(endpoint: &str, epoch: u128) -> Arc<Self> {
        let (endpoint, epoch) = (endpoint.into(), Some(Epoch(epoch)));
        Self::new(Leadership::Follower { leader: Some(LeaderHint { endpoint, epoch }) })
    }

    pub(crate) fn lead(&self, leadership: Leadership) {
        self.leadership.send_replace(leadership);
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.doubtful.send_replace(false);
        self.manner.send_replace(manner);
    }

    /// Lets no commit go on until it is called again with `false`.
    pub(crate) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Waits until so many commits with requests have begun.
    pub(crate) async fn has_begun(&self, commits: usize) {
        let mut begun = self.begun.subscribe();
        begun.wait_for(|begun| *begun >= commits).await.expect("the driver lives");
    }

    /// How many commits with requests have begun so far.
    pub(crate) fn begun(&self) -> usize {
        *self.begun.borrow()
    }

    fn apply(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let mut store = self.store.lock().expect("nothing panics under the lock");
        let current = Version::decode(store.get(VERSION)?.as_deref())?;
        match base.admits(effect.version()?, current) {
            Some(Outcome::Stored) => store.commit(effect).map(|()| Outcome::Stored),
            Some(conflict) => Ok(conflict),
            None => Err(Error::new(ErrorKind::Uncertain, "the state is behind")),
        }
    }
}

fn scripted(kind: ErrorKind) -> Error {
    Error::new(kind, "as scripted")
}

#[async_trait]
impl ConsensusDriver for Scripted {
    fn node(&self) -> NodeId {
        NodeId(1)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let mut stalled = self.stalled.subscribe();
        stalled.wait_for(|stalled| !stalled).await.expect("the driver lives");
        if !effect.iter().any(|(key, _)| key.first() == Some(&SEQUENCE)) {
            return self.apply(base, effect);
        }
        self.begun.send_modify(|begun| *begun += 1);
        let mut manner = self.manner.subscribe();
        let manner = manner.wait_for(|manner| *manner != Manner::Hang).await;
        match manner.expect("the driver lives").clone() {
            Manner::Fail(kind) => Err(scripted(kind)),
            Manner::CommitAndFail(kind) => {
                self.doubtful.send_replace(true);
                self.apply(base, effect)?;
                Err(scripted(kind))
            }
            Manner::Commit | Manner::Hang => self.apply(base, effect),
        }
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        if *self.doubtful.borrow() {
            return Err(scripted(ErrorKind::Unavailable));
        }
        wanted.read_from(&*self.store.lock().expect("nothing panics under the lock"))
    }

    fn seen(&self, _: &Version) -> Option<BootTime> {
        None
    }

    async fn resign(&self, _: u64) {}

    fn limits(&self) -> CommitLimits {
        CommitLimits { writes: 4_096, bytes: 1 << 20 }
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

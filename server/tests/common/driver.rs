use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, LeaderHint, Leadership,
    Membership, MemoryStore, NodeId, Reject, Result, SeqStore,
    state::{self, Answer, Command, Query},
};

/// What a driver does with requests for sequence values.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Manner {
    /// Commits them.
    Commit,
    /// Fails with such an error, and commits nothing.
    Fail(ErrorKind),
    /// Commits them, and fails all the same.
    CommitAndFail(ErrorKind),
    /// Refuses them.
    Refuse(Reject),
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
    store: Mutex<MemoryStore>,
}

impl Scripted {
    pub(crate) fn new(leadership: Leadership) -> Arc<Self> {
        Arc::new(Self {
            leadership: watch::Sender::new(leadership),
            manner: watch::Sender::new(Manner::Commit),
            stalled: watch::Sender::new(false),
            begun: watch::Sender::new(0),
            store: Mutex::default(),
        })
    }

    pub(crate) fn leader() -> Arc<Self> {
        Self::new(Leadership::Leader { epoch: Epoch(1) })
    }

    pub(crate) fn follower(endpoint: &str, epoch: u128) -> Arc<Self> {
        let (endpoint, epoch) = (endpoint.into(), Some(Epoch(epoch)));
        Self::new(Leadership::Follower { leader: Some(LeaderHint { endpoint, epoch }) })
    }

    pub(crate) fn lead(&self, leadership: Leadership) {
        self.leadership.send_replace(leadership);
    }

    pub(crate) fn behave(&self, manner: Manner) {
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

    fn apply(&self, epoch: Epoch, commands: &[Command]) -> Result<Committed> {
        let mut store = self.store.lock().expect("nothing panics under the lock");
        let (results, effect) = state::apply(&*store, epoch, commands)?;
        store.commit(effect)?;
        Ok(Committed { results, replaced_seen: None })
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

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let mut stalled = self.stalled.subscribe();
        stalled.wait_for(|stalled| !stalled).await.expect("the driver lives");
        if !commands.iter().any(|command| matches!(command, Command::Advance(_))) {
            return self.apply(epoch, &commands);
        }
        self.begun.send_modify(|begun| *begun += 1);
        let mut manner = self.manner.subscribe();
        let manner = manner.wait_for(|manner| *manner != Manner::Hang).await;
        match manner.expect("the driver lives").clone() {
            Manner::Fail(kind) => Err(scripted(kind)),
            Manner::CommitAndFail(kind) => {
                self.apply(epoch, &commands)?;
                Err(scripted(kind))
            }
            Manner::Refuse(reject) => {
                let results = commands.iter().map(|_| Err(reject.clone())).collect();
                Ok(Committed { results, replaced_seen: None })
            }
            Manner::Commit | Manner::Hang => self.apply(epoch, &commands),
        }
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        let manner = self.manner.borrow().clone();
        match manner {
            Manner::Fail(kind) => Err(scripted(kind)),
            _ => state::answer(&*self.store.lock().expect("nothing panics under the lock"), &query),
        }
    }

    fn limits(&self) -> CommitLimits {
        CommitLimits { commands: 4_096, bytes: 1 << 20 }
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

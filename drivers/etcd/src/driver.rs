use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::unconstrained,
};
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, NodeId, Result,
    Surroundings,
    state::{Answer, Command, Query},
};

use crate::{
    config::Config,
    elector::Elector,
    etcd::Etcd,
    inspect::{inspect, read},
    members::again,
    shared::Shared,
    watching::watch,
    writer::{Job, Writer},
};

/// How many commits may wait. The engine has a few under way at once.
const QUEUE: usize = 64;

/// So many commands never come to a request beyond the 1.5 MiB that etcd takes by default, whatever
/// is in the state: each may write a page of answers anew, which has 21 KiB at most, and end 64
/// leases; and the keys of all take what they have and a prefix.
const LIMITS: CommitLimits = CommitLimits { commands: 40, bytes: 64 << 10 };

/// One of any number of nodes over an etcd cluster, of which one is elected.
pub struct EtcdDriver {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    /// How it stopped, once it has.
    stopped: watch::Receiver<Option<Result<(), String>>>,
}

impl EtcdDriver {
    /// Stands for election. If etcd cannot be reached, it does so once it can.
    ///
    /// # Errors
    /// `Config` for options that make no sense, or if etcd does not let this user in; `Corrupt` if
    /// the state is damaged or of an unknown format; `Fatal` if it was written in another cluster.
    pub async fn open(config: Config, surroundings: Surroundings) -> Result<Arc<Self>> {
        config.validate()?;
        let etcd = Etcd::new(&config)?;
        let inspected = first_inspection(&etcd).await?;
        let (lead, leadership) = watch::channel(Leadership::Unknown);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (ended, stopped) = watch::channel(None);
        let node = new_node()?;
        let shared = Arc::new(Shared::new(etcd, lead));
        let endpoint = surroundings.service_endpoint.unwrap_or_default();
        let times = (config.ttl, config.probe);
        let mut elector = Elector::new(shared.clone(), times, endpoint, inspected);
        let writer = Writer::new(shared.clone(), node);
        // One task, so that a panic anywhere in it ends everything.
        tokio::spawn({
            let closing = Closing(shared.clone());
            async move {
                let mut writing = std::pin::pin!(writer.run(queue));
                tokio::select! {
                    () = &mut writing => {}
                    // It is done for, and goes on to say so.
                    () = elector.run() => writing.await,
                    () = watch(&closing.0) => writing.await,
                }
                closing.0.close();
                let resigned = elector.resign().await;
                ended.send_replace(Some(resigned.map_err(|error| error.to_string())));
            }
        });
        Ok(Arc::new(Self { node, leadership, jobs, shared, stopped }))
    }
}

/// Ends leadership, however the driver's task ends.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Looks at the state before anything else. False if etcd cannot be reached.
async fn first_inspection(etcd: &Etcd) -> Result<bool> {
    let until = etcd.members.patience();
    loop {
        let Err(error) = inspect(etcd).await else { return Ok(true) };
        match again(error, until).await {
            Err(error) if *error.kind() == ErrorKind::Unavailable => {
                tracing::warn!(%error, "etcd cannot be reached yet; this node waits for it");
                return Ok(false);
            }
            outcome => outcome?,
        }
    }
}

/// Nothing keeps another process from the same prefix, so every process is a node of its own.
fn new_node() -> Result<NodeId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|source| {
        Error::new(ErrorKind::Fatal, "no randomness for a node id").with_source(source)
    })?;
    Ok(NodeId(u128::from_be_bytes(bytes)))
}

#[async_trait]
impl ConsensusDriver for EtcdDriver {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Error::new(ErrorKind::Unavailable, "the driver has stopped");
        // Calls take effect in the order in which they were made. A task whose turn is over would not
        // even be queued, while one that called later may have its turn now.
        let job = Job::Commit { epoch, commands, reply };
        if unconstrained(self.jobs.send(job)).await.is_err() {
            self.shared.check()?;
            return Err(stopped());
        }
        // Every job is answered, unless the task has panicked over it.
        let lost = |_| Error::new(ErrorKind::Uncertain, "the driver failed while it committed");
        answer.await.map_err(lost)?
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        self.shared.check()?;
        read(&self.shared.etcd, &query).await.map_err(|error| self.shared.latch(error))
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    fn membership(&self) -> Option<Arc<dyn tsoracle_core::Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        // A closed queue means that it is stopping, or has stopped already.
        let _ = self.jobs.send(Job::Stop).await;
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(error))) => Err(Error::new(ErrorKind::Unavailable, error.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Fatal, "the driver's task panicked")),
        }
    }
}

impl fmt::Debug for EtcdDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdDriver")
            .field("node", &self.node)
            .field("prefix", &self.shared.etcd.keys.prefix)
            .field("leadership", &*self.leadership.borrow())
            .finish_non_exhaustive()
    }
}

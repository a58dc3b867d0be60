//! The driver: what callers hold of a node.

use std::{sync::Arc, thread};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot, watch},
    task::unconstrained,
};
use tsoracle_cluster::{
    Cluster, Config, Identity,
    transport::{Handler, Sender, Transport},
};
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, Membership,
    NodeId, Result,
    state::{Answer, Command, Query},
};
use tsoracle_store::Store;

use crate::{
    node::{Event, Job, Node},
    peers::Peers,
};

/// The name in config strings, and of whom a directory is.
pub(crate) const NAME: &str = "omnipaxos";

/// How many calls, and how many messages of peers, may wait for the node's thread.
const QUEUE: usize = 1_024;

/// Bounds the size of a log entry.
const LIMITS: CommitLimits = CommitLimits { commands: 4_096, bytes: 1 << 20 };

/// OmniPaxos has a list with a place for each id up to the highest.
const HIGHEST_ID: u32 = 1_024;

/// How the node's thread ended, once it has.
type Ended = watch::Receiver<Option<Result<(), Arc<str>>>>;

/// A node of a cluster that agrees by OmniPaxos.
#[derive(Debug)]
pub(crate) struct Driver {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    jobs: mpsc::Sender<Job>,
    ended: Ended,
}

/// Opens the driver: locks the directory, reads the log, and begins to speak to the peers. Whether
/// they answer is not waited for.
///
/// Dropping the future does not undo the opening; the lock is let go as soon as it has ended.
pub(crate) async fn open(config: Config) -> Result<Arc<Driver>> {
    let cluster = check(config)?;
    let (opened, opening) = oneshot::channel();
    let (jobs, queue) = mpsc::channel(QUEUE);
    let (lead, leadership) = watch::channel(Leadership::Unknown);
    let (end, ended) = watch::channel(None);
    // Made on the thread, which it never leaves.
    let work = move || async move {
        let (events, heard) = mpsc::channel(QUEUE);
        let node = match start(cluster, events, lead).await {
            Ok(node) => node,
            // Everything is let go of by now: it may be opened again at once.
            Err(error) => return drop(opened.send(Err(error))),
        };
        // If nobody waits for the driver any more, the queue is closed as well.
        let _ = opened.send(Ok(node.identity.id()));
        let outcome = node.run(queue, heard).await;
        end.send_replace(Some(outcome.map_err(|error| error.to_string().into())));
    };
    thread::Builder::new()
        .name("tsoracle-paxos".into())
        .spawn(move || match Builder::new_current_thread().enable_all().build() {
            Ok(own) => own.block_on(work()),
            Err(error) => tracing::error!(%error, "the node's thread cannot work"),
        })
        .map_err(|source| fatal("cannot start the node's thread").with_source(source))?;
    let node = opening.await.map_err(|_| fatal("the node's thread ended while it started"))??;
    Ok(Arc::new(Driver { node, leadership, jobs, ended }))
}

/// What can be told of the config without the directory.
fn check(config: Config) -> Result<Cluster> {
    let refused = |context: &str| Err(Error::new(ErrorKind::Config, context));
    let cluster = config.check()?;
    if cluster.join {
        return refused(
            "join=true is of no use here: the nodes of an omnipaxos cluster are those in `peers`, \
             and stay; the openraft driver takes in nodes at run time",
        );
    }
    if cluster.members.len() < 2 {
        return refused(
            "one peer is no cluster: OmniPaxos needs two nodes at least, and three to survive the \
             loss of one. Name three, or use the file driver",
        );
    }
    if let Some(id) = cluster.members.keys().find(|id| **id > HIGHEST_ID) {
        return refused(&format!("peer id {id} is too high; {HIGHEST_ID} is the most"));
    }
    Ok(cluster)
}

async fn start(
    cluster: Cluster,
    events: mpsc::Sender<Event>,
    lead: watch::Sender<Leadership>,
) -> Result<Node> {
    let store = Store::open(&cluster.path, cluster.store)?;
    let identity = Identity::open(&store, NAME, &cluster)?;
    let transport = Transport::open(&cluster, &identity).await?;
    let peers = Peers::new(&cluster, &identity, &store, transport.clone(), events.clone())?;
    let members = cluster.members.keys().copied().collect();
    let node = Node::new(&cluster, store, identity, peers, lead)?;
    transport.serve(Arc::new(Ears { members, events }));
    Ok(node)
}

/// Hands what peers say over to the node's thread.
struct Ears {
    members: Vec<u32>,
    events: mpsc::Sender<Event>,
}

#[async_trait]
impl Handler for Ears {
    fn admit(&self, sender: Sender) -> Result<()> {
        match self.members.contains(&sender.node) {
            true => Ok(()),
            false => {
                let context = format!("node {} is not among the peers of this one", sender.node);
                Err(Error::new(ErrorKind::Config, context))
            }
        }
    }

    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Error::new(ErrorKind::Unavailable, "the node has stopped");
        let call = Event::Call { sender, kind, body, reply };
        self.events.send(call).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn received(&self, sender: Sender, body: Bytes) {
        // A node that has stopped hears nothing.
        let _ = self.events.send(Event::Body { sender, body }).await;
    }

    fn connected(&self, peer: u32) {
        let events = self.events.clone();
        tokio::spawn(async move { events.send(Event::Connected { peer }).await });
    }
}

impl Driver {
    async fn submit<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job,
        lost: ErrorKind,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        // Calls take effect in the order in which they were made. A task whose turn is over would not
        // even be queued, while one that called later may have its turn now.
        unconstrained(self.jobs.send(job(reply)))
            .await
            .map_err(|_| Error::new(ErrorKind::Unavailable, "the driver has stopped"))?;
        let ended = || Error::new(lost, "the node ended before it answered");
        answer.await.map_err(|_| ended())?
    }
}

#[async_trait]
impl ConsensusDriver for Driver {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let job = |reply| Job::Commit { epoch, commands, reply };
        self.submit(job, ErrorKind::Uncertain).await
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        self.submit(|reply| Job::Read { query, reply }, ErrorKind::Unavailable).await
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    /// Its nodes are those of the config, and stay.
    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        // A closed queue means that the node has ended already.
        let _ = self.jobs.send(Job::Stop).await;
        let mut ended = self.ended.clone();
        let outcome = ended.wait_for(Option::is_some).await;
        match outcome.ok().and_then(|outcome| outcome.clone()) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(fatal(&error)),
            None => Err(fatal("the node's thread panicked")),
        }
    }
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use openraft::{BasicNode, error::RaftError};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tsoracle_core::{
    Clock as _, Effect, Error, ErrorKind, LeaderHint, Leadership, NodeId, Random, Result,
    SystemClock,
};
use tsoracle_replica::{Announcer, Lifecycle, Replica, StoreThread, Waiters, store_thread::After};
use tsoracle_store::{Store, Table};

use crate::{
    Config, Network,
    commit::{self, uncertain},
    leadership,
    ledger::{self, Deposit},
    log::Log,
    machine::StateMachine,
    network::Connector,
    types::{Command, Metrics, Raft, decode, encode},
};

/// The name of the directory's owner.
const OWNER: &str = "piggyback";

/// The id that the directory drew.
const NODE: Table = Table::new("node");
const ID: &[u8] = b"id";

/// Bytes of an account's name, at most.
const MAX_ACCOUNT: usize = 1_024;

/// How long commits under way may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// A node of the service: a ledger, replicated by a raft of its own, which carries the oracle as well. It
/// is the driver of [`Oracle`](tsoracle_core::Oracle)s.
#[derive(Debug)]
pub struct Node {
    pub(crate) id: NodeId,
    pub(crate) shared: Arc<Shared>,
}

/// How far a node has come in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The last entry that is applied.
    pub applied: Option<u64>,
    /// The last entry that was purged: another node gets it, and all before it, by a snapshot alone.
    pub purged: Option<u64>,
}

/// What the parts of a running node have in common.
pub(crate) struct Shared {
    pub(crate) runtime: Handle,
    pub(crate) config: Config,
    pub(crate) store: StoreThread,
    pub(crate) network: Network,
    pub(crate) raft: Raft,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) lifecycle: Lifecycle,
    /// How many handovers and shutdowns are under way: meanwhile no command is begun.
    pub(crate) leaving: AtomicUsize,
    /// How many handovers have ended.
    pub(crate) handovers: watch::Sender<u64>,
}

impl Node {
    /// Opens the node over its directory, in the current tokio runtime, and takes its place in the cluster,
    /// or forms it. Returns without waiting for the others.
    ///
    /// # Errors
    /// `Config` for options that make no sense, and for a directory that is in use or another driver's;
    /// `Corrupt` if what is stored is damaged; `Fatal` if the disk fails.
    pub async fn open(config: Config, network: Network) -> Result<Arc<Self>> {
        let raft_config = Arc::new(config.raft()?);
        let path = config.path.clone();
        let (store, id) = StoreThread::start(Arc::new(SystemClock), move || {
            let store = Store::open(&path, Default::default())?;
            store.belong_to(OWNER)?;
            let id = node_id(&store)?;
            Ok((Replica::open(store, SystemClock.now().boot)?, id))
        })
        .await?;
        let started = Shared::start(config, raft_config, network, store.clone()).await;
        if started.is_err() {
            // So that the directory can be opened again at once.
            store.stop().await?;
        }
        started.map(|shared| Arc::new(Self { id, shared }))
    }

    /// Pays into an account, and returns its balance. Only the leader can.
    ///
    /// # Errors
    /// `Invalid` for a name that is too long; `NotLeader`; `Uncertain` if the deposit may have been made;
    /// `Fatal` once the node has failed.
    pub async fn deposit(&self, account: &str, amount: u64) -> Result<u64> {
        if account.len() > MAX_ACCOUNT {
            let context = format!("the name of an account has at most {MAX_ACCOUNT} bytes");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        self.shared.admit()?;
        let command = Command::Deposit(Deposit { account: account.into(), amount });
        match timeout(commit::DEADLINE, self.shared.raft.client_write(command)).await {
            Ok(Ok(written)) => Ok(written.data.balance),
            Ok(Err(error)) => Err(uncertain("the deposit may have been made").with_source(error)),
            Err(_) => Err(uncertain("no majority of the nodes took the deposit in time")),
        }
    }

    /// All accounts, as far as this node has applied them.
    ///
    /// # Errors
    /// `Fatal` or `Corrupt` once the node has failed, `Unavailable` once it has stopped.
    pub async fn balances(&self) -> Result<BTreeMap<String, u64>> {
        self.shared.lifecycle.check()?;
        let read = |replica: &mut Replica| ledger::balances(replica.store());
        self.shared.store.run(After::Anytime, read).await
    }

    /// How far this node has come in the log.
    pub fn progress(&self) -> Progress {
        let metrics = self.shared.metrics();
        Progress {
            applied: metrics.last_applied.map(|log_id| log_id.index),
            purged: metrics.purged.map(|log_id| log_id.index),
        }
    }

    /// Stops the node: what is under way ends, another node leads, and the directory is released. Goes on if
    /// the caller does not wait for it.
    ///
    /// # Errors
    /// `Fatal` with what kept it from stopping cleanly; it is stopped all the same.
    pub async fn shutdown(&self) -> Result<()> {
        let shared = self.shared.clone();
        if shared.lifecycle.is_first_to_stop() {
            let shared = shared.clone();
            self.shared.runtime.spawn(async move {
                shared.leave();
                shared.waiters.drained(&SystemClock, DRAIN).await;
                if leadership::leads(&shared.metrics()).is_some()
                    && let Err(error) = leadership::hand_over(&shared).await
                {
                    tracing::info!(error = %format_args!("{error:#}"), "leadership is not handed over");
                }
                shared.stop().await;
            });
        }
        shared.lifecycle.ended().await
    }
}

/// Without a shutdown, the node goes on until it is dropped, and is then stopped without handing over.
impl Drop for Node {
    fn drop(&mut self) {
        if self.shared.lifecycle.is_first_to_stop() {
            let shared = self.shared.clone();
            self.shared.runtime.spawn(async move { shared.stop().await });
        }
    }
}

impl Shared {
    async fn start(
        config: Config,
        raft_config: Arc<openraft::Config>,
        network: Network,
        store: StoreThread,
    ) -> Result<Arc<Self>> {
        let node = config.node;
        let waiters = Arc::<Waiters>::default();
        let log = Log { store: store.clone(), waiters: waiters.clone() };
        let machine = StateMachine { store: store.clone(), waiters: waiters.clone() };
        let connector = Connector { network: network.clone(), node };
        let raft = Raft::new(node.into(), raft_config, connector, log, machine).await;
        let raft = raft.map_err(|error| fatal("raft cannot be started").with_source(error))?;
        network.connect(node, raft.clone());
        let (announcer, leadership) = Announcer::new();
        let shared = Arc::new(Self {
            runtime: Handle::current(),
            config,
            store,
            network,
            raft,
            waiters,
            leadership,
            lifecycle: <_>::default(),
            leaving: <_>::default(),
            handovers: watch::Sender::new(0),
        });
        if let Err(error) = shared.form().await {
            shared.stop().await;
            return Err(error);
        }
        tokio::spawn(leadership::follow(shared.clone(), announcer));
        Ok(shared)
    }

    /// Forms the cluster, if this node is the first of its members and was never part of one. The others
    /// learn from it who they are.
    async fn form(&self) -> Result<()> {
        if self.config.members.keys().next() != Some(&self.config.node) {
            return Ok(());
        }
        let failed = |error| fatal("the cluster cannot be formed").with_source(error);
        if self.raft.is_initialized().await.map_err(|error| failed(RaftError::Fatal(error)))? {
            return Ok(());
        }
        let members = self.config.members.iter();
        let members: BTreeMap<u64, _> =
            members.map(|(&node, address)| (node.into(), BasicNode::new(address))).collect();
        match self.raft.initialize(members).await {
            // It was found meanwhile.
            Ok(()) | Err(RaftError::APIError(_)) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// The claim under which a command may be begun.
    pub(crate) fn admit(&self) -> Result<u64> {
        self.lifecycle.check()?;
        if self.leaving.load(Ordering::Acquire) > 0 {
            let context = "leadership is being handed over";
            return Err(Error::new(ErrorKind::NotLeader(None), context));
        }
        match *self.leadership.borrow() {
            Leadership::Leader { claim } => Ok(claim),
            _ => Err(self.not_leader()),
        }
    }

    /// From now on no command is begun.
    pub(crate) fn leave(&self) {
        self.leaving.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    /// That this node does not lead, with where the leader serves.
    pub(crate) fn not_leader(&self) -> Error {
        let hint = hint(&self.metrics());
        let context = match &hint {
            Some(hint) => format!("the leader is at {}", hint.endpoint),
            None => "no leader is known at the moment".into(),
        };
        Error::new(ErrorKind::NotLeader(hint), context)
    }

    /// Stops everything, in the order in which it depends on each other.
    async fn stop(&self) {
        self.leave();
        self.lifecycle.stop();
        self.network.disconnect(self.config.node);
        let _ = self.raft.shutdown().await;
        self.waiters.give_up_all("the driver stopped before it knew the outcome");
        self.lifecycle.end(self.store.stop().await);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("node", &self.config.node).finish_non_exhaustive()
    }
}

/// Where the leader serves, if another node is known to be it.
pub(crate) fn hint(metrics: &Metrics) -> Option<LeaderHint> {
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
    let leader = metrics.membership_config.membership().get_node(&leader)?;
    Some(LeaderHint { endpoint: leader.addr.clone(), epoch: None })
}

/// The id that the directory drew when it was made.
fn node_id(store: &Store) -> Result<NodeId> {
    if let Some(bytes) = store.read(NODE, ID)? {
        return decode(&bytes);
    }
    let id = NodeId(Random::default().draw());
    let mut effect = Effect::default();
    effect.put(ID, encode(&id)?);
    store.write([(NODE, effect)])?;
    Ok(id)
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tsoracle_core::{
    ConsensusDriver, Error, ErrorKind, Grant, Oracle, Registry, Result, SeqGrant, SeqRequest,
    SeqStore,
};

/// How the suite gets at a driver.
///
/// Authors of a driver that keeps its state in a directory use [`Local`](crate::Local) instead.
///
/// # Contract
/// What a rig cannot do, it says in [`lacks`](Self::lacks). The checks that need it are then reported
/// as ignored, with that reason, and never as passed. A method of an ability that is there MUST be
/// implemented.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// Why this rig lacks `ability`, or `None` if it has it.
    fn lacks(&self, ability: Ability) -> Option<String>;

    /// A place with nothing in it, that no other check will see.
    async fn place(&self) -> Result<Box<dyn Place>>;

    /// The drivers that [`Place::config`] can name. Needed for [`Ability::Configure`].
    fn registry(&self) -> Result<Registry> {
        Registry::linked()
    }

    /// The place that another process of this rig calls by [`Place::name`]. Needed for
    /// [`Ability::Process`].
    async fn place_named(&self, name: &str) -> Result<Box<dyn Place>> {
        Err(missing(&format!("places by name, such as {name:?}")))
    }

    /// A cluster of so many nodes, all started. Needed for [`Ability::Cluster`].
    async fn cluster(&self, nodes: usize) -> Result<Box<dyn Cluster>> {
        Err(missing(&format!("clusters of {nodes} nodes")))
    }
}

/// What a rig may be able to do, beyond opening a driver in a fresh place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ability {
    /// Opens a driver again over what an earlier one left when it was shut down.
    Reopen,
    /// Ends a driver as `kill -9` would: no shutdown, nothing flushed.
    Crash,
    /// Ends a driver as a power loss would: what was not synced is gone.
    LosePower,
    /// A driver keeps any other out of its place for as long as it lives.
    Lock,
    /// Several drivers may be open over one place, of which one leads.
    Contend,
    /// Cuts a contender off from the place and from the others, so that another one leads.
    CutOff,
    /// Makes the next write to the storage fail.
    FailStorage,
    /// Damages what is stored.
    Damage,
    /// Opens a driver from a config string.
    Configure,
    /// Hands out the [`SeqStore`] below the driver.
    Store,
    /// Runs in another process, which can be killed.
    Process,
    /// Starts clusters.
    Cluster,
    /// Pauses a node of a cluster.
    Pause,
    /// Cuts a node of a cluster off from the others, or from one of them, though not from its
    /// clients.
    Partition,
    /// Takes from a node of a cluster everything that it has stored.
    Wipe,
    /// Has the disk of a node of a cluster end no sync, and takes back what it had not synced.
    HangDisk,
    /// Has a client that finds the leader of a cluster by itself.
    Client,
    /// Has the leader of a cluster hand the lead over while it runs on.
    Transfer,
    /// Kills one of several programs that the nodes rest on, of which they can spare any one.
    Companion,
}

/// Where a driver keeps its state: a directory, a prefix, a cluster of its own.
#[async_trait]
pub trait Place: Send {
    /// Opens a driver: over nothing at first, later over what is there. While one is open already,
    /// a contender.
    ///
    /// # Errors
    /// Those of the driver.
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>>;

    /// Ends all open drivers as `kill -9` would. They may be leaked, but not asked to do anything.
    async fn crash(&mut self) -> Result<()> {
        Err(missing("crashes"))
    }

    /// As [`crash`](Self::crash), and loses what was not synced.
    async fn lose_power(&mut self) -> Result<()> {
        Err(missing("power losses"))
    }

    /// Cuts the driver that was opened as number `index` since the last crash, from 0, off from
    /// everything else, and returns once it does not lead any more as far as the others can tell.
    async fn cut_off(&mut self, index: usize) -> Result<()> {
        Err(missing(&format!("cutting off driver {index}")))
    }

    /// Undoes [`cut_off`](Self::cut_off).
    async fn heal(&mut self, index: usize) -> Result<()> {
        Err(missing(&format!("healing driver {index}")))
    }

    /// Makes the next write to the storage fail, once.
    async fn fail_storage(&mut self) -> Result<()> {
        Err(missing("failures of the storage"))
    }

    /// Changes some of what is stored while no driver is open, as a bad disk would.
    async fn damage(&mut self) -> Result<()> {
        Err(missing("damage"))
    }

    /// The store below the driver; no driver is open meanwhile.
    fn store(&mut self) -> Result<Box<dyn SeqStore>> {
        Err(missing("the store below the driver"))
    }

    /// The config string that opens this place.
    fn config(&self) -> Result<String> {
        Err(missing("config strings"))
    }

    /// What another process calls this place.
    fn name(&self) -> Result<String> {
        Err(missing("names of places"))
    }
}

/// Nodes that serve: processes, usually, that are asked over the network.
///
/// Nodes are numbered from 0.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The leader lease that the nodes serve under.
    fn lease(&self) -> Duration;

    /// Asks one node, and only that one.
    fn service(&self, node: usize) -> Arc<dyn Service>;

    /// Starts a node that is stopped or killed, over what it left.
    async fn start(&mut self, node: usize) -> Result<()>;

    /// Stops a node gracefully, and returns once it has ended.
    async fn stop(&mut self, node: usize) -> Result<()>;

    /// Ends a node as `kill -9` does.
    async fn kill(&mut self, node: usize) -> Result<()>;

    /// Has a node stand still, as `SIGSTOP` does.
    async fn pause(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("pausing node {node}")))
    }

    /// Lets a paused node go on.
    async fn resume(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("resuming node {node}")))
    }

    /// Cuts a node off from the others; clients still reach it.
    async fn cut_off(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("cutting off node {node}")))
    }

    /// Undoes [`cut_off`](Self::cut_off).
    async fn heal(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("healing node {node}")))
    }

    /// Cuts the link between two nodes; both still reach the others, and clients reach both.
    async fn cut_link(&mut self, one: usize, other: usize) -> Result<()> {
        Err(missing(&format!("cutting nodes {one} and {other} off from each other")))
    }

    /// Undoes [`cut_link`](Self::cut_link).
    async fn heal_link(&mut self, one: usize, other: usize) -> Result<()> {
        Err(missing(&format!("healing the link of nodes {one} and {other}")))
    }

    /// Removes everything that a node has stored. It is stopped or killed. Whether it starts again
    /// is up to the driver; if it does, it must do no harm.
    async fn wipe(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("wiping node {node}")))
    }

    /// Has the disk of a node end no sync any more. Returns once it has anything to sync.
    async fn hang_disk(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("a disk of node {node} that hangs")))
    }

    /// Lets the disk of a node go on.
    async fn mend_disk(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("mending the disk of node {node}")))
    }

    /// Ends a node whose disk hangs as a power loss would: of what it wrote, only that is left which
    /// was synced. The disk does not hang any more.
    async fn lose_power(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("a power loss of node {node}")))
    }

    /// Has a node that leads hand the lead over to another one, and returns once that leads.
    async fn transfer(&mut self, node: usize) -> Result<()> {
        Err(missing(&format!("transfers of the lead from node {node}")))
    }

    /// How many programs there are that the nodes rest on. They are numbered from 0.
    fn companions(&self) -> usize {
        0
    }

    /// Ends such a program as `kill -9` does.
    async fn kill_companion(&mut self, companion: usize) -> Result<()> {
        Err(missing(&format!("killing companion {companion}")))
    }

    /// Starts a companion that was killed, over what it left.
    async fn start_companion(&mut self, companion: usize) -> Result<()> {
        Err(missing(&format!("starting companion {companion}")))
    }

    /// A client of all nodes, which finds the leader by itself, and asks again until it is answered.
    /// The epoch of its answers is 0, unless it is told.
    fn client(&self) -> Result<Arc<dyn Service>> {
        Err(missing("clients"))
    }

    /// What the nodes said lately, for whoever looks into a failure.
    fn report(&self) -> String {
        String::new()
    }
}

/// One node, as its clients see it. Calls fail as those of [`Oracle`] do; one that does not reach the
/// node, or gets no answer, fails as `Unavailable` or `Uncertain`.
#[async_trait]
pub trait Service: Debug + Send + Sync {
    /// As [`Oracle::get_ts`].
    async fn get_ts(&self, count: u32) -> Result<Grant>;

    /// As [`Oracle::get_seq`].
    async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant>;
}

#[async_trait]
impl Service for Oracle {
    async fn get_ts(&self, count: u32) -> Result<Grant> {
        Self::get_ts(self, count).await
    }

    async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant> {
        Self::get_seq(self, request).await
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reopen => "open a driver again over what an earlier one left",
            Self::Crash => "end a driver as kill -9 would",
            Self::LosePower => "lose what was not synced",
            Self::Lock => "show that a second driver is kept out",
            Self::Contend => "open several drivers over one place",
            Self::CutOff => "cut a driver off",
            Self::FailStorage => "make the storage fail",
            Self::Damage => "damage what is stored",
            Self::Configure => "open a driver from a config string",
            Self::Store => "hand out the store below the driver",
            Self::Process => "run in another process",
            Self::Cluster => "start a cluster",
            Self::Pause => "pause a node",
            Self::Partition => "cut a node off from the others",
            Self::Wipe => "wipe a node",
            Self::HangDisk => "have a node's disk hang",
            Self::Client => "follow the leader with a client",
            Self::Transfer => "have the lead handed over",
            Self::Companion => "kill what the nodes rest on, in part",
        })
    }
}

fn missing(what: &str) -> Error {
    let context = format!("this rig has no {what}, though it does not say that it lacks them");
    Error::new(ErrorKind::Config, context)
}

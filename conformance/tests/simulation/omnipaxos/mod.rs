//! The real code of the omnipaxos driver: the library, the log, the replica and its store, what is checked of
//! messages, states that are sent and installed, claims and handing over. Simulated are the thread, the disk,
//! the connections and the clocks.

mod links;
mod process;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use send_wrapper::SendWrapper;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tsoracle_core::{ConsensusDriver, Leadership, Result};
use tsoracle_omnipaxos::simulation::Stepped;

use crate::{
    clock::NodeClock,
    flaw::Flaw,
    gate::Gate,
    real_driver::{self, SimulatedDriver, config, identity},
    world::World,
};

pub(crate) use links::Links;

/// Where a node has put commits into its log, by their names, and how much of it is applied.
#[derive(Default, Debug)]
pub(crate) struct Places {
    pub(crate) indexes: BTreeMap<u128, usize>,
    pub(crate) applied: usize,
}

/// What comes to a node from the others.
pub(crate) enum Input {
    Part {
        peer: usize,
        body: Vec<u8>,
    },
    Call {
        peer: usize,
        body: Vec<u8>,
        /// Whether it was done.
        reply: oneshot::Sender<bool>,
    },
    Connected {
        peer: usize,
    },
    /// How a state went.
    Transferred {
        peer: usize,
        transfer: u64,
        outcome: Result<()>,
    },
}

/// Starts a node from what its disk holds, and the driver over it.
///
/// # Errors
/// Those of the driver's own start.
pub(crate) fn start(
    world: &Arc<World>,
    me: usize,
    gate: &Gate,
    clock: &NodeClock,
    tasks: &mut JoinSet<()>,
) -> Result<(Arc<dyn ConsensusDriver>, mpsc::UnboundedSender<Input>)> {
    let syncs_lie = world.has(Flaw::SyncsLie);
    let (store, mounted, starts) = world.nodes[me].store.lock().unwrap().open(syncs_lie)?;
    let id = (identity(me), starts);
    let sabotage = world.sabotage();
    let (node, inner) =
        Stepped::open(config(world, me), store, id, Arc::new(clock.clone()), sabotage)?;
    let (inbox, inputs) = mpsc::unbounded_channel();
    let (known, leadership) = watch::channel(Leadership::Unknown);
    let process = process::Process {
        world: world.clone(),
        me,
        gate: gate.clone(),
        clock: clock.clone(),
        node,
        disk: mounted,
        inbox: inbox.clone(),
        transfers: Default::default(),
        promise: Default::default(),
        applied: 0,
    };
    let (running, telling) = (gate.clone(), gate.clone());
    // It never leaves the thread of the simulation.
    let working = SendWrapper::new(process.run(inputs));
    tasks.spawn(async move { running.run(working).await });
    let spreading = real_driver::spread(world.clone(), inner.leadership(), known);
    tasks.spawn(async move { telling.run(spreading).await });
    world.connect(me);
    let inner: Arc<dyn ConsensusDriver> = Arc::new(inner);
    let (world, gate, inner) = (world.clone(), gate.clone(), Arc::new(OnceLock::from(inner)));
    Ok((Arc::new(SimulatedDriver { world, me, gate, inner, leadership }), inbox))
}

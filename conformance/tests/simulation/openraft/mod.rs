//! The real code of the openraft driver: the library with all its tasks, the log, the replica and its store, the
//! messages, states that are sent and installed, elections, claims and handing over. Simulated are the store's
//! thread, the disk, the connections and the clocks.

mod links;
mod process;

use std::sync::{Arc, OnceLock};

use tokio::{sync::watch, task::JoinSet};
use tsoracle_core::{ConsensusDriver, Leadership, Result};
use tsoracle_openraft::simulation::{self, World as Outside};

use crate::{
    clock::NodeClock,
    flaw::Flaw,
    gate::Gate,
    real_driver::{self, SimulatedDriver, config, identity},
    world::World,
};

pub(crate) use links::Listener;

/// Starts a node from what its disk holds, and the driver over it, which opens by itself.
///
/// # Errors
/// Those of the driver's own start.
pub(crate) fn start(
    world: &Arc<World>,
    me: usize,
    gate: &Gate,
    clock: &NodeClock,
    tasks: &mut JoinSet<()>,
) -> Result<(Arc<dyn ConsensusDriver>, Arc<Listener>)> {
    let syncs_lie = world.has(Flaw::SyncsLie);
    let (store, disk, _) = world.nodes[me].store.lock().unwrap().open(syncs_lie)?;
    let (listener, connections) = links::connect(world, me, gate);
    let outside = Outside {
        id: identity(me),
        gate: Arc::new(gate.clone()),
        clock: Arc::new(clock.clone()),
        random: world.random(),
        connections,
        sabotage: world.openraft_sabotage(),
    };
    let (store, opening) = simulation::open(config(world, me), store, outside)?;
    let process = process::Process { world: world.clone(), me, store, disk, applied: 0 };
    let running = gate.clone();
    tasks.spawn(async move { running.run(process.run()).await });
    let (known, leadership) = watch::channel(Leadership::Unknown);
    let inner = Arc::<OnceLock<Arc<dyn ConsensusDriver>>>::default();
    let (own, opened, spreading) = (world.clone(), inner.clone(), gate.clone());
    tasks.spawn(async move {
        let driver: Arc<dyn ConsensusDriver> = match opening.await {
            Ok(driver) => Arc::new(driver),
            Err(error) => return own.found(format!("node {me} does not start: {error}")),
        };
        let told = driver.leadership();
        let is_first = opened.set(driver).is_ok();
        assert!(is_first, "a driver opens once");
        spreading.run(real_driver::spread(own, told, known)).await;
    });
    let (world, gate) = (world.clone(), gate.clone());
    Ok((Arc::new(SimulatedDriver { world, me, gate, inner, leadership }), listener))
}

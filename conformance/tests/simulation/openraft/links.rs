//! The connections between the nodes: a call comes, or its connection breaks, and then it may come all the same,
//! late, and not be answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::timeout,
};
use tsoracle_core::{BootTime, Error, ErrorKind, Report, Result, Unreached};
use tsoracle_openraft::simulation::{INSTALL, VOTE};
use tsoracle_replica::{
    Calls, ClusterId, Formed,
    transport::{Connections, Handler, Sender},
};

use crate::{
    clock::pass,
    gate::Gate,
    reached::Reached,
    real_driver::{id, identity, node},
    world::{Point, World},
};

/// How many of 1,000 calls come all the same whose connection broke.
const LATE_PERMILLE: u64 = 300;

/// After that at most it is noticed that a connection has broken, in milliseconds.
const NOTICED_MS: u64 = 2_000;

/// Where a process listens to the others.
pub(crate) struct Listener {
    gate: Gate,
    handler: Mutex<Option<Arc<dyn Handler>>>,
    has_ended: AtomicBool,
    /// Wakes in order.
    ended: Notify,
}

impl Listener {
    /// Its process has ended: so do all connections.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        self.ended.notify_waiters();
    }

    async fn ended(&self) {
        let ended = self.ended.notified();
        if !self.has_ended.load(Ordering::Relaxed) {
            ended.await;
        }
    }

    fn handler(&self) -> Option<Arc<dyn Handler>> {
        let is_there = !self.has_ended.load(Ordering::Relaxed);
        self.handler.lock().unwrap().clone().filter(|_| is_there)
    }
}

/// The connections of a process.
struct Links {
    world: Arc<World>,
    me: usize,
    listener: Arc<Listener>,
    /// No node of a simulation is refused.
    failure: watch::Sender<Option<Error>>,
    /// All belong to one cluster from the start.
    formed: watch::Sender<Option<Formed>>,
}

/// The connections of a process on a node.
pub(super) fn connect(
    world: &Arc<World>,
    me: usize,
    gate: &Gate,
) -> (Arc<Listener>, Arc<dyn Connections>) {
    let (has_ended, ended) = (AtomicBool::new(false), Notify::new());
    let listener = Listener { gate: gate.clone(), handler: Mutex::default(), has_ended, ended };
    let (world, listener) = (world.clone(), Arc::new(listener));
    let formed = Formed { id: ClusterId(1), is_provisional: false, nodes: BTreeMap::new() };
    let (failure, formed) = (watch::Sender::new(None), watch::Sender::new(Some(formed)));
    let links = Links { world, me, listener: listener.clone(), failure, formed };
    (listener, Arc::new(links))
}

#[async_trait]
impl Calls for Links {
    async fn call(&self, to: u32, kind: u32, body: Bytes, deadline: Duration) -> Result<Bytes> {
        let (reply, answer) = oneshot::channel();
        let call = Call { world: self.world.clone(), from: self.me, to: node(to), kind, body };
        // It is on its way, whatever becomes of its caller.
        tokio::spawn(async move {
            let answer = call.carry().await;
            // The caller may have gone.
            let _ = reply.send(answer);
        });
        let unavailable = |context| Error::new(ErrorKind::Unavailable, context);
        match timeout(deadline, answer).await {
            Ok(Ok(Some(answer))) => answer,
            Ok(_) => Err(unavailable("the connection broke")),
            Err(_) => Err(unavailable("no answer came in time")),
        }
    }
}

#[async_trait]
impl Connections for Links {
    fn serve(&self, handler: Arc<dyn Handler>) {
        *self.listener.handler.lock().unwrap() = Some(handler);
    }

    fn set_peer(&self, _: u32, _: &str) -> Result<()> {
        Ok(())
    }

    fn failure(&self) -> watch::Receiver<Option<Error>> {
        self.failure.subscribe()
    }

    fn formed(&self) -> watch::Receiver<Option<Formed>> {
        self.formed.subscribe()
    }

    fn waits_for(&self) -> Option<String> {
        None
    }

    fn set_members(&self, _: BTreeSet<u32>, _: BTreeSet<u32>) {}

    async fn invite(&self, _: u32) -> Result<bool> {
        Ok(false)
    }

    async fn forget(&self, _: u32) -> Result<()> {
        Ok(())
    }

    fn drop_peer(&self, _: u32) {}

    fn was_removed(&self, _: u32) -> bool {
        false
    }

    fn report(&self) -> Report {
        Report::default()
    }

    fn unreached(&self) -> BTreeMap<u32, Unreached> {
        BTreeMap::new()
    }

    fn peer_clocks(&self, _: BootTime) -> Vec<u64> {
        vec![]
    }

    fn local_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, id(self.me) as u16).into()
    }

    async fn shutdown(&self) {
        self.listener.handler.lock().unwrap().take();
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

/// A call on its way.
struct Call {
    world: Arc<World>,
    from: usize,
    to: usize,
    kind: u32,
    body: Bytes,
}

impl Call {
    /// Returns the answer, or none once it is noticed that none will come.
    async fn carry(self) -> Option<Result<Bytes>> {
        let world = self.world.clone();
        let (from, to) = (self.from, self.to);
        // Whatever runs there later has other connections.
        let listener = world.nodes[to].listener();
        let delay = world.network.copies().first().copied();
        pass(delay.unwrap_or_else(|| world.draw(|rng| rng.millis(0..=300)))).await;
        let comes = delay.is_some() || world.chance(LATE_PERMILLE);
        let answer = match listener {
            Some(listener) if comes && !world.network.is_cut(from, to) => {
                let answering = self.answer(&listener);
                tokio::select! {
                    biased;
                    () = listener.ended() => None,
                    answer = answering => answer,
                }
            }
            _ => None,
        };
        let way = world.network.copies().first().copied();
        if let (Some(answer), Some(back), Some(_)) = (answer, way, delay) {
            pass(back).await;
            if !world.network.is_cut(to, from) {
                return Some(answer);
            }
        }
        pass(world.draw(|rng| rng.millis(0..=NOTICED_MS))).await;
        None
    }

    /// Has the other side answer, in a task that goes on if the connection breaks.
    async fn answer(self, listener: &Arc<Listener>) -> Option<Result<Bytes>> {
        let handler = listener.handler()?;
        let Self { world, from, to, kind, body } = self;
        let sender = Sender { node: id(from), id: identity(from) };
        let answering = async move {
            handler.admit(sender)?;
            if kind == INSTALL {
                world.reached(Reached::StateSent);
            }
            let answer = handler.call(sender, kind, body).await;
            if kind == VOTE {
                world.hazard(to, Point::Voted).await;
            }
            answer
        };
        let gate = listener.gate.clone();
        let task = tokio::spawn(async move { gate.run(answering).await });
        Some(task.await.expect("an answer does not panic"))
    }
}

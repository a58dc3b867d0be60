//! Callers who ask any node for timestamps and sequences, and note what they are told.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};
use tsoracle_conformance::history::{
    Ask, Block, Blocks, Call, Next, Operation, Outcome, Timestamps,
};
use tsoracle_core::{
    Clock, Error, ErrorKind, Granted, Oracle, RequestId, Result, SeqKey, SeqRequest, Session,
};

use crate::{
    clock::pass,
    node::Within,
    rng::Rng,
    world::{Point, World},
};

pub(crate) const KEYS: [&str; 3] = ["a", "b", "c"];

/// How often a request is sent again once the run is over.
const PERSEVERANCE: u32 = 100;

pub(crate) struct Caller {
    world: Arc<World>,
    name: Arc<str>,
    rng: Rng,
    node: usize,
}

impl Caller {
    pub(crate) fn new(world: &Arc<World>, name: &str) -> Self {
        let mut rng = world.draw(Rng::fork);
        let node = rng.between(0..=world.nodes.len() as u64 - 1) as usize;
        Self { world: world.clone(), name: name.into(), rng, node }
    }

    pub(crate) async fn ask_timestamps(mut self) {
        while self.world.is_open() {
            // Now and then so many that the window is used up.
            let count = match self.rng.chance(20) {
                true => 1 << 18,
                false => self.rng.between(1..=50) as u32,
            };
            self.get_ts(count).await;
            self.rest().await;
        }
    }

    /// Asks with request ids, again and again until it is answered, and sometimes two nodes at once.
    pub(crate) async fn ask_exactly_once(mut self) {
        let session = Session::from_text(&self.name);
        for number in 1.. {
            let request = self.request(Some((session, number)));
            for attempt in 0.. {
                let twice = self.rng.chance(100);
                let other = twice.then(|| {
                    let mut other = self.twin();
                    let request = request.clone();
                    tokio::spawn(async move { other.get_seq(request).await })
                });
                let mut again = request.clone();
                again.retry = attempt > 0 && self.rng.chance(300);
                let mut answered = self.get_seq(again).await;
                if let Some(other) = other {
                    answered |= other.await.unwrap();
                }
                self.rest().await;
                if !self.world.is_open() && (answered || attempt > PERSEVERANCE) {
                    return;
                }
                // Batches are not given up: which of many of unknown outcome has spent what would be a
                // long search.
                let gives_up = request.entries.len() == 1 && attempt > 3 && self.rng.chance(100);
                if answered || gives_up {
                    break;
                }
            }
        }
    }

    pub(crate) async fn ask_plainly(mut self) {
        while self.world.is_open() {
            if self.rng.chance(150) {
                let key = *self.rng.pick(&KEYS);
                self.read_seq(key).await;
            } else {
                let request = self.request(None);
                self.get_seq(request).await;
            }
            self.rest().await;
        }
    }

    /// Somebody who asks another node for the same thing.
    fn twin(&mut self) -> Self {
        let node = self.anywhere();
        let name = format!("{}'s twin", self.name).into();
        Self { world: self.world.clone(), name, rng: self.rng.fork(), node }
    }

    fn request(&mut self, id: Option<(Session, u64)>) -> Request {
        let mut keys = KEYS.to_vec();
        while keys.len() > 1 && (id.is_none() || self.rng.chance(700)) {
            keys.remove(self.rng.between(0..=keys.len() as u64 - 1) as usize);
        }
        let entries = keys.into_iter().map(|key| (key, self.rng.between(1..=9) as u32)).collect();
        Request { entries, id, retry: false }
    }

    async fn rest(&mut self) {
        pass(self.rng.millis(0..=30)).await;
    }

    pub(crate) async fn get_ts(&mut self, count: u32) -> bool {
        let world = self.world.clone();
        let node = self.node;
        let ask = move |within: Within, reply: oneshot::Sender<Result<Granted>>| async move {
            if world.is_troubled() && world.draw(|rng| rng.chance(10)) {
                return hold(&world, node, within, count, reply);
            }
            let granted = within.oracle.get_ts(count).await;
            world.hazard(node, Point::Answered).await;
            let _ = reply.send(granted);
        };
        let answer = self.ask(ask).await;
        let told = |granted: Granted| Timestamps {
            physical_ms: granted.range.first().physical_ms(),
            logical: granted.range.first().logical(),
            count: granted.range.count(),
            epoch: Some(granted.epoch),
        };
        self.conclude(answer, told, |outcome| Call::GetTs { count, outcome }).await
    }

    async fn get_seq(&mut self, request: Request) -> bool {
        let (asked, seq_request) = (request.ask(), request.to_core());
        let request_id = request.id.map(|(_, number)| format!("{}/{number}", self.owner()).into());
        let answer =
            self.answered(|oracle: Oracle| async move { oracle.get_seq(seq_request).await }).await;
        let told = |grant: tsoracle_core::SeqGrant| {
            let block = |block: tsoracle_core::SeqBlock| Block {
                key: block.key.as_str().into(),
                start: block.start,
                count: block.count,
            };
            let blocks = grant.blocks.into_iter().map(block).collect();
            Blocks { blocks, epoch: Some(grant.epoch) }
        };
        let call = |outcome| Call::GetSeq { ask: asked, request_id, outcome };
        self.conclude(answer, told, call).await
    }

    pub(crate) async fn read_seq(&mut self, key: &'static str) -> bool {
        let asked = SeqKey::new(key).unwrap();
        let answer =
            self.answered(|oracle: Oracle| async move { oracle.read_seq(asked).await }).await;
        let told = |next: Option<u64>| Next { next: next.unwrap_or(0), epoch: None };
        self.conclude(answer, told, |outcome| Call::ReadSeq { key: key.into(), outcome }).await
    }

    /// Whose session it is: a twin has none of its own.
    fn owner(&self) -> &str {
        self.name.split('\'').next().unwrap_or(&self.name)
    }

    async fn answered<T, F>(
        &mut self,
        ask: impl FnOnce(Oracle) -> F + Send + 'static,
    ) -> (Result<T>, u64)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (world, node) = (self.world.clone(), self.node);
        let ask = move |within: Within, reply: oneshot::Sender<Result<T>>| async move {
            let answer = ask(within.oracle).await;
            world.hazard(node, Point::Answered).await;
            let _ = reply.send(answer);
        };
        self.ask(ask).await
    }

    /// Asks the node, over a network that delays. Says when it was sent.
    async fn ask<T, F>(
        &mut self,
        work: impl FnOnce(Within, oneshot::Sender<Result<T>>) -> F + Send + 'static,
    ) -> (Result<T>, u64)
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let start_ns = self.world.stamp_ns();
        let (reply, answer) = oneshot::channel();
        let slow = if self.world.is_troubled() { 20 } else { 0 };
        let delay = match self.rng.chance(slow) {
            true => self.rng.millis(0..=1_500),
            false => self.rng.millis(0..=2),
        };
        let (world, node) = (self.world.clone(), self.node);
        // The call may be under way though its caller has gone.
        tokio::spawn(async move {
            pass(delay).await;
            let mut reply = Some(reply);
            let asked = world.nodes[node]
                .within(|within| work(within, reply.take().expect("it is taken once")));
            if let (Err(error), Some(reply)) = (asked, reply) {
                let _ = reply.send(Err(error));
            }
        });
        let patience = self.rng.millis(30..=2_000);
        let lost = |what| Error::new(ErrorKind::Uncertain, what);
        let answer = match timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(lost("the connection broke")),
            Err(_) => Err(lost("no answer in time")),
        };
        if answer.is_ok() {
            pass(self.rng.millis(0..=1)).await;
        }
        (answer, start_ns)
    }

    /// Notes what came of a call, and goes to another node if nothing did.
    async fn conclude<T, U>(
        &mut self,
        (answer, start_ns): (Result<T>, u64),
        told: impl FnOnce(T) -> U,
        call: impl FnOnce(Outcome<U>) -> Call,
    ) -> bool {
        let answered = answer.is_ok();
        // Also whoever is answered looks around, or nobody would notice that two nodes serve.
        match &answer {
            Err(error) => self.node = self.elsewhere(error),
            Ok(_) if self.rng.chance(250) => self.node = self.anywhere(),
            Ok(_) => {}
        }
        let outcome = match answer {
            Ok(answer) => Outcome::Answered(told(answer)),
            Err(error) => match error.kind() {
                ErrorKind::Uncertain | ErrorKind::Fatal | ErrorKind::Corrupt => {
                    Outcome::Uncertain(error.to_string().into())
                }
                _ => Outcome::Refused(error.to_string().into()),
            },
        };
        let (caller, end_ns) = (self.name.clone(), self.world.stamp_ns());
        self.world.record(Operation { caller, start_ns, end_ns, call: call(outcome) });
        answered
    }

    fn elsewhere(&mut self, error: &Error) -> usize {
        if let ErrorKind::NotLeader(Some(hint)) = error.kind()
            && let Ok(node) = hint.endpoint.parse()
            && self.rng.chance(800)
        {
            return node;
        }
        self.anywhere()
    }

    fn anywhere(&mut self) -> usize {
        self.rng.between(0..=self.world.nodes.len() as u64 - 1) as usize
    }
}

/// Pauses the node between the reading of its clock and the grant.
fn hold(
    world: &Arc<World>,
    node: usize,
    within: Within,
    count: u32,
    reply: oneshot::Sender<Result<Granted>>,
) {
    let reading = within.clock.now();
    let Within { gate, clock, oracle } = within;
    gate.interrupt(move || {
        let granted = clock.with_reading(reading, || oracle.try_get_ts(count));
        let refused = || Error::new(ErrorKind::Unavailable, "it would have had to wait");
        let _ = reply.send(granted.and_then(|granted| granted.ok_or_else(refused)));
    });
    world.pause(node, world.draw(|rng| rng.millis(50..=4_000)));
}

/// A sequence request, as its caller remembers it.
#[derive(Clone, Debug)]
struct Request {
    entries: Vec<(&'static str, u32)>,
    id: Option<(Session, u64)>,
    retry: bool,
}

impl Request {
    fn ask(&self) -> Vec<Ask> {
        self.entries.iter().map(|&(key, count)| Ask { key: key.into(), count }).collect()
    }

    fn to_core(&self) -> SeqRequest {
        let entries =
            self.entries.iter().map(|&(key, count)| (SeqKey::new(key).unwrap(), count)).collect();
        let id = self.id.map(|(session, number)| RequestId {
            retry: self.retry,
            ..RequestId::new(session, number, number).unwrap()
        });
        SeqRequest::new(entries, id).unwrap()
    }
}

/// Patience of whoever checks that the service has come back.
pub(crate) const PROBE: Duration = Duration::from_millis(20);

//! Callers that ask any node for timestamps and sequences, and note the answers.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};
use tsoracle_conformance::history::{
    Ask, Block, Blocks, Call, Next, Operation, Outcome, Timestamps,
};
use tsoracle_core::{Clock, Error, ErrorKind, Grant, Oracle, Result, SeqKey, SeqList, SeqRequest};

use crate::{
    clock::pass,
    naming::Named,
    node::Within,
    reached::Reached,
    refusals::Asked,
    rng::Rng,
    sessions::Id,
    world::{Point, World},
};

pub(crate) const KEYS: [&str; 3] = ["a", "b", "c"];

/// Some of these are beyond the cap of keys.
const MORE_KEYS: [&str; 4] = ["d", "e", "f", "g"];

pub(crate) struct Caller {
    world: Arc<World>,
    name: Arc<str>,
    rng: Rng,
    node: usize,
    /// How long it waits for an answer, unless that is drawn.
    patience: Option<Duration>,
}

impl Caller {
    pub(crate) fn new(world: &Arc<World>, name: &str) -> Self {
        let mut rng = world.draw(Rng::fork);
        let node = rng.between(0..=world.nodes.len() as u64 - 1) as usize;
        Self { world: world.clone(), name: name.into(), rng, node, patience: None }
    }

    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
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

    pub(crate) async fn ask_plainly(mut self) {
        while self.world.is_open() {
            // What came of a request is in the history.
            match self.rng.between(0..=99) {
                0..=14 => {
                    let key = *self.rng.pick(&KEYS);
                    self.read_seq(key).await;
                }
                15..=24 => self.list_seqs().await,
                25..=29 => {
                    let key = *self.rng.pick(&MORE_KEYS);
                    let _ = self.get_seq(&Request::plain(vec![(key, 1)])).await;
                }
                _ => {
                    let (key, count) = (*self.rng.pick(&KEYS), self.rng.between(1..=9) as u32);
                    let _ = self.get_seq(&Request::plain(vec![(key, count)])).await;
                }
            }
            self.rest().await;
        }
    }

    /// Another caller, which asks another node.
    pub(crate) fn twin(&mut self) -> Self {
        let (node, rng) = (self.anywhere(), self.rng.fork());
        let (world, name) = (self.world.clone(), self.name.clone());
        Self { world, name, rng, node, patience: self.patience }
    }

    /// Whether some node serves now: all are asked at once.
    pub(crate) async fn finds_service(&mut self) -> bool {
        const PATIENCE: Duration = Duration::from_millis(500);
        let mut asked = tokio::task::JoinSet::new();
        for node in 0..self.world.nodes.len() {
            let mut twin = self.twin();
            (twin.node, twin.patience) = (node, Some(PATIENCE));
            asked.spawn(async move {
                // Reads are of the state, and so of a lease that was renewed.
                twin.get_ts(1).await && {
                    twin.node = node;
                    twin.read_seq(KEYS[0]).await
                }
            });
        }
        let mut found = false;
        while let Some(serves) = asked.join_next().await {
            found |= serves.expect("callers do not panic");
        }
        found
    }

    pub(crate) async fn rest(&mut self) {
        pass(self.rng.millis(0..=60)).await;
        self.world.awake().await;
    }

    pub(crate) async fn get_ts(&mut self, count: u32) -> bool {
        let world = self.world.clone();
        let node = self.node;
        let ask = move |within: Within, reply: oneshot::Sender<Result<Grant>>| async move {
            if world.is_troubled() && world.draw(|rng| rng.chance(10)) {
                return hold(&world, node, within, count, reply);
            }
            let granted = within.oracle.get_ts(count).await;
            world.hazard(node, Point::Answered).await;
            let _ = reply.send(granted);
        };
        let answer = self.ask(ask).await;
        let told = |granted: Grant| Timestamps {
            physical_ms: granted.range.first().physical_ms(),
            logical: granted.range.first().logical(),
            count: granted.range.count(),
            epoch: Some(granted.epoch),
        };
        self.conclude(answer, told, |outcome| Call::GetTs { count, outcome }).await
    }

    /// Has it wait for each answer until its node or the connection is gone: no call of its own is under way
    /// when the next one begins.
    pub(crate) fn without_hurry(mut self) -> Self {
        self.patience = Some(FOR_GOOD);
        self
    }

    /// Returns where the blocks begin, or why there are none: what was refused may tell.
    pub(crate) async fn get_seq(&mut self, request: &Request) -> Result<Vec<u64>> {
        let (asked, id, seq_request) = (request.ask(), request.id.clone(), request.to_core());
        let name = request.name.clone();
        if let Some(name) = &name {
            self.world.refusals.named(name, &request.entries);
        }
        // A copy that is under way counts as one of its session.
        let copy = id.clone();
        let ask = |oracle: Oracle| async move {
            let _copy = copy;
            oracle.get_seq(seq_request).await
        };
        let (answer, start_ns) = self.answered(ask).await;
        let keys = || request.entries.iter().map(|(key, _)| *key).collect();
        let asked_for =
            || Asked { keys: keys(), id: id.as_ref(), name: name.as_ref(), lease: None };
        self.judge(&answer, start_ns, asked_for());
        let concluded = match &answer {
            Ok(grant) => Ok(grant.blocks.iter().map(|block| block.start).collect()),
            Err(error) => Err(error.clone()),
        };
        if concluded.is_ok() {
            self.world.refusals.answered(self.world.stamp_ns(), &asked_for());
        }
        let told = |grant: tsoracle_core::SeqGrant| {
            let block = |block: tsoracle_core::SeqBlock| Block {
                key: block.key.as_str().into(),
                start: block.start,
                count: block.count,
            };
            let blocks = grant.blocks.into_iter().map(block).collect();
            Blocks { blocks, epoch: Some(grant.epoch) }
        };
        let label = |name: Named| name.label(&self.world, concluded.as_ref().ok());
        let request_id = id.map(|id| id.label()).or(name.map(label));
        let call = |outcome| Call::GetSeq { ask: asked, request_id, outcome };
        if request.entries.is_empty() {
            // It has closed its session, and no more.
            self.turn(&answer);
        } else {
            self.conclude((answer, start_ns), told, call).await;
        }
        concluded
    }

    pub(crate) async fn read_seq(&mut self, key: &'static str) -> bool {
        let asked = SeqKey::new(key).unwrap();
        let answer =
            self.answered(|oracle: Oracle| async move { oracle.read_seq(asked).await }).await;
        let told = |next: Option<u64>| Next { next: next.unwrap_or(0), epoch: None };
        self.conclude(answer, told, |outcome| Call::ReadSeq { key: key.into(), outcome }).await
    }

    /// A list is as good as a read of each key that it covers.
    async fn list_seqs(&mut self) {
        let limit = self.rng.between(1..=8) as usize;
        let after = self.rng.pick(&["", "", "a", "bb"]).to_string();
        let list = SeqList { prefix: String::new(), after: after.clone(), limit };
        let (answer, start_ns) =
            self.answered(|oracle: Oracle| async move { oracle.list_seqs(list).await }).await;
        self.turn(&answer);
        let Ok(listing) = answer else { return };
        self.world.reached(Reached::Listed);
        let last = listing.entries.last().map(|(key, _)| key.as_str().to_owned());
        let end_ns = self.world.stamp_ns();
        for key in KEYS.into_iter().chain(MORE_KEYS) {
            let is_covered = key > after.as_str()
                && (!listing.more || last.as_deref().is_some_and(|last| key <= last));
            if is_covered {
                let next = listing.entries.iter().find(|(listed, _)| listed.as_str() == key);
                let next = Next { next: next.map_or(0, |(_, next)| *next), epoch: None };
                let call = Call::ReadSeq { key: key.into(), outcome: Outcome::Answered(next) };
                let caller = self.name.clone();
                self.world.record(Operation { caller, start_ns, end_ns, call });
            }
        }
    }

    /// Whether the service refused what it must not refuse.
    pub(crate) fn judge<T>(&self, answer: &Result<T>, start_ns: u64, asked: Asked<'_>) {
        if let Err(error) = answer
            && let ErrorKind::Rejected(reject) = error.kind()
            && let Some(wrong) = self.world.refusals.judge(&self.world, reject, start_ns, asked)
        {
            self.world.found(format!("G3 refusals: {} was wrongly refused: {wrong}", self.name));
        }
    }

    pub(crate) async fn answered<T, F>(
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
        let drawn = self.rng.millis(30..=2_000);
        let patience = self.patience.unwrap_or(drawn);
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
    pub(crate) async fn conclude<T, U>(
        &mut self,
        (answer, start_ns): (Result<T>, u64),
        told: impl FnOnce(T) -> U,
        call: impl FnOnce(Outcome<U>) -> Call,
    ) -> bool {
        let answered = answer.is_ok();
        self.turn(&answer);
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

    /// Turns to another node if there was no answer, and now and then after one: or no caller would notice
    /// that two nodes serve.
    pub(crate) fn turn<T>(&mut self, answer: &Result<T>) {
        match answer {
            Err(error) => self.node = self.elsewhere(error),
            Ok(_) if self.rng.chance(250) => self.node = self.anywhere(),
            Ok(_) => {}
        }
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
    reply: oneshot::Sender<Result<Grant>>,
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
pub(crate) struct Request {
    pub(crate) entries: Vec<(&'static str, u32)>,
    pub(crate) id: Option<Id>,
    pub(crate) name: Option<Named>,
}

impl Request {
    pub(crate) fn plain(entries: Vec<(&'static str, u32)>) -> Self {
        Self { entries, id: None, name: None }
    }

    pub(crate) fn named(name: Named, entries: Vec<(&'static str, u32)>) -> Self {
        Self { entries, id: None, name: Some(name) }
    }

    fn ask(&self) -> Vec<Ask> {
        self.entries.iter().map(|&(key, count)| Ask { key: key.into(), count }).collect()
    }

    fn to_core(&self) -> SeqRequest {
        let entries =
            self.entries.iter().map(|&(key, count)| (SeqKey::new(key).unwrap(), count)).collect();
        match &self.name {
            Some(name) => SeqRequest::named(entries, name.to_core()).unwrap(),
            None => SeqRequest::new(entries, self.id.as_ref().map(Id::to_core)).unwrap(),
        }
    }
}

/// Longer than any call is under way, though all machines sleep meanwhile.
const FOR_GOOD: Duration = Duration::from_secs(2_000);

/// Patience of the caller that checks whether the service has come back.
pub(crate) const PROBE: Duration = Duration::from_millis(20);

//! Callers that ask every node of a cluster all the time, and what they saw.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;
use tsoracle_core::{
    Clock, Epoch, Error, ErrorKind, RequestId, RequestName, SeqKey, SeqRequest, Session,
    SystemClock,
};

use crate::{
    Service,
    history::{self, Ask, Block, Blocks, Call, Operation, Outcome, Timestamps},
};

/// How many callers go from node to node for each kind of thing.
const WANDERERS: usize = 2;

/// How long a caller waits before it asks again. The load is there to see, not to measure.
const PAUSE: Duration = Duration::from_millis(3);

/// As [`PAUSE`], after a call that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(15);

/// How long a caller waits for an answer of one node. What comes later is of no use to it.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a caller waits for an answer of a client, which gives up by itself before.
const PATIENCE_WITH_CLIENTS: Duration = Duration::from_secs(120);

/// How often the last look at a key is tried.
const LAST_LOOKS: usize = 1_000;

/// The keys that sequences are asked of.
const KEYS: [&str; 2] = ["load a", "load b"];

/// What all callers saw so far.
#[derive(Default)]
struct Seen {
    operations: Mutex<Vec<Operation>>,
    answered: AtomicUsize,
    /// Calls of clients that failed.
    failures: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Callers at work. Dropping it stops them.
pub(crate) struct Load {
    nodes: Vec<Arc<dyn Service>>,
    callers: JoinSet<()>,
    seen: Arc<Seen>,
}

impl Load {
    /// Starts callers: some ask one node after the other, each for as long as it answers; some stay
    /// with one node whatever comes; and some call through `client`, whose calls must not fail.
    pub(crate) fn start(nodes: &[Arc<dyn Service>], client: Option<Arc<dyn Service>>) -> Self {
        let mut load =
            Self { nodes: nodes.to_vec(), callers: JoinSet::new(), seen: Arc::default() };
        for number in 0..WANDERERS {
            load.spawn(&format!("wanderer {number}"), nodes, number, Patience::Little);
        }
        for (number, node) in nodes.iter().enumerate() {
            load.spawn(&format!("node {number}"), std::slice::from_ref(node), 1, Patience::Little);
        }
        if let Some(client) = client {
            load.spawn("client", &[client], 1, Patience::Much);
        }
        load
    }

    /// Starts three callers; of those of even `number`, requests for sequences have ids.
    fn spawn(&mut self, name: &str, nodes: &[Arc<dyn Service>], number: usize, patience: Patience) {
        let caller = |what: &str| Caller {
            name: format!("{name}, {what}").into(),
            nodes: nodes.to_vec(),
            current: number,
            patience,
            seen: self.seen.clone(),
        };
        self.callers.spawn(caller("timestamps").ask_timestamps());
        let sequences = caller("sequences");
        let session = number.is_multiple_of(2).then(|| Session::from_text(&sequences.name));
        self.callers.spawn(sequences.ask_sequences(session));
        self.callers.spawn(caller("names").ask_by_name());
    }

    /// How many calls were answered as asked so far.
    pub(crate) fn answered(&self) -> usize {
        self.seen.answered.load(Ordering::Relaxed)
    }

    /// Stops the callers, asks once more for each key, and checks what all saw.
    pub(crate) async fn finish(mut self) -> Result<()> {
        // Calls under way are waited for, since they may take effect.
        self.seen.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.context("a caller panicked")?;
        }
        self.look_at_each_key().await?;
        self.judge()
    }

    /// Checks what the callers saw so far.
    pub(crate) fn judge(mut self) -> Result<()> {
        // What they see from here on does not count.
        self.callers.abort_all();
        let seen = lock(&self.seen.operations).clone();
        let report = history::check(&seen);
        let violation = report.checks.iter().find_map(|check| check.violations.first());
        let text = violation.map(ToString::to_string).unwrap_or_default();
        ensure!(report.held(), "broken: {:?}; the first: {text}", report.broken());
        let failures = lock(&self.seen.failures);
        let failed = failures.len();
        ensure!(failed == 0, "{failed} calls of a client failed, the first: {}", failures[0]);
        Ok(())
    }

    /// One more block of each key, so that whatever was granted before shows.
    async fn look_at_each_key(&self) -> Result<()> {
        let mut caller = Caller {
            name: "afterwards".into(),
            nodes: self.nodes.clone(),
            current: 0,
            patience: Patience::Little,
            seen: self.seen.clone(),
        };
        for key in KEYS {
            let request = SeqRequest::single(SeqKey::new(key)?, 1)?;
            let mut looks = 0;
            while !caller.ask_sequence(&request, None).await {
                looks += 1;
                if looks == LAST_LOOKS {
                    bail!("no node answers {request:?}");
                }
            }
        }
        Ok(())
    }
}

/// How long a caller waits for an answer.
#[derive(Clone, Copy, PartialEq)]
enum Patience {
    Little,
    Much,
}

struct Caller {
    name: Arc<str>,
    nodes: Vec<Arc<dyn Service>>,
    current: usize,
    patience: Patience,
    seen: Arc<Seen>,
}

impl Caller {
    async fn ask_timestamps(mut self) {
        for count in (1..=20).cycle() {
            if self.is_over() {
                return;
            }
            let node = self.node();
            let ask = async |node: Arc<dyn Service>| {
                let granted = node.get_ts(count).await?;
                let first = granted.range.first();
                Ok(Timestamps {
                    physical_ms: first.physical_ms(),
                    logical: first.logical(),
                    count: granted.range.count(),
                    epoch: known_epoch(granted.epoch),
                })
            };
            self.call(ask(node), |outcome| Call::GetTs { count, outcome }).await;
        }
    }

    /// Requests of a session are repeated until they are answered.
    async fn ask_sequences(mut self, session: Option<Session>) {
        for round in 1.. {
            let key = KEYS[round as usize % KEYS.len()];
            let count = 1 + round as u32 % 7;
            let id = session.and_then(|session| RequestId::new(session, round, round).ok());
            let entries = SeqKey::new(key).map(|key| vec![(key, count)]);
            let Ok(request) = entries.and_then(|entries| SeqRequest::new(entries, id)) else {
                return;
            };
            let name = id.map(|_| Arc::from(format!("{} {round}", self.name)));
            while !self.is_over() && !self.ask_sequence(&request, name.clone()).await {
                if name.is_none() {
                    break;
                }
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// Requests under names that all callers share, each repeated until it is answered: always with the same blocks.
    /// Another request under that name is refused, or it breaks exactly-once.
    async fn ask_by_name(mut self) {
        for round in 1.. {
            let (name, key) = (format!("load order {round}"), KEYS[round % KEYS.len()]);
            let request = |count| {
                let (name, key) = (RequestName::new(&name)?, SeqKey::new(key)?);
                SeqRequest::named(vec![(key, count)], name)
            };
            let count = 1 + round as u32 % 5;
            let (Ok(request), Ok(other)) = (request(count), request(count + 1)) else { return };
            let label: Arc<str> = name.as_str().into();
            while !self.is_over() && !self.ask_sequence(&request, Some(label.clone())).await {}
            if self.is_over() {
                return;
            }
            if round.is_multiple_of(10) && self.patience == Patience::Little {
                self.ask_sequence(&other, Some(label)).await;
            }
        }
    }

    /// Whether it was answered.
    async fn ask_sequence(&mut self, request: &SeqRequest, request_id: Option<Arc<str>>) -> bool {
        let ask = |(key, count): &(SeqKey, u32)| Ask { key: key.as_str().into(), count: *count };
        let ask = request.entries().iter().map(ask).collect();
        let answer = take(self.node(), request.clone());
        self.call(answer, |outcome| Call::GetSeq { ask, request_id, outcome }).await
    }

    fn is_over(&self) -> bool {
        self.seen.stop.load(Ordering::Relaxed)
    }

    fn node(&self) -> Arc<dyn Service> {
        self.nodes[self.current % self.nodes.len()].clone()
    }

    /// Makes a call, notes what came of it, and goes to the next node if nothing did.
    async fn call<T>(
        &mut self,
        answer: impl Future<Output = Result<T, Error>>,
        call: impl FnOnce(Outcome<T>) -> Call,
    ) -> bool {
        let patience = match self.patience {
            Patience::Little => PATIENCE,
            Patience::Much => PATIENCE_WITH_CLIENTS,
        };
        let start_ns = SystemClock.now().boot.as_nanos();
        let outcome = match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(error)) if *error.kind() == ErrorKind::Uncertain => {
                Outcome::Uncertain(format!("{error:#}").into())
            }
            Ok(Err(error)) => Outcome::Refused(format!("{error:#}").into()),
            Err(_) => Outcome::Uncertain("no answer in time".into()),
        };
        let end_ns = SystemClock.now().boot.as_nanos();
        let failure = match &outcome {
            Outcome::Answered(_) => None,
            Outcome::Refused(why) | Outcome::Uncertain(why) => Some(why.clone()),
        };
        let caller = self.name.clone();
        let operation = Operation { caller, start_ns, end_ns, call: call(outcome) };
        lock(&self.seen.operations).push(operation);
        match &failure {
            None => drop(self.seen.answered.fetch_add(1, Ordering::Relaxed)),
            Some(_) => self.current += 1,
        }
        if let (Some(why), Patience::Much) = (&failure, self.patience) {
            let lasted = Duration::from_nanos(end_ns - start_ns);
            lock(&self.seen.failures).push(format!("{} after {lasted:?}: {why}", self.name));
        }
        SystemClock.sleep(if failure.is_none() { PAUSE } else { PAUSE_AFTER_FAILURE }).await;
        failure.is_none()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The epoch of an answer, if it says one.
fn known_epoch(epoch: Epoch) -> Option<Epoch> {
    (epoch.0 != 0).then_some(epoch)
}

async fn take(node: Arc<dyn Service>, request: SeqRequest) -> Result<Blocks, Error> {
    let grant = node.get_seq(request).await?;
    let block = |block: tsoracle_core::SeqBlock| Block {
        key: block.key.as_str().into(),
        start: block.start,
        count: block.count,
    };
    let blocks = grant.blocks.into_iter().map(block).collect();
    Ok(Blocks { blocks, epoch: known_epoch(grant.epoch) })
}

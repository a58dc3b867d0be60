//! Callers that ask every node of a cluster all the time, and what they saw.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tsoracle_core::{Clock, Error, ErrorKind, RequestId, SeqKey, SeqRequest, Session, SystemClock};

use crate::{
    Service,
    history::{self, Ask, Block, Blocks, Call, Operation, Outcome, Timestamps},
};

/// How many callers ask for each kind of thing.
const CALLERS: usize = 3;

/// How long a caller waits before it asks again. The load is there to see, not to measure.
const PAUSE: Duration = Duration::from_millis(2);

/// How long a caller waits for an answer. What comes later is of no use to it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The keys that sequences are asked of.
const KEYS: [&str; 2] = ["load a", "load b"];

type Operations = Arc<Mutex<Vec<Operation>>>;

/// Callers at work. Dropping it stops them.
pub(crate) struct Load {
    callers: JoinSet<()>,
    stop: Arc<AtomicBool>,
    seen: Operations,
}

impl Load {
    /// Starts callers that ask one node after the other, each for as long as it answers.
    pub(crate) fn start(nodes: &[Arc<dyn Service>]) -> Self {
        let (seen, stop) = (Operations::default(), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let caller = |what: &str| Caller {
                name: format!("{what} {number}").into(),
                nodes: nodes.to_vec(),
                current: number,
                stop: stop.clone(),
                seen: seen.clone(),
            };
            callers.spawn(caller("timestamps").ask_timestamps());
            callers.spawn(caller("sequences").ask_sequences(number));
        }
        Self { callers, stop, seen }
    }

    /// How many calls were answered as asked so far.
    pub(crate) fn answered(&self) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|operation| is_answered(&operation.call)).count()
    }

    /// Stops the callers, and checks what they saw.
    pub(crate) async fn finish(mut self) -> Result<()> {
        // Calls under way are waited for, since they may take effect.
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended?;
        }
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let report = history::check(&seen);
        let violation = report.checks.iter().find_map(|check| check.violations.first());
        let text = violation.map(ToString::to_string).unwrap_or_default();
        ensure!(report.held(), "broken: {:?}; the first: {text}", report.broken());
        Ok(())
    }
}

fn is_answered(call: &Call) -> bool {
    match call {
        Call::GetTs { outcome, .. } => matches!(outcome, Outcome::Answered(_)),
        Call::GetSeq { outcome, .. } => matches!(outcome, Outcome::Answered(_)),
        Call::ReadSeq { outcome, .. } => matches!(outcome, Outcome::Answered(_)),
    }
}

struct Caller {
    name: Arc<str>,
    nodes: Vec<Arc<dyn Service>>,
    current: usize,
    stop: Arc<AtomicBool>,
    seen: Operations,
}

impl Caller {
    async fn ask_timestamps(mut self) {
        for count in (1..=20).cycle() {
            if self.stop.load(Ordering::Relaxed) {
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
                    epoch: Some(granted.epoch),
                })
            };
            self.call(ask(node), |outcome| Call::GetTs { count, outcome }).await;
        }
    }

    async fn ask_sequences(mut self, number: usize) {
        // Every other caller asks with ids, and again until it is answered.
        let session = number.is_multiple_of(2).then(|| Session::from_text(&self.name));
        for round in 1.. {
            let key = KEYS[round as usize % KEYS.len()];
            let count = 1 + round as u32 % 7;
            let id = session.and_then(|session| RequestId::new(session, round, round).ok());
            let entries = SeqKey::new(key).map(|key| vec![(key, count)]);
            let Ok(request) = entries.and_then(|entries| SeqRequest::new(entries, id)) else {
                return;
            };
            let request_id: Option<Arc<str>> = id.map(|_| format!("{} {round}", self.name).into());
            let ask = vec![Ask { key: key.into(), count }];
            loop {
                let node = self.node();
                let answer = take(node, request.clone());
                let call = |outcome| Call::GetSeq {
                    ask: ask.clone(),
                    request_id: request_id.clone(),
                    outcome,
                };
                let answered = self.call(answer, call).await;
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                if answered || request_id.is_none() {
                    break;
                }
            }
        }
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
        let start_ns = SystemClock.now().boot.as_nanos();
        let outcome = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(error)) if *error.kind() == ErrorKind::Uncertain => {
                Outcome::Uncertain(error.to_string().into())
            }
            Ok(Err(error)) => Outcome::Refused(error.to_string().into()),
            Err(_) => Outcome::Uncertain("no answer in time".into()),
        };
        let end_ns = SystemClock.now().boot.as_nanos();
        let answered = matches!(outcome, Outcome::Answered(_));
        let caller = self.name.clone();
        let operation = Operation { caller, start_ns, end_ns, call: call(outcome) };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
        if !answered {
            self.current += 1;
        }
        SystemClock.sleep(PAUSE).await;
        answered
    }
}

async fn take(node: Arc<dyn Service>, request: SeqRequest) -> Result<Blocks, Error> {
    let grant = node.get_seq(request).await?;
    let block = |block: tsoracle_core::SeqBlock| Block {
        key: block.key.as_str().into(),
        start: block.start,
        count: block.count,
    };
    Ok(Blocks { blocks: grant.blocks.into_iter().map(block).collect(), epoch: Some(grant.epoch) })
}

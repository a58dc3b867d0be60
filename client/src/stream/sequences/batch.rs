use std::sync::{Arc, OnceLock};
use std::task::Waker;

use tokio::time::Instant;
use tsoracle_proto::v1::seq_outcome::Outcome as Answered;
use tsoracle_proto::v1::{
    GetSeqRequest, GetSeqResponse, SeqFailure, SeqRun, StreamSeqRequest, StreamSeqResponse,
};
use tsoracle_types::{Epoch, SeqKey};

use crate::session::{OpenRequest, OpenRun, Sessions};
use crate::stream::batches::{CallError, Lost};

/// The most requests in a batch. A commit of that many costs much more than its sync, so that larger messages
/// would save nothing. Smaller ones than there are callers let the server commit one while the callers
/// of another take their answers and ask again.
pub(super) const MAX_REQUESTS: usize = 256;

/// The request of a caller.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A new request, which gets its number when it is sent.
    New { key: SeqKey, count: u32 },
    /// One that has a number, and may have been sent before.
    Numbered(GetSeqRequest),
}

/// The answer to a request that was carried out.
#[derive(Clone, Debug)]
pub(crate) enum Grant {
    /// The first value of the block.
    Start(u64),
    /// The same response as to a unary call.
    Whole(Box<GetSeqResponse>),
}

/// Reason why a caller got no block, and its request if that has a number, to be sent again.
#[derive(Debug)]
pub(crate) struct NotGranted {
    pub(crate) error: CallError,
    pub(crate) request: Option<OpenRequest>,
}

/// Callers whose requests are sent together, and their outcome.
pub(super) struct Batch {
    /// Set once, under the lock of the queue; read without it.
    pub(super) outcome: Arc<OnceLock<Outcome>>,
    /// Identifies it within its queue.
    pub(super) number: u64,
    slots: Vec<Slot>,
    /// Slots of callers that left before the batch was sealed, to be used again.
    free: Vec<u32>,
    pub(super) live: usize,
    /// What is needed to read the answer, once the batch is sealed.
    sent: Option<Sent>,
}

/// One caller.
struct Slot {
    waker: Option<Waker>,
    until: Instant,
    entry: Option<Entry>,
}

/// The requests that were sent: the indices of their callers, in order.
struct Sent {
    /// Those whose requests were sent one by one.
    single: Vec<u32>,
    /// Those whose requests were sent as a run.
    as_run: Vec<u32>,
    new: New,
}

/// The requests that were new, and so are numbered with the batch.
#[derive(Default)]
struct New {
    run: Option<OpenRun>,
    /// The indices of their callers, in the order of their numbers.
    callers: Vec<u32>,
}

impl New {
    /// The request of a caller, to be sent again.
    fn request(&self, index: u32) -> Option<OpenRequest> {
        let position = self.callers.binary_search(&index).ok()?;
        Some(self.run.as_ref()?.request(position as u32))
    }
}

/// The outcome of a batch.
pub(super) struct Outcome {
    answers: Result<Vec<Answer>, Lost>,
    /// Only if some request may be sent again.
    new: New,
}

/// The outcome of one caller's request.
enum Answer {
    /// It was not sent.
    NotSent,
    Granted(Grant),
    Failed(Box<SeqFailure>),
}

impl Outcome {
    /// The outcome of the caller at this index, with its request if that may have to be sent again.
    pub(super) fn of(&self, index: u32) -> Result<Grant, NotGranted> {
        let error = match &self.answers {
            Ok(answers) => match answers.get(index as usize) {
                Some(Answer::Granted(grant)) => return Ok(grant.clone()),
                Some(Answer::Failed(failure)) => CallError::Failed(failure.clone()),
                // Only callers that have left were not sent, and those do not ask.
                Some(Answer::NotSent) | None => CallError::TimedOut { was_sent: false },
            },
            Err(lost) => CallError::Lost(lost.clone()),
        };
        Err(NotGranted { error, request: self.new.request(index) })
    }
}

impl Batch {
    pub(super) fn new(number: u64) -> Self {
        let (slots, free) = (Vec::new(), Vec::new());
        Self { outcome: Arc::default(), number, slots, free, live: 0, sent: None }
    }

    /// Whether another caller may join.
    pub(super) fn has_room(&self) -> bool {
        self.sent.is_none() && self.live < MAX_REQUESTS
    }

    /// Adds a caller, and returns its index.
    pub(super) fn join(&mut self, entry: Entry, until: Instant, waker: &Waker) -> u32 {
        self.live += 1;
        let slot = Slot { waker: Some(waker.clone()), until, entry: Some(entry) };
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            return index;
        }
        self.slots.push(slot);
        self.slots.len() as u32 - 1
    }

    /// Removes a caller; before the batch is sealed, its request is removed as well. Whether the batch is
    /// sealed, and the caller's request if it was new then.
    pub(super) fn leave(&mut self, index: u32) -> (bool, Option<OpenRequest>) {
        let slot = &mut self.slots[index as usize];
        (slot.waker, slot.entry) = (None, None);
        self.live -= 1;
        match &self.sent {
            None => {
                self.free.push(index);
                (false, None)
            }
            Some(sent) => (true, sent.new.request(index)),
        }
    }

    /// Replaces the waker of a caller, and the time when it is woken at the latest.
    pub(super) fn renew(&mut self, index: u32, until: Instant, waker: &Waker) {
        let slot = &mut self.slots[index as usize];
        slot.until = until;
        match &mut slot.waker {
            Some(current) => current.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Makes the request of all callers that have joined; no caller joins any more. `takes_runs`: the server does.
    pub(super) fn seal(&mut self, sessions: &Sessions, takes_runs: bool) -> StreamSeqRequest {
        self.free = Vec::new();
        let mut sent = Sent { single: vec![], as_run: vec![], new: New::default() };
        let (mut requests, mut new) = (vec![], vec![]);
        for (index, slot) in (0..).zip(&mut self.slots) {
            match slot.entry.take() {
                // A caller that has left spends no number.
                None => {}
                Some(Entry::Numbered(request)) => {
                    sent.single.push(index);
                    requests.push(request);
                }
                Some(Entry::New { key, count }) => {
                    sent.new.callers.push(index);
                    new.push((key, count));
                }
            }
        }
        let mut run = None;
        if !new.is_empty() {
            let numbers = sessions.begin_run(new.len() as u32);
            if takes_runs {
                sent.as_run = sent.new.callers.clone();
                run = Some(run_of(&numbers, &new));
            } else {
                sent.single.extend(&sent.new.callers);
                requests.extend((0..).zip(new).map(|(position, (key, count))| {
                    let request_id = Some(numbers.id(position));
                    GetSeqRequest { key: key.into(), count, request_id }
                }));
            }
            sent.new.run = Some(numbers);
        }
        self.sent = Some(sent);
        StreamSeqRequest { requests, run }
    }

    /// Takes the answer, and returns its epoch.
    ///
    /// # Errors
    /// The way in which it breaks the protocol.
    pub(super) fn answered(
        &mut self,
        answer: StreamSeqResponse,
    ) -> Result<Option<Epoch>, Arc<str>> {
        let Some(sent) = self.sent.take() else {
            return Err("an answer without a request".into());
        };
        let epoch = epoch_of(&answer);
        let (outcome, result) = match read(&sent, self.slots.len(), answer) {
            Ok(answers) => {
                let is_granted =
                    |&index: &u32| matches!(answers[index as usize], Answer::Granted(_));
                if let Some(run) = &sent.new.run
                    && sent.new.callers.iter().any(is_granted)
                {
                    run.confirm();
                }
                let failed = answers.iter().any(|answer| matches!(answer, Answer::Failed(_)));
                let new = if failed { sent.new } else { New::default() };
                (Outcome { answers: Ok(answers), new }, Ok(epoch))
            }
            Err(reason) => {
                let reason: Arc<str> = reason.into();
                let lost = Lost::Malformed(reason.clone());
                (Outcome { answers: Err(lost), new: sent.new }, Err(reason))
            }
        };
        // A batch is answered once: by then it is not in the queue any more.
        let _ = self.outcome.set(outcome);
        result
    }

    pub(super) fn lost(&mut self, lost: Lost) {
        let new = self.sent.take().map(|sent| sent.new).unwrap_or_default();
        let _ = self.outcome.set(Outcome { answers: Err(lost), new });
    }

    /// The wakers of all callers that wait, once there is an outcome.
    pub(super) fn into_wakers(self) -> impl Iterator<Item = Waker> {
        self.slots.into_iter().filter_map(|slot| slot.waker)
    }

    /// Collects the callers whose time is over at `now`, and returns when the next one's is.
    pub(super) fn expire(&mut self, now: Instant, late: &mut Vec<Waker>) -> Option<Instant> {
        let mut next = None;
        for slot in &mut self.slots {
            if slot.waker.is_none() {
                continue;
            }
            if slot.until <= now {
                late.extend(slot.waker.take());
            } else if next.is_none_or(|next| slot.until < next) {
                next = Some(slot.until);
            }
        }
        next
    }
}

/// New requests as a run.
fn run_of(numbers: &OpenRun, new: &[(SeqKey, u32)]) -> SeqRun {
    let id = numbers.id(0);
    let mut keys = Vec::with_capacity(new.iter().map(|(key, _)| key.as_str().len()).sum());
    let mut key_bytes = Vec::with_capacity(new.len());
    for (key, _) in new {
        keys.extend_from_slice(key.as_str().as_bytes());
        key_bytes.push(key.as_str().len() as u32);
    }
    let count = new[0].1;
    let counts = match new.iter().all(|(_, other)| *other == count) {
        true => vec![count],
        false => new.iter().map(|(_, count)| *count).collect(),
    };
    let (session, first_number, first_incomplete) = (id.session, id.number, id.first_incomplete);
    SeqRun { session, first_number, first_incomplete, keys: keys.into(), key_bytes, counts }
}

/// The epoch in which some request was carried out.
fn epoch_of(answer: &StreamSeqResponse) -> Option<Epoch> {
    let of_run = answer.run.as_ref().and_then(|run| run.epoch);
    let epoch = of_run.or_else(|| {
        answer.outcomes.iter().find_map(|outcome| match &outcome.outcome {
            Some(Answered::Granted(granted)) => granted.epoch,
            _ => None,
        })
    });
    epoch.map(|wire| Epoch::from_parts(wire.hi, wire.lo))
}

/// Checks an answer against the requests that were sent, and puts the outcome of each caller at its index.
fn read(sent: &Sent, callers: usize, answer: StreamSeqResponse) -> Result<Vec<Answer>, String> {
    let StreamSeqResponse { outcomes, run } = answer;
    let (starts, failures) = run.map_or_else(Default::default, |run| (run.starts, run.failures));
    let (asked, answered) = (sent.single.len(), outcomes.len());
    if asked != answered {
        return Err(format!("{answered} outcomes to {asked} requests"));
    }
    let (asked, answered) = (sent.as_run.len(), starts.len());
    if asked != answered {
        return Err(format!("{answered} blocks to a run of {asked} requests"));
    }
    let mut answers: Vec<_> = (0..callers).map(|_| Answer::NotSent).collect();
    for (&index, start) in sent.as_run.iter().zip(starts) {
        answers[index as usize] = Answer::Granted(Grant::Start(start));
    }
    for failed in failures {
        let Some(&index) = sent.as_run.get(failed.index as usize) else {
            return Err(format!("a failure of request {} in a run of {asked}", failed.index));
        };
        answers[index as usize] = Answer::Failed(Box::new(failed.failure.unwrap_or_default()));
    }
    for (&index, outcome) in sent.single.iter().zip(outcomes) {
        answers[index as usize] = match outcome.outcome {
            Some(Answered::Granted(granted)) => Answer::Granted(Grant::Whole(Box::new(granted))),
            Some(Answered::Failed(failure)) => Answer::Failed(Box::new(failure)),
            None => return Err("an empty outcome".into()),
        };
    }
    Ok(answers)
}

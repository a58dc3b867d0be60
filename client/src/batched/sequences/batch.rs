use std::sync::{Arc, OnceLock};
use std::task::Waker;

use tokio::time::Instant;
use tsoracle_proto::v1::seq_outcome::Outcome as Answered;
use tsoracle_proto::v1::{GetSeqRequest, SeqFailure, SeqRun, StreamSeqRequest, StreamSeqResponse};
use tsoracle_types::{Epoch, SeqKey};

use super::{Entry, Grant, MOST};
use crate::batched::Lost;
use crate::session::{OpenRequest, OpenRun, Sessions};

/// Callers whose requests go together, and what became of them.
pub(super) struct Batch {
    /// Set once, under the lock of the queue; read without.
    pub(super) outcome: Arc<OnceLock<Outcome>>,
    /// Names it within its queue.
    pub(super) number: u64,
    slots: Vec<Slot>,
    /// Slots of callers who have left before the batch was sealed, to be used again.
    free: Vec<u32>,
    pub(super) live: usize,
    /// What reading the answer takes, once it is sealed.
    sent: Option<Sent>,
}

/// One caller.
struct Slot {
    waker: Option<Waker>,
    until: Instant,
    entry: Option<Entry>,
}

/// What was sent: the indices of the callers, in order.
struct Sent {
    /// Those whose requests were sent by themselves.
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

/// What became of a batch.
pub(super) struct Outcome {
    answers: Result<Vec<Answer>, Lost>,
    /// Only if some request may be sent again.
    new: New,
}

/// What became of one caller's request.
enum Answer {
    /// It was not sent.
    None,
    Granted(Grant),
    Failed(Box<SeqFailure>),
}

impl Outcome {
    /// What the caller at this index is told, and its request if that may have to be sent again.
    pub(super) fn of(&self, index: u32) -> Result<Grant, (Unserved<'_>, Option<OpenRequest>)> {
        match &self.answers {
            Ok(answers) => match answers.get(index as usize) {
                Some(Answer::Granted(grant)) => Ok(grant.clone()),
                Some(Answer::Failed(failure)) => {
                    Err((Unserved::Failed(failure), self.new.request(index)))
                }
                // Only those who have left were not sent, and they do not ask.
                Some(Answer::None) | None => Err((Unserved::Left, None)),
            },
            Err(lost) => Err((Unserved::Lost(lost), self.new.request(index))),
        }
    }
}

/// Why a caller gets no block.
pub(super) enum Unserved<'a> {
    Failed(&'a SeqFailure),
    Lost(&'a Lost),
    Left,
}

impl Batch {
    pub(super) fn new(number: u64) -> Self {
        let (slots, free) = (Vec::new(), Vec::new());
        Self { outcome: Arc::default(), number, slots, free, live: 0, sent: None }
    }

    /// Whether another caller may join.
    pub(super) fn has_room(&self) -> bool {
        self.sent.is_none() && self.live < MOST
    }

    /// Takes a caller in: its index.
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

    /// A caller has gone. Before the batch is sealed, it is as if it had never come. Whether it was
    /// sealed, and its request if it was new then.
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

    /// Who to wake for this caller from now on, and when at the latest.
    pub(super) fn renew(&mut self, index: u32, until: Instant, waker: &Waker) {
        let slot = &mut self.slots[index as usize];
        slot.until = until;
        match &mut slot.waker {
            Some(current) => current.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Makes the request of all who have joined; no caller joins any more. `takes_runs`: the server does.
    pub(super) fn seal(&mut self, sessions: &Sessions, takes_runs: bool) -> StreamSeqRequest {
        self.free = Vec::new();
        let mut sent = Sent { single: vec![], as_run: vec![], new: New::default() };
        let (mut requests, mut new) = (vec![], vec![]);
        for (index, slot) in (0..).zip(&mut self.slots) {
            match slot.entry.take() {
                // Who has left spends no number.
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
            return Err("an answer to nothing that was asked".into());
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
        // A batch is answered once: it is out of the queue by then.
        let _ = self.outcome.set(outcome);
        result
    }

    pub(super) fn lost(&mut self, lost: Lost) {
        let new = self.sent.take().map(|sent| sent.new).unwrap_or_default();
        let _ = self.outcome.set(Outcome { answers: Err(lost), new });
    }

    /// Everyone who waits, once there is an outcome.
    pub(super) fn into_wakers(self) -> impl Iterator<Item = Waker> {
        self.slots.into_iter().filter_map(|slot| slot.waker)
    }

    /// Collects those whose time is over at `now`, and returns when the next one's is.
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

/// Checks an answer against what was sent, and puts what became of each caller's request at its index.
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
    let mut answers: Vec<_> = (0..callers).map(|_| Answer::None).collect();
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

//! Requests that wait for a commit. Those of one caller keep their order; the callers take turns.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use super::pending::Pending;
use crate::CallerId;

/// The most commands that share a commit, whatever the driver takes.
pub(super) const MOST_COMMANDS: usize = 4_096;

/// How many commands of a caller go ahead of those of the next. One who has no more than that is called
/// light, others heavy.
const QUANTUM: usize = 64;

/// How many commands of heavy callers go at least into a commit while there are light ones, which would have to
/// wait for all the others otherwise. To plan that many takes about as long as to store them.
const LEAST_HEAVY: usize = 128;

/// In a commit there are no more commands of heavy callers than this many times those of light ones, if that is
/// more.
const HEAVY_FOR_LIGHT: usize = 4;

/// For how many commits it counts that there was a light caller besides heavy ones: one that waits for its
/// answers has nothing queued half of the time.
const LATELY: u32 = 64;

/// How often all requests are looked through for such as were given up.
const LOOK_THROUGH: u32 = 16;

/// What waits for a commit, by callers.
#[derive(Default, Debug)]
pub(super) struct Backlog {
    queues: IndexMap<Option<CallerId>, VecDeque<Pending>, RandomState>,
    /// The position of the caller that is next.
    next: usize,
    /// For how many commits yet heavy callers are held back.
    light_lately: u32,
    dealt: u32,
}

/// What a round has dealt.
#[derive(Default)]
struct Dealt {
    commands: usize,
    /// How many of them are all that their callers have.
    light: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(super) fn push(&mut self, call: Pending) {
        self.queues.entry(call.caller()).or_default().push_back(call);
    }

    /// Takes out what may go into the next commit, in the order in which it should.
    pub(super) fn deal(&mut self) -> VecDeque<Pending> {
        self.dealt = self.dealt.wrapping_add(1);
        if self.dealt.is_multiple_of(LOOK_THROUGH) {
            self.drop_abandoned();
        }
        let mut dealt = VecDeque::new();
        let several = self.queues.len() > 1;
        let Dealt { mut commands, light } = self.round(&mut dealt, MOST_COMMANDS);
        let is_mixed = several && light > 0 && !self.is_empty();
        self.light_lately = if is_mixed { LATELY } else { self.light_lately.saturating_sub(1) };
        let most = match self.light_lately {
            0 => MOST_COMMANDS,
            _ => MOST_COMMANDS.min(light + LEAST_HEAVY.max(HEAVY_FOR_LIGHT * light)),
        };
        while commands < most && !self.is_empty() {
            commands += self.round(&mut dealt, most - commands).commands;
        }
        dealt
    }

    /// Takes out what may be worked out while a commit is in flight, behind what was taken out for `before`, if
    /// that is anything. Where several callers wait, it depends on all that has come by then whose turn it is.
    pub(super) fn deal_ahead(
        &mut self,
        before: Option<Option<CallerId>>,
        most: usize,
    ) -> VecDeque<Pending> {
        let mut dealt = VecDeque::new();
        if self.light_lately == 0
            && self.queues.len() == 1
            && let Some((caller, queue)) = self.queues.first_mut()
            && before.is_none_or(|before| before == *caller)
        {
            take(queue, most, &mut dealt);
            if queue.is_empty() {
                self.queues.swap_remove_index(0);
            }
        }
        dealt
    }

    /// Puts back what did not go into the commit, ahead of what has come since.
    pub(super) fn put_back(&mut self, dealt: VecDeque<Pending>) {
        for call in dealt.into_iter().rev() {
            self.queues.entry(call.caller()).or_default().push_front(call);
        }
    }

    /// All there is, in no order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Pending> {
        self.queues.drain(..).flat_map(|(_, queue)| queue)
    }

    /// Deals some commands of each caller, once.
    fn round(&mut self, dealt: &mut VecDeque<Pending>, most: usize) -> Dealt {
        let mut round = Dealt::default();
        let callers = self.queues.len();
        for _ in 0..callers {
            if round.commands >= most {
                break;
            }
            if self.next >= self.queues.len() {
                self.next = 0;
            }
            let Some((_, queue)) = self.queues.get_index_mut(self.next) else { break };
            let taken = take(queue, QUANTUM.min(most - round.commands), dealt);
            round.commands += taken;
            if queue.is_empty() {
                round.light += taken;
                self.queues.swap_remove_index(self.next);
            } else {
                self.next += 1;
            }
        }
        round
    }

    fn drop_abandoned(&mut self) {
        self.queues.retain(|_, queue| {
            queue.retain(|call| !call.is_abandoned());
            !queue.is_empty()
        });
    }
}

/// Moves commands of requests that were not given up, at most as many as asked for. Returns how many it moved.
fn take(queue: &mut VecDeque<Pending>, most: usize, dealt: &mut VecDeque<Pending>) -> usize {
    let mut taken = 0;
    while taken < most
        && let Some(call) = queue.front_mut()
    {
        if call.is_abandoned() {
            queue.pop_front();
            continue;
        }
        let room = most - taken;
        if call.len() > room {
            dealt.push_back(call.split(room));
            return most;
        }
        taken += call.len();
        dealt.extend(queue.pop_front());
    }
    taken
}

#[cfg(test)]
#[path = "backlog_test.rs"]
mod tests;

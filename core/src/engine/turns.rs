//! Who is granted timestamps next while these have run as far ahead of the clock as they may.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use tokio::sync::oneshot;

use crate::CallerId;

/// Those who wait for their turn. The callers take turns, whatever each of them asks for, and the requests of
/// one caller are served in their order. At any moment one request has the turn.
#[derive(Default, Debug)]
pub(crate) struct Turns(Mutex<Waiting>);

#[derive(Default, Debug)]
struct Waiting {
    /// A request has the turn.
    taken: bool,
    /// Whose turn it is, or was.
    last: Option<CallerId>,
    queues: IndexMap<Option<CallerId>, VecDeque<oneshot::Sender<Turn>>, RandomState>,
    /// The position of the caller that is next.
    next: usize,
}

/// The turn of one request. Dropped, it is the next one's.
#[derive(Debug)]
pub(crate) struct Turn(Option<Arc<Turns>>);

impl Turns {
    /// Returns once it is the turn of this request. Dropping the future gives the place up.
    pub(crate) async fn take(self: &Arc<Self>, caller: Option<CallerId>) -> Turn {
        let turn = {
            let mut waiting = self.waiting();
            if mem::replace(&mut waiting.taken, true) {
                let (sender, turn) = oneshot::channel();
                waiting.queues.entry(caller).or_default().push_back(sender);
                turn
            } else {
                waiting.last = caller;
                return Turn(Some(self.clone()));
            }
        };
        match turn.await {
            Ok(turn) => turn,
            // No sender is dropped unsent, as long as there are turns.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether no request waits for the turn, or has it.
    pub(crate) fn is_free(&self) -> bool {
        !self.waiting().taken
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The request whose turn it is next; it may have been given up.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        if self.next >= self.queues.len() {
            self.next = 0;
        }
        let is_last = |(caller, _): (&Option<CallerId>, _)| *caller == self.last;
        if self.queues.len() > 1 && self.queues.get_index(self.next).is_some_and(is_last) {
            self.next = (self.next + 1) % self.queues.len();
        }
        let (caller, queue) = self.queues.get_index_mut(self.next)?;
        self.last = *caller;
        let request = queue.pop_front();
        if queue.is_empty() {
            self.queues.swap_remove_index(self.next);
        } else {
            self.next += 1;
        }
        request
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        let mut waiting = turns.waiting();
        while let Some(request) = waiting.next() {
            match request.send(Turn(Some(turns.clone()))) {
                Ok(()) => return,
                // It was given up, so this is the turn of the one after it.
                Err(mut turn) => turn.0 = None,
            }
        }
        waiting.taken = false;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::FutureExt as _;

    use super::*;

    fn caller(number: u8) -> Option<CallerId> {
        Some(CallerId::of_address(Ipv4Addr::new(10, 0, 0, number).into()))
    }

    #[tokio::test]
    async fn callers_take_turns_however_many_requests_one_has() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(caller(1)).now_or_never().unwrap();
        let mut waiting = vec![];
        for number in [1, 1, 1, 2, 1, 2] {
            let mut turn = Box::pin(turns.take(caller(number)));
            assert!(turn.as_mut().now_or_never().is_none());
            waiting.push((number, turn));
        }
        let (mut order, mut turn) = (vec![], first);
        while !waiting.is_empty() {
            drop(turn);
            let mut ready = waiting.iter_mut().enumerate();
            let (at, next) = ready
                .find_map(|(at, (_, waits))| Some((at, waits.as_mut().now_or_never()?)))
                .expect("it is the turn of one of them");
            let (number, _) = waiting.remove(at);
            order.push(number);
            turn = next;
            assert!(waiting.iter_mut().all(|(_, waits)| waits.as_mut().now_or_never().is_none()));
        }
        assert_eq!(order, [2, 1, 2, 1, 1, 1]);
        assert!(!turns.is_free());
        drop(turn);
        assert!(turns.is_free());
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_takes_no_turn() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(None).now_or_never().unwrap();
        let mut given_up = Box::pin(turns.take(None));
        let mut told = Box::pin(turns.take(None));
        let mut last = Box::pin(turns.take(None));
        for waits in [&mut given_up, &mut told, &mut last] {
            assert!(waits.as_mut().now_or_never().is_none());
        }
        drop(given_up);
        drop(first);
        // This one has the turn, and does not learn it.
        drop(told);
        let turn = last.as_mut().now_or_never().unwrap();
        drop(turn);
        assert!(turns.is_free());
    }
}

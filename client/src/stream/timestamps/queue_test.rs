use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Wake};

use proptest::prelude::*;

use tsoracle_proto::v1::GetTsResponse;

use super::super::flight::MAX_IN_FLIGHT;
use super::*;
use crate::peers::{PeerState, SUSPECT_AFTER};
use crate::stream::batches::Batches as _;

const MINUTE: u64 = 60_000;

fn queue(shards: usize) -> Queue {
    let queue = Queue::with_shards(shards);
    assert_eq!(queue.begin(Weak::<()>::new()), Some(1));
    queue
}

fn join(queue: &Queue, shard: usize, count: u32) -> Joined {
    queue.join(shard, count, MINUTE, Waker::noop()).unwrap().unwrap()
}

/// The count that the transport gets to send, after as many yields as it is asked for.
fn seal(queue: &Queue, run: u64) -> Option<Option<u32>> {
    let mut context = Context::from_waker(Waker::noop());
    (0..2).find_map(|_| match queue.poll_seal(run, &mut context) {
        Poll::Ready(request) => Some(request.map(|request| request.count)),
        Poll::Pending => None,
    })
}

fn answer(queue: &Queue, first: u32, count: u32) -> Result<(), Arc<str>> {
    let answer =
        GetTsResponse { physical_ms: 1, logical_start: first, count, epoch_hi: 0, epoch_lo: 1 };
    queue.answer(answer, &PeerState::alone())
}

fn got(queue: &Queue, joined: &Joined) -> Option<u64> {
    let answered = queue.outcome(joined)?.ok()?;
    Some(answered.as_u64() - (1 << 18))
}

fn broken(reason: &str) -> Lost {
    Lost::broken(Status::unavailable(reason))
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn no_caller_joins_a_sealed_batch() {
    let queue = queue(1);
    let early = join(&queue, 0, 1);
    assert_eq!(seal(&queue, 1), Some(Some(1)));
    let late = join(&queue, 0, 1);
    assert_eq!(answer(&queue, 0, 1), Ok(()));
    assert_eq!((got(&queue, &early), got(&queue, &late)), (Some(0), None));
}

#[test]
fn callers_of_all_threads_go_together() {
    let queue = queue(2);
    let joined = [(0, 2), (1, 3), (0, 1)].map(|(shard, count)| join(&queue, shard, count));
    assert_eq!(seal(&queue, 1), Some(Some(6)));
    assert_eq!(answer(&queue, 10, 6), Ok(()));
    let mut firsts = joined.map(|joined| got(&queue, &joined).unwrap());
    assert_eq!(firsts[2], firsts[0] + 2, "those of one thread in their order");
    firsts.sort_unstable();
    assert!(matches!(firsts, [10, 12, 13] | [10, 13, 15]), "{firsts:?}");
}

#[test]
fn an_earlier_stream_is_not_given_what_a_later_one_is_for() {
    let queue = queue(2);
    let lost = join(&queue, 0, 1);
    queue.end(1, &broken("broken"));
    assert!(matches!(queue.outcome(&lost), Some(Err(CallError::Lost(_)))));
    assert!(queue.join(0, 1, MINUTE, Waker::noop()).is_none(), "no stream takes it");
    assert_eq!(queue.begin(Weak::<()>::new()), Some(2));
    let joined = join(&queue, 0, 1);
    assert_eq!(seal(&queue, 1), Some(None), "it ends");
    queue.end(1, &broken("broken"));
    assert!(queue.outcome(&joined).is_none(), "its end is not theirs");
    assert_eq!(seal(&queue, 2), Some(Some(1)));
}

#[test]
fn each_is_told_why_its_own_stream_broke() {
    let queue = queue(1);
    let mut joined = vec![];
    for run in 1..=3 {
        joined.push(join(&queue, 0, 1));
        queue.end(run, &broken(&format!("reason {run}")));
        queue.begin(Weak::<()>::new());
    }
    for (joined, run) in joined.iter().zip(1..) {
        let Some(Err(CallError::Lost(Lost::Broken { status, .. }))) = queue.outcome(joined) else {
            panic!("it was lost");
        };
        assert_eq!(status.message(), format!("reason {run}"));
    }
}

#[test]
fn a_batch_is_no_wider_than_one_answer_may_be() {
    let queue = queue(1);
    let counts = [MAX_TS_COUNT - 1, 1, 1, MAX_TS_COUNT];
    let places = counts.map(|count| join(&queue, 0, count).place.first);
    assert_eq!(places, [0, MAX_TS_COUNT - 1, 0, 0]);
    for count in [MAX_TS_COUNT, 1, MAX_TS_COUNT] {
        assert_eq!(seal(&queue, 1), Some(Some(count)));
    }
    let queue = self::queue(2);
    join(&queue, 0, MAX_TS_COUNT);
    join(&queue, 1, 1);
    let mut sealed = [seal(&queue, 1), seal(&queue, 1)].map(|sealed| sealed.flatten().unwrap());
    sealed.sort_unstable();
    assert_eq!(sealed, [1, MAX_TS_COUNT]);
}

#[test]
fn a_place_that_became_free_goes_to_one_who_fits() {
    let queue = queue(1);
    let gone = join(&queue, 0, 3);
    queue.leave(&gone);
    let (wider, same) = (join(&queue, 0, 4), join(&queue, 0, 3));
    assert_eq!((same.place.first, wider.place.first), (0, 3));
    assert_eq!(seal(&queue, 1), Some(Some(7)));
}

#[test]
fn whoever_comes_to_a_place_that_became_free_is_woken_when_its_time_is_over() {
    let queue = queue(1);
    let start = queue.base + Duration::from_millis(MINUTE);
    let (gone, _stays) = (join(&queue, 0, 1), join(&queue, 0, 1));
    queue.expire(start);
    queue.leave(&gone);
    let woken = Arc::<Woken>::default();
    let joined = queue.join(0, 1, 30, &woken.clone().into()).unwrap().unwrap();
    assert_eq!(joined.place.index, gone.place.index);
    queue.expire(start + Duration::from_millis(1));
    queue.expire(start + Duration::from_millis(31));
    assert_eq!(woken.count(), 1);
}

#[test]
fn whoever_leaves_what_was_sent_is_counted_until_it_is_answered() {
    let queue = queue(1);
    let [gone, stays] = [(); 2].map(|()| join(&queue, 0, 1));
    assert_eq!(seal(&queue, 1), Some(Some(2)));
    queue.leave(&gone);
    answer(&queue, 5, 2).unwrap();
    assert_eq!(got(&queue, &stays), Some(6));
    assert_eq!(queue.in_flight.load(Ordering::Relaxed), 0);
}

#[test]
fn what_all_have_left_is_not_asked_for() {
    let queue = queue(2);
    for shard in [0, 1] {
        let gone = join(&queue, shard, 1);
        queue.leave(&gone);
    }
    assert_eq!(seal(&queue, 1), None);
    let stays = join(&queue, 1, 1);
    assert_eq!(seal(&queue, 1), Some(Some(1)));
    assert_eq!(answer(&queue, 5, 1), Ok(()));
    assert_eq!(got(&queue, &stays), Some(5));
}

#[test]
fn a_caller_is_woken_by_its_answer_or_its_end_and_by_the_last_waker_it_gave() {
    let queue = queue(1);
    let (first, last) = (Arc::<Woken>::default(), Arc::<Woken>::default());
    for ends in [false, true] {
        let waker = first.clone().into();
        let joined = queue.join(0, 1, MINUTE, &waker).unwrap().unwrap();
        let before = (first.count(), last.count());
        assert!(queue.check(&joined, &last.clone().into()).is_pending());
        seal(&queue, 1);
        match ends {
            true => queue.end(1, &broken("broken")),
            false => answer(&queue, 0, 1).unwrap(),
        }
        assert_eq!((first.count(), last.count()), (before.0, before.1 + 1));
    }
}

#[test]
fn an_idle_transport_is_woken_by_the_first_caller_of_any_thread() {
    let queue = queue(2);
    let transport = Arc::<Woken>::default();
    let waker = transport.clone().into();
    for (round, shard) in [(1, 0), (2, 1), (3, 0)] {
        assert!(queue.poll_seal(1, &mut Context::from_waker(&waker)).is_pending());
        join(&queue, shard, 1);
        assert_eq!(transport.count(), round);
        join(&queue, 1 - shard, 1);
        assert_eq!(transport.count(), round, "it is awake");
        seal(&queue, 1);
        answer(&queue, 0, 2).unwrap();
    }
}

#[test]
fn a_transport_that_has_sent_enough_is_woken_by_an_answer() {
    let queue = queue(1);
    for _ in 0..MAX_IN_FLIGHT {
        join(&queue, 0, 1);
        assert_eq!(seal(&queue, 1), Some(Some(1)));
    }
    let transport = Arc::<Woken>::default();
    join(&queue, 0, 1);
    assert!(queue.poll_seal(1, &mut Context::from_waker(&transport.clone().into())).is_pending());
    assert_eq!(transport.count(), 0);
    answer(&queue, 0, 1).unwrap();
    assert_eq!(transport.count(), 1);
}

#[test]
fn time_counts_from_the_look_after_joining_and_is_each_callers_own() {
    let queue = queue(1);
    let woken = [(); 3].map(|()| Arc::<Woken>::default());
    let within = [30, 60, 30];
    let wait = |of: usize| {
        let waker = woken[of].clone().into();
        queue.join(0, 1, within[of], &waker).unwrap().unwrap()
    };
    let start = queue.base + Duration::from_millis(MINUTE);
    let (short, long) = (wait(0), wait(1));
    queue.expire(start);
    seal(&queue, 1);
    queue.expire(start + Duration::from_millis(29));
    let late = wait(2);
    assert_eq!(woken.each_ref().map(|woken| woken.count()), [0, 0, 0]);
    queue.expire(start + Duration::from_millis(30));
    assert_eq!(woken.each_ref().map(|woken| woken.count()), [1, 0, 0]);
    let look = |joined: &Joined| queue.check(joined, Waker::noop());
    let silent = |was_sent: bool, looked: Poll<Result<Timestamp, CallError>>| matches!(looked, Poll::Ready(Err(CallError::TimedOut { was_sent: sent })) if sent == was_sent);
    assert!(silent(true, look(&short)));
    assert!(look(&long).is_pending() && look(&late).is_pending());
    queue.expire(start + Duration::from_millis(60));
    assert!(silent(true, look(&long)) && silent(false, look(&late)));
}

#[test]
fn the_clock_runs_while_a_caller_waits_and_a_late_one_starts_it_again() {
    let queue = queue(1);
    let task = Arc::<Woken>::default();
    let waker = task.clone().into();
    let context = Context::from_waker(&waker);
    assert_eq!(queue.next_check(&context), None, "no caller waits");
    let joined = join(&queue, 0, 1);
    assert_eq!(task.count(), 1);
    let first = queue.next_check(&context).unwrap();
    queue.expire(first);
    assert_eq!(queue.next_check(&context), Some(first + TICK));
    seal(&queue, 1);
    answer(&queue, 0, 1).unwrap();
    assert!(got(&queue, &joined).is_some());
    queue.expire(first + TICK);
    assert_eq!(queue.next_check(&context), None);
    join(&queue, 0, 1);
    assert_eq!(task.count(), 2);
    assert!(queue.next_check(&context).is_some());
}

#[test]
fn silence_is_suspicious_only_while_a_caller_waits() {
    let queue = queue(1);
    join(&queue, 0, 1);
    let start = Instant::now();
    assert!(!queue.expire(start + SUSPECT_AFTER / 2));
    assert!(queue.expire(start + SUSPECT_AFTER + TICK));
    assert!(!queue.expire(start + SUSPECT_AFTER + 2 * TICK), "once in this time");
    seal(&queue, 1);
    answer(&queue, 0, 1).unwrap();
    assert!(!queue.expire(start + 10 * SUSPECT_AFTER));
}

#[test]
fn an_answer_that_is_not_taken_in_time_is_asked_for_again() {
    let queue = queue(1);
    let slow = join(&queue, 0, 1);
    for round in 0..300 {
        assert_eq!(seal(&queue, 1), Some(Some(1)));
        answer(&queue, round, 1).unwrap();
        join(&queue, 0, 1);
    }
    assert!(queue.outcome(&slow).is_none());
    let looked = queue.check(&slow, Waker::noop());
    assert!(matches!(looked, Poll::Ready(Err(CallError::Lost(_)))), "{looked:?}");
}

proptest! {
    /// By any schedule, over any number of threads: a caller that gets a timestamp had come before it was asked
    /// for, none gets another's, and none is kept for later.
    #[test]
    fn a_timestamp_is_asked_for_after_its_caller_has_come(
        shards in 1..4_usize,
        steps in prop::collection::vec(
            (0..5u8, any::<prop::sample::Index>(), 1..4u32, 0..4_usize), 1..300),
    ) {
        let queue = queue(shards);
        // Each with how many it wants, and how many had been asked for when it came.
        let mut waiting: Vec<(Joined, u32, u64)> = vec![];
        let mut asked: VecDeque<u32> = VecDeque::new();
        let (mut granted, mut sealed) = (0, 0);
        let mut seen = BTreeSet::new();
        for (step, which, wanted, thread) in steps {
            match step {
                0 | 1 => {
                    waiting.push((join(&queue, thread % shards, wanted), wanted, sealed));
                }
                2 if !waiting.is_empty() => {
                    let (joined, ..) = waiting.swap_remove(which.index(waiting.len()));
                    queue.leave(&joined);
                }
                3 => if let Some(Some(count)) = seal(&queue, 1) {
                    prop_assert!(count > 0);
                    sealed += u64::from(count);
                    asked.push_back(count);
                },
                _ => if let Some(count) = asked.pop_front() {
                    prop_assert_eq!(answer(&queue, granted, count), Ok(()));
                    granted += count;
                },
            }
            let (served, others): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(joined, ..)| queue.outcome(joined).is_some());
            waiting = others;
            for (joined, wanted, came) in served {
                let first = got(&queue, &joined).unwrap();
                prop_assert!(first >= came, "it was asked for before");
                for timestamp in first..first + u64::from(wanted) {
                    prop_assert!(timestamp < u64::from(granted), "it was not granted");
                    prop_assert!(seen.insert(timestamp), "it is another's");
                }
            }
            prop_assert!(asked.len() <= MAX_IN_FLIGHT);
        }
        // A caller that still waits is served in the end.
        for _ in 0..3 * MAX_IN_FLIGHT {
            if let Some(Some(count)) = seal(&queue, 1) {
                asked.push_back(count);
            }
            if let Some(count) = asked.pop_front() {
                answer(&queue, granted, count).unwrap();
                granted += count;
            }
        }
        prop_assert!(waiting.iter().all(|(joined, ..)| got(&queue, joined).is_some()));
    }
}

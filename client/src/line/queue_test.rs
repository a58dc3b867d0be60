use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tonic::Status;
use tsoracle_proto::MAX_TS_COUNT;
use tsoracle_proto::v1::{GetTsRequest, GetTsResponse};

use super::*;
use crate::line::Timestamps;

type Line = Queue<Timestamps>;

fn join(queue: &mut Line, count: u32) -> Place<Timestamps> {
    let until = Instant::now() + Duration::from_secs(60);
    queue.join(count, until, Waker::noop()).unwrap().0
}

/// What the transport is given to send, letting others ahead as often as it is told to.
fn seal(queue: &mut Line, run: u64) -> Option<Option<GetTsRequest>> {
    let mut context = Context::from_waker(Waker::noop());
    (0..2).find_map(|_| match queue.poll_seal(run, &mut context) {
        Poll::Ready(request) => Some(request),
        Poll::Pending => None,
    })
}

fn answer(first: u32, count: u32) -> GetTsResponse {
    GetTsResponse { physical_ms: 1, logical_start: first, count, epoch_hi: 0, epoch_lo: 1 }
}

fn got(place: &Place<Timestamps>) -> Option<u64> {
    let answer = place.outcome.get()?.as_ref().ok()?;
    Some(Timestamps::pick(answer, place.first).0.as_u64() - (1 << 18))
}

#[test]
fn nobody_joins_what_is_sealed() {
    let mut queue = Line::new();
    let run = queue.begin();
    let early = join(&mut queue, 1);
    assert_eq!(seal(&mut queue, run), Some(Some(GetTsRequest { count: 1 })));
    let late = join(&mut queue, 1);
    assert_eq!(queue.answer(answer(0, 1)).1, Ok(()));
    assert_eq!((got(&early), got(&late)), (Some(0), None));
}

#[test]
fn an_earlier_stream_is_not_given_what_a_later_one_is_for() {
    let mut queue = Line::new();
    let first = queue.begin();
    let lost = join(&mut queue, 1);
    let status = Arc::new(Status::unavailable("broken"));
    queue.end(first, &Lost::Broken { status: status.clone(), is_certain: false });
    assert!(matches!(lost.outcome.get(), Some(Err(_))));
    let second = queue.begin();
    let place = join(&mut queue, 1);
    assert_eq!(seal(&mut queue, first), Some(None), "it ends");
    queue.end(first, &Lost::Broken { status, is_certain: false });
    assert!(place.outcome.get().is_none(), "its end is not theirs");
    assert_eq!(seal(&mut queue, second), Some(Some(GetTsRequest { count: 1 })));
}

#[test]
fn a_batch_is_no_wider_than_one_answer_may_be() {
    let mut queue = Line::new();
    let run = queue.begin();
    let counts = [MAX_TS_COUNT - 1, 1, 1, MAX_TS_COUNT];
    let places = counts.map(|count| join(&mut queue, count));
    let whole = GetTsRequest { count: MAX_TS_COUNT };
    assert_eq!(seal(&mut queue, run), Some(Some(whole)));
    assert_eq!(seal(&mut queue, run), Some(Some(GetTsRequest { count: 1 })));
    assert_eq!(seal(&mut queue, run), Some(Some(whole)));
    assert_eq!(places.map(|place| place.first), [0, MAX_TS_COUNT - 1, 0, 0]);
}

#[test]
fn a_place_that_became_free_goes_to_one_who_fits() {
    let mut queue = Line::new();
    let run = queue.begin();
    let gone = join(&mut queue, 3);
    assert!(!queue.leave(&gone));
    let (wider, same) = (join(&mut queue, 4), join(&mut queue, 3));
    assert_eq!((same.first, wider.first), (0, 3));
    assert_eq!(seal(&mut queue, run), Some(Some(GetTsRequest { count: 7 })));
}

proptest! {
    /// By any schedule: whoever gets a timestamp had come before it was asked for, nobody gets
    /// another's, and none is kept for later.
    #[test]
    fn a_timestamp_is_asked_for_after_its_caller_has_come(
        steps in prop::collection::vec((0..4u8, any::<prop::sample::Index>(), 1..4u32), 1..300),
    ) {
        let mut queue = Line::new();
        let run = queue.begin();
        // Each with how many it wants, and how many had been asked for when it came.
        let mut waiting: Vec<(Place<Timestamps>, u32, u64)> = vec![];
        let mut asked: VecDeque<u32> = VecDeque::new();
        let (mut granted, mut sealed) = (0, 0);
        let mut seen = BTreeSet::new();
        for (step, which, wanted) in steps {
            match step {
                0 => waiting.push((join(&mut queue, wanted), wanted, sealed)),
                1 if !waiting.is_empty() => {
                    let (place, ..) = waiting.swap_remove(which.index(waiting.len()));
                    queue.leave(&place);
                }
                2 => if let Some(Some(request)) = seal(&mut queue, run) {
                    prop_assert!(request.count > 0);
                    sealed += u64::from(request.count);
                    asked.push_back(request.count);
                },
                _ => if let Some(count) = asked.pop_front() {
                    prop_assert_eq!(queue.answer(answer(granted, count)).1, Ok(()));
                    granted += count;
                },
            }
            let (served, others): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(place, ..)| place.outcome.get().is_some());
            waiting = others;
            for (place, wanted, came) in served {
                let first = got(&place).unwrap();
                prop_assert!(first >= came, "it was asked for before");
                for timestamp in first..first + u64::from(wanted) {
                    prop_assert!(timestamp < u64::from(granted), "it was not granted");
                    prop_assert!(seen.insert(timestamp), "it is another's");
                }
            }
            prop_assert!(asked.len() <= Timestamps::MOST_IN_FLIGHT);
            prop_assert_eq!(queue.waiting, waiting.len());
        }
    }
}

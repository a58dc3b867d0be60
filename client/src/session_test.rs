use proptest::prelude::*;
use tsoracle_types::ManualClock;

use super::*;

fn sessions() -> (Sessions, ManualClock) {
    let clock = ManualClock::new(1_700_000_000_000);
    (Sessions::new(Arc::new(clock.clone())), clock)
}

async fn begin(sessions: &Sessions) -> OpenRequest {
    let deadline = Instant::now() + Duration::from_secs(1);
    sessions.begin(deadline).await.unwrap()
}

#[tokio::test]
async fn numbers_rise_within_a_session() {
    let (sessions, _clock) = sessions();
    let (first, second) = (begin(&sessions).await, begin(&sessions).await);
    let (a, b) = (first.id(false), second.id(false));
    assert_eq!(a.session, b.session);
    assert_eq!(a.session.len(), tsoracle_proto::SESSION_BYTES);
    assert_eq!((a.number, a.first_incomplete, a.retry, a.close), (1, 1, false, false));
    assert_eq!((b.number, b.first_incomplete), (2, 1));
    drop(first);
    assert_eq!(second.id(false).first_incomplete, 1, "a server may not know the session yet");
    second.confirm();
    assert_eq!(second.id(false).first_incomplete, 2, "a dropped request is not awaited");
}

#[tokio::test]
async fn retry_is_claimed_only_of_a_session_that_was_confirmed() {
    let (sessions, _clock) = sessions();
    let (first, second) = (begin(&sessions).await, begin(&sessions).await);
    assert!(!second.id(true).retry, "the server may not know the session");
    first.confirm();
    assert!(second.id(true).retry);
    assert!(!second.id(false).retry, "nothing was executed before");
}

#[tokio::test]
async fn an_unused_session_is_replaced_and_an_old_request_not_resent() {
    let (sessions, clock) = sessions();
    let first = begin(&sessions).await;
    clock.advance(RESEND_WITHIN - Duration::from_millis(1));
    assert!(first.may_resend());
    let second = begin(&sessions).await;
    assert_eq!(first.id(false).session, second.id(false).session);
    clock.advance(Duration::from_millis(1));
    assert!(!first.may_resend());
    assert!(second.may_resend());
    clock.advance(RESEND_WITHIN);
    assert_ne!(first.id(false).session, begin(&sessions).await.id(false).session);
}

#[tokio::test]
async fn a_stuck_request_does_not_hold_up_the_rest() {
    let (sessions, _clock) = sessions();
    let stuck = begin(&sessions).await.id(false);
    let stuck_request = begin(&sessions).await;
    stuck_request.confirm();
    let mut widest = 0;
    while begin(&sessions).await.id(false).session == stuck.session {
        widest += 1;
        assert!(widest < 2 * MAX_SPAN);
    }
    assert_eq!(widest, MAX_SPAN - 1);
    assert_eq!(stuck_request.id(false).session, stuck.session, "it keeps its own session");
}

#[tokio::test]
async fn a_session_that_no_server_has_answered_in_is_replaced_before_its_answers_are_too_many() {
    let (sessions, _clock) = sessions();
    let first = begin(&sessions).await.id(false);
    let mut last = first.clone();
    for _ in 0..2 * MAX_SPAN {
        let next = begin(&sessions).await.id(false);
        if next.session != first.session {
            assert_eq!((last.number, last.first_incomplete), (MAX_SPAN, 1));
            return;
        }
        last = next;
    }
    panic!("the server would refuse it: it takes up to 4,096 numbers above the first one");
}

#[tokio::test]
async fn a_session_the_server_does_not_know_is_given_up_once() {
    let (sessions, _clock) = sessions();
    let (first, second) = (begin(&sessions).await, begin(&sessions).await);
    first.session_is_unknown();
    let third = begin(&sessions).await;
    assert_ne!(first.id(false).session, third.id(false).session);
    second.session_is_unknown();
    assert_eq!(third.id(false).session, begin(&sessions).await.id(false).session);
}

#[tokio::test]
async fn only_a_known_and_finished_session_is_closed() {
    let (sessions, _clock) = sessions();
    assert_eq!(sessions.close(), None, "there is none");
    drop(begin(&sessions).await);
    assert_eq!(sessions.close(), None, "no server is known to know it");

    let confirmed = begin(&sessions).await;
    confirmed.confirm();
    assert_eq!(sessions.close(), None, "an answer is awaited");

    let confirmed = begin(&sessions).await;
    confirmed.confirm();
    let session = confirmed.id(false).session;
    drop(confirmed);
    let id = sessions.close().unwrap();
    assert_eq!((id.session, id.number, id.first_incomplete), (session, 2, 2));
    assert!(id.close && !id.retry);
    assert_eq!(sessions.close(), None, "it is closed");
}

#[tokio::test]
async fn a_session_is_left_to_run_out_where_an_attempt_may_still_be_on_its_way() {
    let (sessions, _clock) = sessions();
    let request = begin(&sessions).await;
    let (late, again) = (request.id(false), request.id(true));
    assert_eq!((late.number, late.retry), (again.number, false));
    request.confirm();
    drop(request);
    assert_eq!(sessions.close(), None, "a server that had closed it would carry out the late one");
}

#[tokio::test]
async fn a_name_is_sent_alone_and_whenever_it_is_asked_for() {
    let (sessions, _clock) = sessions();
    let (one, other) = (sessions.named("order 17"), sessions.named("order 18"));
    assert_eq!(one.id(false), sessions.named("order 17").id(true));
    let name = |name: &str| v1::RequestId { name: name.into(), ..v1::RequestId::default() };
    assert_eq!((one.id(false), other.id(false)), (name("order 17"), name("order 18")));
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded() {
    let (sessions, _clock) = sessions();
    let mut open = Vec::new();
    for _ in 0..MAX_IN_FLIGHT {
        open.push(begin(&sessions).await);
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    assert!(sessions.begin(deadline).await.is_none());
    open.pop();
    assert!(sessions.begin(deadline).await.is_some());
}

proptest! {
    #[test]
    fn first_incomplete_never_exceeds_an_awaited_number_and_never_falls(
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200),
    ) {
        let mut numbers = Numbers::default();
        let mut awaited: Vec<u64> = Vec::new();
        let (mut begun, mut highest) = (0, 0);
        for (begins, which) in steps {
            if begins || awaited.is_empty() {
                let number = numbers.begin(1);
                prop_assert_eq!(number, begun + 1, "numbers rise by one");
                begun = number;
                awaited.push(number);
            } else {
                numbers.end(awaited.swap_remove(which.index(awaited.len())));
            }
            let first = numbers.first_incomplete();
            prop_assert!(awaited.iter().all(|number| first <= *number));
            prop_assert!(first >= highest, "it never falls");
            prop_assert_eq!(numbers.span(), begun + 1 - first);
            highest = first;
        }
    }
}

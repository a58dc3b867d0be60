use std::collections::BTreeMap;

use tonic::Status;
use tsoracle_proto::v1::{
    EpochWire, GetSeqRequest, GetSeqResponse, SeqFailure, SeqOutcome, SeqRunFailure, SeqRunOutcome,
    seq_outcome,
};
use tsoracle_types::{ManualClock, SeqKey};

use super::super::batch::{Grant, MAX_REQUESTS, NotGranted};
use super::*;
use crate::stream::batches::CallError;

struct Fixture {
    queue: Queue,
    sessions: Arc<Sessions>,
}

impl Fixture {
    fn new(takes_runs: bool) -> Self {
        let clock = ManualClock::new(1_700_000_000_000);
        let sessions = Arc::new(Sessions::new(Arc::new(clock)));
        let mut queue = Queue::default();
        let run = queue.begin(&sessions);
        if takes_runs {
            queue.send_runs(run);
        }
        Self { queue, sessions }
    }

    fn join(&mut self, entry: Entry) -> Place {
        let until = Instant::now() + std::time::Duration::from_secs(60);
        self.queue.join(entry, until, Waker::noop()).unwrap().0
    }

    fn new_request(&mut self, key: &str) -> Place {
        self.join(Entry::New { key: SeqKey::new(key).unwrap(), count: 1 })
    }

    /// The request that the transport gets to send, after as many yields as it is asked for.
    fn seal(&mut self, run: u64) -> Option<Option<StreamSeqRequest>> {
        let mut context = Context::from_waker(Waker::noop());
        (0..=MAX_REQUESTS).find_map(|_| match self.queue.poll_seal(run, &mut context) {
            Poll::Ready(request) => Some(request),
            Poll::Pending => None,
        })
    }

    fn sealed(&mut self) -> StreamSeqRequest {
        self.seal(1).flatten().unwrap()
    }

    /// Answers with these starts, or failures.
    fn answer_run(&mut self, outcomes: &[Option<u64>]) -> Result<(), Arc<str>> {
        let failures = (0..).zip(outcomes).filter(|(_, outcome)| outcome.is_none());
        let failures = failures.map(|(index, _)| SeqRunFailure { index, failure: Some(failure()) });
        let run = SeqRunOutcome {
            starts: outcomes.iter().map(|outcome| outcome.unwrap_or_default()).collect(),
            epoch: Some(EpochWire { hi: 0, lo: 7 }),
            failures: failures.collect(),
        };
        let answered = self.queue.answer(StreamSeqResponse { outcomes: vec![], run: Some(run) });
        assert_eq!(answered.epoch.is_some(), answered.result.is_ok());
        answered.result
    }
}

fn failure() -> SeqFailure {
    SeqFailure { code: 14, uncommitted: true, ..SeqFailure::default() }
}

fn numbered(number: u64) -> Entry {
    let session = vec![9; 16].into();
    let request_id = Some(tsoracle_proto::v1::RequestId {
        session,
        number,
        first_incomplete: 1,
        retry: true,
        ..Default::default()
    });
    Entry::Numbered(GetSeqRequest { key: "numbered".into(), count: 1, request_id })
}

fn start(place: &Place) -> Option<u64> {
    match place.outcome.get()?.of(place.index) {
        Ok(Grant::Start(start)) => Some(start),
        Ok(Grant::Whole(granted)) => Some(granted.start),
        Err(_) => None,
    }
}

#[test]
fn a_batch_is_a_run_of_numbers_and_each_caller_gets_its_own_block() {
    let mut fixture = Fixture::new(true);
    let places = ["a", "bb", "a"].map(|key| fixture.new_request(key));
    let first = fixture.sealed();
    assert!(first.requests.is_empty());
    let run = first.run.unwrap();
    assert_eq!((run.first_number, run.first_incomplete), (1, 1));
    assert_eq!(
        (&run.keys[..], &run.key_bytes[..], &run.counts[..]),
        (&b"abba"[..], &[1, 2, 1][..], &[1][..])
    );
    fixture.answer_run(&[Some(5), Some(0), Some(6)]).unwrap();
    assert_eq!(places.each_ref().map(start), [Some(5), Some(0), Some(6)]);

    // Answered ones are awaited no more, whether or not their callers have looked.
    fixture.new_request("a");
    fixture.join(Entry::New { key: SeqKey::new("c").unwrap(), count: 3 });
    let run = fixture.sealed().run.unwrap();
    assert_eq!((run.first_number, run.first_incomplete, run.counts), (4, 4, vec![1, 3]));
}

#[test]
fn a_server_without_runs_is_sent_each_request_by_itself() {
    let mut fixture = Fixture::new(false);
    let places = ["a", "b"].map(|key| fixture.new_request(key));
    let again = fixture.join(numbered(4));
    let sent = fixture.sealed();
    assert!(sent.run.is_none());
    let ids: Vec<_> =
        sent.requests.iter().map(|request| request.request_id.clone().unwrap()).collect();
    let marks: Vec<_> = ids.iter().map(|id| (id.number, id.first_incomplete, id.retry)).collect();
    assert_eq!(marks, [(4, 1, true), (1, 1, false), (2, 1, false)]);
    let outcome = |request: &GetSeqRequest| {
        let start = request.request_id.as_ref().unwrap().number * 10;
        let granted = GetSeqResponse { key: request.key.clone(), start, count: 1, epoch: None };
        SeqOutcome { outcome: Some(seq_outcome::Outcome::Granted(granted)) }
    };
    let outcomes = sent.requests.iter().map(outcome).collect();
    fixture.queue.answer(StreamSeqResponse { outcomes, run: None }).result.unwrap();
    assert_eq!(places.each_ref().map(start), [Some(10), Some(20)]);
    assert_eq!(start(&again), Some(40));
}

#[test]
fn requests_that_have_numbers_go_beside_a_run() {
    let mut fixture = Fixture::new(true);
    let again = fixture.join(numbered(4));
    let new = fixture.new_request("a");
    let sent = fixture.sealed();
    assert_eq!((sent.requests.len(), sent.run.unwrap().key_bytes.len()), (1, 1));
    let failed = SeqOutcome { outcome: Some(seq_outcome::Outcome::Failed(failure())) };
    let run = SeqRunOutcome { starts: vec![3], ..SeqRunOutcome::default() };
    let answer = StreamSeqResponse { outcomes: vec![failed], run: Some(run) };
    fixture.queue.answer(answer).result.unwrap();
    assert_eq!((start(&again), start(&new)), (None, Some(3)));
}

#[test]
fn who_leaves_before_the_sending_spends_no_number() {
    let mut fixture = Fixture::new(true);
    let [gone, stays, also] = ["a", "b", "c"].map(|key| fixture.new_request(key));
    assert!(matches!(fixture.queue.leave(&gone), (false, None)));
    assert!(matches!(fixture.queue.leave(&also), (false, None)));
    let last = fixture.new_request("d");
    let run = fixture.sealed().run.unwrap();
    assert_eq!((&run.keys[..], run.key_bytes.len()), (&b"bd"[..], 2));
    fixture.answer_run(&[Some(1), Some(2)]).unwrap();
    assert_eq!((start(&stays), start(&last)), (Some(1), Some(2)));
}

#[test]
fn a_failed_request_keeps_its_number_until_it_has_ended() {
    let mut fixture = Fixture::new(true);
    let places = ["a", "b", "c"].map(|key| fixture.new_request(key));
    fixture.sealed();
    fixture.answer_run(&[Some(0), None, Some(0)]).unwrap();
    let NotGranted { error, request } =
        places[1].outcome.get().unwrap().of(places[1].index).unwrap_err();
    assert!(matches!(error, CallError::Failed(failure) if failure.code == 14));
    let request = request.unwrap();
    let id = request.id(true);
    assert_eq!((id.number, id.retry), (2, true), "the session is known: others were granted");
    drop(places);
    fixture.new_request("d");
    assert_eq!(fixture.sealed().run.unwrap().first_incomplete, 2);
    drop(request);
    fixture.answer_run(&[Some(0)]).unwrap();
    fixture.new_request("d");
    assert_eq!(fixture.sealed().run.unwrap().first_incomplete, 5);
}

#[test]
fn a_session_is_not_taken_for_known_while_nothing_was_granted_in_it() {
    let mut fixture = Fixture::new(true);
    let place = fixture.new_request("a");
    fixture.sealed();
    fixture.answer_run(&[None]).unwrap_or_default();
    let NotGranted { request, .. } = place.outcome.get().unwrap().of(place.index).unwrap_err();
    let request = request.unwrap();
    assert!(!request.id(true).retry, "the server would refuse it");
    drop((place, request));
    fixture.new_request("a");
    let run = fixture.sealed().run.unwrap();
    assert_eq!((run.first_number, run.first_incomplete), (2, 1), "it would refuse that as well");
}

#[test]
fn what_was_sent_on_a_stream_that_broke_is_sent_again_under_its_number() {
    let mut fixture = Fixture::new(true);
    let sent = ["a", "b"].map(|key| fixture.new_request(key));
    fixture.sealed();
    let waits = fixture.new_request("c");
    let (was_sent, request) = fixture.queue.leave(&sent[0]);
    assert!(was_sent);
    assert_eq!(request.unwrap().id(true).number, 1, "it gave up in time to be sent again");
    let status = Arc::new(Status::unavailable("broken"));
    fixture.queue.end(1, &Lost::Broken { status, is_certain: false });
    let NotGranted { error, request } =
        sent[1].outcome.get().unwrap().of(sent[1].index).unwrap_err();
    assert!(matches!(error, CallError::Lost(Lost::Broken { is_certain: false, .. })));
    assert_eq!(request.unwrap().id(true).number, 2);
    let NotGranted { error, request } = waits.outcome.get().unwrap().of(waits.index).unwrap_err();
    assert!(matches!(error, CallError::Lost(Lost::Broken { is_certain: true, .. })));
    assert!(request.is_none(), "it had none");
}

#[test]
fn an_earlier_stream_is_not_given_what_a_later_one_is_for() {
    let mut fixture = Fixture::new(true);
    let status = Arc::new(Status::unavailable("broken"));
    let lost = Lost::Broken { status, is_certain: false };
    fixture.queue.end(1, &lost);
    assert_eq!(fixture.queue.begin(&fixture.sessions), 2);
    let place = fixture.new_request("a");
    assert_eq!(fixture.seal(1), Some(None), "it ends");
    fixture.queue.end(1, &lost);
    assert!(place.outcome.get().is_none(), "its end is not theirs");
    fixture.queue.send_runs(1);
    let sent = fixture.seal(2).flatten().unwrap();
    assert!(sent.run.is_none(), "the server has not announced on this stream that it takes runs");
}

#[test]
fn a_stream_that_has_ended_sends_nothing() {
    let mut fixture = Fixture::new(true);
    fixture.queue.end(1, &Lost::Malformed("broken".into()));
    fixture.new_request("a");
    assert_eq!(fixture.seal(1), Some(None));
}

#[test]
fn nothing_is_sent_for_callers_that_have_all_left() {
    let mut fixture = Fixture::new(true);
    let gone = fixture.new_request("a");
    fixture.queue.leave(&gone);
    assert_eq!(fixture.seal(1), None, "it waits");
}

#[test]
fn so_many_callers_wait_and_no_more() {
    let mut fixture = Fixture::new(true);
    let until = Instant::now() + std::time::Duration::from_secs(60);
    let is_taken = |fixture: &mut Fixture| {
        let entry = Entry::New { key: SeqKey::new("a").unwrap(), count: 1 };
        fixture.queue.join(entry, until, Waker::noop()).is_some()
    };
    let first = fixture.new_request("a");
    (1..MAX_WAITING).for_each(|_| drop(fixture.new_request("a")));
    assert!(!is_taken(&mut fixture));
    // A caller that leaves makes room for one, and an answer for its batch.
    fixture.queue.leave(&first);
    assert!(is_taken(&mut fixture) && !is_taken(&mut fixture));
    let sent = fixture.sealed().run.unwrap().key_bytes.len();
    fixture.answer_run(&vec![Some(0); sent]).unwrap();
    assert!((0..sent).all(|_| is_taken(&mut fixture)) && !is_taken(&mut fixture));
}

#[test]
fn a_batch_is_bounded() {
    let mut fixture = Fixture::new(true);
    (0..MAX_REQUESTS + 1).for_each(|_| drop(fixture.new_request("a")));
    assert_eq!(fixture.sealed().run.unwrap().key_bytes.len(), MAX_REQUESTS);
    fixture.answer_run(&[Some(0); MAX_REQUESTS]).unwrap();
    assert_eq!(fixture.sealed().run.unwrap().key_bytes.len(), 1);
}

#[test]
fn behind_what_is_in_flight_a_batch_is_sent_once_it_is_larger_or_full() {
    let mut fixture = Fixture::new(true);
    let ask = |fixture: &mut Fixture, count| {
        (0..count).for_each(|_| drop(fixture.new_request("a")));
        fixture.seal(1).flatten().map(|sent| sent.run.unwrap().key_bytes.len())
    };
    assert_eq!(ask(&mut fixture, 2), Some(2));
    assert_eq!(ask(&mut fixture, 2), None, "as many as are in flight");
    assert_eq!(ask(&mut fixture, 1), Some(3));
    assert_eq!(ask(&mut fixture, 5), None, "as many as are in flight together");
    // The answer makes it larger than the rest.
    fixture.answer_run(&[Some(0); 2]).unwrap();
    assert_eq!(ask(&mut fixture, 0), Some(5));
    assert_eq!(ask(&mut fixture, MAX_REQUESTS - 1), Some(MAX_REQUESTS - 1));
    assert_eq!(ask(&mut fixture, MAX_REQUESTS), Some(MAX_REQUESTS), "it is full");
    assert_eq!(ask(&mut fixture, MAX_REQUESTS), None, "too many batches are in flight");
}

#[test]
fn halves_of_the_callers_become_one_batch() {
    let mut fixture = Fixture::new(true);
    let mut context = Context::from_waker(Waker::noop());
    (0..2).for_each(|_| drop(fixture.new_request("a")));
    fixture.sealed();
    (0..2).for_each(|_| drop(fixture.new_request("b")));
    fixture.answer_run(&[Some(0); 2]).unwrap();
    // Those who were woken are let ahead.
    assert!(fixture.queue.poll_seal(1, &mut context).is_pending());
    drop(fixture.new_request("a"));
    assert!(fixture.queue.poll_seal(1, &mut context).is_pending());
    drop(fixture.new_request("a"));
    let Poll::Ready(sent) = fixture.queue.poll_seal(1, &mut context) else { panic!("all came") };
    assert_eq!(sent.unwrap().run.unwrap().key_bytes.len(), 4);
    // The batch does not wait for callers that do not return.
    fixture.answer_run(&[Some(0); 4]).unwrap();
    drop(fixture.new_request("a"));
    let turns = (0..9).take_while(|_| fixture.queue.poll_seal(1, &mut context).is_pending());
    assert_eq!(turns.count(), 4, "one for each of them");
}

#[test]
fn an_answer_that_does_not_fit_breaks_the_stream() {
    let answers = BTreeMap::from([
        ("too few", (vec![1], vec![], 0)),
        ("too many", (vec![1, 2, 3], vec![], 0)),
        ("a failure beyond the run", (vec![1, 2], vec![2], 0)),
        ("outcomes that were not asked for", (vec![1, 2], vec![], 1)),
    ]);
    for (what, (starts, failures, singles)) in answers {
        let mut fixture = Fixture::new(true);
        let places = ["a", "b"].map(|key| fixture.new_request(key));
        fixture.sealed();
        let failure = |index| SeqRunFailure { index, failure: None };
        let failures = failures.into_iter().map(failure).collect();
        let run = Some(SeqRunOutcome { starts, epoch: None, failures });
        let outcomes = vec![SeqOutcome::default(); singles];
        let answered = fixture.queue.answer(StreamSeqResponse { outcomes, run });
        assert!(answered.result.is_err(), "{what}");
        let outcome = places[0].outcome.get().unwrap().of(places[0].index);
        let NotGranted { error, request } = outcome.unwrap_err();
        assert!(matches!(error, CallError::Lost(Lost::Malformed(_))), "{what}");
        assert_eq!(
            request.unwrap().id(true).number,
            1,
            "{what}: it is sent again under its number"
        );
    }
}

#[test]
fn an_answer_without_a_request_is_refused_and_takes_nothing() {
    let mut fixture = Fixture::new(true);
    let waits = fixture.new_request("a");
    fixture.answer_run(&[Some(1)]).unwrap_err();
    assert!(waits.outcome.get().is_none());
    fixture.sealed();
    fixture.answer_run(&[Some(1)]).unwrap();
    assert_eq!(start(&waits), Some(1));
}

#[test]
fn an_empty_outcome_is_no_answer() {
    let mut fixture = Fixture::new(false);
    let place = fixture.new_request("a");
    fixture.sealed();
    let outcomes = vec![SeqOutcome::default()];
    fixture.queue.answer(StreamSeqResponse { outcomes, run: None }).result.unwrap_err();
    let error = place.outcome.get().unwrap().of(place.index).unwrap_err().error;
    assert!(matches!(error, CallError::Lost(Lost::Malformed(_))));
}

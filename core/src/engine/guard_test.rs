use std::{collections::VecDeque, future::pending};

use async_trait::async_trait;

use super::*;
use crate::{BootTime, CommitLimits, KeyRange, Leadership, ManualClock, NodeId};

/// Answers what it is given, one after the other.
#[derive(Debug, Default)]
struct Scripted {
    reads: Mutex<VecDeque<Result<Snapshot>>>,
    commits: Mutex<VecDeque<Result<Outcome>>>,
}

#[async_trait]
impl ConsensusDriver for Scripted {
    fn node(&self) -> NodeId {
        NodeId(1)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::Sender::new(Leadership::Unknown).subscribe()
    }

    async fn read(&self, _: &Reads) -> Result<Snapshot> {
        let answer = self.reads.lock().unwrap().pop_front();
        match answer {
            Some(answer) => answer,
            None => pending().await,
        }
    }

    async fn commit(&self, _: Version, _: Effect) -> Result<Outcome> {
        let answer = self.commits.lock().unwrap().pop_front();
        answer.expect("no answer is left, so that this panics")
    }

    fn seen(&self, _: &Version) -> Option<BootTime> {
        None
    }

    async fn resign(&self, _: u64) {}

    fn limits(&self) -> CommitLimits {
        CommitLimits { writes: 9, bytes: 9 }
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

struct Fixture {
    driver: Arc<Scripted>,
    clock: ManualClock,
    guard: Arc<DriverGuard>,
}

const LIMIT: Duration = Duration::from_secs(1);

fn version(number: u64, name: u128) -> Version {
    Version { era: 1, number, name }
}

impl Fixture {
    fn new() -> Self {
        let (driver, clock) = (Arc::new(Scripted::default()), ManualClock::new(0));
        let guard = DriverGuard::new(driver.clone(), Arc::new(clock.clone()));
        Self { driver, clock, guard: Arc::new(guard) }
    }

    async fn read(&self, version: Version) -> Result<Version> {
        let snapshot = Snapshot { version, ..Snapshot::default() };
        self.driver.reads.lock().unwrap().push_back(Ok(snapshot));
        Ok(self.guard.read(&Reads::default(), LIMIT).await?.version)
    }

    async fn commit(
        &self,
        base: Version,
        next: Version,
        answer: Result<Outcome>,
    ) -> Result<Outcome> {
        self.driver.commits.lock().unwrap().push_back(answer);
        let mut effect = Effect::default();
        effect.set_version(next);
        self.guard.commit(base, effect).await
    }

    fn is_relied_on(&self) -> bool {
        self.guard.distrust.borrow().is_none()
    }

    async fn stops_with(&self, error: &Error) {
        let reason = self.guard.distrusted().await;
        assert_eq!(reason.to_string(), format!("{error:#}"));
    }
}

#[tokio::test]
async fn a_version_only_rises_or_stays_the_same() {
    let fixture = Fixture::new();
    for at in [version(5, 50), version(5, 50), version(9, 90), Version { era: 2, ..version(1, 10) }]
    {
        assert_eq!(fixture.read(at).await.unwrap(), at);
    }
    assert!(fixture.is_relied_on());
    let error = fixture.read(version(9, 90)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("went back"), "{error}");
    fixture.stops_with(&error).await;
}

#[tokio::test]
async fn another_name_at_the_same_place_is_another_history() {
    for found in [version(5, 51), Version::EMPTY] {
        let fixture = Fixture::new();
        fixture.read(version(5, 50)).await.unwrap();
        assert_eq!(*fixture.read(found).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!fixture.is_relied_on());
    }
}

#[tokio::test]
async fn what_was_stored_is_read_from_then_on() {
    let fixture = Fixture::new();
    let (base, next) = (version(5, 50), version(6, 60));
    fixture.read(base).await.unwrap();
    let stored = fixture.commit(base, next, Ok(Outcome::Stored)).await.unwrap();
    assert_eq!(stored, Outcome::Stored);
    let error = fixture.read(base).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_read_that_began_before_a_commit_may_be_older_than_it() {
    let fixture = Fixture::new();
    let (base, next) = (version(5, 50), version(6, 60));
    fixture.read(base).await.unwrap();
    let floor = fixture.guard.newest();
    fixture.commit(base, next, Ok(Outcome::Stored)).await.unwrap();
    // As the read does at its end.
    fixture.guard.advance(floor, base).unwrap();
    assert_eq!(fixture.guard.newest(), next);
    fixture.guard.advance(floor, version(6, 61)).unwrap_err();
}

#[tokio::test]
async fn a_conflict_names_a_state_that_has_moved_on() {
    let (base, next) = (version(5, 50), version(6, 60));
    for found in [version(5, 51), version(6, 61), version(7, 60), Version { era: 2, ..base }] {
        let fixture = Fixture::new();
        let conflict = Outcome::Conflict { found };
        assert_eq!(fixture.commit(base, next, Ok(conflict)).await.unwrap(), conflict);
        assert!(fixture.is_relied_on());
    }
    for found in [base, next, version(4, 40), Version { era: 0, ..version(9, 9) }, Version::EMPTY] {
        let fixture = Fixture::new();
        let answer = Ok(Outcome::Conflict { found });
        let error = fixture.commit(base, next, answer).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal);
        fixture.stops_with(&error).await;
    }
}

#[tokio::test]
async fn only_errors_that_are_final_end_the_reliance() {
    let error = |kind: &ErrorKind| Error::new(kind.clone(), "injected");
    for kind in [ErrorKind::Unavailable, ErrorKind::NotLeader(None), ErrorKind::Uncertain] {
        let fixture = Fixture::new();
        let failed = fixture.commit(version(5, 50), version(6, 60), Err(error(&kind))).await;
        assert_eq!(*failed.unwrap_err().kind(), kind);
        fixture.driver.reads.lock().unwrap().push_back(Err(error(&kind)));
        let failed = fixture.guard.read(&Reads::default(), LIMIT).await;
        assert_eq!(*failed.unwrap_err().kind(), kind);
        assert!(fixture.is_relied_on());
    }
    for kind in [ErrorKind::Fatal, ErrorKind::Corrupt] {
        for reads in [false, true] {
            let fixture = Fixture::new();
            let failed = if reads {
                fixture.driver.reads.lock().unwrap().push_back(Err(error(&kind)));
                fixture.guard.read(&Reads::default(), LIMIT).await.unwrap_err()
            } else {
                let failed = Err(error(&kind));
                fixture.commit(version(5, 50), version(6, 60), failed).await.unwrap_err()
            };
            assert_eq!(*failed.kind(), kind);
            fixture.stops_with(&failed).await;
        }
    }
}

#[tokio::test]
async fn a_panic_is_an_error_that_is_final() {
    let fixture = Fixture::new();
    let mut effect = Effect::default();
    effect.set_version(version(6, 60));
    let error = fixture.guard.commit(version(5, 50), effect).await.unwrap_err();
    assert!(error.to_string().contains("the driver panicked in a commit"), "{error}");
    fixture.stops_with(&error).await;
}

#[tokio::test]
async fn a_read_is_given_up_in_time_and_the_driver_still_relied_on() {
    let fixture = Fixture::new();
    let reading = tokio::spawn({
        let guard = fixture.guard.clone();
        async move { guard.read(&Reads::default(), LIMIT).await }
    });
    tokio::task::yield_now().await;
    fixture.clock.advance(LIMIT);
    assert_eq!(*reading.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(fixture.is_relied_on());
}

#[test]
fn a_snapshot_has_the_shape_of_what_was_asked() {
    let range = KeyRange { from: b"b".into(), to: b"d".into(), limit: 2 };
    let wanted = Reads { keys: vec![b"k".into()], ranges: vec![range] };
    let entry = |key: &str| (key.as_bytes().to_vec(), vec![]);
    let answer = |values: usize, entries: &[&str]| Snapshot {
        values: vec![None; values],
        ranges: vec![entries.iter().copied().map(entry).collect()],
        ..Snapshot::default()
    };
    for fits in [&[][..], &["b"], &["b", "c"], &["bb", "bc"]] {
        check_shape(&wanted, answer(1, fits)).unwrap();
    }
    let no_range = Snapshot { values: vec![None], ..Snapshot::default() };
    let others = [
        answer(0, &[]),
        answer(2, &[]),
        no_range,
        answer(1, &["a"]),
        answer(1, &["d"]),
        answer(1, &["c", "b"]),
        answer(1, &["b", "b"]),
        answer(1, &["b", "ba", "c"]),
    ];
    for other in others {
        let error = check_shape(&wanted, other).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal);
        assert!(error.to_string().len() < 600, "{error}");
    }
}

//! That a copy is the same to the byte, and that nothing but a whole one is ever reigned over.

use proptest::prelude::*;

use super::{
    Command, Import, LeaseAsk, Limits, Moment, Reject, Reply, Requester, Seed, Stage, copied,
    testing::{LEASE_MS, NODE, State, content, id, key, version},
};
use crate::{Entry, Epoch, LeaseHolder, LeaseId, MemoryStore, Reads, RequestId, Result, VERSION};

const KEYS: [&str; 4] = ["a", "a b", "ab", "ü"];

/// What makes a state what it is.
#[derive(Clone, Debug)]
enum Step {
    Advance { keys: Vec<usize>, count: u32, id: Option<(u8, u64, bool)> },
    Named { keys: Vec<usize>, name: u8, retention_ms: u64 },
    Delete { key: usize },
    Seed { key: usize, start: u64 },
    Acquire { holder: u8, holder_epoch: u64, ttl_ms: u64 },
    Release { lease: u64 },
    TakeOver { now_ms: u64 },
    Pass { millis: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = prop::option::weighted(0.8, (0..4u8, 1..60u64, prop::bool::weighted(0.05)));
    let step = prop_oneof![
        8 => (prop::sample::subsequence(vec![0, 1, 2, 3], 1..4), 1..9u32, id)
            .prop_map(|(keys, count, id)| Step::Advance { keys, count, id }),
        2 => (prop::sample::subsequence(vec![0, 1, 2, 3], 1..4), 0..9u8, 0..900_000u64)
            .prop_map(|(keys, name, retention_ms)| Step::Named { keys, name, retention_ms }),
        1 => (0..4usize).prop_map(|key| Step::Delete { key }),
        1 => (0..4usize, any::<u64>()).prop_map(|(key, start)| Step::Seed { key, start }),
        3 => (any::<u8>(), 0..3u64, 1..600_000u64).prop_map(|(holder, holder_epoch, ttl_ms)| {
            Step::Acquire { holder, holder_epoch, ttl_ms }
        }),
        1 => (0..9u64).prop_map(|lease| Step::Release { lease }),
        1 => (0..1_000_000u64).prop_map(|now_ms| Step::TakeOver { now_ms }),
        1 => (0..900_000u64).prop_map(|millis| Step::Pass { millis }),
    ];
    prop::collection::vec(step, 0..80)
}

fn build(steps: Vec<Step>) -> State {
    let mut state = State::open();
    for step in steps {
        let limits = Limits::default();
        let at = Moment { now_ms: 5_000, elapsed_ms: state.elapsed_ms };
        let command = match step {
            Step::Advance { keys, count, id: with } => {
                let entries: Vec<_> = keys.into_iter().map(|index| (KEYS[index], count)).collect();
                let with = with.map(|(session, number, close)| RequestId {
                    close,
                    ..id(session, number, number.saturating_sub(20).max(1))
                });
                state.advance_command(&entries, with, limits)
            }
            Step::Named { keys, name, retention_ms } => {
                let entries: Vec<_> = keys.into_iter().map(|index| (KEYS[index], 1)).collect();
                state.named_command(&entries, &name.to_string(), retention_ms, limits)
            }
            Step::Delete { key: index } => Command::Delete { key: key(KEYS[index]) },
            Step::Seed { key: index, start } => {
                Command::Seed(Seed { key: key(KEYS[index]), start, limits })
            }
            Step::Acquire { holder, holder_epoch, ttl_ms } => {
                let holder = LeaseHolder::new([holder]).unwrap();
                Command::Lease {
                    ask: LeaseAsk::Acquire {
                        by: Requester::Process,
                        holder,
                        holder_epoch,
                        ttl_ms,
                        limits,
                    },
                    at,
                }
            }
            Step::Release { lease } => Command::Lease {
                ask: LeaseAsk::Release { by: Requester::Process, id: LeaseId(lease) },
                at,
            },
            Step::TakeOver { now_ms } => {
                state.take_over(now_ms);
                continue;
            }
            Step::Pass { millis } => {
                state.pass(millis);
                state.expire();
                continue;
            }
        };
        // Some are refused, which is as good.
        state.apply(&[command]);
    }
    state
}

fn export(store: &MemoryStore, limit: usize) -> Vec<Vec<Entry>> {
    let (mut after, mut pages) = (vec![], vec![]);
    loop {
        let reads = Reads { keys: vec![], ranges: copied(&after, limit) };
        let ranges = reads.read_from(store).unwrap().ranges;
        let page: Vec<_> = ranges.into_iter().flatten().take(limit).collect();
        let Some((last, _)) = page.last() else { return pages };
        after = last.clone();
        pages.push(page);
    }
}

fn apply(state: &mut State, step: Import) -> Result<u64, Reject> {
    match state.apply(&[Command::Import(step)]).remove(0)? {
        Reply::Imported { entries } => Ok(entries),
        other => panic!("an import was answered with {other:?}"),
    }
}

/// Everything but the reign record.
fn all_but_reign(store: &MemoryStore) -> Vec<Entry> {
    let mut all = content(store);
    all.retain(|(key, _)| key != super::keys::REIGN);
    all
}

fn imported(source: &State, limit: usize) -> State {
    let mut target = State::default();
    apply(&mut target, Import::Begin).unwrap();
    let mut entries = 0;
    for page in export(&source.store, limit) {
        let step = Import::Page { before: entries, entries: page.clone() };
        entries += page.len() as u64;
        assert_eq!(apply(&mut target, step.clone()), Ok(entries));
        assert_eq!(apply(&mut target, step), Ok(entries), "again, its answer being lost");
    }
    let finish = Import::Finish { entries, record: Box::new(source.record()) };
    assert_eq!(apply(&mut target, finish.clone()), Ok(entries));
    assert_eq!(apply(&mut target, finish), Ok(entries), "again, its answer being lost");
    target
}

proptest! {
    #[test]
    fn a_copy_is_the_same_to_the_byte(steps in steps(), limit in 1..40usize) {
        let mut source = build(steps);
        let mut copy = imported(&source, limit);
        prop_assert_eq!(all_but_reign(&copy.store), all_but_reign(&source.store));
        let (record, old) = (copy.record(), source.record());
        prop_assert_eq!(record.epoch, old.epoch);
        prop_assert_eq!(record.version, version(&copy.store), "it notes its own version");
        prop_assert_eq!(record.stage, Stage::Released);
        prop_assert_eq!(
            (record.high_water_ms, record.lease_ms, record.released, record.session_ms),
            (old.high_water_ms, old.lease_ms, old.released, old.session_ms)
        );
        // Both go on in the same way.
        for state in [&mut source, &mut copy] {
            state.take_over(0);
            prop_assert!(state.record().high_water_ms > old.high_water_ms);
        }
        let again = |state: &mut State| state.advance(&[("a", 3), ("new", 1)], Some(id(0, 70, 50)));
        prop_assert_eq!(again(&mut source), again(&mut copy));
        prop_assert_eq!(all_but_reign(&copy.store), all_but_reign(&source.store));
    }
}

fn some() -> State {
    let mut state = State::open();
    state.advance(&[("a", 3), ("b", 4)], Some(id(1, 1, 1))).unwrap();
    state
}

#[test]
fn the_lease_of_before_is_waited_out_by_whoever_comes() {
    let mut copy = imported(&some(), 9);
    let fence = copy.fence_command(0, 1, 1);
    let fenced = copy.apply(&[fence]).remove(0).unwrap();
    let Reply::Fenced { replaced: Some(replaced), .. } = fenced else { panic!("{fenced:?}") };
    assert_eq!((replaced.lease_ms, replaced.released), (LEASE_MS, false));
    assert!(replaced.opened_by.is_some_and(|node| node != NODE), "no node finds its own id there");
}

#[test]
fn a_state_in_use_is_not_imported_into() {
    let mut state = some();
    let before = state.store.clone();
    let begin = Import::Begin;
    let page = Import::Page { before: 0, entries: vec![(b"sx".to_vec(), vec![1, 0])] };
    let finish = Import::Finish { entries: 0, record: Box::new(state.record()) };
    for step in [begin, page, finish] {
        assert_eq!(apply(&mut state, step), Err(Reject::NotEmpty));
    }
    assert!(state.store == before);
}

#[test]
fn a_copy_that_is_not_whole_accepts_nothing_else() {
    let source = some();
    let mut target = State::default();
    apply(&mut target, Import::Begin).unwrap();
    let page = export(&source.store, 2).remove(0);
    apply(&mut target, Import::Page { before: 0, entries: page }).unwrap();
    let fence = target.fence_command(0, 1, 1);
    let adopt = Command::Adopt { high_water_ms: 1, lease_ms: 1, now_ms: None };
    for refused in [fence, adopt] {
        assert_eq!(target.apply(&[refused]), [Err(Reject::Importing)]);
    }
    let fenced = Err(Reject::Fenced { current: Epoch(0) });
    let open = Command::Open { node: NODE, lease_ms: 1 };
    let extend = Command::Extend { high_water_ms: 1, elapsed_ms: 1 };
    for refused in [open, extend, Command::Release] {
        assert_eq!(target.apply(&[refused]).remove(0), fenced);
    }
    let init = Command::Init { high_water_ms: 1, now_ms: None };
    assert_eq!(target.apply(&[init]), [Err(Reject::NotEmpty)]);
    let begin = Import::Begin;
    assert_eq!(apply(&mut target, begin), Err(Reject::Importing));
    let finish = Import::Finish { entries: 9, record: Box::new(source.record()) };
    assert_eq!(apply(&mut target, finish), Err(Reject::ImportBroken { entries: 2 }));
}

#[test]
fn pages_are_taken_in_their_order_and_once() {
    let pages = export(&some().store, 1);
    let mut target = State::default();
    apply(&mut target, Import::Begin).unwrap();
    let page = |before: u64, index: usize| Import::Page { before, entries: pages[index].clone() };
    assert_eq!(apply(&mut target, page(1, 1)), Err(Reject::ImportBroken { entries: 0 }));
    assert_eq!(apply(&mut target, page(0, 1)), Ok(1));
    assert_eq!(apply(&mut target, page(1, 0)), Err(Reject::ImportBroken { entries: 1 }));
    assert_eq!(apply(&mut target, page(1, 2)), Ok(2));
    assert_eq!(apply(&mut target, page(0, 1)), Err(Reject::ImportBroken { entries: 2 }));
    for foreign in
        [super::keys::REIGN, super::CLAIM, super::NODE, VERSION, super::keys::IMPORT, b"z"]
    {
        let entries = vec![([b"zz", foreign].concat(), vec![]), (foreign.to_vec(), vec![])];
        let step = Import::Page { before: 2, entries };
        assert_eq!(apply(&mut target, step), Err(Reject::ImportBroken { entries: 2 }));
    }
}

#[test]
fn an_import_that_has_brought_nothing_may_begin_again() {
    let mut target = State::default();
    for _ in 0..2 {
        apply(&mut target, Import::Begin).unwrap();
    }
    let page = Import::Page { before: 0, entries: export(&some().store, 9).remove(0) };
    assert!(apply(&mut target, page).is_ok());
    assert_eq!(apply(&mut target, Import::Begin), Err(Reject::Importing));
}

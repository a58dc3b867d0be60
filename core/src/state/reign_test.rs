use super::{
    Command, Reject, Reply, Stage,
    record::{Meta, RULES, encode},
    testing::{LEASE_MS, NODE, State, with},
    *,
};
use crate::{Epoch, MAX_HIGH_WATER_MS, NodeId};

const NOW_MS: u64 = 1_000_000;

fn fence(now_ms: u64) -> Command {
    Command::Fence { now_ms, headroom_ms: 10, lease_ms: LEASE_MS }
}

fn open() -> Command {
    Command::Open { node: NODE, lease_ms: LEASE_MS }
}

fn extend(high_water_ms: u64) -> Command {
    Command::Extend { high_water_ms, elapsed_ms: 0 }
}

fn commit(state: &mut State, epoch: u128, command: Command) -> Result<Reply, Reject> {
    state.apply_as(Epoch(epoch), &[command]).remove(0)
}

fn fenced_by(current: u128) -> Result<Reply, Reject> {
    Err(Reject::Fenced { current: Epoch(current) })
}

#[test]
fn a_fence_starts_above_everything_promised_before() {
    let mut state = State::default();
    for (epoch, now_ms, floor_ms) in [
        (1, NOW_MS, NOW_MS),
        (2, NOW_MS - 500, NOW_MS + 11),
        (3, 0, NOW_MS + 22),
        (4, NOW_MS + 900, NOW_MS + 900),
    ] {
        let Ok(Reply::Fenced { floor_ms: got, high_water_ms, .. }) =
            commit(&mut state, epoch, fence(now_ms))
        else {
            panic!("a new epoch may fence");
        };
        assert_eq!((got, high_water_ms), (floor_ms, floor_ms + 10));
    }
}

#[test]
fn a_fence_is_computed_from_what_it_replaces() {
    let mut state = State::default();
    state.take_over(NOW_MS);
    let batch = [extend(NOW_MS + 5_000)];
    state.apply(&batch);
    let results = commit(&mut state, 9, fence(NOW_MS));
    let Ok(Reply::Fenced { floor_ms, replaced: Some(replaced), .. }) = results else {
        panic!("a new epoch may fence");
    };
    assert_eq!(floor_ms, NOW_MS + 5_001);
    assert_eq!((replaced.epoch, replaced.high_water_ms), (Epoch(1), NOW_MS + 5_000));
}

#[test]
fn older_epochs_are_rejected_from_the_fence_on() {
    let mut state = State::open();
    commit(&mut state, 5, fence(NOW_MS)).unwrap();
    let before = state.store.clone();
    for command in [fence(NOW_MS), open(), extend(NOW_MS * 2), Command::Release] {
        assert_eq!(commit(&mut state, 1, command), fenced_by(5));
    }
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    assert_eq!(commit(&mut state, 1, advance), fenced_by(5));
    assert_eq!(state.store, before);
}

#[test]
fn nothing_is_served_between_fence_and_open() {
    let mut state = State::open();
    commit(&mut state, 5, fence(NOW_MS)).unwrap();
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    for command in [extend(NOW_MS * 2), Command::Release, advance] {
        assert_eq!(commit(&mut state, 5, command), fenced_by(5));
    }
}

#[test]
fn a_fence_that_never_opens_leaves_what_a_successor_must_reckon_with() {
    let mut state = State::open();
    let short = Command::Fence { now_ms: NOW_MS, headroom_ms: 10, lease_ms: 1 };
    commit(&mut state, 5, short).unwrap();
    let record = state.record();
    assert_eq!((record.lease_ms, record.opened_by, record.released), (LEASE_MS, Some(NODE), false));
    let long = Command::Fence { now_ms: NOW_MS, headroom_ms: 10, lease_ms: LEASE_MS * 7 };
    commit(&mut state, 6, long).unwrap();
    assert_eq!(state.record().lease_ms, LEASE_MS * 7);
}

#[test]
fn a_fence_after_a_release_stays_released_until_opened() {
    let mut state = State::open();
    state.apply(&[Command::Release]);
    commit(&mut state, 5, fence(NOW_MS)).unwrap();
    assert!(state.record().released);
    let other = Command::Open { node: NodeId(2), lease_ms: 7 };
    commit(&mut state, 5, other).unwrap();
    let record = state.record();
    assert_eq!((record.stage, record.released), (Stage::Open, false));
    assert_eq!((record.lease_ms, record.opened_by), (7, Some(NodeId(2))));
}

#[test]
fn the_same_epoch_may_repeat_a_fence_and_an_open_but_not_fence_once_open() {
    let mut state = State::default();
    commit(&mut state, 1, fence(NOW_MS)).unwrap();
    commit(&mut state, 1, fence(NOW_MS)).unwrap();
    commit(&mut state, 1, open()).unwrap();
    commit(&mut state, 1, open()).unwrap();
    assert_eq!(commit(&mut state, 1, fence(NOW_MS)), fenced_by(1));
}

#[test]
fn after_a_release_everything_of_that_epoch_is_rejected() {
    let mut state = State::open();
    assert_eq!(commit(&mut state, 1, Command::Release), Ok(Reply::Released));
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    for command in [fence(NOW_MS), open(), extend(NOW_MS), Command::Release, advance] {
        assert_eq!(commit(&mut state, 1, command), fenced_by(1));
    }
}

#[test]
fn an_extension_never_lowers_the_high_water() {
    let mut state = State::open();
    let high = commit(&mut state, 1, extend(NOW_MS));
    assert_eq!(high, Ok(Reply::Extended { high_water_ms: NOW_MS }));
    let late = commit(&mut state, 1, extend(NOW_MS - 1));
    assert_eq!(late, Ok(Reply::Extended { high_water_ms: NOW_MS }));
}

#[test]
fn opening_and_renewing_write_even_if_nothing_changes() {
    let state = State::open();
    for command in [open(), extend(0)] {
        let (_, effect) = apply(&state.store, Epoch(1), &[command]).unwrap();
        let written: Vec<_> = effect.iter().map(|(key, _)| key).collect();
        assert_eq!(written, [keys::REIGN]);
    }
}

#[test]
fn what_lies_beyond_the_timestamp_space_is_refused_before_it_is_stored() {
    let mut state = State::open();
    let before = state.store.clone();
    let beyond = Err(Reject::OutOfRange { high_water_ms: MAX_HIGH_WATER_MS + 1 });
    assert_eq!(commit(&mut state, 1, extend(MAX_HIGH_WATER_MS + 1)), beyond);
    assert_eq!(commit(&mut state, 2, fence(MAX_HIGH_WATER_MS - 9)), beyond);
    assert!(matches!(commit(&mut state, 2, fence(u64::MAX)), Err(Reject::OutOfRange { .. })));
    assert_eq!(state.store, before);
    commit(&mut state, 1, extend(MAX_HIGH_WATER_MS)).unwrap();
    assert!(matches!(commit(&mut state, 2, fence(0)), Err(Reject::OutOfRange { .. })));
}

#[test]
fn an_unused_state_can_be_initialized_once() {
    let mut state = State::default();
    let init = Command::Init { high_water_ms: NOW_MS };
    assert_eq!(commit(&mut state, 1, init.clone()), Ok(Reply::Initialized));
    assert_eq!(commit(&mut state, 1, init.clone()), Err(Reject::NotEmpty));
    let Ok(Reply::Fenced { floor_ms, .. }) = commit(&mut state, 2, fence(5)) else {
        panic!("a new epoch may fence");
    };
    assert_eq!(floor_ms, NOW_MS + 1);
    assert_eq!(commit(&mut State::open(), 2, init), Err(Reject::NotEmpty));
}

#[test]
fn session_time_adds_up_what_leaders_served() {
    let mut state = State::open();
    state.pass(500);
    state.pass(500);
    assert_eq!(state.record().session_ms, 1_000);
    let late = Command::Extend { high_water_ms: 0, elapsed_ms: 600 };
    state.apply(&[late]);
    assert_eq!(state.record().session_ms, 1_000, "a late extension does not turn it back");
    state.take_over(NOW_MS * 1_000);
    assert_eq!(state.record().session_ms, 1_000, "the gap between reigns counts as nothing");
    state.pass(10);
    assert_eq!(state.record().session_ms, 1_010);
}

#[test]
fn newer_rules_and_damage_are_told_from_an_empty_state() {
    let rules = RULES + 1;
    let meta = Meta { rules, keys: 0, sessions: 0 };
    let newer = with(Default::default(), keys::META.into(), encode(&meta));
    let (results, _) = apply(&newer, Epoch(1), &[fence(NOW_MS)]).unwrap();
    assert_eq!(results, [Err(Reject::NewerRules { rules })]);
    for damage in [vec![], vec![1], vec![9, 9, 9]] {
        let damaged = with(State::open().store, keys::REIGN.into(), damage);
        let error = apply(&damaged, Epoch(2), &[fence(NOW_MS)]).unwrap_err();
        assert_eq!(*error.kind(), crate::ErrorKind::Corrupt);
    }
}

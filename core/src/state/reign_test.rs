use super::{
    Command, Reject, Reply, Stage,
    record::{Meta, RULES},
    reign::{ELSEWHERE, MAX_FLOOR_MS},
    testing::{LEASE_MS, NODE, State, plan_all, read, version, with},
    *,
};
use crate::{Epoch, MAX_HIGH_WATER_MS, NodeId, Reads, VERSION, Version};

const NOW_MS: u64 = 1_000_000;

fn open() -> Command {
    Command::Open { node: NODE, lease_ms: LEASE_MS }
}

fn extend(high_water_ms: u64) -> Command {
    Command::Extend { high_water_ms, elapsed_ms: 0 }
}

fn adopt(high_water_ms: u64, lease_ms: u64) -> Command {
    Command::Adopt { high_water_ms, lease_ms, now_ms: None }
}

fn commit(state: &mut State, epoch: u128, command: Command) -> Result<Reply, Reject> {
    state.apply_as(Epoch(epoch), &[command]).remove(0)
}

/// Fences, without opening: the epoch, the floor and the high-water, and what was replaced.
fn fence_with(
    state: &mut State,
    now_ms: u64,
    lease_ms: u64,
) -> Result<(Epoch, u64, u64, Option<ReignRecord>), Reject> {
    let fence = state.fence_command(now_ms, 10, lease_ms);
    // No epoch has to be given: a fence makes its own.
    match state.apply_as(Epoch(0), &[fence]).remove(0)? {
        Reply::Fenced { epoch, floor_ms, high_water_ms, replaced } => {
            Ok((epoch, floor_ms, high_water_ms, replaced.map(|record| *record)))
        }
        other => panic!("a fence was answered with {other:?}"),
    }
}

fn fence(state: &mut State, now_ms: u64) -> Result<Epoch, Reject> {
    Ok(fence_with(state, now_ms, LEASE_MS)?.0)
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
        let (fenced, got, high_water_ms, _) = fence_with(&mut state, now_ms, LEASE_MS).unwrap();
        assert_eq!((fenced, got, high_water_ms), (Epoch(epoch), floor_ms, floor_ms + 10));
    }
}

#[test]
fn a_fence_is_computed_from_what_it_replaces() {
    let mut state = State::default();
    state.take_over(NOW_MS);
    state.apply(&[extend(NOW_MS + 5_000)]);
    let (_, floor_ms, _, replaced) = fence_with(&mut state, NOW_MS, LEASE_MS).unwrap();
    let replaced = replaced.unwrap();
    assert_eq!(floor_ms, NOW_MS + 5_001);
    assert_eq!((replaced.epoch, replaced.high_water_ms), (Epoch(1), NOW_MS + 5_000));
}

#[test]
fn every_write_of_the_record_notes_its_version_and_a_fence_its_base_too() {
    let mut state = State::default();
    let init = Command::Init { high_water_ms: 5, now_ms: None };
    commit(&mut state, 0, init).unwrap();
    assert_eq!(state.record().version, version(&state.store));
    let base = version(&state.store);
    fence(&mut state, NOW_MS).unwrap();
    assert_eq!(state.record().version, version(&state.store));
    for command in [open(), extend(NOW_MS * 2), Command::Release] {
        commit(&mut state, 1, command).unwrap();
        let record = state.record();
        assert_eq!((record.version, record.fenced_on), (version(&state.store), base));
    }
}

#[test]
fn what_does_not_write_the_record_leaves_the_version_it_notes() {
    let mut state = State::open();
    let noted = state.record().version;
    state.advance(&[("a", 1)], None).unwrap();
    assert_eq!(state.record().version, noted);
    assert_ne!(version(&state.store), noted);
}

#[test]
fn older_epochs_are_rejected_from_the_fence_on() {
    let mut state = State::open();
    fence(&mut state, NOW_MS).unwrap();
    let before = state.store.clone();
    for command in [open(), extend(NOW_MS * 2), Command::Release] {
        assert_eq!(commit(&mut state, 1, command), fenced_by(2));
    }
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    assert_eq!(commit(&mut state, 1, advance), fenced_by(2));
    assert_eq!(state.store, before);
}

#[test]
fn nothing_is_served_between_fence_and_open() {
    let mut state = State::open();
    fence(&mut state, NOW_MS).unwrap();
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    for command in [extend(NOW_MS * 2), Command::Release, advance] {
        assert_eq!(commit(&mut state, 2, command), fenced_by(2));
    }
}

#[test]
fn nothing_is_served_under_an_epoch_that_no_fence_has_made() {
    let mut state = State::default();
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    for command in [open(), extend(NOW_MS), Command::Release, advance.clone()] {
        assert_eq!(commit(&mut state, 1, command), fenced_by(0));
    }
    state.take_over(NOW_MS);
    let before = state.store.clone();
    for command in [open(), extend(NOW_MS), Command::Release, advance] {
        assert_eq!(commit(&mut state, 2, command), fenced_by(1));
    }
    assert_eq!(state.store, before);
}

#[test]
fn a_fence_that_never_opens_leaves_what_a_successor_must_reckon_with() {
    let mut state = State::open();
    fence_with(&mut state, NOW_MS, 1).unwrap();
    let record = state.record();
    assert_eq!((record.lease_ms, record.opened_by, record.released), (LEASE_MS, Some(NODE), false));
    fence_with(&mut state, NOW_MS, LEASE_MS * 7).unwrap();
    assert_eq!(state.record().lease_ms, LEASE_MS * 7);
}

#[test]
fn a_fence_after_a_release_stays_released_until_opened() {
    let mut state = State::open();
    state.apply(&[Command::Release]);
    fence(&mut state, NOW_MS).unwrap();
    assert!(state.record().released);
    let other = Command::Open { node: NodeId(2), lease_ms: 7 };
    commit(&mut state, 2, other).unwrap();
    let record = state.record();
    assert_eq!((record.stage, record.released), (Stage::Open, false));
    assert_eq!((record.lease_ms, record.opened_by), (7, Some(NodeId(2))));
}

#[test]
fn each_fence_begins_an_epoch_of_its_own_whose_open_may_be_repeated() {
    let mut state = State::default();
    assert_eq!(fence(&mut state, NOW_MS), Ok(Epoch(1)));
    assert_eq!(fence(&mut state, NOW_MS), Ok(Epoch(2)));
    assert_eq!(commit(&mut state, 1, open()), fenced_by(2));
    commit(&mut state, 2, open()).unwrap();
    commit(&mut state, 2, open()).unwrap();
    assert_eq!(fence(&mut state, NOW_MS), Ok(Epoch(3)), "an open reign is no protection");
}

#[test]
fn an_epoch_is_the_era_and_a_counter_that_never_falls() {
    let mut state = State::open();
    state.era = 3;
    adopt_as(&mut state, adopt(0, 0));
    assert_eq!(fence(&mut state, NOW_MS), Ok(Epoch::from_parts(3, 2)));
    // What was copied from elsewhere may have an epoch of a later era.
    let mut record = state.record();
    record.epoch = Epoch::from_parts(9, 7);
    state.store = with(state.store, keys::REIGN.into(), Record::from(record).encode());
    assert_eq!(fence(&mut state, NOW_MS), Ok(Epoch::from_parts(9, 8)));
}

#[test]
fn after_a_release_everything_of_that_epoch_is_rejected() {
    let mut state = State::open();
    assert_eq!(commit(&mut state, 1, Command::Release), Ok(Reply::Released));
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    for command in [open(), extend(NOW_MS), Command::Release, advance] {
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
        let (_, plan) = plan_all(&state.store, Epoch(1), &[command]);
        let effect = testing::commit(&mut state.store.clone(), plan, 0);
        let written: Vec<_> = effect.iter().map(|(key, _)| key).collect();
        assert_eq!(written, [keys::REIGN, VERSION]);
    }
}

#[test]
fn what_lies_beyond_the_timestamp_space_is_refused_before_it_is_stored() {
    let mut state = State::open();
    let before = state.store.clone();
    let beyond = Reject::OutOfRange { high_water_ms: MAX_HIGH_WATER_MS + 1 };
    assert_eq!(commit(&mut state, 1, extend(MAX_HIGH_WATER_MS + 1)), Err(beyond.clone()));
    assert_eq!(commit(&mut state, 1, adopt(MAX_HIGH_WATER_MS + 1, 1)), Err(beyond.clone()));
    // Nothing could be fenced after a reign at the end of time.
    for now_ms in [MAX_FLOOR_MS + 1, MAX_HIGH_WATER_MS - 9, u64::MAX] {
        assert_eq!(fence(&mut state, now_ms), Err(Reject::OutOfRange { high_water_ms: now_ms }));
    }
    assert_eq!(state.store, before);
    let mut late = State::open();
    assert!(fence(&mut late, MAX_FLOOR_MS).is_ok());
    commit(&mut state, 1, extend(MAX_HIGH_WATER_MS)).unwrap();
    assert!(matches!(fence(&mut state, 0), Err(Reject::OutOfRange { .. })));
}

#[test]
fn an_unused_state_can_be_initialized_once() {
    let mut state = State::default();
    let init = Command::Init { high_water_ms: NOW_MS, now_ms: None };
    assert_eq!(commit(&mut state, 1, init.clone()), Ok(Reply::Initialized));
    assert_eq!(commit(&mut state, 1, init.clone()), Err(Reject::NotEmpty));
    let (_, floor_ms, _, replaced) = fence_with(&mut state, 5, LEASE_MS).unwrap();
    assert_eq!(floor_ms, NOW_MS + 1);
    assert!(replaced.unwrap().released, "no lease has to be waited for");
    assert_eq!(commit(&mut State::open(), 2, init), Err(Reject::NotEmpty));
}

fn adopt_as(state: &mut State, command: Command) {
    match state.apply(&[command]).remove(0) {
        Ok(Reply::Adopted { high_water_ms }) => {
            assert_eq!(high_water_ms, state.record().high_water_ms);
        }
        other => panic!("an adoption was answered with {other:?}"),
    }
}

#[test]
fn an_adopted_state_is_waited_for_by_every_node_and_goes_on_above_what_is_known() {
    // An open reign, one that was released, and one that was only fenced: what is in a backup may be any.
    let open = State::open();
    let mut released = State::open();
    released.apply(&[Command::Release]);
    let mut fenced = State::default();
    fence(&mut fenced, NOW_MS).unwrap();
    for mut state in [open, released, fenced] {
        if state.record().stage == Stage::Open {
            state.pass(700);
        }
        let before = state.record();
        state.era = 1;
        adopt_as(&mut state, adopt(5, LEASE_MS * 3));
        let record = state.record();
        let expected = ReignRecord {
            stage: Stage::Released,
            lease_ms: LEASE_MS * 3,
            opened_by: Some(ELSEWHERE),
            released: false,
            session_base_ms: before.session_ms,
            version: version(&state.store),
            fenced_on: Version::EMPTY,
            ..before
        };
        assert_eq!(record, expected, "neither high-water nor session time falls");
        assert_eq!(record.version.era, 1);
        let later = before.high_water_ms + 77;
        adopt_as(&mut state, adopt(later, 0));
        let record = state.record();
        assert_eq!((record.high_water_ms, record.lease_ms), (later, LEASE_MS * 3));
        let (epoch, floor_ms, _, replaced) = fence_with(&mut state, 0, 1).unwrap();
        assert_eq!((epoch.hi(), epoch.lo()), (1, before.epoch.lo() + 1));
        assert_eq!(floor_ms, later + 1);
        assert_eq!(replaced.unwrap().opened_by, Some(ELSEWHERE));
    }
}

#[test]
fn a_state_that_was_never_used_can_be_adopted() {
    let mut state = State::default();
    adopt_as(&mut state, adopt(NOW_MS, LEASE_MS));
    let (_, floor_ms, _, replaced) = fence_with(&mut state, 0, 1).unwrap();
    assert_eq!(floor_ms, NOW_MS + 1);
    let replaced = replaced.unwrap();
    assert_eq!((replaced.opened_by, replaced.lease_ms), (Some(ELSEWHERE), LEASE_MS));
}

#[test]
fn an_adoption_ends_the_reign_that_it_finds() {
    let mut state = State::open();
    adopt_as(&mut state, adopt(0, 0));
    let advance = state.advance_command(&[("a", 1)], None, Limits::default());
    for command in [open(), extend(NOW_MS), Command::Release, advance] {
        assert_eq!(commit(&mut state, 1, command), fenced_by(1));
    }
}

/// A reign record of the first format, which knows no versions.
const FIRST_FORMAT: [u8; 16] = [1, 7, 1, 128, 228, 227, 163, 177, 52, 232, 7, 1, 1, 0, 5, 2];

#[test]
fn a_record_of_the_first_format_opens_and_goes_on_above_its_own_epoch() {
    let mut state = State::default();
    state.store = with(state.store, keys::REIGN.into(), FIRST_FORMAT.into());
    let old = state.record();
    let expected = ReignRecord {
        epoch: Epoch(7),
        stage: Stage::Open,
        high_water_ms: 1_799_934_767_616,
        lease_ms: 1_000,
        opened_by: Some(NODE),
        released: false,
        session_ms: 5,
        session_base_ms: 2,
        version: Version::EMPTY,
        fenced_on: Version::EMPTY,
    };
    assert_eq!(old, expected);
    let (epoch, floor_ms, _, replaced) = fence_with(&mut state, 0, 1).unwrap();
    assert_eq!((epoch, floor_ms), (Epoch(8), old.high_water_ms + 1));
    assert_eq!(replaced, Some(old), "the lease of before is waited for");
    let record = state.record();
    assert_eq!((record.session_ms, record.version), (5, version(&state.store)));
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
    let meta = Record::Meta(Meta { rules, keys: 0, sessions: 0 });
    let mut newer = State::default();
    newer.store = with(newer.store, keys::META.into(), meta.encode());
    assert_eq!(fence(&mut newer, NOW_MS), Err(Reject::NewerRules { rules }));
    for damage in [vec![], vec![1], vec![2], vec![9, 9, 9]] {
        let damaged = with(State::open().store, keys::REIGN.into(), damage);
        let reads = Reads::keys([keys::REIGN]);
        let snapshot = reads.read_from(&damaged).unwrap();
        let mut known = WorkingSet::at(snapshot.version);
        let error = known.learn(reads, snapshot).unwrap_err();
        assert_eq!(*error.kind(), crate::ErrorKind::Corrupt);
    }
}

#[test]
fn a_value_of_another_kind_is_damage() {
    let store = State::open().store;
    let mut known = read(&store, Reads::keys([keys::META]));
    let mut writes = Writes::default();
    writes.put(keys::META, 7_u64);
    known.advance(version(&store), writes);
    let error = record::load::<Meta>(&known, keys::META).unwrap_err();
    assert_eq!(*error.kind(), crate::ErrorKind::Corrupt);
}

#[test]
fn a_time_that_an_operator_sets_is_compared_with_the_clock_and_the_space_left() {
    const NOW_MS: u64 = 1_800_000_000_000;
    let year_ms = 366 * 24 * 3_600_000;
    let init = |high_water_ms, now_ms| {
        let mut state = State::default();
        commit(&mut state, 0, Command::Init { high_water_ms, now_ms }).map(drop)
    };
    let raise = |high_water_ms, now_ms| {
        let mut state = State::open();
        let adopt = Command::Adopt { high_water_ms, lease_ms: 1, now_ms };
        state.apply(&[adopt]).remove(0).map(drop)
    };
    for set in [init as fn(_, _) -> _, raise] {
        let far = |high_water_ms| Err(Reject::FarFromClock { high_water_ms, now_ms: NOW_MS });
        for high_water_ms in [NOW_MS - year_ms, NOW_MS, NOW_MS + year_ms] {
            assert_eq!(set(high_water_ms, Some(NOW_MS)), Ok(()));
        }
        for high_water_ms in
            [NOW_MS - year_ms - 1, NOW_MS + year_ms + 1, NOW_MS / 1_000, MAX_FLOOR_MS]
        {
            assert_eq!(set(high_water_ms, Some(NOW_MS)), far(high_water_ms));
            assert_eq!(set(high_water_ms, None), Ok(()), "it is insisted on");
        }
        // Nothing could be served over such a state.
        for high_water_ms in [MAX_FLOOR_MS + 1, MAX_HIGH_WATER_MS, u64::MAX] {
            for now_ms in [Some(NOW_MS), None] {
                assert_eq!(set(high_water_ms, now_ms), Err(Reject::OutOfRange { high_water_ms }));
            }
        }
    }
    assert_eq!(init(5, Some(1)), Ok(()));
}

#[test]
fn what_raises_nothing_is_refused_unless_it_is_insisted_on() {
    let mut state = State::open();
    state.apply(&[extend(9_000)]);
    let before = state.store.clone();
    let adopt = |high_water_ms, now_ms| Command::Adopt { high_water_ms, lease_ms: 1, now_ms };
    for high_water_ms in [0, 8_999, 9_000] {
        let refused = Err(Reject::NothingToRaise { high_water_ms: 9_000 });
        assert_eq!(state.apply(&[adopt(high_water_ms, Some(9_000))]), [refused]);
    }
    assert_eq!(state.store, before);
    for (command, stored_ms) in [(adopt(9_001, Some(9_000)), 9_001), (adopt(5, None), 9_001)] {
        let adopted = Ok(Reply::Adopted { high_water_ms: stored_ms });
        assert_eq!(state.apply(&[command]), [adopted]);
    }
}

use super::*;
use crate::{Clock, ManualClock, OracleOptions};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_MS: u64 = 365 * DAY_MS;
/// Three quarters of how far timestamps may be ahead.
const FREE_MS: u64 = 2_250;
const NOON: u64 = 1_800_000_000_000;

fn bounds() -> Bounds {
    Bounds::from(&OracleOptions::default())
}

fn evidence(stored_ms: Option<u64>, peers_ms: &[u64]) -> Evidence {
    Evidence { stored_ms, peers_ms: peers_ms.to_vec() }
}

/// A guard that begins over a state whose time is `stored_ms`.
fn guard_over(clock: &ManualClock, stored_ms: Option<u64>) -> ClockGuard {
    let now = clock.now();
    let judged = bounds().judge(now.wall_ms, &evidence(stored_ms, &[])).unwrap();
    let floor_ms = judged.time_ms.max(stored_ms.map_or(0, |stored_ms| stored_ms + 1));
    ClockGuard::new(bounds(), judged, now, floor_ms)
}

fn rebase(guard: &ClockGuard, clock: &ManualClock, reached_ms: u64) -> WallClock {
    guard.rebase(clock.now(), reached_ms, Vec::new)
}

fn ahead(ms: u64) -> WallClock {
    WallClock::Ahead(Duration::from_millis(ms))
}

fn behind(ms: u64) -> WallClock {
    WallClock::Behind(Duration::from_millis(ms))
}

#[test]
fn a_wall_clock_that_runs_well_is_followed() {
    let clock = ManualClock::new(NOON);
    let guard = guard_over(&clock, None);
    for _ in 0..100 {
        clock.advance(Duration::from_millis(299));
        let wall_ms = clock.now().wall_ms;
        let limit_ms = wall_ms + FREE_MS;
        assert_eq!(guard.follow(clock.now()), BelievedTime { wall_ms, limit_ms });
        assert_eq!(rebase(&guard, &clock, wall_ms), WallClock::Followed);
    }
}

#[test]
fn an_hour_ahead_for_a_moment_leaves_no_trace() {
    let clock = ManualClock::new(NOON);
    let guard = guard_over(&clock, None);
    clock.set_wall(NOON + HOUR_MS);
    assert_eq!(guard.follow(clock.now()), BelievedTime { wall_ms: NOON, limit_ms: NOON + FREE_MS });
    assert_eq!(rebase(&guard, &clock, NOON), WallClock::Ahead(HOUR));
    clock.set_wall(NOON);
    clock.advance(Duration::from_millis(5));
    assert_eq!(guard.follow(clock.now()).wall_ms, NOON + 5);
    assert_eq!(rebase(&guard, &clock, NOON), WallClock::Followed);
}

#[test]
fn an_hour_back_and_forth_is_absorbed() {
    let clock = ManualClock::new(NOON);
    let guard = guard_over(&clock, None);
    clock.set_wall(NOON - HOUR_MS);
    assert_eq!(rebase(&guard, &clock, NOON), WallClock::Behind(HOUR));
    assert_eq!(guard.follow(clock.now()).limit_ms, NOON + FREE_MS, "requests need not wait");
    clock.advance(Duration::from_secs(60));
    assert_eq!(rebase(&guard, &clock, NOON), WallClock::Behind(HOUR));
    assert_eq!(guard.follow(clock.now()).limit_ms, NOON + FREE_MS, "nor does time run away");
    clock.set_wall(NOON + 60_000 - 50_000);
    assert_eq!(guard.follow(clock.now()).wall_ms, NOON + 10_000, "back to normal is followed");
}

#[test]
fn a_clock_that_was_back_for_hours_is_followed_once_it_is_set_right() {
    let clock = ManualClock::new(NOON);
    let guard = guard_over(&clock, None);
    clock.set_wall(NOON - HOUR_MS);
    for _ in 0..300 {
        clock.advance(10 * SECOND);
        assert_eq!(rebase(&guard, &clock, NOON), WallClock::Behind(HOUR));
    }
    let right_ms = NOON + 3_000_000;
    clock.set_wall(right_ms + 11_000);
    assert_eq!(guard.follow(clock.now()).wall_ms, NOON, "no further than that");
    assert_eq!(rebase(&guard, &clock, NOON), ahead(11_000));
    clock.set_wall(right_ms + 10_000);
    assert_eq!(guard.follow(clock.now()).wall_ms, right_ms + 10_000);
    assert_eq!(rebase(&guard, &clock, NOON), WallClock::Followed);
}

#[test]
fn small_corrections_do_not_add_up() {
    let clock = ManualClock::new(NOON);
    let guard = guard_over(&clock, None);
    // Back and forth by nine seconds each time: no more than before is believed of a leap.
    for _ in 0..100 {
        clock.set_wall(NOON + 9_000);
        assert_eq!(rebase(&guard, &clock, NOON), WallClock::Followed);
        clock.set_wall(NOON);
        assert_eq!(rebase(&guard, &clock, NOON), WallClock::Followed);
    }
    clock.set_wall(NOON + 10_001);
    assert_eq!(rebase(&guard, &clock, NOON), ahead(10_001));
}

#[test]
fn a_floor_far_ahead_of_the_wall_clock_can_be_granted_from() {
    let clock = ManualClock::new(NOON);
    let guard = guard_over(&clock, Some(NOON + HOUR_MS));
    assert_eq!(guard.follow(clock.now()).limit_ms, NOON + HOUR_MS + 1 + FREE_MS);
}

#[test]
fn what_leases_reserve_ahead_does_not_make_a_right_clock_a_wrong_one() {
    let clock = ManualClock::new(NOON);
    let guard = guard_over(&clock, Some(NOON + 300_000));
    assert_eq!(rebase(&guard, &clock, NOON + 300_000), WallClock::Followed);
    clock.set_wall(NOON + 11_000);
    assert_eq!(rebase(&guard, &clock, NOON + 300_000), ahead(11_000));
    clock.set_wall(NOON + 400_000);
    let time = guard.follow(clock.now());
    assert_eq!(time.wall_ms, NOON + 300_000, "a leap is followed no further than time has come");
}

#[test]
fn a_clock_that_was_ahead_is_followed_once_it_is_set_right() {
    let clock = ManualClock::new(NOON + 200 * YEAR_MS);
    let guard = guard_over(&clock, Some(NOON));
    let time = guard.follow(clock.now());
    assert_eq!(time, BelievedTime { wall_ms: NOON + 1, limit_ms: NOON + 1 + FREE_MS });
    assert_eq!(rebase(&guard, &clock, NOON), ahead(200 * YEAR_MS));
    clock.advance(10 * SECOND);
    assert_eq!(guard.follow(clock.now()).wall_ms, NOON + 10_001, "with the boot clock");
    assert_eq!(rebase(&guard, &clock, NOON + 10_001), ahead(200 * YEAR_MS));
    assert!(!guard.is_sound());
    // The machine was off for a week before.
    let right_ms = NOON + 7 * DAY_MS;
    clock.set_wall(right_ms);
    assert_eq!(rebase(&guard, &clock, NOON + 10_001), WallClock::Followed);
    assert_eq!(guard.follow(clock.now()).wall_ms, right_ms);
    clock.set_wall(right_ms + HOUR_MS);
    assert_eq!(rebase(&guard, &clock, right_ms), WallClock::Ahead(HOUR), "and guarded again");
}

#[test]
fn a_clock_that_starts_in_1970_is_followed_once_it_is_set_right() {
    let clock = ManualClock::new(0);
    let guard = guard_over(&clock, Some(NOON));
    assert_eq!(rebase(&guard, &clock, NOON + 1), behind(NOON));
    clock.advance(60 * SECOND);
    let time = guard.follow(clock.now());
    assert_eq!((time.wall_ms, time.limit_ms), (60_000, NOON + 60_001 + FREE_MS));
    assert_eq!(rebase(&guard, &clock, NOON + 1), behind(NOON));
    let right_ms = NOON + 7 * DAY_MS;
    clock.set_wall(right_ms);
    let before = guard.follow(clock.now());
    assert!(
        before.wall_ms < NOON + 61_000,
        "not before it was compared with the peers: {before:?}"
    );
    assert_eq!(rebase(&guard, &clock, NOON + 1), WallClock::Followed);
    assert_eq!(guard.follow(clock.now()).wall_ms, right_ms);
}

#[test]
fn a_clock_that_is_set_is_compared_with_those_of_peers() {
    let clock = ManualClock::new(0);
    let guard = guard_over(&clock, Some(NOON));
    clock.set_wall(NOON + DAY_MS);
    let others = || vec![NOON, NOON];
    assert_eq!(guard.rebase(clock.now(), NOON + 1, others), ahead(DAY_MS));
    assert_eq!(guard.follow(clock.now()).wall_ms, NOON + 1);
    let others = || vec![NOON + DAY_MS, NOON];
    assert_eq!(guard.rebase(clock.now(), NOON + 1, others), WallClock::Followed);
}

#[test]
fn where_the_time_is_not_known_little_is_reserved() {
    let clock = ManualClock::new(NOON + YEAR_MS);
    let guard = guard_over(&clock, Some(NOON));
    assert_eq!(guard.window_ms(3_000), AHEAD_STEP_MS);
    clock.set_wall(NOON + 5);
    rebase(&guard, &clock, NOON + 1);
    assert_eq!(guard.window_ms(3_000), 3_000);
}

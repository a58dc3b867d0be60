use super::*;

const DAY_MS: u64 = 24 * 3_600_000;
const YEAR_MS: u64 = 365 * DAY_MS;
const NOON: u64 = 1_800_000_000_000;

fn bounds() -> Bounds {
    Bounds::from(&OracleOptions::default())
}

fn evidence(stored_ms: Option<u64>, peers_ms: &[u64]) -> Evidence {
    Evidence { stored_ms, peers_ms: peers_ms.to_vec() }
}

fn ahead(ms: u64) -> WallClock {
    WallClock::Ahead(Duration::from_millis(ms))
}

#[test]
fn a_clock_far_ahead_of_the_stored_time_is_not_followed() {
    let judged = |wall_ms| bounds().judge(wall_ms, &evidence(Some(NOON), &[])).unwrap();
    let most = judged(NOON + 30 * DAY_MS);
    assert_eq!((most.clock, most.time_ms), (WallClock::Followed, NOON + 30 * DAY_MS));
    let more = judged(NOON + 30 * DAY_MS + 1);
    assert_eq!((more.clock, more.time_ms), (ahead(30 * DAY_MS + 1), NOON));
    let trusting = Bounds { trusted_until_ms: Some(NOON + YEAR_MS), ..bounds() };
    let judged = |wall_ms| trusting.judge(wall_ms, &evidence(Some(NOON), &[NOON])).unwrap();
    assert_eq!(judged(NOON + YEAR_MS).time_ms, NOON + YEAR_MS);
    assert_eq!(judged(NOON + YEAR_MS + 1).time_ms, NOON);
}

#[test]
fn a_first_start_has_nothing_to_compare_with_but_the_year() {
    let judged = |wall_ms, peers_ms: &[u64]| bounds().judge(wall_ms, &evidence(None, peers_ms));
    let first = judged(NOON + 100 * YEAR_MS, &[]).unwrap();
    assert_eq!((first.clock, first.time_ms), (WallClock::Followed, NOON + 100 * YEAR_MS));
    assert_eq!(judged(EARLIEST_MS - 1, &[]), None, "it was never set");
    assert!(judged(EARLIEST_MS, &[]).is_some());
    let among_peers = judged(NOON + YEAR_MS, &[NOON, NOON]).unwrap();
    assert_eq!((among_peers.clock, among_peers.time_ms), (ahead(YEAR_MS), NOON));
}

#[test]
fn most_clocks_decide() {
    let clock = |wall_ms, peers_ms: &[u64]| {
        bounds().judge(wall_ms, &evidence(Some(NOON), peers_ms)).unwrap().clock
    };
    let far = NOON + DAY_MS;
    assert_eq!(clock(far, &[]), WallClock::Followed);
    assert_eq!(clock(far, &[NOON, NOON]), ahead(DAY_MS));
    assert_eq!(clock(far, &[NOON]), ahead(DAY_MS), "one against one: better not");
    assert_eq!(clock(far, &[far, NOON]), WallClock::Followed);
    assert_eq!(clock(far, &[far, 0]), WallClock::Followed, "a peer that was never set");
    assert_eq!(clock(NOON, &[far, far]), WallClock::Followed, "behind the others is no leap");
    assert_eq!(clock(NOON + 10_000, &[NOON, NOON]), WallClock::Followed);
    assert_eq!(clock(NOON + 10_001, &[NOON, NOON]), ahead(10_001));
    assert_eq!(clock(far, &[NOON, far, NOON, far]), WallClock::Followed);
    assert_eq!(clock(far, &[NOON, far, NOON]), ahead(DAY_MS));
    // Where time was driven ahead, the peers tell that the clock is right.
    let judged = bounds().judge(NOON, &evidence(Some(NOON + DAY_MS), &[NOON, NOON])).unwrap();
    assert_eq!(judged.clock, WallClock::Followed);
}

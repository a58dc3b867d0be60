use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

const START_MS: u64 = 1_000;

/// What a caller may do to a window.
#[derive(Clone, Debug)]
enum Step {
    Grant { wall_ms: u64, count: u32 },
    Raise { ceiling_ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wall = prop_oneof![0..3_000u64, START_MS..START_MS + 5];
    let count = prop_oneof![
        1..10u32,
        1..=TIMESTAMPS_PER_MS,
        Just(TIMESTAMPS_PER_MS),
        Just(TIMESTAMPS_PER_MS - 1)
    ];
    let step = prop_oneof![
        4 => (wall, count).prop_map(|(wall_ms, count)| Step::Grant { wall_ms, count }),
        1 => (0..3_000u64).prop_map(|ceiling_ms| Step::Raise { ceiling_ms }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn grants_rise_never_straddle_and_stay_below_the_ceiling(steps in steps()) {
        let window = Window::new(START_MS, START_MS + 3);
        let mut last = Timestamp::from_u64((START_MS << LOGICAL_BITS) - 1);
        let mut ceiling = START_MS + 3;
        for step in steps {
            match step {
                Step::Raise { ceiling_ms } => {
                    window.raise(ceiling_ms);
                    ceiling = ceiling.max(ceiling_ms);
                }
                Step::Grant { wall_ms, count } => match window.grant(wall_ms, u64::MAX, count) {
                    Ok(range) => {
                        prop_assert!(range.first() > last);
                        prop_assert_eq!(range.count(), count);
                        prop_assert_eq!(range.first().physical_ms(), range.last().physical_ms());
                        prop_assert!(range.last().physical_ms() <= ceiling);
                        prop_assert!(range.first().physical_ms() >= wall_ms);
                        last = range.last();
                    }
                    Err(refused) => {
                        let Refused::Exhausted { needed_ms } = refused else {
                            panic!("no limit was set, yet {refused:?}");
                        };
                        prop_assert!(needed_ms > ceiling);
                    }
                },
            }
        }
    }

    #[test]
    fn a_limit_holds_back_what_would_run_ahead(wall_ms in START_MS..2_000, ahead in 0..4u64) {
        let window = Window::new(START_MS, 10_000);
        for _ in 0..=ahead {
            prop_assert!(window.grant(wall_ms, wall_ms + ahead, TIMESTAMPS_PER_MS).is_ok());
        }
        let refused = window.grant(wall_ms, wall_ms + ahead, 1);
        prop_assert_eq!(refused, Err(Refused::Ahead { by_ms: 1 }));
        prop_assert!(window.grant(wall_ms + 1, wall_ms + 1 + ahead, 1).is_ok());
    }

    #[test]
    fn many_threads_share_one_order(counts in prop::collection::vec(1..50_000u32, 4..8)) {
        let window = Window::new(START_MS, START_MS + 2_000);
        let granted = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (thread, &count) in counts.iter().enumerate() {
                let (window, granted) = (&window, &granted);
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for turn in 0..200u64 {
                        // Each thread has a clock of its own, some running, some stuck or behind.
                        let wall_ms = START_MS + turn * (thread as u64 % 3);
                        mine.push(window.grant(wall_ms, u64::MAX, count).expect("the window is ample"));
                    }
                    assert!(mine.windows(2).all(|pair| pair[0].last() < pair[1].first()));
                    granted.lock().expect("no thread panics").extend(mine);
                });
            }
        });
        let mut granted = granted.into_inner().expect("no thread panicked");
        granted.sort_by_key(|range| range.first());
        prop_assert!(granted.windows(2).all(|pair| pair[0].last() < pair[1].first()));
    }
}

#[test]
fn the_last_timestamp_does_not_overflow_the_word() {
    let window = Window::new(MAX_HIGH_WATER_MS, MAX_HIGH_WATER_MS);
    assert!(window.grant(0, u64::MAX, TIMESTAMPS_PER_MS).is_ok());
    let refused = window.grant(u64::MAX >> 1, u64::MAX, 1);
    assert_eq!(refused, Err(Refused::Exhausted { needed_ms: u64::MAX >> 1 }));
    let refused = window.grant(0, u64::MAX, 1);
    assert_eq!(refused, Err(Refused::Exhausted { needed_ms: MAX_PHYSICAL_MS }));
}

#[test]
fn a_lower_ceiling_changes_nothing() {
    let window = Window::new(START_MS, START_MS + 5);
    window.raise(START_MS);
    assert_eq!(window.ceiling_ms(), START_MS + 5);
}

//! The network between the nodes: it delays, drops, doubles and reorders, and links break, each in one
//! direction or in both.

use std::{sync::Mutex, time::Duration};

use crate::rng::Rng;

/// How many nodes a run may have.
pub(crate) const MOST_NODES: usize = 5;

/// Links may also end at what the nodes share.
const MOST_ENDS: usize = MOST_NODES + 1;

#[derive(Debug)]
pub(crate) struct Network(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    cut: [[bool; MOST_ENDS]; MOST_ENDS],
    quality: Quality,
}

/// How well messages get through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    pub(crate) drop_permille: u64,
    pub(crate) double_permille: u64,
    pub(crate) slow_permille: u64,
    pub(crate) slow_ms: u64,
}

impl Quality {
    pub(crate) const GOOD: Self =
        Self { drop_permille: 0, double_permille: 0, slow_permille: 0, slow_ms: 5 };
}

impl Network {
    pub(crate) fn new(rng: Rng) -> Self {
        let cut = [[false; MOST_ENDS]; MOST_ENDS];
        Self(Mutex::new(State { rng, cut, quality: Quality::GOOD }))
    }

    pub(crate) fn set_quality(&self, quality: Quality) {
        self.0.lock().unwrap().quality = quality;
    }

    /// Breaks a link, or mends it.
    pub(crate) fn cut(&self, from: usize, to: usize, cut: bool) {
        self.0.lock().unwrap().cut[from][to] = cut;
    }

    pub(crate) fn heal(&self) {
        let mut state = self.0.lock().unwrap();
        state.cut = [[false; MOST_ENDS]; MOST_ENDS];
        state.quality = Quality::GOOD;
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.0.lock().unwrap().cut[from][to]
    }

    /// How long each copy of a message is on its way; none if it is lost.
    pub(crate) fn copies(&self) -> Vec<Duration> {
        let mut state = self.0.lock().unwrap();
        let Quality { drop_permille, double_permille, slow_permille, slow_ms } = state.quality;
        let rng = &mut state.rng;
        let copies = 1 + usize::from(rng.chance(double_permille));
        let mut delay = || match rng.chance(slow_permille) {
            true => rng.millis(0..=slow_ms),
            false => rng.millis(0..=3),
        };
        let delays: Vec<_> = (0..copies).map(|_| delay()).collect();
        delays.into_iter().filter(|_| !rng.chance(drop_permille)).collect()
    }
}

use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
};

use anyhow::{Context, Result};

/// The only seed to use, to repeat a failure.
pub(crate) const SEED: &str = "TSORACLE_SEED";

/// How many steps a random walk takes, if it is set.
pub(crate) const STEPS: &str = "TSORACLE_STEPS";

/// Seeds that every run uses, besides one that is drawn.
const FIXED: [u64; 2] = [7, 1_000_003];

/// The seeds to use.
pub(crate) fn seeds() -> Result<Vec<u64>> {
    match env::var(SEED) {
        Ok(seed) => Ok(vec![seed.parse().with_context(|| format!("{SEED} is no number: {seed}"))?]),
        Err(_) => Ok([&FIXED[..], &[RandomState::new().build_hasher().finish()]].concat()),
    }
}

/// How many steps were asked for.
pub(crate) fn steps() -> Option<u64> {
    env::var(STEPS).ok()?.parse().ok()
}

/// Numbers that look random, and are the same for the same seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to before `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// True once in `times`, on average.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A name for a version.
    pub(crate) fn name(&mut self) -> u128 {
        u128::from(self.number()) << 64 | u128::from(self.number())
    }

    /// Bytes that no compression makes fewer of.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

use std::{fmt, sync::Arc};

/// Where the engine gets randomness from, so that tests own it.
#[derive(Clone)]
pub struct Random(Arc<dyn Fn() -> u128 + Send + Sync>);

impl Random {
    /// Randomness from a function. It MUST never return the same number twice, in any process: versions
    /// of the state are distinguished by it.
    pub fn new(draw: impl Fn() -> u128 + Send + Sync + 'static) -> Self {
        Self(Arc::new(draw))
    }

    /// Draws a number.
    pub fn draw(&self) -> u128 {
        (self.0)()
    }
}

impl Default for Random {
    /// The system's.
    fn default() -> Self {
        Self::new(|| {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).expect("a system without randomness cannot be used");
            u128::from_be_bytes(bytes)
        })
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

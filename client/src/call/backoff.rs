use std::time::Duration;

use rand::Rng as _;

/// The first pause is about this long: an election on one machine is over by then.
const SHORTEST: Duration = Duration::from_millis(10);
/// Pauses grow to about this much, which is how late the end of a long election is noticed.
const LONGEST: Duration = Duration::from_millis(250);

/// Pauses between rounds over the endpoints: doubling, bounded, and spread so that clients that
/// lost the same leader do not retry at the same time.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: SHORTEST }
    }

    /// The next pause: between half and three halves of a value that doubles each time.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..1.5));
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut backoff = Backoff::new();
        assert!(backoff.next_pause() < SHORTEST * 2);
        for _ in 0..100 {
            assert!(backoff.next_pause() <= LONGEST.mul_f64(1.5));
        }
        assert!(backoff.next_pause() >= LONGEST / 2);
    }
}

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tsoracle_core::{CallerLimits, Error, ErrorKind, Result};

use super::Right;

/// What an identity may do, worked out so that looking it up takes no time.
#[derive(Debug)]
pub(crate) struct Granted {
    /// The rights that it has, a bit each.
    all: u16,
    /// The rights that it has for some sequences.
    some: u16,
    patterns: Vec<(Right, Pattern)>,
    pub(super) limits: CallerLimits,
    rate: Option<Rate>,
}

/// Which sequences a right is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Pattern {
    /// This one.
    Key(Box<str>),
    /// All those whose keys begin so.
    Prefix(Box<str>),
}

/// A right as a policy names it: for all sequences, or for some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Grant {
    pub(super) right: Right,
    pub(super) of: Option<Pattern>,
}

#[derive(Debug)]
struct Rate {
    per_second: NonZeroU32,
    limiter: DefaultDirectRateLimiter,
}

impl Granted {
    pub(super) fn new(grants: &[Grant], limits: CallerLimits, rate: Option<NonZeroU32>) -> Self {
        let mut granted = Self { all: 0, some: 0, patterns: vec![], limits, rate: None };
        for grant in grants {
            let bit = grant.right.bit();
            match &grant.of {
                None => granted.all |= bit,
                Some(pattern) => {
                    granted.some |= bit;
                    granted.patterns.push((grant.right, pattern.clone()));
                }
            }
        }
        granted.rate = rate.map(|per_second| Rate {
            per_second,
            limiter: RateLimiter::direct(Quota::per_second(per_second)),
        });
        granted
    }

    pub(super) fn of_rights(rights: impl IntoIterator<Item = Right>) -> Self {
        let grants: Vec<_> = rights.into_iter().map(|right| Grant { right, of: None }).collect();
        Self::new(&grants, CallerLimits::NONE, None)
    }

    /// Whether it has a right, for some sequences at least.
    #[inline]
    pub(super) fn has_any(&self, right: Right) -> bool {
        (self.all | self.some) & right.bit() != 0
    }

    /// Whether it has a right for all sequences.
    #[inline]
    pub(super) fn has(&self, right: Right) -> bool {
        self.all & right.bit() != 0
    }

    /// Whether it has a right for this sequence.
    #[inline]
    pub(super) fn has_for(&self, right: Right, key: &str) -> bool {
        self.has(right)
            || self.patterns.iter().any(|(of, pattern)| *of == right && pattern.matches(key))
    }

    /// Counts requests against the rate.
    ///
    /// # Errors
    /// `Overloaded`, naming the limit.
    #[inline]
    pub(super) fn count(&self, requests: usize) -> Result<()> {
        match &self.rate {
            None => Ok(()),
            Some(rate) => rate.count(requests),
        }
    }
}

impl Pattern {
    pub(super) fn matches(&self, key: &str) -> bool {
        match self {
            Self::Key(only) => key == &**only,
            Self::Prefix(prefix) => key.starts_with(&**prefix),
        }
    }

    /// Whether all that the other one matches is matched by this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(prefix), Self::Key(text) | Self::Prefix(text)) => {
                text.starts_with(&**prefix)
            }
            (Self::Key(one), Self::Key(other)) => one == other,
            (Self::Key(_), Self::Prefix(_)) => false,
        }
    }
}

impl Rate {
    fn count(&self, requests: usize) -> Result<()> {
        // Of more requests at once than there may be in a second, those of a second count: they come all or none.
        let requests = u32::try_from(requests).unwrap_or(u32::MAX).min(self.per_second.get());
        let Some(requests) = NonZeroU32::new(requests) else { return Ok(()) };
        match self.limiter.check_n(requests) {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "this identity may send {} requests a second by the policy, and has sent as many; \
                     try again later",
                    self.per_second
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Pattern {
        Pattern::Prefix(text.into())
    }

    #[test]
    fn rights_are_for_all_or_for_some_sequences() {
        let of = |right, of| Grant { right, of };
        let key = Pattern::Key("orders".into());
        let grants = [
            of(Right::Ts, None),
            of(Right::Seq, Some(prefix("invoices/"))),
            of(Right::Seq, Some(key)),
        ];
        let granted = Granted::new(&grants, CallerLimits::NONE, None);
        assert!(granted.has(Right::Ts) && granted.has_any(Right::Ts));
        assert!(!granted.has(Right::Seq) && granted.has_any(Right::Seq));
        for key in ["invoices/", "invoices/2026", "orders"] {
            assert!(granted.has_for(Right::Seq, key), "{key}");
        }
        for key in ["invoices", "order", "orders/1", "x/invoices/1"] {
            assert!(!granted.has_for(Right::Seq, key), "{key}");
        }
        assert!(!granted.has_any(Right::Read) && !granted.has_for(Right::Read, "orders"));
    }

    #[test]
    fn a_prefix_covers_what_is_longer() {
        let key = |text: &str| Pattern::Key(text.into());
        assert!(prefix("a/").covers(&prefix("a/b/")) && prefix("a/").covers(&key("a/1")));
        assert!(prefix("").covers(&prefix("x")) && key("a").covers(&key("a")));
        assert!(!prefix("a/b/").covers(&prefix("a/")) && !key("a/").covers(&prefix("a/")));
    }

    #[test]
    fn a_rate_bounds_requests() {
        let granted = Granted::new(&[], CallerLimits::NONE, NonZeroU32::new(100));
        assert!(granted.count(60).is_ok() && granted.count(30).is_ok());
        let error = granted.count(60).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Overloaded);
        assert!(error.to_string().contains("100 requests a second"), "{error}");
        let granted = Granted::new(&[], CallerLimits::NONE, NonZeroU32::new(100));
        assert!(
            granted.count(4_096).is_ok(),
            "a large message waits for a whole second, not for ever"
        );
        assert!(granted.count(1).is_err());
    }
}

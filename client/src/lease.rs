use tsoracle_types::{BootTime, LeaseId};

pub use tsoracle_types::SafeFrontier;

/// A stamping lease: until it runs out, its holder may stamp events by itself, up to a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Names it in renewals and in its release.
    pub id: LeaseId,
    /// The last millisecond since the Unix epoch that the holder may stamp.
    pub bound_ms: u64,
    /// When it runs out by the leader's wall clock, in milliseconds since the Unix epoch. A hint for
    /// people: wall clocks may be wrong.
    pub expires_at_ms: u64,
    /// Until when it may be relied on, on this machine's boot clock
    /// ([`SystemClock`](tsoracle_types::SystemClock)). `None` from a server that does not say, and
    /// from a lease that has just run out.
    pub valid_until: Option<BootTime>,
}

use tsoracle_types::{BootTime, Epoch, LeaseId, SeqKey};

pub use tsoracle_types::SafeFrontier;

/// A stamping lease: until it runs out, its holder may stamp events by itself, up to a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StampingLease {
    /// Identifies it in renewals and in its release.
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

/// A page of [`Client::list_seqs`](crate::Client::list_seqs).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeqPage {
    /// Keys in byte order, each with the value that its next block starts with.
    pub entries: Vec<(SeqKey, u64)>,
    /// More sequences come after the last one.
    pub more: bool,
}

/// The answer of [`Client::get_current_max_safe`](crate::Client::get_current_max_safe).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MaxSafe {
    /// Milliseconds since the Unix epoch. Every timestamp issued with at most this physical part
    /// is durably covered.
    pub physical_ms: u64,
    /// The epoch of the leader that answered.
    pub epoch: Epoch,
}

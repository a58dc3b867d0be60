use super::{Capped, record::RULES, sequence::LAST_START};
use crate::{Epoch, LeaseId, SeqKey, Timestamp};

/// Why the state refused a command. A refusal writes nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The epoch no longer leads, or its reign is not open.
    #[error("fenced: the state is at epoch {current}")]
    Fenced {
        /// The epoch the state is at.
        current: Epoch,
    },
    /// The timestamp space would be exceeded.
    #[error("{high_water_ms} ms lies beyond the timestamp space; is the wall clock right?")]
    OutOfRange {
        /// The high-water that was asked for.
        high_water_ms: u64,
    },
    /// A time that an operator sets is far from the clock.
    #[error(
        "{high_water_ms} ms is {}, and the clock shows {}: more than a year away; it is counted in \
         milliseconds since 1970, and can be insisted on",
        time(.high_water_ms),
        time(.now_ms)
    )]
    FarFromClock {
        /// That time.
        high_water_ms: u64,
        /// What the clock shows.
        now_ms: u64,
    },
    /// Timestamps above the time that a restored state is to begin after may have been given out.
    #[error(
        "timestamps after {} ({high_water_ms} ms) may have been given out since the backup was taken: they may \
         have come to {} ({reached_ms} ms); take a time after that, or insist",
        time(.high_water_ms),
        time(.reached_ms)
    )]
    MayRepeat {
        /// That time.
        high_water_ms: u64,
        /// What timestamps may have come to since the backup was taken.
        reached_ms: u64,
    },
    /// The state is above the time already that it is to be raised to.
    #[error("nothing to raise: it is at {} ({high_water_ms} ms) already", time(.high_water_ms))]
    NothingToRaise {
        /// Its high-water.
        high_water_ms: u64,
    },
    /// A sequence would exceed 64 bits.
    #[error("sequence {key:?} is at {next} and cannot advance that far in 64 bits")]
    Overflow {
        /// The sequence.
        key: SeqKey,
        /// Its next value.
        next: u64,
    },
    /// The cap of something is reached.
    #[error("the cap of {limit} {what} is reached{}", advice(.what))]
    TooMany {
        /// Of what.
        what: Capped,
        /// The cap.
        limit: u64,
    },
    /// The caller holds as much of something as is left for all.
    #[error(
        "this client's share of {what} is used up: it has {held} of the {limit} that there \
         may be, and {left} are left for all"
    )]
    OverShare {
        /// Of what.
        what: Capped,
        /// How many of them the caller has, as far as this leader knows.
        held: u64,
        /// How many are left.
        left: u64,
        /// The cap for all callers together.
        limit: u64,
    },
    /// The caller has as much of something as it may have.
    #[error("this identity has {limit} {what}, and may have no more by the policy")]
    OverOwnLimit {
        /// Of what.
        what: Capped,
        /// How many of them the caller may have.
        limit: u64,
    },
    /// There is little space where the leader stores the state.
    #[error(
        "the leader's disk has {free} bytes free, and {reserve} are kept in reserve: no new \
         {what} until there is more; what exists goes on"
    )]
    SpaceLow {
        /// What would be begun.
        what: Capped,
        /// How many bytes are free.
        free: u64,
        /// How many are kept in reserve.
        reserve: u64,
    },
    /// The session has too many requests open.
    #[error("the session has {limit} requests open already; open another one")]
    TooManyOpenRequests {
        /// The cap.
        limit: u64,
    },
    /// A retry whose session is not known: it was not executed now, and may have been before.
    #[error(
        "the session of this retry is not known; whether the request was executed before \
         is not known any more"
    )]
    SessionUnknown,
    /// The request lies below the first one whose answer is kept. It was not executed now.
    #[error(
        "request {number} lies below {first_incomplete}, the first one the session waits \
         for"
    )]
    Forgotten {
        /// The request's number.
        number: u64,
        /// The first number that is kept.
        first_incomplete: u64,
    },
    /// The number was used before, for another request.
    #[error("request {number} of this session was another request")]
    IdReused {
        /// The number.
        number: u64,
    },
    /// The name was used before, for another request.
    #[error("the request id was used for another request: other keys, or other counts")]
    NameReused,
    /// The sequence was used or seeded before.
    #[error("sequence {key:?} is in use already, and goes on at {next}")]
    SequenceExists {
        /// The sequence.
        key: SeqKey,
        /// Its next value.
        next: u64,
    },
    /// The sequence was never used.
    #[error("sequence {key:?} has never been used")]
    SequenceUnknown {
        /// The sequence.
        key: SeqKey,
    },
    /// The holder has a live lease under a higher epoch of its own.
    #[error("the holder has a lease under its epoch {current}, which is higher")]
    StaleHolder {
        /// That epoch.
        current: u64,
    },
    /// There never was such a lease.
    #[error("there never was a lease {id}")]
    LeaseUnknown {
        /// The lease that was asked for.
        id: LeaseId,
    },
    /// The lease has expired, or was released.
    #[error("lease {id} has expired or was released; acquire another one")]
    LeaseOver {
        /// The lease.
        id: LeaseId,
    },
    /// The holder has taken another lease, under a higher epoch of its own.
    #[error("lease {id} was superseded under a higher epoch of its holder")]
    LeaseSuperseded {
        /// The lease.
        id: LeaseId,
    },
    /// The lease belongs to somebody else.
    #[error(
        "lease {id} was acquired by another identity, and only that may renew, release or supersede it"
    )]
    LeaseOfAnother {
        /// The lease.
        id: LeaseId,
    },
    /// The state is in use already.
    #[error("the state is in use already")]
    NotEmpty,
    /// Another state is being copied here, or was and did not become whole.
    #[error(
        "a copy of another state was begun here and is not whole; remove this state, and \
         migrate or restore again into a new one"
    )]
    Importing,
    /// What came does not go on where the import has come to.
    #[error("the copy has {entries} entries so far, and what came does not go on from there")]
    ImportBroken {
        /// How many entries it has so far.
        entries: u64,
    },
    /// The state was written under rules this release does not know.
    #[error(
        "the state is under rules version {rules}, since a newer release has used what is new in it; this release \
         knows up to {}: run that one again",
        RULES
    )]
    NewerRules {
        /// The version of the rules.
        rules: u32,
    },
    /// A sequence that would begin there has no value to give out.
    #[error(
        "sequence {key:?} cannot begin at {start}: it would have no value to give out; the highest \
         one to begin at is {LAST_START}"
    )]
    NothingLeft {
        /// The sequence.
        key: SeqKey,
        /// Where it would begin.
        start: u64,
    },
    /// The state was restored from a backup, and the sequence may have gone back with it.
    #[error(
        "sequence {key:?} is closed: the state was restored from a backup of {}, and what was granted \
         since would be granted once more; an administrator opens it with a floor above that, or all \
         with their loss accepted: see `tsoracle seq-open --help`",
        time(.taken_ms)
    )]
    SequenceClosed {
        /// The sequence.
        key: SeqKey,
        /// When the backup was taken.
        taken_ms: u64,
    },
    /// Sequences have no floors to be opened with, since none is closed.
    #[error(
        "no sequence is closed here, so there is none to open; a floor raises none that is open"
    )]
    NotRestored,
}

/// A time as people read it.
fn time(ms: &u64) -> String {
    let time = Timestamp::from_parts(*ms, 0).map(Timestamp::to_rfc3339);
    time.unwrap_or_else(|_| "beyond all timestamps".into())
}

/// What is to be done where a cap is reached.
fn advice(what: &Capped) -> &'static str {
    match what {
        Capped::Sequences => "",
        Capped::Sessions => "; close unused ones, or send without a request id",
        Capped::Leases => "; release unused ones, or wait until some expire",
        Capped::Named => "; wait until some expire, or raise it",
    }
}

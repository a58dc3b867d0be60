//! What runs come to.

use crate::world::System;

/// What a run has to come to now and then, or it would show nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reached {
    /// A commit found another version.
    Conflict,
    /// A second copy of a commit found the first one stored.
    StoredBefore,
    /// A commit was stored long after its outcome was said to be unknown.
    LateCommit,
    /// The outcome of a commit was not known.
    Uncertain,
    /// An error was answered for what was stored.
    ErrorOfStored,
    /// A node that heard of a leader voted for no other one.
    VoteIgnored,
    /// A leader let others lead.
    Resigned,
    /// A node believed to lead while another one did.
    FalseBelief,
    /// A stale copy of the state was read.
    StaleRead,
    /// All machines slept for longer than sessions are kept.
    Slept,
    /// A session was closed by its client.
    SessionClosed,
    /// A session had expired.
    SessionExpired,
    /// A request was refused at a cap.
    Capped,
    /// A stamping lease was granted, and one was renewed.
    LeaseGranted,
    LeaseRenewed,
    /// A lease that had run out, or was superseded, was refused.
    LeaseOver,
    /// The frontier was read.
    Frontier,
    /// Sequences were listed.
    Listed,
    /// A request was answered under a name that was known.
    NameKnown,
    /// A name that was in use for another request was refused.
    NameReused,
    /// A name had expired, and its request was carried out again.
    NameExpired,
    /// A sequence was deleted, and one was seeded.
    Deleted,
    Seeded,
    /// The owner of a sequence found out what an uncertain call had done.
    Settled,
    /// A node has sent its state in the place of entries that it had dropped from its log.
    StateSent,
}

impl Reached {
    /// What some of many runs of a system have to come to.
    pub(crate) fn of(system: System) -> &'static [Self] {
        use Reached::*;
        match system {
            System::Log => &[
                Conflict,
                StoredBefore,
                LateCommit,
                Uncertain,
                ErrorOfStored,
                VoteIgnored,
                Resigned,
                Slept,
                SessionClosed,
                SessionExpired,
                Capped,
                LeaseGranted,
                LeaseRenewed,
                LeaseOver,
                Frontier,
                Listed,
                NameKnown,
                NameReused,
                NameExpired,
                Deleted,
                Seeded,
                Settled,
            ],
            // That a name expires is rare, and a matter of the engine's, which the other systems show.
            System::Omnipaxos | System::Openraft => &[
                Conflict,
                StoredBefore,
                LateCommit,
                Uncertain,
                ErrorOfStored,
                Resigned,
                StateSent,
                Slept,
                SessionClosed,
                SessionExpired,
                Capped,
                LeaseGranted,
                LeaseRenewed,
                LeaseOver,
                Frontier,
                Listed,
                NameKnown,
                NameReused,
                Deleted,
                Seeded,
                Settled,
            ],
            System::KeyValue => &[
                Conflict,
                StoredBefore,
                LateCommit,
                Uncertain,
                ErrorOfStored,
                FalseBelief,
                StaleRead,
                Resigned,
                Slept,
                SessionClosed,
                SessionExpired,
                Capped,
                LeaseGranted,
                LeaseRenewed,
                LeaseOver,
                Frontier,
                Listed,
                NameKnown,
                NameReused,
                NameExpired,
                Deleted,
                Seeded,
                Settled,
            ],
        }
    }
}

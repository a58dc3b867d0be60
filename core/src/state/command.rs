use std::time::Duration;

use super::{
    Import, WorkingSet,
    keys::{self, Key},
    lease,
    record::ReignRecord,
    session,
};
use crate::{
    Epoch, Identity, LeaseHolder, LeaseId, NodeId, RequestId, RequestName, SeqBlock, SeqKey,
    Session,
    driver::{KeyRange, Reads, Version},
};

/// A change to the state, planned by the leader under its epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Begins a reign of the next epoch, and reserves a first window.
    Fence {
        /// The version that the fence is planned on. Its record notes it.
        base: Version,
        /// The wall clock of the node that takes over.
        now_ms: u64,
        /// How far beyond the floor the window reaches.
        headroom_ms: u64,
        /// The lease the node will serve under.
        lease_ms: u64,
    },
    /// Lets the fenced reign serve, once the replaced one's lease has certainly run out.
    Open {
        /// Who serves.
        node: NodeId,
        /// The lease it serves under.
        lease_ms: u64,
    },
    /// Renews the lease of the open reign, and raises the high-water.
    Extend {
        /// The new high-water, inclusive. A lower one than stored changes nothing.
        high_water_ms: u64,
        /// Boot time since the reign was opened, by which session time advances.
        elapsed_ms: u64,
    },
    /// Ends the open reign for good, so that the next one need not wait for its lease.
    Release,
    /// Hands out blocks, or answers as before if the request was executed already.
    Advance(Advance),
    /// Forgets sessions that have been unused for longer than the retention, a bounded number of
    /// answers each.
    Expire {
        /// The sessions to look at, as [`Query::Expired`](super::Query::Expired) names them.
        sessions: Vec<Session>,
    },
    /// Forgets named requests whose time is over.
    ExpireNames {
        /// Those to look at, as [`Query::ExpiredNames`](super::Query::ExpiredNames) names them.
        names: Vec<RequestName>,
    },
    /// Sets the high-water of a state that was never used.
    Init {
        /// The high-water, inclusive: every timestamp will lie above it.
        high_water_ms: u64,
        /// The clock to compare it with, unless the operator insists.
        now_ms: Option<u64>,
    },
    /// Sets the first value of a sequence that was never used.
    Seed(Seed),
    /// Forgets a sequence, as if it had never been used.
    Delete {
        /// The sequence.
        key: SeqKey,
    },
    /// Opens sequences of a state that was restored from a backup.
    OpenSequences(OpenSequences),
    /// Grants, renews or ends stamping leases. Each of these also ends a bounded number of leases
    /// that have expired.
    Lease {
        /// What is asked for.
        ask: LeaseAsk,
        /// When, by the clocks of the leader.
        at: Moment,
    },
    /// Copies another state into one that was never used.
    Import(Import),
    /// Lets a state that was restored from a backup be served: in a new era, above a time that an operator
    /// names. Nothing that was seen or opened before shortens a wait.
    Adopt {
        /// The high-water, inclusive, unless the state's is higher.
        high_water_ms: u64,
        /// The lease to wait for, unless the state's is longer.
        lease_ms: u64,
        /// The clock to compare it with, unless the operator insists.
        now_ms: Option<u64>,
    },
}

/// Sets the first value of a sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed {
    /// The sequence.
    pub key: SeqKey,
    /// The first value of its first block.
    pub start: u64,
    /// The caps to apply.
    pub limits: Limits,
}

/// Opens sequences that may have gone back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenSequences {
    /// Those to open, each with a value that its next one is not to be below.
    pub floors: Vec<(SeqKey, u64)>,
    /// Opens all, wherever they stand then.
    pub all: bool,
}

/// A request about stamping leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseAsk {
    /// Grants a lease, or answers with the live one of the same holder and holder's epoch.
    Acquire {
        /// For whom.
        by: Requester,
        /// Who asks.
        holder: LeaseHolder,
        /// A higher one than that of the holder's live lease supersedes it, a lower one is refused.
        holder_epoch: u64,
        /// How long the lease runs, in milliseconds of a leader's serving time.
        ttl_ms: u64,
        /// The caps to apply.
        limits: Limits,
    },
    /// Lets a live lease run for its whole time again.
    Renew {
        /// For whom.
        by: Requester,
        /// Which.
        id: LeaseId,
    },
    /// Ends a lease; that there is none is no error.
    Release {
        /// For whom.
        by: Requester,
        /// Which.
        id: LeaseId,
    },
    /// Ends leases that have expired, and nothing else.
    Expire,
}

/// For whom something is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Requester {
    /// For this process, or somebody who may do everything.
    Process,
    /// For a client that has proven nothing.
    Anonymous,
    /// For a client that has proven who it is.
    Identified(Identity),
}

impl Requester {
    /// Whether it may do with a lease of this owner what its owner may.
    pub(super) fn may_act_for(&self, owner: Option<&Identity>) -> bool {
        match (self, owner) {
            (Self::Process, _) | (_, None) => true,
            (Self::Anonymous, Some(_)) => false,
            (Self::Identified(identity), Some(owner)) => identity == owner,
        }
    }

    /// Who owns what it acquires.
    pub(super) fn owner(&self) -> Option<&Identity> {
        match self {
            Self::Process | Self::Anonymous => None,
            Self::Identified(identity) => Some(identity),
        }
    }
}

/// A moment on the clocks of the leader that submits a command.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Moment {
    /// The wall clock, as far as it is believed: bounds are computed from it.
    pub now_ms: u64,
    /// Boot time since the reign was opened: leases expire by it.
    pub elapsed_ms: u64,
}

/// Asks for blocks of distinct keys, all or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advance {
    /// Each key with how many values it is asked for.
    pub entries: Vec<(SeqKey, u32)>,
    /// Present if the request is to be exactly once.
    pub id: Option<RequestId>,
    /// Present if it is to be so under a name; then it has no id.
    pub name: Option<NameRetention>,
    /// Boot time since the reign was opened, to stamp the session's last use with.
    pub elapsed_ms: u64,
    /// The caps to apply.
    pub limits: Limits,
}

/// The name of a request, and for how long its answer is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameRetention {
    /// The name.
    pub name: RequestName,
    /// How long, in session time.
    pub retention_ms: u64,
}

/// Caps on what the state may hold; beyond one, a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sequences.
    pub keys: u64,
    /// Sessions kept for exactly-once requests.
    pub sessions: u64,
    /// How far a request's number may lie above its session's first incomplete one, and so how
    /// many answers are kept per session; 4,096 at most.
    pub open_requests: u64,
    /// Stamping leases, superseded ones that have not expired included.
    pub leases: u64,
    /// Named requests whose answers are kept.
    pub named: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys: 100_000_000,
            sessions: 100_000,
            open_requests: 4_096,
            leases: 10_000,
            named: 1_000_000,
        }
    }
}

/// What a command that took effect answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The reign is fenced.
    Fenced {
        /// Its epoch.
        epoch: Epoch,
        /// The first millisecond that may be granted from.
        floor_ms: u64,
        /// The last one, until extended.
        high_water_ms: u64,
        /// The record the fence replaced, if there was any.
        replaced: Option<Box<ReignRecord>>,
    },
    /// The reign is open.
    Opened,
    /// The lease is renewed.
    Extended {
        /// The stored high-water.
        high_water_ms: u64,
    },
    /// The reign is over.
    Released,
    /// The blocks, in the order asked for.
    Advanced(Vec<SeqBlock>),
    /// How many sessions, or named requests, are gone.
    Expired(u64),
    /// The state is set up.
    Initialized,
    /// The state is adopted.
    Adopted {
        /// Every timestamp will lie above it.
        high_water_ms: u64,
    },
    /// The sequence is seeded, and starts here.
    Seeded(u64),
    /// The sequence is gone; its next block would have started here.
    Deleted(u64),
    /// The sequences are open, and begin here, in the order asked for.
    SequencesOpened {
        /// Their next values.
        nexts: Vec<u64>,
        /// Whether all others are still closed.
        closed: bool,
    },
    /// The lease, granted or renewed.
    Leased(LeaseGrant),
    /// The lease is over.
    LeaseReleased,
    /// How many leases that had expired are over.
    LeasesExpired(u64),
    /// The step of the import is done.
    Imported {
        /// How many entries were brought so far.
        entries: u64,
    },
}

/// A stamping lease, as the state grants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseGrant {
    /// Names it.
    pub id: LeaseId,
    /// The last millisecond that the holder may stamp.
    pub bound_ms: u64,
    /// When it runs out by the wall clock of the leader that granted or renewed it.
    pub expires_at_ms: u64,
    /// How long it may be relied on, from before the request was sent.
    pub remaining_ms: u64,
}

impl Command {
    /// Fills in when the command is submitted, where it depends on that.
    pub(crate) fn stamp(&mut self, now: Moment) {
        match self {
            Self::Advance(advance) => advance.elapsed_ms = now.elapsed_ms,
            Self::Lease { at, .. } => *at = now,
            _ => {}
        }
    }

    /// The caps that it is refused beyond, if there are any.
    pub(crate) fn limits_mut(&mut self) -> Option<&mut Limits> {
        match self {
            Self::Advance(advance) => Some(&mut advance.limits),
            Self::Seed(seed) => Some(&mut seed.limits),
            Self::Lease { ask: LeaseAsk::Acquire { limits, .. }, .. } => Some(limits),
            _ => None,
        }
    }

    /// What [`plan`](super::plan) most likely reads for this command, so that it can be read at once. Of
    /// a session all answers, so that nothing of it has to be read again.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        self.each_read(|read| read.add_to(&mut reads));
        reads
    }

    /// Adds to `reads` what of [`reads`](Self::reads) is not known.
    pub(crate) fn add_unknown(&self, known: &WorkingSet, reads: &mut Reads) {
        self.each_read(|read| {
            let is_known = match &read {
                Read::Key(key) => known.knows(key),
                Read::Range((from, to), _) => known.knows_range(from, to),
            };
            if !is_known {
                read.add_to(reads);
            }
        });
    }

    fn each_read(&self, mut read: impl FnMut(Read)) {
        read(Read::Key(Key::from_slice(keys::REIGN)));
        read(Read::Key(Key::from_slice(keys::META)));
        match self {
            Self::Advance(advance) => {
                advance.entries.iter().for_each(|(key, _)| read(Read::Key(keys::sequence(key))));
                if let Some(named) = &advance.name {
                    read(Read::Key(Key::from_slice(keys::NAMED)));
                    read(Read::Key(keys::named(named.name)));
                }
                if let Some(id) = &advance.id {
                    read(Read::Key(keys::session(id.session)));
                    read(Read::Range(keys::answers(id.session), session::MOST_PAGES));
                }
            }
            Self::Expire { sessions } => {
                for &session in sessions {
                    read(Read::Key(keys::session(session)));
                    read(Read::Range(keys::answers(session), session::CLEARED_PAGES));
                }
            }
            Self::ExpireNames { names } => {
                read(Read::Key(Key::from_slice(keys::NAMED)));
                names.iter().for_each(|name| read(Read::Key(keys::named(*name))));
            }
            Self::Seed(seed) => read(Read::Key(keys::sequence(&seed.key))),
            Self::Delete { key } => read(Read::Key(keys::sequence(key))),
            Self::OpenSequences(open) => {
                read(Read::Key(Key::from_slice(keys::RESTORED)));
                open.floors.iter().for_each(|(key, _)| read(Read::Key(keys::sequence(key))));
            }
            Self::Lease { ask, .. } => {
                read(Read::Key(Key::from_slice(keys::LEASES)));
                match ask {
                    LeaseAsk::Acquire { holder, .. } => read(Read::Key(keys::lease_of(holder))),
                    LeaseAsk::Renew { id, .. } | LeaseAsk::Release { id, .. } => {
                        read(Read::Key(keys::lease(*id)));
                    }
                    LeaseAsk::Expire => {}
                }
                read(Read::Range(keys::lease_ends(), lease::EXPIRE_LEASES));
            }
            Self::Import(_) => read(Read::Key(Key::from_slice(keys::IMPORT))),
            Self::Fence { .. }
            | Self::Open { .. }
            | Self::Extend { .. }
            | Self::Release
            | Self::Init { .. }
            | Self::Adopt { .. } => {}
        }
    }
}

/// Something that a command reads: a key, or a limited number of records of a range.
enum Read {
    Key(Key),
    Range((Key, Key), usize),
}

impl Read {
    fn add_to(self, reads: &mut Reads) {
        match self {
            Self::Key(key) => reads.keys.push(key.to_vec()),
            Self::Range((from, to), limit) => {
                reads.ranges.push(KeyRange { from: from.to_vec(), to: to.to_vec(), limit });
            }
        }
    }
}

/// A duration in whole milliseconds, as commands carry it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! The clauses of the protocol, each of which can be taken out of the model.

/// A clause. Its comment tells what goes wrong when that one is missing and all others are kept.
/// A, B and C are nodes, e1 < e2 < e3 are epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Clause {
    /// *A fence computes its floor from the state it replaces.* B reads high-water 0 and submits
    /// its fence; A opens and grants; B's fence lands with a floor that A has granted.
    FloorFromReplaced,
    /// *The floor is high-water + 1.* A grants the high-water itself, and B's first is the same.
    FloorAboveHighWater,
    /// *A fence stores max(old, own) as the lease.* A leads with a long lease; B fences over it,
    /// storing its own short one, and does not open. B claims again, waits out the short lease,
    /// opens and grants; A still serves from below.
    OldLeaseKept,
    /// *A fence keeps the old `opened_by`.* A leads; B fences, puts its name there, and crashes
    /// before it opens. B claims again, finds itself named, does not wait, and serves beside A.
    OpenedByKept,
    /// *A fence keeps the old `released`.* The same, with a record that looks released because
    /// nothing of B's epoch is open.
    ReleasedKept,
    /// *A fence of an older epoch is refused.* B fences with e2; A's fence with e1 lands after it:
    /// G5 is broken. G1 and G2 survive as long as `OrderOfCommits` and `OwnEpochNotReused` do.
    /// Without the former: B fences with e2, hears nothing, and fences again; the second lands; A
    /// fences over it with e1, and leads; B's first lands and makes e2 current again, and B opens
    /// with the floor from before A.
    OlderFenceRefused,
    /// *An epoch that was opened cannot fence again.* It matters only where an epoch is used twice:
    /// A releases e1 and claims it again, its fence is accepted, it opens; its Release, sent twice,
    /// lands again, and B takes over from a serving A without a wait.
    OpenedFenceRefused,
    /// *Open of an older epoch is refused.* A fences with e1; B fences with e2; A's Open lands, and
    /// A grants from below B's floor after B did.
    OlderOpenRefused,
    /// *Extend of an older epoch is refused.* B has taken over; A, paused until now, renews its
    /// lease with e1 and grants from its old window.
    OlderExtendRefused,
    /// *Release of an older epoch is refused.* A gives up on its Release of e1, and leads again with
    /// e2; the Release lands, and B takes over from A without a wait while A serves.
    OlderReleaseRefused,
    /// *Open sets `opened_by`.* A led and B has taken over, but the record still names A; A takes
    /// over from B, taking B's reign for its own, without a wait.
    OpenSetsOpenedBy,
    /// *Open clears `released`.* B takes over from A without a wait, although A serves.
    OpenClearsReleased,
    /// *A fence stores its own lease, if longer.* One of this and `OpenRecordsLease` is enough: the
    /// lease of a reign is on record when it opens. Without both: A serves a lease that the record
    /// does not know of, and B waits for none.
    FenceRecordsOwnLease,
    /// *Open sets the lease.* See `FenceRecordsOwnLease`; what Open adds is that a shorter lease
    /// replaces a longer one, so that nobody waits in vain.
    OpenRecordsLease,
    /// *An Open or Extend that changes no field is still a write,* with its own log index or
    /// modification revision. Otherwise B sees A's Open; A renews, and nothing about the record
    /// tells; B fences over what it takes for the very write it saw long ago, and does not wait.
    RenewalIsAWrite,
    /// *Only an opened reign may release.* A leads; B fences, stops before it opens, and releases;
    /// now the record calls A's reign released, and whoever comes next does not wait for it.
    ReleaseOnlyOpened,
    /// *After Release everything of that epoch is rejected.* A's Release lands, but A hears
    /// nothing, gives it up and renews its reign; the renewal is accepted, and A serves under a
    /// record that calls it released.
    NothingAfterRelease,
    /// *A new leader waits for the replaced lease.* A is paused, B serves, A goes on from its window.
    Waits,
    /// *It waits 1.1 times as long.* A's clock is slow, B's is fast: B has waited out the lease
    /// while A still sees it valid.
    WaitCoversDrift,
    /// *The wait counts from the fence's reply.* B submits its fence; time passes; A opens; B's
    /// fence lands, and B counts from before A's lease began.
    WaitCountsFromReply,
    /// *The wait is for the record that the fence replaced.* B reads a released record and submits
    /// its fence; A opens; B's fence lands, and B does not wait.
    WaitReadsReplaced,
    /// *Evidence counts only if it is about the very write replaced.* B sees A's Open; A renews;
    /// B's fence replaces the renewal, and B counts from when it saw the Open.
    EvidenceOfReplaced,
    /// *A node holds its directory's lock.* A second process of the node finds its own name in
    /// `opened_by` and does not wait for the first, which is alive.
    DirectoryLock,
    /// *Grants begin after Open.* A grants when it has sent its Open; it never lands, since B has
    /// fenced; to B nothing is open, so it does not wait.
    GrantsAfterOpen,
    /// *The deadline counts from the start of Open or Extend.* A's Open lands, B's fence lands; B
    /// waits; A's answer arrives at last, and A counts its lease from there.
    DeadlineFromStart,
    /// *The lease is checked on every grant.* B has waited, and A never looks at the clock.
    LeaseChecked,
    /// *It is checked after the request has arrived.* A checks, and is paused; B takes over and
    /// grants; a call that is sent to A after that is granted on the strength of the old check.
    LeaseCheckedAfterArrival,
    /// *The ceiling rises when the extension has committed.* A grants beyond the high-water while
    /// its Extend is on its way; the next fence does not know, and the same timestamps follow.
    CeilingAfterCommit,
    /// *An extension raises only the reign it was started for.* A extends e1, and claims e2 before
    /// the answer is there. It leads with e2 and releases it, having closed it and with no commit of
    /// e2 in flight. The answer for e1 arrives and opens the closed reign again.
    ReignsApart,
    /// *No allocation word is copied or reused.* A leads, B leads and grants, A leads again and goes
    /// on from the word it had in memory.
    WordNotCopied,
    /// *The answer to an Open of an older epoch starts no reign.* A's Open of e1 lands; A claims e2
    /// and leads; the answer for e1 arrives, and puts the old window in place of the new one.
    LateOpenIgnored,
    /// *Release closes the reign in memory before it commits.* A's Release lands, B serves without
    /// a wait, A has not heard yet and serves too.
    ReleaseClosesFirst,
    /// *Release lets commits in flight end first.* A's Extend has landed; A closes its reign and
    /// commits Release; the answer to Extend raises the deadline and so opens the reign again.
    ReleaseWaitsForCommits,
    /// *Every claim has an epoch of its own.* A and B both fence with e1 and both open it.
    FreshEpochPerClaim,
    /// *A node does not use its own epoch again,* be it after a crash or a release. Alone it costs
    /// no promise but the service: that epoch never fences again. See `OpenedFenceRefused`.
    OwnEpochNotReused,
    /// *A commit that timed out never lands after a later one of its epoch.* A gives up on its
    /// Release and renews its reign; then the Release lands, and B does not wait for A.
    OrderOfCommits,
}

/// The clauses in force: all but those removed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    removed: u64,
}

impl Rules {
    pub(crate) fn without(clauses: &[Clause]) -> Self {
        let bits = clauses.iter().map(|clause| 1 << *clause as u32);
        Self { removed: bits.fold(0, |removed, bit: u64| removed | bit) }
    }

    pub(crate) fn keep(self, clause: Clause) -> bool {
        self.removed & 1 << clause as u32 == 0
    }
}

//! The clauses of the protocol, each of which can be taken out of the model.

/// A clause. Its comment tells what goes wrong when that one is missing and all others are kept.
/// A, B and C are nodes, r1, r2 and r3 are reigns, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Clause {
    /// *A driver compares the version of a fence's base*, so that the fence is planned from the very
    /// record it replaces. B reads high-water 0 and submits its fence; A fences, opens and grants;
    /// B's fence lands with a floor that A has granted. The same follows where the record was read at
    /// an older version than the base.
    FenceCompared,
    /// *It compares that of an Open.* A fences; B fences; A's Open lands, and A grants from below B's
    /// floor after B did.
    OpenCompared,
    /// *It compares that of an Extend.* B has taken over; A, paused until now, renews its lease and
    /// grants from its old window.
    ExtendCompared,
    /// *It compares that of a Release.* A submits its Release, and claims again before it lands; it
    /// lands when A serves, says that nothing is open, and takes the high-water back with it.
    ReleaseCompared,
    /// *It compares each copy of a commit.* A's Open lands; B fences; the Open lands again, says that
    /// A's reign is the newest, and takes the high-water back with it.
    EachCopyCompared,
    /// *The floor is high-water + 1.* A grants the high-water itself, and B's first is the same.
    FloorAboveHighWater,
    /// *A fence raises the high-water to the end of its window.* A grants from a window of which the
    /// record does not know; B's begins at the same place.
    FenceRaisesHighWater,
    /// *A fence raises the epoch.* Two reigns have the same one, and G5 says nothing.
    FenceRaisesEpoch,
    /// *A fence writes the longer of both leases.* A leads with a long lease; B fences over it,
    /// writing its own short one, and does not open. B claims again, waits out the short lease,
    /// opens and grants; A still serves from below.
    OldLeaseKept,
    /// *A fence keeps the old `opened_by`.* A leads; B fences, puts its name there, and crashes
    /// before it opens. B claims again, finds itself named, does not wait, and serves beside A.
    OpenedByKept,
    /// *A fence keeps the old `released`.* The same, with a record that looks released because
    /// nothing of r2 is open.
    ReleasedKept,
    /// *Open sets `opened_by`.* A led and B has taken over, but the record still names A; A takes
    /// over from B, taking B's reign for its own, without a wait.
    OpenSetsOpenedBy,
    /// *Open clears `released`.* B takes over from A without a wait, although A serves.
    OpenClearsReleased,
    /// *A fence writes its own lease, if longer.* One of this and `OpenRecordsLease` is enough: the
    /// lease of a reign is on record when it opens. Without both: A serves a lease that the record
    /// does not know of, and B waits for none.
    FenceRecordsOwnLease,
    /// *Open sets the lease.* See `FenceRecordsOwnLease`; what Open adds is that a shorter lease
    /// replaces a longer one, so that no successor waits in vain.
    OpenRecordsLease,
    /// *A renewal is always a write.* B sees A's Open; A renews by finding its version unchanged; B
    /// fences over what it saw long ago, and does not wait.
    RenewalIsAWrite,
    /// *Every write of the reign record notes its own version.* The same: the renewal makes a version,
    /// but the record that B replaces still tells that of the Open.
    RenewalNotesVersion,
    /// *Only an opened reign may release.* A leads; B fences, stops before it opens, and releases;
    /// now the record calls A's reign released, and its successor does not wait for it.
    ReleaseOnlyOpened,
    /// *A new leader waits for the replaced lease.* A is paused, B serves, A goes on from its window.
    Waits,
    /// *It waits 1.1 times as long.* A's clock is slow, B's is fast: B has waited out the lease
    /// while A still sees it valid.
    WaitCoversDrift,
    /// *The wait counts from when the fence is known to be stored.* Alone it costs no promise: what the
    /// fence replaces was decided before it was planned, or its base would be gone. So counting from
    /// its start is as good.
    WaitCountsFromStored,
    /// *Evidence counts only if it is of the very version that wrote the replaced record,* or of a
    /// later one. B sees A's Open; A renews; B's fence replaces the renewal, and B counts from when it
    /// saw the Open.
    EvidenceOfReplaced,
    /// *Evidence is of decided commits only.* One of this and `EvidenceByName` is enough. Without both:
    /// B sees in its log an Open of A that is not decided; A sends another, which is decided in its
    /// place, later and with the same number; B counts from when it saw the first.
    EvidenceOfDecided,
    /// *Evidence is told by number and name.* See `EvidenceOfDecided`.
    EvidenceByName,
    /// *A later version is evidence only within the era.* B has seen a late version of the state that
    /// was lost; the adopted one has a lower number, and B does not wait for what A still serves.
    EvidenceOfSameEra,
    /// *A node holds its directory's lock.* A second process of the node finds its own name in
    /// `opened_by` and does not wait for the first, which is alive.
    DirectoryLock,
    /// *Grants begin after Open is stored.* A grants when it has sent its Open; it never lands, since B
    /// has fenced; to B nothing is open, so it does not wait.
    GrantsAfterOpen,
    /// *The deadline counts from the start of Open or Extend.* A's Open lands, B's fence lands; B
    /// waits; A's answer arrives at last, and A counts its lease from there.
    DeadlineFromStart,
    /// *It counts from the start of the very copy that landed.* A's Open is uncertain, and A sends
    /// another; the first lands, and B sees it; A counts from the second.
    DeadlineOfLanded,
    /// *An uncertain commit is settled by name.* A's Open is uncertain; B fences; A reads the number of
    /// its Open under another name, and takes it for stored.
    SettledByName,
    /// *What settles a commit renews nothing.* A's renewal is uncertain, a version-only commit lands in
    /// its place, and A counts its lease from there; B goes by the record, which does not tell.
    SettleRenewsNothing,
    /// *The lease is checked on every grant.* B has waited, and A never looks at the clock.
    LeaseChecked,
    /// *It is checked after the request has arrived.* A checks, and is paused; B takes over and
    /// grants; a call that is sent to A after that is granted on the strength of the old check.
    LeaseCheckedAfterArrival,
    /// *The ceiling rises when the extension is stored.* A grants beyond the high-water while
    /// its Extend is on its way; the next fence does not know, and the same timestamps follow.
    CeilingAfterCommit,
    /// *An extension raises only the reign it was started for.* It costs no promise, since closing a
    /// reign is final, and what an older reign had promised to it lies below a newer one's window.
    ReignsApart,
    /// *Closing a reign is final.* A renews and stops: it closes its reign; the answer to the renewal
    /// arrives, raises the deadline, and so opens it again; Release lands, and B does not wait.
    ClosedForGood,
    /// *No allocation word is copied or reused.* A leads, B leads and grants, A leads again and goes
    /// on from the word it had in memory.
    WordNotCopied,
    /// *A late answer to an Open starts no reign.* A's Open of r1 lands; A claims again and leads with
    /// r2; the answer for r1 arrives, and puts the old window in place of the new one.
    LateOpenIgnored,
    /// *An Open that is stored when its node is stopping starts no reign.* A releases what it has opened
    /// and serves; B takes over without a wait.
    StoppedOpenIgnored,
    /// *A reign is closed before a new fence is sent.* It costs no promise: the switch to the new reign,
    /// when its Open is stored, is early enough.
    ClosedBeforeFence,
    /// *Release closes the reign in memory before it commits.* A's Release lands, B serves without
    /// a wait, A has not heard yet and serves too.
    ReleaseClosesFirst,
    /// *An adoption raises the high-water above all that the lost state promised.* A grants what the
    /// backup did not know of, and so does B after it.
    AdoptionRaisesHighWater,
    /// *It writes a lease no shorter than any.* A leads by a long lease, and the backup tells B's short
    /// one.
    AdoptionTakesLongestLease,
    /// *It names no node as the opener.* The backup names B; B takes over without a wait, while A
    /// serves by what the lost state said.
    AdoptionClearsOpenedBy,
    /// *It counts as not released.* The backup was taken before A led.
    AdoptionClearsReleased,
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

    pub(crate) fn keep_all(self, clauses: &[Clause]) -> bool {
        clauses.iter().all(|clause| self.keep(*clause))
    }
}

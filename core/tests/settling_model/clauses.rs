//! The rules, each of which can be taken out of the model.

/// A rule. Its comment tells what goes wrong without it. A and B are nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Clause {
    /// *A commit is stored if the state is at its base.* A's commit lands after B's, and takes B's block
    /// from its request.
    Compared,
    /// *A replica that is behind the base does not tell.* It says that the state is at another version, A
    /// takes its commit for lost, and it lands.
    BehindDoesNotTell,
    /// *A conflict of one copy does not tell of another.* The first copy lands, something follows, the
    /// second finds the state further on.
    CopiesToldApart,
    /// *A reply leaves when what it was planned on is stored.* A request comes again while its commit is in
    /// flight, and is told the block; the commit is lost, and the request gets another block.
    RepliesAfterStored,
    /// *A read shows what is stored, not what is planned.* It shows a block that is never given.
    ReadsStored,
    /// *A read is answered under the lease.* A is deposed, and knows nothing of B's block.
    ReadsUnderLease,
    /// *A record joins the working set only if it was read at a version of the reign's chain.* A reads the
    /// sequence, B hands out a block, A leads again, the record arrives: the same block twice.
    JoinsOwnChain,
    /// *The reign's own writes since are laid over it.* A reads the sequence again, and hands out a block
    /// before the record arrives: the same block twice, without any conflict.
    OwnWritesOverlaid,
    /// *After anything but `Stored` the working set goes.* What was planned and not stored is written by
    /// the next commit: a block is spent on a request that was refused.
    LostPlansDropped,
    /// *What was planned on a commit is sent once that is stored, and dropped otherwise.* It is sent on
    /// whatever is stored in its place, with a block of the request that was refused.
    AheadAfterStored,
    /// *An uncertain commit is settled by name.* Another one made the next version.
    SettledByName,
    /// *A state that is still at the base does not tell.* The commit lands later.
    BaseDoesNotTell,
    /// *A state further on does not tell, unless its fence does.* The commit landed, and others after it.
    FurtherOnDoesNotTell,
    /// *A conflict with one's own commit is none.* A sends a version-only commit to decide; it conflicts,
    /// because the first one has landed.
    OwnCommitIsNoConflict,
}

/// The clauses in force: all but the one removed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) removed: Option<Clause>,
}

impl Rules {
    pub(crate) fn keep(self, clause: Clause) -> bool {
        self.removed != Some(clause)
    }
}

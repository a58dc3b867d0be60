//! What a driver, or a clock, can do wrong here.

/// A way in which a run is sabotaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// A fence is said to have replaced a write that was seen long ago.
    NoWaitForTheLease,
    /// The evidence is about the first write of the reign record that this node saw in that epoch.
    EvidenceOfAnotherWrite,
    /// A vote is answered before it is durable, and lost in a crash.
    VotesAreNotSynced,
    /// A commit is answered once it is on the leader's own disk.
    CommitsWithoutAMajority,
    /// The boot clock does not run while the node is paused.
    ClockStandsStill,
    /// Whatever is asked of whomever is forwarded to the leader, and committed under its epoch.
    IgnoresTheEpoch,
    /// What may have been committed is said to have certainly not been.
    UncertainIsRefused,
    /// A leader applies and answers what its own disk does not have yet.
    AppliesAheadOfItsDisk,
    /// A leader tells others that an entry is committed which its own disk does not have yet.
    TellsAheadOfItsDisk,
    /// A leader that is started again leads on in its term.
    LeadsOnAfterARestart,
    /// A transaction does not compare the revision in which the election key was created.
    ComparesNoCreation,
    /// A transaction does not compare the version of the state.
    ComparesNoVersion,
    /// A transaction compares neither.
    ComparesNothing,
}

impl Flaw {
    /// Whether it is about leaders who do not wait for their own disk before they send an entry.
    pub(crate) fn is_about_early_leaders(self) -> bool {
        matches!(
            self,
            Self::AppliesAheadOfItsDisk | Self::TellsAheadOfItsDisk | Self::LeadsOnAfterARestart
        )
    }
}

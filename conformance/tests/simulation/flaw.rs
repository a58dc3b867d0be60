//! What a driver, or a clock, can do wrong here.

use tsoracle_omnipaxos::simulation::Sabotage;
use tsoracle_openraft::simulation as openraft;

/// A way in which a run is sabotaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// Every version is said to have been seen long ago, so that no lease is waited for.
    NoWaitForTheLease,
    /// The evidence is about the first write of the reign record that this node saw in that epoch.
    EvidenceOfAnotherWrite,
    /// The evidence is about the first entry of that number that this node had in its log, decided or not.
    EvidenceOfUndecided,
    /// A vote is answered before it is durable, and lost in a crash.
    VotesAreNotSynced,
    /// A commit is answered once it is on the leader's own disk.
    CommitsWithoutAMajority,
    /// The boot clock does not run while the node is paused.
    ClockStandsStill,
    /// All boot clocks run twice as fast as those of the callers.
    ClocksRunFast,
    /// A commit is stored whatever the version, and a node that does not lead forwards it to the leader.
    IgnoresTheVersion,
    /// What may have been stored is said to have certainly not been.
    UncertainIsRefused,
    /// A conflict is said to be stored.
    ConflictIsStored,
    /// Of a commit that was stored, a conflict is said now and then.
    StoredIsAConflict,
    /// A conflict is said by a copy of the state that is behind the base.
    ConflictFromBehind,
    /// Reads are answered from a copy of the state that is older than what was read or stored here before.
    ReadsGoBack,
    /// A leader applies and answers what its own disk does not have yet.
    AppliesAheadOfItsDisk,
    /// A leader tells others that an entry is committed which its own disk does not have yet.
    TellsAheadOfItsDisk,
    /// A leader that is started again leads on in its term.
    LeadsOnAfterARestart,
    /// A leader that is asked to let others lead goes on leading.
    NeverResigns,
    /// A caller is told that its commit is stored once something is at the index at which it was put into the log.
    AnswersByIndex,
    /// Names under which another process has stored an answer are not known.
    ForgetsNames,
    /// The deletion of a sequence is not stored.
    ForgetsDeletions,
    /// What is synced is lost in a crash all the same.
    SyncsLie,
    /// Something within the omnipaxos driver.
    Within(Sabotage),
    /// Something within the openraft driver.
    WithinOpenraft(openraft::Sabotage),
}

impl Flaw {
    /// Whether it is about leaders that do not wait for their own disk before they send an entry.
    pub(crate) fn is_about_early_leaders(self) -> bool {
        use openraft::Sabotage;
        matches!(
            self,
            Self::AppliesAheadOfItsDisk
                | Self::TellsAheadOfItsDisk
                | Self::LeadsOnAfterARestart
                | Self::WithinOpenraft(
                    Sabotage::TellsAheadOfItsDisk | Sabotage::LeadsOnAfterARestart
                )
        )
    }
}

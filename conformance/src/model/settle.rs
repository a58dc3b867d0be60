//! Commits whose outcome is unknown, and how it becomes known.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tsoracle_core::{Clock, Effect, Reads, SystemClock, Version};

use super::{
    Commit, Walk,
    walk::{Answer, PATIENCE, send},
};

const PAUSE: Duration = Duration::from_millis(5);

impl Walk {
    /// Notes a commit that may be stored, or become so later.
    pub(crate) fn doubt(&mut self, commit: Commit) {
        self.doubtful.push(commit);
    }

    /// Notes a commit that its driver says is not stored.
    pub(crate) fn lose(&mut self, commit: &Commit) {
        self.lost.push(commit.next);
    }

    /// At most one of several commits on the state's version was stored, and the others say so.
    pub(crate) async fn judge_rivals(
        &mut self,
        commits: Vec<Commit>,
        answers: Vec<Result<Answer>>,
    ) -> Result<()> {
        let (mut made, mut stored) = (vec![], vec![]);
        for (commit, answer) in commits.into_iter().zip(answers) {
            match answer? {
                Answer::Refused => self.lose(&commit),
                Answer::Conflict(other) => {
                    made.push(other);
                    self.lose(&commit);
                }
                Answer::Uncertain => self.doubt(commit),
                Answer::Stored => {
                    stored.push(commit.next);
                    self.doubt(commit);
                }
            }
        }
        ensure!(stored.len() <= 1, "commits on one base were all stored: {stored:?}");
        made.extend(stored);
        for &version in &made {
            if !self.model.knows(version) {
                self.land(version).context("of several commits on one base")?;
            }
        }
        self.settle().await?;
        self.check_evidence()
    }

    /// Finds out which commits were stored: by a commit of the version alone on the same base. At most
    /// one of them all follows it.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        let begun = SystemClock.now().boot;
        while !self.doubtful.is_empty() {
            ensure!(
                SystemClock.now().boot.since(begun) < PATIENCE,
                "what became of a commit cannot be found out"
            );
            let node = self.leader().await?;
            if self.random.one_in(2) {
                self.read(node, &Reads::default()).await?;
                if self.doubtful.is_empty() {
                    return Ok(());
                }
            }
            let probe = self.prepare(&Effect::default());
            match send(&*self.nodes[node].driver, &probe).await? {
                Answer::Stored => {
                    self.doubtful.push(probe.clone());
                    self.land(probe.next)?;
                }
                Answer::Conflict(found) => self.land(found)?,
                Answer::Refused => {
                    self.lost.push(probe.next);
                    SystemClock.sleep(PAUSE).await;
                }
                Answer::Uncertain => self.doubtful.push(probe),
            }
        }
        Ok(())
    }

    /// Takes the doubtful commit that made `version` for stored, if one did.
    pub(crate) fn land_if_doubtful(&mut self, version: Version) -> Result<()> {
        match self.doubtful.iter().any(|commit| commit.next == version) {
            true => self.land(version),
            false => Ok(()),
        }
    }

    /// The state is at `version`: the commits that led there were stored, and others on their bases
    /// never will be.
    pub(crate) fn land(&mut self, version: Version) -> Result<()> {
        let mut path = vec![];
        let mut at = version;
        while at != self.model.version {
            let made = self.doubtful.iter().find(|commit| commit.next == at);
            let Some(made) = made else {
                bail!(
                    "the state is at {version:?}, which no commit of {:?} made",
                    self.doubtful_names()
                )
            };
            at = made.base;
            path.push(made.clone());
        }
        for commit in path.into_iter().rev() {
            self.model.store(&commit);
        }
        // Whatever follows on nothing that is there now is lost.
        let (model, lost) = (&self.model, &mut self.lost);
        let mut can_land = vec![model.version];
        let mut left: Vec<Commit> = vec![];
        for commit in std::mem::take(&mut self.doubtful) {
            if can_land.contains(&commit.base) {
                can_land.push(commit.next);
                left.push(commit);
            } else if !model.knows(commit.next) {
                lost.push(commit.next);
            }
        }
        self.doubtful = left;
        Ok(())
    }

    fn doubtful_names(&self) -> Vec<Version> {
        self.doubtful.iter().map(|commit| commit.next).collect()
    }
}

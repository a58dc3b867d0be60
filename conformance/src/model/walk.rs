use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tsoracle_core::{
    Clock, ConsensusDriver, Effect, ErrorKind, KeyRange, Leadership, Outcome, Reads, Snapshot,
    SystemClock, Version,
};

use super::{Commit, END, Entries, Model, Random};
use crate::{Fixture, fixture::the};

/// How long a check waits for what a driver must do by itself. Longer than any election, and than the largest
/// commit on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a walk waits before it asks again.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a commit that is held up is given to get as far as it can.
const MOMENT: Duration = Duration::from_millis(50);

/// How many entries a page of a comparison has at most.
const PAGE: usize = 500;

/// Drivers over one state, and the model that they are compared with.
pub(crate) struct Walk {
    pub(crate) fixture: Fixture,
    pub(crate) random: Random,
    pub(crate) model: Model,
    /// The drivers that are open.
    pub(crate) nodes: Vec<Node>,
    /// How many were opened since the last crash.
    opened: usize,
    /// Commits that may be stored, or become so later.
    pub(super) doubtful: Vec<Commit>,
    /// Versions that will never be made.
    pub(super) lost: Vec<Version>,
}

/// A driver that is open.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) driver: Arc<dyn ConsensusDriver>,
    /// Its number for [`Fixture::cut_off`].
    pub(crate) index: usize,
    pub(crate) is_cut_off: bool,
    leadership: watch::Receiver<Leadership>,
    /// The latest position that it has read, or stored.
    at: (u64, u64),
}

/// What a commit was answered, as far as it is no breach by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Stored,
    Conflict(Version),
    /// It is not stored and never will be.
    Refused,
    Uncertain,
}

impl Node {
    pub(crate) fn at(&self) -> (u64, u64) {
        self.at
    }
}

impl Walk {
    /// Opens a driver over nothing.
    pub(crate) async fn open(fixture: Fixture, seed: u64) -> Result<Self> {
        let mut walk = Self {
            fixture,
            random: Random::new(seed),
            model: Model::default(),
            nodes: vec![],
            opened: 0,
            doubtful: vec![],
            lost: vec![],
        };
        walk.join().await?;
        walk.learn().await?;
        Ok(walk)
    }

    /// Opens one more driver.
    pub(crate) async fn join(&mut self) -> Result<()> {
        let driver = self.fixture.open.run(()).await.context("the driver did not open")?;
        let leadership = driver.leadership();
        let (index, is_cut_off, at) = (self.opened, false, (0, 0));
        self.nodes.push(Node { driver, index, is_cut_off, leadership, at });
        self.opened += 1;
        Ok(())
    }

    /// The number of a driver that leads, once there is one.
    pub(crate) async fn leader(&mut self) -> Result<usize> {
        let leads = |node: &Node| {
            !node.is_cut_off && matches!(*node.leadership.borrow(), Leadership::Leader { .. })
        };
        let waiting = async {
            loop {
                if let Some(index) = self.nodes.iter().position(leads) {
                    return index;
                }
                SystemClock.sleep(PAUSE).await;
            }
        };
        timeout(PATIENCE, waiting).await.context("no driver came to lead")
    }

    /// Takes what a fresh state holds as the beginning, once a commit on that has shown it to be the newest.
    async fn learn(&mut self) -> Result<()> {
        let everything = KeyRange { from: vec![], to: END.into(), limit: PAGE };
        let reads = Reads { ranges: vec![everything], ..Reads::default() };
        let begun = SystemClock.now().boot;
        while SystemClock.now().boot.since(begun) < PATIENCE {
            let leader = self.leader().await?;
            let driver = self.nodes[leader].driver.clone();
            if let Some(mut found) = read(&*driver, &reads).await? {
                let some = found.ranges.pop().context("a range was read, and none came")?;
                ensure!(some.len() < PAGE, "a fresh state has {} entries", some.len());
                let mut entries = Entries::default();
                entries.insert(some);
                self.model = Model::of(found.version, entries);
                let first = self.prepare(&Effect::default());
                if let Answer::Stored = send(&*driver, &first).await? {
                    self.nodes[leader].at = first.next.position();
                    self.model.store(&first);
                    return Ok(());
                }
            }
            SystemClock.sleep(PAUSE).await;
        }
        bail!("for {PATIENCE:?}, a fresh state took no commit")
    }

    /// A commit of `effect` on `base`, which makes a version of its own.
    pub(crate) fn prepare_on(&mut self, base: Version, effect: &Effect) -> Commit {
        let next = Version { number: base.number + 1, name: self.random.name(), ..base };
        let mut effect = effect.clone();
        effect.set_version(next);
        Commit { base, next, effect, begun: SystemClock.now().boot }
    }

    pub(crate) fn prepare(&mut self, effect: &Effect) -> Commit {
        self.prepare_on(self.model.version, effect)
    }

    /// Makes a commit, however often that has to be tried. Returns the one that was stored.
    pub(crate) async fn commit(&mut self, effect: &Effect) -> Result<Commit> {
        self.commit_in_era(effect, 0).await
    }

    /// Makes a commit that raises the era, as an operator does who adopts a state.
    pub(crate) async fn raise_the_era(&mut self, effect: &Effect) -> Result<Commit> {
        self.commit_in_era(effect, 1).await
    }

    async fn commit_in_era(&mut self, effect: &Effect, raised: u64) -> Result<Commit> {
        self.settle().await?;
        let begun = SystemClock.now().boot;
        while SystemClock.now().boot.since(begun) < PATIENCE {
            let node = self.leader().await?;
            let mut commit = self.prepare(effect);
            commit.next.era += raised;
            commit.effect.set_version(commit.next);
            match send(&*self.nodes[node].driver, &commit).await? {
                Answer::Stored => {
                    self.nodes[node].at = commit.next.position();
                    self.model.store(&commit);
                    return Ok(commit);
                }
                Answer::Conflict(found) => {
                    bail!("on the state's version {:?}, a commit found {found:?}", commit.base)
                }
                Answer::Refused => self.lost.push(commit.next),
                Answer::Uncertain => {
                    self.doubtful.push(commit.clone());
                    self.settle().await?;
                    if self.model.knows(commit.next) {
                        return Ok(commit);
                    }
                }
            }
            SystemClock.sleep(PAUSE).await;
        }
        bail!("for {PATIENCE:?}, no commit was stored")
    }

    /// Cuts a driver off from everything else.
    pub(crate) async fn cut_off(&mut self, node: usize) -> Result<()> {
        the(&self.fixture.cut_off)?.begin.run(self.nodes[node].index).await?;
        self.nodes[node].is_cut_off = true;
        Ok(())
    }

    /// Undoes [`cut_off`](Self::cut_off).
    pub(crate) async fn reconnect(&mut self, node: usize) -> Result<()> {
        the(&self.fixture.cut_off)?.end.run(self.nodes[node].index).await?;
        self.nodes[node].is_cut_off = false;
        Ok(())
    }

    /// Cuts a driver off, and sends a commit through it, which cannot get through.
    pub(crate) async fn hold_up(
        &mut self,
        node: usize,
        effect: &Effect,
    ) -> Result<(Commit, JoinHandle<Result<Answer>>)> {
        let commit = self.prepare(effect);
        self.cut_off(node).await?;
        let (driver, sent) = (self.nodes[node].driver.clone(), commit.clone());
        let sending = tokio::spawn(async move { send(&*driver, &sent).await });
        SystemClock.sleep(MOMENT).await;
        Ok((commit, sending))
    }

    /// Undoes what [`hold_up`](Self::hold_up) did, and has the held up commit answered.
    pub(crate) async fn heal(
        &mut self,
        node: usize,
        commit: &Commit,
        sending: JoinHandle<Result<Answer>>,
    ) -> Result<()> {
        self.settle().await?;
        let was_made = self.model.knows(commit.next);
        self.reconnect(node).await?;
        let answer = timeout(PATIENCE, sending).await;
        let answer =
            answer.context("healed, it does not answer a commit that was held up")???;
        let is_right = match answer {
            Answer::Stored => was_made,
            Answer::Conflict(_) | Answer::Refused => !was_made,
            Answer::Uncertain => true,
        };
        ensure!(is_right, "a commit that was held up is answered {answer:?}; made: {was_made}");
        Ok(())
    }

    /// Reads through one driver, and compares. Nothing if it cannot answer now.
    pub(crate) async fn read(&mut self, node: usize, reads: &Reads) -> Result<Option<Version>> {
        let not_before = self.nodes[node].at;
        let Some(found) = read(&*self.nodes[node].driver, reads).await? else { return Ok(None) };
        self.judge(node, not_before, reads, &found)?;
        Ok(Some(found.version))
    }

    /// Judges what was read through a driver that was at `not_before` when it was asked.
    pub(crate) fn judge(
        &mut self,
        node: usize,
        not_before: (u64, u64),
        reads: &Reads,
        found: &Snapshot,
    ) -> Result<()> {
        let position = found.version.position();
        ensure!(
            position >= not_before,
            "a read is of {position:?}, though this process was at {not_before:?} before"
        );
        self.land_if_doubtful(found.version)?;
        self.model.expect(reads, found)?;
        let at = &mut self.nodes[node].at;
        *at = position.max(*at);
        Ok(())
    }

    /// Compares the whole state, page by page.
    pub(crate) async fn compare(&mut self) -> Result<()> {
        self.settle().await?;
        let node = self.leader().await?;
        self.catch_up(node).await?;
        let mut from = vec![];
        loop {
            let limit = self.model.entries.page(&from, PAGE);
            let range = KeyRange { from: from.clone(), to: END.into(), limit };
            let reads = Reads { keys: vec![], ranges: vec![range] };
            let found = read(&*self.nodes[node].driver, &reads).await?;
            let found = found.context("a page of the state cannot be read")?;
            ensure!(found.version == self.model.version, "a page is of {:?}", found.version);
            self.judge(node, (0, 0), &reads, &found)?;
            match found.ranges[0].last() {
                Some((last, _)) if found.ranges[0].len() == limit => {
                    from = [last, &[0][..]].concat();
                }
                _ => return Ok(()),
            }
        }
    }

    /// Waits until a driver has the newest state. One that owns it has no other.
    async fn catch_up(&mut self, node: usize) -> Result<()> {
        let begun = SystemClock.now().boot;
        loop {
            let version = self.read(node, &Reads::default()).await?;
            if version == Some(self.model.version) {
                return Ok(());
            }
            let waited = SystemClock.now().boot.since(begun);
            ensure!(
                waited < PATIENCE && (self.fixture.contends || version.is_none()),
                "the state is at {version:?}, and should be at {:?}",
                self.model.version
            );
            SystemClock.sleep(PAUSE).await;
        }
    }

    /// Evidence is of no moment before the version was made, and there is none of what was lost.
    pub(crate) fn check_evidence(&mut self) -> Result<()> {
        let mut unknown = self.model.version;
        unknown.name = self.random.name();
        let (mut later, mut era) = (unknown, unknown);
        later.number += 1;
        era.era += 1;
        let lost = self.lost.iter().rev().take(20).copied();
        let never: Vec<_> = lost.chain([unknown, later, era]).collect();
        // A commit in doubt may have landed, and the driver may have observed that by itself.
        let doubtful = self.doubtful.iter().map(|commit| commit.next.position());
        let reached = doubtful.chain([self.model.version.position()]).max();
        for node in &self.nodes {
            let now = |when| when <= SystemClock.now().boot;
            for &version in &never {
                let seen = node.driver.seen(&version);
                // Of an older one, it may know no more than that it is over.
                let is_over = Some(version.position()) < reached;
                ensure!(
                    seen.is_none() || is_over,
                    "{version:?} was never made, but seen: {seen:?}"
                );
            }
            for (version, begun) in self.model.versions().take(20) {
                let seen = node.driver.seen(&version);
                ensure!(
                    seen.is_none_or(|seen| begun <= seen && now(seen)),
                    "{version:?} was begun at {begun:?}, and is said to be seen at {seen:?}"
                );
            }
        }
        Ok(())
    }

    /// Stops all drivers, and opens one over what they left.
    pub(crate) async fn reopen(&mut self) -> Result<()> {
        for node in std::mem::take(&mut self.nodes) {
            node.driver.shutdown().await.context("a driver did not stop")?;
        }
        self.join().await
    }

    /// Ends all drivers as `kill -9` does, and opens one over what they left.
    pub(crate) async fn crash(&mut self) -> Result<()> {
        the(&self.fixture.crash)?.run(()).await.context("the drivers were not crashed")?;
        self.open_after_end().await
    }

    /// As [`crash`](Self::crash), and loses what was not synced.
    pub(crate) async fn lose_power(&mut self) -> Result<()> {
        the(&self.fixture.lose_power)?.run(()).await.context("the power was not cut")?;
        self.open_after_end().await
    }

    async fn open_after_end(&mut self) -> Result<()> {
        self.nodes.clear();
        self.opened = 0;
        self.join().await.context("after the end of all drivers")
    }
}

/// Sends a commit, and sorts what comes.
pub(crate) async fn send(driver: &dyn ConsensusDriver, commit: &Commit) -> Result<Answer> {
    let sending = driver.commit(commit.base, commit.effect.clone());
    let outcome = timeout(PATIENCE, sending).await.context("a commit is not answered")?;
    match outcome {
        Ok(Outcome::Stored) => Ok(Answer::Stored),
        Ok(Outcome::Conflict { found }) => {
            let (base, next) = (commit.base, commit.next);
            ensure!(
                found.position() >= base.position() && found != base && found != next,
                "on {base:?}, a commit of {next:?} is said to conflict with {found:?}"
            );
            Ok(Answer::Conflict(found))
        }
        Err(error) => match error.kind() {
            ErrorKind::NotLeader(_) | ErrorKind::Unavailable => Ok(Answer::Refused),
            ErrorKind::Uncertain => Ok(Answer::Uncertain),
            _ => bail!("a commit failed: {error:#}"),
        },
    }
}

/// Reads. Nothing if the driver cannot answer now.
pub(crate) async fn read(driver: &dyn ConsensusDriver, reads: &Reads) -> Result<Option<Snapshot>> {
    match timeout(PATIENCE, driver.read(reads)).await.context("a read is not answered")? {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.kind() {
            ErrorKind::NotLeader(_) | ErrorKind::Unavailable => Ok(None),
            _ => bail!("a read failed: {error:#}"),
        },
    }
}

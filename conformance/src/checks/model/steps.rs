//! What may happen in a random walk.

use std::{future::Future, pin::Pin, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{FutureExt, future::join_all};
use tokio::time::timeout;
use tsoracle_core::{Effect, Outcome, Reads, Version};

use crate::{
    Fixture,
    fixture::{Need, needs, the},
    model::{self, Answer, Walk, read, send},
};

/// How many drivers are open at once, at most.
const MOST_NODES: usize = 3;

/// How long a commit on a base that does not exist yet is waited for. It may wait for that base.
const MOMENT: Duration = Duration::from_millis(20);

type Taking<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// A thing that may happen.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) needs: &'static [Need<Fixture>],
    /// How often it happens, compared with the others.
    pub(super) weight: usize,
    pub(super) take: for<'a> fn(&'a mut Walk) -> Taking<'a>,
}

macro_rules! steps {
    ($($name:ident $weight:literal [$($need:ident),*])+) => {
        pub(super) const STEPS: &[Step] = &[$(Step {
            name: stringify!($name),
            needs: needs!(Fixture: $($need),*),
            weight: $weight,
            take: |walk| Box::pin($name(walk)),
        }),+];
    };
}

steps! {
    commit 50 []
    read_keys_and_ranges 25 []
    commit_on_a_base_that_is_gone 8 []
    commit_on_a_base_that_never_existed 8 []
    commit_on_a_base_of_the_future 2 []
    send_the_last_commit_again 6 []
    send_an_older_commit_again 3 []
    send_several_commits_on_one_base 8 []
    send_a_chain_of_commits_and_read 8 []
    drop_a_commit 5 []
    raise_the_era 1 []
    reopen 3 [reopens]
    crash 3 [crash]
    lose_power 4 [lose_power]
    fail_the_storage 1 [fail_storage, crash]
    open_a_contender 3 [contends]
    stop_the_leader 1 [contends]
    cut_the_leader_off 1 [contends, cut_off]
}

fn draw(walk: &mut Walk) -> Effect {
    model::effect(&mut walk.random, &walk.model.entries)
}

/// Any driver, not only the one that leads.
fn any_node(walk: &mut Walk) -> usize {
    walk.random.below(walk.nodes.len())
}

async fn commit(walk: &mut Walk) -> Result<()> {
    let effect = draw(walk);
    walk.commit(&effect).await.map(drop)
}

async fn read_keys_and_ranges(walk: &mut Walk) -> Result<()> {
    let node = any_node(walk);
    let reads = model::reads(&mut walk.random);
    walk.read(node, &reads).await.map(drop)
}

/// Sends a commit on a base that is not the state's version.
async fn commit_on(walk: &mut Walk, base: Version) -> Result<()> {
    let effect = draw(walk);
    let commit = walk.prepare_on(base, &effect);
    walk.lose(&commit);
    let node = any_node(walk);
    let sending = send(&*walk.nodes[node].driver, &commit);
    let answer = match base.position() <= walk.model.version.position() {
        true => sending.await?,
        false => timeout(MOMENT, sending).await.unwrap_or(Ok(Answer::Uncertain))?,
    };
    let now = walk.model.version;
    match answer {
        Answer::Stored => {
            anyhow::bail!("the state is at {now:?}, and a commit on {base:?} is stored")
        }
        Answer::Conflict(found) => {
            walk.land_if_doubtful(found)?;
            ensure!(walk.model.knows(found), "{found:?} was found, which no commit has made");
        }
        Answer::Refused | Answer::Uncertain => {}
    }
    let leader = walk.leader().await?;
    walk.read(leader, &Reads::default()).await.map(drop)
}

async fn commit_on_a_base_that_is_gone(walk: &mut Walk) -> Result<()> {
    let ago = 1 + walk.random.below(5);
    match walk.model.before(ago) {
        Some(base) => commit_on(walk, base).await,
        None => Ok(()),
    }
}

async fn commit_on_a_base_that_never_existed(walk: &mut Walk) -> Result<()> {
    let number = walk.model.version.number;
    let number = number.saturating_sub(walk.random.below(3) as u64);
    let base = Version { number, name: walk.random.name(), ..walk.model.version };
    commit_on(walk, base).await
}

async fn commit_on_a_base_of_the_future(walk: &mut Walk) -> Result<()> {
    let mut base = Version { name: walk.random.name(), ..walk.model.version };
    match walk.random.one_in(3) {
        true => base.era += 1,
        false => base.number += 1 + walk.random.below(3) as u64,
    }
    commit_on(walk, base).await
}

async fn send_the_last_commit_again(walk: &mut Walk) -> Result<()> {
    let effect = draw(walk);
    let commit = walk.commit(&effect).await?;
    let node = walk.leader().await?;
    let answer = send(&*walk.nodes[node].driver, &commit).await?;
    if let Answer::Conflict(found) = answer {
        anyhow::bail!("a stored commit was sent again, and is said to conflict with {found:?}");
    }
    let reads = model::reads(&mut walk.random);
    walk.read(node, &reads).await.map(drop)
}

async fn send_an_older_commit_again(walk: &mut Walk) -> Result<()> {
    let effect = draw(walk);
    let older = walk.commit(&effect).await?;
    // Overwrites the same keys, so that it shows when the older one is made again.
    let mut newer = Effect::default();
    for (key, _) in effect.iter() {
        newer.put(key, "newer");
    }
    walk.commit(&newer).await?;
    let node = any_node(walk);
    // It is stored, though the driver may not know that any more; only that it is not made again.
    send(&*walk.nodes[node].driver, &older).await?;
    let reads = Reads::keys(newer.iter().map(|(key, _)| key));
    let leader = walk.leader().await?;
    walk.read(leader, &reads).await.map(drop)
}

async fn send_several_commits_on_one_base(walk: &mut Walk) -> Result<()> {
    walk.settle().await?;
    let mut commits = vec![];
    for _ in 0..2 + walk.random.below(5) {
        let (node, effect) = (any_node(walk), draw(walk));
        commits.push((node, walk.prepare(&effect)));
    }
    let nodes = &walk.nodes;
    let sending = commits.iter().map(|(node, commit)| send(&*nodes[*node].driver, commit));
    let answers = join_all(sending).await;
    let commits = commits.into_iter().map(|(_, commit)| commit).collect();
    walk.judge_rivals(commits, answers).await
}

async fn send_a_chain_of_commits_and_read(walk: &mut Walk) -> Result<()> {
    walk.settle().await?;
    let leader = walk.leader().await?;
    let (mut base, mut commits) = (walk.model.version, vec![]);
    for _ in 0..1 + walk.random.below(4) {
        let effect = draw(walk);
        let commit = walk.prepare_on(base, &effect);
        base = commit.next;
        commits.push(commit);
    }
    let mut reads = vec![];
    for _ in 0..walk.random.below(5) {
        reads.push((any_node(walk), model::reads(&mut walk.random)));
    }
    let not_before: Vec<_> = walk.nodes.iter().map(|node| node.at()).collect();
    let (nodes, driver) = (&walk.nodes, &*walk.nodes[leader].driver);
    let sending = join_all(commits.iter().map(|commit| send(driver, commit)));
    let reading = join_all(reads.iter().map(|(node, reads)| read(&*nodes[*node].driver, reads)));
    let (answers, found) = futures::join!(sending, reading);
    let mut last = None;
    for (commit, answer) in commits.into_iter().zip(answers) {
        match answer? {
            Answer::Stored => {
                last = Some(commit.next);
                walk.doubt(commit);
            }
            Answer::Uncertain => walk.doubt(commit),
            Answer::Refused => walk.lose(&commit),
            Answer::Conflict(found) => {
                anyhow::bail!("no other commit was sent, and one conflicts with {found:?}")
            }
        }
    }
    // What was read and what was answered as stored was made; only of the rest it is unknown.
    if let Some(last) = last {
        walk.land(last).context("of a chain of commits")?;
    }
    for ((node, reads), found) in reads.iter().zip(found) {
        if let Some(found) = found? {
            walk.judge(*node, not_before[*node], reads, &found)?;
        }
    }
    walk.settle().await
}

async fn drop_a_commit(walk: &mut Walk) -> Result<()> {
    walk.settle().await?;
    let (node, effect) = (any_node(walk), draw(walk));
    let commit = walk.prepare(&effect);
    let driver = walk.nodes[node].driver.clone();
    // One poll is what it takes to begin.
    let outcome = driver.commit(commit.base, commit.effect.clone()).now_or_never();
    walk.doubt(commit);
    if let Some(Ok(Outcome::Conflict { found })) = outcome {
        anyhow::bail!("on the state's version, a commit conflicts with {found:?}");
    }
    // Often the next commit finds out what became of it.
    if walk.random.one_in(2) { walk.settle().await } else { Ok(()) }
}

/// As an operator does who adopts a state.
async fn raise_the_era(walk: &mut Walk) -> Result<()> {
    let effect = draw(walk);
    walk.raise_the_era(&effect).await.map(drop)
}

async fn reopen(walk: &mut Walk) -> Result<()> {
    walk.settle().await?;
    let old: Vec<_> = walk.nodes.iter().map(|node| node.driver.clone()).collect();
    walk.reopen().await?;
    for driver in old {
        let answer = driver.read(&Reads::default()).await;
        ensure!(answer.is_err(), "a driver that has stopped answers a read: {answer:?}");
    }
    walk.compare().await
}

async fn crash(walk: &mut Walk) -> Result<()> {
    // A copy is taken of what stands still.
    walk.settle().await?;
    walk.crash().await?;
    walk.compare().await
}

async fn lose_power(walk: &mut Walk) -> Result<()> {
    walk.lose_power().await?;
    walk.compare().await
}

async fn fail_the_storage(walk: &mut Walk) -> Result<()> {
    walk.settle().await?;
    let node = walk.leader().await?;
    the(&walk.fixture.fail_storage)?.run(()).await?;
    let driver = walk.nodes[node].driver.clone();
    let effect = draw(walk);
    let commit = walk.prepare(&effect);
    let outcome = driver.commit(commit.base, commit.effect.clone()).await;
    ensure!(outcome.is_err(), "the storage failed, and a commit is answered {outcome:?}");
    walk.doubt(commit);
    let found = driver.read(&Reads::default()).await;
    ensure!(found.is_err(), "the storage has failed, and a read is answered {found:?}");
    walk.crash().await?;
    walk.compare().await
}

async fn open_a_contender(walk: &mut Walk) -> Result<()> {
    if walk.nodes.len() < MOST_NODES {
        walk.join().await?;
    }
    Ok(())
}

async fn stop_the_leader(walk: &mut Walk) -> Result<()> {
    if walk.nodes.len() < 2 {
        return Ok(());
    }
    let leader = walk.leader().await?;
    let stopped = walk.nodes.remove(leader);
    stopped.driver.shutdown().await.context("a leader did not stop")?;
    walk.compare().await
}

async fn cut_the_leader_off(walk: &mut Walk) -> Result<()> {
    walk.settle().await?;
    while walk.nodes.len() < 2 {
        walk.join().await?;
    }
    let leader = walk.leader().await?;
    let effect = draw(walk);
    let (held_up, sending) = walk.hold_up(leader, &effect).await?;
    let seen = walk.nodes[leader].driver.seen(&held_up.next);
    ensure!(seen.is_none() || sending.is_finished(), "an undecided commit was seen at {seen:?}");
    walk.doubt(held_up.clone());
    let effect = draw(walk);
    walk.commit(&effect).await.context("after the leader was cut off")?;
    walk.check_evidence()?;
    walk.heal(leader, &held_up, sending).await?;
    walk.compare().await
}

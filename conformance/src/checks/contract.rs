//! `ConsensusDriver`, sentence by sentence.

mod calls;
mod evidence;

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use tsoracle_core::{Effect, MAX_BATCH, MAX_KEY_BYTES, Version};

use crate::{
    model::{Answer, Commit, Walk, send},
    rig::Rig,
};

pub(in crate::checks) fn checks() -> Vec<crate::Check> {
    [CHECKS, calls::CHECKS, evidence::CHECKS].concat()
}

checks!("contract":
    a_commit_on_the_states_version_makes_all_of_its_writes,
    a_commit_on_any_other_version_makes_none,
    a_state_that_is_behind_a_base_says_no_conflict,
    a_commit_that_is_sent_again_is_made_once,
    at_most_one_commit_follows_a_base,
    of_contenders_that_commit_on_one_base_one_succeeds [Contend],
    a_commit_survives_a_reopen [Reopen],
    a_commit_survives_a_crash [Crash],
    a_commit_survives_a_power_loss [LosePower],
    a_commit_that_is_cut_by_a_power_loss_is_there_whole_or_not_at_all [LosePower],
    the_limits_hold_the_largest_request,
);

/// An effect that writes the same value under some keys, so that a part of it shows.
pub(super) fn alike(value: &str) -> Effect {
    let mut effect = Effect::default();
    ["a", "ab", "b", "z"].iter().for_each(|&key| effect.put(key, value));
    effect
}

async fn a_commit_on_the_states_version_makes_all_of_its_writes(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 1).await?;
    for round in 0..10 {
        let mut effect = alike(&round.to_string());
        effect.put(format!("round {round}"), "");
        effect.delete(format!("round {}", round / 2));
        walk.commit(&effect).await?;
        walk.compare().await?;
    }
    Ok(())
}

/// Sends a commit that must not be stored, and looks that it was not.
async fn is_not_stored(walk: &mut Walk, base: Version, what: &str) -> Result<()> {
    let commit = walk.prepare_on(base, &alike("wrong"));
    let leader = walk.leader().await?;
    match send(&*walk.nodes[leader].driver, &commit).await? {
        Answer::Stored => bail!("a commit on {what} is stored"),
        Answer::Conflict(found) => {
            ensure!(found == walk.model.version, "the state is not at {found:?}");
        }
        Answer::Refused | Answer::Uncertain => {}
    }
    walk.compare().await.with_context(|| format!("after a commit on {what}"))
}

async fn a_commit_on_any_other_version_makes_none(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 2).await?;
    let first = walk.commit(&alike("1")).await?;
    let second = walk.commit(&alike("2")).await?;
    walk.commit(&alike("3")).await?;
    let now = walk.model.version;
    is_not_stored(&mut walk, second.next, "the version before").await?;
    is_not_stored(&mut walk, first.base, "a version that is long gone").await?;
    let renamed = Version { name: now.name ^ 1, ..now };
    is_not_stored(&mut walk, renamed, "a version of the right number and another name").await?;
    let made_up = Version { name: 1, ..first.next };
    is_not_stored(&mut walk, made_up, "a version that never existed").await
}

async fn a_state_that_is_behind_a_base_says_no_conflict(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 3).await?;
    walk.commit(&alike("1")).await?;
    let now = walk.model.version;
    for base in [Version { number: now.number + 1, ..now }, Version { era: now.era + 1, ..now }] {
        let commit = walk.prepare_on(base, &alike("wrong"));
        let leader = walk.leader().await?;
        // It may wait until the state gets there, which it never does.
        let sending = send(&*walk.nodes[leader].driver, &commit);
        if let Ok(answer) = tokio::time::timeout(calls::MOMENT, sending).await {
            let answer = answer?;
            let is_right = matches!(answer, Answer::Refused | Answer::Uncertain);
            ensure!(is_right, "at {now:?}, a commit on {base:?} is answered {answer:?}");
        }
        walk.compare().await?;
    }
    Ok(())
}

async fn again(walk: &mut Walk, commit: &Commit) -> Result<Answer> {
    let leader = walk.leader().await?;
    let answer = send(&*walk.nodes[leader].driver, commit).await?;
    walk.compare().await.with_context(|| format!("it was sent again, and answered {answer:?}"))?;
    Ok(answer)
}

async fn a_commit_that_is_sent_again_is_made_once(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 4).await?;
    for round in 0..8 {
        let first = walk.commit(&alike(&format!("first {round}"))).await?;
        let answer = again(&mut walk, &first).await?;
        ensure!(!matches!(answer, Answer::Conflict(_)), "a stored commit is answered {answer:?}");
        walk.commit(&alike(&format!("second {round}"))).await?;
        again(&mut walk, &first).await?;
    }
    Ok(())
}

/// Sends commits on the state's version at once, each by one of `nodes` in turn.
async fn race(walk: &mut Walk, nodes: &[usize], count: usize) -> Result<()> {
    let commits: Vec<_> = (0..count)
        .map(|rival| (nodes[rival % nodes.len()], walk.prepare(&alike(&format!("rival {rival}")))))
        .collect();
    let sending = commits.iter().map(|(node, commit)| send(&*walk.nodes[*node].driver, commit));
    let answers = join_all(sending).await;
    walk.judge_rivals(commits.into_iter().map(|(_, commit)| commit).collect(), answers).await?;
    walk.compare().await
}

async fn at_most_one_commit_follows_a_base(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 5).await?;
    for _ in 0..10 {
        let leader = walk.leader().await?;
        race(&mut walk, &[leader], 6).await?;
    }
    Ok(())
}

async fn of_contenders_that_commit_on_one_base_one_succeeds(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 6).await?;
    walk.join().await?;
    for _ in 0..10 {
        race(&mut walk, &[0, 1], 6).await?;
    }
    Ok(())
}

async fn a_commit_survives_a_reopen(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 7).await?;
    for round in 0..4 {
        walk.commit(&alike(&round.to_string())).await?;
        walk.reopen().await?;
        walk.compare().await?;
    }
    Ok(())
}

async fn a_commit_survives_a_crash(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 8).await?;
    for round in 0..3 {
        walk.commit(&alike(&round.to_string())).await?;
        walk.crash().await?;
        walk.compare().await?;
    }
    Ok(())
}

async fn a_commit_survives_a_power_loss(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 9).await?;
    for round in 0..8 {
        for commit in 0..=round {
            walk.commit(&alike(&format!("{round} {commit}"))).await?;
        }
        walk.lose_power().await?;
        walk.compare().await?;
    }
    Ok(())
}

async fn a_commit_that_is_cut_by_a_power_loss_is_there_whole_or_not_at_all(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 10).await?;
    for round in 0..6 {
        walk.commit(&alike(&format!("before {round}"))).await?;
        calls::begin_and_drop(&mut walk, &alike(&format!("cut {round}")));
        walk.lose_power().await?;
        walk.compare().await?;
    }
    Ok(())
}

async fn the_limits_hold_the_largest_request(rig: Rig) -> Result<()> {
    let walk = Walk::open(rig, 11).await?;
    let limits = walk.nodes[0].driver.limits();
    // Each key and what is kept of its answer, and the records around them.
    let writes = 2 * MAX_BATCH;
    let bytes = writes * Effect::size_of(&[0; MAX_KEY_BYTES + 1], Some(&[0; 32]));
    ensure!(limits.writes >= writes, "{limits:?}, of at least {writes} writes");
    ensure!(limits.bytes >= bytes, "{limits:?}, of at least {bytes} bytes");
    Ok(())
}

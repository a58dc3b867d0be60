//! `seen`: when this process first observed the commit that made a version, once it was decided.

use anyhow::{Result, ensure};
use futures::future::join_all;
use tsoracle_core::{Clock, SystemClock, Version};

use super::{MakeFixture, calls::MOMENT, commit::alike};
use crate::model::{Walk, send};

checks!("seen":
    evidence_is_of_no_moment_before_the_commit_was_sent,
    what_was_never_made_is_never_seen,
    a_commit_that_conflicted_is_never_seen,
    a_commit_of_another_era_is_no_evidence,
    what_may_still_be_overwritten_is_not_seen [contends, cut_off],
);

async fn evidence_is_of_no_moment_before_the_commit_was_sent(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 1).await?;
    if walk.fixture.contends {
        walk.join().await?;
    }
    for round in 0..10 {
        walk.commit(&alike(&round.to_string())).await?;
        walk.check_evidence()?;
    }
    // A later look finds no earlier moment.
    SystemClock.sleep(MOMENT).await;
    walk.check_evidence()
}

async fn what_was_never_made_is_never_seen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    for round in 0..5 {
        walk.commit(&alike(&round.to_string())).await?;
        let now = walk.model.version;
        for never in [
            Version { name: now.name ^ 1, ..now },
            Version { number: now.number + 1, ..now },
            Version { number: now.number + 1, name: 1, ..now },
            Version { era: now.era + 1, ..now },
        ] {
            let seen = walk.nodes[0].driver.seen(&never);
            ensure!(seen.is_none(), "the state is at {now:?}, and {never:?} was seen at {seen:?}");
        }
    }
    Ok(())
}

async fn a_commit_that_conflicted_is_never_seen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 3).await?;
    for round in 0..10 {
        let leader = walk.leader().await?;
        let commits: Vec<_> =
            (0..4).map(|rival| walk.prepare(&alike(&format!("{round} {rival}")))).collect();
        let driver = &*walk.nodes[leader].driver;
        let answers = join_all(commits.iter().map(|commit| send(driver, commit))).await;
        // Each of them looks at the evidence, when all are decided.
        walk.judge_rivals(commits, answers).await?;
    }
    Ok(())
}

async fn a_commit_of_another_era_is_no_evidence(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 5).await?;
    let last = walk.commit(&alike("before")).await?.next;
    walk.raise_the_era(&alike("raised")).await?;
    let now = walk.commit(&alike("after")).await?.next;
    for number in [last.number + 1, now.number] {
        let never = Version { number, name: 1, ..last };
        let seen = walk.nodes[0].driver.seen(&never);
        ensure!(
            seen.is_none(),
            "{last:?} is the last of its era, and {never:?} was seen: {seen:?}"
        );
    }
    walk.check_evidence()
}

async fn what_may_still_be_overwritten_is_not_seen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    walk.commit(&alike("before")).await?;
    walk.join().await?;
    let (held_up, sending) = walk.hold_up(0, &alike("held up")).await?;
    let seen = walk.nodes[0].driver.seen(&held_up.next);
    ensure!(seen.is_none(), "cut off, it saw its own commit at {seen:?}");
    walk.doubt(held_up.clone());
    walk.commit(&alike("after")).await?;
    walk.check_evidence()?;
    walk.heal(0, &held_up, sending).await?;
    walk.compare().await?;
    walk.check_evidence()
}

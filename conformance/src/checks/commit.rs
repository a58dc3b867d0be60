//! `commit`: if the state is at the base version, all writes of the effect are made, atomically and
//! durably; otherwise none.

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use tokio::time::timeout;
use tsoracle_core::{Clock, Effect, Reads, SystemClock, Version};

use super::{MakeFixture, calls};
use crate::{
    fixture::the,
    model::{Answer, Commit, Walk, send},
};

checks!("commit":
    a_commit_on_the_states_version_makes_all_of_its_writes,
    a_commit_on_any_other_version_makes_none,
    the_whole_version_is_compared_and_not_a_part_of_it,
    a_state_that_is_behind_a_base_says_no_conflict,
    a_commit_that_is_sent_again_is_made_once,
    a_commit_that_conflicts_is_never_stored,
    at_most_one_commit_ever_follows_a_base,
    two_nodes_that_believe_to_lead_cannot_both_commit_on_one_base [contends],
    a_commit_whose_answer_is_lost_is_not_said_to_be_refused [contends, lose_answers],
    what_was_stored_is_there_after_a_reopen [reopens],
    what_was_stored_after_a_reopen_is_there_after_the_next [reopens],
    what_was_stored_is_there_after_a_crash [crash],
    what_was_stored_survives_a_power_loss [lose_power],
    a_commit_that_is_cut_by_a_power_loss_is_there_whole_or_not_at_all [lose_power],
    what_was_deleted_is_gone_after_a_reopen [reopens],
    an_empty_value_is_a_value_and_zeros_are_bytes_after_a_reopen [reopens],
    the_last_of_several_values_is_there_after_a_reopen [reopens],
    keys_that_are_alike_are_different_keys_after_a_reopen [reopens],
);

/// An effect that writes the same value under some keys, so that a part of it shows.
pub(super) fn alike(value: &str) -> Effect {
    puts(&["a", "ab", "b", "z"], value)
}

fn puts(keys: &[&str], value: &str) -> Effect {
    let mut effect = Effect::default();
    keys.iter().for_each(|&key| effect.put(key, value));
    effect
}

async fn a_commit_on_the_states_version_makes_all_of_its_writes(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 1).await?;
    for round in 0..10 {
        let mut effect = alike(&round.to_string());
        effect.put(format!("round {round}"), "");
        effect.delete(format!("round {}", round / 2));
        effect.delete("a that never existed");
        walk.commit(&effect).await?;
        walk.compare().await?;
    }
    Ok(())
}

/// Sends a commit that must not be stored, and looks that it was not.
async fn is_not_stored(walk: &mut Walk, base: Version, what: &str) -> Result<()> {
    let mut effect = puts(&["ab", "b"], "wrong");
    effect.delete("a");
    let commit = walk.prepare_on(base, &effect);
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

async fn a_commit_on_any_other_version_makes_none(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    let first = walk.commit(&alike("1")).await?;
    let second = walk.commit(&alike("2")).await?;
    walk.commit(&alike("3")).await?;
    is_not_stored(&mut walk, second.next, "the version before").await?;
    is_not_stored(&mut walk, first.base, "a version that is long gone").await?;
    let made_up = Version { name: 1, ..first.next };
    is_not_stored(&mut walk, made_up, "a version that never existed").await
}

async fn the_whole_version_is_compared_and_not_a_part_of_it(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 3).await?;
    let before = walk.commit(&alike("1")).await?.next;
    let raised = walk.raise_the_era(&alike("2")).await?;
    walk.commit(&alike("3")).await?;
    let now = walk.model.version;
    for (base, what) in [
        (Version { name: now.name ^ 1, ..now }, "a version of another name"),
        (Version { name: now.name ^ (1 << 127), ..now }, "a version of a name that ends alike"),
        (Version { era: now.era - 1, ..now }, "a version of the era before"),
        (Version { number: now.number - 1, ..now }, "a version of a lower number"),
        (before, "the last version of the era before"),
        (raised.base, "the version on which the era was raised"),
    ] {
        is_not_stored(&mut walk, base, what).await?;
    }
    Ok(())
}

async fn a_state_that_is_behind_a_base_says_no_conflict(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    walk.commit(&alike("1")).await?;
    let now = walk.model.version;
    let higher = Version { number: now.number + 1, ..now };
    let later = Version { era: now.era + 1, number: 0, ..now };
    for base in [higher, Version { era: now.era + 1, ..now }, later] {
        let commit = walk.prepare_on(base, &alike("wrong"));
        let leader = walk.leader().await?;
        // It may wait until the state gets there, which it never does.
        let sending = send(&*walk.nodes[leader].driver, &commit);
        if let Ok(answer) = timeout(calls::MOMENT, sending).await {
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

async fn a_commit_that_is_sent_again_is_made_once(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 5).await?;
    for round in 0..8 {
        let first = walk.commit(&alike(&format!("first {round}"))).await?;
        let answer = again(&mut walk, &first).await?;
        ensure!(!matches!(answer, Answer::Conflict(_)), "a stored commit is answered {answer:?}");
        walk.commit(&alike(&format!("second {round}"))).await?;
        again(&mut walk, &first).await?;
    }
    Ok(())
}

async fn a_commit_that_conflicts_is_never_stored(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 6).await?;
    for round in 0..6 {
        let base = walk.model.version;
        let lost = walk.prepare_on(base, &puts(&["lost", "a"], "wrong"));
        walk.commit(&alike(&round.to_string())).await?;
        let leader = walk.leader().await?;
        let driver = walk.nodes[leader].driver.clone();
        // Two callers wait for their answers, and one does not.
        for _ in 0..2 {
            let answer = send(&*driver, &lost).await?;
            ensure!(
                !matches!(answer, Answer::Stored),
                "a commit on a version that is gone is stored"
            );
        }
        drop(timeout(calls::AT_ONCE, driver.commit(lost.base, lost.effect.clone())).await);
        walk.lose(&lost);
        for later in 0..5 {
            walk.compare().await.context("after a conflict")?;
            walk.commit(&alike(&format!("{round} {later}"))).await?;
        }
    }
    if walk.fixture.reopens {
        walk.reopen().await?;
    }
    walk.compare().await
}

/// Sends six commits at once, all based on the version of the state, from `nodes` in turn. Each has this many
/// `writes` besides the usual ones.
async fn race(walk: &mut Walk, nodes: &[usize], writes: usize) -> Result<()> {
    let mut commits = vec![];
    for rival in 0..6 {
        let mut effect = alike(&format!("rival {rival}"));
        (0..writes).for_each(|key| effect.put(format!("c{key}"), rival.to_string()));
        commits.push((nodes[rival % nodes.len()], walk.prepare(&effect)));
    }
    let sending = commits.iter().map(|(node, commit)| send(&*walk.nodes[*node].driver, commit));
    let answers = join_all(sending).await;
    walk.judge_rivals(commits.into_iter().map(|(_, commit)| commit).collect(), answers).await?;
    walk.compare().await
}

async fn at_most_one_commit_ever_follows_a_base(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 7).await?;
    for _ in 0..10 {
        let leader = walk.leader().await?;
        race(&mut walk, &[leader], 0).await?;
    }
    Ok(())
}

async fn two_nodes_that_believe_to_lead_cannot_both_commit_on_one_base(
    make: MakeFixture,
) -> Result<()> {
    let mut walk = Walk::open(make(), 8).await?;
    walk.join().await?;
    for round in 0..10 {
        // Those that take longer are under way at once.
        race(&mut walk, &[0, 1], round * 50).await?;
    }
    Ok(())
}

async fn a_commit_whose_answer_is_lost_is_not_said_to_be_refused(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 19).await?;
    walk.commit(&alike("before")).await?;
    walk.join().await?;
    let commit = walk.prepare(&alike("after"));
    let (driver, sent, index) = (walk.nodes[0].driver.clone(), commit.clone(), walk.nodes[0].index);
    the(&walk.fixture.lose_answers)?.begin.run(index).await?;
    let sending = tokio::spawn(async move { send(&*driver, &sent).await });
    walk.doubt(commit.clone());
    let until = SystemClock.now().boot + calls::PATIENCE;
    while !walk.model.knows(commit.next) {
        ensure!(SystemClock.now().boot < until, "the commit does not get through");
        walk.read(1, &Reads::default()).await?;
    }
    let answer = sending.await??;
    the(&walk.fixture.lose_answers)?.end.run(index).await?;
    let is_right = matches!(answer, Answer::Stored | Answer::Uncertain);
    ensure!(
        is_right,
        "another node reads what the commit has stored, which is answered {answer:?}"
    );
    walk.compare().await
}

async fn what_was_stored_is_there_after_a_reopen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 9).await?;
    for round in 0..4 {
        walk.commit(&alike(&round.to_string())).await?;
        walk.reopen().await?;
        walk.compare().await?;
    }
    Ok(())
}

async fn what_was_stored_after_a_reopen_is_there_after_the_next(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 10).await?;
    walk.commit(&puts(&["first"], "")).await?;
    for round in 0..3 {
        walk.reopen().await?;
        for commit in 0..3 {
            let name = format!("{round} {commit}");
            walk.commit(&puts(&["last", &name], &name)).await?;
        }
    }
    // Reopened without anything to write, twice.
    for _ in 0..2 {
        walk.reopen().await?;
        walk.compare().await?;
    }
    Ok(())
}

async fn what_was_stored_is_there_after_a_crash(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 11).await?;
    for round in 0..3 {
        walk.commit(&alike(&round.to_string())).await?;
        walk.crash().await?;
        walk.compare().await?;
    }
    Ok(())
}

/// After each number of commits: a driver may sync every tenth commit, or rotate files.
async fn what_was_stored_survives_a_power_loss(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 12).await?;
    for commits in (1..=16).chain([20, 32, 50, 64, 100]) {
        for commit in 0..commits {
            walk.commit(&alike(&format!("{commits} {commit}"))).await?;
        }
        walk.lose_power().await?;
        walk.compare().await.with_context(|| format!("after {commits} commits"))?;
    }
    Ok(())
}

async fn a_commit_that_is_cut_by_a_power_loss_is_there_whole_or_not_at_all(
    make: MakeFixture,
) -> Result<()> {
    let mut walk = Walk::open(make(), 13).await?;
    for round in 0..6 {
        walk.commit(&alike(&format!("before {round}"))).await?;
        calls::begin_and_drop(&mut walk, &alike(&format!("cut {round}")));
        walk.lose_power().await?;
        walk.compare().await?;
    }
    Ok(())
}

async fn what_was_deleted_is_gone_after_a_reopen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 14).await?;
    let keys = ["a", "a\0", "ab", "b"];
    let mut effect = Effect::default();
    keys.iter().for_each(|&key| effect.put(key, key));
    walk.commit(&effect).await?;
    let mut effect = Effect::default();
    effect.delete("a");
    effect.delete("ab");
    effect.delete("a that never existed");
    effect.put("b", "2");
    walk.commit(&effect).await.context("a commit that also deletes what does not exist")?;
    walk.reopen().await?;
    walk.compare().await?;
    // Deleted, and there again.
    walk.commit(&puts(&["a"], "again")).await?;
    walk.reopen().await?;
    walk.compare().await
}

async fn an_empty_value_is_a_value_and_zeros_are_bytes_after_a_reopen(
    make: MakeFixture,
) -> Result<()> {
    let mut walk = Walk::open(make(), 15).await?;
    let mut effect = puts(&["ab"], "1");
    effect.put("a", "");
    // Nor is it, or what there is of it, taken for padding.
    effect.put("b", [0, 0]);
    effect.put("bb", [7, 0, 0]);
    walk.commit(&effect).await?;
    walk.commit(&puts(&["ab"], "")).await?;
    walk.reopen().await?;
    walk.compare().await
}

async fn the_last_of_several_values_is_there_after_a_reopen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 16).await?;
    for session in 0..3 {
        for value in 0..5 {
            walk.commit(&puts(&["a"], &format!("{session} {value}"))).await?;
            walk.commit(&puts(&["b"], &"longer ".repeat(5 - value))).await?;
        }
        walk.reopen().await?;
        walk.compare().await?;
    }
    Ok(())
}

/// Keys that are taken for each other where they are cut, folded, or hashed on their way to the disk.
pub(super) fn similar_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = [
        &b"a"[..],
        b"A",
        b"B",
        b"a ",
        b"a\0",
        b"a\0\0",
        b"a\0b",
        b"a/b",
        b"a%",
        b"a_",
        b"'; --",
        b"\0",
        b"\0\0",
        b"\x01\xff",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\xff",
        b"10",
        b"9",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        b"\xff\xfe not UTF-8",
    ]
    .map(<[u8]>::to_vec)
    .into();
    for length in [15, 16, 31, 32, 63, 64, 127, 128, 254, 255, 256, 511] {
        for last in [b'k', b'l'] {
            keys.push([&vec![b'k'; length], &[last][..]].concat());
        }
    }
    keys
}

async fn keys_that_are_alike_are_different_keys_after_a_reopen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 17).await?;
    let keys = similar_keys();
    for (number, key) in keys.iter().enumerate() {
        let mut effect = Effect::default();
        effect.put(key, number.to_string());
        walk.commit(&effect).await?;
    }
    walk.compare().await?;
    walk.reopen().await?;
    walk.compare().await?;
    let mut effect = Effect::default();
    keys.iter().step_by(2).for_each(|key| effect.delete(key));
    walk.commit(&effect).await?;
    walk.reopen().await?;
    walk.compare().await
}

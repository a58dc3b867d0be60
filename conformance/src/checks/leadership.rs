//! `leadership`: who should try to lead. And storage errors, which end it.

use anyhow::{Context, Result, ensure};
use tokio::{sync::watch, time::timeout};
use tsoracle_core::{Effect, Error, ErrorKind, Leadership, Reads};

use super::MakeFixture;
use crate::{
    fixture::the,
    model::{PATIENCE, Walk},
};

checks!("leadership":
    the_current_value_is_there_at_once,
    a_node_that_opens_comes_to_lead [reopens],
    a_node_that_has_stopped_does_not_lead,
    a_storage_error_closes_the_channel_of_leadership [fail_storage],
    after_a_storage_error_every_call_fails_for_good [fail_storage],
    of_two_nodes_one_leads [contends],
    another_node_leads_when_the_leader_stops [contends],
    another_node_leads_when_the_leader_is_cut_off [contends, cut_off],
    a_node_that_is_to_try_again_has_a_new_claim [contends, cut_off],
);

fn orders() -> Effect {
    let mut effect = Effect::default();
    effect.put("orders", "1");
    effect
}

fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Fatal | ErrorKind::Corrupt)
}

fn leads(now: &Leadership) -> bool {
    matches!(now, Leadership::Leader { .. })
}

async fn the_current_value_is_there_at_once(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 1).await?;
    let leader = walk.leader().await?;
    for _ in 0..3 {
        let now = walk.nodes[leader].driver.leadership().borrow().clone();
        ensure!(leads(&now), "the driver leads, and a new receiver says {now:?}");
    }
    Ok(())
}

async fn a_node_that_opens_comes_to_lead(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    for _ in 0..5 {
        walk.commit(&orders()).await?;
        walk.reopen().await?;
        walk.leader().await?;
    }
    Ok(())
}

async fn a_node_that_has_stopped_does_not_lead(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 3).await?;
    let leader = walk.leader().await?;
    let driver = &walk.nodes[leader].driver;
    let mut watching = driver.leadership();
    driver.shutdown().await?;
    ended(&mut watching).await
}

/// Waits until a receiver says that its driver does not lead. A closed channel is not leading.
async fn ended(watching: &mut watch::Receiver<Leadership>) -> Result<()> {
    let ended = watching.wait_for(|now| !leads(now));
    drop(timeout(PATIENCE, ended).await.context("the driver still says that it leads")?);
    Ok(())
}

async fn a_storage_error_closes_the_channel_of_leadership(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    let mut watching = walk.nodes[0].driver.leadership();
    the(&walk.fixture.fail_storage)?.run(()).await?;
    let commit = walk.prepare(&orders());
    let outcome = walk.nodes[0].driver.commit(commit.base, commit.effect).await;
    ensure!(outcome.is_err(), "a commit that could not be stored was answered {outcome:?}");
    let closed = async { while watching.changed().await.is_ok() {} };
    timeout(PATIENCE, closed).await.context("the channel of leadership is not closed")
}

async fn after_a_storage_error_every_call_fails_for_good(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 5).await?;
    walk.commit(&orders()).await?;
    the(&walk.fixture.fail_storage)?.run(()).await?;
    let driver = walk.nodes[0].driver.clone();
    for attempt in 0..4 {
        let commit = walk.prepare(&orders());
        let outcome = driver.commit(commit.base, commit.effect).await;
        let text = format!("attempt {attempt} was answered {outcome:?}");
        let error = outcome.err().context(text)?;
        ensure!(attempt == 0 || is_final(&error), "attempt {attempt} ends with {error:#}");
        let answer = driver.read(&Reads::keys(["orders"])).await;
        let text = format!("a read after attempt {attempt} was answered {answer:?}");
        let error = answer.err().context(text)?;
        ensure!(is_final(&error), "a read ends with {error:#}");
    }
    Ok(())
}

async fn of_two_nodes_one_leads(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 6).await?;
    walk.leader().await?;
    walk.join().await?;
    walk.commit(&orders()).await?;
    let leading =
        walk.nodes.iter().filter(|node| leads(&node.driver.leadership().borrow())).count();
    ensure!(leading == 1, "{leading} of two drivers lead");
    Ok(())
}

async fn another_node_leads_when_the_leader_stops(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 7).await?;
    walk.commit(&orders()).await?;
    walk.join().await?;
    let first = walk.nodes.remove(0);
    first.driver.shutdown().await?;
    walk.commit(&orders()).await?;
    walk.compare().await
}

async fn another_node_leads_when_the_leader_is_cut_off(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 8).await?;
    walk.commit(&orders()).await?;
    walk.join().await?;
    walk.cut_off(0).await?;
    walk.commit(&orders()).await?;
    walk.compare().await
}

async fn a_node_that_is_to_try_again_has_a_new_claim(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 9).await?;
    walk.leader().await?;
    let mut watching = walk.nodes[0].driver.leadership();
    let Leadership::Leader { claim: first } = watching.borrow_and_update().clone() else {
        anyhow::bail!("the driver does not lead");
    };
    walk.join().await?;
    walk.cut_off(0).await?;
    walk.commit(&orders()).await?;
    walk.reconnect(0).await?;
    let second = walk.nodes.remove(1);
    second.driver.shutdown().await?;
    let is_new = |now: &Leadership| matches!(now, Leadership::Leader { claim } if *claim != first);
    timeout(PATIENCE, watching.wait_for(is_new))
        .await
        .context("the first one should lead again, and its claim did not change")?
        .context("the channel of the first one has closed")?;
    walk.commit(&orders()).await?;
    walk.compare().await
}

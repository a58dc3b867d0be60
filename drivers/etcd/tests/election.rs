//! Who leads, when nodes of a real etcd come, go, and do not answer.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{
    Etcd,
    line::Line,
    node::{Leader, next, open, until, wait_for},
};
use tsoracle_core::{Clock, ErrorKind, Leadership, SystemClock};

/// So long that no leader loses its key by itself within a test.
const FOR_EVER: &str = "ttl=60s&timeout=2s";

fn follows(endpoint: &str) -> impl FnMut(&Leadership) -> bool {
    move |now| matches!(now, Leadership::Follower { leader: Some(leader) } if leader.endpoint == endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_answer_is_deposed() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{FOR_EVER}&probe=600ms", etcd.authority());
    let (service, other) = (Line::service(0), Line::service(0));
    let endpoint = |line: &Line| format!("127.0.0.1:{}", line.port);
    let a = open(&config, &endpoint(&service)).await.unwrap();
    let first = Leader::of(&a).await;
    first.reign().await;
    let b = open(&config, &endpoint(&other)).await.unwrap();
    wait_for(&b, follows(&endpoint(&service))).await;
    // B has asked A at least once, and was answered.
    until(async || (service.asked() > 0).then_some(())).await;
    // From here on connections are made, and nobody answers: so it is with a process that stands still.
    service.stall();
    let second = Leader::of(&b).await;
    assert!(second.epoch > first.epoch);
    second.reign().await;
    let error = first.take("orders", 1).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotLeader(_)), "{error}");
    let now = wait_for(&a, follows(&endpoint(&other))).await;
    let Leadership::Follower { leader: Some(leader) } = now else { unreachable!() };
    assert_eq!(leader.epoch, Some(second.epoch), "the hint names the claim");
    assert_eq!(second.take("orders", 1).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_never_answered_is_left_alone() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{FOR_EVER}&probe=100ms", etcd.authority());
    let nowhere = format!("127.0.0.1:{}", common::free_port());
    let a = open(&config, &nowhere).await.unwrap();
    let first = Leader::of(&a).await;
    first.reign().await;
    let line = Line::to(etcd.members[0].port);
    let config = format!("etcd://127.0.0.1:{}/p?{FOR_EVER}&probe=100ms", line.port);
    let b = open(&config, "").await.unwrap();
    wait_for(&b, follows(&nowhere)).await;
    // Far longer than it takes to depose one, and B is still told what happens.
    let began = SystemClock.now().boot;
    until(async || (SystemClock.now().boot.since(began).as_millis() > 1_500).then_some(())).await;
    let before = line.answered();
    first.extend().await;
    until(async || (line.answered() > before).then_some(())).await;
    first.take("orders", 1).await.unwrap();
    assert!(follows(&nowhere)(&b.leadership().borrow()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_is_followed_at_once() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{FOR_EVER}", etcd.authority());
    let mut driver = open(&config, "").await.unwrap();
    for round in 0..4 {
        let leader = Leader::of(&driver).await;
        leader.reign().await;
        assert_eq!(leader.take("orders", 1).await.unwrap(), round);
        let next = open(&config, "").await.unwrap();
        driver.shutdown().await.unwrap();
        driver = next;
    }
    let mut client = etcd.client().await;
    Leader::of(&driver).await;
    drop(driver);
    // One that is dropped stops as well.
    until(async || client.get("p/leader", None).await.unwrap().kvs().is_empty().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_etcd_loses_its_key_and_steps_down() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let line = Line::to(etcd.members[0].port);
    let a = open(&format!("etcd://127.0.0.1:{}/p?ttl=2s", line.port), "a:1").await.unwrap();
    let first = Leader::of(&a).await;
    first.reign().await;
    let b = open(&format!("etcd://{}/p?ttl=2s", etcd.authority()), "b:1").await.unwrap();
    wait_for(&b, follows("a:1")).await;
    let renewing = SystemClock.now().boot;
    first.extend().await;
    line.stall();
    let second = Leader::of(&b).await;
    let elected = SystemClock.now().boot;
    wait_for(&a, |now| *now == Leadership::Unknown).await;
    let fenced = second.reign().await;
    let seen = fenced.replaced_seen.expect("it was told of each write of the record");
    assert!(seen < elected, "the last write before was seen before the election");
    assert!(seen >= renewing, "and not before it was made");
    line.open();
    wait_for(&a, follows("b:1")).await;
    assert_eq!(next(&a, "orders").await.unwrap(), 0, "whoever follows may be asked too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contender_whose_watch_hangs_or_breaks_still_learns_what_happens() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    for (cut, prefix) in [(Line::stall as fn(&Line), "hangs"), (Line::close, "breaks")] {
        let a = open(&format!("etcd://{}/{prefix}?{FOR_EVER}", etcd.authority()), "a:1").await;
        let a = a.unwrap();
        let first = Leader::of(&a).await;
        first.reign().await;
        let ways = [(); 2].map(|()| Line::to(etcd.members[0].port));
        let members = format!("127.0.0.1:{},127.0.0.1:{}", ways[0].port, ways[1].port);
        let b = open(&format!("etcd://{members}/{prefix}?ttl=60s"), "b:1").await.unwrap();
        wait_for(&b, follows("a:1")).await;
        let before = ways.each_ref().map(Line::answered);
        first.extend().await;
        let told = async || (0..2).find(|&way| ways[way].answered() > before[way]);
        cut(&ways[until(told).await]);
        a.shutdown().await.unwrap();
        Leader::of(&b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_leader_writes_nothing() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let line = Line::to(etcd.members[0].port);
    let config = format!("etcd://127.0.0.1:{}/p?ttl=2s", line.port);
    let driver = open(&config, "").await.unwrap();
    let follower = open(&config, "").await.unwrap();
    Leader::of(&driver).await.reign().await;
    wait_for(&follower, |now| matches!(now, Leadership::Follower { .. })).await;
    let mut client = etcd.client().await;
    let before = client.get("p/leader", None).await.unwrap().header().unwrap().revision();
    // Looks and keepalives, for longer than the lease.
    let (answered, began) = (line.answered(), SystemClock.now().boot);
    until(async || {
        let long = SystemClock.now().boot.since(began).as_millis() > 3_000;
        (long && line.answered() > answered + 2_000).then_some(())
    })
    .await;
    let after = client.get("p/leader", None).await.unwrap();
    assert_eq!(after.header().unwrap().revision(), before);
    assert_eq!(after.kvs().len(), 1, "and its lease goes on");
}
